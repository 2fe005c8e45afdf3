"""What a statement can be made of: which quantities of what a method proves, with which arguments, symbols, formulas.

A checker is handed statements of its own kind only, so that it need not expect anything else: whatever is not such a
statement is refused here, with the reason, and nothing is hidden that goes wrong inside a checker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import Any

import sympy
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import BooleanFalse, BooleanTrue

from pidsl.analysis import choices
from pidsl.analysis.bound import ANY, Bound, Form, Question
from pidsl.analysis.documents import ACROSS, AT_MOST, any_confined
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.assume import is_condition
from pidsl.analysis.formulas.words import CeilLog, L, Periodic, Table, i, n, symbol
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.sizes import DTYPES, FLOPS, TENSORS
from pidsl.language.terms import Term

WHOLE = 4096  # layers that are composed one by one; more of them are asked for with L as a parameter
REACH = ("farthest", "contiguous")

VARIABLES: dict[str, str] = {
    **dict.fromkeys(("pairs", "sparsity", "average degree", "max degree", "depth"), "n"),
    **dict.fromkeys((ACROSS, "decode bytes", "received keys", "received bytes", *FLOPS, *TENSORS), "n"), "degree": "in",
    **dict.fromkeys(("live keys", "live pages", "kv bytes"), "t"), **dict.fromkeys(REACH, "nL"),
}  # fmt: skip
"""The variables of a formula of each quantity, besides the symbols of the pattern."""

Kind = Callable[[Any], bool]  # of the value of an argument; one that is not there is None


def from_(least: int, most: float = inf) -> Kind:
    """Whole numbers from the least to the most."""
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and least <= x <= most


def maybe(kind: Kind) -> Kind:
    """None as well."""
    return lambda x: x is None or kind(x)


def any_(x: Any) -> bool:
    """L of them."""
    return isinstance(x, str) and x == ANY


def named(*names: str) -> Kind:
    """One of these."""
    return lambda x: isinstance(x, str) and x in names


ONE, RULE, SEVERAL, OPEN = "a term with numbers", "a rule for layers", "a term per layer", "a term with symbols"
NUMBERS, TERMS, STACKS, WITH_RULES, ALL = (
    (ONE,),
    (ONE, OPEN),
    (ONE, SEVERAL),
    (ONE, OPEN, RULE),
    (ONE, OPEN, RULE, SEVERAL),
)


@dataclass(frozen=True, slots=True)
class About:
    """Statements of one kind.

    Args:
        subjects: what they can be about.
        quantities: what they can say of it.
        arguments: of the quantity; it has no others.
    """

    subjects: tuple[str, ...]
    quantities: tuple[str, ...]
    arguments: Mapping[str, Kind] = field(default_factory=dict)


t = symbol("t")
COUNT, SIDES = from_(0, WHOLE), named("causal", "all")  # of layers that are composed; of tokens, for depth
LAYERS, EVERY, SOME = {"layers": COUNT}, {"layers": any_}, {"layers": lambda x: from_(0)(x) or any_(x)}
DEPTH = {"of": SIDES, "n": maybe(from_(1))}
TOKENS = {"n": maybe(from_(0))}
ROWS = {"lookahead": maybe(from_(0))}
PAGES = {**ROWS, "page": from_(1)}
COSTS: dict[str, Kind] = {
    **dict.fromkeys(("head_dim", "heads", "kv_heads", "batch"), from_(1)), "dtype": named(*DTYPES), **TOKENS
}  # fmt: skip
KV_COSTS = {**COSTS, **ROWS, "value_dim": maybe(from_(1))}


def misstated(bound: Bound, proves: Iterable[About]) -> str:
    """Why a bound is no statement that a rule could prove which is about these, "" if it is one."""
    if not isinstance(bound.question, Question):
        return f"no question: {bound.question!r}"
    kind = _kind(bound.subject)
    if kind is None:
        return f"no pattern: {bound.subject!r}"
    confined, allowed = any_confined(bound.subject), bound.question.allowed
    if allowed is not (allowed and confined):
        return f"{bound.shown_subject} is no pattern within documents"
    most = {
        **AT_MOST,
        "kv bytes": "<=",
        "received bytes": "<=",
        "decode bytes": "<=",
        **dict.fromkeys(FLOPS, "<="),
        **dict.fromkeys((ACROSS, *TENSORS), bound.relation),
    }
    if confined and not allowed and bound.relation != most.get(bound.quantity):
        return "of a pattern within documents, only bounds are proved"
    if choices.any_chosen(bound.subject) and bound.relation == "==" and bound.quantity not in (ACROSS, *TENSORS):
        return "of a pattern from which calls choose, only bounds are proved"
    about = next((one for one in proves if bound.quantity in one.quantities), None)
    if about is None:
        return f"{bound.method} says nothing about {bound.quantity}"
    if kind not in about.subjects:
        return f"{bound.method} says nothing about {kind}"
    if bound.relation not in ("==", "<=", ">="):
        return f"no relation: {bound.relation!r}"
    if not _fits(bound.question, about.arguments):
        return f"arguments {bound.question.given!r}"
    variables = "n" if isinstance(bound.argument("layers"), int) else VARIABLES[bound.quantity]
    if bound.question.n is not None:
        variables = ""
    names = {symbol(name) for name in (*names_of(bound.subject), *variables)}
    if not isinstance(bound.expr, sympy.Expr) or not _is_formula([bound.expr], names):
        return f"no formula over {_listed(names)}: {bound.expr}"
    if not isinstance(bound.assumptions, tuple) or not all(map(is_condition, bound.assumptions)):
        return f"no conditions: {bound.assumptions!r}"
    if not _is_formula(bound.assumptions, names):
        return f"no conditions over {_listed(names)}: {bound.assumptions}"
    known = [symbol(name) >= 0 for name in variables] + ([*domain(bound.term)] if kind == OPEN else [])
    if kind != OPEN and all(map(_is_from_some_number, bound.assumptions)):
        return ""
    return "" if smt.consistent([*bound.assumptions, *known]) else "the assumptions contradict each other"


def _is_from_some_number(c: sympy.Basic) -> bool:
    """Whether large numbers satisfy a condition, as they do n >= 40, and some query is always there."""
    return (isinstance(c, sympy.Ge) and c.lhs in (n, L, t, i) and c.rhs.is_Integer) or c == (i < n)


def _kind(subject: Any) -> str | None:
    if isinstance(subject, LayerRule):
        return RULE
    if isinstance(subject, Term):
        return OPEN if subject.symbols else ONE
    several = isinstance(subject, tuple) and subject and all(isinstance(t, Term) for t in subject)
    return SEVERAL if several and not names_of(subject) else None


@lru_cache(maxsize=256)
def names_of(subject: Any) -> frozenset[str]:
    """Names of the symbols of a pattern, of several, or of a rule."""
    if isinstance(subject, tuple):
        return frozenset(name for term in subject for name in term.symbols)
    return subject.symbols


def _fits(question: Question, arguments: Mapping[str, Kind]) -> bool:
    """Whether the arguments of a question are these and no others."""
    if not (question.form is None or type(question.form) is Form):
        return False
    values = question.given
    return values.keys() <= arguments.keys() and all(kind(values.get(name)) for name, kind in arguments.items())


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
