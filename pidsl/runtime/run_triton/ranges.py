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

import itertools
from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST = 4  # tiles of a part: to begin and to merge one takes as long as a few tiles
SHORT = 16  # tiles of a walk that is never cut
TIMES, BEYOND = 4, 64  # how many times the average number of tiles a walk may have, and how many beyond it
PROGRAMS = 2  # wanted per multiprocessor
WAVES = 8  # programs per multiprocessor of each of several launches
HANDED_ON = 0.5  # of the second-level cache, for what stages hand on
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
    """A launch of a stage: tiles first .. first + tiles - 1, and into how many parts each walk is cut."""

    stage: int
    first: int
    tiles: int
    splits: int = 1
    descending: bool = False


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
        everywhere = (_part(stage, number, 0, stage.tiles.shape[1], 1) for number, stage in enumerate(stages))
        return (Range(0, length, tuple(everywhere)),)
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


def longest(average: float) -> float:
    """How many tiles a program may visit, by the average number of a pass."""
    return max(2 * LEAST, min(TIMES * average, BEYOND + average))


def chunks(
    pairs: int, group: int, bytes_each: int, programs_each: int, most_bytes: int, multiprocessors: int
) -> list[tuple[int, int]]:
    """(first, many) of the pairs that run at a time where kernels hand on `bytes_each` of each.

    So many that `most_bytes` hold it, but enough that launches do not wait for their last programs most of the time;
    about equal, and whole groups of heads with the same keys where those are not too many.
    """
    most = max(1, most_bytes // max(bytes_each, 1), -(-WAVES * multiprocessors // max(programs_each, 1)))
    whole = group if most >= group and pairs % group == 0 else 1
    sets = pairs // whole
    count = -(-sets // (most // whole))
    ends = [whole * (sets * x // count) for x in range(count + 1)]
    return [(first, stop - first) for first, stop in itertools.pairwise(ends)]


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
