"""What a walk contributes to a Triton program: device functions for a kernel of the library.

There is one class for each kind of walk (`runs`, `boxes`, `lists`, `lags`). Its `walk` is a function of the loops over
the tiles that a program meets; what is done with a tile is handed to it (`DO`, see `library`). Its `own` says which
rows (keys) a program owns, where the library's `_own` does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from pidsl.codegen.emit_triton.lines import Lines, function
from pidsl.codegen.emit_triton.masks import Mask, side
from pidsl.codegen.emit_triton.reach import Limits, Met
from pidsl.codegen.plan.walks import Walk
from pidsl.relation.frame import Frame

W = TypeVar("W", bound=Walk)
PLACE = "head, n, m, offset, key_offset"  # what the library tells device functions of a call
Named = Callable[[str, Callable[[str], str]], str]  # adds a function, made for its name; the name that it got


class Walker(ABC, Generic[W]):
    """The device functions of one walk.

    Args:
        number: of the piece in the plan.
        walk: what is walked.
        masks: which of the pairs visited are in the piece.
        frame: where keys stand.
    """

    def __init__(self, number: int, walk: W, masks: tuple[Mask, ...], frame: Frame) -> None:
        self.number, self.walk, self.masks, self.frame = number, walk, masks, frame
        self.over_keys = walk.over == "keys"  # programs own rows and meet keys
        self.owned, self.swept = side(frame, rows=self.over_keys), side(frame, rows=not self.over_keys)

    def put(self, named: Named, name: str) -> dict[str, str]:
        """Add the device functions of the walk; its fields, see `library.Walk`."""
        for mask in self.masks:
            if not mask.everything:
                named(mask.function, mask.source)
        return {"LOOPS": named(name, self._source)}

    def _source(self, name: str) -> str:
        """The function LOOPS of a walk."""
        out, own = Lines(), self.owned
        out.put("@triton.jit")
        head = f"WALK: tl.constexpr, DO: tl.constexpr, task, state, split, t, {own.of_class}, {own.letter}"
        with out.block(f"def {name}({head}, KIND: tl.constexpr):"):
            out.put(f'"""{self.doc}"""', f"{PLACE} = task[2]")
            self.loops(out)
            out.put("return state")
        return str(out)

    @property
    @abstractmethod
    def doc(self) -> str:
        """What a program meets."""

    def loops(self, out: Lines) -> None:
        """Put the loops."""
        raise NotImplementedError

    def own_source(self, name: str) -> str:
        """The function that says which rows (keys) a program owns; "": those of a tile of a class."""
        out = Lines()
        indices = self.put_own(out)
        if not indices:
            return ""
        what = "rows" if self.over_keys else "keys"
        doc = f"Tile t of piece {self.number}: its {what}, which of them exist, and what its walk knows of them."
        head = f"{name}(t, length, first, table, KIND: tl.constexpr)"
        return function(head, doc, *str(out).splitlines(), f"return {self.owned.name}, exists, ({', '.join(indices)})")

    def put_own(self, out: Lines) -> list[str]:
        """Put the lines of `own_source` on rows r (keys j) and `exists`; the names that its walk wants."""
        return []

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
        """The mask of a tile, whose own and met positions have these names in each of `masks`; keys are `inside`."""
        calls = []
        for mask, (own, met) in zip(self.masks, names, strict=True):
            if not mask.everything:
                own, met = f"{own}[:, None]", f"{met}[None, :]"
                a, b = (own, met) if self.over_keys else (met, own)
                calls.append(mask.call({"a": a, "b": b, "r": a, "j": b, "q_head": "head"}))
        return " & ".join([*calls, *["inside[None, :]"] * self.over_keys]) or "None"
