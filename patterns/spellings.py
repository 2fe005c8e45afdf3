"""How other libraries write the patterns of the library, and the pidsl term of each, by module of `pidsl.patterns`.

The names in a term are the parameters of the call beside it. `python benchmarks/masks.py` runs the libraries and
compares their masks with the terms; the tests compare terms with the formulas of the libraries.
"""

from __future__ import annotations

from pidsl.patterns.spelling import Spelling
from pidsl.patterns.spellings_blocks import BLOCKS
from pidsl.patterns.spellings_grids import GRIDS

__all__ = ["OTHERS", "SPELLINGS", "Spelling", "spelled"]

ALIGNED = "aligned at the end: pass `offset=m - n`, or with n > m `.shift(n - m)` and no offset"
_SHIFTED = "(i - p) // c == (j - p) // c"
_SPANS = "queries(0, a) & keys(0, a) | queries(a, a + b) & keys(a, a + b) | queries(a + b, None) & keys(a + b, None)"
_PER_LAYOUT = "known only with the batch: a term for each layout of documents"

SPELLINGS: dict[str, tuple[Spelling, ...]] = {
    "dense": (
        Spelling("torch", "scaled_dot_product_attention(is_causal=True)", "causal", "aligned at the start"),
        Spelling("flash-attention", "causal=True", "causal", ALIGNED),
        Spelling("Splash", "FullMask(shape)", "full"),
        Spelling("Splash", "CausalMask(shape, offset)", "causal", "the same `offset`"),
        Spelling("Splash", "CausalMask(shape, -p)", "causal.shift(p)", "negative offsets: the first p rows are empty"),
        Spelling("attention-gym", "causal_mask", "causal"),
        Spelling("transformers", "causal_mask_function", "causal", "its q_offset is `offset`"),
        Spelling("transformers", "bidirectional_mask_function", "full"),
        Spelling(
            "transformers",
            "and_masks(causal_mask_function, padding_mask_function(mask)), p tokens of padding on the left",
            "causal & keys(p, None)",
        ),
        Spelling("DeepSpeed", "DenseSparsityConfig(block=B)", "full"),
    ),
    "local": (
        Spelling("transformers", "sliding_window_causal_mask_function(w)", "window(w - 1)", "the token counts"),
        Spelling("transformers", "sliding_window_bidirectional_mask_function(w)", "window(w, w)", "on either side"),
        Spelling("transformers", "sliding_window_overlay(w)", "where(lambda i, j: i - j < w)", "the future is kept"),
        Spelling("transformers", "MistralModel(sliding_window=w)", "window(w - 1)"),
        Spelling(
            "transformers",
            "Qwen2, Qwen3, Phi3, Cohere2, Olmo3, Starcoder2, SmolLM3, Exaone4Model(sliding_window=w), sliding layers",
            "window(w - 1)",
        ),
        Spelling("transformers", "ModernBertDecoderModel(local_attention=w), local layers", "window(w // 2 - 1)"),
        Spelling(
            "transformers",
            "Gemma3TextModel(sliding_window=w, use_bidirectional_attention=True), sliding layers",
            "window(w // 2, w // 2)",
            "EmbeddingGemma",
        ),
        Spelling("transformers", 'GPTNeoModel(window_size=w), "local" layers', "window(w - 1)"),
        Spelling("transformers", "ModernBertModel(local_attention=w), local layers", "window(w // 2, w // 2)"),
        Spelling(
            "transformers", "LongT5EncoderModel(local_radius=r)", "window(r, r)", 'encoder_attention_type="local"'
        ),
        Spelling(
            "flash-attention",
            "window_size=(left, right)",
            "window(left, right)",
            f"-1: no limit; {ALIGNED}",
        ),
        Spelling("Splash", "LocalMask(shape, (left, right), offset)", "window(left, right)", "the same `offset`"),
        Spelling("Splash", "LocalMask(shape, (left, right), -p)", "window(left, right).shift(p)"),
        Spelling("Splash", "LocalMask(shape, (None, right), offset)", "where(lambda i, j: j <= i + right)"),
        Spelling("Splash", "LocalMask(shape, (left, None), offset)", "where(lambda i, j: i <= j + left)"),
        Spelling("attention-gym", "generate_sliding_window(w)", "window(w)", "w keys beside the token"),
        Spelling(
            "NATTEN",
            "na1d(kernel_size=w, is_causal=True)",
            "window(w - 1)",
            "not causal: the window is shifted inward at both ends, and every token has w keys",
        ),
        Spelling(
            "DeepSpeed",
            "LocalSlidingWindowSparsityConfig(block=B, num_sliding_window_blocks=w)",
            "window(w // 2).blocked(B)",
            "a layout of blocks: the diagonal blocks are full until a causal mask is added",
        ),
        Spelling(
            "DeepSpeed",
            'LocalSlidingWindowSparsityConfig(block=B, num_sliding_window_blocks=w, attention="bidirectional")',
            "window(w // 2, w // 2).blocked(B)",
        ),
        Spelling("OpenAI sparse_attention", 'attn_mode="local", local_attn_ctx=w', "window(w - 1)"),
    ),
    "dilated": (
        Spelling(
            "attention-gym",
            "generate_dilated_sliding_window(w, d)",
            "window(w // d, w // d).dilated(d)",
            "w counts tokens that are spanned",
        ),
        Spelling(
            "NATTEN",
            "na1d(kernel_size=w, dilation=d, is_causal=True)",
            "window(w - 1).dilated(d)",
            "w counts keys",
        ),
    ),
    "logsparse": (
        Spelling(
            "LogSparseMask in circulation",
            "log_row_mask(index, sub_len=n), n = 100",
            "window(6) | lags(7, 8, 10, 14, 22, 38, 70) | causal & queries(0, 14)",
            "a window of ceil(log2 n) keys, and the first 2 ceil(log2 n) rows are dense",
        ),
    ),
    "streaming": (
        Spelling(
            "attention-gym, a fork",
            "generate_sink_mask(w, s)",
            "(window(w) | keys(0, s)) & causal",
            "w keys beside the token; not in attention-gym itself",
        ),
    ),
    "prefix": (
        Spelling("attention-gym", "generate_prefix_lm_mask(p)", "causal | keys(0, p)"),
        Spelling(
            "transformers",
            "or_masks(causal_mask_function, blockwise_overlay(ids)), one group of the tokens a ... b - 1",
            "causal | queries(a, b) & keys(a, b)",
            "tokens of an image, for instance, that see each other",
        ),
    ),
    "chunked": (
        Spelling(
            "transformers",
            "chunked_causal_mask_function(c, left_padding=0)",
            "blocks(c) & causal",
            "padding on the left moves the borders",
        ),
        Spelling(
            "transformers",
            "chunked_causal_mask_function(c, left_padding=p)",
            f"where(lambda i, j: {_SHIFTED}) & causal",
        ),
        Spelling("transformers", "chunked_overlay(c, left_padding=0)", "blocks(c)", "the future is kept"),
        Spelling(
            "transformers",
            "ReformerModel(local_attn_chunk_length=c, local_num_chunks_before=b), local layers, is_decoder=True",
            "window(b).blocked(c) & causal",
        ),
        Spelling("Splash", "ChunkedCausalMask(shape, c)", "blocks(c) & causal"),
        Spelling(
            "Splash",
            "CausalMask(shape) & LocalMask(shape, (left, right), 0) | ChunkedCausalMask(shape, c)",
            "causal & window(left, right) | blocks(c) & causal",
            "`&` and `|` are the same",
        ),
        Spelling(
            "Splash",
            "MultiHeadMask([LocalMask(shape, (left, right), 0), ChunkedCausalMask(shape, c)])",
            "heads([(1, window(left, right)), (1, blocks(c) & causal)])",
        ),
        Spelling("attention-gym", "batchify_mask_mod(causal_mask, c)", "blocks(c) & causal"),
        Spelling("attention-gym", "batchify_mask_mod(generate_sliding_window(w), c)", "blocks(c) & window(w)"),
        Spelling(
            "attention-gym",
            "batchify_mask_mod(generate_prefix_lm_mask(p), c)",
            "blocks(c) & (causal | where(lambda i, j: j % c < p))",
        ),
    ),
    "interleaved": (
        Spelling(
            "transformers",
            "Gemma2Model(sliding_window=w), a layer of each kind",
            "layers([window(w - 1), causal])",
        ),
        Spelling(
            "transformers",
            "Gemma3TextModel(sliding_window=w), a layer of each kind",
            "layers([window(w - 1), causal])",
        ),
        Spelling(
            "transformers",
            "GptOssModel(sliding_window=w), a layer of each kind",
            "layers([window(w - 1), causal])",
            "a sink in every softmax beside: `score(sinks=True)`",
        ),
        Spelling(
            "transformers",
            "Llama4TextModel(attention_chunk_size=c), a layer of each kind",
            "layers([blocks(c) & causal, causal])",
        ),
    ),
    **BLOCKS,
    **GRIDS,
}

