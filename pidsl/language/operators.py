"""What combines terms: the operators, what one can do with any term, and the checked constructors behind both.

Each kind of term says which sizes it takes and how it is written; `made` is its checked constructor, which the words of
`pidsl.language.vocabulary`, the operators and `bind` call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pidsl.errors import SymbolError, TermError
from pidsl.language.expr import Expr, Index, Pred, show, substitute, substitute_pred, symbols_in
from pidsl.language.printing import (
    AND,
    AT,
    ATOM,
    INVERT,
    MINUS,
    OR,
    PARTS_IN_A_ROW,
    POWER,
    XOR,
    Inside,
    Shown,
    call,
    show_term,
)  # fmt: skip
from pidsl.language.questions import Questions
from pidsl.language.refused import Refused, require_term
from pidsl.language.sizes import size
from pidsl.language.trees import WIDE, Steps, Tree, children, own_values, parts_of, run, shallow, walk_tree, width

if TYPE_CHECKING:
    from pidsl.language.terms import Term


class Algebra(Questions, Refused, Tree):
    """The operators that every term has, and through `Questions` what one can ask of it."""

    __slots__ = ()

    __array_ufunc__ = None  # a NumPy array on the left does not spread the operator over its elements

    def __or__(self, other: Term) -> Term:
        return shallow(Union(_self(self), require_term(other, "|")))

    def __and__(self, other: Term) -> Term:
        return shallow(Intersection(_self(self), require_term(other, "&")))

    def __sub__(self, other: Term) -> Term:
        return Difference(_self(self), require_term(other, "-"))

    def __xor__(self, other: Term) -> Term:
        return shallow(SymmetricDifference(_self(self), require_term(other, "^")))

    def __invert__(self) -> Term:
        return Complement(_self(self))

    def __matmul__(self, other: Term) -> Term:
        """Two layers: i reaches j when `self` lets i see some token t and `other` lets t see j.

        The tokens between the layers are the m keys of the last one, `self`.
        """
        return Compose(_self(self), require_term(other, "@"))

    def __pow__(self, layers: Index) -> Term:
        """`layers` layers of the same term; `a ** 0` is the diagonal.

        >>> import pidsl
        >>> (pidsl.lags(0, 2) ** 2).mask(5)[4].astype(int)  # lags 0, 2 and 4
        array([1, 0, 1, 0, 1])

        Raises:
            TermError: `layers` is negative or not an integer.
        """
        return Power.made(_self(self), layers)

    # Only reached when the left operand is no term; `_term` says so.
    def __ror__(self, other: object) -> Term:
        return require_term(other, "|")

    def __rand__(self, other: object) -> Term:
        return require_term(other, "&")

    def __rsub__(self, other: object) -> Term:
        return require_term(other, "-")

    def __rxor__(self, other: object) -> Term:
        return require_term(other, "^")

    def __rmatmul__(self, other: object) -> Term:
        return require_term(other, "@")

    @property
    def T(self) -> Term:
        """The term with queries and keys swapped.

        >>> import pidsl
        >>> pidsl.window(2).T.equals(pidsl.window(0, 2))
        True
        """
        return Transpose(_self(self))

    def shift(self, by: Index) -> Term:
        """The term moved `by` tokens into the past: every lag grows by `by` (negative: into the future).

        `(i, j)` is in `a.shift(by)` when `(i, j + by)` is in `a`.

        >>> import pidsl
        >>> pidsl.window(0).shift(1).mask(3).astype(int)
        array([[0, 0, 0],
               [1, 0, 0],
               [0, 1, 0]])

        Raises:
            TermError: `by` is not an integer.
        """
        return Shift.made(_self(self), by)

    def blocked(self, size: Index) -> Term:
        """The term read on block indices: i attends j when `i // size` attends `j // size`.

        >>> import pidsl
        >>> pidsl.causal.blocked(2).mask(4).astype(int)
        array([[1, 1, 0, 0],
               [1, 1, 0, 0],
               [1, 1, 1, 1],
               [1, 1, 1, 1]])

        Args:
            size: tokens per block, >= 1; the last block may be shorter.

        Raises:
            TermError: `size` is below 1 or not an integer.
        """
        return Blocked.made(_self(self), size)

    def dilated(self, step: Index) -> Term:
        """The term within each residue class mod `step`: `i mod step == j mod step`, and i // step attends j // step.

        >>> import pidsl
        >>> pidsl.window(1).dilated(3).equals(pidsl.lags(0, 3))
        True

        Args:
            step: number of classes, >= 1.

        Raises:
            TermError: `step` is below 1 or not an integer.
        """
        return Dilated.made(_self(self), step)

    @classmethod
    def made(cls, *values: Any) -> Term:
        """A term of this kind, made of the values of its fields, which are checked."""
        return cast("Term", cls(*values))

    def source(self, inside: Inside) -> Shown:
        """The precedence of the term's own operator and its source; `inside` has that of the terms in it."""
        raise NotImplementedError(type(self))

    def __repr__(self) -> str:
        return show_term(self)

    # -- symbols -------------------------------------------------------------------------------------------------

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols that are still open."""
        return frozenset(name for t in walk(_self(self)) for name in _own_symbols(t))

    def bind(self, /, **values: Index) -> Term:
        """The term with symbols replaced by numbers (or by other symbols).

        >>> import pidsl
        >>> k, period = pidsl.symbols("k period")
        >>> (pidsl.window(k) | pidsl.stride(period)).bind(k=3, period=8)
        window(3) | stride(8)

        Args:
            values: a number for each symbol that is to be replaced; the others stay open.

        Raises:
            SymbolError: a name is not a symbol of the term.
            TermError: a value is not an integer, or makes a size of some sub-term invalid (period=0, ...).
        """
        unknown = sorted(set(values) - self.symbols)
        if unknown:
            known = ", ".join(sorted(self.symbols))
            raise SymbolError(
                f"bind({', '.join(f'{u}=...' for u in unknown)})",
                f"symbols of the term: {known}" if known else "no symbols: the term is concrete already",
                where=repr(self),
            )
        checked = {name: size(v, name, f"bind({name}={v!r})", least=None) for name, v in values.items()}
        return substitute_term(_self(self), checked)


class Operator(Algebra):
    """Two terms with a sign between them."""

    __slots__ = ()
    SIGN: ClassVar[str]
    LEVEL: ClassVar[int]
    left: Term
    right: Term

    def source(self, inside: Inside) -> Shown:
        parts = [self.left, self.right]
        if isinstance(self, Union | SymmetricDifference | Intersection) and WIDE < width(self) <= PARTS_IN_A_ROW:
            parts = parts_of(type(self), self)
        texts: list[str] = []
        for part in parts:
            texts.append(inside(part, self.LEVEL + bool(texts)))
        return self.LEVEL, f" {self.SIGN} ".join(texts)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Union(Operator):
    left: Term
    right: Term
    SIGN, LEVEL = "|", OR


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Intersection(Operator):
    left: Term
    right: Term
    SIGN, LEVEL = "&", AND


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Difference(Operator):
    left: Term
    right: Term
    SIGN, LEVEL = "-", MINUS


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SymmetricDifference(Operator):
    left: Term
    right: Term
    SIGN, LEVEL = "^", XOR


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Complement(Algebra):
    of: Term

    def source(self, inside: Inside) -> Shown:
        return INVERT, f"~{inside(self.of, INVERT)}"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Transpose(Algebra):
    of: Term

    def source(self, inside: Inside) -> Shown:
        return ATOM, f"{inside(self.of, ATOM)}.T"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Compose(Operator):
    """`left` after `right`: the last layer is `left`."""

    left: Term
    right: Term
    SIGN, LEVEL = "@", AT


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Power(Algebra):
    of: Term
    layers: Index

    @classmethod
    def made(cls, *values: Any) -> Term:
        of, layers = values
        return cls(of, size(layers, "layers", lambda: f"{of!r} ** {layers!r}", least=0))

    def source(self, inside: Inside) -> Shown:
        return POWER, f"{inside(self.of, ATOM)} ** {show(self.layers, 6)}"


class Method(Algebra):
    """A term and a size: `of.shift(by)`."""

    __slots__ = ()
    LEAST: ClassVar[int | None] = 1  # what the size is at least; None: any integer

    @classmethod
    def made(cls, *values: Any) -> Term:
        of, value = values
        kind: Any = cls
        (_, name), word = cls.__match_args__, cls.__name__.lower()
        return kind(of, size(value, name, lambda: f"{of!r}.{word}({value!r})", least=cls.LEAST))

    def source(self, inside: Inside) -> Shown:
        of, value = own_values(self)
        return ATOM, f"{inside(of, ATOM)}.{call(type(self).__name__.lower(), value)}"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Shift(Method):
    of: Term
    by: Index
    LEAST = None


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Blocked(Method):
    of: Term
    size: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Dilated(Method):
    of: Term
    step: Index


def walk(term: Term) -> Iterator[Term]:
    """`term` and every term inside it, each object once."""
    return walk_tree(term, Algebra)


def _own_symbols(term: Term) -> Iterator[str]:
    for value in own_values(term):
        if isinstance(value, tuple) and value and isinstance(value[0], tuple):  # pairs: many numbers
            continue
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Expr | Pred):
                yield from symbols_in(item)


def substitute_term(term: Term, values: Mapping[str, Index]) -> Term:
    """`term` with symbols replaced, each node checked again by its own constructor."""
    return run(_substituted(term, values))


def _substituted(term: Term, values: Mapping[str, Index]) -> Steps[Term]:
    names = sorted(set(_own_symbols(term)) & set(values))
    if not names and not children(term):
        return term
    parts = []
    for part in own_values(term):
        parts.append((yield _substituted(_self(part), values)) if isinstance(part, Algebra) else part)
    try:
        return type(term).made(*(_filled(part, values) for part in parts))
    except TermError as e:
        bound = ", ".join(f"{name} = {values[name]!r}" for name in names)
        raise TermError(e.given, e.expected, f"{term!r} with {bound}", e.hint) from None


def _filled(part: Any, values: Mapping[str, Index]) -> Any:
    """A field of a node that holds no term, with symbols replaced."""
    if isinstance(part, tuple):
        return tuple(_filled(x, values) for x in part)
    if isinstance(part, Pred):
        return substitute_pred(part, values)
    return substitute(part, values) if isinstance(part, Expr) else part


def require_concrete(term: Term, purpose: str) -> None:
    """Raise SymbolError when `term` still holds symbols."""
    if names := sorted(term.symbols):
        values = ", ".join(f"{name}=..." for name in names)
        raise SymbolError(
            f"unbound symbol{'s' * (len(names) > 1)} {', '.join(names)}",
            f"numbers, to {purpose}",
            where=repr(term),
            hint=f"term.bind({values})",
        )


def _self(term: Algebra) -> Term:
    return cast("Term", term)
