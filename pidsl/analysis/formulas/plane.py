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
import sympy

from pidsl.analysis.formulas.words import i, n
from pidsl.errors import TooHardError

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


def collect(e: Any, lines: Lines) -> None:
    """Where a formula in i and n changes, and how its terms repeat.

    Raises:
        TooHardError: it is not piecewise quasi-affine.
    """
    terms = e.args if isinstance(e, sympy.Add) else (e,)
    for term in terms:
        _cases(term, lines)


def _cases(e: Any, lines: Lines) -> set[Affine]:
    """The quasi-affine functions that a formula is, each somewhere; `lines` gets what separates them."""
    if e.is_Rational:
        return {constant(Fraction(int(e.p), int(e.q)))}
    if e in (i, n):
        return {Affine(Fraction(e == i), Fraction(e == n), Fraction(0), Fraction(0))}
    if isinstance(e, sympy.Add):
        found = {constant(Fraction(0))}
        for a in e.args:
            found = {x + y for x in found for y in _cases(a, lines)}
            if len(found) > CASES:
                raise TooHardError(f"the formula {e}", f"at most {CASES} cases inside of a floor or a condition")
        return found
    if isinstance(e, sympy.Mul):
        factor, rest = e.as_coeff_Mul()
        if factor != 1:
            return {x.times(Fraction(int(factor.p), int(factor.q))) for x in _cases(rest, lines)}
    if isinstance(e, sympy.floor):
        found = {x.floor() for x in _cases(e.args[0], lines)}
        lines.modulus = lcm(lines.modulus, *(x.modulus for x in found))
        return found
    if isinstance(e, sympy.Mod) and e.args[1].is_Integer:
        return _cases(e.args[0] - e.args[1] * sympy.floor(e.args[0] / e.args[1]), lines)
    if isinstance(e, sympy.Max | sympy.Min | sympy.Piecewise):
        if isinstance(e, sympy.Piecewise):
            values = [value for value, _ in e.args]
            gaps = [gap for _, condition in e.args for gap in _gaps(condition)]
        else:
            values = list(e.args)
            gaps = [a - b for k, a in enumerate(values) for b in values[k + 1 :]]
        for gap in gaps:
            for line in _cases(sympy.expand(gap), lines):
                lines.add(line)
        return {x for value in values for x in _cases(value, lines)}
    raise TooHardError(f"the formula {e}", "sums, floors, remainders and cases of affine expressions")


def _gaps(condition: Any) -> list[Any]:
    """Differences whose signs decide a condition."""
    if condition in (sympy.true, sympy.false):
        return []
    if isinstance(condition, sympy.And | sympy.Or | sympy.Not):
        return [gap for c in condition.args for gap in _gaps(c)]
    return [condition.lhs - condition.rhs]
