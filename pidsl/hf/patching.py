"""`patch`: another pattern in a model, and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, Union

from torch import nn
from transformers import DynamicCache, PreTrainedModel

import pidsl
from pidsl.errors import ArgumentError
from pidsl.hf.derived import DerivedCache, states, why_not
from pidsl.hf.interface import asks, implementations, is_ours, models, parts, restore
from pidsl.hf.own_classes import change_classes
from pidsl.hf.refused import refuse
from pidsl.hf.registered import register, runs_here
from pidsl.hf.swapped import NAME, Swapped, swapped_in
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Term, is_chosen, within
from pidsl.nn.choosing import check_selector
from pidsl.runtime.call.chosen import Listed

if TYPE_CHECKING:
    from pidsl.select.selector import Selector

Pattern = Term | Heads
Model = TypeVar("Model", bound=PreTrainedModel)
Select = Union["Selector", Sequence["Selector | None"], nn.ModuleList, None]
BEFORE = "_pidsl_before"


def patch(model: Model, pattern: Pattern | Schedule | Mapping[str, Pattern], *, select: Select = None) -> Model:
    """Attend under another pattern, in every layer of a model, in some kinds of layers, or layer by layer.

    The model runs by pidsl from then on. Positions count from the first token of each sequence. `generate` gets a
    `DerivedCache`, unless it is told which cache to use, or layers have a state. `unpatch(model)` puts things back;
    patching again replaces.

    Args:
        model: a decoder or an encoder of transformers, or one with a head on it; it is changed in place.
        pattern: a term or heads for all layers; `pidsl.layers`, one for each; or a mapping of the names in
            `config.layer_types`, where layers of other kinds keep their own.
        select: of patterns with `chosen`, what chooses, for all their layers or, in a list, for each layer of the
            model: a `pidsl.select.Selector` that is called with queries and keys after their rotation. Its parameters,
            if it has any, are not the model's.

    Returns:
        the model.

    Raises:
        UnsupportedError: a model whose attention does not go through transformers' attention interface.
        ArgumentError: as many layers, heads or kinds of layers as the model does not have.
        PidslError: whatever `pidsl.compile` says of a pattern.
    """
    modules = attention_modules(model)
    swapped = _by_layer(model, modules, pattern)
    selects = _selectors(model, modules, select)
    heads = getattr(model.config.get_text_config(), "num_attention_heads", None)
    terms = {id(x): x for x in swapped.values()}.values()
    for term in terms:
        if isinstance(term, Heads) and heads not in (None, len(term)):
            raise ArgumentError(f"heads for {len(term)} query heads", f"{heads}, as the model has", _where(model))
        if any(within(x)[1] for x in _terms(term)):
            hint = "the pattern without documents: position_ids that restart keep them apart under any pattern"
            raise ArgumentError(f"{term!r}", "a pattern of positions in one sequence", _where(model), hint)
    for module, term in swapped.items():
        _check_select(selects[module], pidsl.compile(term).choice, term, _where(model))
    if select is not None and not any(is_chosen(x) for term in terms for x in _terms(term)):
        check_selector(next(filter(None, selects.values()), None), None, next(iter(terms), pattern), _where(model))
    unpatch(model)
    before = implementations(model)
    register()
    if not runs_here(model):
        model.set_attn_implementation("pidsl")
    for module, term in swapped.items():
        setattr(module, NAME, Swapped(term, selects[module] if any(map(is_chosen, _terms(term))) else None))
    setattr(model, BEFORE, before)
    if hasattr(model, "generate"):
        vars(model)["generate"] = Generate(model)  # found before that of the class, copied and pickled with the model
    return model


def unpatch(model: Model) -> Model:
    """Put a model back as it was before `patch`; nothing where it was not patched."""
    before: list[tuple[Any, str]] | None = getattr(model, BEFORE, None)
    if before is None:
        return model
    for module in model.modules():
        if NAME in vars(module):
            delattr(module, NAME)
    change_classes(model, before[0][1], is_ours(before[0][1]))
    restore(before)
    vars(model).pop("generate", None)
    delattr(model, BEFORE)
    return model


@contextmanager
def patched(
    model: Model, pattern: Pattern | Schedule | Mapping[str, Pattern], *, select: Select = None
) -> Iterator[Model]:
    """`patch` for a while: `with pidsl.hf.patched(model, term): ...`."""
    try:
        yield patch(model, pattern, select=select)
    finally:
        unpatch(model)


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules of a model that attend, the layer at the input first.

    Raises:
        UnsupportedError: there are none that go through transformers' attention interface; an encoder and a decoder.
    """
    if not isinstance(model, PreTrainedModel):
        raise ArgumentError(f"{type(model).__name__}", "a model of transformers", "pidsl.hf.patch(model, pattern)")
    if model.config.is_encoder_decoder and len(list(_parts(model))) > 1:
        hint = "pidsl.hf.patch(model.get_encoder(), pattern), which patches the encoder alone"
        raise refuse(f"{type(model).__name__}: an encoder and a decoder", "one of them", hint=hint)
    several = {id(x.config): x for x in models(model) if any(asks(type(y)) for y in parts(x))}
    if len(several) > 1:
        names = ", ".join(sorted(type(x).__name__ for x in several.values()))
        hint = "pidsl.hf.patch(model.get_decoder(), pattern), which patches one of them"
        raise refuse(f"{type(model).__name__}, which is several models: {names}", "one of them", hint=hint)
    found = [x for x in model.modules() if asks(type(x))]
    if not found:
        given = f"{type(model).__name__}, whose attention does not go through transformers' attention interface"
        raise refuse(given, "a model that runs with attn_implementation of any registered name")
    return found


