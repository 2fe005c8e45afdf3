"""One stage of a plan as one Triton kernel: forward, dQ, dK and dV, or the sums for slopes and bias.

A kernel is a walk over pieces (`pidsl.codegen.emit_triton.walker`), the loads of what is attended, and what happens to
each tile (`pidsl.codegen.emit_triton.logits`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

from pidsl.codegen.emit_triton.boxes import BoxesWalker
from pidsl.codegen.emit_triton.lags import LagsWalker
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.lists import ListedWalker, table_name
from pidsl.codegen.emit_triton.logits import STATE, Logits
from pidsl.codegen.emit_triton.masks import Mask, keep_masks
from pidsl.codegen.emit_triton.reach import Met, reach
from pidsl.codegen.emit_triton.runs import RunsWalker
from pidsl.codegen.emit_triton.walker import Tile, Walker
from pidsl.codegen.plan.heads import of_group
from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.stages import Stage
from pidsl.codegen.plan.walks import BlockList, Boxes, Lags, Listed, Pass, Runs
from pidsl.language.algebra import settled
from pidsl.language.expr import Pred, Truth, Var

_WALKERS: dict[type, type[Walker[Any]]] = {
    Runs: RunsWalker, Boxes: BoxesWalker, Listed: ListedWalker, Lags: LagsWalker
}  # fmt: skip


class KernelWriter:
    """Writes the kernels of a plan; `logits` says what happens to their tiles."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.logits = Logits(plan.score, plan.frame, careful=not plan.attended_exact)
        self._kept: list[Mask] = []
        self._walkers: dict[tuple[int, Pass], Walker[Any]] = {}
        for number, piece in enumerate(plan.pieces):
            kept = keep_masks(number, piece)
            self._kept += kept
            for task in get_args(Pass):
                walk = piece.walk(task)
                self._walkers[number, task] = _WALKERS[type(walk)](number, walk, kept, plan.frame, plan.of_heads)
        doc = "Keys that some row attends; the others are never read."
        self._keys = self._keys_of_group = _attended("_key_attended", doc, plan.attended_keys)
        if plan.of_heads and plan.attended_keys is not None:
            doc = "Keys that some head of a group attends."
            self._keys_of_group = _attended("_key_attended_by", doc, of_group(plan.attended_keys))
        self._rows = _attended("_row_attended", "Rows that attend some key.", plan.attended_rows)
        self._attended = dict.fromkeys((self._keys, self._keys_of_group, self._rows))

    def functions(self) -> Iterator[str]:
        """The functions that say which pairs, keys and rows there are, and what happens to logits."""
        yield from (mask.source() for mask in (*self._kept, *self._attended) if not mask.everything)
        yield from self.logits.functions()

    def reach(self) -> tuple[int, int]:
        """What bounds all integers of the programs: a constant, and a factor of the longest of n, m and offsets."""
        constant, slope = reach(self._met())
        return constant + slope * max((x.pad for x in self._walkers.values()), default=0), slope  # past the end too

    def _met(self) -> Iterator[Met]:
        yield from ((mask.pred, {}) for mask in self._attended)
        for (_, task), walker in self._walkers.items():
            yield from walker.met()
            if task == "forward":  # a mask is the same in all passes, and the tiles of no other pass are larger
                yield from ((mask.pred, walker.limits(axis)) for axis, mask in enumerate(walker.masks))
        if not self.logits.plain:  # positions, in all kernels
            yield from ((x, {}) for x in (Var("r") + Var("offset"), self._plan.frame.key_at(Var("j"))))

    def forward(self, stage: Stage) -> str:
        """The kernel that absorbs the keys of the stage's pieces into out and lse."""
        with self._kernel(stage, "out and lse", "q, k, v, out, lse,", "running,") as out:
            self._own_rows(out, stage)
            if stage.resumes:
                out.put("acc, top, total = _resume(exists, running + row_0 * V, lse + row_0, r, V, V_PAD)")
            else:
                out.put(f"acc = tl.zeros([{stage.tile}, V_PAD], tl.float32)", *self.logits.nothing_seen(stage.tile))
            self._meet_keys(out, stage, self.logits.absorb)
            out.put("", f"_finish(exists, out + row_0 * V, lse + row_0, r, {STATE}, V, V_PAD)")
        return str(out)

    def grad_query(self, stage: Stage) -> str:
        """The kernel that sums the stage's part of dQ."""
        with self._kernel(stage, "dQ", "q, k, v, grad_out, lse2, pull, grad_q,", "running_q,") as out:
            self._own_rows(out, stage, backward=True)
            out.put(f"query_grad = tl.zeros([{stage.tile}, D_PAD], tl.float32)")
            self._meet_keys(out, stage, self.logits.query_grad)
            out.put("", "query_grad *= scale")
            if stage.resumes:
                out.put("query_grad += _load_where(exists, running_q + row_0 * D, r, D, 1, D, D_PAD)")
            out.put("_store_where(exists, grad_q + row_0 * D, r, query_grad, D, D_PAD)")
        return str(out)

    def grad_score(self, stage: Stage) -> str:
        """The kernel that sums, over the rows of each program, what slopes and bias get; torch adds the programs up."""
        pointers = " ".join(["q, k, v, grad_out, lse2, pull,", *self.logits.sums])
        with self._kernel(stage, "Sums for the gradients of slopes and bias", pointers) as out:
            self._own_rows(out, stage, backward=True)
            out.put(*self.logits.no_sums(stage.tile))
            self._meet_keys(out, stage, self.logits.add_to_sums)
            out.put("", *self.logits.store_sums())
        return str(out)

    def _own_rows(self, out: Lines, stage: Stage, backward: bool = False) -> None:
        """What a program that owns rows knows of them."""
        self._walkers[stage.pieces[0][0], stage.task].own(out, "heads")
        out.put(
            self._rows.line("mine", "exists"),
            "query = _load_where(mine, _matrix(q, batch, head, q_b, q_h), r, q_r, q_d, D, D_PAD)",
        )
        if backward:
            out.put("grad = _load_where(mine, _matrix(grad_out, batch, head, go_b, go_h), r, go_r, go_d, V, V_PAD)")
        out.put(
            "keys = _matrix(k, batch, head // group, k_b, k_h)",
            "values = _matrix(v, batch, head // group, v_b, v_h)",
            "row_0 = (batch * heads + head).to(tl.int64) * n",
            *(self._statistics("mine") if backward else ()),
            *self.logits.of_rows(),
        )

    def _meet_keys(self, out: Lines, stage: Stage, lines: Callable[[Tile], Iterator[str]]) -> None:
        """The loops of a program that owns rows, with these lines for each tile."""
        for number, _ in stage.pieces:
            out.put("")
            for tile in self._walkers[number, stage.task].tiles(out):
                load = "_load(" if tile.full else "_load_where(live, " if tile.lag is None else "_load_where(ok, "
                loads = (
                    f"key = {load}keys, {tile.at}, k_r, k_d, D, D_PAD)",
                    f"value = {load}values, {tile.at}, v_r, v_d, V, V_PAD)",
                )
                if tile.full or tile.lag is not None:
                    out.put(*loads)
                elif self.logits.careful:  # the mask says which keys are attended
                    out.put(f"keep = {tile.keep}", "live = inside & _met(keep & inside[None, :], exists)", *loads)
                else:
                    out.put(self._keys.line("live", "inside"), *loads, f"keep = {tile.keep}")
                out.put(*lines(tile))

    def grad_key(self, stage: Stage) -> str:
        """The kernel that sums the stage's part of dK and dV over the heads of a group."""
        pointers = "q, k, v, grad_out, lse2, pull, grad_k, grad_v,"
        with self._kernel(stage, "dK and dV", pointers, "running_k, running_v,") as out:
            self._walkers[stage.pieces[0][0], stage.task].own(out, "(heads // group)")
            if self._plan.of_heads:
                out.put("first_head = head * group", "last_head = first_head + group - 1")
            out.put(
                self._keys_of_group.line("mine", "exists"),
                "key = _load_where(mine, _matrix(k, batch, head, k_b, k_h), j, k_r, k_d, D, D_PAD)",
                "value = _load_where(mine, _matrix(v, batch, head, v_b, v_h), j, v_r, v_d, V, V_PAD)",
                *self.logits.of_keys(),
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
                    *self.logits.of_head("q_head"),
                )
                for number, _ in stage.pieces:
                    for tile in self._walkers[number, stage.task].tiles(out):
                        ok = "live" if tile.lag is None else "ok"
                        if tile.lag is None:
                            out.put(f"live = {tile.exists}" if tile.full else self._rows.line("live", tile.exists))
                        out.put(
                            f"query = _load_where({ok}, queries, r, q_r, q_d, D, D_PAD)",
                            f"grad = _load_where({ok}, grads, r, go_r, go_d, V, V_PAD)",
                            *self._statistics(ok),
                            *self.logits.key_grads(tile),
                        )
            out.put("", "key_0 = (batch * (heads // group) + head).to(tl.int64) * m", "key_grad *= scale")
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

    def _statistics(self, ok: str) -> Iterator[str]:
        """What `row_statistics` found of the rows r."""
        no_lse = "0.0" if self.logits.plain else 'float("inf")'  # weights are 0 whatever a score adds
        yield f"row_lse2 = tl.load(lse2 + row_0 + r, mask={ok}, other={no_lse})"
        yield f"row_pull = tl.load(pull + row_0 + r, mask={ok}, other=0.0)"

    @contextmanager
    def _kernel(self, stage: Stage, what: str, pointers: str, running: str = "") -> Iterator[Lines]:
        """The head of a kernel, and a docstring that says `what` it makes; its body is put inside.

        `running` are further pointers of a stage that goes on from an earlier one.
        """
        out = Lines()
        strided = ("q", "k", "v", "go")[: 3 if stage.task == "forward" else 4]
        strides = " ".join(f"{x}_b, {x}_h, {x}_r, {x}_d," for x in strided)
        pointers += f" {running}" if running and stage.resumes else ""
        listed = (number for number, piece in stage.pieces if isinstance(piece.layout, BlockList))
        pointers += "".join(f" {table_name(number, by_keys=stage.owns == 'keys')}," for number in listed)
        frame, score = self._plan.frame, self._plan.score
        fixed = (*frame.names, "heads", "group", *["seed"] * bool(score.dropout))
        quoted = ", ".join(f'"{name}"' for name in fixed)
        out.put(
            f"@triton.jit(do_not_specialize=[{quoted}])",
            f"def {stage.name}(",
            f"    {pointers}",
            *([f"    {', '.join(score.parameters)},"] if score.parameters else []),
            f"    scale, {frame.parameters}, heads, group,",
            f"    {strides}",
            "    D: tl.constexpr, D_PAD: tl.constexpr, V: tl.constexpr, V_PAD: tl.constexpr,",
            "    PRECISION: tl.constexpr, INDEX: tl.constexpr,",
        )
        numbers = ", ".join(str(number) for number, _ in stage.pieces)
        whose = stage.owns if stage.step == 1 else f"{stage.owns} of one class mod {stage.step}"
        plural = "s" if len(stage.pieces) > 1 else ""
        with out.block("):  # fmt: skip"):
            out.put(f'"""{what} from piece{plural} {numbers}: one program owns {stage.tile} {whose} of one head."""')
            yield out


def _attended(function: str, doc: str, given: Pred | None) -> Mask:
    return Mask(function, doc, Truth(True) if given is None else settled(given))
