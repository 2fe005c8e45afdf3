"""The walks of a plan's kernels, and what all of them share: which rows and keys are attended, and their loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pidsl.codegen.emit_triton.boxes import BoxesWalker
from pidsl.codegen.emit_triton.lags import LagsWalker
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.lists import ListedWalker
from pidsl.codegen.emit_triton.masks import Mask, keep_masks, load_mask
from pidsl.codegen.emit_triton.reach import Met
from pidsl.codegen.emit_triton.runs import RunsWalker
from pidsl.codegen.emit_triton.walker import Tile, Walker
from pidsl.codegen.plan.heads import of_group
from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.stages import Stage
from pidsl.codegen.plan.walks import Boxes, Lags, Listed, Pass, Runs
from pidsl.language.algebra import settled
from pidsl.language.expr import Pred, Truth

WALKERS: dict[type, type[Walker[Any]]] = {
    Runs: RunsWalker, Boxes: BoxesWalker, Listed: ListedWalker, Lags: LagsWalker
}  # fmt: skip
PASSES: tuple[Pass, ...] = ("forward", "grad_query", "grad_key")


class Walks:
    """Walks over the pieces of a plan.

    Attributes:
        careful: tiles ask their masks which keys are attended.
    """

    def __init__(self, plan: Plan) -> None:
        self.careful = not plan.attended_exact
        self._keeps = [keep_masks(number, piece) for number, piece in enumerate(plan.pieces)]
        self._walkers: dict[tuple[int, Pass], Walker[Any]] = {}
        for number, piece in enumerate(plan.pieces):
            for task in PASSES:
                walk = piece.walk(task)
                made = WALKERS[type(walk)](number, walk, self._keeps[number], plan.frame, plan.of_heads)
                self._walkers[number, task] = made
        doc = "Keys that some row attends; the others are never read."
        self._attended_keys = _attended("_key_attended", doc, plan.attended_keys)
        self._attended_rows = _attended("_row_attended", "Rows that attend some key.", plan.attended_rows)
        self._attended_by_group = self._attended_keys
        if plan.of_heads and plan.attended_keys is not None:
            doc = "Keys that some head of a group attends."
            self._attended_by_group = _attended("_key_attended_by", doc, of_group(plan.attended_keys))

    @property
    def _attended(self) -> tuple[Mask, ...]:
        return tuple(dict.fromkeys((self._attended_keys, self._attended_by_group, self._attended_rows)))

    def masks(self) -> Iterator[str]:
        """The functions that say which pairs, keys and rows there are."""
        kept = (mask for masks in self._keeps for mask in masks)
        return (mask.source() for mask in (*kept, *self._attended) if not mask.everything)

    def met(self) -> Iterator[Met]:
        """What the programs compute, and how large the variables in it get."""
        yield from ((mask.pred, {}) for mask in self._attended)
        for (_, task), walker in self._walkers.items():
            yield from walker.met()
            if task == "forward":  # a mask is the same in all passes, and the tiles of no other pass are larger
                yield from ((mask.pred, walker.limits(axis)) for axis, mask in enumerate(walker.masks))

    @property
    def pad(self) -> int:
        """How far past the end the rows and keys of a tile can lie."""
        return max((walker.pad for walker in self._walkers.values()), default=0)

    def own(self, out: Lines, stage: Stage, heads: str) -> None:
        """Which class, tile, head and batch entry the program has, and its positions."""
        self._walkers[stage.pieces[0][0], stage.task].own(out, heads)

    def live(self, name: str, exists: str, position: str) -> Iterator[str]:
        """A line that says which rows r exist and attend something, or which keys j exist and are attended."""
        return _masked(name, exists, position, self._attended_rows if position == "r" else self._attended_keys)

    def live_keys_of_group(self, name: str, exists: str) -> Iterator[str]:
        """A line that says which keys j exist and are attended by some head of a group."""
        return _masked(name, exists, "j", self._attended_by_group)

    def over_keys(self, out: Lines, number: int, task: Pass) -> Iterator[Tile]:
        """The tiles of a walk, with their keys and values loaded."""
        for tile in self._walkers[number, task].tiles(out):
            if tile.full:
                out.put("key = _load(keys, j, k_r, k_d, D, D_PAD)", "value = _load(values, j, v_r, v_d, V, V_PAD)")
                yield tile
                continue
            ok, at = ("live", "j") if tile.lag is None else ("ok", tile.at)
            loads = (
                f"key = _load_where({ok}, keys, {at}, k_r, k_d, D, D_PAD)",
                f"value = _load_where({ok}, values, {at}, v_r, v_d, V, V_PAD)",
            )
            if tile.lag is not None:
                out.put(*loads)
            elif self.careful:
                out.put(f"keep = {tile.keep}", "live = inside & _met(keep & inside[None, :], exists)", *loads)
            else:
                out.put(*self.live("live", "inside", "j"), *loads, f"keep = {tile.keep}")
            yield tile

    def over_rows(self, out: Lines, number: int) -> Iterator[Tile]:
        """The tiles of rows of a walk, with those that are `live` told."""
        for tile in self._walkers[number, "grad_key"].tiles(out):
            if tile.lag is None:
                out.put(*([f"live = {tile.exists}"] if tile.full else self.live("live", tile.exists, "r")))
            careful = tile.keep and self.careful
            yield tile._replace(keep=f"({tile.keep}) & live[None, :]") if careful else tile


def _masked(name: str, exists: str, position: str, attended: Mask) -> Iterator[str]:
    if attended.everything:
        yield f"{name} = {exists}"
    else:
        call = attended.call({"r": position, "j": position})
        both = f"({exists}) & {call}" if " " in exists else f"{exists} & {call}"
        yield f"{name} = {load_mask(both, [attended.pred])}"


def _attended(function: str, doc: str, given: Pred | None) -> Mask:
    return Mask.of(function, doc, Truth(True) if given is None else settled(given))
