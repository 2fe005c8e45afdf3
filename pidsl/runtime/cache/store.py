"""What a cache asks of the tensors that hold its keys, and the lives of keys on the device.

    store ::= slots    a row for each slot, `slot(p)` a closed function of the position     (slots.py)
            | pages    pages of consecutive positions, found through a table                (pages.py)

A store knows no tokens: the cache says which positions are written, how many there are, and since when rows may ask.
Its operations have shapes that depend on nothing but its size and the number of new keys, and never wait for the
device: they can be traced once for all steps, and captured in a CUDA graph.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pidsl.relation.lives import Lives, LivesProof
from pidsl.relation.slots import SlotProof
from pidsl.runtime.call.segments import Pages, Slots


class Form(NamedTuple):
    """Sizes of what is held for each batch entry and key head."""

    batch: int
    heads: int
    head_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token, in all heads of one batch entry."""
        return self.heads * (self.head_dim + self.value_dim) * self.dtype.itemsize


class Times(NamedTuple):
    """How far each batch entry has come, int64 [B]."""

    tokens: Tensor  # there are
    row: Tensor  # the first that may still ask


class Store(Protocol):
    """Keys and values of the positions that may still be asked for."""

    @property
    def keys(self) -> Tensor:
        """As programs take them, with `keys_at`."""

    @property
    def values(self) -> Tensor:
        """Like keys."""

    @property
    def keys_at(self) -> Slots | Pages:
        """Where the key of each position lies."""

    def positions(self, tokens: Tensor) -> Tensor:
        """int32 [B, rows]: the position of the key in each row, -1 for none."""

    @property
    def nbytes(self) -> int:
        """Of all tensors that grow with the number of keys held."""

    @property
    def proof(self) -> LivesProof | SlotProof:
        """That no key is lost that a row may ask for."""

    @property
    def kept(self) -> str:
        """What is kept, in a line."""

    def fits(self, tokens: int) -> bool:
        """Whether there is room for so many tokens in each batch entry."""

    def grow(self, tokens: int) -> None:
        """Make room for so many tokens in each batch entry."""

    def write(self, k: Tensor, v: Tensor, at: Tensor, real: Tensor, times: Times) -> None:
        """Take over keys [B, H, t, D] at positions `at` [B, t] where they are `real` [B, t]; `times` after that."""

    def forget(self, times: Times) -> None:
        """Let go of what lies behind the tokens."""

    def reorder(self, entries: Tensor) -> None:
        """Make batch entry b what `entries[b]` is."""

    def clear(self) -> None:
        """Let go of everything."""

    def explain(self) -> str:
        """What it holds, and why that is enough."""


class LivesOnDevice:
    """`lives` for tensors of positions."""

    def __init__(self, lives: Lives, device: torch.device) -> None:
        self.start, self.period = len(lives.first), len(lives.classes)
        self.one = self.start == 0 and self.period == 1  # life for all; torch may trace the numbers as symbols
        self.table = torch.tensor([*lives.first, *lives.classes], dtype=torch.int64, device=device)

    def ends(self, positions: Tensor) -> Tensor:
        """The last row that asks for the key of each position, int64."""
        if self.one:
            return positions + self.table
        later = self.start + (positions - self.start) % self.period
        return positions + self.table[torch.where(positions < self.start, positions, later)]
