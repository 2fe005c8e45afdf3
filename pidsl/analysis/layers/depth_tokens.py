"""Depth where a formula is guessed from small numbers of tokens, and proved for all others by following single tokens.

n = 1, 2, ...    the depth by boolean matrices, and the formula that its values suggest
short n          matrices again
long n           so many layers connect everything: composed by isl; fewer do not, or none does: `follow`
"""

from __future__ import annotations

import islpy as isl
import sympy

from pidsl.analysis import dense as matrices
from pidsl.analysis.bound import Bound, restated
from pidsl.analysis.dense import Of
from pidsl.analysis.formulas.agreement import branch_starts
from pidsl.analysis.formulas.guess import guess
from pidsl.analysis.formulas.piecewise import Formula, stated, tokens_of
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.by_values import value_at
from pidsl.analysis.layers.follow import candidates, lacking, one_class
from pidsl.analysis.layers.reach_check import layer as layer_of
from pidsl.analysis.verdict import Verdict
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import coalesced, limited, read_map, read_set
from pidsl.relation.oracle import dense_mask

BRANCHES = 24
VALUES = 84  # tokens up to which depths are counted for a guess
SEEN = 24  # of them that follow one rule
SHORT = 32  # tokens up to which matrices are asked in any case
LATEST = 72  # the n from which on one rule has to hold
COMPOSED = 1_000_000  # operations of isl for composing layers
DISTINCT = 12  # depths of long n
SAMPLES = 3  # numbers of tokens whose masks suggest the tokens to follow


def guessed(term: Term, of: Of) -> Formula:
    """The formula that the depths for few tokens suggest; to be proved.

    Raises:
        TooHardError: they suggest none.
    """
    values = [matrices.depth_of((term,), x, of) for x in range(1, VALUES + 1)]
    found = guess(values, sympy.oo, BRANCHES, SEEN)
    if found is None:
        raise TooHardError(f"the depths for up to {VALUES} tokens", "a formula that they follow")
    return found


def check_depth_by_tokens(bound: Bound) -> Verdict:
    """Matrices for short n; for long n, composed layers that are enough, and tokens that show that fewer are not.

    For one n the formula is guessed again, proved, and its value compared.
    """
    if bound.argument("n") is None:
        return _check_formula(bound)
    term, count, of = bound.term, bound.argument("n"), bound.argument("of")
    tokens_of((*bound.assumptions, sympy.Eq(n, count)))  # that satisfy the assumptions
    found = guessed(term, of)
    whole = restated(bound, relation="==", expr=found.expr, assumptions=found.assumptions, n=None)
    verdict = _check_formula(whole)
    if verdict.holds and whole(n=count) != value_at(bound.expr, count):
        return Verdict(False, failure=f"{whole(n=count)} for {count} tokens")
    return verdict


def _check_formula(bound: Bound) -> Verdict:
    (least, _), of = tokens_of(bound.assumptions), bound.argument("of")
    if bound.expr.has(-sympy.oo):
        return Verdict(False, failure="no depth")
    start = max(SHORT, least, *branch_starts(bound.expr, n))
    if start > LATEST:
        return Verdict(False, failure=f"other formulas up to {start} tokens")
    term = bound.term
    for count in range(least, start):
        value = value_at(bound.expr, count)
        if not isinstance(value, int) and value != float("inf"):
            return Verdict(False, failure=f"{count} tokens: {value}")
        if failure := matrices.is_depth((term,), count, of, value if isinstance(value, int) else None):
            return Verdict(False, failure=f"{count} tokens: {failure}")
    with limited("checking a depth of long sequences", 4 * COMPOSED):
        failure = _Long(term, of, start).wrong(bound.expr)
    return Verdict(
        not failure,
        () if failure else (f"matrices for n < {start}", "layers composed, and tokens followed, for all other n"),
        failure,
    )


class _Long:
    """The pairs of n >= start tokens."""

    def __init__(self, term: Term, of: Of, start: int) -> None:
        self.term, self.of, self.start = term, of, start
        self.where = read_set(f"[n] -> {{ : n >= {start} }}")
        self.layer = coalesced(layer_of(term).intersect_params(self.where))
        self.target = read_map(
            f"[n] -> {{ [i] -> [j] : n >= {start} and 0 <= i < n and 0 <= j < n {'and j <= i' * (of == 'causal')} }}"
        )

    def wrong(self, expr: sympy.Expr) -> str:
        """Why a formula is not the depth, "" if it is."""
        f = stated(expr, self.where)
        values = isl.Set.from_pw_aff(f).project_out(isl.dim_type.param, 0, 1)
        if not values.is_bounded():
            return "a depth that grows with n"
        found: list[int] = []
        values.foreach_point(lambda p: found.append(int(p.get_coordinate_val(isl.dim_type.set, 0).to_python())))
        if len(found) > DISTINCT or min(found, default=1) < 1:
            return f"depths {found}"
        never = (self.where - f.domain()).coalesce()
        if not (one_class(self.layer) or self.lack(None, never)):
            return "some number of layers may connect these"
        for count in found:
            here = isl.Set.from_pw_aff(f).fix_val(isl.dim_type.set, 0, isl.Val(count, f.get_ctx())).params()
            fewer = range(1, count) if not self.monotone() else range(count - 1, count) if count > 1 else ()
            for less in fewer:
                if not self.lack(less, here):
                    return f"{less} layers may be enough"
            if not self.connect(count, here):
                return f"{count} layers may not be enough"
        return ""

    def monotone(self) -> bool:
        """Whether layers that connect the target still do when there is one more (see `matrices.grows`)."""
        diagonal = read_map(f"[n] -> {{ [i] -> [i] : n >= {self.start} and 0 <= i < n }}")
        return self.of == "all" or bool(diagonal.is_subset(self.layer))

    def lack(self, layers: int | None, where: isl.Set) -> bool:
        """Whether so many layers, or any number, leave some pair unconnected, for all n in `where`."""
        while not where.is_empty():
            counts = [x for x in range(self.start, self.start + VALUES) if _holds(where, x)][:SAMPLES]
            masks = [dense_mask(self.term, x) for x in counts]
            before = where
            for token in candidates(masks, self.of, layers):
                try:
                    where = (where - lacking(self.layer, self.target, token, where, layers)).coalesce()
                except TooHardError:
                    continue
                if where.is_empty():
                    return True
            if where.is_equal(before):
                return False
        return True

    def connect(self, layers: int, where: isl.Set) -> bool:
        """Whether so many layers connect the target, for all n in `where`."""
        with limited("composing layers", COMPOSED):
            layer = coalesced(self.layer.intersect_params(where))
            seen = layer
            for _ in range(layers - 1):
                seen = coalesced(seen.apply_range(layer))
            return bool(self.target.intersect_params(where).is_subset(seen))


def _holds(where: isl.Set, count: int) -> bool:
    return not where.intersect(read_set(f"[n] -> {{ : n = {count} }}")).is_empty()
