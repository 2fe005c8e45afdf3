"""A mask of FlexAttention called once with stand-ins for the indices: what torch computes with them is written down.

A stand-in is a tensor without data. While the mask runs, a mode of torch hands every function that meets one to the
table of `traced_functions`; a function that is not in it is evaluated for every query (or key) where it depends on no
other, and is refused by name else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from pidsl.interop import traced_values as values
from pidsl.interop.stand_ins import MOST_ELEMENTS, Stand, Traced, Unsaid, dtype_of, not_said, shape_of, unsaid, zero_dim
from pidsl.interop.traced_functions import MOVES, RULES
from pidsl.interop.traced_values import Cases, Columns, Node, Ratio, Unreadable
from pidsl.language.expr import Pred, Truth, Var

__all__ = ["traced"]

Mask = Callable[..., Any]


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
        i, j = (Traced.of(zero_dim(_plain(Var(name))), torch.int64) for name in "ij")
        found = mask_mod(*asked, i, j)
    if isinstance(found, Traced):
        if found.nodes.shape != ():
            raise Unreadable(f"a result of shape {list(found.nodes.shape)}", "one truth value for a query and a key")
        if found.numbers.is_floating_point:
            raise Unreadable("a result that is a float", "a comparison; score_mod is pidsl.score(...)")
        return values.truth(found.nodes.item())
    if (
        isinstance(found, bool | Tensor)
        and not isinstance(found, Unsaid)
        and (plain := torch.as_tensor(found)).dim() == 0
    ):
        return Truth(bool(plain))
    raise Unreadable(f"a result of type {type(found).__name__}", "one truth value for a query and a key")


class _Recorder(TorchFunctionMode):
    """Hands what meets a stand-in to the table of functions."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.columns = columns

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, layout = tree_flatten((args, kwargs))
        if not any(isinstance(x, Stand) for x in leaves):
            return func(*args, **kwargs)
        name = _name(func)
        if name in _ASKED:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if name in _MADE:  # its first argument says where, and of which kind
            first = torch.empty(shape_of(args[0]), dtype=dtype_of(args[0]))
            return func(first, *args[1:], **kwargs)
        if any(isinstance(x, Unsaid) for x in leaves):
            leaves = self._only_one(func, name, args, leaves)
            args, kwargs = tree_unflatten(leaves, layout)
        if name in ("__bool__", "item", "__int__", "__index__", "__float__", "tolist", "__iter__", "__len__"):
            hint = "(a) & (b), (a) | (b), ~(a), torch.where(test, a, b): the mask is traced once for all positions"
            raise Unreadable("a value of a query and a key as a number or truth value of Python", hint)
        real = any(self.columns.real(node) for x in leaves if isinstance(x, Traced) for node in x.nodes.flat)
        in_place = name.endswith("_") and not name.endswith("__")
        rule = None if real and name not in MOVES else RULES.get(name.rstrip("_") if in_place else name)
        found = None if rule is None else rule(self, args, kwargs)
        if found is None:
            found = self.by_value(func, name, leaves, layout)
        if (in_place or name in _IN_PLACE) and isinstance(args[0], Traced):
            args[0].nodes = np.broadcast_to(found.nodes, args[0].nodes.shape)
            return args[0]
        return found

    def _only_one(self, func: Any, name: str, args: Any, leaves: list[Any]) -> list[Any]:
        """Which sequence or head, of a mask that was told none: the only one that its table has."""
        if name == "__getitem__" and isinstance(args[0], Tensor) and not isinstance(args[0], Stand):
            at = args[1] if isinstance(args[1], tuple) else (args[1],)
            plain = all(x is not None and x is not Ellipsis for x in at)
            unsaid = [k for k, x in enumerate(at) if isinstance(x, Unsaid)]
            if plain and all(k < args[0].dim() and args[0].shape[k] == 1 for k in unsaid):
                return [torch.tensor(0) if isinstance(x, Unsaid) else x for x in leaves]
        asked = next(x.called for x in leaves if isinstance(x, Unsaid))
        raise not_said(asked, _shown(name))

    def by_value(self, func: Any, name: str, leaves: list[Any], layout: Any) -> Any:
        """A function of torch for every query, or every key: a table of what it gives."""
        stands = [x for x in leaves if isinstance(x, Traced)]
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
            put, more = tree_unflatten([next(rest) if isinstance(x, Traced) else x for x in leaves], layout)
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
        plain = out.detach().cpu()
        table = (plain.float() if plain.dtype.is_floating_point and plain.element_size() < 4 else plain).numpy()
        nodes = np.empty(table.shape[len(axes) :], dtype=object)
        for at in np.ndindex(nodes.shape):
            nodes[at] = self.columns.add(axes, table[(slice(None),) * len(axes) + at])
        return Traced.of(nodes, out.dtype)

    def _constants(self, leaves: list[Any]) -> list[Any]:
        return [torch.from_numpy(_constant(x)) if isinstance(x, Traced) else x for x in leaves]

    def _axes(self, x: Traced) -> set[str]:
        return {axis for node in x.nodes.flat for part in _expressions(node) for axis in self.columns.axes(part)}

    def _evaluated(self, x: Traced, axes: str) -> Tensor:
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


def _constant(x: Traced) -> Any:
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


_IN_PLACE = frozenset(f"__i{x}__" for x in ("add", "sub", "mul", "and", "or", "xor", "floordiv", "mod", "lshift"))
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
_WORDS = (
    "+ - * // %, abs, clamp, minimum, maximum, where, comparisons, & | ~ and tables indexed by b, h, q_idx or kv_idx"
)
