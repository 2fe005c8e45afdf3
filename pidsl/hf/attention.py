"""The attention function that is registered with transformers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import pidsl
from pidsl.hf.described import Described, check_masked, refuse_blocks, refuse_gaps, sizes_differ
from pidsl.hf.padding import Run
from pidsl.hf.refused import UnsupportedError, check_arguments, refuse
from pidsl.hf.swapped import Swapped, swapped_in
from pidsl.language.heads import Heads
from pidsl.language.terms import Term
from pidsl.nn.choosing import lists_of_call
from pidsl.runtime.kernels.kernel import Kernel


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, scaling: float | None = None,
    dropout: float = 0.0, **more: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of a layer, as transformers calls it.

    Args:
        module: the layer's attention module.
        query: [B, Hq, n, D].
        key: [B, Hkv, m, D], not repeated.
        value: [B, Hkv, m, Dv].
        attention_mask: what the mask function made, or None: all pairs, or causal where the module says so.
        scaling: factor of the logits; None: 1 / sqrt(D).
        dropout: of weights.
        more: softcap, s_aux and is_causal are heeded; what changes attention in another way is refused by name.

    Returns:
        out [B, n, Hq, Dv], and None for the weights.

    Raises:
        UnsupportedError: something is asked for that pidsl has not.
    """
    check_arguments(module, more)
    check_masked(attention_mask, module)
    swapped = swapped_in(module)
    mask = attention_mask
    if mask is None:
        mask = _unmasked(module, query, key, more.get("is_causal"))
    _check_packed(mask, module, more.get("cu_seq_lens_q"))
    term, is_full, by_lag = mask.term, mask.is_full, mask.by_lag
    if swapped is not None:
        term, is_full, by_lag = swapped.term, False, False
    kernel = _kernel(term, more.get("softcap"), more.get("s_aux") is not None, dropout)
    inputs: dict[str, Any] = {}
    if more.get("s_aux") is not None:
        inputs["sinks"] = more["s_aux"]
    if dropout:
        inputs["seed"] = int(torch.randint(2**62, (), device="cpu"))
    kept, values = (getattr(x, "_pidsl_kept", None) for x in (key, value))
    if kept is not values:
        raise refuse_changed(module)
    calls = mask.calls(is_full, by_lag)
    if swapped is not None or kept is not None:
        what = f"under {term!r}" if swapped is not None else "with a derived cache"
        if len(calls) > 1:
            raise refuse_gaps(what)
        if mask.blocks is not None:
            raise refuse_blocks(what)
    select = None if swapped is None else swapped.select
    if kept is not None:
        out = kept.attend(kernel, query, mask, calls[0], {"scale": scaling, **inputs}, select)
        return out.transpose(1, 2).contiguous(), None
    if swapped is not None:
        _check_whole(module, mask, swapped)
        if select is not None:
            inputs["blocks"] = lists_of_call(select, query, key, calls[0])
    if wrong := sizes_differ(mask, query.shape, key.shape):
        hint = 'cache=pidsl.hf.DerivedCache(model), or cache_implementation="static"'
        raise refuse(wrong, "a mask of the tokens that the layer has", module, hint)
    parts = len(calls) + (mask.blocks is not None)
    results = [kernel(query, key, value, scale=scaling, return_lse=parts > 1, **calls[0], **inputs)]
    if parts == 1:
        return results[0].transpose(1, 2).contiguous(), None
    inputs.pop("sinks", None)  # which join the softmax once
    kernel = _kernel(term, more.get("softcap"), False, dropout)
    results += [kernel(query, key, value, scale=scaling, return_lse=True, **call, **inputs) for call in calls[1:]]
    if mask.blocks is not None:
        ids, besides = mask.blocks
        kernel = _kernel(besides, more.get("softcap"), False, dropout)
        k, v = key[:, :, : mask.n], value[:, :, : mask.n]
        results.append(kernel(query, k, v, scale=scaling, return_lse=True, documents=ids, **inputs))
    out, _ = pidsl.merge(results)
    return out.transpose(1, 2).contiguous(), None


def _kernel(term: Term | Heads, softcap: float | None, sinks: bool, dropout: float) -> Kernel:
    if torch.compiler.is_compiling():
        return _made(term, softcap, sinks, dropout)
    return _kept(term, softcap, sinks, dropout)


def _made(term: Term | Heads, softcap: float | None, sinks: bool, dropout: float) -> Any:
    options: dict[str, Any] = {}
    if softcap is not None:
        options["softcap"] = float(softcap)
    if sinks:
        options["sinks"] = True
    if dropout:
        options["dropout"] = float(dropout)
    return pidsl.compile(term, score=pidsl.score(**options) if options else None)


_kept = lru_cache(maxsize=256)(_made)


def _unmasked(module: Any, query: Tensor, key: Tensor, is_causal: bool | None) -> Described:
    """No mask at all: as scaled_dot_product_attention is called then."""
    n, m = query.shape[2], key.shape[2]
    causal = n > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    return Described(pidsl.causal if causal else pidsl.full, (n, m), (0, 0), (Run(),), None, True, not causal)


def refuse_changed(module: Any = None) -> UnsupportedError:
    """The error where what a derived cache returned is not what the attention function was given; to raise."""
    hint = "past_key_values=transformers.DynamicCache(), which keeps all keys"
    given = "keys or values that a layer changed behind its cache, so that pidsl's attention function did not see them"
    return refuse(given, "keys and values as the cache returns them", module, hint)


def _check_packed(mask: Described, module: Any, cu_seqlens: Tensor | None) -> None:
    if cu_seqlens is not None and len(cu_seqlens) > 2 and mask.documents is None:
        given = f"cu_seq_lens_q of {len(cu_seqlens) - 1} documents, and a mask that does not keep them apart"
        hint = "position_ids that restart in each document, without attention_mask and cache"
        raise refuse(given, "documents that the mask knows of", module, hint)


def _check_whole(module: Any, mask: Described, swapped: Swapped) -> None:
    """A pattern that is not the model's own needs all keys."""
    if mask.key:
        given = f"a cache that dropped {mask.key} keys by the model's own window, under {swapped.term!r}"
        hint = "past_key_values=pidsl.hf.DerivedCache(model), or DynamicCache() without a config"
        raise refuse(given, "a cache that keeps what the pattern asks for", module, hint)
