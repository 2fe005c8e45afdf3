"""What the chosen plan computes: every pair of every tile that its loops visit, attended or not.

The loops of the plan are evaluated at a length, all tiles at once; nothing is compiled, and neither torch nor Triton
is imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import sympy

from pidsl.analysis.formulas.words import holds as holds_at
from pidsl.analysis.formulas.words import symbol
from pidsl.errors import TooHardError
from pidsl.language.terms import Term, is_chosen
from pidsl.relation import counting
from pidsl.relation.isl import limited

if TYPE_CHECKING:
    from pidsl.codegen.choice.targets import Kind
    from pidsl.codegen.plan.nodes import Plan
    from pidsl.codegen.plan.walks import Pass

OPERATIONS = 500_000  # of isl for a plan; most take a hundredth
LONGEST = 1 << 20  # tokens at which loops are evaluated; beyond, the waste no longer changes by much


@dataclass(frozen=True)
class PlanCost:
    """Pairs that the plan computes for one head, at a length.

    Args:
        backend: whose plan.
        n: tokens.
        attended: pairs of the pattern; where calls choose, at most.
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
        """Computed / attended pairs of the forward pass; 1.0 where there are neither, infinite where only computed."""
        if self.attended:
            return self.forward / self.attended
        return math.inf if self.forward else 1.0

    @property
    def forward_flops(self) -> int:
        """`4 * head_dim` per computed pair."""
        return 4 * self.head_dim * self.times * self.forward

    @property
    def backward_flops(self) -> int:
        """`6 * head_dim` and `8 * head_dim` per computed pair of its two passes."""
        return self.head_dim * self.times * (6 * self.grad_query + 8 * self.grad_key)


def plan_cost(term: Term, n: int | None = None, head_dim: int = 64, times: int = 1, itemsize: int = 2) -> PlanCost:
    """What the Triton plan of a term computes; unknown where isl needs long to make it.

    >>> import pidsl
    >>> found = plan_cost(pidsl.window(63), 4096)
    >>> found.attended, found.forward, round(found.waste, 2)
    (260128, 520192, 2.0)

    Args:
        term: a term without symbols.
        n: tokens; None: as many as plans are compared at. Above 2**20 the loops are evaluated at 2**20.
        head_dim: longer rows have other tiles.
        times: heads * batch.
        itemsize: bytes per element.

    Raises:
        SymbolError: the term holds unbound symbols.
        TooHardError: isl's operation limit struck.
    """
    from pidsl.codegen.choice.cost import REFERENCE
    from pidsl.codegen.choice.targets import DEFAULT, kind

    length = REFERENCE if n is None else min(n, LONGEST)
    attended, forward, grad_query, grad_key = _pairs(term, kind(DEFAULT, head_dim, itemsize), length)
    return PlanCost("triton", length, attended, forward, grad_query, grad_key, head_dim, times)


@lru_cache(maxsize=256)
def plan_of(term: Term, of: Kind) -> Plan:
    """The plan as `lower` makes it, or none: a query does not wait as long as a compilation may."""
    from pidsl.codegen.lower import planned

    with limited(f"the plan of {term!r}", OPERATIONS):
        plan = planned(term, "triton", of.head_dim, itemsize=of.itemsize)  # what is cut off here is not remembered
    if plan.notes:
        raise TooHardError(plan.notes[0], "a plan with loops of its own", repr(term))
    return plan


@lru_cache(maxsize=256)
def _pairs(term: Term, of: Kind, n: int) -> tuple[int, int, int, int]:
    plan = plan_of(term, of)
    passes: tuple[Pass, ...] = ("forward", "grad_query", "grad_key")
    forward, grad_query, grad_key = (sum(piece.computed_at(n, task) for piece in plan.pieces) for task in passes)
    return _attended(term, n), forward, grad_query, grad_key


def _attended(term: Term, n: int) -> int:
    """The pairs of a term: by their formula, where there is one; counting them can take longer."""
    from pidsl.analysis.questions import pairs

    found = pairs(term)
    told = found.is_exact or is_chosen(term)  # of what calls choose, the most that they may
    known = told and all(holds_at(c, {symbol("n"): sympy.Integer(n)}) for c in found.assumptions)
    return int(found(n=n)) if known else counting.pairs(term, n)
