"""The questions one can ask of a pattern: numbers go to isl, symbols to the rules with z3.

Every answer is a `Bound`: `==`, `<=` or `>=` with assumptions and a proof, or unknown with the reason. Where the
pattern has numbers only, the answer holds for every number of tokens n; with symbols, for all their values as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from math import prod
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import sympy

from pidsl.analysis import documents
from pidsl.analysis import held_out as against_masks
from pidsl.analysis.bound import Bound, exact, unknown
from pidsl.analysis.counting import counts, degrees
from pidsl.analysis.counting import live as memory
from pidsl.analysis.counting.degrees import Degree
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.assume import conditions, require_known
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.layers import depth as depths
from pidsl.analysis.layers import reach, stacks
from pidsl.analysis.proofs import proved
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.smaller import grids
from pidsl.analysis.smaller.grids import Grid
from pidsl.analysis.statements import VARIABLES, names_of
from pidsl.analysis.symbolic.corners import degree_by_corners, pairs_by_corners
from pidsl.analysis.symbolic.lag_degree import degree_by_lag
from pidsl.analysis.symbolic.lag_live import live_by_lag
from pidsl.analysis.symbolic.lag_pairs import pairs_by_lag
from pidsl.analysis.symbolic.lag_reach import reach_by_family
from pidsl.analysis.symbolic.lag_sets import NotByLag, domain
from pidsl.errors import SizeError, TermError, TooHardError
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Halo, Neighborhood, Pairs, Term, walk
from pidsl.relation.isl import patience

Assume: TypeAlias = str | sympy.Basic | Iterable[str | sympy.Basic]
Patterns = Term | Schedule | LayerRule | Iterable[Term]

MANY = 256  # tokens of a grid of several axes, or listed pairs, of which isl's operations take long
SHARE = 0.03  # of the usual operations that questions about such terms get

Answer = TypeVar("Answer")
Asked = ParamSpec("Asked")


def soon(question: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """The question, with less patience for terms that isl can seldom answer for every n, and slowly.

    No formula is returned that a dense mask contradicts (`against_masks`) or that its own check does not confirm
    (`proofs.proved`).
    """

    @wraps(question)
    def asked(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        slow = any(map(_is_slow, (*args, *kwargs.values())))
        with patience(SHARE if slow else 1.0):
            if args and documents.any_confined(about := _alone(args[0])):
                found = question(documents.allowed(about), *args[1:], **kwargs)  # type: ignore[arg-type]
                return _each(_each(found, _sure), lambda bound: documents.bounded(bound, about))
            return _each(question(*args, **kwargs), _sure)

    return asked


def _alone(patterns: Any) -> Any:
    """A term, or a tuple of the terms of the layers."""
    if isinstance(patterns, Schedule):
        return patterns.unions
    return tuple(patterns) if isinstance(patterns, list) else patterns


def _each(answer: Answer, do: Callable[[Bound], Bound]) -> Answer:
    if isinstance(answer, Degree):
        return cast(Answer, Degree(*map(do, (answer.of_query, answer.maximum, answer.average))))
    return cast(Answer, do(cast(Bound, answer)))


def _sure(bound: Bound) -> Bound:
    return proved(against_masks.kept(bound))


def _whole_grid(patterns: object) -> Grid | None:
    """A grid of many tokens and several axes, about which isl can seldom say anything soon."""
    return grids.grid_of(patterns) if _is_slow(patterns) else None


def _is_slow(patterns: object) -> bool:
    terms = patterns if isinstance(patterns, tuple | list | Schedule) else (patterns,)
    return any(_has_many(part) for term in terms if isinstance(term, Term) for part in walk(term))


def _has_many(part: Term) -> bool:
    if isinstance(part, Pairs):
        return len(part.values) > MANY
    return isinstance(part, Neighborhood | Halo) and len(part.shape) > 1 and prod(part.shape) > MANY


BIND = "bind the symbols to numbers: isl answers for any pattern"


@soon
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
    assume = _assumed(_one(term), assume, "n")
    if grid := _whole_grid(term):
        return _under(grids.pairs(term, grid), assume)
    return _under(_counted(term, assume), assume)


@soon
def degree(term: Term, assume: Assume = ()) -> Degree:
    """How many keys query i attends, how many any query at most, and how many on average.

    Args and errors as in `pairs`.
    """
    assume = _assumed(_one(term), assume, "in")
    concrete = not term.symbols
    if grid := _whole_grid(term):
        found = grids.degree(term, grid)
        return Degree(*(_under(b, assume) for b in (found.of_query, found.maximum, found.average)))
    try:
        found = degree_by_lag(term, _static(assume))
        if concrete:  # shorter, and checked sooner
            maximum = found.maximum if found.maximum.is_exact else degrees.maximum(term)
            found = replace(found, maximum=maximum, average=degrees.average(term))
    except (NotByLag, TooHardError) as e:
        found = degrees.degree(term) if concrete else _degree_by_corners(term, assume, e)
    return Degree(*(_under(b, assume) for b in (found.of_query, found.maximum, found.average)))


@soon
def sparsity(term: Term, assume: Assume = ()) -> Bound:
    """The share of the n * n pairs that is not attended, for n >= 1: `1 - pairs / n**2`.

    Args and errors as in `pairs`.
    """
    assume = _assumed(_one(term), assume, "n")
    if grid := _whole_grid(term):
        return _under(grids.pairs(term, grid, "sparsity"), assume)
    if not _one(term).symbols:
        return _under(counts.sparsity(term), assume)
    found = pairs(term, assume)
    if not found.is_known:
        return unknown(term, "sparsity", found.reason)
    relation = {"==": "==", "<=": ">=", ">=": "<="}[found.relation]
    assumptions = (*found.assumptions, n >= 1)
    expr = 1 - found.expr / n**2
    return Bound(term, "sparsity", relation, expr, assumptions, "from the pairs", (), found.reason)  # type: ignore[arg-type]


@soon
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
    return _reach("farthest", reach.farthest, patterns, layers, assume)


@soon
def contiguous(patterns: Patterns, layers: int | None = None, assume: Assume = ()) -> Bound:
    """The largest D such that every token sees itself and all of its D predecessors that exist; -1 if not itself.

    >>> import pidsl
    >>> contiguous(pidsl.window(4) | pidsl.lags(16)).expr
    Piecewise((16*L - 36, L >= 3), (4*L, True))

    Args and errors as in `farthest`.
    """
    return _reach("contiguous", reach.contiguous, patterns, layers, assume)


@soon
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
    assume = _assumed(subject, assume, "n")
    if of not in (None, "causal", "all"):
        raise TermError(f"of = {of!r}", '"causal" or "all"')
    if (grid := _whole_grid(subject)) and (n is None or n >= grid.tokens):
        deep = grids.depth(subject, grid, cast(Any, of))
        return _under(deep if n is None else _at(deep, n=stacks.number(n, "n", 1)), assume)
    if not _symbolic(subject):
        found = _by_family("depth", subject, None, n) if of != "all" else None
        return _under(found or depths.depth(subject, n, of), assume)
    if of == "all":
        return unknown(subject, "depth", f"with symbols, only causal pairs are counted; {BIND}", {"of": of})
    found = _family("depth", subject, None, assume)
    return found if n is None else _at(found, n=n)


@soon
def live(term: Term, assume: Assume = (), lookahead: int | None = None, page: int | None = None) -> Bound:
    """How many keys a decoding step must keep: of tokens 0 .. t, those that some later query still attends.

    The sequence may go on for ever. `reason` says which keys they are.

    >>> import pidsl
    >>> k = pidsl.symbols("k")
    >>> print(live(pidsl.window(k) | pidsl.keys(0, 4) & pidsl.causal))
    live keys of window(k) | keys(0, 4) & causal
      == Min(k + 4, t + 1)
      for k >= 0, t >= 0
      proof: the largest lag is attended and no larger one is, for all values of the symbols (z3)
      note: the first 4 and the last k keys

    With a lookahead, those that rows from `t - lookahead` on may ask for when tokens 0 .. t are appended to a cache;
    with `page`, the pages of so many positions that hold one of them.

    Args and errors as in `pairs`; a lookahead, or a page, is for terms without symbols.
    """
    assume = _assumed(_one(term), assume, "t")
    if term.symbols and (lookahead, page) != (None, None):
        return unknown(term, "live keys", f"with symbols, only keys that later queries ask for are counted; {BIND}")
    counted = None if term.symbols else memory.live(term, lookahead, page).size
    if counted is not None and (counted.is_known or counted.given):
        return _under(counted, assume)
    try:
        return _under(live_by_lag(term, _static(assume)), assume)
    except (NotByLag, TooHardError) as e:
        return counted or unknown(term, "live keys", f"{e}; {BIND}")


def _degree_by_corners(term: Term, assume: Assume, why: Exception) -> Degree:
    reason = f"{why}; {BIND}"
    try:
        found = degree_by_corners(term, _static(assume))
    except (NotByLag, TooHardError):
        found = unknown(term, "degree", reason)
    others = (unknown(term, name, reason) for name in ("max degree", "average degree"))
    return Degree(found, *others)


def _counted(term: Term, assume: Assume) -> Bound:
    """The pairs: by the lag where that is exact; by corners, in few cases; at most, by the lag; in many cases."""
    if not _one(term).symbols:
        return counts.pairs(term)
    given, at_most = _static(assume), None
    with suppress(NotByLag, TooHardError):
        at_most = pairs_by_lag(term, given)
        if at_most.is_exact:
            return at_most
    try:
        return pairs_by_corners(term, given, short=at_most is not None)
    except (NotByLag, TooHardError) as e:
        return at_most or unknown(term, "pairs", f"{' '.join(str(e).split())}; {BIND}")


def _reach(
    quantity: str, numbers: Callable[[Any, Any], Bound], patterns: Patterns, layers: int | None, assume: Assume
) -> Bound:  # fmt: skip
    if layers is not None and (isinstance(layers, bool) or not hasattr(layers, "__index__") or layers < 0):
        raise SizeError(f"layers = {layers!r}", "an integer >= 0, or None for L layers")
    subject = _subject(patterns)
    assume = _assumed(subject, assume, "n" if layers is not None or isinstance(subject, tuple) else "nL")
    if isinstance(whole := stacks.attempt(partial(_on_grid, quantity, subject, layers)), Bound):
        return _under(whole, assume)
    if not _symbolic(subject):
        return _under(_by_family(quantity, subject, layers, None) or numbers(subject, layers), assume)
    return _family(quantity, subject, layers, assume)


def _on_grid(quantity: str, subject: Any, layers: int | None) -> Bound | None:
    count = len(subject) if layers is None and isinstance(subject, tuple) else layers
    grid = _whole_grid(subject) if count else None
    return grids.reach(subject, grid, quantity, count) if grid and count else None


def _by_family(quantity: str, subject: Any, layers: int | None, tokens: int | None) -> Bound | None:
    """What the rules say of a pattern with numbers, if it holds for every number of tokens: they are quick."""
    if layers == 0 or isinstance(subject, tuple):
        return None
    try:
        found = reach_by_family(subject, quantity, layers)
    except (NotByLag, TooHardError):
        return None
    if tokens is not None:
        stacks.number(tokens, "n", 1)
        found = _at(found, n=tokens)
    about_n = [c for c in found.assumptions if n in c.free_symbols]
    return found if all(c == (n >= 1) for c in about_n) and sympy.false not in found.assumptions else None


def _family(quantity: str, subject: Any, layers: int | None, assume: Assume) -> Bound:
    if layers == 0:
        return exact(subject, quantity, 0, "no layer", given={"layers": 0}, reason="no layer: every token is itself")
    try:
        return _under(reach_by_family(subject, quantity, layers, _static(assume)), assume)
    except (NotByLag, TooHardError) as e:
        return unknown(subject, quantity, f"{e}; {BIND}")


def _under(bound: Bound, assume: Assume) -> Bound:
    """The bound under the assumptions that are about what it mentions; unknown where it needs what they exclude."""
    names = {symbol(name) for name in (*names_of(bound.subject), *VARIABLES[bound.quantity])}
    more = [c for c in conditions(assume) if c not in bound.assumptions and c.free_symbols <= names]
    if not more or not bound.is_known:
        return bound
    if smt.consistent([*bound.assumptions, *more]):
        return bound.under(*more)
    smt.require_consistent([*_domain(bound.subject), *(v >= 0 for v in (n, symbol("t")) if v in names), *more])
    needed = ", ".join(map(str, bound.assumptions))
    why = f"the formula known needs {needed}, which the assumptions exclude; {BIND}"
    return unknown(bound.subject, bound.quantity, why, dict(bound.given))


def _assumed(subject: Any, assume: Assume, variables: str) -> tuple[sympy.Basic, ...]:
    """The assumptions, over names that the question knows."""
    found = conditions(assume)
    if found:
        require_known(found, names_of(subject), variables, repr(subject))
    return found


def _domain(subject: Any) -> tuple[sympy.Basic, ...]:
    return domain(subject) if isinstance(subject, Term) else ()


def _static(assume: Assume) -> tuple[sympy.Basic, ...]:
    """The conditions that are about the symbols of the pattern alone."""
    own = {n.name, "L", "i", "t"}
    return tuple(c for c in conditions(assume) if not {s.name for s in c.free_symbols} & own)


def _at(bound: Bound, **values: int) -> Bound:
    numbers = {symbol(name): value for name, value in values.items()}
    kept = tuple(c for c in (c.subs(numbers) for c in bound.assumptions) if c != sympy.true)
    given = (*bound.given, *values.items())
    return replace(bound, expr=bound.expr.subs(numbers), assumptions=kept, given=given)


def _one(term: Term) -> Term:
    if not isinstance(term, Term):
        raise TermError(f"{term!r} ({type(term).__name__})", "a pattern: window(64) | stride(256) & causal")
    return term


def _subject(patterns: Patterns) -> Any:
    if isinstance(patterns, LayerRule | Term):
        return patterns
    return tuple(_one(t) for t in (patterns.unions if isinstance(patterns, Schedule) else patterns))


def _symbolic(subject: Any) -> bool:
    if isinstance(subject, LayerRule):
        return True
    return any(t.symbols for t in (subject if isinstance(subject, tuple) else (subject,)))
