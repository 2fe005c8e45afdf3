"""The hand-written kernels by themselves, interpreted, and what programs take of them."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pidsl import causal, score, stride, window
from pidsl.codegen.emit_triton import excerpt, library
from pidsl.codegen.emit_triton.library import Kind, Walk, _mix, _part, _softcap, _softplus, add_parts, forward, join
from pidsl.codegen.emit_triton.masks import interval
from pidsl.codegen.emit_triton.source import triton_source
from pidsl.codegen.lower import lower
from pidsl.language.expr import And, Compare, Pred, Var, holds
from pidsl.runtime.call.dropout import mix
from pidsl.runtime.call.logits import log_softplus

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="these tests are for the interpreter")


@triton.jit
def _parts_of(out, first, stop, split, KIND: tl.constexpr):
    begin, end = _part(first, stop, split, KIND)
    tl.store(out, begin)
    tl.store(out + 1, end)


@interpreted
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_the_parts_of_a_loop_are_the_loop(first: int, stop: int, splits: int) -> None:
    found: list[int] = []
    for split in range(splits):
        ends = torch.zeros(2, dtype=torch.int64)
        _parts_of[(1,)](ends, first, stop, split, Kind(SPLITS=splits))
        found += range(*ends.tolist())
    assert found == list(range(first, stop))


@triton.jit
def _of_numbers(x, capped, rate, mixed, CAP: tl.constexpr):
    at = tl.arange(0, 64)
    y, slope = _softcap(tl.load(x + at), CAP)
    tl.store(capped + at, y)
    tl.store(rate + at, slope)
    tl.store(mixed + at, _mix(at.to(tl.uint32)).to(tl.int64))


@interpreted
def test_softcap_and_bits() -> None:
    x = torch.linspace(-90.0, 90.0, 64, dtype=torch.float64).requires_grad_()
    capped, rate, mixed = torch.zeros(64), torch.zeros(64), torch.zeros(64, dtype=torch.int64)
    _of_numbers[(1,)](x.detach().float(), capped, rate, mixed, 20.0)
    wanted = 20.0 * torch.tanh(x / 20.0)
    wanted.sum().backward()
    torch.testing.assert_close(capped.double(), wanted.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(rate.double(), x.grad, rtol=0, atol=1e-5)
    assert torch.equal(mixed, mix(torch.arange(64)))


@triton.jit
def _of_softplus(x, weights, rates):
    at = tl.arange(0, 256)
    low, rest, rate = _softplus(tl.load(x + at))
    tl.store(weights + at, low + tl.log2(rest))
    tl.store(rates + at, rate / rest)


@interpreted
def test_softplus() -> None:
    x = torch.cat([torch.linspace(-30.0, 30.0, 250), torch.tensor([-1e30, -1e3, -0.0, 1e3, 1e30, -3e-5])])
    weights, rates = torch.zeros(256), torch.zeros(256)
    _of_softplus[(1,)](x, weights, rates)
    wanted, bend = log_softplus(x.double() * math.log(2))
    torch.testing.assert_close(weights.double() * math.log(2), wanted, rtol=5e-7, atol=5e-7)
    torch.testing.assert_close(rates.double(), bend, rtol=5e-7, atol=0)


def of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@interpreted
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("sinks", [False, True])
def test_join(resumed: bool, sinks: bool) -> None:
    """Parts of rows 32 .. 71 of two heads of 80 rows, of which one has seen nothing in some part, or in none."""
    parts, part_lse, heads = of(3, 2, 40, 8), of(3, 2, 40), of(2)
    part_lse[0, :, 5] = part_lse[:, 1, 6] = -torch.inf
    parts[0, :, 5] = parts[:, 1, 6] = 0.0
    out, lse = of(2, 80, 8), of(2, 80)
    before, before_lse = out.clone(), lse.clone()
    join[(2 * 2,)](
        parts, part_lse, out, lse, out if resumed else None, heads if sinks else None, None, None,
        pairs=2, heads=2, tiles=2, first_pair=0, own_rows=40, target_first=32, target_rows=80,
        KIND=Kind(V=8, V_PAD=16, SPLITS=3),
    )  # fmt: skip
    states, values = [*part_lse], [*parts]
    if resumed:
        states, values = [*states, before_lse[:, 32:72]], [*values, before[:, 32:72]]
    elif sinks:
        states, values = [*states, heads[:, None].expand(2, 40)], [*values, torch.zeros(2, 40, 8)]
    weights = torch.stack(states).softmax(0).nan_to_num(0.0)
    torch.testing.assert_close(out[:, 32:72], (weights[..., None] * torch.stack(values)).sum(0))
    torch.testing.assert_close(lse[:, 32:72], torch.stack(states).logsumexp(0))
    for got, was in ((out, before), (lse, before_lse)):
        assert torch.equal(got[:, :32], was[:, :32]) and torch.equal(got[:, 72:], was[:, 72:])


@interpreted
@pytest.mark.parametrize("resumed", [False, True])
def test_add_parts(resumed: bool) -> None:
    parts, grad = of(4, 2, 50, 12), of(2, 60, 12)
    before = grad.clone()
    add_parts[(2 * 2,)](
        parts, grad, grad if resumed else None, None, None, pairs=2, heads=2, tiles=2, own_rows=50, target_first=10,
        target_rows=60, column=1, WIDTH=12, PAD=16, KIND=Kind(SPLITS=4),
    )  # fmt: skip
    torch.testing.assert_close(grad[:, 10:], parts.sum(0) + (before[:, 10:] if resumed else 0.0))
    assert torch.equal(grad[:, :10], before[:, :10])


@triton.jit
def _every_other(WALK: tl.constexpr, DO: tl.constexpr, task, state, split, t, c, a, KIND: tl.constexpr):
    """Every row meets the keys j, j + 2, ... of one tile: a walk by hand."""
    j = tl.arange(0, 16) * 2
    return DO[1](task, state, 0, 0, j, j < task[1], (j < task[1])[None, :], KIND)


@interpreted
def test_a_walk_by_hand() -> None:
    q, k, v, lse = of(1, 2, 20, 16), of(1, 1, 27, 16), of(1, 1, 27, 16), torch.zeros(1, 2, 20)
    out = torch.zeros_like(q)
    numbers: dict[str, Any] = dict.fromkeys(("offset", "key_offset", "first_tile", "first_pair", "own_first"), 0)
    strides = {f"{name}_{axis}": x.stride(i) for name, x in zip("qkv", (q, k, v)) for i, axis in enumerate("bhrd")}  # noqa: B905
    forward[(2 * 2,)](
        q, k, v, out, lse, **dict.fromkeys(("running", "table", "slopes", "sinks", "bias", "temperature", "seed")),
        **dict.fromkeys(("segments", "listed", "choices", "key_table", "held")), prefix=0, each=0, list_rows=0,
        list_group=0, scale=0.3, n=20, m=27, heads=2, group=2, tiles=2, classes=1, pairs=2, own_rows=20, **numbers, **strides,
        KIND=Kind(WALKS=(Walk(_every_other),), TILE=16, D=16, D_PAD=16, V=16, V_PAD=16),
    )  # fmt: skip
    logits = 0.3 * q @ k[:, :, ::2].mT
    torch.testing.assert_close(out, logits.softmax(-1) @ v[:, :, ::2])
    torch.testing.assert_close(lse, logits.logsumexp(-1))


# What programs take.


def test_branches_that_no_kernel_takes_are_left_out() -> None:
    plain = triton_source(lower(window(63)))
    absent = (
        "KIND.SCORE(",
        "KIND.DROPOUT(",
        "if KIND.LAGS",
        "slopes is not None",
        "KIND.CAREFUL",
        "_of_grads",
        "_softcap",
    )
    assert not any(word in plain for word in absent)
    scored = lower(window(63) | stride(64) & causal)
    for parts, words in (
        ({"softcap": 9.0}, ["_softcap"]),
        ({"alibi": True}, ["slope_sums +"]),
        ({"dropout": 0.5}, ["_mix"]),
    ):
        text = triton_source(replace(scored, score=score(**parts)))
        ast.parse(text)
        assert all(word in text for word in words)


def test_an_excerpt_takes_what_is_known() -> None:
    everything = [{**excerpt.fields_of("STAGE"), "LAGS": x, "TILES": "both"} for x in (False, True)]
    text = "\n\n\n".join(excerpt.excerpt({"_absorb"}, everything))
    assert "if KIND.LAGS:" in text  # some kernels do, some do not
    for kind, absent in zip(everything, ("tl.sum(query", "tl.dot(query"), strict=True):
        text = "\n\n\n".join(excerpt.excerpt({"_absorb"}, [kind]))
        assert "KIND.LAGS" not in text and absent not in text
        ast.parse(text)
    assert excerpt.functions() == {x for x in dir(library) if getattr(getattr(library, x), "fn", None) is not None}


A, B, N = Var("a"), Var("b"), Var("n")


@given(st.integers(-9, 9), st.integers(0, 20), st.sampled_from([">=", ">", "<=", "<", "=="]), st.booleans())
def test_bounds_of_a_mask_and_the_rest_are_the_mask(shift: int, n: int, op: Any, over_keys: bool) -> None:
    pred: Pred = And(And(Compare(op, A + shift, B), Compare("==", (A + B) % 3, 1)), Compare("<", A, N))
    own, swept = ("a", "b") if over_keys else ("b", "a")
    found = interval(pred, swept)
    for a in range(12):
        for b in range(12):
            env = {"a": a, "b": b, "n": n}
            kept = all(holds(Compare("<=", x, Var(swept)), env) for x in found.low)
            kept = kept and all(holds(Compare(">=", x, Var(swept)), env) for x in found.high)
            kept = kept and (found.own is None or holds(found.own, env)) and holds(found.rest, env)
            assert kept == holds(pred, env), (own, env)
