"""Arguments that a call does not take, and what pidsl calls what other libraries mean by them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from torch import Tensor

from pidsl.errors import KeywordError

MASK = "the pattern is the mask: pidsl.compile(term), term a pidsl.where(lambda i, j: ...) or pidsl.pairs([...])"
_AT_CALL = "kernel(q, k, v, ...) takes it, when it is called"
_AT_COMPILE = "pidsl.compile(term, ...) takes it"
GIVEN = ("q", "k", "v", "x", "term")
_NOTHING = "nothing: the plan chooses, see kernel.explain()"

# What to write instead, by the names of torch, FlexAttention, flash-attention, xFormers, NATTEN, JAX and transformers.
# Where it is a keyword of what was called, that alone.
ELSEWHERE: Mapping[str, str] = {
    name: hint
    for names, hint in (
        ("attn_mask attention_mask mask block_mask mask_mod mask_fn src_mask sparse_mask sparsity_config", MASK),
        ("key_padding_mask src_key_padding_mask padding_mask",
         "lengths and key_lengths, integers [B], where the last tokens are padding; offset and key_offset, minus the "
         "number of padding tokens, integers [B], where the first ones are"),
        ("cu_seqlens cu_seqlens_q cu_seqlens_k cu_seq_q cu_seq_k cu_seqlens_kv",
         "kernel.packed(q, k, v, cu_seqlens_q), of q, k and v [tokens, heads, dim]"),
        ("seqused_k seqlen_k seq_lens kv_seq_lens cache_seqlens actual_seq_lengths_kv", "key_lengths="),
        ("seqlens seqlen actual_seq_lengths sequence_lengths", "lengths="),
        ("document_ids doc_ids document_id segment_ids sequence_ids", "documents="),
        ("is_causal causal use_causal_mask", "pidsl.compile(term & pidsl.causal)"),
        ("window window_size sliding_window local_window_size attention_window",
         "pidsl.compile(term & pidsl.window(left, right)); the token itself is counted on neither side"),
        ("dropout_p dropout dropout_rate attention_dropout",
         "pidsl.compile(term, score=pidsl.score(dropout=0.1)), then kernel(q, k, v, seed=0)"),
        ("softcap soft_cap logits_soft_cap logit_cap attn_logit_softcapping",
         "pidsl.compile(term, score=pidsl.score(softcap=50.0))"),
        ("score_mod score_mod_fn", "pidsl.compile(term, score=pidsl.score(...)): softcap, alibi, bias and more"),
        ("alibi alibi_slopes",
         "pidsl.compile(term, score=pidsl.score(alibi=True)), then kernel(q, k, v, slopes=pidsl.alibi_slopes(heads))"),
        ("attn_bias position_bias relative_position_bias",
         "pidsl.compile(term, score=pidsl.score(bias=(low, high))), then kernel(q, k, v, bias=table) by head and lag"),
        ("s_aux sink attn_sink attention_sinks",
         "pidsl.compile(term, score=pidsl.score(sinks=True)), then kernel(q, k, v, sinks=logits), one per head"),
        ("enable_gqa n_rep num_key_value_groups",
         "nothing: k and v may have fewer heads than q, each for a group of query heads"),
        ("return_softmax_lse return_attn_probs return_aux return_softmax need_weights output_attentions",
         "kernel(q, k, v, return_lse=True); the weights themselves are never formed"),
        ("kernel_options num_warps num_stages mode dynamic fullgraph options", _NOTHING),
        ("softmax_scale sm_scale attn_scale scaling", "scale="),
        ("q_offset query_offset start_pos cache_position position_ids", "offset="),
        ("embed_dim d_model hidden_size n_embd", "dim="),
        ("num_heads n_heads nhead num_attention_heads", "heads="),
        ("num_kv_heads n_kv_heads num_key_value_heads", "kv_heads="),
        ("rope_theta rotary_base", "rope="),
        ("device dtype", "layer.to(...), or tensors.to(...): nothing is made on a device of its own"),
        ("batch_first", "nothing: x is [batch, tokens, dim]"),
        ("scale offset key_offset lengths key_lengths documents return_lse", _AT_CALL),
        ("slopes bias sinks temperature seed weights summaries alpha beta", _AT_CALL),
        ("backend score output_gate affine tune", _AT_COMPILE),
    )
    for name in names.split()
}  # fmt: skip


def refuse(
    callee: Callable[..., Any], where: str, more: Sequence[object], unknown: Mapping[str, object],
    takes: Collection[str] = (), positional: str = MASK,
) -> NoReturn:  # fmt: skip
    """Raise for arguments that `callee` does not take.

    Args:
        callee: what was called: its own keywords are listed.
        where: the call, for the message.
        more: positional arguments too many.
        unknown: keywords that it does not have, with what was given.
        takes: keywords that it hands on.
        positional: what to write instead of a tensor too many; the fourth of other libraries is a mask.
    """
    keywords = [*dict.fromkeys([*named(callee), *takes])]
    expected = f"{', '.join(f'{name}=' for name in keywords)} and no others" if keywords else "no more arguments"
    given = [f"{_shown(value)}, one positional argument too many" for value in more]
    given += [f"{name} = {_shown(value)}" for name, value in unknown.items()]
    hints = [f"{name}: {hint}" for name in unknown if (hint := _hint(name, keywords))]
    if more:
        hints.insert(0, positional if isinstance(more[0], Tensor) else "options by keyword")
    raise KeywordError("; ".join(given), expected, where, "; ".join(hints))


def named(callee: Callable[..., Any]) -> list[str]:
    """The arguments of a callable that have names, but for those that everyone gives by position."""
    parameters = inspect.signature(callee).parameters.values()
    return [x.name for x in parameters if x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY) and x.name not in GIVEN]


def _hint(name: str, keywords: Sequence[str]) -> str:
    hint = ELSEWHERE.get(name, "")
    if hint and (not hint.endswith("=") or hint[:-1] in keywords):
        return hint
    close = difflib.get_close_matches(name, keywords, n=1)
    return f"{close[0]}=" if close else ""


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a Tensor of {value.dim()} axes" if value.is_nested else f"a Tensor {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:40]} ..."
