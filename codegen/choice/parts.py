"""The relation cut into disjoint parts, and the layouts in which each part could be computed.

window(63) | stride(256) & causal
->  lags 0 .. 63                                   identity
    lags 256, 512, ... (the stride less the window)  identity, or residue classes mod 256
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import islpy as isl

from pidsl.codegen.choice.cost import LONGEST, REFERENCE
from pidsl.codegen.plan.walks import Layout
from pidsl.relation.frame import frame_of
from pidsl.relation.isl import Interval, coalesced, interval_of

MAX_PARTS = 48  # more basic maps than this are computed as one masked piece
MOST_PARTS = 2048  # unless they hardly overlap: then it is more than so many
MANY = 12  # parts of a set of numbers
MOST_MEETINGS = 1024  # pairs of parts that may overlap, there
MAX_DIAGONALS = 32  # more lags than this are never computed one by one


@dataclass(frozen=True, slots=True)
class Lags:
    """What is known of the lags of a part, over all lengths and offsets."""

    least: int | None  # None: unbounded
    most: int | None
    step: int
    phase: int

    def __str__(self) -> str:
        low = "-inf" if self.least is None else self.least
        high = "inf" if self.most is None else self.most
        if low == high:
            return f"lag {low}"
        return f"lags {low} .. {high}" + (f" step {self.step}" if self.step > 1 else "")

    def values(self) -> tuple[int, ...] | None:
        """All lags, when they are few."""
        if self.least is None or self.most is None:
            return None
        found = range(self.least, self.most + 1, self.step)
        return tuple(found) if len(found) <= MAX_DIAGONALS else None


@dataclass(frozen=True, slots=True)
class Part:
    """One disjoint part of the relation."""

    relation: isl.Map
    lags: Lags
    layouts: tuple[Layout, ...]  # candidates, the identity first


def parts(relation: isl.Map) -> list[Part]:
    """Disjoint parts whose union is `relation`: lag-dense ones first, so that strided ones lose the overlap."""
    found = [isl.Map.from_basic_map(b) for b in coalesced(relation).get_basic_maps()]
    if len(found) > MAX_PARTS:
        return _many(found) or [part(relation)]
    found.sort(key=lambda x: _order(lag_facts(x)))
    done: isl.Map | None = None
    out: list[isl.Map] = []
    for x in found:
        rest = x if done is None else coalesced(x - done)
        done = x if done is None else coalesced(done | x)
        out += map(isl.Map.from_basic_map, coalesced(rest.make_disjoint()).get_basic_maps())
    if len(out) > 2 * MAX_PARTS or not _disjoint(out):
        return [part(relation)]
    return [y for x in out for y in _near_and_far(part(x))]


def _near_and_far(x: Part) -> list[Part]:
    """A part; of a period that no sequence is compared at, the first of it and what only longer ones have."""
    frame = frame_of(x.relation)
    for layout in x.layouts[1:]:
        cuts = (
            (frame.lag, layout.query_step if layout.linked else 1),
            (frame.key, 1 if layout.linked else layout.key_step),
            (frame.query, 1 if layout.linked else layout.query_step),
        )
        for value, step in cuts:
            if step > LONGEST:
                ranges = (f"-{step} < {value} < {step}", f"{value} >= {step}", f"{value} <= -{step}")
                found = (coalesced(x.relation & frame.map(f"[r] -> [j] : {where}")) for where in ranges)
                cut = [part(y) for y in found if not y.is_empty()]  # without layouts that most sequences do not have
                kept = [tuple(z for z in y.layouts if max(z.query_step, z.key_step) <= LONGEST) for y in cut]
                return [replace(y, layouts=layouts) for y, layouts in zip(cut, kept, strict=True)]
    return [x]


def _many(found: Sequence[isl.Map]) -> list[Part]:
    """Parts that hardly overlap, such as documents, disjoint; none where they do or where they are too many.

    Which may overlap is told by the intervals of their queries, keys and lags: comparing all pairs takes too long.
    """
    if len(found) > MOST_PARTS:
        return []
    facts = [lag_facts(x) for x in found]
    order = sorted(range(len(found)), key=lambda k: _order(facts[k]))
    frame = frame_of(found[0])
    boxes = [
        [*(interval_of(occurring(x, value)) for value in (frame.query, frame.key)), (own.least, own.most)]
        for x, own in zip(found, facts, strict=True)
    ]
    near = [
        [y for y in order[:at] if all(_meet(a, b) for a, b in zip(boxes[k], boxes[y], strict=True))]
        for at, k in enumerate(order)
    ]
    if sum(map(len, near)) > MOST_MEETINGS:
        return []
    out: list[isl.Map] = []
    for k, others in zip(order, near, strict=True):
        rest = found[k]
        for y in others:
            rest = rest - found[y]
        out += map(isl.Map.from_basic_map, (rest.make_disjoint() if others else rest).get_basic_maps())
    return [part(x) for x in out if not x.is_empty()] if len(out) <= MOST_PARTS else []


def _meet(a: Interval, b: Interval) -> bool:
    """Whether two intervals may have a number in common; None is no bound."""
    return all(x is None or y is None or x <= y for x, y in ((a[0], b[1]), (b[0], a[1])))


def occurring(relation: isl.Map, value: str) -> isl.Set:
    """The values of r and j that occur for some parameters, such as the frame's positions and lags."""
    found = relation.wrap().apply(frame_of(relation).map(f"[[r] -> [j]] -> [{value}]"))
    return coalesced(found.project_out(isl.dim_type.param, 0, found.dim(isl.dim_type.param)))


