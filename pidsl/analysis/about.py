"""Which statements a checker is about: any other one that makes sense (`statement`) is refused before it is read.

@about("farthest", "contiguous", layers=NUMBER)
def check_layers(bound: Bound) -> Verdict: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas import L
from pidsl.analysis.piecewise import region
from pidsl.analysis.proofs import Verdict
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.stacks import WHOLE
from pidsl.errors import TooHardError
from pidsl.relation.isl import largest, least, read_set

Check = Callable[[Bound], Verdict]
Kind = Callable[[Any], bool]  # of an argument; one that is not there is None


def _whole(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def NUMBER(x: Any) -> bool:
    """A number of layers."""
    return _whole(x) and 0 <= x <= WHOLE


def ANY(x: Any) -> bool:
    """L of them."""
    return isinstance(x, str | sympy.Symbol) and x in (L.name, L)


def TOKENS(x: Any) -> bool:
    """A number of tokens, or none: a formula in n."""
    return x is None or (_whole(x) and x >= 1)


def PAIRS(x: Any) -> bool:
    """The pairs that depth is about."""
    return isinstance(x, str) and x in ("causal", "all")


def about(*quantities: str, schedules: bool = True, rules: bool = False, **given: Kind) -> Callable[[Check], Check]:
    """For a checker that compares its formula with the quantity: a verdict on other statements.

    What is equal is neither more nor less, so its verdict is good for `<=` and `>=` too.

    Args:
        quantities: what the checker knows.
        schedules: whether the subject may be a term per layer.
        rules: whether it may be a rule for any number of layers.
        given: the arguments of the quantity.
    """

    def checker(check: Check) -> Check:
        @wraps(check)
        def checked(bound: Bound) -> Verdict:
            if bound.quantity not in quantities:
                return Verdict(False, failure=f"a proof of {' or '.join(quantities)}, not of {bound.quantity}")
            if isinstance(bound.subject, tuple) and not (schedules and bound.subject):
                return Verdict(False, failure=f"a proof about one term, not about {bound.shown_subject}")
            if any(isinstance(x, LayerRule) for x in _layers(bound)) and not rules:
                return Verdict(False, failure=f"a proof about terms, not about {bound.shown_subject}")
            if not fits(bound, given):
                return Verdict(False, failure=f"arguments {bound.given}")
            return check(bound)

        return checked

    return checker


def fits(bound: Bound, given: Mapping[str, Kind]) -> bool:
    """Whether the arguments of a statement are these and no others."""
    known = all(name in given for name, _ in bound.given)
    return known and all(kind(bound.argument(name)) for name, kind in given.items())


def _layers(bound: Bound) -> tuple[object, ...]:
    return bound.subject if isinstance(bound.subject, tuple) else (bound.subject,)


def tokens_of(assumptions: tuple[sympy.Basic, ...]) -> tuple[int, int | None]:
    """The least and the largest n >= 1 that assumptions about n allow, with all between; None for no largest.

    Raises:
        TooHardError: they are about something else, allow none, or leave gaps.
    """
    where = region(assumptions, least=1)
    line = where.move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
    if line.is_empty():
        raise TooHardError(f"the assumptions {assumptions}", "some n that satisfies them")
    first, last = least(line), largest(line) if line.is_bounded() else None
    if not line.is_equal(read_set(f"{{ [n] : {first} <= n {'' if last is None else f'<= {last}'} }}")):
        raise TooHardError(f"the assumptions {assumptions}", "all n from one number on")
    return first, last
