"""The one door to islpy: a context with an operation limit, and small conversions.

One context serves the whole process; isl objects may be kept and freed anywhere, but work on them goes through
`limited()`: it counts isl's operations and turns "limit reached" into `TooHardError`. It lets one thread in at a time,
and so does everything else that may not be done twice at once: z3 (one context too), and whatever makes sympy look at
what it keeps of an expression. One lock for all of it, `alone`, cannot be taken in two orders.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import islpy as isl

from pidsl.errors import PidslError, TooHardError
from pidsl.language.expr import (
    Abs,
    Add,
    And,
    Compare,
    FloorDiv,
    Index,
    Max,
    Min,
    Mod,
    Mul,
    Not,
    Or,
    Pred,
    Sub,
    Symbol,
    Truth,
    Var,
    show,
)

Answer = TypeVar("Answer")
Asked = ParamSpec("Asked")
SetOrMap = TypeVar("SetOrMap", isl.Set, isl.Map)

Interval = tuple[int | None, int | None]  # the least and the greatest; None is no bound

CONTEXT = isl.Context()
MAX_OPERATIONS = 2_000_000  # one to three seconds; of random terms of depth 5, 99 in 100 need less than half of it
MANY = 256  # parts of a set

alone = threading.RLock()
_limits: list[int] = []  # of the `limited` blocks that are running, outermost first
_shares: list[float] = [1.0]  # of what `limited` blocks ask for that they get, innermost last


def in_turn(function: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """The function, for one thread at a time."""

    @wraps(function)
    def called(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        with alone:
            return function(*args, **kwargs)

    return called


@contextmanager
def limited(what: str, operations: int = MAX_OPERATIONS) -> Iterator[None]:
    """Run isl code with a limit on its work.

    A block inside another one draws on the outer block's operations, unless it asks for fewer than the outer block
    began with: then it has a budget of its own, and the outer block begins afresh after it.

    Args:
        what: what is being computed, for the error.
        operations: isl's own count, the same on every machine and in every run.

    Raises:
        TooHardError: the limit struck.
    """
    with alone:
        operations = max(1, int(operations * _shares[-1]))
        outer = _limits[-1] if _limits else None
        if outer is not None and outer <= operations:
            yield
            return
        _limits.append(operations)
        _set_limit(operations)
        try:
            try:
                yield
            except TooHardError as e:  # from a block inside: say what it was for
                raise TooHardError(e.given, e.expected, f"{e.where}\n{what}", e.hint) from None
            except PidslError:
                raise
            except Exception:  # whatever isl or islpy made of a call that was cut short
                if _exhausted():
                    raise _too_hard(what, operations) from None
                raise
            if _exhausted():  # swallowed on the way: the result cannot be trusted
                raise _too_hard(what, operations)
        finally:
            _limits.pop()
            _set_limit(outer or 0)


@contextmanager
def patience(share: float) -> Iterator[None]:
    """Give the `limited` blocks inside a share of the operations they ask for."""
    with alone:
        _shares.append(share)
        try:
            yield
        finally:
            _shares.pop()


def _set_limit(operations: int) -> None:
    """Allow so many operations from now on (0: any number)."""
    CONTEXT.reset_operations()
    CONTEXT.set_max_operations(operations)


def _exhausted() -> bool:
    """Whether the limit has been reached: then every further operation fails."""
    try:
        isl.Set.read_from_str(CONTEXT, "{ : }")
    except isl.Error:
        return True
    return False


def _too_hard(what: str, operations: int) -> TooHardError:
    return TooHardError(
        f"isl stopped after {operations} operations",
        "an answer within the limit",
        where=what,
        hint="simplify the term, or ask for concrete sizes",
    )


def coalesced(x: SetOrMap) -> SetOrMap:
    """`x` in fewer parts where isl can, else as it is: on a few maps isl fails an assertion of its own.

    isl compares all parts in pairs; more than `MANY` stay as they are.
    """
    if (x.n_basic_map() if isinstance(x, isl.Map) else x.n_basic_set()) > MANY:
        return x
    try:
        return x.coalesce()
    except isl.Error:
        if _exhausted():
            raise
        return x


def of_each_part(choose: Callable[[isl.BasicMap], isl.Map], pairs: isl.Map) -> isl.Map:
    """The chosen pairs of every convex part, such as `isl.BasicMap.lexmin`: those of all pairs are among them.

    `isl.Map.lexmin` compares what it finds in all parts. Where a limit strikes while it does, isl may read an object
    that it could not make, and the process dies.
    """
    found = isl.Map.empty(pairs.get_space())
    for part in pairs.get_basic_maps():
        found = found | choose(part)
    return found


def convex_parts(x: isl.Set) -> list[isl.BasicSet]:
    """The basic sets of `x`, every division in them with a formula; finding one may split a set.

    Composing and transposing leave divisions of which isl knows only that they exist, and reading those is an error.
    """
    return list(x.compute_divs().get_basic_sets())


def disjoint(points: isl.Set) -> list[isl.BasicSet]:
    """Parts of a set that share no point, in which the point determines every integer division.

    isl keeps some divisions as integers that merely exist, `i = 3 j + 5 e`: several of them may do for one point.
    """
    return convex_parts(points.compute_divs().make_disjoint())


def interval_of(points: isl.Set, position: int = 0) -> Interval:
    """The least and the greatest value of one dimension; None is no bound."""
    ends = points.dim_min_val(position), points.dim_max_val(position)
    least, most = (int(x.to_python()) if x.is_int() else None for x in ends)
    return least, most


def least(numbers: isl.Set) -> int:
    """The least element of a one-dimensional set that has one; `dim_min_val` may be of a part without integers."""
    return _only(numbers.lexmin())


def largest(numbers: isl.Set) -> int:
    """The largest element of a one-dimensional set that has one."""
    return _only(numbers.lexmax())


def _only(number: isl.Set) -> int:
    return int(number.sample_point().get_coordinate_val(isl.dim_type.set, 0).to_python())


@lru_cache(maxsize=1024)
def read_set(text: str) -> isl.Set:
    """A set from isl's notation. The text of a plan's few spaces is read again and again: isl objects never change."""
    return isl.Set.read_from_str(CONTEXT, text)


@lru_cache(maxsize=1024)
def read_map(text: str) -> isl.Map:
    """A map from isl's notation."""
    return isl.Map.read_from_str(CONTEXT, text)


