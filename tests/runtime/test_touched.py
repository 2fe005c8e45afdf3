"""What a call touches: the tiles of its queries, whatever else the cache holds. Counted, not timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pidsl import (
    blocks,
    causal,
    compile,
    gate,
    halo,
    heads,
    keys,
    lags,
    neighborhood,
    pairs,
    score,
    stride,
    where,
    window,
)
from pidsl.language.terms import Term

M, D, HEADS = 1 << 17, 8, 4
BLOCKS = pairs(
    [(x, y) for x in (0, 300, 2046, 2047) for y in (0, 1, 200, 2040, 2047) if y <= x] + [(3, 1), (4, 2), (5, 3)]
)

TERMS: list[Term] = [
    window(255),
    window(255) | keys(0, 4) & causal,
    window(100).dilated(7),
    window(63) | stride(512) & causal,
    lags(0, 1, 2, 4, 8, 64, 1000, 30000),
    lags(0, 3, 700) & where(lambda i, j: (i + j) % 3 != 1),
    window(200) & keys(0, None, 4),
    keys(0, 3) & causal,
    blocks(128) & causal,
    window(2).blocked(64) & causal,
    BLOCKS.blocked(64),
    BLOCKS.blocked(64) | window(5),
    neighborhood((512, 256), 7),
    neighborhood((600, 256), 7) & causal,
    neighborhood((64, 32, 64), 3),
    halo((512, 256), 8, 4),
    neighborhood((512, 256), 5) | keys(0, 3),
]


class Touched(TorchDispatchMode):
    """Counts the elements that operations write; views write none."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = {x.untyped_storage().data_ptr() for x in given}
        if "index" in function.__name__ and function._schema.is_mutable:
            self.elements += given[-1].numel()  # what is put, and not all of what it is put into
            return result
        for x in torch.utils._pytree.tree_leaves(result):
            if isinstance(x, Tensor):
                new = function._schema.is_mutable or x.untyped_storage().data_ptr() not in known
                self.elements += x.numel() if new else 0
        return result


def forms(dtype: torch.dtype, value_dim: int, layout: str, m: int) -> tuple[Tensor, Tensor]:
    """Keys and values as callers have them."""
    kv = HEADS // 2
    if layout == "tokens":  # [batch, tokens, heads, dim]
        return (torch.full((1, m, kv, d), 0.1, dtype=dtype).transpose(1, 2) for d in (D, value_dim))  # type: ignore[return-value]
    if layout == "columns":
        return (torch.full((1, kv, d, m), 0.1, dtype=dtype).mT for d in (D, value_dim))  # type: ignore[return-value]
    if layout == "expanded":
        return (torch.full((1, 1, m, d), 0.1, dtype=dtype).expand(1, kv, m, d) for d in (D, value_dim))  # type: ignore[return-value]
    return (torch.full((1, kv, m, d), 0.1, dtype=dtype) for d in (D, value_dim))  # type: ignore[return-value]


FORMS = [
    (torch.float32, D, "heads"), (torch.float32, D, "tokens"), (torch.float32, D, "columns"),
    (torch.float32, D, "expanded"), (torch.float32, 12, "heads"), (torch.bfloat16, D, "heads"),
    (torch.float16, 12, "columns"),
]  # fmt: skip


def touched(
    kernel: Any, dtype: torch.dtype, value_dim: int, layout: str, backward: bool, last: int = M - 3, **call: Any
) -> int:
    """Elements that one query at the end of a long cache makes a call write; of the gradients only what is not zero."""
    k, v = forms(dtype, value_dim, layout, last + 2)
    q = torch.randn(1, HEADS, 1, D, dtype=dtype)
    if backward:
        q, k, v = (x.requires_grad_() for x in (q, k, v))
    kernel(q, k, v, offset=last, **call)  # what is made once, and what the pattern alone needs
    with Touched() as counted:
        out = kernel(q, k, v, offset=last, **call)
        if not backward:
            return counted.elements
    seed = torch.ones_like(out)
    with Touched() as counted:
        torch.autograd.grad(out, (q, k, v), seed)
    return counted.elements - k.numel() - v.numel()


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("term", TERMS, ids=lambda x: repr(x)[:50])
def test_a_step_touches_its_tiles(term: Term, form: tuple[torch.dtype, int, str], backward: bool) -> None:
    cache = M * HEADS // 2 * (D + form[1])
    assert touched(compile(term, "torch"), *form, backward) < cache / 4


@pytest.mark.parametrize("form", FORMS[::3], ids=str)
def test_other_kernels_touch_their_tiles(form: tuple[torch.dtype, int, str]) -> None:
    term, other = window(255), neighborhood((512, 256), 7)
    everything = score(softcap=5.0, alibi=True, bias=(0, 4), dropout=0.1)
    given = {"slopes": torch.ones(HEADS), "bias": torch.ones(HEADS, 5), "seed": 1}
    plain = {
        compile(gate(a=term, b=other), "torch"): {"weights": torch.rand(1, HEADS, 1, 2, dtype=form[0])},
        compile(heads([(2, term), (2, other)]), "torch"): {},
        compile(term, "torch", output_gate="head", affine=True): {
            "output_gate": torch.zeros(1, HEADS, 1, dtype=form[0]),
            "beta": 0.5,
        },
    }
    cache = M * HEADS // 2 * (D + form[1])
    for kernel, call in plain.items():  # backward they add up the gradients of several launches
        assert touched(kernel, *form, False, **call) < cache / 4, kernel
    for what, own in ((score(alibi=True), {"slopes": given["slopes"]}), (everything, given)):
        for x in (*TERMS[:6], BLOCKS.blocked(64), other):
            for backward in (False, True):
                assert touched(compile(x, "torch", what), *form, backward, **own) < cache / 4, (x, what, backward)
