"""What a model may ask of attention and pidsl has not: each said by name, before anything runs."""

from __future__ import annotations

from typing import Any

from pidsl.errors import ArgumentError


class UnsupportedError(ArgumentError):
    """A model asks for something that attention by pidsl cannot do."""


def refuse(given: str, expected: str, module: Any = None, hint: str = "") -> UnsupportedError:
    """The error, of a module of a model; to raise."""
    where = f'attn_implementation="pidsl" in {type(module).__name__}' if module is not None else "a mask for pidsl"
    hint = hint or 'model.set_attn_implementation("eager"), which has it'
    return UnsupportedError(given, expected, where, hint)


ARGUMENTS = {  # of an attention function, that change what attention is: what each is
    "position_bias": "a bias added to the logits of all pairs (T5, LayoutLM)",
    "head_mask": "factors of heads",
    "indices": "keys selected while the model runs (DeepSeek sparse attention)",
    "block_indices": "blocks of keys selected while the model runs (MiniMax)",
    "sinks": "sinks of another kind than s_aux (Inkling)",
    "output_attentions": "the weights, which pidsl never has as a matrix",
}


def check_arguments(module: Any, given: dict[str, Any]) -> None:
    """Raise for arguments that change what attention is.

    Raises:
        UnsupportedError: naming the first of them.
    """
    for name, what in ARGUMENTS.items():
        value = given.get(name)
        if value is not None and value is not False:
            raise refuse(f"{name}: {what}", "an attention function without it", module)
