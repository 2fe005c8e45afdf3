"""The device functions of a pattern, and the rows of the tables that name them: one row per stage of a pass.

A row says which kernel of the library runs, what it is specialised for (`constants`, names of device functions and
numbers), and what a launcher must know to count its programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, get_args

from pidsl.codegen.emit_triton.boxes import BoxesWalker, box_counts
from pidsl.codegen.emit_triton.chosen import SelectedWalker
from pidsl.codegen.emit_triton.expr import index_source, pred_source
from pidsl.codegen.emit_triton.lags import LagsWalker
from pidsl.codegen.emit_triton.lines import function, shown
from pidsl.codegen.emit_triton.lists import ListedWalker, list_table
from pidsl.codegen.emit_triton.logits import score_functions
from pidsl.codegen.emit_triton.masks import keep_masks
from pidsl.codegen.emit_triton.reach import Met, reach
from pidsl.codegen.emit_triton.runs import OfClasses, RunsWalker
from pidsl.codegen.emit_triton.walker import PLACE, Walker
from pidsl.codegen.plan.heads import of_group
from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.stages import Stage, stages
from pidsl.codegen.plan.walks import Boxes, Lags, Listed, Pass, Runs, Selected
from pidsl.language.algebra import settled
from pidsl.language.expr import Pred, Truth, Var

_WALKERS: dict[type, type[Walker[Any]]] = {
    Runs: RunsWalker, Boxes: BoxesWalker, Listed: ListedWalker, Selected: SelectedWalker, Lags: LagsWalker
}  # fmt: skip
KERNELS = {"forward": "forward", "grad_query": "grad_query", "grad_key": "grad_key", "grad_score": "grad_query"}


class Stages:
    """The stages of a plan, by pass, and the device functions that they need."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._functions: dict[str, str] = {}  # by name, in the order of the program
        self._walkers: dict[tuple[int, Pass], Walker[Any]] = {}
        self.walks: list[dict[str, str]] = []  # fields of those of all stages
        for number, piece in enumerate(plan.pieces):
            kept = keep_masks(number, piece)
            for task in get_args(Pass):
                walk = piece.walk(task)
                self._walkers[number, task] = _WALKERS[type(walk)](number, walk, kept, plan.frame)
        self._given = plan.attended_keys, plan.attended_rows
        keys = None if plan.attended_keys is None else of_group(plan.attended_keys)
        self._keys = _attended(
            "KEYS", "j, first_head, last_head, n, m, offset, key_offset", "Keys that some row attends.", keys
        )
        self._rows = _attended("ROWS", f"r, {PLACE}", "Rows that attend some key.", plan.attended_rows)
        score, of_score = score_functions(plan.score)
        self.tables = {name: list(self._table(name)) for name in KERNELS if name != "grad_score" or self.sums}
        self._functions |= self._keys | self._rows | of_score
        self.pattern = dict(score)
        for field, found in (("KEYS", self._keys), ("ROWS", self._rows)):
            self.pattern |= dict.fromkeys((field,) * len(found), "".join(found))
        if not plan.attended_exact:
            self.pattern["CAREFUL"] = "True"

    @property
    def sums(self) -> bool:
        """There are gradients of slopes or bias."""
        return self._plan.score.alibi or self._plan.score.bias is not None

    @property
    def functions(self) -> list[str]:
        """The device functions, as they stand in the program."""
        return list(self._functions.values())

    def reach(self) -> tuple[int, int]:
        """What bounds all integers of the programs: a constant, and a factor of the longest of n, m and offsets."""
        constant, slope = reach(self._met())
        return constant + slope * max((x.pad for x in self._walkers.values()), default=0), slope  # past the end too

    def _met(self) -> Iterator[Met]:
        yield from ((pred, {}) for pred in self._given)
        for (_, task), walker in self._walkers.items():
            yield from walker.met()
            if task == "forward":  # a mask is the same in all passes, and the tiles of no other pass are larger
                yield from ((mask.pred, walker.limits(axis)) for axis, mask in enumerate(walker.masks))
        yield from ((x, {}) for x in (Var("r") + Var("offset"), self._plan.frame.key_at(Var("j"))))

    def _table(self, name: str) -> Iterator[dict[str, str]]:
        task: Pass = "grad_query" if name == "grad_score" else name  # type: ignore[assignment]
        yield from (self._row(stage) for stage in stages(self._plan, task))

    def _row(self, stage: Stage) -> dict[str, str]:
        walkers = [self._walkers[number, stage.task] for number, _ in stage.pieces]
        first = walkers[0]
        walks = [x.put(self._named, f"_{x.swept.many}_{x.number}") for x in walkers]
        self.walks += walks
        row = {"pieces": str(tuple(x.number for x in walkers)), "WALKS": f"({', '.join(map(shown, walks))},)"}
        row["TILE"] = str(stage.tile)
        if isinstance(first, OfClasses):
            if stage.step > 1:
                row["STEP"] = str(stage.step)
            if (value := first.fixed) is not None:
                row["CLASS"] = self._class(first, index_source(value))
        elif first.own_source(""):
            row["OWN"] = self._named(f"_own_{first.owned.many}_{first.number}", first.own_source)
        if isinstance(first, LagsWalker):
            row["LAGS"] = "True"
        if stage.classes > 1:
            row["classes"] = str(stage.classes)
        if not isinstance(first, RunsWalker):
            row["swept"] = str(stage.swept)
        if not stage.whole:
            row["whole"] = "False"
        match first:
            case ListedWalker():
                owners, _ = list_table(first.walk.layout, by_keys=not first.over_keys)
                row |= {"listed": str(owners * -(-first.walk.layout.size // stage.tile)), "table": repr(first.table)}
            case SelectedWalker():
                row |= {"LISTS": "True", "CAREFUL": str(first.careful), "box": str((first.sizes[0], first.tiles, None))}
                row |= dict.fromkeys(["KEYS"] * len(self._keys) + ["ROWS"] * len(self._rows), "None")
            case BoxesWalker():
                grid, own = first.walk.layout, first.walk.own
                row["box"] = str((grid.strides[0] * own[0], prod(box_counts(grid, own)[1:]), grid.tokens))
        return row

    def _class(self, walker: OfClasses[Any], value: str) -> str:
        doc = f"The class of the {walker.owned.many} of piece {walker.number}."
        name = f"_class_of_{walker.owned.many}_{walker.number}"
        return self._named(name, lambda name: function(f"{name}(offset, key_offset)", doc, f"return {value}"))

    def _named(self, name: str, source: Callable[[str], str]) -> str:
        """Add a function under this name, or another one where that holds another text."""
        while self._functions.get(name, text := source(name)) != text:
            name += "_of_grads"
        self._functions[name] = text
        return name


def _attended(field: str, names: str, doc: str, given: Pred | None) -> dict[str, str]:
    """Which keys (rows) are attended, as a function for a field of `Kind`; nothing where all are."""
    pred = Truth(True) if given is None else settled(given, {"q_head": Var("head")})
    if pred == Truth(True):
        return {}
    name = "_key_attended" if field == "KEYS" else "_row_attended"
    return {name: function(f"{name}({names})", doc, f"return {pred_source(pred)}")}
