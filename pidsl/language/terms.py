"""The terms of the language, all on one page.

    Term ::= Full | Empty | Causal | Window(left, right) | Stride(period, phase) | Lags(values) | Ring(radius)
           | Keys(start, stop, step) | Queries(start, stop, step) | Blocks(size) | Where(pred, arity) | Pairs(values)
           | Neighborhood(shape, window, stride, dilation, causal, border) | Halo(shape, block, halo) | Documents
           | Chosen(block, budget, queries, Term)
           | Union(Term, Term) | Intersection(Term, Term) | Difference(Term, Term) | SymmetricDifference(Term, Term)
           | Complement(Term) | Transpose(Term) | Compose(Term, Term) | Power(Term, Index)
           | Shift(Term, Index) | Blocked(Term, Index) | Dilated(Term, Index)

A term is a relation between query positions i and key positions j, for every number of queries n and of keys m at
once. It is a plain value: immutable, hashable, compared by structure. Sizes are integers, or symbols until `bind`.
The operators `|`, `&` and `^` keep terms of many parts shallow (`pidsl.language.trees.shallow`).
`Documents` confines a whole pattern: it stands in `T & documents` only, as a part of the outermost intersection.
`Chosen` stands for all pairs that a call may choose; what they are in one call is said there (`pidsl.language.chosen`).
What a term means is defined by `pidsl.relation.oracle`. Each kind says which sizes it takes and how it is written; the
words are here, what combines them is in `pidsl.language.operators`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, cast

from pidsl.errors import TermError
from pidsl.language.expr import Index, Pred, Truth, show, show_pred, vars_in, whole
from pidsl.language.operators import (
    Blocked,
    Complement,
    Compose,
    Difference,
    Dilated,
    Intersection,
    Power,
    Shift,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    is_chosen,
    is_confined,
    require_concrete,
    walk,
)  # fmt: skip
from pidsl.language.printing import ATOM, Inside, Shown, axes, call
from pidsl.language.sizes import LIMIT, check_predicate, size
from pidsl.language.trees import parts_of

__all__ = [
    "Blocked", "Blocks", "Causal", "Chosen", "Complement", "Compose", "Difference", "Dilated", "Documents",
    "Empty", "Full", "Halo", "Intersection", "Keys", "Lags", "Leaf", "Neighborhood", "Node", "Pairs", "Power",
    "Queries", "Ring", "Shift", "Stride", "SymmetricDifference", "Term", "Transpose", "Union", "Where", "Window",
    "is_chosen", "is_confined", "misplaced", "of_lags_alone", "require_concrete", "require_free", "walk", "within",
]  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Full(Term):
    pass


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Empty(Term):
    pass


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Causal(Term):
    pass


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Window(Term):
    left: Index
    right: Index
    LEAST, USUAL = (0, 0), (0,)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Stride(Term):
    period: Index
    phase: Index
    LEAST, USUAL = (1, 0), (0,)

    @classmethod
    def made(cls, *values: Any) -> Term:
        period, phase = whole(values[0]), whole(values[1])
        if period is not None and phase is not None and period >= 1 and abs(phase) < LIMIT and not 0 <= phase < period:
            hint = f"phase={phase % period}, the same lags"
            raise TermError(f"phase = {phase}", f"0 <= phase < period = {period}", cls.written(values), hint)
        return cast(Term, cls.sized(values))


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Lags(Term):
    values: tuple[Index, ...]

    @classmethod
    def made(cls, *values: Any) -> Term:
        (lags,) = values
        where = call("lags", *lags)
        for x in lags:
            if isinstance(x, Iterable) and not isinstance(x, str) and whole(x) is None:
                hint = "lags(*values), every lag an argument of its own"
                raise TermError(f"lag = {x!r} ({type(x).__name__})", "integers or symbols", where, hint)
        return cls(tuple(size(x, "lag", where, least=None) for x in lags))

    def source(self, inside: Inside) -> Shown:
        return ATOM, call("lags", *self.values)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Ring(Term):
    radius: Index
    LEAST = (0,)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Keys(Term):
    start: Index
    stop: Index | None
    step: Index
    LEAST, USUAL = (None, None, 1), (1,)
    OPEN = ("stop",)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Queries(Term):
    start: Index
    stop: Index | None
    step: Index
    LEAST, USUAL = (None, None, 1), (1,)
    OPEN = ("stop",)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Blocks(Term):
    size: Index
    LEAST = (1,)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Where(Term):
    """A traced predicate over Var i, j and, with arity 4, n, m."""

    pred: Pred
    arity: int

    @classmethod
    def made(cls, *values: Any) -> Term:
        """A predicate as a term; a constant one is `full` or `empty`."""
        pred = values[0]
        check_predicate(pred)
        if isinstance(pred, Truth):
            return Full() if pred.value else Empty()
        return cls(pred, 4 if vars_in(pred) & {"n", "m"} else 2)

    def source(self, inside: Inside) -> Shown:
        return ATOM, f"where(lambda {', '.join('ijnm'[: self.arity])}: {show_pred(self.pred)})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Pairs(Term):
    values: tuple[tuple[int, int], ...]

    def source(self, inside: Inside) -> Shown:
        return ATOM, f"pairs([{', '.join(map(str, self.values))}])"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Neighborhood(Term):
    """A window around every token of a row-major grid; one entry per axis in each tuple."""

    shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    causal: tuple[bool, ...]
    border: Literal["clamp", "cut"]

    def source(self, inside: Inside) -> Shown:
        given = [("stride", self.stride, 1), ("dilation", self.dilation, 1), ("causal", self.causal, False)]
        options = [f"{name}={axes(values)!r}" for name, values, usual in given if axes(values) != usual]
        options += [f"border={self.border!r}"] * (self.border != "clamp")
        return ATOM, f"neighborhood({', '.join([_shape(self.shape), repr(axes(self.window)), *options])})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Halo(Term):
    """The block of every token of a row-major grid, grown by `halo`; one entry per axis in each tuple."""

    shape: tuple[int, ...]
    block: tuple[int, ...]
    halo: tuple[int, ...]

    def source(self, inside: Inside) -> Shown:
        return ATOM, f"halo({_shape(self.shape)}, {axes(self.block)!r}, {axes(self.halo)!r})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Chosen(Term):
    """Of the pairs of `within`, those whose key lies in a block that the call lists for the query's block."""

    block: Index
    budget: Index
    queries: Index
    within: Term
    chooses = True
    LEAST = (1, 1, 1, None)

    @classmethod
    def made(cls, *values: Any) -> Term:
        *sizes, within = values
        names = ("block", "budget", "queries")

        def where() -> str:
            return call("chosen", *sizes)

        if is_chosen(within) or is_confined(within):
            what, hint = "`chosen`", "a & chosen(block, budget)"
            if is_confined(within):
                what, hint = "`documents`", "chosen(block, budget) & documents"
            raise TermError(f"within = {within!r}", f"a pattern without {what}", where(), hint)
        block, budget, queries = (size(x, name, where, least=1) for x, name in zip(sizes, names, strict=True))
        return cls(block, budget, queries, within)

    def source(self, inside: Inside) -> Shown:
        options = [f"queries={show(self.queries)}"] * (self.queries != 64)
        options += [f"within={inside(self.within, 0)}"] * (not isinstance(self.within, Causal))
        return ATOM, f"chosen({', '.join([show(self.block), show(self.budget), *options])})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Documents(Term):
    """Query and key in one document, and the rest of the pattern on the positions within it."""

    confines = True


