"""Plans for keys that start at a position: proved, and what they visit is the mask with `key_offset`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lists import listed
from test_plan import TERMS, assert_tells, visits
from test_plan_unions import documents, shuffled

from pidsl import causal, halo, keys, neighborhood, pairs, patterns, window
from pidsl.codegen.check import check_plan
from pidsl.codegen.choice.cost import BACKENDS
from pidsl.codegen.lower import lower
from pidsl.errors import PlanError, TooHardError
from pidsl.language.expr import holds
from pidsl.language.terms import Term
from pidsl.relation.build import needs_square
from pidsl.relation.frame import HOME, MOVED
from pidsl.testing import terms

# (n, m, offset, key_offset): queries before all keys, among them and behind them; keys that end before the queries
SIZES = [
    (7, 7, 0, 0),
    (9, 31, 22, 5),
    (20, 30, 3, 40),
    (33, 20, 0, 13),
    (5, 60, 90, 31),
    (70, 70, 64, 64),
    (1, 1, 8, 7),
]
MORE: list[Term] = [
    neighborhood((8, 8), 3), halo((6, 9), (2, 3), 1) | causal, neighborhood((5, 7), 3) - keys(3, 9),
    patterns.bigbird(56, block=4, random=2), pairs([(x, 3 * x % 41) for x in range(40)]) & causal,
    documents([3 + x % 7 for x in range(20)]), documents([5] * 16, causal), shuffled([2 + x % 5 for x in range(18)]),
]  # fmt: skip


def assert_visits(term: Term, backend: str, n: int, m: int, offset: int, key_offset: int) -> None:
    """What a plan visits, and what it says of keys and rows, is the mask."""
    plan = lower(term, backend, frame=MOVED)
    if needs_square(term):
        offset = max(offset, m - n)
        key_offset = n + offset - m
    expected = term.mask(n, m, offset, key_offset)
    for which in BACKENDS[backend].passes:
        found = visits(plan, n, m, offset, which, key_offset)
        np.testing.assert_array_equal(found, expected, err_msg=f"{which} {n, m, offset, key_offset}")
    lengths = {"n": n, "m": m, "offset": offset, "key_offset": key_offset}
    for said, name, axis in ((plan.attended_keys, "j", 0), (plan.attended_rows, "r", 1)):
        if said is not None:
            count = expected.shape[1 - axis]
            holding = np.broadcast_to(np.asarray(holds(said, {**lengths, name: np.arange(count)})), (count,))
            assert_tells(plan, holding, expected.any(axis=axis))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("term", TERMS + MORE, ids=lambda term: repr(term)[:40])
def test_plan_is_proved_and_visits_each_pair_once(term: Term, backend: str) -> None:
    check_plan(lower(term, backend, frame=MOVED))
    for sizes in SIZES:
        assert_visits(term, backend, *sizes)


@settings(max_examples=settings.default.max_examples // 2)
@given(
    term=terms(depth=3, grid=True) | listed(),
    backend=st.sampled_from(sorted(BACKENDS)),
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    offset=st.integers(0, 40),
    key_offset=st.integers(0, 60),
)
def test_random_terms(term: Term, backend: str, n: int, m: int, offset: int, key_offset: int) -> None:
    try:
        plan = lower(term, backend, frame=MOVED)
    except TooHardError:
        return
    with suppress(TooHardError):
        check_plan(plan, operations=500_000)
    assert_visits(term, backend, n, m, offset, key_offset)


@pytest.mark.parametrize("term", [window(3), keys(1, None, 3), patterns.bigbird(56, block=4, random=2)], ids=repr)
def test_plans_of_one_frame_are_not_those_of_the_other(term: Term) -> None:
    for frame, other in ((HOME, MOVED), (MOVED, HOME)):
        plan = lower(term, "torch", frame=frame)
        with pytest.raises(PlanError):
            check_plan(replace(lower(term, "torch", frame=other), frame=frame))
        assert ("key_offset" in str(plan)) == plan.frame.moved
