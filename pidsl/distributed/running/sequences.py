"""Documents whose tokens several ranks hold: what a rank needs of others, and the tables of its calls.

The pattern holds within each document, so the needs of a rank are the images of what it has of each one. In its calls
every document of the batch has a row, most of them empty: dropout counts documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from pidsl.distributed.running.meetings import Lists, Meeting, Table, Take, covered, places
from pidsl.distributed.tokens.images import image
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints, Run, positions
from pidsl.language.chosen import forced, possible, selection
from pidsl.language.terms import Chosen, Term, is_chosen
from pidsl.relation.sampled import sampled
from pidsl.runtime.call.call import Positions
from pidsl.runtime.call.ragged import table_of

Document = tuple[int, int, int]  # batch entry, first token, tokens
Documents = tuple[Document, ...]  # in the order of the batch


def keys_of(part: Placement, rank: int, documents: Documents) -> dict[int, Ints]:
    """The keys that a rank needs of each batch entry, ascending."""
    found: dict[int, list[Ints]] = {}
    for entry, start, count in documents:
        for run in part.home.runs(rank):
            first, stop = max(run.first, start), min(run.last + 1, start + count)
            if first < stop:
                inside = image(forced(part.term), count, (Run(first - start, stop - first),))
                found.setdefault(entry, []).append(positions(inside) + start)
    return {entry: np.unique(np.concatenate(some)) for entry, some in found.items()}


def whole_meetings(
    part: Placement, rank: int, sent: Ints, documents: Documents | None, lists: Sequence[Lists] = ()
) -> list[Meeting]:
    """The calls of a rank for a part whose queries stay, of whole runs; as `meetings`, for documents and choices.

    Args:
        part: where it is computed.
        rank: of these.
        sent: positions of the keys of the part that the rank was sent, ascending.
        documents: where they lie; None: all tokens are one sequence.
        lists: for each run of the rank the lists that its queries have, if calls choose.
    """
    home = part.home
    held = positions(home.runs(rank))
    keys: list[tuple[Literal["home", "sent"], Run, Ints]] = [("home", run, held) for run in home.runs(rank)]
    keys += [("sent", run, sent) for run in covered(sent, stepped=False)]
    found = []
    for number, run in enumerate(home.runs(rank)):
        for source, key_run, of in keys:
            for term, where in _calls(part.term, run, key_run, home.n, documents):
                own = Take("home", places(run, held)), Take(source, places(key_run, of))
                found.append(Meeting(term, *own, where, run, key_run, lists[number] if lists else None))
    return found


def _calls(
    term: Term, queries: Run, keys: Run, n: int, documents: Documents | None
) -> Iterator[tuple[Term, Positions | Table]]:
    if documents is None:
        yield _of_length(term, n), Positions(queries.first, keys.first)
    else:
        yield from _tables(term, queries, keys, documents)


def _of_length(term: Term, n: int) -> Term:
    """The pattern among n tokens, for calls with fewer."""
    if not is_chosen(term):
        return sampled(term, (0, 1), (0, 1), (n, n))
    always, most = forced(term), possible(term)
    least, all_ = (sampled(x, (0, 1), (0, 1), (n, n)) for x in (always, most))
    choice = selection(term)
    if choice is None or (least, all_) == (always, most):
        return term
    return least | Chosen.made(*choice, all_)


def _tables(term: Term, queries: Run, keys: Run, documents: Documents) -> Iterator[tuple[Term, Table]]:
    """The pattern of the documents of each length, and their table; one for all where lengths do not matter."""
    entry, start, count = np.array(documents, np.int64).reshape(-1, 3).T
    columns = [entry]
    for run in (queries, keys):
        first, stop = np.maximum(start, run.first), np.minimum(start + count, run.last + 1)
        there = first < stop
        columns += [np.where(there, x, 0) for x in (first - run.first, stop - first, first - start)]
    table = np.stack([*columns, np.zeros_like(entry)], 1)
    met = (table[:, 2] > 0) & (table[:, 5] > 0)
    for own, which in _by_pattern(term, count):
        if (met & which).any():
            yield own, np.where((which & (table[:, 2] > 0))[:, None], table, table * [1, *[0] * 7]).astype(np.int32)


def _by_pattern(term: Term, count: Ints) -> Iterator[tuple[Term, Ints]]:
    """What the pattern is in documents, and in which."""
    found: dict[Term, Ints] = {}
    for length in np.unique(count).tolist():
        own = _of_length(term, length)
        found[own] = found.get(own, np.zeros(len(count), bool)) | (count == length)
    yield from found.items()


def documents_of(ids: Tensor) -> Documents:
    """The runs of equal ids, int [B, n], in the order of the batch; negative ids are padding.

    Raises:
        ArgumentError: an id has two runs.
    """
    batch, n = ids.shape
    table = table_of("documents", [ids], [], [batch, n, n, 0], ids.device)
    return tuple((entry, first, count) for entry, first, count, *_ in table.tolist())