def _parts(model: PreTrainedModel) -> Iterator[nn.Module]:
    """The encoder and the decoder that a model holds."""
    for name in ("encoder", "decoder"):
        for path, module in model.named_modules():
            if path.split(".")[-1] == name and isinstance(module, nn.Module):
                yield module
                break


def _by_layer(
    model: PreTrainedModel, modules: list[nn.Module], pattern: Pattern | Schedule | Mapping[str, Pattern]
) -> dict[nn.Module, Pattern]:
    where = _where(model)
    if isinstance(pattern, Schedule):
        if len(pattern) != len(modules):
            raise ArgumentError(f"{len(pattern)} layers", f"{len(modules)}, as the model has", where)
        return dict(zip(modules, pattern, strict=True))
    if isinstance(pattern, Mapping):
        kinds = getattr(model.config.get_text_config(), "layer_types", None)
        if kinds is None or len(kinds) != len(modules):
            hint = "pidsl.hf.patch(model, pidsl.layers([...])), a pattern for each layer"
            raise ArgumentError("patterns for kinds of layers", "a model whose config has layer_types", where, hint)
        unknown = sorted({*pattern} - {*kinds})
        if unknown:
            raise ArgumentError(f"layers of kind {', '.join(unknown)}", f"{', '.join(sorted({*kinds}))}", where)
        return {x: pattern[kind] for x, kind in zip(modules, kinds, strict=True) if kind in pattern}
    if not isinstance(pattern, Term | Heads):
        expected = "a term, heads, layers, or a mapping of layer types to such"
        raise ArgumentError(f"{pattern!r}", expected, where)
    return dict.fromkeys(modules, pattern)


def _selectors(model: PreTrainedModel, modules: list[nn.Module], select: Select) -> dict[nn.Module, Selector | None]:
    """The selector of each layer."""
    if not isinstance(select, Sequence | nn.ModuleList):
        return dict.fromkeys(modules, select)
    if len(select) != len(modules):
        given, expected = f"{len(select)} selectors", f"one, or {len(modules)}, one for each layer"
        raise ArgumentError(given, expected, _where(model))
    each: Any = zip(modules, select, strict=True)
    return dict(each)


def _check_select(select: Selector | None, choice: Listed | None, term: Pattern, where: str) -> None:
    if choice is not None and select is None:
        hint = "pidsl.hf.patch(model, pattern, select=pidsl.select.MoBA(block, budget, queries))"
        raise ArgumentError(f"{term!r} without a selector", "what makes its lists in each call", where, hint)
    if choice is not None and select is not None and not getattr(select, "rotated", True):
        expected = "a selector of queries and keys after their rotation, which is all that attention functions get"
        raise ArgumentError(f"{type(select).__name__}", expected, where, "pidsl.select.MoBA(block, budget, queries)")
    if choice is not None:
        check_selector(select, choice, term, where)


def _terms(pattern: Pattern) -> Sequence[Term]:
    return pattern.terms if isinstance(pattern, Heads) else (pattern,)


def _where(model: PreTrainedModel) -> str:
    return f"pidsl.hf.patch({type(model).__name__}(...), pattern)"


class Generate:
    """`generate` of a patched model, with a derived cache where nobody says which."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def __call__(self, *given: Any, **named: Any) -> Any:
        """As the class of the model has it.

        Raises:
            UnsupportedError: tokens attend later ones, and a cache is used.
        """
        model = self.model
        generate: Callable[..., Any] = getattr(type(model), "generate")  # noqa: B009
        said = ("cache", "past_key_values", "cache_implementation")
        config = named.get("generation_config") or model.generation_config
        told = any(named.get(x) is not None for x in said) or getattr(config, "cache_implementation", None)
        if named.get("use_cache", config.use_cache) is False:
            return generate(model, *given, **named)
        patterns = [x.term for module in model.modules() if (x := swapped_in(module))]
        if ahead := [x for pattern in dict.fromkeys(patterns) for x in _terms(pattern) if not x <= pidsl.causal]:
            hint = "model.generate(..., use_cache=False), which computes all tokens again for each"
            raise refuse(
                f"{ahead[0]!r}, in which tokens attend later ones, and a cache", "a causal pattern", model, hint
            )
        if told or states(model):  # of which only the model's own cache has room
            return generate(model, *given, **named)
        guessing = any(named.get(x) is not None for x in ("assistant_model", "prompt_lookup_num_tokens"))
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        if guessing or why_not(model):  # all keys: guesses are taken back by as many as there were
            named[name] = DynamicCache()
        else:
            named[name] = DerivedCache(model)
        return generate(model, *given, **named)
