"""What Python lets one write with a pattern, and which means nothing here: each raises, and says what to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

from pidsl.errors import TermError, TruthError
from pidsl.language.expr import Expr

if TYPE_CHECKING:
    from pidsl.language.terms import Term

OPERATORS = "a | b, a & b, a - b, a ^ b, ~a, a @ b, a ** layers"


class Refused:
    """The operators that a pattern has not."""

    __slots__ = ()

    def __bool__(self) -> NoReturn:
        raise TruthError(
            f"the truth value of a pattern: {self!r}",
            "a pattern is a set of pairs, neither true nor false",
            where="`and`, `or`, `not`, `if`, or a chained comparison",
            hint="a & b, a | b, ~a to combine; a.equals(b), a <= b, a.is_empty() to ask",
        )

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        if not getattr(self, "__match_args__", ()):  # a word without sizes
            raise TermError(f"{self!r}(...)", f"`{self!r}` without parentheses: it is a constant", hint=repr(self))
        hint = f"pidsl.compile({self!r}) is the kernel to call"
        raise TermError(f"{self!r} called as a function", "a pattern is a value, no function", hint=hint)

    def __add__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} + {other!r}", "pairs of either are a | b" if _is_term(other) else "")

    def __radd__(self, other: Any) -> NoReturn:
        total = "functools.reduce(operator.or_, patterns) for many" if isinstance(other, int) and other == 0 else ""
        self._refuse(f"{other!r} + {self!r}", total)

    def __mul__(self, other: Any) -> NoReturn:
        hint = "pairs of both are a & b" if _is_term(other) else "a ** layers for layers one after another"
        self._refuse(f"{self!r} * {other!r}", hint)

    def __rmul__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} * {self!r}", "a ** layers for layers one after another")

    def __truediv__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} / {other!r}", "a - b for the pairs of a that b has not")

    def __floordiv__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} // {other!r}", "a.blocked(size) for a pattern of blocks")

    def __mod__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} % {other!r}", "a.dilated(step) for a pattern within residue classes")

    def __divmod__(self, other: Any) -> NoReturn:
        self._refuse(f"divmod({self!r}, {other!r})")

    def __rshift__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} >> {other!r}", "a.shift(by) moves a pattern into the past")

    def __lshift__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} << {other!r}", "a.shift(-by) moves a pattern into the future")

    def __rtruediv__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} / {self!r}")

    def __rfloordiv__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} // {self!r}")

    def __rmod__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} % {self!r}")

    def __rpow__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} ** {self!r}")

    def __rrshift__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} >> {self!r}")

    def __rlshift__(self, other: Any) -> NoReturn:
        self._refuse(f"{other!r} << {self!r}")

    def __neg__(self) -> NoReturn:
        self._refuse(f"-({self!r})", "~a for the pairs that a has not")

    def __pos__(self) -> NoReturn:
        self._refuse(f"+({self!r})")

    def __abs__(self) -> NoReturn:
        self._refuse(f"abs({self!r})", "a.pairs(n) for the number of pairs")

    def __lt__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} < {other!r}", "a <= b and not a.equals(b)")

    def __gt__(self, other: Any) -> NoReturn:
        self._refuse(f"{self!r} > {other!r}", "b <= a and not a.equals(b)")

    def __len__(self) -> int:
        self._refuse(f"len({self!r})", "a.pairs(n) for the number of pairs")

    def __getitem__(self, key: Any) -> NoReturn:
        self._refuse(f"the elements of {self!r}", "a.mask(n)[i, j] for one pair, a.mask(n) for all as an array")

    def __contains__(self, item: Any) -> bool:
        self._refuse(f"{item!r} in {self!r}", "a.mask(n)[i, j] for one pair, b <= a for all pairs of a pattern")

    def _refuse(self, given: str, hint: str = "") -> NoReturn:
        raise TermError(given, f"a pattern is a set of pairs, for every n and m: {OPERATORS}", hint=hint or "a | b")


def _is_term(value: object) -> bool:
    return isinstance(value, Refused)


def require_term(value: object, operator: str) -> Term:
    """`value` if it is a term.

    Raises:
        TermError: anything else, with what to write instead.
    """
    if _is_term(value):
        return cast("Term", value)
    shown, kind = repr(value), type(value).__name__
    if isinstance(value, bool):
        hint = f"{'full' if value else 'empty'} for {'all' if value else 'no'} pairs"
    elif isinstance(value, int | Expr):
        hint = f"lags({shown}) for one lag, window({shown}) for the last {shown} and the token itself"
    else:
        hint = "pidsl.pairs for given pairs, pidsl.where for a predicate, pidsl.parse for source"
    raise TermError(f"{shown} ({kind}) beside `{operator}`", "a pidsl term on both sides", hint=hint)
