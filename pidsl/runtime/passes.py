"""The forward and the backward pass of a generated program: one call per piece.

    attention = Forward(q, k, v, scale, offset)           gradients = Backward(q, k, v, out, lse, grad_out, ...)
    attention.tiles(piece_0)                              gradients.tiles(piece_0)
    attention.diagonals(piece_1)                          gradients.diagonals(piece_1)
    out, lse = attention.result()                         dq, dk, dv = gradients.result()

A pass brings the inputs into the form the tile operations want (float32 at least, rows contiguous, as many value as
key columns, zeros at keys that nothing attends) and owns the running results. The rest is views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.runtime import diagonal_ops, tile_ops
from pidsl.runtime.block_list import Listed, ListSegment
from pidsl.runtime.boxes import Boxes, BoxSegment
from pidsl.runtime.diagonal_ops import DiagonalSet
from pidsl.runtime.schedule import LARGEST_MASK, Band, Mask, Segment
from pidsl.runtime.views import Tiles, add_windows, batches

Attended = Callable[..., Any] | None

# Elements of q, k or scores in one call. Every call is a barrier for all threads, so few large ones suffer least from
# other work on the machine; the gradients of overlapping windows are folded after each call, and gain from the caches.
FORWARD_ELEMENTS = 1 << 23
BACKWARD_ELEMENTS = 1 << 21
SCORE_ELEMENTS = 1 << 25  # scores in one call on devices where they are kept
PACKED_ROWS = 128  # tiles this tall read each key often enough that gathering spread keys first pays
_LANES = 16  # padded head sizes are multiples of this


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a pass computes in: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def prepare(x: Tensor, columns: int, attended: Tensor | None = None) -> Tensor:
    """x `[B, H, rows, D]` in the working dtype with `columns` columns, unattended rows zeroed; x itself if it is fit.

    Rows that nothing attends may hold NaN, and 0 * NaN would spread it through a tile.
    """
    x = x.to(working_dtype(x.dtype))
    if x.shape[-1] < columns:
        x = pad(x, (0, columns - x.shape[-1]))
    if attended is not None:
        x = x.masked_fill(~attended[:, None], 0.0)
    return x if x.stride(-1) == 1 else x.contiguous()


def _attended(which: Attended, n: int, m: int, offset: int, **index: int) -> Tensor | None:
    """The rows or keys that `which` marks, or None when that is all of them."""
    if which is None:
        return None
    ((name, count),) = index.items()
    values = which(
        n=np.int64(n), m=np.int64(m), offset=np.int64(offset), **{name: np.arange(count, dtype=np.int64)}
    )  # fmt: skip
    marked = np.broadcast_to(values, (count,))
    return None if marked.all() else torch.from_numpy(np.array(marked))


class _Pass:
    """Sizes and inputs that both passes share."""

    call_elements: int

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, columns: int,
        attended_keys: Attended, attended_rows: Attended,
    ) -> None:  # fmt: skip
        self.batch, self.heads, self.n, self.dim = q.shape
        self.kv_heads, self.m, self.value_dim = k.shape[1], k.shape[2], v.shape[3]
        self.group = self.heads // self.kv_heads if self.kv_heads else 1
        self.scale, self.offset, self.columns = scale, offset, columns
        keys = _attended(attended_keys, self.n, self.m, offset, j=self.m)
        rows = _attended(attended_rows, self.n, self.m, offset, r=self.n)
        self.keys = None if keys is None else keys.to(q.device)
        self.rows = None if rows is None else rows.to(q.device)
        self.q = prepare(q, columns, self.rows)
        self.k = prepare(k, columns, self.keys)
        self.v = prepare(v, columns, self.keys)
        self.started = False

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
            if self.q.device.type == "cpu":
                limit = self.call_elements // tile
            else:
                limit = SCORE_ELEMENTS // (self.group * s.height * s.width)
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
        if self.q.device.type == "cpu":
            return max(1, self.call_elements // (max(s.height, s.width) * self.columns))
        return max(1, SCORE_ELEMENTS // (s.height * s.width))

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
        b, h, j = x.stride()[:3]
        outer = (b, h, 0, j, j * s.key_tile)
        return Tiles(x, int(x.storage_offset()) + j * s.key, outer, (s.width, x.shape[3]), (j * s.key_step, 1))


class Forward(_Pass):
    """Attention over the pieces given so far, as (out, lse) per row; starts with no key seen.

    Args:
        q: `[B, Hq, n, D]`, any strides.
        k: `[B, Hkv, m, D]`.
        v: `[B, Hkv, m, Dv]`.
        scale: factor on the scores.
        offset: position of row 0.
        attended_keys, attended_rows: over (n, m, offset, j) and (n, m, offset, r); None when all take part.
    """

    call_elements = FORWARD_ELEMENTS

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, offset: int, *,
        attended_keys: Attended = None, attended_rows: Attended = None,
    ) -> None:  # fmt: skip
        columns = q.shape[3] if q.shape[3] == v.shape[3] else _round_up(max(q.shape[3], v.shape[3]))
        super().__init__(q, k, v, scale, offset, columns, attended_keys, attended_rows)
        self.dtype = q.dtype
        shape = (self.batch, self.heads, self.n)
        self.out = self.q.new_empty((*shape, columns))
        self.lse = self.q.new_empty(shape)

    def clear(self) -> None:
        self.out.zero_()
        self.lse.fill_(-torch.inf)

    def tiles(self, band: Band) -> None:
        """Take in the pairs of `band`."""
        for s, fresh in self.segments(band):
            mask = s.mask(self.q.dtype, self.q.device)
            operands = [self.of_rows(x, s) for x in (self.q, self.out, self.lse)]
            operands += [self.of_keys(x, s) for x in (self.k, self.v)]
            for q, out, lse, k, v in batches(self.grid(s), operands, self.limit(s)):
                if self.packs(s):
                    k, v = k.contiguous(), v.contiguous()
                more, more_lse = tile_ops.attend(q, k, v, mask, self.scale)
                if fresh:
                    out.copy_(more)
                    lse.copy_(more_lse)
                else:
                    tile_ops.merge(out, lse, more, more_lse)

    def boxes(self, piece: Boxes) -> None:
        """Take in the pairs of boxes of a grid."""
        segments, first = self.box_segments(piece)
        if not segments:
            return
        extent = segments[0].extent
        q, out, lse = (extent.of_queries(x) for x in (self.q, self.out, self.lse))
        k, v = (extent.of_keys(x) for x in (self.k, self.v))
        for s in segments:
            mask = s.mask(self.q.dtype, self.q.device, self.group)
            rows, keys, values = s.of_rows(q, self.group), s.of_keys(k), s.of_keys(v)
            more, more_lse = self.attend_gathered(s, rows, keys, values, mask)
            out_here, lse_here = (s.rows(x, self.group) for x in (out, lse))
            more, more_lse = more.reshape(out_here.shape), more_lse.reshape(lse_here.shape)
            if first:
                out_here.copy_(more)
                lse_here.copy_(more_lse)
            else:
                tile_ops.merge(out_here, lse_here, more, more_lse)
        extent.give_back(self.out, out, queries=True)
        extent.give_back(self.lse, lse, queries=True)

    def listed(self, piece: Listed) -> None:
        """Take in the pairs of listed blocks."""
        self.begin(0)
        for s in self.list_segments(piece):
            q, out, lse = (s.extent.of_queries(x) for x in (self.q, self.out, self.lse))
            k, v = (s.extent.of_keys(x) for x in (self.k, self.v))
            mask = s.mask(self.q.dtype, self.q.device, self.group)
            rows, out_here, lse_here = (s.of_rows(x, self.group) for x in (q, out, lse))
            more, more_lse = self.attend_gathered(s, rows, s.of_keys(k), s.of_keys(v), mask)
            tile_ops.merge(out_here, lse_here, more, more_lse)
            for whole, changed, here in ((self.out, out, out_here), (self.lse, lse, lse_here)):
                s.put_rows(changed, here, self.group)
                s.extent.give_back(whole, changed, queries=True)

    def attend_gathered(
        self, s: BoxSegment | ListSegment, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Attention of the boxes or listed blocks of a segment."""
        return tile_ops.attend(q, k, v, mask, self.scale)

    def diagonals(self, which: DiagonalSet) -> None:
        """Take in the pairs of isolated lags."""
        seen_others = not self.begin(0)
        diagonal_ops.forward(which, self.q, self.k, self.v, self.out, self.lse, self.scale, self.offset, seen_others)

    def result(self) -> tuple[Tensor, Tensor]:
        """out `[B, Hq, n, Dv]` in q's dtype; lse `[B, Hq, n]` in float32 (float64 for float64)."""
        self.begin(0)
        out = self.out if self.columns == self.value_dim else self.out[..., : self.value_dim]
        return out.to(self.dtype), self.lse


