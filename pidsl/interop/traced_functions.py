"""The functions of torch that masks are made of, by name: what they give for stand-ins.

A rule gives None where it does not know the arguments: the function is evaluated position by position then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pidsl.interop import traced_values as values
from pidsl.interop.stand_ins import Nodes, Stand, Traced, dtype_of, nodes_of, zero_dim
from pidsl.interop.traced_values import Columns, Node, Ratio, Unreadable
from pidsl.language.expr import And, Max, Min, Mod, Not, Or, Pred, Truth, fold, joint

__all__ = ["MOVES", "RULES"]

LONGEST_PERIOD = 16  # of a table that is indexed by a remainder
# What puts elements elsewhere, whatever they are.
MOVES = frozenset(["unsqueeze", "squeeze", "reshape", "view", "flatten", "clone", "detach", "contiguous", "cpu"])


class Recording(Protocol):
    """What records a mask: it has the tables."""

    columns: Columns


Rule = Callable[[Recording, Sequence[Any], Mapping[str, Any]], Any]


def _result(kinds: Sequence[Any], op: str) -> torch.dtype:
    """The dtype of what comes out."""
    floating = any(isinstance(x, float) or (isinstance(x, Tensor) and dtype_of(x).is_floating_point) for x in kinds)
    truths = all(isinstance(x, bool) or (isinstance(x, Tensor) and dtype_of(x) == torch.bool) for x in kinds)
    if op == "truth":
        return torch.bool
    return torch.float32 if floating or op == "float" else torch.bool if truths else torch.int64


def _each(f: Callable[..., Node], op: str = "") -> Callable[..., Any]:
    """A function of nodes, element by element."""

    def of(recorder: Recording, *given: Any) -> Traced:
        arrays = np.broadcast_arrays(*(nodes_of(x) for x in given))
        out = np.empty(arrays[0].shape, dtype=object)
        for at in np.ndindex(out.shape):
            out[at] = f(*(x[at] for x in arrays))
        return Traced.of(out, _result(given, op))

    return of


def _rule(names: str, f: Callable[..., Any], turned: bool = False) -> dict[str, Rule]:
    def rule(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = [*args, *(kwargs[k] for k in ("other", "exponent") if k in kwargs)]
        if any(k not in ("other", "exponent", "alpha") for k in kwargs):
            return None
        if (times := kwargs.get("alpha", 1)) != 1:
            given[turned - 1] = _each(_pair(values.product))(recorder, given[turned - 1], times)
        return f(recorder, *(given[::-1] if turned else given))

    return dict.fromkeys(names.split(), rule)


def _both(f: Callable[[Node, Node], Node], op: str) -> Callable[..., Any]:
    """Truth values as they are, numbers bit by bit."""

    def rule(recorder: Recording, *given: Any) -> Traced:
        bitwise = values.pairwise(values.bitwise(op, recorder.columns.width))

        def of(a: Node, b: Node) -> Node:
            return bitwise(a, b) if isinstance(a, tuple) or isinstance(b, tuple) else f(a, b)

        return _each(of)(recorder, *given)

    return rule


def _logical(f: Callable[[Node, Node], Node]) -> Callable[[Node, Node], Node]:
    return lambda a, b: f(values.truth(a), values.truth(b))


def _and(a: Any, b: Any) -> Pred:
    return joint(And, a, b)


def _or(a: Any, b: Any) -> Pred:
    return joint(Or, a, b)


_xor = values.compared("!=")


def _invert(a: Node) -> Node:
    if not isinstance(a, tuple):
        return fold(Not(a))
    return values.pairwise(values.added(-1))(values.single(values.negative)(a), values.number(1))


def _sign(a: Node) -> Node:
    zero = values.number(0)
    below = values.choose(values.compared("<")(a, zero), values.number(-1), zero)
    return values.choose(values.compared(">")(a, zero), values.number(1), below)


def _shifted(right: bool) -> Callable[[Node, Node], Node]:
    def of(a: Node, b: Node) -> Node:
        match values.numeric(b):
            case ((_, Ratio(int(by), 1)),) if 0 <= by < 63:
                power = values.number(1 << by)
                return values.pairwise(values.floored if right else values.product)(a, power)
        raise Unreadable("a shift by as many bits as a position says")

    return of


def _divide(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    a, b = (*args, kwargs.get("other"))[:2]
    mode = kwargs.get("rounding_mode", args[2] if len(args) > 2 else None)
    if mode == "floor":
        return _each(values.pairwise(values.floored))(recorder, a, b)
    exact = values.pairwise(values.quotient)
    if mode == "trunc":
        return _each(lambda x, y: values.truncated(exact(x, y)))(recorder, a, b)
    return _each(exact, "float")(recorder, a, b)


def _remainder_toward_zero(a: Node, b: Node) -> Node:
    whole = values.truncated(values.pairwise(values.quotient)(a, b))
    return values.pairwise(values.added(-1))(a, values.pairwise(values.product)(whole, b))


def _clamp(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, least, most = (*args, None, None)[:3]
    least, most = kwargs.get("min", least), kwargs.get("max", most)
    for bound, kind in ((least, Max), (most, Min)):
        if bound is not None:
            x = _each(values.pairwise(values.picked(kind)))(recorder, x, bound)
    return x


class _Extremes(NamedTuple):
    values: Any
    indices: Any


def _extreme(kind: Any, pair: bool = True) -> Rule:
    """Of two values, or of the elements of one: with an axis, torch gives where they are too."""
    of = values.pairwise(values.picked(kind))

    def rule(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = [*args, *(kwargs[k] for k in ("other",) if k in kwargs)]
        if len(given) == 2 and all(isinstance(x, Tensor) for x in given):
            return _each(of)(recorder, *given)
        if not isinstance(args[0], Traced) or not args[0].nodes.size:
            return None
        found = _reduced(of, None, dtype_of(args[0]))(recorder, args, kwargs)
        return _Extremes(found, None) if pair and found is not None and len(args) + len(kwargs) > 1 else found

    return rule


def _where(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    given = [*args, *(kwargs[k] for k in ("condition", "self", "input", "other") if k in kwargs)]
    if len(given) != 3:
        return None
    found = _each(values.choose)(recorder, *given)
    return Traced.of(found.nodes, _result(given[1:], ""))


def _isin(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, among = (*args, *kwargs.values())[:2]
    each = nodes_of(among).reshape(-1)
    if len(each) > 256 or len(args) + len(kwargs) != 2 or not isinstance(x, Traced) or not len(each):
        return None
    nodes = np.empty(x.nodes.shape, dtype=object)
    for at in np.ndindex(nodes.shape):
        held: Pred = Truth(False)
        for other in each:
            held = joint(Or, held, values.compared("==")(x.nodes[at], other))
        nodes[at] = held
    return Traced.of(nodes, torch.bool)


def _cast(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any], to: torch.dtype | None = None) -> Any:
    wanted = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.dtype)]
    like = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, Tensor)]
    x, kind = args[0], to or (wanted[0] if wanted else dtype_of(like[0]) if like else None)
    if kind is None or not isinstance(x, Traced):
        return x if isinstance(x, Traced) else None
    if kind.itemsize < 4 and torch.bool not in (kind, x.numbers):  # numbers that wrap or round within these lengths
        return None
    if kind == torch.bool:
        change: Callable[[Any], Node] = values.truth
    elif not kind.is_floating_point and x.numbers.is_floating_point:
        change = values.truncated
    else:
        change = values.numeric
    nodes = np.empty(x.nodes.shape, dtype=object)
    for at in np.ndindex(nodes.shape):
        nodes[at] = change(x.nodes[at])
    return Traced.of(nodes, kind if kind == torch.bool or kind.is_floating_point else torch.int64)


def _to(kind: torch.dtype) -> Rule:
    return lambda recorder, args, kwargs: _cast(recorder, args[:1], {}, kind)


def _reduced(f: Callable[[Node, Node], Node], start: Node | None, kind: torch.dtype) -> Rule:
    """Over the elements of a value, or along one axis of it."""

    def rule(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        x, axis = (*args, kwargs.get("dim"))[:2]
        axis = axis[0] if isinstance(axis, tuple | list) and len(axis) == 1 else axis
        if not isinstance(x, Traced) or isinstance(axis, tuple | list):
            return None
        nodes = x.nodes.reshape(-1) if axis is None or not x.nodes.shape else np.moveaxis(x.nodes, axis, 0)
        keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
        out = np.empty(nodes.shape[1:], dtype=object)
        for at in np.ndindex(out.shape):
            held = nodes[(0, *at)] if start is None else start
            for k in range(start is None, nodes.shape[0]):
                held = f(held, nodes[(k, *at)])
            out[at] = held
        return Traced.of(np.expand_dims(out, axis) if keep and axis is not None else out, kind)

    return rule


def _reshaped(change: Callable[..., Nodes]) -> Rule:
    def rule(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not isinstance(args[0], Traced):
            return None
        return Traced.of(change(args[0].nodes, *args[1:], **kwargs), args[0].numbers)

    return rule


def _item(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A part of a value with further axes, as `interval[0]`; or of a short table, whatever the lengths are."""
    x, at = args
    if not isinstance(x, Stand) and isinstance(x, Tensor) and isinstance(at, Traced) and x.dim() == 1:
        return _periodic(recorder, x, at)
    if not isinstance(x, Traced) or any(isinstance(k, Tensor) for k in (at if isinstance(at, tuple) else (at,))):
        return None
    found = x.nodes[at]
    if not isinstance(found, np.ndarray) or found.dtype != object:
        found = zero_dim(found)
    return Traced.of(found, x.numbers)


