"""Which programs a pass launches: on which ranges of tiles, in how many parts, in which order, for how many pairs.

A stage of a pass has one program per tile of rows (of keys, for dK and dV), class and pair of batch entry and head.
From how many tiles each of them visits follows:

    ranges    rows on which different stages have work are launched apart, and stages without work there are not
    parts     a walk much longer than the average, or one of few in an empty machine, is cut into parts, each a program;
              what they find is merged by one more kernel
    order     the longest programs of a launch start first
    chunks    where a stage goes on from what another one left, all stages run on a few pairs at a time, so that what
              is handed on stays in the second-level cache

All of it is a function of lengths and of the GPU, so results are the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST = 4  # tiles of a part: to begin and to merge one takes as long as a few tiles
SHORT = 16  # tiles of a walk that is never cut
TIMES, BEYOND = 4, 64  # how many times the average number of tiles a walk may have, and how many beyond it
PROGRAMS = 2  # wanted per multiprocessor,
IDLE = 16  # and so many times more, where most of them may find nothing to do
MUCH = 1.5  # times as many tiles in the second half of a long sequence as in the first
CACHED = 0.6  # of the second-level cache, that holds what a launch leaves for the next one
LAUNCH = 12 << 20  # bytes that memory moves while a launch begins and ends
PARTS = 1 << 28  # bytes of parts, which are too many for the cache anyway
RANGES = 4  # of a pass, at most: each is a launch, and often a kernel of its own
MANY = 64  # ranges to begin with


class Work(NamedTuple):
    """What the programs of a stage do.

    Args:
        tiles: [classes, tiles], how many tiles each program visits.
        rows: positions of a tile, those of all classes together; None where the tiles of a range hold no range of
            positions, or leave some out.
        divisible: whether a walk can be cut into parts.
    """

    tiles: NDArray[np.int64]
    rows: int | None
    divisible: bool = True


class Part(NamedTuple):
    """A launch of a stage: tiles first .. first + tiles - 1, and into how many parts each walk is cut, with how many
    tiles `each` (the last one has the rest; 0: all alike)."""

    stage: int
    first: int
    tiles: int
    splits: int = 1
    descending: bool = False
    each: int = 0


class Range(NamedTuple):
    """Positions first .. stop - 1, and what is launched on them, in order.

    One launch in one part writes the result, several ones in one part each go on from each other, and if one of them
    is in several parts, all write parts that are merged.
    """

    first: int
    stop: int
    parts: tuple[Part, ...]

    @property
    def merged(self) -> int:
        """How many parts there are to merge; 0 for none."""
        count = sum(part.splits for part in self.parts)
        return count if count > len(self.parts) else 0

    @property
    def chained(self) -> bool:
        """Stages go on from each other."""
        return len(self.parts) > 1 and not self.merged


def ranges(stages: Sequence[Work], length: int, pairs: int, multiprocessors: int) -> tuple[Range, ...]:
    """What a pass launches on its positions 0 .. length - 1, of each of so many pairs."""
    if any(stage.rows is None for stage in stages):  # nobody tells which rows are whose: each stage everywhere
        return (everywhere(stages, length),)
    unit = lcm(*(_rows(stage) for stage in stages))
    most = np.array([_of_units(stage, unit, length) for stage in stages])  # [stages, units]
    splits = _splits(stages, most, pairs, multiprocessors)
    splits[0, splits.sum(0) == 0] = 1  # rows that attend nothing are somebody's too
    found = []
    for start, stop, wanted in _runs(splits):
        parts = []
        for number, (stage, count) in enumerate(zip(stages, wanted, strict=True)):
            per_unit = unit // _rows(stage)
            first, last = start * per_unit, min(stop * per_unit, stage.tiles.shape[1])
            if count and first < last:
                parts.append(_part(stage, number, first, last, int(count)))
        found.append(Range(start * unit, min(stop * unit, length), tuple(parts)))
    return tuple(found)


def everywhere(stages: Sequence[Work], length: int) -> Range:
    """Each stage on all positions."""
    parts = (_part(stage, number, 0, stage.tiles.shape[1], 1) for number, stage in enumerate(stages))
    return Range(0, length, tuple(parts))


def of_sequences(stages: Sequence[Work], length: int, cut: Sequence[tuple[int, int]]) -> Range:
    """Each stage on all positions of all sequences, in so many parts of so many tiles each; the last tiles come first
    where they have much more to do, whichever length of a few tells."""
    parts = []
    for part, stage, (splits, each) in zip(everywhere(stages, length).parts, stages, cut, strict=True):
        tiles = stage.tiles.max(0, initial=0)
        half = len(tiles) // 2
        rising = bool(MUCH * tiles[:half].mean() < tiles[len(tiles) - half :].mean()) if half else False
        parts.append(part._replace(splits=splits, each=each, descending=rising))
    return Range(0, length, tuple(parts))


def of_fixed_size(walk: int, programs: int, multiprocessors: int) -> tuple[int, int]:
    """Into how many parts walks of at most so many tiles are cut, and tiles of each part, whatever sequences there are.

    Parts are of one size, so that a sequence is cut at the same tiles beside whichever others; there are more of them
    than a short one needs, but not too many, as those do nothing.

    >>> of_fixed_size(1024, 8, 132), of_fixed_size(1024, 256, 132), of_fixed_size(1024, 512, 132)
    ((128, 8), (16, 64), (1, 0))
    """
    if walk <= SHORT or programs >= PROGRAMS * multiprocessors:
        return 1, 0
    each = 2 * LEAST
    while programs * _power(walk / each) > IDLE * PROGRAMS * multiprocessors:
        each *= 2
    return _power(walk / each), each


def longest(average: float) -> float:
    """How many tiles a program may visit, by the average number of a pass."""
    return max(2 * LEAST, min(TIMES * average, BEYOND + average))


class Handing(NamedTuple):
    """What stages that go on from each other do for one pair.

    Args:
        touched: bytes that all of them read, write or hand on.
        saved: bytes that memory does not move where those stay in the cache.
        programs: of the stage with the fewest.
        launches: stages, and what begins and ends them.
    """

    touched: int
    saved: int
    programs: int
    launches: int


def together(pairs: int, group: int, of: Handing, multiprocessors: int, l2: int) -> list[tuple[int, int]]:
    """(first, many) of the pairs that go through all stages before others do.

    So many that what they touch stays in the second-level cache, if those fill the machine and if that saves more than
    the launches cost; else all of them.
    """
    most = int(CACHED * l2) // max(of.touched, 1)
    found = even(pairs, group, max(most, 1))
    cost = (len(found) - 1) * of.launches * LAUNCH
    if not most or min(many for _, many in found) * of.programs < PROGRAMS * multiprocessors or cost > pairs * of.saved:
        return [(0, pairs)]
    return found


def even(pairs: int, group: int, most: int) -> list[tuple[int, int]]:
    """(first, many) of about as many pairs each, at most `most`; groups of heads with the same keys stay whole where
    they are not more than that.

    >>> even(16, 4, 6), even(5, 1, 2)
    ([(0, 4), (4, 4), (8, 4), (12, 4)], [(0, 1), (1, 2), (3, 2)])
    """
    whole = group if most >= group and pairs % group == 0 else 1
    sets = pairs // whole
    count = -(-sets // (most // whole))
    ends = [whole * (sets * x // count) for x in range(count + 1)]
    return [(first, stop - first) for first, stop in pairwise(ends)]


def _rows(stage: Work) -> int:
    assert stage.rows is not None
    return stage.rows


def _part(stage: Work, number: int, first: int, last: int, splits: int) -> Part:
    """A launch, from the end where the longer walks are."""
    tiles = stage.tiles[:, first:last].max(0, initial=0)
    half = len(tiles) // 2
    descending = bool(tiles[len(tiles) - half :].sum() > tiles[:half].sum())
    return Part(number, first, last - first, splits, descending)


def _of_units(stage: Work, unit: int, length: int) -> NDArray[np.int64]:
    """The longest walk of a stage on each `unit` of positions."""
    per_unit, units = unit // _rows(stage), -(-length // unit)
    padded = np.zeros(units * per_unit, np.int64)
    padded[: stage.tiles.shape[1]] = stage.tiles.max(0, initial=0)
    return padded.reshape(units, per_unit).max(1)


def _splits(stages: Sequence[Work], most: NDArray[np.int64], pairs: int, multiprocessors: int) -> NDArray[np.int64]:
    """[stages, units]: parts of the walks of each stage, powers of two as each number is compiled; 0 for no work."""
    divisible = [stage.tiles for stage in stages if stage.divisible]
    programs = sum(int(np.count_nonzero(x)) for x in divisible)
    bound = longest(sum(int(x.sum()) for x in divisible) / max(programs, 1))
    found = (most > 0).astype(np.int64)
    for stage, walks, count in zip(stages, most, found, strict=True):
        long = walks > SHORT
        if not stage.divisible or not long.any():
            continue
        missing = PROGRAMS * multiprocessors / (pairs * np.count_nonzero(stage.tiles))
        filling = min(_power(missing), 1 << int(np.log2(walks.max() // LEAST)))
        count[long] = np.maximum([_power(x / bound) for x in walks[long].tolist()], filling)
    return found


def _power(x: float) -> int:
    """The least power of two that is at least x."""
    return 1 << max(0, int(np.ceil(np.log2(x)))) if x > 1 else 1


def _runs(splits: NDArray[np.int64]) -> list[tuple[int, int, NDArray[np.int64]]]:
    """(start, stop, parts by stage) of runs of units that are alike, of few: neighbours become alike where that adds
    least."""
    units = splits.shape[1]
    starts = np.flatnonzero(np.r_[True, (splits[:, 1:] != splits[:, :-1]).any(0)])
    if len(starts) > MANY:
        starts = starts[:: -(-len(starts) // MANY)]
    stops = [*starts[1:].tolist(), units]
    found = [(a, b, splits[:, a:b].max(1)) for a, b in zip(starts.tolist(), stops, strict=True)]

    def joined(x: int) -> tuple[int, int, NDArray[np.int64]]:
        return found[x][0], found[x + 1][1], np.maximum(found[x][2], found[x + 1][2])

    def added(x: int) -> int:
        return sum((b - a) * int((joined(x)[2] - wanted).sum()) for a, b, wanted in found[x : x + 2])

    while len(found) > RANGES:
        x = min(range(len(found) - 1), key=added)
        found[x : x + 2] = [joined(x)]
    return found
