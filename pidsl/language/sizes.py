"""Sizes of words: which numbers they take, what symbols may be called, and what is said of anything else."""

from __future__ import annotations

import keyword
from collections.abc import Callable

from pidsl.errors import TermError
from pidsl.language.expr import DEEPEST, Expr, FloorDiv, Index, Mod, Pred, show, vars_in, walk, whole
from pidsl.language.trees import extent

LIMIT = 1 << 31  # sizes stay below it, so that NumPy, isl and the kernels agree on every sum and product
LARGEST = 1 << 18  # operations in a predicate

# No symbol is called so; the vocabulary adds its words.
RESERVED = {"i", "j", "n", "m", "where", "abs", "minimum", "maximum", "shift", "blocked", "dilated", "T"}


def is_symbol_name(name: str) -> bool:
    """Whether a symbol may be called `name`."""
    return name.isidentifier() and not keyword.iskeyword(name) and name not in RESERVED


def size(value: object, name: str, where: str | Callable[[], str], *, least: int | None) -> Index:
    """`value` as a size: an integer >= `least` (None: any integer), or a symbolic expression.

    Raises:
        TermError: anything else, a bool or float included; `where` says where, as text or as a function of nothing.
    """
    if isinstance(value, Expr) and extent(value)[0] <= DEEPEST:
        return value
    want = "an integer" if least is None else f"an integer >= {least}"
    number = whole(value)
    if number is not None and (least is None or number >= least) and abs(number) < LIMIT:
        return number
    at = where if isinstance(where, str) else where()
    if isinstance(value, Expr):
        raise TermError(
            f"{name} with operations nested {extent(value)[0]} deep", f"at most {DEEPEST}", name, "add in pairs"
        )
    if number is None:
        given = f"{name} = {value!r} ({type(value).__name__})"
        raise TermError(given, f"{want}, or a symbol", at, _meant(value, name))
    if least is not None and number < least:
        hint = "periods, steps and block sizes count from 1" if least == 1 else ""
        raise TermError(f"{name} = {number}", want, at, hint)
    raise TermError(f"{name} = {number}", f"{want}, of magnitude below 2**31", at, "full or causal for no bound")


def _meant(value: object, name: str) -> str:
    """What to write instead of something that is no size, where one can tell."""
    if (isinstance(value, str) and value.isidentifier()) or type(value).__module__.startswith("sympy"):
        known = str(value) if is_symbol_name(str(value)) else "size"
        return f'{name}=pidsl.symbols("{known}"), an open size of pidsl'
    if "bool" in str(getattr(value, "dtype", "bool" if isinstance(value, bool) else "")):
        return ""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return ""
    return f"{name}={int(number)}" if number.is_integer() else ""


def check_predicate(pred: Pred) -> None:
    """Refuse a predicate that no program computes.

    Raises:
        TermError: a divisor below 1, a constant of magnitude 2**31 and more, or too many operations.
    """
    for count, e in enumerate(walk(pred)):
        if count == DEEPEST:  # fewer operations are neither too many nor too deep
            _check_extent(pred)
        if isinstance(e, FloorDiv | Mod) and isinstance(e.right, int) and e.right < 1 and vars_in(e.left):
            raise TermError(f"{show(e)} in a predicate", "a divisor >= 1", "where(...)")
        if isinstance(e, int) and abs(e) >= LIMIT:
            raise TermError(f"{e} in a predicate", "constants of magnitude below 2**31", "where(...)")


def _check_extent(pred: Pred) -> None:
    deep, nodes = extent(pred)
    if deep > DEEPEST or nodes > LARGEST:
        given = f"a predicate of {nodes} operations, nested {deep} deep"
        expected = f"at most {LARGEST} operations, nested at most {DEEPEST} deep"
        raise TermError(given, expected, "where(...)", "where(a) | where(b), where(a) & where(b), where(a) ^ where(b)")


checked_size = size  # for functions whose own argument is called `size`
