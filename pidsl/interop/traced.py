"""A mask of FlexAttention called once with stand-ins for the indices: what torch computes with them is written down.

A stand-in is a tensor without data. While the mask runs, a mode of torch hands every function that meets one to the
table below; a function that is not in it is evaluated for every query (or key) where it depends on no other, and is
refused by name else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from pidsl.interop import traced_values as values
from pidsl.interop.traced_values import Cases, Columns, Node, Ratio, Unreadable
from pidsl.language.expr import And, Max, Min, Mod, Not, Or, Pred, Truth, Var, fold, joint

__all__ = ["traced", "unsaid"]

Mask = Callable[..., Any]
Nodes = Any  # an object array of `Node`s
MOST_ELEMENTS = 4096  # of one value, as of the tiles that a query has chosen
LONGEST_PERIOD = 16  # of a table that is indexed by a remainder


def traced(mask_mod: Mask, b: int | None, h: int | None, columns: Columns) -> Pred:
    """What a mask says of query i and key j.

    Args:
        mask_mod: called as `mask_mod(b, h, q_idx, kv_idx)`.
        b, h: which sequence and head; None: the mask may not ask.
        columns: takes the tables that the mask reads.

    Raises:
        Unreadable: it computes what no term says.
    """
    asked = [unsaid(name) if x is None else torch.tensor(x) for name, x in (("b", b), ("h", h))]
    with _Recorder(columns):
        i, j = (_Traced.of(_zero_dim(_plain(Var(name))), torch.int64) for name in "ij")
        found = mask_mod(*asked, i, j)
    if isinstance(found, _Traced):
        if found.nodes.shape != ():
            raise Unreadable(f"a result of shape {list(found.nodes.shape)}", "one truth value for a query and a key")
        if found.numbers.is_floating_point:
            raise Unreadable("a result that is a float", "a comparison; score_mod is pidsl.score(...)")
        return values.truth(found.nodes.item())
    if (
        isinstance(found, bool | Tensor)
        and not isinstance(found, _Unsaid)
        and (plain := torch.as_tensor(found)).dim() == 0
    ):
        return Truth(bool(plain))
    raise Unreadable(f"a result of type {type(found).__name__}", "one truth value for a query and a key")


class _Stand(torch.Tensor):
    """A tensor without data."""

    @classmethod
    def __torch_dispatch__(cls, *given: Any, **more: Any) -> Any:
        raise Unreadable(f"torch's {given[0]}")


class _Traced(_Stand):
    """A value of one query and one key; of more than one element where tables have further axes."""

    nodes: Nodes

    @property
    def numbers(self) -> torch.dtype:
        with torch._C.DisableTorchFunctionSubclass():
            return self.dtype

    @classmethod
    def of(cls, nodes: Nodes, dtype: torch.dtype) -> _Traced:
        made = torch.Tensor._make_wrapper_subclass(cls, nodes.shape, dtype=dtype)
        made.nodes = nodes
        return made


class _Unsaid(_Stand):
    """The sequence or head of a mask that was not to ask for it."""

    called: str

    @classmethod
    def __torch_dispatch__(cls, *given: Any, **more: Any) -> Any:
        leaves = tree_flatten(given)[0]
        raise _unsaid(next(x.called for x in leaves if isinstance(x, _Unsaid)), f"torch's {given[0]}")


def unsaid(name: str) -> Tensor:
    """Which sequence, "b", or head, "h", of a mask that is not to ask: any use of it raises Unreadable."""
    made = torch.Tensor._make_wrapper_subclass(_Unsaid, (), dtype=torch.int64)
    made.called = name
    found: Tensor = made
    return found


def _unsaid(called: str, at: str) -> Unreadable:
    what = "the sequence of a batch, b" if called == "b" else "the query head, h"
    return Unreadable(f"{what} in {at}", f"from_flex(mask_mod, {called.upper()}=...)")


class _Recorder(TorchFunctionMode):
    """Hands what meets a stand-in to the table of functions."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.columns = columns

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, layout = tree_flatten((args, kwargs))
        if not any(isinstance(x, _Stand) for x in leaves):
            return func(*args, **kwargs)
        name = _name(func)
        if name in _ASKED:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if name in _MADE:  # its first argument says where, and of which kind
            first = torch.empty(_shape(args[0]), dtype=_dtype(args[0]))
            return func(first, *args[1:], **kwargs)
        if any(isinstance(x, _Unsaid) for x in leaves):
            leaves = self._only_one(func, name, args, leaves)
            args, kwargs = tree_unflatten(leaves, layout)
        if name in ("__bool__", "item", "__int__", "__index__", "__float__", "tolist", "__iter__", "__len__"):
            hint = "(a) & (b), (a) | (b), ~(a), torch.where(test, a, b): the mask is traced once for all positions"
            raise Unreadable("a value of a query and a key as a number or truth value of Python", hint)
        real = any(self.columns.real(node) for x in leaves if isinstance(x, _Traced) for node in x.nodes.flat)
        rule = None if real and name not in _MOVES else _RULES.get(name)
        if rule is not None and (found := rule(self, args, kwargs)) is not None:
            return found
        return self.by_value(func, name, leaves, layout)

    def _only_one(self, func: Any, name: str, args: Any, leaves: list[Any]) -> list[Any]:
        """Which sequence or head, of a mask that was told none: the only one that its table has."""
        if name == "__getitem__" and isinstance(args[0], Tensor) and not isinstance(args[0], _Stand):
            at = args[1] if isinstance(args[1], tuple) else (args[1],)
            plain = all(x is not None and x is not Ellipsis for x in at)
            unsaid = [k for k, x in enumerate(at) if isinstance(x, _Unsaid)]
            if plain and all(k < args[0].dim() and args[0].shape[k] == 1 for k in unsaid):
                return [torch.tensor(0) if isinstance(x, _Unsaid) else x for x in leaves]
        asked = next(x.called for x in leaves if isinstance(x, _Unsaid))
        raise _unsaid(asked, _shown(name))

    def by_value(self, func: Any, name: str, leaves: list[Any], layout: Any) -> Any:
        """A function of torch for every query, or every key: a table of what it gives."""
        stands = [x for x in leaves if isinstance(x, _Traced)]
        axes = "".join(sorted(set().union(*(self._axes(x) for x in stands))))
        real = len(axes) == 2 and any(self.columns.real(node) for x in stands for node in x.nodes.flat)
        if real and not any(x.axes == "ij" for x in self.columns.by_name.values()):
            raise Unreadable("a table of numbers that are not whole, of query and key together", "a table of integers")
        if len(axes) == 2 and not real and name not in ("__getitem__", "take", "index_select"):
            raise Unreadable(f"{_shown(name)} of query and key together", _WORDS)
        try:
            given = [self._evaluated(x, axes) for x in stands]
        except Unreadable as e:
            raise Unreadable(f"{_shown(name)}: {e.what}", e.hint) from None

        def called(*own: Tensor) -> Any:
            rest = iter(own)
            put, more = tree_unflatten([next(rest) if isinstance(x, _Traced) else x for x in leaves], layout)
            return func(*put, **more)

        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

        for _ in axes:
            called = torch.vmap(called)
        try:
            with TransformGetItemToIndex():
                out = called(*given) if axes else func(*tree_unflatten(self._constants(leaves), layout)[0])
        except (RuntimeError, TypeError, IndexError, ValueError) as e:
            raise Unreadable(f"{_shown(name)}: {str(e).splitlines()[0]}", _WORDS) from None
        if not isinstance(out, Tensor):
            raise Unreadable(f"{_shown(name)}, which gives {type(out).__name__}", _WORDS)
        if out.numel() and out[(0,) * len(axes)].numel() > MOST_ELEMENTS:
            raise Unreadable(f"{_shown(name)}, which gives {list(out.shape[len(axes) :])} numbers for one pair")
        table = out.detach().cpu().numpy()
        nodes = np.empty(table.shape[len(axes) :], dtype=object)
        for at in np.ndindex(nodes.shape):
            nodes[at] = self.columns.add(axes, table[(slice(None),) * len(axes) + at])
        return _Traced.of(nodes, out.dtype)

    def _constants(self, leaves: list[Any]) -> list[Any]:
        return [torch.from_numpy(_constant(x)) if isinstance(x, _Traced) else x for x in leaves]

    def _axes(self, x: _Traced) -> set[str]:
        return {axis for node in x.nodes.flat for part in _expressions(node) for axis in self.columns.axes(part)}

    def _evaluated(self, x: _Traced, axes: str) -> Tensor:
        lengths = tuple(self._length(axis) for axis in axes)
        out = np.zeros((*lengths, *x.nodes.shape), dtype=object)
        for at in np.ndindex(x.nodes.shape):
            out[(slice(None),) * len(axes) + at] = self.columns.values(x.nodes[at], axes).reshape(lengths)
        kind: Any = bool if x.numbers == torch.bool else np.float64 if x.numbers.is_floating_point else np.int64
        return torch.from_numpy(out.astype(kind)).to(x.numbers)

    def _length(self, axis: str) -> int:
        length = self.columns.n if axis == "i" else self.columns.m
        if length is None:
            raise Unreadable("what it gives is known for some lengths only", "from_flex(mask_mod, n=...)")
        return length

    def nodes(self, x: Any) -> Nodes:
        """The nodes of a value, traced or not."""
        if isinstance(x, _Traced):
            return x.nodes
        if isinstance(x, Tensor):
            if x.numel() > MOST_ELEMENTS:
                raise Unreadable(f"a table {list(x.shape)} that is not indexed", "table[q_idx], table[kv_idx]")
            x = x.detach().cpu().numpy()
        array = np.asarray(x)
        out = np.empty(array.shape, dtype=object)
        for at in np.ndindex(array.shape):
            value = array[at].item()
            out[at] = Truth(value) if isinstance(value, bool) else values.number(value)
        return out


