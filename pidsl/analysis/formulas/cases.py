"""Formulas with minima and maxima as few cases with a polynomial each: split by z3, and joined again.

    Max(0, n - k)**2 + Min(k, n)*(2*n - Min(k, n))    n**2

Every path through the minima that some integers take is a leaf: conditions, and a polynomial in symbols and quotients.
Leaves with one polynomial become one case. Where polynomials change a formula is continuous as a rule, so that what
parts them is a factor of their difference: `n <= k + s`, of which no minimum need tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Any

import sympy
import z3

from pidsl.analysis.formulas.smtlib import Condition, asserted, declared, divided, quotient
from pidsl.analysis.formulas.words import internal, solved, symbol
from pidsl.errors import TooHardError
from pidsl.relation.isl import in_turn

RESOURCES = 200_000  # of z3 for one question
DEGREE = 2  # of what parts two cases
QUESTIONS = 3000
UNDECIDED = 15  # questions that z3 may leave open
LEAVES = 60
VALUES = 16  # of leaves
SPLIT = (sympy.Min, sympy.Max, sympy.Piecewise, sympy.floor)


@dataclass(frozen=True)
class _Leaf:
    conditions: tuple[Condition, ...]
    value: sympy.Expr


@in_turn
def by_cases(expr: sympy.Expr, given: Iterable[Condition]) -> sympy.Expr:
    """The formula in cases, without minima and maxima.

    >>> from pidsl.analysis.formulas.words import n, symbol
    >>> k = symbol("k")
    >>> by_cases(sympy.Max(n - k, 0) + sympy.Min(n, k), [])
    n

    Args:
        expr: made of polynomials, minima, maxima, cases, and floors of quotients by what is >= 1.
        given: conditions under which it need be the same.

    Raises:
        TooHardError: too many cases.
    """
    asked = _Asked(tuple(given))
    leaves = list(islice(asked.leaves(expr, ()), LEAVES + 1))
    if len(leaves) > LEAVES:
        raise TooHardError(f"a formula of more than {LEAVES} cases", "few")
    return asked.named(_joined(leaves, asked))


@dataclass
class _Asked:
    """What holds under the given conditions, told by z3; quotients are symbols of their own."""

    given: tuple[Condition, ...]
    quotients: dict[sympy.Expr, sympy.Symbol] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.solver = z3.Solver()
        self.solver.set("rlimit", RESOURCES)
        self.declared: set[sympy.Basic] = set()
        self._add(*self.given)
        self.known: dict[tuple[Condition, ...], bool] = {}
        self.asked, self.undecided = 0, 0

    def _add(self, *conditions: Condition) -> None:
        own = {s for c in conditions for s in c.free_symbols} - self.declared
        self.declared |= own
        self.solver.from_string(declared(own) + asserted(conditions))

    def possible(self, *conditions: Condition) -> bool:
        """Whether some integers satisfy them, or z3 does not know."""
        if conditions not in self.known:
            self.asked += 1
            if self.asked > QUESTIONS or self.undecided > UNDECIDED:
                raise TooHardError("a formula whose cases z3 does not sort in time", "fewer cases")
            self.solver.push()
            self._add(*conditions)
            answer = self.solver.check()
            self.undecided += answer == z3.unknown
            self.known[conditions] = answer != z3.unsat
            self.solver.pop()
        return self.known[conditions]

    def example(self, conditions: tuple[Condition, ...]) -> dict[sympy.Symbol, int]:
        """Some integers that satisfy them; none where z3 finds none."""
        self.solver.push()
        self._add(*conditions)
        model = self.solver.model() if self.solver.check() == z3.sat else None
        self.solver.pop()
        return {} if model is None else {symbol(d.name()): model[d].as_long() for d in model.decls()}

    def leaves(self, expr: sympy.Expr, path: tuple[Condition, ...]) -> Iterator[_Leaf]:
        atom = _innermost(expr)
        if atom is None:
            yield _Leaf(path, sympy.expand(expr))
            return
        if isinstance(atom, sympy.floor):
            yield from self.leaves(expr.xreplace({atom: self._quotient(atom)}), path)
            return
        if isinstance(atom, sympy.Piecewise):
            (first, condition), *rest = atom.args
            other = sympy.Piecewise(*rest) if rest else sympy.nan
        else:
            first, second, *rest = atom.args
            condition = first <= second if isinstance(atom, sympy.Min) else first >= second
            other = atom.func(second, *rest)
            first = atom.func(first, *rest)
        for value, case in ((first, condition), (other, sympy.Not(condition))):
            if case != sympy.false and self.possible(*path, case):
                decided = case == sympy.true or not self.possible(*path, sympy.Not(case))
                yield from self.leaves(expr.xreplace({atom: value}), path if decided else (*path, case))

    def _quotient(self, atom: sympy.Expr) -> sympy.Expr:
        above, below = quotient(atom.args[0])
        whole, rest = divided(above, below)
        if rest == 0:
            return whole
        for small in (0, -1):  # the least numerators that there are: 0 <= rest - small*below < below
            if not self.possible(sympy.Or(rest < small * below, rest >= (small + 1) * below)):
                return whole + small
        if rest / below not in self.quotients:
            q = internal(f"q{len(self.quotients)}")
            self.quotients[rest / below] = q
            self._add(below * q <= rest, rest < below * q + below)
            self.known.clear()
        return whole + self.quotients[rest / below]

    def named(self, expr: sympy.Expr) -> sympy.Expr:
        """With quotients for their symbols."""
        return expr.xreplace({q: sympy.floor(quotient) for quotient, q in self.quotients.items()})


def _innermost(expr: sympy.Expr) -> Any:
    found = [x for x in expr.atoms(*SPLIT) if not any(a.has(*SPLIT) for a in x.args)]
    return min(found, key=lambda x: (x.count_ops(), str(x))) if found else None


def _joined(leaves: Sequence[_Leaf], asked: _Asked) -> sympy.Expr:
    """The leaves as few cases: one after another, a value that some leaves need and a condition that tells them.

    Raises:
        TooHardError: they are too many.
    """
    values = list(dict.fromkeys(leaf.value for leaf in leaves))
    if len(values) > VALUES:
        raise TooHardError(f"a formula of {len(values)} different cases", f"at most {VALUES}")
    left = {leaf: {value for value in values if _agree(leaf, value, asked)} for leaf in leaves}
    for value in sorted(values, key=lambda v: (sum(v in fits for fits in left.values()), -v.count_ops(), str(v))):
        if all(fits != {value} for fits in left.values()):  # another value does everywhere
            for fits in left.values():
                fits.discard(value)
    values = [value for value in values if any(value in fits for fits in left.values())]
    candidates = _candidates(leaves, values, asked)
    cases: list[tuple[sympy.Expr, Condition]] = []
    common: set[sympy.Expr] = set()
    while left and not (common := set.intersection(*left.values())):
        needing = {value: [leaf for leaf, fits in left.items() if fits == {value}] for value in values}
        told = [x for v, own in needing.items() if own for x in _parting(v, own, left, candidates, asked)]
        if not told:  # no condition tells all that need a value: some of them, then
            several = [(v, leaf) for leaf, fits in left.items() for v in fits]
            told = [x for v, leaf in several for x in _parting(v, [leaf], left, candidates, asked)]
        if not told:
            raise TooHardError("a formula whose cases are not told apart", "paths that exclude each other")
        condition, value = min(told, key=lambda x: (x[0].count_ops(), str(x)))
        cases.append((_short(value), condition))
        for leaf, fits in list(left.items()):
            if not asked.possible(*leaf.conditions, sympy.Not(condition)):
                del left[leaf]
            elif len(fits) > 1:
                fits.discard(value)
    last = _short(min(common, key=lambda v: (v.count_ops(), str(v)))) if left else cases.pop()[0]
    return sympy.Piecewise(*cases, (last, True)) if cases else last


def _agree(leaf: _Leaf, value: sympy.Expr, asked: _Asked) -> bool:
    """Whether a value is that of the leaf, under its conditions."""
    gap = sympy.expand(leaf.value - value)
    if gap == 0:
        return True
    return gap.subs(asked.example(leaf.conditions)) == 0 and not asked.possible(*leaf.conditions, sympy.Ne(gap, 0))


def _candidates(leaves: Sequence[_Leaf], values: Sequence[sympy.Expr], asked: _Asked) -> list[Condition]:
    """Conditions that may part the cases, short ones first."""
    sides: dict[sympy.Expr, None] = {}
    for leaf in leaves:
        for condition in leaf.conditions:
            for c in condition.atoms(sympy.core.relational.Relational):
                sides.setdefault(sympy.expand(c.lhs - c.rhs))
    for a, b in combinations(values, 2):
        for factor, _ in sympy.factor_list(a - b)[1]:
            if sympy.Poly(factor).total_degree() <= DEGREE:
                sides.setdefault(sympy.expand(factor))
    for p, q in combinations(asked.quotients.values(), 2):
        sides.setdefault(p - q)
    found: dict[Condition, None] = {}
    for side in sides:
        for x in (side, -side, side - 1, -side - 1):
            found.setdefault(solved(x))
    return sorted((c for c in found if c not in (sympy.true, sympy.false)), key=lambda c: (c.count_ops(), str(c)))


def _parting(
    value: sympy.Expr, own: Sequence[_Leaf], left: dict[_Leaf, set[sympy.Expr]], candidates: Sequence[Condition],
    asked: _Asked,
) -> list[tuple[Condition, sympy.Expr]]:  # fmt: skip
    """The value with a condition that holds in some leaves, and in no other that has not got the value as well."""
    others = [leaf for leaf, fits in left.items() if value not in fits]
    implied = [c for c in candidates if not any(asked.possible(*leaf.conditions, sympy.Not(c)) for leaf in own)]

    def told(some: Sequence[Condition]) -> bool:
        return not any(asked.possible(*leaf.conditions, *some) for leaf in others)

    def agrees(c: Condition) -> bool:  # where it holds in other leaves, the value is theirs
        return not any(asked.possible(*leaf.conditions, c, sympy.Ne(leaf.value - value, 0)) for leaf in others)

    if not told(implied):
        return []
    for c in implied:
        if told([c]) or agrees(c):
            return [(c, value)]
    for some in combinations(implied, 2):
        if told(some):
            return [(sympy.And(*some), value)]
    for c in sorted(implied, key=lambda c: -c.count_ops()):
        fewer = [x for x in implied if x != c]
        implied = fewer if told(fewer) else implied
    return [(sympy.And(*implied), value)]


def _short(value: sympy.Expr) -> sympy.Expr:
    """The shortest form, with a sign in the factor that has most of them."""
    factored = sympy.factor(value)
    number, rest = factored.as_coeff_Mul()
    if number.is_negative:
        turn = max(sympy.Mul.make_args(rest), key=lambda x: (x.is_Add and str(x).count("- ") * 2 - len(x.args), str(x)))
        if turn.is_Add:
            factored = sympy.Mul(-number, *((-x).expand() if x == turn else x for x in sympy.Mul.make_args(rest)))
    return min((value, factored), key=lambda e: (e.count_ops(), str(e)))
