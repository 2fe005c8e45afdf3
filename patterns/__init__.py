"""The library of published patterns, one family per module. Installed as `pidsl.patterns`.

What each follows, and how other libraries spell the same thing, is on the page docs/reference/patterns.md.
"""

if __name__ != "pidsl.patterns":  # from a checkout, `import patterns` would make a second copy of every class
    raise ImportError(f"this package is pidsl.patterns, not {__name__}: write `import pidsl.patterns`")

from pidsl.patterns.axial import axial
from pidsl.patterns.bigbird import bigbird, random_blocks
from pidsl.patterns.block_local import block_diagonal, shifted_blocks, swin_layers
from pidsl.patterns.butterfly import base_layers, butterfly, butterfly_layers
from pidsl.patterns.chunked import chunked
from pidsl.patterns.combiner import combiner_axial, combiner_fixed, combiner_logsparse, combiner_rowmajor
from pidsl.patterns.dense import dense_attention
from pidsl.patterns.dilated import dilated_window
from pidsl.patterns.halonet import halo_1d, halo_attention
from pidsl.patterns.interleaved import gemma3_layers, gpt_oss_layers, interleaved, llama4_layers
from pidsl.patterns.local import sliding_window
from pidsl.patterns.logsparse import log_sparse
from pidsl.patterns.longformer import longformer, longformer_heads
from pidsl.patterns.neighborhood import inward_windows, neighborhood_attention
from pidsl.patterns.pi import pi_attention, pi_branches, pi_gate, pi_layers
from pidsl.patterns.power import power_attention
from pidsl.patterns.prefix import prefix_lm
from pidsl.patterns.ring import ring_attention
from pidsl.patterns.s2 import s2_heads
from pidsl.patterns.sparse_transformer import sparse_fixed, sparse_strided
from pidsl.patterns.streaming import streaming_llm

__all__ = [
    "axial", "base_layers", "bigbird", "block_diagonal", "butterfly", "butterfly_layers", "chunked",
    "combiner_axial", "combiner_fixed", "combiner_logsparse", "combiner_rowmajor", "dense_attention",
    "dilated_window", "gemma3_layers", "gpt_oss_layers", "halo_1d", "halo_attention", "interleaved",
    "inward_windows", "llama4_layers", "log_sparse", "longformer", "longformer_heads", "neighborhood_attention",
    "pi_attention", "pi_branches", "pi_gate", "pi_layers", "power_attention", "prefix_lm", "random_blocks",
    "ring_attention", "s2_heads", "shifted_blocks", "sliding_window", "sparse_fixed", "sparse_strided",
    "streaming_llm", "swin_layers",
]  # fmt: skip

# What `pidsl.parse` reads: the calls that give a pattern, by name.
WRITTEN = {name: globals()[name] for name in __all__ if name != "pi_branches"}
