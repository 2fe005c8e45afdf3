"""Attention modules: projections around a pattern, and pi-attention with its fusion gate."""

from pidsl.nn.attention import Attention, SparseAttention
from pidsl.nn.pi import PiAttention
from pidsl.nn.rotary import rotate

__all__ = ["Attention", "PiAttention", "SparseAttention", "rotate"]
