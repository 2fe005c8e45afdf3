"""Context parallelism in real processes: what ranks find together is what one device finds, to rounding, every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gloo import fresh, run
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
import pidsl.distributed.running.prepare as prepare
from pidsl import testing
from pidsl.distributed import ContextParallel, Shards
from pidsl.distributed.running import context, share
from pidsl.distributed.running.lists import rows_of
from pidsl.distributed.running.sequences import documents_of
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import positions
from pidsl.language.recipe import Recipe

TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-11}


@dataclass(frozen=True)
class Case:
    """A call of all ranks; the pattern as text."""

    pattern: str
    n: int
    ranks: int
    sharding: Any = "auto"
    moves: tuple[Any, ...] = ()  # instead of what the plan chooses: move, and kind and period of another layout
    score: Any = None
    output_gate: str | None = None
    affine: bool = False
    batch: int = 2
    kv_heads: int = 2
    group: int = 2
    dtype: torch.dtype = torch.float64
    ids: Any = None
    list_heads: int = 1
    backend: str = "torch"

    @property
    def recipe(self) -> Recipe:
        return Recipe(pidsl.parse(self.pattern), self.backend, self.score, self.output_gate, self.affine)


def tensors(case: Case) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """q, k, v and the gradients of out and lse; and the inputs. The same on every rank."""
    torch.manual_seed(case.n)
    of = pidsl.parse(case.pattern)
    heads = len(of) if isinstance(of, pidsl.Heads) else case.kv_heads * case.group
    kv_heads = case.kv_heads if heads % case.kv_heads == 0 else 1
    shape, options = (case.batch, heads, case.n), {"dtype": case.dtype}
    sizes = {"q": (heads, 8), "k": (kv_heads, 8), "v": (kv_heads, 16)}
    found = {name: torch.randn(case.batch, h, case.n, d, **options) for name, (h, d) in sizes.items()}
    found["out"] = torch.randn(*shape, 16, **options)
    branches = (len(of.names),) if isinstance(of, pidsl.Gate) else ()
    found["lse"] = torch.randn(*shape, *branches, **options)
    inputs: dict[str, Any] = {}
    if branches:
        inputs["weights"] = torch.rand(*shape, *branches, **options)
    if case.output_gate:
        inputs["output_gate"] = torch.randn(*shape, *([16] if case.output_gate == "element" else []), **options)
    if case.affine:
        inputs |= {"alpha": torch.rand(heads, **options), "beta": torch.rand(*shape, **options)}
    if case.score is not None:
        asked = {"slopes": (heads,), "sinks": (heads,), "temperature": (heads,), "bias": (heads, case.score.table)}
        inputs |= {name: torch.rand(asked[name], **options) + 0.5 for name in case.score.parameters if name != "seed"}
        if "seed" in case.score.parameters:
            inputs["seed"] = 2**40 + 7
    return found, inputs


def leaves(given: dict[str, Tensor], inputs: dict[str, Any]) -> list[Tensor]:
    """q, k, v and the learned inputs, as leaves of a graph."""
    learned = [x for x in inputs.values() if isinstance(x, Tensor) and x.is_floating_point()]
    return [x.requires_grad_() for x in (*(given[name] for name in "qkv"), *learned)]


def all_lists(case: Case, kernel: Any) -> Tensor:
    """Lists of all query blocks, as one device is given them."""
    block, budget, size = kernel.choice
    rows = [rows_of(Shards(case.n, 1), 0, documents(case), entry, size) for entry in range(case.batch)]
    made = torch.full((case.batch, case.list_heads, max(map(len, rows), default=0), budget), -1, dtype=torch.int32)
    rng = np.random.default_rng(case.n)
    for entry, own in enumerate(rows):
        for row in own:
            some = rng.integers(-1, -(-row.tokens // block), (case.list_heads, budget))
            made[entry, :, row.at] = torch.from_numpy(some)
    return made


def own_lists(case: Case, parallel: ContextParallel, blocks: Tensor) -> Tensor:
    """Those of them that are about queries of this rank."""
    size, home = parallel.kernel.choice[2], parallel.shards(case.n)
    found = []
    for entry in range(case.batch):
        every = rows_of(Shards(case.n, 1), 0, documents(case), entry, size)
        at = {(row.start, row.queries.first // size): row.at for row in every}
        own = rows_of(home, parallel.rank, documents(case), entry, size)
        found.append(blocks[entry, :, [at[row.start, row.queries.first // size] for row in own]])
    most = max(x.shape[1] for x in found)
    return torch.stack([torch.nn.functional.pad(x, (0, 0, 0, most - x.shape[1]), value=-1) for x in found])


def documents(case: Case) -> Any:
    return None if case.ids is None else documents_of(torch.tensor(case.ids))


def judged(case: Case) -> tuple[list[Tensor], dict[str, Any]]:
    """out, lse and all gradients of one device, by the dense reference."""
    given, inputs = tensors(case)
    kernel = pidsl.compile(replace(case.recipe, backend="reference"))
    named = dict(inputs)
    if case.ids is not None:
        named["documents"] = torch.tensor(case.ids)
    if kernel.choice is not None:
        named["blocks"] = all_lists(case, kernel)
    inside = leaves(given, inputs)
    out, lse = kernel(given["q"], given["k"], given["v"], return_lse=True, **named)
    loss = (out * given["out"]).sum() + (torch.where(lse.isinf(), 0.0, lse) * given["lse"]).sum()
    return [out.detach(), lse.detach(), *gradients(loss, inside)], named


def gradients(loss: Tensor, inside: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, inside, allow_unused=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inside, found, strict=True)]


def shared(group: dist.ProcessGroup, case: Case) -> dict[str, Any]:
    """The same of all ranks, compared on each with its share; twice, to the bit."""
    prepare.plan = planned(case) if case.moves else pidsl.distributed.plan  # ranks are kept from test to test
    want, named = judged(case)
    kernel = pidsl.compile(case.recipe)
    parallel = ContextParallel(kernel, group, case.sharding)
    parallel._kept.setups.clear()  # those of other moves
    sent: list[int] = []
    first = attempt(case, parallel, named, sent)
    again = attempt(case, parallel, named, [])
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True)), "other bits"
    learned = want[5:]
    wanted = [parallel.shard(x) for x in want[:2]] + [parallel.shard(x) for x in want[2:5]]
    by_row = [x.dim() > 2 for x in learned]
    wanted += [parallel.shard(x) if rows else x for x, rows in zip(learned, by_row, strict=True)]
    mine = list(first)
    for at, rows in enumerate(by_row, start=5):
        if not rows:
            dist.all_reduce(mine[at], group=group)  # of what all ranks share each has the part of its rows
    for name, x, y in zip(("out", "lse", "dq", "dk", "dv", *"abcdef"), mine, wanted, strict=False):
        assert x.shape == y.shape, name
        torch.testing.assert_close(x, y.to(x.dtype), rtol=TOLERANCE[case.dtype], atol=TOLERANCE[case.dtype])
    setup = list(parallel._kept.setups.values())[-1]
    _, queries, keys, *_ = setup.sizes
    work = [(mine.tolist(), setup.parts[term]) for term, mine in setup.heads.items()]
    return {"bytes": sent, "work": work, "group": queries // keys}


def attempt(case: Case, parallel: ContextParallel, named: dict[str, Any], sent: list[int]) -> list[Any]:
    given, inputs = tensors(case)
    mine = {name: parallel.shard(x) for name, x in given.items()}
    own = {name: parallel.shard(x) if isinstance(x, Tensor) and x.dim() > 2 else x for name, x in inputs.items()}
    inside = leaves(mine, own)
    extra = {name: x for name, x in named.items() if name == "documents"}
    if "blocks" in named:
        extra["blocks"] = own_lists(case, parallel, named["blocks"])
    with counted(sent):
        out, lse = parallel(mine["q"], mine["k"], mine["v"], return_lse=True, **own, **extra)
    loss = (out * mine["out"]).sum() + (torch.where(lse.isinf(), 0.0, lse) * mine["lse"]).sum()
    return [out.detach(), lse.detach(), *gradients(loss, inside)]


class counted:
    """Bytes that all-to-alls send to other ranks, call by call."""

    def __init__(self, sent: list[int]) -> None:
        self.sent, self.call = sent, dist.all_to_all_single

    def __enter__(self) -> None:
        def call(landed: Tensor, outgoing: Tensor, *splits: Any, group: Any = None, **more: Any) -> Any:
            sizes = list(splits[1]) if len(splits) > 1 else [len(outgoing) // dist.get_world_size(group)] * 8
            sizes[dist.get_rank(group)] = 0
            self.sent.append(sum(sizes[: dist.get_world_size(group)]) * outgoing.itemsize)
            return self.call(landed, outgoing, *splits, group=group, **more)

        dist.all_to_all_single = call

    def __exit__(self, *_: object) -> None:
        dist.all_to_all_single = self.call


def planned(case: Case) -> Callable[..., Any]:
    """A plan with the moves of a case."""

    def plan(pattern: Any, n: int, ranks: int, sharding: Any = "auto", **_: Any) -> Any:
        home = sharding if isinstance(sharding, Shards) else Shards(n, ranks)
        move, *other = case.moves
        layout = Shards(n, ranks, *other) if other else home
        terms = [term for _, term in pattern.branches] if isinstance(pattern, pidsl.Gate) else [pattern]
        terms = list(pattern.distinct) if isinstance(pattern, pidsl.Heads) else terms
        return SimpleNamespace(shards=home, placements={x: (Placement(x, move, home, layout),) for x in terms})

    return plan


RANKS = st.integers(1, 8)
LENGTHS = st.integers(0, 40)
SHARDINGS = st.sampled_from(["contiguous", "zigzag", 3, 8])
MOVES = st.sampled_from([("keys",), ("queries",), ("keys", "classes", 4), ("keys", "classes", 7), ("keys", "zigzag")])
DTYPES = st.sampled_from([torch.float64, torch.float32])


# without Phase.shrink: a rank that failed takes the pool with it, which is slow
RUNS = settings(phases=(Phase.explicit, Phase.generate))
TIMES = settings.default.max_examples // 50  # 1 in `make test`, 20 in `make devices`


@settings(RUNS, max_examples=60 * TIMES)
@given(testing.terms(depth=3, ring=True), LENGTHS, RANKS, SHARDINGS, MOVES, DTYPES)
def test_any_pattern_with_any_move(
    term: Any, n: int, ranks: int, sharding: Any, moves: Any, dtype: torch.dtype
) -> None:
    run(ranks, shared, Case(repr(term), n, ranks, sharding, moves, dtype=dtype))


SHARED = st.sampled_from(["contiguous", "zigzag"])
AUTO = st.sampled_from(["auto", "contiguous", "zigzag"])


@settings(RUNS, max_examples=25 * TIMES)
@given(testing.terms(depth=3, ring=True), LENGTHS, RANKS, AUTO)
def test_any_pattern_as_planned(term: Any, n: int, ranks: int, sharding: Any) -> None:
    """And what is sent is what the plan says, to the byte."""
    sends_what_was_asked(Case(repr(term), n, ranks, sharding))


def sends_what_was_asked(case: Case) -> None:
    found = run(case.ranks, shared, case)
    assert len({repr(x["work"]) for x in found}) == 1
    assert [sum(x["bytes"]) for x in found] == asked_of(case, found[0]["work"], found[0]["group"])


def asked_of(case: Case, work: list[tuple[list[int], list[Placement]]], group: int) -> list[int]:
    """Bytes that each rank has to send, row by row: keys and values, once for a key head; queries that move, and their
    results. `work`: the query heads of each pattern, and where it is computed; `group`: query heads on a key head."""
    entry = case.dtype.itemsize * case.batch
    sent = [0] * case.ranks
    for rank in range(case.ranks):
        keys = {
            (head // group, int(x))
            for heads, parts in work for part in parts for head in heads for x in positions(part.keys(rank))
        }  # fmt: skip
        for _, x in keys:
            owner = int(work[0][1][0].home.owner(np.array(x)))
            sent[owner] += (8 + 16) * entry * (owner != rank)
        for heads, parts in work:
            for part in parts:
                if part.move == "queries" or part.layout != part.home:
                    for x in positions(part.queries(rank)).tolist():
                        owner = int(part.home.owner(np.array(x)))
                        sent[owner] += 8 * entry * len(heads) * (owner != rank)
                        sent[rank] += (16 + 1) * entry * len(heads) * (owner != rank)
    return sent


def works_meanwhile(group: dist.ProcessGroup) -> list[str]:
    """What a rank does, in order, while keys are on their way."""
    seen: list[str] = []

    def noted(module: Any, name: str) -> None:
        original = getattr(module, name)
        setattr(module, name, lambda *a, **k: (seen.append(name), original(*a, **k))[1])

    for name in ("attended", "arrive"):
        noted(share, name)
    noted(context, "depart")
    parallel = ContextParallel(pidsl.compile(pidsl.window(2), "torch"), group, "contiguous")
    q, k = torch.ones(1, 4, 5, 8), torch.ones(1, 1, 5, 8)
    parallel(q, k, k)
    return seen


def test_own_keys_are_attended_while_others_are_on_their_way() -> None:
    first, second = fresh(2, works_meanwhile)
    assert first == ["depart", "attended", "arrive"]  # it needs none, and takes part
    assert second == ["depart", "attended", "arrive", "attended"]


@settings(RUNS, max_examples=15 * TIMES)
@given(testing.gates(depth=2) | testing.heads(depth=2), st.integers(1, 30), RANKS, AUTO, MOVES, st.booleans())
def test_gates_and_heads(of: Any, n: int, ranks: int, sharding: Any, moves: Any, given: bool) -> None:
    sends_what_was_asked(Case(repr(of), n, ranks, "zigzag" if given else sharding, moves if given else ()))


@settings(RUNS, max_examples=20 * TIMES)
@given(testing.terms(depth=2), testing.scores(), st.integers(1, 30), RANKS, AUTO, MOVES, st.booleans())
def test_scores(term: Any, score: Any, n: int, ranks: int, sharding: Any, moves: Any, given: bool) -> None:
    """Dropout too: a pair has the same fate on whichever rank it is computed."""
    run(ranks, shared, Case(repr(term), n, ranks, "zigzag" if given else sharding, moves if given else (), score))


@pytest.mark.parametrize(("gate", "affine"), [("head", False), ("element", False), (None, True), ("head", True)])
def test_outputs(gate: str | None, affine: bool) -> None:
    run(3, shared, Case("window(4) | stride(8) & causal", 37, 3, output_gate=gate, affine=affine))


@st.composite
def ids(draw: st.DrawFn, batch: int, n: int) -> list[list[int]]:
    """Runs of equal ids, each another one, some of them padding."""
    rows = []
    for _ in range(batch):
        lengths = np.diff([0, *sorted(draw(st.lists(st.integers(0, n), max_size=4))), n]).tolist()
        padding = draw(st.sets(st.integers(0, 4), max_size=1))
        rows.append([-1 if at in padding else at for at, length in enumerate(lengths) for _ in range(length)])
    return rows


@st.composite
def batches(draw: st.DrawFn, choose: bool = False) -> Case:
    """Documents that lie across ranks, with or without chosen blocks."""
    n = draw(st.integers(1, 36))
    term = draw(testing.choices(depth=2) if choose else testing.terms(depth=2, ring=True))
    confined = not choose or draw(st.booleans())
    made = draw(ids(2, n)) if confined else None
    score = draw(st.sampled_from([None, pidsl.score(dropout=0.3), pidsl.score(alibi=True)]))
    heads = draw(st.sampled_from([1, 2, 4]))
    text = repr(term & pidsl.documents) if confined else repr(term)
    return Case(text, n, draw(RANKS), draw(SHARED), score=score, ids=made, list_heads=heads)


@settings(RUNS, max_examples=25 * TIMES)
@given(batches())
def test_documents_across_ranks(case: Case) -> None:
    run(case.ranks, shared, case)


@settings(RUNS, max_examples=25 * TIMES)
@given(batches(choose=True))
def test_chosen_blocks(case: Case) -> None:
    run(case.ranks, shared, case)


@pytest.mark.parametrize(
    ("pattern", "more"),
    [
        ("stride(4) & causal", {"moves": ("keys", "classes", 4)}),
        ("window(5) & documents", {"ids": [[0] * 5 + [1] * 11]}),
    ],
)
def test_triton_interpreted(pattern: str, more: dict[str, Any]) -> None:
    run(2, shared, Case(pattern, 16, 2, "contiguous", dtype=torch.float32, batch=1, group=1, backend="triton", **more))
