"""Obligations over integers with symbols, decided by z3: polynomials, floors, minima, case distinctions.

An obligation says: under these conditions, the conclusion holds for all integers. Before the solver sees it, it is
split into cases in which nothing but polynomials is left:

    Min(a, b)          a where a <= b, else b; likewise Max, Abs and Piecewise
    floor(x/p), p a number or a symbol >= 1, proved to be >= 1
                       a new integer q with p*q <= x < p*(q + 1)
    x = p*q + r        where x is split by p on request: floor((x + d)/p) is q + s with |s| <= |d|, one case each
    b**x, CeilLog      integers of which the definition says how they are ordered

What is left is sent to the solver. On request (`writing`) every obligation is written down in SMT-LIB, so that any
solver can be asked again: as a whole, with definitions of what it is about, and where z3 needs them the cases, after
the claim that there are no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import sympy
import z3

from pidsl.analysis.formulas.smtlib import (
    Condition,
    Definition,
    Writer,
    asserted,
    declared,
    divided,
    expanded,
    named,
    quotient,
    used,
    written,
)
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
_writing: list[bool] = []  # whether scripts are written, innermost last


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
    named: tuple[tuple[sympy.Symbol, sympy.Expr], ...] = ()  # symbols of its own, and what they stand for


@dataclass
class Prover:
    """Discharges obligations one after another, and keeps what it asked.

    Attributes:
        steps: names of what was proved.
        definitions: what obligations are stated with.
        heading: what is proved, at the top of the first script.
        scripts: SMT-LIB scripts, each expected to be `unsat`; none, unless inside of `writing`.
        failure: the first obligation that could not be proved, "" so far.
    """

    steps: list[str] = field(default_factory=list)
    definitions: tuple[Definition, ...] = ()
    heading: str = ""
    scripts: list[str] = field(default_factory=list)
    failure: str = ""
    _fresh: Iterator[int] = field(default_factory=count)

    def prove(self, obligation: Obligation) -> bool:
        """Whether the obligation holds; a failure is remembered and ends the proof."""
        if self.failure:
            return False
        cases: list[_Case] = []
        reason = self._refusal(obligation, cases)
        if _writing:
            self._write(obligation, [] if reason else cases)
        if reason:
            self.failure = f"{obligation.name}: {reason}"
            return False
        self.steps.append(obligation.name)
        return True

    def all(self, obligations: Iterable[Obligation]) -> bool:
        """Whether every one holds."""
        return all(map(self.prove, obligations))

    def verdict(self) -> Verdict:
        """What came of it."""
        return Verdict(not self.failure, tuple(self.steps), self.failure, "\n(reset)\n".join(self.scripts))

    def _refusal(self, o: Obligation, proved: list[_Case]) -> str:
        """Why it does not hold, "" where it does: then all of its cases are kept."""
        given = tuple(expanded(c, self.definitions) for c in o.conditions)
        start, split = self._by_symbols(_opaque(given, expanded(o.conclusion, self.definitions)), o.split)
        if split is not None:
            start = self._euclid(start, *split)
        for number, case in enumerate(self._cases(start)):
            if number >= MOST_CASES:
                return f"more than {MOST_CASES} cases"
            answer = _decided(case)
            if answer != "unsat":
                return answer
            proved.append(case)
        return ""

    def _write(self, o: Obligation, cases: list[_Case]) -> None:
        """The obligation as a script; and one for each of its cases and one that says that these are all, if need be.

        Where z3 decides it as a whole, or refutes it, the script of the whole is enough.
        """
        about, contrary = _whole(o, self.definitions)
        start = f"{'' if self.scripts else _comment(self.heading)}; {o.name}"
        whole = f"{start}, as a whole\n{about}{contrary}(check-sat)\n"
        if not cases or _answer(whole, RESOURCES, fresh=True)[0] == "unsat":
            self.scripts.append(whole)
            return
        named = dict(pair for case in cases for pair in case.named)
        writer = Writer(taken={s.name for s in named})
        bodies = [sympy.And(*case.conditions, sympy.Not(case.conclusion), evaluate=False) for case in cases]
        own = {s for x in (*bodies, *named.values(), *named) for s in x.free_symbols}
        known = {s for x in (*o.conditions, o.conclusion) for s in x.free_symbols}
        meant = []
        for x, e in named.items():
            meant.append(f"(assert (= {writer.whole(x)} {writer.whole(e)}))\n")
            if isinstance(e, sympy.floor):
                above, below = quotient(e.args[0])
                inside = sympy.And(below * x <= above, above < below * x + below, evaluate=False)
                meant.append(f"(assert (=> {writer.condition(below >= 1)} {writer.condition(inside)}))\n")
        every = "(or " + " ".join(map(written, bodies)) + " false)"
        start = f"{start}: every counterexample is one of the {len(cases)} cases that follow\n"
        self.scripts.append(
            f"{start}{about}{declared(own - known)}{''.join(meant)}{contrary}(assert (not {every}))\n(check-sat)\n"
        )
        for number, case in enumerate(cases):
            script = _script([*case.conditions, sympy.Not(case.conclusion)])
            self.scripts.append(f"; {o.name}: case {number + 1} of {len(cases)}\n{script}")

    def _by_symbols(
        self, case: _Case, split: tuple[sympy.Symbol, sympy.Expr] | None
    ) -> tuple[_Case, tuple[sympy.Symbol, sympy.Expr] | None]:
        """Divisors that are sums as symbols of their own: with D = p + k, k becomes D - p everywhere.

        D takes every integer when k does, so the obligation is for the same integers as before. Where k is a divisor
        itself, that would only make another sum of it: each step leaves fewer of them.
        """
        sums = _sums(case)
        for divisor in sums:
            for x in sorted(divisor.free_symbols, key=lambda s: s.name):
                factor = divisor.coeff(x, 1)
                rest = divisor - factor * x
                if factor in (1, -1) and not rest.has(x) and (split is None or x != split[0]):
                    own = internal(f"d{next(self._fresh)}")
                    moved = {x: factor * (own - rest)}
                    by = None if split is None else (split[0], sympy.expand(split[1].subs(moved)))
                    given = [c.subs(moved) for c in case.conditions]
                    named = (*case.named, (own, divisor))
                    found = _Case(given, case.conclusion.subs(moved), case.free - {x}, named)
                    if len(_sums(found)) < len(sums):
                        return self._by_symbols(found, by)
        return case, split

    def _euclid(self, case: _Case, x: sympy.Symbol, p: sympy.Expr) -> _Case:
        k = next(self._fresh)
        q, r = internal(f"q{k}"), internal(f"r{k}")
        moved = {x: p * q + r}
        conditions = [c.subs(moved) for c in case.conditions]
        named = (*case.named, (q, sympy.floor(x / p)), (r, x - p * q))
        return _Case([r >= 0, r < p, *conditions], case.conclusion.subs(moved), case.free - {x}, named)

    def _cases(self, case: _Case) -> Iterator[_Case]:
        """`case` split until no minimum, floor or piecewise is left; cases that cannot occur are dropped."""
        atom = _innermost([*case.conditions, case.conclusion])
        if atom is None:
            yield case
            return
        for value, conditions in self._values(atom, case.conditions):
            named = case.named
            if isinstance(atom, sympy.floor) and value.is_Symbol:
                named = (*named, (value, atom))
            added = [c for c in conditions if c != sympy.true]
            if sympy.false in added:
                continue
            kept = [_replace(c, atom, value) for c in case.conditions]
            kept = [c for c in kept if c != sympy.true]
            if sympy.false in kept:
                continue
            found = _Case([*kept, *added], _replace(case.conclusion, atom, value), case.free, named)
            branch = _without_equalities(found)
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
        above, below = quotient(atom.args[0])
        own = [c for c in conditions if c.free_symbols <= below.free_symbols]
        if not any(below.is_positive or _impossible([*known, below <= 0]) for known in (own, conditions)):
            raise TermError(f"a division by {below}", f"{below} >= 1 by assumption", where=str(atom))
        multiple, rest = divided(above, below)
        remainders = [x for x in rest.free_symbols if re.fullmatch(r"r\d+!", x.name)]
        small = remainders[0] if len(remainders) == 1 else sympy.Integer(0)  # 0 <= small < below
        if small == 0 or (small < below) in conditions:
            ends = _quotients(sympy.expand(rest - small), below, conditions)
            values = range(ends[0], ends[1] + 1) if ends else ()
            if values:
                return [(multiple + s, [below * s <= rest, rest < below * (s + 1)]) for s in values]
        q = internal(f"f{next(self._fresh)}")
        return [(q, [below * q <= above, above <= below * q + below - 1])]


def _decided(case: _Case) -> str:
    """`unsat` when the conclusion follows, else what z3 says instead."""
    contrary = sympy.Not(case.conclusion)
    answer, model = _answer(_script([*case.conditions, contrary]), FIRST_RESOURCES)
    if answer not in ("sat", "unsat"):  # again, with products, in a context that has seen no other question
        products = _products([*case.conditions, contrary])
        answer, model = _answer(_script([*case.conditions, *products, contrary]), RESOURCES, fresh=True)
        case.conditions += products
    return answer if answer != "sat" else f"does not hold at {model}"


def _script(conditions: Sequence[Condition]) -> str:
    return f"(set-logic QF_NIA)\n{declared(conditions)}{asserted(conditions)}(check-sat)\n"


def _whole(o: Obligation, definitions: Iterable[Definition]) -> tuple[str, str]:
    """An obligation as a script: its conditions, after definitions of what it is stated with, and its contrary."""
    parts = (*o.conditions, o.conclusion)
    plain, definitions = [expanded(x, definitions) for x in parts], used(parts, definitions)
    inside = {p for d in definitions for p in d.parameters}
    free = {s for x in (*parts, *plain) for s in x.free_symbols}
    free |= {s for d in definitions for s in d.body.free_symbols - inside}
    writer = Writer(definitions, {s.name for s in free | inside})
    defined = "".join(f"{line}\n" for line in writer.defined())
    given = asserted([*o.conditions, *_logarithms(plain)], writer.condition)
    contrary = f"(assert (not {writer.condition(o.conclusion)}))\n"
    functions = [x for x in ("power", "log") if f"({x} " in defined + given + contrary]
    lines = [f"(set-logic {'QF_UFNIA' if functions else 'QF_NIA'})\n"]
    lines += [f"(declare-fun {x} (Int Int) Int)\n" for x in functions]
    lines += [declared(free), *(f"(declare-const {x} Int)\n" for x in writer.gaps)]
    names = {named(s.name) for s in free}
    for function, x in sorted(writer.bases):  # of the others nothing needs to be known
        if x in names or x.isdigit():
            lines += [f"(assert {_FIRST[function].format(x)})\n"]
    lines += [defined, given]
    return "".join(lines), contrary


_FIRST = {  # of a power, and of a logarithm, of which z3 is asked by their definition
    "power": "(and (= (power {0} 0) 1) (= (power {0} 1) {0}))",
    "log": "(=> (>= {0} 2) (and (= (log {0} 1) 0) (= (log {0} {0}) 1)))",
}


def _comment(text: str) -> str:
    return "".join(f"; {line}\n" for line in text.splitlines())


def consistent(conditions: Sequence[Condition]) -> bool:
    """Whether some integers satisfy all conditions. Only a definite `no` is a no."""
    prover = Prover()
    return any(not _impossible(case.conditions) for case in prover._cases(_opaque(conditions, sympy.true)))


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
    """What is known of powers, for b >= 2, and of c(x), the least c >= 0 with b**c >= x.

    By its definition c(x) > e for an e >= 0 when b**e < x. So 0 <= c(x) <= x - 1 and 1 <= c(x) for x >= 2, x >= 1.
    As b**c >= x gives b**(c + 1) >= 2*x >= x + 1, c(x) <= c(x + 1) <= c(x) + 1.
    """
    atoms = sorted({a for part in parts for a in part.atoms(CeilLog)}, key=sympy.default_sort_key)
    powers = _powers(parts)
    found: list[Condition] = []
    for power in powers:
        base, e = power.args
        found.append(sympy.Or(sympy.Not(sympy.And(base >= 2, e >= 0)), power >= e + 1))
        for a in atoms:
            if a.args[0] == base:
                more = sympy.Or(sympy.And(a > e, power < a.args[1]), sympy.And(a <= e, power >= a.args[1]))
                found.append(sympy.Or(sympy.Not(sympy.And(base >= 2, e >= 0)), more))
        for other in powers:
            if other.args[0] == base and sympy.expand(other.args[1] - e) == 1:
                found.append(sympy.Or(sympy.Not(sympy.And(base >= 2, e >= 0)), sympy.Eq(other, base * power)))
    for a in atoms:
        base, x = a.args
        fits = sympy.And(base >= 2, x >= 1)
        found.append(sympy.Or(sympy.Not(fits), sympy.And(a >= 0, a <= x - 1, sympy.Or(x < 2, a >= 1))))
        for b in atoms:
            if b.args[0] == base and sympy.expand(b.args[1] - x) == 1:
                found.append(sympy.Or(sympy.Not(fits), sympy.And(a <= b, b <= a + 1)))
    return [c for c in found if c != sympy.true]


def _is_power(x: sympy.Expr) -> bool:
    return x.is_Pow and not x.exp.is_Integer and x.exp.is_integer is not False


def _powers(parts: Iterable[Condition]) -> list[sympy.Expr]:
    """Powers of which the exponent is open; 1/b**x is made of b**x."""
    found = {a for part in parts for a in part.atoms(sympy.Pow) if _is_power(a)}
    return sorted({1 / a if a.exp.could_extract_minus_sign() else a for a in found}, key=sympy.default_sort_key)


def _multiplied(c: Condition) -> Condition:
    """Comparisons of what is divided by a power of a number, multiplied by it: `floor(x/2**L) <= 1` is `x/2**L < 2`."""
    for part in c.atoms(sympy.Rel):
        above, below = quotient(part.lhs - part.rhs)
        if any(map(_is_power, below.atoms(sympy.Pow))) and below.is_positive:
            c = c.xreplace({part: part.func(above, 0)})
    return c


def _opaque(conditions: Iterable[Condition], conclusion: Condition) -> _Case:
    """Powers and logarithms as integers of which nothing is known but how they are ordered."""
    parts = [_multiplied(c) for c in (*conditions, conclusion)]
    known = _logarithms(parts)
    logarithms = sorted({a for part in parts for a in part.atoms(CeilLog)}, key=sympy.default_sort_key)
    meant = [(internal(f"v{k}"), a) for k, a in enumerate([*logarithms, *_powers([*parts, *known])])]
    own = {a: v for v, a in meant} | {1 / a: 1 / v for v, a in meant if a.is_Pow}
    parts, known = ([c.xreplace(own) for c in some] for some in (parts, known))
    divisors = {s for x in parts for a in x.atoms(sympy.floor, sympy.Mod) for s in _divisor(a).free_symbols}
    free = frozenset(s for x in parts for s in x.free_symbols) - divisors
    return _Case([*parts[:-1], *known], parts[-1], free, tuple(meant))


def _sums(case: _Case) -> list[sympy.Expr]:
    """The divisors of an obligation that are sums."""
    parts: tuple[Condition, ...] = (*case.conditions, case.conclusion)
    divisors = {_divisor(a) for x in parts for a in x.atoms(sympy.floor, sympy.Mod)}
    return sorted((d for d in divisors if isinstance(d, sympy.Add)), key=str)


def _divisor(atom: sympy.Expr) -> sympy.Expr:
    if isinstance(atom, sympy.Mod):
        return atom.args[1]
    return quotient(atom.args[0])[1]


def _replace(c: Condition, atom: Any, value: Any) -> Condition:
    return c.xreplace({atom: value}) if c.has(atom) else c


def _impossible(conditions: Sequence[Condition]) -> bool:
    """Whether the conditions that are split already contradict each other; those that are not yet wait."""
    plain = [c for c in conditions if c != sympy.true and not c.has(*_SPLIT)]
    return bool(plain) and _answer(_script(plain), PRUNE_RESOURCES)[0] == "unsat"  # of nothing, z3 takes 2 ms as well


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


@contextmanager
def writing() -> Iterator[None]:
    """Write scripts inside."""
    _writing.append(True)
    try:
        yield
    finally:
        _writing.pop()


@in_turn
def _answer(script: str, resources: int, *, fresh: bool = False) -> tuple[str, str]:
    """z3's answer to a script, and the model it found."""
    if _left:
        _left[-1] -= AGAIN if fresh else 1
        if _left[-1] < 0:
            raise TooHardError("more questions to z3 than a formula that was just found gets", "fewer")
    solver = z3.Solver(ctx=z3.Context()) if fresh else z3.Solver()
    solver.set("rlimit", resources)
    solver.from_string(script)
    answer, model = str(solver.check()), ""
    if answer == "sat":
        found = solver.model()
        model = ", ".join(sorted(f"{d.name()} = {found[d]}" for d in found.decls()))
    if answer == "unknown":
        answer = f"z3 does not decide it ({solver.reason_unknown()})"
    return answer, model
