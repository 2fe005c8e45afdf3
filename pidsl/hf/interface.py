"""Which models hand their attention to the function that is registered, and a refusal of the others.

transformers takes any registered name for any model; one that computes attention by itself would go on doing so, and
say nothing.
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import lru_cache, wraps
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pidsl.hf.attention import attend
from pidsl.hf.own_classes import MODULES
from pidsl.hf.refused import refuse

INTERFACE = "ALL_ATTENTION_FUNCTIONS"
ATTENTION = re.compile(r"^class \w*Attention\w*\(nn\.Module\):", re.MULTILINE)
TABLE = re.compile(r"^\w*_ATTENTION_CLASSES = \{", re.MULTILINE)


def is_ours(name: str | None) -> bool:
    """Whether pidsl was registered under a name."""
    return name in ALL_ATTENTION_FUNCTIONS.valid_keys() and ALL_ATTENTION_FUNCTIONS[name] is attend


def asks(kind: type[nn.Module]) -> bool:
    """Whether modules of a class ask transformers for their attention function."""
    forward = inspect.unwrap(kind.forward)
    return INTERFACE in getattr(getattr(forward, "__code__", None), "co_names", ())


@lru_cache(maxsize=1024)
def computes_itself(kind: type[PreTrainedModel]) -> bool:
    """Whether the file of a model has attention and no way to another function for it."""
    if kind.__module__ in MODULES:
        return False
    try:
        code = inspect.getsource(sys.modules[kind.__module__])
    except (KeyError, OSError, TypeError):  # written at a prompt: nobody knows
        return False
    return bool(TABLE.search(code)) or (INTERFACE not in code and bool(ATTENTION.search(code)))


def refuse_others() -> None:
    """Let models that compute attention by themselves refuse our name."""
    original = PreTrainedModel.get_correct_attn_implementation
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def checked(self: PreTrainedModel, *given: Any, **named: Any) -> str:
        found = original(self, *given, **named)
        if is_ours(found) and computes_itself(type(self)):  # type: ignore[arg-type]
            given_model = (
                f"{type(self).__name__}, whose attention does not go through transformers' attention interface"
            )
            hint = 'attn_implementation="eager" for it; a dict of sub-configs where a part of a model does'
            raise refuse(given_model, "a model that asks for its attention function", hint=hint)
        return found

    PreTrainedModel.get_correct_attn_implementation = checked  # type: ignore[method-assign]
