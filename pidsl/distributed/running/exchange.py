"""Rows of tensors on their way between ranks: one uneven all-to-all, and the transposed one for their gradients.

    trip = Trip(routes, group)
    token = depart(trip, k, v)        # they are on their way; what needs none of them can be computed meanwhile
    token, k_rows, v_rows = arrive(trip, token)
    k_there = placed(k_rows, index)   # where rows stand in a tensor is up to who was sent them

Going back, the gradients of what arrived are on their way as soon as they are known, and are waited for where those of
what departed are asked for. Each rank adds what comes back in the order of the ranks, in float32 or float64: the same
bits on every run. All ranks depart and arrive in one order, forward and backward; `tied` keeps ranks that have no use
for what arrives in step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from pidsl.distributed.running.agree import watched
from pidsl.runtime.call.sums import accumulator, add_rows

Group = dist.ProcessGroup


@dataclass(frozen=True)
class Routes:
    """Which rows go where: rows of [B, H, n, width], numbered along the first three axes.

    Args:
        order: int64, the rows that ranks are sent, those for one rank after those for the other;
        sent: how many each is sent,
        came: and how many each sends.
        what: what moves, for messages.
    """

    order: Tensor
    sent: tuple[int, ...]
    came: tuple[int, ...]
    what: str

    @classmethod
    def of(cls, sent: Sequence[Tensor], came: Iterable[int], what: str) -> Routes:
        """From the rows that each rank is sent."""
        return cls(torch.cat(list(sent)), tuple(map(len, sent)), tuple(came), what)

    @cached_property
    def _on(self) -> dict[torch.device, Tensor]:
        return {}

    def on(self, device: torch.device) -> Tensor:
        """The numbers of the rows on a device."""
        return kept_on(self._on, self.order, device)


def kept_on(kept: dict[torch.device, Tensor], x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, brought there once."""
    if device not in kept:
        kept[device] = x.to(device)
    return kept[device]


@dataclass(slots=True)
class Trip:
    """One exchange, forward and back.

    Args:
        routes: which rows go where.
        group: the ranks.
    """

    routes: Routes
    group: Group
    flight: Flight | None = None
    forms: tuple[Form, ...] = ()


class Form(NamedTuple):
    """Shape, dtype and device of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor) -> Form:
        return cls(tuple(x.shape), x.dtype, x.device)


class Flight(NamedTuple):
    """Bytes on their way: what waits for them, where they land, and how many come from each rank."""

    work: Any
    landed: Tensor
    splits: list[int]
    kept: Tensor  # what was sent, alive until it has arrived


def depart(trip: Trip, *tensors: Tensor) -> Tensor:
    """Send rows of tensors [B, H, n, width] of one B, H and n; a token for `arrive`. Differentiable."""
    token: Tensor = _Depart.apply(trip, *tensors)  # type: ignore[no-untyped-call]
    return token


def arrive(trip: Trip, token: Tensor) -> tuple[Tensor, ...]:
    """A token to be `tied`; and what was sent, as soon as it is there, [rows + 1, width] of each tensor: of one rank
    after the other, and a row of 0. Differentiable."""
    return tuple(_Arrive.apply(trip, token))  # type: ignore[no-untyped-call]


def tied(out: Tensor, lse: Tensor, *tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse); going back from either, each rank takes part in the exchanges of these tokens, whether or not out and
    lse were made of what they brought. To other tensors among the tokens flows 0.

    Checkpointing that computes a forward pass again does so on all ranks at once, and up to here: a tensor is saved.
    """
    return cast(tuple[Tensor, Tensor], _Tied.apply(out, lse, *tokens))  # type: ignore[no-untyped-call]


def placed(rows: Tensor, index: Tensor) -> Tensor:
    """Rows [rows, width] that arrived, as [..., width]: index says which of them stand where. Differentiable."""
    found: Tensor = _Placed.apply(rows, index)  # type: ignore[no-untyped-call]
    return found


