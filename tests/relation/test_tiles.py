"""Tile maps against dense masks, and the smallest pair in which two patterns differ."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pidsl
from pidsl import blocks, causal, documents, keys, lags, pairs, ring, stride, window
from pidsl.errors import PidslError, SizeError, TermError, TooHardError
from pidsl.relation import tiles as tiles_module
from pidsl.relation.tiles import tile_map
from pidsl.testing import grids, terms


def dense_tiles(mask, rows, columns):
    """Per tile: whether it has a pair, and whether it has all of those that exist."""
    n, m = mask.shape
    cut = [[mask[t : t + rows, c : c + columns] for c in range(0, m, columns)] for t in range(0, n, rows)]
    shape = -(-n // rows), -(-m // columns)
    return tuple(
        np.array([[ask(x) for x in row] for row in cut], dtype=bool).reshape(shape) for ask in (np.any, np.all)
    )


def check(term, n, m, offset, key_offset, rows, columns):
    found = tile_map(term, n, m, offset, key_offset, rows=rows, columns=columns)
    some, every = dense_tiles(term.mask(n, m, offset, key_offset), rows, columns)
    np.testing.assert_array_equal(found.some, some)
    np.testing.assert_array_equal(found.every, every)
    np.testing.assert_array_equal(found.partial, some & ~every)


sizes, places, tile = st.integers(0, 40), st.integers(0, 7) | st.just(0), st.integers(1, 9)


@given(terms(depth=3), sizes, sizes, places, places, tile, tile)
def test_tiles_are_those_of_the_mask(term, n, m, offset, key_offset, rows, columns):
    with contextlib.suppress(TooHardError):
        check(term, n, m, offset, key_offset, rows, columns)


@given(terms(depth=1, ring=True) | grids(), st.integers(0, 40), places, tile, tile)
def test_square_tiles(term, n, offset, rows, columns):
    with contextlib.suppress(TooHardError):
        check(term, n, n + offset, offset, 0, rows, columns)


@given(terms(depth=2), sizes, sizes, places, places, tile, tile)
def test_counted_tiles_are_the_same(term, n, m, offset, key_offset, rows, columns):
    """Where isl finds no images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles_module, "_images", lambda *_: TooHardError("", ""))
        with contextlib.suppress(TooHardError):
            check(term, n, m, offset, key_offset, rows, columns)


LIBRARY = [
    causal, window(1000), window(63) | stride(256) & causal, stride(100) & causal, blocks(100) & causal, blocks(512),
    window(64, 64) | keys(0, 64) | keys(0, 64).T, window(4).blocked(64), window(3).dilated(7), lags(256, 1000),
    pidsl.neighborhood((40, 25), (7, 5)), pidsl.halo((40, 25), 8, 3), ring(100), window(10) @ window(100),
    (window(5) | stride(64) & causal) ** 2, pairs([(3, 7), (200, 800)]), ~(window(31) | keys(0, None, 64)),
]  # fmt: skip


@pytest.mark.parametrize("term", LIBRARY, ids=repr)
@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (64, 48)])
def test_tiles_of_usual_size(term, rows, columns):
    check(term, 1000, 1000, 0, 0, rows, columns)


@pytest.mark.parametrize("term", LIBRARY[:4], ids=repr)
def test_lengths_beyond_64_bits(term):
    """One row and column of tiles more than fits in a number of 64 bits: what is asked of it is the same."""
    far = 1 << 62
    found = tile_map(term, 3 * far, rows=far, columns=far)
    assert found.some.shape == (3, 3)
    assert found.some[1, 1]
    assert found.some[0, 2] == (term == ~causal)


def test_tiles_that_cannot_be():
    with pytest.raises(SizeError, match="rows = 0"):
        tile_map(causal, 4, rows=0)
    with pytest.raises(SizeError, match="tiles"):
        tile_map(causal, 1 << 30, rows=1, columns=1)
    with pytest.raises(TermError, match="documents"):
        tile_map(causal & documents, 4)
    with pytest.raises(PidslError, match="ring"):
        tile_map(ring(3), 4, 5)


@given(terms(depth=2, ring=True), terms(depth=2, ring=True), st.none() | st.integers(0, 12))
def test_difference_is_the_first_of_the_masks(a, b, n):
    try:
        found = a.difference_at(b, n)
        equal = a.equals(b)
    except TooHardError:
        return
    if found is None:
        assert equal or n is not None or any(isinstance(t, pidsl.language.terms.Ring) for t in (a, b))
    lengths = [n] if n is not None else range(min(found.n, 40) if found is not None and found.n == found.m else 14)
    for smaller in lengths:
        apart = np.argwhere(a.mask(smaller) != b.mask(smaller))
        if n is None or found is None:
            assert not len(apart)
        else:
            assert (found.i, found.j) == tuple(apart[0])
    if found is not None:
        mine, others = (t.mask(found.n, found.m)[found.i, found.j] for t in (a, b))
        assert (mine, others) == (found.only_in == "self", found.only_in == "other")


def test_difference_where_lengths_differ():
    """Equal on squares, and not elsewhere."""
    found = keys(-1, None).difference_at(pidsl.where(lambda i, j, n, m: j == n - 1))
    assert (found.n, found.m) == (1, 2) and found.n != found.m
    assert "m = 2" in str(found)
    confined = (window(3) & documents).difference_at(causal & documents)
    assert (confined.n, confined.i, confined.j) == (5, 4, 0)
    with pytest.raises(TermError, match="documents"):
        causal.difference_at(causal & documents)
