"""Blocks that calls list, on the Triton backend, interpreted: values and gradients, any lists, what is not finite."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from dense import gradients, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import causal, chosen, full, keys, score, window
from pidsl.codegen.lower import lower
from pidsl.errors import ArgumentError
from pidsl.language.terms import Term
from pidsl.relation.build import needs_square
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.run_triton.assembly import fixed
from pidsl.runtime.run_triton.program import TritonProgram
from pidsl.testing import Inputs, assert_matches_dense, choices, inputs, lists, shapes

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")

FEW = settings.default.max_examples // 10
MIXED = window(5) & causal | keys(0, 2) & causal | chosen(16, 3, queries=16)
LATENT = chosen(1, 20, queries=1) | window(2) & causal
ODD = chosen(20, 2, queries=12, within=window(40) & causal) | window(0)
NOT_CAUSAL = chosen(4, 5, queries=24, within=full) - keys(0, 2)
SIZES = {MIXED: (16, 3, 16), LATENT: (1, 20, 1), ODD: (20, 2, 12), NOT_CAUSAL: (4, 5, 24)}


@settings(deadline=None, max_examples=FEW)
@given(st.data(), choices())
def test_random_terms_and_lists(data: st.DataObject, term: Term) -> None:
    square = needs_square(term.possible) or needs_square(term.forced)
    of = data.draw(shapes(16, square=square, offsets=(0, 0, 3, 16), key_offsets=(0, 0, 0, 5, 12), head_dims=(16,)))
    call = data.draw(inputs(of, dtypes=("float32",)))
    assert_matches_dense(term, replace(call, blocks=data.draw(lists(term, of))), backend="triton", tolerance=1e-4)


@settings(deadline=None, max_examples=FEW)
@given(st.data(), st.sampled_from((MIXED, ODD, NOT_CAUSAL)))
def test_tiles_of_parts_of_blocks_and_of_many_blocks(data: st.DataObject, term: Term) -> None:
    of = data.draw(shapes(45, offsets=(0, 5, 64), key_offsets=(0, 0, 7), head_dims=(16,)))
    call = data.draw(inputs(of, dtypes=("float32", "bfloat16", "float16")))
    assert_matches_dense(term, replace(call, blocks=data.draw(lists(term, of))), backend="triton")


def listed(rows: int, most: int, last: int, heads: int = 1, batch: int = 1, seed: int = 1) -> torch.Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randint(-1, last + 1, (batch, heads, rows, most), generator=made, dtype=torch.int32)


def all_of(term: Term, call: tuple[torch.Tensor, ...], backend: str = "triton", **more: Any) -> list[torch.Tensor]:
    """out, lse and the gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in call]
    kernel = pidsl.compile(term, backend)  # type: ignore[call-overload]
    results = list(kernel(*leaves, return_lse=True, **more))
    made = torch.Generator().manual_seed(2)
    seeds = [torch.randn(x.shape, generator=made) * x.detach().isfinite() for x in results]
    return [*results, *gradients(results, leaves, seeds)]


