"""Which rank keeps which key: every key is on one rank, and the live ones are spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pidsl import blocks, causal, keys, lags, stride, window
from pidsl.distributed.running.dealt import Dealt, dealt
from pidsl.relation.lives import FOREVER, proved_lives

N = 40


@given(st.integers(1, 8), st.integers(1, 9))
def test_every_key_is_on_one_rank(ranks, block):
    shares = Dealt(ranks, block)
    masks = np.stack([shares.kept_by(rank).mask(N) for rank in range(ranks)])
    assert (masks.sum(0) == 1).all()
    assert (masks.argmax(0) == shares.owner(np.arange(N))).all()


@pytest.mark.parametrize("ranks", [2, 4, 6, 8])
@pytest.mark.parametrize(
    ("term", "most"),
    [
        (causal, 1.01),
        (window(4095), 1.01),
        ((window(4095) | keys(0, 4)) & causal, 1.01),
        (window(63) | lags(1024), 1.01),
        (stride(64) & causal, 1.01),
        (blocks(1024) & causal, 1.01),
        ((window(63) | keys(0, None, 64)) & causal, 1.2),
        ((window(63) | keys(63, None, 64)) & causal, 1.2),
        ((window(63) | keys(0, None, 100)) & causal, 1.2),
        (window(3).dilated(64), 1.01),
    ],
)
@pytest.mark.parametrize("page", [1, 16])
def test_live_keys_are_spread(term, ranks, most, page):
    tokens = 100_000
    shares = dealt((term,), ranks, page, tokens=tokens)
    assert shares.block % page == 0
    at = np.arange(tokens)
    life = proved_lives((term,)).at(at)
    live = at[(life == FOREVER) | (at + life >= tokens - 1)]
    counts = np.bincount(shares.owner(live), minlength=ranks)
    assert counts.max() <= most * counts.mean() + page
