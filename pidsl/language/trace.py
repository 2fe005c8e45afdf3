"""`where`: run a Python predicate once on traced positions, and keep what it computed as a term.

The function never enters the term: it is called with stand-ins for i and j (and n, m) that record every operation.
What they cannot record faithfully raises, with what to write instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn

from pidsl.errors import PidslError, PredicateError, TermError, TruthError
from pidsl.language import expr
from pidsl.language.expr import (
    Abs,
    Add,
    And,
    Compare,
    Expr,
    FloorDiv,
    Index,
    Max,
    Min,
    Mod,
    Mul,
    Not,
    Or,
    Pred,
    Sub,
    Truth,
    Var,
    fold,
    show,
    show_pred,
    simplify,
    vars_in,
)
from pidsl.language.terms import Term
from pidsl.language.vocabulary import where_pred

WORDS = "+, -, constant *, // and % by a constant, abs, minimum, maximum, comparisons, & | ~"
PARENTHESES = "comparisons need parentheses beside & and |: (i < 4) & (j < 4)"


def where(predicate: Callable[..., Any]) -> Term:
    """Attends when `predicate(i, j)`, made of `+ - * // %`, `abs`, `minimum`, `maximum`, comparisons and `& | ~`.

    The function is called once, with stand-ins that record what it computes; it does not enter the term.

    >>> banded = where(lambda i, j: ((i - j) % 2 == 0) & (j <= i))
    >>> banded
    where(lambda i, j: ((i - j) % 2 == 0) & (j <= i))
    >>> banded.mask(3).astype(int)
    array([[1, 0, 0],
           [0, 1, 0],
           [1, 0, 1]])
    >>> where(lambda i, j, n, m: j >= m - 2)  # the last two keys
    where(lambda i, j, n, m: j >= m - 2)

    Args:
        predicate: called as `predicate(i, j)`, or `predicate(i, j, n, m)` if it has four parameters; parameters with
            defaults are left alone. Numbers it closes over may be symbols.

    Raises:
        PredicateError: something that is not affine or modular (`i * j`, `i & 1`, a division, a NumPy call).
        TruthError: `and`, `or`, `not`, `if`, `min`, `max`, `in` or a chained comparison inside the predicate.
    """
    try:
        parameters = inspect.signature(predicate).parameters.values()
    except (TypeError, ValueError):
        raise PredicateError(f"where({predicate!r})", "a function of (i, j) or of (i, j, n, m)") from None
    needed = [p for p in parameters if p.default is p.empty]
    if len(needed) not in (2, 4) or any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed):
        given = f"a function of ({', '.join(map(str, parameters))})"
        raise PredicateError(given, "(i, j) or (i, j, n, m)", "where(...)", "where(lambda i, j: i - j < 4)")
    try:
        value = predicate(*(TracedIndex(Var(v)) for v in "ijnm"[: len(needed)]))
    except PidslError:
        raise
    except (TypeError, IndexError) as e:  # an operation that Python or NumPy did not find on a stand-in
        hint = "(j == 0) | (j == 4) for membership; compute with i and j, tables and functions cannot be traced"
        raise PredicateError(str(e), f"affine and modular arithmetic: {WORDS}", "where(...)", hint) from e
    try:
        return where_pred(as_pred(value))
    except TermError as e:
        raise PredicateError(e.given, e.expected, e.where, e.hint) from None


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two positions or sizes, for use inside `where`.

    >>> where(lambda i, j: j <= minimum(i, 7))
    where(lambda i, j: j <= minimum(i, 7))
    """
    return TracedIndex(simplify(Min(_index(a), _index(b))))


def maximum(a: Any, b: Any) -> Any:
    """The larger of two positions or sizes, for use inside `where`.

    >>> where(lambda i, j: j >= maximum(i - 3, 8))
    where(lambda i, j: j >= maximum(i - 3, 8))
    """
    return TracedIndex(simplify(Max(_index(a), _index(b))))


