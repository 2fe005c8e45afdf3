"""One stage of a plan as one Triton kernel: forward, dQ, or dK and dV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pidsl.codegen.emit_triton.boxes import box_keep, box_loop, box_masks, overhang, own_box
from pidsl.codegen.emit_triton.expr import index_source, pred_source
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.lists import list_loop, own_block, table_name
from pidsl.codegen.emit_triton.masks import (
    Mask,
    affine,
    axes,
    constant_classes,
    limits_of,
    load_mask,
)
from pidsl.codegen.emit_triton.reach import Limits, Reach
from pidsl.codegen.plan.heads import of_group
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.stages import Stage
from pidsl.codegen.plan.walks import Boxes, Lag, Lags, Layout, Listed, Pass, Run, Runs
from pidsl.language.algebra import plus_one, separated, settled
from pidsl.language.expr import Compare, Index, Pred, Truth, Var, show, substitute

_SIZES = "scale, n, m, offset, heads, group,"
_CONSTANTS = "D: tl.constexpr, D_PAD: tl.constexpr, V: tl.constexpr, V_PAD: tl.constexpr,"
_TUNING = "PRECISION: tl.constexpr, INDEX: tl.constexpr,"


class KernelWriter:
    """Writes the kernels of a plan, and remembers how large their integers can get.

    What is done with a tile once it is loaded is in methods of their own, which
    `pidsl.codegen.emit_triton.logits.ScoredKernelWriter` replaces.
    """

    numbers: tuple[str, ...] = ()  # further arguments of every kernel, for which it is not compiled again
    pointers = ""  # further arguments of every kernel
    no_lse = "0.0"  # of rows that do not exist or attend nothing

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.reach = Reach()
        self.pad = 0  # how far past the end the rows and keys of a tile can lie
        self.careful = not plan.attended_exact  # tiles ask their masks which keys are attended
        self._keeps = {
            k: self._keep(k, piece) for k, piece in enumerate(plan.pieces) if isinstance(piece.forward, Runs)
        }
        self._list_keeps = {
            k: self._list_keep(k, p) for k, p in enumerate(plan.pieces) if isinstance(p.forward, Listed)
        }
        self._box_keeps = {
            k: box_masks(k, piece, self.reach)
            for k, piece in enumerate(plan.pieces)
            if isinstance(piece.forward, Boxes)
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

    def forward(self, stage: Stage) -> str:
        """The kernel that absorbs the keys of the stage's pieces into out and lse."""
        out = Lines()
        pointers = "q, k, v, out, lse, running," if stage.resumes else "q, k, v, out, lse,"
        with self._kernel(out, stage, pointers, "q k v"):
            self._own(out, stage, "r", "a", "n", "heads")
            out.put(
                *self._live("mine", "exists", "r", rows=True),
                "query = _load_where(mine, _matrix(q, batch, head, q_b, q_h), r, q_r, q_d, D, D_PAD)",
                "keys = _matrix(k, batch, head // group, k_b, k_h)",
                "values = _matrix(v, batch, head // group, v_b, v_h)",
                "row_0 = (batch * heads + head).to(tl.int64) * n",
                *self._of_rows(),
            )
            if stage.resumes:
                out.put("acc, top, total = _resume(exists, running + row_0 * V, lse + row_0, r, V, V_PAD)")
            else:
                out.put(f"acc = tl.zeros([{stage.tile}, V_PAD], tl.float32)", *self._nothing_seen(stage.tile))
            for number, piece in stage.pieces:
                out.put("")
                if not isinstance(piece.forward, Lags):
                    for full in self._key_loops(out, number, piece, "forward"):
                        out.put(*self._absorb(full))
                else:
                    for diagonal in self._lags_of_rows(out, number, piece):
                        out.put(*self._absorb_lag(diagonal.lag))
            out.put("", f"_finish(exists, out + row_0 * V, lse + row_0, r, {_STATE}, V, V_PAD)")
        return str(out)

    def grad_query(self, stage: Stage) -> str:
        """The kernel that sums the stage's part of dQ."""
        out = Lines()
        pointers = "q, k, v, grad_out, lse2, pull, grad_q," + (" running_q," if stage.resumes else "")
        with self._kernel(out, stage, pointers, "q k v go"):
            self._load_rows(out, stage)
            out.put(f"query_grad = tl.zeros([{stage.tile}, D_PAD], tl.float32)")
            for number, piece in stage.pieces:
                out.put("")
                if not isinstance(piece.forward, Lags):
                    for full in self._key_loops(out, number, piece, "grad_query"):
                        out.put(*self._query_grad(full))
                else:
                    for diagonal in self._lags_of_rows(out, number, piece):
                        out.put(
                            *self._lag_slopes(diagonal.lag),
                            "query_grad += ds[:, None] * key.to(tl.float32)",
                        )
            out.put("", "query_grad *= scale")
            if stage.resumes:
                out.put("query_grad += _load_where(exists, running_q + row_0 * D, r, D, 1, D, D_PAD)")
            out.put("_store_where(exists, grad_q + row_0 * D, r, query_grad, D, D_PAD)")
        return str(out)

    def _load_rows(self, out: Lines, stage: Stage) -> None:
        """What a backward program that owns rows knows of them."""
        self._own(out, stage, "r", "a", "n", "heads")
        out.put(
            *self._live("mine", "exists", "r", rows=True),
            "query = _load_where(mine, _matrix(q, batch, head, q_b, q_h), r, q_r, q_d, D, D_PAD)",
            "grad = _load_where(mine, _matrix(grad_out, batch, head, go_b, go_h), r, go_r, go_d, V, V_PAD)",
            "keys = _matrix(k, batch, head // group, k_b, k_h)",
            "values = _matrix(v, batch, head // group, v_b, v_h)",
            "row_0 = (batch * heads + head).to(tl.int64) * n",
            f"row_lse2 = tl.load(lse2 + row_0 + r, mask=mine, other={self.no_lse})",
            "row_pull = tl.load(pull + row_0 + r, mask=mine, other=0.0)",
            *self._of_rows(),
        )

    def grad_key(self, stage: Stage) -> str:
        """The kernel that sums the stage's part of dK and dV over the heads of a group."""
        out = Lines()
        pointers = "q, k, v, grad_out, lse2, pull, grad_k, grad_v,"
        pointers += " running_k, running_v," if stage.resumes else ""
        with self._kernel(out, stage, pointers, "q k v go"):
            self._own(out, stage, "j", "b", "m", "(heads // group)")
            if self.plan.of_heads:
                out.put("first_head = head * group", "last_head = first_head + group - 1")
            out.put(
                *self._masked("mine", "exists", "j", self._attended_by_group),
                "key = _load_where(mine, _matrix(k, batch, head, k_b, k_h), j, k_r, k_d, D, D_PAD)",
                "value = _load_where(mine, _matrix(v, batch, head, v_b, v_h), j, v_r, v_d, V, V_PAD)",
                *self._of_keys(),
                f"key_grad = tl.zeros([{stage.tile}, D_PAD], tl.float32)",
                f"value_grad = tl.zeros([{stage.tile}, V_PAD], tl.float32)",
                "",
            )
            with out.block("for member in tl.range(0, group, disable_licm=True):"):
                out.put(
                    "q_head = head * group + member",
                    "queries = _matrix(q, batch, q_head, q_b, q_h)",
                    "grads = _matrix(grad_out, batch, q_head, go_b, go_h)",
                    "row_0 = (batch * heads + q_head).to(tl.int64) * n",
                    *self._of_head("q_head"),
                )
                for number, piece in stage.pieces:
                    if isinstance(piece.forward, Boxes | Listed):
                        self._masked_rows(out, number, piece)
                    elif isinstance(piece.forward, Runs):
                        self._row_tiles(out, number, piece)
                    else:
                        self._lags_of_keys(out, number, piece)
            out.put(
                "",
                "key_0 = (batch * (heads // group) + head).to(tl.int64) * m",
                "key_grad *= scale",
            )
            if stage.resumes:
                out.put(
                    "key_grad += _load_where(exists, running_k + key_0 * D, j, D, 1, D, D_PAD)",
                    "value_grad += _load_where(exists, running_v + key_0 * V, j, V, 1, V, V_PAD)",
                )
            out.put(
                "_store_where(exists, grad_k + key_0 * D, j, key_grad, D, D_PAD)",
                "_store_where(exists, grad_v + key_0 * V, j, value_grad, V, V_PAD)",
            )
        return str(out)

    # What is done with a tile.

    def _of_rows(self) -> Iterator[str]:
        """Numbers of the program that owns rows."""
        yield _SCALE2

    def _of_keys(self) -> Iterator[str]:
        """Numbers of the program that owns keys."""
        yield _SCALE2

    def _of_head(self, head: str) -> Iterator[str]:
        """Numbers of one query head in a program that owns keys."""
        return iter(())

    def _nothing_seen(self, rows: int) -> Iterator[str]:
        """The softmax before the first key."""
        yield f'top = tl.full([{rows}], -float("inf"), tl.float32)'
        yield f"total = tl.zeros([{rows}], tl.float32)"

    def _absorb(self, full: bool) -> Iterator[str]:
        """Online softmax over a tile of keys."""
        absorb = "_absorb(" if full else "_absorb_where(keep, inside, "
        yield f"{_STATE} = {absorb}query, key, value, {_STATE}, scale2, PRECISION)"

    def _absorb_lag(self, lag: int) -> Iterator[str]:
        """Online softmax over the keys of a lag."""
        yield f"{_STATE} = _absorb_lag(ok, query, key, value, {_STATE}, scale2)"

    def _query_grad(self, full: bool) -> Iterator[str]:
        """What a tile of keys adds to dQ."""
        yield "p = _weights(query, key, row_lse2, scale2, PRECISION)"
        if not full:
            yield "p = tl.where(keep & inside[None, :], p, 0.0)"
        yield "query_grad = _add_query_grad(p, key, value, grad, row_pull, query_grad, PRECISION)"

    def _key_grads(self, keep: str) -> Iterator[str]:
        """What a tile of rows adds to dK and dV; `keep` is the mask, empty for all."""
        yield "p_t = _weights_t(query, key, row_lse2, scale2, PRECISION)"
        if keep:
            yield f"p_t = tl.where({self._kept(keep)}, p_t, 0.0)"
        yield f"key_grad, value_grad = _add_key_grads{'_of' if keep and self.careful else ''}("
        yield "    p_t, query, value, grad, row_pull, key_grad, value_grad, PRECISION"
        yield ")"

    def _kept(self, keep: str) -> str:
        """The mask of a tile of rows; where keys may be NaN, also without rows that do not exist."""
        return f"({keep}) & live[None, :]" if self.careful else keep

    def _lag_slopes(self, lag: int, of_keys: bool = False) -> Iterator[str]:
        """p and ds of the pairs of a lag; p is wanted for keys only."""
        p = "p" if of_keys else "_"
        yield f"{p}, ds = _lag_slopes(ok, query, key, value, grad, row_lse2, row_pull, scale2)"

    # The owned dimension.

    @contextmanager
    def _kernel(self, out: Lines, stage: Stage, pointers: str, strided: str) -> Iterator[None]:
        strides = " ".join(f"{x}_b, {x}_h, {x}_r, {x}_d," for x in strided.split())
        fixed = ", ".join(f'"{name}"' for name in ("n", "m", "offset", "heads", "group", *self.numbers))
        out.put(f"@triton.jit(do_not_specialize=[{fixed}])")
        out.put(f"def {stage.name}(")
        for number, piece in stage.pieces:
            if isinstance(piece.forward, Listed):
                pointers += f" {table_name(number, by_keys=stage.owns == 'keys')},"
        out.put(
            f"    {pointers}",
            *([f"    {self.pointers}"] if self.pointers else []),
            f"    {_SIZES}",
            f"    {strides}",
            f"    {_CONSTANTS}",
            f"    {_TUNING}",
        )
        numbers = ", ".join(str(number) for number, _ in stage.pieces)
        what = {"rows": "out and lse", "keys": "dK and dV"}[stage.owns]
        if "grad_q," in pointers:
            what = "dQ"
        if "_sums," in pointers:
            what = "Sums for the gradients of slopes and bias"
        whose = stage.owns if stage.step == 1 else f"{stage.owns} of one class mod {stage.step}"
        plural = "s" if len(stage.pieces) > 1 else ""
        with out.block("):  # fmt: skip"):
            out.put(f'"""{what} from piece{plural} {numbers}: one program owns {stage.tile} {whose} of one head."""')
            yield

    def _own(self, out: Lines, stage: Stage, position: str, index: str, length: str, heads: str) -> None:
        """Which class, tile, head and batch entry the program has, and its positions."""
        owner = stage.pieces[0][1]
        if isinstance(owner.forward, Boxes):
            sweep = owner.walk(stage.task)
            assert isinstance(sweep, Boxes)
            self.pad = max(self.pad, overhang(owner.layout, sweep.own, sweep.swept))
            own_box(out, owner.layout, sweep, heads, self.reach)
            return
        if isinstance(owner.forward, Listed):
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

    def _live(self, name: str, exists: str, position: str, *, rows: bool) -> Iterator[str]:
        """A line that says which rows exist and attend something, or which keys exist and are attended."""
        return self._masked(name, exists, position, self._attended_rows if rows else self._attended_keys)

    @staticmethod
    def _masked(name: str, exists: str, position: str, attended: Mask) -> Iterator[str]:
        if attended.everything:
            yield f"{name} = {exists}"
        else:
            call = attended.call({"r": position, "j": position})
            both = f"({exists}) & {call}" if " " in exists else f"{exists} & {call}"
            yield f"{name} = {load_mask(both, [attended.pred])}"

    # Sweeps over keys (forward, dQ).

    def _key_loops(self, out: Lines, number: int, piece: Piece, task: Pass) -> Iterator[bool]:
        """Loops that load tiles of keys and values; yields whether they are full, inside the loop."""
        if not isinstance(piece.forward, Runs):
            yield from self._masked_keys(out, number, piece, task)
            return
        sweep = piece.walk(task)
        assert isinstance(sweep, Runs)
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

    def _masked_keys(self, out: Lines, number: int, piece: Piece, task: Pass) -> Iterator[bool]:
        """A loop that loads boxes or listed blocks of keys and values, all of them with a mask."""
        if isinstance(piece.forward, Boxes):
            sweep = piece.walk(task)
            assert isinstance(sweep, Boxes)
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
            out.put(*self._live("live", "inside", "j", rows=False), *loads, f"keep = {keep}")

    def _lags_of_rows(self, out: Lines, number: int, piece: Piece) -> Iterator[Lag]:
        """Per diagonal, the keys and values that meet the program's rows."""
        out.put(f"# Piece {number}, {len(piece.forward.lags)} diagonals: every row meets one key per lag.")
        for diagonal in piece.forward.lags:
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

    def _row_tiles(self, out: Lines, number: int, piece: Piece) -> None:
        layout = piece.layout
        out.put("", f"# Piece {number}, {layout}.")
        c = self._class(out, layout, "c", layout.row_class_of(Var("d")))
        keep = self._keeps[number]
        for full in self._loops(out, piece, piece.walk("grad_key")):
            self._positions(out, "r", "a", "tile", piece.walk("grad_key").rows, layout.query_step, c)
            out.put(*(["live = r < n"] if full else self._live("live", "r < n", "r", rows=True)))
            masked = not full and not keep.everything
            self._add_rows(out, keep.call(axes(layout, "[None, :]", "[:, None]")) if masked else "")

    def _masked_rows(self, out: Lines, number: int, piece: Piece) -> None:
        if isinstance(piece.forward, Boxes):
            loop = box_loop(out, number, piece.layout, piece.walk("grad_key"), self.reach)
            keep = box_keep(self._box_keeps[number], "[None, :]", "[:, None]", "live[None, :]")
        else:
            loop = list_loop(out, number, piece, over_keys=False)
            keep = self._keep_listed(number, "[None, :]", "[:, None]", "live[None, :]")
        for _ in loop:
            out.put(*self._live("live", "inside", "r", rows=True))
            self._add_rows(out, keep)

    def _keep_listed(self, number: int, rows: str, keys: str, inside: str) -> str:
        mask = self._list_keeps[number]
        return inside if mask.everything else mask.call({"r": f"r{rows}", "j": f"j{keys}"})

    def _list_keep(self, number: int, piece: Piece) -> Mask:
        keep = separated(settled(piece.keep[0]), frozenset({"j"}))
        self.reach.add(keep, limits={})
        return Mask.of(f"_keep_{number}", f"The pairs of piece {number}, {piece.layout}.", keep)

    def _add_rows(self, out: Lines, keep: str) -> None:
        """Lines that add what the rows r that are `live` contribute, of the pairs that `keep` says (empty: all)."""
        out.put(
            "query = _load_where(live, queries, r, q_r, q_d, D, D_PAD)",
            "grad = _load_where(live, grads, r, go_r, go_d, V, V_PAD)",
            f"row_lse2 = tl.load(lse2 + row_0 + r, mask=live, other={self.no_lse})",
            "row_pull = tl.load(pull + row_0 + r, mask=live, other=0.0)",
            *self._key_grads(keep),
        )

    def _lags_of_keys(self, out: Lines, number: int, piece: Piece) -> None:
        out.put("", f"# Piece {number}, {len(piece.forward.lags)} diagonals: every key meets one row per lag.")
        for diagonal in piece.forward.lags:
            r = Var("j") - Var("offset") + diagonal.lag
            self.reach.add(r, limits={})
            out.put(
                f"# Lag {diagonal.lag}.",
                f"r = {index_source(r)}",
                f"ok = {self._rows_of(diagonal)}",
                "query = _load_where(ok, queries, r, q_r, q_d, D, D_PAD)",
                "grad = _load_where(ok, grads, r, go_r, go_d, V, V_PAD)",
                f"row_lse2 = tl.load(lse2 + row_0 + r, mask=ok, other={self.no_lse})",
                "row_pull = tl.load(pull + row_0 + r, mask=ok, other=0.0)",
                *self._lag_slopes(diagonal.lag, of_keys=True),
                "key_grad += ds[:, None] * query.to(tl.float32)",
                "value_grad += p[:, None] * grad.to(tl.float32)",
            )

    # What both sweeps share.

    def _loops(self, out: Lines, piece: Piece, sweep: Runs) -> Iterator[bool]:
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

    def _rows_of(self, diagonal: Lag) -> str:
        """The rows that have the diagonal's lag."""
        r = Var("r")
        between: Pred = Compare(">=", r, diagonal.first)
        parts: list[Pred] = [between, Compare("<=", r, diagonal.last)]
        if diagonal.keep is not None:
            parts.append(settled(diagonal.keep))
        self.reach.add(*parts, limits={})
        parts = [part for part in parts if part != Truth(True)]
        return load_mask(" & ".join(f"({pred_source(part)})" for part in parts), parts)

    def _keep(self, number: int, piece: Piece) -> Mask:
        keep = separated(settled(piece.keep[0], constant_classes(piece.layout)), frozenset({"b", "j"}))
        self.reach.add(keep, limits=limits_of(piece.layout, piece.forward))
        return Mask.of(f"_keep_{number}", f"The pairs of piece {number}, {piece.layout}.", keep)

    def _attended(self, function: str, doc: str, given: Pred | None) -> Mask:
        attended = Truth(True) if given is None else settled(given)
        self.reach.add(attended, limits={})
        return Mask.of(function, doc, attended)


_STATE = "acc, top, total"
_SCALE2 = "scale2 = tl.maximum(scale * 1.4426950408889634, 1e-30)  # base 2; above 0 so that -inf stays -inf"
