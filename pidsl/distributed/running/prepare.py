"""What a rank knows of a call before it sees a number of q, k and v: what is computed where, who is sent what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pidsl.distributed.planning.plan import plan
from pidsl.distributed.running.agree import together
from pidsl.distributed.running.exchange import Group, Routes
from pidsl.distributed.running.lists import Keys, Row, asked, check_lists, listed, lists_of_run, rows_of, without
from pidsl.distributed.running.meetings import Lists, Meeting, meetings
from pidsl.distributed.running.needs import Need, Needs, Sizes, arrived, index_of, routes
from pidsl.distributed.running.sequences import Documents, keys_of, whole_meetings
from pidsl.distributed.running.work import Work
from pidsl.distributed.tokens.images import image
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints, positions
from pidsl.distributed.tokens.shards import Shards
from pidsl.language.chosen import forced, selection
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.terms import Term, is_chosen

if TYPE_CHECKING:
    from pidsl.distributed.planning.plan import Plan

Pattern = Term | Gate | Heads
Sharding = Literal["auto", "contiguous", "zigzag"] | int  # a number: residue classes of that period
Planned = Mapping[Term, Sequence[Placement]]


@dataclass(frozen=True)
class Setup:
    """A call of which only shapes are known.

    Args:
        pattern: without the word `documents`.
        home: which rank holds which token.
        rank: of these.
        sizes: batch entries, query heads, key heads, width of q and k, width of v.
        dtype: of q, k and v.
        stepped: whether programs may see tokens that are not consecutive: no score asks where they stand.
        documents: where they lie, or None.
        planned: where each pattern is computed that is not `trivial`.
    """

    pattern: Pattern
    home: Shards
    rank: int
    sizes: tuple[int, int, int, int, int]
    dtype: str
    stepped: bool = True
    documents: Documents | None = None
    planned: Planned | None = field(default=None, hash=False, compare=False)

    @cached_property
    def heads(self) -> Mapping[Term, Ints]:
        """The query heads of each pattern."""
        match self.pattern:
            case Gate(branches):
                return {term: np.arange(self.sizes[1]) for _, term in branches}
            case Heads():
                return {term: np.array(mine) for term, mine in self.pattern.distinct.items()}
            case _:
                return {self.pattern: np.arange(self.sizes[1])}

    @property
    def trivial(self) -> bool:
        """Whether all queries stay where they are: those of documents do, and those for which calls choose."""
        return self.home.ranks == 1 or self.home.n == 0 or self.documents is not None or any(map(is_chosen, self.heads))

    @cached_property
    def parts(self) -> Planned:
        """Where each pattern is computed."""
        if self.trivial:
            return {term: (Placement(term, "keys", self.home, self.home),) for term in self.heads}
        assert self.planned is not None
        return self.planned

    def keys(self, term: Term, rank: int) -> Mapping[int, Ints]:
        """The keys that a rank needs for a pattern, whatever a call chooses, by batch entry; -1: of every entry."""
        if self.documents is not None:
            (part,) = self.parts[term]
            return keys_of(part, rank, self.documents)
        if is_chosen(term):
            lists = [positions(image(forced(term), self.home.n, self.home.runs(rank)))]
        else:
            lists = [_needed(part, rank) for part in self.parts[term]]
        return {-1: np.unique(np.concatenate([np.empty(0, np.int64), *lists]))}

    def needs(self, rank: int) -> Needs:
        """The keys that a rank is sent, each once for a key head: by batch entries and heads that need the same."""
        entries, queries, keys, *_ = self.sizes
        wanted: dict[tuple[int, int], list[Ints]] = {}
        for term, mine in self.heads.items():
            for entry, own in self.keys(term, rank).items():
                for head in np.unique(mine // (queries // keys)).tolist():
                    wanted.setdefault((entry, head), []).append(own)
        groups: dict[tuple[int, bytes], tuple[list[int], Ints]] = {}
        for (entry, head), lists in sorted(wanted.items()):
            found = lists[0] if len(lists) == 1 else np.unique(np.concatenate(lists))
            found = found[self.home.owner(found) != rank]
            groups.setdefault((entry, found.tobytes()), ([], found))[0].append(head)
        return [
            Need(np.arange(entries) if entry < 0 else np.array([entry]), np.array(heads), found)
            for (entry, _), (heads, found) in groups.items()
        ]

    @cached_property
    def of_keys(self) -> Sizes:
        """Batch entries and key heads."""
        return Sizes(self.sizes[0], self.sizes[2])

    @cached_property
    def routes(self) -> Routes:
        """The routes of keys and values."""
        return routes(self.needs, self.home, self.rank, self.of_keys, "keys and values")

    @cached_property
    def came(self) -> Tensor:
        """What arrives on them: rows of [B, Hkv, n], by number."""
        return torch.cat(arrived(self.needs(self.rank), self.home, self.of_keys))

    def index(self, term: Term, heads: Ints) -> Tensor:
        """Which of them a pattern sees: of some key heads, at the positions that are `away`."""
        which = np.arange(self.sizes[0]), heads, self.away(term)
        return index_of(self.came, which, self.home.n, self.of_keys)

    def away(self, term: Term) -> Ints:
        """The positions of the keys that a pattern asks for and the rank is sent, ascending."""
        found = np.unique(np.concatenate([np.empty(0, np.int64), *self.keys(term, self.rank).values()]))
        return found[self.home.owner(found) != self.rank]

    def lists(self, term: Term) -> Sequence[Lists]:
        """For each run of the rank, the rows of lists that it takes."""
        return ()

    def work(self, term: Term) -> Work:
        """What is done for a pattern."""
        if term not in self._works:
            self._works[term] = Work(self.parts[term], partial(self._calls, term), partial(self.index, term), self.rank)
        return self._works[term]

    @cached_property
    def _works(self) -> dict[Term, Work]:
        return {}

    def _calls(self, term: Term, part: Placement) -> list[Meeting]:
        sent = self.away(term)
        if self.documents is None and not is_chosen(part.term):
            return meetings(part, self.rank, sent, stepped=self.stepped)
        return whole_meetings(part, self.rank, sent, self.documents, self.lists(term))


def _needed(part: Placement, rank: int) -> Ints:
    """The keys of a part that a rank needs; of residue classes class by class, as all together are many short runs."""
    if part.move == "queries" or part.layout.kind != "classes":
        return positions(part.keys(rank))
    return positions(x for run in part.layout.runs(rank) for x in image(part.term, part.home.n, (run,)))


def planned(setup: Setup) -> Planned:
    """Where each pattern is computed."""
    _, heads, kv_heads, width, value_width = setup.sizes
    found: Plan = plan(
        setup.pattern, setup.home.n, setup.home.ranks, kv_heads=kv_heads, heads=heads, head_dim=width,
        value_dim=value_width, dtype=setup.dtype, sharding=setup.home,
    )  # fmt: skip
    places = dict(found.placements)
    return places if setup.stepped else {term: tuple(map(_in_place, parts)) for term, parts in places.items()}


def shards_of(pattern: Pattern, n: int, ranks: int, stepped: bool) -> Shards:
    """Which rank holds which tokens, as planned; `stepped` as in `Setup`."""
    found: Shards = plan(pattern, n, ranks).shards
    return found if stepped or found.kind != "classes" else Shards(n, ranks, "zigzag")


def _in_place(part: Placement) -> Placement:
    """With queries that stay, if they would move to tokens that are not consecutive."""
    return replace(part, layout=part.home) if part.layout.kind == "classes" else part


# -- where calls choose


@dataclass(frozen=True)
class ChosenSetup(Setup):
    """A call whose lists are known too: the keys that they name are asked for.

    Args:
        asked_for: by pattern, the keys that the lists of this rank name.
        way: the routes of keys and values,
        arriving: and what arrives on them.
        rows: of the lists of each batch entry, or of all.
    """

    asked_for: Mapping[Term, Keys] | None = None
    way: Routes | None = None
    arriving: Tensor | None = None
    rows: Sequence[Sequence[Row]] = ()

    @cached_property
    def routes(self) -> Routes:
        assert self.way is not None
        return self.way

    @cached_property
    def came(self) -> Tensor:
        assert self.arriving is not None
        return self.arriving

    def away(self, term: Term) -> Ints:
        always = super().away(term)
        assert self.asked_for is not None
        found = np.unique(np.concatenate([always, *self.asked_for.get(term, {}).values()]))
        return found[self.home.owner(found) != self.rank]

    def lists(self, term: Term) -> Sequence[Lists]:
        runs = range(len(self.home.runs(self.rank)))
        return [lists_of_run(self.rows, run) for run in runs] if is_chosen(term) else ()


def chosen_setup(setup: Setup, blocks: Tensor, group: Group) -> ChosenSetup:
    """The setup of a call with lists; all ranks ask each other for what their lists name.

    Raises:
        ArgumentError: lists with too few rows, or of blocks that there are not.
    """
    entries = range(setup.sizes[0] if setup.documents is not None else 1)
    choice = next(x for term in setup.heads if (x := selection(term)) is not None)
    rows = [rows_of(setup.home, setup.rank, setup.documents, entry, choice.numbers[2]) for entry in entries]
    found = together(group, lambda: _listed(setup, blocks, rows, choice.numbers[0]))
    both: dict[tuple[int, int], Ints] = {}
    for keys in found.values():
        for place, own in keys.items():
            both[place] = np.union1d(both.get(place, own), own)
    static = list(setup.needs(setup.rank))
    more = without(both, static, setup.home, setup.rank)
    theirs = asked(more, setup.home, setup.rank, setup.of_keys, group, blocks.device)
    before = setup.routes.order.split(setup.routes.sent)
    sent = [torch.cat([a, b.cpu()]) for a, b in zip(before, theirs, strict=True)]
    arrivals = (arrived(some, setup.home, setup.of_keys) for some in (static, more))
    came = list(map(torch.cat, zip(*arrivals, strict=True)))
    way = Routes.of(sent, map(len, came), setup.routes.what)
    given = {name: getattr(setup, name) for name in Setup.__dataclass_fields__}
    return ChosenSetup(**given, asked_for=found, way=way, arriving=torch.cat(came), rows=rows)


def _listed(setup: Setup, blocks: Tensor, rows: Sequence[Sequence[Row]], block: int) -> dict[Term, Keys]:
    """By pattern, the keys that the lists of a rank name."""
    check_lists(blocks, rows, block)
    host = blocks.cpu().numpy()
    return {
        term: listed(term, host, rows, setup.home.n, _groups(setup, mine, blocks.shape[1]))
        for term, mine in setup.heads.items()
        if is_chosen(term)
    }


def _groups(setup: Setup, mine: Ints, heads: int) -> Mapping[int, Sequence[int]]:
    """By key head, the heads of the lists that are about it, of some query heads."""
    _, queries, keys, *_ = setup.sizes
    found: dict[int, set[int]] = {}
    for head in mine.tolist():
        key = head // (queries // keys)
        found.setdefault(key, set()).add(0 if heads == 1 else key if heads == keys else head)
    return {key: sorted(own) for key, own in found.items()}
