"""Which rows of which tensors meet on a rank, and in which calls of a program.

A rank has queries in few runs, some in place and some that were sent to it; and keys in few runs: those that it holds
and those that it was sent. Each run of queries meets each run of keys in one call of the program of the pattern that
such tokens have (`pidsl.relation.sampled`), unless no pair of the pattern is between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pidsl.distributed.tokens.images import image, preimage
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints, Run, Runs, positions
from pidsl.language.terms import Term
from pidsl.relation.sampled import sampled
from pidsl.runtime.call.call import Positions

Table = NDArray[np.int32]


class Lists(NamedTuple):
    """The rows of lists that a call of a program takes.

    Args:
        rows: int64 [B or 1, R], of the lists of a rank; -1 for none.
        starts: int64 [B or 1, R], where the document of each starts.
    """

    rows: Ints
    starts: Ints


FEW_RUNS = 8  # of keys, or of queries that were sent; of more, neighbours become one, with rows of 0 between
MOST_RUNS = 64  # of them, where fewer would have more rows of 0 than others
LONG = 16  # positions of a run that stands for itself


class Take(NamedTuple):
    """Rows of a tensor [B, H, rows, D].

    Args:
        source: "home": of those that the rank holds; "sent": of those that it was sent; "both": of the latter behind
            the former.
        rows: a slice of them; or int64, where -1 stands for a row of 0.
    """

    source: Literal["home", "sent", "both"]
    rows: slice | Ints


class Meeting(NamedTuple):
    """One call of a program.

    Args:
        term: the pattern of these tokens, in their own coordinates.
        queries: rows of q; "sent" ones of a part whose queries move.
        keys: rows of k and v.
        where: where the first of each stands, in these coordinates; or the table of the documents that they are of,
            int32 [documents, 8], see `pidsl.runtime.call.segments`.
        span: the positions of the queries,
        key_span: and of the keys.
        lists: which rows of the blocks that calls choose, where they do.
    """

    term: Term
    queries: Take
    keys: Take
    where: Positions | Table
    span: Run
    key_span: Run
    lists: Lists | None = None

    @property
    def near(self) -> bool:
        """Whether the rank has all of it from the start."""
        return self.queries.source == self.keys.source == "home"


def meetings(part: Placement, rank: int, sent: Ints, *, stepped: bool = True) -> list[Meeting]:
    """The calls of a rank for one part of a pattern.

    Args:
        part: where it is computed.
        rank: of these.
        sent: positions of the keys of the pattern that the rank was sent, ascending.
        stepped: whether calls may be of tokens that are not consecutive, whose positions no score may ask for.
    """
    home, n = part.home, part.home.n
    held = positions(home.runs(rank))
    in_place = part.move == "keys" and part.layout == home
    if in_place:
        queries, of_queries = held, home.runs(rank)
    elif part.move == "keys":
        queries, of_queries = positions(part.layout.runs(rank)), part.layout.runs(rank)
    else:
        queries = np.sort(positions(part.queries(rank)))
        of_queries = covered(queries, stepped=stepped)
    found: list[Meeting] = []
    for run in of_queries:
        for source, key_run, rows in _key_runs(part, rank, run, (held, sent), stepped=stepped):
            span = _meeting(part.term, n, run, key_run)
            if span is None:
                continue
            local = sampled(
                part.term, (run.first % run.step, run.step), (key_run.first % key_run.step, key_run.step), (n, n)
            )
            mine = Take("home" if in_place else "sent", places(span, queries))
            at = Positions(span.first // run.step, key_run.first // key_run.step)
            found.append(Meeting(local, mine, Take(source, rows), at, span, key_run))
    return found


def _key_runs(
    part: Placement, rank: int, queries: Run, keys: tuple[Ints, Ints], *, stepped: bool
) -> Iterator[tuple[Literal["home", "sent", "both"], Run, slice | Ints]]:
    """The keys that a run of queries meets: those that are here, and those that were sent; or both at once where the
    queries were sent too and wait for everything."""
    held, sent = keys
    if part.move == "queries" or part.layout == part.home:
        for run in part.home.runs(rank):
            yield "home", run, places(run, held)
    if part.move == "queries":
        return
    wanted = np.sort(positions(image(part.term, part.home.n, (queries,))))
    if part.layout == part.home:
        wanted = wanted[part.home.owner(wanted) != rank]
        for run in covered(wanted, stepped=stepped):
            yield "sent", run, places(run, sent)
    else:
        for run in covered(wanted, stepped=stepped):
            yield "both", run, places(run, np.concatenate([held, sent]))


def _meeting(term: Term, n: int, queries: Run, keys: Run) -> Run | None:
    """The queries of a run between the first and the last that attend some of the keys; None: none does."""
    if queries.count == 0 or keys.count == 0:
        return None
    attending = positions(preimage(term, n, (keys,)))
    inside = attending[(attending >= queries.first) & (attending <= queries.last)]
    inside = inside[(inside - queries.first) % queries.step == 0]
    if not len(inside):
        return None
    first, last = int(inside.min()), int(inside.max())
    return Run(first, (last - first) // queries.step + 1, queries.step)


def covered(wanted: Ints, *, stepped: bool = True) -> Runs:
    """Few runs that hold some positions (ascending): exactly these where they are few runs, with others between them
    where they are not.

    Of more than 8 runs those with the smallest gaps become one, until 8 are left, or there are as many other positions
    as these; but 64 are left at most.

    >>> [run.count for run in covered(np.arange(0, 4000, 4), stepped=True)]
    [1000]
    >>> sparse = np.arange(40) ** 3
    >>> len(covered(sparse)), sum(run.count for run in covered(sparse))
    (37, 64)
    """
    if not len(wanted):
        return ()
    cuts = np.flatnonzero(np.diff(wanted) != 1) + 1
    runs = [Run(int(x[0]), len(x)) for x in np.split(wanted, cuts)]
    if len(runs) < 3 or (len(runs) <= FEW_RUNS and not stepped):
        return tuple(runs)
    long = [run for run in runs if run.count >= LONG]
    short = np.concatenate([np.empty(0, np.int64), *(run.positions for run in runs if run.count < LONG)])
    if stepped and len(long) < FEW_RUNS and len(short) > 2 and len(set(np.diff(short).tolist())) == 1:
        return tuple(sorted([*long, Run(int(short[0]), len(short), int(short[1] - short[0]))]))
    gaps = np.array([b.first - a.last - 1 for a, b in pairwise(runs)])
    order = np.argsort(-gaps, kind="stable")  # the first of them stay
    between = gaps.sum() - np.cumsum(gaps[order])  # positions in the others, of 1, 2, ...
    few = int(np.searchsorted(-between, -len(wanted))) + 1
    kept = sorted(order[: max(FEW_RUNS - 1, min(few, MOST_RUNS - 1))].tolist())
    ends = [0, *(at + 1 for at in kept), len(runs)]
    return tuple(Run(runs[a].first, runs[b - 1].last - runs[a].first + 1) for a, b in pairwise(ends))


def places(run: Run, held: Ints) -> slice | Ints:
    """Where the positions of a run stand among some that are held, each once: a slice, or -1 for those that are not."""
    order = np.argsort(held, kind="stable") if np.any(np.diff(held) < 0) else None
    sorted_ = held if order is None else held[order]
    at = np.searchsorted(sorted_, run.positions)
    there = at < len(held)
    there[there] = sorted_[at[there]] == run.positions[there]
    rows = np.where(there, at, -1)
    if order is not None:
        rows = np.where(there, order[np.minimum(at, len(held) - 1)], -1)
    if not there.all():
        return rows
    steps = set(np.diff(rows).tolist())
    if len(rows) == 1 or (len(steps) == 1 and min(steps) > 0):
        step = steps.pop() if steps else 1
        return slice(int(rows[0]), int(rows[-1]) + 1, int(step))
    return rows
