"""The lines of a Triton kernel about runs of tiles: which tile of a class a program owns, and loops over others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

from pidsl.codegen.emit_triton.expr import index_source, pred_source
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.masks import Side, constant_classes
from pidsl.codegen.emit_triton.reach import Limits, Met, ratio
from pidsl.codegen.emit_triton.walker import Tile, Walker
from pidsl.codegen.plan.walks import LARGEST_TILE, Lags, Run, Runs
from pidsl.language.algebra import plus, plus_one, settled, times
from pidsl.language.expr import Index, Truth, Var, show, substitute

C = TypeVar("C", Runs, Lags)


class OfClasses(Walker[C]):
    """A walk whose programs own tiles of classes."""

    @property
    def gap(self) -> tuple[str, ...]:
        """A line before the piece, which may share its kernel; of keys that are swept the pass has put one."""
        return () if self.over_keys else ("",)

    def step(self, side: Side) -> int:
        """Between the positions of one class."""
        return self.walk.layout.query_step if side.name == "r" else self.walk.layout.key_step

    def class_of(self, side: Side) -> Index:
        """The class of its positions, as that of the other side has it."""
        layout = self.walk.layout
        return layout.row_class_of(Var("d")) if side.name == "r" else layout.key_class_of(Var("c"))

    def own(self, out: Lines, heads: str) -> None:
        layout, step, tile, length = self.walk.layout, self.step(self.owned), self.walk.owned, self.owned.length
        name = self.owned.of_class
        per_class = length if step == 1 else f"tl.cdiv({length}, {step})"
        out.put(f"tiles = tl.cdiv({per_class}, {tile})", "program = tl.program_id(0)")
        out.put("t = (program % tiles).to(INDEX)")
        if layout.linked:
            out.put(f"{name} = (program // tiles % {step}).to(INDEX)", f"program = program // {step}")
        out.put(f"head = program // tiles % {heads}", f"batch = program // tiles // {heads}")
        out.put(self.to_index)
        own_class: Index = Var(name) if layout.linked else self.class_line(out, self.owned)
        if step > 1:
            start = show(plus(times(Var("t"), step * tile), own_class))
            with out.block(f"if {start} >= {length}:  # the last tile of a short class"):
                out.put("return")
        if self.of_heads and self.over_keys:
            out.put("q_head = head")
        self.put_positions(out, self.owned, f"t * {tile} + tl.arange(0, {tile})", own_class)
        out.put(f"exists = {self.owned.name} < {length}")

    @property
    def of_classes(self) -> Limits:
        """How large classes get."""
        return {"c": (self.walk.layout.query_step, 0), "d": (self.walk.layout.key_step, 0)}

    def met(self) -> Iterator[Met]:
        if not self.walk.layout.linked:
            yield self.class_of(self.owned), self.of_classes

    def class_line(self, out: Lines, side: Side) -> Index:
        """The class of a side when it is a number; else a line that computes it, and its name."""
        value = self.class_of(side)
        if isinstance(value, int):
            return value
        out.put(f"{side.of_class} = {index_source(value)}")
        return Var(side.of_class)

    def put_positions(self, out: Lines, side: Side, inside: str, own_class: Index) -> None:
        """The rows (keys) of a tile; their indices inside the class have a name of their own where they differ."""
        step = self.step(side)
        if step == 1:
            out.put(f"{side.name} = {inside}")
        else:
            position = plus(times(Var(side.letter), step), own_class)
            out.put(f"{side.letter} = {inside}", f"{side.name} = {show(position)}")


class RunsWalker(OfClasses[Runs]):
    """Runs of tiles of the other dimension."""

    def tiles(self, out: Lines) -> Iterator[Tile]:
        layout, rows = self.walk.layout, not self.over_keys
        out.put(*self.gap, f"# Piece {self.number}, {layout}.")
        own_class, size = self.class_line(out, self.swept), self.walk.visited
        names = "r" if layout.query_step == 1 else "a", "j" if layout.key_step == 1 else "b"
        exists = f"{self.swept.name} < {self.swept.length}"
        for full in self._loops(out):
            self.put_positions(out, self.swept, f"tile * {size} + tl.arange(0, {size})", own_class)
            if not (full or rows):
                out.put(f"inside = {exists}")
            every = full or (rows and self.masks[0].everything)
            yield Tile("" if every else self.kept(names), full, exists if rows else "inside")

    def met(self) -> Iterator[Met]:
        yield from super().met()
        yield self.class_of(self.swept), self.of_classes
        limits = self.limits()
        yield from ((x, limits) for run in self._runs for x in (run.first, run.last, run.guard))

    def limits(self, axis: int = 0) -> Limits:
        walk, layout = self.walk, self.walk.layout
        assert max(walk.rows, walk.cols) <= LARGEST_TILE, walk
        return {
            **self.of_classes,
            "a": (LARGEST_TILE, ratio(1, layout.query_step)),  # a tile that begins inside ends so much further on
            "b": (LARGEST_TILE, ratio(1, layout.key_step)),
            "t": (1, ratio(1, walk.owned * self.step(self.owned))),
        }

    @property
    def pad(self) -> int:
        layout, walk = self.walk.layout, self.walk
        return max(layout.query_step * walk.rows, layout.key_step * walk.cols)

    @cached_property
    def _runs(self) -> list[Run]:
        """The runs, with the classes that are numbers put in."""
        classes = constant_classes(self.walk.layout)
        return [
            replace(
                run,
                first=substitute(run.first, classes),
                last=substitute(run.last, classes),
                guard=None if run.guard is None else settled(run.guard, classes),
            )
            for run in self.walk.runs
        ]

    def _loops(self, out: Lines) -> Iterator[bool]:
        """Open a loop over the full tiles, then one over those with a mask; yield whether it is full.

        Runs of a kind share a loop, because each loop fills and drains a software pipeline of its own.
        """
        for full in (True, False):
            runs = [run for run in self._runs if run.full == full]
            if runs:
                out.put("# Full tiles: every row meets every key." if full else "# Tiles with a mask.")
            if len(runs) == 1:
                first, stop = _bounds(out, runs[0], "")
                step = f", {runs[0].step}" if runs[0].step != 1 else ""
                with out.block(f"for tile in range({first}, {stop}{step}):"):
                    yield full
            elif runs:
                end, tile = "", ""
                for number, run in enumerate(runs):
                    first, stop = _bounds(out, run, f"_{number}")
                    steps = f"{stop} - {first}" if run.step == 1 else f"tl.cdiv({stop} - {first}, {run.step})"
                    x = f"(x - {end})" if end else "x"
                    at = f"{first} + {x}" if run.step == 1 else f"{first} + {x} * {run.step}"
                    tile = f"tl.where(x < {end}, {tile}, {at})" if end else at
                    out.put(f"end_{number} = {end}{' + ' if end else ''}tl.maximum({steps}, 0)")
                    end = f"end_{number}"
                with out.block(f"for x in range(0, {end}):"):
                    out.put(f"tile = {tile}")
                    yield full


def _bounds(out: Lines, run: Run, suffix: str) -> tuple[str, str]:
    """Lines that compute where a run begins and stops; their names."""
    first, stop = f"first{suffix}", f"stop{suffix}"
    out.put(f"{first} = {index_source(run.first)}", f"{stop} = {index_source(plus_one(run.last))}")
    if run.guard not in (None, Truth(True)):
        out.put(f"{stop} = tl.where({pred_source(run.guard)}, {stop}, {first})")
    return first, stop
