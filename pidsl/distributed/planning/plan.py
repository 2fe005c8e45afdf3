"""`plan`: how attention is shared out among ranks, what moves between them, and how much of it, exactly.

shardings  ->  per part of a pattern the cheapest move  ->  flows of rows  ->  bytes per rank and per pair of ranks
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pidsl.distributed.planning.asked import Asked, Layer, asked
from pidsl.distributed.planning.choose import Choice, at_least, choose
from pidsl.distributed.planning.listed import Listed, keys_at_most, pairs_at_most
from pidsl.distributed.planning.others import Other, others
from pidsl.distributed.planning.sets import Side
from pidsl.distributed.planning.shown import reasons, text
from pidsl.distributed.planning.volumes import Rows, rows
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints
from pidsl.distributed.tokens.shards import Shards
from pidsl.errors import TooHardError
from pidsl.language.door import behind
from pidsl.language.shown import Displayed
from pidsl.language.terms import Term, is_chosen
from pidsl.relation.isl import in_turn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BALANCED = Fraction(11, 10)  # the busiest rank computes at most so many times the mean

Tensor = Literal["k, v", "q", "out, lse"]
QUERIES: Side = "queries"


@dataclass(frozen=True)
class Flow:
    """Rows of some tensors that move, forward.

    Args:
        tensors: what moves.
        rows: which rows.
        width: bytes of a row, of all heads that share the rows.
        back: from the rank that computes to the one that holds; else the other way.
    """

    tensors: Tensor
    rows: Rows | Listed
    width: int
    back: bool = False

    @property
    def received(self) -> Ints:
        """int64 [ranks]: rows that each rank gets."""
        return self.rows.sent if self.back else self.rows.received

    @property
    def sent(self) -> Ints:
        """int64 [ranks]: rows that each rank sends."""
        return self.rows.received if self.back else self.rows.sent

    def between(self, sender: Ints, receiver: Ints) -> Ints:
        """Rows from senders to receivers."""
        return self.rows.between(receiver, sender) if self.back else self.rows.between(sender, receiver)


@dataclass(frozen=True)
class Volume:
    """Bytes that ranks get and send in one pass: int64 [ranks] each."""

    received: Ints
    sent: Ints

    @property
    def most(self) -> int:
        """Bytes that the rank gets which gets most."""
        return int(self.received.max())

    @property
    def total(self) -> int:
        """Bytes that move in all."""
        return int(self.received.sum())


@dataclass(frozen=True)
class LayerPlan:
    """What one layer moves and computes.

    Args:
        layer: its patterns, and the heads of each.
        choices: how the parts of each pattern are placed.
        flows: what moves.
    """

    layer: Layer
    choices: Mapping[Term, tuple[Choice, ...]]
    flows: tuple[Flow, ...]

    @cached_property
    def pairs(self) -> Ints:
        """int64 [ranks]: pairs that each rank computes, of all heads; where calls choose, at most."""
        placed = {term: [x.chosen.placement for x in self.choices[term]] for term in self.layer.heads}
        return np.sum([pairs_at_most(t, placed[t]) * len(heads) for t, heads in self.layer.heads.items()], axis=0)


@dataclass(frozen=True, repr=False)
class Plan(Displayed):
    """How the tokens of a sequence and the pairs of its patterns are shared out; made by `plan`. Print it for a table.

    Args:
        asked: what was asked for.
        shards: which rank holds which token.
        layers: what each layer moves and computes; one where no layers were given.
    """

    asked: Asked
    shards: Shards
    layers: tuple[LayerPlan, ...]

    @property
    def placements(self) -> Mapping[Term, tuple[Placement, ...]]:
        """Of each pattern with a softmax of its own: where each of its parts is computed."""
        return {
            term: tuple(choice.chosen.placement for choice in choices)
            for layer in self.layers
            for term, choices in layer.choices.items()
        }

    @cached_property
    def forward(self) -> Volume:
        """Bytes that move forward, of all layers and one sequence."""
        flows = [flow for layer in self.layers for flow in layer.flows]
        none = np.zeros(self.shards.ranks, np.int64)
        received = sum((flow.received * flow.width for flow in flows), none)
        sent = sum((flow.sent * flow.width for flow in flows), none)
        return Volume(received, sent)

    @property
    def backward(self) -> Volume:
        """Bytes that move backward: the gradient of each row that moved, the other way."""
        return Volume(self.forward.sent, self.forward.received)

    def between(self, sender: int, receiver: int, backward: bool = False) -> int:
        """Bytes from one rank to another, of all layers.

        Args:
            sender, receiver: ranks.
            backward: of the backward pass; default: forward.

        Raises:
            SizeError: not a rank.
        """
        ends = [self.asked.rank(x, name) for x, name in ((sender, "sender"), (receiver, "receiver"))]
        if backward:
            ends.reverse()
        return int(self.matrix(np.array(ends[:1]), np.array(ends[1:]))[0])

    def matrix(self, sender: Ints, receiver: Ints) -> Ints:
        """As `between`, forward, for arrays of ranks."""
        flows = [flow for layer in self.layers for flow in layer.flows]
        none = np.zeros(np.broadcast_shapes(np.shape(sender), np.shape(receiver)), np.int64)
        return sum((flow.between(sender, receiver) * flow.width for flow in flows), none)

    @property
    def busiest(self) -> int:
        """Bytes that the busiest rank gets, or sends if that is more; the same forward and backward."""
        return int(max(self.forward.received.max(), self.forward.sent.max()))

    @cached_property
    def pairs(self) -> Ints:
        """int64 [ranks]: pairs that each rank computes, of all heads and layers."""
        return np.sum([layer.pairs for layer in self.layers], axis=0)

    @property
    def imbalance(self) -> Fraction:
        """Pairs of the rank that computes most, times ranks, over all pairs; 1 where there is none."""
        total = int(self.pairs.sum())
        return Fraction(int(self.pairs.max()) * self.shards.ranks, total) if total else Fraction(1)

    @property
    def others(self) -> tuple[Other, ...]:
        """The same work by all-gather, by a ring, and by Ulysses."""
        return others(self.asked)

    @property
    def choices(self) -> Mapping[Term, tuple[Choice, ...]]:
        """How the parts of each pattern are placed, what it costs, and what the other ways would have cost."""
        return {term: choices for layer in self.layers for term, choices in layer.choices.items()}

    @property
    def relation(self) -> Literal["==", "<="]:
        """Whether bytes and pairs are exact, or at most: "<=" where calls choose keys."""
        return "<=" if any(map(is_chosen, self.choices)) else "=="

    @property
    def reasons(self) -> tuple[str, ...]:
        """For each part of each pattern: how it moves, why, and what the other ways would have moved."""
        return tuple(reasons(self))

    def plot(self, ax: Axes | None = None) -> Figure:
        """Bytes that each rank gets and sends, and pairs that it computes; and of few ranks, who sends to whom.

        Args:
            ax: matplotlib axes for the first of the two alone.

        Raises:
            TermError: `ax` is no axes.
        """
        return behind("plot of a plan for ranks")(self, ax)

    def __str__(self) -> str:
        return text(self)

    __repr__ = __str__


def plan(
    pattern: Any, n: int, ranks: int, *, kv_heads: int = 1, heads: int | None = None, head_dim: int = 64,
    value_dim: int | None = None, dtype: str = "bf16", sharding: str | Shards = "auto",
) -> Plan:  # fmt: skip
    """How attention over a long sequence is shared out among ranks, and exactly what moves between them.

    A part of a pattern moves in the cheapest way for the busiest rank:

        halo      keys that a rank's own rows attend are sent to it, of any number of other ranks
        gather    the same, where that is nearly all keys
        re-shard  q, k and v go to a layout in which the part is local, results come back and are merged by lse
        queries   queries go to the keys, results come back

    Bytes, forward, of one sequence (batch 1):

        k, v      rows a rank needs and does not hold: (D + Dv) * itemsize per key head; once, whoever needs them
        q         rows of queries that it computes for others: D * itemsize per query head
        out, lse  results that come back, of each part: Dv * itemsize + 4 per query head (float64: 8 for lse)

    Backward moves a gradient of each of these rows the other way. Counting is exact, and takes no longer for more
    tokens or ranks where there is a closed form.

    >>> import pidsl
    >>> found = plan(pidsl.window(4095), 2**20, 64, kv_heads=8, head_dim=128)
    >>> print(found)  # doctest: +ELLIPSIS
    plan: 1,048,576 tokens over 64 ranks: contiguous, 16,384 tokens a rank; 8 query heads, 8 key heads, ...
      bytes that one rank gets, at most  forward  backward
      this plan                          16.8 MB   16.8 MB
      all-gather                         4.23 GB   4.23 GB
      ring                               4.23 GB   8.46 GB
      Ulysses                                  -         -
      Ulysses: 8 query heads are not shared out among 64 ranks
      moved in all, forward: 1.06 GB
      pairs: 536,870,912 on a rank, 1.002 times the mean
      window(4095): halo: up to 4,095 keys, of 1 other rank, 16.8 MB for the busiest rank; queries 16.9 MB instead
    >>> found.between(3, 4), found.between(4, 3), found.between(4, 3, backward=True)
    (16773120, 0, 16773120)

    Args:
        pattern: a term, heads, a gate or layers, without symbols and documents; or a recipe of one. Where calls choose
            keys, all is what it is at most.
        n: tokens, the same number of queries and keys.
        ranks: how many share them.
        kv_heads: key heads.
        heads: query heads; default: as many as the pattern has heads, or as key heads.
        head_dim: elements of a row of q and of k.
        value_dim: elements of a row of v and of out; default: `head_dim`.
        dtype: bf16, fp16, fp32 or fp64, or torch's name of it.
        sharding: "contiguous", "zigzag", "classes", or which rank has which token. "auto": of these the one that moves
            least among those whose busiest rank computes at most 1.1 times the mean, in order or zigzag if one of them
            does; the most even one, if none does.

    Raises:
        SizeError: a number that is none, or out of range; `kv_heads` that does not divide `heads`; other heads than
            the pattern has.
        ArgumentError: an unknown dtype or sharding.
        TermError: no pattern, summaries, or a pattern within documents.
        SymbolError: a pattern with symbols.
        TooHardError: what moves cannot be counted.
    """
    return _planned(asked(pattern, n, ranks, kv_heads, heads, (head_dim, value_dim), dtype, sharding))


@lru_cache(maxsize=64)
@in_turn
def _planned(of: Asked) -> Plan:
    """The plan of the sharding that moves least among those that are balanced, or of the one that is most balanced."""
    best: tuple[bool, Fraction, bool, int] | None = None
    found: Plan | None = None
    failed: TooHardError | None = None
    for home in of.shardings:
        try:
            if best is not None and home.kind == "classes" and not best[0] and _at_least(of, home) >= best[3]:
                continue
            plan = _with(of, home)
            imbalance = plan.imbalance
            many = home.kind == "classes" and plan.busiest > 0  # short calls, of each class with each
            order = (imbalance > BALANCED, max(imbalance, BALANCED), many, plan.busiest)
        except TooHardError as e:
            failed = e
            continue
        if best is None or order < best:
            best, found = order, plan
    if found is None:
        raise failed or TooHardError(f"{of.pattern!r} over {of.ranks} ranks", "a sharding that can be counted")
    return found


def _at_least(of: Asked, home: Shards) -> int:
    """Bytes that the layers move at least, without what patterns have in common."""
    return max(at_least(term, home, of.widths(heads)) for layer in of.layers for term, heads in layer.heads.items())


def _with(of: Asked, home: Shards) -> Plan:
    """The plan where tokens are shared out in one way."""
    return Plan(of, home, tuple(_layer(of, layer, home) for layer in of.layers))


def _layer(of: Asked, layer: Layer, home: Shards) -> LayerPlan:
    choices = {term: choose(term, home, of.widths(heads)) for term, heads in layer.heads.items()}
    placements = {term: tuple(x.chosen.placement for x in found) for term, found in choices.items()}
    return LayerPlan(layer, choices, tuple(_flows(of, layer, home, placements)))


def _flows(of: Asked, layer: Layer, home: Shards, placements: Mapping[Term, tuple[Placement, ...]]) -> Iterator[Flow]:
    """What moves in a layer: rows that several parts need are sent once, partial results of each part go back."""
    for terms, heads in layer.by_key_head(of.group).items():
        found = keys_at_most(home, [(term, placements[term]) for term in terms], of.group)
        yield Flow("k, v", found, of.one.keys * heads)
    for terms, heads in layer.by_key_head(1).items():
        moved = {term: [x for x in placements[term] if x.move == "queries" or x.layout != home] for term in terms}
        needs = tuple((x, QUERIES) for x in _each(moved.values()))
        yield Flow("q", rows(home, needs), of.one.queries * heads)
        for x in (x for term in terms for x in moved[term]):
            yield Flow("out, lse", rows(home, ((x, QUERIES),)), of.one.results * heads, back=True)


def _each(placements: Iterable[Iterable[Placement]]) -> dict[Placement, None]:
    return dict.fromkeys(x for some in placements for x in some)
