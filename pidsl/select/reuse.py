"""Layers that use the choice of an earlier layer (as in HyLRA, arXiv 2602.00777)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pidsl.errors import ArgumentError, TermError
from pidsl.select.selector import Selector, State


class Reuse(nn.Module):
    """Which layer uses whose choice: selectors of the layers that choose, and for each layer the one it uses.

    What is chosen is no part of it. Each forward pass begins with `begin()`, and hands what that gives from layer to
    layer:

    >>> import torch, pidsl.select
    >>> reuse = pidsl.select.Reuse([0, 0, 2, None], {0: pidsl.select.MoBA(), 2: pidsl.select.MoBA(budget=8)})
    >>> choices = reuse.begin()
    >>> q, k = torch.randn(1, 4, 200, 16), torch.randn(1, 4, 200, 16)
    >>> choices.blocks(0, q, k) is choices.blocks(1, q, k)
    True

    Args:
        uses: for each layer the layer whose choice it uses, itself or an earlier one that chooses; None: none.
        selectors: of the layers that choose.

    Raises:
        TermError: a layer uses one that does not choose or comes later, or a selector is missing or of no use.
    """

    def __init__(self, uses: Sequence[int | None], selectors: Mapping[int, Selector]) -> None:
        super().__init__()
        self.uses = tuple(uses)
        for layer, of in enumerate(self.uses):
            if of is not None and (not 0 <= of <= layer or self.uses[of] != of):
                expected = "the layer itself, or an earlier one that chooses"
                raise TermError(f"layer {layer} uses the choice of layer {of}", expected, "Reuse(uses, selectors)")
        choosing = {layer for layer, of in enumerate(self.uses) if of == layer}
        if choosing != set(selectors):
            got = f"selectors of layers {sorted(selectors)}"
            raise TermError(got, f"those of the layers that choose, {sorted(choosing)}", "Reuse(uses, selectors)")
        self.selectors = nn.ModuleDict({str(layer): selector for layer, selector in selectors.items()})

    def extra_repr(self) -> str:
        return f"uses={list(self.uses)}"

    def of(self, layer: int) -> Selector | None:
        """The selector whose choice a layer uses."""
        at = self.uses[layer]
        found: Any = None if at is None else self.selectors[str(at)]
        return found

    def start(self, batch: int, kv_heads: int, dim: int, **kind: Any) -> dict[int, State]:
        """States of no keys, of each layer that chooses; arguments as of `Selector.start`."""
        states: dict[int, State] = {}
        for layer in range(len(self.uses)):
            selector = self.of(layer)
            if selector is not None and self.uses[layer] == layer:
                states[layer] = selector.start(batch, kv_heads, dim, **kind)
        return states

    def begin(self, states: Mapping[int, State] | None = None) -> Choices:
        """The choices of one forward pass, none yet.

        Args:
            states: what the layers that choose keep of earlier tokens, while decoding; `Choices.states` after the pass
                are those for the next one.
        """
        return Choices(self, states)


class Choices:
    """The lists of one forward pass, made by `Reuse.begin`; layers may be asked again, as checkpoints do.

    Args:
        reuse: which layer uses whose choice.
        states: of earlier tokens, or None.
    """

    def __init__(self, reuse: Reuse, states: Mapping[int, State] | None = None) -> None:
        self.reuse = reuse
        self.states: dict[int, State] = {}
        self._before = states
        self._lists: dict[int, Tensor] = {}

    def blocks(self, layer: int, q: Tensor, k: Tensor, *, offset: int = 0) -> Tensor | None:
        """The lists that a layer attends by: its own choice, made now, or that of the layer it uses; None: none.

        Args:
            layer: which layer.
            q, k: its queries and keys; with states those of the new tokens, else as of a `Selector`.
            offset: position of the first query, without states.

        Raises:
            ArgumentError: the layer that it uses has not chosen in this pass, or for other tokens.
        """
        at, selector = self.reuse.uses[layer], self.reuse.of(layer)
        if at is None or selector is None:
            return None
        if at == layer:
            if self._before is None:
                self._lists[at] = selector(q, k, offset=offset)
            else:
                self.states[at] = selector.append(self._before[at], k)
                self._lists[at] = selector.step(q, self.states[at])
        elif at not in self._lists:
            got = f"layer {layer} uses the choice of layer {at}"
            raise ArgumentError(got, "that layer to choose before, in this pass", "Choices.blocks")
        found = self._lists[at]
        if self._before is not None:
            offset = self.states[at].length - q.shape[2]
        rows = (offset + q.shape[2] - 1) // selector.queries - offset // selector.queries + 1
        if found.shape[0] != q.shape[0] or found.shape[2] != rows or found.shape[1] not in (1, k.shape[1], q.shape[1]):
            got = f"layer {layer} has {q.shape[0]} x {q.shape[1]} x {rows} query blocks"
            raise ArgumentError(got, f"the {list(found.shape[:3])} of layer {at}", "Choices.blocks")
        return found
