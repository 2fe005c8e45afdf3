"""`from_sdpa`: the arguments of torch's `scaled_dot_product_attention` as a pattern.

A mask that is a tensor has no words; it is read where few of them say it at its size (`entries`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.errors import ArgumentError
from pidsl.interop.entries import of_documents, of_mask
from pidsl.interop.imported import Imported, Pattern, scale_of
from pidsl.interop.runs import of_runs
from pidsl.interop.sequences import common
from pidsl.interop.traced_values import Unreadable
from pidsl.language.heads import heads
from pidsl.language.score import score
from pidsl.language.terms import Full, Term

__all__ = ["from_sdpa"]

Bools = NDArray[np.bool_]
CALL = "pidsl.from_sdpa(attn_mask, ...)"


def from_sdpa(
    attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Pattern | Imported:  # fmt: skip
    """The pattern of `scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, scale, enable_gqa)`.

    >>> import torch
    >>> from_sdpa(is_causal=True)
    causal
    >>> from_sdpa(torch.ones(64, 64, dtype=torch.bool).tril().triu(-8))
    window(8)
    >>> from_sdpa(is_causal=True, dropout_p=0.1, scale=0.125)
    Imported(causal, scale=0.125, score=score(dropout=0.1))

    Args:
        attn_mask: bool (True: attended), or a float that is 0 or -inf; [n, m], or [B or 1, Hq or 1, n, m]. A pattern
            is read that is this mask at its size; 1 for n or m: the same for all queries or keys. Packed documents
            are inputs of the call.
        dropout_p: goes to `pidsl.score(dropout=...)`.
        is_causal: query i attends keys 0 .. i, also where there are more keys than queries (aligned at the start).
        scale: goes to the call.
        enable_gqa: needs nothing: k and v may have fewer heads than q.

    Returns:
        A term, or `heads`. With dropout, a scale, padding or documents, an `Imported`.

    Raises:
        ArgumentError: a mask that no few words say: a table is no pattern; a float that is a bias; both a mask and
            is_causal, which torch refuses too.
    """
    from pidsl.patterns.spellings import spelled

    if not isinstance(is_causal, bool):
        raise ArgumentError(f"is_causal = {is_causal!r}", "True or False", CALL)
    if attn_mask is not None and is_causal:
        hint = "from_sdpa(attn_mask & torch.ones_like(attn_mask).tril())"
        raise ArgumentError("attn_mask and is_causal=True", "one of the two, as torch asks", CALL, hint)
    inputs: dict[str, Any] = {} if scale is None else {"scale": scale_of(scale, CALL)}
    logits = score(dropout=dropout_p) if dropout_p else None
    found: Pattern | Imported = Full() if attn_mask is None else _read(attn_mask)
    if is_causal:
        found = spelled("torch", "scaled_dot_product_attention(is_causal=True)").made()
    if not inputs and logits is None:
        return found
    if isinstance(found, Imported):
        return Imported(found.patterns, {**found.inputs, **inputs}, logits)
    return Imported((found,), inputs, logits)


def _read(attn_mask: Tensor) -> Pattern | Imported:
    mask = _truths(attn_mask)
    try:
        patterns = [[_of_table(head) for head in sequence] for sequence in mask]
    except ArgumentError:
        if (packed := _packed(mask)) is None:
            raise
        return packed
    of: list[Pattern] = [x[0] if len(set(x)) == 1 else heads([(1, term) for term in x]) for x in patterns]
    if len(set(of)) == 1:
        return of[0]
    if all(len(set(x)) == 1 for x in patterns) and (found := common([x[0] for x in patterns], mask.shape[-1])):
        return Imported((found[0],), found[1])
    return Imported(tuple(of))


def _truths(attn_mask: Tensor) -> Bools:
    """bool [B, H, n, m]."""
    if isinstance(attn_mask, Tensor) and (attn_mask.layout != torch.strided or attn_mask.is_meta):
        given = "a meta tensor" if attn_mask.is_meta else f"a tensor of layout {attn_mask.layout}"
        raise ArgumentError(f"attn_mask = {given}", "a tensor with an entry for each pair", CALL)
    if not isinstance(attn_mask, Tensor) or attn_mask.dim() not in (2, 3, 4) or not attn_mask.numel():
        shape = f"{list(attn_mask.shape)}" if isinstance(attn_mask, Tensor) else type(attn_mask).__name__
        raise ArgumentError(f"attn_mask = {shape}", "a tensor [n, m] or [B or 1, Hq or 1, n, m]", CALL)
    if attn_mask.dtype.is_floating_point:
        attended, away = attn_mask == 0, attn_mask <= torch.finfo(attn_mask.dtype).min / 2
        if not bool((attended | away).all()):
            hint = "pidsl.score(bias=(low, high)) for a bias by lag, pidsl.score(alibi=True) for slopes"
            raise ArgumentError("attn_mask with numbers other than 0 and -inf", "a mask; this is a bias", CALL, hint)
    elif attn_mask.dtype == torch.bool:
        attended = attn_mask
    else:
        raise ArgumentError(f"attn_mask of {attn_mask.dtype}", "bool, or a float", CALL, "attn_mask.bool()")
    while attended.dim() < 4:
        attended = attended[None]
    return np.asarray(attended.detach().cpu().numpy(), dtype=np.bool_)


def _packed(mask: Bools) -> Imported | None:
    """Sequences that are documents side by side, the same ones for all heads."""
    read = [[of_documents(head) for head in sequence] for sequence in mask]
    ids, of = [], list[Pattern]()
    for sequence in read:
        found = [x for x in sequence if x is not None]
        if len(found) < len(sequence) or any(not np.array_equal(x[1], found[0][1]) for x in found):
            return None
        ids.append(found[0][1])
        terms = [x[0] for x in found]
        of.append(terms[0] if len(set(terms)) == 1 else heads([(1, term) for term in terms]))
    documents = torch.from_numpy(ids[0] if len(ids) == 1 else np.stack(ids)).int()
    return Imported(tuple(of[:1] if len(set(of)) == 1 else of), {"documents": documents})


def _of_table(mask: Bools) -> Term:
    if 1 in mask.shape:  # the same for all queries or keys, however many
        with suppress(Unreadable):
            return of_runs(mask[0], "j") if len(mask) == 1 else of_runs(mask[:, 0], "i")
    elif (found := of_mask(mask)) is not None:
        return found
    hint = (
        "pidsl.where(lambda i, j: ...) with what the mask was made by; pidsl.pairs(np.argwhere(mask)) for a few pairs"
    )
    n, m = mask.shape
    given = f"an attn_mask [{n}, {m}] of {int(mask.sum())} pairs that are no set of lags, keys, queries and blocks"
    raise ArgumentError(given, "a mask that a few words say: a table is no pattern", CALL, hint)
