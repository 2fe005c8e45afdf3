"""`merge`: attention over disjoint sets of keys, from the attention over each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from pidsl.runtime.call.arguments import Fault, check_tensor, raise_faults


def merge(results: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint sets of keys, from (out, lse) over each; differentiable.

    `lse = log sum over sets s of exp(lse_s)`, `out = sum over s of exp(lse_s - lse) out_s`; 0 and -inf for rows that
    have no key in any set.

    >>> import pidsl, torch
    >>> kernel = pidsl.compile(pidsl.causal, "torch")
    >>> q, k, v = torch.randn(3, 1, 2, 8, 16)
    >>> near = kernel(q, k[:, :, 4:], v[:, :, 4:], key_offset=4, return_lse=True)
    >>> far = kernel(q, k[:, :, :4], v[:, :, :4], return_lse=True)
    >>> out, lse = pidsl.merge([near, far])
    >>> torch.allclose(out, kernel(q, k, v), atol=1e-6)
    True

    Sinks join every softmax that has them, so at most one of the results may come from a kernel with sinks.

    Args:
        results: (out [..., n, Dv], lse [..., n]) of each set, as kernels return them with `return_lse=True`; of one
            shape, device and dtype.

    Returns:
        out in the dtype of the given ones, and lse.

    Raises:
        ArgumentError: no results, or such that do not fit each other.
    """
    raise_faults(_faults(results), "merge([(out, lse), ...])")
    return merged(results)


def _faults(results: object) -> list[Fault]:
    hint = "pidsl.merge([kernel(..., return_lse=True), ...])"
    if not isinstance(results, Sequence) or not results:
        got = "nothing" if isinstance(results, Sequence) else type(results).__name__
        return [Fault("results", got, "a list of (out, lse)", hint)]
    faults: list[Fault] = []
    judge: Tensor | None = None
    for x, pair in enumerate(results):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            faults.append(Fault(f"result {x}", type(pair).__name__, "(out, lse)", hint))
            continue
        out, lse = pair
        wrong = [check_tensor(f"{name} of result {x}", t, "a torch.Tensor") for name, t in (("out", out), ("lse", lse))]
        if any(wrong):
            faults += [fault for fault in wrong if fault]
            continue
        if lse.shape != out.shape[:-1]:
            expected = f"{list(out.shape[:-1])}, as its out"
            faults.append(Fault(f"lse of result {x}", f"shape {list(lse.shape)}", expected))
        judge = out if judge is None else judge
        for what in ("shape", "dtype", "device"):
            got, fits = (str(getattr(t, what)).removeprefix("torch.Size") for t in (out, judge))
            if got != fits:
                faults.append(Fault(f"out of result {x}", f"{what} {got}", f"{fits}, as in the first"))
    return faults


def merged(results: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """`merge` of results that fit each other."""
    if len(results) == 1:
        return results[0]
    shares, lse = weighed(torch.stack([lse for _, lse in results], -1))
    parts = [out * shares[..., s, None] for s, (out, _) in enumerate(results)]  # float32, of half precision outputs
    return reduce(torch.add, parts).to(results[0][0].dtype), lse


def weighed(lses: Tensor) -> tuple[Tensor, Tensor]:
    """What each of several sets of keys weighs in each row [..., sets], and lse over all of them [...].

    Args:
        lses: of each set, [..., sets]; -inf where a row has no key in it: it weighs 0 there.
    """
    top = lses.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    weights = (lses - top).exp()
    total = weights.sum(-1, keepdim=True)
    dead = total == 0
    total = torch.where(dead, 1.0, total)
    return weights / total, torch.where(dead, -torch.inf, total.log() + top).squeeze(-1)
