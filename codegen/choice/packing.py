"""Many bounded parts, such as the documents of a packing, as few pieces: what differs from part to part is a staircase.

    queries(0, 90) & keys(0, 90) | queries(90, 340) & keys(90, 340) | ...  & causal

    start(i) = 0 + 90 * (i >= 90) + 250 * (i >= 340) + ...      start(i) <= j <= i

Parts that share no row stand one after the other; the constants of a part are then functions of the row alone, sums of
steps, and so are the bounds of its keys. Such a piece has one mask and one loop (see `envelope`), however many parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pidsl.codegen.choice.cost import Backend, shape
from pidsl.codegen.choice.envelope import Envelope, I, J, envelope_piece
from pidsl.codegen.choice.grid_axes import Ends
from pidsl.codegen.choice.parts import Part, occurring, union_of
from pidsl.codegen.choice.pieces import tile_piece
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Layout
from pidsl.codegen.tiling.bands import Placed, place
from pidsl.codegen.tiling.coordinates import coordinates
from pidsl.language.algebra import greatest, plus, smallest, times, total
from pidsl.language.expr import And, Compare, Index, Max, Min, Pred, fold, simplify
from pidsl.relation.forms import constraints
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
        least = (min(x * end for end in ends) for x, ends in zip(slope, (self.rows, self.keys), strict=True))
        return self.slopes[slope] if slope in self.slopes else -sum(least)


def packings(found: Sequence[Part], square: bool) -> tuple[list[list[Bounded]], list[Part]]:
    """The bounded parts in rows of such that share no position of a query, and all other parts."""
    rows: list[list[Bounded]] = []
    known = [(x, bounded(x, square)) for x in found]
    others = [x for x, here in known if here is None]
    for here in sorted((here for _, here in known if here is not None), key=lambda x: x.rows):
        fitting = (row for row in rows if row[-1].rows[1] < here.rows[0] and _slopes([*row, here]) <= SLOPES)
        if (row := next(fitting, None)) is None:
            rows.append(row := [])
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
    frame = frame_of(part.relation)
    (first, last), (low, high) = (interval_of(occurring(part.relation, x)) for x in (frame.query, frame.key))
    if first is None or last is None or low is None or high is None:
        return None
    placed = place(part.relation, coordinates(Layout(frame=frame), square))
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


def packed_pieces(row: Sequence[Bounded], backend: Backend, length: int) -> Iterator[Piece]:
    """Parts that share no row: one by one, where each is a few large calls, else as one piece."""
    if backend.calls and len(row) <= backend.calls.parts:
        for x in row:
            yield tile_piece(x.placed, shape(x.placed, length), backend, length)
        return
    relation = union_of([x.part for x in row])
    yield envelope_piece(packed(row), relation, row[0].placed.at, backend)


def packed(row: Sequence[Bounded]) -> Envelope:
    """The envelope of parts that share no row, and their mask."""
    starts, ends = [x.rows[0] for x in row], [x.rows[1] for x in row]
    lows, highs = [x.keys[0] for x in row], [x.keys[1] for x in row]
    keep: Pred = And(Compare(">=", I, starts[0]), Compare("<=", I, _steps(I, starts, ends)))
    keep = And(keep, Compare(">=", J, _steps(I, starts, lows)))
    keep = And(keep, Compare("<=", J, _steps(I, starts, highs)))
    first = [-x for x in accumulate((-x for x in reversed(lows)), max)][
        ::-1
    ]  # bounds that never fall from one part to the next
    last = list(accumulate(highs, max))
    most: dict[Slope, int] = {}  # i - j + most >= 0 for all parts, or j - i + most >= 0
    for slope in dict.fromkeys(slope for x in row for slope in x.slopes):
        constants = [x.constant(slope) for x in row]
        line = total([times(I, slope[0]), times(J, slope[1]), _steps(I, starts, constants)])
        keep = And(keep, Compare(">=", line, 0))
        most[slope] = max(constants)
    ahead, behind = ([most[x]] if x in most else [] for x in ((1, -1), (-1, 1)))

    def attends(near: Index, far: Index) -> Ends:
        low = greatest([_steps(near, starts, first), *(plus(near, -x) for x in behind)])
        return low, smallest([_steps(far, starts, last), *(plus(far, x) for x in ahead)])

    def attended_by(near: Index, far: Index) -> Ends:
        after = [0, *(x + 1 for x in last[:-1])]
        low = greatest([_steps(near, after, starts), *(plus(near, -x) for x in ahead)])
        return low, smallest([_steps(far, first, ends), *(plus(far, x) for x in behind)])

    return Envelope(fold(keep), attends, attended_by, max(ends) + 1, max(highs) + 1, dense=True)


def _steps(x: Index, starts: Sequence[int], values: Sequence[int]) -> Index:
    """The value of the last start at or before x, the first one before all of them."""
    steps = [
        times(simplify(Min(simplify(Max(plus(x, 1 - start), 0)), 1)), after - before)
        for start, (before, after) in zip(starts[1:], pairwise(values), strict=True)
        if after != before
    ]
    return total([values[0], *steps])
