"""A kernel against dense attention in float64, on inputs of any shape, dtype and strides.

The part of `pidsl.testing` that does without Hypothesis; `pidsl check` draws its calls itself. torch is imported when
it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pidsl.language.heads import Heads
from pidsl.language.terms import Term

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pidsl.runtime.kernels.kernel import Kernel

LAYOUTS = ("plain", "tokens first", "expanded", "sliced")
# of out, lse and gradients, relative and absolute
TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 1e-2, "bfloat16": 8e-2}


@dataclass(frozen=True, slots=True)
class Shapes:
    """The sizes of one call: q `[batch, heads, n, head_dim]`, k `[batch, kv_heads, m, head_dim]`, v likewise."""

    batch: int
    heads: int
    kv_heads: int
    n: int
    m: int
    head_dim: int
    value_dim: int
    offset: int
    key_offset: int = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """One call of a kernel; `blocks` for patterns with a choice."""

    q: Tensor
    k: Tensor
    v: Tensor
    offset: int
    key_offset: int = 0
    blocks: Tensor | None = None


def random_inputs(s: Shapes, dtype: torch.dtype, seed: int, layout: str, device: str = "cpu") -> Inputs:
    """q, k, v of standard normal numbers, with the strides of one of LAYOUTS."""
    import torch

    made = torch.Generator().manual_seed(seed)

    def tensor(heads: int, rows: int, columns: int) -> Tensor:
        x = torch.randn(s.batch, heads, rows, columns, generator=made, dtype=torch.float64)
        return _laid(x.to(device, dtype), layout)

    q = tensor(s.heads, s.n, s.head_dim)
    k, v = (tensor(s.kv_heads, s.m, columns) for columns in (s.head_dim, s.value_dim))
    return Inputs(q, k, v, s.offset, s.key_offset)


def _laid(x: Tensor, layout: str) -> Tensor:
    """The same shape with other strides, as one of LAYOUTS says."""
    import torch

    match layout:
        case "tokens first":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "expanded":
            return x[:1, :1].expand(x.shape)
        case "sliced":
            return torch.cat([x, x], -1).repeat_interleave(2, 2)[:, :, ::2, : x.shape[3]]
    return x


def assert_matches_dense(
    term_or_kernel: Term | Heads | Kernel | Callable[..., Any], given: Inputs, *, term: Term | Heads | None = None,
    backend: Literal["auto", "triton", "torch", "reference"] = "auto", scale: float | None = None,
    tolerance: float | None = None, backward: bool = True, parameters: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Output, log-sum-exp and the gradients of q, k and v equal those of dense attention, computed in float64.

    With a score, the judge is the reference backend in float64, and the gradients of the parameters are compared too.

    Args:
        term_or_kernel: a pattern or heads, which are compiled; a compiled kernel; or any function that is called as a
            kernel is: `f(q, k, v, offset=..., scale=..., return_lse=True) -> (out, lse)`, with `key_offset=...` where
            that is not 0.
        given: what it is called with.
        term: the pattern of a function that is no kernel.
        backend: what a pattern is compiled for.
        scale: factor on the scores; default 1 / sqrt(head_dim).
        tolerance: relative and absolute; default by dtype: 1e-9, 2e-5, 1e-2, 8e-2 for float64, 32, 16, bfloat16.
        backward: whether to compare gradients, taken through the output and the lse.
        parameters: of the score, for a kernel compiled with one: tensors, and `seed`.

    Raises:
        AssertionError: a difference, or a wrong shape or dtype, with the pattern and the sizes.
        ValueError: a function without its pattern.
    """
    import torch

    from pidsl.runtime.compile import compile
    from pidsl.runtime.kernels.kernel import Kernel

    kernel: Callable[..., Any]
    pattern: Term | Heads
    if isinstance(term_or_kernel, Term | Heads):
        pattern, kernel = term_or_kernel, compile(term_or_kernel, backend)
    else:
        kernel = term_or_kernel
        found: Any = kernel.term if isinstance(kernel, Kernel) else term
        if found is None:
            raise ValueError("term=... is needed beside a function that is no kernel")
        pattern = found
    score = kernel.score if isinstance(kernel, Kernel) else None
    q, k, v = (x.detach().requires_grad_(backward) for x in (given.q, given.k, given.v))
    numbers = dict(parameters or {})
    learned = {name: x.detach().requires_grad_(backward) for name, x in numbers.items() if isinstance(x, torch.Tensor)}
    positions: dict[str, Any] = {"offset": given.offset} | (
        {"key_offset": given.key_offset} if given.key_offset else {}
    )
    chosen = {} if given.blocks is None else {"blocks": given.blocks}
    out, lse = kernel(q, k, v, **positions, **chosen, scale=scale, return_lse=True, **numbers | learned)
    if score is not None:
        wide = [x.double() for x in (q, k, v)]
        same = numbers | {name: x.double() for name, x in learned.items()}
        judge: Callable[..., Any] = compile(pattern, "reference", score)
        exact, exact_lse = judge(*wide, **positions, **chosen, scale=scale, return_lse=True, **same)
    else:
        exact, exact_lse = _dense(pattern, replace(given, q=q, k=k, v=v), scale)
    name = str(q.dtype).removeprefix("torch.")
    allowed = TOLERANCES[name] if tolerance is None else tolerance
    scored = "" if score is None else f", {score!r}"
    sizes = ", ".join(f"{letter} {list(x.shape)}" for letter, x in (("q", q), ("k", k), ("v", v)))
    stand = ", ".join(f"{name} {x}" for name, x in positions.items())
    if given.blocks is not None:
        stand += f", blocks {given.blocks.tolist()}" if given.blocks.numel() < 200 else ", blocks"
    where = f"{pattern!r}{scored}, {sizes}, {stand}, {name}"

    def close(what: str, got: Tensor, want: Tensor, within: float) -> None:
        def message(text: str) -> str:
            return f"{what} of {where}\n{text}"

        torch.testing.assert_close(got.double(), want, rtol=within, atol=within, msg=message)

    assert out.dtype == q.dtype, f"out of {where} is {out.dtype}"
    close("out", out, exact, allowed)
    close("lse", lse, exact_lse, max(allowed, TOLERANCES["float32"]))
    if not backward:
        return
    made = torch.Generator().manual_seed(1)
    seed = torch.randn(exact.shape, generator=made, dtype=torch.float64).to(q.device)
    seed_lse = torch.randn(exact_lse.shape, generator=made, dtype=torch.float64).to(q.device) * exact_lse.isfinite()
    inputs = {"q": q, "k": k, "v": v, **learned}
    leaves = list(inputs.values())
    want = torch.autograd.grad([exact, exact_lse], leaves, [seed, seed_lse], materialize_grads=True)
    seeds = [seed.to(out.dtype), seed_lse.to(lse.dtype)]
    got = torch.autograd.grad([out, lse], leaves, seeds, materialize_grads=True)
    for letter, x, y in zip(inputs, got, want, strict=True):
        sums = q.shape[2] if letter in learned else 1  # a parameter's gradient sums what the rows say
        close(f"gradient of {letter}", x, y.double(), allowed * max(1, sums))


