"""pi-attention: a local window and a periodic skip (Liu and Yu, arXiv 2511.10696).

The abstract fixes a local window of size k and a deterministic stride pi ("period" here), blended by a dynamic gate
per head and token. It leaves open which keys the stride adds, whether the window looks both ways, and how the two
parts share a softmax. So nothing here is called *the* pi-attention: each reading has a name, and what is proved or
measured is said of that reading.

    skip        keys beside the window of token i          keys per token
    "single"    i - period                                 k + 2
    "both"      i - period and i + period                  2 k + 3, not causal
    "comb"      every j with (i - j) mod period == 0       k + 1 + n / period

"single" and "both" agree with the O(n k) cost that the paper states; the comb costs O(n (k + n / period)) and reaches
every earlier token in a number of layers that does not depend on n. The sizes used in the paper are not known to us.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

import pidsl
from pidsl.errors import TermError
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term

if TYPE_CHECKING:
    from typing import Any

__all__ = ["At", "Skip", "pi_attention", "pi_branches", "pi_gate", "pi_layers"]

Skip = Literal["single", "both", "comb"]
At = Literal["all", "powers of two"]


def pi_attention(k: Index, period: Index, *, skip: Skip = "single", causal: bool = True) -> Term:
    """Local window and periodic skip under one softmax.

    `lag = i - j` with `0 <= lag <= k` (causal) or `|lag| <= k`, or lag in the skip set.

    >>> pi_attention(1, 3).mask(6).astype(int)
    array([[1, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0],
           [0, 1, 1, 0, 0, 0],
           [1, 0, 1, 1, 0, 0],
           [0, 1, 0, 1, 1, 0],
           [0, 0, 1, 0, 1, 1]])
    >>> pi_attention(1, 2, skip="comb").mask(6).astype(int)
    array([[1, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0],
           [1, 1, 1, 0, 0, 0],
           [0, 1, 1, 1, 0, 0],
           [1, 0, 1, 1, 1, 0],
           [0, 1, 0, 1, 1, 1]])
    >>> pi_attention(0, 2, skip="both", causal=False).mask(4).astype(int)
    array([[1, 0, 1, 0],
           [0, 1, 0, 1],
           [1, 0, 1, 0],
           [0, 1, 0, 1]])
    >>> k, period = pidsl.symbols("k period")
    >>> pi_attention(k, period)
    window(k) | lags(period)

    Args:
        k: radius of the window in tokens, both ends included: a causal token sees itself and k earlier ones.
        period: the skip in tokens, the paper's pi.
        skip: the reading of the skip set, see the module.
        causal: only keys j <= i.

    Raises:
        TermError: k < 0, period < 1, an unknown reading, or a reading that looks ahead where causal is asked for.
    """
    branches = pi_branches(k, period, skip=skip, causal=causal)
    return branches["local"] | branches["skip"]


def pi_branches(k: Index, period: Index, *, skip: Skip = "single", causal: bool = True) -> Mapping[str, Term]:
    """The two parts of pi-attention by name, for a softmax each; their union is `pi_attention`.

    >>> pi_branches(63, 256, skip="comb")
    {'local': window(63), 'skip': stride(256) & causal}

    Args and errors as in `pi_attention`.
    """
    where = f"pi_attention({k!r}, {period!r}, skip={skip!r}, causal={causal!r})"
    size(k, "k", where, least=0)
    period = size(period, "period", where, least=1)
    if skip not in get_args(Skip):
        raise TermError(f"skip = {skip!r}", f"one of {', '.join(map(repr, get_args(Skip)))}", where)
    local = pidsl.window(k) if causal else pidsl.window(k, k)
    if skip == "single":
        return {"local": local, "skip": pidsl.lags(period)}
    if skip == "comb":
        return {"local": local, "skip": pidsl.stride(period) & pidsl.causal if causal else pidsl.stride(period)}
    if causal:
        raise TermError(
            f"skip = {skip!r} with causal = True",
            "a causal skip: i + period is a later token",
            where,
            'skip="single", or causal=False',
        )
    return {"local": local, "skip": pidsl.lags(-period, period)}


def pi_gate(k: Index, period: Index, *, skip: Skip = "single", causal: bool = True) -> Any:
    """Local window and skip with a softmax each, for the adaptive fusion gate of `pidsl.nn.PiAttention`.

    `out_i = w[i, 0] * local_i + w[i, 1] * skip_i`, with weights given at call time per head and token. With the single
    skip the softmax of the skip branch has one key, so the branch is v[i - period] itself, whatever q and k are.

    >>> gate = pi_gate(63, 256)
    >>> kernel = pidsl.compile(gate, backend="reference")  # kernel(q, k, v, weights)

    Args and errors as in `pi_attention`.
    """
    return pidsl.gate(**pi_branches(k, period, skip=skip, causal=causal))


def pi_layers(
    k: Index, period: Index, layers: int, *, skip: Skip = "single", at: At = "powers of two", causal: bool = True
) -> tuple[Term, ...]:
    """One term per layer: the skip in the layers `at` says, the window alone in the others.

    With the single skip in the layers 1, 2, 4, 8, ... (counted from 1 at the input), a path through L layers takes it
    at most s = 1 + floor(log2 L) times, so its lag is at most `k (L - s) + period s` (for period >= k): a bound of the
    form O(k L + period log L), as the paper states it. With the skip in every layer the farthest lag is `period L`.

    >>> for term in pi_layers(4, 16, 5):
    ...     print(term)
    window(4) | lags(16)
    window(4) | lags(16)
    window(4)
    window(4) | lags(16)
    window(4)

    Args:
        k, period, skip, causal: as in `pi_attention`.
        layers: how many layers.
        at: "powers of two" or "all": the layers that carry the skip.

    Raises:
        TermError: as in `pi_attention`; layers < 1; another `at`.
    """
    where = f"pi_layers({k!r}, {period!r}, {layers!r}, at={at!r})"
    if not isinstance(size(layers, "layers", where, least=1), int):
        raise TermError(f"layers = {layers!r}", "a number: the result has one term per layer", where)
    if at not in get_args(At):
        raise TermError(f"at = {at!r}", f"one of {', '.join(map(repr, get_args(At)))}", where)
    local = pi_branches(k, period, skip=skip, causal=causal)["local"]
    both = pi_attention(k, period, skip=skip, causal=causal)
    carries = (at == "all" or layer & (layer - 1) == 0 for layer in range(1, layers + 1))
    return tuple(both if skips else local for skips in carries)
