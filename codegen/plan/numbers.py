"""Sets of numbers as short tests: which lags a mask lets through, in fewer instructions than a comparison for each.

0, 1, 2, 4, 8, ..., 8192      (x & (x - 1)) == 0 and 0 <= x <= 8192
0 .. 7, 8, 9, 11, 15, 23      0 <= x <= 7 or the same of x - 7
0, 3, 5, 6, 9, 12, 17         (0b100001001001101001 >> x) & 1 and 0 <= x <= 17
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Range = tuple[int, int]  # the first and the last

FEWEST = 4  # numbers that are worth a test of their own
WORD = 31  # bits that are shifted at once, of a number that is not negative
CHEAP = 10  # instructions per pair that cost less than what they save


@dataclass(frozen=True, slots=True)
class Powers:
    """`base + 2**k` between two numbers, and `base` itself where it lies between them."""

    base: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Bits:
    """`start + k` for every bit k that is set."""

    start: int
    word: int

    @property
    def most(self) -> int:
        """The largest of them."""
        return self.start + self.word.bit_length() - 1


@dataclass(frozen=True, slots=True)
class Numbers:
    """A set of numbers: those of any of its parts."""

    ranges: tuple[Range, ...] = ()
    powers: Powers | None = None
    bits: tuple[Bits, ...] = ()

    @property
    def instructions(self) -> int:
        """About how many a test of one number takes."""
        ranges = sum(1 if first == last else 2 for first, last in self.ranges)
        return ranges + 5 * (self.powers is not None) + 5 * len(self.bits)


def numbers(ranges: Sequence[Range]) -> Numbers:
    """A set as the shortest test known of it.

    >>> numbers([(0, 2), (4, 4), (8, 8), (16, 16)])
    Numbers(ranges=((0, 2), (4, 4), (8, 8), (16, 16)), powers=None, bits=())
    >>> numbers([(0, 0), *((1 << k, 1 << k) for k in range(9))])
    Numbers(ranges=(), powers=Powers(base=0, least=0, most=256), bits=())
    """
    ranges = joined(ranges)
    plain = Numbers(ranges)
    ways = [plain]
    if (powers := _powers(ranges)) is not None:
        held = {powers.base, *(powers.base + (1 << k) for k in range(64))}
        rest = [x for x in _apart(ranges) if not (powers.least <= x[0] == x[1] <= powers.most and x[0] in held)]
        ways.append(Numbers(joined(rest), powers))
    ways += [_with_bits(x) for x in ways]
    return min(ways, key=lambda x: x.instructions)


def joined(ranges: Sequence[Range]) -> tuple[Range, ...]:
    """The same numbers in as few ranges as there are, sorted."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


def _apart(ranges: Sequence[Range]) -> list[Range]:
    """Short ranges number by number."""
    found: list[Range] = []
    for first, last in ranges:
        found += [(x, x) for x in range(first, last + 1)] if last - first < FEWEST else [(first, last)]
    return found


def _powers(ranges: Sequence[Range]) -> Powers | None:
    """Consecutive powers of two from some base on, among the numbers: those that the largest two tell."""
    alone = [first for first, last in _apart(ranges) if first == last]
    if len(alone) < FEWEST:
        return None
    gap = alone[-1] - alone[-2]
    base, power, known = alone[-1] - 2 * gap, gap, set(alone)
    if gap & (gap - 1):
        return None
    while power > 1 and base + power // 2 in known:
        power //= 2
    if base + 2 * gap < base + power * (1 << (FEWEST - 1)):
        return None
    least = base if power == 1 and base in known else base + power
    return Powers(base, least, alone[-1])


def _with_bits(found: Numbers) -> Numbers:
    """The same, with words of bits in place of ranges that are many and near."""
    kept: list[Range] = []
    words: list[Bits] = []
    ranges = list(found.ranges)
    while ranges:
        start = ranges[0][0]
        near = [x for x in ranges if x[1] < start + WORD]
        if sum(1 if first == last else 2 for first, last in near) > 5:
            words.append(Bits(start, sum(1 << (x - start) for first, last in near for x in range(first, last + 1))))
            ranges = ranges[len(near) :]
        else:
            kept.append(ranges.pop(0))
    return Numbers(tuple(kept), found.powers, tuple(words))
