"""The terms of the language, all on one page.

    Term ::= Full | Empty | Causal | Window(left, right) | Stride(period, phase) | Lags(values) | Ring(radius)
           | Keys(start, stop, step) | Queries(start, stop, step) | Blocks(size) | Where(pred, arity) | Pairs(values)
           | Neighborhood(shape, window, stride, dilation, causal, border) | Halo(shape, block, halo)
           | Union(Term, Term) | Intersection(Term, Term) | Difference(Term, Term) | SymmetricDifference(Term, Term)
           | Complement(Term) | Transpose(Term) | Compose(Term, Term) | Power(Term, Index)
           | Shift(Term, Index) | Blocked(Term, Index) | Dilated(Term, Index)

A term is a relation between query positions i and key positions j, for every number of queries n and of keys m at
once. It is a plain value: immutable, hashable, compared by structure. Sizes are integers, or symbols until `bind`.
The operators `|`, `&` and `^` keep terms of many parts shallow (`pidsl.language.trees.shallow`).
What a term means is defined by `pidsl.relation.oracle`; how it is built and checked, by `pidsl.language.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, assert_never, cast

from pidsl.errors import SymbolError, TermError
from pidsl.language.expr import DEEPEST, Expr, Index, Pred, substitute, substitute_pred, symbols_in, whole
from pidsl.language.questions import Questions
from pidsl.language.refused import Refused
from pidsl.language.trees import Steps, Tree, extent, own_values, run, shallow, walk_tree


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
        return Power(_self(self), size(layers, "layers", lambda: f"{self!r} ** {layers!r}", least=0))

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
        return Shift(_self(self), size(by, "by", lambda: f"{self!r}.shift({by!r})", least=None))

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
        where = lambda: f"{self!r}.blocked({size!r})"  # noqa: E731
        return Blocked(_self(self), checked_size(size, "size", where, least=1))

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
        return Dilated(_self(self), size(step, "step", lambda: f"{self!r}.dilated({step!r})", least=1))

    def __repr__(self) -> str:
        from pidsl.language.printing import show_term

        return show_term(_self(self))

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


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Full(Algebra):
    pass


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Empty(Algebra):
    pass


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Causal(Algebra):
    pass


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Window(Algebra):
    left: Index
    right: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Stride(Algebra):
    period: Index
    phase: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Lags(Algebra):
    values: tuple[Index, ...]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Ring(Algebra):
    radius: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Keys(Algebra):
    start: Index
    stop: Index | None
    step: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Queries(Algebra):
    start: Index
    stop: Index | None
    step: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Blocks(Algebra):
    size: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Where(Algebra):
    """A traced predicate over Var i, j and, with arity 4, n, m."""

    pred: Pred
    arity: int


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Pairs(Algebra):
    values: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Neighborhood(Algebra):
    """A window around every token of a row-major grid; one entry per axis in each tuple."""

    shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    causal: tuple[bool, ...]
    border: Literal["clamp", "cut"]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Halo(Algebra):
    """The block of every token of a row-major grid, grown by `halo`; one entry per axis in each tuple."""

    shape: tuple[int, ...]
    block: tuple[int, ...]
    halo: tuple[int, ...]


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Union(Algebra):
    left: Term
    right: Term


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Intersection(Algebra):
    left: Term
    right: Term


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Difference(Algebra):
    left: Term
    right: Term


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SymmetricDifference(Algebra):
    left: Term
    right: Term


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Complement(Algebra):
    of: Term


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Transpose(Algebra):
    of: Term


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Compose(Algebra):
    """`left` after `right`: the last layer is `left`."""

    left: Term
    right: Term


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Power(Algebra):
    of: Term
    layers: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Shift(Algebra):
    of: Term
    by: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Blocked(Algebra):
    of: Term
    size: Index


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Dilated(Algebra):
    of: Term
    step: Index


Leaf = (
    Full
    | Empty
    | Causal
    | Window
    | Stride
    | Lags
    | Ring
    | Keys
    | Queries
    | Blocks
    | Where
    | Pairs
    | Neighborhood
    | Halo
)
Binary = Union | Intersection | Difference | SymmetricDifference | Compose
Term = Leaf | Binary | Complement | Transpose | Power | Shift | Blocked | Dilated


LIMIT = 1 << 31  # sizes stay below it, so that NumPy, isl and the kernels agree on every sum and product


def size(value: object, name: str, where: str | Callable[[], str], *, least: int | None) -> Index:
    """`value` as a size: an integer >= `least` (None: any integer), or a symbolic expression.

    Raises:
        TermError: anything else, a bool or float included; `where` says where, as text or as a function of nothing.
    """
    if isinstance(value, Expr) and extent(value)[0] <= DEEPEST:
        return value
    want = "an integer" if least is None else f"an integer >= {least}"
    number = whole(value)
    if number is not None and (least is None or number >= least) and abs(number) < LIMIT:
        return number
    at = where if isinstance(where, str) else where()
    if isinstance(value, Expr):
        raise TermError(
            f"{name} with operations nested {extent(value)[0]} deep", f"at most {DEEPEST}", name, "add in pairs"
        )
    if number is None:
        given = f"{name} = {value!r} ({type(value).__name__})"
        raise TermError(given, f"{want}, or a symbol", at, _meant(value, name))
    if least is not None and number < least:
        hint = "periods, steps and block sizes count from 1" if least == 1 else ""
        raise TermError(f"{name} = {number}", want, at, hint)
    raise TermError(f"{name} = {number}", f"{want}, of magnitude below 2**31", at, "full or causal for no bound")


def _meant(value: object, name: str) -> str:
    """What to write instead of something that is no size, where one can tell."""
    if (isinstance(value, str) and value.isidentifier()) or type(value).__module__.startswith("sympy"):
        from pidsl.language.vocabulary import is_symbol_name

        known = str(value) if is_symbol_name(str(value)) else "size"
        return f'{name}=pidsl.symbols("{known}"), an open size of pidsl'
    if "bool" in str(getattr(value, "dtype", "bool" if isinstance(value, bool) else "")):
        return ""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return ""
    return f"{name}={int(number)}" if number.is_integer() else ""


checked_size = size  # for functions whose own argument is called `size`


def walk(term: Term) -> Iterator[Term]:
    """`term` and every term inside it, each object once."""
    return walk_tree(term, Algebra)


def _own_symbols(term: Term) -> Iterator[str]:
    if isinstance(term, Pairs):  # many numbers
        return
    for value in own_values(term):
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Expr | Pred):
                yield from symbols_in(item)


def substitute_term(term: Term, values: Mapping[str, Index]) -> Term:
    """`term` with symbols replaced, each node checked again by its own constructor."""
    return run(_substituted(term, values))


def _substituted(term: Term, values: Mapping[str, Index]) -> Steps[Term]:
    from pidsl.language import vocabulary as v

    def sub(x: Index) -> Index:
        return substitute(x, values)

    match term:
        case Full() | Empty() | Causal() | Pairs() | Neighborhood() | Halo():
            return term
        case Union(a, b) | Intersection(a, b) | Difference(a, b) | SymmetricDifference(a, b) | Compose(a, b):
            return type(term)((yield _substituted(a, values)), (yield _substituted(b, values)))
        case Complement(a) | Transpose(a):
            return type(term)((yield _substituted(a, values)))
        case Power(a, _) | Shift(a, _) | Blocked(a, _) | Dilated(a, _):
            inner = yield _substituted(a, values)
        case _:
            inner = term
    try:
        match term:
            case Window(left, right):
                return v.window(sub(left), sub(right))
            case Stride(period, phase):
                return v.stride(sub(period), sub(phase))
            case Lags(items):
                return v.lags(*map(sub, items))
            case Ring(radius):
                return v.ring(sub(radius))
            case Keys(start, stop, step):
                return v.keys(sub(start), None if stop is None else sub(stop), sub(step))
            case Queries(start, stop, step):
                return v.queries(sub(start), None if stop is None else sub(stop), sub(step))
            case Blocks(of):
                return v.blocks(sub(of))
            case Where(pred, _):
                return v.where_pred(substitute_pred(pred, values))
            case Power(_, layers):
                return inner ** sub(layers)
            case Shift(_, by):
                return inner.shift(sub(by))
            case Blocked(_, by):
                return inner.blocked(sub(by))
            case Dilated(_, step):
                return inner.dilated(sub(step))
            case _:
                assert_never(term)
    except TermError as e:
        own = sorted(set(_own_symbols(term)) & set(values))
        bound = ", ".join(f"{name} = {values[name]!r}" for name in own)
        raise TermError(e.given, e.expected, f"{term!r} with {bound}", e.hint) from None


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
    return cast(Term, term)


def require_term(value: object, operator: str) -> Term:
    """`value` if it is a term.

    Raises:
        TermError: anything else, with what to write instead.
    """
    if isinstance(value, Algebra):
        return cast(Term, value)
    shown, kind = repr(value), type(value).__name__
    if isinstance(value, bool):
        hint = f"{'full' if value else 'empty'} for {'all' if value else 'no'} pairs"
    elif isinstance(value, int | Expr):
        hint = f"lags({shown}) for one lag, window({shown}) for the last {shown} and the token itself"
    else:
        hint = "pidsl.pairs for given pairs, pidsl.where for a predicate, pidsl.parse for source"
    raise TermError(f"{shown} ({kind}) beside `{operator}`", "a pidsl term on both sides", hint=hint)
