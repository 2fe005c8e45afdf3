"""The checker of depths by tokens.

short n    matrices
long n     isl composes as many layers as connect everything; tokens show that fewer do not, or none

The keys of one token after L layers are a one-dimensional set for each n, far less work than all pairs. Where some key
of the target is not among them, L layers are not enough for these n; where the sets come back to an earlier one with
a key missing each time, no number of layers is. The same for the tokens that see one key.
"""

from __future__ import annotations

from dataclasses import dataclass

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.dense import is_depth
from pidsl.analysis.formulas.agreement import branch_starts
from pidsl.analysis.formulas.read import stated, tokens_of
from pidsl.analysis.formulas.words import n
from pidsl.analysis.layers.judged import layer, verdict
from pidsl.analysis.layers.stacks import diagonal, target_map
from pidsl.analysis.measured import formula_at
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.relation.isl import coalesced, limited, read_set

COMPOSED = 1_000_000  # operations of isl for composing layers
SHORT = 32  # tokens up to which matrices are asked in any case
LATEST = 72  # the n from which on one rule has to hold
DISTINCT = 12  # depths of long n
STEPS = 64  # layers that a token is followed through
OPERATIONS = 200_000  # of isl, for one token
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)  # moduli of lags that are tried


def check(bound: Bound) -> Verdict:
    """Matrices for short n; for long n, composed layers that are enough, and tokens that show that fewer are not."""
    (least, _), of = tokens_of(bound.assumptions), bound.question.of
    if bound.expr.has(-sympy.oo) or bound.question.n is not None or of is None:
        return failed("no depth for every n")
    start = max(SHORT, least, *branch_starts(bound.expr, n))
    if start > LATEST:
        return failed(f"other formulas up to {start} tokens")
    for count in range(least, start):
        value = formula_at(bound.expr, {"n": count})
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
        return self.of == "all" or bool(diagonal().intersect_params(self.where).is_subset(self.layer))

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


@dataclass(frozen=True, slots=True)
class Token:
    """Token `at`, or for at < 0 the token so far from the end; its keys, or the tokens that see it.

    Args:
        at: the position.
        seen: whether the tokens that see it are followed, not its keys.
    """

    at: int
    seen: bool

    def point(self) -> isl.Set:
        return read_set(f"[n] -> {{ [i] : 0 <= i < n and i = {self.at}{' + n' if self.at < 0 else ''} }}")


def lacking(layer: isl.Map, target: isl.Map, token: Token, where: isl.Set, layers: int | None) -> isl.Set:
    """For which n the token lacks some key of the target after so many layers; None: after any number of layers.

    Args:
        layer: `[n] -> { [i] -> [j] }`.
        target: the pairs that are wanted.
        token: the one to follow.
        where: the n that matter.
        layers: how many.

    Raises:
        TooHardError: isl's operation limit struck, or the sets go on to change.
    """
    with limited("the keys of one token", OPERATIONS):
        step = layer.reverse() if token.seen else layer
        now = token.point().intersect_params(where)
        wanted = now.apply(target.reverse() if token.seen else target)
        past: list[isl.Set] = []
        for count in range(1, STEPS + 1):
            now = coalesced(now.apply(step))
            short = (wanted - now).params() & where
            if layers is not None:
                if count == layers:
                    return short
                continue
            where = short
            if where.is_empty():
                return where
            now, wanted = now.intersect_params(where), wanted.intersect_params(where)
            if any(now.is_equal(one.intersect_params(where)) for one in reversed(past)):
                return where
            past.append(now)
    raise TooHardError(f"keys that still change after {STEPS} layers", "fewer")


def one_class(layer: isl.Map) -> bool:
    """Whether all lags are in one class modulo some m >= 2: then L layers connect lags of one class only, never all.

    That leaves lag 0 or lag 1 out, for every n >= 2.
    """
    lags = layer.reverse().deltas().project_out(isl.dim_type.param, 0, 1)
    if lags.is_empty():
        return False
    some = int(lags.sample_point().get_coordinate_val(isl.dim_type.set, 0).to_python())
    return any(lags.is_subset(read_set(f"{{ [d] : (d - {some}) mod {m} = 0 }}")) for m in PRIMES)
