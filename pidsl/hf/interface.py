"""Which models hand their attention to the function that is registered, and a refusal of the others.

transformers takes any registered name for any model; one that computes attention by itself would go on doing so, and
say nothing.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pidsl.hf.attention import attend
from pidsl.hf.own_classes import MODULES, change_classes, changed_class
from pidsl.hf.refused import UnsupportedError, refuse

INTERFACE = "ALL_ATTENTION_FUNCTIONS"
TABLE = re.compile(r"^\w*_ATTENTION_CLASSES = \{", re.MULTILINE)
NAMED = re.compile(r"Attention\d*$")
WEIGHTS = re.compile("softmax|logsumexp|scaled_dot_product_attention|eager_attention_forward|flex_attention")
PRODUCTS = re.compile("matmul|bmm|einsum| @ |_attention")  # none: gates, and deformable attention, which samples


def is_ours(name: Any) -> bool:
    """Whether pidsl was registered under a name."""
    return name in ALL_ATTENTION_FUNCTIONS.valid_keys() and ALL_ATTENTION_FUNCTIONS[name] is attend


def asks(kind: type[nn.Module]) -> bool:
    """Whether modules of a class ask transformers for their attention function."""
    forward = inspect.unwrap(kind.forward)
    return changed_class(kind) is not None or INTERFACE in getattr(getattr(forward, "__code__", None), "co_names", ())


def _weighs(kind: type[nn.Module]) -> bool:
    """Whether a class of attention has weights of its own, by its source."""
    code = ""
    for x in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        try:
            code += inspect.getsource(x)
        except (OSError, TypeError):  # written at a prompt: nobody knows
            continue
    return bool(WEIGHTS.search(code) and PRODUCTS.search(code))


_weighs_once: Callable[[Any], bool] = lru_cache(maxsize=4096)(_weighs)


def parts(model: PreTrainedModel) -> Iterator[nn.Module]:
    """The modules of a model that are in no other model within it."""
    for x in model.children():
        if not isinstance(x, PreTrainedModel):
            yield x
            yield from parts(x)  # type: ignore[arg-type]


def by_itself(model: PreTrainedModel) -> list[str]:
    """The classes in a model, but not in the models within it, that attend and never ask for a function."""
    named = {type(x) for x in parts(model) if NAMED.search(type(x).__name__) and not _ask(x)}
    if _ask(model):  # what others have in it may be gates, linear attention, or torch's own to pool
        named = {x for x in named if x is not nn.MultiheadAttention and _weighs_once(x)}
    return sorted(x.__name__ for x in named)


def _ask(module: nn.Module) -> bool:
    return any(asks(type(x)) for x in module.modules())


def check_model(model: PreTrainedModel) -> None:
    """Raise for a model of our name of which a part computes attention by itself.

    Raises:
        UnsupportedError: naming the classes.
    """
    if is_ours(model.config._attn_implementation) and (found := by_itself(model)):
        raise _not_through(model, f" in {', '.join(found)}")


def _not_through(model: PreTrainedModel, where: str = "") -> UnsupportedError:
    given = f"{type(model).__name__}, whose attention{where} does not go through transformers' attention interface"
    hint = 'attn_implementation="eager" for it; a dict of sub-configs where a part of a model does'
    return refuse(given, "a model that asks for its attention function", model, hint)


def _has_table(kind: type[PreTrainedModel]) -> bool:
    """Whether a model looks its attention up in a table of classes, which knows no other names."""
    try:
        code = inspect.getsource(sys.modules[kind.__module__])
    except (KeyError, OSError, TypeError):
        return False
    return kind.__module__ not in MODULES and bool(TABLE.search(code))


def refuse_others() -> None:
    """Let models that compute attention by themselves refuse our name: when they are made, and when it is set."""
    checked = PreTrainedModel.get_correct_attn_implementation
    made, set_later = PreTrainedModel.post_init, PreTrainedModel.set_attn_implementation
    if hasattr(made, "_pidsl_checks"):
        return

    @wraps(checked)
    def get_correct_attn_implementation(self: PreTrainedModel, *given: Any, **named: Any) -> str:
        found = checked(self, *given, **named)
        if is_ours(found) and _has_table(type(self)):
            raise _not_through(self)
        return found

    @wraps(made)
    def post_init(self: PreTrainedModel) -> None:
        check_model(self)
        made(self)  # type: ignore[no-untyped-call]

    @wraps(set_later)
    def set_attn_implementation(self: PreTrainedModel, attn_implementation: Any, *given: Any, **named: Any) -> None:
        before = implementations(self)
        if change_classes(self, attn_implementation, is_ours(attn_implementation)):
            return
        set_later(self, attn_implementation, *given, **named)
        try:
            for x in models(self):
                if is_ours(attn_implementation) and not is_ours(x.config._attn_implementation):
                    raise _not_through(x)  # transformers leaves such ones as they are
                check_model(x)
        except UnsupportedError:
            restore(before)
            raise

    post_init._pidsl_checks = True  # type: ignore[attr-defined]
    PreTrainedModel.get_correct_attn_implementation = get_correct_attn_implementation  # type: ignore[method-assign]
    PreTrainedModel.post_init = post_init  # type: ignore[method-assign]
    PreTrainedModel.set_attn_implementation = set_attn_implementation  # type: ignore[method-assign]


def models(model: PreTrainedModel) -> list[PreTrainedModel]:
    """A model and those within it."""
    return [x for x in model.modules() if isinstance(x, PreTrainedModel)]


def implementations(model: PreTrainedModel) -> list[tuple[Any, str]]:
    """The configs of a model and of those within it, and what each attends by."""
    found = {id(x.config): x.config for x in models(model)}
    for config in list(found.values()):
        for name in config.sub_configs:
            if (inner := getattr(config, name, None)) is not None:
                found[id(inner)] = inner
    return [(x, x._attn_implementation) for x in found.values()]


def restore(before: list[tuple[Any, str]]) -> None:
    """Put back what `implementations` found."""
    for config, name in before:
        config._attn_implementation_internal = name
