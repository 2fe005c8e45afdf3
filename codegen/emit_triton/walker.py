"""What a kernel asks of a walk: the positions of its program, loops over the tiles that it meets, and their masks.

There is one class for each kind of walk (`runs`, `boxes`, `lists`, `lags`). A walk opens its loops, puts the positions
of a tile inside and yields; what is done with a tile is put there by the pass (`pidsl.codegen.emit_triton.kernels`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.masks import Mask, side
from pidsl.codegen.emit_triton.reach import Limits, Met
from pidsl.codegen.plan.walks import Walk
from pidsl.relation.frame import Frame

W = TypeVar("W", bound=Walk)


class Tile(NamedTuple):
    """A tile of the other dimension, inside its loop."""

    keep: str = ""  # the mask of its pairs; "" where all that exist are kept
    full: bool = False  # every pair is kept, and swept keys exist
    exists: str = "inside"  # which of its rows (keys) exist
    lag: int | None = None  # of the one key (row) that each row (key) of the program meets,
    at: str = "j"  # which stands there, where `ok`


class Walker(ABC, Generic[W]):
    """The lines of one walk.

    Args:
        number: of the piece in the plan.
        walk: what is walked.
        masks: which of the pairs visited are in the piece.
        frame: where keys stand.
        of_heads: the piece belongs to some query heads.
    """

    def __init__(self, number: int, walk: W, masks: tuple[Mask, ...], frame: Frame, of_heads: bool) -> None:
        self.number, self.walk, self.masks, self.frame, self.of_heads = number, walk, masks, frame, of_heads
        self.over_keys = walk.over == "keys"  # programs own rows and meet keys
        self.owned, self.swept = side(frame, rows=self.over_keys), side(frame, rows=not self.over_keys)

    @property
    def to_index(self) -> str:
        """A line that brings the numbers of a call into the dtype of indices."""
        return f"{self.frame.parameters} = {', '.join(f'{name}.to(INDEX)' for name in self.frame.names)}"

    @abstractmethod
    def own(self, out: Lines, heads: str) -> None:
        """Put which tile, head and batch entry the program has, its positions and which of them exist."""

    @abstractmethod
    def tiles(self, out: Lines) -> Iterator[Tile]:
        """Open a loop over the tiles that the program meets; yield inside, where their positions are."""

    def met(self) -> Iterator[Met]:
        """What the program computes beside its masks, and how large the variables in it get."""
        yield self.owned.stop, {}

    def limits(self, axis: int = 0) -> Limits:
        """How large the variables of a mask get."""
        return {}

    @property
    @abstractmethod
    def pad(self) -> int:
        """How far past the end the rows and keys of a tile can lie."""

    def kept(self, *names: tuple[str, str]) -> str:
        """The mask of a tile, whose rows and keys have these names in each of `masks`."""
        rows, keys = ("[:, None]", "[None, :]") if self.over_keys else ("[None, :]", "[:, None]")
        calls = (
            mask.call({"a": a + rows, "b": b + keys, "r": a + rows, "j": b + keys})
            for mask, (a, b) in zip(self.masks, names, strict=True)
            if not mask.everything
        )
        return " & ".join(calls) or ("inside[None, :]" if self.over_keys else "live[None, :]")
