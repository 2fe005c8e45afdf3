"""Lives of keys and slots of a cache, against masks; and proofs, which a changed number makes fail."""

import itertools
import random
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import pidsl
from pidsl import Term, blocks, causal, keys, lags, patterns, stride, where, window
from pidsl.errors import TooHardError
from pidsl.relation.lives import ALL_FOREVER, FOREVER, NEVER, Lives, LivesProof, asked, lives, outlived, proved_lives
from pidsl.relation.slots import GROWS, Room, SlotFunction, slots
from pidsl.testing import terms

N = 96  # tokens of the masks
SHORT = 44  # of random patterns
SERVED = {
    "window": window(12),
    "sinks": (window(7) | keys(0, 4)) & causal,
    "comb": (window(7) | keys(0, None, 8)) & causal,
    "phase": (window(5) | keys(3, None, 6)) & causal,
    "single skip": window(3) | lags(20),
    "chunked": blocks(8) & causal,
    "dilated": window(3).dilated(4),
    "stride": (window(2) | stride(16)) & causal,
    "power": patterns.power_attention(64, block=2, window=2),
    "mixed": window(3) | window(15) & keys(0, None, 4),
    "pi": patterns.pi_attention(3, 8, skip="comb"),
    "fixed": patterns.sparse_fixed(8, 2),
    "from the end": window(2) | keys(-4, None) & causal,
    "ring": pidsl.ring(3),
    "pairs": lags(0) | pidsl.pairs([(40, 3), (9, 7)]),
    "never": lags(0) & keys(0, None, 3),
    "two sides": window(2, 3),
    "growing": where(lambda i, j: (j <= i) & (i <= 2 * j)),
    "everything": pidsl.full,
    "nothing": pidsl.empty,
}
FEWEST = {  # slots after many tokens
    "window": 13, "sinks": 12, "single skip": 21, "chunked": 8, "dilated": 13, "mixed": 3 + 4, "ring": 7, "never": 1,
    "nothing": 0, "two sides": 3, "from the end": 4,
}  # fmt: skip


@lru_cache
def ever(term: Term, most: int) -> np.ndarray:
    """bool [i, j]: i attends j at some length up to `most`."""
    found = np.zeros((most, most), dtype=np.bool_)
    for n in range(1, most + 1):
        found[:n, :n] |= term.mask(n)
    return found


def live(term: Term, tokens: int, lookahead: int, most: int = N) -> np.ndarray:
    """The keys below `tokens` that the masks say some row from `tokens - 1 - lookahead` on attends."""
    return np.flatnonzero(ever(term, most)[max(tokens - 1 - lookahead, 0) :, :tokens].any(0))


def check(f: SlotFunction, until: int, most: int = N) -> None:
    """Every live key is found at its slot at any time, when keys are written one after the other."""
    at = f(np.arange(until))
    kept = f.lives.at(np.arange(until)) >= -f.lookahead
    held = np.full(max(f.width(until), 1), -1)
    for p in range(until):
        if kept[p]:
            held[at[p]] = p
        for term in f.terms:
            alive = live(term, p + 1, f.lookahead, most)
            assert (held[at[alive]] == alive).all(), (f, p, alive, held)


@pytest.mark.parametrize("lookahead", [0, 3])
@pytest.mark.parametrize("name", SERVED)
def test_live_keys_are_at_their_slots(name: str, lookahead: int) -> None:
    f = slots((SERVED[name],), lookahead)
    assert f.proof.check()
    check(f, N - 8)
    if name in FEWEST and not lookahead:
        assert f.bounded and f.width(10**6) == FEWEST[name]


def test_what_is_kept_for_ever_takes_a_slot_of_a_growing_region() -> None:
    f = slots((SERVED["comb"],))
    assert [f.width(t) for t in (1, 9, 1000, 10**9)] == [8, 9, 7 + 125, 7 + 125 * 10**6]
    assert (f.fixed, f.bounded) == (7, False)
    f = slots((patterns.sparse_fixed(64, 8),))
    assert f.width(64 * 1000) == 56 + 8 * 1000


def test_patterns_together() -> None:
    """Heads: a key is kept while any of them may ask for it."""
    both = (window(5), keys(0, None, 4) & causal)
    f = slots(both, 1)
    assert f.proof.check()
    check(f, N - 8)
    assert slots((both[0] | both[1],), 1).rooms == f.rooms


