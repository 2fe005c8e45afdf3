"""Selectors: which blocks of keys each block of queries attends, chosen while the model runs.

A selector is called with queries and keys and lists blocks, int32 [B, heads, query blocks, at most budget], -1 for
none; `pidsl.select.selector` says what holds for all of them.
"""

from pidsl.select.antidiagonal import Antidiagonal
from pidsl.select.clusters import Clusters
from pidsl.select.compressed import Compressed
from pidsl.select.gate import SeerGate
from pidsl.select.indexer import LightningIndexer
from pidsl.select.pooled import MoBA, Quest
from pidsl.select.reuse import Choices, Reuse
from pidsl.select.selector import Selector, State

__all__ = [
    "Antidiagonal", "Choices", "Clusters", "Compressed", "LightningIndexer", "MoBA", "Quest", "Reuse", "SeerGate",
    "Selector", "State",
]  # fmt: skip
