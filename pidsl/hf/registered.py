"""`register`: attention and masks by pidsl, under a name that transformers knows."""

from __future__ import annotations

from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from pidsl.errors import ArgumentError
from pidsl.hf.attention import attend
from pidsl.hf.described import described
from pidsl.hf.interface import is_ours, refuse_others
from pidsl.hf.own_classes import register_own_classes

STOCK = ("eager", "sdpa", "flex_attention")


def register(name: str = "pidsl") -> None:
    """Make `attn_implementation=name` run models by pidsl. Registering again changes nothing.

    Args:
        name: what transformers knows it by.

    Raises:
        ArgumentError: a name that transformers uses itself, or reads something into.
    """
    taken = isinstance(name, str) and (name in STOCK or "flash" in name or "sdpa" in name)
    if not isinstance(name, str) or not name.isidentifier() or taken:
        expected = "a name of letters, digits and _ that transformers does not use"
        raise ArgumentError(f"name = {name!r}", expected, "pidsl.hf.register(name)", 'pidsl.hf.register("pidsl")')
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, described)
    register_own_classes(name)
    refuse_others()


def runs_here(model: PreTrainedModel) -> bool:
    """Whether attention of a model is ours."""
    return is_ours(model.config.get_text_config(decoder=True)._attn_implementation)
