"""Obligations over integers with symbols, decided by z3: polynomials, floors, minima, case distinctions.

An obligation says: under these conditions, the conclusion holds for all integers. Before the solver sees it, it is
split into cases in which nothing but polynomials is left:

    Min(a, b)          a where a <= b, else b; likewise Max, Abs and Piecewise
    floor(x/p), p a number or a symbol >= 1, proved to be >= 1
                       a new integer q with p*q <= x < p*(q + 1)
    x = p*q + r        where x is split by p on request: floor((x + d)/p) is q + s with |s| <= |d|, one case each

What is left is sent to the solver as it is, and written down in SMT-LIB, so that any solver can be asked again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from math import lcm
from typing import Any, TypeAlias

import sympy
import z3

from pidsl.analysis.formulas.words import CeilLog, internal
from pidsl.analysis.verdict import Verdict
from pidsl.errors import TermError, TooHardError
from pidsl.relation.isl import in_turn

RESOURCES = 4_000_000  # z3's own count for one question, the same on every machine: at most a few seconds
FIRST_RESOURCES = 1_000_000  # before products are added
PRUNE_RESOURCES = 200_000
MOST_FACTORS = 14  # conditions whose products are formed
MOST_CASES = 4096
AGAIN = 100  # questions that one of `RESOURCES` is worth

_left: list[int] = []  # questions that may be asked, innermost last

Condition: TypeAlias = sympy.Basic  # a relation or a combination of them


class IsZero(sympy.Function):
    """A conclusion: the argument is 0. Unlike sympy's Eq it is not simplified each time that something is replaced."""


class Count(sympy.Function):
    """A conclusion: of numbers and conditions in turn, the numbers whose condition holds sum to 0."""


@dataclass(frozen=True)
class Obligation:
    """`conditions => conclusion` for all integers.

    Args:
        name: what it is for, one line.
        conditions: what may be assumed.
        conclusion: what must follow.
        split: (x, p): write the symbol x as p*q + r with 0 <= r < p.
    """

    name: str
    conditions: tuple[Condition, ...]
    conclusion: Condition
    split: tuple[sympy.Symbol, sympy.Expr] | None = None


@dataclass
class _Case:
    """Conditions without minima and floors, and what must follow from them."""

    conditions: list[Condition]
    conclusion: Condition
    free: frozenset[sympy.Symbol] = frozenset()  # symbols that an equation may replace


