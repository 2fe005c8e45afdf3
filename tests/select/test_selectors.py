"""What holds for every selector: causality, ties, step by step, memory, documents, budgets, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pidsl
from pidsl.errors import ArgumentError, TermError
from pidsl.select import Antidiagonal, Clusters, Compressed, LightningIndexer, MoBA, Quest, SeerGate, Selector
from pidsl.select.scores import best, means

B, HQ, HKV, D = 2, 4, 2, 8

# block, budget and queries as given, where the selector has them
MADE: dict[str, Callable[[int, int, int], Selector]] = {
    "moba": MoBA,
    "moba, per group": lambda *x: MoBA(*x, per="group"),
    "moba, without the own": lambda *x: MoBA(*x, local=0),
    "quest": lambda *x: Quest(*x, per="entry"),
    "gate": lambda *x: SeerGate(D, HQ, HKV, *x, width=4),
    "gate with a threshold": lambda *x: SeerGate(D, HQ, HKV, *x, width=4, threshold=0.15),
    "compressed": lambda *x: Compressed(*x, size=8, stride=4, local=1),
    "indexer": lambda block, budget, queries: LightningIndexer(HQ * D, HKV * D, budget, heads=3, width=4, rope=1e3),
    "clusters": lambda block, budget, queries: Clusters(D, HKV, 3, budget, routes=2),
    "antidiagonal": lambda *x: Antidiagonal(*x, stride=4, threshold=0.8),
}


def inputs(n: int, seed: int, whole: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Normal numbers, or small integers, whose scores are exact and often equal."""
    made = torch.Generator().manual_seed(seed)
    shapes = [(B, HQ, n, D), (B, HKV, n, D)]
    if whole:
        q, k = (torch.randint(-2, 3, shape, generator=made).to(dtype) for shape in shapes)
    else:
        q, k = (torch.randn(shape, generator=made, dtype=torch.float64).to(dtype) for shape in shapes)
    return q, k


def make(name: str, sizes: tuple[int, int, int], seed: int = 0) -> Selector:
    torch.manual_seed(seed)
    return MADE[name](*sizes).double()


def widened(lists: Tensor, budget: int) -> Tensor:
    return torch.nn.functional.pad(lists, (0, budget - lists.shape[3]), value=-1)


