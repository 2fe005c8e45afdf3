"""Which pieces share a kernel: pieces -> stages.

A stage is one kernel: all its pieces let a program own the same rows (or, for dK and dV, the same keys) in tiles of
the same size. Stages run one after the other, and a later one goes on from what the earlier ones wrote.

    window(256, 256) | keys(0, 1) | queries(0, 1)

    forward            window and keys(0, 1): every program visits a few tiles of keys
    forward_few        queries(0, 1): the first tile of rows visits all keys, no other has work
    grad_key           window and queries(0, 1)
    grad_key_few       keys(0, 1)

What a launcher may rely on:

- `Stage.work` says, for any lengths and without isl, how many tiles every program of a stage visits. A program that
  visits none has no pairs; it is needed only where nobody else writes its rows (keys), or converts them.
- Programs are independent of each other, and so are stages: their pairs are disjoint. Results of stages, and of parts
  of one sweep, merge in any order: in the forward pass by the lse, in the others as sums. So tiles may be launched in
  ranges and in any order, sweeps may be cut in parts, and a stage may run before another.
- In a `few` stage at most one program in `work.FEW` visits anything, but those visit more than `work.LONG` tiles each
  (at the plan's reference length). It comes last. It pays to launch only the programs with work, in many parts, to
  merge those with what the others compute of the same rows, and to let the others finish all other rows by themselves.
  It owns tiles of the same size as the stage of the same layout, so the ranges of both fit.
- Stages with a fixed class, of lists and of grids that end do not own every row (`whole` is False).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from pidsl.codegen.plan import work
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.walks import Boxes, Lags, Listed, Pass, Runs, Selected, Walk

FEW = "_few"


@dataclass(frozen=True, slots=True)
class Stage:
    """The pieces of one kernel, and what its programs own.

    Args:
        name: of the kernel, unique in the plan.
        task: the pass it belongs to.
        owns: "rows" or "keys".
        step: programs own positions of one class mod `step`.
        fixed: the one class owned, None when every class has programs.
        tile: positions per program.
        swept: the longest tile of the other dimension, 0 when the stage has only diagonals.
        resumes: an earlier kernel (or the launcher's fill) has written something to go on from.
        few: few programs have any work, and those have much of it.
        pieces: (number of the piece in the plan, piece).
    """

    name: str
    task: Pass
    owns: str
    step: int
    fixed: int | None
    tile: int
    swept: int
    resumes: bool
    few: bool
    pieces: tuple[tuple[int, Piece], ...]

    @property
    def whole(self) -> bool:
        """Every row (key) of the problem belongs to a program."""
        return self.fixed is None and not _partly(self.pieces[0][1].walk(self.task))

    @property
    def classes(self) -> int:
        return self.step if self.fixed is None else 1

    def work(self, n: int, m: int, offset: int = 0, key_offset: int = 0) -> work.Counts:
        """int64 [classes, tiles]: tiles of the other dimension that each program visits, see `work.per_program`."""
        each = [work.per_program(x.walk(self.task), n, m, offset, key_offset) for _, x in self.pieces]
        return reduce(np.add, each)


def stages(plan: Plan, task: Pass) -> tuple[Stage, ...]:
    """The kernels of one pass in the order of their launches.

    `window(63) | stride(256) & causal` -> one stage that owns rows in tiles of 128, for the band, and one that owns
    rows of the classes mod 256 in tiles of 64, for the stride.
    """
    groups: dict[_Group, list[tuple[int, Piece]]] = {}
    for number, piece in enumerate(plan.pieces):
        groups.setdefault(_group(number, piece, task), []).append((number, piece))
    # A stage that owns every row goes first, so that it can initialise, and another one goes last, so that it can
    # write the final dtype; stages with a fixed class come between them.
    wholes = sorted((group for group in groups if not group.partial), key=lambda group: group.kind == FEW)
    order = [*wholes[:1], *(group for group in groups if group.partial), *wholes[1:]]
    found: list[Stage] = []
    for group in order:
        side = "" if group.step == 1 else f"_mod_{group.step}"
        fixed = group.fixed if group.partial and group.alone is None else None
        name = f"{task}{'' if fixed is None else f'_{fixed}'}{side}{group.kind}"
        if any(stage.name == name for stage in found):
            name += f"_by_{group.tile}" if group.alone is None else f"_{group.alone}"
        owns = "keys" if task == "grad_key" else "rows"
        swept = max(piece.walk(task).visited for _, piece in groups[group])
        resumes = bool(found) or group.partial
        few = group.kind == FEW
        found.append(Stage(name, task, owns, group.step, fixed, group.tile, swept, resumes, few, tuple(groups[group])))
    return tuple(found)


class _Group(NamedTuple):
    """What pieces must have in common to share a kernel.

    Lags keep to themselves: their products are not tensor-core tiles, and the registers of both would spill.
    """

    partial: bool
    step: int
    fixed: int
    tile: int
    kind: str
    alone: int | None = None  # number of a piece that has its kernel to itself


def _group(number: int, piece: Piece, task: Pass) -> _Group:
    walk = piece.walk(task)
    match walk:
        case Boxes():
            return _Group(_partly(walk), 1, 0, walk.owned, "_boxes", number)
        case Listed():
            return _Group(True, 1, 0, walk.owned, "_listed", number)
        case Selected():
            return _Group(False, 1, 0, walk.owned, "_chosen", number)
        case Runs(layout=layout) | Lags(layout=layout):
            queries, keys = (layout.query_step, layout.query_class), (layout.key_step, layout.key_class)
            step, fixed = keys if task == "grad_key" else queries
            kind = "_lags" if isinstance(walk, Lags) else FEW if work.few(walk, piece.reference) else ""
            return _Group(fixed is not None, step, fixed or 0, walk.owned, kind)


def _partly(walk: Walk) -> bool:
    """Its programs own some of the rows (keys) only, whatever classes there are."""
    return isinstance(walk, Listed) or (isinstance(walk, Boxes) and walk.layout.tokens is not None)
