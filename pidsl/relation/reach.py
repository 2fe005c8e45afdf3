"""How far attention sees through several layers, exactly, from the relation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import islpy as isl

from pidsl.errors import SizeError
from pidsl.language.terms import Term
from pidsl.relation.build import relation
from pidsl.relation.isl import coalesced, least, limited, read_map


@dataclass(frozen=True, slots=True)
class Reach:
    """What the last layer's tokens may depend on, over all of them.

    Args:
        farthest: the largest lag of any (query, key) that the layers connect; None when they connect nothing
            that is not in the future.
        contiguous: the largest D such that every token sees itself and all of its D predecessors that exist; None
            when some token does not see itself.
    """

    farthest: int | None
    contiguous: int | None


def reach(layers: Term | Sequence[Term], n: int, depth: int | None = None) -> Reach:
    """The reach of a stack of layers over n tokens.

    >>> import pidsl
    >>> reach(pidsl.window(4) | pidsl.lags(16), 4096, depth=12)
    Reach(farthest=192, contiguous=156)
    >>> reach([pidsl.window(4) | pidsl.lags(16), pidsl.window(4)], 4096)
    Reach(farthest=20, contiguous=8)

    Args:
        layers: one term for all layers, or a term per layer, the layer at the input first.
        n: tokens, at least 1.
        depth: how many layers, for one term.

    Raises:
        SizeError: n < 1, or no layers.
        TooHardError: isl's operation limit struck.
    """
    stack = [layers] * (1 if depth is None else depth) if not isinstance(layers, Sequence) else list(layers)
    if not stack or n < 1:
        raise SizeError(f"{len(stack)} layers over n = {n} tokens", "at least one layer and one token")
    return _reach(tuple(stack), n)


@lru_cache(maxsize=256)
def _reach(stack: tuple[Term, ...], n: int) -> Reach:
    with limited(f"the reach of {len(stack)} layers"):
        seen = _layer(stack[0], n)
        for layer in stack[1:]:
            seen = coalesced(_layer(layer, n).apply_range(seen))
        past = read_map(f"{{ [i] -> [j] : 0 <= j <= i < {n} }}")
        reached, missing = seen & past, past - seen
        farthest = None if reached.is_empty() else -_least(reached)
        if missing.is_empty():
            return Reach(farthest, n - 1)
        contiguous = _least(missing.reverse()) - 1
        return Reach(farthest, contiguous if contiguous >= 0 else None)


def _layer(term: Term, n: int) -> isl.Map:
    """The relation between n tokens, without parameters."""
    fixed = relation(term)
    for p in range(2):
        fixed = fixed.fix_val(isl.dim_type.param, p, isl.Val(n, fixed.get_ctx()))
    return coalesced(fixed.project_out(isl.dim_type.param, 0, 2))


def _least(m: isl.Map) -> int:
    """The least j - i over a bounded, non-empty map."""
    return least(m.deltas())