class Backward(_Pass):
    """Gradients of q, k and v from the pieces given so far.

    Args:
        q, k, v, scale, offset, attended_keys, attended_rows: as given to `Forward`.
        out, lse: what it returned.
        grad_out: `[B, Hq, n, Dv]`.
        grad_lse: `[B, Hq, n]`, or None when nothing depends on lse.
    """

    call_elements = BACKWARD_ELEMENTS

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
        scale: float, offset: int, *, attended_keys: Attended = None, attended_rows: Attended = None,
    ) -> None:  # fmt: skip
        dim, value_dim = q.shape[3], v.shape[3]
        if grad_lse is not None:
            columns = _round_up(max(dim, value_dim + 1))
        else:
            columns = dim if dim == value_dim else _round_up(max(dim, value_dim))
        super().__init__(q, k, v, scale, offset, columns, attended_keys, attended_rows)
        self.dtypes = q.dtype, k.dtype, v.dtype
        self.out = prepare(out, columns)
        self.grad_out = prepare(grad_out, columns, self.rows)
        self.lse = tile_ops.seen(lse)
        if grad_lse is not None:
            # d lse/d score = P, so grad_lse adds P * grad_lse to dS = P * (dO V' - rowsum(dO * O)):
            # one more column with V = 0, O = -1 and dO = grad_lse says the same.
            reached = lse != -torch.inf
            self.out[..., value_dim] = -1.0
            self.grad_out[..., value_dim] = torch.where(reached, grad_lse.to(self.lse.dtype), 0.0)
        self.dq = self.q.new_empty(self.q.shape)
        self.dk, self.dv = (x.new_zeros(x.shape) for x in (self.k, self.v))

    def clear(self) -> None:
        self.dq.zero_()

    def tiles(self, band: Band) -> None:
        """Add what the pairs of `band` contribute."""
        for s, fresh in self.segments(band):
            mask = s.mask(self.q.dtype, self.q.device)
            operands = [self.of_rows(x, s) for x in (self.q, self.out, self.grad_out, self.lse, self.dq)]
            operands += [self.of_keys(x, s) for x in (self.k, self.v, self.dk, self.dv)]
            for q, out, grad_out, lse, dq, k, v, dk, dv in batches(self.grid(s), operands, self.limit(s)):
                if self.packs(s):
                    k, v = k.contiguous(), v.contiguous()
                gq, gk, gv = tile_ops.attend_backward(grad_out, q, k, v, out, lse, mask, self.scale)
                if fresh:
                    dq.copy_(gq)
                else:
                    dq.add_(gq)
                add_windows(dk, gk)
                add_windows(dv, gv)

    def boxes(self, piece: Boxes) -> None:
        """Add what the pairs in boxes of a grid contribute."""
        segments, first = self.box_segments(piece)
        if not segments:
            return
        extent = segments[0].extent
        given = (self.q, self.out, self.grad_out, self.lse)
        q, out, grad_out, lse, dq = (extent.of_queries(x) for x in (*given, self.dq))
        k, v, dk, dv = (extent.of_keys(x) for x in (self.k, self.v, self.dk, self.dv))
        for s in segments:
            mask = s.mask(self.q.dtype, self.q.device, self.group)
            rows, out_here, grad_here, lse_here = (s.of_rows(x, self.group) for x in (q, out, grad_out, lse))
            keys, values = s.of_keys(k), s.of_keys(v)
            gq, gk, gv = self.attend_gathered_backward(s, grad_here, rows, keys, values, out_here, lse_here, mask)
            dq_here = s.rows(dq, self.group)
            if first:
                dq_here.copy_(gq.reshape(dq_here.shape))
            else:
                dq_here.add_(gq.reshape(dq_here.shape))
            s.add_keys(dk, gk)
            s.add_keys(dv, gv)
        extent.give_back(self.dq, dq, queries=True)
        extent.give_back(self.dk, dk, queries=False)
        extent.give_back(self.dv, dv, queries=False)

    def listed(self, piece: Listed) -> None:
        """Add what the pairs of listed blocks contribute."""
        self.begin(0)
        for s in self.list_segments(piece):
            given = (self.q, self.out, self.grad_out, self.lse)
            q, out, grad_out, lse, dq = (s.extent.of_queries(x) for x in (*given, self.dq))
            k, v, dk, dv = (s.extent.of_keys(x) for x in (self.k, self.v, self.dk, self.dv))
            mask = s.mask(self.q.dtype, self.q.device, self.group)
            rows, out_here, grad_here, lse_here = (s.of_rows(x, self.group) for x in (q, out, grad_out, lse))
            keys, values = s.of_keys(k), s.of_keys(v)
            gq, gk, gv = self.attend_gathered_backward(s, grad_here, rows, keys, values, out_here, lse_here, mask)
            s.put_rows(dq, s.of_rows(dq, self.group) + gq, self.group)
            s.add_keys(dk, gk)
            s.add_keys(dv, gv)
            s.extent.give_back(self.dq, dq, queries=True)
            s.extent.give_back(self.dk, dk, queries=False)
            s.extent.give_back(self.dv, dv, queries=False)

    def attend_gathered_backward(
        self, s: BoxSegment | ListSegment, grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        mask: Mask | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """What the boxes or listed blocks of a segment add to the gradients."""
        return tile_ops.attend_backward(grad_out, q, k, v, out, lse, mask, self.scale)

    def diagonals(self, which: DiagonalSet) -> None:
        """Add what the pairs of isolated lags contribute."""
        self.begin(0)
        diagonal_ops.backward(
            which, self.q, self.k, self.v, self.out, self.lse, self.grad_out, (self.dq, self.dk, self.dv),
            self.scale, self.offset,
        )  # fmt: skip

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """dq, dk and dv, shaped and typed like q, k and v."""
        self.begin(0)
        columns = self.dim, self.dim, self.value_dim
        dq, dk, dv = (
            x[..., :c].to(dtype) for x, c, dtype in zip((self.dq, self.dk, self.dv), columns, self.dtypes, strict=True)
        )
        return dq, dk, dv


def _round_up(columns: int) -> int:
    return -(-columns // _LANES) * _LANES