@settings(max_examples=settings.default.max_examples * 2)
@given(term=terms(3), lookahead=st.sampled_from([0, 0, 1, 5]))
def test_random_patterns(term: Term, lookahead: int) -> None:
    f = slots((term,), lookahead)
    check(f, SHORT, SHORT)
    assert f.proof.check()


@settings(max_examples=settings.default.max_examples * 2)
@given(term=terms(3))
def test_lives_are_those_of_the_masks(term: Term) -> None:
    try:
        found = lives((term,))
        refuted = "" if found is None else outlived((term,), found)
    except TooHardError:
        reject()
    if found is None:
        return
    at = np.arange(SHORT // 2)
    asks = ever(term, SHORT)[:, : SHORT // 2]
    least = np.where(asks.any(0), SHORT - 1 - asks[::-1].argmax(0) - at, NEVER)
    assert (found.at(at) >= least).all()
    assert not refuted
    sure = found.at(at) + at < SHORT
    assert (found.at(at) == least)[sure].all() or len(found.classes) == 1  # not periodic: as long as the longest


def test_what_is_not_periodic_is_kept() -> None:
    assert lives((SERVED["growing"],)) is None
    assert proved_lives((SERVED["growing"],)) is ALL_FOREVER
    f = slots((SERVED["growing"],))
    assert f.rooms == (Room(0, 1, 0, GROWS, FOREVER),) and f.proof.check()
    bounded = SERVED["growing"] & window(9)  # the first keys live shorter, one by one
    assert slots((bounded,)).width(10**6) == 10
    long = (blocks(5000) | blocks(7001)) & causal  # a period too long to list
    assert slots((long,)).width(10**6) == 7001


@pytest.mark.parametrize("kept", [keys(1, None, 4), where(lambda i, j: j // 3 % 5 == 2)])
def test_of_what_is_not_periodic_classes_that_nobody_asks_for_are_not_kept(kept: Term) -> None:
    growing = where(lambda i, j: (j <= i) & (i <= 2 * j)) & kept
    found, asked = slots((growing,)), growing.mask(60).any(0)
    assert found.proof.check() and len(found.rooms) > 1
    assert (found.lives.at(np.arange(60)) == np.where(asked, FOREVER, -1)).all()
    assert found.width(60) == asked.sum()
    assert (proved_lives((growing,)).at(np.arange(60)) >= 0).tolist() == asked.tolist()


def test_a_wrong_life_is_refuted() -> None:
    term = (window(3) | keys(0, None, 4)) & causal
    right = lives((term,))
    assert right == Lives((), (FOREVER, 3, 3, 3))
    assert not LivesProof((term,), replace(right, classes=(FOREVER, 3, 2, 3))).check()
    assert not LivesProof((term,), replace(right, classes=(100, 3, 3, 3))).check()
    assert not LivesProof((term,), replace(right, classes=(FOREVER, 3, NEVER, 3))).check()
    assert not LivesProof((term,), Lives((FOREVER,), right.classes)).check()  # the classes moved by one
    assert LivesProof((term,), Lives((7, 4), (FOREVER, FOREVER, FOREVER))).failure().startswith("query ")
    assert LivesProof((term, window(9)), replace(right, classes=(FOREVER, 9, 9, 9))).check()
    assert not LivesProof((term, window(10)), replace(right, classes=(FOREVER, 9, 9, 9))).check()


# --- mutations


def wrong(f: SlotFunction, until: int = N - 24) -> bool:
    """Whether, key by key, some key that lives is overwritten, or is not written: by the masks."""
    rooms = f.rooms
    if f.prefix < 0 or f.lookahead < 0 or any(r.base < 0 or r.size < 1 or r.many < 0 or r.rank < 0 for r in rooms):
        return True
    try:
        check(f, until)
    except (AssertionError, IndexError):
        return True
    return False


def mutants(f: SlotFunction) -> list[SlotFunction]:
    found = [replace(f, prefix=f.prefix + d) for d in (-1, 1, 2)]
    found += [replace(f, lookahead=f.lookahead + d) for d in (1, 4)]
    found.append(replace(f, rooms=f.rooms[1:] + f.rooms[:1]))
    found.append(replace(f, rooms=f.rooms + f.rooms[-1:]))
    if len(f.rooms) > 1:
        found.append(replace(f, rooms=f.rooms[:-1]))
    for c, room in enumerate(f.rooms):
        for name, d in itertools.product(Room._fields, (-2, -1, 1, 2)):
            value = getattr(room, name)
            if abs(value) < 2**30:
                other = room._replace(**{name: value + d})
                found.append(replace(f, rooms=(*f.rooms[:c], other, *f.rooms[c + 1 :])))
    return found


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("name", ["window", "sinks", "comb", "mixed", "chunked", "single skip", "phase", "ring"])
def test_a_changed_number_makes_the_proof_fail(name: str, lookahead: int) -> None:
    f = slots((SERVED[name],), lookahead)
    assert f.proof.check() and not wrong(f)
    failed = 0
    for mutant in mutants(f):
        holds = mutant.proof.check()
        if wrong(mutant):
            assert not holds, mutant
        failed += not holds
    assert failed >= 8
    ring = next(c for c, room in enumerate(f.rooms) if 1 < room.size < GROWS or room.size == 1)
    smaller = tuple(r._replace(size=r.size - 1) if r.base == f.rooms[ring].base else r for r in f.rooms)
    assert not replace(f, rooms=smaller).proof.check()  # one slot fewer


def test_a_proof_says_what_is_wrong() -> None:
    f = slots((window(3),))
    short = replace(f, rooms=(Room(0, 1, 0, 3, 3),))
    assert short.proof.failure() in ("keys 0 and 3 share slot 0 while key 0 is live",)
    assert "attends key" in replace(f, rooms=(Room(0, 1, 0, 3, 2),)).proof.failure()
    assert "class 0" in replace(f, rooms=(Room(0, 1, 0, 0, 3),)).proof.failure()
    assert "prefix" in replace(f, prefix=-1).proof.failure()
    # what only looks wrong is proved
    assert replace(f, rooms=(Room(9, 1, 2, 4, 3),)).proof.check()
    assert replace(f, rooms=(Room(0, 1, 0, 5, 4),)).proof.check()


def collides(f: SlotFunction, until: int) -> bool:
    """Whether, by the numbers alone, a key is written over one that is to live on; later than masks show."""
    at, life = f(np.arange(until)), f.lives.at(np.arange(until))
    (kept,) = (life >= -f.lookahead).nonzero()
    order = kept[np.lexsort((kept, at[kept]))]
    earlier, later = order[:-1], order[1:]
    return bool(((at[earlier] == at[later]) & (later <= earlier + life[earlier] + f.lookahead)).any())


def test_random_functions_are_judged_as_the_masks_judge_them() -> None:
    """Neither derived nor mutated: any table of small numbers."""
    draw = random.Random(5)
    agreed = {True: 0, False: 0}
    for _ in range(300):
        term = draw.choice([window(2), window(1) | keys(0, None, 3) & causal, blocks(3) & causal, lags(0, 4)])
        lookahead, prefix, period = draw.choice([0, 0, 1]), draw.choice([0, 0, 1, 3]), draw.choice([1, 2, 3])
        life = [max(proved_lives((term,)).at(np.arange(prefix + c, prefix + c + 36, period))) for c in range(period)]
        base, rooms = draw.choice([prefix, prefix, 0]), []
        for c in range(period):
            size = GROWS if life[c] == FOREVER else draw.randint(1, 9)
            rooms.append(Room(base, draw.choice([1, period]), draw.choice([0, c]), size, int(life[c])))
            base += draw.choice([0, 0, min(size, 9)])
        f = SlotFunction((term,), lookahead, prefix, tuple(rooms))
        holds, right = f.proof.check(), not wrong(f, 60)
        assert holds == right or (right and collides(f, 4000)), f
        agreed[holds] += 1
    assert min(agreed.values()) > 20


def test_a_row_that_asks_at_any_length_counts() -> None:
    term = keys(-3, None) & causal
    points = asked(term)
    assert str(points) == str(asked(term, fresh=True))
    assert live(term, 40, 0).tolist() == [37, 38, 39]
