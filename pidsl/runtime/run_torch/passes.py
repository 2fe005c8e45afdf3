"""The forward and the backward pass of a generated program: one call per piece.

    attention = Forward(q, k, v, scale, offset)           gradients = Backward(q, k, v, out, lse, grad_out, ...)
    attention.tiles(piece_0)                              gradients.tiles(piece_0)
    attention.diagonals(piece_1)                          gradients.diagonals(piece_1)
    out, lse = attention.result()                         dq, dk, dv = gradients.result()

A pass brings the inputs into the form the tile operations want (float32 at least, rows contiguous, as many value as
key columns) and owns the running results. The rest is views. Keys that no tile meets are not touched: where the tiles
meet few of them, each tile is brought into form on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.runtime.run_torch import diagonals as diagonal_ops
from pidsl.runtime.run_torch import tile_ops
from pidsl.runtime.run_torch.bands import LARGEST_MASK, Band, Mask, Segment
from pidsl.runtime.run_torch.boxes import Boxes, BoxSegment
from pidsl.runtime.run_torch.diagonals import Chunks, DiagonalSet
from pidsl.runtime.run_torch.key_sums import KeySums
from pidsl.runtime.run_torch.lists import Listed, ListSegment
from pidsl.runtime.run_torch.views import Tiles, batches

# Elements of q, k or scores in one call. Every call is a barrier for all threads, so few large ones suffer least from
# other work on the machine; the gradients of overlapping windows are folded after each call, and gain from the caches.
FORWARD_ELEMENTS = 1 << 23
BACKWARD_ELEMENTS = 1 << 21
SCORE_ELEMENTS = 1 << 25  # scores in one call on devices where they are kept
PACKED_ROWS = 128  # tiles this tall read each key often enough that gathering spread keys first pays
MANY = 4  # all keys are brought into form at once where tiles hold at least 1 / MANY of their number
_LANES = 16  # padded head sizes are multiples of this


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a pass computes in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def prepare(x: Tensor, columns: int) -> Tensor:
    """x `[..., rows, D]` in the working dtype with `columns` columns; x itself if it is fit."""
    x = x.to(working_dtype(x.dtype))
    if x.shape[-1] < columns:
        x = pad(x, (0, columns - x.shape[-1]))
    return x if x.stride(-1) == 1 else x.contiguous()


def finite(x: Tensor) -> bool:
    """Whether the sum of x is finite, and with it everything in x."""
    return math.isfinite(x.sum().item())


class _Pass:
    """Sizes and inputs that both passes share, and the pieces, which are computed when the result is asked for.

    On the CPU, tiles are computed by an operation that spreads NaN over a tile. When the results are not finite, all is
    computed once more (`exact`): keys and rows of a tile that take no part in it are blanked, and where that is not
    enough, dense products keep every pair to itself. Other devices have those only.
    """

    call_elements: int

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, columns: int) -> None:
        self.batch, self.heads, self.n, self.dim = q.shape
        self.kv_heads, self.m, self.value_dim = k.shape[1], k.shape[2], v.shape[3]
        self.group = self.heads // self.kv_heads if self.kv_heads else 1
        self.scale, self.offset, self.columns = scale, offset, columns
        self.q, self.k, self.v = prepare(q, columns), k, v
        self.pieces: list[tuple[Callable[[Any], None], Any]] = []
        self.dense_only = self.exact = q.device.type != "cpu"
        self.started = False

    def tiles(self, band: Band) -> None:
        """Take in the pairs of `band`."""
        self.pieces.append((self._tiles, band))

    def boxes(self, piece: Boxes) -> None:
        """Take in the pairs in boxes of a grid."""
        self.pieces.append((self._boxes, piece))

    def listed(self, piece: Listed) -> None:
        """Take in the pairs of listed blocks."""
        self.pieces.append((self._listed, piece))

    def diagonals(self, which: DiagonalSet) -> None:
        """Take in the pairs of isolated lags."""
        self.pieces.append((self._diagonals, which))

    def compute(self) -> None:
        """Go through the pieces."""
        self.many = self.k.shape[2] <= MANY * sum(x.visited(self.n, self.m, self.offset) for _, x in self.pieces)
        if self.many:
            self.k, self.v = self.fit(self.k), self.fit(self.v)
        while True:
            self.start()
            for compute, piece in self.pieces:
                compute(piece)
            self.begin(0)
            if self.exact or self.sound():
                return self.pieces.clear()  # their methods refer back to this pass, and so to the results
            self.exact, self.started = True, False

    def chunks(self, which: DiagonalSet) -> Chunks:
        """The chunks of rows that isolated lags are taken in."""
        return Chunks(which, self.q, self.k, self.scale, self.offset, self.exact, self.fit)

    def fit(self, x: Tensor) -> Tensor:
        """Keys or values in the form that the tile operations want."""
        return prepare(x, self.columns)

    def start(self) -> None:
        """Before the first piece."""

    def sound(self) -> bool:
        """Whether nothing that is not finite has been met, if only in a pair that is masked."""
        raise NotImplementedError

    def _tiles(self, band: Band) -> None:
        raise NotImplementedError

    def _boxes(self, piece: Boxes) -> None:
        raise NotImplementedError

    def _listed(self, piece: Listed) -> None:
        raise NotImplementedError

    def _diagonals(self, which: DiagonalSet) -> None:
        raise NotImplementedError

    def segments(self, band: Band) -> list[tuple[Segment, bool]]:
        """The batches of `band`, and whether each is the first to write its rows."""
        segments = band.segments(self.n, self.m, self.offset)
        first = self.begin(sum(s.classes * s.tiles * s.height for s in segments if s.fresh))
        return [(s, first and s.fresh) for s in segments]

    def begin(self, rows_written: int) -> bool:
        """Whether this piece is the first; if it does not write every row, the results are cleared before it.

        Clearing costs a pass over memory, and most patterns start with a piece that writes all rows.
        """
        first = not self.started
        if first and rows_written < self.n:
            self.clear()
        self.started = True
        return first

    def clear(self) -> None:
        """The results before any key is seen, in every row."""
        raise NotImplementedError

    def grid(self, s: Segment) -> tuple[int, int, int, int, int]:
        return self.batch, self.kv_heads, self.group, s.classes, s.tiles

    def box_segments(self, piece: Boxes) -> tuple[list[BoxSegment], bool]:
        """The batches of boxes that one call can compute, and whether they are the first to write any row."""
        segments = piece.segments(self.n, self.m, self.offset)
        written = sum(s.boxes * s.height for s in segments)
        every = bool(segments) and written == segments[0].extent.positions and segments[0].extent.complete
        first = self.begin(self.n if every else 0)
        out = []
        for s in segments:
            tile = max(self.group * s.height, s.width) * self.columns
            scores = self.group * s.height * s.width
            limit = SCORE_ELEMENTS // scores if self.dense_only else self.call_elements // tile
            out += list(s.parts(limit // max(1, self.batch * self.kv_heads)))
        return out, first

    def list_segments(self, piece: Listed) -> Iterator[ListSegment]:
        """The batches of listed blocks that one call can compute."""
        for s in piece.segments(self.n, self.m, self.offset):
            queries, keys = self.group * s.size, s.keys.shape[1] * s.size
            masked = self.batch * self.kv_heads * max(queries, keys) * self.columns, queries * keys
            yield from s.parts(min(self.call_elements // masked[0], LARGEST_MASK // masked[1]))

    def limit(self, s: Segment) -> int:
        """Tiles per call."""
        if self.dense_only:
            return max(1, SCORE_ELEMENTS // (s.height * s.width))
        return max(1, self.call_elements // (max(s.height, s.width) * self.columns))

    def packs(self, s: Segment) -> bool:
        """Whether to copy windows whose keys lie apart: at strides of many KiB they share few cache sets."""
        return s.key_step > 1 and s.height >= PACKED_ROWS and self.k.device.type == "cpu"

    def of_rows(self, x: Tensor, s: Segment) -> Tiles:
        """x `[B, Hq, n]` or `[B, Hq, n, D]` by row tiles."""
        b, h, r = x.stride()[:3]
        outer = (b, h * self.group, h, r, r * s.row_tile)
        offset = int(x.storage_offset()) + r * s.row
        if x.ndim == 3:
            return Tiles(x, offset, outer, (s.height,), (r * s.row_step,))
        return Tiles(x, offset, outer, (s.height, x.shape[3]), (r * s.row_step, 1))

    def of_keys(self, x: Tensor, s: Segment) -> Tiles:
        """x `[B, Hkv, m, D]` by windows of keys, shared by the query heads of a group."""
        b, h, j, d = x.stride()
        outer = (b, h, 0, j, j * s.key_tile)
        return Tiles(x, int(x.storage_offset()) + j * s.key, outer, (s.width, x.shape[3]), (j * s.key_step, d))

    def key_positions(self, s: Segment) -> Tensor:
        """`[classes, tiles, width]`: the keys of every window."""
        classes, tiles, width = (torch.arange(x, device=self.q.device) for x in (s.classes, s.tiles, s.width))
        return s.key + classes[:, None, None] + s.key_tile * tiles[:, None] + s.key_step * width

    def fitted(self, k: Tensor, v: Tensor, s: Segment) -> tuple[Tensor, Tensor]:
        """Windows of keys and values as the tile operations want them."""
        if self.packs(s):
            k, v = k.contiguous(), v.contiguous()
        return self.fit(k), self.fit(v)


class Forward(_Pass):
    """Attention over the pieces given so far, as (out, lse) per row; starts with no key seen.

    Args:
        q: `[B, Hq, n, D]`, any strides.
        k: `[B, Hkv, m, D]`.
        v: `[B, Hkv, m, Dv]`.
        scale: factor on the scores.
        offset: position of row 0.
    """

    call_elements = FORWARD_ELEMENTS

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int) -> None:
        columns = q.shape[3] if q.shape[3] == v.shape[3] else _round_up(max(q.shape[3], v.shape[3]))
        super().__init__(q, k, v, scale, offset, columns)
        self.dtype = q.dtype
        shape = (self.batch, self.heads, self.n)
        self.out = self.q.new_empty((*shape, columns))
        self.lse = self.q.new_empty(shape)

    def clear(self) -> None:
        self.out.zero_()
        self.lse.fill_(-torch.inf)

    def sound(self) -> bool:
        """Whether out is finite: then nothing else has been met."""
        return finite(self.out)

    def _tiles(self, band: Band) -> None:
        for s, fresh in self.segments(band):
            mask = s.mask(self.q.dtype, self.q.device)
            operands = [self.of_rows(x, s) for x in (self.q, self.out, self.lse)]
            operands += [self.of_keys(x, s) for x in (self.k, self.v)]
            for q, out, lse, k, v in batches(self.grid(s), operands, self.limit(s)):
                more, more_lse = self.attend(q, *self.fitted(k, v, s), mask)
                if fresh:
                    out.copy_(more)
                    lse.copy_(more_lse)
                else:
                    tile_ops.merge(out, lse, more, more_lse)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor]:
        """Attention of tiles."""
        if not self.dense_only:
            if self.exact:
                (q,), (k, v) = tile_ops.blanked(mask, (q,), (k, v))
            out, lse = tile_ops.attend(q, k, v, mask, self.scale)
            if not self.exact or finite(out):
                return out, lse
        out, lse = tile_ops.in_parts(tile_ops.attend_dense, (q, k, v), mask, self.scale, SCORE_ELEMENTS)
        return out, lse

    def _boxes(self, piece: Boxes) -> None:
        segments, first = self.box_segments(piece)
        if not segments:
            return
        extent = segments[0].extent
        q, out, lse = (extent.of_queries(x) for x in (self.q, self.out, self.lse))
        for s in segments:
            mask = s.mask(self.q.dtype, self.q.device, self.group)
            rows, keys, values = s.of_rows(q, self.group), self.fit(s.of_keys(self.k)), self.fit(s.of_keys(self.v))
            more, more_lse = self.attend_gathered(s, rows, keys, values, mask)
            out_here, lse_here = (s.rows(x, self.group) for x in (out, lse))
            more, more_lse = more.reshape(out_here.shape), more_lse.reshape(lse_here.shape)
            if first:
                out_here.copy_(more)
                lse_here.copy_(more_lse)
            else:
                tile_ops.merge(out_here, lse_here, more, more_lse)
        extent.give_back(self.out, out)
        extent.give_back(self.lse, lse)

    def _listed(self, piece: Listed) -> None:
        self.begin(0)
        for s in self.list_segments(piece):
            mask = s.mask(self.q.dtype, self.q.device, self.group)
            rows, out, lse = (s.of_rows(x, self.group) for x in (self.q, self.out, self.lse))
            keys, values = self.fit(s.of_keys(self.k)), self.fit(s.of_keys(self.v))
            tile_ops.merge(out, lse, *self.attend_gathered(s, rows, keys, values, mask))
            s.put_rows(self.out, out, self.group)
            s.put_rows(self.lse, lse, self.group)

    def attend_gathered(
        self, s: BoxSegment | ListSegment, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Attention of the boxes or listed blocks of a segment."""
        return self.attend(q, k, v, mask)

    def _diagonals(self, which: DiagonalSet) -> None:
        seen_others = not self.begin(0)
        diagonal_ops.forward(self.chunks(which), self.v, self.out, self.lse, seen_others)

    def result(self) -> tuple[Tensor, Tensor]:
        """out `[B, Hq, n, Dv]` in q's dtype; lse `[B, Hq, n]` in float32 (float64 for float64)."""
        self.compute()
        out = self.out if self.out.shape[-1] == self.value_dim else self.out[..., : self.value_dim]
        return out.to(self.dtype), self.lse


