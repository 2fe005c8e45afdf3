"""FlopCounterMode counts the pairs of the pattern, as it counts torch's own attention, whatever backend runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

import pidsl
from pidsl import causal, documents, full, gate, heads, keys, lags, stride, window

BACKENDS = ("torch", "reference")
TERMS = [full, causal, window(3) | stride(5) & causal, window(2, 2), lags(0, 7), keys(0, 2) | window(1), pidsl.empty]


def inputs(n: int = 20, m: int | None = None, query_heads: int = 4, kv_heads: int = 2, dims: tuple[int, int] = (8, 16)):
    made = torch.Generator().manual_seed(0)
    shapes = ((query_heads, n, dims[0]), (kv_heads, m or n, dims[0]), (kv_heads, m or n, dims[1]))
    return [torch.randn(2, *shape, generator=made, requires_grad=True) for shape in shapes]


def counted(call: Any, backward: bool = False) -> int:
    with FlopCounterMode(display=False) as counter:
        out = call()
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


def test_full_attention_is_counted_as_torch_counts_its_own() -> None:
    q, k, v = inputs(query_heads=2, kv_heads=2, dims=(8, 8))
    kernel = pidsl.compile(full, "torch")
    for backward in (False, True):
        with sdpa_kernel(SDPBackend.MATH):  # forward as bmm; its backward keeps the weights: one product fewer
            dense = counted(lambda: scaled_dot_product_attention(q, k, v), backward)
        recomputed = 2 * 2 * 2 * 20 * 20 * 8 if backward else 0
        assert counted(lambda: kernel(q, k, v), backward) == dense + recomputed
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    shapes = [tuple(x.shape) for x in (q, k, v)]
    whole = sdpa_flop_count(*shapes) + sdpa_backward_flop_count(shapes[0], *shapes)
    assert counted(lambda: kernel(q, k, v), True) == whole


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("term", TERMS, ids=repr)
def test_pairs_of_the_pattern(term: pidsl.Term, backend: Any) -> None:
    q, k, v = inputs()
    kernel = pidsl.compile(term, backend)
    pairs = 2 * 4 * term.pairs(20)
    assert counted(lambda: kernel(q, k, v)) == 2 * pairs * (8 + 16)
    assert counted(lambda: kernel(q, k, v), True) == 2 * pairs * (8 + 16) + 2 * pairs * (3 * 8 + 2 * 16)
    with torch.no_grad():
        assert counted(lambda: kernel(q, k, v)) == 2 * pairs * 24


def test_offsets() -> None:
    q, k, v = inputs(5, 13)
    kernel = pidsl.compile(causal & window(6), "torch")
    found = counted(lambda: kernel(q, k, v, offset=9, key_offset=2))
    assert found == 2 * 2 * 4 * (causal & window(6)).pairs(5, 13, 9, 2) * 24


def test_results_and_gradients_are_those_without_a_counter() -> None:
    q, k, v = inputs()
    kernel = pidsl.compile(window(3) | stride(5) & causal, "torch")
    plain = torch.autograd.grad(kernel(q, k, v).square().sum(), (q, k, v))
    with FlopCounterMode(display=False):
        out, lse = kernel(q, k, v, return_lse=True)
        found = torch.autograd.grad(out.square().sum(), (q, k, v))
    torch.testing.assert_close(out, kernel(q, k, v))
    assert lse.shape == (2, 4, 20)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_ragged_calls() -> None:
    q, k, v = inputs()
    term = window(3) | stride(5) & causal
    kernel = pidsl.compile(term, "torch")
    lengths = torch.tensor([20, 7])
    pairs = 4 * (term.pairs(20) + term.pairs(7))
    assert counted(lambda: kernel(q, k, v, lengths=lengths, key_lengths=lengths)) == 2 * pairs * 24
    assert counted(lambda: kernel(q, k, v, lengths=lengths, key_lengths=lengths), True) == 2 * pairs * (24 + 56)
    within = pidsl.compile(term & documents, "torch")
    flat = [x.detach()[0].transpose(0, 1) for x in (q, k, v)]
    cu = torch.tensor([0, 6, 6, 20], dtype=torch.int32)
    pairs = 4 * (term.pairs(6) + term.pairs(14))
    assert counted(lambda: within.packed(*flat, cu)) == 2 * pairs * 24
    ids = torch.tensor([[0] * 6 + [1] * 14, [3] * 20])
    assert counted(lambda: within(q, k, v, documents=ids)) == 2 * (pairs + 4 * term.pairs(20)) * 24


def test_a_step_of_decoding() -> None:
    kernel = pidsl.compile(window(3) | keys(0, 2) & causal, "torch")
    cache = pidsl.Cache(kernel, batch=2, kv_heads=2, head_dim=8, dtype=torch.float32, device="cpu")
    q, k, v = (x.detach() for x in inputs(dims=(8, 8)))
    for t in range(12):
        cache.append(k[:, :, t : t + 1], v[:, :, t : t + 1])
    assert counted(lambda: kernel.decode(q[:, :, 11:12], cache)) == 2 * 2 * 4 * 6 * 16


def test_parts_count_each_their_own() -> None:
    q, k, v = inputs()
    a, b = window(3), causal
    assert counted(lambda: pidsl.compile(heads([(3, a), (1, b)]), "torch")(q, k, v)) == (
        2 * 2 * (3 * a.pairs(20) + b.pairs(20)) * 24
    )
    weights = torch.rand(2, 4, 20, 2)
    assert counted(lambda: pidsl.compile(gate(a=a, b=b), "torch")(q, k, v, weights)) == (
        2 * 2 * 4 * (a.pairs(20) + b.pairs(20)) * 24
    )
    scored = pidsl.compile(a, "torch", pidsl.score(sinks=True))
    assert counted(lambda: scored(q, k, v, sinks=torch.zeros(4))) == 2 * 2 * 4 * a.pairs(20) * 24


def test_what_has_no_values_is_refused() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    kernel = pidsl.compile(causal, "torch")
    with FakeTensorMode():
        q, k, v = (torch.empty(2, 4, 20, 8) for _ in range(3))
        assert counted(lambda: kernel(q, k, v)) == 2 * 2 * 4 * causal.pairs(20) * 16
        with pytest.raises(pidsl.BackendError, match="a ragged call without values"):
            counted(lambda: kernel(q, k, v, lengths=torch.tensor([3, 4])))


def test_a_counter_made_before_pidsl_runs_counts_too() -> None:
    code = """
