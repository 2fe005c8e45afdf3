"""The sides of `pidsl bench`: what is called, and why a side is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pidsl
from pidsl.demo.measure import Times, alternate
from pidsl.language.terms import Term
from pidsl.language.vocabulary import causal

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Inputs = tuple[Tensor, Tensor, Tensor]


def timed(
    term: Term, inputs: Inputs, rounds: int, *, backward: bool, flex: bool, after: Callable[[], None]
) -> tuple[dict[str, Times], dict[str, str]]:
    """Seconds of each side, and the reasons of those that cannot run."""
    q, *_ = inputs
    only_back = term <= causal
    kernel: Any = pidsl.compile(term)
    attends: dict[str, Attend] = {
        "pidsl": kernel,
        f"dense SDPA{', causal' * only_back}": lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, is_causal=only_back
        ),
    }
    missing: dict[str, str] = {}
    if flex and backward and q.device.type == "cpu":
        missing["FlexAttention"] = "has no backward on a CPU"
    elif flex:
        try:
            attend = flex_attention(term, q)
            attend(*inputs)
            attends["FlexAttention"] = attend
        except Exception as e:  # torch.compile fails in ways of its own where a compiler is missing
            missing["FlexAttention"] = (str(e).strip().splitlines() or [type(e).__name__])[0]
    run = _both if backward else _forward
    calls = {name: lambda attend=attend: run(attend, inputs) for name, attend in attends.items()}
    return alternate(calls, rounds, q.device, after=after), missing


def flex_attention(term: Term, q: Tensor) -> Attend:
    """FlexAttention under the pattern, compiled."""
    from torch.nn.attention import flex_attention as flex

    mask = pidsl.to_flex(term, device=q.device).block_mask(q.shape[2])
    compiled = torch.compile(flex.flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def _forward(attend: Attend, inputs: Inputs) -> None:
    with torch.no_grad():
        attend(*inputs)


def _both(attend: Attend, inputs: Inputs) -> None:
    out = attend(*(x.detach().requires_grad_() for x in inputs))
    out.backward(inputs[2])
