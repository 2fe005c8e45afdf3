"""Depth: the fewest layers after which everything is connected, as a formula in the number of tokens."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import groupby
from operator import sub
from typing import Literal, cast

import islpy as isl
import sympy

from pidsl.analysis import dense
from pidsl.analysis.bound import Bound, exact
from pidsl.analysis.consequence import derived
from pidsl.analysis.dense import Of
from pidsl.analysis.formulas.piecewise import Branch, Formula, chain, formula
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers import stacks
from pidsl.analysis.layers.closed import closed_form, least_layers
from pidsl.analysis.layers.depth_tokens import guessed
from pidsl.analysis.layers.never import outside
from pidsl.analysis.layers.short import depth_formula
from pidsl.analysis.layers.stacks import (
    Intervals,
    Subject,
    causal_lags,
    connected,
    lag_sums,
    square,
    stack,
)
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import convex_parts, least, limited, read_map, read_set

CLOSED = 5  # layers that are composed before a form in L is tried
RECENT = 6  # numbers of layers that a new one is compared with
LAYERS = 24  # that are composed, one after another, before a formula is given up
BRANCHES = 24
OPERATIONS = 300_000  # of differences, each up to 20 microseconds
PARTS = 64  # of the pairs that are compared with others
MATRICES = 2048  # tokens
SMALL = 64  # tokens for which matrices are the first choice


def by_small_matrices(asked: Asked) -> Bound:
    """Boolean matrices, where a number of tokens is small."""
    return _by_matrices(asked, SMALL)


def by_formula(asked: Asked) -> Bound:
    """What the formula in n says for a number of tokens."""
    if asked.question.n is None:
        raise NotMine
    whole = replace(asked.question, n=None)
    return derived(asked.ask(whole), asked.question)


def by_matrices(asked: Asked) -> Bound:
    """Boolean matrices, where a number of tokens is given."""
    return _by_matrices(asked, MATRICES)


def _by_matrices(asked: Asked, most: int) -> Bound:
    q = asked.question
    if q.n is None or q.of is None or q.n > most:
        raise NotMine("" if q.n is None else f"matrices of more than {most} tokens")
    found = dense.depth_of(stack(asked.subject, None), q.n, q.of)
    value = sympy.oo if found is None else found
    reason = "some pair stays out of reach of every number of layers" if found is None else ""
    return exact(q.subject, "depth", value, "matrices", given={"of": q.of, "n": q.n}, reason=reason)


def by_lags(asked: Asked) -> Bound:
    """Layers that only look back, by the lag alone: when sums of lags have left no gap."""
    term, of = _one(asked)
    if of != "causal" or causal_lags(term) is None:
        raise NotMine
    found, reason = _of_lags(term)
    return _made(asked, "lag depth", found, reason)


def by_composition(asked: Asked) -> Bound:
    """isl composes layer after layer."""
    q = asked.question
    if q.n is not None or q.of is None:
        raise NotMine
    found, reason = _of_pairs(asked.subject, q.of)
    return _made(asked, "depth", found, reason)


def by_short_sequences(asked: Asked) -> Bound:
    """Dense masks of short sequences, where these decide about long ones."""
    found = depth_formula(*_one(asked))
    return _made(asked, "short sequences", found, _out_of_reach(found))


def by_tokens(asked: Asked) -> Bound:
    """What few tokens suggest, where following single tokens proves it."""
    found = guessed(*_one(asked))
    return _made(asked, "depth by tokens", found, _out_of_reach(found))


def _one(asked: Asked) -> tuple[Term, Of]:
    """The pattern of every layer, for a formula in n."""
    q = asked.question
    if q.n is not None or q.of is None or not isinstance(q.subject, Term):
        raise NotMine
    return q.subject, q.of


def _made(asked: Asked, rule: str, found: Formula, reason: str) -> Bound:
    q = asked.question
    assumptions, given = found.assumptions, {"of": q.of}
    return exact(q.subject, "depth", found.expr, rule, given=given, assumptions=assumptions, reason=reason)


def _out_of_reach(found: Formula) -> str:
    return "some pair stays out of reach of every number of layers" if found.expr.has(sympy.oo) else ""


# -- causal and translation invariant ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Staircase:
    """c(L): L layers connect every lag up to it, and not the next. It never falls.

    Args:
        first: c(0) = 0, c(1), ..., c(l).
        each: by how much c grows with each layer after these; "all": one more connects every lag.
    """

    first: tuple[int, ...]
    each: int | Literal["all"]

    def least(self, tokens: int) -> sympy.Expr:
        """The least L >= 1 with c(L) >= tokens - 1; oo where there is none."""
        if tokens == 1:
            return sympy.Integer(1)
        top, last = len(self.first) - 1, self.first[-1]
        if (layers := bisect_left(self.first, tokens - 1, 1)) <= top:
            return sympy.Integer(layers)
        if self.each == "all":
            return sympy.Integer(top + 1)
        return sympy.Integer(top - (last - tokens + 1) // self.each) if self.each else sympy.oo

    def inverse(self) -> list[Branch]:
        """`least` as formulas in n.

        While each layer adds the same `step` lags, c(L) = lag + step (L - layers), and n - 1 from lag + 1 on needs
        layers + (n - 1 - lag)/step of them, rounded up.

        >>> Staircase((0, 5, 14), 14).inverse()
        [(1, 1), (1, 2), (2, 7), (ceiling(n/14 + 13/14), 16)]
        """
        runs: list[tuple[int, float]] = [
            (step, len(list(run))) for step, run in groupby(map(sub, self.first[1:], self.first))
        ]
        if self.each and self.each != "all":
            before = runs.pop()[1] if runs and runs[-1][0] == self.each else 0
            runs.append((self.each, before + math.inf))
        found: list[Branch] = [(sympy.Integer(1), 1)]
        layers, lag = 0, 0  # c(layers) = lag
        for step, count in runs:
            if step and count > 2:
                found.append((sympy.ceiling((n - 1 - lag + layers * step) / sympy.Integer(step)), lag + 2))
            elif step:
                found += [(sympy.Integer(layers + k + 1), lag + k * step + 2) for k in range(int(count))]
            if count < math.inf:
                layers, lag = layers + int(count), lag + int(count) * step
        if self.each in (0, "all"):
            found.append((sympy.oo if self.each == 0 else sympy.Integer(layers + 1), lag + 2))
        return found


def _of_lags(term: Term) -> tuple[Formula, str]:
    """From the contiguous reach c(L): the least L with c(L) >= n - 1."""
    lags = lag_sums((term,))
    reach = finite_reach(lags) if isinstance(lags, tuple) else _infinite_reach(term)
    if reach is None:
        return Formula(sympy.oo), "no token sees itself: no number of layers connects lag 0"
    last = reach.first[-1]
    reason = f"no number of layers connects lag {last + 1} (n >= {last + 2})" if reach.each == 0 else ""
    return chain(reach.inverse(), reach.least, BRANCHES), reason


def finite_reach(lags: Intervals) -> Staircase | None:
    """What layers of finitely many lags reach (see `any_layers.growth`); None where lag 0 is not among them."""
    from pidsl.analysis.layers.any_layers import growing

    if not lags or lags[0][0] > 0:
        return None
    return Staircase(tuple(growing(lags)), lags[-1][1]) if lags[0][1] > 0 else Staircase((0,), 0)


def _infinite_reach(term: Term) -> Staircase | None:
    """What layers of infinitely many lags reach; None where lag 0 is not among them.

    The lags repeat from `start` on, so sums of L lags repeat from L (start + period) on: one of the summands can grow
    or shrink by a period. Sums below a bound need only lags below it. They are everything when they are so up to a
    period beyond that; and, for less work, when c(L) reaches the first lag that repeats and c(L - 1) a whole period.
    """
    found = periodic_lags(cast(isl.Set, causal_lags(term)))
    bound = found.start + 2 * found.period
    while bound < stacks.DENSE:
        steps = found.below(bound)
        if not steps or steps[0][0] > 0:
            return None
        mask, bits, before = (1 << bound) - 1, 1, 0
        reach = [0]
        while bits != before and bits != mask:
            before, total = bits, 0
            for low, high in steps:
                total |= stacks.spread(bits << low, high - low)
            bits = total & mask
            now = (~bits & (bits + 1)).bit_length() - 2
            layers = len(reach)
            if (reach[-1] >= found.period - 1 and now >= found.first - 1) or (
                bits == mask and bound >= layers * (found.start + found.period) + found.period
            ):
                return Staircase(tuple(reach), "all")
            reach.append(now)
            if layers > stacks.WHOLE:
                raise TooHardError(f"lags that fill up after more than {stacks.WHOLE} layers", "fewer")
        if bits != mask:
            return Staircase(tuple(reach), 0)
        bound *= 4  # all lags below the bound, and still no reason why those above should be
    raise TooHardError(f"lags of period {found.period}", "a shorter period")


@dataclass(frozen=True, slots=True)
class PeriodicLags:
    """An infinite set of lags >= 0: from `start` on, d is in it when d + period is.

    Args:
        lags: all of them.
        start, period: where they repeat.
        first: the least of them >= start.
    """

    lags: isl.Set
    start: int
    period: int
    first: int

    def below(self, bound: int) -> Intervals:
        return stacks.intervals(self.lags & read_set(f"{{ [d] : d < {bound} }}")) or ()


def periodic_lags(lags: isl.Set) -> PeriodicLags:
    """An infinite set of lags, with the period that isl's divisions give it; verified.

    Raises:
        TooHardError: it has another.
    """
    start, period = 0, 1
    for part in convex_parts(lags):
        space = part.get_local_space()
        for k in range(space.dim(isl.dim_type.div)):
            period = math.lcm(period, int(space.get_div(k).get_denominator_val().to_python()))
        one = isl.Set.from_basic_set(part)
        if one.is_empty():
            continue
        start = max(start, int(one.dim_min_val(0).to_python()))
        if one.is_bounded():
            start = max(start, int(one.dim_max_val(0).to_python()) + 1)
    tail = lags & read_set(f"{{ [d] : d >= {start} }}")
    moved = tail.apply(read_map(f"{{ [d] -> [d + {period}] }}"))
    if not moved.is_equal(lags & read_set(f"{{ [d] : d >= {start + period} }}")):
        raise TooHardError("lags without a period", "a period")
    return PeriodicLags(lags, start, period, least(tail))


# -- any pattern -------------------------------------------------------------------------------------------------------


def target_map(of: Of) -> isl.Map:
    """The pairs that depth is about."""
    return read_map(f"[n] -> {{ [i] -> [j] : 0 <= i < n and 0 <= j < n {'and j <= i' if of == 'causal' else ''} }}")


def _of_pairs(subject: Subject, of: Of) -> tuple[Formula, str]:
    with limited("the depth", OPERATIONS):
        return _of_pairs_limited(subject, of)


def _of_pairs_limited(subject: Subject, of: Of) -> tuple[Formula, str]:
    schedule = stack(subject, None)
    remaining = read_set("[n] -> { : n >= 1 }")
    target = target_map(of)
    enough: list[tuple[isl.Set, int]] = []
    never = read_set("[n] -> { : 1 = 0 }")
    reason = ""
    past: list[isl.Map] = []
    tail: isl.PwAff | None = None
    count = 0
    while not remaining.is_empty():
        count += 1
        seen = connected(stack(subject, count)).intersect_params(remaining)
        if seen.n_basic_map() > PARTS:  # comparing them takes time that isl does not count
            raise TooHardError(f"pairs of {count} layers in {seen.n_basic_map()} parts", f"at most {PARTS}")
        missing = (target - seen).domain().params() & remaining
        done = remaining - missing
        if not done.is_empty():
            enough.append((done, count))
            remaining = missing.coalesce()
            target = target.intersect_params(remaining)
        if remaining.is_empty():
            break
        if count == 1:
            for what, pairs in outside([square(t) for t in schedule], target):
                hopeless = pairs.domain().params() & remaining
                if hopeless.is_empty():
                    continue
                reason = reason or _example(pairs.intersect_params(hopeless), what)
                never = never | hopeless
                remaining = (remaining - hopeless).coalesce()
                if remaining.is_empty():
                    break
            target = target.intersect_params(remaining)
        elif any(
            past[k].intersect_params(remaining).is_equal(seen.intersect_params(remaining))
            for k in range(count - 1 - len(schedule), -1, -len(schedule))[:RECENT]
        ):
            pairs = (target - seen).intersect_params(remaining)
            reason = reason or _example(pairs, "more layers connect nothing new")
            never, remaining = never | remaining, remaining - remaining
        past.append(seen)
        if count == CLOSED and len(schedule) == 1 and not remaining.is_empty():
            form = closed_form(square(schedule[0]), lambda layers: connected(schedule * layers), remaining)
            if form is not None:
                tail = least_layers(form, target, remaining)
                if not tail.domain().is_equal(remaining):
                    reason = reason or "pairs out of reach of every number of layers"
                break
        if count >= LAYERS:
            raise TooHardError(f"{LAYERS} layers that go on to connect more", "a formula in n")
    f = isl.PwAff.read_from_str(target.get_ctx(), "[n] -> { [(0)] : 1 = 0 }")
    if tail is not None:
        f = f.union_add(tail)
    for where, layers in enough:
        f = f.union_add(isl.PwAff.read_from_str(target.get_ctx(), f"[n] -> {{ [({layers})] }}").intersect_params(where))
    return formula(f, sympy.oo, most=BRANCHES), reason


def _example(pairs: isl.Map, what: str) -> str:
    """The first pair out of reach, in words."""
    points = pairs.wrap().flatten().move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
    found = points.lexmin().sample_point()  # minima of single dimensions may be of parts that hold no integers
    tokens, i, j = (int(found.get_coordinate_val(isl.dim_type.set, k).to_python()) for k in range(3))
    return f"token {i} never sees token {j} (n = {tokens}): {what}"
