"""The reference page of the library, docs/patterns.md: `python -m pidsl.patterns.page > docs/patterns.md`.

The page is made of the docstrings of the modules, of the calls and spellings of `pidsl.patterns.families`, and of the
plans that pidsl chooses for the calls. tests/test_patterns_library.py holds the page equal to what this module prints,
each call equal to its term, and each spelling of another library equal, entry for entry, to that library's formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from inspect import getdoc

import numpy as np

import pidsl
from pidsl.analysis.plan_cost import computed
from pidsl.language.expr import evaluate
from pidsl.language.terms import Blocked, Causal, Intersection, Term
from pidsl.patterns.families import TOKENS, Family, families
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
    tiles = sum(piece.computed for piece in plan.lists)
    tiles += sum(computed(piece, piece.forward, n) for piece in plan.tiles)
    tiles += sum(computed(piece, piece.forward, n) for piece in plan.grids)
    lengths = {"n": n, "m": n, "offset": 0}
    rows = sum(
        max(0, evaluate(x.last, lengths) - evaluate(x.first, lengths) + 1)
        for piece in plan.diagonals
        for x in piece.diagonals
    )
    return Waste(_attended(term, n), tiles + rows, tuple(str(piece.layout) for piece in plan.pieces))


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
    """docs/patterns.md."""
    return f"{reference()}\n{table()}"


def reference() -> str:
    """The part of the page that explains the patterns."""
    return "\n".join([*_head(), *(line for family in families() for line in _family(family))])


def table() -> str:
    """The part of the page that says what the plans compute."""
    return "\n".join([*_table(), ""])


def _head() -> list[str]:
    return [
        "# The library of published patterns",
        "",
        "This page is generated: `python -m pidsl.patterns.page > docs/patterns.md`. Terms are in the words of pidsl:",
        "`i` is the query, `j` the key, `window(left, right)` has both ends included, so `window(w)` holds w + 1 keys.",
        "In the tables of other libraries, the names in a term are the parameters of the call beside it; the tests",
        "bind them to numbers and compare with the library's formula, entry for entry. The conventions were read in",
        "the sources of transformers, Splash, attention-gym, DeepSpeed, NATTEN and timm's halo attention, in copies of",
        "dkernel's, OpenAI's and the LogSparse mask's, and in the documentation of flash-attention; those of torch and",
        "Swin are from memory. Nothing of theirs was run here.",
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
        yield from ("| library | written | term | remarks |", "|---|---|---|---|")
        for x in family.spellings:
            yield f"| {x.library} | {_code(x.written)} | {_code(x.term) if x.term else 'none'} | {_cell(x.note)} |"
        yield ""


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
