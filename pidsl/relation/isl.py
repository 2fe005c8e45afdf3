"""The one door to islpy: a context with an operation limit, and small conversions.

isl objects are not thread-safe, so every use goes through `limited()`, which also resets the operation count and
turns isl's "limit reached" into `TooHardError`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.language.expr import (
    Abs, Add, And, Compare, FloorDiv, Index, Max, Min, Mod, Mul, Not, Or, Pred, Sub, Symbol, Truth, Var, show,
)  # fmt: skip

CONTEXT = isl.Context()
MAX_OPERATIONS = 4_000_000  # about two seconds; random terms of depth 5 need 10^4 .. 10^5

_lock = threading.RLock()
_depth = 0


@contextmanager
def limited(what: str, operations: int = MAX_OPERATIONS) -> Iterator[None]:
    """Run isl code with a limit on its work; nested uses keep their own, smaller limits.

    Raises:
        TooHardError: the limit struck; `what` says what was being computed.
    """
    global _depth
    with _lock:
        saved = CONTEXT.get_max_operations() if _depth else 0
        _depth += 1
        CONTEXT.reset_operations()
        CONTEXT.set_max_operations(operations)
        try:
            yield
        except isl.Error as e:
            if "maximal number of operations" in str(e) or "quota" in str(e):
                raise TooHardError(
                    f"isl stopped after {operations} operations",
                    "an answer within the limit",
                    where=what,
                    hint="simplify the term, or ask for concrete sizes",
                ) from None
            raise
        finally:
            _depth -= 1
            CONTEXT.reset_operations()
            CONTEXT.set_max_operations(saved)


def read_set(text: str) -> isl.Set:
    return isl.Set.read_from_str(CONTEXT, text)


def read_map(text: str) -> isl.Map:
    return isl.Map.read_from_str(CONTEXT, text)


Scope = Mapping[str, isl.PwAff]  # what each variable of an expression is


def scope(space: str) -> dict[str, isl.PwAff]:
    """The parameters and dimensions of a set space such as `[n] -> { [i, j] }`, by name, as affine functions of it."""
    s = read_set(space).get_space()
    local = isl.LocalSpace.from_space(s)
    return {
        s.get_dim_name(kind, k): isl.PwAff.from_aff(isl.Aff.var_on_domain(local, kind, k))
        for kind in (isl.dim_type.param, isl.dim_type.set)
        for k in range(s.dim(kind))
    }


def affine(e: Index, names: Scope) -> isl.PwAff:
    """A concrete integer expression as a piecewise quasi-affine function."""
    match e:
        case int():
            some = next(iter(names.values()))
            return (some - some) + isl.Val(e, CONTEXT) if e else some - some
        case Var(name) | Symbol(name):
            return names[name]
        case Add(a, b):
            return affine(a, names) + affine(b, names)
        case Sub(a, b):
            return affine(a, names) - affine(b, names)
        case Mul(int(a), b) | Mul(b, int(a)):
            return affine(b, names).scale_val(isl.Val(a, CONTEXT))
        case FloorDiv(a, int(b)):
            return affine(a, names).scale_down_val(isl.Val(b, CONTEXT)).floor()
        case Mod(a, int(b)):
            return affine(a, names).mod_val(isl.Val(b, CONTEXT))
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
