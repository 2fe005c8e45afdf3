"""A pattern that was read from what another library is called with, and what a call of its kernel takes besides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pidsl.errors import ArgumentError, PredicateError
from pidsl.language.heads import Heads
from pidsl.language.score import Score
from pidsl.language.terms import Term

__all__ = ["Imported", "Pattern", "scale_of"]

Pattern = Term | Heads


@dataclass(frozen=True, eq=False)
class Imported:
    """Patterns, and what a call of their kernels takes besides q, k and v.

    >>> import pidsl, torch
    >>> ids = torch.tensor([0, 0, 0, 1, 1])
    >>> found = pidsl.from_flex(lambda b, h, q, k: (ids[q] == ids[k]) & (q >= k), n=5)
    >>> found.pattern, found.inputs
    (causal & documents, {'documents': tensor([0, 0, 0, 1, 1], dtype=torch.int32)})
    >>> q, k, v = torch.randn(3, 1, 2, 5, 8)
    >>> pidsl.compile(found.pattern, "torch", found.score)(q, k, v, **found.inputs).shape
    torch.Size([1, 2, 5, 8])

    Args:
        patterns: one for all sequences of a batch, or one for each.
        inputs: keyword arguments of the call: `documents` int32 [n] or [B, n]; `key_lengths`, `offset` and
            `key_offset`, int64 [B]; `scale`. Tensors are on the CPU.
        score: what happens to the logits, for `pidsl.compile`; None: nothing.
    """

    patterns: tuple[Pattern, ...]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    score: Score | None = None

    @property
    def pattern(self) -> Pattern:
        """The pattern of all sequences.

        Raises:
            PredicateError: they have different ones.
        """
        if len(self.patterns) > 1:
            expected = "one pattern for all sequences of a batch; these differ, and are calls of their own"
            given = f"{len(self.patterns)} patterns"
            raise PredicateError(given, expected, hint="found.patterns[b] for sequence b")
        return self.patterns[0]

    def __repr__(self) -> str:
        parts = [repr(pattern) for pattern in self.patterns]
        parts += [f"{name}={list(x.shape) if hasattr(x, 'shape') else x!r}" for name, x in self.inputs.items()]
        parts += [f"score={self.score!r}"] * (self.score is not None)
        return f"Imported({', '.join(parts)})"


def scale_of(scale: Any, where: str) -> float:
    """A scale of the logits, as a call takes it.

    Raises:
        ArgumentError: it is no finite number.
    """
    try:
        number = float(scale)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"scale = {scale!r}", "a finite number, or None", where)
    return number
