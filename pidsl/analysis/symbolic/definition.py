"""What terms with open symbols mean: the condition on two positions under which they attend.

What proofs start from: `attends` and `holds_at` are the definition of a term, `layer_at` that of a layer of a rule.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import wraps

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.domains import require_names
from pidsl.analysis.formulas.smtlib import Condition
from pidsl.analysis.formulas.words import CeilLog, L, from_index, internal, n
from pidsl.analysis.schedules import BaseSchedule, LayerRule, SkipSchedule
from pidsl.analysis.verdict import Verdict, failed
from pidsl.analysis.ways import NotMine
from pidsl.language.expr import Index
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Causal,
    Complement,
    Difference,
    Dilated,
    Empty,
    Full,
    Intersection,
    Keys,
    Lags,
    Queries,
    Shift,
    Stride,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    Window,
    walk,
)
from pidsl.language.trees import Steps, run

I, J, M, W = (internal(name) for name in "ijmw")
"""A query, a key, a token between them, and a witness: the variables of what certificates propose."""


class NotByLag(NotMine):
    """The term is not told by lags, positions and blocks, or not as far as a formula needs it."""


def refusing(check: Callable[[Bound], Verdict]) -> Callable[[Bound], Verdict]:
    """A checker that refuses what is not told by lags, positions and blocks, and certificates of another form."""

    @wraps(check)
    def checked(bound: Bound) -> Verdict:
        try:
            return check(bound)
        except NotByLag as e:
            return failed(str(e))
        except (TypeError, ValueError, KeyError, AttributeError) as e:
            return failed(f"a certificate of another form: {e!r}")

    return checked


def holds_at(term: Term, lag: sympy.Expr) -> Condition:
    """The condition on the lag under which the term attends, away from the ends of the sequence.

    Raises:
        NotByLag: the term looks at more than the lag.
    """
    for part in walk(term):
        if isinstance(part, Keys | Queries | Blocks | Blocked):
            raise NotByLag(f"{part!r} looks at more than the lag")
    return attends(term, lag, sympy.Integer(0))


def attends(term: Term, row: sympy.Expr, key: sympy.Expr) -> Condition:
    """The condition on two positions of n under which the term attends: the definition of its words.

    Raises:
        NotByLag: a word that is not defined by positions, lags and blocks.
    """
    return run(_attends(term, row, key, n))


def _attends(term: Term, row: sympy.Expr, key: sympy.Expr, length: sympy.Expr) -> Steps[Condition]:
    lag = row - key
    match term:
        case Full():
            return sympy.true
        case Empty():
            return sympy.false
        case Causal():
            return lag >= 0
        case Window(left, right):
            return sympy.And(lag >= -from_index(right), lag <= from_index(left))
        case Stride(period, phase):
            return sympy.Eq(sympy.Mod(lag, from_index(period)), from_index(phase))
        case Lags(values):
            return sympy.Or(*(sympy.Eq(lag, from_index(v)) for v in values))
        case Keys(start, stop, 1):
            return _slice(key, start, stop, length)
        case Queries(start, stop, 1):
            return _slice(row, start, stop, length)
        case Blocks(size):
            s = from_index(size)
            return sympy.Eq(sympy.floor(row / s), sympy.floor(key / s))
        case Blocked(a, size):
            s = from_index(size)
            return (yield _attends(a, sympy.floor(row / s), sympy.floor(key / s), sympy.ceiling(length / s)))
        case Union(a, b):
            return sympy.Or((yield _attends(a, row, key, length)), (yield _attends(b, row, key, length)))
        case Intersection(a, b):
            return sympy.And((yield _attends(a, row, key, length)), (yield _attends(b, row, key, length)))
        case Difference(a, b):
            no = sympy.Not((yield _attends(b, row, key, length)))
            return sympy.And((yield _attends(a, row, key, length)), no)
        case SymmetricDifference(a, b):
            x, y = (yield _attends(a, row, key, length)), (yield _attends(b, row, key, length))
            return sympy.Or(sympy.And(x, sympy.Not(y)), sympy.And(y, sympy.Not(x)))
        case Complement(a):
            return sympy.Not((yield _attends(a, row, key, length)))
        case Transpose(a):
            return (yield _attends(a, key, row, length))
        case Shift(a, by):
            return (yield _attends(a, row, key + from_index(by), length))
        case Dilated(Dilated(a, inner), step):  # one division: z3 knows little about divisions of divisions
            return (yield _attends(Dilated(a, inner * step), row, key, length))
        case Dilated(a, step):
            s, zero = from_index(step), sympy.Integer(0)
            if any(isinstance(part, Keys | Queries | Blocks | Blocked) for part in walk(a)):
                raise NotByLag(f"{term!r} looks at more than the lag")
            return sympy.And(sympy.Eq(sympy.Mod(lag, s), 0), (yield _attends(a, sympy.floor(lag / s), zero, length)))
        case _:
            raise NotByLag(f"{term!r} looks at more than the lag")


def _slice(x: sympy.Expr, start: Index, stop: Index | None, length: sympy.Expr) -> Condition:
    """Whether a position is from start to stop, of which a negative one counts from the end."""
    found = []
    for end, compare in ((start, operator.ge), (stop, operator.lt)):
        if end is not None:
            at = from_index(end)
            found.append(sympy.Or(sympy.And(at >= 0, compare(x, at)), sympy.And(at < 0, compare(x, length + at))))
    return sympy.And(*found)


def layer_at(rule: LayerRule, lag: sympy.Expr) -> Condition:
    """The condition on the lag under which layer L of a rule attends, counted from 0 at the input, for L >= 1.

    Raises:
        NotByLag: the rule is not known.
    """
    if isinstance(rule, BaseSchedule):
        step = from_index(rule.base) ** L
        digits = sympy.floor(lag / step)
        return sympy.And(sympy.Eq(sympy.Mod(lag, step), 0), digits >= 0, digits <= from_index(rule.base) - 1)
    if isinstance(rule, SkipSchedule):  # the first layer is a power of two, or the second is: no other is before
        k, period = from_index(rule.k), from_index(rule.period)
        skips = sympy.Eq(2 ** CeilLog(2, L + 1), L + 1)
        return sympy.Or(sympy.And(0 <= lag, lag <= k), sympy.And(sympy.Eq(lag, period), skips))
    raise NotByLag(f"the layers of {rule!r}")


def first_layer(rule: LayerRule, lag: sympy.Expr) -> Condition:
    """The same for the layer at the input."""
    if isinstance(rule, BaseSchedule):
        return sympy.And(0 <= lag, lag <= from_index(rule.base) - 1)
    return holds_at(rule.layer(0), lag)


def rule_domain(rule: LayerRule) -> tuple[Condition, ...]:
    """What the sizes of a rule satisfy, or it would not exist."""
    require_names(rule.symbols, repr(rule))
    least = 2 if isinstance(rule, BaseSchedule) else 1
    return tuple(c for c in (from_index(x) >= least for x in rule.sizes) if c != sympy.true)