@dataclass
class Prover:
    """Discharges obligations one after another, and keeps what it asked.

    Attributes:
        steps: names of what was proved.
        scripts: SMT-LIB scripts, each expected to be `unsat`.
        failure: the first obligation that could not be proved, "" so far.
    """

    steps: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    failure: str = ""
    _fresh: Iterator[int] = field(default_factory=count)

    def include(self, verdict: Verdict) -> None:
        """Count what was verified elsewhere as steps of this proof."""
        self.steps += verdict.steps
        self.scripts += [verdict.smtlib] if verdict.smtlib else []
        self.failure = self.failure or verdict.failure

    def prove(self, obligation: Obligation) -> bool:
        """Whether the obligation holds; a failure is remembered and ends the proof."""
        if self.failure:
            return False
        reason = self._refusal(obligation)
        if reason:
            self.failure = f"{obligation.name}: {reason}"
            return False
        self.steps.append(obligation.name)
        return True

    def all(self, obligations: Iterable[Obligation]) -> bool:
        """Whether every one holds."""
        for obligation in obligations:
            self.prove(obligation)
        return not self.failure

    def verdict(self) -> Verdict:
        """What came of it."""
        return Verdict(not self.failure, tuple(self.steps), self.failure, "\n(reset)\n".join(self.scripts))

    def _refusal(self, o: Obligation) -> str:
        o = self._by_symbols(o)
        parts = [*o.conditions, o.conclusion]
        divisors = {s for x in parts for a in x.atoms(sympy.floor, sympy.Mod) for s in _divisor(a).free_symbols}
        named = {s for x in parts for s in x.free_symbols}
        start = _Case([*o.conditions, *_logarithms(parts)], o.conclusion, frozenset(named - divisors))
        if o.split is not None:
            start = self._euclid(start, *o.split)
        for number, case in enumerate(self._cases(start)):
            if number >= MOST_CASES:
                return f"more than {MOST_CASES} cases"
            answer = self._ask(o.name, case)
            if answer != "unsat":
                return answer
        return ""

    def _by_symbols(self, o: Obligation) -> Obligation:
        """Divisors that are sums as symbols of their own: with D = p + k, k becomes D - p everywhere.

        D takes every integer when k does, so the obligation is for the same integers as before. Where k is a divisor
        itself, that would only make another sum of it: each step leaves fewer of them.
        """
        sums = _sums(o)
        for divisor in sums:
            for x in sorted(divisor.free_symbols, key=lambda s: s.name):
                factor = divisor.coeff(x, 1)
                rest = divisor - factor * x
                if factor in (1, -1) and not rest.has(x) and (o.split is None or x != o.split[0]):
                    moved = {x: factor * (internal(f"d{next(self._fresh)}") - rest)}
                    split = None if o.split is None else (o.split[0], sympy.expand(o.split[1].subs(moved)))
                    given = tuple(c.subs(moved) for c in o.conditions)
                    named = Obligation(o.name, given, o.conclusion.subs(moved), split)
                    if len(_sums(named)) < len(sums):
                        return self._by_symbols(named)
        return o

    def _euclid(self, case: _Case, x: sympy.Symbol, p: sympy.Expr) -> _Case:
        k = next(self._fresh)
        q, r = internal(f"q{k}"), internal(f"r{k}")
        moved = {x: p * q + r}
        conditions = [c.subs(moved) for c in case.conditions]
        return _Case([r >= 0, r < p, *conditions], case.conclusion.subs(moved), case.free - {x})

    def _cases(self, case: _Case) -> Iterator[_Case]:
        """`case` split until no minimum, floor or piecewise is left; cases that cannot occur are dropped."""
        atom = _innermost([*case.conditions, case.conclusion])
        if atom is None:
            yield case
            return
        for value, conditions in self._values(atom, case.conditions):
            added = [c for c in conditions if c != sympy.true]
            if sympy.false in added:
                continue
            kept = [_replace(c, atom, value) for c in case.conditions]
            kept = [c for c in kept if c != sympy.true]
            if sympy.false in kept:
                continue
            branch = _without_equalities(_Case([*kept, *added], _replace(case.conclusion, atom, value), case.free))
            if not _impossible(branch.conditions):
                yield from self._cases(branch)

    def _values(
        self, atom: sympy.Expr, conditions: Sequence[Condition]
    ) -> list[tuple[sympy.Expr, list[Condition]]]:  # fmt: skip
        """The values an atom can have, and when."""
        if isinstance(atom, sympy.Min | sympy.Max):
            chosen: list[tuple[sympy.Expr, list[Condition]]] = []
            for x in atom.args:
                least = isinstance(atom, sympy.Min)
                earlier = [y for y, _ in chosen]  # a tie goes to the first
                later = [y for y in atom.args if y != x and y not in earlier]
                strict = [x < y if least else x > y for y in earlier]
                chosen.append((x, strict + [x <= y if least else x >= y for y in later]))
            return chosen
        if isinstance(atom, sympy.Abs):
            x = atom.args[0]
            return [(x, [x >= 0]), (-x, [x < 0])]
        if isinstance(atom, sympy.Piecewise):
            branches: list[tuple[sympy.Expr, list[Condition]]] = []
            before: list[Condition] = []
            for x, condition in atom.args:
                branches.append((x, [*before, condition]))
                before.append(sympy.Not(condition))
            if atom.args[-1][1] != sympy.true:  # between the cases it has no value: nothing is known of it there
                branches.append((internal(f"gap{next(self._fresh)}"), before))
            return branches
        if isinstance(atom, sympy.Mod):
            x, p = atom.args
            return [(x - p * sympy.floor(x / p), [])]
        if isinstance(atom, sympy.ceiling):
            return [(-sympy.floor(-atom.args[0]), [])]
        return self._floors(atom, conditions)

    def _floors(
        self, atom: sympy.Expr, conditions: Sequence[Condition]
    ) -> list[tuple[sympy.Expr, list[Condition]]]:  # fmt: skip
        above, below = sympy.fraction(sympy.together(atom.args[0]))
        if below.could_extract_minus_sign():
            above, below = -above, -below
        above, below = sympy.expand(above), sympy.expand(below)
        if not below.is_positive and not _impossible([*conditions, below <= 0]):
            raise TermError(f"a division by {below}", f"{below} >= 1 by assumption", where=str(atom))
        multiple, rest = _divided(above, below)
        remainders = [x for x in rest.free_symbols if re.fullmatch(r"r\d+!", x.name)]
        small = remainders[0] if len(remainders) == 1 else sympy.Integer(0)  # 0 <= small < below
        if small == 0 or (small < below) in conditions:
            ends = _quotients(sympy.expand(rest - small), below, conditions)
            values = range(ends[0], ends[1] + 1) if ends else ()
            if values:
                return [(multiple + s, [below * s <= rest, rest < below * (s + 1)]) for s in values]
        q = internal(f"f{next(self._fresh)}")
        return [(q, [below * q <= above, above <= below * q + below - 1])]

    def _ask(self, name: str, case: _Case) -> str:
        """`unsat` when the conclusion follows, else what z3 says instead."""
        answer, script, model = _ask_z3(case.conditions, case.conclusion, FIRST_RESOURCES)
        if answer not in ("sat", "unsat"):  # again, with products, in a context that has seen no other question
            products = _products(case.conditions)
            answer, script, model = _ask_z3([*case.conditions, *products], case.conclusion, RESOURCES, fresh=True)
        self.scripts.append(f"; {name}\n{script}")
        return answer if answer != "sat" else f"does not hold at {model}"