def as_pred(value: Any) -> Pred:
    """What a traced function returned, as a predicate."""
    if isinstance(value, TracedPred):
        return value.pred
    if isinstance(value, TracedIndex):
        hint = f"{value!r} == 0, for instance"
        raise PredicateError(f"the predicate returned the number {value!r}", "a comparison", "where(...)", hint)
    if (plain := _plain_bool(value)) is not None:
        return Truth(plain)
    given = f"the predicate returned {value!r} ({type(value).__name__})"
    raise PredicateError(given, "a comparison of i and j", "where(...)", "where(lambda i, j: i - j < 4)")


def _plain_bool(value: Any) -> bool | None:
    """A Python or NumPy bool as a bool; None for anything else."""
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    return None


def _index(value: Any) -> Index:
    if isinstance(value, TracedIndex):
        return value.expr
    if isinstance(value, Expr):
        return value
    if isinstance(value, TracedPred):
        raise PredicateError(f"the truth value {value!r} as a number", "a position or a size", hint=PARENTHESES)
    if _plain_bool(value) is None and hasattr(value, "__index__"):
        try:
            return int(value.__index__())
        except TypeError:  # an array
            pass
    hint = f"{int(value)}" if isinstance(value, float) and value.is_integer() else ""
    raise PredicateError(
        f"{value!r} ({type(value).__name__}) in a predicate", "integers, symbols, i, j, n, m", "", hint
    )


class Traced(expr.Traced):
    """Refuses every use of a traced value that would be lost without a trace."""

    __slots__ = ()
    __array_ufunc__ = None  # NumPy functions raise instead of looping over an object
    __hash__ = None  # type: ignore[assignment]

    def _no_truth(self, use: str = "as a Python truth value") -> NoReturn:
        raise TruthError(
            f"{self!r} used {use}",
            "a predicate that does not branch: it is traced once for all positions",
            where="`and`, `or`, `not`, `if`, `min`, `max`, `in`, or a chained comparison",
            hint="(a) & (b), (a) | (b), ~(a), minimum(a, b), maximum(a, b), (lo <= x) & (x <= hi)",
        )

    def __bool__(self) -> NoReturn:
        self._no_truth()

    def __iter__(self) -> NoReturn:
        self._no_truth("as a sequence")

    def _refuse(self, operation: str, hint: str = "") -> NoReturn:
        raise PredicateError(f"{operation} in a predicate", f"affine and modular arithmetic: {WORDS}", hint=hint)

    def __float__(self) -> float:
        self._refuse(f"float({self!r})", "positions are integers; use // for division")

    def __int__(self) -> int:
        self._refuse(f"int({self!r})", "positions are integers already")

    def __index__(self) -> int:
        self._refuse(f"{self!r} as an index", "compute with i and j; tables cannot be traced")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # protocols that NumPy, copy and debuggers look for
            raise AttributeError(name)
        self._refuse(f"{self!r}.{name}")


