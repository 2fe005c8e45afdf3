"""What is launched for ragged calls: lists of tiles, parts of one size, and nothing new for another batch."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import causal, keys, stride, window
from pidsl.codegen.choice.targets import target
from pidsl.codegen.emit_triton.library import NUMBERS, list_tiles
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.walks import Lags
from pidsl.errors import TooHardError
from pidsl.language.terms import Ring, Term, walk
from pidsl.runtime.call.call import Call
from pidsl.runtime.call.segments import Pages, Segments
from pidsl.runtime.run_triton import ranges
from pidsl.runtime.run_triton.ahead import specialised
from pidsl.runtime.run_triton.attended import every_key, every_row
from pidsl.runtime.run_triton.program import TritonProgram
from pidsl.runtime.run_triton.sequences import BLOCK, Bounds, Tiles
from pidsl.testing import terms

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")
KINDS = [Tiles(16), Tiles(24, 5), Tiles(16, beside=3, moved=True), Tiles(16, beside=3, end=60, moved=True)]
SQUARE = Bounds(40, 40, 80, 80, moved=False, square=True, whole=True, stop=40, keys_at=None, apart=False)


def expected(tiles: Tiles, lengths: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(tile, class, sequence) of all tiles, by what `Tiles` says."""
    found = []
    for number, (length, first) in enumerate(lengths):
        first = first if tiles.moved else 0
        stop = first + length if tiles.end is None else min(first + length, tiles.end)
        count = max(-(-stop // tiles.size) - first // tiles.size, 0) * tiles.beside if length else 0
        found += [(t, c, number) for t in range(count) for c in range(min(length, tiles.classes))]
    return found


@interpreted
@given(
    st.lists(st.tuples(st.sampled_from((0, 1, 7, 100)), st.integers(0, 50)), min_size=1, max_size=5),
    st.sampled_from(KINDS),
    st.booleans(), st.booleans(),
)  # fmt: skip
@settings(max_examples=settings.default.max_examples // 3)
@example([(1100, 0), *[(3, 9)] * 66], Tiles(16), True, True)
@example([(1100, 0), *[(3, 9)] * 66], Tiles(16), False, True)
def test_tiles_that_exist(lengths: list[tuple[int, int]], tiles: Tiles, sort: bool, last: bool) -> None:
    table = torch.zeros(len(lengths), 8, dtype=torch.int32)
    table[:, 5:7] = torch.tensor(lengths)
    longest = max(n for n, _ in lengths)
    most = tiles.most(longest, from_0=False)
    room = tiles.most_of_all(len(lengths), sum(n for n, _ in lengths))
    listed = torch.full((max(room, 1), 4), -1, dtype=torch.int32)
    if most:
        list_tiles[(len(lengths) * -(-most // BLOCK),)](
            table, listed, len(lengths), tiles.classes, tiles.size, tiles.beside,
            2**31 - 1 if tiles.end is None else tiles.end, int(tiles.moved), 5, sort, last,
        )  # fmt: skip
    wanted = expected(tiles, lengths)
    assert len(wanted) <= room
    found = [tuple(x) for x in listed[:, :3].tolist()]
    assert set(found[len(wanted) :]) <= {(-1, -1, -1)}
    if sort:
        assert found[: len(wanted)] == sorted(wanted, key=lambda x: (-x[0] if last else x[0], x[2], x[1]))
    else:
        assert found[: len(wanted)] == sorted(wanted, key=lambda x: (x[2], -x[0] if last else x[0], x[1]))


@given(terms(3))
def test_what_all_lengths_attend(term: Term) -> None:
    assume(not any(isinstance(x, Ring) for x in walk(term)))
    try:
        plan = lower(term)
    except TooHardError:
        return
    found = every_key(plan, 40, 40, SQUARE), every_row(plan, 40, 40, SQUARE)
    tiled = not all(isinstance(x.forward, Lags) for x in plan.pieces)  # diagonals ask nothing of keys
    masks = [term.mask(n, n) for n in (1, 2, 3, 17, 40)]
    for axis, always in enumerate(found):
        assert not always or not tiled or all(mask.any(axis).all() for mask in masks)


def test_words_of_which_all_is_attended() -> None:
    for term in (causal, window(1023), window(3) | keys(0, 4) & causal, stride(8), window(2, 5)):
        plan = lower(term)
        assert every_key(plan, 0, 0, SQUARE) and every_row(plan, 0, 0, SQUARE)
        assert not every_key(plan, 0, 0, SQUARE._replace(square=False)) or plan.attended_keys is None
    assert not every_key(lower(keys(0, 100) & causal), 0, 0, SQUARE)


def packed(n: int, documents: int, device: str = "meta") -> Segments:
    ends = torch.linspace(0, n, documents + 1).int()
    table = torch.zeros(documents, 8, dtype=torch.int32)
    table[:, 1] = table[:, 4] = ends[:-1]
    table[:, 2] = table[:, 5] = ends.diff()
    return Segments(table.to(device), n, n, n, n, square=True, whole=True, stop=n)


def launched(program: TritonProgram, positions: Segments, shape: tuple[int, ...], of_k: tuple[int, ...]) -> list[Any]:
    """What is compiled for a call, forward and but for decoding backward, on tensors of which nothing can be read."""
    q, k = (torch.empty(x, dtype=torch.bfloat16, device="meta") for x in (shape, of_k))
    call = Call(q, k, k, 0.3, positions)
    launches, out, lse = program.forward_launches(call, target("cuda:90"))
    if positions.keys_at is None:
        launches += program.backward_launches(call, out, lse, out, lse, False, target("cuda:90"))[0]
    return [(x.kernel.fn.__name__, {name: kept(name, y) for name, y in x.arguments.items()}) for x in launches]


def kept(name: str, value: Any) -> Any:
    """What a kernel is compiled for of an argument."""
    constant = name in ("KIND", "WIDTH", "PAD", "SORTED", "LAST")
    return value if constant else specialised(value, constant=False, fixed=name in NUMBERS)


@pytest.mark.parametrize(
    "term", [causal, window(1023), window(63) | stride(16) & causal, keys(0, 1) | window(20)], ids=repr
)
def test_other_packings_compile_nothing(term: Term) -> None:
    program = TritonProgram(lower(term))
    kinds = [
        launched(program, packed(n, documents), (1, 8, n, 64), (1, 2, n, 64))
        for n, documents in ((4096, 16), (4096, 20), (4500, 16), (5003, 7))
    ]
    assert all(kind == kinds[0] for kind in kinds[1:])


@interpreted
def test_sixteen_packings_are_prepared_once() -> None:
    kernel, random = pidsl.compile(window(9), "triton"), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(48, 1, 8, generator=random).requires_grad_() for _ in range(3))
    program = pidsl.runtime.programs.compiled(
        window(9), "triton", pidsl.runtime.programs.kind_of("triton", q[None], v[None])
    )
    assert isinstance(program, TritonProgram)
    before = program._forward.cache_info().misses, program._backward.cache_info().misses
    for number in range(16):
        cuts = torch.randint(0, 49, (15,), generator=random).sort().values
        ends = torch.cat([torch.tensor([0]), cuts, torch.tensor([48])]).int()
        out = kernel.packed(q, k, v, ends)
        if number % 8 == 0:
            out.sum().backward()
    after = program._forward.cache_info().misses, program._backward.cache_info().misses
    assert all(y - x <= 1 for x, y in zip(before, after, strict=True))


def value(x: Any) -> Any:
    return getattr(x, "value", x)


def step(entries: int, tokens: int, page: int = 16) -> tuple[Segments, tuple[int, ...]]:
    """A step of decoding from pages."""
    pages = Pages(torch.empty(entries, tokens // page, dtype=torch.int32, device="meta"), page)
    table = torch.empty(entries, 8, dtype=torch.int32, device="meta")
    positions = Segments(table, 1, tokens, entries, entries * tokens, keys_at=pages, stop=tokens, apart=True)
    return positions, (entries * tokens // page, 8, page, 64)


@pytest.mark.parametrize(("term", "splits"), [(causal, 128), (window(255), 1), (window(8191), 8)], ids=repr)
def test_parts_are_of_one_size_and_no_more_than_there_is_to_visit(term: Term, splits: int) -> None:
    positions, of_k = step(2, 131072)
    found = launched(TritonProgram(lower(term)), positions, (2, 32, 1, 64), of_k)
    assert [x for x, _ in found] == ["forward", *["join"] * (splits > 1)]
    kind = found[0][1]["KIND"]
    assert (value(kind.SPLITS), value(kind.PART)) == (splits, 2 * ranges.LEAST if splits > 1 else 0)


def test_many_entries_fill_the_machine_unsplit() -> None:
    positions, of_k = step(64, 32768)
    assert [x for x, _ in launched(TritonProgram(lower(causal)), positions, (64, 32, 1, 64), of_k)] == ["forward"]


@interpreted
def test_steps_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of many lengths in parts: as each by itself, and the same bits whatever the others are."""
    for name in ("LEAST", "SHORT"):
        monkeypatch.setattr(ranges, name, 1)
    program, random = TritonProgram(lower(causal)), torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(4, heads, n, 16, generator=random) for heads, n in ((4, 2), (2, 700), (2, 700)))
    results: list[tuple[Tensor, Tensor]] = []
    for lengths, most in (((700, 300, 1, 0), 700), ((5, 300, 699, 700), 700), ((600, 300, 3, 2), 650)):
        table = torch.tensor([[b, max(2 - m, 0), min(m, 2), max(m - 2, 0), 0, m, 0, 0] for b, m in enumerate(lengths)])
        positions = Segments(table.int(), 2, most, 8, 4 * most, stop=most, apart=True)
        clean = [x.clone() for x in (k, v)]
        for b, m in enumerate(lengths):
            for x in clean:
                x[b, :, m:] = float("nan")
        call = Call(q, *clean, 0.25, positions)
        assert any("join" in x.kernel.fn.__name__ for x in program.forward_launches(call)[0])
        out, lse = program.forward(call)
        for b, m in enumerate(lengths):
            rows = min(m, 2)
            assert (out[b, :, : 2 - rows] == 0).all() and (lse[b, :, : 2 - rows] == -torch.inf).all()
            if m:
                judge: Any = pidsl.compile(causal, "reference")
                own = (x[b : b + 1, :, :m].double() for x in (k, v))
                want = judge(q[b : b + 1, :, 2 - rows :].double(), *own, offset=m - rows, scale=0.25, return_lse=True)
                torch.testing.assert_close(out[b : b + 1, :, 2 - rows :].double(), want[0], rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(lse[b : b + 1, :, 2 - rows :].double(), want[1], rtol=1e-5, atol=1e-5)
        results.append((out[1], lse[1]))
    assert all(torch.equal(x, y) for other in results[1:] for x, y in zip(results[0], other, strict=True))