def _shape(lengths: tuple[int, ...]) -> str:
    return repr(lengths if len(lengths) > 1 else lengths[0])


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
    | Chosen
    | Documents
)
Node = (
    Leaf | Union | Intersection | Difference | SymmetricDifference | Compose
    | Complement | Transpose | Power | Shift | Blocked | Dilated
)  # fmt: skip


def within(term: Term) -> tuple[Term, bool]:
    """The pattern without `documents`, which holds within a document; and whether it is confined at all.

    >>> import pidsl
    >>> within(pidsl.window(3) & pidsl.documents), within(pidsl.documents), within(pidsl.causal)
    ((window(3), True), (full, True), (causal, False))
    """
    if not is_confined(term):
        return term, False
    parts = [part for part in parts_of(Intersection, term) if not part.confines]
    return (reduce(lambda a, b: a & b, parts) if parts else Full()), True


def misplaced(term: Term) -> TermError:
    """An error: `documents` inside of a pattern, where no operator puts it."""
    return TermError(
        f"{term!r} inside of a pattern", "`documents` beside the whole pattern", hint="(a | b) & documents"
    )


def require_free(term: Term, question: str) -> None:
    """Raise for a question that has an answer only where documents and choices are known.

    Raises:
        TermError: the pattern is confined to documents, or calls choose pairs of it.
    """
    if is_chosen(term):
        expected = f"a pattern without `chosen`: {question} depends on what a call lists"
        raise TermError(f"{term!r}", expected, hint="term.forced, attended in every call; term.possible, the most")
    if is_confined(term):
        expected = f"a pattern without `documents`: {question} depends on where they start"
        raise TermError(f"{term!r}", expected, hint="term.mask(n, documents=ids), which knows them")


def of_lags_alone(term: Term) -> bool:
    """Whether the words of a term say that it depends on the lag alone, wherever a sequence starts and ends.

    >>> import pidsl
    >>> of_lags_alone(pidsl.window(3) | pidsl.stride(8) & pidsl.causal), of_lags_alone(pidsl.blocks(8))
    (True, False)
    """
    return all(isinstance(part, _OF_LAGS) for part in walk(term))


_OF_LAGS = (
    Full, Empty, Causal, Window, Stride, Lags, Union, Intersection, Difference, SymmetricDifference, Complement,
    Transpose, Shift, Dilated,
)  # fmt: skip
