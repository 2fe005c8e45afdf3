"""Boxes of a grid as device functions: which box a program owns, and loops over the boxes it visits.

Coordinates of the box's own tokens are a_0, a_1, ... when it holds queries and b_0, b_1, ... when it holds keys; those
of the boxes visited have the other letter. Boxes visited start at the first token that is attended, not at multiples
of their size: a window of 7 then needs one box of 16, and seldom two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from math import prod

from pidsl.codegen.emit_triton.expr import index_source
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.masks import Side, interval
from pidsl.codegen.emit_triton.reach import Limits, Met
from pidsl.codegen.emit_triton.walker import Named, Walker
from pidsl.codegen.plan.walks import Boxes, Grid
from pidsl.language.expr import Index, Truth, Var, simplify, substitute, vars_in


class BoxesWalker(Walker[Boxes]):
    """Boxes of the other dimension, from the first token of every axis to the last."""

    @property
    def doc(self) -> str:
        own, met = (" x ".join(map(str, x)) for x in (self.walk.own, self.walk.swept))
        meet = (
            f"{own} queries meet, in boxes of {met} keys"
            if self.over_keys
            else f"{own} keys meet, in boxes of {met} queries"
        )
        return f"Piece {self.number}, {self.walk.layout}: what {meet}."

    def put_own(self, out: Lines) -> list[str]:
        walk, grid, own = self.walk, self.walk.layout, self.owned
        axes, counts, inner = range(len(grid.lengths)), box_counts(grid, walk.own), 1
        for axis in reversed(axes[1:]):
            out.put(f"t_{axis} = {_by('t', '//', inner)} % {counts[axis]}")
            inner *= counts[axis]
        block = grid.strides[0] * walk.own[0]
        out.put(f"t_0 = {_by('t', '//', inner)}" + (f" + first // {block}" if own.first else ""))
        starts = [_by(f"t_{axis}", "*", size) for axis, size in enumerate(walk.own)]
        self._tokens(out, own, walk.own, starts, "own", " - first" if own.first else "")
        ragged = [axis for axis in axes if (grid.lengths[axis] or 0) % walk.own[axis]]
        tests = [f"({own.letter}_{axis} < {grid.lengths[axis]})" for axis in ragged]
        out.put(f"exists = {own.exist(*tests, length='length')}")
        return [f"t_{axis}" for axis in axes] + [f"{own.letter}_{axis}" for axis in axes]

    def loops(self, out: Lines) -> None:
        walk, grid, swept = self.walk, self.walk.layout, self.swept
        axes, own = range(len(grid.lengths)), self.owned.letter
        out.put(", ".join([f"t_{axis}" for axis in axes] + [f"{own}_{axis}" for axis in axes]) + f" = {own}")
        for axis, ((low, high), size) in enumerate(zip(self._ends, walk.swept, strict=True)):
            lows = [index_source(low)]
            highs = [] if high is None else [index_source(high)]
            if axis == 0:
                highs.append(_by(f"({index_source(swept.stop)} - 1)", "//", grid.strides[0]))
                lows += [_by(swept.first, "//", grid.strides[0])] if swept.first else []
            out.put(
                f"first_{axis} = {_folded('tl.maximum', lows)}",
                f"last_{axis} = {_folded('tl.minimum', highs)}",
                f"boxes_{axis} = tl.maximum(tl.cdiv(last_{axis} + 1 - first_{axis}, {size}), 0)",
            )
        bounded = [self._interval(axis) for axis in axes]
        if self.over_keys and all(bounded):
            out.put(*(x for axis in axes for x in bounded[axis]))
        out.put(f"first, stop = _part(0, {' * '.join(f'boxes_{axis}' for axis in axes)}, split, KIND)")
        with out.block("for x in range(first, stop):"):
            starts = []
            for axis in axes:
                inner = " * ".join(f"boxes_{later}" for later in axes[axis + 1 :])
                index = f"x // ({inner})" if "*" in inner else f"x // {inner}" if inner else "x"
                index += f" % boxes_{axis}" if axis else ""
                starts.append(_by(f"first_{axis} + {index}", "*", walk.swept[axis]))
            self._tokens(out, swept, walk.swept, starts, "y", swept.less)
            tests = (f"({swept.letter}_{axis} <= last_{axis})" for axis in axes if walk.swept[axis] > 1)
            out.put(f"inside = {swept.exist(*tests)}")
            if all(bounded):
                if self.over_keys:
                    out.put("b_0 = tl.where(inside, b_0, -1073741824)")
                else:
                    out.put(*(x for axis in axes for x in bounded[axis]))
                row, key = ("[:, None]", "[None, :]") if self.over_keys else ("[None, :]", "[:, None]")
                keep = " & ".join(f"_within(b_{axis}{key}, low_{axis}{row}, width_{axis}{row})" for axis in axes)
            else:
                keep = self.kept(*((f"{own}_{axis}", f"{swept.letter}_{axis}") for axis in axes))
            out.put(f"keep = {keep}")
            out.put(f"state = DO[1](task, state, 0, 0, {swept.name}, inside, keep, KIND)")

    def _interval(self, axis: int) -> list[str]:
        """Lines on the keys that each query meets on an axis, where those are an interval."""
        found, names = interval(self.masks[axis].pred, "b"), {"a": Var(f"a_{axis}")}
        if not (found.low and found.high) or found.own is not None or found.rest != Truth(True):
            return []
        low, high = (
            _folded(fold, [index_source(substitute(x, names)) for x in ends])
            for fold, ends in (("tl.maximum", found.low), ("tl.minimum", found.high))
        )
        return [f"low_{axis}, width_{axis} = _between({low}, {high}, KIND)"]

    def put(self, named: Named, name: str) -> dict[str, str]:
        if all(self._interval(axis) for axis in range(len(self.masks))):
            return {"LOOPS": named(name, self._source)}
        return super().put(named, name)

    def _tokens(
        self, out: Lines, side: Side, box: Sequence[int], starts: Sequence[str], x: str, less: str
    ) -> None:  # fmt: skip
        """The coordinates of the tokens of a box that starts there, and their rows."""
        out.put(f"{x} = tl.arange(0, {prod(box)})")
        sums = []
        for axis, (size, start, stride) in enumerate(zip(box, starts, self.walk.layout.strides, strict=True)):
            inner, token = prod(box[axis + 1 :]), f"{side.letter}_{axis}"
            inside = f"{x} * 0"
            if size > 1:
                inside = _by(x, "//", inner) + (f" % {size}" if prod(box[:axis]) > 1 else "")
            out.put(f"{token} = {start} + {inside}")
            sums.append(_by(token, "*", stride))
        out.put(f"{side.name} = {' + '.join(sums)}{less}")

    def met(self) -> Iterator[Met]:
        yield from super().met()
        yield from ((x, self.limits(axis)) for axis, ends in enumerate(self._ends) for x in ends)

    @property
    def pad(self) -> int:
        walk, strides = self.walk, self.walk.layout.strides
        return sum(size * stride for box in (walk.own, walk.swept) for size, stride in zip(box, strides, strict=True))

    @cached_property
    def _ends(self) -> list[tuple[Index, Index | None]]:
        """The first and the last token of every axis, for box `t_0`, `t_1`, ..."""
        return [
            (_of_axis(low, axis), None if high is None else _of_axis(high, axis))
            for axis, (low, high) in enumerate(zip(self.walk.first, self.walk.last, strict=True))
        ]

    def limits(self, axis: int = 0) -> Limits:
        grid, own = self.walk.layout, self.walk.own[axis]
        size, length = max(own, self.walk.swept[axis]), grid.lengths[axis] or 0
        slope = Fraction(0 if length else 2, grid.strides[axis])  # up to n + offset
        coordinate = (length + 2 * size, slope)
        return {"a": coordinate, "b": coordinate, f"t_{axis}": (length // own + 1, slope / own)}


def box_counts(grid: Grid, own: Sequence[int]) -> tuple[int, ...]:
    """Boxes on each axis; 0 on a first axis that does not end."""
    return tuple(0 if x is None else -(-x // size) for x, size in zip(grid.lengths, own, strict=True))


def _of_axis(e: Index, axis: int) -> Index:
    return simplify(substitute(e, {"t": Var(f"t_{axis}")})) if "t" in vars_in(e) else e


def _by(x: str, operator: str, by: int) -> str:
    return f"{x} {operator} {by}" if by > 1 else x


def _folded(function: str, values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{function}({', '.join(values)})"
