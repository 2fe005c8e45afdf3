"""Softmax attention of batches of dense tiles, and how results over different keys of the same rows combine.

All tensors are `[x, y, ...]`: two batch dimensions of tiles, with any strides. On the CPU the work is done by torch's
own flash operation; it wants as many columns in v as in q and k (callers pad with zeros, which changes nothing),
and takes what is added to the logits, masks among them, as a bias. NaN is not masked by that: it spreads to all rows of
a tile. The dense operations keep every pair to itself and take every score; a pass turns to them for scores that the
flash operation does not know, and when a result is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pidsl.runtime.call.logits import Place, Rates, TileScore
from pidsl.runtime.call.sums import over_kept
from pidsl.runtime.run_torch.walks import Mask

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

NARROW = 16  # with fewer keys (the lanes of a vector) the flash operation takes a row of NaN for one without keys


class Logits(NamedTuple):
    """What becomes of `q . k` in some tiles.

    Args:
        scale: a factor on it.
        score: what is done to it then.
        place: where the pairs are, as far as the score asks.
        mask: the pairs to keep; None for all.
        triangle: row x keeps the first x + 1 keys, and there is no mask.
    """

    scale: float
    score: TileScore
    place: Place
    mask: Mask | None
    triangle: bool = False

    @property
    def bias(self) -> Tensor | None:
        """All that is added."""
        added = self.score.added(self.place)
        if self.mask is None or added is None:
            return added if self.mask is None else self.mask.bias
        return added + self.mask.bias

    @property
    def kept(self) -> Tensor | None:
        """The pairs to keep; None for all."""
        return None if self.mask is None else self.mask.keep

    def masked(self, x: Tensor, value: float) -> Tensor:
        """x with `value` at the pairs that are not kept, in place."""
        return x if self.mask is None else x.masked_fill_(~self.mask.keep, value)

    def of(self, q: Tensor, k: Tensor) -> tuple[Tensor, Rates]:
        """The logits, -inf where no pair is kept, and their derivatives."""
        s, rates = self.score.of(torch.matmul(q, k.mT).mul_(self.scale), self.place)
        return self.masked(s, -torch.inf), rates


class Rows(NamedTuple):
    """What the backward pass knows of its rows, `[x, y, rows, ...]`.

    `out` and `lse` are the final ones, over all keys of the row, with `seen` applied to lse.
    """

    q: Tensor
    out: Tensor
    grad_out: Tensor
    lse: Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, logits: Logits) -> tuple[Tensor, Tensor]:
    """Attention of every tile, and the log-sum-exp of each of its rows; on the CPU, for scores that only add.

    Args:
        q: `[x, y, rows, D]`.
        k: `[x, y, keys, D]`.
        v: `[x, y, keys, D]`.
        logits: what becomes of `q . k`.

    Returns:
        out `[x, y, rows, D]` and lse `[x, y, rows]`: 0 and -inf in rows whose mask keeps no key. Where a row meets
        what is not finite, masked or not, out is not finite.
    """
    mask = logits.mask
    out, lse = _flash(q, k, v, 0.0, logits.triangle, attn_mask=logits.bias, scale=logits.scale)
    if mask is not None and mask.dead is not None:
        lse = lse + mask.dead  # the flash operation reports 0
    if k.shape[2] < NARROW and not bool(lse.all()):  # it reports 0 for a row of NaN too
        out = out.masked_fill((lse == 0).unsqueeze(-1), torch.nan)
    return out, lse


def attend_backward(rows: Rows, k: Tensor, v: Tensor, logits: Logits) -> tuple[Tensor, Tensor, Tensor]:
    """The part of the gradients of q, k and v that comes from the keys of these tiles; on the CPU.

    The contributions of disjoint sets of keys simply add up:

        P = exp(S - lse)    dV = P' dO    dS = P * (dO V' - rowsum(dO * O))    dQ = scale dS K    dK = scale dS' Q

    Where a row meets what is not finite, masked or not, its dQ is not finite.
    """
    q, out, grad_out, lse = rows
    bias, scale = logits.bias, logits.scale
    dq, dk, dv = _flash_backward(grad_out, q, k, v, out, lse, 0.0, logits.triangle, attn_mask=bias, scale=scale)
    return dq, dk, dv


def attend_dense(q: Tensor, k: Tensor, v: Tensor, logits: Logits) -> tuple[Tensor, Tensor]:
    """`attend` by matrix products: on every device, and nothing reaches a row from a pair that is masked."""
    s, _ = logits.of(q, k)
    lse = torch.logsumexp(s, -1)
    p = s.sub_(seen(lse).unsqueeze(-1)).exp_()
    return over_kept(logits.score.dropped(p, logits.place), v, logits.kept), lse


def attend_dense_backward(
    rows: Rows, k: Tensor, v: Tensor, logits: Logits, learned: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_backward` by matrix products: on every device, and nothing comes from a pair that is masked.

    Args:
        rows, k, v, logits: as there.
        learned: let the score learn from the gradients of the logits.
    """
    q, out, grad_out, lse = rows
    score, place = logits.score, logits.place
    s, (bend, slope) = logits.of(q, k)
    p = logits.masked(s.sub_(lse.unsqueeze(-1)).exp_(), 0.0)  # lse may be NaN
    dp = score.dropped(torch.matmul(grad_out, v.mT), place)
    ds = dp.sub_((grad_out * out).sum(-1, keepdim=True)).mul_(p)
    ds = logits.masked(ds if bend is None else ds.mul_(bend), 0.0)
    if learned:
        score.learn(ds, place)
    if slope is not None:
        ds = logits.masked(ds.mul_(slope), 0.0)
    ds.mul_(logits.scale)
    keep = logits.kept
    turned = None if keep is None else keep.mT
    dv = over_kept(score.dropped(p, place).mT, grad_out, turned)
    return over_kept(ds, k, keep), over_kept(ds.mT, q, turned), dv


def blanked(mask: Mask | None, rows: Sequence[Tensor], keys: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
    """`[x, y, rows, D]` and `[x, y, keys, D]` with zeros in rows and keys of which the mask keeps no pair."""
    if mask is None:
        return rows, keys

    def blank(given: Sequence[Tensor], dim: int) -> Sequence[Tensor]:
        alone = ~mask.keep.any(dim)[..., None]
        return [x.masked_fill(alone, 0.0) for x in given] if bool(alone.any()) else given

    return blank(rows, -1), blank(keys, -2)


def seen(lse: Tensor) -> Tensor:
    """lse with +inf for rows that saw no key, so that exp(score - lse) is 0 there and not NaN."""
    return torch.where(lse == -torch.inf, torch.inf, lse)


def finite(x: Tensor) -> bool:
    """Whether the sum of x is finite, and with it everything in x."""
    return math.isfinite(x.sum().item())


def write(results: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Give rows that hold nothing their first values."""
    for x, y in zip(results, values, strict=True):
        x.copy_(y)


def merge(results: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Fold attention over further keys, (more, more_lse), into (out, lse), in place.

        lse <- log(e^lse + e^more_lse)    out <- out + e^(more_lse - lse) (more - out)

    Rows that saw no key on either side keep out 0 and lse -inf.
    """
    (out, lse), (more, more_lse) = results, values
    weight = torch.sigmoid(more_lse - lse).masked_fill_(more_lse == -torch.inf, 0.0)  # else NaN: -inf on both sides
    lse.copy_(torch.logaddexp(lse, more_lse))
    out.lerp_(more, weight.unsqueeze(-1))


def add(results: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Fold gradients from further keys into those of their rows, in place."""
    for x, y in zip(results, values, strict=True):
        x.add_(y)
