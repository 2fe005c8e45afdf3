"""What a statement can be made of: which quantities of what a method proves, with which arguments, symbols, formulas.

A checker is handed statements of its own kind only, so that it need not expect anything else: whatever is not such a
statement is refused here, with the reason, and nothing is hidden that goes wrong inside a checker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import sympy
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from pidsl.analysis.assume import is_condition
from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas import CeilLog, Periodic, Table, symbol
from pidsl.analysis.schedules import LayerRule
from pidsl.language.terms import Algebra

COUNTED = ("pairs", "sparsity", "average degree")
REACH = ("farthest", "contiguous")
FLOPS = ("forward flops", "backward flops")
BYTES = (
    "forward read bytes", "forward write bytes", "backward read bytes", "backward write bytes", "memory bytes"
)  # fmt: skip

VARIABLES: dict[str, str] = {
    **dict.fromkeys((*COUNTED, "max degree", "depth", *FLOPS, *BYTES), "n"), "degree": "in", "live keys": "t",
    "kv bytes": "t", **dict.fromkeys(REACH, "nL"),
}  # fmt: skip
"""The variables of a formula of each quantity, besides the symbols of the pattern."""


def _at_least(least: int) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least


def _layers(x: Any) -> bool:
    return _at_least(0)(x) or str(x) == "L"


_COSTS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("head_dim", "heads", "kv_heads", "batch"), _at_least(1)), "dtype": lambda x: isinstance(x, str)
}  # fmt: skip
ARGUMENTS: dict[str, tuple[dict[str, Callable[[Any], bool]], dict[str, Callable[[Any], bool]]]] = {
    **dict.fromkeys(("pairs", "live keys"), ({}, {"n": _at_least(0)})),
    **dict.fromkeys(REACH, ({"layers": _layers}, {})),
    **dict.fromkeys((*FLOPS, *BYTES, "kv bytes"), (_COSTS, {"n": _at_least(0)})),
    "depth": ({}, {"n": _at_least(1), "of": lambda x: x in ("causal", "all")}),
}
"""Arguments that a quantity has, and those that it may have; no others."""

ONE, RULE, SEVERAL, OPEN = "a term with numbers", "a rule for layers", "a term per layer", "a term with symbols"
NUMBERS, TERMS, STACKS = (ONE,), (ONE, OPEN), (ONE, SEVERAL)

ABOUT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "from the exact formula": ((*TERMS, RULE, SEVERAL), ("pairs", "max degree", "live keys", *REACH, "depth")),
    "first differences": (TERMS, ("degree", "max degree", "average degree")),
    "second differences": (TERMS, ("pairs",)),
    "second differences, at most": (TERMS, ("pairs",)),
    "layers by induction": ((*TERMS, RULE), (*REACH, "depth")),
    "live keys by witness": (TERMS, ("live keys",)),
    "quasi-polynomial": (NUMBERS, COUNTED),
    "degree": (NUMBERS, ("degree",)),
    "largest degree": (NUMBERS, ("max degree",)),
    "keys between blocks": (NUMBERS, ("degree",)),
    "largest between blocks": (NUMBERS, ("max degree",)),
    "pairs between blocks": (NUMBERS, COUNTED),
    "whole grids": (STACKS, (*COUNTED, "degree", "max degree", *REACH, "depth")),
    "live keys": (NUMBERS, ("live keys",)),
    "layers": (STACKS, REACH),
    "lag sums": (STACKS, REACH),
    "lag growth": (NUMBERS, REACH),
    "form in L": (NUMBERS, REACH),
    "stable layers": (NUMBERS, REACH),
    "repeating layers": (NUMBERS, REACH),
    "two-sided lags": (NUMBERS, ("depth",)),
    "lag depth": (NUMBERS, ("depth",)),
    "blocks": (STACKS, ("depth",)),
    "short sequences": (STACKS, ("depth", *REACH)),
    "depth": (STACKS, ("depth",)),
    "depth by tokens": (STACKS, ("depth",)),
    "matrices": (STACKS, ("depth",)),
    "from the pairs": (TERMS, ("pairs", "sparsity", *FLOPS)),
    "from the live keys": (TERMS, ("live keys", "kv bytes")),
    "tensor sizes": (TERMS, BYTES),
    "no layer": ((*TERMS, RULE, SEVERAL), REACH),
}  # fmt: skip
"""What each method proves: of which subjects, which quantities."""

OF_L = ("lag growth", "form in L", "stable layers", "repeating layers")
OF_A_NUMBER = ("layers", "lag sums", "short sequences", "whole grids", "no layer")
"""Methods for any number of layers, and for a certain number of them."""


def misstated(bound: Bound) -> str:
    """Why a bound is no statement that its method could prove, "" if it is one.

    >>> import pidsl
    >>> from dataclasses import replace
    >>> misstated(replace(pidsl.window(2).pairs(), method="depth"))
    'depth says nothing about pairs'
    """
    kind = _kind(bound.subject)
    if kind is None:
        return f"no pattern: {bound.subject!r}"
    subjects, quantities = ABOUT[bound.method]
    if bound.quantity not in quantities:
        return f"{bound.method} says nothing about {bound.quantity}"
    if kind not in subjects:
        return f"{bound.method} says nothing about {kind}"
    if bound.relation not in ("==", "<=", ">="):
        return f"no relation: {bound.relation!r}"
    if not _fits(bound.given, *ARGUMENTS.get(bound.quantity, ({}, {}))):
        return f"arguments {bound.given!r}"
    others = {True: OF_L, False: OF_A_NUMBER}[isinstance(bound.argument("layers"), int)]
    if bound.quantity in REACH and bound.method in others:
        return f"{bound.method} says nothing about {bound.name}"
    names = {symbol(name) for name in (*names_of(bound.subject), *VARIABLES[bound.quantity])}
    if not isinstance(bound.expr, sympy.Expr) or not _is_formula([bound.expr], names):
        return f"no formula over {_listed(names)}: {bound.expr}"
    if not isinstance(bound.assumptions, tuple) or not all(map(is_condition, bound.assumptions)):
        return f"no conditions: {bound.assumptions!r}"
    if not _is_formula(bound.assumptions, names):
        return f"no conditions over {_listed(names)}: {bound.assumptions}"
    return ""


def _kind(subject: Any) -> str | None:
    if isinstance(subject, LayerRule):
        return RULE
    if isinstance(subject, Algebra):
        return OPEN if subject.symbols else ONE
    several = isinstance(subject, tuple) and subject and all(isinstance(t, Algebra) for t in subject)
    return SEVERAL if several and not names_of(subject) else None


@lru_cache(maxsize=256)
def names_of(subject: Any) -> frozenset[str]:
    """Names of the symbols of a pattern, of several, or of a rule."""
    if isinstance(subject, tuple):
        return frozenset(name for term in subject for name in term.symbols)
    return subject.symbols


def _fits(given: Any, needed: dict[str, Any], allowed: dict[str, Any]) -> bool:
    pairs = isinstance(given, tuple) and all(isinstance(x, tuple) and len(x) == 2 for x in given)
    if not pairs or len({name for name, _ in given}) < len(given):
        return False
    rules = {**needed, **allowed}
    return {*needed} <= {name for name, _ in given} <= {*rules} and all(rules[name](value) for name, value in given)


_PARTS = (
    sympy.Rational, sympy.Add, sympy.Mul, sympy.Min, sympy.Max, sympy.floor, sympy.ceiling, sympy.Mod, sympy.Abs,
    sympy.Piecewise, ExprCondPair, Periodic, Table, CeilLog, sympy.core.relational.Relational, sympy.And, sympy.Or,
    sympy.Not, sympy.ITE, BooleanTrue, BooleanFalse,
)  # fmt: skip


def _is_formula(parts: Iterable[sympy.Basic], names: set[sympy.Symbol]) -> bool:
    """Whether these are made of numbers, names, and what formulas are written with."""
    return all(_is_part(x, names) for part in parts for x in sympy.preorder_traversal(part))


def _is_part(x: Any, names: set[sympy.Symbol]) -> bool:
    if isinstance(x, sympy.Symbol):
        return x in names
    if isinstance(x, sympy.Pow):
        return bool(x.exp.is_integer)
    if isinstance(x, sympy.Mod) and x.args[1].is_Number and not x.args[1] > 0:
        return False
    return isinstance(x, _PARTS) or x in (sympy.oo, -sympy.oo)


def _listed(names: Iterable[sympy.Symbol]) -> str:
    return ", ".join(sorted(s.name for s in names))
