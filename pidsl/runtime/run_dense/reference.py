"""The reference backend: dense attention under the oracle's mask, slow and obvious, to judge the others by.

    s_ij = scale * q_i . k_j    on attended pairs, and what a score makes of it
    lse_i = log sum_j exp(s_ij),    p_ij = exp(s_ij - lse_i),    out_i = sum_j p_ij v_j

It shares no code with the planner and the emitters, and no formula for a gradient: torch's autograd differentiates the
definition. Only its two products are differentiated here, as they leave out the pairs that are masked: autograd's own
would spread NaN from them. Rows are computed in chunks; each chunk holds its dense scores.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.language.chosen import forced, selection
from pidsl.language.heads import Heads
from pidsl.language.score import PLAIN
from pidsl.language.terms import Term
from pidsl.relation.oracle import table
from pidsl.runtime.call.call import Call, Gradients, Positions
from pidsl.runtime.call.chosen import check_range
from pidsl.runtime.call.dropout import kept
from pidsl.runtime.call.sums import accumulator, over_kept

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan

SCORES_AT_ONCE = 1 << 24  # elements of the score matrix that one chunk of rows may have


class ReferenceProgram:
    """Dense attention for one term and one score; see `pidsl.runtime.programs.Program` for the calls.

    Args:
        plan: what to compute: its term and its score.
    """

    ragged = False

    def __init__(self, plan: Plan) -> None:
        self.plan, self.score = plan, plan.score

    @property
    def source(self) -> str:
        """This module: the reference reads the mask from the oracle, nothing is generated."""
        scored = "" if self.score == PLAIN else f"# {self.score!r}\n"
        text = inspect.getsource(sys.modules[__name__])
        return f"# pattern: {self.plan.term!r}, dense under its mask\n{scored}{text}"

    def forward(self, call: Call) -> tuple[Tensor, Tensor]:
        """out [B, Hq, n, Dv] in q's dtype and lse [B, Hq, n] in float32 (float64 for float64)."""
        q, _, v, *_ = call
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        lse = torch.full(q.shape[:3], -torch.inf, dtype=accumulator(q.dtype), device=q.device)
        if (lists := call.inputs.get("blocks")) is not None:
            self._check(lists, call)
        for rows, mask in self._chunks(call):
            part, part_lse = self._attention(_rows(call, rows), mask)
            out[:, :, rows], lse[:, :, rows] = part.to(q.dtype), part_lse.to(lse.dtype)
        return out, lse

    def backward(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool
    ) -> Gradients:
        """The gradients of q, k, v and the inputs; `out`, `lse` and `learned` are not used."""
        precise, given = _precise(call.q), call.tensors
        learns = [x for x in given if x.is_floating_point()]
        total = [torch.zeros(x.shape, dtype=precise, device=x.device) for x in learns]
        for rows, mask in self._chunks(call):
            with _autograd():
                leaves = [x.detach().to(precise).requires_grad_() if x.is_floating_point() else x for x in given]
                part, part_lse = self._attention(_rows(Call.resumed(call.rest, leaves), rows), mask)
                seeds = [torch.where(mask.any(-1)[..., None], grad_out[:, :, rows].to(part.dtype), 0.0)]
                lost = part_lse == -torch.inf  # a row without keys
                seeds.append(torch.where(lost, 0.0, 0.0 if grad_lse is None else grad_lse[:, :, rows].to(part.dtype)))
                own = [x for x in leaves if x.requires_grad]
                grads = torch.autograd.grad([part, part_lse], own, seeds, materialize_grads=True)
            for sums, grad in zip(total, grads, strict=True):
                sums += grad
        dq, dk, dv, *found = (sums.to(x.dtype) for sums, x in zip(total, learns, strict=True))
        names = [name for name in call.names if call.inputs[name].is_floating_point()]
        return dq, dk, dv, dict(zip(names, found, strict=True))

    def attends(self, n: int, m: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which keys at positions j queries at positions i attend, whatever is chosen: bool [queries, keys]."""
        return self._attended(lambda term: term, n, m, i, j)

    def attends_anyway(self, n: int, m: int, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Those that they attend where nothing is chosen."""
        return self._attended(forced, n, m, i, j)

    def _attended(
        self, of: Callable[[Term], Term], n: int, m: int, i: NDArray[np.int64], j: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        term = self.plan.term
        assert not isinstance(term, Heads)
        known = (j >= 0) & (j < m)  # no position is asked about that there is not
        return table(of(term), range(int(i[0]), int(i[-1]) + 1), np.where(known, j, 0), n, m) & known

    def picked(self, call: Call, keep: NDArray[np.bool_], at: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(out, lse) of a call whose keys stand at positions `at`, of which rows keep some."""
        j = torch.from_numpy(at).to(call.q.device)
        out, lse = self._attention(call, torch.from_numpy(keep).to(call.q.device), j)
        return out.to(call.q.dtype), lse.to(accumulator(call.q.dtype))

    def _check(self, lists: Tensor, call: Call) -> None:
        """Raise for a block of keys that there is not."""
        assert isinstance(self.plan.term, Term)
        assert isinstance(call.positions, Positions)
        choice = selection(self.plan.term)
        assert choice is not None
        (block, *_), start = choice.numbers, call.positions.key_offset
        first, last = start // block, (start + call.k.shape[2] - 1) // block
        check_range(lists, (lists >= first) & (lists <= last), first, last)

    def _chunks(self, call: Call) -> Iterator[tuple[slice, Tensor]]:
        """Slices of rows, each with its mask [rows, m]."""
        term = self.plan.term
        assert not isinstance(term, Heads)
        assert isinstance(call.positions, Positions)
        batch, heads, n, _ = call.q.shape
        m, (offset, key_offset) = call.k.shape[2], call.positions
        height = max(1, SCORES_AT_ONCE // max(1, batch * heads * m))
        for start in range(0, n, height):
            stop = min(start + height, n)
            i, j = range(offset + start, offset + stop), range(key_offset, key_offset + m)
            mask = torch.from_numpy(np.ascontiguousarray(table(term, i, j, offset + n, j.stop))).to(call.q.device)
            if (lists := selection(term)) is not None:
                block, _, queries = lists.numbers
                at = torch.arange(i.start, i.stop, device=mask.device)
                keys = torch.arange(j.start, j.stop, device=mask.device)
                least = torch.from_numpy(table(forced(term), i, j, offset + n, j.stop)).to(mask.device)
                mask = least | (mask & _listed(call, at, keys // block, queries))
            yield slice(start, stop), mask

    def _attention(self, call: Call, mask: Tensor, at: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(out, lse) of a call under its mask; `at`: the positions of its keys, where they are listed."""
        dtype, device, (batch, heads, rows, _), keys = _precise(call.q), call.q.device, call.q.shape, call.k.shape[2]
        group = heads // call.k.shape[1]
        assert isinstance(call.positions, Positions)
        q = call.q.to(dtype)
        k, v = (x.to(dtype).repeat_interleave(group, 1) for x in (call.k, call.v))
        inputs = {name: x.to(dtype) for name, x in call.inputs.items() if isinstance(x, Tensor) and name != "blocks"}
        i = torch.arange(rows, device=device)[:, None] + call.positions.offset
        j = torch.arange(keys, device=device) + call.positions.key_offset if at is None else at

        scores = _Scores.apply(q, k, mask) * call.scale  # type: ignore[no-untyped-call]
        if self.score.length_scaled:
            scores = scores * (i + 1).to(dtype).log()
        if "temperature" in inputs:
            scores = scores / inputs["temperature"][:, None, None]
        if self.score.softcap is not None:
            scores = self.score.softcap * torch.tanh(scores / self.score.softcap)
        if "slopes" in inputs:
            scores = scores - inputs["slopes"][:, None, None] * (i - j).abs()
        if self.score.bias is not None:
            low, high = self.score.bias
            scores = scores + inputs["bias"][:, (i - j).clamp(low, high) - low]
        if self.score.softplus:  # where it is below the smallest number, it is e^s
            scores = torch.where(scores < -36, scores, torch.nn.functional.softplus(scores.clamp(min=-36), 1, 40).log())
        scores = torch.where(mask, scores, -torch.inf)
        if "sinks" in inputs:  # a key more, with value 0
            scores = torch.cat([scores, inputs["sinks"][:, None, None].expand(batch, heads, rows, 1)], -1)
            v = torch.cat([v, v.new_zeros(*v.shape[:2], 1, v.shape[3])], 2)
            mask = torch.cat([mask, mask.new_ones(*mask.shape[:-1], 1)], -1)
        live = (scores != -torch.inf).any(-1, keepdim=True)
        scores = torch.where(live, scores, 0.0)
        lse = torch.where(live[..., 0], torch.logsumexp(scores, -1), -torch.inf)
        p = torch.where(live & mask, torch.softmax(scores, -1), 0.0)
        if self.score.dropout:
            head = torch.arange(batch * heads, device=device).view(batch, heads, 1, 1) + call.inputs.get("stream", 0)
            if "sinks" in inputs:
                j = torch.cat([j, j.new_zeros(1)])  # its value is 0, dropped or not
            keep = kept(call.inputs["seed"], self.score.dropout, head, i, j)
            p = torch.where(keep, p / (1 - self.score.dropout), 0.0)
        out: Tensor = _Weighed.apply(p, v, mask)  # type: ignore[no-untyped-call]
        return out, lse


def _listed(call: Call, i: Tensor, blocks: Tensor, queries: int) -> Tensor:
    """bool [B, Hq, rows, keys]: whether the call lists the block of a key for the block of a query's position."""
    lists = call.inputs["blocks"].repeat_interleave(call.q.shape[1] // call.inputs["blocks"].shape[1], 1)
    assert isinstance(call.positions, Positions)
    own = lists[:, :, i // queries - call.positions.offset // queries]
    found = torch.zeros((*own.shape[:3], len(blocks)), dtype=torch.bool, device=i.device)
    for x in range(own.shape[3]):
        found |= own[..., x, None] == blocks
    return found


def _rows(call: Call, rows: slice) -> Call:
    """The call of some rows alone."""
    assert isinstance(call.positions, Positions)
    offset, key_offset = call.positions
    return call._replace(q=call.q[:, :, rows], positions=Positions(offset + rows.start, key_offset))


@contextmanager
def _autograd() -> Iterator[None]:
    """Autograd at work, inside an op too, for which torch leaves it out of the dispatch."""
    keys = torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView
    with ExitStack() as stack:
        for key in keys:
            stack.enter_context(torch._C._SetExcludeDispatchKeyGuard(key, False))
        stack.enter_context(torch.enable_grad())
        yield


class _Scores(torch.autograd.Function):
    """q @ k.mT on the pairs of a mask, 0 on the others."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, mask)
        return torch.where(mask, q @ k.mT, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        q, k, mask = ctx.saved_tensors
        grad = torch.where(mask, grad, 0.0)
        return over_kept(grad, k, mask), over_kept(grad.mT, q, mask.mT), None


class _Weighed(torch.autograd.Function):
    """p @ v over the pairs of a mask."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(p, v, mask)
        return over_kept(p, v, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        p, v, mask = ctx.saved_tensors
        return torch.where(mask, grad @ v.mT, 0.0), over_kept(p.mT, grad, mask.mT), None


def _precise(x: Tensor) -> torch.dtype:
    """What the reference computes in: float64 where the device has it. It judges others, so its own error is small."""
    return torch.float32 if x.device.type == "mps" else torch.float64
