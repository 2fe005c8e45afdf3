"""pi-attention with its fusion gate."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pidsl.language.terms import Lags
from pidsl.nn.attention import Attention
from pidsl.nn.places import Place

if TYPE_CHECKING:
    from pidsl.distributed.running.prepare import Sharding
    from pidsl.language.recipe import Backend
    from pidsl.patterns.pi import Skip

HIDDEN = 64  # width of the gate's MLP


class PiAttention(Attention):
    """pi-attention with the adaptive fusion gate: a softmax over the window, one over the skip, and a blend of both.

    `out_i = alpha_i local_i + (1 - alpha_i) skip_i`, where per head and token `alpha_i = sigmoid(MLP(q_i))`; the MLP
    is head_dim -> 64 -> GELU -> 1, shared by the heads, of the query before rotation. A token with nothing to skip to
    (the first `period` tokens under the single causal skip) has alpha = 1, so that it loses nothing to an empty branch.

    >>> import pidsl, pidsl.nn
    >>> layer = pidsl.nn.PiAttention(64, 4, k=15, period=32)
    >>> layer(torch.randn(2, 100, 64)).shape
    torch.Size([2, 100, 64])

    The paper (arXiv 2511.10696) has a dynamic gate per head and token that blends local and long-range context; its
    formula is not known to us, and this one is a reading of it. For the skip set see `pidsl.patterns.pi`.

    Args:
        dim, heads, kv_heads, bias, rope, context, sharding, backend: as in `SparseAttention`.
        k: radius of the window in tokens.
        period: the skip in tokens, the paper's pi.
        skip: which reading of the skip set, as in `pidsl.patterns.pi_attention`.
        causal: only keys j <= i.

    Raises:
        ArgumentError: as in `SparseAttention`.
        TermError: as in `pidsl.patterns.pi_attention`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        k: int,
        period: int,
        *,
        skip: Skip = "single",
        causal: bool = True,
        kv_heads: int | None = None,
        bias: bool = False,
        rope: float | None = None,
        context: Any = None,
        sharding: Sharding = "contiguous",
        backend: Backend = "auto",
    ) -> None:
        from pidsl.patterns import pi_branches, pi_gate

        pattern = pi_gate(k, period, skip=skip, causal=causal)
        super().__init__(dim, heads, pattern, kv_heads, bias, rope, backend, context=context, sharding=sharding)
        self.skip = pi_branches(k, period, skip=skip, causal=causal)["skip"]
        self.skip_lags = tuple(map(int, self.skip.values)) if isinstance(self.skip, Lags) else (0,)  # type: ignore[arg-type]
        self.gate = nn.Sequential(nn.Linear(self.head_dim, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def inputs(self, x: Tensor, q: Tensor, where: Place) -> dict[str, Tensor]:
        return {"weights": self.weights(q, where)}

    def weights(self, q: Tensor, where: Place | None = None) -> Tensor:
        """`alpha` and `1 - alpha` of each head and token, [B, heads, n, 2], from the queries before rotation."""
        alpha = torch.sigmoid(self.gate(q).squeeze(-1))
        alpha = torch.where(self.can_skip(q.shape[2], q.device, where), alpha, 1.0)
        return torch.stack([alpha, 1.0 - alpha], dim=-1)

    def can_skip(self, n: int, device: torch.device, where: Place | None = None) -> Tensor:
        """bool [n] or [B, 1, n]: whether there is a token to skip to; under the comb there is, the token itself."""
        if where is not None and not where.plain:
            found = _in_reach(self.skip_lags, where.at(n, device), where.length)
            return found[:, None] if found.dim() == 2 else found
        find = _of_all if torch.compiler.is_compiling() else _kept_of_all
        return find(self.skip_lags, n, device)


def _in_reach(lags: tuple[int, ...], i: Tensor, n: Any) -> Tensor:
    return torch.stack([(i >= lag) & (i < n + lag) for lag in lags]).any(0)


def _of_all(lags: tuple[int, ...], n: int, device: torch.device) -> Tensor:
    return _in_reach(lags, torch.arange(n, device=device), n)


@lru_cache(maxsize=16)
def _kept_of_all(lags: tuple[int, ...], n: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _of_all(lags, n, device)
