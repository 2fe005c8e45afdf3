"""From what ranks need to routes: which rank sends which rows of its tensors to which other, each row once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pidsl.distributed.running.exchange import Routes
from pidsl.distributed.tokens.runs import Ints
from pidsl.distributed.tokens.shards import Shards


class Need(NamedTuple):
    """Rows that a rank needs of some batch entries and heads.

    Args:
        entries, heads: of which there are
        positions: tokens, int64, ascending.
    """

    entries: Ints
    heads: Ints
    positions: Ints


class Sizes(NamedTuple):
    """Of the tensors whose rows move, on every rank: batch entries and heads."""

    entries: int
    heads: int


Needs = Sequence[Need]


def routes(needs: Callable[[int], Needs], home: Shards, rank: int, sizes: Sizes, what: str) -> Routes:
    """The routes of one rank, of rows whose owners all ranks know. What arrives stands in the order of `arrived`.

    Args:
        needs: of each rank, the same on every rank; no row twice.
        home: where rows are.
        rank: whose routes they are.
        sizes: of the tensors.
        what: what moves, for messages.
    """
    own = home.rows(rank)
    sent = [
        _all([x._replace(positions=home.row(x.positions)) for x in _of(needs(p), home, rank)], own, sizes)
        for p in range(home.ranks)
    ]
    return Routes.of(sent, (len(x) for x in arrived(needs(rank), home, sizes)), what)


def arrived(needs: Needs, home: Shards, sizes: Sizes) -> list[Tensor]:
    """By owner, what a rank is sent, in this order: rows of [B, H, home.n], by number."""
    return [_all(_of(needs, home, owner), home.n, sizes) for owner in range(home.ranks)]


def index_of(rows: Tensor, which: tuple[Ints, Ints, Ints], n: int, sizes: Sizes) -> Tensor:
    """Where the rows [entries, heads, positions] stand among some rows of [B, H, n]; behind them, if nowhere."""
    entries, heads, positions = which
    wanted = numbered(which, n, sizes)
    values, order = rows.sort()
    values, order = torch.cat([values, values.new_full((1,), -1)]), torch.cat([order, order.new_full((1,), len(rows))])
    at = torch.searchsorted(values[:-1], wanted)
    found = torch.where(values[at] == wanted, order[at], len(rows))
    return found.view(len(entries), len(heads), len(positions))


def _of(needs: Needs, home: Shards, owner: int) -> list[Need]:
    """What of it a rank owns."""
    return [need._replace(positions=need.positions[home.owner(need.positions) == owner]) for need in needs]


def _all(needs: Needs, rows: int, sizes: Sizes) -> Tensor:
    return torch.cat([torch.empty(0, dtype=torch.int64), *(numbered(x, rows, sizes) for x in needs)])


def numbered(which: tuple[Ints, Ints, Ints], rows: int, sizes: Sizes) -> Tensor:
    """Rows of tensors [B, H, rows, width], numbered along the first three axes: those of some entries and heads."""
    entries, heads, own = which
    first = (entries[:, None] * sizes.heads + heads[None]) * rows
    return torch.from_numpy((first[..., None] + own).reshape(-1))
