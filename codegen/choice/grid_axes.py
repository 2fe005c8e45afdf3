"""Words for grids, axis by axis: which keys a query attends on one axis, and between which bounds they lie.

`neighborhood((64, 64), 7)` is two axes of the same kind: query y attends the keys first(y) .. last(y), with

    first(y) = max(min(y - 3, 57), 0)      last(y) = min(max(y + 3, 6), 63)

A pair of the grid is attended when every axis says so. The bounds never fall from one query to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pidsl.language.algebra import div, greatest, mod, plus, smallest, times
from pidsl.language.expr import And, Compare, Index, Not, Or, Pred, Truth
from pidsl.language.terms import Halo, Neighborhood

Ends = tuple[Index | None, Index | None]  # the first and the last; None is no bound
Met = Callable[[Index, Index], Ends]  # what neighbouring tokens meet on the other side, from the first and last of them


@dataclass(frozen=True, slots=True)
class GridAxis:
    """One axis over coordinates, and between which ends lies what neighbouring tokens attend and are attended by.

    `queries` and `keys` are the least and the greatest coordinate that occurs in a pair, where that is not the whole
    axis.
    """

    length: int | None  # None: as far as the sequence goes
    keep: Callable[[Index, Index], Pred]
    attends: Met
    attended_by: Met
    queries: tuple[int, int] | None = None
    keys: tuple[int, int] | None = None
    own: bool = False  # every token attends itself only, as is known of words


def axes_of(term: Neighborhood | Halo, *, split: bool = False) -> list[GridAxis]:
    """The axes of a word, the slowest first.

    Args:
        term: the word.
        split: whether an axis with a dilation becomes two where that goes: the tokens of a class, and the classes.
    """
    match term:
        case Neighborhood(shape, window, stride, dilation, causal, border):
            out = []
            for length, size, by, step, back in zip(shape, window, stride, dilation, causal, strict=True):
                clamped = border == "clamp"
                if split and step > 1 and length % step == 0:
                    out.append(window_axis(length // step, size, by, 1, back, clamped))
                    out.append(window_axis(step, 1, 1, 1, False, clamped))
                else:
                    out.append(window_axis(length, size, by, step, back, clamped))
            return out
        case Halo(shape, block, halo):
            return [halo_axis(*x) for x in zip(shape, block, halo, strict=True)]


def window_axis(length: int, window: int, stride: int, step: int, causal: bool, clamped: bool) -> GridAxis:
    """One axis of a neighbourhood; the bounds in classes of `step` are those of the shortest and the longest class."""
    shortest, longest = length // step, -(-length // step)
    before = window - 1 if causal else window // 2
    after = window - 1 - before
    leader = stride - 1 if causal else stride // 2  # of the group that starts at 0
    inward = clamped and not causal

    def group(t: Index) -> Index:
        return t if stride == 1 else times(div(t, stride), stride)

    def start(t: Index, count: int) -> Index:
        """First key of the window of token t in a class of `count`, if it is not negative."""
        return smallest([plus(group(t), leader - before), count - window if inward else count - 1 - before])

    def keep(q: Index, k: Index) -> Pred:
        if step == 1:
            return within(q, k, length)
        same = Compare("==", mod(q, step), mod(k, step))
        t, s = div(q, step), div(k, step)
        if shortest == longest:
            return And(same, within(t, s, shortest))
        long = Compare("<", mod(q, step), length % step)
        return And(same, Or(And(long, within(t, s, longest)), And(Not(long), within(t, s, shortest))))

    def within(t: Index, s: Index, count: int) -> Pred:
        if inward and window >= count:
            return Truth(True)
        first = start(t, count)
        if causal:
            return And(Compare("<=", first, s), Compare("<=", s, t))
        if inward:
            first = greatest([0, first])
        return And(Compare("<=", first, s), Compare("<=", s, plus(first, window - 1)))

    def attends(near: Index, far: Index) -> Ends:
        low = times(greatest([0, start(div(near, step), shortest)]), step)
        if causal:
            return low, smallest([length - 1, far])
        last = plus(group(div(far, step)), leader + after)
        if inward:
            last = greatest([window - 1, last])
        return low, smallest([length - 1, plus(times(last, step), step - 1)])

    def attended_by(near: Index, far: Index) -> Ends:
        first = near
        if not causal:
            s = div(near, step)
            first = plus(s, -after - leader)
            if inward:  # the first keys are attended from the start on: 0 while s < window, and no bound then
                first = smallest([first, times(plus(s, 1 - window), longest)])
            first = times(greatest([0, first]), step)
        s = div(far, step)
        # the last keys are attended to the end
        edge = shortest - window if inward else shortest - 1 - before
        last = greatest([plus(s, before - leader + stride - 1), times(plus(s, 1 - edge), longest)])
        return first, smallest([length - 1, plus(times(last, step), step - 1)])

    return GridAxis(length, keep, attends, attended_by, own=length == 1 or window == 1)


def halo_axis(length: int, block: int, halo: int) -> GridAxis:
    """One axis of blocks that see `halo` tokens beyond their ends."""

    def own(y: Index) -> Index:
        return times(div(y, block), block)

    def keep(q: Index, k: Index) -> Pred:
        low, high = plus(own(q), -halo), plus(own(q), block - 1 + halo)
        return And(Compare("<=", low, k), Compare("<=", k, high))

    def attends(near: Index, far: Index) -> Ends:
        return greatest([0, plus(own(near), -halo)]), smallest([length - 1, plus(own(far), block - 1 + halo)])

    def attended_by(near: Index, far: Index) -> Ends:
        first = greatest([0, own(greatest([0, plus(near, -halo)]))])
        return first, smallest([length - 1, plus(own(plus(far, halo)), block - 1)])

    return GridAxis(length, keep, attends, attended_by, own=length == 1 or (block == 1 and halo == 0))
