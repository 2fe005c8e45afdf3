"""Functions of (i, n), on 0 <= i < n: where they change, and how they repeat.

They are piecewise quasi-affine: affine on each class of (i mod M, n mod M) between the lines where their conditions
change. `windows` says at which points two of them must agree to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm
from typing import Any

import islpy as isl

_dim: Any = isl.dim_type
CASES = 64  # of an expression inside of a floor or a condition


@dataclass(frozen=True, slots=True)
class Affine:
    """`query * i + length * n + key * j + c` with low <= c <= high; c depends on i, n and j modulo `modulus` only."""

    query: Fraction
    length: Fraction
    low: Fraction
    high: Fraction
    modulus: int = 1
    key: Fraction = Fraction(0)

    def __add__(self, other: Affine) -> Affine:
        return Affine(
            self.query + other.query, self.length + other.length, self.low + other.low, self.high + other.high,
            lcm(self.modulus, other.modulus), self.key + other.key,
        )  # fmt: skip

    def times(self, factor: Fraction) -> Affine:
        low, high = sorted((self.low * factor, self.high * factor))
        return Affine(self.query * factor, self.length * factor, low, high, self.modulus, self.key * factor)

    def floor(self) -> Affine:
        modulus = lcm(self.modulus, self.query.denominator, self.length.denominator, self.key.denominator)
        return Affine(self.query, self.length, self.low - 1, self.high, modulus, self.key)


def constant(x: Fraction) -> Affine:
    """The same everywhere."""
    return Affine(Fraction(0), Fraction(0), x, x)


def of_isl(f: isl.Aff) -> Affine:
    """A quasi-affine function of the parameters n, i and j."""
    total = constant(_fraction(f.get_constant_val()))
    for k in range(f.dim(_dim.param)):
        step = _fraction(f.get_coefficient_val(_dim.param, k))
        name = f.get_dim_name(_dim.param, k)
        zero = Fraction(0)
        query, length, key = (step if name == x else zero for x in ("i", "n", "j"))
        total += Affine(query, length, zero, zero, key=key)
    for k in range(f.dim(_dim.div)):
        step = _fraction(f.get_coefficient_val(_dim.div, k))
        if step:
            total += of_isl(f.get_div(k)).floor().times(step)
    return total


def _fraction(x: isl.Val) -> Fraction:
    return Fraction(x.get_num_si(), x.get_den_val().get_num_si())


class Lines:
    """Where functions of (i, n) change, and how often their periodic parts repeat."""

    def __init__(self) -> None:
        ends = ((1, 0), (-1, 1), (0, 1))  # i = 0, i = n, n = 0, and one beside each
        self.lines: set[Affine] = {Affine(Fraction(a), Fraction(b), Fraction(-1), Fraction(1)) for a, b in ends}
        self.modulus = 1

    def add(self, line: Affine) -> None:
        self.modulus = lcm(self.modulus, line.modulus)
        if line.query or line.length:
            self.lines.add(line)

    def directions(self) -> dict[tuple[int, int], tuple[Fraction, Fraction]]:
        """Coprime (a, b), a > 0 or a = 0 < b, to the least and the largest c of the lines a i + b n + c = 0."""
        found: dict[tuple[int, int], tuple[Fraction, Fraction]] = {}
        for line in self.lines:
            scale = lcm(line.query.denominator, line.length.denominator)
            a, b = int(line.query * scale), int(line.length * scale)
            common = gcd(a, b) * (1 if (a, b) > (0, 0) else -1)
            ends = (line.low * scale / common, line.high * scale / common)
            known = found.get((a // common, b // common), ends)
            found[a // common, b // common] = (min(*known, *ends), max(*known, *ends))
        return found
