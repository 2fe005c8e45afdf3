"""What tiles add to the gradients of keys and values, whose rows many tiles share."""

from __future__ import annotations

import torch
from torch import Tensor

from pidsl.runtime.call.sums import add_rows
from pidsl.runtime.run_torch.views import add_windows


class KeySums:
    """A gradient as it grows: a tensor of all rows; or, where tiles meet few of them, these rows and their addends.

    Args:
        like: keys or values `[B, Hkv, m, D]`.
        columns: of the addends, at least D.
        dtype: of the addends.
        many: whether tiles meet a good part of the rows.
    """

    def __init__(self, like: Tensor, columns: int, dtype: torch.dtype, many: bool) -> None:
        self.like, self.columns, self.dtype = like, columns, dtype
        every = many or (like.dtype == dtype and like.shape[3] == columns)  # then it is the result itself
        self.whole = like.new_zeros((*like.shape[:3], columns), dtype=dtype) if every else None
        self.parts: list[tuple[Tensor, Tensor]] = []  # numbers of rows among [B, Hkv, m], and what they get

    def add(self, where: Tensor, grads: Tensor, grid: int = 2) -> None:
        """Add tiles `[x, y, keys, columns]`.

        Args:
            where: the rows as a view of `whole` with `grid` dimensions of tiles; or, of all heads, `[B, Hkv, ...]`;
                without `whole`, their numbers.
            grads: what they get.
            grid: as said.
        """
        if self.whole is None:
            self.parts.append((where.reshape(-1), grads.reshape(-1, self.columns)))
        elif where.is_floating_point():
            add_windows(where, grads.view(where.shape), grid)
        else:
            add_rows(self.whole, 2, where[0, 0].reshape(-1), grads.reshape(*self.whole.shape[:2], -1, self.columns))

    def add_units(self, numbers: Tensor, grads: Tensor, size: int = 1) -> None:
        """Add to rows by their numbers among `[B, Hkv, m]`; to runs of `size` rows, counted so, where there is `whole`.

        Args:
            numbers: one after the other; several may be one.
            grads: what they get.
            size: as said.
        """
        if self.whole is None:
            self.parts.append((numbers, grads.reshape(-1, self.columns)))
        else:
            width = size * self.columns
            add_rows(self.whole.view(-1, width), 0, numbers, grads.reshape(-1, width))

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `[B, Hkv, start:stop, columns]`, to add to in place."""
        if self.whole is not None:
            return self.whole[:, :, start:stop]
        batch, heads = self.like.shape[:2]
        part = self.like.new_zeros((batch, heads, stop - start, self.columns), dtype=self.dtype)
        numbers = self.numbers(torch.arange(start, stop, device=self.like.device))
        self.parts.append((numbers.reshape(-1), part.view(-1, self.columns)))
        return part

    def numbers(self, keys: Tensor) -> Tensor:
        """`[B, Hkv, *keys]`: the numbers of these keys among the rows of all heads."""
        batch, heads, m, _ = self.like.shape
        first = torch.arange(batch * heads, device=keys.device).view(batch, heads, *[1] * keys.ndim) * m
        return first + keys

    def result(self) -> Tensor:
        """The gradient, shaped and typed like the keys."""
        width = self.like.shape[3]
        if self.whole is not None:
            return self.whole[..., :width].to(self.like.dtype)
        total = self.like.new_zeros(self.like.shape)
        if self.parts:
            found, place = torch.cat([x for x, _ in self.parts]).unique(return_inverse=True)
            sums = total.new_zeros((len(found), self.columns), dtype=self.dtype)
            grads = torch.cat([x for _, x in self.parts])
            add_rows(sums, 0, place, grads)
            total.view(-1, width)[found] = sums[:, :width].to(total.dtype)
        return total
