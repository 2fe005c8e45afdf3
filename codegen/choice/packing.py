"""Many bounded parts, such as the documents of a packing, as few pieces: what differs from part to part is a staircase.

    queries(0, 90) & keys(0, 90) | queries(90, 340) & keys(90, 340) | ...  & causal

    start(i) = 0 + 90 * (i >= 90) + 250 * (i >= 340) + ...      start(i) <= j <= i

Parts that share no row stand one after the other; the constants of a part are then functions of the row alone, sums of
steps, and so are the bounds of its keys. Such a piece has one mask and one loop (see `envelope`), however many parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pidsl.codegen.choice.cost import Backend, shape
from pidsl.codegen.choice.envelope import Envelope, I, J, envelope_piece
from pidsl.codegen.choice.parts import Part, keys_of, positions_of
from pidsl.codegen.choice.pieces import tile_piece, union_of
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Layout
from pidsl.codegen.tiling.bands import Placed, place
from pidsl.codegen.tiling.coordinates import coordinates
from pidsl.codegen.tiling.forms import constraints
from pidsl.language.algebra import greatest, plus, smallest, times, total
from pidsl.language.expr import And, Compare, Index, Max, Min, Pred, fold, simplify
from pidsl.relation.frame import frame_of
from pidsl.relation.isl import convex_parts, interval_of

MAX_ROWS = 4  # of parts; more are no packing, and one mask over all of them serves as well
SLOPES = 6  # constraints on row and key together that the parts of a packing have at most

Slope = tuple[int, int]  # the factors of i and j


@dataclass(frozen=True, slots=True)
class Bounded:
    """A part between numbers on both sides, with the constants of its other constraints: `x * i + y * j + c >= 0`."""

    part: Part
    placed: Placed
    rows: tuple[int, int]
    keys: tuple[int, int]
    slopes: dict[Slope, int]

    def constant(self, slope: Slope) -> int:
        """The constant of a constraint; of one it does not have: the least with which it holds for all of it."""
        found = self.slopes.get(slope)
        return -sum(min(x * end for end in ends) for x, ends in zip(slope, (self.rows, self.keys), strict=True)) \
            if found is None else found  # fmt: skip


def packings(found: Sequence[Part], square: bool) -> tuple[list[list[Bounded]], list[Part]]:
    """The bounded parts in rows of such that share no position of a query, and all other parts."""
    rows: list[list[Bounded]] = []
    known = [(x, bounded(x, square)) for x in found]
    others = [x for x, here in known if here is None]
    for here in sorted((here for _, here in known if here is not None), key=lambda x: x.rows):
        fitting = (row for row in rows if row[-1].rows[1] < here.rows[0] and _slopes([*row, here]) <= SLOPES)
        row = next(fitting, None)
        if row is None:
            rows.append([here])
        else:
            row.append(here)
    if len(rows) > MAX_ROWS:
        return [], list(found)
    return [row for row in rows if len(row) > 1], [*others, *(row[0].part for row in rows if len(row) == 1)]


def _slopes(row: Sequence[Bounded]) -> int:
    return len({slope for x in row for slope in x.slopes})


def bounded(part: Part, square: bool) -> Bounded | None:
    """A part as numbers; None where it goes on for ever, depends on lengths or has divisions."""
    if part.lags.step > 1:  # residue classes know better
        return None
    (first, last), (low, high) = (interval_of(x(part.relation)) for x in (positions_of, keys_of))
    if first is None or last is None or low is None or high is None:
        return None
    frame = frame_of(part.relation)
    at = coordinates(Layout(frame=frame), square)
    placed = place(part.relation, at)
    convex = convex_parts(placed.mask)
    if len(convex) != 1:
        return None
    slopes: dict[Slope, int] = {}
    for x in constraints(convex[0], ("a", "b")):
        terms = dict(x.form.terms)
        i, j = terms.pop("a", 0), terms.pop("b", 0)
        if terms.pop("offset", 0) != i or terms.pop("key_offset", 0) != (j if frame.moved else 0) or terms:
            return None
        if i and j:
            slopes[i, j] = min(x.form.constant, slopes.get((i, j), x.form.constant))
    return Bounded(part, placed, (first, last), (low, high), slopes)


def packed_pieces(
    row: Sequence[Bounded], backend: Backend, square: bool, length: int
) -> Iterator[Piece]:  # fmt: skip
    """Parts that share no row: one by one, where each is a few large calls, else as one piece."""
    if backend.calls and len(row) <= backend.calls.parts:
        for x in row:
            yield tile_piece(x.part.relation, x.placed, shape(x.placed, length), backend, length)
        return
    relation = union_of([x.part for x in row])
    yield envelope_piece(
        packed(row), relation, coordinates(Layout(frame=frame_of(relation)), square), backend, dense=True
    )


def packed(row: Sequence[Bounded]) -> Envelope:
    """The envelope of parts that share no row, and their mask."""
    starts, ends = [x.rows[0] for x in row], [x.rows[1] for x in row]
    lows, highs = [x.keys[0] for x in row], [x.keys[1] for x in row]
    keep: Pred = And(Compare(">=", I, starts[0]), Compare("<=", I, _steps(I, starts, ends)))
    keep = And(keep, Compare(">=", J, _steps(I, starts, lows)))
    keep = And(keep, Compare("<=", J, _steps(I, starts, highs)))
    first, last = list(_falling(lows)), list(_rising(highs))  # bounds that never fall from one part to the next
    low: list[Callable[[Index], Index]] = [lambda i: _steps(i, starts, first)]
    high: list[Callable[[Index], Index]] = [lambda i: _steps(i, starts, last)]
    back: list[Callable[[Index], Index]] = [lambda j: _steps(j, [0, *(x + 1 for x in last[:-1])], starts)]
    ahead: list[Callable[[Index], Index]] = [lambda j: _steps(j, first, ends)]
    for slope in dict.fromkeys(slope for x in row for slope in x.slopes):
        constants = [x.constant(slope) for x in row]
        line = total([times(I, slope[0]), times(J, slope[1]), _steps(I, starts, constants)])
        keep = And(keep, Compare(">=", line, 0))
        most = max(constants)  # i - j + most >= 0 for all parts, or j - i + most >= 0
        if slope == (1, -1):
            high.append(lambda i, c=most: plus(i, c))  # type: ignore[misc]
            back.append(lambda j, c=most: plus(j, -c))  # type: ignore[misc]
        elif slope == (-1, 1):
            low.append(lambda i, c=most: plus(i, -c))  # type: ignore[misc]
            ahead.append(lambda j, c=most: plus(j, c))  # type: ignore[misc]
    return Envelope(
        fold(keep),
        lambda i: greatest([x(i) for x in low]), lambda i: smallest([x(i) for x in high]),
        lambda j: greatest([x(j) for x in back]), lambda j: smallest([x(j) for x in ahead]),
        max(ends) + 1, max(highs) + 1,
    )  # fmt: skip


def _falling(values: Sequence[int]) -> Iterator[int]:
    """The least of each value and those behind it."""
    return reversed(list(_rising([-x for x in reversed(values)], -1)))


def _rising(values: Sequence[int], sign: int = 1) -> Iterator[int]:
    """The greatest of each value and those before it, times a sign."""
    most = values[0]
    for x in values:
        most = max(most, x)
        yield sign * most


def _steps(x: Index, starts: Sequence[int], values: Sequence[int]) -> Index:
    """The value of the last start at or before x, the first one before all of them."""
    steps = [
        times(simplify(Min(simplify(Max(plus(x, 1 - start), 0)), 1)), after - before)
        for start, (before, after) in zip(starts[1:], pairwise(values), strict=True)
        if after != before
    ]
    return total([values[0], *steps])