import torch
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    import pidsl
    q = torch.ones(1, 1, 4, 8)
    pidsl.compile(pidsl.causal, "torch")(q, q, q)
assert counter.get_total_flops() == 2 * 10 * 16, counter.get_total_flops()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_other_modes_see_what_runs() -> None:
    """Only a counter of flops gets one op for a call."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ops(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: set[str] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.add(str(func))
            return func(*args, **(kwargs or {}))

    q, k, v = (x.detach() for x in inputs())
    with Ops() as ops:
        pidsl.compile(causal, "torch")(q, k, v)
    assert ops.names and not any("pidsl" in name for name in ops.names)


def test_compiled_and_exported() -> None:
    """Torch runs what it compiled eagerly while a mode looks; exported graphs hold the op."""
    q, k, v = (x.detach() for x in inputs())
    kernel = pidsl.compile(window(3), "torch")
    flops = 2 * 2 * 4 * window(3).pairs(20) * 24
    run = torch.compile(lambda q, k, v: kernel(q, k, v) * 2, backend="eager")
    run(q, k, v)
    assert counted(lambda: run(q, k, v)) == flops

    class Module(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return kernel(q, k, v)

    exported = torch.export.export(Module(), (q, k, v)).module()
    assert counted(lambda: exported(q, k, v)) == flops
