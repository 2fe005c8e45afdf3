"""A depth schedule: one pattern per layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pidsl.errors import TermError
from pidsl.language.door import behind
from pidsl.language.expr import Index
from pidsl.language.goes_with import check_documents, check_inside
from pidsl.language.heads import Heads
from pidsl.language.shown import Shown
from pidsl.language.terms import Term

if TYPE_CHECKING:
    from pidsl.analysis.bound import Bound


@dataclass(frozen=True, slots=True, repr=False)
class Schedule(Shown):
    """A pattern, or `heads`, per layer, the layer at the input first; see `layers`."""

    part: ClassVar[str] = "layers"
    terms: tuple[Term | Heads, ...]

    def __len__(self) -> int:
        return len(self.terms)

    def __getitem__(self, layer: int) -> Any:  # a term or heads
        return self.terms[layer]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.terms)

    def __repr__(self) -> str:
        return "layers([" + ", ".join(map(repr, self.terms)) + "])"

    @property
    def unions(self) -> tuple[Term, ...]:
        """What each layer attends with any of its heads: over these patterns information flows."""
        return tuple(t.union if isinstance(t, Heads) else t for t in self.terms)

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols that are still open."""
        return frozenset[str]().union(*(t.symbols for t in self.terms))

    def bind(self, /, **values: Index) -> Schedule:
        """The schedule with symbols replaced; each name must be a symbol of some layer."""
        known = self.symbols
        return Schedule(
            tuple(
                t.bind(**{name: v for name, v in values.items() if name in t.symbols or name not in known})
                for t in self.terms
            )
        )

    def farthest(self, layers: int | None = None, *, assume: str | Iterable[str] = ()) -> Bound:
        """The largest lag over which the layers carry information; see `pidsl.analysis.questions.farthest`."""
        return behind("farthest")(self, layers, assume)

    def contiguous(self, layers: int | None = None, *, assume: str | Iterable[str] = ()) -> Bound:
        """How many predecessors every token sees without a gap; see `pidsl.analysis.questions.contiguous`."""
        return behind("contiguous")(self, layers, assume)

    def depth(self, n: int | None = None, of: str | None = None, *, assume: str | Iterable[str] = ()) -> Bound:
        """The fewest layers, repeating the schedule, that connect every pair; see `pidsl.analysis.questions.depth`."""
        return behind("depth")(self, n, of, assume)

    def path(self, i: int, j: int, n: int | None = None) -> list[int] | None:
        """The tokens through which key j reaches query i, one more per layer; see `pidsl.studies.graph.path`."""
        return behind("path")(self.unions, i, j, None, n)


def layers(terms: Iterable[Term | Heads]) -> Schedule:
    """A depth schedule: one pattern per layer, the layer at the input first.

    Args:
        terms: for each layer a pattern, or `heads` with a pattern for each group of query heads.

    Returns:
        A `Schedule`: a sequence of what each layer has. `pidsl.compile` makes a sequence of kernels of it.

    >>> import pidsl
    >>> schedule = layers([pidsl.window(1), pidsl.window(1).dilated(2), pidsl.window(1).dilated(4)])
    >>> schedule[1]
    window(1).dilated(2)
    >>> schedule.contiguous()(n=100)
    7

    Raises:
        TermError: no layers, or one that is no pattern; `documents` in some layers only.
    """
    given = tuple(terms)
    for k, term in enumerate(given):
        if not isinstance(term, Term | Heads):
            given_ = f"layer {k}: {term!r} ({type(term).__name__})"
            check_inside("layers", term, given_, "layers([...])")
            raise TermError(given_, "a pattern, or heads", where="layers([...])")
    if not given:
        raise TermError("no layers", "at least one pattern", where="layers([])")
    made = Schedule(given)
    check_documents(made.unions, repr(made), "layers([...])")
    return made
