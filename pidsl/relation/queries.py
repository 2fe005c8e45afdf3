"""Questions about terms that isl decides for every n and m at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import islpy as isl

from pidsl.errors import TermError
from pidsl.language.chosen import forced, possible, selection
from pidsl.language.terms import Term, is_chosen, is_confined, require_free, within
from pidsl.relation.build import needs_square, relation
from pidsl.relation.isl import limited, read_set
from pidsl.relation.oracle import check_lengths


def equals(a: Term, b: Term) -> bool:
    """Same pairs for all n, m (for all n = m when either holds a ring)."""
    if is_confined(a) and is_confined(b):  # what holds within one document holds within each
        return equals(within(a)[0], within(b)[0])
    if is_confined(a) or is_confined(b):
        raise _apart(a, b, "equals")
    if is_chosen(a) or is_chosen(b):
        return _equal_choices(a, b)
    return _decide(a, b, "equals", isl.Map.is_equal)


def contained(a: Term, b: Term) -> bool:
    """Every pair of `a` is a pair of `b`, for all n, m (for all n = m when either holds a ring)."""
    if is_confined(b):
        if not is_confined(a):
            raise _apart(a, b, "<=")
        return contained(within(a)[0], within(b)[0])
    if is_chosen(a) and a == b:
        return True
    return _decide(possible(a), forced(b), "<=", isl.Map.is_subset)


def _equal_choices(a: Term, b: Term) -> bool:
    """The same pairs in every call: the same attended anyway, and the same chosen by the same lists, if any are."""
    least, most = forced(a), possible(a)
    if not (equals(least, forced(b)) and equals(most, possible(b))):
        return False
    return equals(least, most) or selection(a) == selection(b)


@dataclass(frozen=True, slots=True)
class Difference:
    """A pair that one of two patterns attends, and the other does not.

    Args:
        i, j: positions of the query and the key.
        n, m: over how many queries and keys; of patterns confined to documents, within a document of these lengths.
        only_in: which of them has the pair: "self", or "other".
    """

    i: int
    j: int
    n: int
    m: int
    only_in: Literal["self", "other"]

    def __str__(self) -> str:
        lengths = f"n = {self.n}" if self.n == self.m else f"n = {self.n}, m = {self.m}"
        return f"with {lengths}, query {self.i} attends key {self.j} in {self.only_in} only"


def difference_at(a: Term, b: Term, n: int | None = None) -> Difference | None:
    """The first pair, by query and key, at the least n in which they differ; None: they are equal for all n and m.

    Lengths n = m come first; where these do not tell them apart, the least n, and the least m with it.
    """
    if is_confined(a) and is_confined(b):
        return difference_at(within(a)[0], within(b)[0], n)
    if is_confined(a) or is_confined(b):
        raise _apart(a, b, "difference_at")
    for term in (a, b):
        require_free(term, "a pair that only one of two patterns attends")
    x, y = relation(a), relation(b)
    square = read_set("[n, m] -> { : n = m }")
    lengths = [square] if needs_square(a) or needs_square(b) else [square, read_set("[n, m] -> { : }")]
    if n is not None:
        n = max(check_lengths(t, n, None, 0)[0] for t in (a, b))
        lengths = [read_set(f"[n, m] -> {{ : n = {n} and m = {n} }}")]
    with limited(f"where {a!r} and {b!r} differ"):
        for allowed in lengths:
            apart = [side.intersect_params(allowed).wrap().flatten() for side in (x - y, y - x)]
            points = [side.move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 2) for side in apart]
            first = points[0].union(points[1]).lexmin()
            if not first.is_empty():
                at = first.sample_point()
                n, m, i, j = (int(at.get_coordinate_val(isl.dim_type.set, k).to_python()) for k in range(4))
                return Difference(i, j, n, m, "self" if first.is_subset(points[0]) else "other")
    return None


def is_empty(term: Term) -> bool:
    """No pair for any n, m."""
    x = relation(term)
    with limited(f"whether {term!r} is empty"):
        return x.is_empty()


def _apart(a: Term, b: Term, question: str) -> TermError:
    expected = "both confined to documents, or neither: which pairs cross a document depends on where they start"
    return TermError(f"{a!r} {question} {b!r}", expected, hint="a & documents for the one that is not confined")


def _decide(a: Term, b: Term, question: str, ask: Callable[[isl.Map, isl.Map], bool]) -> bool:
    x, y = relation(a), relation(b)
    with limited(f"whether {a!r} {question} {b!r}"):
        if needs_square(a) or needs_square(b):
            square = read_set("[n, m] -> { : n = m }")
            x, y = x.intersect_params(square), y.intersect_params(square)
        return ask(x, y)
