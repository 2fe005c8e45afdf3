"""The library as data: every family with its calls at published parameters, and how other libraries write them.

`pidsl.patterns.page` makes docs/patterns.md of it; the tests hold each call equal to its term and each spelling equal,
entry for entry, to the formula of the library it names.
"""

from __future__ import annotations

from dataclasses import dataclass

from pidsl import patterns
from pidsl.language.terms import Term

__all__ = ["TOKENS", "Call", "Family", "Spelling", "families"]

TOKENS = 32768  # at which plans are judged


@dataclass(frozen=True)
class Call:
    """A pattern at published parameters.

    Args:
        text: the call.
        term: what it returns; of a schedule, of heads or of summaries, one of its terms.
        n: tokens at which its plan is judged.
        reason: why the plan computes more than twice the attended pairs; "" where it does not.
    """

    text: str
    term: Term
    n: int = TOKENS
    reason: str = ""


@dataclass(frozen=True)
class Spelling:
    """How another library writes a pattern.

    Args:
        library: whose.
        written: its call, with its own names of the parameters.
        term: the same as DSL source, sizes as symbols; "" where there is none.
        note: what differs, or how sure this is.
    """

    library: str
    written: str
    term: str
    note: str = ""


@dataclass(frozen=True)
class Family:
    """A module of the library: its docstring is the explanation."""

    title: str
    module: str
    calls: tuple[Call, ...]
    spellings: tuple[Spelling, ...] = ()


