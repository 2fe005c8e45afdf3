"""What all walks have in common: a piece of a pattern, taken in batches of equal tiles.

    walk = Band(...), Boxes(...), Listed(...), Chosen(...)  what a generated program says about a piece
    schedule = walk.schedule(Sizes(n, m, *positions))       its tiles, in segments of equal ones; remembered
    for batch in walk.batches(schedule, given):             as many tiles at a time as one call takes
        more = attention(batch.rows, batch.keys, batch.mask)
        batch.put(more, tile_ops.merge)

A batch says which rows and keys its tiles have, which pairs of them are kept and where these are; it writes what was
computed back to the rows, and adds to the gradients of its keys. The passes ask nothing else about a piece.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.runtime.call.call import Inputs
from pidsl.runtime.call.logits import TileScore
from pidsl.runtime.run_torch.key_sums import KeySums

Bound = Callable[..., Any]  # a function of a generated program, over the names that it asks for
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
MISSING: Any = object()

KNOWN_SIZES = 4  # sizes whose schedules a walk remembers
LARGEST_MASK = 1 << 22  # pairs in one mask; taller tiles are cut
KEPT_MASKS = 1 << 23  # pairs in the masks that one schedule keeps between calls,
KEPT_PER_TOKEN = 512  # and for each of its rows and keys: what is kept grows with the lengths, not with their product
KEPT_BYTES = 1 << 28  # in the masks of all schedules together; the oldest go first


class Sizes(NamedTuple):
    """What the bounds of a program depend on in a call."""

    n: int
    m: int
    offset: int
    key_offset: int = 0

    @property
    def names(self) -> dict[str, Any]:
        """By name, for the functions of a program."""
        return {name: np.int64(x) for name, x in self._asdict().items()}


# -- masks, and how long they are kept ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mask:
    """The pairs that every tile of a segment keeps."""

    bias: Tensor  # [..., height, width] 0 where kept, -inf elsewhere
    dead: Tensor | None  # [..., height] 0, -inf for rows that keep nothing; None when every row keeps a key

    @property
    def keep(self) -> Tensor:
        """The pairs, as booleans."""
        return self.bias == 0


class Masks(dict[Hashable, Mask | None]):
    """The masks that a segment keeps between calls."""

    __slots__ = ("__weakref__",)

    def keep(self, key: Hashable, mask: Mask | None) -> None:
        """Keep a mask, and let go of the oldest of all segments where they are too many."""
        global _kept_bytes
        self[key] = mask
        if mask is None:
            return
        size = mask.bias.nbytes
        with _keeping:
            _kept.append((ref(self), key, size))
            _kept_bytes += size
            while _kept_bytes > KEPT_BYTES:
                owner, oldest, less = _kept.popleft()
                _kept_bytes -= less
                if (found := owner()) is not None:
                    found.pop(oldest, None)


_kept: deque[tuple[ref[Masks], Hashable, int]] = deque()
_kept_bytes = 0
_keeping = Lock()


def mask_of(keep: Bools, dtype: torch.dtype, device: torch.device) -> Mask | None:
    """The mask that keeps these pairs of a tile; None when it keeps all."""
    if keep.all():
        return None
    kept = torch.from_numpy(keep).to(device)
    some = kept.any(-1)
    bias = torch.zeros(kept.shape, dtype=dtype, device=device).masked_fill_(~kept, -torch.inf)
    dead = torch.zeros(some.shape, dtype=dtype, device=device).masked_fill_(~some, -torch.inf)
    return Mask(bias, None if bool(some.all()) else dead)


# -- schedules ---------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False, kw_only=True)
class Segment:
    """Equal tiles of a schedule, and their mask.

    Args:
        visited: keys in all tiles.
        masked: elements of the mask, 0 where there is none.
        pairs: those to keep of every tile, `[..., rows, keys]`; None when all are kept.
    """

    visited: int
    masked: int = 0
    pairs: Callable[[], Bools] | None = None
    masks: Masks = field(default_factory=Masks, init=False, repr=False)
    remember: bool = field(default=False, init=False)  # keep the masks between calls
    name: Hashable = field(default=None, init=False)  # among segments that share their masks

    def keep(self) -> Bools:
        """The pairs to keep of every tile."""
        assert self.pairs is not None
        return self.pairs()

    def mask(self, x: Tensor, members: int = 1) -> Mask | None:
        """The mask of every tile, on the device and in the dtype of x; None when all pairs are kept.

        Args:
            x: a tensor.
            members: query heads whose rows lie above each other in a tile.
        """
        if not self.masked:
            return None
        key = self.name, x.dtype, x.device, members
        mask = self.masks.get(key, MISSING)
        if mask is MISSING:
            keep = self.keep()
            mask = mask_of(keep if members == 1 else np.tile(keep, (members, 1)), x.dtype, x.device)
            if self.remember or mask is None:
                self.masks.keep(key, mask)
        return mask


S = TypeVar("S", bound=Segment)


@dataclass(frozen=True, slots=True)
class Schedule(Generic[S]):
    """The tiles of a walk for some sizes.

    Args:
        segments: the tiles, those that are equal together.
        visited: keys in all of them.
        written: rows that a first piece need not find cleared.
    """

    segments: tuple[S, ...]
    visited: int
    written: int


@dataclass(frozen=True, slots=True)
class Walk(Generic[S]):
    """A piece of a pattern, as a generated program states it."""

    _known: dict[Sizes, Schedule[S]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def schedule(self, sizes: Sizes) -> Schedule[S]:
        """The tiles that there are, each once; remembered for the sizes of the last few calls."""
        known = self._known.pop(sizes, None)
        if known is None:
            segments = tuple(self.cut(sizes))
            left = min(KEPT_MASKS, KEPT_PER_TOKEN * (sizes.n + sizes.m))
            for s in segments:
                s.remember = s.masked <= left
                left -= s.masked if s.remember else 0
            known = Schedule(segments, sum(s.visited for s in segments), self.written(segments, sizes))
            for oldest in list(self._known)[: 1 - KNOWN_SIZES]:
                self._known.pop(oldest, None)
        self._known[sizes] = known
        return known

    def cut(self, sizes: Sizes) -> Iterator[S]:
        """The segments that together visit every tile once."""
        raise NotImplementedError

    def written(self, segments: Sequence[S], sizes: Sizes) -> int:
        """How many rows batches that are `fresh` write."""
        return 0


# -- what a pass gives them -------------------------------------------------------------------------------------


class Operands:
    """What a pass reads and changes, and how large its calls may be."""

    sizes: Sizes
    batch: int
    heads: int
    kv_heads: int
    group: int  # query heads that share a key head
    columns: int  # of everything
    many: bool  # all keys are in form, for tiles meet a good part of them
    inputs: Inputs  # beside q, k and v
    scale: float
    score: TileScore
    places: tuple[Tensor, Tensor, Tensor] | None  # [B, Hq, n] position, head and stream, where asked for
    rows: tuple[Tensor, ...]  # read, [B, Hq, n, ...]: q; and in the backward pass out, grad_out and lse
    keys: tuple[Tensor, ...]  # read, [B, Hkv, m, D]: k and v
    results: tuple[Tensor, ...]  # changed, [B, Hq, n, ...]: out and lse, or dq
    sums: tuple[KeySums, ...] = ()  # changed, shaped like the keys: dk and dv
    started: bool  # the results may hold something in any row
    learned: bool = False  # the score learns from the gradients of the logits
    exact: bool  # what is not finite has been met: rows that do not exist must be masked, too

    @property
    def native(self) -> bool:
        """Whether torch's flash operation does the work, and nothing is added to the logits."""
        raise NotImplementedError

    def fit(self, x: Tensor) -> Tensor:
        """Keys or values in the form of the rows."""
        raise NotImplementedError

    def at_once(self, height: int, width: int) -> int:
        """How many tiles of so many rows and keys one call takes."""
        raise NotImplementedError
