"""Which pieces share a kernel: pieces -> stages.

A stage is one kernel: all its pieces let a program own the same rows (or, for dK and dV, the same keys) in tiles of
the same size. Stages run one after the other, and a later one goes on from what the earlier ones wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from pidsl.codegen.plan.nodes import DiagonalPiece, GridPiece, ListPiece, Piece, Plan, TilePiece
from pidsl.codegen.plan.walks import BoxSweep, Pass, Sweep

LAG_TILE = 16  # rows (keys) per program of diagonals: with more, their many loads in flight spill


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
    pieces: tuple[tuple[int, Piece], ...]

    @property
    def grid(self) -> GridPiece | None:
        """The piece of a grid that has the kernel to itself."""
        piece = self.pieces[0][1]
        return piece if isinstance(piece, GridPiece) else None

    @property
    def listed(self) -> ListPiece | None:
        """The list that has the kernel to itself."""
        piece = self.pieces[0][1]
        return piece if isinstance(piece, ListPiece) else None

    @property
    def whole(self) -> bool:
        """Every row (key) of the problem belongs to a program."""
        some = self.listed is not None or (self.grid is not None and self.grid.layout.tokens is not None)
        return self.fixed is None and not some

    @property
    def classes(self) -> int:
        return self.step if self.fixed is None else 1


def stages(plan: Plan, task: Pass) -> tuple[Stage, ...]:
    """The kernels of one pass in the order of their launches.

    `window(63) | stride(256) & causal` -> one stage that owns rows in tiles of 128, for the band, and one that owns
    rows of the classes mod 256 in tiles of 64, for the stride.
    """
    groups: dict[_Group, list[tuple[int, Piece]]] = {}
    for number, piece in enumerate(plan.pieces):
        if isinstance(piece, ListPiece):
            group = _Group(True, 1, 0, piece.cols if task == "grad_key" else piece.rows, False, number)
        elif isinstance(piece, GridPiece):
            group = _Group(piece.layout.tokens is not None, 1, 0, _owned(piece.walk(task)), False, number)
        else:
            step, fixed = piece.layout.key_side if task == "grad_key" else piece.layout.query_side
            tile = _owned(piece.walk(task)) if isinstance(piece, TilePiece) else LAG_TILE
            group = _Group(fixed is not None, step, fixed or 0, tile, isinstance(piece, DiagonalPiece))
        groups.setdefault(group, []).append((number, piece))
    # A stage that owns every row goes first, so that it can initialise, and another one goes last, so that it can
    # write the final dtype; stages with a fixed class come between them.
    order = sorted(groups, key=lambda group: group.partial)
    if len(order) > 1 and not order[1].partial:
        order.append(order.pop(1))
    found: list[Stage] = []
    for group in order:
        side = "" if group.step == 1 else f"_mod_{group.step}"
        fixed_class = f"_{group.fixed}" if group.partial and group.alone is None else ""
        kind = "_lags" if group.lags else ""
        if group.alone is not None:
            kind = "_boxes" if isinstance(plan.pieces[group.alone], GridPiece) else "_listed"
        name = f"{task}{fixed_class}{side}{kind}"
        if any(stage.name == name for stage in found):
            name += f"_by_{group.tile}" if group.alone is None else f"_{group.alone}"
        swept = [_swept(piece, task) for _, piece in groups[group] if not isinstance(piece, DiagonalPiece)]
        found.append(
            Stage(
                name=name,
                task=task,
                owns="keys" if task == "grad_key" else "rows",
                step=group.step,
                fixed=group.fixed if group.partial and group.alone is None else None,
                tile=group.tile,
                swept=max(swept, default=0),
                resumes=bool(found) or group.partial,
                pieces=tuple(groups[group]),
            )
        )
    return tuple(found)


class _Group(NamedTuple):
    """What pieces must have in common to share a kernel.

    Diagonals keep to themselves: their products are not tensor-core tiles, and the registers of both would spill.
    """

    partial: bool
    step: int
    fixed: int
    tile: int
    lags: bool
    alone: int | None = None  # number of a piece that has its kernel to itself


def _owned(sweep: Sweep | BoxSweep) -> int:
    if isinstance(sweep, BoxSweep):
        return prod(sweep.own)
    return sweep.rows if sweep.over == "keys" else sweep.cols


def _swept(piece: TilePiece | GridPiece | ListPiece, task: Pass) -> int:
    if isinstance(piece, ListPiece):
        return (piece.back_rows or 0) if task == "grad_key" else piece.cols
    sweep = piece.walk(task)
    if isinstance(sweep, BoxSweep):
        return prod(sweep.swept)
    return sweep.cols if sweep.over == "keys" else sweep.rows
