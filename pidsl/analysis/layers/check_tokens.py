"""The checker of depths by tokens.

short n    matrices
long n     isl composes as many layers as connect everything; tokens show that fewer do not, or none (`follow`)
"""

from __future__ import annotations

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.dense import is_depth
from pidsl.analysis.formulas.agreement import branch_starts
from pidsl.analysis.formulas.read import stated, tokens_of
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.by_values import value_at
from pidsl.analysis.layers.follow import DISTINCT, LATEST, SHORT, Token, lacking, one_class
from pidsl.analysis.layers.forms import EVERY, target_map
from pidsl.analysis.layers.judged import layer, verdict
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.relation.isl import coalesced, limited, read_map, read_set

COMPOSED = 1_000_000  # operations of isl for composing layers


def check(bound: Bound) -> Verdict:
    """Matrices for short n; for long n, composed layers that are enough, and tokens that show that fewer are not."""
    (least, _), of = tokens_of(bound.assumptions), bound.question.of
    if bound.expr.has(-sympy.oo) or bound.question.n is not None or of is None:
        return failed("no depth for every n")
    start = max(SHORT, least, *branch_starts(bound.expr, n))
    if start > LATEST:
        return failed(f"other formulas up to {start} tokens")
    for count in range(least, start):
        value = value_at(bound.expr, count)
        if not isinstance(value, int) and value != float("inf"):
            return failed(f"{count} tokens: {value}")
        if failure := is_depth((bound.term,), count, of, value if isinstance(value, int) else None):
            return failed(f"{count} tokens: {failure}")
    with limited("checking a depth of long sequences", 4 * COMPOSED):
        failure = _Long(bound, start).wrong(bound.expr)
    return verdict(failure, f"matrices for n < {start}", "layers composed, and tokens followed, for all other n")


class _Long:
    """The pairs of n >= start tokens."""

    def __init__(self, bound: Bound, start: int) -> None:
        self.of, self.start = bound.question.of, start
        self.tokens = bound.certificate.fact("tokens") or ()
        self.where = read_set(f"[n] -> {{ : n >= {start} }}")
        self.layer = coalesced(layer(bound.term).intersect_params(self.where))
        self.target = target_map(self.of).intersect_params(self.where)

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
        """Whether layers that connect the target still do when there is one more (see `dense.grows`)."""
        return self.of == "all" or bool(read_map(EVERY).intersect_params(self.where).is_subset(self.layer))

    def lack(self, layers: int | None, where: isl.Set) -> bool:
        """Whether so many layers, or any number, leave some pair unconnected, for all n in `where`."""
        for count, at, seen in self.tokens:
            if count == layers and not where.is_empty():
                try:
                    short = lacking(self.layer, self.target, Token(at, seen), where, layers)
                except TooHardError:
                    continue
                where = (where - short).coalesce()
        return bool(where.is_empty())

    def connect(self, layers: int, where: isl.Set) -> bool:
        """Whether so many layers connect the target, for all n in `where`."""
        with limited("composing layers", COMPOSED):
            layer = coalesced(self.layer.intersect_params(where))
            seen = layer
            for _ in range(layers - 1):
                seen = coalesced(seen.apply_range(layer))
            return bool(self.target.intersect_params(where).is_subset(seen))