def consistent(conditions: Sequence[Condition]) -> bool:
    """Whether some integers satisfy all conditions. Only a definite `no` is a no."""
    prover = Prover()
    return any(not _impossible(case.conditions) for case in prover._cases(_Case(list(conditions), sympy.true)))


def require_consistent(conditions: Sequence[Condition]) -> None:
    """Refuse contradictory assumptions: everything would follow from them.

    Raises:
        TermError: no integers satisfy them.
    """
    if not consistent(conditions):
        raise TermError(
            "assumptions " + ", ".join(map(str, conditions)),
            "assumptions that some integers satisfy: from contradictory ones anything follows",
        )


def follows(conditions: Sequence[Condition], conclusion: Condition) -> bool:
    """Whether the conclusion is certain under the conditions."""
    if conclusion in (sympy.true, sympy.false):
        return conclusion == sympy.true
    return Prover().prove(Obligation("", tuple(conditions), conclusion))


_SPLIT = (sympy.Min, sympy.Max, sympy.Abs, sympy.Piecewise, sympy.Mod, sympy.floor, sympy.ceiling)


def _innermost(parts: Sequence[Condition]) -> Any:
    """An atom to split that holds no other one; None when there is none."""
    for kinds in (_SPLIT[:4], _SPLIT[4:]):
        for part in parts:
            found = [x for x in part.atoms(*kinds) if not any(a.has(*_SPLIT) for a in x.args)]
            if found:
                return min(found, key=sympy.default_sort_key)
    return None


def _products(conditions: Sequence[Condition]) -> list[Condition]:
    """Products of two polynomials that are >= 0 are >= 0: z3 does not look for them itself."""
    factors: dict[sympy.Expr, None] = {}
    for condition in conditions:
        for c in sympy.And.make_args(condition):
            x = _at_least_zero(c)
            if x is not None and not x.is_Number:
                factors.setdefault(x)
    short = sorted(factors, key=lambda x: (x.count_ops(), str(x)))[:MOST_FACTORS]
    return [sympy.expand(x * y) >= 0 for k, x in enumerate(short) for y in short[k:]]


def _without_equalities(case: _Case) -> _Case:
    """`k <= n and n <= k`: k replaced by n everywhere, so that their quotients become one."""
    known: dict[sympy.Expr, Condition] = {}
    for c in case.conditions:
        x = _at_least_zero(c)
        if x is None:
            continue
        if -x in known or sympy.expand(-x) in known:
            for s in sorted(x.free_symbols & case.free, key=lambda s: s.name):
                factor = x.coeff(s, 1)
                if factor in (1, -1) and not x.coeff(s, 0).has(s) and x.coeff(s, 0) != x:
                    other = sympy.expand(-x.coeff(s, 0) * factor)
                    rest = [y for y in (d.subs(s, other) for d in case.conditions) if y != sympy.true]
                    return _without_equalities(_Case(rest, case.conclusion.subs(s, other), case.free - {s}))
        known[x] = c
    return case


