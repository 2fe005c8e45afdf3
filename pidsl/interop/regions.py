"""`Regions`: tokens of classes that do not lie together, put class by class: each class is a document of a `Packing`.

    ids    [1, 0, 1, -1, 0]          order  [1, 4, 0, 2]          cu_seqlens  [0, 2, 4]

The sort is stable and is done once per batch; every layer, head and tensor of the batch uses its order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pidsl.errors import ArgumentError
from pidsl.interop.packing import Align, Packing
from pidsl.runtime.call.arguments import Fault, check_tensor, raise_faults
from pidsl.runtime.call.ragged import INTEGERS

_CALL = "pidsl.Regions(ids, ...)"


class Regions:
    """Tokens by the class that an id gives them, wherever they stand: tokens attend tokens of their class.

    Segments of an image, speakers, experts. A class of a batch entry is a document: a pattern holds on the tokens of
    the class in their order, numbered from 0, so `full` is `ids[i] == ids[j]`, `causal` that and `j <= i`, and
    `window(3)` the last tokens of the same class.

    >>> import pidsl
    >>> ids = torch.tensor([[0, 1, 0, -1, 1, 0], [2, 2, 2, 0, 0, 2]])
    >>> regions = pidsl.Regions(ids)
    >>> regions
    Regions of 4 classes, 11 of 12 tokens
    >>> regions.order.tolist()                     # of the batch as one row: those of 0, of 1; of 0, of 2
    [0, 2, 5, 1, 4, 9, 10, 6, 7, 8, 11]
    >>> kernel = pidsl.compile(pidsl.full & pidsl.documents, "torch")
    >>> q, k, v = torch.randn(3, 2, 4, 6, 8)          # [B, H, n, D]
    >>> rows = (regions.sort(x) for x in (q, k, v))   # [T, H, D]
    >>> out = regions.restore(kernel.packed(*rows, regions.packing.cu_seqlens_q))
    >>> out.shape, bool(out[0, :, 3].any())           # token 3 is padding
    (torch.Size([2, 4, 6, 8]), False)

    Args:
        ids: the class of each query, integers [B, n], or [n] for one sequence; negative ones are padding.
        ids_k: the same of the keys, [B, m]; None: they are the same tokens.
        align: with `ids_k`, which ends of the queries and keys of a class meet, "start" or "end", see `Packing`.

    Raises:
        ArgumentError: ids that are no such tensors; `ids_k` without `align`.
    """

    def __init__(self, ids: Tensor, ids_k: Tensor | None = None, align: Align | None = None) -> None:
        names = ("ids",) if ids_k is None else ("ids", "ids_k")
        sides = [ids] if ids_k is None else [ids, ids_k]
        raise_faults([x for name, side in zip(names, sides, strict=True) if (x := _fault(name, side))], _CALL)
        sides = [side if side.dim() == 2 else side[None] for side in sides]
        self._shapes = [side.shape for side in sides]
        if len({side.shape[0] for side in sides}) > 1 or len({side.device for side in sides}) > 1:
            got, like = ([list(x.shape), str(x.device)] for x in reversed(sides))
            raise_faults([Fault("ids_k", f"{got}", f"the batch entries and the device of ids, {like}")], _CALL)
        tokens = [(side.flatten() >= 0).nonzero()[:, 0] for side in sides]
        of = _classes(sides, tokens)
        count = max((int(x.max()) + 1 for x in of if len(x)), default=0)
        self._orders = [at[x.argsort(stable=True)] for at, x in zip(tokens, of, strict=True)]
        ends = [torch.nn.functional.pad(torch.bincount(x, minlength=count).cumsum(0), (1, 0)).int() for x in of]
        self.packing = Packing(ends[0], None if ids_k is None else ends[1], align)

    @property
    def order(self) -> Tensor:
        """int64 [T]: which queries, of the batch as one row, come first, second, ...: by entry, id and position."""
        return self._orders[0]

    def sort(self, x: Tensor) -> Tensor:
        """Queries, and what else the tokens of `ids` have: class by class and without padding, differentiable.

        Args:
            x: [B, H, n, D] or [B, n, D].

        Returns:
            [T, H, D], as `kernel.packed` takes them, or [T, D].

        Raises:
            ArgumentError: other sizes.
        """
        return self._sort(x, 0, "regions.sort(x)")

    def sort_keys(self, x: Tensor) -> Tensor:
        """The same of what the tokens of `ids_k` have: keys and values."""
        return self._sort(x, -1, "regions.sort_keys(x)")

    def restore(self, y: Tensor) -> Tensor:
        """What `sort` was undone to: where the queries stood, and 0 at padding, differentiable.

        Args:
            y: [T, H, D] or [T, D].

        Returns:
            [B, H, n, D] or [B, n, D].

        Raises:
            ArgumentError: other sizes.
        """
        batch, n = self._shapes[0]
        if not isinstance(y, Tensor) or y.dim() not in (2, 3) or len(y) != len(self.order):
            expected = f"a tensor [{len(self.order)}, H, D] or [{len(self.order)}, D]"
            raise ArgumentError(f"y: {_named(y)}", expected, "regions.restore(y)")
        out = y.new_zeros(batch * n, *y.shape[1:]).index_copy(0, self.order, y).unflatten(0, (batch, n))
        return out.transpose(1, 2) if out.dim() == 4 else out

    def _sort(self, x: Tensor, side: int, where: str) -> Tensor:
        batch, n = self._shapes[side]
        if not isinstance(x, Tensor) or x.dim() not in (3, 4) or (x.shape[0], x.shape[-2]) != (batch, n):
            expected = f"a tensor [{batch}, H, {n}, D] or [{batch}, {n}, D]"
            raise ArgumentError(f"x: {_named(x)}", expected, where)
        rows = x.transpose(1, 2) if x.dim() == 4 else x
        return rows.flatten(0, 1)[self._orders[side]]

    def __repr__(self) -> str:
        batch, n = self._shapes[0]
        classes = len(self.packing.cu_seqlens_q) - 1
        return f"Regions of {classes} classes, {self.packing.tokens} of {batch * n} tokens"


def _classes(sides: list[Tensor], tokens: list[Tensor]) -> list[Tensor]:
    """The class of each of the tokens, counted from 0 by batch entry, then id; of those that either side has."""
    found = torch.cat([side.flatten()[at].long() for side, at in zip(sides, tokens, strict=True)])
    names, inverse = found.unique(return_inverse=True)
    entries = torch.cat([at // max(1, side.shape[1]) for side, at in zip(sides, tokens, strict=True)])
    of = (entries * len(names) + inverse).unique(return_inverse=True)[1]
    return list(of.split([len(at) for at in tokens]))


def _fault(name: str, ids: Any) -> Fault | None:
    expected = "a tensor of integers [B, n], or [n] of one sequence"
    if fault := check_tensor(name, ids, expected):
        return fault
    if ids.dtype not in INTEGERS or ids.dim() not in (1, 2):
        return Fault(name, _named(ids), expected)
    return None


def _named(x: Any) -> str:
    return f"shape {list(x.shape)} and dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
