"""The passes of a generated torch program with a score: those of `run_torch.passes`, with another tile operation.

Where a score only adds to the logits, the flash operation takes what is added as its mask, forward, and backward
unless slopes or bias are learned; a softcap, dropout and their gradients work on dense tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pidsl.language.score import Score
from pidsl.runtime.call.call import Inputs
from pidsl.runtime.call.logits import (
    NOWHERE,
    Place,
    TileScore,
    add_sinks,
    row_pull,
    sink_gradient,
    temperature_gradient,
)
from pidsl.runtime.run_dense.reference import over_kept
from pidsl.runtime.run_torch import passes, score_diagonals, tile_ops
from pidsl.runtime.run_torch.bands import Band, Mask, Segment
from pidsl.runtime.run_torch.boxes import BoxSegment
from pidsl.runtime.run_torch.diagonals import DiagonalSet
from pidsl.runtime.run_torch.lists import ListSegment
from pidsl.runtime.run_torch.views import Tiles, batches

SCORES_AT_ONCE = 1 << 21  # logits in one call: several tensors of that size are alive at a time


class _Scored(passes._Pass):
    """What both passes add: the score, queries divided by the temperature, and where the pairs of a tile are."""

    score: TileScore

    def begin_score(self, score: Score, inputs: Inputs) -> None:
        """Take the score in; q, k and v are prepared already."""
        self.score = TileScore(score, inputs)
        if "temperature" in inputs:
            self.q = self.q / inputs["temperature"][:, None, None]
        device = self.q.device
        self.i = torch.arange(self.offset, self.offset + self.n, device=device)
        self.head = torch.arange(self.heads, device=device)
        self.stream = torch.arange(self.batch * self.heads, device=device)

    def limit(self, s: Segment) -> int:
        """Tiles per call."""
        return min(super().limit(s), max(1, SCORES_AT_ONCE // (s.height * s.width)))

    def places(self, s: Segment) -> list[Tiles]:
        """What `place` reads, as tiles of the segment's grid; nothing where the score does not ask."""
        if not self.score.placed:
            return []
        j = self.key_positions(s)
        return [
            Tiles(self.i, s.row, (0, 0, 0, 1, s.row_tile), (s.height, 1), (s.row_step, 0)),
            Tiles(j, 0, (0, 0, 0, *j.stride()[:2]), (1, s.width), (0, 1)),
            Tiles(self.head, 0, (0, self.group, 1, 0, 0), (1, 1), (0, 0)),
            Tiles(self.stream, 0, (self.heads, self.group, 1, 0, 0), (1, 1), (0, 0)),
        ]

    def gathered_place(self, s: BoxSegment | ListSegment) -> Place:
        """Positions and heads of the pairs of boxes or listed blocks, whose rows are those of all heads of a group."""
        device = self.q.device
        i = s.row_positions(device).repeat(1, self.group)[:, :, None]
        rows = i.shape[1] // self.group
        stream = self.stream.view(-1, self.group, 1).expand(-1, -1, rows).reshape(-1, 1, rows * self.group, 1)
        return Place(i, s.key_positions(device)[:, None, :], stream % self.heads, stream)

    @staticmethod
    def place(views: list[Tensor]) -> Place:
        """Positions and heads of one call, each distinct one once."""
        if not views:
            return NOWHERE
        for axis in (0, 1):
            views = [x if x.stride(axis) else x.narrow(axis, 0, 1) for x in views]
        return Place(*views)

    def scored(self, q: Tensor, k: Tensor, mask: Mask | None, place: Place) -> tuple[Tensor, Tensor | None]:
        """The final logits of tiles, and their derivative by the raw ones (None for 1)."""
        s, slope = self.score.capped(torch.matmul(q, k.mT).mul_(self.scale))
        added = self.score.added(place)
        return tile_ops.masked(s if added is None else s.add_(added), mask, -torch.inf), slope

    def with_added(self, mask: Mask | None, place: Place) -> Mask | None:
        """The mask that also adds what the score adds."""
        added = self.score.added(place)
        if added is None:
            return mask
        return Mask(added, None) if mask is None else Mask(added + mask.bias, mask.dead)


class Forward(_Scored, passes.Forward):
    """`pidsl.runtime.run_torch.passes.Forward` with a score.

    Args:
        q, k, v, scale, offset: as there.
        score: what happens to the logits.
        inputs: what it reads, by name.
    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, score: Score, inputs: Inputs
    ) -> None:  # fmt: skip
        super().__init__(q, k, v, scale, offset)
        self.begin_score(score, inputs)

    def _tiles(self, band: Band) -> None:
        for s, fresh in self.segments(band):
            mask = s.mask(self.q.dtype, self.q.device)
            operands = [self.of_rows(x, s) for x in (self.q, self.out, self.lse)]
            operands += [self.of_keys(x, s) for x in (self.k, self.v)] + self.places(s)
            for q, out, lse, k, v, *views in batches(self.grid(s), operands, self.limit(s)):
                more, more_lse = self.attend_at(q, *self.fitted(k, v, s), mask, self.place(views))
                if fresh:
                    out.copy_(more)
                    lse.copy_(more_lse)
                else:
                    tile_ops.merge(out, lse, more, more_lse)

    def attend_at(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None, place: Place) -> tuple[Tensor, Tensor]:
        """Attention of tiles with the score."""
        if self.score.additive and not self.dense_only:
            if self.exact:
                (q,), (k, v) = tile_ops.blanked(mask, (q,), (k, v))
            out, lse = tile_ops.attend(q, k, v, self.with_added(mask, place), self.scale)
            if not self.exact or passes.finite(out):
                return out, lse
        s, _ = self.scored(q, k, mask, place)
        lse = torch.logsumexp(s, -1)
        p = s.sub_(tile_ops.seen(lse).unsqueeze(-1)).exp_()
        return over_kept(self.score.dropped(p, place), v, tile_ops.kept(mask)), lse

    def attend_gathered(
        self, s: BoxSegment | ListSegment, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Attention of the boxes or listed blocks of a segment."""
        return self.attend_at(q, k, v, mask, self.gathered_place(s))

    def _diagonals(self, which: DiagonalSet) -> None:
        seen_others = not self.begin(0)
        score_diagonals.forward(self.chunks(which), self.v, self.out, self.lse, seen_others, self.score)

    def compute(self) -> None:
        """Go through the pieces; the sinks join last."""
        super().compute()
        if "sinks" in self.score.inputs:
            add_sinks(self.out, self.lse, self.score.inputs["sinks"])


