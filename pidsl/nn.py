"""Attention modules: projections around a pattern, and pi-attention with its fusion gate."""

from __future__ import annotations

import inspect
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Never, Self

import torch
from torch import Tensor, nn

import pidsl
from pidsl.errors import ArgumentError, TermError
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.summaries import Summaries
from pidsl.language.terms import Lags, Term
from pidsl.runtime.call.arguments import check_kind, check_tensor, raise_faults
from pidsl.runtime.call.keywords import refuse
from pidsl.runtime.programs import autocasts

if TYPE_CHECKING:
    from pidsl.language.recipe import Backend, OutputGate
    from pidsl.patterns.pi import Skip

__all__ = ["PiAttention", "SparseAttention", "rotate"]

HIDDEN = 64  # width of the gate's MLP


class Attention(nn.Module):
    """Projections around a kernel; what to do between them is `attend` of a subclass.

    Raises:
        KeywordError: an argument that the module does not take.

    Args:
        dim, heads, kv_heads, bias, rope, backend: as in `SparseAttention`.
        pattern: a term, heads, a gate or summaries, without symbols.
        output: the options of `pidsl.compile` that are about the output.
    """

    def __new__(cls, *given: Any, **named: Any) -> Self:
        parameters = inspect.signature(cls).parameters
        more = given[sum(x.kind is x.POSITIONAL_OR_KEYWORD for x in parameters.values()) :]
        unknown = {name: x for name, x in named.items() if name not in parameters}
        if more or unknown:
            refuse(cls, f"{cls.__name__}(...)", more, unknown)
        return super().__new__(cls)

    def __init__(
        self,
        dim: int,
        heads: int,
        pattern: Term | Heads | Gate | Summaries,
        kv_heads: int | None,
        bias: bool,
        rope: float | None,
        backend: Backend,
        **output: Any,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        _check_sizes(type(self).__name__, dim, heads, kv_heads, rope)
        if not isinstance(bias, bool):
            raise ArgumentError(f"bias = {bias!r}", "True or False", type(self).__name__)
        self.dim, self.heads, self.kv_heads, self.head_dim = dim, heads, kv_heads, dim // heads
        self.rope = rope
        self.kernel: Any = pidsl.compile(pattern, backend=backend, **output)
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, *more: Never, **unknown: Never) -> Tensor:
        """`x [B, n, dim]` to `[B, n, dim]`.

        Raises:
            ArgumentError: x has another shape, dtype or device.
            KeywordError: an argument that the module does not take.
        """
        if more or unknown:
            where = f"{type(self).__name__}(...)(x)"
            refuse(self.forward, where, more, unknown, positional="x alone, which q, k and v are made of")
        self._check(x)
        return self.out(self.mixed(x).transpose(1, 2).flatten(2))

    def _check(self, x: Tensor) -> None:
        name, expected = type(self).__name__, f"[batch, n, {self.dim}]"
        if fault := check_tensor("x", x, f"a torch.Tensor {expected}"):
            raise_faults([fault], name)
        if x.dim() != 3 or x.shape[2] != self.dim:
            hint = "x.unsqueeze(0) adds the batch" if x.dim() == 2 else ""
            raise ArgumentError(f"x: shape {list(x.shape)}", expected, name, hint)
        if type(self.qkv) is nn.Linear:  # another one, quantised for instance, has rules of its own
            weight, kind = self.qkv.weight, x.device.type
            if x.device != weight.device or (x.dtype != weight.dtype and not autocasts(kind)):
                raise_faults(check_kind({"layer.qkv.weight": weight, "x": x}, (weight.dtype,), ""), name)

    def mixed(self, x: Tensor) -> Tensor:
        """What the heads find, [B, heads, n, D]."""
        q, k, v = self.project(x)
        return self.attend(q, k, v)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, heads, n, D], k and v [B, kv_heads, n, D]: views of one projection, before rotation."""
        parts = self.qkv(x).unflatten(2, (self.heads + 2 * self.kv_heads, self.head_dim)).transpose(1, 2)
        q, k, v = parts.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        return q, k, v

    def rotated(self, x: Tensor) -> Tensor:
        """Queries or keys turned by their positions, if the module has rotary position embedding."""
        return x if self.rope is None else rotate(x, self.rope)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, heads, n, D] from the projections."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        rope = "" if self.rope is None else f", rope={self.rope:g}"
        return f"{self.dim}, heads={self.heads}, kv_heads={self.kv_heads}{rope}, {self.kernel!r}"


class SparseAttention(Attention):
    """Self-attention under any pattern, with its projections: a drop-in for causal self-attention.

    `y = W_o concat_h softmax_pattern(q_h k_h^T / sqrt(D)) v_h`, with q, k, v linear in x and D = dim / heads.

    >>> layer = SparseAttention(64, 4, pidsl.window(63) | pidsl.lags(256))
    >>> layer(torch.randn(2, 100, 64)).shape
    torch.Size([2, 100, 64])

    With `output_gate`, what a head found is multiplied by `sigmoid(W_g x)` before W_o (Gated Attention,
    arXiv 2505.06708, position G1). With `affine`, weights are `alpha_h p_ij + beta_h` on the attended keys, with a
    learned alpha_h (1 at first) and beta_h (0 at first) for each head.

    Args:
        dim: width of the tokens.
        heads: query heads; divides dim.
        pattern: which token sees which; `pidsl.heads`, a pattern for each group of heads; or `pidsl.summaries`.
            Without symbols.
        kv_heads: key and value heads, each shared by heads / kv_heads query heads; default: heads.
        bias: whether the projections have one.
        rope: base of rotary position embedding (10000.0 is usual); None: none.
        output_gate: "head", "element" or None: the gate has one logit per head, or one per element.
        affine: whether softmax weights are scaled and shifted.
        backend: as in `pidsl.compile`.

    Raises:
        ArgumentError: heads does not divide dim, kv_heads does not divide heads, an odd head size with rope, a
            pattern of another number of heads.
        PidslError: whatever `pidsl.compile` says of the pattern.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        pattern: Term | Heads | Summaries,
        *,
        kv_heads: int | None = None,
        bias: bool = False,
        rope: float | None = None,
        output_gate: OutputGate | None = None,
        affine: bool = False,
        backend: Backend = "auto",
    ) -> None:
        if isinstance(pattern, Schedule):
            hint = "[pidsl.nn.SparseAttention(dim, heads, layer) for layer in pattern]"
            raise TermError(repr(pattern), "the pattern of one layer", "SparseAttention(dim, heads, pattern)", hint)
        if isinstance(pattern, Heads) and len(pattern) != heads:
            where = f"SparseAttention({dim!r}, {heads!r}, {pattern!r})"
            raise ArgumentError(f"heads = {heads}", f"{len(pattern)}, as the pattern has", where)
        if isinstance(pattern, Gate):
            raise TermError(
                repr(pattern),
                "a pattern: the branches of a gate need weights",
                f"SparseAttention({dim!r}, {heads!r}, pattern)",
                "pidsl.nn.PiAttention, or a module of your own around pidsl.compile(gate)",
            )
        super().__init__(dim, heads, pattern, kv_heads, bias, rope, backend, output_gate=output_gate, affine=affine)
        self.output_gate, self.affine = output_gate, affine
        if output_gate is not None:
            self.gate = nn.Linear(dim, heads if output_gate == "head" else dim, bias=bias)
        if affine:
            self.alpha, self.beta = nn.Parameter(torch.ones(heads)), nn.Parameter(torch.zeros(heads))

    def mixed(self, x: Tensor) -> Tensor:
        if self.output_gate is None and not self.affine:
            return super().mixed(x)
        q, k, v = self.project(x)
        return self.kernel(self.rotated(q), self.rotated(k), v, **self.at_output(x))

    def at_output(self, x: Tensor) -> dict[str, Tensor]:
        """The gate's logits, [B, heads, n] or [B, heads, n, D], and the parameters of affine weights."""
        found: dict[str, Tensor] = {"alpha": self.alpha, "beta": self.beta} if self.affine else {}
        if self.output_gate == "head":
            found["output_gate"] = self.gate(x).transpose(1, 2)
        elif self.output_gate == "element":
            found["output_gate"] = self.gate(x).unflatten(2, (self.heads, self.head_dim)).transpose(1, 2)
        return found

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(self.rotated(q), self.rotated(k), v)


