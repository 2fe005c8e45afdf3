"""The forward and the backward pass of a generated program, over the batches of its pieces.

    out, lse = Forward(call, SCORE).over(PIECE_0, PIECE_1)
    dq, dk, dv, others = Backward(call, out, lse, grad_out, grad_lse, learned, SCORE).over(PIECE_0, PIECE_1)

A pass brings the inputs into the form that the tile operations want (float32 at least, rows contiguous, as many value
as key columns) and owns the running results; all else is done batch by batch. Keys that no tile meets are not touched:
where the tiles meet few of them, each tile is brought into form on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from pidsl.language.score import PLAIN, Score
from pidsl.runtime.call.call import Call, Gradients, Positions
from pidsl.runtime.call.logits import (
    NOWHERE,
    TileScore,
    add_sinks,
    length_factors,
    row_pull,
    sink_gradient,
    temperature_gradient,
)
from pidsl.runtime.call.sums import accumulator
from pidsl.runtime.run_torch import diagonals, tile_ops
from pidsl.runtime.run_torch.chosen import Chosen, Gathered
from pidsl.runtime.run_torch.diagonals import DiagonalSet
from pidsl.runtime.run_torch.key_sums import KeySums
from pidsl.runtime.run_torch.picked import Picked
from pidsl.runtime.run_torch.tile_ops import Logits, Rows
from pidsl.runtime.run_torch.tiles import Batch, TileWalk
from pidsl.runtime.run_torch.walks import Operands, Schedule, Sizes

# Elements of q, k or scores in one call. Every call is a barrier for all threads, so few large ones suffer least from
# other work on the machine; the gradients of overlapping windows are folded after each call, and gain from the caches.
FORWARD_ELEMENTS = 1 << 23
BACKWARD_ELEMENTS = 1 << 21
DENSE_LOGITS = 1 << 25  # logits in one call of the dense operations,
SCORED_LOGITS = 1 << 21  # and where a score is added to them: several tensors of that size are alive at a time
MANY = 4  # all keys are brought into form at once where tiles hold at least 1 / MANY of their number
_LANES = 16  # padded head sizes are multiples of this
Piece = DiagonalSet | TileWalk[Any] | Chosen


def prepare(x: Tensor, columns: int) -> Tensor:
    """x `[..., rows, D]` in the working dtype with `columns` columns; x itself if it is fit."""
    if x.dtype != (dtype := accumulator(x.dtype)):
        x = x.to(dtype)
    if x.shape[-1] < columns:
        x = pad(x, (0, columns - x.shape[-1]))
    return x if x.stride(-1) == 1 else x.contiguous()


class Pass(Operands):
    """What both passes share.

    On the CPU, tiles are computed by an operation that spreads NaN over a tile. When the results are not finite, all is
    computed once more (`exact`): keys and rows of a tile that take no part in it are blanked, and where that is not
    enough, dense products keep every pair to itself. Other devices have those only.

    Args:
        call: what to compute with.
        score: what happens to the logits.
        elements: of q or k in one call.
        more: columns beside those of v.
    """

    lags: Callable[[Schedule[Any], Operands], None]  # take in isolated lags
    learned = False

    def __init__(self, call: Call, score: Score, elements: int, more: int = 0) -> None:
        q, k, v, self.scale, positions, self.inputs = self.call = call
        assert isinstance(positions, Positions)
        self.batch, self.heads, n, self.dim = q.shape
        _, self.kv_heads, m, self.value_dim = v.shape
        widest = max(self.dim, self.value_dim + more)
        columns = self.dim if self.dim == self.value_dim + more else -(-widest // _LANES) * _LANES
        self.group = self.heads // self.kv_heads
        self.sizes = Sizes(n, m, *positions)
        self.columns, self.elements = columns, elements
        self.dtype, self.like = q.dtype, (k, v)
        self.q, self.keys = prepare(q, columns), (k, v)
        self.dense_only = self.exact = q.device.type != "cpu"
        self.scored = score is not PLAIN
        self.score = TileScore(score, self.inputs)
        if score.temperature:
            self.q = self.q / self.inputs["temperature"][:, None, None]
        self.lengths = length_factors(score, torch.arange(n, device=q.device)[:, None] + self.sizes.offset)
        if self.lengths is not None:
            self.q = self.q * self.lengths.to(self.q.dtype)
        self.places = None
        if self.score.placed:
            i, head, stream = (torch.arange(x, device=q.device) for x in (n, self.heads, self.batch * self.heads))
            shape = self.batch, self.heads, n
            i, head, stream = i + self.sizes.offset, head[:, None], stream.view(*shape[:2], 1)
            stream = stream + self.inputs.get("stream", 0)
            self.places = i.expand(shape), head.expand(shape), stream.expand(shape)

    def compute(self, pieces: tuple[Piece, ...]) -> None:
        """Go through the pieces."""
        schedules: list[Schedule[Any]] = [piece.schedule(self.sizes) for piece in pieces]
        self.many = self.sizes.m <= MANY * sum(x.visited for x in schedules)
        if self.many:
            self.keys = tuple(prepare(x, self.columns) for x in self.keys)
        while True:
            self.start()
            self.started = False
            for piece, schedule in zip(pieces, schedules, strict=True):
                if (
                    not self.started and schedule.written < self.sizes.n
                ):  # most patterns start with a piece that writes all
                    self.clear()
                if isinstance(piece, DiagonalSet):
                    self.lags(schedule, self)
                else:
                    for batch in piece.batches(schedule, self):
                        self.take(batch)
                        del batch  # its copies, before the next ones are made
                self.started = True
            if not self.started:
                self.clear()
            if self.exact or tile_ops.finite(self.results[0]):
                return
            self.exact = True

    def start(self) -> None:
        """Before the first piece."""

    def clear(self) -> None:
        """The results before any key is seen, in every row."""
        raise NotImplementedError

    def take(self, batch: Batch | Gathered) -> None:
        """Take in the pairs of a batch."""
        raise NotImplementedError

    def fit(self, x: Tensor) -> Tensor:
        """Keys or values in the form that the tile operations want."""
        return x if self.many else prepare(x, self.columns)

    def at_once(self, height: int, width: int) -> int:
        """How many tiles of so many rows and keys one call takes."""
        limit = self.elements // (max(height, width) * self.columns)
        if self.scored or self.exact:
            logits = (SCORED_LOGITS if self.scored else DENSE_LOGITS) // (height * width)
            limit = logits if self.dense_only else min(limit, logits)
        return max(1, limit)

    def logits(self, batch: Batch | Gathered | Picked) -> Logits:
        """What becomes of the logits of a batch."""
        place = NOWHERE if self.places is None else batch.place()
        return Logits(self.scale, self.score, place, batch.mask, batch.triangle)

    @property
    def native(self) -> bool:
        """Not where a score or what is not finite asks for every pair."""
        return self.score.additive and not (self.score.placed or self.dense_only or self.exact or self.learned)


class Forward(Pass):
    """Attention, as (out, lse) per row.

    Args:
        call: what to compute with.
        score: what happens to the logits.
    """

    lags = staticmethod(diagonals.forward)

    def __init__(self, call: Call, score: Score = PLAIN) -> None:
        super().__init__(call, score, FORWARD_ELEMENTS)
        shape = (self.batch, self.heads, self.sizes.n)
        self.rows = (self.q,)
        self.results = self.q.new_empty((*shape, self.columns)), self.q.new_empty(shape)

    def clear(self) -> None:
        """No key seen."""
        out, lse = self.results
        out.zero_()
        lse.fill_(-torch.inf)

    def take(self, batch: Batch | Gathered) -> None:
        """Attention of tiles."""
        batch.put(self.attend(batch), tile_ops.write if batch.fresh else tile_ops.merge)

    def attend(self, batch: Batch | Gathered | Picked) -> tuple[Tensor, Tensor]:
        """By the flash operation if that can do it."""
        (q,), (k, v), logits = batch.rows, map(self.fit, batch.keys), self.logits(batch)
        if self.score.additive and not self.dense_only:
            if self.exact:
                (q,), (k, v) = tile_ops.blanked(batch.mask, (q,), (k, v))
            out, lse = tile_ops.attend(q, k, v, logits)
            if not self.exact or tile_ops.finite(out):
                return out, lse
        return tile_ops.attend_dense(q, k, v, logits)

    def over(self, *pieces: Piece) -> tuple[Tensor, Tensor]:
        """out `[B, Hq, n, Dv]` in q's dtype; lse `[B, Hq, n]` in float32 (float64 for float64)."""
        self.compute(pieces)
        return self.finished()

    def picked(self, keep: NDArray[np.bool_], at: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """`over` one tile of all rows and keys that stand at listed positions, see `Picked`."""
        self.many, batch = False, Picked(self.call, self.q, keep, at)
        out, lse = self.attend(batch)
        if not self.exact and not tile_ops.finite(out):
            self.exact = True
            out, lse = self.attend(batch)
        shape = (self.batch, self.heads, self.sizes.n)
        self.results = out.reshape(*shape, -1), lse.reshape(shape)
        return self.finished()

    def finished(self) -> tuple[Tensor, Tensor]:
        """The results, in the shape and the dtype that a call wants."""
        out, lse = self.results
        if "sinks" in self.inputs:
            add_sinks(out, lse, self.inputs["sinks"])
        return (out if out.shape[-1] == self.value_dim else out[..., : self.value_dim]).to(self.dtype), lse


class Backward(Pass):
    """Gradients of q, k, v and of the inputs of a score.

    Args:
        call: as given to `Forward`.
        out, lse: what it returned.
        grad_out: `[B, Hq, n, Dv]`.
        grad_lse: `[B, Hq, n]`, or None when nothing depends on lse.
        learned: whether the gradients of slopes and bias are wanted.
        score: as given to `Forward`.
    """

    lags = staticmethod(diagonals.backward)

    def __init__(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool = False,
        score: Score = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__(call, score, BACKWARD_ELEMENTS, 0 if grad_lse is None else 1)
        self.given = call.q, out, lse, grad_out, grad_lse
        self.learned = learned and (score.alibi or score.bias is not None)
        out, grad_out = prepare(out, self.columns), prepare(grad_out, self.columns)
        if grad_lse is not None:
            # d lse/d score = P, so grad_lse adds P * grad_lse to dS = P * (dO V' - rowsum(dO * O)):
            # one more column with V = 0, O = -1 and dO = grad_lse says the same.
            out[..., self.value_dim] = -1.0
            grad_out[..., self.value_dim] = torch.where(lse == -torch.inf, 0.0, grad_lse.to(lse.dtype))
        self.rows = Rows(self.q, out, grad_out, tile_ops.seen(lse))
        self.results = (self.q.new_empty(self.q.shape),)

    def start(self) -> None:
        """All gradients but dq before any pair."""
        k, v = self.like
        self.sums = tuple(KeySums(x, self.columns, self.q.dtype, self.many) for x in (k, v))
        if self.learned:
            self.score = TileScore(self.score.score, self.inputs)

    def clear(self) -> None:
        """No gradient yet."""
        self.results[0].zero_()

    def take(self, batch: Batch | Gathered) -> None:
        """What tiles add to the gradients."""
        dq, *of_keys = self.gradients(batch)
        batch.put((dq,), tile_ops.write if batch.fresh else tile_ops.add)
        batch.add(of_keys)

    def gradients(self, batch: Batch | Gathered) -> tuple[Tensor, Tensor, Tensor]:
        """By the flash operation if that can do it."""
        rows, (k, v), logits = Rows(*batch.rows), map(self.fit, batch.keys), self.logits(batch)
        if self.score.additive and not self.learned and not self.dense_only:
            if self.exact:
                (q, grad_out), (k, v) = tile_ops.blanked(batch.mask, (rows.q, rows.grad_out), (k, v))
                rows = rows._replace(q=q, grad_out=grad_out)
            found = tile_ops.attend_backward(rows, k, v, logits)
            if not self.exact or tile_ops.finite(found[0]):
                return found
        return tile_ops.attend_dense_backward(rows, k, v, logits, self.learned)

    def over(self, *pieces: Piece) -> Gradients:
        """dq, dk and dv, shaped and typed like q, k and v, and by name the gradients of the inputs."""
        self.compute(pieces)
        temperature, sinks = self.inputs.get("temperature"), self.inputs.get("sinks")
        q, out, lse, grad_out, grad_lse = self.given
        dq = self.results[0][..., : self.dim]
        if self.lengths is not None:
            dq.mul_(self.lengths)
        found = {"slopes": self.score.grad_slopes, "bias": self.score.grad_bias} if self.learned else {}
        if sinks is not None:
            found["sinks"] = sink_gradient(sinks, lse, row_pull(out, grad_out, grad_lse))
        if temperature is not None:
            dq.div_(temperature[:, None, None])
            found["temperature"] = temperature_gradient(temperature, q, dq)
        dk, dv = (x.result() for x in self.sums)
        return dq.to(self.dtype), dk, dv, {name: x for name, x in found.items() if x is not None}
