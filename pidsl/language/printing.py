"""Terms as DSL source: what `repr` prints and `parse` reads back."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from pidsl.language.expr import Index, show, show_pred
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Causal,
    Complement,
    Compose,
    Difference,
    Dilated,
    Empty,
    Full,
    Halo,
    Intersection,
    Keys,
    Lags,
    Neighborhood,
    Pairs,
    Power,
    Queries,
    Ring,
    Shift,
    Stride,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    Where,
    Window,
)  # fmt: skip
from pidsl.language.trees import WIDE, bottom_up, parts_of, width

# Python's precedence of the operators that terms use; a child binding less tightly than its place is parenthesised.
_OR, _XOR, _AND, _MINUS, _AT, _INVERT, _POWER, _ATOM = range(1, 9)
_OPERATORS = {
    Union: (_OR, "|"), SymmetricDifference: (_XOR, "^"), Intersection: (_AND, "&"), Difference: (_MINUS, "-"),
    Compose: (_AT, "@"),
}  # fmt: skip


PARTS_IN_A_ROW = 512  # of a union; Python's parser, which `parse` uses, is a recursive one


def show_term(term: Term, level: int = 0) -> str:
    """`term` as source, with the fewest parentheses."""
    try:
        return _recursed(term, level)
    except RecursionError:  # deeper than Python's stack
        shown: dict[int, tuple[int, str]] = {}
        for part in bottom_up(term):
            shown[id(part)] = _show(part, lambda inner, level: _at(level, *shown[id(inner)]))
        return _at(level, *shown[id(term)])


def _recursed(term: Term, level: int) -> str:
    return _at(level, *_show(term, _recursed))


def _at(level: int, own: int, text: str) -> str:
    return f"({text})" if own < level else text


def _show(term: Term, inside: Callable[[Term, int], str]) -> tuple[int, str]:
    """The precedence of a term's own operator and its source, from that of the terms inside at a level."""
    match term:
        case Full():
            return _ATOM, "full"
        case Empty():
            return _ATOM, "empty"
        case Causal():
            return _ATOM, "causal"
        case Window(left, right):
            return _ATOM, _call("window", left, *_unless(right, 0))
        case Stride(period, phase):
            return _ATOM, _call("stride", period, *_unless(phase, 0))
        case Lags(values):
            return _ATOM, _call("lags", *values)
        case Ring(radius):
            return _ATOM, _call("ring", radius)
        case Keys(start, stop, step):
            return _ATOM, _call("keys", start, stop, *_unless(step, 1))
        case Queries(start, stop, step):
            return _ATOM, _call("queries", start, stop, *_unless(step, 1))
        case Blocks(size):
            return _ATOM, _call("blocks", size)
        case Where(pred, arity):
            return _ATOM, f"where(lambda {', '.join('ijnm'[:arity])}: {show_pred(pred)})"
        case Pairs(values):
            return _ATOM, f"pairs([{', '.join(map(str, values))}])"
        case Neighborhood(shape, window, stride, dilation, causal, border):
            given = {"stride": _axes(stride), "dilation": _axes(dilation), "causal": _axes(causal), "border": border}
            usual = {"stride": 1, "dilation": 1, "causal": False, "border": "clamp"}
            options = [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]
            return _ATOM, f"neighborhood({', '.join([_shape(shape), repr(_axes(window)), *options])})"
        case Halo(shape, block, halo):
            return _ATOM, f"halo({_shape(shape)}, {_axes(block)!r}, {_axes(halo)!r})"
        case Union() | SymmetricDifference() | Intersection() | Difference() | Compose():
            own, symbol = _OPERATORS[type(term)]
            parts = [term.left, term.right]
            if isinstance(term, Union | SymmetricDifference | Intersection) and WIDE < width(term) <= PARTS_IN_A_ROW:
                parts = parts_of(type(term), term)
            texts: list[str] = []
            for part in parts:
                texts.append(inside(part, own + bool(texts)))
            text = f" {symbol} ".join(texts)
        case Complement(of):
            own, text = _INVERT, f"~{inside(of, _INVERT)}"
        case Power(of, layers):
            own, text = _POWER, f"{inside(of, _ATOM)} ** {show(layers, 6)}"
        case Transpose(of):
            return _ATOM, f"{inside(of, _ATOM)}.T"
        case Shift(of, by):
            return _ATOM, f"{inside(of, _ATOM)}.shift({show(by)})"
        case Blocked(of, size):
            return _ATOM, f"{inside(of, _ATOM)}.blocked({show(size)})"
        case Dilated(of, step):
            return _ATOM, f"{inside(of, _ATOM)}.dilated({show(step)})"
        case _:
            assert_never(term)
    return own, text


def _shape(lengths: tuple[int, ...]) -> str:
    return repr(lengths if len(lengths) > 1 else lengths[0])


def _axes(values: tuple[int, ...]) -> object:
    """One value where all axes have the same."""
    return values[0] if len(set(values)) == 1 else values


def _unless(value: Index, default: int) -> tuple[Index, ...]:
    return () if value == default else (value,)


def _call(word: str, *sizes: Index | None) -> str:
    return f"{word}({', '.join('None' if s is None else show(s) for s in sizes)})"
