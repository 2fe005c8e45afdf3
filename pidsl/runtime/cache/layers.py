"""The caches of a stack: one for each layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, overload

from torch import Tensor

from pidsl.runtime.call.arguments import Fault, raise_faults
from pidsl.runtime.kernels.layers import LayerKernels

if TYPE_CHECKING:
    from pidsl.analysis.bound import Bound
    from pidsl.runtime.cache.cache import Cache


class LayerCaches(Sequence["Cache"]):
    """A sequence of caches, that of the layer at the input first. Made by `Cache` for the kernels of layers.

    What a layer has at hand goes to its own cache, `caches[layer].append(k, v)`; what happens to all of them, to all.

    >>> import pidsl, torch
    >>> kernels = pidsl.compile(pidsl.layers([pidsl.window(3), pidsl.causal]), backend="torch")
    >>> caches = pidsl.Cache(kernels, batch=1, kv_heads=2, head_dim=8, dtype=torch.float32, device="cpu", max_tokens=64)
    >>> [cache.keys.shape[2] for cache in caches]
    [4, 64]
    """

    def __init__(self, caches: Iterable[Cache]) -> None:
        self.caches = tuple(caches)

    def __len__(self) -> int:
        return len(self.caches)

    @overload
    def __getitem__(self, layer: int) -> Cache: ...
    @overload
    def __getitem__(self, layer: slice) -> tuple[Cache, ...]: ...
    def __getitem__(self, layer: int | slice) -> Cache | tuple[Cache, ...]:
        return self.caches[layer]

    def append(self, k: Sequence[Tensor], v: Sequence[Tensor], lengths: Tensor | None = None) -> None:
        """Add the keys and values of new tokens, those of each layer; see `Cache.append`.

        Raises:
            ArgumentError: not one of each for every layer, or those of a layer do not fit; nothing was written.
        """
        faults = []
        for name, given in (("k", k), ("v", v)):
            if not isinstance(given, Sequence) or len(given) != len(self):
                got = f"{len(given)} tensors" if isinstance(given, Sequence) else type(given).__name__
                faults.append(
                    Fault(name, got, f"a list of {len(self)}, one for each layer", "caches[layer].append(k, v)")
                )
        raise_faults(faults, f"caches.append(k, v) of {self!r}")
        for cache, keys, values in zip(self, k, v, strict=True):
            cache.check_append(keys, values, lengths)
        for cache, keys, values in zip(self, k, v, strict=True):
            cache.append(keys, values, lengths)

    def crop(self, tokens: int | Tensor) -> None:
        """Go back to `tokens` tokens in all layers; see `Cache.crop`."""
        for cache in self:
            cache.check_crop(tokens)
        for cache in self:
            cache.crop(tokens)

    def reorder(self, indices: Tensor) -> None:
        """Make batch entry b what `indices[b]` is in all layers; see `Cache.reorder`."""
        for cache in self:
            cache.reorder(indices)

    def clear(self) -> None:
        """Forget all tokens."""
        for cache in self:
            cache.clear()

    def serves(self, kernels: LayerKernels) -> bool:
        """Whether each keeps what the kernel of its layer can ask for."""
        same = isinstance(kernels, LayerKernels) and len(kernels) == len(self)
        return same and all(cache.serves(kernel) for cache, kernel in zip(self, kernels, strict=True))

    @property
    def tokens(self) -> Tensor:
        """int32 [B]: the tokens of the last layer, which has them last."""
        return self.caches[-1].tokens

    @property
    def lookahead(self) -> int:
        """By how many tokens rows may lie behind the last one."""
        return self.caches[0].lookahead

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(cache.nbytes for cache in self)

    @property
    def bound(self) -> tuple[Bound, ...]:
        """The number of live keys of each layer; see `Cache.bound`."""
        return tuple(cache.bound for cache in self)

    @property
    def bytes_bound(self) -> tuple[Bound, ...]:
        """The bytes of the live keys of each layer; see `Cache.bytes_bound`."""
        return tuple(cache.bytes_bound for cache in self)

    @property
    def pages_bound(self) -> tuple[Bound, ...]:
        """The pages of each layer; see `Cache.pages_bound`."""
        return tuple(cache.pages_bound for cache in self)

    def resume(self, tokens: int) -> tuple[Tensor, ...]:
        """The positions that each layer must hold to go on after `tokens` tokens; see `Cache.resume`."""
        return tuple(cache.resume(tokens) for cache in self)

    def explain(self) -> str:
        """What is kept, where, and what is proved, layer by layer."""
        return "\n\n".join(f"layer {x}\n{cache.explain()}" for x, cache in enumerate(self))

    def __repr__(self) -> str:
        return f"LayerCaches([{', '.join(map(repr, self))}])"
