"""What is launched for the sequences of a ragged call: by bounds that the host knows, whatever the table holds.

Sequences stand in for batch entries: a launch has programs for as many tiles as the longest sequence may have, of each
sequence, and those without rows end at once. Where one long sequence could have nearly all rows, that would be far too
many; then a kernel lists the tiles that exist (`library.list_tiles`), and there are programs for as many as all
sequences together may have.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pidsl.runtime.call.segments import Pages, Segments, Slots

SORTED = 1024  # sequences whose tiles are listed in the order of their length
BLOCK = 64  # tiles that a program lists


class Bounds(NamedTuple):
    """`Segments` without what stands on the device.

    Args:
        rows, keys, all_rows, all_keys, moved, square, whole, stop, apart: those of `Segments`.
        keys_at: "slots" or "pages", and the prefix or the size of a page; None for keys in their order.
    """

    rows: int
    keys: int
    all_rows: int
    all_keys: int
    moved: bool
    square: bool
    whole: bool
    stop: int | None
    keys_at: tuple[str, int] | None
    apart: bool = False

    @classmethod
    def of(cls, x: Segments) -> Bounds:
        """Those of a table."""
        keys_at: tuple[str, int] | None
        match x.keys_at:
            case Slots(_, prefix, _):
                keys_at = "slots", prefix
            case Pages(_, size):
                keys_at = "pages", size
            case None:
                keys_at = None
        return cls(x.rows, x.keys, x.all_rows, x.all_keys, x.moved, x.square, x.whole, x.stop, keys_at, x.apart)

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """n, m, offset and key_offset of the longest sequence there may be, whose last row stands at its last key."""
        return self.rows, self.keys, 0 if self.square else max(self.keys - self.rows, 0), 0

    @property
    def longest(self) -> int | None:
        """The largest number in the table, but for rows and keys of a batch entry; None where nobody knows."""
        stop = 0 if self.square else self.stop
        return None if stop is None else max(self.rows, self.keys, stop)


def tensors(x: Segments) -> dict[str, Tensor]:
    """What stands on the device, by the names that kernels have for it."""
    match x.keys_at:
        case Slots(table, _, positions):
            return {"segments": x.table, "key_table": table, "held": positions}
        case Pages(table, _):
            return {"segments": x.table, "key_table": table}
    return {"segments": x.table}


class Tiles(NamedTuple):
    """Into which tiles the rows (keys) of a sequence fall.

    Args:
        size: positions of one, those of all classes together.
        classes: that a long sequence has.
        beside: so many for every `size` positions.
        end: the first position that no tile holds; None: there are tiles for all.
        moved: they begin at multiples of `size`, wherever the sequence begins; else the first begins with it.
        checked: programs of tiles that a sequence has not see that themselves; where they are not `moved`, all do.
    """

    size: int
    classes: int = 1
    beside: int = 1
    end: int | None = None
    moved: bool = False
    checked: bool = False

    def most(self, length: int, *, from_0: bool) -> int:
        """Tiles of a class of a sequence, at most; `from_0`: its first position is 0."""
        if length == 0:
            return 0
        found = -(-length // self.size) if from_0 or not self.moved else (length + self.size - 2) // self.size + 1
        return self.beside * (found if self.end is None else min(found, -(-self.end // self.size)))

    def most_of_all(self, sequences: int, length: int) -> int:
        """Tiles of all classes of all sequences, which have so many positions together, at most."""
        each = 2 if self.moved else 1
        return self.beside * (min(sequences * each * self.classes, length * each) + self.classes * length // self.size)


class Programs(NamedTuple):
    """How programs of a launch are numbered.

    Args:
        tiles, classes, pairs: how many of each there are.
        listed: the buffer with the table of tiles that exist, all of which count as tiles then.
    """

    tiles: int
    classes: int
    pairs: int
    listed: str | None = None

    @property
    def grid(self) -> int:
        """All of them."""
        return self.tiles * self.classes * self.pairs
