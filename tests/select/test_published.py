"""Each selector against its published formula, written out token by token."""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

import pidsl
from pidsl.select import MoBA, Quest, SeerGate, Selector
from pidsl.select.antidiagonal import Antidiagonal
from pidsl.select.clusters import Clusters
from pidsl.select.compressed import Compressed
from pidsl.select.indexer import LightningIndexer

B, HQ, HKV, D = 2, 4, 2, 6
Score = Callable[[int, int, int, int], float]  # of entry b, query head h, query block r and key block c


def inputs(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, h, n, D, generator=made, dtype=torch.float64) for h in (HQ, HKV))  # type: ignore[return-value]


def tokens(r: int, size: int, n: int) -> range:
    return range(r * size, min((r + 1) * size, n))


def lists(s: Selector, n: int, score: Score) -> list[list[list[list[int]]]]:
    """What the rules of a selector make of scores, block by block."""
    group = HQ // HKV
    heads = {"head": [[h] for h in range(HQ)], "group": [[*range(g * group, (g + 1) * group)] for g in range(HKV)]}
    heads["entry"] = [[*range(HQ)]]
    found = []
    for b, together in itertools.product(range(B), heads[s.per]):
        rows = []
        for r in range(math.ceil(n / s.queries)):
            last, own = tokens(r, s.queries, n)[-1], r * s.queries // s.block
            blocks = [c for c in range(math.ceil(n / s.block)) if c * s.block <= last]
            always = [c for c in blocks if c < s.first or (s.local and c > own - s.local)]
            aligned = s.queries % s.block == 0
            rest = [c for c in blocks if c not in always and (aligned or (c + 1) * s.block <= last + 1)]
            worth = {c: sum(score(b, h, r, c) for h in together) / len(together) for c in blocks}
            order = always + sorted((c for c in rest if worth[c] > -math.inf), key=lambda c: (-worth[c], c))
            order = order[: s.budget]
            if (limit := getattr(s, "threshold", None)) is not None:
                order = cut(s, order, always, worth, limit)
            rows.append(order)
        found.append(rows)
    return [found[i : i + len(heads[s.per])] for i in range(0, len(found), len(heads[s.per]))]


def cut(s: Selector, order: list[int], always: list[int], worth: dict[int, float], limit: float) -> list[int]:
    if isinstance(s, SeerGate):
        return [c for c in order if c in always or worth[c] > limit]
    kept: list[int] = []
    for c in order:  # until what is listed sums to the share
        if c in always or sum(worth[x] for x in kept) < limit * sum(worth.values()):
            kept.append(c)
    return kept


def check(s: Selector, q: Tensor, k: Tensor, score: Score) -> None:
    wanted, got = lists(s, q.shape[2], score), s(q, k)
    assert got.dtype == torch.int32
    assert got.shape[3] == min(s.budget, math.ceil(q.shape[2] / s.block))
    assert [[[[x for x in row if x >= 0] for row in h] for h in b] for b in got.tolist()] == wanted


def mean(x: Tensor, rows: range) -> list[float]:
    return [sum(x[i, d].item() for i in rows) / len(rows) for d in range(x.shape[1])]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def exps(xs: list[float]) -> list[float]:
    top = max(xs, default=0.0)
    e = [math.exp(x - top) for x in xs]
    return [x / sum(e) for x in e]


SIZES = [(8, 3, 1), (8, 3, 8), (4, 5, 8), (8, 4, 4)]


