"""How long kernels would take on an H200, guessed from their machine code and from what their programs walk.

Nothing here was measured. Every number that no data sheet gives is a guess from published measurements of other
kernels, and stands in `Guesses`. The model:

- An iteration of a loop takes the tensor cores' cycles and, after them, those of the busiest of issue, exponentials,
  integer and float arithmetic; what its copies take to arrive, where it waits for them at once; and a fixed part for
  shuffles, barriers and the drain of the products. Programs on the same multiprocessor hide each other's waits, not
  each other's work. Copies from L2 bound it from below.
- Programs start in the order of their numbers, each on the first multiprocessor that has room, and share it.
- A launch takes as long as its programs, or as the bytes it moves to and from memory, whichever is longer. What the
  launches before it left in L2 is not moved again.

Weak: clocks do not throttle, shared memory has no conflicts, addresses are translated for free, the waits of warp-group
products that the assembler serialises (FlexAttention's forward at D 64) cost nothing beyond their instructions, and
what one launch reads twice is read from memory once. Ratios within 1.3 of each other are not resolved. The limit that
is given beside each time assumes perfect overlap of everything, and is no guess but for the rates.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pidsl.runtime.run_triton.machine_code import FLOAT_PIPE, INTEGER_PIPE, MEMORY_PIPE, LoopReport


@dataclass(frozen=True)
class Machine:
    """An H200, as its data sheet has it; bytes per cycle are of one multiprocessor."""

    multiprocessors: int = 132
    macs_per_cycle: int = 2048  # bfloat16, of the tensor cores of one multiprocessor
    operand_bytes_per_cycle: int = 128  # from shared memory
    exponentials_per_cycle: int = 16


@dataclass(frozen=True)
class Guesses:
    """What no data sheet tells: replace by measurements when there is a GPU."""

    hertz: float = 1.70e9  # under load
    hbm_bytes_per_second: float = 4.3e12  # of 4.8e12
    l2_bytes_per_cycle: float = 26.0  # per multiprocessor
    l2_bytes: float = 30e6  # of 50 MB: each half may hold a copy
    copy_cycles: int = 600  # from the issue of a tile's copies until all have arrived
    iteration_cycles: int = 250  # shuffles, barriers, drain: alone on the multiprocessor
    program_cycles: int = 2500  # of a program outside its loops, alone on the multiprocessor
    calibration: float = 1.15  # puts Triton's tutorial where people measured it
    launch_seconds: float = 3e-6


MACHINE, GUESSES = Machine(), Guesses()
PIECE = 1 << 19  # bytes of a tensor that come and go together


@dataclass(frozen=True)
class Cost:
    """Cycles of one multiprocessor.

    Args:
        shared: when it has as many programs as fit.
        alone: when there is one program only.
        limit: when everything overlaps.
    """

    shared: float = 0.0
    alone: float = 0.0
    limit: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.shared + other.shared, self.alone + other.alone, self.limit + other.limit)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.shared * times, self.alone * times, self.limit * times)


def tensor_cycles(loop: LoopReport) -> float:
    """Cycles that the tensor cores need for an iteration, or their operands in shared memory."""
    cycles = 0.0
    for name, count in loop.counts.items():
        if name.startswith("HGMMA"):
            n = int(name.split()[1][1:])
            operands = (64 * 16 * 2 if name.endswith("shared") else 0) + n * 16 * 2
            each = max(64 * n * 16 / MACHINE.macs_per_cycle, operands / MACHINE.operand_bytes_per_cycle)
            cycles += count * each / 4  # one for four warps
        elif name == "HMMA":
            cycles += count * 16 * 8 * 16 / MACHINE.macs_per_cycle
    return cycles * loop.warps


def iteration(loop: LoopReport, programs: int, copied_bytes: float) -> Cost:
    """An iteration of a loop, with so many programs on the multiprocessor.

    Args:
        loop: of the machine code.
        programs: that fit on a multiprocessor.
        copied_bytes: from L2.
    """
    quarter = loop.warps / 4  # a multiprocessor has four schedulers
    tensor, l2 = tensor_cycles(loop), copied_bytes / GUESSES.l2_bytes_per_cycle
    issue, exponentials = quarter * loop.instructions, loop.warps * 32 / MACHINE.exponentials_per_cycle
    exponentials *= loop.count("EX2", "MUFU")
    integer, floating = 2 * quarter * loop.count(*INTEGER_PIPE), quarter * loop.count(*FLOAT_PIPE)
    memory = loop.warps * loop.count(*MEMORY_PIPE)
    others = max(issue, exponentials, integer, floating)
    waits = copied_bytes > 0 and not loop.prefetches
    exposed = max(0.0, GUESSES.copy_cycles - tensor / 2) if waits else 0.0
    alone = max(tensor + others + exposed + GUESSES.iteration_cycles, l2)
    shared = max(tensor + others + (exposed + GUESSES.iteration_cycles) / programs, l2)
    return Cost(GUESSES.calibration * shared, GUESSES.calibration * alone, max(tensor, others, l2, float(memory)))


def program(programs: int) -> Cost:
    """A program outside its loops."""
    return Cost(GUESSES.program_cycles / programs, GUESSES.program_cycles, 0.0)


def makespan(costs: Sequence[Cost], programs: int) -> float:
    """Cycles until all programs are done, which start in this order and share multiprocessors, `programs` on each."""
    places = MACHINE.multiprocessors
    if not costs:
        return 0.0
    waiting = iter(range(len(costs)))
    running: list[dict[int, float]] = [{} for _ in range(places)]  # cycles of work left of each program, per place
    since = [0.0] * places
    for _ in range(programs):
        for place in running:
            if (k := next(waiting, None)) is not None:
                place[k] = costs[k].shared
    events = [(_next(running[x], costs), x) for x in range(places) if running[x]]
    heapq.heapify(events)
    now = 0.0
    while events:
        now, x = heapq.heappop(events)
        place, share = running[x], 1 / len(running[x])
        for k in list(place):
            place[k] -= (now - since[x]) * _rate(costs[k], share)
            if place[k] <= 1e-6 * costs[k].shared:
                del place[k]
                if (new := next(waiting, None)) is not None:
                    place[new] = costs[new].shared
        since[x] = now
        if place:
            heapq.heappush(events, (now + _next(place, costs), x))
    return now


def _rate(cost: Cost, share: float) -> float:
    """Work done per cycle with this share of a multiprocessor: no more than the program could do alone."""
    return min(share, cost.shared / cost.alone) if cost.alone else share


def _next(place: dict[int, float], costs: Sequence[Cost]) -> float:
    """Cycles until the next program of a place is done."""
    share = 1 / len(place)
    return max(0.0, min(left / _rate(costs[k], share) for k, left in place.items()))


@dataclass
class Cache:
    """L2: what was used last stays; what was written goes to memory when it leaves."""

    held: OrderedDict[object, tuple[int, bool]] = field(default_factory=OrderedDict)  # bytes, and whether written
    size: int = 0
    moved: int = 0

    def touch(self, what: object, size: int, *, written: bool) -> None:
        """Read or write a piece of a tensor as a whole."""
        had = self.held.pop(what, None)
        if had is None:
            self.size += size
            self.moved += 0 if written else size
        self.held[what] = (size, written or (had is not None and had[1]))
        while self.size > GUESSES.l2_bytes and len(self.held) > 1:
            self._leave(*self.held.popitem(last=False)[1])

    def flush(self) -> None:
        """All that was written goes to memory."""
        while self.held:
            self._leave(*self.held.popitem()[1])

    def _leave(self, size: int, written: bool) -> None:
        self.size -= size
        self.moved += size if written else 0


@dataclass(frozen=True)
class Touch:
    """A tensor that a launch reads or writes.

    Args:
        storage: which one.
        ranges: from which byte to which, in the order in which programs get there.
        written: else read.
    """

    storage: object
    ranges: tuple[tuple[int, int], ...]
    written: bool = False


@dataclass(frozen=True)
class Work:
    """A launch: its programs in the order of their numbers, how many fit on a multiprocessor, and what it touches."""

    name: str
    programs: int = 1
    costs: tuple[Cost, ...] = ()
    touches: tuple[Touch, ...] = ()


@dataclass(frozen=True)
class Time:
    """What a launch takes, and the limit of perfect overlap; bytes are those of memory."""

    name: str
    seconds: float
    limit_seconds: float
    moved_bytes: float


def times(launches: Iterable[Work]) -> list[Time]:
    """The times of launches that follow each other."""
    launches = list(launches)
    found, cache, pieces = [], Cache(), Pieces(x for launch in launches for x in launch.touches)
    for launch in launches:
        before = cache.moved
        for _, touch, piece in sorted(pieces.in_order(launch.touches), key=lambda x: x[0]):
            cache.touch((touch.storage, piece[0]), piece[1] - piece[0], written=touch.written)
        if launch is launches[-1]:
            cache.flush()
        moved = cache.moved - before
        rate = MACHINE.multiprocessors * GUESSES.hertz
        by_memory = moved / GUESSES.hbm_bytes_per_second
        by_programs = makespan(launch.costs, launch.programs) / GUESSES.hertz
        limit = max(sum(x.limit for x in launch.costs) / rate, by_memory)
        found.append(Time(launch.name, max(by_programs, by_memory) + GUESSES.launch_seconds, limit, moved))
    return found


class Pieces:
    """Tensors in pieces, so small that every range of every launch is made of whole ones."""

    def __init__(self, touches: Iterable[Touch]) -> None:
        ends: dict[object, set[int]] = {}
        for touch in touches:
            mine = ends.setdefault(touch.storage, set())
            for start, stop in touch.ranges:
                mine |= {start, stop, *range(start, stop, PIECE)}
        self.ends = {storage: sorted(found) for storage, found in ends.items()}

    def in_order(self, touches: Iterable[Touch]) -> Iterator[tuple[float, Touch, tuple[int, int]]]:
        """The pieces of every touch, and how far the launch has come when it gets there, from 0 to 1."""
        for touch in touches:
            ends = self.ends[touch.storage]
            mine = []
            for start, stop in touch.ranges:
                inside = ends[bisect_left(ends, start) : bisect_left(ends, stop) + 1]
                mine += list(pairwise(inside))
            yield from (((k + 0.5) / len(mine), touch, piece) for k, piece in enumerate(mine))


def bound(pairs: int, head_dim: int, products: int, moved_bytes: float) -> float:
    """Seconds below which no kernel stays that computes exactly these pairs."""
    rate = MACHINE.multiprocessors * GUESSES.hertz
    tensor = pairs * head_dim * products / MACHINE.macs_per_cycle / rate
    return max(tensor, pairs / MACHINE.exponentials_per_cycle / rate, moved_bytes / GUESSES.hbm_bytes_per_second)
