"""Reach of L layers by induction over L: every obligation is made of the term and the statement.

A certificate proposes what L layers reach, and what one would have to search for: witnesses, the last step of a path,
the farthest pair, lemmas. None of it is believed. With R(i, j, L) for "some w is a witness of it":

    one layer       R(i, j, 1) is what the term, or the rule's first layer, attends
    one more        if i attends m in layer L and R(m, j, L), then R(i, j, L + 1)
                    if R(i, j, L + 1), then i attends some token m between i and j in layer L, and R(m, j, L)
    farthest        no pair is farther than the formula, and one is as far
    contiguous      all lags up to the formula are reached, and the next is not, if there is one
    depth           that many layers reach all lags, and no fewer do

Where only the lag matters, obligations are about lags: shifting all tokens changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas.smt import Obligation, Prover, follows
from pidsl.analysis.formulas.smtlib import Applied, Condition, Definition
from pidsl.analysis.formulas.words import L, internal, n
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.symbolic.definition import I, J, M, W, attends, first_layer, layer_at, refusing, rule_domain
from pidsl.analysis.verdict import Verdict

And, Or, Not, Eq = sympy.And, sympy.Or, sympy.Not, sympy.Eq
Conditions = tuple[Condition, ...]
X, A, B = internal("x"), internal("a"), internal("b")  # lags: of the pair, of the last layer, of those before it
COMPARED: dict[str, Any] = {"==": Eq, "<=": sympy.Ge, ">=": sympy.Le}  # formula against what it bounds
INFINITY = internal("infinity")


@refusing
def check_reach(bound: Bound) -> Verdict:
    """Verify what L layers reach, and the formula from it."""
    return _Proof(bound, dict(bound.certificate.facts)).verdict()


@dataclass(frozen=True)
class _Claim:
    """An obligation about the query i! and the key j!.

    Args:
        key: what lemmas call it by.
        name: for people.
        conditions, conclusion: as of an `Obligation`.
        within: tokens that are among the n.
    """

    key: str
    name: str
    conditions: Conditions
    conclusion: Condition
    within: tuple[sympy.Symbol, ...] = ()


@dataclass(frozen=True)
class _Proof:
    """The obligations of a statement, with the facts of its certificate."""

    bound: Bound
    facts: dict[str, Any]

    def verdict(self) -> Verdict:
        """Prove one obligation after another, after the lemmas that it needs."""
        prover = Prover(definitions=self.definitions, heading=str(self.bound))
        about_n = (n >= 1,) if self.bound.quantity == "depth" else (L >= 1, n >= 1)
        for c in (*self.facts["needs"], *about_n):
            if c not in self.given:
                prover.prove(Obligation(f"assumed: {c}", self.given, c))
        proved: set[Obligation] = set()
        for claim in (*self.induction(), *getattr(self, self.bound.quantity)()):
            conditions = [*self.ranges(claim.within), *(self.moved(c, claim) for c in claim.conditions)]
            for key, when, lemma in self.facts["cuts"]:
                if key != claim.key:
                    continue
                when, lemma = tuple(self.moved(c, claim) for c in when), self.moved(lemma, claim)
                made = Obligation(f"{claim.name}: a lemma", (*self.known, *when), lemma)
                if made not in proved:
                    prover.prove(made)
                    proved.add(made)
                conditions.append(lemma if set(when) <= {*conditions} else Or(*map(Not, when), lemma))
            given = tuple(dict.fromkeys((*self.known, *conditions)))
            prover.prove(Obligation(claim.name, given, self.moved(claim.conclusion, claim)))
        return prover.verdict()

    # -- what is given ---------------------------------------------------------------------------------------------

    @cached_property
    def sizes(self) -> Conditions:
        rule = self.bound.subject
        return rule_domain(rule) if isinstance(rule, LayerRule) else domain(self.bound.term)

    @cached_property
    def given(self) -> Conditions:
        """The assumptions of the statement."""
        return tuple(dict.fromkeys((*self.bound.assumptions, *self.sizes)))

    @cached_property
    def known(self) -> Conditions:
        """What is known of the sizes and of L."""
        needs = tuple(self.facts["needs"])
        return (*needs, *(c for c in self.sizes if c not in needs and not follows(needs, c)), L >= 1)

    @cached_property
    def pairs(self) -> tuple[Definition, ...]:
        """Of a query and a key: what one layer attends, layer L, what L layers reach, and the formula."""
        rule, reached = self.bound.subject, self.facts["reached"]
        if isinstance(rule, LayerRule):
            first, layer = first_layer(rule, I - J), layer_at(rule, I - J)
        else:
            first = layer = attends(self.bound.term, I, J)
        needs = self.facts["needs"]
        if any(isinstance(c, sympy.Expr) for c in (reached, *needs)) or any(c.has(L) for c in needs):
            raise TypeError(f"no conditions, or none of the sizes alone: {reached}, {needs}")
        return (
            Definition("attends", (I, J), first), Definition("layer", (I, J, L), layer),
            Definition("reached", (I, J, L, W), reached),
        )  # fmt: skip

    @cached_property
    def is_by_lag(self) -> bool:
        """Whether the lag tells everything."""
        return not any(d.body.subs(I, J + X).has(J) or d.body.has(n) for d in self.pairs)

    @cached_property
    def definitions(self) -> tuple[Definition, ...]:
        """All of them, of the lag alone where that tells everything."""
        formula = Definition("formula", (n, L), self.bound.expr.xreplace({sympy.oo: INFINITY, -sympy.oo: -INFINITY}))
        if not self.is_by_lag:
            return (*self.pairs, formula)
        return (*(Definition(d.name, (X, *d.parameters[2:]), d.body.subs(I, J + X)) for d in self.pairs), formula)

    def moved(self, c: Condition, claim: _Claim) -> Condition:
        """A condition on i!, j! and m! as one on lags: x!, or b! and a! where there is a token between."""
        if not self.is_by_lag:
            return c
        lags = {I: A + B, M: B, J: sympy.Integer(0)} if claim.key == "longer" else {I: X, J: sympy.Integer(0)}
        names = {d.name: d for d in self.definitions[:3]}
        applied = {a: names[str(a.args[0])](a.args[1] - a.args[2], *a.args[3:]) for a in c.atoms(Applied)}
        return c.xreplace(applied).subs(lags, simultaneous=True)

    def ranges(self, tokens: tuple[sympy.Symbol, ...]) -> Conditions:
        if self.is_by_lag:
            return (X <= n - 1,) if tokens else ()
        return tuple(c for x in tokens for c in (x >= 0, x < n))

    # -- obligations -----------------------------------------------------------------------------------------------

    def layer(self, query: sympy.Expr, key: sympy.Expr) -> Condition:
        """Layer L."""
        attends, layer, _ = self.pairs
        return layer(query, key, L) if isinstance(self.bound.subject, LayerRule) else attends(query, key)

    def reached(self, query: sympy.Expr, key: sympy.Expr, layers: sympy.Expr = L, w: sympy.Expr = W) -> Condition:
        return self.pairs[2](query, key, layers, w)

    def formula(self) -> sympy.Expr:
        return self.definitions[-1](n, L)

    def cases(self, cases: Iterable[Any], claim: _Claim, conclude: Callable[..., Condition]) -> Iterator[_Claim]:
        """A claim case by case, after the claim that there are no others: `conclude` makes what follows in a case."""
        cases = tuple(cases)
        if all(when != sympy.true for when, *_ in cases):
            every = Or(*(when for when, *_ in cases))
            if every != sympy.true:
                yield _Claim(claim.key, f"{claim.name}: no other case", claim.conditions, every, claim.within)
        for when, *rest in cases:
            conditions = (*claim.conditions, *(() if when == sympy.true else sympy.And.make_args(when)))
            yield _Claim(claim.key, claim.name, conditions, conclude(*rest), claim.within)

    def induction(self) -> Iterator[_Claim]:
        """What L layers reach."""
        pair, one = () if self.is_by_lag else (I, J), self.pairs[0](I, J)
        yield from self.cases(
            self.facts["first"], _Claim("first", "one layer reaches what it attends", (one,), one, pair),
            lambda w: self.reached(I, J, sympy.Integer(1), w),
        )  # fmt: skip
        now = self.reached(I, J, sympy.Integer(1))
        yield _Claim("first back", "one layer reaches no more", (now,), one, pair)
        path = (self.layer(I, M), self.reached(M, J))
        yield from self.cases(
            self.facts["longer"], _Claim("longer", "one more layer reaches no more", path, one, pair and (I, J, M)),
            lambda w: self.reached(I, J, L + 1, w),
        )  # fmt: skip
        more = self.reached(I, J, L + 1)
        yield from self.cases(
            self.facts["between"], _Claim("between", "one more layer reaches it", (more,), more, pair),
            lambda m, w: And(self.between(m), self.layer(I, m), self.reached(m, J, L, w)),
        )  # fmt: skip

    def between(self, token: sympy.Expr) -> Condition:
        return Or(And(J <= token, token <= I), And(I <= token, token <= J))

    def inside(self, query: sympy.Expr, key: sympy.Expr) -> Condition:
        return And(query >= 0, query < n, key >= 0, key < n)

    def farthest(self) -> Iterator[_Claim]:
        """No pair is farther, and one is as far."""
        formula, relation = self.formula(), self.bound.relation
        if relation in ("==", "<="):
            yield _Claim("beyond", "nothing beyond", (*self.given, self.reached(I, J)), I - J <= formula, (I, J))
        if relation in ("==", ">="):
            yield from self.cases(
                self.facts["attained"], _Claim("attained", "reached", self.given, sympy.true),
                lambda i, j, w: And(self.inside(i, j), formula <= i - j, self.reached(i, j, L, w)),
            )  # fmt: skip

    def connected(self) -> Iterator[_Claim]:
        """In each case of L layers: all lags up to so many are reached, and the next one is not."""
        whole = (n >= 1,)
        for number, (when, far, every, missing) in enumerate(self.facts["connected"], 1):
            case = (*whole, *sympy.And.make_args(when))
            lags = (J <= I,) if far == sympy.oo else (J <= I, I - J <= far)
            yield from self.cases(
                every, _Claim(f"every {number}", "every lag up to it", (*case, *lags), when, (I, J)),
                lambda w: self.reached(I, J, L, w),
            )  # fmt: skip
            if far != sympy.oo:
                yield from self.cases(
                    missing, _Claim(f"missing {number}", "not the next", (*case, far + 1 <= n - 1), when),
                    lambda i, j, far=far: And(self.inside(i, j), Eq(i - j, far + 1), Not(self.reached(i, j))),
                )  # fmt: skip
        every_case = Or(*(when for when, *_ in self.facts["connected"]))
        yield _Claim("connected", "no other case", whole, every_case)

    def contiguous(self) -> Iterator[_Claim]:
        """The formula is the lag up to which all are reached."""
        yield from self.connected()
        compare = COMPARED[self.bound.relation]
        for when, far, *_ in self.facts["connected"]:
            value = n - 1 if far == sympy.oo else sympy.Min(far, n - 1)
            yield _Claim("formula", "the formula", (*self.given, when), compare(self.formula(), value))

    def depth(self) -> Iterator[_Claim]:
        """So many layers reach all lags, and no fewer do."""
        yield from self.connected()
        relation = self.bound.relation
        for when, layers in _branches(self.bound.expr):
            given = (*self.given, *when)
            if layers == sympy.nan:
                yield _Claim("enough", "a case for everything", given, sympy.false)
                continue
            if layers == sympy.oo:
                yield from self.unconnected(given)
                continue
            if relation in ("==", "<="):
                yield _Claim("enough", "at least one layer", given, layers >= 1)
            for case, far, *_ in self.facts["connected"]:
                enough = sympy.true if far == sympy.oo else (far >= n - 1).subs(L, layers)
                if relation in ("==", "<=") and enough != sympy.true:
                    yield _Claim("enough", "enough layers", (*given, case.subs(L, layers)), enough)
            if relation in ("==", ">="):
                yield from self.unconnected((*given, L <= layers - 1))

    def unconnected(self, given: Conditions) -> Iterator[_Claim]:
        """L layers do not reach all lags."""
        for case, far, *_ in self.facts["connected"]:
            missing = sympy.false if far == sympy.oo else far < n - 1
            yield _Claim("fewer", "fewer are not enough", (*given, case), missing)


def _branches(expr: sympy.Expr) -> Iterator[tuple[Conditions, sympy.Expr]]:
    """The cases of a formula, each with what else it is not."""
    if not isinstance(expr, sympy.Piecewise):
        yield (), expr
        return
    before: Conditions = ()
    for value, condition in expr.args:
        own = (*before, *(() if condition == sympy.true else (condition,)))
        yield own, value
        before = (*before, Not(condition))
    if expr.args[-1][1] != sympy.true:
        yield before, sympy.nan
