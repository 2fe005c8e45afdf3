"""The parts of a score on tiles and along diagonals, and their gradients.

    raw = scale * q . k     capped = softcap * tanh(raw / softcap)     s = capped + added     p = w(s) / e^lse

    dO V' = dP'    dP = drop dP'    dS = p (dP - rowsum(dO * O) + dlse) w'(s) / w(s)
    draw = dS (1 - (capped / softcap)^2)

`added` holds ALiBi and the bias by lag. Weights w(s) that are not e^s are e^log(w(s)): what follows is a softmax.
A sink is one more logit whose value is 0, so its gradient needs no tile:
`dsink = sum over rows of e^(sink - lse) (dlse - rowsum(dO * O))`. Nor does that of the temperature, which scales the
queries: `dtemperature = -sum(q * dq) / temperature`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pidsl.language.score import Score
from pidsl.runtime.call.call import Inputs
from pidsl.runtime.call.dropout import kept
from pidsl.runtime.call.sums import add_rows

LINEAR = 38.0  # beyond, softplus(s) is s, or e^s, in double precision


class Place(NamedTuple):
    """Where the pairs of some tiles are. Sizes and strides of 0 broadcast: a dimension may be 1.

    Args:
        i: query positions `[..., rows, 1]`.
        j: key positions `[..., 1, keys]`.
        head: query head `[..., 1, 1]`.
        stream: `batch * heads + head` `[..., 1, 1]`.
    """

    i: Tensor
    j: Tensor
    head: Tensor
    stream: Tensor


class Rates(NamedTuple):
    """Derivatives of logits, of which weights are a softmax; None for 1.

    Args:
        bend: by s, to which slopes and bias are added.
        slope: of s by scale * q . k.
    """

    bend: Tensor | None
    slope: Tensor | None


NOWHERE = Place(*[torch.empty(0)] * 4)


class TileScore:
    """A score and its inputs, applied to tiles of logits, with running sums of the gradients of slopes and bias.

    Args:
        score: the parts.
        inputs: what it reads, by name, in the working dtype.
    """

    def __init__(self, score: Score, inputs: Inputs) -> None:
        self.score, self.inputs = score, inputs
        self.grad_slopes, self.grad_bias = (
            None if x is None else torch.zeros_like(x, memory_format=torch.contiguous_format)
            for x in (inputs.get("slopes"), inputs.get("bias"))
        )

    @property
    def additive(self) -> bool:
        """Nothing but a term is added to the logits."""
        return self.score.softcap is None and not self.score.dropout and not self.score.softplus

    @property
    def placed(self) -> bool:
        """Whether anything depends on where a pair is."""
        return self.grad_slopes is not None or self.grad_bias is not None or bool(self.score.dropout)

    def added(self, place: Place) -> Tensor | None:
        """What is added to the logits, broadcast against `[..., rows, keys]`."""
        slopes, bias = self.inputs.get("slopes"), self.inputs.get("bias")
        total = None
        if slopes is not None:
            total = slopes[place.head] * -(place.i - place.j).abs()
        if bias is not None:
            entries = bias[place.head, self._entries(place)]
            total = entries if total is None else total + entries
        return total

    def of(self, raw: Tensor, place: Place) -> tuple[Tensor, Rates]:
        """The logits of which weights are a softmax, from scale * q . k, and their derivatives; -inf stays -inf."""
        s, slope = self._capped(raw)
        added = self.added(place)
        s = s if added is None else s.add_(added)
        if not self.score.softplus:
            return s, Rates(None, slope)
        s, bend = log_softplus(s)
        return s, Rates(bend, slope)

    def _capped(self, raw: Tensor) -> tuple[Tensor, Tensor | None]:
        cap = self.score.softcap
        if cap is None:
            return raw, None
        slope = torch.tanh(raw / cap)
        capped = torch.where(raw == -torch.inf, raw, slope * cap)
        return capped, slope.square_().neg_().add_(1.0)

    def dropped(self, x: Tensor, place: Place) -> Tensor:
        """x with dropout: weights in the forward pass, their gradients in the backward pass."""
        p = self.score.dropout
        if not p:
            return x
        keep = kept(self.inputs["seed"], p, place.stream, place.i, place.j)
        return torch.where(keep, x / (1 - p), 0.0)

    def learn(self, ds: Tensor, place: Place) -> None:
        """Add what the gradients `ds` of s say about slopes and bias, in a fixed order."""
        if self.grad_slopes is not None:
            by_row = -(ds * (place.i - place.j).abs()).sum(-1)
            add_rows(self.grad_slopes, 0, place.head[..., 0].expand(by_row.shape).reshape(-1), by_row.view(-1))
        if self.grad_bias is not None:
            entries = self._entries(place) + place.head * self.grad_bias.shape[1]
            add_rows(self.grad_bias.view(-1), 0, entries.expand(ds.shape).reshape(-1), ds.reshape(-1))

    def _entries(self, place: Place) -> Tensor:
        assert self.score.bias is not None
        low, high = self.score.bias
        return (place.i - place.j).clamp(low, high) - low


def log_softplus(s: Tensor) -> tuple[Tensor, Tensor]:
    """log(softplus(s)) and its derivative; s and 1 where softplus(s) is e^s in double precision, down to s = -inf."""
    low = s < -LINEAR
    plus = softplus(s, 1.0, LINEAR)
    bend = torch.sigmoid(s).div_(plus).masked_fill_(low, 1.0)
    return torch.where(low, s, plus.log_()), bend


def length_factors(score: Score, i: Tensor) -> Tensor | None:
    """log(i + 1) of queries at positions i, by which a score scales their logits; None for 1."""
    return torch.log((i + 1).clamp(min=1).double()) if score.length_scaled else None


def add_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> None:
    """Let one more logit per head, with value 0, join the softmax of (out, lse), in place."""
    total = torch.logaddexp(lse, sinks[:, None])
    out.mul_((lse - total.clamp(min=torch.finfo(lse.dtype).min)).exp_().unsqueeze(-1))
    lse.copy_(total)


def row_pull(out: Tensor, grad_out: Tensor, grad_lse: Tensor | None) -> Tensor:
    """rowsum(dO * O) - dlse `[B, Hq, n]`; what flows into a row whose output is 0 stays there."""
    pull = torch.where(out == 0, 0.0, grad_out * out).sum(-1, dtype=torch.promote_types(out.dtype, torch.float32))
    return pull if grad_lse is None else pull - grad_lse


def sink_gradient(sinks: Tensor, lse: Tensor, pull: Tensor) -> Tensor:
    """`[Hq]` from the final lse and `row_pull`."""
    weight = torch.where(lse == -torch.inf, 0.0, (sinks[:, None] - lse).exp())
    return -torch.where(weight == 0, 0.0, weight * pull).sum((0, 2))


def temperature_gradient(temperature: Tensor, q: Tensor, dq: Tensor) -> Tensor:
    """`[Hq]` from the gradient of q; rows that attend nothing may hold anything."""
    product = torch.where(dq == 0, 0.0, q.to(temperature.dtype) * dq.to(temperature.dtype))
    return -product.sum((0, 2, 3)) / temperature
