"""Which pieces share a kernel: pieces -> stages.

A stage is one kernel: all its pieces let a program own the same rows (or, for dK and dV, the same keys) in tiles of
the same size. Stages run one after the other, and a later one goes on from what the earlier ones wrote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pidsl.codegen.plan import DiagonalPiece, Piece, Plan, Sweep, TilePiece

Pass = Literal["forward", "grad_query", "grad_key"]

LAG_TILE = 64  # rows of a program that computes nothing but diagonals


@dataclass(frozen=True, slots=True)
class Stage:
    """The pieces of one kernel, and what its programs own.

    Args:
        name: of the kernel, unique in the plan.
        owns: "rows" or "keys".
        step: programs own positions of one class mod `step`.
        fixed: the one class owned, None when every class has programs.
        tile: positions per program.
        swept: the longest tile of the other dimension, 0 when the stage has only diagonals.
        resumes: an earlier kernel (or the launcher's fill) has written something to go on from.
        pieces: (number of the piece in the plan, piece), the diagonals last.
    """

    name: str
    owns: str
    step: int
    fixed: int | None
    tile: int
    swept: int
    resumes: bool
    pieces: tuple[tuple[int, Piece], ...]

    @property
    def whole(self) -> bool:
        """Every row (key) of the problem belongs to a program."""
        return self.fixed is None

    @property
    def classes(self) -> int:
        return self.step if self.fixed is None else 1


def stages(plan: Plan, task: Pass) -> tuple[Stage, ...]:
    """The kernels of one pass in the order of their launches.

    `window(63) | stride(256) & causal` -> one stage that owns rows in tiles of 128, for the band, and one that owns
    rows of the classes mod 256 in tiles of 64, for the stride.
    """
    groups: dict[tuple[int, int | None, int], list[tuple[int, Piece]]] = {}
    for number, piece in enumerate(plan.pieces):
        if isinstance(piece, TilePiece):
            groups.setdefault((*_side(piece, task), _owned(_sweep(piece, task))), []).append((number, piece))
    for number, piece in enumerate(plan.pieces):
        if isinstance(piece, DiagonalPiece):  # rides with tiles that own plain rows (keys), where there are any
            host = next((key for key in groups if key[:2] == (1, None)), (1, None, LAG_TILE))
            groups.setdefault(host, []).append((number, piece))
    # A stage that owns every row goes first, so that it can initialise, and another one goes last, so that it can
    # write the final dtype; stages with a fixed class come between them.
    order = sorted(groups, key=lambda key: key[1] is not None)
    if len(order) > 1 and order[1][1] is None:
        order.append(order.pop(1))
    found: list[Stage] = []
    for key in order:
        step, fixed, tile = key
        side = "" if step == 1 else f"_mod_{step}" if fixed is None else f"_{fixed}_mod_{step}"
        name = f"{task}{side}"
        if any(stage.name == name for stage in found):
            name += f"_by_{tile}"
        swept = [_swept(_sweep(p, task)) for _, p in groups[key] if isinstance(p, TilePiece)]
        found.append(
            Stage(
                name=name,
                owns="keys" if task == "grad_key" else "rows",
                step=step,
                fixed=fixed,
                tile=tile,
                swept=max(swept, default=0),
                resumes=bool(found) or fixed is not None,
                pieces=tuple(groups[key]),
            )
        )
    return tuple(found)


def _side(piece: Piece, task: Pass) -> tuple[int, int | None]:
    return piece.layout.key_side if task == "grad_key" else piece.layout.query_side


def _sweep(piece: TilePiece, task: Pass) -> Sweep:
    match task:
        case "forward":
            return piece.forward
        case "grad_query":
            return piece.grad_query
        case "grad_key":
            return piece.grad_key


def _owned(sweep: Sweep) -> int:
    return sweep.rows if sweep.over == "keys" else sweep.cols


def _swept(sweep: Sweep) -> int:
    return sweep.cols if sweep.over == "keys" else sweep.rows
