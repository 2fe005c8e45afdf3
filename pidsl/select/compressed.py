"""NSA's selection: attention to compressed keys says which blocks are looked at in full."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from pidsl.errors import TermError
from pidsl.select.scores import Per, Rows, pooled, products, softmax, wide
from pidsl.select.selector import AT_ONCE, Selector


class Compressed(Selector):
    """Blocks by the attention that windows of compressed keys get (Native Sparse Attention, arXiv 2502.11089, eq. 9).

        c_w = compress(k_{stride w} ... k_{stride w + size - 1})     every `stride` tokens
        p_iw = softmax_w(q_i . c_w / sqrt(D))                        over the windows that end at i or before
        score_ic = sum_w p_iw overlap(window w, block c) / stride        averaged over a group of heads

    Its module has three branches, each with a softmax and a gate of its own: `attend`, which reads the compressed keys
    and values; the blocks that this lists; and a window. `pidsl.gate` blends the latter two in one kernel.

    Args:
        block, budget, queries, first, local, per: as of a `Selector`; a multiple of `stride` each block.
        size, stride: tokens per compressed window, and from one to the next; size a multiple of stride.
        compress: a module [..., size, D] to [..., D]; None: the mean. Trained through `attend`.
        compress_values: the same for values.

    Raises:
        TermError: as of a `Selector`; or sizes that are no multiples.
    """

    def __init__(
        self, block: int = 64, budget: int = 16, queries: int = 1, *, first: int = 1, local: int = 2,
        per: Per = "group", size: int = 32, stride: int = 16, compress: nn.Module | None = None,
        compress_values: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__(block, budget, queries, first=first, local=local, per=per)
        if stride < 1 or size < 1 or size % stride or block % stride:
            got = f"size = {size}, stride = {stride}, block = {block}"
            raise TermError(got, "size and block multiples of stride", "Compressed(...)")
        self.size, self.stride, self.partial = size, stride, False
        self.compress, self.compress_values = compress, compress_values

    def summarise(self, units: Tensor, first: int) -> Tensor:
        return _compressed(units, self.compress)

    def _windows(self, rows: Rows, windows: int, device: torch.device) -> Tensor:
        """bool [count, windows]: those that end where the queries do or before."""
        ends = torch.arange(windows, device=device) * self.stride + self.size
        return ends <= rows.last(device)[:, None] + 1

    def scores(self, q: Tensor, kept: Tensor, rows: Rows) -> Tensor:
        kept, windows = wide(kept), kept.shape[2]
        q = pooled(q, rows).to(kept.dtype)
        p = softmax(products(q, kept) * q.shape[3] ** -0.5, self._windows(rows, windows, q.device))
        p = self.shared(p, kept.shape[1])
        each, over = self.block // self.stride, self.size // self.stride
        parts = torch.ones(each, dtype=p.dtype, device=p.device)
        weights = conv1d(parts[None, None], parts.new_ones(1, 1, over), padding=over - 1)  # how far each window reaches
        p = pad(p, (over - 1, rows.blocks * each - windows))
        return conv1d(p.reshape(-1, 1, p.shape[-1]), weights, stride=each).view(*p.shape[:3], -1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None) -> Tensor:
        """The branch of the compressed keys and values, [B, Hq, n, Dv]; 0 where no window has ended.

        Args:
            q, k, v: [B, Hq, n, D], [B, Hkv, n, D] and [B, Hkv, n, Dv].
            scale: of the logits; None: 1 / sqrt(D).

        Raises:
            ArgumentError: as of a call.
        """
        self._check(q, k, 0)
        n = q.shape[2]
        if n < self.size:
            return q.new_zeros(*q.shape[:3], v.shape[3])
        windows = (x[:, :, :n].unfold(2, self.size, self.stride).transpose(3, 4) for x in (k, v))
        modules = (self.compress, self.compress_values)
        keys, values = (wide(_compressed(*pair)) for pair in zip(windows, modules, strict=True))
        found, count = [], max(1, AT_ONCE // (q.shape[0] * q.shape[1] * keys.shape[2]))
        for at, part in zip(range(0, n, count), q.split(count, 2), strict=True):
            rows = Rows(at, part.shape[2], at, at + part.shape[2], 1, self.block)
            logits = products(part.to(keys.dtype), keys) * (q.shape[3] ** -0.5 if scale is None else scale)
            p = softmax(logits, self._windows(rows, keys.shape[2], q.device))
            found.append(products(p, values.mT.to(p.dtype)))
        return torch.cat(found, 2).to(q.dtype)


def _compressed(units: Tensor, module: nn.Module | None) -> Tensor:
    """[B, Hkv, w, size, D] to [B, Hkv, w, D]; a module is given what its parameters are."""
    if module is None:
        return wide(units).mean(3)
    weight = next(module.parameters(), None)
    return module(units if weight is None else units.to(weight.dtype))