class Backward(_Pass):
    """Gradients of q, k and v from the pieces given so far.

    Args:
        q, k, v, scale, offset: as given to `Forward`.
        out, lse: what it returned.
        grad_out: `[B, Hq, n, Dv]`.
        grad_lse: `[B, Hq, n]`, or None when nothing depends on lse.
    """

    call_elements = BACKWARD_ELEMENTS

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
        scale: float, offset: int,
    ) -> None:  # fmt: skip
        dim, value_dim = q.shape[3], v.shape[3]
        if grad_lse is not None:
            columns = _round_up(max(dim, value_dim + 1))
        else:
            columns = dim if dim == value_dim else _round_up(max(dim, value_dim))
        super().__init__(q, k, v, scale, offset, columns)
        self.dtype, self.like = q.dtype, (k, v)
        self.out = prepare(out, columns)
        self.grad_out = prepare(grad_out, columns)
        self.lse = tile_ops.seen(lse)
        if grad_lse is not None:
            # d lse/d score = P, so grad_lse adds P * grad_lse to dS = P * (dO V' - rowsum(dO * O)):
            # one more column with V = 0, O = -1 and dO = grad_lse says the same.
            reached = lse != -torch.inf
            self.out[..., value_dim] = -1.0
            self.grad_out[..., value_dim] = torch.where(reached, grad_lse.to(self.lse.dtype), 0.0)
        self.dq = self.q.new_empty(self.q.shape)

    def clear(self) -> None:
        self.dq.zero_()

    def start(self) -> None:
        """The gradients of keys and values before any pair."""
        self.dk, self.dv = (KeySums(x, self.columns, self.q.dtype, self.many) for x in self.like)
        self.filled_soundly = True  # dq of queries that fill up a row of a grid, which are thrown away

    def sound(self) -> bool:
        """Whether dq is finite: then nothing else has been met."""
        return self.filled_soundly and finite(self.dq)

    def of_sums(self, s: Segment) -> list[Tiles]:
        """The rows of dk and dv that windows of keys add to, see `KeySums.add`."""
        if self.dk.whole is not None and self.dv.whole is not None:
            return [self.of_keys(self.dk.whole, s), self.of_keys(self.dv.whole, s)]
        numbers = self.dk.numbers(self.key_positions(s))
        b, h, c, t, j = numbers.stride()
        numbered = Tiles(numbers, 0, (b, h, 0, c, t), (s.width,), (j,))
        return [numbered if x.whole is None else self.of_keys(x.whole, s) for x in (self.dk, self.dv)]

    def _tiles(self, band: Band) -> None:
        for s, fresh in self.segments(band):
            mask = s.mask(self.q.dtype, self.q.device)
            operands = [self.of_rows(x, s) for x in (self.q, self.out, self.grad_out, self.lse, self.dq)]
            operands += [self.of_keys(x, s) for x in (self.k, self.v)] + self.of_sums(s)
            for q, out, grad_out, lse, dq, k, v, dk, dv in batches(self.grid(s), operands, self.limit(s)):
                gq, gk, gv = self.attend_backward(grad_out, q, *self.fitted(k, v, s), out, lse, mask)
                if fresh:
                    dq.copy_(gq)
                else:
                    dq.add_(gq)
                self.dk.add(dk, gk)
                self.dv.add(dv, gv)

    def attend_backward(
        self, grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Mask | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What tiles add to the gradients."""
        if not self.dense_only:
            if self.exact:
                (grad_out, q), (k, v) = tile_ops.blanked(mask, (grad_out, q), (k, v))
            dq, dk, dv = tile_ops.attend_backward(grad_out, q, k, v, out, lse, mask, self.scale)
            if not self.exact or finite(dq):
                return dq, dk, dv
        given = grad_out, q, k, v, out, lse
        dq, dk, dv = tile_ops.in_parts(tile_ops.attend_dense_backward, given, mask, self.scale, SCORE_ELEMENTS)
        return dq, dk, dv

    def _boxes(self, piece: Boxes) -> None:
        segments, first = self.box_segments(piece)
        if not segments:
            return
        extent = segments[0].extent
        given = (self.q, self.out, self.grad_out, self.lse)
        q, out, grad_out, lse, dq = (extent.of_queries(x) for x in (*given, self.dq))
        for s in segments:
            rows = [s.of_rows(x, self.group) for x in (q, out, grad_out, lse)]
            gq = self.gathered(s, *rows)
            dq_here = s.rows(dq, self.group)
            if first:
                dq_here.copy_(gq.reshape(dq_here.shape))
            else:
                dq_here.add_(gq.reshape(dq_here.shape))
        if extent.filled and not self.exact:
            self.filled_soundly &= finite(dq)
        extent.give_back(self.dq, dq)

    def _listed(self, piece: Listed) -> None:
        self.begin(0)
        for s in self.list_segments(piece):
            rows = [s.of_rows(x, self.group) for x in (self.q, self.out, self.grad_out, self.lse)]
            s.put_rows(self.dq, s.of_rows(self.dq, self.group) + self.gathered(s, *rows), self.group)

    def gathered(self, s: BoxSegment | ListSegment, q: Tensor, out: Tensor, grad_out: Tensor, lse: Tensor) -> Tensor:
        """dq of the boxes or listed blocks of a segment; what they add to dk and dv is added."""
        mask = s.mask(self.q.dtype, self.q.device, self.group)
        if self.exact and isinstance(s, BoxSegment) and s.extent.filled:
            mask = s.mask_of_rows(mask, self.group, self.q.dtype, self.q.device)
        keys, values = self.fit(s.of_keys(self.k)), self.fit(s.of_keys(self.v))
        gq, gk, gv = self.attend_gathered_backward(s, grad_out, q, keys, values, out, lse, mask)
        for sums, grads in ((self.dk, gk), (self.dv, gv)):
            if sums.whole is None:
                sums.add(sums.numbers(s.key_positions(self.q.device)), grads)
            else:
                s.add_keys(sums.whole, grads)
        return gq

    def attend_gathered_backward(
        self, s: BoxSegment | ListSegment, grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        mask: Mask | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """What the boxes or listed blocks of a segment add to the gradients."""
        return self.attend_backward(grad_out, q, k, v, out, lse, mask)

    def _diagonals(self, which: DiagonalSet) -> None:
        self.begin(0)
        grads = self.dq, self.dk, self.dv
        diagonal_ops.backward(self.chunks(which), self.v, self.out, self.lse, self.grad_out, grads)

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """dq, dk and dv, shaped and typed like q, k and v."""
        self.compute()
        return self.dq[..., : self.dim].to(self.dtype), self.dk.result(), self.dv.result()


def _round_up(columns: int) -> int:
    return -(-columns // _LANES) * _LANES
