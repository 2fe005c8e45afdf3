"""Proofs: named ways to verify a bound from its statement, and what they asked of whom.

Each method is a function `check(bound) -> Verdict` in the module named here, imported when it is needed. It may read
nothing but the bound: the term, the quantity, the formula, the assumptions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

import sympy

from pidsl.analysis.formulas.words import Periodic, Table
from pidsl.errors import PidslError
from pidsl.relation.isl import in_turn

if TYPE_CHECKING:
    from pidsl.analysis.bound import Bound


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a statement was verified.

    Args:
        holds: it was.
        steps: what was established on the way, one line each.
        failure: the first thing that could not be, "" if all could.
        smtlib: what an SMT solver was asked: every script must be answered `unsat`. "" where none was.
    """

    holds: bool
    steps: tuple[str, ...] = ()
    failure: str = ""
    smtlib: str = ""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to prove.

    Args:
        summary: one line for people: what is done, and which theorem makes it a proof.
        checker: "module:function" that verifies a bound.
    """

    summary: str
    checker: str


_REACH = "pidsl.analysis.layers.reach_check"
_BLOCKS = "pidsl.analysis.smaller.block_bounds"
_DEPTH = "pidsl.analysis.layers.depth_check"
_COST = "pidsl.analysis.sizes"

METHODS: dict[str, Method] = {
    "from the exact formula": Method(
        "compared with the exact formula, whose own proof comes first, for all values of the symbols (z3)",
        "pidsl.studies.judge:check_claim",
    ),
    "first differences": Method(
        "one more lag is one more key, for all values of the symbols (z3), and the first lag agrees",
        "pidsl.analysis.symbolic.lag_degree:check_degree",
    ),
    "layers by induction": Method(
        "what L layers reach, by induction over L, and the formula from it, for all values of the symbols (z3)",
        "pidsl.analysis.symbolic.lag_reach:check_reach",
    ),
    "live keys by witness": Method(
        "the largest lag is attended and no larger one is, for all values of the symbols (z3)",
        "pidsl.analysis.symbolic.lag_live:check_live",
    ),
    # concrete terms: pairs, keys per query, live keys
    "quasi-polynomial": Method(
        "equal to exact counts at as many n of each chamber as determine a quasi-polynomial",
        "pidsl.analysis.counting.counts_check:check_pairs",
    ),
    "degree": Method(
        "isl: the keys of each query are arithmetic progressions, whose sizes sum to the formula for all i and n",
        "pidsl.analysis.counting.degrees_check:check_degree",
    ),
    "largest degree": Method(
        "isl: no query has more keys, and for every n some query has as many",
        "pidsl.analysis.counting.degrees_check:check_maximum",
    ),
    "keys between blocks": Method(
        "blocks of tokens attend one another: made of the degrees between blocks, each proved by itself",
        f"{_BLOCKS}:check_degree",
    ),
    "largest between blocks": Method(
        "isl: made of the degrees between blocks, each proved by itself, of which none is more and one as many",
        f"{_BLOCKS}:check_maximum",
    ),
    "pairs between blocks": Method(
        "blocks of tokens attend one another: made of the pairs of blocks, each count proved by itself",
        f"{_BLOCKS}:check_pairs",
    ),
    "whole grids": Method(
        "a whole grid is a product of its axes, and layers act on each alone: worked out from masks of the axes",
        "pidsl.analysis.smaller.grids:check_grid",
    ),
    "live keys": Method(
        "equal to exact counts at as many t of each chamber as determine a quasi-polynomial",
        "pidsl.analysis.counting.live:check_live",
    ),
    # pairs and lags of several layers
    "layers": Method("isl composes the layers and compares the formula for all n", f"{_REACH}:check_layers"),
    "lag sums": Method(
        "causal and translation invariant: sums of lags, compared with the formula for all n",
        f"{_REACH}:check_lag_sums",
    ),
    "lag growth": Method("sums of lags, and induction on the number of layers", f"{_REACH}:check_lag_growth"),
    "lag depth": Method("sums of lags, and induction on the number of layers", f"{_DEPTH}:check_lag_depth"),
    "depth": Method(
        "isl composes layer by layer, for all n; where none is enough, an invariant that holds of every number of them",
        f"{_DEPTH}:check_depth",
    ),
    "depth by tokens": Method(
        "matrices for short n; for all others isl composes the layers that are enough, and follows tokens that lack "
        "keys after fewer of them",
        "pidsl.analysis.layers.depth_tokens:check_depth_by_tokens",
    ),
    "two-sided lags": Method(
        "finitely many lags behind and ahead: sums of them, and where these leave no gap any more",
        "pidsl.analysis.layers.two_sided:check_sides",
    ),
    "blocks": Method(
        "tokens are connected when their blocks are: the depth between blocks, proved by itself",
        "pidsl.analysis.smaller.blocked:check_blocks",
    ),
    "short sequences": Method(
        "of long gaps between tokens only the remainder matters, so dense masks of short sequences decide",
        "pidsl.analysis.layers.short:check_short",
    ),
    "repeating layers": Method(
        "layers repeat, for all n: of long gaps between tokens only the remainder matters, so dense masks of short "
        "sequences decide",
        "pidsl.analysis.layers.cycles:check_cycles",
    ),
    "matrices": Method("boolean matrices for this n, until they repeat", f"{_DEPTH}:check_matrices"),
    "form in L": Method(
        "isl verifies the pairs of L layers by induction on L, and compares the formula", f"{_REACH}:check_form_in_l"
    ),
    "stable layers": Method(
        "isl composes layers until one more adds nothing, and compares the formula", f"{_REACH}:check_stable_layers"
    ),
    "second differences": Method(
        "the second differences in n are the keys gained, for all values of the symbols (z3), and n = 0, 1 agree",
        "pidsl.analysis.symbolic.lag_pairs:check_pairs",
    ),
    # costs, and what needs no layer
    "from the pairs": Method(
        "the number of pairs, proved by itself, times a constant (or its share of n * n)",
        f"{_COST}:check_scaled",
    ),
    "from the live keys": Method(
        "the number of live keys, proved by itself, times a constant", f"{_COST}:check_scaled"
    ),
    "tensor sizes": Method("the shapes of the tensors that are read or written", f"{_COST}:check_sizes"),
    "no layer": Method("without a layer, every token is itself", f"{_COST}:check_no_layer"),
    "documents apart": Method(
        "isl: of what programs compute of a document, every pair stays in it, for all starts, lengths and offsets",
        "pidsl.analysis.documents:check_apart",
    ),
    "corners": Method(
        "a sum of corners of the (query, key) plane, of which a key and a query more add what they say, for all values "
        "of the symbols (z3)",
        "pidsl.analysis.symbolic.corners:check_corners",
    ),
    "second differences, at most": Method(
        "the second differences in n are at least the keys gained, for all values of the symbols (z3)",
        "pidsl.analysis.symbolic.lag_pairs:check_pairs",
    ),
}


UNSURE = ("second differences", "second differences, at most", "first differences", "layers", "depth", "form in L")
"""Methods whose checker may not decide, where a formula divides: they are checked before it is returned."""

SELDOM = ("stable layers", "repeating layers", "short sequences")
"""Methods whose checker goes further than the finder did: always checked before."""

QUESTIONS = 500  # to z3, a second or a few: what needs more is not returned


def proved(bound: Bound) -> Bound:
    """The bound, or unknown where its own check is among those that may fail and does; other finders have checked."""
    if bound.method not in SELDOM and not (bound.method in UNSURE and _divides(bound)):
        return bound
    return _proved(bound)


@lru_cache(maxsize=512)
def _proved(bound: Bound) -> Bound:
    from pidsl.analysis.bound import unknown
    from pidsl.analysis.formulas import smt

    with smt.patience(QUESTIONS):
        verdict = verdict_of(bound)
    if verdict.holds:
        return bound
    why = f"a formula was found that its own check does not confirm: {verdict.failure}"
    return unknown(bound.subject, bound.quantity, why, dict(bound.given))


def _divides(bound: Bound) -> bool:
    """Whether a formula has floors; for open terms, floors of divisions by a symbol, of which z3 decides not all."""
    from pidsl.analysis.statements import names_of

    floors = bound.expr.atoms(sympy.floor, sympy.ceiling, sympy.Mod, Periodic, Table)
    if not names_of(bound.subject):
        return bool(floors)
    return any(x.atoms(sympy.Pow) or isinstance(x, sympy.Mod) for x in floors)


@in_turn
def verdict_of(bound: Bound) -> Verdict:
    """Verify a bound from its statement: that it is one, that no dense mask contradicts it, then by its method."""
    from pidsl.analysis import documents

    if not bound.is_known:
        return Verdict(False, failure="nothing is claimed")
    verdict = Verdict(False, failure="of a pattern within documents, only bounds are proved")
    for statement in documents.proving(bound):
        if (verdict := _verdict(statement)).holds:
            break
    return verdict


def _verdict(bound: Bound) -> Verdict:
    from pidsl.analysis import held_out as against_masks
    from pidsl.analysis.statements import misstated

    method = METHODS.get(bound.method) if isinstance(bound.method, str) else None
    if method is None:
        return Verdict(False, failure=f"no method {bound.method!r}")
    if why := misstated(bound):
        return Verdict(False, failure=why)
    module, function = method.checker.split(":")
    check: Callable[[Bound], Verdict] = getattr(import_module(module), function)
    try:
        if why := against_masks.refutation(bound, against_masks.AGAIN):
            return Verdict(False, failure=why)
        return check(bound)
    except PidslError as e:
        return Verdict(False, failure=str(e))


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof of a bound.

    Attributes:
        statement: the bound.
    """

    statement: Bound

    @property
    def summary(self) -> str:
        """How it is proved, in one line."""
        method = METHODS.get(self.statement.method)
        return method.summary if method else "none"

    def check(self) -> bool:
        """Verify the statement again, from nothing but the term, the formula and the assumptions.

        Returns:
            True when every step holds; False when one fails or cannot be decided. `verdict()` says which.
        """
        return self.verdict().holds

    def verdict(self) -> Verdict:
        """As `check`, with the steps and the first failure."""
        return verdict_of(self.statement)

    def to_smtlib(self) -> str:
        """What an SMT solver is asked, as SMT-LIB 2 scripts, each to be answered `unsat`; a comment where none is.

        Scripts are separated by `(reset)`, so that the text can be given to any solver as it is.
        """
        verdict = self.verdict()
        if verdict.smtlib:
            return verdict.smtlib
        proved = f"proved without an SMT solver: {self.summary}"
        return f"; {proved if verdict.holds else f'not proved: {verdict.failure}'}\n"
