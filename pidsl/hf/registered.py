"""`register`: attention and masks by pidsl, under a name that transformers knows."""

from __future__ import annotations

from transformers import AttentionInterface, AttentionMaskInterface

from pidsl.errors import ArgumentError
from pidsl.hf.attention import attend
from pidsl.hf.described import described

STOCK = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")


def register(name: str = "pidsl") -> None:
    """Make `attn_implementation=name` run models by pidsl. Registering again changes nothing.

    Args:
        name: what transformers knows it by.

    Raises:
        ArgumentError: a name that transformers uses itself, or with a part that it reads something into.
    """
    if not isinstance(name, str) or not name.isidentifier() or name in STOCK or "flash" in name:
        expected = "a name of letters, digits and _ that transformers does not use"
        raise ArgumentError(f"name = {name!r}", expected, "pidsl.hf.register(name)", 'pidsl.hf.register("pidsl")')
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, described)
    register_own_classes(name)


def register_own_classes(name: str) -> None:
    """Models with a table of attention classes in place of the interface."""
