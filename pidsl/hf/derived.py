"""A cache of transformers that keeps, in each layer, the keys that its pattern can still ask for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache as HuggingFaceCache
from transformers.cache_utils import CacheLayerMixin

import pidsl
from pidsl.hf.attention import refuse_changed
from pidsl.hf.described import Described
from pidsl.hf.refused import refuse
from pidsl.hf.registered import runs_here
from pidsl.nn.choosing import lists_behind
from pidsl.runtime.kernels.kernel import Kernel

if TYPE_CHECKING:
    from pidsl.select.selector import Selector

KINDS = frozenset(("full_attention", "sliding_attention", "chunked_attention"))


class DerivedCache(HuggingFaceCache):
    """The cache for `generate` of a model that runs by pidsl: each layer keeps the live keys of its pattern, in slots.

        model.generate(ids, past_key_values=pidsl.hf.DerivedCache(model))

    Keys keep their true positions. Padding is not kept. A layer makes its `pidsl.Cache` with the first tokens that it
    sees: `cache.layers[x].kept` is that of layer x.

    Args:
        model: what will run with it; `attn_implementation="pidsl"`.
        lookahead: by how many tokens `crop` may go back, and rows may lie behind the last token at once.
        max_tokens: tokens that there will be at most, for buffers that never move; None: they grow.

    Raises:
        UnsupportedError: the model runs otherwise, or has layers of another kind.
    """

    def __init__(self, model: PreTrainedModel, *, lookahead: int = 0, max_tokens: int | None = None) -> None:
        if not runs_here(model):
            given = f"a model with attn_implementation={model.config._attn_implementation!r}"
            raise refuse(given, "one that runs by pidsl", hint='pidsl.hf.register(), then attn_implementation="pidsl"')
        if given := why_not(model):
            raise refuse(given, "layers that cache the keys they attend", hint="generate without this cache")
        super().__init__(layer_class_to_replicate=partial(DerivedLayer, lookahead, max_tokens))  # type: ignore[arg-type]


def why_not(model: PreTrainedModel) -> str:
    """What of a model a derived cache has no room for, in words; empty where it serves."""
    if others := states(model):
        return f"layers of kind {', '.join(others)}"
    if getattr(model.config.get_text_config(decoder=True), "kv_lora_rank", None) is not None:
        return "latent attention (kv_lora_rank), which makes keys of what it caches"
    return "a model with an encoder and a decoder" if model.config.is_encoder_decoder else ""


def states(model: PreTrainedModel) -> list[str]:
    """The kinds of layers that keep something else than keys: a state, or what a convolution has seen."""
    config = model.config.get_text_config(decoder=True)
    return sorted({*(getattr(config, "layer_types", None) or ())} - KINDS)


class DerivedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """The cache of one layer.

    `update` hands the new keys on, marked; the attention function then lets `attend` keep them, for only there the
    mask is known, and with it what is padding.
    """

    is_sliding = False

    def __init__(self, lookahead: int = 0, max_tokens: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lookahead, self.max_tokens = lookahead, max_tokens
        self.is_croppable = lookahead > 0
        self.kept: Any = None  # a pidsl.Cache
        self.tokens = 0  # padding included
        self._new: tuple[Tensor, Tensor] | None = None
        self._select: Selector | None = None  # of the layer whose keys they are
        self._waiting = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the first `attend` makes the cache."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The new keys and values themselves, which the attention function keeps.

        Raises:
            UnsupportedError: those of the last call did not come to it.
        """
        if self._waiting:
            raise refuse_changed()
        marked = key_states.view_as(key_states), value_states.view_as(value_states)
        for x in marked:
            x._pidsl_kept = self  # type: ignore[attr-defined]
        self._new, self._waiting = (key_states, value_states), True
        self.tokens += key_states.shape[2]
        return marked

    def attend(
        self, kernel: Kernel, query: Tensor, mask: Described, call: Mapping[str, Any], inputs: Mapping[str, Any],
        select: Selector | None = None,
    ) -> Tensor:  # fmt: skip
        """Keep the keys of the last `update`, and attend: [B, Hq, n, Dv].

        Args:
            kernel: of the layer.
            query: [B, Hq, n, D].
            mask: of the call.
            call: what a kernel that is given all keys is told of where they stand.
            inputs: what the kernel takes beside: scale, sinks.
            select: makes the lists of a pattern that chooses; what it keeps of the tokens is kept beside the cache.
        """
        assert self._new is not None
        k, v = self._new
        n = k.shape[2]
        before = self.tokens - n
        if mask.documents is not None:
            raise refuse("packed documents with a cache", "a batch entry for each sequence")
        if self.kept is None:
            batch, heads, _, dim = k.shape
            sizes = batch, heads, dim, k.dtype, k.device
            self.kept = pidsl.Cache(
                kernel, *sizes, max_tokens=self.max_tokens, lookahead=self.lookahead, value_dim=v.shape[3]
            )
        if self._waiting:
            self._select = select
        elif select is not self._select:
            hint = "past_key_values=transformers.DynamicCache(), or one selector for all layers that share keys"
            raise refuse("layers that share keys, with selectors of their own", "a summary of one selector", hint=hint)
        if before == 0:
            lists = self._lists(select, query, k, mask, before)
            out: Tensor = kernel(query, k, v, **call, **inputs, **lists)
            if self._waiting:
                self._append(k, v, mask, 0)
        elif n <= self.lookahead + 1 or not self._waiting:
            lists = self._lists(select, query, k, mask, before)
            if self._waiting:
                self._append(k, v, mask, before)
            out = self._decode(kernel, query, mask, before, {**inputs, **lists})
        else:
            parts = []
            for s in range(0, n, self.lookahead + 1):
                piece = slice(s, min(s + self.lookahead + 1, n))
                lists = self._lists(select, query[:, :, piece], k[:, :, piece], mask, before + s)
                self._append(k[:, :, piece], v[:, :, piece], mask, before + s)
                parts.append(self._decode(kernel, query[:, :, piece], mask, before + s, {**inputs, **lists}))
            out = torch.cat(parts, 2)
        self._waiting = False
        return out

    def _lists(self, select: Selector | None, q: Tensor, k: Tensor, mask: Described, before: int) -> dict[str, Any]:
        """The lists of rows behind `before` others, whose keys are kept next, unless they are by now."""
        if select is None:
            return {}
        real = _real(mask, before, k)
        blocks, self.kept.beside = lists_behind(select, q, k, self.kept, real, new=self._waiting)
        return {"blocks": blocks}

    def _decode(self, kernel: Kernel, query: Tensor, mask: Described, before: int, inputs: Mapping[str, Any]) -> Tensor:
        """Attention of rows behind `before` others, all of which are kept by now."""
        n = query.shape[2]
        behind = None if mask.stop is None or n == 1 else (before + n - mask.stop).clamp(0, n)
        if behind is None or not bool(behind.any()):
            out: Tensor = kernel.decode(query, self.kept, **inputs)
            return out
        # the last rows given stand with the last tokens kept: padding behind these goes to the front and back again
        at = torch.arange(n, device=query.device)
        there, back = ((at + x[:, None]) % n for x in (-behind, behind))
        out = kernel.decode(_rows(query, there), self.kept, **inputs)
        return _rows(out, back)

    def _append(self, k: Tensor, v: Tensor, mask: Described, before: int) -> None:
        """Keep what is no padding of k and v, whose first row stands behind `before` others."""
        n = k.shape[2]
        real = _real(mask, before, k)
        if real is None:
            self.kept.append(k, v)
            return
        skipped, end = real
        lengths = end - skipped
        if before and bool((lengths == n).all()):
            self.kept.append(k, v)
            return
        at = (torch.arange(n, device=k.device) + skipped[:, None]).clamp(max=n - 1)
        self.kept.append(_rows(k, at), _rows(v, at), lengths)

    def get_seq_length(self) -> int:
        """Tokens so far, padding included."""
        return self.tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Positions, as if all keys were there."""
        return self.tokens + query_length, 0

    def get_max_length(self) -> int:
        """As transformers counts it: -1 for no maximum."""
        return -1 if self.max_tokens is None else self.max_tokens

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens: `-r` of them, r at most `lookahead`."""
        back = abs(tokens_to_remove)
        if back and self.kept is not None:
            self.kept.crop((self.kept.tokens - back).clamp(min=0))
            self.tokens -= back

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make batch entry b what entry `beam_idx[b]` is."""
        if self.kept is not None:
            self.kept.reorder(beam_idx.to(self.kept.tokens.device))

    def reset(self) -> None:
        """Forget all tokens."""
        self.kept, self.tokens, self._new, self._select, self._waiting = None, 0, None, None, False

    def batch_repeat_interleave(self, repeats: int) -> NoReturn:
        """Refused: the batch of a cache stays what it is."""
        raise refuse("batch_repeat_interleave of a derived cache", "as many batch entries as at first")

    def batch_select_indices(self, indices: Tensor) -> NoReturn:
        """Refused: the batch of a cache stays what it is."""
        raise refuse("batch_select_indices of a derived cache", "as many batch entries as at first")

    def offload(self) -> NoReturn:
        """Refused."""
        raise refuse("offloading of a derived cache", "a cache on the device of its model")


def _real(mask: Described, before: int, k: Tensor) -> tuple[Tensor, Tensor] | None:
    """int64 [B] each, the first row of k behind `before` others that is no padding, and the one after the last.

    None where all are tokens.
    """
    if mask.left is None and mask.stop is None:
        return None
    n, zero = k.shape[2], torch.zeros(k.shape[0], dtype=torch.int64, device=k.device)
    first = (zero if mask.left is None else mask.left - before).clamp(0, n)
    end = (zero + n if mask.stop is None else mask.stop - before).clamp(0, n)
    return first, torch.maximum(first, end)


def _rows(x: Tensor, at: Tensor) -> Tensor:
    """Rows of x [B, H, n, D] in another order, [B, n]."""
    return x.gather(2, at[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
