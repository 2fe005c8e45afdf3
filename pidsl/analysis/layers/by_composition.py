"""Ways for which isl composes the layers: how far they see, and the fewest that connect everything.

`S_L` is the set of pairs `(i, j)` for which j at the input reaches i through exactly L layers; `S_0` is the diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import islpy as isl
import sympy

from pidsl.analysis import dense
from pidsl.analysis.bound import ANY, Bound, Certificate
from pidsl.analysis.consequence import derived
from pidsl.analysis.formulas.piecewise import formula
from pidsl.analysis.layers.by_forms import closed_form
from pidsl.analysis.layers.forms import least_layers, outside, unseen
from pidsl.analysis.layers.lag_formulas import pairs_formula
from pidsl.analysis.layers.stacks import connected, square, stack, target_map
from pidsl.analysis.ways import NEVER, Asked, NotMine
from pidsl.errors import TooHardError
from pidsl.relation.isl import CONTEXT, coalesced, limited, read_set

CLOSED = 5  # layers that are composed before a form in L is tried
RECENT = 6  # numbers of layers that a new one is compared with
LAYERS = 24  # that are composed, one after another, before a formula is given up
BRANCHES = 24
OPERATIONS = 300_000  # of differences, each up to 20 microseconds
INVARIANT = 100_000  # for each invariant
CYCLES = (1, 2, 3)  # residues of L that are told apart
PARTS = 64  # of the pairs that are compared with others
MATRICES = 2048  # tokens
SMALL = 64  # tokens for which matrices are the first choice


def reach(asked: Asked) -> Bound:
    """Farthest or contiguous of a number of layers."""
    q = asked.question
    if q.layers == ANY:
        raise NotMine
    found = pairs_formula(q.quantity, connected(stack(asked.subject, q.layers)))
    return asked.answered(found, Certificate("layers"))


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
    value, reason = (sympy.Integer(found), "") if found is not None else (sympy.oo, NEVER)
    return Bound(q, "==", value, (), Certificate("matrices"), reason)


def depth(asked: Asked) -> Bound:
    """isl composes layer after layer, until each n has all its pairs, or is known to get them later or never."""
    q = asked.question
    if q.n is not None or q.of is None:
        raise NotMine
    with limited("the depth", OPERATIONS):
        found = _Depth(stack(asked.subject, None), target_map(q.of))
        made = formula(found.function(), sympy.oo, most=BRANCHES)
    return Bound(q, "==", made.expr, made.assumptions, Certificate("depth", found.facts), found.reason)


class _Depth:
    """What becomes of every n: so many layers are enough, or none is."""

    def __init__(self, schedule: tuple[Any, ...], target: isl.Map) -> None:
        self.schedule, self.target = schedule, target
        self.layers = [square(t) for t in schedule]
        self.remaining = read_set("[n] -> { : n >= 1 }")
        self.enough: list[isl.PwAff] = []
        self.invariants: tuple[tuple[int, str], ...] = ()
        self.reason = ""

    @property
    def facts(self) -> tuple[tuple[str, Any], ...]:
        found = {"composed": self.count, "invariants": self.invariants, **self.last}
        return tuple(found.items())

    def function(self) -> isl.PwAff:
        """The depth, without a value where it is infinite."""
        past: list[isl.Map] = []
        self.count, self.last = 0, dict[str, Any]()
        while not self.remaining.is_empty():
            self.count += 1
            terms = tuple(self.schedule[k % len(self.schedule)] for k in range(self.count))
            seen = connected(terms).intersect_params(self.remaining)
            if seen.n_basic_map() > PARTS:  # comparing them takes time that isl does not count
                raise TooHardError(f"pairs of {self.count} layers in {seen.n_basic_map()} parts", f"at most {PARTS}")
            missing = (self.target - seen).domain().params() & self.remaining
            if not (done := self.remaining - missing).is_empty():
                self.enough.append(_constant(self.count).intersect_params(done))
                self._keep(missing.coalesce())
            if self.remaining.is_empty():
                break
            if self.count == 1:
                for what, hopeless in self._hopeless():
                    self.reason = self.reason or _example(hopeless.intersect_params(self.remaining), what)
                    self._keep((self.remaining - hopeless.domain().params()).coalesce())
            elif (again := self._again(past, seen)) is not None:
                self.last = {"again": again}
                more = (self.target - seen).intersect_params(self.remaining)
                self.reason = self.reason or _example(more, "more layers connect nothing new")
                break
            past.append(seen)
            if self.count == CLOSED and len(self.schedule) == 1 and self._by_form():
                break
            if self.count >= LAYERS and not self.remaining.is_empty():
                raise TooHardError(f"{LAYERS} layers that go on to connect more", "a formula in n")
        f = isl.PwAff.read_from_str(CONTEXT, "[n] -> { [(0)] : 1 = 0 }")
        for one in self.enough:
            f = f.union_add(one)
        return f

    def _keep(self, where: isl.Set) -> None:
        self.remaining, self.target = where, self.target.intersect_params(where)

    def _again(self, past: list[isl.Map], seen: isl.Map) -> int | None:
        """The number of layers, a multiple of the schedule before, that connects the same."""
        turn = len(self.schedule)
        for k in range(self.count - 1 - turn, -1, -turn)[:RECENT]:
            if past[k].intersect_params(self.remaining).is_equal(seen.intersect_params(self.remaining)):
                return k + 1
        return None

    def _by_form(self) -> bool:
        """The least L of a form in L."""
        form = closed_form(self.layers[0], lambda count: connected(self.schedule * count), self.remaining)
        if form is None:
            return False
        tail = least_layers(*form, self.target, self.remaining)
        if not tail.domain().is_equal(self.remaining):
            self.reason = self.reason or "pairs out of reach of every number of layers"
        self.enough.append(tail)
        self.last = {"form": form[0].to_str(), "first": form[1]}
        return True

    def _hopeless(self) -> Iterator[tuple[str, isl.Map]]:
        """Pairs that no number of layers connects, and why."""
        found = unseen(self.layers, self.target)
        if not found.is_empty():
            yield "tokens without keys, or that nothing sees", found
        for cycle in CYCLES:
            if self.remaining.is_empty():
                return
            try:
                with limited("pairs out of reach", INVARIANT):
                    closed = closure(self.layers, cycle)
                    missing = outside(self.layers, self.target, closed, cycle)
            except (TooHardError, isl.Error):
                continue
            if missing is not None and not missing.is_empty():
                self.invariants += ((cycle, closed.to_str()),)
                yield "closed under one layer more" if cycle == 1 else f"closed under {cycle} layers more", missing


def _constant(count: int) -> isl.PwAff:
    return isl.PwAff.read_from_str(CONTEXT, f"[n] -> {{ [({count})] }}")


def closure(layers: list[isl.Map], cycle: int) -> isl.Map:
    """The pairs that multiples of so many layers connect, or more.

    isl's closures hold integers that merely exist, bounded by one another. Of some it makes divisions that are defined
    by themselves, and then recurses until the process dies. Without those integers there are more pairs, if any.
    """
    step = layers[0]
    for one in layers[1:]:
        step = step | one
    several = step = coalesced(step)
    for _ in range(cycle - 1):
        several = coalesced(several.apply_range(step))
    found, _ = several.transitive_closure()
    return coalesced(found.remove_unknown_divs())


def _example(pairs: isl.Map, what: str) -> str:
    """The first pair out of reach, in words."""
    points = pairs.wrap().flatten().move_dims(isl.dim_type.set, 0, isl.dim_type.param, 0, 1)
    found = points.lexmin().sample_point()  # minima of single dimensions may be of parts that hold no integers
    tokens, i, j = (int(found.get_coordinate_val(isl.dim_type.set, k).to_python()) for k in range(3))
    return f"token {i} never sees token {j} (n = {tokens}): {what}"