@pytest.mark.parametrize("term", [MIXED, NOT_CAUSAL], ids=str)
def test_the_order_of_a_list_repeats_and_another_run_change_no_bit(term: Term) -> None:
    call = tensors(45, 45, heads=2, kv_heads=1)
    block, budget, queries = SIZES[term]
    blocks = listed(-(-45 // queries), budget - 1, 44 // block)
    want = all_of(term, call, blocks=blocks)
    order = torch.rand(blocks.shape, generator=torch.Generator().manual_seed(5)).argsort(-1)
    for other in (blocks, torch.cat([blocks.gather(-1, order), blocks[..., :1]], -1)):
        assert all(torch.equal(x, y) for x, y in zip(all_of(term, call, blocks=other), want, strict=True))


@pytest.mark.parametrize(("term", "heads"), [(MIXED, 1), (LATENT, 2), (ODD, 4)], ids=str)
def test_documents_and_entries_of_any_length(term: Term, heads: int) -> None:
    """Packed, and in a batch with rows of nobody, as the dense mask has it."""
    n = 6 if term is LATENT else 30
    q, k, v = tensors(n, n, heads=4, kv_heads=2)
    block, budget, queries = SIZES[term]
    ids = torch.zeros(1, n, dtype=torch.int64)
    ids[:, n // 3 :] = 1
    rows = -(-(n // 3) // queries) + -(-(n - n // 3) // queries)
    blocks = torch.full((1, heads, rows + 1, budget), 99, dtype=torch.int32)  # nobody reads the last row
    blocks[:, :, :rows] = listed(rows, budget, (n // 3 - 1) // block, heads)
    given_ = {"documents": ids, "blocks": blocks}
    for got, want in zip(*(all_of(term & pidsl.documents, (q, k, v), x, **given_) for x in ("triton", "reference"))):  # noqa: B905
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    lengths, call = torch.tensor([n, 0, n // 2]), [x.expand(3, -1, -1, -1).clone() for x in (q, k, v)]
    blocks = listed(-(-n // queries), budget, (n // 2 - 1) // block, heads, 3)
    blocks[1:, :, -(-(n // 2) // queries) :], blocks[1] = 99, 99
    given_ = {"lengths": lengths, "blocks": blocks}
    for got, want in zip(*(all_of(term, tuple(call), x, **given_) for x in ("triton", "reference"))):  # noqa: B905
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pages", [{}, {"page_size": 16}], ids=["derived", "paged"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_decoding_in_parts(pages: dict[str, int], heads: int) -> None:
    """One query of each entry, whose walk is cut, and all query heads of a key head in one tile where they can be."""
    term, total = chosen(16, 20, queries=16) | window(1) & causal, [500, 3]
    q, k, v = tensors(1, 500, heads=4, kv_heads=2, batch=2)
    kernel = pidsl.compile(term, "triton")
    cache = pidsl.Cache(kernel, 2, 2, 16, torch.float32, "cpu", **pages)  # type: ignore[arg-type]
    cache.append(k, v, lengths=torch.tensor(total))
    blocks = torch.full((2, heads, 1, 20), -1, dtype=torch.int32)
    for b, x in enumerate(total):
        blocks[b] = listed(1, 20, (x - 1) // 16, heads, seed=b)[0]
    got = kernel.decode(q, cache, blocks=blocks, return_lse=True)
    for b, x in enumerate(total):
        alone = q[b : b + 1], k[b : b + 1, :, :x], v[b : b + 1, :, :x]
        own = {"offset": x - 1, "blocks": blocks[b : b + 1], "return_lse": True}
        want = pidsl.compile(term, "reference")(*alone, **own)
        torch.testing.assert_close(tuple(y[b : b + 1] for y in got), want, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kernel(*alone, **own), want, atol=1e-4, rtol=1e-4)


def test_one_query_keeps_all_multiprocessors_busy_and_reads_keys_once_for_a_group() -> None:
    q, k = (
        torch.empty(1, heads, rows, 128, dtype=torch.bfloat16, device="meta") for heads, rows in ((32, 1), (8, 40000))
    )
    for heads, pack in ((1, 4), (8, 4), (32, 1)):
        blocks = torch.empty(1, heads, 1, 256, dtype=torch.int32, device="meta")
        program = TritonProgram(lower(chosen(64, 256), head_dim=128))
        launches, *_ = program.forward_launches(Call(q, k, k, 1.0, Positions(39999), {"blocks": blocks}))
        first, *_ = launches
        assert (fixed(first.arguments["KIND"].PACK), first.arguments["list_group"]) == (fixed(pack), 32 // heads)
        assert first.grid >= 2 * 132


def test_tokens_of_few_rows_share_tiles_with_their_group() -> None:
    """Where the static pieces have tiles of one head, those of the chosen blocks hold all heads of a key head."""
    q, k = (torch.empty(2, heads, 4096, 64, dtype=torch.bfloat16, device="meta") for heads in (8, 2))
    blocks = torch.empty(2, 2, 4096, 16, dtype=torch.int32, device="meta")
    program = TritonProgram(lower(chosen(64, 16, queries=1) | window(63) & causal))
    launches, *_ = program.forward_launches(Call(q, k, k, 1.0, Positions(), {"blocks": blocks}))
    packs = [getattr(x.arguments["KIND"].PACK, "value", x.arguments["KIND"].PACK) for x in launches]
    assert packs == [1, 4] and launches[1].grid == 2 * 2 * 4096


def test_a_list_of_the_future_leaks_nothing() -> None:
    """Every block is listed for every row, and only keys behind a row change."""
    term, n = window(3) & causal | chosen(8, 6, queries=8), 48
    q, k, v = tensors(n, n, heads=2, kv_heads=1)
    every = torch.arange(6, dtype=torch.int32).expand(1, 1, 6, 6)
    kernel = pidsl.compile(term, "triton")
    want = kernel(q, k, v, blocks=every)
    torch.testing.assert_close(want, pidsl.compile(causal, "torch")(q, k, v))
    for row in (0, 20, 39):
        changed = [torch.cat([x[:, :, : row + 1], 1e4 * torch.randn_like(x[:, :, row + 1 :])], 2) for x in (k, v)]
        assert torch.equal(kernel(q, *changed, blocks=every)[:, :, : row + 1], want[:, :, : row + 1])
    alone = pidsl.compile(chosen(8, 6, queries=8), "triton")
    first = torch.cat([v[:, :, :8], v[:, :, 8:] * torch.nan], 2)
    assert torch.equal(alone(q, k, first, blocks=every)[:, :, :8], alone(q, k, v, blocks=every)[:, :, :8])


@pytest.mark.parametrize("number", [3, -(2**31)])
def test_what_is_out_of_range_raises_and_without_a_check_is_left_out(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, blocks = tensors(45, 45), listed(3, 3, 2, heads=2)
    blocks[0, 1, 2, 1] = number
    with pytest.raises(ArgumentError, match=r"blocks\[0, 1, 2, 1\]"):
        all_of(MIXED, call, blocks=blocks)
    monkeypatch.setattr("pidsl.runtime.call.chosen.checked", lambda device: False)  # as in a graph that is recorded
    want = all_of(MIXED, call, blocks=torch.where(blocks == number, -1, blocks))
    assert all(torch.equal(x, y) for x, y in zip(all_of(MIXED, call, blocks=blocks), want, strict=True))


def test_keys_that_nobody_attends_may_be_anything() -> None:
    """In listed blocks and beside them, in the forward pass and backward."""
    term, n = chosen(32, 2, queries=8) | window(1) & causal, 40
    q, k, v = tensors(n, n, heads=2, kv_heads=1)
    blocks = torch.tensor([[-1], [0], [-1], [-1], [1]], dtype=torch.int32).view(1, 1, 5, 1)
    attended = torch.from_numpy(term.mask(n, n, blocks=blocks[0, 0].numpy()).any(0).copy())
    k, v = (torch.cat([x, x[:, :, :8]], 2) for x in (k, v))  # behind the last row
    attended = torch.cat([attended, torch.zeros(8, dtype=torch.bool)])
    want = all_of(term, (q, k, v), blocks=blocks)
    bad = [torch.where(attended[:, None], x, torch.nan) for x in (k, v)]
    assert 8 <= (~attended).sum() < 40
    for got, plain in zip(all_of(term, (q, *bad), blocks=blocks), want, strict=True):
        torch.testing.assert_close(got, plain)


def test_scores_beside_chosen_blocks() -> None:
    how = score(softcap=8.0, alibi=True, bias=(-4, 30), sinks=True, temperature=True, dropout=0.25)
    q, k, v = tensors(30, 35, heads=4, kv_heads=2, batch=2)
    made = torch.Generator().manual_seed(3)
    shapes_ = {"slopes": [4], "bias": [4, 35], "sinks": [4], "temperature": [4]}
    parameters = {x: torch.rand(shape, generator=made) + 0.1 for x, shape in shapes_.items()}
    kernel = pidsl.compile(MIXED, "triton", how)
    call = Inputs(q, k, v, 5, blocks=listed(3, 3, 2, 2, 2))
    assert_matches_dense(kernel, call, parameters={**parameters, "seed": 7}, tolerance=1e-4)
