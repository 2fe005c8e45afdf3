"""The lines of a Triton kernel about boxes of a grid: which box a program owns, and loops over the boxes it visits.

Coordinates of the box's own tokens are a_0, a_1, ... when it holds queries and b_0, b_1, ... when it holds keys; those
of the boxes visited have the other letter. Boxes visited start at the first token that is attended, not at multiples
of their size: a window of 7 then needs one box of 16, and seldom two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import prod

from pidsl.codegen.emit_triton.expr import index_source
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.masks import Mask
from pidsl.codegen.emit_triton.reach import Limits, Reach
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Boxes, Grid
from pidsl.language.algebra import separated, settled
from pidsl.language.expr import Index, Var, simplify, substitute, vars_in


def box_masks(number: int, piece: Piece, reach: Reach) -> list[Mask]:
    """One device function per axis."""
    found = []
    for axis, given in enumerate(piece.keep):
        keep = separated(settled(given), frozenset({"b"}))
        reach.add(keep, limits=_limits(piece.layout, axis, piece.forward))
        doc = f"The pairs of piece {number} on axis {axis} of its {piece.layout}."
        found.append(Mask.of(f"_keep_{number}_{axis}", doc, keep))
    return found


def box_keep(masks: Sequence[Mask], rows: str, keys: str, inside: str) -> str:
    """The pairs of a box, with the coordinates of queries and keys spread along these axes of a tile."""
    parts = []
    for axis, mask in enumerate(masks):
        if not mask.everything:
            parts.append(mask.call({"a": f"a_{axis}{rows}", "b": f"b_{axis}{keys}"}))
    return " & ".join(parts) or inside


def overhang(grid: Grid, *boxes: Sequence[int]) -> int:
    """How far past the last token the tokens of boxes can lie, in positions."""
    return sum(size * stride for box in boxes for size, stride in zip(box, grid.strides, strict=True))


def _limits(grid: Grid, axis: int, sweep: Boxes) -> Limits:
    """How large the coordinates and the box number of one axis get."""
    size, length = max(sweep.own[axis], sweep.swept[axis]), grid.lengths[axis]
    if length is None:
        length, slope = 0, Fraction(2, grid.strides[axis])  # up to n + offset
    else:
        slope = Fraction(0)
    coordinate = (length + 2 * size, slope)
    return {"a": coordinate, "b": coordinate, f"t_{axis}": (length // sweep.own[axis] + 1, slope / sweep.own[axis])}


def own_box(out: Lines, grid: Grid, sweep: Boxes, heads: str, reach: Reach) -> None:
    """Which box, head and batch entry the program has, and the positions of its tokens."""
    rows = sweep.over == "keys"
    axes, strides = range(len(grid.lengths)), grid.strides
    out.put("n, m, offset = n.to(INDEX), m.to(INDEX), offset.to(INDEX)", "program = tl.program_id(0)")
    block, counts = strides[0] * sweep.own[0], box_counts(grid, sweep.own)
    end: Index = Var("n") + Var("offset") if rows else Var("m")
    reach.add(end, limits={})
    stop = index_source(end) if grid.tokens is None else f"tl.minimum({index_source(end)}, {grid.tokens})"
    out.put(f"boxes = tl.cdiv({stop}, {block})" + (f" - offset // {block}" if rows else ""))
    inner = 1
    for axis in reversed(axes[1:]):
        before = f"program // {inner}" if inner > 1 else "program"
        out.put(f"t_{axis} = {before} % {counts[axis]}")
        inner *= counts[axis]
    out.put(f"program = program // {inner}" if inner > 1 else "", "t_0 = (program % boxes).to(INDEX)")
    if rows:
        out.put(f"t_0 += offset // {block}")
    out.put(f"head = (program // boxes % {heads}).to(tl.int32)", f"batch = (program // boxes // {heads}).to(tl.int32)")
    letter, position = ("a", "r") if rows else ("b", "j")
    starts = [f"t_{axis}" + (f" * {size}" if size > 1 else "") for axis, size in enumerate(sweep.own)]
    _tokens(out, letter, position, grid, sweep.own, starts, "own", "offset" if rows else "")
    tests = [f"({letter}_{axis} < {grid.lengths[axis]})" for axis in axes if _ragged(grid, axis, sweep.own[axis])]
    tests += ["(r >= 0)", "(r < n)"] if rows else ["(j < m)"]
    out.put(f"exists = {' & '.join(tests)}")


def box_counts(grid: Grid, own: Sequence[int]) -> tuple[int, ...]:
    """Boxes on each axis; 0 on a first axis that does not end."""
    return tuple(0 if x is None else -(-x // size) for x, size in zip(grid.lengths, own, strict=True))


def _ragged(grid: Grid, axis: int, size: int) -> bool:
    length = grid.lengths[axis]
    return length is not None and length % size > 0


def _tokens(
    out: Lines, letter: str, position: str, grid: Grid, box: Sequence[int], starts: Sequence[str], x: str, less: str
) -> None:  # fmt: skip
    """The coordinates of the tokens of a box that starts there, and their positions."""
    out.put(f"{x} = tl.arange(0, {prod(box)})")
    sums = []
    for axis, (size, start, stride) in enumerate(zip(box, starts, grid.strides, strict=True)):
        inner = prod(box[axis + 1 :])
        if size == 1:
            inside = f"{x} * 0"
        else:
            inside = f"{x} // {inner}" if inner > 1 else x
            inside += f" % {size}" if axis > 0 and prod(box[:axis]) > 1 else ""
        out.put(f"{letter}_{axis} = {start} + {inside}")
        sums.append(f"{letter}_{axis}" + (f" * {stride}" if stride > 1 else ""))
    out.put(f"{position} = {' + '.join(sums)}" + (f" - {less}" if less else ""))


def box_loop(out: Lines, number: int, grid: Grid, sweep: Boxes, reach: Reach) -> Iterator[None]:
    """Open a loop over the boxes visited; inside it, the coordinates, positions and which of them exist."""
    keys = sweep.over == "keys"
    what = "keys" if keys else "queries"
    sizes = " x ".join(map(str, sweep.swept))
    out.put(f"# Piece {number}, {grid}: boxes of {sizes} {what}, from the first on every axis to the last.")
    for axis, (first, last, size) in enumerate(zip(sweep.first, sweep.last, sweep.swept, strict=True)):
        low, high = (None if x is None else _of_axis(x, axis) for x in (first, last))
        reach.add(low, high, limits=_limits(grid, axis, sweep))
        lows = [index_source(low)] if low is not None else []
        highs = [] if high is None else [index_source(high)]
        if axis == 0:
            row = grid.strides[0]
            end = "(m - 1)" if keys else "(n + offset - 1)"
            highs.append(f"{end} // {row}" if row > 1 else end)
            lows += [] if keys else [f"offset // {row}" if row > 1 else "offset"]
        out.put(
            f"first_{axis} = {_folded('tl.maximum', lows)}",
            f"last_{axis} = {_folded('tl.minimum', highs)}",
            f"boxes_{axis} = tl.maximum(tl.cdiv(last_{axis} + 1 - first_{axis}, {size}), 0)",
        )
    axes = range(len(grid.lengths))
    every = " * ".join(f"boxes_{axis}" for axis in axes)
    with out.block(f"for x in range(0, {every}):"):
        starts = []
        for axis in axes:
            inner = " * ".join(f"boxes_{later}" for later in axes[axis + 1 :])
            index = f"x // ({inner})" if "*" in inner else f"x // {inner}" if inner else "x"
            index += f" % boxes_{axis}" if axis else ""
            size = sweep.swept[axis]
            starts.append(f"first_{axis} + {index}" + (f" * {size}" if size > 1 else ""))
        letter, position = ("b", "j") if keys else ("a", "r")
        _tokens(out, letter, position, grid, sweep.swept, starts, "y", "" if keys else "offset")
        tests = [f"({letter}_{axis} <= last_{axis})" for axis in axes if sweep.swept[axis] > 1]
        tests += ["(j < m)"] if keys else ["(r >= 0)", "(r < n)"]
        out.put(f"inside = {' & '.join(tests)}")
        yield


def _of_axis(e: Index, axis: int) -> Index:
    return simplify(substitute(e, {"t": Var(f"t_{axis}")})) if "t" in vars_in(e) else e


def _folded(function: str, values: list[str]) -> str:
    out = values[0]
    for value in values[1:]:
        out = f"{function}({out}, {value})"
    return out