# Of no family of the library.
OTHERS = (
    Spelling("Splash", "NumpyMask(array)", "pairs(drawn)", "`drawn = np.argwhere(array)`"),
    Spelling(
        "attention-gym",
        "generate_doc_mask_mod(causal_mask, offsets), documents of a, of b and of the remaining tokens",
        f"({_SPANS}) & causal",
        _PER_LAYOUT,
    ),
    Spelling(
        "attention-gym",
        "generate_packed_causal_doc_mask_mod(offsets), documents of a, of b and of the remaining tokens",
        f"({_SPANS}) & causal",
        _PER_LAYOUT,
    ),
    Spelling(
        "attention-gym",
        "generate_shared_prefix_mask_mod(offsets, ids), a prefix of a tokens, answers of b and of the remaining tokens",
        f"({_SPANS.replace('queries(0, a) & ', '')}) & causal",
        _PER_LAYOUT,
    ),
    Spelling(
        "transformers",
        "packed_sequence_mask_function(ids), documents of a, of b and of the remaining tokens",
        _SPANS,
        _PER_LAYOUT,
    ),
    Spelling(
        "attention-gym",
        "generate_block_diffusion_mask(L, b)",
        "where(lambda i, j: (i < L) & (j < L) & (i // b == j // b) | (i < L) & (j >= L) & (i // b > (j - L) // b) | "
        "(i >= L) & (j >= L) & ((i - L) // b >= (j - L) // b))",
        "noised tokens, then the clean ones",
    ),
    Spelling(
        "attention-gym",
        "generate_vision_cross_attention_mask_mod(intervals, T), intervals [[a, b], [c, d]]",
        "queries(a, b) & keys(0, T) | queries(c, d) & keys(T, 2 * T)",
        "n queries in text, 2 T keys of two images",
    ),
    Spelling(
        "attention-gym",
        "generate_jetspec_tree_causal_mask_mod(p, ancestors)",
        "keys(0, p) | pairs(drawn).shift(-p)",
        "`drawn = np.argwhere(ancestors)`",
    ),
    Spelling(
        "attention-gym", "generate_jetspec_training_mask_mod(p, b)", "keys(0, p) | (blocks(b) & causal).shift(-p)"
    ),
    Spelling(
        "attention-gym",
        "generate_spatial_head_mask_mod(p, f, t, w, round_width=r)",
        "keys(0, p) | queries(0, p) | where(lambda i, j: abs(i - j) < w * t // r * r)",
        "Sparse VideoGen; attn_sink=True: `keys(0, p + t)`",
    ),
    Spelling(
        "attention-gym",
        "generate_temporal_head_mask_mod(p, f, t, w)",
        "keys(0, p) | queries(0, p) | where(lambda i, j: abs((i - p) % t - (j - p) % t) < w * t // f)",
    ),
    Spelling(
        "attention-gym",
        "generate_vsa_mask_mod(topk_indices, tile)",
        "pairs(drawn).blocked(tile)",
        "known only with the queries: a term for each choice of tiles",
    ),
)


def spelled(library: str, written: str) -> Spelling:
    """The row of a call of another library."""
    rows = (x for each in (*SPELLINGS.values(), OTHERS) for x in each)
    return next(x for x in rows if (x.library, x.written) == (library, written))
