"""`where`: run a Python predicate once on traced positions, and keep what it computed as a term.

The function never enters the term: it is called with stand-ins for i and j (and n, m) that record every operation.
What they cannot record faithfully raises, with what to write instead.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pidsl.errors import PredicateError, TermError, TruthError
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
    joint,
    show,
    show_pred,
    simplify,
    vars_in,
    whole,
)
from pidsl.language.refused import Refused
from pidsl.language.terms import Term
from pidsl.language.trees import shallow
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
        predicate: called as `predicate(i, j)`, whatever its two parameters are called, or as `predicate(i, j, n, m)`
            if it has four with just these names; parameters with defaults are left alone. Numbers it closes over may
            be symbols.

    Raises:
        PredicateError: other parameters, as of a FlexAttention mask (b, h, q_idx, kv_idx); something that is not
            affine or modular (`i * j`, `i & 1`, a division, a NumPy call). It names the file and line.
        TruthError: `and`, `or`, `not`, `if`, `min`, `max`, `in` or a chained comparison inside the predicate.
    """
    needed = _parameters(predicate)
    try:
        value = predicate(*(TracedIndex(Var(v)) for v in "ijnm"[: len(needed)]))
        return where_pred(as_pred(value))
    except (TruthError, PredicateError) as e:
        raise type(e)(e.given, e.expected, at_line(e.where, predicate, e), e.hint) from None
    except TermError as e:
        raise PredicateError(e.given, e.expected, at_line(e.where, predicate, e), e.hint) from None
    except (TypeError, IndexError) as e:  # an operation that Python or NumPy did not find on a stand-in
        hint = "(j == 0) | (j == 4) for membership; compute with i and j, tables and functions cannot be traced"
        expected = f"affine and modular arithmetic: {WORDS}"
        raise PredicateError(str(e), expected, at_line("where(...)", predicate, e), hint) from e


def _parameters(predicate: Callable[..., Any]) -> list[str]:
    """The names of the parameters without defaults, when they are what `where` calls."""
    if isinstance(predicate, Refused):
        raise PredicateError(
            f"where({predicate!r})", "a function of (i, j): this is a pattern already", hint=repr(predicate)
        )
    try:
        parameters = inspect.signature(predicate).parameters.values()
    except (TypeError, ValueError):
        given, hint = f"where({predicate!r})", "where(lambda i, j: i - j < 4)"
        raise PredicateError(given, "a function of (i, j) or of (i, j, n, m)", hint=hint) from None
    needed = [p for p in parameters if p.default is p.empty]
    names = [p.name for p in needed]
    plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed)
    name = getattr(predicate, "__name__", "mask_mod")
    if wrong := wrong_parameters(names if plain else ["*"], name if name.isidentifier() else "mask_mod"):
        given = f"a function of ({', '.join(map(str, parameters))})"
        raise PredicateError(given, wrong[0], at_line("where(...)", predicate, None), wrong[1])
    return names


_HEADS = frozenset(["b", "h", "batch", "head", "batch_idx", "head_idx", "bh", "heads", "batches"])
_LENGTHS = frozenset("nm")
_QUERIES = frozenset(["i", "q", "q_idx", "query", "query_idx", "q_index", "qi", "row"])
_KEYS = frozenset(["j", "k", "kv", "k_idx", "kv_idx", "key", "key_idx", "k_index", "kv_index", "ki", "col"])


def wrong_parameters(names: Sequence[str], function: str) -> tuple[str, str] | None:
    """What a predicate's parameters should be, and what to write instead; None where they are right.

    Four are positions and lengths only by their own names: the four of a FlexAttention mask are others. Two are query
    and key, whatever they are called, unless that is the name of something else.
    """
    if "".join(names) == "ijnm":
        return None
    if len(names) == 2:
        expected = "the positions of a query and of a key, in this order"
        if names[0] in _HEADS or {*names} & (_HEADS - {"b"} | _LENGTHS):
            return expected, "where(lambda i, j: i - j < 4), and (i, j, n, m) with lengths"
        if names[0] in _KEYS and names[1] in _QUERIES:
            return expected, f"where(lambda i, j: {function}(j, i))"
        return None
    expected = "(i, j), under any names, or (i, j, n, m), by these names"
    if len(names) > 2 and {*names[:-2]} <= _HEADS:
        zeros = "0, " * (len(names) - 3)
        one = f"where(lambda i, j: {function}(0, {zeros}i, j)), if all heads have one mask"
        each = (
            f"heads([(1, where(lambda i, j, h=h: {function}({zeros}h, i, j))) for h in range(8)]), if each has its own"
        )
        return expected, f"{one}; {each}; sequences of a batch that differ are calls of their own"
    if "score" in names:
        return expected, "pidsl.score(softcap=50.0) and the like change logits; where says which pairs are attended"
    if len(names) == 4 and "*" not in names:
        return expected, f"where(lambda i, j, n, m: {function}(i, j, n, m))"
    return expected, "where(lambda i, j: i - j < 4)"


def at_line(where: str, predicate: Callable[..., Any], e: BaseException | None) -> str:
    """`where` and the line of the user's own code that was at work, or else the one where the predicate begins."""
    found: tuple[str, int] | None = None
    for frame, line in traceback.walk_tb(e.__traceback__ if e else None):
        module = str(frame.f_globals.get("__name__", ""))
        library = module.partition(".")[0] in ("pidsl", "numpy", "torch")
        own = module.startswith(("pidsl.language.", "pidsl.interop."))
        if not own and not (found and library):
            found = (frame.f_code.co_filename, line)
    if found is None:
        function = inspect.unwrap(getattr(predicate, "func", predicate))
        if code := getattr(getattr(function, "__func__", function), "__code__", None):
            found = (code.co_filename, code.co_firstlineno)
    line_of = f"{found[0]}:{found[1]}" if found else ""
    return ", at ".join(x for x in (where or "where(...)", line_of) if x)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two positions or sizes, for use inside `where`.

    >>> where(lambda i, j: j <= minimum(i, 7))
    where(lambda i, j: j <= minimum(i, 7))
    """
    return TracedIndex(_choice(Min, _index(a), _index(b)))


def maximum(a: Any, b: Any) -> Any:
    """The larger of two positions or sizes, for use inside `where`.

    >>> where(lambda i, j: j >= maximum(i - 3, 8))
    where(lambda i, j: j >= maximum(i - 3, 8))
    """
    return TracedIndex(_choice(Max, _index(a), _index(b)))


def _choice(kind: type[Min | Max], a: Index, b: Index) -> Index:
    found = simplify(kind(a, b))
    return shallow(found) if isinstance(found, kind) else found


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
    if (number := whole(value)) is not None:
        return number
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

    def __eq__(self, other: Any) -> Any:  # a TracedPred
        return self._compare("==", other)

    def __ne__(self, other: Any) -> Any:  # a TracedPred
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
        return TracedPred(joint(And, self.pred, self._other(other)))

    def __or__(self, other: Any) -> TracedPred:
        return TracedPred(joint(Or, self.pred, self._other(other)))

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

    def __eq__(self, other: Any) -> Any:  # a TracedPred
        return ~(self ^ other)

    def __ne__(self, other: Any) -> Any:  # a TracedPred
        return self ^ other
