"""The questions one can ask of a pattern, one line each into the portfolio.

Every answer is a `Bound`: `==`, `<=` or `>=` with assumptions and a proof, or unknown with the reasons. Where the
pattern has numbers only, the answer holds for every number of tokens n; with symbols, for all their values as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import sympy

from pidsl.analysis import choices, consequence, documents
from pidsl.analysis.bound import ANY, Bound, Question, asking
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.assume import conditions, require_known
from pidsl.analysis.formulas.words import symbol
from pidsl.analysis.layers.stacks import attempt, number
from pidsl.analysis.portfolio import about, answer, static
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.sizes import DTYPES
from pidsl.analysis.smaller.axes import grid_of
from pidsl.analysis.statements import VARIABLES, names_of
from pidsl.errors import ArgumentError, SizeError, TermError
from pidsl.language.schedule import Schedule
from pidsl.language.shown import Displayed
from pidsl.language.terms import Term
from pidsl.language.vocabulary import causal

Assume: TypeAlias = str | sympy.Basic | Iterable[str | sympy.Basic]
Patterns = Term | Schedule | LayerRule | Iterable[Term]

BIND = "bind the symbols to numbers: isl answers for any pattern"


@dataclass(frozen=True)
class Degree(Displayed):
    """Keys per query; the most and the average are worked out when they are asked for.

    Args:
        of_query: of query i among n, for 0 <= i < n.
        assume: conditions under which they are asked.
    """

    of_query: Bound
    assume: tuple[sympy.Basic, ...] = ()

    @property
    def maximum(self) -> Bound:
        """The most of any query, for n >= 1."""
        return _asked(replace(self.of_query.question, quantity="max degree"), self.assume)

    @property
    def average(self) -> Bound:
        """Pairs / n, for n >= 1."""
        return _asked(replace(self.of_query.question, quantity="average degree"), self.assume)

    def __str__(self) -> str:
        return "\n".join(map(str, (self.of_query, self.maximum, self.average)))

    __repr__ = __str__


def pairs(term: Term, assume: Assume = ()) -> Bound:
    """How many (query, key) pairs n queries and n keys attend.

    >>> import pidsl
    >>> k = pidsl.symbols("k")
    >>> pairs(pidsl.window(k), "n > k").expr
    (-k + 2*n)*(k + 1)/2

    Args:
        term: a pattern.
        assume: conditions on the symbols and n, such as "period > k, n > period".

    Raises:
        SymbolError: an assumption is about a name that neither the pattern nor the formula has.
        TermError: the assumptions contradict each other.
    """
    return _asked(asking(_one(term), "pairs"), assume)


def degree(term: Term, assume: Assume = ()) -> Degree:
    """How many keys query i attends, how many any query at most, and how many on average.

    Args and errors as in `pairs`.
    """
    known = conditions(assume)
    of_query = _asked(asking(_one(term), "degree"), known)
    return Degree(of_query, tuple(c for c in known if symbol("i") not in c.free_symbols))


def sparsity(term: Term, assume: Assume = ()) -> Bound:
    """The share of the n * n pairs that is not attended, for n >= 1: `1 - pairs / n**2`.

    Args and errors as in `pairs`.
    """
    return _asked(asking(_one(term), "sparsity"), assume)


def farthest(patterns: Patterns, layers: int | None = None, assume: Assume = ()) -> Bound:
    """The largest lag `i - j` over which the layers carry information; `-oo` if they carry none.

    >>> import pidsl
    >>> k, period = pidsl.symbols("k period")
    >>> farthest(pidsl.window(k) | pidsl.lags(period)).expr
    L*period

    Args:
        patterns: a term for every layer, or a term per layer, the layer at the input first.
        layers: how many; None: L of them (a schedule: each layer once).
        assume: conditions on the symbols.

    Raises:
        SizeError: `layers` is negative.
        SymbolError: an assumption is about a name that neither the pattern nor the formula has.
        TermError: the assumptions contradict each other.
    """
    return _reach("farthest", patterns, layers, assume)


def contiguous(patterns: Patterns, layers: int | None = None, assume: Assume = ()) -> Bound:
    """The largest D such that every token sees itself and all of its D predecessors that exist; -1 if not itself.

    >>> import pidsl
    >>> contiguous(pidsl.window(4) | pidsl.lags(16)).expr
    Min(n - 1, Piecewise((16*L - 36, L >= 3), (4*L, True)))

    Args and errors as in `farthest`.
    """
    return _reach("contiguous", patterns, layers, assume)


def depth(patterns: Patterns, n: int | None = None, of: str | None = None, assume: Assume = ()) -> Bound:
    """The fewest layers L >= 1 after which exactly L layers connect every pair in question; `oo` if none are enough.

    >>> import pidsl
    >>> k, period = pidsl.symbols("k period")
    >>> depth(pidsl.window(k) | pidsl.stride(period) & pidsl.causal).expr
    ceiling((period - 1)/k) + 1

    Args:
        patterns: a term for every layer, or a term per layer, the layer at the input first.
        n: how many tokens; None: a formula in n.
        of: "causal", every token and each predecessor, or "all". Default: "causal" for what only looks back.
        assume: conditions on the symbols and n.

    Raises:
        SizeError: n < 1.
        SymbolError: an assumption is about a name that neither the pattern nor the formula has.
        TermError: the assumptions contradict each other.
    """
    subject = _subject(patterns)
    if of not in (None, "causal", "all"):
        raise TermError(f"of = {of!r}", '"causal" or "all"')
    tokens = None if n is None else number(n, "n", 1)
    return _asked(asking(subject, "depth", of=of or _sides(subject), n=tokens), assume)


def live(term: Term, assume: Assume = (), lookahead: int | None = None, page: int | None = None) -> Bound:
    """How many keys a decoding step must keep: of tokens 0 .. t, those that some later query still attends.

    The sequence may go on for ever. `reason` says which keys they are.

    >>> import pidsl
    >>> k = pidsl.symbols("k")
    >>> print(live(pidsl.window(k) | pidsl.keys(0, 4) & pidsl.causal))
    live keys of window(k) | keys(0, 4) & causal
      == Min(k + 4, t + 1)
      for k >= 0, t >= 0
      proof: later queries attend these keys and no others, for all values of the symbols (z3)
      note: the first 4 and the last k keys

    With a lookahead, those that rows from `t - lookahead` on may ask for when tokens 0 .. t are appended to a cache;
    with `page`, the pages of so many positions that hold one of them.

    Args and errors as in `pairs`; a lookahead, or a page, is for terms without symbols.
    """
    quantity = "live keys" if page is None else "live pages"
    rows = None if lookahead is None else number(lookahead, "lookahead")
    pages = None if page is None else number(page, "page", 1)
    return _asked(asking(_one(term), quantity, lookahead=rows, page=pages), assume)


def received(
    term: Term, assume: Assume = (), *, kv_heads: int | None = None, head_dim: int | None = None,
    value_dim: int | None = None, dtype: str | None = None,
) -> Bound:  # fmt: skip
    """How many key rows a rank gets from others at most, where ranks hold consecutive tokens, however many they are.

    >>> import pidsl
    >>> k = pidsl.symbols("k")
    >>> print(received(pidsl.window(k) | pidsl.keys(0, 4) & pidsl.causal))
    received keys of window(k) | keys(0, 4) & causal
      <= Min(k + 4, n - 1)
      for k >= 0, n >= 1
      proof: keys before a rank's own are live at its first row, those after them within reach ahead (z3)
      note: of a rank with consecutive tokens, however many ranks share them

    Args:
        term: a pattern.
        assume: conditions on the symbols and n.
        kv_heads, head_dim, value_dim, dtype: with one of them, the bytes of these rows of k and v of one sequence;
            default: 1 key head, 64 elements, as many as `head_dim`, "bf16".

    Raises:
        SymbolError, TermError: as in `pairs`.
        SizeError: a number of elements or heads below 1.
        ArgumentError: an unknown dtype.
    """
    if (kv_heads, head_dim, value_dim, dtype) == (None,) * 4:
        return _asked(asking(_one(term), "received keys"), assume)
    name = str(dtype or "bf16").removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentError(f"dtype = {dtype!r}", f"one of {', '.join(DTYPES)}", where="received(...)")
    given = {"kv_heads": kv_heads or 1, "head_dim": head_dim or 64, "value_dim": value_dim or head_dim or 64}
    sizes = {x: number(given[x] if value is None else value, x, 1, "received(...)") for x, value in (
        ("kv_heads", kv_heads), ("head_dim", head_dim), ("value_dim", value_dim))}  # fmt: skip
    question = asking(_one(term), "received bytes", **sizes, heads=sizes["kv_heads"], batch=1, dtype=name)
    return _asked(question, assume)


def _reach(quantity: str, patterns: Patterns, layers: int | None, assume: Assume) -> Bound:
    if layers is not None and (isinstance(layers, bool) or not hasattr(layers, "__index__") or layers < 0):
        raise SizeError(f"layers = {layers!r}", "an integer >= 0, or None for L layers")
    subject = _subject(patterns)
    each = len(subject) if isinstance(subject, tuple) else ANY
    return _asked(asking(subject, quantity, layers=each if layers is None else int(layers)), assume)


def _asked(question: Question, assume: Assume) -> Bound:
    """The answer to a question under assumptions; within documents, what all pairs that some allow say about it."""
    subject, known = question.subject, conditions(assume)
    variables = VARIABLES[question.quantity] if question.layers in (None, ANY) else "n"
    _require(subject, known, variables)
    own = static(known)
    if documents.any_confined(subject) and choices.any_chosen(subject):
        source = replace(question, quantity=consequence.SOURCES.get(question.quantity, question.quantity))
        found = choices.bounded(source, lambda smaller: _asked(smaller, about(smaller, own)))
        return _under(found if source == question else consequence.derived(found, question), known)
    if documents.any_confined(subject):
        whole = documents.every_pair(question)
        return _under(consequence.bounded(answer(whole, own), subject), known)
    found = answer(question, own)
    if not found.is_known and names_of(subject) and BIND not in found.reason:
        found = replace(found, reason=f"{found.reason}; {BIND}")
    return _under(found, known)


def _require(subject: Any, known: tuple[sympy.Basic, ...], variables: str) -> None:
    if known:
        require_known(known, names_of(subject), variables, repr(subject))


def _under(bound: Bound, assume: tuple[sympy.Basic, ...]) -> Bound:
    """The bound under the assumptions; unknown where it needs what they exclude."""
    more = [c for c in assume if c not in bound.assumptions]
    if not more or not bound.is_known:
        return bound
    if smt.consistent([*bound.assumptions, *more]):
        return bound.under(*more)
    own = domain(bound.subject) if isinstance(bound.subject, Term) else ()
    smt.require_consistent([*own, *(symbol(x) >= 0 for x in "nt" if x in VARIABLES[bound.quantity]), *more])
    needed = ", ".join(map(str, bound.assumptions))
    why = f"the formula known needs {needed}, which the assumptions exclude; {BIND}"
    return Bound(bound.question, "unknown", sympy.nan, reason=why)


def _one(term: Term) -> Term:
    if not isinstance(term, Term):
        raise TermError(f"{term!r} ({type(term).__name__})", "a pattern: window(64) | stride(256) & causal")
    return term


def _subject(patterns: Patterns) -> Any:
    if isinstance(patterns, LayerRule | Term):
        return patterns
    found = tuple(_one(t) for t in (patterns.unions if isinstance(patterns, Schedule) else patterns))
    if not found:
        raise TermError("()", "a term, or a term per layer, the layer at the input first")
    return found


def _sides(subject: Any) -> Literal["causal", "all"]:
    """The pairs that depth is about: "causal" of what only looks back; with symbols, always."""
    if isinstance(subject, LayerRule) or names_of(subject):
        return "causal"
    if grid := grid_of(subject):
        return "causal" if grid.looks_back() else "all"
    return "causal" if all(map(_looks_back, subject if isinstance(subject, tuple) else (subject,))) else "all"


def _looks_back(term: Term) -> bool:
    return attempt(lambda: term <= causal) is True
