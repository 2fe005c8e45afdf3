"""How far attention sees through several layers, exactly and for every number of tokens.

`S_L` is the set of pairs `(i, j)` for which j at the input reaches i through exactly L layers; `S_0` is the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound, exact, unknown
from pidsl.analysis.formulas.piecewise import Branch, Formula, chain, formula
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers import stacks
from pidsl.analysis.layers.any_layers import for_all_layers
from pidsl.analysis.layers.long_lags import guessed
from pidsl.analysis.layers.short import lag_formula
from pidsl.analysis.layers.stacks import (
    Intervals,
    Stack,
    Subject,
    attempt,
    checked,
    connected,
    lag_sums,
    long_lags_of,
    missing_lags_of,
    stack,
)
from pidsl.errors import SizeError, TooHardError
from pidsl.language.terms import require_free
from pidsl.relation.isl import in_turn, limited, read_map, read_set

LAG_OPERATIONS = 200_000  # differences of many parts are slow ones: up to 20 microseconds each


def farthest(subject: object, layers: object = None) -> Bound:
    """The largest lag `i - j` of the pairs that the layers connect.

    >>> import pidsl
    >>> term = pidsl.window(4) | pidsl.lags(16)
    >>> farthest(term, 12)(n=4096)
    192
    >>> farthest(term).expr  # of any number of layers
    16*L

    Args:
        subject: a term, or a term per layer, the layer at the input first.
        layers: how many layers; a schedule begins again after its last. None: L of them (a schedule: each once).

    Returns:
        A formula in n, for n >= 1; `-oo` where the layers connect nothing. Negative for what only looks ahead.

    Raises:
        SizeError: `layers` is negative or no integer.
        SymbolError: a term holds unbound symbols.
    """
    return _bound("farthest", subject, layers)


def contiguous(subject: object, layers: object = None) -> Bound:
    """The largest D such that every token sees itself and all of its D predecessors that exist.

    -1 if some token does not see itself, n - 1 if every token sees all its predecessors.

    >>> import pidsl
    >>> contiguous(pidsl.window(4) | pidsl.lags(16), 12)(n=4096)
    156
    >>> contiguous(pidsl.window(4) | pidsl.lags(16)).expr
    Piecewise((16*L - 36, L >= 3), (4*L, True))

    Args and errors as in `farthest`.
    """
    return _bound("contiguous", subject, layers)


@dataclass(frozen=True, slots=True, eq=False)
class Reachable:
    """What some layers connect.

    `(i, j) in it` and, if it is a set of lags, `lag in it`; two are equal when they hold the same.

    Args:
        lags: `{ [d] }`, the lags of n tokens being those below n; None if the pairs are no matter of lags.
        pairs: `[n] -> { [i] -> [j] }`.
    """

    lags: isl.Set | None
    pairs: isl.Map

    def __contains__(self, item: object) -> bool:
        if isinstance(item, tuple) and len(item) == 2:
            i, j = (stacks.number(x, "position") for x in item)
            # n tokens for some n; where the pattern depends on n, for that n
            return not (self.pairs & _one_pair(i, j)).is_empty()
        if self.lags is None:
            raise SizeError(f"lag {item!r}", "a pair (i, j): the pattern is not translation invariant")
        lag = stacks.number(item, "lag")
        return not (self.lags & read_set(f"{{ [d] : d = {lag} }}")).is_empty()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reachable) and self.pairs.is_equal(other.pairs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if self.lags is None:
            return str(self.pairs)
        lags = self.lags
        found = attempt(lambda: stacks.intervals(lags))
        if isinstance(found, tuple) and len(found) <= 64:
            return "{ " + ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in found) + " }"
        return str(self.lags)


def _one_pair(i: int, j: int) -> isl.Map:
    return read_map(f"{{ [i] -> [j] : i = {i} and j = {j} }}")


@in_turn
def reachable(subject: object, layers: object = None) -> Reachable:
    """The lags, or else the pairs, that the layers connect.

    >>> import pidsl
    >>> reachable(pidsl.window(4) | pidsl.lags(16), 3)
    { 0..12, 16..24, 32..36, 48 }
    >>> (100, 90) in reachable(pidsl.window(4) | pidsl.lags(16), 3)
    True

    Args:
        subject: a term, or a term per layer, the layer at the input first.
        layers: how many layers; None: one, or each of a schedule once.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    layers_ = stack(checked(subject), None if layers is None else stacks.number(layers, "layers"))
    for term in layers_:
        require_free(term, "what it reaches")
    lags = lag_sums(layers_)
    if lags is None:
        return Reachable(None, connected(layers_))
    found = _set_of(lags) if isinstance(lags, tuple) else lags
    return Reachable(found, stacks.pairs_at(found))


