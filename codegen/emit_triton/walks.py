"""The walks of a plan's kernels, and what all of them share: which rows and keys are attended, and their loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pidsl.codegen.emit_triton.boxes import BoxesWalker
from pidsl.codegen.emit_triton.lags import LagsWalker
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.lists import ListedWalker
from pidsl.codegen.emit_triton.masks import Mask, keep_masks
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


class Walks:
    """Walks over the pieces of a plan.

    Attributes:
        careful: tiles ask their masks which keys are attended.
        attended_rows, attended_keys, attended_by_group: rows that attend some key, and keys that some row attends, of
            one query head or of a group of them.
    """

    def __init__(self, plan: Plan) -> None:
        self.careful = not plan.attended_exact
        self._keeps = [keep_masks(number, piece) for number, piece in enumerate(plan.pieces)]
        self._walkers: dict[tuple[int, Pass], Walker[Any]] = {}
        for number, piece in enumerate(plan.pieces):
            for task in get_args(Pass):
                walk = piece.walk(task)
                made = WALKERS[type(walk)](number, walk, self._keeps[number], plan.frame, plan.of_heads)
                self._walkers[number, task] = made
        doc = "Keys that some row attends; the others are never read."
        self.attended_keys = self.attended_by_group = _attended("_key_attended", doc, plan.attended_keys)
        self.attended_rows = _attended("_row_attended", "Rows that attend some key.", plan.attended_rows)
        if plan.of_heads and plan.attended_keys is not None:
            doc = "Keys that some head of a group attends."
            self.attended_by_group = _attended("_key_attended_by", doc, of_group(plan.attended_keys))

    @property
    def _attended(self) -> tuple[Mask, ...]:
        return tuple(dict.fromkeys((self.attended_keys, self.attended_by_group, self.attended_rows)))

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

    def over_keys(self, out: Lines, number: int, task: Pass) -> Iterator[Tile]:
        """The tiles of a walk, with their keys and values loaded."""
        for tile in self._walkers[number, task].tiles(out):
            load = "_load(" if tile.full else "_load_where(live, " if tile.lag is None else "_load_where(ok, "
            loads = (
                f"key = {load}keys, {tile.at}, k_r, k_d, D, D_PAD)",
                f"value = {load}values, {tile.at}, v_r, v_d, V, V_PAD)",
            )
            if tile.full or tile.lag is not None:
                out.put(*loads)
            elif self.careful:
                out.put(f"keep = {tile.keep}", "live = inside & _met(keep & inside[None, :], exists)", *loads)
            else:
                out.put(self.attended_keys.line("live", "inside"), *loads, f"keep = {tile.keep}")
            yield tile

    def over_rows(self, out: Lines, number: int) -> Iterator[Tile]:
        """The tiles of rows of a walk, with those that are `live` told."""
        for tile in self._walkers[number, "grad_key"].tiles(out):
            if tile.lag is None:
                live = f"live = {tile.exists}" if tile.full else self.attended_rows.line("live", tile.exists)
                out.put(live)
            careful = tile.keep and self.careful
            yield tile._replace(keep=f"({tile.keep}) & live[None, :]") if careful else tile


def _attended(function: str, doc: str, given: Pred | None) -> Mask:
    return Mask.of(function, doc, Truth(True) if given is None else settled(given))