def _constant(x: _Traced) -> Any:
    out = np.empty(x.nodes.shape, dtype=np.float64)
    for at in np.ndindex(x.nodes.shape):
        node = x.nodes[at]
        out[at] = float(node.value) if isinstance(node, Truth) else node[0][1].top / node[0][1].below
    return out.astype(bool if x.numbers == torch.bool else np.int64)


def _plain(name: Var) -> Cases:
    return ((Truth(True), Ratio(name)),)


def _expressions(node: Node) -> list[Any]:
    return [part for guard, ratio in node for part in (guard, ratio.top)] if isinstance(node, tuple) else [node]


def _name(func: Any) -> str:
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return f"Tensor.{name}" if name == "where" and hasattr(func, "__objclass__") else name


def _shown(name: str) -> str:
    return "an index" if name == "__getitem__" else f"torch.{name.strip('_')}"


def _shape(x: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return x.shape


def _dtype(x: Any) -> torch.dtype:
    with torch._C.DisableTorchFunctionSubclass():
        found: torch.dtype = x.dtype
        return found


_ASKED = frozenset(
    [
        "shape",
        "dtype",
        "device",
        "ndim",
        "dim",
        "size",
        "numel",
        "is_cuda",
        "layout",
        "requires_grad",
        "is_floating_point",
    ]
)
_MADE = frozenset(
    [
        "new_ones",
        "new_zeros",
        "new_full",
        "new_tensor",
        "new_empty",
        "ones_like",
        "zeros_like",
        "full_like",
        "empty_like",
    ]
)
# What puts elements elsewhere, whatever they are.
_MOVES = frozenset(["unsqueeze", "squeeze", "reshape", "view", "flatten", "clone", "detach", "contiguous", "cpu"])
_WORDS = (
    "+ - * // %, abs, clamp, minimum, maximum, where, comparisons, & | ~ and tables indexed by b, h, q_idx or kv_idx"
)

Rule = Callable[[_Recorder, Sequence[Any], Mapping[str, Any]], Any]


def _result(kinds: Sequence[Any], op: str) -> torch.dtype:
    """The dtype of what comes out."""
    floating = any(isinstance(x, float) or (isinstance(x, Tensor) and _dtype(x).is_floating_point) for x in kinds)
    truths = all(isinstance(x, bool) or (isinstance(x, Tensor) and _dtype(x) == torch.bool) for x in kinds)
    if op == "truth":
        return torch.bool
    return torch.float32 if floating or op == "float" else torch.bool if truths else torch.int64


def _each(f: Callable[..., Node], op: str = "") -> Callable[..., Any]:
    """A function of nodes, element by element."""

    def of(recorder: _Recorder, *given: Any) -> _Traced:
        arrays = np.broadcast_arrays(*(recorder.nodes(x) for x in given))
        out = np.empty(arrays[0].shape, dtype=object)
        for at in np.ndindex(out.shape):
            out[at] = f(*(x[at] for x in arrays))
        return _Traced.of(out, _result(given, op))

    return of


def _rule(names: str, f: Callable[..., Any], turned: bool = False) -> dict[str, Rule]:
    def rule(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = [*args, *(kwargs[k] for k in ("other", "exponent") if k in kwargs)]
        if any(k not in ("other", "exponent", "alpha") for k in kwargs):
            return None
        if (times := kwargs.get("alpha", 1)) != 1:
            given[turned - 1] = _each(_pair(values.product))(recorder, given[turned - 1], times)
        return f(recorder, *(given[::-1] if turned else given))

    return dict.fromkeys(names.split(), rule)


def _both(f: Callable[[Node, Node], Node], op: str) -> Callable[..., Any]:
    """Truth values as they are, numbers bit by bit."""

    def rule(recorder: _Recorder, *given: Any) -> _Traced:
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


def _divide(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
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


def _clamp(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
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

    def rule(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = [*args, *(kwargs[k] for k in ("other",) if k in kwargs)]
        if len(given) == 2 and all(isinstance(x, Tensor) for x in given):
            return _each(of)(recorder, *given)
        if not isinstance(args[0], _Traced) or not args[0].nodes.size:
            return None
        found = _reduced(of, None, _dtype(args[0]))(recorder, args, kwargs)
        return _Extremes(found, None) if pair and found is not None and len(args) + len(kwargs) > 1 else found

    return rule


def _where(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    given = [*args, *(kwargs[k] for k in ("condition", "self", "input", "other") if k in kwargs)]
    if len(given) != 3:
        return None
    found = _each(values.choose)(recorder, *given)
    return _Traced.of(found.nodes, _result(given[1:], ""))


def _isin(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    x, among = (*args, *kwargs.values())[:2]
    each = recorder.nodes(among).reshape(-1)
    if len(each) > 256 or len(args) + len(kwargs) != 2 or not isinstance(x, _Traced) or not len(each):
        return None
    nodes = np.empty(x.nodes.shape, dtype=object)
    for at in np.ndindex(nodes.shape):
        held: Pred = Truth(False)
        for other in each:
            held = joint(Or, held, values.compared("==")(x.nodes[at], other))
        nodes[at] = held
    return _Traced.of(nodes, torch.bool)


def _cast(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any], to: torch.dtype | None = None) -> Any:
    wanted = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.dtype)]
    like = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, Tensor)]
    x, kind = args[0], to or (wanted[0] if wanted else _dtype(like[0]) if like else None)
    if kind is None or not isinstance(x, _Traced):
        return x if isinstance(x, _Traced) else None
    if kind == torch.bool:
        change: Callable[[Any], Node] = values.truth
    elif not kind.is_floating_point and x.numbers.is_floating_point:
        change = values.truncated
    else:
        change = values.numeric
    nodes = np.empty(x.nodes.shape, dtype=object)
    for at in np.ndindex(nodes.shape):
        nodes[at] = change(x.nodes[at])
    return _Traced.of(nodes, kind if kind == torch.bool or kind.is_floating_point else torch.int64)


def _to(kind: torch.dtype) -> Rule:
    return lambda recorder, args, kwargs: _cast(recorder, args[:1], {}, kind)


def _reduced(f: Callable[[Node, Node], Node], start: Node | None, kind: torch.dtype) -> Rule:
    """Over the elements of a value, or along one axis of it."""

    def rule(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        x, axis = (*args, kwargs.get("dim"))[:2]
        axis = axis[0] if isinstance(axis, tuple | list) and len(axis) == 1 else axis
        if not isinstance(x, _Traced) or isinstance(axis, tuple | list):
            return None
        nodes = x.nodes.reshape(-1) if axis is None or not x.nodes.shape else np.moveaxis(x.nodes, axis, 0)
        keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))
        out = np.empty(nodes.shape[1:], dtype=object)
        for at in np.ndindex(out.shape):
            held = nodes[(0, *at)] if start is None else start
            for k in range(start is None, nodes.shape[0]):
                held = f(held, nodes[(k, *at)])
            out[at] = held
        return _Traced.of(np.expand_dims(out, axis) if keep and axis is not None else out, kind)

    return rule


def _reshaped(change: Callable[..., Nodes]) -> Rule:
    def rule(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if not isinstance(args[0], _Traced):
            return None
        return _Traced.of(change(args[0].nodes, *args[1:], **kwargs), args[0].numbers)

    return rule


def _item(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A part of a value with further axes, as `interval[0]`; or of a short table, whatever the lengths are."""
    x, at = args
    if not isinstance(x, _Stand) and isinstance(x, Tensor) and isinstance(at, _Traced) and x.dim() == 1:
        return _periodic(recorder, x, at)
    if not isinstance(x, _Traced) or any(isinstance(k, Tensor) for k in (at if isinstance(at, tuple) else (at,))):
        return None
    found = x.nodes[at]
    if not isinstance(found, np.ndarray) or found.dtype != object:
        found = _zero_dim(found)
    return _Traced.of(found, x.numbers)


def _periodic(recorder: _Recorder, table: Tensor, at: _Traced) -> Any:
    """`table[e % period]` as cases."""
    match at.nodes.item() if at.nodes.shape == () else None:
        case ((Truth(True), Ratio(Mod(_, int(period)), 1)),) if period <= min(len(table), LONGEST_PERIOD):
            entries = recorder.nodes(table[:period])
            found = entries[period - 1]
            for k in range(period - 2, -1, -1):
                if entries[k] != found:
                    found = values.choose(values.compared("<=")(at.nodes.item(), values.number(k)), entries[k], found)
            return _Traced.of(_zero_dim(found), table.dtype)
    return None


def _zero_dim(node: Node) -> Nodes:
    out = np.empty((), dtype=object)
    out[()] = node
    return out


def _stacked(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    arrays = [recorder.nodes(x) for x in args[0]]
    axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return _Traced.of(np.stack(arrays, axis), _result(args[0], ""))


def _power(recorder: _Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if len(args) == 2 and isinstance(args[1], int) and 0 <= args[1] <= 8 and isinstance(args[0], _Traced):
        found: Any = args[0] if args[1] else None
        for _ in range(args[1] - 1):
            found = _each(values.pairwise(values.product))(recorder, found, args[0])
        return found
    return None


_pair, _one = values.pairwise, values.single
_RULES: Mapping[str, Rule] = {
    **_rule("add __add__ __radd__ add_ __iadd__", _each(_pair(values.added(1)))),
    **_rule("sub subtract __sub__ sub_ __isub__", _each(_pair(values.added(-1)))),
    **_rule("rsub __rsub__", _each(_pair(values.added(-1))), turned=True),
    **_rule("mul multiply __mul__ __rmul__ mul_ __imul__", _each(_pair(values.product))),
    **_rule("floor_divide __floordiv__", _each(_pair(values.floored))),
    **_rule("__rfloordiv__", _each(_pair(values.floored)), turned=True),
    **_rule("remainder __mod__", _each(_pair(values.remainder))),
    **_rule("__rmod__", _each(_pair(values.remainder)), turned=True),
    **_rule("fmod", _each(_remainder_toward_zero)),
    **_rule("abs absolute __abs__", _each(_one(values.magnitude))),
    **_rule("neg negative __neg__", _each(_one(values.negative))),
    **_rule("positive __pos__ clone detach contiguous", lambda recorder, x, *_: x),
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
    **_rule("logical_and logical_and_", _each(_logical(_and), "truth")),
    **_rule("logical_or logical_or_", _each(_logical(_or), "truth")),
    **_rule("logical_xor logical_xor_", _each(_logical(_xor), "truth")),
    **_rule("logical_not logical_not_", _each(lambda a: fold(Not(values.truth(a))), "truth")),
    **_rule("bitwise_and bitwise_and_ __and__ __rand__ __iand__", _both(_and, "&")),
    **_rule("bitwise_or bitwise_or_ __or__ __ror__ __ior__", _both(_or, "|")),
    **_rule("bitwise_xor bitwise_xor_ __xor__ __rxor__ __ixor__", _both(_xor, "^")),
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
    "bool": _to(torch.bool), "int": _to(torch.int64), "long": _to(torch.int64), "short": _to(torch.int64),
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
