"""GPT-Neo, which has a table of attention classes in place of transformers' attention interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.gpt_neo import modeling_gpt_neo as gpt_neo

import pidsl
from pidsl.hf.attention import attend
from pidsl.hf.described import Described, check_masked
from pidsl.hf.padding import Run

MODULES = frozenset((gpt_neo.__name__,))


class GPTNeoAttention(gpt_neo.GPTNeoSelfAttention):
    """Attention of GPT-Neo: logits are not scaled, and a local layer sees the last `window_size` tokens."""

    def _attn(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None) -> tuple[Tensor, None]:
        check_masked(attention_mask, self)
        mask = attention_mask
        if mask is None:
            mask = Described(pidsl.causal, (query.shape[2], key.shape[2]), (0, 0), (Run(),), None, True, False)
        if self.attention_type == "local":
            mask = mask.within(pidsl.window(self.config.window_size - 1))
        dropout = self.attn_dropout.p if self.training else 0.0
        out, _ = attend(self, query, key, value, mask, scaling=1.0, dropout=dropout)
        return out.transpose(1, 2), None


def register_own_classes(name: str) -> None:
    """Put a class under this name into the tables."""
    gpt_neo.GPT_NEO_ATTENTION_CLASSES[name] = GPTNeoAttention


def changed_class(kind: type[torch.nn.Module]) -> type[torch.nn.Module] | None:
    """The class by which attention of a class runs by pidsl, where its model has a table of classes."""
    return GPTNeoAttention if kind in (gpt_neo.GPTNeoSelfAttention, GPTNeoAttention) else None


def change_classes(model: PreTrainedModel, name: str, ours: bool) -> bool:
    """Let a model that has such a table attend by pidsl, or by itself again; whether it has one."""
    found = [x for x in model.modules() if changed_class(type(x))]
    if not found or not (ours or name == "eager"):
        return False
    for x in found:
        x.__class__ = GPTNeoAttention if ours else gpt_neo.GPTNeoSelfAttention
    model.config._attn_implementation_internal = name
    return True
