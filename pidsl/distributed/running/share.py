"""A call whose rows are one rank's share of a sequence: what it meets here, what it is sent, and how that is merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pidsl.distributed.running.exchange import Group, Routes, Trip, arrive, depart, placed, tied
from pidsl.distributed.running.lists import taken_lists
from pidsl.distributed.running.meetings import Meeting, Table
from pidsl.distributed.running.needs import Sizes
from pidsl.distributed.running.work import Ways, Work, programs_of
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints
from pidsl.language.chosen import selection
from pidsl.language.score import Score
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call, Positions, Spread
from pidsl.runtime.call.call import Heads as HeadRuns
from pidsl.runtime.call.segments import Segments
from pidsl.runtime.call.sums import accumulator
from pidsl.runtime.kernels.merge import weighed
from pidsl.runtime.operator import attended
from pidsl.runtime.programs import Programs


class Result(NamedTuple):
    """What some keys give some rows: out and lse [B, H, rows, ...]; without `out` a sink, which has no value."""

    rows: slice | Tensor
    out: Tensor | None
    lse: Tensor


@dataclass
class Landing:
    """Keys and values on their way to a rank; there when they are first asked for, in the order of their routes."""

    trip: Trip
    token: Tensor
    found: tuple[Tensor, ...] = ()

    def get(self) -> tuple[Tensor, ...]:
        """A token to be tied, k and v."""
        if not self.found:
            self.found = arrive(self.trip, self.token)
        return self.found


@dataclass(frozen=True)
class Share(Spread):
    """The rows of a rank.

    Args:
        begin: what starts a call: see `ContextParallel`.
        group: the ranks.
        work: for each pattern,
        landing: and the keys that are on their way.
        heads: the query heads and key heads of a call that are meant; None: all.
    """

    begin: Callable[[Call], Share]
    group: Group | None = None
    work: Callable[[Programs], Work] | None = None
    landing: Landing | None = None
    heads: tuple[HeadRuns, HeadRuns] | None = None

    def begun(self, call: Call) -> Share:
        return self.begin(call)

    def of_heads(self, queries: HeadRuns, keys: HeadRuns) -> Share:
        assert self.heads is None
        return replace(self, heads=(queries, keys))

    def attended(self, programs: Programs, backend: str, call: Call) -> tuple[Tensor, Tensor]:
        assert self.work is not None and self.group is not None
        work = self.work(programs)
        score, inputs = programs.score, {x: y for x, y in call.inputs.items() if x in programs.inputs}
        results: list[Result] = []
        tokens: list[Tensor] = []
        if score.sinks:  # one more logit of every row: it joins once
            tokens.append(inputs.pop("sinks"))
            sink = tokens[0].to(accumulator(call.q.dtype))[None, :, None].expand(call.q.shape[:3])
            results.append(Result(slice(0, call.q.shape[2]), None, sink))
            score = replace(score, sinks=False)
        call = call._replace(inputs=inputs)
        work.prepare(score, backend, call, self.group)
        run = Runner(score, backend, call)
        sizes = Sizes(call.q.shape[0], call.q.shape[1])
        sent = [(part, self._depart(work.ways(part, sizes).there, call.q)) for part in work.moved]
        results += run.results(work.in_place(near=True), call.q, call.k, call.v)
        token, k, v = self._landed(work, call)
        back = [(part, self._moved(run, work, part, trip, (token, k, v))) for part, trip in sent]
        results += run.results(work.in_place(near=False), call.q, k, v)
        tokens += [token, *run.learned]
        for part, trip in back:
            ways = work.ways(part, sizes)
            back_token, *rows = arrive(*trip)
            tokens.append(back_token)
            lse, found = (placed(x, ways.found.to(x.device)) for x in rows)
            results += returned(ways, found, lse[..., 0])
        if all(x.out is None for x in results):
            tokens.append(call.q)
        return tied(*merged(results, call), *tokens)

    def _depart(self, routes: Routes, *tensors: Tensor) -> tuple[Trip, Tensor]:
        assert self.group is not None
        trip = Trip(routes, self.group)
        return trip, depart(trip, *tensors)

    def _landed(self, work: Work, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """What was sent of the keys and values of a pattern, for the heads of a call."""
        assert self.landing is not None
        token, k_rows, v_rows = self.landing.get()
        index = work.index(((0, call.k.shape[1], 1),) if self.heads is None else self.heads[1], v_rows.device)
        if k_rows.shape[1] == call.k.shape[3]:
            return token, placed(k_rows, index), placed(v_rows, index)
        none = k_rows.new_zeros(()).expand(*index.shape, call.k.shape[3])  # a program that takes all logits for 0
        return token, none, placed(v_rows, index)

    def _moved(
        self, run: Runner, work: Work, part: Placement, trip: tuple[Trip, Tensor], landed: tuple[Tensor, ...]
    ) -> tuple[Trip, Tensor]:
        """Compute for queries that were sent here, and send back what they find."""
        call, (token, k, v) = run.call, landed
        came, q_rows = arrive(*trip)
        ways = work.ways(part, Sizes(call.q.shape[0], call.q.shape[1]))
        q = placed(q_rows, ways.asked.to(q_rows.device))
        here = call._replace(q=q)
        results = merged(run.results(work.of(part), q, k, v), here)
        out, lse = tied(*results, came, token, *run.learned)
        return self._depart(ways.back, lse[..., None], out)


@dataclass(frozen=True)
class Runner:
    """Runs the calls of a program.

    Args:
        score: of the logits, without sinks.
        backend: where.
        call: of which rows are taken.
    """

    score: Score
    backend: str
    call: Call

    @property
    def learned(self) -> list[Tensor]:
        """The inputs that gradients are for, also where nothing is computed with them."""
        return [x for x in self.call.inputs.values() if isinstance(x, Tensor) and x.is_floating_point()]

    def results(self, of: Sequence[Meeting], q: Tensor, k: Tensor, v: Tensor) -> list[Result]:
        """What the keys of meetings give their queries; q, and `k` and `v` that were sent, [B, H, rows, width].

        Meetings that differ in nothing but their rows, as those of residue classes, are the batch entries of one call.
        """
        keys = {"home": (self.call.k, self.call.v), "sent": (k, v)}
        if any(x.keys.source == "both" for x in of):
            keys["both"] = torch.cat([self.call.k, k], 2), torch.cat([self.call.v, v], 2)
        groups: dict[Any, list[Meeting]] = {}
        for number, x in enumerate(of):
            kind: Any = number
            if isinstance(x.where, Positions) and x.lists is None and "seed" not in self.call.inputs:
                kind = x.term, x.where, x.queries.source, x.keys.source, x.span[1:], x.key_span[1:]
                while any(y.span == x.span for y in groups.get(kind, ())):  # no row twice in one call
                    kind = kind, x.span
            groups.setdefault(kind, []).append(x)
        return [self._result(group, q, *keys[group[0].keys.source]) for group in groups.values()]

    def _result(self, group: Sequence[Meeting], q: Tensor, k: Tensor, v: Tensor) -> Result:
        """What the keys of meetings of one kind, rows of k and v, give rows of q."""
        call, first, count = self.call, group[0], len(group)
        rows, key_rows = joined([x.queries.rows for x in group]), joined([x.keys.rows for x in group])
        mine, keys, values = (_apart(taken(x, at), count) for x, at in ((q, rows), (k, key_rows), (v, key_rows)))
        where: Any = first.where
        if not isinstance(where, Positions):
            where = segments_of(where, mine, keys)
        inputs = call.inputs
        if first.lists is not None and "blocks" in inputs:
            lists = taken_lists(inputs["blocks"], first.lists, first.key_span, block_of(first.term))
            inputs = {**inputs, "blocks": lists}
        own = Call(mine, keys, values, call.scale, where, inputs)
        out, lse = (_together(x, count) for x in attended(programs_of(first.term, self.score), self.backend, own))
        return Result(rows if isinstance(rows, slice) else torch.from_numpy(rows).to(q.device), out, lse)


def joined(rows: Sequence[slice | Ints]) -> slice | Ints:
    """Rows of several meetings, one after the other."""
    if len(rows) == 1:
        return rows[0]
    return np.concatenate([np.arange(x.start, x.stop, x.step) if isinstance(x, slice) else x for x in rows])


def _apart(x: Tensor, count: int) -> Tensor:
    """[B, H, count * rows, width] as [B * count, H, rows, width]."""
    if count == 1:
        return x
    return x.unflatten(2, (count, x.shape[2] // count)).transpose(1, 2).flatten(0, 1)


def _together(x: Tensor, count: int) -> Tensor:
    """[B * count, H, rows, ...] as [B, H, count * rows, ...]."""
    return x if count == 1 else x.unflatten(0, (x.shape[0] // count, count)).transpose(1, 2).flatten(2, 3)


def segments_of(table: Table, q: Tensor, k: Tensor) -> Segments:
    """The documents of a call, on the device of q."""
    n, m = q.shape[2], k.shape[2]
    stop = int((table[:, [2, 5]] + table[:, [3, 6]]).max(initial=0))
    on = torch.from_numpy(table).to(q.device)
    return Segments(on, n, m, q.shape[0] * n, q.shape[0] * m, moved=True, stop=stop)


def returned(ways: Ways, out: Tensor, lse: Tensor) -> list[Result]:
    """Results that came back, each row once in each of them."""
    present = torch.from_numpy(ways.present).to(lse.device)
    if not bool(ways.present.all()):
        lse = torch.where(present, lse, -torch.inf)
    rows = ways.rows if isinstance(ways.rows, slice) else torch.from_numpy(ways.rows).to(lse.device)
    parts = zip(out.chunk(ways.times, 2), lse.chunk(ways.times, 2), strict=True) if ways.times else ()
    return [Result(rows, found, its) for found, its in parts]


@lru_cache(maxsize=256)
def block_of(term: Term) -> int:
    """Keys of a block that calls choose."""
    choice = selection(term)
    assert choice is not None
    return choice.numbers[0]


def taken(x: Tensor, rows: slice | Ints) -> Tensor:
    """Rows of [B, H, n, width]; 0 for those that there are not."""
    if isinstance(rows, slice):
        return x[:, :, rows]
    index = torch.from_numpy(rows).to(x.device)
    if x.shape[2] == 0:
        return x.new_zeros((*x.shape[:2], len(index), x.shape[3]))
    found = x.index_select(2, index.clamp(min=0))
    return torch.where((index >= 0)[:, None], found, 0.0) if bool((rows < 0).any()) else found


def merged(results: Sequence[Result], call: Call) -> tuple[Tensor, Tensor]:
    """(out, lse) of all rows of a call from what disjoint sets of keys give to some of them, see `pidsl.merge`.

    Rows of a result that are numbered -1 are none.
    """
    q, width, dtype = call.q, call.v.shape[3], accumulator(call.q.dtype)
    rows = q.shape[2]
    whole = [x for x in results if x.out is not None and x.lse.shape[2] == rows and isinstance(x.rows, slice)]
    if len(results) == 1 and whole:
        assert whole[0].out is not None
        return whole[0].out, whole[0].lse
    if not results:
        return q.new_zeros((*q.shape[:3], width)), q.new_full(q.shape[:3], -torch.inf, dtype=dtype)
    shares, lse = weighed(torch.stack([_spread(x, rows) for x in results], -1))
    out = q.new_zeros((*q.shape[:3], width), dtype=dtype)
    for place, x in enumerate(results):
        if x.out is None:
            continue
        if isinstance(x.rows, slice):
            out[:, :, x.rows] += x.out * shares[:, :, x.rows, place, None]
        else:
            kept = x.rows >= 0
            own = x.rows[kept]
            out[:, :, own] += x.out[:, :, kept] * shares[:, :, own, place, None]
    return out.to(q.dtype), lse


def _spread(x: Result, rows: int) -> Tensor:
    """The lse of a result [B, H, rows], with -inf in rows that it has not."""
    if x.lse.shape[2] == rows and isinstance(x.rows, slice):
        return x.lse
    found = x.lse.new_full((*x.lse.shape[:2], rows), -torch.inf)
    if isinstance(x.rows, slice):
        found[:, :, x.rows] = x.lse
    else:
        kept = x.rows >= 0
        found[:, :, x.rows[kept]] = x.lse[:, :, kept]
    return found
