"""Words of grids: neighbourhoods against a definition of their own, borders, wrong sizes, relations, plans, kernels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import Term, TermError, halo, neighborhood, parse
from pidsl.testing import grids, lengths


def window_on(axis: range, at: int, window: int, stride: int, causal: bool) -> set[int]:
    """Keys of the token `at` of a class (positions `axis`): of all full windows the one that starts nearest to
    where the leader wants it; causal: from the last token of the group backwards, without what follows `at`."""
    t = axis.index(at)
    group = range(t - t % stride, t - t % stride + stride)
    if causal:
        last = min(group[-1], len(axis) - 1)
        return {axis[s] for s in range(max(0, last - window + 1), t + 1)}
    leader = min(group[stride // 2], len(axis) - 1)
    starts = range(max(1, len(axis) - window + 1))
    start = min(starts, key=lambda s: abs(s - (leader - window // 2)))
    return set(axis[start : start + window])


@given(data=st.data())
@settings(max_examples=2 * settings.default.max_examples)
def test_neighborhood_is_the_nearest_window(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    window = tuple(data.draw(st.integers(1, length + 1)) for length in shape)
    stride = tuple(data.draw(st.integers(1, size)) for size in window)
    dilation = tuple(data.draw(st.integers(1, 3)) for _ in shape)
    causal = tuple(data.draw(st.booleans()) for _ in shape)
    mask = neighborhood(shape, window, stride, dilation, causal).mask(prod(shape))
    for i, query in enumerate(np.ndindex(*shape)):
        near = [
            window_on(range(y % step, length, step), y, size, group, flag)
            for y, length, step, size, group, flag in zip(query, shape, dilation, window, stride, causal, strict=True)
        ]
        keys = [all(u in found for u, found in zip(key, near, strict=True)) for key in np.ndindex(*shape)]
        assert mask[i].tolist() == keys


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 4))
def test_halo_is_what_blocks_see(length: int, block: int, by: int) -> None:
    mask = halo(length, block, by).mask(length)
    for first in range(0, length, block):
        keys = set(range(max(0, first - by), min(length, first + block + by)))
        for i in range(first, min(length, first + block)):
            assert set(np.flatnonzero(mask[i])) == keys


@pytest.mark.parametrize(("height", "width", "dh", "dw"), [(9, 7, 2, 1), (5, 8, 2, 3), (6, 6, 0, 1)])
def test_freeswim_keeps_every_window_whole(height: int, width: int, dh: int, dw: int) -> None:
    frames, tokens = 2, 2 * height * width
    mask = neighborhood((frames, height, width), (frames, 2 * dh + 1, 2 * dw + 1)).mask(tokens)
    assert (mask.sum(1) == frames * (2 * dh + 1) * (2 * dw + 1)).all()
    for i, (_, h, w) in enumerate(np.ndindex(frames, height, width)):
        h0, w0 = min(max(h - dh, 0), height - 1 - 2 * dh), min(max(w - dw, 0), width - 1 - 2 * dw)
        keys = [h0 <= y <= h0 + 2 * dh and w0 <= x <= w0 + 2 * dw for _, y, x in np.ndindex(frames, height, width)]
        assert mask[i].tolist() == keys


def test_borders_meet_in_the_middle() -> None:
    clamped, cut = (neighborhood((9, 8), 5, border=border) for border in ("clamp", "cut"))
    assert cut <= clamped
    assert not clamped <= cut
    degrees = cut.degree(72).reshape(9, 8)
    assert degrees[0, 0] == 9
    assert degrees[4, 4] == 25
    assert (clamped.degree(72) == 25).all()
    assert neighborhood(16, 4, stride=4).equals(pidsl.blocks(4) & pidsl.keys(0, 16) & pidsl.queries(0, 16))
    assert halo((4, 6), (2, 3), 0).equals(neighborhood((4, 6), (2, 3), stride=(2, 3)))
    assert neighborhood((4, 6), 9).equals(halo((4, 6), 6, 0))


@given(grids(), lengths(40), lengths(40))
@settings(max_examples=2 * settings.default.max_examples)
def test_relation_counts_what_the_mask_has(term: Term, n: int, m: int) -> None:
    assert term.degree(n, m).tolist() == term.mask(n, m).sum(1).tolist()


@given(grids())
def test_source_and_back(term: Term) -> None:
    assert parse(repr(term)) == term
    assert not term.symbols
    assert (term.T | pidsl.window(pidsl.symbols("k"))).bind(k=1) == term.T | pidsl.window(1)


def test_printing_is_short() -> None:
    term = neighborhood([4, 6], [3, 3], stride=(1, 1), dilation=(2, 1), causal=(True, True), border="cut")
    assert repr(term) == "neighborhood((4, 6), 3, dilation=(2, 1), causal=True, border='cut')"
    assert repr(neighborhood((9,), 3)) == "neighborhood(9, 3)"
    assert repr(halo((4, 6), (2, 3), 1)) == "halo((4, 6), (2, 3), 1)"
    assert parse("neighborhood((4, 6), 3, 1, 1, (True, False), border='cut')  # a comment").mask(3).sum() == 7
    assert parse("halo(block=2, shape=(4, 6), halo=1)") == halo((4, 6), 2, 1)


k = pidsl.symbols("k")
WRONG: list[tuple[Any, str]] = [
    (lambda: neighborhood((), 3), "one to three axes"),
    (lambda: neighborhood((2, 2, 2, 2), 3), "one to three axes"),
    (lambda: neighborhood((4, 4), (3, 3, 3)), "an integer, or a tuple of two of them"),
    (lambda: neighborhood((4, 0), 3), "an integer >= 1"),
    (lambda: neighborhood(4, 2.0), "window = 2.0 (float)"),
    (lambda: neighborhood((4, 4), 3, stride=4), "1 <= stride <= window = 3"),
    (lambda: neighborhood(k, 3), "grids are fixed"),
    (lambda: neighborhood(9, k + 1), "grids are fixed"),
    (lambda: neighborhood(9, 3, causal=1), "True or False"),  # type: ignore[arg-type]
    (lambda: neighborhood((9, 9), 3, causal=(True,)), "a tuple of two of them"),
    (lambda: neighborhood(9, 3, border="wrap"), '"clamp"'),  # type: ignore[arg-type]
    (lambda: neighborhood((1 << 16, 1 << 16), 3), "fewer than 2**31 tokens"),
    (lambda: halo(9, 0, 1), "an integer >= 1"),
    (lambda: halo(9, 2, -1), "an integer >= 0"),
    (lambda: parse("neighborhood((4, k), 3)"), "grids are fixed"),
    (lambda: parse("neighborhood((4, 4))"), "a shape and a window"),
    (lambda: parse("halo((4, 4), 3, 2, 1)"), "at most 3: shape, block, halo"),
    (lambda: parse("halo((4, 4), 3, block=2)"), "at most once"),
    (lambda: parse("halo"), "without its arguments"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_sizes(make: Any, message: str) -> None:
    with pytest.raises((TermError, pidsl.ParseError)) as caught:
        make()
    assert message in str(caught.value)


def test_large_grids_are_quick() -> None:
    term = neighborhood((1 << 10, 1 << 10), 7)
    assert term.mask(2, 6).sum() == 12
    assert term.equals(parse(repr(term)))
