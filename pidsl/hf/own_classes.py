"""Models with a table of attention classes in place of transformers' attention interface.

GPT-Neo gets a class; the others, one that says what is missing: their tables would answer with a bare KeyError.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from transformers.models.gpt_neo import modeling_gpt_neo as gpt_neo

import pidsl
from pidsl.hf.attention import attend
from pidsl.hf.described import Described, check_masked
from pidsl.hf.refused import refuse

OTHERS = {  # module of transformers.models: its table
    "falcon.modeling_falcon": "FALCON_ATTENTION_CLASSES",
    "bark.modeling_bark": "BARK_ATTENTION_CLASSES",
    "git.modeling_git": "GIT_SELF_ATTENTION_CLASSES",
    "data2vec.modeling_data2vec_vision": "DATA2VEC_VISION_SELF_ATTENTION_CLASSES",
}


class GPTNeoAttention(gpt_neo.GPTNeoSelfAttention):  # type: ignore[misc]
    """Attention of GPT-Neo: logits are not scaled, and a local layer sees the last `window_size` tokens."""

    def _attn(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None) -> tuple[Tensor, None]:
        check_masked(attention_mask, self)
        mask = attention_mask
        if mask is None:
            mask = Described(pidsl.causal, (query.shape[2], key.shape[2]), (0, 0), None, None, None, True, False)
        if self.attention_type == "local":
            mask = mask.within(pidsl.window(self.config.window_size - 1))
        dropout = self.attn_dropout.p if self.training else 0.0
        out, _ = attend(self, query, key, value, mask, scaling=1.0, dropout=dropout)
        return out.transpose(1, 2), None


def _refused(table: str) -> type[torch.nn.Module]:
    class Refused(torch.nn.Module):
        """Says that it is missing."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            given = f"attention of {table}, which does not go through transformers' attention interface"
            raise refuse(given, "a model that does", hint='attn_implementation="eager" for this model')

    return Refused


def register_own_classes(name: str) -> None:
    """Put a class under this name into the tables."""
    gpt_neo.GPT_NEO_ATTENTION_CLASSES[name] = GPTNeoAttention
    for module, table in OTHERS.items():
        try:
            found = getattr(import_module(f"transformers.models.{module}"), table)
        except (ImportError, AttributeError):  # another version of transformers
            continue
        found[name] = _refused(table)


def changed_class(module: torch.nn.Module) -> type[torch.nn.Module] | None:
    """The class by which attention of such a module runs by pidsl, where it is not that of the module itself."""
    return GPTNeoAttention if type(module) is gpt_neo.GPTNeoSelfAttention else None