Scope = Mapping[str, isl.PwAff]  # what each variable of an expression is


def scope(space: str) -> dict[str, isl.PwAff]:
    """The parameters and dimensions of a set space such as `[n] -> { [i, j] }`, by name, as affine functions of it."""
    s = read_set(space).get_space()
    local = isl.LocalSpace.from_space(s)
    return {
        str(s.get_dim_name(kind, k)): isl.PwAff.from_aff(isl.Aff.var_on_domain(local, kind, k))
        for kind in (isl.dim_type.param, isl.dim_type.set)
        for k in range(s.dim(kind))
    }


def affine(e: Index, names: Scope) -> isl.PwAff:
    """A concrete integer expression as a piecewise quasi-affine function."""
    match e:
        case int():
            some = next(iter(names.values()))
            return (some - some).add_constant_val(isl.Val(str(e), CONTEXT))
        case Var(name) | Symbol(name):
            return names[name]
        case Add(a, b):
            return affine(a, names) + affine(b, names)
        case Sub(a, b):
            return affine(a, names) - affine(b, names)
        case Mul(int(a), b) | Mul(b, int(a)):
            return affine(b, names).scale_val(isl.Val(str(a), CONTEXT))
        case FloorDiv(a, int(b)):
            return affine(a, names).scale_down_val(isl.Val(str(b), CONTEXT)).floor()
        case Mod(a, int(b)):
            return affine(a, names).mod_val(isl.Val(str(b), CONTEXT))
        case Abs(a):
            x = affine(a, names)
            return x.max(x.neg())
        case Min(a, b):
            return affine(a, names).min(affine(b, names))
        case Max(a, b):
            return affine(a, names).max(affine(b, names))
        case _:
            raise TypeError(f"not affine: {show(e)}")


_COMPARE: Mapping[str, Callable[[isl.PwAff, isl.PwAff], isl.Set]] = {
    "<": isl.PwAff.lt_set, "<=": isl.PwAff.le_set, "==": isl.PwAff.eq_set,
    "!=": isl.PwAff.ne_set, ">": isl.PwAff.gt_set, ">=": isl.PwAff.ge_set,
}  # fmt: skip


def region(p: Pred, names: Scope) -> isl.Set:
    """The points where a concrete predicate holds."""
    match p:
        case Compare(op, a, b):
            return _COMPARE[op](affine(a, names), affine(b, names))
        case And(a, b):
            return region(a, names) & region(b, names)
        case Or(a, b):
            return region(a, names) | region(b, names)
        case Not(a):
            return region(a, names).complement()
        case Truth(value):
            everywhere = isl.Set.universe(next(iter(names.values())).get_domain_space())
            return everywhere if value else everywhere.complement()
