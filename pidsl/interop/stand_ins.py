"""Stand-ins for the indices of a mask: tensors without data that hold what is computed with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from pidsl.interop import traced_values as values
from pidsl.interop.traced_values import Node, Unreadable
from pidsl.language.expr import Truth

__all__ = ["Stand", "Traced", "Unsaid", "dtype_of", "nodes_of", "not_said", "shape_of", "unsaid", "zero_dim"]

Nodes = Any  # an object array of `Node`s
MOST_ELEMENTS = 4096  # of one value, as of the tiles that a query has chosen


class Stand(torch.Tensor):
    """A tensor without data."""

    @classmethod
    def __torch_dispatch__(cls, *given: Any, **more: Any) -> Any:
        raise Unreadable(f"torch's {given[0]}")


class Traced(Stand):
    """A value of one query and one key; of more than one element where tables have further axes."""

    nodes: Nodes

    @property
    def numbers(self) -> torch.dtype:
        with torch._C.DisableTorchFunctionSubclass():
            return self.dtype

    @classmethod
    def of(cls, nodes: Nodes, dtype: torch.dtype) -> Traced:
        made = torch.Tensor._make_wrapper_subclass(cls, nodes.shape, dtype=dtype)
        made.nodes = nodes
        return made


class Unsaid(Stand):
    """The sequence or head of a mask that was not to ask for it."""

    called: str

    @classmethod
    def __torch_dispatch__(cls, *given: Any, **more: Any) -> Any:
        leaves = tree_flatten(given)[0]
        raise not_said(next(x.called for x in leaves if isinstance(x, Unsaid)), f"torch's {given[0]}")


def unsaid(name: str) -> Tensor:
    """Which sequence, "b", or head, "h", of a mask that is not to ask: any use of it raises Unreadable."""
    made = torch.Tensor._make_wrapper_subclass(Unsaid, (), dtype=torch.int64)
    made.called = name
    found: Tensor = made
    return found


def not_said(called: str, at: str) -> Unreadable:
    """Why a mask is not read that asks for the sequence or head which it was not told."""
    what = "the sequence of a batch, b" if called == "b" else "the query head, h"
    return Unreadable(f"{what} in {at}", f"from_flex(mask_mod, {called.upper()}=...)")


def nodes_of(x: Any) -> Nodes:
    """The nodes of a value, traced or not."""
    if isinstance(x, Traced):
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


def shape_of(x: Any) -> Any:
    """Of a stand-in too."""
    with torch._C.DisableTorchFunctionSubclass():
        return x.shape


def dtype_of(x: Any) -> torch.dtype:
    """Of a stand-in too."""
    with torch._C.DisableTorchFunctionSubclass():
        found: torch.dtype = x.dtype
        return found


def zero_dim(node: Node) -> Nodes:
    """A value of one element."""
    out = np.empty((), dtype=object)
    out[()] = node
    return out