@pytest.mark.parametrize(("block", "budget", "queries"), SIZES)
@pytest.mark.parametrize("per", ["head", "group", "entry"])
def test_moba(block: int, budget: int, queries: int, per: str) -> None:
    """q . mean(k), own block always."""
    q, k = inputs(45)
    s = MoBA(block, budget, queries, per=per)  # type: ignore[arg-type]

    def score(b: int, h: int, r: int, c: int) -> float:
        return dot(mean(q[b, h], tokens(r, queries, 45)), mean(k[b, h // 2], tokens(c, block, 45)))

    check(s, q, k, score)


@pytest.mark.parametrize(("block", "budget", "queries"), SIZES)
def test_quest(block: int, budget: int, queries: int) -> None:
    """Sum over d of max(q_d min_d, q_d max_d)."""
    q, k = inputs(45, 1)

    def score(b: int, h: int, r: int, c: int) -> float:
        at = mean(q[b, h], tokens(r, queries, 45))
        low, high = ([f(k[b, h // 2, j, d].item() for j in tokens(c, block, 45)) for d in range(D)] for f in (min, max))
        return sum(max(x * lo, x * hi) for x, lo, hi in zip(at, low, high, strict=True))

    check(Quest(block, budget, queries), q, k, score)


def turned(x: list[float], position: int, base: float) -> list[float]:
    half = len(x) // 2
    pairs = [complex(x[p], x[p + half]) * cmath.exp(1j * position * base ** (-p / half)) for p in range(half)]
    return [z.real for z in pairs] + [z.imag for z in pairs]


@pytest.mark.parametrize(("queries", "threshold"), [(8, None), (8, 0.2), (1, 0.3), (16, 0.1)])
def test_seer_gate(queries: int, threshold: float | None) -> None:
    """softmax of rotated maps of pooled queries (mean) and keys (max, min, mean)."""
    q, k = inputs(45, 2)
    s = SeerGate(D, HQ, HKV, 8, 3, queries, width=4, rope=100.0, threshold=threshold).double()

    def mapped(x: list[float], weight: list[list[float]], position: int) -> list[float]:
        out = [sum(x[i] * weight[i][o] for i in range(len(x))) for o in range(4)]
        return turned(out, position, 100.0)

    q_map, k_map = s.q_map.tolist(), s.k_map.tolist()

    @cache
    def gate(b: int, h: int, r: int) -> dict[int, float]:
        last = tokens(r, queries, 45)[-1]
        at = mapped(mean(q[b, h], tokens(r, queries, 45)), q_map[h], r * queries)
        logits = []
        seen = [x for x in range(6) if x * 8 <= last and (queries % 8 == 0 or x * 8 + 7 <= last)]
        for x in seen:
            block = k[b, h // 2, tokens(x, 8, 45)].T.tolist()
            pooled = [max(d) for d in block] + [min(d) for d in block] + [sum(d) / len(d) for d in block]
            logits.append(dot(at, mapped(pooled, k_map[h // 2], x * 8)) / 2)
        return dict(zip(seen, exps(logits), strict=True))

    check(s, q, k, lambda b, h, r, c: gate(b, h, r).get(c, 0.0))


@pytest.mark.parametrize(("size", "stride", "block"), [(8, 4, 8), (4, 4, 8), (12, 4, 4)])
def test_compressed(size: int, stride: int, block: int) -> None:
    """Equation 9 of NSA, p_c = sum over m < block / stride, n < size / stride of p_cmp[c block / stride + m - n]."""
    q, k = inputs(45, 3)

    @cache
    def weights(b: int, h: int, r: int) -> dict[int, float]:
        ended = [w for w in range(45) if w * stride + size <= r + 1]
        keys = [mean(k[b, h // 2], range(w * stride, w * stride + size)) for w in ended]
        return dict(zip(ended, exps([dot(q[b, h, r].tolist(), x) / D**0.5 for x in keys]), strict=True))

    def score(b: int, h: int, r: int, c: int) -> float:
        p = weights(b, h, r)
        return sum(
            p.get(c * block // stride + m - n, 0.0) for m in range(block // stride) for n in range(size // stride)
        )

    check(Compressed(block, 5, size=size, stride=stride), q, k, score)


def test_lightning_indexer() -> None:
    """Sum over index heads of w ReLU(q . k) D ** -0.5, of tokens."""
    q, k = inputs(30, 4)
    s = LightningIndexer(HQ * D, HKV * D, 7, heads=3, width=4, rope=50.0).double()

    def linear(x: list[float], weight: Tensor) -> list[float]:
        return [dot(x, row) for row in weight.tolist()]

    def score(b: int, h: int, r: int, c: int) -> float:
        x = [v for head in range(HQ) for v in q[b, head, r].tolist()]
        y = linear([v for head in range(HKV) for v in k[b, head, c].tolist()], s.k_map.weight)
        center = sum(y) / 4
        spread = math.sqrt(sum((v - center) ** 2 for v in y) / 4 + s.k_norm.eps)
        key = turned([(v - center) / spread for v in y], c, 50.0)
        weights, queries = linear(x, s.weights.weight), linear(x, s.q_map.weight)
        at = [turned(queries[4 * i : 4 * i + 4], r, 50.0) for i in range(3)]
        return sum(w / math.sqrt(3) * max(0.0, dot(a, key)) / 2 for w, a in zip(weights, at, strict=True))

    made = torch.Generator().manual_seed(5)
    with torch.no_grad():
        s.k_norm.weight.fill_(1.0)
        s.weights.weight.copy_(torch.randn(s.weights.weight.shape, generator=made))
        s.q_map.weight.copy_(torch.randn(s.q_map.weight.shape, generator=made))
    (part,) = s.parts(0, 30, 1)
    found = s.scores(q, s.kept(s.append(s.start(B, HKV, D, dtype=q.dtype), k)), part)
    assert found[1, 0, 20, 7].item() == pytest.approx(score(1, 0, 20, 7))
    check(s, q, k, score)


@pytest.mark.parametrize(("routes", "budget", "per"), [(1, 30, "head"), (1, 3, "group"), (2, 6, "head")])
def test_clusters(routes: int, budget: int, per: str) -> None:
    """Keys before the query whose nearest centroid is one of the query's, or of the mean of a group's queries."""
    q, k = inputs(30, 6)
    s = Clusters(D, HKV, 4, budget, routes=routes, per=per).double()  # type: ignore[arg-type]

    def near(x: list[float], head: int) -> list[float]:
        return [dot(x, mu) / math.sqrt(dot(x, x)) for mu in s.centroids[head].tolist()]

    def score(b: int, h: int, r: int, c: int) -> float:
        together = [h] if per == "head" else [h // 2 * 2, h // 2 * 2 + 1]
        query, key = near(q[b, together, r].mean(0).tolist(), h // 2), near(k[b, h // 2, c].tolist(), h // 2)
        of_key = max(range(4), key=lambda x: key[x])
        own = sorted(range(4), key=lambda x: -query[x])[:routes]
        return key[of_key] if of_key in own else -math.inf

    check(s, q, k, score)


@pytest.mark.parametrize(("n", "block", "queries", "threshold"), [(48, 8, 8, None), (42, 8, 8, 0.7), (45, 4, 8, 0.5)])
def test_antidiagonal(n: int, block: int, queries: int, threshold: float | None) -> None:
    """From the matrix of logits: sums along one antidiagonal of every square, a softmax, sums over blocks."""
    q, k = inputs(n, 7)
    s, stride = Antidiagonal(block, 5, queries, stride=4, threshold=threshold), 4

    def logit(b: int, h: int, i: int, j: int) -> float:
        return dot(q[b, h, i].tolist(), k[b, h // 2, j].tolist()) if max(i, j) < n else 0.0

    def probabilities(b: int, h: int, u: int) -> list[float]:
        squares = range(u + 1)
        sums = [sum(logit(b, h, u * stride + x, v * stride + stride - 1 - x) for x in range(stride)) for v in squares]
        return exps([x / stride / D**0.5 for x in sums])

    known = {
        (b, h, u): probabilities(b, h, u) for b in range(B) for h in range(HQ) for u in range(math.ceil(n / stride))
    }

    def score(b: int, h: int, r: int, c: int) -> float:
        rows = [u for u in range(r * queries // stride, (r + 1) * queries // stride) if (b, h, u) in known]
        columns = range(c * block // stride, (c + 1) * block // stride)
        return sum(known[b, h, u][v] for u in rows for v in columns if v <= u)

    check(s, q, k, score)


def test_three_branches_of_nsa() -> None:
    """Gated: compressed windows, chosen blocks, a window; each with its softmax, the last two in one kernel."""
    (q, k), v, n = inputs(29, 3), inputs(29, 8)[1], 29
    s = Compressed(8, 3, size=8, stride=4)
    lists, weights = s(q, k), torch.rand(B, HQ, n, 3, dtype=torch.float64)
    branches = pidsl.gate(chosen=pidsl.chosen(8, 3, 1), window=pidsl.window(11) & pidsl.causal)
    out = pidsl.compile(branches, backend="torch")(q, k, v, weights=weights[..., 1:], blocks=lists)
    out = out + weights[..., :1] * s.attend(q, k, v)
    for b, h, i in itertools.product(range(B), range(HQ), range(n)):
        chosen = [j for j in range(i + 1) if j // 8 in lists[b, h // 2, i].tolist()]
        ended = [range(w, w + 8) for w in range(0, i - 6, 4)]
        keys, values = k[b, h // 2].tolist(), v[b, h // 2].tolist()
        sets = [
            [(mean(k[b, h // 2], w), mean(v[b, h // 2], w)) for w in ended],
            [(keys[j], values[j]) for j in chosen],
            [(keys[j], values[j]) for j in range(max(0, i - 11), i + 1)],
        ]
        wanted = torch.zeros(D, dtype=torch.float64)
        for g, pairs in zip(weights[b, h, i], sets, strict=True):
            p = exps([dot(q[b, h, i].tolist(), key) / D**0.5 for key, _ in pairs])
            for x, (_, value) in zip(p, pairs, strict=True):
                wanted += g * x * torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(out[b, h, i], wanted)
