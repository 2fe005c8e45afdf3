"""Triton programs on a table of sequences, interpreted: each against dense attention of its own, and by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pidsl import causal, compile, heads, keys, lags, neighborhood, pairs, queries, score, stride, window
from pidsl.codegen.choice.together import together
from pidsl.codegen.lower import lower
from pidsl.errors import TooHardError
from pidsl.language.heads import Heads
from pidsl.language.score import Score
from pidsl.language.terms import Ring, Term, walk
from pidsl.relation.frame import Frame
from pidsl.runtime.call.call import Call
from pidsl.runtime.call.segments import Segments
from pidsl.runtime.run_triton.program import TritonProgram
from pidsl.testing import terms

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")
NAN = float("nan")
WORDS = {
    "causal": causal, "global tokens": window(20, 20) | keys(0, 1) | queries(0, 1), "two layouts":
    window(9) | stride(4) & causal, "lags": lags(0, 1, 2, 30, 60), "grid": neighborhood((10, 10), 3),
    "classes": window(6).dilated(5), "rows of one class": queries(1, None, 7) | window(3), "columns of one class":
    keys(2, None, 9) & causal, "grid and keys": neighborhood((4, 8), 3) | keys(0, 2), "lists":
    pairs([(x, x * 3 % 5) for x in range(5)]).blocked(16),
}  # fmt: skip
SCORES = {
    "sinks": score(sinks=True), "slopes": score(alibi=True), "bias": score(bias=(-3, 5)), "temperature":
    score(temperature=True), "all": score(softcap=5.0, alibi=True, sinks=True, temperature=True), "dropout":
    score(dropout=0.3),
}  # fmt: skip


class One(NamedTuple):
    """A sequence."""

    rows: int
    keys: int
    offset: int = 0
    key_offset: int = 0


class Batch(NamedTuple):
    """Sequences of batch entries, with so many rows and keys of nobody before each, and behind the last one."""

    entries: Sequence[Sequence[One]]
    gap: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """Rows of q, and of k, in a batch entry."""
        lengths = [[(x.rows + self.gap, x.keys + self.gap) for x in entry] for entry in self.entries]
        return max(sum(n for n, _ in x) for x in lengths) + self.gap, max(sum(m for _, m in x) for x in lengths)

    def segments(self, **fields: Any) -> Segments:
        """The table, and what is known of it."""
        table, all_ = [], [x for entry in self.entries for x in entry]
        for b, entry in enumerate(self.entries):
            row = key = self.gap
            for x in entry:
                table.append([b, row, x.rows, x.offset, key, x.keys, x.key_offset, -1])
                row, key = row + x.rows + self.gap, key + x.keys + self.gap
        most_rows, most_keys = max(x.rows for x in all_), max(x.keys for x in all_)
        known = {
            "moved": any(x.key_offset for x in all_), "whole": not self.gap and len(self.entries) == 1, "stop": 1000,
            "square": all(x.rows == x.keys and x.offset == x.key_offset == 0 for x in all_),
        }  # fmt: skip
        n, m = self.sizes
        if len(self.entries) == 1:  # what is known of packed ones
            most_rows, most_keys = n, m
        return Segments(
            torch.tensor(table, dtype=torch.int32), most_rows, most_keys, sum(x.rows for x in all_),
            sum(x.keys for x in all_), **{**known, **fields},
        )  # fmt: skip


class Made(NamedTuple):
    """What a call is made with, and the gradients of its results; NaN where there is no sequence."""

    call: Call
    grad_out: Tensor
    grad_lse: Tensor


def made(batch: Batch, kv_heads: int = 1, group: int = 2, inputs: Mapping[str, Any] | None = None) -> Made:
    segments, (n, m), b, random = batch.segments(), batch.sizes, len(batch.entries), torch.Generator().manual_seed(3)

    def some(heads: int, rows: int, *columns: int) -> Tensor:
        return torch.randn(b, heads, rows, *columns, generator=random)

    q, grad_out, grad_lse = some(kv_heads * group, n, 8), some(kv_heads * group, n, 16), some(kv_heads * group, n)
    k, v = some(kv_heads, m, 8), some(kv_heads, m, 16)
    of_rows, of_keys = torch.ones(b, n, dtype=torch.bool), torch.ones(b, m, dtype=torch.bool)
    for x in segments.on_host:
        of_rows[x.batch, x.row : x.row + x.rows] = False
        of_keys[x.batch, x.key : x.key + x.keys] = False
    for x in (q, grad_out, grad_lse):
        x.transpose(1, 2)[of_rows] = NAN
    for x in (k, v):
        x.transpose(1, 2)[of_keys] = NAN
    return Made(Call(q, k, v, 0.4, segments, inputs or {}), grad_out, grad_lse)


def both(program: TritonProgram, given: Made) -> dict[str, Tensor]:
    """out, lse and the gradients; what is handed to the backward pass is NaN where there is no sequence."""
    out, lse = program.forward(given.call)
    nobody = given.grad_lse.isnan()
    assert (out[nobody] == 0).all() and (lse[nobody] == -torch.inf).all()
    kept = out.masked_fill(nobody[..., None], NAN), lse.masked_fill(nobody, NAN)
    learned = bool({"slopes", "bias"} & set(given.call.inputs))
    dq, dk, dv, of_inputs = program.backward(given.call, *kept, given.grad_out, given.grad_lse, learned)
    assert (dq[nobody] == 0).all()
    for x in (dk, dv):
        assert (x[given.call.k[..., 0].isnan()] == 0).all()
    return {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv, **of_inputs}


def assert_dense(
    pattern: Term | Heads, given: Made, found: dict[str, Tensor], of: Score | None = None, within: float = 1e-4
) -> None:
    """Every sequence is as if it were alone."""
    call, sums = given.call, dict[str, Tensor]()
    judge: Any = compile(pattern, "reference", of)
    numbers = {name: x.double() if isinstance(x, Tensor) else x for name, x in call.inputs.items()}
    for number, x in enumerate(call.positions.on_host):  # type: ignore[union-attr]
        rows, its_keys = slice(x.row, x.row + x.rows), slice(x.key, x.key + x.keys)
        own = [y[x.batch :][:1, :, z].double() for y, z in zip(call[:3], (rows, its_keys, its_keys), strict=True)]
        leaves = [y.expand(number + 1, -1, -1, -1).clone().requires_grad_() for y in own]  # for the bits of dropout
        learned = {y: z.clone().requires_grad_() for y, z in numbers.items() if isinstance(z, Tensor)}
        where = {"offset": x.offset, **({"key_offset": x.key_offset} if x.key_offset else {})}
        out, lse = judge(*leaves, **where, scale=call.scale, return_lse=True, **numbers | learned)
        out, lse = out[-1], lse[-1]
        grads = given.grad_out[x.batch, :, rows].double(), given.grad_lse[x.batch, :, rows].double()
        loss = (out * grads[0]).sum() + (lse.masked_fill(lse == -torch.inf, 0.0) * grads[1]).sum()
        all_ = [*leaves, *learned.values()]
        wanted = (
            torch.autograd.grad(loss, all_, materialize_grads=True) if loss.requires_grad else [0 * y for y in all_]
        )
        exact = {"out": out, "lse": lse, **{f"d{y}": z[-1] for y, z in zip("qkv", wanted[:3], strict=True)}}
        for name, y in exact.items():
            got = found[name][x.batch, :, its_keys if name in ("dk", "dv") else rows].double()
            torch.testing.assert_close(
                got, y.detach(), rtol=within, atol=within, msg=lambda t, z=(name, x): f"{z}: {t}"
            )
        for name, y in zip(learned, wanted[3:], strict=True):
            sums[name] = sums.get(name, 0.0) + y
    for name, y in sums.items():
        most = within * call.q.shape[2]
        torch.testing.assert_close(found[name].double(), y, rtol=most, atol=most, msg=lambda t, z=name: f"{z}: {t}")


def check(pattern: Term | Heads, batch: Batch, of: Score | None = None, **sizes: Any) -> None:
    moved = any(x.key_offset for entry in batch.entries for x in entry)
    if isinstance(pattern, Heads):
        plan: Any = together(pattern, lambda term, size: lower(term, "triton", 64, size, Frame(moved)))
        assert plan is not None
    else:
        plan = lower(pattern, frame=Frame(moved))
    program = TritonProgram(plan if of is None else replace(plan, score=of))
    given = made(batch, **sizes)
    assert_dense(pattern, given, both(program, given), of)


PACKED = Batch([[One(66, 66), One(1, 1), One(0, 0), One(33, 33)]])
OTHERS = Batch(
    [[One(5, 40, 35), One(20, 20, 0, 7), One(0, 20), One(3, 0, 2)], [One(1, 70, 69), One(30, 30, 3, 1)]], gap=3
)


@pytest.mark.parametrize("name", WORDS)
def test_every_walk(name: str) -> None:
    check(WORDS[name], PACKED)
    check(WORDS[name], OTHERS)


def sequences(longest: int = 70) -> st.SearchStrategy[Batch]:
    """Batches of few sequences, of any lengths and positions."""
    length = st.integers(0, longest) | st.sampled_from((0, 1))
    anywhere = st.builds(One, length, length, st.sampled_from((0, 1, 40)), st.sampled_from((0, 0, 13)))
    square = length.map(lambda n: One(n, n))
    at_end = st.tuples(length, length).map(lambda x: One(min(x), max(x), abs(x[0] - x[1])))
    entries = st.sampled_from((anywhere, square, at_end)).flatmap(lambda x: st.lists(x, min_size=1, max_size=4))
    return st.builds(Batch, st.lists(entries, min_size=1, max_size=2), st.sampled_from((0, 2)))


@settings(max_examples=settings.default.max_examples // 5)
@given(terms(2), sequences(40), st.sampled_from([(1, 1), (1, 3), (2, 2)]))
def test_random_terms(term: Term, batch: Batch, sizes: tuple[int, int]) -> None:
    assume(not any(isinstance(x, Ring) for x in walk(term)))
    try:
        check(term, batch, kv_heads=sizes[0], group=sizes[1])
    except TooHardError:
        assume(False)


@pytest.mark.parametrize(  # three are part of "all"
    "name",
    [pytest.param(x, marks=pytest.mark.slow if x in ("sinks", "slopes", "temperature") else []) for x in SCORES],
)
def test_scores(name: str) -> None:
    random, of = torch.Generator().manual_seed(1), SCORES[name]
    numbers = {x: torch.rand(4, generator=random) + 0.5 for x in ("sinks", "slopes", "temperature")}
    numbers |= {"bias": torch.randn(4, 9, generator=random), "seed": 2**40 + 7}
    inputs = {x: numbers[x] for x in of.parameters}
    check(window(9) | queries(1, None, 7), OTHERS, of, kv_heads=2, group=2, inputs=inputs)
    check(lags(0, 1, 5), PACKED, of, kv_heads=2, group=2, inputs=inputs)


def test_heads_of_several_patterns() -> None:
    check(heads([(1, window(7)), (1, causal)]), OTHERS, kv_heads=2, group=1)


@pytest.mark.parametrize("term", [causal, WORDS["global tokens"], WORDS["two layouts"], WORDS["grid"]], ids=repr)
def test_results_do_not_depend_on_neighbours(term: Term) -> None:
    program, own = TritonProgram(lower(term)), One(90, 90)
    found = []
    for others in ([], [One(13, 13)], [One(100, 100), One(0, 0)]):
        given = made(Batch([[own, *others]]))
        for x in (*given.call[:3], given.grad_out, given.grad_lse):
            x[:, :, :90] = torch.randn(x[:, :, :90].shape, generator=torch.Generator().manual_seed(5))
        found.append([y[:, :, :90] for y in both(program, given).values()])
    assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True))
