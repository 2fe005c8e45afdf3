"""Passes on ranges of positions: in turn on a few pairs at a time, in parts that are merged, heads packed in a tile."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import dense, gradients, tensors
from torch import Tensor

from pidsl import causal, empty, full, keys, lags, neighborhood, pairs, queries, score, stride, window
from pidsl.codegen.choice.targets import target
from pidsl.codegen.lower import lower
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.run_triton import assembly, ranges, sweeps
from pidsl.runtime.run_triton.launch import Launch
from pidsl.runtime.run_triton.prepared import Facts, facts
from pidsl.runtime.run_triton.program import TritonProgram

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")
GLOBAL = window(20, 20) | keys(0, 1) | queries(0, 1)
PI = window(9) | stride(4) & causal
TERMS = {
    "causal": causal, "full": full, "global tokens": GLOBAL, "two layouts": PI, "lags": lags(0, 1, 2, 30, 60),
    "band and lags": window(4) | lags(40, 80), "grid": neighborhood((10, 10), 3), "classes": window(6).dilated(5),
    "rows of one class": queries(1, None, 7) | window(3), "columns of one class": keys(2, None, 9) & causal,
    "grid and keys": neighborhood((8, 8), 3) | keys(0, 2),
}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A GPU for which small calls are large: walks of two tiles are cut, and few pairs fit into the cache."""
    monkeypatch.setenv("PIDSL_CACHE", str(tmp_path))
    gpu = replace(target("cuda:90"), multiprocessors=3, l2=1 << 16, descriptors=False)
    monkeypatch.setattr(assembly, "target_of", lambda device: gpu)
    monkeypatch.setattr(ranges, "LEAST", 1)
    monkeypatch.setattr(ranges, "SHORT", 1)
    monkeypatch.setattr(ranges, "LAUNCH", 0)
    monkeypatch.setattr(ranges, "PROGRAMS", 1)
    monkeypatch.setattr(sweeps, "PARTS", 1 << 15)


def both(made: TritonProgram, call: Call, seeds: list[Tensor]) -> list[Tensor]:
    """out, lse and the gradients of q, k and v."""
    out, lse = made.forward(call)
    found = made.backward(call, out, lse, seeds[0], seeds[1], False)
    return [out, lse, *found[:3]]


def launches(made: TritonProgram, call: Call) -> list[Launch]:
    """All of the forward pass, and those of the backward pass after a mark."""
    forward, out, lse = made.forward_launches(call)
    return [*forward, *made.backward_launches(call, out, lse, out, lse, False)[0]]


@interpreted
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in TERMS), ("two layouts", torch.float16)]
)
def test_against_dense_attention(name: str, dtype: torch.dtype) -> None:
    term, made = TERMS[name], TritonProgram(lower(TERMS[name]))
    several = name == "two layouts"
    for n, m, offset in ((140, 140, 0), *[(2, 140, 70)] * several):
        q, k, v = tensors(n, m, d=8, dv=8, heads=4 if several else 2, kv_heads=2 if several else 1, dtype=dtype)
        leaves = [x.double().requires_grad_() for x in (q, k, v)]
        out, lse = dense(term, *leaves, 0.3, offset)
        some = lse.isfinite()
        seeds = [torch.randn_like(out).to(dtype), torch.randn_like(lse).float()]
        loss = [(out * seeds[0]).sum() + (lse.masked_fill(~some, 0.0) * seeds[1]).sum()]
        expected = [out, lse, *gradients(loss, leaves, [torch.ones(())])]
        call = Call(q, k, v, 0.3, Positions(offset))
        found = both(made, call, seeds)
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 6e-2}
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x.double(), y.detach(), **tolerance)
        if n < m:
            assert all(torch.equal(x, y) for x, y in zip(found, both(made, call, seeds), strict=True))