def _periodic(recorder: Recording, table: Tensor, at: Traced) -> Any:
    """`table[e % period]` as cases."""
    match at.nodes.item() if at.nodes.shape == () else None:
        case ((Truth(True), Ratio(Mod(_, int(period)), 1)),) if period <= min(len(table), LONGEST_PERIOD):
            entries = nodes_of(table[:period])
            found = entries[period - 1]
            for k in range(period - 2, -1, -1):
                if entries[k] != found:
                    found = values.choose(values.compared("<=")(at.nodes.item(), values.number(k)), entries[k], found)
            return Traced.of(zero_dim(found), table.dtype)
    return None


def _stacked(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    arrays = [nodes_of(x) for x in args[0]]
    axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return Traced.of(np.stack(arrays, axis), _result(args[0], ""))


def _power(recorder: Recording, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if len(args) == 2 and isinstance(args[1], int) and 0 <= args[1] <= 8 and isinstance(args[0], Traced):
        found: Any = args[0] if args[1] else None
        for _ in range(args[1] - 1):
            found = _each(values.pairwise(values.product))(recorder, found, args[0])
        return found
    return None


_pair, _one = values.pairwise, values.single
RULES: Mapping[str, Rule] = {
    **_rule("add __add__ __radd__ __iadd__", _each(_pair(values.added(1)))),
    **_rule("sub subtract __sub__ __isub__", _each(_pair(values.added(-1)))),
    **_rule("rsub __rsub__", _each(_pair(values.added(-1))), turned=True),
    **_rule("mul multiply __mul__ __rmul__ __imul__", _each(_pair(values.product))),
    **_rule("floor_divide __floordiv__", _each(_pair(values.floored))),
    **_rule("__rfloordiv__", _each(_pair(values.floored)), turned=True),
    **_rule("remainder __mod__", _each(_pair(values.remainder))),
    **_rule("__rmod__", _each(_pair(values.remainder)), turned=True),
    **_rule("fmod", _each(_remainder_toward_zero)),
    **_rule("abs absolute __abs__", _each(_one(values.magnitude))),
    **_rule("neg negative __neg__", _each(_one(values.negative))),
    **_rule("positive __pos__ detach contiguous", lambda recorder, x, *_: x),
    **_rule("clone", lambda recorder, x: Traced.of(x.nodes, x.numbers)),
    **_rule("minimum fmin", _each(_pair(values.picked(Min)))),
    **_rule("maximum fmax", _each(_pair(values.picked(Max)))),
    **_rule("floor", _each(_one(values.floor))),
    **_rule("ceil", _each(_one(values.ceiling))),
    **_rule("trunc fix", _each(values.truncated)),
    **_rule("square", lambda recorder, x: _each(_pair(values.product))(recorder, x, x)),
    **_rule("eq __eq__", _each(values.compared("=="), "truth")),
    **_rule("ne not_equal __ne__", _each(values.compared("!="), "truth")),
    **_rule("lt less __lt__", _each(values.compared("<"), "truth")),
    **_rule("le less_equal __le__", _each(values.compared("<="), "truth")),
    **_rule("gt greater __gt__", _each(values.compared(">"), "truth")),
    **_rule("ge greater_equal __ge__", _each(values.compared(">="), "truth")),
    **_rule("sign sgn", _each(_sign)),
    **_rule("relu", lambda recorder, x: _clamp(recorder, (x, 0), {})),
    **_rule("logical_and", _each(_logical(_and), "truth")),
    **_rule("logical_or", _each(_logical(_or), "truth")),
    **_rule("logical_xor", _each(_logical(_xor), "truth")),
    **_rule("logical_not", _each(lambda a: fold(Not(values.truth(a))), "truth")),
    **_rule("bitwise_and __and__ __rand__ __iand__", _both(_and, "&")),
    **_rule("bitwise_or __or__ __ror__ __ior__", _both(_or, "|")),
    **_rule("bitwise_xor __xor__ __rxor__ __ixor__", _both(_xor, "^")),
    **_rule("bitwise_not __invert__", _each(_invert)),
    **_rule("bitwise_left_shift __lshift__", _each(_shifted(False))),
    **_rule("bitwise_right_shift __rshift__", _each(_shifted(True))),
    "div": _divide, "divide": _divide, "true_divide": _divide, "__truediv__": _divide,
    "__rdiv__": lambda recorder, args, kwargs: _divide(recorder, args[::-1], kwargs),
    "__rtruediv__": lambda recorder, args, kwargs: _divide(recorder, args[::-1], kwargs),
    "clamp": _clamp, "clip": _clamp,
    "clamp_min": _clamp, "clamp_max": lambda recorder, args, kwargs: _clamp(recorder, (args[0], None, args[1]), kwargs),
    "min": _extreme(Min), "max": _extreme(Max), "amin": _extreme(Min, False), "amax": _extreme(Max, False),
    "where": _where,
    "Tensor.where": lambda recorder, args, kwargs: _where(recorder, (args[1], args[0], *args[2:]), kwargs),
    "isin": _isin, "pow": _power, "__pow__": _power,
    "to": _cast, "type": _cast, "type_as": _cast,
    "bool": _to(torch.bool), "int": _to(torch.int64), "long": _to(torch.int64), "short": _to(torch.int16),
    "byte": _to(torch.uint8), "char": _to(torch.int8), "half": _to(torch.float16), "bfloat16": _to(torch.bfloat16),
    "float": _to(torch.float32), "double": _to(torch.float64), "cpu": lambda recorder, args, kwargs: args[0],
    "any": _reduced(lambda a, b: _or(a, values.truth(b)), Truth(False), torch.bool),
    "all": _reduced(lambda a, b: _and(a, values.truth(b)), Truth(True), torch.bool),
    "sum": _reduced(_pair(values.added(1)), values.number(0), torch.int64),
    "unsqueeze": _reshaped(lambda x, dim: np.expand_dims(x, dim)),
    "squeeze": _reshaped(lambda x, dim=None: np.squeeze(x) if dim is None else np.squeeze(x, dim)),
    "reshape": _reshaped(lambda x, *shape: x.reshape(*shape)), "view": _reshaped(lambda x, *shape: x.reshape(*shape)),
    "flatten": _reshaped(lambda x: x.reshape(-1)),
    "stack": _stacked, "__getitem__": _item,
}  # fmt: skip
