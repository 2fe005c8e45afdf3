"""What `torch.utils.flop_counter.FlopCounterMode` counts for a kernel: the flops of the pairs that the pattern attends.

As torch counts its own attention, 2 flops for a multiply-add and nothing for the softmax, whatever backend runs:

    forward     2 pairs (D + Dv)          the logits, and the values
    backward    2 pairs (3 D + 2 Dv)      the logits again; the gradients of weights, values, queries and keys

for each query head of each batch entry; `pairs` are those of its pattern, in a ragged call of each sequence, and where
calls choose the most that any lists attend.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from pidsl.errors import BackendError
from pidsl.language.chosen import forced, possible, selection
from pidsl.language.heads import Heads
from pidsl.language.parse import parse
from pidsl.language.terms import Term
from pidsl.runtime.call.segments import Segments

Formulas = Mapping[Any, Callable[..., int]]  # by op, called with its arguments as they are


def looking(formulas: Formulas) -> bool:
    """Whether a FlopCounterMode is looking, which then knows the formulas."""
    if not torch._C._len_torch_dispatch_stack():
        return False
    module = sys.modules.get("torch.utils.flop_counter")
    if module is None:
        return False
    found = [x for x in _get_current_dispatch_mode_stack() if isinstance(x, module._FlopCounterMode)]
    for mode in found:  # it copied the formulas that there were when it was made
        for op, formula in formulas.items():
            mode.counter.flop_registry.setdefault(op, formula)
    return bool(found)


def register(formulas: Formulas) -> None:
    """Make the formulas known to the counters that are made from now on, around compiled graphs too."""
    from torch.utils.flop_counter import flop_registry

    for op, formula in formulas.items():
        flop_registry.setdefault(op, formula)


def forward_flops(q: Tensor, v: Tensor, pattern: str, spans: Sequence[tuple[int, ...]]) -> int:
    """Of a forward pass; `spans` as `spans_of` gives them."""
    return 2 * _pairs(q, pattern, spans) * (q.shape[3] + v.shape[3])


def backward_flops(q: Tensor, v: Tensor, pattern: str, spans: Sequence[tuple[int, ...]]) -> int:
    """Of a backward pass."""
    return 2 * _pairs(q, pattern, spans) * (3 * q.shape[3] + 2 * v.shape[3])


def spans_of(q: Tensor, k: Tensor, places: Sequence[Tensor], numbers: Sequence[Any]) -> list[tuple[int, ...]]:
    """(rows, keys, offset, key_offset, how many times) of the sequences of a call, as ops have it.

    Raises:
        BackendError: a ragged call of tensors without values, whose sizes nobody knows.
    """
    offset, key_offset, _, *bounds = numbers
    if not places:
        return [(q.shape[2], k.shape[2], offset, key_offset, q.shape[0])]
    if type(places[0]) is not Tensor or places[0].is_meta:
        raise BackendError("counted flops of a ragged call without values", "tensors that hold the lengths")
    return [
        (one.rows, one.keys, one.offset, one.key_offset, 1)
        for one in Segments.of(places, bounds).on_host
        if one.rows and one.keys
    ]


def _pairs(q: Tensor, pattern: str, spans: Sequence[tuple[int, ...]]) -> int:
    """Of all heads together."""
    return sum(times * _of_heads(pattern, q.shape[1], *sizes) for *sizes, times in spans)


@lru_cache(maxsize=4096)
def _of_heads(pattern: str, heads: int, rows: int, keys: int, offset: int, key_offset: int) -> int:
    from pidsl.relation import counting  # imports isl

    found: Term | Heads = parse(pattern)
    groups = found.groups if isinstance(found, Heads) else ((heads, found),)
    total = 0
    for count, term in groups:
        most = counting.pairs(possible(term), rows, keys, offset, key_offset)
        if (lists := selection(term)) is not None:
            block, budget, _ = lists.numbers
            most = min(most, counting.pairs(forced(term), rows, keys, offset, key_offset) + rows * budget * block)
        total += count * most
    return total
