"""Which ways there are to answer a question, in order of price: the table of contents of this package.

A way is a function that finds a bound for a question, or says why it cannot. One loop tries them: the first answer that
nothing could be stronger than is taken, else the strongest of all. No answer is returned that a dense mask contradicts
(`held_out`), or that its own rule does not confirm where that may fail. Without an answer, every reason is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import islpy as isl
import sympy

from pidsl.analysis import choices, held_out
from pidsl.analysis.bound import Bound, Question, Subject, restated
from pidsl.analysis.consequence import RULE
from pidsl.analysis.formulas import smt
from pidsl.analysis.formulas.words import Periodic, Table, divides, n
from pidsl.analysis.rules import verdict_of
from pidsl.analysis.schedules import LayerRule
from pidsl.analysis.sizes import FLOPS
from pidsl.analysis.statements import names_of
from pidsl.analysis.verdict import soon
from pidsl.analysis.ways import Asked, Confirmed, Kind, NotMine, Way
from pidsl.errors import PidslError, TooHardError
from pidsl.language.terms import Halo, Neighborhood, Pairs, Term, walk
from pidsl.relation.isl import in_turn, patience

MANY = 256  # tokens of a grid of several axes, or listed pairs, of which isl's operations take long
SHARE = 0.03  # of the usual operations that questions about such terms get
QUESTIONS = 1500  # to z3, for confirming an answer: a few seconds

MADE = (Way("what it is made of", "made:by_source"),)
REACH = (
    Way("no layer", "made:no_layer"),
    Way("axes of a grid", "smaller.grids:answer", "numbers"),
    Way("families of lags", "symbolic.lag_reach:reach", confirmed="where a symbol divides"),
    Way("sums of lags", "layers.by_lags:reach", "numbers"),
    Way("layers composed", "layers.by_composition:reach", "numbers"),
    Way("short sequences", "layers.by_short:reach", "numbers", "always"),
    Way("blocks", "smaller.blocks:of_so_many_layers", "numbers"),
    Way("few tokens, then layers composed", "layers.by_tokens:reach", "numbers", "always"),
    Way("a form in L", "layers.by_forms:by_form", "numbers", "where it divides"),
    Way("layers that repeat", "layers.by_forms:by_repetition", "numbers", "always"),
    Way("short sequences that repeat", "layers.by_short:any_number", "numbers", "always"),
    Way("a form in L, for long sequences", "layers.by_forms:by_late_form", "numbers", "where it divides"),
    Way("layers that repeat, for long sequences", "layers.by_forms:by_late_repetition", "numbers", "always"),
    Way("axes of a small grid", "smaller.grids:of_few_tokens", "numbers"),
    Way("blocks", "smaller.blocks:answer", "numbers"),
)

WAYS: dict[str, tuple[Way, ...]] = {
    "pairs": (
        Way("axes of a grid", "smaller.grids:answer", "numbers"),
        Way("lags", "symbolic.lag_counts:pairs", "symbols", "where it divides"),
        Way("corners", "symbolic.corners:pairs", "symbols"),
        Way("blocks", "smaller.blocks:answer", "numbers"),
        Way("chambers of n", "counting.counts:pairs", "numbers"),
        Way("lags", "symbolic.lag_counts:pairs", "numbers", "where it divides"),
    ),
    "degree": (
        Way("axes of a grid", "smaller.grids:answer", "numbers"),
        Way("lags", "symbolic.lag_counts:degree", confirmed="where a symbol divides"),
        Way("blocks", "smaller.blocks:answer", "numbers"),
        Way("progressions of keys", "counting.degrees:of_query", "numbers", "where it divides"),
        Way("corners", "symbolic.corners:degree", "symbols"),
    ),
    "max degree": (
        Way("axes of a grid", "smaller.grids:answer", "numbers"),
        Way("lags", "symbolic.lag_counts:largest", confirmed="where a symbol divides"),
        Way("blocks", "smaller.blocks:answer", "numbers"),
        Way("progressions of keys", "counting.degrees:largest", "numbers", "where it divides"),
        Way("keys of few tokens", "counting.degrees:largest_of_few", "numbers", "always"),
        Way("the degree of each query", "symbolic.lag_counts:largest_of_degrees", "symbols", "always"),
    ),
    "live keys": (
        Way("axes of a grid", "smaller.grids:answer", "numbers"),
        Way("chambers of t", "counting.counts:live", "numbers"),
        Way("lags", "symbolic.lag_live:live", confirmed="where a symbol divides"),
        Way("blocks", "smaller.blocks:answer", "numbers"),
    ),
    "received keys": (Way("live keys, and reach ahead", "symbolic.ranks:received"),),
    "live pages": (Way("chambers of t", "counting.counts:live", "numbers"),),
    "farthest": REACH,
    "contiguous": REACH,
    "depth": (
        Way("axes of a grid", "smaller.grids:answer", "numbers"),
        Way("families of lags", "symbolic.lag_reach:depth", confirmed="where a symbol divides"),
        Way("matrices of few tokens", "layers.by_composition:by_small_matrices", "numbers"),
        Way("sums of lags, layer by layer", "layers.by_lags:depth_of_schedule", "numbers"),
        Way("the formula in n", "layers.by_composition:by_formula"),
        Way("matrices", "layers.by_composition:by_matrices", "numbers"),
        Way("sums of lags", "layers.by_lags:depth", "numbers"),
        Way("blocks", "smaller.blocks:answer", "numbers"),
        Way("layers composed", "layers.by_composition:depth", "numbers", "where it divides"),
        Way("short sequences", "layers.by_short:depth", "numbers", "always"),
        Way("tokens followed", "layers.by_tokens:depth", "numbers", "always"),
        Way("axes of a small grid", "smaller.grids:of_few_tokens", "numbers"),
    ),
    **dict.fromkeys(("sparsity", "average degree", "kv bytes", "decode bytes", "received bytes", *FLOPS), MADE),
}


@dataclass(frozen=True)
class Tried:
    """What became of a question.

    Args:
        answer: the bound.
        rows: each way that was tried, and what came of it.
    """

    answer: Bound
    rows: tuple[tuple[str, str], ...] = field(compare=False)


@lru_cache(maxsize=1024)
@in_turn
def tried(question: Question, assume: tuple[sympy.Basic, ...] = ()) -> Tried:
    """The strongest answer that some way finds, and what became of each way; unknown with all reasons without one."""
    if choices.any_chosen(question.subject) and question.quantity in choices.AT_MOST:
        found = choices.bounded(question, lambda smaller: answer(smaller, about(smaller, assume)))
        premises = found.certificate.premises
        return Tried(found, tuple((f"{x.shown_subject}", f"{x.relation} {x.expr}") for x in premises))
    rows: list[tuple[str, str]] = []
    best: Bound | None = None
    for way in WAYS[question.quantity]:
        if way.kind not in ("any", _kind(question)):
            continue
        said = _tried(way, Asked(question, assume, answer, best))
        if isinstance(said, str):
            rows += [(way.name, said)] if said else []
            continue
        rows.append((way.name, f"{said.relation} {said.expr}"))
        best = max(best or said, said, key=_strength)
        if _strength(best) >= ENOUGH:
            break
    if best is None:
        why = "; ".join(dict.fromkeys(what for _, what in rows)) or "no way to an answer is known"
        best = Bound(question, "unknown", sympy.nan, reason=why)
    return Tried(best, tuple(rows))


def about(question: Question, assume: tuple[sympy.Basic, ...]) -> tuple[sympy.Basic, ...]:
    """The conditions that are about symbols of what is asked."""
    names = names_of(question.subject)
    return tuple(c for c in assume if {s.name for s in c.free_symbols} <= names)


def answer(question: Question, assume: tuple[sympy.Basic, ...] = ()) -> Bound:
    """The strongest answer that some way finds; unknown with all reasons where none does."""
    return tried(question, assume).answer


def explained(bound: Bound) -> str:
    """A bound with the ways to it, and what came of each, in order of price."""
    premise = bound.certificate.premises[0] if bound.method == RULE else bound
    rows = tried(premise.question, static(premise.assumptions)).rows
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([str(bound), "  ways that were tried:", *(f"    {name:{width}}  {what}" for name, what in rows)])


def static(assume: Iterable[sympy.Basic]) -> tuple[sympy.Basic, ...]:
    """The conditions that are about the symbols of the pattern alone."""
    own = {"n", "L", "i", "t"}
    return tuple(c for c in assume if not {s.name for s in c.free_symbols} & own)


def _tried(way: Way, asked: Asked) -> Bound | str:
    """The answer of a way, or why it has none; "" where the question is of another kind."""
    try:
        with patience(SHARE if _is_slow(asked.subject) else 1.0):
            found = way.find(asked)
    except NotMine as e:
        return str(e)
    except TooHardError as e:
        return said(e)
    except isl.Error as e:  # an assertion of isl's own
        return f"isl failed: {e}".splitlines()[0]
    if not found.is_known:
        return found.reason
    if asked.question.allowed:
        found = restated(found, allowed=True)
    if why := held_out.refutation(found, held_out.FIRST):
        return f"a formula was found and thrown away, it is wrong: {why}"
    if way.confirmed == "always" or (way.confirmed and _divides(found, way.confirmed)):
        try:
            with smt.patience(QUESTIONS), soon():
                verdict = verdict_of(found)
        except PidslError as e:
            return said(e)
        if not verdict.holds:
            return f"a formula was found that its own check does not confirm: {verdict.failure}"
    return found


@lru_cache(maxsize=256)
def _is_slow(subject: Subject) -> bool:
    """Whether isl can seldom answer for every n, and slowly."""
    terms = subject if isinstance(subject, tuple) else (subject,)
    return any(_has_many(part) for term in terms if isinstance(term, Term) for part in walk(term))


def _has_many(part: Term) -> bool:
    if isinstance(part, Pairs):
        return len(part.values) > MANY
    return isinstance(part, Neighborhood | Halo) and len(part.shape) > 1 and prod(part.shape) > MANY


def said(e: PidslError) -> str:
    """Why there is no answer, in one line."""
    return " ".join((f"{e.given}, {e.where}" if e.where else e.given).split())


@lru_cache(maxsize=256)
def _kind(question: Question) -> Kind:
    return "symbols" if isinstance(question.subject, LayerRule) or names_of(question.subject) else "numbers"


ENOUGH = (2, 1)  # exact, for every n or from some number on


def _strength(bound: Bound) -> tuple[int, int]:
    """How much a bound says: whether it is exact, and for which n."""
    about_n = [c for c in bound.assumptions if n in c.free_symbols]
    every = bound.quantity == "degree" or all(c in (n >= 0, n >= 1) for c in about_n)
    numbers = all(c.free_symbols == {n} for c in about_n)
    return 2 if bound.is_exact else 1, 2 if every else 1 if numbers else 0


def _divides(bound: Bound, where: Confirmed) -> bool:
    """Whether a formula has floors; for open terms, floors of divisions by a symbol, of which z3 decides not all."""
    if not names_of(bound.subject):
        floors = (sympy.floor, sympy.ceiling, sympy.Mod, Periodic, Table)
        return where == "where it divides" and bool(bound.expr.atoms(*floors))
    return divides(bound.expr)
