"""The walks of a plan's kernels: which positions a program owns, and the loops over the tiles and lags it meets.

A walk is an iterator that opens the loop, loads what does not depend on the pass, and yields inside the loop; what is
done with a tile there is put by the pass (`pidsl.codegen.emit_triton.kernels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pidsl.codegen.choice.together import of_group
from pidsl.codegen.emit_triton.boxes import box_keep, box_loop, box_masks, overhang, own_box
from pidsl.codegen.emit_triton.expr import (
    Limits,
    Reach,
    index_source,
    plus_one,
    pred_source,
    separated,
    settled,
)  # fmt: skip
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.lists import list_loop, own_block
from pidsl.codegen.emit_triton.masks import (
    Mask,
    affine,
    axes,
    constant_classes,
    limits_of,
    load_mask,
)
from pidsl.codegen.plan.nodes import (
    BoxSweep,
    Diagonal,
    DiagonalPiece,
    GridPiece,
    Layout,
    ListPiece,
    Plan,
    Run,
    Sweep,
    TilePiece,
)
from pidsl.codegen.plan.stages import Pass, Stage, sweep_of
from pidsl.language.expr import Compare, Index, Pred, Truth, Var, show, substitute


class Walks:
    """Walks over the pieces of a plan, and how large their integers can get.

    Attributes:
        reach: of the integers met so far.
        pad: how far past the end the rows and keys of a tile can lie.
        careful: tiles ask their masks which keys are attended.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.reach = Reach()
        self.pad = 0
        self.careful = not plan.attended_exact
        self._keeps = {k: self._keep(k, piece) for k, piece in enumerate(plan.pieces) if isinstance(piece, TilePiece)}
        self._list_keeps = {k: self._list_keep(k, p) for k, p in enumerate(plan.pieces) if isinstance(p, ListPiece)}
        self._box_keeps = {
            k: box_masks(k, piece, self.reach) for k, piece in enumerate(plan.pieces) if isinstance(piece, GridPiece)
        }
        doc = "Keys that some row attends; the others are never read."
        self._attended_keys = self._attended("_key_attended", doc, plan.attended_keys)
        self._attended_rows = self._attended("_row_attended", "Rows that attend some key.", plan.attended_rows)
        self._attended_by_group = self._attended_keys
        if plan.of_heads and plan.attended_keys is not None:
            doc = "Keys that some head of a group attends."
            self._attended_by_group = self._attended("_key_attended_by", doc, of_group(plan.attended_keys))

    def masks(self) -> Iterator[str]:
        """The functions that say which pairs, keys and rows there are."""
        boxes = (mask for found in self._box_keeps.values() for mask in found)
        attended = dict.fromkeys((self._attended_keys, self._attended_by_group, self._attended_rows))
        masks = (*self._keeps.values(), *self._list_keeps.values(), *boxes, *attended)
        return (mask.source() for mask in masks if not mask.everything)

    # The owned dimension.

    def own(self, out: Lines, stage: Stage, position: str, index: str, length: str, heads: str) -> None:
        """Which class, tile, head and batch entry the program has, and its positions."""
        owner = stage.pieces[0][1]
        if isinstance(owner, GridPiece):
            sweep = sweep_of(owner, stage.task)
            assert isinstance(sweep, BoxSweep)
            self.pad = max(self.pad, overhang(owner.layout, sweep.own, sweep.swept))
            own_box(out, owner.layout, sweep, heads, self.reach)
            return
        if isinstance(owner, ListPiece):
            self.pad = max(self.pad, 2 * owner.layout.size)
            self.reach.add(Var("n") + Var("offset"), limits={})
            own_block(out, stage.pieces[0][0], owner, stage.tile, heads, rows=stage.owns == "rows")
            return
        layout = owner.layout
        per_class = length if stage.step == 1 else f"tl.cdiv({length}, {stage.step})"
        class_name = "c" if stage.owns == "rows" else "d"
        out.put(f"tiles = tl.cdiv({per_class}, {stage.tile})", "program = tl.program_id(0)")
        out.put("t = (program % tiles).to(INDEX)")
        if stage.classes > 1:
            out.put(
                f"{class_name} = (program // tiles % {stage.classes}).to(INDEX)",
                f"program = program // {stage.classes}",
            )
        out.put(f"head = program // tiles % {heads}", f"batch = program // tiles // {heads}")
        out.put("n, m, offset = n.to(INDEX), m.to(INDEX), offset.to(INDEX)")
        own_class: Index = Var(class_name)
        if not stage.classes > 1:
            own_class = layout.row_class() if stage.owns == "rows" else layout.key_class or 0
            own_class = self._class(out, layout, class_name, own_class)
        if stage.step > 1:
            start = show(affine(stage.step * stage.tile, Var("t"), own_class))
            with out.block(f"if {start} >= {length}:  # the last tile of a short class"):
                out.put("return")
        if self.plan.of_heads and stage.owns == "rows":
            out.put("q_head = head")
        self._positions(out, position, index, "t", stage.tile, stage.step, own_class)
        out.put(f"exists = {position} < {length}")

    def _class(self, out: Lines, layout: Layout, name: str, value: Index) -> Index:
        """`value` when it is a number; else a line that computes it, and its name."""
        if isinstance(value, int):
            return value
        self.reach.add(value, limits={"c": (layout.query_step, 0), "d": (layout.key_step, 0)})
        out.put(f"{name} = {index_source(value)}")
        return Var(name)

    def _positions(
        self, out: Lines, position: str, index: str, tile: str, size: int, step: int, own_class: Index
    ) -> None:
        """The positions of a tile; its indices inside the class have a name of their own where they differ."""
        self.pad = max(self.pad, step * size)
        inside = f"{tile} * {size} + tl.arange(0, {size})"
        if step == 1:
            out.put(f"{position} = {inside}")
        else:
            out.put(f"{index} = {inside}")
            out.put(f"{position} = {show(affine(step, Var(index), own_class))}")

    def live(self, name: str, exists: str, position: str) -> Iterator[str]:
        """A line that says which rows r exist and attend something, or which keys j exist and are attended."""
        return self._masked(name, exists, position, self._attended_rows if position == "r" else self._attended_keys)

    def live_keys_of_group(self, name: str, exists: str) -> Iterator[str]:
        """A line that says which keys j exist and are attended by some head of a group."""
        return self._masked(name, exists, "j", self._attended_by_group)

    @staticmethod
    def _masked(name: str, exists: str, position: str, attended: Mask) -> Iterator[str]:
        if attended.everything:
            yield f"{name} = {exists}"
        else:
            call = attended.call({"r": position, "j": position})
            both = f"({exists}) & {call}" if " " in exists else f"{exists} & {call}"
            yield f"{name} = {load_mask(both, [attended.pred])}"

    # Sweeps over keys (forward, dQ).

    def key_loops(
        self, out: Lines, number: int, piece: TilePiece | GridPiece | ListPiece, task: Pass
    ) -> Iterator[bool]:
        """Loops that load tiles of keys and values; yields whether they are full, inside the loop."""
        if not isinstance(piece, TilePiece):
            yield from self._masked_keys(out, number, piece, task)
            return
        sweep = sweep_of(piece, task)
        assert isinstance(sweep, Sweep)
        layout = piece.layout
        out.put(f"# Piece {number}, {layout}.")
        d: Index = layout.key_class or 0
        if layout.linked:
            d = self._class(out, layout, "d", layout.key_class_of(Var("c")))
        for full in self._loops(out, piece, sweep):
            self._positions(out, "j", "b", "tile", sweep.cols, layout.key_step, d)
            if full:
                out.put("key = _load(keys, j, k_r, k_d, D, D_PAD)", "value = _load(values, j, v_r, v_d, V, V_PAD)")
            else:
                keep = self._keeps[number]
                out.put("inside = j < m")
                call = keep.call(axes(layout, "[:, None]", "[None, :]"))
                self._load_masked(out, "inside[None, :]" if keep.everything else call)
            yield full

    def _masked_keys(self, out: Lines, number: int, piece: GridPiece | ListPiece, task: Pass) -> Iterator[bool]:
        """A loop that loads boxes or listed blocks of keys and values, all of them with a mask."""
        if isinstance(piece, GridPiece):
            sweep = sweep_of(piece, task)
            assert isinstance(sweep, BoxSweep)
            loop = box_loop(out, number, piece.layout, sweep, self.reach)
            keep = box_keep(self._box_keeps[number], "[:, None]", "[None, :]", "inside[None, :]")
        else:
            loop = list_loop(out, number, piece, over_keys=True)
            keep = self._keep_listed(number, "[:, None]", "[None, :]", "inside[None, :]")
        for _ in loop:
            self._load_masked(out, keep)
            yield False

    def _load_masked(self, out: Lines, keep: str) -> None:
        """Lines that load the keys and values of a tile with a mask, and say which pairs it keeps."""
        loads = (
            "key = _load_where(live, keys, j, k_r, k_d, D, D_PAD)",
            "value = _load_where(live, values, j, v_r, v_d, V, V_PAD)",
        )
        if self.careful:
            out.put(f"keep = {keep}", "live = inside & _met(keep & inside[None, :], exists)", *loads)
        else:
            out.put(*self.live("live", "inside", "j"), *loads, f"keep = {keep}")

    def lags_of_rows(self, out: Lines, number: int, piece: DiagonalPiece) -> Iterator[Diagonal]:
        """Per diagonal, the keys and values that meet the program's rows."""
        out.put(f"# Piece {number}, {len(piece.diagonals)} diagonals: every row meets one key per lag.")
        for diagonal in piece.diagonals:
            j = Var("r") + Var("offset") - diagonal.lag
            self.reach.add(j, limits={})
            at = index_source(j)
            out.put(
                f"# Lag {diagonal.lag}.",
                f"ok = {self._rows_of(diagonal)}",
                f"key = _load_where(ok, keys, {at}, k_r, k_d, D, D_PAD)",
                f"value = _load_where(ok, values, {at}, v_r, v_d, V, V_PAD)",
            )
            yield diagonal

    # Sweeps over rows (dK and dV).

    def row_loops(self, out: Lines, number: int, piece: TilePiece | GridPiece | ListPiece) -> Iterator[str]:
        """Loops over tiles of rows; yields the mask of their pairs, empty for all, inside the loop."""
        if isinstance(piece, TilePiece):
            walk = self._row_tiles(out, number, piece)
        else:
            walk = self._masked_rows(out, number, piece)
        for keep in walk:
            yield f"({keep}) & live[None, :]" if keep and self.careful else keep

    def _row_tiles(self, out: Lines, number: int, piece: TilePiece) -> Iterator[str]:
        layout = piece.layout
        out.put("", f"# Piece {number}, {layout}.")
        c = self._class(out, layout, "c", layout.row_class_of(Var("d")))
        keep = self._keeps[number]
        for full in self._loops(out, piece, piece.grad_key):
            self._positions(out, "r", "a", "tile", piece.grad_key.rows, layout.query_step, c)
            out.put(*(["live = r < n"] if full else self.live("live", "r < n", "r")))
            yield "" if full or keep.everything else keep.call(axes(layout, "[None, :]", "[:, None]"))

    def _masked_rows(self, out: Lines, number: int, piece: GridPiece | ListPiece) -> Iterator[str]:
        if isinstance(piece, GridPiece):
            loop = box_loop(out, number, piece.layout, piece.grad_key, self.reach)
            keep = box_keep(self._box_keeps[number], "[None, :]", "[:, None]", "live[None, :]")
        else:
            loop = list_loop(out, number, piece, over_keys=False)
            keep = self._keep_listed(number, "[None, :]", "[:, None]", "live[None, :]")
        for _ in loop:
            out.put(*self.live("live", "inside", "r"))
            yield keep

    def _keep_listed(self, number: int, rows: str, keys: str, inside: str) -> str:
        mask = self._list_keeps[number]
        return inside if mask.everything else mask.call({"r": f"r{rows}", "j": f"j{keys}"})

    def _list_keep(self, number: int, piece: ListPiece) -> Mask:
        keep = separated(settled(piece.keep), frozenset({"j"}))
        self.reach.add(keep, limits={})
        return Mask.of(f"_keep_{number}", f"The pairs of piece {number}, {piece.layout}.", keep)

    def lags_of_keys(self, out: Lines, number: int, piece: DiagonalPiece) -> Iterator[Diagonal]:
        """Per diagonal, the rows that meet the program's keys."""
        out.put("", f"# Piece {number}, {len(piece.diagonals)} diagonals: every key meets one row per lag.")
        for diagonal in piece.diagonals:
            r = Var("j") - Var("offset") + diagonal.lag
            self.reach.add(r, limits={})
            out.put(f"# Lag {diagonal.lag}.", f"r = {index_source(r)}", f"ok = {self._rows_of(diagonal)}")
            yield diagonal

    # What both sweeps share.

    def _loops(self, out: Lines, piece: TilePiece, sweep: Sweep) -> Iterator[bool]:
        """Open a loop over the full tiles of a sweep, then one over those with a mask; yield whether it is full.

        Runs of a kind share a loop, because each loop fills and drains a software pipeline of its own.
        """
        limits = limits_of(piece.layout, sweep)
        classes = constant_classes(piece.layout)
        for full in (True, False):
            runs = [run for run in sweep.runs if run.full == full]
            if runs:
                out.put("# Full tiles: every row meets every key." if full else "# Tiles with a mask.")
            if len(runs) == 1:
                first, stop = self._bounds(out, runs[0], classes, limits, "")
                step = f", {runs[0].step}" if runs[0].step != 1 else ""
                with out.block(f"for tile in range({first}, {stop}{step}):"):
                    yield full
            elif runs:
                end, tile = "", ""
                for number, run in enumerate(runs):
                    first, stop = self._bounds(out, run, classes, limits, f"_{number}")
                    steps = f"{stop} - {first}" if run.step == 1 else f"tl.cdiv({stop} - {first}, {run.step})"
                    x = f"(x - {end})" if end else "x"
                    at = f"{first} + {x}" if run.step == 1 else f"{first} + {x} * {run.step}"
                    tile = f"tl.where(x < {end}, {tile}, {at})" if end else at
                    out.put(f"end_{number} = {end}{' + ' if end else ''}tl.maximum({steps}, 0)")
                    end = f"end_{number}"
                with out.block(f"for x in range(0, {end}):"):
                    out.put(f"tile = {tile}")
                    yield full

    def _bounds(
        self, out: Lines, run: Run, classes: Mapping[str, Index], limits: Limits, suffix: str
    ) -> tuple[str, str]:
        """Lines that compute where a run begins and stops; their names."""
        first, last = substitute(run.first, classes), substitute(run.last, classes)
        self.reach.add(first, last, limits=limits)
        names = f"first{suffix}", f"stop{suffix}"
        out.put(f"{names[0]} = {index_source(first)}", f"{names[1]} = {index_source(plus_one(last))}")
        if run.guard is not None and (guard := settled(run.guard, classes)) != Truth(True):
            self.reach.add(guard, limits=limits)
            out.put(f"{names[1]} = tl.where({pred_source(guard)}, {names[1]}, {names[0]})")
        return names

    def _rows_of(self, diagonal: Diagonal) -> str:
        """The rows that have the diagonal's lag."""
        r = Var("r")
        between: Pred = Compare(">=", r, diagonal.first)
        parts: list[Pred] = [between, Compare("<=", r, diagonal.last)]
        if diagonal.keep is not None:
            parts.append(settled(diagonal.keep))
        self.reach.add(*parts, limits={})
        parts = [part for part in parts if part != Truth(True)]
        return load_mask(" & ".join(f"({pred_source(part)})" for part in parts), parts)

    def _keep(self, number: int, piece: TilePiece) -> Mask:
        keep = separated(settled(piece.keep, constant_classes(piece.layout)), frozenset({"b", "j"}))
        self.reach.add(keep, limits=limits_of(piece.layout, piece.forward))
        return Mask.of(f"_keep_{number}", f"The pairs of piece {number}, {piece.layout}.", keep)

    def _attended(self, function: str, doc: str, given: Pred | None) -> Mask:
        attended = Truth(True) if given is None else settled(given)
        self.reach.add(attended, limits={})
        return Mask.of(function, doc, attended)