def _dense(term: Term | Heads, given: Inputs, scale: float | None) -> tuple[Tensor, Tensor]:
    """(out, lse) in float64, by the definition: softmax over the attended keys; 0 and -inf for rows without any."""
    import torch

    q, k, v = given.q, given.k, given.v
    mask = _mask(term, given).to(q.device)
    group = max(1, q.shape[1] // max(1, k.shape[1]))
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = (q @ k.mT * (q.shape[3] ** -0.5 if scale is None else scale)).masked_fill(~mask, -torch.inf)
    live = mask.any(-1)[..., None]
    p = torch.softmax(scores.masked_fill(~live, 0.0), -1).masked_fill(~live, 0.0)
    return p @ v, torch.logsumexp(scores, -1)


def _mask(term: Term | Heads, given: Inputs) -> Tensor:
    """bool [..., n, m]: the pairs of a call."""
    import torch

    (batch, heads, n, _), m = given.q.shape, given.k.shape[2]
    if given.blocks is None or isinstance(term, Heads):
        return torch.from_numpy(term.mask(n, m, given.offset, given.key_offset).copy())
    lists = given.blocks.cpu().numpy()
    own = heads // lists.shape[1]
    found = [
        term.mask(n, m, given.offset, given.key_offset, blocks=lists[b, h // own])
        for b in range(batch) for h in range(heads)
    ]  # fmt: skip
    return torch.from_numpy(np.array(found).reshape(batch, heads, n, m))