def _set_of(parts: Intervals) -> isl.Set:
    return read_set("{ " + "; ".join(f"[d] : {a} <= d <= {b}" for a, b in parts) + (" }" if parts else "[d] : 1 = 0 }"))


# -- formulas ----------------------------------------------------------------------------------------------------------


def _bound(quantity: str, subject: object, layers: object) -> Bound:
    known = checked(subject)
    given: dict[str, object] = {"layers": "L"}
    if (layers is None and not isinstance(known, tuple)) or getattr(layers, "name", None) == "L":
        found = attempt(lambda: for_all_layers(quantity, known))
    else:
        layers_ = stack(known, None if layers is None else stacks.number(layers, "layers"))
        given = {"layers": len(layers_)}
        found = attempt(lambda: for_layers(quantity, known, layers_))
    return unknown(known, quantity, said(found), given) if isinstance(found, TooHardError) else found


def said(e: TooHardError) -> str:
    """Why isl could not answer, in one line."""
    return f"{e.given}, {e.where}" if e.where else e.given


def for_layers(quantity: str, subject: Subject, layers: Stack) -> Bound:
    """Farthest or contiguous of given layers.

    Raises:
        TooHardError: it is not known for every n.
    """
    given = {"layers": len(layers)}
    lags = attempt(lambda: lag_sums(layers))
    method = "lag sums"
    if isinstance(lags, tuple):
        found = (_farthest_in if quantity == "farthest" else _contiguous_in)(lags)
    elif isinstance(lags, isl.Set):
        found = _set_formula(quantity, lags)
    else:
        pairs = attempt(lambda: pairs_formula(quantity, connected(layers))) if lags is None else lags
        counted = attempt(lambda: lag_formula(quantity, layers)) if isinstance(pairs, TooHardError) else None
        if isinstance(pairs, Formula):
            found, method = pairs, "layers"
        elif isinstance(counted, Formula):
            found, method = counted, "short sequences"
        else:
            return _guessed(quantity, subject, layers, pairs)
    note = "for shorter n the formula has many cases" if found.least > 1 else ""
    return exact(
        subject, quantity, found.expr, method, given=given, assumptions=found.assumptions, reason=note
    )  # fmt: skip


def _guessed(quantity: str, subject: Subject, layers: Stack, why: TooHardError) -> Bound:
    """What few tokens suggest, where that can be proved."""
    found = guessed(quantity, layers)
    bound = exact(subject, quantity, found.expr, "layers", given={"layers": len(layers)},
                  assumptions=found.assumptions)  # fmt: skip
    if not bound.proof.check():  # nothing is claimed that is not proved
        raise why
    return bound


def pairs_formula(quantity: str, pairs: isl.Map, least: int = 1) -> Formula:
    """Farthest or contiguous of given pairs, for n >= least."""
    with limited(f"the {quantity} lag", LAG_OPERATIONS):
        if quantity == "farthest":
            lags = long_lags_of(pairs)
            return Formula(-sympy.oo, least) if lags.is_empty() else formula(lags.dim_max(0), -sympy.oo, least)
        return _first_missing(missing_lags_of(pairs), least)


def _set_formula(quantity: str, lags: isl.Set) -> Formula:
    with limited(f"the {quantity} lag"):
        inside = read_set("[n] -> { [d] : 0 <= d < n }")
        if quantity == "farthest":
            return formula((lags & inside).dim_max(0), -sympy.oo)
        return _first_missing(inside - lags)


def _first_missing(missing: isl.Set, least: int = 1) -> Formula:
    """Contiguous, from the lags of the pairs that are missing."""
    if missing.is_empty():
        return Formula(n - 1, least)
    first = missing.dim_min(0).coalesce()
    one, all_ = (isl.PwAff.read_from_str(first.get_ctx(), f"[n] -> {{ [({x})] }}") for x in ("1", "n - 1"))
    found = first.sub(one).union_add(all_.intersect_params(first.domain().complement()))
    return formula(found, sympy.nan, least)


def _farthest_in(lags: Intervals) -> Formula:
    branches: list[Branch] = []
    for low, high in lags:
        if high > low:
            branches.append((n - 1, low + 1))
        branches.append((sympy.Integer(high), high + 1))
    if not lags or lags[0][0] > 0:
        branches.insert(0, (-sympy.oo, 1))
    if len(branches) > 64:
        branches = branches[-64:]
    return chain(branches, lambda x: max((min(b, x - 1) for a, b in lags if a < x), default=-sympy.oo))


def _contiguous_in(lags: Intervals) -> Formula:
    last = lags[0][1] if lags and lags[0][0] == 0 else -1
    if last == -1:
        return Formula(sympy.Integer(-1))
    return chain([(n - 1, 1), (sympy.Integer(last), last + 1)], lambda x: min(x - 1, last))
