"""Live keys verified by a witness: which keys some later query attends, for all values of the symbols.

A certificate proposes the live keys of tokens 0 .. t as intervals, one after another, and a query after t for each of
them. With a(i, j) the term's definition, of a sequence that may go on for ever:

    if i > t >= j >= 0 and a(i, j), then j is in an interval, whatever n > i is
    if j is in an interval, then its query is after t and attends it, whatever n is that it is a token of
    the intervals do not overlap, and their lengths add up to the formula

Lemmas of the certificate are about a query i > t and a key j, and proved before they are used.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.domains import domain
from pidsl.analysis.formulas.smt import Obligation, Prover
from pidsl.analysis.formulas.smtlib import SIDES, Definition
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.symbolic.definition import I, J, attends, refusing
from pidsl.analysis.verdict import Verdict

t = symbol("t")


@refusing
def check_live(bound: Bound) -> Verdict:
    """Verify which keys are live, and how many."""
    term = Definition("attends", (I, J), attends(bound.term, I, J))
    prover = Prover(definitions=(term, Definition("formula", (t,), bound.expr)), heading=str(bound))
    prover.all(_obligations(bound, *prover.definitions))
    return prover.verdict()


def _obligations(bound: Bound, term: Definition, formula: Definition) -> Iterator[Obligation]:
    given = tuple(dict.fromkeys((*bound.assumptions, *domain(bound.term))))
    yield Obligation("assumed: t >= 0", given, t >= 0)
    intervals = tuple(bound.certificate.fact("intervals"))
    past = (*given, J >= 0, J <= t)
    inside = [sympy.And(first <= J, J < last) for first, last, _ in intervals]
    lengths, end = [], sympy.Integer(0)
    for first, last, _ in intervals:
        yield Obligation("intervals after one another", given, sympy.And(end <= first, first <= last))
        lengths.append(last - first)
        end = last
    yield Obligation("keys of tokens 0 .. t", given, end <= t + 1)
    if bound.relation in ("==", "<="):
        later, lemmas = (*past, I > t, n > I), tuple(bound.certificate.fact("lemmas") or ())
        yield from (Obligation("a lemma", (*given, t >= 0, I > t), lemma) for lemma in lemmas)
        yield Obligation("no other key is attended", (*later, term(I, J), *lemmas), sympy.Or(*inside))
    if bound.relation in ("==", ">="):
        for within, (_, _, queries) in zip(inside, intervals, strict=True):
            yield Obligation("a query for each key", (*past, within), sympy.Or(*(when for when, _ in queries)))
            for when, query in queries:
                asked = (*past, within, *(() if when == sympy.true else (when,)))
                yield Obligation("a later one", asked, query > t)
                yield Obligation("attended again", (*asked, query > t, n > query), term(query, J))
    yield Obligation("the formula", given, SIDES[bound.relation](formula(t) - sympy.Add(*lengths)))