each_name = pytest.mark.parametrize("name", MADE)
each_size = pytest.mark.parametrize(("block", "budget", "queries"), [(8, 4, 8), (8, 3, 1), (4, 5, 8), (8, 4, 4)])
few = settings(max_examples=settings.default.max_examples // 10)


def sized(name: str, block: int, budget: int, queries: int) -> Selector:
    return make(name, (block, budget, 4 if name == "antidiagonal" and queries == 1 else queries))


@each_name
@each_size
@few
@given(st.integers(1, 60), st.booleans(), st.data())
def test_step_by_step_is_the_whole_call(
    name: str, block: int, budget: int, queries: int, n: int, whole: bool, data: Any
) -> None:
    s, (q, k) = sized(name, block, budget, queries), inputs(n, n, whole)
    cuts = data.draw(st.lists(st.integers(0, n // s.queries), max_size=6))
    ends = [*sorted(c * s.queries for c in cuts), n]
    state, at, found = s.start(B, HKV, D, dtype=k.dtype), 0, []
    for end in ends:
        state = s.append(state, k[:, :, at:end])
        found.append(widened(s.step(q[:, :, at:end], state), s.budget))
        at = end
    assert torch.equal(torch.cat(found, 2), widened(s(q, k), s.budget))


@each_name
@each_size
@pytest.mark.parametrize("offset", [9, 24, 43])
def test_an_offset_is_the_last_rows(name: str, block: int, budget: int, queries: int, offset: int) -> None:
    """Of queries that begin with a query block; and of others, as of a state with as many keys."""
    n = 44
    s, (q, k) = sized(name, block, budget, queries), inputs(n, n)
    aligned = offset - offset % s.queries
    assert torch.equal(s(q[:, :, aligned:], k, offset=aligned), s(q, k)[:, :, aligned // s.queries :])
    state = s.append(s.start(B, HKV, D, dtype=k.dtype), k)
    assert torch.equal(s(q[:, :, offset:], k, offset=offset), s.step(q[:, :, offset:], state))


@each_name
@each_size
@pytest.mark.parametrize("at", [13, 30, 50])
def test_no_choice_depends_on_what_comes(name: str, block: int, budget: int, queries: int, at: int) -> None:
    """Lists of the query blocks that end before a token are the same whatever it is; and none has a block to come."""
    n = 55
    s, (q, k) = sized(name, block, budget, queries), inputs(n, n)
    found = s(q, k)
    last = torch.tensor([min(n, (r + 1) * s.queries) - 1 for r in range(found.shape[2])])
    assert (found * s.block <= last[:, None]).all()
    assert (found >= -1).all()
    rows = found.sort(3).values
    assert not ((rows[..., 1:] == rows[..., :-1]) & (rows[..., 1:] >= 0)).any()
    end = (at % n) // s.queries * s.queries
    other_q, other_k = inputs(n, n + 1000)
    changed = s(torch.cat([q[:, :, :end], other_q[:, :, end:]], 2), torch.cat([k[:, :, :end], other_k[:, :, end:]], 2))
    assert torch.equal(changed[:, :, : end // s.queries], found[:, :, : end // s.queries])


@pytest.mark.parametrize("name", [x for x in MADE if x not in ("moba, without the own", "gate with a threshold")])
@pytest.mark.parametrize("queries", [8, 4])
def test_the_whole_budget_is_causal(name: str, queries: int) -> None:
    """Every block that the query block reaches, so that with `causal` it is the causal mask."""
    n, local = 45, {"indexer": 45, "clusters": 45}.get(name, 12)
    torch.manual_seed(0)
    s = MADE[name](4, local, queries)
    if isinstance(s, Clusters):
        s.routes = 3  # all clusters
    if isinstance(s, Antidiagonal):
        s.threshold = None
    lists = s(*inputs(n, 1, dtype=torch.float32))
    listed = torch.zeros(*lists.shape[:3], math.ceil(n / s.block) + 1, dtype=torch.bool)
    listed.scatter_(3, torch.where(lists < 0, listed.shape[3] - 1, lists).long(), True)
    mask = listed[..., :-1].repeat_interleave(s.queries, 2)[:, :, :n].repeat_interleave(s.block, 3)[..., :n]
    causal = torch.from_numpy(pidsl.causal.mask(n).copy())
    assert ((mask & causal) == causal).all()


@each_name
def test_smaller_budgets_are_beginnings(name: str) -> None:
    q, k = inputs(60, 3)
    large, small = make(name, (8, 8, 8)), make(name, (8, 4, 8))
    assert torch.equal(large(q, k)[..., :4], small(q, k))


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 3e-45, -2.5]), min_size=1), st.data()
)
def test_ties_go_to_the_lowest_index(scores: list[float], data: Any) -> None:
    count = data.draw(st.integers(1, len(scores)))
    order = sorted(range(len(scores)), key=lambda i: (math.inf if math.isnan(scores[i]) else -scores[i], i))
    assert best(torch.tensor(scores), count).tolist() == order[:count]


def test_means_of_blocks_that_are_cut() -> None:
    x = torch.arange(10.0).view(1, 1, 10, 1)
    assert means(x, 4, 3)[0, 0, :, 0].tolist() == [0.0, 2.5, 6.5, 9.0]
    assert means(x[:, :, :2], 4, 1)[0, 0, :, 0].tolist() == [0.5]


def test_equal_keys_list_the_first_blocks() -> None:
    q, k = torch.ones(1, 1, 64, 4), torch.ones(1, 1, 64, 4)
    assert MoBA(8, 4, 8)(q, k)[0, 0, -1].tolist() == [7, 0, 1, 2]


class Largest(TorchDispatchMode):
    """The largest tensor that anything makes."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.found = max(self.found, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("name", [x for x in MADE if "," not in x])
def test_nothing_of_queries_times_keys_is_made(name: str) -> None:
    n = 4096
    torch.manual_seed(0)
    s = MADE[name](64, 16, 64)
    if isinstance(s, Compressed):
        s = Compressed(64, 16)
    q, k = torch.randn(1, HQ, n, D), torch.randn(1, HKV, n, D)
    with Largest() as largest:
        s(q, k)
    assert q.numel() <= largest.found < n * n // 4


@each_name
def test_packed_documents_are_calls_of_their_own(name: str) -> None:
    s, (q, k) = make(name, (8, 4, 8)), inputs(50, 4)
    lists, at, row = s.packed(q, k, [9, 40, 1]), 0, 0
    for n in (9, 40, 1):
        alone = s(q[:, :, at : at + n], k[:, :, at : at + n])
        assert torch.equal(lists[:, :, row : row + alone.shape[2]], widened(alone, lists.shape[3]))
        at, row = at + n, row + alone.shape[2]
    assert row == lists.shape[2]


@each_name
def test_halves_and_many_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is scored in float32; how many query blocks come at once says nothing."""
    q, k = inputs(60, 5, dtype=torch.bfloat16)
    torch.manual_seed(0)
    s = MADE[name](8, 4, 8)
    found = s(q, k)
    assert found.device == q.device
    assert not any(x.requires_grad for x in (found,))
    if not list(s.parameters()) and not isinstance(s, Clusters):
        assert torch.equal(found, s(q.float(), k.float()))
    monkeypatch.setattr("pidsl.select.selector.AT_ONCE", 1)
    assert torch.equal(found, s(q, k))


def test_no_queries() -> None:
    q, k = inputs(20, 0)
    for per, heads in (("head", HQ), ("group", HKV), ("entry", 1)):
        s = MoBA(8, 2, 8, per=per)  # type: ignore[arg-type]
        assert s(q[:, :, :0], k, offset=20).shape == (B, heads, 0, 0)


def test_an_earlier_state_still_holds() -> None:
    """So that drafts that were refused are forgotten by going on from it."""
    s, (q, k) = make("quest", (8, 4, 1)), inputs(40, 6)
    state = s.append(s.start(B, HKV, D, dtype=k.dtype), k[:, :, :20])
    s.append(state, -k[:, :, 20:35])
    again = s.append(state, k[:, :, 20:])
    assert torch.equal(s.step(q[:, :, 20:], again), s(q, k)[:, :, 20:, :])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MoBA(0), "block = 0"),
        (lambda: MoBA(8, 2.0), "budget = 2.0"),  # type: ignore[arg-type]
        (lambda: MoBA(8, 1, 16), "at least the 2 blocks"),
        (lambda: MoBA(8, 3, 12), "at least|MoBA"),
        (lambda: MoBA(8, 2, first=2), "at least the"),
        (lambda: MoBA(per="kv"), "per = 'kv'"),  # type: ignore[arg-type]
        (lambda: SeerGate(8, 4, 3), "whole groups"),
        (lambda: SeerGate(8, 4, 2, width=3), "even width"),
        (lambda: Compressed(size=24), "multiples of stride"),
        (lambda: LightningIndexer(8, 8, width=3, rope=1e4), "width even"),
        (lambda: Clusters(8, 2, 3, routes=4), "1 <= routes"),
        (lambda: Clusters(8, 2, 3, per="entry"), "per head or group"),
        (lambda: Antidiagonal(stride=12), "multiples of stride"),
    ],
)
def test_sizes_that_are_refused(make: Callable[[], Selector], says: str) -> None:
    if says == "at least|MoBA":  # 12 queries lie in two or three blocks of 8
        assert make().budget == 3
        return
    with pytest.raises(TermError, match=says):
        make()


Q, K = inputs(20, 0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: s(Q[0], K), "q: .*expected"),
        (lambda s: s(Q, K.long()), "k: .*int64"),
        (lambda s: s(Q[:, :3], K), "whole groups"),
        (lambda s: s(Q, K.float()), "one batch"),
        (lambda s: s(Q, K, offset=1), "at least offset . n = 21"),
        (lambda s: s(Q, K, offset=-1), "offset = -1"),
        (lambda s: s(Q, K, offset=torch.tensor(1)), "one position"),
        (lambda s: s.packed(Q, K, [3, 4]), "sum to 20"),
        (lambda s: s.append(s.start(B, HKV, D), K), "k: .*float64"),
        (lambda s: s.append(s.start(B, HKV + 1, D, dtype=K.dtype), K), "k: "),
        (lambda s: s.step(Q, s.append(s.start(B, HKV, D, dtype=K.dtype), K[:, :, :5])), "last tokens of the state"),
    ],
)
def test_calls_that_are_refused(call: Callable[[Selector], Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=f"(?s){says}"):
        call(MoBA(8, 3, 8))


@pytest.mark.parametrize("name", [x for x in MADE if "," not in x])
def test_traced_and_under_autocast(name: str) -> None:
    """Without graph breaks; and an autocast does not make scores of halves."""
    torch.manual_seed(0)
    s, (q, k) = MADE[name](8, 4, 8), inputs(50, 7, dtype=torch.float32)
    found = s(q, k)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(s(q, k), found)
    torch.compiler.reset()
    assert torch.equal(torch.compile(s, backend="eager", fullgraph=True)(q, k), found)


@each_name
def test_all_is_made_where_the_queries_are(name: str) -> None:
    s, (q, k) = make(name, (8, 4, 8)), inputs(50, 0)
    shape = s(q, k).shape
    assert s.to("meta")(q.to("meta"), k.to("meta")).shape == shape


def test_it_is_reached_from_the_package() -> None:
    assert pidsl.select.MoBA is MoBA
    assert "budget=4" in repr(MoBA(8, 4, 8))