class TracedIndex(Traced):
    """A traced integer."""

    __slots__ = ("expr",)

    def __init__(self, expr: Index) -> None:
        object.__setattr__(self, "expr", expr)

    def __repr__(self) -> str:
        return show(self.expr)

    def __add__(self, other: Any) -> TracedIndex:
        return TracedIndex(simplify(Add(self.expr, _index(other))))

    def __radd__(self, other: Any) -> TracedIndex:
        return TracedIndex(simplify(Add(_index(other), self.expr)))

    def __sub__(self, other: Any) -> TracedIndex:
        return TracedIndex(simplify(Sub(self.expr, _index(other))))

    def __rsub__(self, other: Any) -> TracedIndex:
        return TracedIndex(simplify(Sub(_index(other), self.expr)))

    def __neg__(self) -> TracedIndex:
        return TracedIndex(simplify(Sub(0, self.expr)))

    def __pos__(self) -> TracedIndex:
        return self

    def __abs__(self) -> TracedIndex:
        return TracedIndex(simplify(Abs(self.expr)))

    def __mul__(self, other: Any) -> TracedIndex:
        right = _index(other)
        if vars_in(self.expr) and vars_in(right):
            self._refuse(show(Mul(self.expr, right)), "multiply positions by constants only")
        return TracedIndex(simplify(Mul(self.expr, right)))

    def __rmul__(self, other: Any) -> TracedIndex:
        return TracedIndex(_index(other)) * self

    def __floordiv__(self, other: Any) -> TracedIndex:
        return TracedIndex(simplify(FloorDiv(self.expr, self._divisor(other, "//"))))

    def __mod__(self, other: Any) -> TracedIndex:
        return TracedIndex(simplify(Mod(self.expr, self._divisor(other, "%"))))

    def __divmod__(self, other: Any) -> tuple[TracedIndex, TracedIndex]:
        return self // other, self % other

    def __rfloordiv__(self, other: Any) -> TracedIndex:
        return TracedIndex(_index(other)) // self

    def __rmod__(self, other: Any) -> TracedIndex:
        return TracedIndex(_index(other)) % self

    def _divisor(self, other: Any, op: str) -> Index:
        right = _index(other)
        shown = f"{show(self.expr)} {op} {show(right)}"
        if vars_in(right):
            self._refuse(shown, "divide by constants only")
        if right == 0 or (isinstance(right, int) and right < 1 and vars_in(self.expr)):
            self._refuse(shown, "divisors count from 1")
        return right

    def __truediv__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} / {other!r}", f"{self!r} // {other!r}")

    def __rtruediv__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} / {self!r}", "divide by constants only, with //")

    def __pow__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} ** {other!r}")

    def __rpow__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} ** {self!r}", "lags(1, 2, 4, 8) for powers of two")

    def _bits(self, other: Any) -> NoReturn:
        self._refuse(
            f"bit arithmetic on {self!r} and {other!r}",
            f"{self!r} % 2 == 0 for the lowest bit; {PARENTHESES}",
        )

    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _bits
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _bits

    def __invert__(self) -> NoReturn:
        self._refuse(f"~{self!r}", "~ negates comparisons: ~(i < 4)")

    def _compare(self, op: str, other: Any) -> TracedPred:
        return TracedPred(fold(Compare(op, self.expr, _index(other))))

    def __lt__(self, other: Any) -> TracedPred:
        return self._compare("<", other)

    def __le__(self, other: Any) -> TracedPred:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> TracedPred:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> TracedPred:
        return self._compare(">=", other)

    def __eq__(self, other: Any) -> TracedPred:  # type: ignore[override]
        return self._compare("==", other)

    def __ne__(self, other: Any) -> TracedPred:  # type: ignore[override]
        return self._compare("!=", other)


class TracedPred(Traced):
    """A traced truth value."""

    __slots__ = ("pred",)

    def __init__(self, pred: Pred) -> None:
        object.__setattr__(self, "pred", pred)

    def __repr__(self) -> str:
        return show_pred(self.pred)

    def _other(self, other: Any) -> Pred:
        if isinstance(other, TracedPred) or _plain_bool(other) is not None:
            return as_pred(other)
        self._refuse(f"{self!r} combined with {other!r}", PARENTHESES)

    def __and__(self, other: Any) -> TracedPred:
        return TracedPred(fold(And(self.pred, self._other(other))))

    def __or__(self, other: Any) -> TracedPred:
        return TracedPred(fold(Or(self.pred, self._other(other))))

    def __xor__(self, other: Any) -> TracedPred:
        right = TracedPred(self._other(other))
        return (self & ~right) | (~self & right)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self) -> TracedPred:
        return TracedPred(fold(Not(self.pred)))

    def _arithmetic(self, other: Any) -> NoReturn:
        self._refuse(f"arithmetic on the truth value {self!r}", "combine truth values with & | ~")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _arithmetic
    __lt__ = __le__ = __gt__ = __ge__ = _arithmetic

    def __eq__(self, other: Any) -> TracedPred:  # type: ignore[override]
        return ~(self ^ other)

    def __ne__(self, other: Any) -> TracedPred:  # type: ignore[override]
        return self ^ other