def families() -> tuple[Family, ...]:
    """All families, in the order of the page."""
    return (
        Family(
            "Dense",
            "dense",
            (Call("dense_attention()", patterns.dense_attention()),),
            (
                Spelling("torch", "scaled_dot_product_attention(is_causal=True)", "causal", "aligned at the start"),
                Spelling(
                    "flash-attention", "causal=True", "causal", "aligned at the end: with n != m pass `offset=m - n`"
                ),
                Spelling("Splash", "CausalMask(shape, offset)", "causal", "the same `offset`"),
                Spelling("transformers", "causal_mask_function", "causal"),
            ),
        ),
        Family(
            "Fixed local window of the pi-attention paper",
            "ring",
            (Call("ring_attention(255)", patterns.ring_attention(255)),),
        ),
        Family(
            "pi-attention",
            "pi",
            (
                Call("pi_attention(63, 256)", patterns.pi_attention(63, 256)),
                Call('pi_attention(63, 256, skip="comb")', patterns.pi_attention(63, 256, skip="comb")),
                Call(
                    'pi_attention(63, 256, skip="both", causal=False)',
                    patterns.pi_attention(63, 256, skip="both", causal=False),
                ),
            ),
        ),
        Family(
            "Sliding window",
            "local",
            (
                Call("sliding_window(4096)", patterns.sliding_window(4096)),
                Call("sliding_window(1024)", patterns.sliding_window(1024)),
                Call("sliding_window(128)", patterns.sliding_window(128)),
                Call("sliding_window(513, causal=False)", patterns.sliding_window(513, causal=False)),
            ),
            (
                Spelling("transformers", "sliding_window_causal_mask_function(w)", "window(w - 1)", "the token counts"),
                Spelling(
                    "transformers", "sliding_window_bidirectional_mask_function(w)", "window(w, w)", "on either side"
                ),
                Spelling(
                    "flash-attention",
                    "window_size=(left, right)",
                    "window(left, right)",
                    "-1: no limit; aligned at the end: with n != m pass `offset=m - n`",
                ),
                Spelling("Splash", "LocalMask(shape, (left, right), offset)", "window(left, right)", "None: no limit"),
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
        ),
        Family(
            "Dilated window",
            "dilated",
            (
                Call("dilated_window(128, 64)", patterns.dilated_window(128, 64)),
                Call("dilated_window(512, 4)", patterns.dilated_window(512, 4)),
                Call("dilated_window(129, 8, causal=False)", patterns.dilated_window(129, 8, causal=False)),
            ),
            (
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
        ),
        Family(
            "Sparse Transformer",
            "sparse_transformer",
            (
                Call("sparse_strided(128)", patterns.sparse_strided(128)),
                Call("sparse_fixed(128, 8)", patterns.sparse_fixed(128, 8)),
                Call("sparse_fixed(128, 32)", patterns.sparse_fixed(128, 32)),
            ),
            (
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
                    "in blocks, one summary block; with more than one, blocks above the diagonal are kept too",
                ),
                Spelling(
                    "DeepSpeed",
                    "FixedSparsityConfig(block=B, num_local_blocks=l)",
                    "(blocks(l) | keys(l - 1, None, l)).blocked(B)",
                    "a short last window also makes the last block global: `| keys(-1, None)` inside",
                ),
            ),
        ),
        Family(
            "LogSparse",
            "logsparse",
            (
                Call("log_sparse(16384)", patterns.log_sparse(16384), n=16384),
                Call("log_sparse(32768)", patterns.log_sparse(32768)),
                Call("log_sparse(32768, local=16)", patterns.log_sparse(32768, local=16)),
            ),
            (
                Spelling(
                    "LogSparseMask in circulation",
                    "log_row_mask(index, sub_len=n), n = 100",
                    "window(6) | lags(7, 8, 10, 14, 22, 38, 70) | causal & queries(0, 14)",
                    "a window of ceil(log2 n) keys, and the first 2 ceil(log2 n) rows are dense",
                ),
            ),
        ),
        Family(
            "PowerAttention",
            "power",
            (
                Call("power_attention(32768)", patterns.power_attention(32768)),
                Call(
                    "power_attention(32768, block=1, window=1280, sinks=256)",
                    patterns.power_attention(32768, block=1, window=1280, sinks=256),
                ),
            ),
        ),
        Family(
            "Longformer",
            "longformer",
            (
                Call("longformer(512)", patterns.longformer(512)),
                Call("longformer(512, global_tokens=16)", patterns.longformer(512, global_tokens=16)),
                Call(
                    "longformer(512, global_tokens=16, dilation=2)",
                    patterns.longformer(512, global_tokens=16, dilation=2),
                ),
                Call(
                    "longformer(512, global_tokens=16, causal=True)",
                    patterns.longformer(512, global_tokens=16, causal=True),
                ),
                Call(
                    "longformer_heads([1, 1, 2, 4], global_tokens=0, causal=True)[3]",
                    patterns.longformer_heads([1, 1, 2, 4], global_tokens=0, causal=True)[3],
                ),
            ),
            (
                Spelling(
                    "transformers",
                    "LongformerModel(attention_window=w), g global tokens at the start",
                    "window(w // 2, w // 2) | keys(0, g) | queries(0, g)",
                    "global positions are given by global_attention_mask; no dilation in this implementation",
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
            ),
        ),
        Family(
            "BigBird",
            "bigbird",
            (
                Call("bigbird(32768)", patterns.bigbird(32768)),
                Call("bigbird(4096, random=0)", patterns.bigbird(4096, random=0)),
            ),
            (
                Spelling(
                    "transformers",
                    'BigBirdModel(attention_type="block_sparse", block_size=B)',
                    "(window(1, 1) | keys(0, 1) | queries(0, 1) | keys(-1, None) | queries(-1, None)).blocked(B)",
                    "and `| pairs([...])` of the drawn blocks inside; without training each random block is block 0 in "
                    "current versions, whose keys then count several times in a softmax: not a set of keys",
                ),
                Spelling(
                    "DeepSpeed",
                    "BigBirdSparsityConfig(block=B, num_sliding_window_blocks=w, num_global_blocks=g)",
                    "(window(w // 2, w // 2) | keys(0, g) | queries(0, g)).blocked(B)",
                    "and `| pairs([...])` of the drawn blocks, any of the row, from Python's unseeded `random`",
                ),
            ),
        ),
        Family(
            "StreamingLLM",
            "streaming",
            (Call("streaming_llm()", patterns.streaming_llm()),),
            (
                Spelling(
                    "attention-gym",
                    "generate_sink_mask(w, s)",
                    "(window(w) | keys(0, s)) & causal",
                    "w keys beside the token",
                ),
            ),
        ),
        Family(
            "Prefix LM",
            "prefix",
            (Call("prefix_lm(1024)", patterns.prefix_lm(1024)),),
            (Spelling("attention-gym", "generate_prefix_lm_mask(p)", "causal | keys(0, p)"),),
        ),
        Family(
            "Chunked",
            "chunked",
            (Call("chunked(8192)", patterns.chunked(8192)),),
            (
                Spelling(
                    "transformers",
                    "chunked_causal_mask_function(c, left_padding=0)",
                    "blocks(c) & causal",
                    "padding on the left moves the borders",
                ),
                Spelling("Splash", "ChunkedCausalMask(shape, c)", "blocks(c) & causal"),
            ),
        ),
        Family(
            "Interleaved local and global layers",
            "interleaved",
            (
                Call("gemma3_layers(62)[0]", patterns.gemma3_layers(62)[0]),
                Call("gpt_oss_layers(24)[0]", patterns.gpt_oss_layers(24)[0]),
                Call("llama4_layers(48)[0]", patterns.llama4_layers(48)[0]),
                Call("llama4_layers(48)[3]", patterns.llama4_layers(48)[3]),
            ),
        ),
        Family(
            "Block-diagonal and shifted blocks",
            "block_local",
            (
                Call("block_diagonal(64)", patterns.block_diagonal(64)),
                Call("shifted_blocks(64)", patterns.shifted_blocks(64)),
            ),
            (
                Spelling(
                    "Swin, timm",
                    "window_size=s, shift_size=h, in one dimension",
                    "where(lambda i, j: (i - h) // s == (j - h) // s)",
                    "after the cyclic shift and its mask; n a multiple of s",
                ),
            ),
        ),
        Family(
            "Axial",
            "axial",
            (
                Call('axial(256, "row")', patterns.axial(256, "row")),
                Call('axial(256, "column")', patterns.axial(256, "column")),
                Call("axial(256)", patterns.axial(256)),
                Call("axial(256, causal=True)", patterns.axial(256, causal=True)),
            ),
        ),
        Family(
            "Butterfly and base-b schedules",
            "butterfly",
            (
                Call("butterfly(3)", patterns.butterfly(3)),
                Call("butterfly(3, block=64)", patterns.butterfly(3, block=64)),
                Call("base_layers(15)[12]", patterns.base_layers(15)[12]),
                Call("base_layers(4, 16)[2]", patterns.base_layers(4, 16)[2]),
                Call("base_layers(2, 256)[1]", patterns.base_layers(2, 256)[1]),
            ),
        ),
        Family(
            "S2-Attention",
            "s2",
            (
                Call("s2_heads(32)[0]", patterns.s2_heads(32)[0]),
                Call("s2_heads(32)[3]", patterns.s2_heads(32)[3]),
            ),
            (
                Spelling(
                    "dkernel",
                    "get_sparse_attn_mask(32, block_size=B, local_blocks=l, vert_stride=8), head 3",
                    "(window(l - 1) | keys(4, None, 8)).blocked(B) & causal",
                    "`s2_heads(32, block=B, local=l, stride=8)[3]`; homo_head=True: head 0 for all",
                ),
            ),
        ),
        Family(
            "Combiner",
            "combiner",
            (
                Call("combiner_fixed(128).exact", patterns.combiner_fixed(128).exact),
                Call("combiner_logsparse(32768).exact", patterns.combiner_logsparse(32768).exact),
                Call("combiner_axial(256).exact", patterns.combiner_axial(256).exact),
                Call("combiner_rowmajor(256).exact", patterns.combiner_rowmajor(256).exact),
            ),
        ),
        Family(
            "HaloNet",
            "halonet",
            (
                Call("halo_1d(8, 3)", patterns.halo_1d(8, 3)),
                Call("halo_1d(64, 32)", patterns.halo_1d(64, 32)),
                Call("halo_attention((64, 64))", patterns.halo_attention((64, 64)), n=4096),
            ),
            (
                Spelling(
                    "timm",
                    "HaloAttn(block_size=b, halo_size=h)",
                    "",
                    "pads with zeros, which enter the softmax: `halo(shape, b, h)` for blocks off the border",
                ),
            ),
        ),
        Family(
            "Neighbourhood attention",
            "neighborhood",
            (
                Call("neighborhood_attention(32768, 257)", patterns.neighborhood_attention(32768, 257)),
                Call("neighborhood_attention((64, 64))", patterns.neighborhood_attention((64, 64)), n=4096),
                Call(
                    "neighborhood_attention((64, 64), 13)",
                    patterns.neighborhood_attention((64, 64), 13),
                    n=4096,
                ),
            ),
            (
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
                    "attention-gym",
                    "generate_natten(8, 8, 3, 5)",
                    "neighborhood((8, 8), (3, 5))",
                    "square canvases (rows are clamped by the width) and odd kernels (an even k has k + 1 keys)",
                ),
            ),
        ),
    )
