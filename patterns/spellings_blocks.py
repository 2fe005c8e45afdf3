"""How other libraries write patterns of blocks: Sparse Transformer, Longformer, BigBird, S2."""

from __future__ import annotations

from pidsl.patterns.spelling import Spelling

__all__ = ["BLOCKS"]

_COLUMNS = "(j % l >= p) & (j % l < p + g)"  # the global blocks of FixedSparsityConfig in every window, and in a
_LAST = "(m % l > 0) & (m % l < p + g)"  # last window too short to have all of its own: the last g blocks
_GLOBAL = f"{_COLUMNS} | (j >= m - g) & {_LAST}"
_GLOBAL_PAST = f"{_COLUMNS} & (i >= j // l * l + p) | (j >= m - g) & (i >= m - g) & {_LAST}"
_FIXED = "FixedSparsityConfig(block=B, num_local_blocks=l, num_global_blocks=g{}), p = l - (1 + head % patterns) * g"
_FIXED_NOTE = "at least g blocks; patterns = num_different_global_patterns"
_WINDOWS = "where(lambda i, j: (i < a) & (j < a) | (i >= a) & (j >= a) & ((i - a) // b == (j - a) // b))"
_BIGBIRD = "window(1, 1) | keys(0, 1) | queries(0, 1) | keys(-1, None) | queries(-1, None)"
_LONGER = "only of more than 5 + 2 num_random_blocks blocks: up to there the model attends everything"

BLOCKS: dict[str, tuple[Spelling, ...]] = {
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
            "VariableSparsityConfig(block=B, local_window_blocks=[a, b], global_block_indices=[g], "
            "num_random_blocks=r, horizontal_global_attention=True)",
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
            "w on either side",
        ),
        Spelling(
            "transformers",
            "LongformerModel(attention_window=w), global tokens at positions",
            "longformer(w, global_tokens=positions)",
        ),
        Spelling(
            "attention-gym",
            "generate_global_sliding_window(w, is_global), global tokens at positions",
            "longformer(2 * w, global_tokens=positions)",
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
            "without training: each random block is block 0 in current versions, whose keys then count several times "
            f"in a softmax, not a set of keys; {_LONGER}",
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
            "BigBirdSparsityConfig(block=B, num_sliding_window_blocks=w, num_global_blocks=g, "
            'attention="unidirectional")',
            "((window(w // 2, w // 2) | keys(0, g) | queries(0, g) | pairs(drawn)) & causal).blocked(B)",
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
}
