"""What the chosen plan computes: every pair of every tile that its loops visit, attended or not.

The loops of the plan are evaluated at a length, all tiles at once; nothing is compiled, and neither torch nor Triton
is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy

from pidsl.analysis.formulas import holds as holds_at
from pidsl.analysis.formulas import symbol
from pidsl.errors import TooHardError
from pidsl.language.expr import Var, evaluate, holds
from pidsl.language.terms import Term
from pidsl.relation import counting
from pidsl.relation.isl import limited

if TYPE_CHECKING:
    from pidsl.codegen.plan import BoxSweep, DiagonalPiece, Grid, GridPiece, Plan, Sweep, TilePiece

OPERATIONS = 500_000  # of isl for a plan; most take a hundredth
LONGEST = 1 << 20  # tokens at which loops are evaluated; beyond, the waste no longer changes by much


@dataclass(frozen=True)
class PlanCost:
    """Pairs that the plan computes for one head, at a length.

    Args:
        backend: whose plan.
        n: tokens.
        attended: pairs of the pattern.
        forward: pairs in the tiles of the forward pass.
        grad_query: pairs in the tiles of the pass that gives dQ: three products each, q k, dO v and dS k.
        grad_key: pairs in the tiles of the pass that gives dK and dV: four products each, q k, dO v, P dO and dS q.
        head_dim: elements of a row of q, k and v.
        times: heads * batch.
    """

    backend: str
    n: int
    attended: int
    forward: int
    grad_query: int
    grad_key: int
    head_dim: int
    times: int

    @property
    def waste(self) -> float:
        """Computed / attended pairs of the forward pass, 1.0 where nothing is computed."""
        return self.forward / self.attended if self.attended else 1.0

    @property
    def forward_flops(self) -> int:
        """`4 * head_dim` per computed pair."""
        return 4 * self.head_dim * self.times * self.forward

    @property
    def backward_flops(self) -> int:
        """`6 * head_dim` and `8 * head_dim` per computed pair of its two passes."""
        return self.head_dim * self.times * (6 * self.grad_query + 8 * self.grad_key)


def plan_cost(term: Term, n: int | None = None, head_dim: int = 64, times: int = 1) -> PlanCost:
    """What the Triton plan of a term computes; unknown where isl needs long to make it.

    >>> import pidsl
    >>> found = plan_cost(pidsl.window(63), 4096)
    >>> found.attended, found.forward, round(found.waste, 2)
    (260128, 520192, 2.0)

    Args:
        term: a term without symbols.
        n: tokens; None: as many as plans are compared at. Above 2**20 the loops are evaluated at 2**20.
        head_dim: rows above 128 get smaller tiles.
        times: heads * batch.

    Raises:
        SymbolError: the term holds unbound symbols.
        TooHardError: isl's operation limit struck.
    """
    from pidsl.codegen.cost import REFERENCE

    length = REFERENCE if n is None else min(n, LONGEST)
    attended, forward, grad_query, grad_key = _pairs(term, head_dim > 128, length)
    return PlanCost("triton", length, attended, forward, grad_query, grad_key, head_dim, times)


@lru_cache(maxsize=256)
def plan_of(term: Term, wide: bool) -> Plan:
    """The plan as `lower` makes it, or none: a query does not wait as long as a compilation may."""
    from pidsl.codegen.lower import lower

    with limited(f"the plan of {term!r}", OPERATIONS):
        plan = lower.__wrapped__(term, "triton", 256 if wide else 64)  # what is cut off here stays out of its cache
    if plan.notes:
        raise TooHardError(plan.notes[0], "a plan with loops of its own", repr(term))
    return plan


@lru_cache(maxsize=256)
def _pairs(term: Term, wide: bool, n: int) -> tuple[int, int, int, int]:
    from pidsl.codegen.plan import DiagonalPiece, ListPiece

    plan = plan_of(term, wide)
    passes = [0, 0, 0]
    for piece in plan.pieces:
        if isinstance(piece, DiagonalPiece):
            count = _rows(piece, n)
            passes = [x + count for x in passes]
        elif isinstance(piece, ListPiece):
            passes = [x + piece.computed for x in passes]
        else:
            sweeps = (piece.forward, piece.grad_query, piece.grad_key)
            passes = [x + computed(piece, sweep, n) for x, sweep in zip(passes, sweeps, strict=True)]
    return _attended(term, n), passes[0], passes[1], passes[2]


def _attended(term: Term, n: int) -> int:
    """The pairs of a term: by their formula, where there is one; counting them can take longer."""
    from pidsl.analysis.ask import pairs

    found = pairs(term)
    known = found.is_exact and all(holds_at(c, {symbol("n"): sympy.Integer(n)}) for c in found.assumptions)
    return int(found(n=n)) if known else counting.pairs(term, n)


def computed(piece: TilePiece | GridPiece, sweep: Sweep | BoxSweep, n: int) -> int:
    """Pairs in the tiles that a sweep visits, n queries and n keys."""
    from pidsl.codegen.plan import BoxSweep, TilePiece

    if isinstance(sweep, BoxSweep):
        assert not isinstance(piece, TilePiece)
        return prod(_on_axis(piece.layout, sweep, axis, n) for axis in range(len(sweep.own)))
    assert isinstance(piece, TilePiece)
    layout = piece.layout
    by_keys = sweep.over == "keys"
    step = layout.query_step if by_keys else layout.key_step
    env: dict[str, Any] = {"n": n, "m": n, "offset": 0}
    if layout.linked:
        own = np.arange(min(step, n))
    elif by_keys:
        own = np.array([evaluate(layout.row_class(), env)])
    else:
        own = np.array([layout.key_class or 0])
    size = sweep.rows if by_keys else sweep.cols
    own = own[own < n]
    tiles = (n - own + step * size - 1) // (step * size)  # of each class
    which = np.repeat(own, tiles)
    t = np.arange(len(which)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    env |= {"t": t, "c": which} if by_keys else {"t": t, "d": which}
    if by_keys:
        env["d"] = evaluate(layout.key_class_of(Var("c")), env)
    else:
        env["c"] = evaluate(layout.row_class_of(Var("d")), env)
    total = 0
    for run in sweep.runs:
        first, last = (np.asarray(evaluate(x, env), dtype=np.int64) for x in (run.first, run.last))
        visited = np.maximum((last - first) // run.step + 1, 0) * np.ones_like(t)
        if run.guard is not None:
            visited = visited * np.asarray(holds(run.guard, env))
        total += int(visited.sum())
    return total * sweep.rows * sweep.cols


def _on_axis(grid: Grid, sweep: BoxSweep, axis: int, n: int) -> int:
    """Pairs of coordinates in the boxes of one axis; boxes of single tokens end with the grid."""
    rows = -(-n // grid.strides[axis])
    length = rows if axis == 0 else grid.lengths[axis]
    length = rows if length is None else min(length, grid.lengths[axis] or length)
    own, swept = sweep.own[axis], sweep.swept[axis]
    t = np.arange(-(-length // own))
    first = np.maximum(evaluate(sweep.first[axis], {"t": t}) + 0 * t, 0)
    end = sweep.last[axis]
    last = np.minimum(length - 1 if end is None else evaluate(end, {"t": t}) + 0 * t, length - 1)
    keys = np.maximum(-(-(last - first + 1) // swept), 0) * swept
    heights = np.minimum(own, length - t * own) if swept == 1 else np.full(t.shape, own)
    return int((heights * keys).sum())


def _rows(piece: DiagonalPiece, n: int) -> int:
    env: dict[str, Any] = {"n": n, "m": n, "offset": 0}
    return sum(max(0, evaluate(x.last, env) - evaluate(x.first, env) + 1) for x in piece.diagonals)
