"""Unions of runs, as few runs.

0 .. 3, 2 .. 9, 12                  one run, and a number
0, 4, 8, 12 and 10 .. 20            the numbers below 10 as a run of step 4; then one run
0 .. 3, 256 .. 259, 512 .. 515, ... four runs of step 256, one for each residue class, if those are fewer
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pidsl.distributed.tokens.runs import Ints, Run, Runs, positions
from pidsl.errors import TooHardError

MOST = 1 << 28  # positions of a sequence that are listed one by one
FEW = 16  # runs; of more, it is asked whether another step needs fewer
STEPS = 6  # that are asked about


@dataclass(frozen=True, eq=False)
class Members:
    """The positions of a set one by one, ascending and different."""

    positions: Ints


def joined(runs: list[Run] | Members, n: int) -> Runs:
    """The positions of any of the runs, all below n: disjoint runs, in the order of their first positions.

    >>> joined([Run(0, 4, 4), Run(10, 11), Run(30, 1)], 64)
    (Run(first=0, count=3, step=4), Run(first=10, count=11, step=1), Run(first=30, count=1, step=1))
    >>> joined([Run(0, 4), Run(4, 2), Run(2, 3)], 64)
    (Run(first=0, count=6, step=1),)

    Raises:
        TooHardError: runs of steps that overlap in a sequence that is too long to list its positions.
    """
    if isinstance(runs, Members):
        return _few(runs.positions)
    whole = _merged([run for run in runs if run.step == 1 or run.count == 1])
    rest = [part for run in runs if run.step > 1 and run.count > 1 for part in _outside(run, whole)]
    whole = _merged(whole + [Run(run.first, 1) for run in rest if run.count == 1])
    stepped = [run for run in rest if run.count > 1]
    if len(stepped) <= 1 and len(whole) + len(stepped) <= 2:
        return tuple(sorted(whole + stepped))
    if n > MOST:
        return _apart(whole, stepped)
    if not stepped:
        return _grouped(np.array([run.first for run in whole]), np.array([run.count for run in whole]))
    held = np.zeros(n, dtype=np.bool_)
    for run in whole + stepped:
        held[run.first : run.last + 1 : run.step] = True
    return _few(np.flatnonzero(held))


def _merged(runs: list[Run]) -> list[Run]:
    """Runs of step 1, those that touch as one."""
    found: list[Run] = []
    for first, count, _ in sorted(runs):
        if found and first <= found[-1].last + 1:
            found[-1] = Run(found[-1].first, max(found[-1].last, first + count - 1) - found[-1].first + 1)
        else:
            found.append(Run(first, count))
    return found


def _outside(run: Run, whole: list[Run]) -> list[Run]:
    """The parts of a run that are in none of some sorted runs of step 1."""
    found, rest = [], run
    for other in whole:
        before = min(rest.count, max(0, -(-(other.first - rest.first) // rest.step)))  # those ahead of the other
        after = max(before, min(rest.count, (other.last - rest.first) // rest.step + 1))
        if before:
            found.append(Run(rest.first, before, rest.step))
        if after >= rest.count:
            return found
        rest = Run(rest.first + after * rest.step, rest.count - after, rest.step)
    return [*found, rest]


def _apart(whole: list[Run], stepped: list[Run]) -> Runs:
    """Runs of a sequence that is too long to be listed, if no position is in two of those with steps."""
    for k, a in enumerate(stepped):
        for b in stepped[:k]:
            common = np.gcd(a.step, b.step)
            if (a.first - b.first) % common == 0 and a.first <= b.last and b.first <= a.last:
                raise TooHardError(f"{a} and {b}", f"runs that do not overlap, from {MOST} positions on")
    return tuple(sorted(whole + stepped))


def _few(at: Ints) -> Runs:
    """Ascending positions as few runs."""
    if not len(at):
        return ()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(at) != 1) + 1])
    return _grouped(at[starts], np.diff(np.concatenate([starts, [len(at)]])))


def _grouped(firsts: Ints, counts: Ints) -> Runs:
    """Runs of step 1 that do not touch: where equally long ones follow at equal distances, as classes if fewer."""
    found = _classes(firsts, counts)
    if len(found) <= FEW:
        return tuple(sorted(found))
    at = positions(map(Run._make, zip(firsts.tolist(), counts.tolist(), [1] * len(firsts), strict=True)))
    for step in _steps(firsts):
        order = np.lexsort((at, at % step))
        by_class = at[order]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(by_class) != step) + 1])
        if len(starts) < len(found):
            sizes = np.diff(np.concatenate([starts, [len(at)]])).tolist()
            found = [
                Run(x, size, step if size > 1 else 1) for x, size in zip(by_class[starts].tolist(), sizes, strict=True)
            ]
    return tuple(sorted(found))


def _classes(firsts: Ints, counts: Ints) -> list[Run]:
    """From the left: of runs that are equally long and equally far apart, their classes, where those are fewer."""
    first, count = firsts.tolist(), counts.tolist()
    found: list[Run] = []
    k = 0
    while k < len(first):
        size, stop = count[k], k + 1
        while stop < len(first) and count[stop] == size and first[stop] - first[stop - 1] == first[k + 1] - first[k]:
            stop += 1
        if stop - k <= max(size, 2):
            more = max(k + 1, stop - 1)  # the last may go with what follows
            found += map(Run, first[k:more], count[k:more])
            k = more
            continue
        step, classes = first[k + 1] - first[k], [stop - k] * size
        if stop < len(first) and first[stop] == first[stop - 1] + step and count[stop] < size:
            classes[: count[stop]] = [stop - k + 1] * count[stop]  # a shorter one at the end
            stop += 1
        found += [Run(first[k] + x, rows, step) for x, rows in enumerate(classes)]
        k = stop
    return found


def _steps(firsts: Ints) -> list[int]:
    """Distances that runs often have."""
    apart = np.concatenate([firsts[k:] - firsts[:-k] for k in (1, 2, 3, 4, 8) if k < len(firsts)])
    values, times = np.unique(apart, return_counts=True)
    return [int(x) for x in values[np.argsort(-times, kind="stable")][:STEPS] if x > 1]
