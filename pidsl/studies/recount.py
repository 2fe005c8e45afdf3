"""What a pattern costs, counted from its mask: how a point of a front is checked, with nothing of what found it.

A pattern of the lag alone is told by two rows of its mask, the first and the last. Others are counted in the whole
mask, or by formulas with proofs where there are too many tokens for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pidsl.analysis.bound import asking
from pidsl.analysis.portfolio import answer
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.shards import Shards
from pidsl.errors import SizeError, TooHardError
from pidsl.language.terms import Term, is_chosen, of_lags_alone
from pidsl.relation.oracle import dense_mask, table
from pidsl.studies.model import Sizes

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

SMALL = 1 << 11  # tokens of masks that are counted whole
LARGE = 1 << 14  # the same, where there is no other way
WORK = 1 << 36  # positions that are looked at, for what moves between ranks


@lru_cache(maxsize=2)
def _mask(term: Term, n: int) -> Bools:
    return dense_mask(term, n)


def lags_in_mask(term: Term, n: int) -> Ints | None:
    """The lags among n tokens of a pattern of the lag alone, ascending, those ahead below 0; None of others."""
    if not of_lags_alone(term) or is_chosen(term):
        return None
    at = np.arange(n)
    last, first = (table(term, np.array([row]), at, n, n)[0] for row in (n - 1, 0))
    return np.concatenate([-np.flatnonzero(first[1:])[::-1] - 1, n - 1 - np.flatnonzero(last)[::-1]])


def counted(term: Term, n: int) -> tuple[int, int]:
    """Pairs, and keys of the query with the most.

    Where calls choose, at most: by formulas that are proved.

    Raises:
        TooHardError: there are too many tokens for the mask, and no formula with a proof.
    """
    lags = lags_in_mask(term, n)
    if lags is not None:  # query i has the lags i - (n - 1) .. i
        at = np.arange(n)
        degree = np.searchsorted(lags, at, side="right") - np.searchsorted(lags, at - (n - 1))
    elif n <= SMALL and not is_chosen(term):
        degree = _mask(term, n).sum(1)
    else:
        found = [_proved(term, quantity, n) for quantity in ("pairs", "max degree")]
        if None not in found:
            return int(found[0] or 0), int(found[1] or 0)
        if n > LARGE or is_chosen(term):
            raise TooHardError(f"pairs and keys of {term!r} at n = {n}", "a formula with a proof")
        degree = _mask(term, n).sum(1)
    return int(degree.sum()), int(degree.max())


def _proved(term: Term, quantity: str, n: int) -> int | None:
    """A formula at n, with a proof; None where there is none."""
    bound = answer(asking(term, quantity))
    told = bound.is_exact or (bound.is_known and is_chosen(term))
    if not told or not bound.proof.check():
        return None
    try:
        return int(bound(n=n))
    except SizeError:  # it holds for other lengths
        return None


# -- what moves between ranks ------------------------------------------------------------------------------------------


def moved(terms: tuple[Term, ...], n: int, sizes: Sizes) -> int:
    """Bytes that the busiest rank gets, or sends if that is more: rows of the plan, counted from masks.

    That its parts have every pair of each pattern once, and which rows of k and v, of q and of out each rank lacks.

    Raises:
        TooHardError: there is no plan; or what it moves takes too long to count, or some pair is not computed once.
    """
    plan = sizes.plan(terms, n)
    home, each = plan.shards, plan.placements
    received, sent = np.zeros((2, home.ranks), np.int64)
    for term in dict.fromkeys(terms):
        _require_each_once(term, [x.term for x in each[term]], n)
        got, gave = _of_layer(each[term], home, sizes)
        times = terms.count(term)
        received, sent = received + times * got, sent + times * gave
    return int(max(received.max(), sent.max()))


def _require_each_once(term: Term, parts: Sequence[Term], n: int) -> None:
    lags, own = lags_in_mask(term, n), [lags_in_mask(part, n) for part in parts]
    if lags is not None and all(x is not None for x in own):
        once = np.array_equal(np.sort(np.concatenate([np.empty(0, np.int64), *own])), lags)
    else:
        once = np.array_equal(sum(_small(part, n).astype(np.int64) for part in parts), _small(term, n))
    if not once:
        raise TooHardError(f"the parts {list(parts)!r} of {term!r}", "each pair in one of them")


def _of_layer(placements: Sequence[Placement], home: Shards, sizes: Sizes) -> tuple[Ints, Ints]:
    """int64 [ranks] each: bytes that ranks get and send in a layer."""
    at = home.owner(np.arange(home.n))
    ranks = np.arange(home.ranks)
    received, sent = np.zeros((2, home.ranks), np.int64)
    if home.ranks * home.n * len(placements) > WORK:
        raise TooHardError(f"what {home.ranks} ranks need of {home.n} tokens, one by one", "fewer ranks or tokens")
    for rank in ranks:
        keys, queries = np.zeros((2, home.n), np.bool_)
        away = at != rank
        for x in placements:
            own = x.layout.owner(np.arange(home.n)) == rank
            stay = x.move == "keys"
            of_keys = _seen(x.term, own, back=False) if stay else own
            of_queries = own if stay else _seen(x.term, own, back=True)
            keys |= of_keys
            queries |= of_queries
            back = np.bincount(at[of_queries & away], minlength=home.ranks) * sizes.result
            received += back
            sent[rank] += back.sum()
        for rows, width in ((keys, sizes.key), (queries, sizes.query)):
            came = np.bincount(at[rows & away], minlength=home.ranks) * width
            sent += came
            received[rank] += came.sum()
    return received, sent


def _seen(term: Term, own: Bools, back: bool) -> Bools:
    """The keys of some queries; or back: the queries of some keys."""
    n = len(own)
    lags = lags_in_mask(term, n)
    if lags is None:
        mask = _small(term, n)
        return np.asarray(mask[:, own].any(1) if back else mask[own].any(0))
    found = np.zeros(n, np.bool_)
    if not len(lags):
        return found
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(own)])  # of the first so many tokens
    at = np.arange(n)
    cuts = np.flatnonzero(np.diff(lags) != 1)
    for low, high in zip(lags[[0, *cuts + 1]].tolist(), lags[[*cuts, -1]].tolist(), strict=True):
        first, last = (at - high, at - low) if back else (at + low, at + high)
        found |= before[np.clip(last + 1, 0, n)] > before[np.clip(first, 0, n)]
    return found


def _small(term: Term, n: int) -> Bools:
    if n > LARGE:
        raise TooHardError(f"the mask of {term!r} for n = {n}", f"at most {LARGE} tokens")
    return _mask(term, n)
