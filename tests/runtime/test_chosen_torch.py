"""Blocks that calls list, on the torch backend: values and gradients, any lists, scores, what is not finite."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from dense import gradients, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import causal, chosen, full, keys, score, stride, window
from pidsl.errors import ArgumentError
from pidsl.language.terms import Term
from pidsl.relation.build import needs_square
from pidsl.runtime.run_torch import chosen as walk
from pidsl.testing import Inputs, assert_matches_dense, choices, inputs, lists, shapes

MIXED = window(5) & causal | keys(0, 2) & causal | chosen(4, 3, queries=2)
LATENT = chosen(1, 6, queries=1) | window(2) & causal
FAR = chosen(16, 2, queries=16, within=window(60) & causal) | stride(8) & causal
DOTTED = chosen(4, 8, queries=4, within=stride(3)) | window(0)  # no block is full
NOT_CAUSAL = chosen(4, 5, queries=8, within=full) - keys(0, 2)


@settings(deadline=None)
@given(st.data(), choices())
def test_random_terms_and_lists(data: st.DataObject, term: Term) -> None:
    square = needs_square(term.possible) or needs_square(term.forced)
    of = data.draw(shapes(40, square=square, offsets=(0, 0, 3, 16), key_offsets=(0, 0, 0, 5, 12)))
    call = data.draw(inputs(of))
    assert_matches_dense(term, replace(call, blocks=data.draw(lists(term, of))), backend="torch")


@settings(deadline=None, max_examples=25)
@given(st.data(), st.sampled_from((MIXED, LATENT, FAR, DOTTED, NOT_CAUSAL)))
def test_many_tiles_in_few_and_large_batches(data: st.DataObject, term: Term) -> None:
    of = data.draw(shapes(400, offsets=(0, 5, 64), key_offsets=(0, 0, 7)))
    call = data.draw(inputs(of, dtypes=("float32", "float64", "bfloat16")))
    patch = pytest.MonkeyPatch()
    with patch.context() as m:
        m.setattr(walk, "GATHERED", data.draw(st.sampled_from((1, 1 << 12, 1 << 20))))
        m.setattr(walk, "STEPS", data.draw(st.sampled_from((1, 8))))  # 1: lists of 5 and of 8 blocks in one group
        m.setattr(walk, "WAITING", data.draw(st.sampled_from((1, 1 << 12, 1 << 20))))
        assert_matches_dense(term, replace(call, blocks=data.draw(lists(term, of))), backend="torch")


SCORES = {
    "softcap": score(softcap=8.0), "alibi": score(alibi=True), "bias": score(bias=(0, 30)), "sinks": score(sinks=True),
    "temperature": score(temperature=True), "dropout": score(dropout=0.25),
    "all": score(softcap=8.0, alibi=True, bias=(-4, 30), sinks=True, temperature=True, dropout=0.25),
}  # fmt: skip


@pytest.mark.parametrize(("name", "term"), list(product(SCORES, (MIXED, LATENT))), ids=str)
def test_scores(name: str, term: Term) -> None:
    how = SCORES[name]
    q, k, v = tensors(45, 50, heads=4, kv_heads=2, batch=2, dtype=torch.float64)
    made = torch.Generator().manual_seed(3)
    given_inputs = {x: torch.rand(shape, generator=made, dtype=torch.float64) + 0.1 for x, shape in (
        ("slopes", [4]), ("bias", [4, 1 + (how.bias[1] - how.bias[0] if how.bias else 0)]), ("sinks", [4]),
        ("temperature", [4]),
    ) if x in how.parameters}  # fmt: skip
    numbers: dict[str, Any] = {"seed": 7} if how.dropout else {}
    kernel = pidsl.compile(term, "torch", how)
    for heads in (1, 2, 4):
        block, _, queries = (4, 3, 2) if term is MIXED else (1, 6, 1)
        rows, last = (5 + 44) // queries - 5 // queries + 1, 49 // block
        blocks = torch.randint(-1, last + 1, (2, heads, rows, 3), generator=made, dtype=torch.int32)
        assert_matches_dense(kernel, Inputs(q, k, v, 5, blocks=blocks), parameters=given_inputs | numbers)


def listed(rows: int, most: int, last: int, heads: int = 2, batch: int = 1) -> torch.Tensor:
    made = torch.Generator().manual_seed(1)
    return torch.randint(-1, last + 1, (batch, heads, rows, most), generator=made, dtype=torch.int32)


def all_of(term: Term, call: tuple[torch.Tensor, ...], blocks: torch.Tensor, **more: Any) -> list[torch.Tensor]:
    """out, lse and the gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in call]
    results = list(pidsl.compile(term, "torch")(*leaves, blocks=blocks, return_lse=True, **more))
    made = torch.Generator().manual_seed(2)
    seeds = [torch.randn(x.shape, generator=made) * x.detach().isfinite() for x in results]
    return [*results, *gradients(results, leaves, seeds)]