def _at_least_zero(c: Condition) -> sympy.Expr | None:
    """The polynomial x for which the condition reads x >= 0 (over integers); None if it has no such form."""
    if not isinstance(c, sympy.Rel) or c.has(*_SPLIT):
        return None
    x = sympy.expand(c.lhs - c.rhs)
    return {">=": x, ">": x - 1, "<=": -x, "<": sympy.expand(-x - 1)}.get(c.rel_op)


def _divided(x: sympy.Expr, by: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """x as by * multiple + rest, term by term: `p*q + r - 1` by p is (q, r - 1)."""
    multiple = rest = sympy.Integer(0)
    for term in sympy.Add.make_args(x):
        share = term / by
        whole = share.as_numer_denom()[1] == 1
        multiple, rest = (multiple + share, rest) if whole else (multiple, rest + term)
    return multiple, rest


def _quotients(shift: sympy.Expr, by: sympy.Expr, conditions: Sequence[Condition]) -> tuple[int, int] | None:
    """The least and the largest value of floor((r + shift)/by) for 0 <= r < by, or less and more; None: not known."""
    if shift.is_Integer:
        if by.is_Integer:
            return int(shift) // int(by), (int(shift) + int(by) - 1) // int(by)
        return min(0, int(shift)), max(0, int(shift))
    low = next((k for k in (0, -1) if _impossible([*conditions, shift < k * by])), None)
    high = next((k for k in (0, 1) if _impossible([*conditions, shift > k * by])), None)
    return None if low is None or high is None else (low, high)


def split_by_divisor(x: sympy.Symbol, *parts: Condition) -> tuple[sympy.Symbol, sympy.Expr] | None:
    """How an obligation with these parts is best split: x by the first divisor that is not 1; None without any."""
    for part in parts:
        for atom in sorted(part.atoms(sympy.floor, sympy.Mod), key=sympy.default_sort_key):
            if _divisor(atom) != 1:
                return x, _divisor(atom)
    return None


def _logarithms(parts: Sequence[Condition]) -> list[Condition]:
    """What is known of c(x), the least c >= 0 with b**c >= x, for b >= 2 and x >= 1.

    0 <= c(x) <= x - 1 and 1 <= c(x) for x >= 2. As b**c >= x gives b**(c + 1) >= 2*x >= x + 1,
    c(x) <= c(x + 1) <= c(x) + 1.
    """
    atoms = sorted({a for part in parts for a in part.atoms(CeilLog)}, key=sympy.default_sort_key)
    found: list[Condition] = []
    for a in atoms:
        base, x = a.args
        fits = sympy.And(base >= 2, x >= 1)
        found.append(sympy.Or(sympy.Not(fits), sympy.And(a >= 0, a <= x - 1, sympy.Or(x < 2, a >= 1))))
        for b in atoms:
            if b.args[0] == base and sympy.expand(b.args[1] - x) == 1:
                found.append(sympy.Or(sympy.Not(fits), sympy.And(a <= b, b <= a + 1)))
    return found


def _sums(o: Obligation) -> list[sympy.Expr]:
    """The divisors of an obligation that are sums."""
    parts: tuple[Condition, ...] = (*o.conditions, o.conclusion)
    divisors = {_divisor(a) for x in parts for a in x.atoms(sympy.floor, sympy.Mod)}
    return sorted((d for d in divisors if isinstance(d, sympy.Add)), key=str)


def _divisor(atom: sympy.Expr) -> sympy.Expr:
    if isinstance(atom, sympy.Mod):
        return atom.args[1]
    return sympy.fraction(sympy.together(atom.args[0]))[1]


def _replace(c: Condition, atom: Any, value: Any) -> Condition:
    return c.xreplace({atom: value}) if c.has(atom) else c


def _impossible(conditions: Sequence[Condition]) -> bool:
    """Whether the conditions that are split already contradict each other; those that are not yet wait."""
    plain = [c for c in conditions if c != sympy.true and not c.has(*_SPLIT)]
    return bool(plain) and _ask_z3(plain, resources=PRUNE_RESOURCES)[0] == "unsat"  # of nothing, z3 takes 2 ms as well


@contextmanager
def patience(questions: int) -> Iterator[None]:
    """Ask z3 so many questions at most inside.

    Raises:
        TooHardError: that is not enough.
    """
    _left.append(questions)
    try:
        yield
    finally:
        _left.pop()


@in_turn
def _ask_z3(
    conditions: Sequence[Condition], conclusion: Condition | None = None, resources: int = RESOURCES, *,
    fresh: bool = False,
) -> tuple[str, str, str]:  # fmt: skip
    """z3's answer on the conditions without the conclusion; with a conclusion, the script and the model as well."""
    if _left:
        _left[-1] -= AGAIN if fresh else 1
        if _left[-1] < 0:
            raise TooHardError("more questions to z3 than a formula that was just found gets", "fewer")
    solver = z3.Solver()
    solver.set("rlimit", resources)
    for c in conditions:
        solver.add(boolean(c))
    wanted = conclusion is not None
    if wanted:
        solver.add(z3.Not(boolean(conclusion)))
    script = f"(set-logic QF_NIA)\n{solver.sexpr()}(check-sat)\n" if wanted else ""  # before z3 rewrites it
    if fresh:
        solver = z3.Solver(ctx=z3.Context())
        solver.set("rlimit", resources)
        solver.from_string(script)
    answer = str(solver.check())
    model = ""
    if wanted and answer == "sat":
        found = solver.model()
        model = ", ".join(sorted(f"{d.name()} = {found[d]}" for d in found.decls()))
    if answer == "unknown":
        answer = f"z3 does not decide it ({solver.reason_unknown()})"
    return answer, script, model


@lru_cache(maxsize=1 << 14)
def boolean(c: Condition) -> Any:
    """A condition as a z3 formula."""
    if c == sympy.true or c == sympy.false:
        return z3.BoolVal(c == sympy.true)
    if isinstance(c, sympy.And):
        return z3.And(*map(boolean, c.args))
    if isinstance(c, sympy.Or):
        return z3.Or(*map(boolean, c.args))
    if isinstance(c, sympy.Not):
        return z3.Not(boolean(c.args[0]))
    if isinstance(c, sympy.ITE):
        return z3.If(*map(boolean, c.args))
    if isinstance(c, sympy.Implies):
        return z3.Implies(*map(boolean, c.args))
    if isinstance(c, IsZero):
        return _polynomial(c.args[0]) == z3.IntVal(0)
    if isinstance(c, Count):
        weights = [z3.If(boolean(x), int(w), 0) for w, x in zip(c.args[::2], c.args[1::2], strict=True)]
        return z3.Sum(weights) == z3.IntVal(0)
    if isinstance(c, sympy.Rel):
        x = _polynomial(c.lhs - c.rhs)
        zero = z3.IntVal(0)
        kinds = {"==": x == zero, "!=": x != zero, "<": x < zero, "<=": x <= zero, ">": x > zero, ">=": x >= zero}
        return kinds[c.rel_op]
    raise TooHardError(f"the condition {c}", "comparisons of formulas")


def _polynomial(e: sympy.Expr) -> Any:
    """An expression with rational coefficients, times their common denominator, as a z3 term."""
    e = sympy.expand(e)
    if e.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
        raise TooHardError(f"the formula {e}", "one with finite values")
    denominators = [x.as_coeff_Mul()[0].q for x in sympy.Add.make_args(e)]
    return _integer(sympy.expand(e * lcm(*map(int, denominators))))


def _integer(e: sympy.Expr) -> Any:
    """A polynomial with integer coefficients as a z3 term."""
    if e.is_Integer:
        return z3.IntVal(int(e))
    if e.is_Symbol:
        return z3.Int(e.name)
    if e.is_Add:
        return z3.Sum([_integer(x) for x in e.args])
    if e.is_Mul:
        return z3.Product([_integer(x) for x in e.args])
    if e.is_Pow and e.exp.is_Integer and e.exp > 0:
        return z3.Product([_integer(e.base)] * int(e.exp))
    if isinstance(e, CeilLog) or (e.is_Pow and e.is_integer is not False):
        return z3.Int(str(e))  # an integer of which nothing else is known
    raise TooHardError(f"the formula {e}", "one of polynomials, floors, minima and cases")
