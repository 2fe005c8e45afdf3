"""What combines terms: the operators, what one can do with any term, and the checked constructors behind both.

Each kind of term says which sizes it takes and how it is written; `made` is its checked constructor, which the words of
`pidsl.language.vocabulary`, the operators and `bind` call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Self

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
from pidsl.language.trees import (
    WIDE,
    Steps,
    Tree,
    bottom_up,
    children,
    own_values,
    parts_of,
    run,
    shallow,
    walk_tree,
    width,
)


class Term(Questions, Refused, Tree):
    """The operators that every term has, and through `Questions` what one can ask of it."""

    __slots__ = ()

    __array_ufunc__ = None  # a NumPy array on the left does not spread the operator over its elements

    def __or__(self, other: Term) -> Term:
        return shallow(Union(*_free("|", self, require_term(other, "|"))))

    def __and__(self, other: Term) -> Term:
        return shallow(Intersection(self, require_term(other, "&")))

    def __sub__(self, other: Term) -> Term:
        return Difference(*_free("-", self, *_settled("-", require_term(other, "-"))))

    def __xor__(self, other: Term) -> Term:
        return shallow(SymmetricDifference(*_settled("^", *_free("^", self, require_term(other, "^")))))

    def __invert__(self) -> Term:
        return Complement(*_settled("~", *_free("~", self)))

    def __matmul__(self, other: Term) -> Term:
        """Two layers: i reaches j when `self` lets i see some token t and `other` lets t see j.

        The tokens between the layers are the m keys of the last one, `self`.
        """
        return Compose(*_free("@", self, require_term(other, "@")))

    def __pow__(self, layers: Index) -> Term:
        """`layers` layers of the same term; `a ** 0` is the diagonal.

        >>> import pidsl
        >>> (pidsl.lags(0, 2) ** 2).mask(5)[4].astype(int)  # lags 0, 2 and 4
        array([1, 0, 1, 0, 1])

        Raises:
            TermError: `layers` is negative or not an integer.
        """
        return Power.made(*_free("**", self), layers)

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
        if not is_confined(self):
            return Transpose(self)
        parts = [part if part.confines else part.T for part in parts_of(Intersection, self)]
        return reduce(lambda a, b: a & b, parts)  # within a document as anywhere else

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
        return Shift.made(*_free("shift", self), by)

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
        return Blocked.made(*_free("blocked", self), size)

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
        return Dilated.made(*_free("dilated", self), step)

    # -- how a kind of term is made and written: a word and its sizes, unless it says otherwise ---------------------

    LEAST: ClassVar[tuple[int | None, ...]] = ()  # what each size is at least, in the order of the fields; None: any
    USUAL: ClassVar[tuple[int, ...]] = ()  # what the last sizes are when they are not written
    OPEN: ClassVar[tuple[str, ...]] = ()  # sizes that may be None
    confines: ClassVar[bool] = False  # whether the word is no pattern itself, but confines one to parts of the tokens
    chooses: ClassVar[bool] = False  # whether a call says which of its pairs are attended

    @classmethod
    def made(cls, *values: Any) -> Term:
        """A term of this kind, made of the values of its fields, which are checked."""
        return cls.sized(values) if cls.LEAST else cls(*values)

    @classmethod
    def sized(cls, values: tuple[Any, ...]) -> Self:
        """A term of this kind, made of terms and sizes."""
        found = []
        for name, least, value in zip(cls.__match_args__, cls.LEAST, values, strict=True):
            free = name == "of" or (value is None and name in cls.OPEN)  # a term is checked where it is combined
            found.append(value if free else size(value, name, lambda: cls.written(values), least=least))
        return cls(*found)

    @classmethod
    def written(cls, values: Iterable[Any]) -> str:
        """The word with these sizes; the last ones are left out where they are the usual ones."""
        shown = list(values)
        for usual in reversed(cls.USUAL):
            if not isinstance(shown[-1], int) or shown[-1] != usual:
                break
            shown.pop()
        return call(cls.__name__.lower(), *shown)

    def source(self, inside: Inside) -> Shown:
        """The precedence of the term's own operator and its source; `inside` has that of the terms in it."""
        sizes = own_values(self)
        return ATOM, self.written(sizes) if sizes else type(self).__name__.lower()

    def __repr__(self) -> str:
        return show_term(self)

    # -- symbols -------------------------------------------------------------------------------------------------

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols that are still open."""
        return frozenset(name for t in walk(self) for name in _own_symbols(t))

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
        return substitute_term(self, checked)


# Kinds of terms share by assignment, with no classes between them and Term: where torch traces an object that it
# holds for a constant, it fails at methods of bases beyond the first.


def _infix(level: int, sign: str) -> Any:
    """How two terms with a sign between them are written."""

    def source(self: Any, inside: Inside) -> Shown:
        parts = [self.left, self.right]
        if isinstance(self, Union | SymmetricDifference | Intersection) and WIDE < width(self) <= PARTS_IN_A_ROW:
            parts = parts_of(type(self), self)
        texts: list[str] = []
        for part in parts:
            texts.append(inside(part, level + bool(texts)))
        return level, f" {sign} ".join(texts)

    return source


def _called(cls: type[Term], values: Iterable[Any]) -> str:
    of, value = values
    return f"{of!r}.{call(cls.__name__.lower(), value)}"


def _method(self: Any, inside: Inside) -> Shown:
    """How a term and a size are written: `of.shift(by)`."""
    of, value = own_values(self)
    return ATOM, f"{inside(of, ATOM)}.{call(type(self).__name__.lower(), value)}"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Union(Term):
    left: Term
    right: Term
    source = _infix(OR, "|")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Intersection(Term):
    left: Term
    right: Term
    source = _infix(AND, "&")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Difference(Term):
    left: Term
    right: Term
    source = _infix(MINUS, "-")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SymmetricDifference(Term):
    left: Term
    right: Term
    source = _infix(XOR, "^")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Complement(Term):
    of: Term

    def source(self, inside: Inside) -> Shown:
        return INVERT, f"~{inside(self.of, INVERT)}"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Transpose(Term):
    of: Term

    def source(self, inside: Inside) -> Shown:
        return ATOM, f"{inside(self.of, ATOM)}.T"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Compose(Term):
    """`left` after `right`: the last layer is `left`."""

    left: Term
    right: Term
    source = _infix(AT, "@")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Power(Term):
    of: Term
    layers: Index
    LEAST = (None, 0)

    @classmethod
    def written(cls, values: Iterable[Any]) -> str:
        of, layers = values
        return f"{of!r} ** {layers!r}"

    def source(self, inside: Inside) -> Shown:
        return POWER, f"{inside(self.of, ATOM)} ** {show(self.layers, 7)}"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Shift(Term):
    of: Term
    by: Index
    LEAST = (None, None)
    source, written = _method, classmethod(_called)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Blocked(Term):
    of: Term
    size: Index
    LEAST = (None, 1)
    source, written = _method, classmethod(_called)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Dilated(Term):
    of: Term
    step: Index
    LEAST = (None, 1)
    source, written = _method, classmethod(_called)


def is_confined(term: Term) -> bool:
    """Whether a pattern holds within each document: `documents` is one of the parts of its intersection.

    >>> import pidsl
    >>> is_confined(pidsl.window(3) & pidsl.documents), is_confined(pidsl.causal)
    (True, False)
    """
    return term.confines or (isinstance(term, Intersection) and any(x.confines for x in parts_of(Intersection, term)))


def _free(operator: str, *terms: Any) -> tuple[Term, ...]:
    """Terms that an operator may combine: `documents` stands beside the whole pattern, and nowhere inside it."""
    for term in terms:
        if is_confined(term):
            spelled = {"~": "~a", "**": "a ** layers"}.get(operator, f"(a {operator} b)")
            spelled = f"a.{operator}(size)" if operator.isalpha() else spelled
            expected = "`documents` beside the whole pattern: it confines all of it, or nothing"
            raise TermError(f"{term!r} inside of `{operator}`", expected, "documents", f"{spelled} & documents")
    return terms


def is_chosen(term: Term) -> bool:
    """Whether calls say which of some pairs are attended: the word `chosen` is somewhere in it.

    >>> import pidsl
    >>> is_chosen(pidsl.window(3) | pidsl.chosen(64, 16)), is_chosen(pidsl.causal)
    (True, False)
    """
    try:
        return term._chooses
    except AttributeError:
        for node in bottom_up(term, lambda x: isinstance(x, Term) and not hasattr(x, "_chooses")):
            inside = any(x._chooses for x in children(node) if isinstance(x, Term))
            object.__setattr__(node, "_chooses", node.chooses or inside)
        return term._chooses


def _settled(operator: str, *terms: Any) -> tuple[Term, ...]:
    """Terms that an operator may take away: with fewer pairs chosen, it would attend more."""
    for term in terms:
        if is_chosen(term):
            spelled = "~a" if operator == "~" else f"a {operator} b"
            expected = "what is attended whatever a call chooses: a choice may add pairs to a pattern, never take them"
            raise TermError(f"{term!r} in `{spelled}`", expected, "chosen", "chosen(block, budget, within=causal - a)")
    return terms


def walk(term: Term) -> Iterator[Term]:
    """`term` and every term inside it, each object once."""
    return walk_tree(term, Term)


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
        parts.append((yield _substituted(part, values)) if isinstance(part, Term) else part)
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