def reference(found: Sequence[Part]) -> int:
    """The length at which the plans of these parts are compared: a lag that no query has would cost nothing there."""
    longest = max((abs(x) for part in found for x in (part.lags.least, part.lags.most) if x is not None), default=0)
    return min(max(REFERENCE, 1 << (2 * longest - 1).bit_length() if longest else 0), LONGEST)


def part(relation: isl.Map) -> Part:
    """One part, with what isl says of its lags and the layouts they suggest."""
    facts = lag_facts(relation)
    return Part(relation, facts, tuple(_layouts(relation, facts)))


def _order(facts: Lags) -> tuple[int, int]:
    """Dense lags before strided ones, bounded before unbounded."""
    width = 1 << 60 if facts.least is None or facts.most is None else facts.most - facts.least
    return facts.step, width


def _disjoint(maps: list[isl.Map]) -> bool:
    """coalesce may merge parts across the order they were cut in; never rely on it."""
    seen: isl.Map | None = None
    for x in maps:
        if seen is not None and not (seen & x).is_empty():
            return False
        seen = x if seen is None else seen | x
    return True


def lag_facts(relation: isl.Map) -> Lags:
    """Range, step and phase of the lags."""
    found = occurring(relation, frame_of(relation).lag)
    if found.is_empty():
        return Lags(0, -1, 1, 0)
    return Lags(*interval_of(found), *_stride_of(found))


def _layouts(relation: isl.Map, facts: Lags) -> list[Layout]:
    frame = frame_of(relation)
    out = [Layout(frame=frame)]
    if facts.step > 1:
        out.append(Layout(facts.step, facts.step, phase=facts.phase, frame=frame))
    positions, keys = (occurring(relation, x) for x in (frame.query, frame.key))
    if positions.is_empty() or keys.is_empty():
        return out
    (s, query_class), (t, key_class) = _stride_of(positions), _stride_of(keys)
    if s > 1 or t > 1:
        out.append(Layout(s, t, None, query_class if s > 1 else None, key_class if t > 1 else None, frame))
    return out


def _stride_of(numbers: isl.Set) -> tuple[int, int]:
    """Step and class of a set of integers; a single number has step 1, being no progression."""
    step, phase = _stride(numbers)
    least, most = interval_of(numbers) if step > 1 else (0, 1)
    return (1, 0) if least is not None and least == most else (step, phase)


def _stride(numbers: isl.Set) -> tuple[int, int]:
    """Step and class of a set of integers; 1, 0 for no progression."""
    parts = numbers.get_basic_sets()
    if len(parts) > MANY:  # isl would take minutes
        step, phases = 0, list[int]()
        for x in map(isl.Set.from_basic_set, parts):
            least, most = interval_of(x)
            own, phase = (0, least or 0) if least is not None and least == most else _stride(x)
            step, phases = gcd(step, own), [*phases, phase]
        step = gcd(step, *(x - phases[0] for x in phases))
        return (step, phases[0] % step) if step > 1 else (1, 0)
    info = numbers.get_stride_info(0)
    step = int(info.get_stride().to_python())
    if step <= 1:
        return 1, 0
    return step, int(info.get_offset().get_constant_val().to_python()) % step


def union_of(group: Sequence[Part]) -> isl.Map:
    """The pairs of all parts."""
    relation = group[0].relation
    for x in group[1:]:
        relation = relation | x.relation
    return coalesced(relation)