def _fly(trip: Trip, tensors: Sequence[Tensor], sent: Sequence[int], came: Sequence[int]) -> Flight:
    """Send the rows of flat tensors [rows, width], the first of them to the first rank."""
    ends = list(accumulate(sent, initial=0))
    parts = [x[a:b].reshape(-1).view(torch.uint8) for a, b in pairwise(ends) for x in tensors]
    width = sum(x.shape[1] * x.dtype.itemsize for x in tensors)
    out, back = ([rows * width for rows in ways] for ways in (sent, came))
    outgoing = torch.cat(parts)
    landed = torch.empty(sum(back), dtype=torch.uint8, device=outgoing.device)
    with watched(trip.group, trip.routes.what, outgoing.device):
        work = dist.all_to_all_single(landed, outgoing, back, out, group=trip.group, async_op=True)
    return Flight(work, landed, back, outgoing)


def _land(trip: Trip, flight: Flight, came: Sequence[int]) -> list[list[Tensor]]:
    """For each rank, the rows [rows, width] of each tensor that it sent."""
    with watched(trip.group, trip.routes.what, flight.landed.device) as wait:
        wait(flight.work)
    found = []
    for piece, rows in zip(flight.landed.split(flight.splits), came, strict=True):
        mine, at = [], 0
        for form in trip.forms:
            size = rows * form.shape[-1] * form.dtype.itemsize
            part = piece[at : at + size]
            aligned = part if part.storage_offset() % form.dtype.itemsize == 0 else part.clone()
            mine.append(aligned.view(form.dtype).view(rows, form.shape[-1]))
            at += size
        found.append(mine)
    return found


class _Depart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, trip: Trip, *tensors: Tensor) -> Tensor:
        routes = trip.routes
        trip.forms = tuple(Form.of(x) for x in tensors)
        trip.flight = _fly(trip, [_rows(x, routes.on(x.device)) for x in tensors], routes.sent, routes.came)
        ctx.trip = trip
        return torch.zeros((), dtype=accumulator(tensors[0].dtype), device=tensors[0].device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        trip, routes = ctx.trip, ctx.trip.routes
        flight, trip.flight = trip.flight, None
        landed = _land(trip, flight, routes.sent)
        found = []
        for place, form in enumerate(trip.forms):
            total = torch.zeros(form.shape, dtype=accumulator(form.dtype), device=form.device)
            flat = total.view(-1, form.shape[-1])
            for rows, mine in zip(routes.on(form.device).split(routes.sent), landed, strict=True):
                flat[rows] += mine[place]  # no row twice
            found.append(total.to(form.dtype))
        return (None, *found)


class _Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, trip: Trip, token: Tensor) -> tuple[Tensor, ...]:
        flight, trip.flight = trip.flight, None
        assert flight is not None
        landed = _land(trip, flight, trip.routes.came)
        ctx.trip, ctx.token = trip, Form.of(token)
        found = [torch.zeros((), dtype=token.dtype, device=token.device)]
        for place, form in enumerate(trip.forms):
            none = torch.zeros(1, form.shape[-1], dtype=form.dtype, device=form.device)
            found.append(torch.cat([*(mine[place] for mine in landed), none]))
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, *grads: Tensor) -> tuple[None, Tensor]:
        trip = ctx.trip
        own = [x[:-1].to(form.dtype) for x, form in zip(grads, trip.forms, strict=True)]
        trip.flight = _fly(trip, own, trip.routes.came, trip.routes.sent)
        return None, torch.zeros((), dtype=ctx.token.dtype, device=ctx.token.device)


class _Placed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.form, ctx.index = Form.of(rows), index.reshape(-1)
        return rows.index_select(0, ctx.index).view(*index.shape, rows.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        shape, dtype, device = ctx.form
        total = torch.zeros(shape, dtype=accumulator(dtype), device=device)
        add_rows(total, 0, ctx.index, grad.reshape(-1, shape[1]).to(total.dtype))
        return total.to(dtype), None


class _Tied(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, lse: Tensor, *tokens: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.forms = tuple(Form.of(x) for x in tokens)
        ctx.save_for_backward(lse.new_empty(0))
        return out.detach(), lse.detach()  # no views: they may be changed in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out: Tensor | None, lse: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # what is computed again is so before anything is sent back
        return out, lse, *(torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in ctx.forms)


def _rows(x: Tensor, numbers: Tensor) -> Tensor:
    """Rows [rows, width] of [B, H, n, width], by their numbers along the first three axes."""
    if x.is_contiguous():
        return x.view(-1, x.shape[-1]).index_select(0, numbers)
    _, heads, n, _ = x.shape  # not all of it is copied for some rows
    return x[numbers // (heads * n), numbers // n % heads, numbers % n]
