"""The reference page of the library: `python -m pidsl.patterns.page > docs/reference/patterns.md`.

The page is made of the docstrings of the modules, of the calls of `pidsl.patterns.families`, of the rows of
`pidsl.patterns.spellings`, and of the plans that pidsl chooses for the calls. tests/patterns/test_patterns_library.py
holds the
page equal to what this module prints, each call equal to its term, and each spelling of another library
compared: with that library's formula, or with its code in benchmarks/results/masks.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import getdoc

import numpy as np

import pidsl
from pidsl.language.terms import Blocked, Causal, Intersection, Term
from pidsl.patterns.families import TOKENS, Family, families
from pidsl.patterns.spellings import OTHERS, Spelling
from pidsl.relation import counting

__all__ = ["Waste", "page", "reference", "table", "waste"]

SHORT = 4096  # tokens up to which pairs are counted in the mask
LONGEST = 160  # characters of a term in a table


@dataclass(frozen=True)
class Waste:
    """Pairs of the pattern, and pairs that its torch plan computes, of one head in the forward pass."""

    attended: int
    computed: int
    layouts: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Computed / attended."""
        return self.computed / self.attended


def waste(term: Term, n: int = TOKENS) -> Waste:
    """What the plan that torch gets computes at a length.

    >>> waste(pidsl.window(4095)).ratio < 1.1
    True

    Args:
        term: a term without symbols.
        n: tokens.
    """
    plan = pidsl.compile(term, backend="torch").plan
    found = sum(piece.computed_at(n) for piece in plan.pieces)
    return Waste(_attended(term, n), found, tuple(str(piece.layout) for piece in plan.pieces))


def _attended(term: Term, n: int) -> int:
    """The pairs of a term; of blocks, from the mask of whole blocks, because counting them in isl takes seconds."""
    if n <= SHORT:
        return int(np.count_nonzero(term.mask(n)))
    match term:
        case Blocked(of, int(block)) if n % block == 0:
            return int(np.count_nonzero(of.mask(n // block))) * block**2
        case Intersection(Blocked(of, int(block)), Causal()) if n % block == 0:
            mask = np.tril(of.mask(n // block))
            own = int(np.count_nonzero(np.diagonal(mask)))
            return (int(np.count_nonzero(mask)) - own) * block**2 + own * block * (block + 1) // 2
    return counting.pairs(term, n)


def page() -> str:
    """docs/reference/patterns.md."""
    return f"{reference()}\n{table()}"


def reference() -> str:
    """The part of the page that explains the patterns."""
    return "\n".join([*_head(), *(line for family in families() for line in _family(family)), *_others()])


def table() -> str:
    """The part of the page that says what the plans compute."""
    return "\n".join([*_table(), ""])


def _head() -> list[str]:
    return [
        "# The library of published patterns",
        "",
        "This page is generated: `python -m pidsl.patterns.page > docs/reference/patterns.md`. Terms are",
        "in the words of pidsl: `i` is the query, `j` the key, `window(left, right)` has both ends included, so",
        "`window(w)` holds w + 1 keys.",
        "In the tables of other libraries, the names in a term are the parameters of the call beside it, `drawn` a",
        "list of pairs; where they stand for tuples or lists, the term is Python. The conventions were read in sources",
        "and then run: `python benchmarks/masks.py` makes masks with the code of torch, Splash, attention-gym,",
        "DeepSpeed, NATTEN, transformers and timm, and compares each with the term of its row, entry for entry;",
        "`benchmarks/results/masks.json` has the versions, sizes and counts. Not run are flash-attention, known from",
        "its documentation, OpenAI's, dkernel's, the LogSparse mask's and the fork of attention-gym, read in copies,",
        "and Swin in one dimension, from memory: the tests compare these, as many of the others, with formulas.",
        "",
        "The [last section](#what-the-plans-compute) lists what the plan of each pattern computes.",
        "",
    ]


def _family(family: Family) -> Iterator[str]:
    yield f"## {family.title}"
    yield ""
    yield getdoc(import_module(f"pidsl.patterns.{family.module}")) or ""
    yield ""
    yield from ("| call | term |", "|---|---|")
    for call in family.calls:
        yield f"| {_code(call.text)} | {_code(repr(call.term))} |"
    yield ""
    if family.spellings:
        yield from _spellings(family.spellings)
        yield ""


def _others() -> Iterator[str]:
    yield "## Other masks"
    yield ""
    yield "Masks of other libraries that belong to no family above."
    yield ""
    yield from _spellings(OTHERS)
    yield ""


def _spellings(rows: Iterable[Spelling]) -> Iterator[str]:
    yield from ("| library | written | term | remarks |", "|---|---|---|---|")
    for x in rows:
        term = f"`{_cell(x.term)}`" if x.term else "none"
        yield f"| {x.library} | `{_cell(x.written)}` | {term} | {_cell(x.note)} |"


def _table() -> Iterator[str]:
    yield "## What the plans compute"
    yield ""
    yield "Pairs of one head in the forward pass: of the pattern, and of all tiles that the torch plan visits."
    yield ""
    yield from ("| call | n | attended | computed | ratio | layouts | why above 2 |", "|---|--:|--:|--:|--:|---|---|")
    for family in families():
        for call in family.calls:
            found = waste(call.term, call.n)
            layouts = ", ".join(f"{found.layouts.count(x)} x {x}" for x in dict.fromkeys(found.layouts))
            reason = call.reason if found.ratio > 2 else ""
            counts = f"{call.n} | {found.attended} | {found.computed} | {found.ratio:.2f}"
            yield f"| {_code(call.text)} | {counts} | {layouts} | {reason} |"


def _code(text: str) -> str:
    shown = text if len(text) <= LONGEST else f"{text[: LONGEST - 30]} ... {text[-20:]}"
    return f"`{_cell(shown)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