def called(made: TritonProgram, *shape: int, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    """What is launched for n, m, query heads, key heads of a batch entry: the name of the kernel, its arguments."""
    n, m, heads, kv_heads = shape
    q, k, v = (x.to("meta") for x in tensors(n, m, heads=heads, kv_heads=kv_heads, dtype=torch.bfloat16))
    found = []
    for launch in launches(made, Call(q, k, v, 0.3, **options)):
        kernel = getattr(launch.kernel, "fn", launch.kernel)
        found.append((kernel.__name__, {"grid": launch.grid, **launch.arguments}))
    return found


@pytest.mark.usefixtures("small")
def test_a_split_walk() -> None:
    found = called(TritonProgram(lower(GLOBAL)), 4000, 4000, 2, 2)
    first, second, *_, plain = [x for name, x in found if name == "forward"]
    kind = second["KIND"]
    rows = first["own_rows"]
    assert first["own_first"] == 0 and rows in (64, 128) and kind.SPLITS > 1
    merged = next(x for name, x in found if name == "join")
    assert merged["KIND"].SPLITS == 1 + kind.SPLITS and merged["own_rows"] == rows
    assert merged["parts"].shape == (1 + kind.SPLITS, merged["pairs"], rows, 16)
    assert plain["first_tile"] == 1 and plain["own_rows"] == 4000 and plain["running"] is None
    assert [name for name, _ in found].count("add_parts") >= 2


@pytest.mark.usefixtures("small")
def test_what_is_handed_on_is_small_and_the_last_stage_writes_the_result() -> None:
    found = called(TritonProgram(lower(PI)), 150, 150, 8, 8)
    stages = [x for name, x in found if name == "forward"]
    assert len(stages) > 2 and all(x["pairs"] < 8 for x in stages)
    assert [x["first_pair"] for x in stages[::2]] == [x["first_pair"] for x in stages[1::2]]
    for first, last in zip(stages[::2], stages[1::2], strict=True):
        assert first["running"] is None and last["running"].data_ptr() == first["out"].data_ptr()
        assert first["out"].dtype == torch.float32 and last["out"].dtype == torch.bfloat16
        assert first["out"].shape[1] == stages[0]["pairs"]


@pytest.mark.parametrize(("term", "stages"), [(window(63), 1), (neighborhood((16, 16), 3), 1), (PI, 2)], ids=repr)
def test_nothing_is_filled(term: Term, stages: int) -> None:
    found = called(TritonProgram(lower(term)), 256, 256, 2, 2)
    assert [name for name, _ in found].count("forward") == stages and not {"join", "add_parts"} & {x for x, _ in found}
    assert all(x["running"] is None for _, x in found[:1])


def test_grids_that_end_before_the_rows_do() -> None:
    made = TritonProgram(lower(neighborhood((8, 8), 3)))
    assert [name for name, _ in called(made, 64, 64, 2, 2)] == ["forward", "row_statistics", "grad_query", "grad_key"]
    found = [name for name, _ in called(made, 70, 70, 2, 2)]
    assert found == ["join", "forward", "row_statistics", "add_parts", "grad_query", *["add_parts"] * 2, "grad_key"]


def test_heads_with_one_key_head_share_a_tile() -> None:
    made = TritonProgram(lower(causal))
    found = called(made, 1, 2000, 12, 4, positions=Positions(1999))[0][1]
    assert (found["KIND"].PACK, found["pairs"]) == (4, 4)
    assert called(made, 2000, 2000, 12, 4)[0][1]["KIND"].PACK == 1
    scored = TritonProgram(replace(lower(causal), score=score(sinks=True)))
    assert called(scored, 1, 2000, 12, 4)[0][1]["KIND"].PACK == 1


def test_one_query_against_many_keys() -> None:
    found = called(TritonProgram(lower(causal)), 1, 32768, 32, 8, positions=Positions(32767))
    assert found[0][1]["grid"] >= 264 and found[0][1]["pairs"] == 8 and found[1][0] == "join"


def test_few_classes_of_few_rows() -> None:
    found = called(TritonProgram(lower(stride(64))), 5, 4000, 2, 2)
    assert [x["classes"] for name, x in found if name == "forward"] == [5]
    assert [x["grid"] for name, x in found if name == "forward"] == [10]


@interpreted
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("term", [GLOBAL, PI, empty, queries(1, None, 7), causal], ids=repr)
def test_sinks_count_once(term: Term) -> None:
    made, sinks = TritonProgram(replace(lower(term), score=score(sinks=True))), torch.tensor([0.5, -1.0])
    q, k, v = tensors(140, 140, d=8, dv=8)
    out, lse = made.forward(Call(q, k, v, 0.25, inputs={"sinks": sinks}))
    plain, log = dense(term, q, k, v, 0.25)
    total = torch.logaddexp(log, sinks.double()[:, None].expand(log.shape))
    torch.testing.assert_close(lse.double(), total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.double(), plain * (log - total).exp()[..., None], rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.usefixtures("small")
def test_lists() -> None:
    term = pairs([(x, x * 7 % 31) for x in range(31)]).blocked(64)
    q, k, v = tensors(200, 200, heads=1, kv_heads=1)
    out, lse = TritonProgram(lower(term)).forward(Call(q, k, v, 0.25))
    expected = dense(term, q, k, v, 0.25)
    torch.testing.assert_close(out.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse.double(), expected[1], rtol=1e-5, atol=1e-5)


@interpreted
@pytest.mark.parametrize("term", [causal, stride(7), PI, window(6).dilated(5)], ids=repr)
def test_tensor_descriptors_read_the_same(term: Term, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "LONG", 0)
    q, k, v = tensors(150, 150, d=24)
    found = []
    for described in (False, True):
        monkeypatch.setattr(assembly, "target_of", lambda _, x=described: replace(target("cuda:90"), descriptors=x))
        made, call = TritonProgram(lower(term)), Call(q, k, v, 0.25)
        assert {x.arguments["KIND"].TMA for x in made.forward_launches(call)[0]} == {described}
        found.append(both(made, call, [v, v[..., 0].float()]))
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_what_descriptors_cannot_describe() -> None:
    x = torch.empty(1, 2, 64, 32, dtype=torch.bfloat16)
    assert Facts(*facts(x)).describable and Facts(*facts(x.transpose(1, 2).contiguous().transpose(1, 2))).describable
    for other in (x.mT, x[..., 4:], torch.empty(1, 2, 64, 36, dtype=x.dtype)[..., :32], x[..., ::2]):
        assert not Facts(*facts(other)).describable
