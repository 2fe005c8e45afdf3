"""A store with a row for each slot: k and v `[B, Hkv, slots, D]`."""

from __future__ import annotations

import torch
from torch import Tensor

from pidsl.relation.lives import FOREVER
from pidsl.relation.slots import GROWS, SlotFunction, SlotProof
from pidsl.runtime.cache.store import Form, LivesOnDevice, Times
from pidsl.runtime.call.segments import Slots

PAGE = 256  # slots by which a store grows: attention reads all slots for each token, to copy them so seldom is nothing


class SlotStore:
    """Slots of a proved slot function. One more row than slots takes what is not kept.

    Args:
        function: the slots.
        form: what is held for each key.
        tokens: how many there will be at most; None: it grows.
    """

    def __init__(self, function: SlotFunction, form: Form, tokens: int | None) -> None:
        self.function, self.form, self.fixed = function, form, tokens is not None
        self.lives = LivesOnDevice(function.lives, form.device)
        rooms = torch.tensor(function.rooms, dtype=torch.int64, device=form.device)
        self.rooms = rooms[:, :4].clamp(max=GROWS)
        self.table = self.rooms.to(torch.int32).contiguous()
        self.slots = function.width(tokens or 0)
        self._k, self._v, self._at = self._empty(self.slots)

    def _empty(self, slots: int) -> tuple[Tensor, Tensor, Tensor]:
        f, rows = self.form, slots + 1
        k = torch.zeros(f.batch, f.heads, rows, f.head_dim, dtype=f.dtype, device=f.device)
        v = torch.zeros(f.batch, f.heads, rows, f.value_dim, dtype=f.dtype, device=f.device)
        return k, v, torch.full((f.batch, rows), -1, dtype=torch.int32, device=f.device)

    @property
    def keys(self) -> Tensor:
        """[B, Hkv, slots, D]."""
        return self._k[:, :, : self.slots]

    @property
    def values(self) -> Tensor:
        """[B, Hkv, slots, Dv]."""
        return self._v[:, :, : self.slots]

    @property
    def keys_at(self) -> Slots:
        return Slots(self.table, self.function.prefix, self._at[:, : self.slots])

    def positions(self, tokens: Tensor) -> Tensor:
        return self._at[:, : self.slots]

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self._k, self._v, self._at))

    def slot(self, positions: Tensor) -> Tensor:
        """The slot of each position, int64."""
        prefix, period = self.function.prefix, len(self.function.rooms)
        later = (positions - prefix).clamp(min=0)
        base, many, rank, size = self.rooms[later % period].unbind(-1)
        found = base + (later // period * many + rank) % size
        return torch.where(positions < prefix, positions, found) if prefix else found

    def fits(self, tokens: int) -> bool:
        return self.fixed or self.function.width(tokens) <= self.slots

    def grow(self, tokens: int) -> None:
        if self.fits(tokens):
            return
        slots = self.function.width(tokens)
        slots = min(-(-slots // PAGE) * PAGE, self.function.width(FOREVER))
        held = self._k, self._v, self._at
        self._k, self._v, self._at = self._empty(slots)
        for new, old in zip((self._k, self._v), held, strict=False):
            new[:, :, : self.slots] = old[:, :, : self.slots]
        self._at[:, : self.slots] = held[2][:, : self.slots]
        self.slots = slots

    def write(self, k: Tensor, v: Tensor, at: Tensor, real: Tensor, times: Times) -> None:
        kept = real & (self.lives.ends(at) >= times.row[:, None])
        slot = torch.where(kept, self.slot(at), self.slots)
        batch = torch.arange(self.form.batch, device=at.device)[:, None]
        if at.shape[1] > self.slots:  # more keys than slots: look for the key of each slot
            new = torch.full_like(self._at, -1, dtype=torch.int64)
            new[batch, slot] = torch.arange(at.shape[1], device=at.device).expand_as(slot)
            new[:, self.slots] = -1
            there, source = new >= 0, new.clamp(min=0)
            for held, given in ((self._k, k), (self._v, v)):
                row = source[:, None, :, None].expand(*held.shape)
                held.copy_(torch.where(there[:, None, :, None], given.gather(2, row), held))
            self._at.copy_(torch.where(there, at.gather(1, source).to(torch.int32), self._at))
            return
        self._k[batch, :, slot] = k.transpose(1, 2)
        self._v[batch, :, slot] = v.transpose(1, 2)
        self._at[batch, slot] = torch.where(kept, at, -1).to(torch.int32)

    def forget(self, times: Times) -> None:
        self._at.masked_fill_(self._at >= times.tokens[:, None], -1)

    def reorder(self, entries: Tensor) -> None:
        for held in (self._k, self._v, self._at):
            held.copy_(held.index_select(0, entries))

    def clear(self) -> None:
        self._at.fill_(-1)

    @property
    def proof(self) -> SlotProof:
        """That no two live keys share a slot and none is lost."""
        return self.function.proof

    @property
    def kept(self) -> str:
        """What is kept, in a line."""
        f = self.function
        if len(f.rooms) == 1 and f.rooms[0].size == GROWS and not f.prefix:
            return "all keys"
        slots = f"{f.fixed} slot{'s' * (f.fixed != 1)}"
        return slots if f.bounded else f"{slots} and {self.growth} of each {len(f.rooms)} keys"

    @property
    def growth(self) -> int:
        """How many of the keys of a period are kept for ever."""
        return sum(room.size == GROWS for room in self.function.rooms)

    def explain(self) -> str:
        f = self.function
        lines = [f"slot(p) = p for p < {f.prefix}"] if f.prefix else []
        shown: dict[tuple[int, int, int], list[int]] = {}
        for c, room in enumerate(f.rooms):
            if f.writes(room):
                shown.setdefault((room.base, room.size, room.life), []).append(c)
        for (base, size, life), classes in sorted(shown.items()):
            some = f"p mod {len(f.rooms)} in {_listed([(c + f.prefix) % len(f.rooms) for c in classes])}"
            which = "all others" if f.prefix else "all keys"
            held = which if len(f.rooms) == 1 else some
            ring = f"a ring of {size} slot{'s' * (size > 1)} from {base} on; asked for until {life} rows later"
            lines.append(f"{held}: " + (f"slots from {base} on, for ever" if size == GROWS else ring))
        if dead := [c for c, room in enumerate(f.rooms) if not f.writes(room)]:
            lines.append(f"{len(dead)} of {len(f.rooms)} classes are never asked for, and not kept")
        return "\n".join([*lines, f"proof: {f.proof.summary}"])


def _listed(classes: list[int]) -> str:
    shown = ", ".join(map(str, sorted(classes)[:8]))
    return f"{shown}, ... ({len(classes)} classes)" if len(classes) > 8 else shown
