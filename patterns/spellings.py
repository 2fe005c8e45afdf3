"""How other libraries write the patterns of the library, and the pidsl term of each, by module of `pidsl.patterns`.

The names in a term are the parameters of the call beside it. `python benchmarks/masks.py` runs the libraries and
compares their masks with the terms; the tests compare terms with the formulas of the libraries.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OTHERS", "SPELLINGS", "Spelling"]


@dataclass(frozen=True)
class Spelling:
    """How another library writes a pattern.

    Args:
        library: whose.
        written: its call, with its own names of the parameters.
        term: the same as DSL source, sizes as names; "" where there is none.
        note: what differs, or how sure this is.
    """

    library: str
    written: str
    term: str
    note: str = ""


_SHIFTED = "(i - p) // c == (j - p) // c"
_SPANS = "queries(0, a) & keys(0, a) | queries(a, a + b) & keys(a, a + b) | queries(a + b, None) & keys(a + b, None)"
_PER_LAYOUT = "known only with the batch: a term for each layout of documents"
_COLUMNS = "(j % l >= p) & (j % l < p + g)"  # the global blocks of FixedSparsityConfig in every window, and in a
_LAST = "(m % l > 0) & (m % l < p + g)"  # last window too short to have all of its own: the last g blocks
_GLOBAL = f"{_COLUMNS} | (j >= m - g) & {_LAST}"
_GLOBAL_PAST = f"{_COLUMNS} & (i >= j // l * l + p) | (j >= m - g) & (i >= m - g) & {_LAST}"
_FIXED = "FixedSparsityConfig(block=B, num_local_blocks=l, num_global_blocks=g{}), p = l - (1 + head % patterns) * g"
_FIXED_NOTE = "at least g blocks; patterns = num_different_global_patterns"
_WINDOWS = "where(lambda i, j: (i < a) & (j < a) | (i >= a) & (j >= a) & ((i - a) // b == (j - a) // b))"
_BIGBIRD = "window(1, 1) | keys(0, 1) | queries(0, 1) | keys(-1, None) | queries(-1, None)"
_LONGER = "only of more than 5 + 2 num_random_blocks blocks: up to there the model attends everything"
_CLAMPED = "(abs(minimum(maximum({x}(i), a), W - 1 - a) - {x}(j)) <= a) & "
_CLAMPED += "(abs(minimum(maximum({y}(i), b), H - 1 - b) - {y}(j)) <= b)"
_TILED = "x=lambda t: t // (TH * TW) % (W // TW) * TW + t % TW, y=lambda t: t // (TH * W) * TH + t % (TH * TW) // TW"
_MORTON = "x=lambda t: sum(t // 4**k % 2 * 2**k for k in range(8)), y=lambda t: sum(t // 2 // 4**k % 2 * 2**k for k in range(8))"
_TEXT = "keys(V, None) | queries(V, None)) & keys(0, V + t)"

SPELLINGS: dict[str, tuple[Spelling, ...]] = {
    "dense": (
        Spelling("torch", "scaled_dot_product_attention(is_causal=True)", "causal", "aligned at the start"),
        Spelling("flash-attention", "causal=True", "causal", "aligned at the end: with n != m pass `offset=m - n`"),
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
        Spelling("transformers", 'GPTNeoModel(window_size=w), "local" layers', "window(w - 1)"),
        Spelling("transformers", "ModernBertModel(local_attention=w), local layers", "window(w // 2, w // 2)"),
        Spelling(
            "transformers", "LongT5EncoderModel(local_radius=r)", "window(r, r)", 'encoder_attention_type="local"'
        ),
        Spelling(
            "flash-attention",
            "window_size=(left, right)",
            "window(left, right)",
            "-1: no limit; aligned at the end: with n != m pass `offset=m - n`",
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
    "sparse_transformer": (
        Spelling(
            "OpenAI sparse_attention",
            'attn_mode="strided", local_attn_ctx=l',
            "stride(l) & causal",
            "the strided head alone",
        ),
        Spelling(
            "DeepSpeed",
            'FixedSparsityConfig(block=B, num_local_blocks=l, attention="unidirectional")',
            "((blocks(l) | keys(l - 1, None, l)) & causal).blocked(B)",
            "in blocks, one summary block; with more than one, blocks above the diagonal are kept too, see below",
        ),
        Spelling(
            "DeepSpeed",
            "FixedSparsityConfig(block=B, num_local_blocks=l)",
            "(blocks(l) | keys(l - 1, None, l) | keys(-1, None)).blocked(B)",
            "a short last window makes the last block global",
        ),
        Spelling(
            "DeepSpeed",
            _FIXED.format(', attention="unidirectional"'),
            f"(blocks(l) & causal | where(lambda i, j, n, m: {_GLOBAL_PAST})).blocked(B)",
            _FIXED_NOTE,
        ),
        Spelling(
            "DeepSpeed", _FIXED.format(""), f"(blocks(l) | where(lambda i, j, n, m: {_GLOBAL})).blocked(B)", _FIXED_NOTE
        ),
        Spelling(
            "DeepSpeed",
            _FIXED.format(", horizontal_global_attention=True"),
            f"(blocks(l) | where(lambda i, j, n, m: {_GLOBAL}) | where(lambda i, j, n, m: {_GLOBAL}).T).blocked(B)",
            _FIXED_NOTE,
        ),
        Spelling(
            "DeepSpeed",
            "VariableSparsityConfig(block=B, local_window_blocks=[a, b], global_block_indices=[g])",
            f"({_WINDOWS} | keys(g, g + 1)).blocked(B)",
            "the last size is repeated",
        ),
        Spelling(
            "DeepSpeed",
            "VariableSparsityConfig(block=B, local_window_blocks=[a, b], global_block_indices=[g], num_random_blocks=r, "
            "horizontal_global_attention=True)",
            f"({_WINDOWS} | keys(g, g + 1) | queries(g, g + 1) | pairs(drawn)).blocked(B)",
            "drawn blocks, any of the row, from Python's unseeded `random`",
        ),
        Spelling(
            "DeepSpeed",
            "VariableSparsityConfig(block=B, local_window_blocks=[a, b], global_block_indices=[g], "
            'global_block_end_indices=[e], attention="unidirectional")',
            f"({_WINDOWS} & causal | keys(g, e) & queries(g, None)).blocked(B)",
            "blocks above the diagonal are kept between global blocks",
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
    "longformer": (
        Spelling(
            "transformers",
            "LongformerModel(attention_window=w), g global tokens at the start",
            "window(w // 2, w // 2) | keys(0, g) | queries(0, g)",
            "global positions are given by global_attention_mask; no dilation in this implementation",
        ),
        Spelling(
            "attention-gym",
            "generate_global_sliding_window(w, is_global), g global tokens at the start",
            "window(w, w) | keys(0, g) | queries(0, g)",
            "w on either side; other positions `t`: `keys(t, t + 1) | queries(t, t + 1)`",
        ),
        Spelling(
            "DeepSpeed",
            "BSLongformerSparsityConfig(block=B, num_sliding_window_blocks=w)",
            "(window(w // 2, w // 2) | keys(0, 1) | queries(0, 1)).blocked(B)",
            "widths in blocks, the own block included",
        ),
        Spelling(
            "DeepSpeed",
            'BSLongformerSparsityConfig(block=B, num_sliding_window_blocks=w, attention="unidirectional")',
            "((window(w // 2, w // 2) | keys(0, 1) | queries(0, 1)) & causal).blocked(B)",
            "causal between blocks, not inside them",
        ),
        Spelling(
            "DeepSpeed",
            "BSLongformerSparsityConfig(block=B, num_sliding_window_blocks=w, global_block_indices=[g], "
            "global_block_end_indices=[e])",
            "(window(w // 2, w // 2) | keys(g, e) | queries(g, e)).blocked(B)",
        ),
    ),
    "bigbird": (
        Spelling(
            "transformers",
            'BigBirdModel(attention_type="block_sparse", block_size=B)',
            f"({_BIGBIRD}).blocked(B)",
            "without training: each random block is block 0 in current versions, whose keys then count several times in "
            f"a softmax, not a set of keys; {_LONGER}",
        ),
        Spelling(
            "transformers",
            'BigBirdModel(attention_type="block_sparse", block_size=B).train()',
            f"({_BIGBIRD} | pairs(drawn)).blocked(B)",
            "the blocks drawn for each head; a block drawn twice counts twice",
        ),
        Spelling(
            "DeepSpeed",
            "BigBirdSparsityConfig(block=B, num_sliding_window_blocks=w, num_global_blocks=g)",
            "(window(w // 2, w // 2) | keys(0, g) | queries(0, g) | pairs(drawn)).blocked(B)",
            "drawn blocks, any of the row, from Python's unseeded `random`",
        ),
        Spelling(
            "DeepSpeed",
            'BigBirdSparsityConfig(block=B, num_sliding_window_blocks=w, num_global_blocks=g, attention="unidirectional")',
            "((window(w // 2, w // 2) | keys(0, g) | queries(0, g) | pairs(drawn)) & causal).blocked(B)",
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
    "block_local": (
        Spelling(
            "Swin, timm",
            "window_size=s, shift_size=h, in one dimension",
            "where(lambda i, j: (i - h) // s == (j - h) // s)",
            "after the cyclic shift and its mask; n a multiple of s",
        ),
        Spelling(
            "timm",
            "SwinTransformerBlock(input_resolution=(H, W), window_size=s, shift_size=h)",
            "where(lambda i, j: ((i // W - h) // s == (j // W - h) // s) & ((i % W - h) // s == (j % W - h) // s))",
            "H and W multiples of s; timm pads other lengths, and mixes both ends there",
        ),
    ),
    "s2": (
        Spelling(
            "dkernel",
            "get_sparse_attn_mask(32, block_size=B, local_blocks=l, vert_stride=8), head 3",
            "(window(l - 1) | keys(4, None, 8)).blocked(B) & causal",
            "`s2_heads(32, block=B, local=l, stride=8)[3]`; homo_head=True: head 0 for all",
        ),
    ),
    "halonet": (
        Spelling(
            "timm",
            "HaloAttn(block_size=b, halo_size=h)",
            "halo(shape, b, h)",
            "the same keys; timm pads with zeros beside, which enter the softmax of blocks at the border",
        ),
    ),
    "neighborhood": (
        Spelling("NATTEN", "na1d(kernel_size=6)", "neighborhood(48, 6)"),
        Spelling("NATTEN", "na1d(kernel_size=5, dilation=3)", "neighborhood(47, 5, dilation=3)"),
        Spelling("NATTEN", "na1d(kernel_size=6, stride=4)", "neighborhood(47, 6, stride=4)"),
        Spelling(
            "NATTEN",
            "na1d(kernel_size=6, stride=4, dilation=2, is_causal=True)",
            "neighborhood(47, 6, stride=4, dilation=2, causal=True)",
        ),
        Spelling("NATTEN", "na2d(kernel_size=(3, 5))", "neighborhood((9, 7), (3, 5))"),
        Spelling(
            "NATTEN",
            "na2d(kernel_size=(3, 2), dilation=(2, 3), is_causal=(True, False))",
            "neighborhood((9, 7), (3, 2), dilation=(2, 3), causal=(True, False))",
        ),
        Spelling(
            "NATTEN",
            "na3d(kernel_size=(2, 3, 4), stride=(1, 2, 3))",
            "neighborhood((3, 5, 6), (2, 3, 4), stride=(1, 2, 3))",
        ),
        Spelling(
            "NATTEN",
            "na1d, na2d, na3d(kernel_size=w, stride=s, dilation=d, is_causal=c)",
            "neighborhood(shape, w, s, d, c)",
            "`shape` is that of the input's tokens",
        ),
        Spelling(
            "attention-gym",
            "generate_natten(8, 8, 3, 5)",
            "neighborhood((8, 8), (3, 5))",
            "square canvases and odd kernels; for others, whose rows are clamped by the width, see below",
        ),
        Spelling(
            "attention-gym",
            "generate_natten(W, H, a, b), any canvas and kernel",
            "where(lambda i, j, a=a // 2, b=b // 2: "
            "(abs(minimum(maximum(i // W, a), W - 1 - a) - j // W) <= a) & "
            "(abs(minimum(maximum(i % W, b), H - 1 - b) - j % W) <= b))",
        ),
        Spelling(
            "attention-gym",
            "generate_tiled_natten(W, H, a, b, TW, TH)",
            f"where(lambda i, j, {_TILED}, a=a // 2, b=b // 2: {_CLAMPED.format(x='x', y='y')})",
            "tokens numbered tile by tile",
        ),
        Spelling(
            "attention-gym",
            "generate_morton_natten(W, H, a, b)",
            f"where(lambda i, j, {_MORTON}, a=a // 2, b=b // 2: {_CLAMPED.format(x='x', y='y')})",
            "tokens along a Morton curve",
        ),
        Spelling(
            "attention-gym",
            "generate_sta_mask_mod_2d((H, W), (kh, kw), (th, tw))",
            "neighborhood((H // th, W // tw), (kh // th, kw // tw)).blocked(th * tw)",
            "sliding tiles, tokens numbered tile by tile",
        ),
        Spelling(
            "attention-gym",
            "generate_sta_mask_mod_2d((H, W), (kh, kw), (th, tw), text_seq_len=t), V = H * W",
            f"(neighborhood((H // th, W // tw), (kh // th, kw // tw)).blocked(th * tw) | {_TEXT}",
        ),
        Spelling(
            "attention-gym",
            "generate_sta_mask_mod_3d((T, H, W), (kt, kh, kw), (tt, th, tw), text_seq_len=t), V = T * H * W",
            "(neighborhood((T // tt, H // th, W // tw), (kt // tt, kh // th, kw // tw)).blocked(tt * th * tw) | "
            f"{_TEXT}",
        ),
    ),
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
