"""The library as data: every family with its calls at published parameters.

`pidsl.patterns.page` makes docs/reference/patterns.md of it, with the spellings of other libraries; the tests hold
each call equal to its term.
"""

from __future__ import annotations

from dataclasses import dataclass

from pidsl import patterns
from pidsl.language.terms import Term
from pidsl.patterns.spellings import SPELLINGS, Spelling

__all__ = ["TOKENS", "Call", "Family", "families"]

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
class Family:
    """A module of the library: its docstring is the explanation."""

    title: str
    module: str
    calls: tuple[Call, ...]

    @property
    def spellings(self) -> tuple[Spelling, ...]:
        """How other libraries write it."""
        return SPELLINGS.get(self.module, ())


def families() -> tuple[Family, ...]:
    """All families, in the order of the page."""
    return (
        Family(
            "Dense",
            "dense",
            (Call("dense_attention()", patterns.dense_attention()),),
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
        ),
        Family(
            "Dilated window",
            "dilated",
            (
                Call("dilated_window(128, 64)", patterns.dilated_window(128, 64)),
                Call("dilated_window(512, 4)", patterns.dilated_window(512, 4)),
                Call("dilated_window(129, 8, causal=False)", patterns.dilated_window(129, 8, causal=False)),
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
        ),
        Family(
            "LogSparse",
            "logsparse",
            (
                Call("log_sparse(16384)", patterns.log_sparse(16384), n=16384),
                Call("log_sparse(32768)", patterns.log_sparse(32768)),
                Call("log_sparse(32768, local=16)", patterns.log_sparse(32768, local=16)),
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
        ),
        Family(
            "BigBird",
            "bigbird",
            (
                Call("bigbird(32768)", patterns.bigbird(32768)),
                Call("bigbird(4096, random=0)", patterns.bigbird(4096, random=0)),
            ),
        ),
        Family(
            "StreamingLLM",
            "streaming",
            (Call("streaming_llm()", patterns.streaming_llm()),),
        ),
        Family(
            "Prefix LM",
            "prefix",
            (Call("prefix_lm(1024)", patterns.prefix_lm(1024)),),
        ),
        Family(
            "Chunked",
            "chunked",
            (Call("chunked(8192)", patterns.chunked(8192)),),
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
        ),
        Family(
            "Neighbourhood attention",
            "neighborhood",
            (
                Call("neighborhood_attention(32768, 257)", patterns.neighborhood_attention(32768, 257)),
                Call("neighborhood_attention((64, 64))", patterns.neighborhood_attention((64, 64)), n=4096),
                Call("neighborhood_attention((64, 64), 13)", patterns.neighborhood_attention((64, 64), 13), n=4096),
                Call(
                    "neighborhood_attention((8, 16, 32), (3, 7, 7))",
                    patterns.neighborhood_attention((8, 16, 32), (3, 7, 7)),
                    n=4096,
                ),
                Call(
                    "neighborhood_attention((16, 16, 16), (3, 5, 5))",
                    patterns.neighborhood_attention((16, 16, 16), (3, 5, 5)),
                    n=4096,
                    reason="windows short on three axes: boxes of fewer than 32 tokens would take longer",
                ),
                Call("inward_windows(5, 24, 32, (3, 6))", patterns.inward_windows(5, 24, 32, (3, 6)), n=3840),
            ),
        ),
    )
