"""Steps of decoding by Triton programs: keys are found in slots and on pages, and nothing else there is read."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import causal, keys, lags, stride, window
from pidsl.errors import PidslError
from pidsl.language.terms import Ring, Term, walk
from pidsl.runtime.call.segments import Pages, Slots
from pidsl.testing import terms

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")
B, HQ, HKV, D = 2, 6, 2, 8


def poisoned(cache: Any) -> None:
    """NaN in all slots and pages that hold no key."""
    match cache.keys_at:
        case Slots(_, _, positions):
            for x in (cache.keys, cache.values):
                x.transpose(1, 2)[positions < 0] = float("nan")
        case Pages(table, _):
            free = torch.ones(cache.keys.shape[0], dtype=torch.bool)
            free[table[table >= 0].long()] = False
            for x in (cache.keys, cache.values):
                x[free] = float("nan")


def run(term: Term, steps: list[int], lookahead: int, page: int | None) -> None:
    """Steps against calls on all keys, every row by itself in float64."""
    kernel, judge = pidsl.compile(term, "triton"), pidsl.compile(term, "reference")
    cache = pidsl.Cache(kernel, B, HKV, D, torch.float32, "cpu", lookahead=lookahead, page_size=page)
    random, count = torch.Generator().manual_seed(0), sum(steps)
    q, k, v = (torch.randn(B, heads, count, D, generator=random) for heads in (HQ, HKV, HKV))
    done = 0
    for more in steps:
        cache.append(k[:, :, done : done + more], v[:, :, done : done + more])
        poisoned(cache)
        done += more
        rows = min(more, lookahead + 1)
        mine, all_ = q[:, :, done - rows : done], (x[:, :, :done].double() for x in (k, v))
        want: Any = judge(mine.double(), *all_, offset=done - rows, return_lse=True)
        found: Any = kernel.decode(mine, cache, return_lse=True)
        for x, y in zip(found, want, strict=True):
            torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-5)


WORDS = [
    causal, window(20), window(3) | keys(0, 4) & causal, stride(8) & causal, window(2) | lags(30),
    window(3) | keys(0, None, 5) & causal,
]  # fmt: skip


@pytest.mark.parametrize("page", [None, 4])
@pytest.mark.parametrize("term", WORDS, ids=repr)
def test_words(term: Term, page: int | None) -> None:
    run(term, [1, 130, 1, 2, 1], 1, page)


@settings(max_examples=settings.default.max_examples // 5)
@given(terms(2), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 2), st.sampled_from((None, 4)))
def test_random_terms(term: Term, steps: list[int], lookahead: int, page: int | None) -> None:
    assume(not any(isinstance(x, Ring) for x in walk(term)))
    try:
        run(term, steps, lookahead, page)
    except PidslError:
        assume(False)
