"""What learned selectors are trained by, against the formulas on whole matrices, and that it trains them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import normalize

from pidsl.errors import ArgumentError
from pidsl.select import Clusters, Compressed, LightningIndexer, SeerGate

B, HQ, HKV, D = 2, 4, 2, 8


def inputs(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(B, h, n, D, generator=made, dtype=torch.float64).to(dtype) for h in (HQ, HKV))
    return q, k


def attention(q: Tensor, k: Tensor, scale: float = D**-0.5) -> Tensor:
    seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
    return (q @ k.repeat_interleave(HQ // HKV, 1).mT * scale).masked_fill(~seen, -math.inf).softmax(-1)


def divergence(target: Tensor, found: Tensor) -> float:
    """Of rows: sum of t log(t / f)."""
    there = target > 0
    return float((target[there] * (target[there] / found[there]).log()).sum() / target[..., 0].numel())


@pytest.mark.parametrize(("n", "queries", "scale"), [(40, 8, None), (45, 8, 0.5), (45, 16, None)])
def test_the_gate_is_distilled_to_block_max_attention(n: int, queries: int, scale: float | None) -> None:
    torch.manual_seed(0)
    s, (q, k), real = SeerGate(D, HQ, HKV, 8, 2, queries, width=4).double(), inputs(n), inputs(n, 1)
    p, rows, blocks = attention(*real, scale or D**-0.5), math.ceil(n / queries), math.ceil(n / 8)
    squares = [
        [p[:, :, r * queries : (r + 1) * queries, c * 8 : c * 8 + 8].amax((2, 3)) for c in range(blocks)]
        for r in range(rows)
    ]
    target = torch.stack([torch.stack(row, 2) for row in squares], 2)
    state = s.append(s.start(B, HKV, D, dtype=q.dtype), k)
    (part,) = s.parts(0, n, 1)
    gate = s.scores(q, s.kept(state), part)
    torch.testing.assert_close(gate.sum(-1), torch.ones_like(gate[..., 0]))
    loss = s.distillation(q, k, real, scale=scale)
    assert loss.item() == pytest.approx(divergence(target / target.sum(-1, keepdim=True), gate.detach()))


def test_gradients_of_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """By differences, in parts, and to the gate alone; and steps along them lead to the target."""
    torch.manual_seed(0)
    s, (q, k), real = SeerGate(D, HQ, HKV, 8, 2, 8, width=4).double(), inputs(30), inputs(30, 1)
    q.requires_grad_()
    whole = s.distillation(q, k, real)
    monkeypatch.setattr("pidsl.select.selector.AT_ONCE", 1)
    torch.testing.assert_close(s.distillation(q, k, real), whole)
    grads = torch.autograd.grad(s.distillation(q, k, real), [*s.parameters(), q], allow_unused=True)
    assert grads[-1] is None
    names = [name for name, _ in s.named_parameters()]
    assert names == ["q_map", "k_map"]
    for x, grad in zip(s.parameters(), grads, strict=False):
        step = torch.randn_like(x) * 1e-5
        with torch.no_grad():
            x += step
            up = s.distillation(q, k, real)
            x -= 2 * step
            down = s.distillation(q, k, real)
            x += step
        assert float(up - down) == pytest.approx(2 * float((grad * step).sum()), rel=1e-4)
    before, optimizer = s.distillation(q, k, real).item(), torch.optim.Adam(s.parameters(), 0.05)
    for _ in range(30):
        optimizer.zero_grad()
        s.distillation(q, k, real).backward()
        optimizer.step()
    assert s.distillation(q, k, real).item() < before / 2


def indexer(budget: int = 6) -> LightningIndexer:
    torch.manual_seed(0)
    return LightningIndexer(HQ * D, HKV * D, budget, heads=3, width=4, rope=1e3).double()


@pytest.mark.parametrize("listed", [False, True])
def test_the_indexer_is_trained_to_the_sum_of_heads(listed: bool) -> None:
    s, (q, k), real = indexer(), inputs(30), inputs(30, 1)
    (part,) = s.parts(0, 30, 1)
    scores = s.scores(q, s.kept(s.append(s.start(B, HKV, D, dtype=q.dtype), k)), part).detach()
    seen = torch.ones(30, 30, dtype=torch.bool).tril().expand(B, 1, 30, 30)
    blocks = s(q, k) if listed else None
    if blocks is not None:
        mask = torch.zeros(B, 1, 30, 31, dtype=torch.bool)
        mask.scatter_(3, torch.where(blocks < 0, 30, blocks).long(), True)
        seen = seen & mask[..., :30]
    target = attention(*real).sum(1, keepdim=True) * seen
    found = scores.masked_fill(~seen, -math.inf).softmax(-1)
    loss = s.divergence(q, k, real, blocks=blocks)
    assert loss.item() == pytest.approx(divergence(target / target.sum(-1, keepdim=True), found))


def test_gradients_of_the_indexer(monkeypatch: pytest.MonkeyPatch) -> None:
    s, (q, k), real = indexer(), inputs(20), inputs(20, 1)
    k.requires_grad_()
    whole = torch.autograd.grad(s.divergence(q, k, real), [*s.parameters(), k], allow_unused=True)
    assert whole[-1] is None
    assert all(x.abs().max() > 0 for x in whole[:-1])
    monkeypatch.setattr("pidsl.select.selector.AT_ONCE", 1)
    parts = torch.autograd.grad(s.divergence(q, k, real), list(s.parameters()))
    torch.testing.assert_close(parts, whole[:-1])
    before, optimizer = s.divergence(q, k, real).item(), torch.optim.Adam(s.parameters(), 0.05)
    for _ in range(20):
        optimizer.zero_grad()
        s.divergence(q, k, real).backward()
        optimizer.step()
    assert s.divergence(q, k, real).item() < before / 2


@pytest.mark.parametrize("name", ["gate", "indexer"])
def test_training_keeps_nothing_of_queries_times_keys(name: str) -> None:
    n, kept = 2048, 0
    q, k = (x[:1] for x in inputs(n, dtype=torch.float32))

    def count(x: Tensor) -> Tensor:
        nonlocal kept
        kept += x.numel()
        return x

    s = SeerGate(D, HQ, HKV, 64, 4, 64, width=8) if name == "gate" else indexer().float()
    with saved_tensors_hooks(count, lambda x: x):
        loss = s.distillation(q, k, (q, k)) if isinstance(s, SeerGate) else s.divergence(q, k, (q, k))
    assert 0 < kept < n * n // 4
    loss.backward()


def test_compressed_branch_and_its_gradients() -> None:
    """A softmax over the windows that have ended, 0 before; it trains what compresses keys and values."""
    torch.manual_seed(0)

    def learned() -> nn.Module:
        return nn.Sequential(nn.Flatten(-2), nn.Linear(8 * D, D)).double()

    s, (q, k), (_, v) = (
        Compressed(8, 4, size=8, stride=4, compress=learned(), compress_values=learned()),
        *(
            inputs(45),
            inputs(45, 1),
        ),
    )
    assert s.compress is not None
    assert s.compress_values is not None
    out = s.attend(q, k, v)
    windows = [range(w, w + 8) for w in range(0, 38, 4)]
    keys, values = (
        torch.stack([f(x[:, :, w]) for w in windows], 2).repeat_interleave(2, 1)
        for f, x in ((s.compress, k), (s.compress_values, v))
    )
    for i in range(45):
        ended = sum(w[-1] <= i for w in windows)
        p = (q[:, :, i, None] @ keys[:, :, :ended].mT * D**-0.5).softmax(-1)
        torch.testing.assert_close(out[:, :, i], (p @ values[:, :, :ended])[:, :, 0])
    assert (out[:, :, :7] == 0).all()
    out.square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in s.parameters())
    assert (s.attend(q[:, :, :5], k[:, :, :5], v[:, :, :5]) == 0).all()
    assert s(q, k).shape == (B, HKV, 45, 4)


@pytest.mark.parametrize("of_module", [torch.float32, torch.bfloat16])
def test_halves(of_module: torch.dtype) -> None:
    """Queries and keys of bfloat16 with modules of either kind: losses and branches are made in float32."""
    torch.manual_seed(0)
    learned = nn.Sequential(nn.Flatten(-2), nn.Linear(8 * D, D))
    made = (
        SeerGate(D, HQ, HKV, 8, 2, 8, width=4),
        indexer().float(),
        Compressed(8, 4, size=8, stride=4, compress=learned),
    )
    (q, k), real = inputs(45, dtype=torch.bfloat16), inputs(45, 1, torch.bfloat16)

    def results() -> list[Tensor]:
        gate, index, compressed = made
        return [gate.distillation(q, k, real), index.divergence(q, k, real), compressed.attend(q, k, k).float()]

    wanted = results()
    for s in made:
        s.to(of_module)
    for got, want in zip(results(), wanted, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.1, atol=0.1)
    assert all((s(q, k) >= -1).all() for s in made)


def test_centroids_move_to_their_tokens() -> None:
    torch.manual_seed(0)
    s, (q, k) = Clusters(D, HKV, 5, 8, decay=0.9).double(), inputs(40)
    s.centroids[1, 4] = -100 * torch.ones(D)  # nearest to nothing that is positive
    q, k = q.abs(), k.abs()
    wanted = s.centroids.clone()
    for head in range(HKV):
        tokens = [*q[:, head * 2 : head * 2 + 2].reshape(-1, D), *k[:, head].reshape(-1, D)]
        units = [x / x.norm() for x in tokens]
        own = [int((s.centroids[head] @ x).argmax()) for x in units]
        for c in set(own):
            total = sum(x for x, at in zip(units, own, strict=True) if at == c)
            wanted[head, c] = 0.9 * wanted[head, c] + 0.1 * normalize(total, dim=0)
    s.update(q, k)
    torch.testing.assert_close(s.centroids, wanted)
    assert (s.centroids[1, 4] == -100).all()
    assert [*s.state_dict()] == ["centroids"]
    with pytest.raises(ArgumentError, match="whole groups"):
        s.update(q, k[:, :1])


def test_lists_of_other_queries_are_refused() -> None:
    s, (q, k) = indexer(), inputs(20)
    with pytest.raises(ArgumentError, match=r"blocks: \[2, 1, 19, 6\]"):
        s.divergence(q, k, (q, k), blocks=s(q, k)[:, :, 1:])