@pytest.mark.parametrize("term", [MIXED, LATENT], ids=str)
def test_the_order_of_a_list_and_repeats_change_no_bit(term: Term) -> None:
    call = tensors(90, 90, heads=4, kv_heads=2)
    block, budget, queries = (4, 3, 2) if term is MIXED else (1, 6, 1)
    blocks = listed(90 // queries, budget - 1, 89 // block)
    want = all_of(term, call, blocks)
    made = torch.Generator().manual_seed(5)
    order = torch.rand(blocks.shape, generator=made).argsort(-1)
    for other in (blocks, blocks.gather(-1, order), torch.cat([blocks, blocks[..., :1]], -1)):
        assert all(torch.equal(x, y) for x, y in zip(all_of(term, call, other), want, strict=True))


def test_a_list_of_the_future_leaks_nothing() -> None:
    """Every block is listed for every row, and only keys behind a row change."""
    term, n = window(3) & causal | chosen(8, 8, queries=8), 64
    q, k, v = tensors(n, n, heads=4, kv_heads=2)
    every = torch.arange(8, dtype=torch.int32).expand(1, 1, 8, 8)
    kernel = pidsl.compile(term, "torch")
    want = kernel(q, k, v, blocks=every)
    torch.testing.assert_close(want, pidsl.compile(causal, "torch")(q, k, v))
    for row in (0, 20, 39, 62):
        changed = [x.clone() for x in (k, v)]
        for x in changed:
            x[:, :, row + 1 :] = torch.nan
        assert torch.equal(kernel(q, *changed, blocks=every)[:, :, : row + 1], want[:, :, : row + 1])


@pytest.mark.parametrize("number", [-2, 23, 2**31 - 1, -(2**31)])
def test_what_is_out_of_range_raises_and_without_a_check_is_left_out(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = tensors(90, 90)
    blocks = listed(45, 3, 22)
    blocks[0, 1, 30, 1] = number
    with pytest.raises(ArgumentError, match=r"blocks\[0, 1, 30, 1\]"):
        all_of(MIXED, call, blocks)
    monkeypatch.setattr("pidsl.runtime.call.chosen.checked", lambda device: False)  # as in a graph that is recorded
    want = all_of(MIXED, call, torch.where(blocks == number, -1, blocks))
    assert all(torch.equal(x, y) for x, y in zip(all_of(MIXED, call, blocks), want, strict=True))


@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_pairs(where: str, value: float) -> None:
    """One key (row) that is not finite: rows that do not attend it are those of the call without it."""
    term = chosen(8, 3, queries=4) | window(1) & causal
    q, k, v = call = dict(zip("qkv", tensors(61, 61, heads=4, kv_heads=2), strict=True)).values()
    blocks = listed(16, 3, 7)
    want = all_of(term, tuple(call), blocks)
    bad = {"q": q.clone(), "k": k.clone(), "v": v.clone()}
    bad[where][:, 1, 20] = value
    got = all_of(term, tuple(bad.values()), blocks)
    mask = torch.stack([torch.from_numpy(term.mask(61, 61, blocks=blocks[0, h // 2].numpy()).copy()) for h in range(4)])
    touched = torch.zeros(4, 61, dtype=torch.bool)
    if where == "q":
        touched[1, 20] = True
    else:
        touched[2:] = mask[2:, :, 20]
    assert touched.any() and not touched.all()
    assert torch.equal(~got[0][0].isfinite().all(-1), touched)
    torch.testing.assert_close(got[0][0][~touched], want[0][0][~touched])
    clear = ~touched  # rows of q whose gradient meets nothing that is not finite
    torch.testing.assert_close(got[2][0][clear], want[2][0][clear])


def test_few_rows_behind_many_keys_touch_those_that_are_listed() -> None:
    """Decoding: all other keys are not read, and are not even numbers."""
    term, m = chosen(8, 3, queries=1) | window(3) & causal, 4000
    q, k, v = tensors(2, m, heads=4, kv_heads=2)
    k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    blocks = listed(2, 3, m // 8 - 1)
    mask = torch.stack([
        torch.from_numpy(term.mask(2, m, m - 2, blocks=blocks[0, h].numpy()).copy()).any(0) for h in range(2)
    ])  # fmt: skip
    want = all_of(term, (q, k, v), blocks, offset=m - 2)
    bad = [torch.where(mask[None, ..., None], x, torch.nan) for x in (k, v)]
    assert 0 < mask.sum() < 120
    got = all_of(term, (q, *bad), blocks, offset=m - 2)
    for x, y in zip(got[:2], want[:2], strict=True):
        torch.testing.assert_close(x, y)


def test_no_rows_no_keys_and_lists_without_columns() -> None:
    for n, m, width in ((0, 9, 3), (9, 0, 3), (9, 9, 0)):
        (q, k, v), rows = tensors(n, m), -(-n // 2)
        blocks = torch.full((1, 2, rows, width), -1, dtype=torch.int32)
        assert_matches_dense(MIXED, Inputs(q, k, v, 0, blocks=blocks), backend="torch")
