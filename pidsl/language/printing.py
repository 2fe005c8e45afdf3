"""Terms as DSL source: what `repr` prints and `parse` reads back."""

from __future__ import annotations

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
from pidsl.language.trees import WIDE, Steps, parts_of, run, width

# Python's precedence of the operators that terms use; a child binding less tightly than its place is parenthesised.
_OR, _XOR, _AND, _MINUS, _AT, _INVERT, _POWER, _ATOM = range(1, 9)
_OPERATORS = {
    Union: (_OR, "|"), SymmetricDifference: (_XOR, "^"), Intersection: (_AND, "&"), Difference: (_MINUS, "-"),
    Compose: (_AT, "@"),
}  # fmt: skip


PARTS_IN_A_ROW = 512  # of a union; Python's parser, which `parse` uses, is a recursive one


def show_term(term: Term, level: int = 0) -> str:
    """`term` as source, with the fewest parentheses."""
    return run(_show(term, level))


def _show(term: Term, level: int) -> Steps[str]:
    match term:
        case Full():
            return "full"
        case Empty():
            return "empty"
        case Causal():
            return "causal"
        case Window(left, right):
            return _call("window", left, *_unless(right, 0))
        case Stride(period, phase):
            return _call("stride", period, *_unless(phase, 0))
        case Lags(values):
            return _call("lags", *values)
        case Ring(radius):
            return _call("ring", radius)
        case Keys(start, stop, step):
            return _call("keys", start, stop, *_unless(step, 1))
        case Queries(start, stop, step):
            return _call("queries", start, stop, *_unless(step, 1))
        case Blocks(size):
            return _call("blocks", size)
        case Where(pred, arity):
            return f"where(lambda {', '.join('ijnm'[:arity])}: {show_pred(pred)})"
        case Pairs(values):
            return f"pairs([{', '.join(map(str, values))}])"
        case Neighborhood(shape, window, stride, dilation, causal, border):
            given = {"stride": _axes(stride), "dilation": _axes(dilation), "causal": _axes(causal), "border": border}
            usual = {"stride": 1, "dilation": 1, "causal": False, "border": "clamp"}
            options = [f"{name}={value!r}" for name, value in given.items() if value != usual[name]]
            return f"neighborhood({', '.join([_shape(shape), repr(_axes(window)), *options])})"
        case Halo(shape, block, halo):
            return f"halo({_shape(shape)}, {_axes(block)!r}, {_axes(halo)!r})"
        case Union() | SymmetricDifference() | Intersection() | Difference() | Compose():
            own, symbol = _OPERATORS[type(term)]
            parts = [term.left, term.right]
            if isinstance(term, Union | SymmetricDifference | Intersection) and WIDE < width(term) <= PARTS_IN_A_ROW:
                parts = parts_of(type(term), term)
            texts: list[str] = []
            for part in parts:
                texts.append((yield _show(part, own + bool(texts))))
            text = f" {symbol} ".join(texts)
        case Complement(of):
            own, text = _INVERT, f"~{(yield _show(of, _INVERT))}"
        case Power(of, layers):
            own, text = _POWER, f"{(yield _show(of, _ATOM))} ** {show(layers, 6)}"
        case Transpose(of):
            return f"{(yield _show(of, _ATOM))}.T"
        case Shift(of, by):
            return f"{(yield _show(of, _ATOM))}.shift({show(by)})"
        case Blocked(of, size):
            return f"{(yield _show(of, _ATOM))}.blocked({show(size)})"
        case Dilated(of, step):
            return f"{(yield _show(of, _ATOM))}.dilated({show(step)})"
        case _:
            assert_never(term)
    return f"({text})" if own < level else text


def _shape(lengths: tuple[int, ...]) -> str:
    return repr(lengths if len(lengths) > 1 else lengths[0])


def _axes(values: tuple[int, ...]) -> object:
    """One value where all axes have the same."""
    return values[0] if len(set(values)) == 1 else values


def _unless(value: Index, default: int) -> tuple[Index, ...]:
    return () if value == default else (value,)


def _call(word: str, *sizes: Index | None) -> str:
    return f"{word}({', '.join('None' if s is None else show(s) for s in sizes)})"