class PiAttention(Attention):
    """pi-attention with the adaptive fusion gate: a softmax over the window, one over the skip, and a blend of both.

    `out_i = alpha_i local_i + (1 - alpha_i) skip_i`, where per head and token `alpha_i = sigmoid(MLP(q_i))`; the MLP
    is head_dim -> 64 -> GELU -> 1, shared by the heads, of the query before rotation. A token with nothing to skip to
    (the first `period` tokens under the single causal skip) has alpha = 1, so that it loses nothing to an empty branch.

    >>> layer = PiAttention(64, 4, k=15, period=32)
    >>> layer(torch.randn(2, 100, 64)).shape
    torch.Size([2, 100, 64])

    The paper (arXiv 2511.10696) has a dynamic gate per head and token that blends local and long-range context; its
    formula is not known to us, and this one is a reading of it. For the skip set see `pidsl.patterns.pi`.

    Args:
        dim, heads, kv_heads, bias, rope, backend: as in `SparseAttention`.
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
        backend: Backend = "auto",
    ) -> None:
        from pidsl.patterns import pi_branches, pi_gate

        super().__init__(dim, heads, pi_gate(k, period, skip=skip, causal=causal), kv_heads, bias, rope, backend)
        self.skip = pi_branches(k, period, skip=skip, causal=causal)["skip"]
        self.skip_lags = tuple(map(int, self.skip.values)) if isinstance(self.skip, Lags) else (0,)  # type: ignore[arg-type]
        self.gate = nn.Sequential(nn.Linear(self.head_dim, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.kernel(self.rotated(q), self.rotated(k), v, self.weights(q))

    def weights(self, q: Tensor) -> Tensor:
        """`alpha` and `1 - alpha` of each head and token, [B, heads, n, 2], from the queries before rotation."""
        alpha = torch.sigmoid(self.gate(q).squeeze(-1))
        alpha = torch.where(self.can_skip(q.shape[2], q.device), alpha, 1.0)
        return torch.stack([alpha, 1.0 - alpha], dim=-1)

    def can_skip(self, n: int, device: torch.device) -> Tensor:
        """bool [n]: whether there is a token to skip to; under the comb there is, the token itself."""
        find = _in_reach if torch.compiler.is_compiling() else _kept_in_reach
        return find(self.skip_lags, n, device)


def _in_reach(lags: tuple[int, ...], n: int, device: torch.device) -> Tensor:
    i = torch.arange(n, device=device)
    return torch.stack([(i >= lag) & (i < n + lag) for lag in lags]).any(0)


@lru_cache(maxsize=16)
def _kept_in_reach(lags: tuple[int, ...], n: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return _in_reach(lags, n, device)


def rotate(x: Tensor, base: float, offset: int = 0) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864): the pair (x_p, x_{p + D/2}) turns by `i * base ** (-2p / D)`.

    Args:
        x: [..., n, D], D even.
        base: of the wavelengths.
        offset: position of the first row.

    Raises:
        ArgumentError: x is no tensor of floating numbers with an even last axis, or base no number above 0.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or x.shape[-1] % 2:
        got = f"{list(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"x: {got}", "a floating tensor [..., n, D], D even: pairs are turned", "rotate(x, base)")
    if not isinstance(base, int | float) or not 0 < base < math.inf:
        raise ArgumentError(f"base = {base!r}", "a number above 0", "rotate(x, base)", "base=10000.0")
    turns = _turns if torch.compiler.is_compiling() else _kept_turns  # no cache knows a length that is a symbol
    cos, sin = turns(x.shape[-2], x.shape[-1] // 2, base, offset, x.device)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def _turns(n: int, half: int, base: float, offset: int, device: torch.device) -> tuple[Tensor, Tensor]:
    pairs = torch.arange(half, dtype=torch.float64)
    # a tensor to the power of a tensor: `base ** ...` would fix the base in a graph that torch traces, and n with it
    frequencies = (torch.ones_like(pairs) * base) ** (-pairs / half)
    angles = torch.arange(offset, offset + n, dtype=torch.float64)[:, None] * frequencies
    return angles.cos().float().to(device), angles.sin().float().to(device)


@lru_cache(maxsize=16)
def _kept_turns(n: int, half: int, base: float, offset: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # what is kept must serve training too
        return _turns(n, half, base, offset, device)


def _check_sizes(module: str, dim: int, heads: int, kv_heads: int, rope: float | None) -> None:
    where = f"{module}(dim={dim!r}, heads={heads!r}, kv_heads={kv_heads!r})"
    for name, value in (("dim", dim), ("heads", heads), ("kv_heads", kv_heads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} = {value!r}", "an integer >= 1", where)
    if dim % heads:
        raise ArgumentError(f"dim = {dim} with {heads} heads", "dim % heads == 0", where)
    if heads % kv_heads:
        raise ArgumentError(f"heads = {heads} with {kv_heads} kv_heads", "heads % kv_heads == 0", where)
    if rope is not None and (isinstance(rope, bool) or not isinstance(rope, int | float) or not 0 < rope < math.inf):
        raise ArgumentError(f"rope = {rope!r}", "a number above 0, or None", where, "rope=10000.0")
    if rope is not None and (dim // heads) % 2:
        raise ArgumentError(f"head size {dim // heads} with rope", "an even head size: it turns pairs", where)