class Backward(_Scored, passes.Backward):
    """`pidsl.runtime.run_torch.passes.Backward` with a score.

    Args:
        q, k, v, out, lse, grad_out, grad_lse, scale, offset: as there.
        score: what happens to the logits.
        inputs: what it reads, by name.
        learned: whether the gradients of slopes and bias are wanted.
    """

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
        scale: float, offset: int, score: Score, inputs: Inputs, learned: bool,
    ) -> None:  # fmt: skip
        super().__init__(q, k, v, out, lse, grad_out, grad_lse, scale, offset)
        self.begin_score(score, inputs)
        self.given = q, out, lse, grad_out, grad_lse
        self.learned = learned and ("slopes" in inputs or "bias" in inputs)

    def start(self) -> None:
        """All gradients before any pair."""
        super().start()
        self.score = TileScore(self.score.score, self.score.inputs)

    def _tiles(self, band: Band) -> None:
        for s, fresh in self.segments(band):
            mask = s.mask(self.q.dtype, self.q.device)
            operands = [self.of_rows(x, s) for x in (self.q, self.out, self.grad_out, self.lse, self.dq)]
            operands += [self.of_keys(x, s) for x in (self.k, self.v)] + self.of_sums(s) + self.places(s)
            for q, out, grad_out, lse, dq, k, v, dk, dv, *views in batches(self.grid(s), operands, self.limit(s)):
                k, v = self.fitted(k, v, s)
                gq, gk, gv = self.attend_backward_at(grad_out, q, k, v, out, lse, mask, self.place(views))
                if fresh:
                    dq.copy_(gq)
                else:
                    dq.add_(gq)
                self.dk.add(dk, gk)
                self.dv.add(dv, gv)

    def attend_backward_at(
        self, grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Mask | None,
        place: Place,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """What tiles add to the gradients with the score."""
        if self.score.additive and not self.learned and not self.dense_only:
            if self.exact:
                (grad_out, q), (k, v) = tile_ops.blanked(mask, (grad_out, q), (k, v))
            whole = self.with_added(mask, place)
            dq, dk, dv = tile_ops.attend_backward(grad_out, q, k, v, out, lse, whole, self.scale)
            if not self.exact or passes.finite(dq):
                return dq, dk, dv
        s, slope = self.scored(q, k, mask, place)
        p = tile_ops.masked(s.sub_(lse.unsqueeze(-1)).exp_(), mask, 0.0)  # lse may be NaN
        delta = (grad_out * out).sum(-1, keepdim=True)
        dp = self.score.dropped(torch.matmul(grad_out, v.mT), place)
        ds = tile_ops.masked(dp.sub_(delta).mul_(p), mask, 0.0)
        if self.learned:
            self.score.learn(ds, place)
        if slope is not None:
            ds = tile_ops.masked(ds.mul_(slope), mask, 0.0)
        return tile_ops.dense_gradients(self.score.dropped(p, place), ds.mul_(self.scale), q, k, grad_out, mask)

    def attend_gathered_backward(
        self, s: BoxSegment | ListSegment, grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        mask: Mask | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """What the boxes or listed blocks of a segment add to the gradients."""
        return self.attend_backward_at(grad_out, q, k, v, out, lse, mask, self.gathered_place(s))

    def _diagonals(self, which: DiagonalSet) -> None:
        self.begin(0)
        grads = self.dq, self.dk, self.dv
        score_diagonals.backward(
            self.chunks(which), self.v, self.out, self.lse, self.grad_out, grads, self.score, self.learned
        )

    def compute(self) -> None:
        """Go through the pieces, whose queries are divided by the temperature."""
        super().compute()
        if "temperature" in self.score.inputs:
            self.dq.div_(self.score.inputs["temperature"][:, None, None])

    def result(self) -> tuple[Tensor, Tensor, Tensor, Inputs]:  # type: ignore[override]
        """dq, dk and dv, shaped and typed like q, k and v, and the gradients of the inputs by name."""
        dq, dk, dv = super().result()
        inputs, (q, out, lse, grad_out, grad_lse) = self.score.inputs, self.given
        found = {"slopes": self.score.grad_slopes, "bias": self.score.grad_bias} if self.learned else {}
        if "sinks" in inputs:
            found["sinks"] = sink_gradient(inputs["sinks"], lse, row_pull(out, grad_out, grad_lse))
        if "temperature" in inputs:
            found["temperature"] = temperature_gradient(inputs["temperature"], q, self.dq[..., : self.dim])
        return dq, dk, dv, {name: x for name, x in found.items() if x is not None}
