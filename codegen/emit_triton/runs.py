"""Runs of tiles as device functions: loops over the tiles of one class that a tile of another one meets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar

from pidsl.codegen.emit_triton.expr import index_source, pred_source
from pidsl.codegen.emit_triton.lines import function
from pidsl.codegen.emit_triton.masks import Interval, Mask, Side, constant_classes, interval
from pidsl.codegen.emit_triton.reach import Limits, Met, ratio
from pidsl.codegen.emit_triton.walker import PLACE, Named, Walker
from pidsl.codegen.plan.walks import LARGEST_TILE, Lags, Run, Runs
from pidsl.language.algebra import div, plus, plus_one, settled
from pidsl.language.expr import Index, Sub, Truth, Var, substitute, substitute_pred, vars_in

C = TypeVar("C", Runs, Lags)
SHORT = 40  # characters of a bound that needs no name


class OfClasses(Walker[C]):
    """A walk whose programs own tiles of classes."""

    def step(self, side: Side) -> int:
        """Between the positions of one class."""
        return self.walk.layout.query_step if side.name == "r" else self.walk.layout.key_step

    def class_of(self, side: Side) -> Index:
        """The class of its positions, as that of the other side has it."""
        layout = self.walk.layout
        return layout.row_class_of(Var("d")) if side.name == "r" else layout.key_class_of(Var("c"))

    @property
    def of_classes(self) -> Limits:
        """How large classes get."""
        return {"c": (self.walk.layout.query_step, 0), "d": (self.walk.layout.key_step, 0)}

    @property
    def fixed(self) -> Index | None:
        """The class of the positions that programs own, where all own one."""
        return None if self.walk.layout.linked or self.step(self.owned) == 1 else self.class_of(self.owned)

    def met(self) -> Iterator[Met]:
        if not self.walk.layout.linked:
            yield self.class_of(self.owned), self.of_classes


class RunsWalker(OfClasses[Runs]):
    """Runs of tiles of the other dimension, in the loops of the library's `_runs`."""

    def put(self, named: Named, name: str) -> dict[str, str]:
        tiles = {}
        for field, full in (("FULL_TILE", True), ("TILE_OF", False)):
            runs = [run for run in self._runs if run.full == full]
            if len(runs) > 1 or any(run.step != 1 for run in runs):
                suffix = "_full" if full else "_tile"
                tiles[field] = named(f"{name}{suffix}", partial(self._tile_source, runs=runs))
        kinds = {run.full for run in self._runs}
        fields = {"LOOPS": "_runs", "SPAN": named(name, self._span_source), "SIZE": str(self.walk.visited)}
        if (step := self.step(self.swept)) > 1:
            fields["STEP"] = str(step)
        if False in kinds and self._bounds[0]:
            fields["BOUNDS"] = f'"{self._bounds[0]}"'
        if True in kinds:
            fields["TILES"] = '"both"' if False in kinds else '"full"'
        if not self._rest.everything and False in kinds:
            fields["REST"] = named(self._rest.function, self._rest_source)
        return fields | tiles

    @property
    def doc(self) -> str:
        own, met = ("rows", "keys") if self.over_keys else ("keys", "rows")
        walk = self.walk
        return f"Piece {self.number}, {walk.layout}: what {walk.owned} {own} meet, in tiles of {walk.visited} {met}."

    def _span_source(self, name: str) -> str:
        """The function SPAN of a walk."""
        own, swept = self.owned, self.swept
        lines = []
        if not isinstance(self._class, int):
            lines.append(f"{swept.of_class} = {index_source(self.class_of(swept))}")
        _, low, high = self._bounds
        bounds = []
        for bound, value in (("low", low), ("high", high)):
            if len(value) > SHORT:
                lines.append(f"{bound} = {value}")
            bounds.append(bound if len(value) > SHORT else value)
        ends = []
        for full in (True, False):
            runs = [run for run in self._runs if run.full == full]
            tag = "_full" if full else ""
            if len(runs) == 1 and runs[0].step == 1:
                first, stop = _ends(runs[0])
                lines += [f"first{tag} = {first}"] if first != "0" else []
                lines.append(f"stop{tag} = {stop}")
                ends += ["0" if first == "0" else f"first{tag}", f"stop{tag}"]
                continue
            if runs:
                counts = self._put_counts(lines, runs, tag)
                lines += [f"first{tag} = 0", f"stop{tag} = {' + '.join(counts)}"]
            ends += [f"first{tag}", f"stop{tag}"] if runs else ["0", "0"]
        named = [own_class if isinstance(own_class := self._class, int) else swept.of_class]
        lines.append(f"return {', '.join(map(str, [*named, *bounds, *ends]))}")
        return function(f"{name}(t, {own.of_class}, {own.letter}, {PLACE})", self.doc, *lines)

    def _put_counts(self, lines: list[str], runs: list[Run], tag: str) -> list[str]:
        """Put where runs that share a loop begin and how many tiles they have; the names of those numbers."""
        names = []
        for number, run in enumerate(runs):
            first, stop = _ends(run)
            lines.append(f"first{tag}_{number} = {first}")
            steps = f"{stop} - first{tag}_{number}" if run.step == 1 else (
                f"tl.cdiv({stop} - first{tag}_{number}, {run.step})"
            )  # fmt: skip
            names.append(f"count{tag}_{number}")
            lines.append(f"{names[-1]} = tl.maximum({steps}, 0)")
        return names

    def _tile_source(self, name: str, runs: list[Run]) -> str:
        """Which tile is number x of a loop that several runs, or one with steps, share."""
        lines = []
        if not isinstance(self._class, int):
            lines.append(f"{self.swept.of_class} = {index_source(self.class_of(self.swept))}")
        names = self._put_counts(lines, runs, "")
        tile = ""
        for number, run in enumerate(runs):
            before = names[:number]
            x = f"(x - {' - '.join(before)})" if before else "x"
            at = f"first_{number} + {x}" + (f" * {run.step}" if run.step != 1 else "")
            tile = f"tl.where(x < {' + '.join(before)}, {tile}, {at})" if before else at
        doc = f"Which tile is number x in a loop of piece {self.number}."
        return function(f"{name}(x, t, {self.owned.of_class}, {PLACE})", doc, *lines, f"return {tile}")

    @property
    def _class(self) -> Index | str:
        """The class of what is met when it is a number, else its name."""
        value = self.class_of(self.swept)
        return value if isinstance(value, int) else self.swept.of_class

    @cached_property
    def _interval(self) -> Interval:
        """Between which indices each row (key) meets others in tiles with a mask, and what else it asks."""
        found = interval(substitute_pred(self.masks[0].pred, {"q_head": Var("head")}), self.swept.letter)
        if not self.over_keys:
            return found
        own_class: Index = self._class if isinstance(self._class, int) else Var(self.swept.of_class)
        behind = Sub(Var("m"), own_class) if own_class else Var("m")  # of the last key
        last = div(plus(behind, -1), self.step(self.swept))
        return replace(found, high=(*found.high, last))

    @cached_property
    def _rest(self) -> Mask:
        """What is left of the mask, as a function."""
        name, doc = self.masks[0].function, self.masks[0].doc
        return Mask(name if self.over_keys else f"{name}_by_keys", doc, self._interval.rest)

    def _rest_source(self, name: str) -> str:
        """The function REST of a walk."""
        own, swept = self.owned, self.swept
        names = f"{own.letter}, {swept.letter}, {own.of_class}, {swept.of_class}, {PLACE}"
        return function(f"{name}({names})", self.masks[0].doc, f"return {pred_source(self._rest.pred)}")

    @cached_property
    def _bounds(self) -> tuple[str, str, str]:
        """Which bounds of what every row (key) meets there are, and those, for each of them."""
        found, own = self._interval, self.owned.letter
        low, high = _picked("tl.maximum", found.low), _picked("tl.minimum", found.high)
        wide = {"low": any(own in vars_in(x) for x in found.low), "high": any(own in vars_in(x) for x in found.high)}
        if found.own is not None:
            ok = pred_source(found.own)
            of_own = own in vars_in(found.own)
            if high:
                high, wide["high"] = f"tl.where({ok}, {high}, -1)", wide["high"] or of_own
            else:
                low, wide["low"] = f"tl.where({ok}, {low or 0}, 2147483647)", wide["low"] or of_own
        if low and not wide["low"]:
            low = f"{own} * 0 + ({low})"
        if high and not wide["high"]:
            high = f"{own} * 0 + ({high})"
        which = "both" if low and high else "low" if low else "high" if high else ""
        return which, low or "0", high or "0"

    def met(self) -> Iterator[Met]:
        yield from super().met()
        yield self.class_of(self.swept), self.of_classes
        limits = self.limits()
        yield from ((x, limits) for run in self._runs for x in (run.first, run.last, run.guard))
        found = self._interval
        yield from ((Sub(Var(self.swept.letter), x), limits) for x in (*found.low, *found.high))

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
                guard=None if run.guard is None else settled(run.guard, {**classes, "q_head": Var("head")}),
            )
            for run in self.walk.runs
        ]


def _ends(run: Run) -> tuple[str, str]:
    """Where a run begins and stops."""
    first, stop = index_source(run.first), index_source(plus_one(run.last))
    if run.guard not in (None, Truth(True)):
        stop = f"tl.where({pred_source(run.guard)}, {stop}, {first})"
    return first, stop


def _picked(function: str, values: tuple[Index, ...]) -> str:
    """The greatest or smallest of some values as source."""
    found = ""
    for x in values:
        found = f"{function}({found}, {index_source(x)})" if found else index_source(x)
    return found
