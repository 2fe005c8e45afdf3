"""Masks that libraries show by what their attention does: which values the output of each query depends on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import product
from types import ModuleType
from typing import Any
from unittest.mock import patch

import mask_functions
import numpy as np
import torch
from mask_functions import SHAPES, Made, Mask
from torch import Tensor, nn

SMALL_MODEL: dict[str, Any] = dict(
    vocab_size=8, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
    num_hidden_layers=2, attn_implementation="eager", pad_token_id=0,
)  # fmt: skip
SMALL = 1e-12  # of the largest: Swin and BigBird add -100 and -10000 to logits where others add -inf


def torch_sdpa() -> Iterator[Made]:
    for n, m in SHAPES:
        logits, values = torch.zeros(1, 1, max(n, m), 8), torch.eye(m)[None, None]
        out = nn.functional.scaled_dot_product_attention(logits[:, :, :n], logits[:, :, :m], values, is_causal=True)
        yield Made("scaled_dot_product_attention(is_causal=True)", out[0, 0].numpy() > 0)


def natten() -> Iterator[Made]:
    """By its operators, with zeros for queries and keys and the identity for values."""
    import natten as lib

    def made(written: str, shape: Sequence[int], window: Any, **options: Any) -> Made:
        n = int(np.prod(shape))
        width = max(8, 1 << (n - 1).bit_length())  # a power of two, the library asks
        zeros, values = torch.zeros(1, *shape, 1, width), torch.eye(n, width)
        operator = (lib.na1d, lib.na2d, lib.na3d)[len(shape) - 1]
        out = operator(zeros, zeros, values.reshape(1, *shape, 1, -1), window, **options, backend="flex-fna")
        names = ("stride", 1), ("dilation", 1), ("is_causal", False)
        s, d, c = (options.get(name, usual) for name, usual in names)
        return Made(written, out.reshape(n, -1)[:, :n].numpy() > 0, dict(shape=shape, w=window, s=s, d=d, c=c))

    yield made("na1d(kernel_size=6)", (48,), 6)
    yield made("na1d(kernel_size=5, dilation=3)", (47,), 5, dilation=3)
    yield made("na1d(kernel_size=6, stride=4)", (47,), 6, stride=4)
    options: dict[str, Any] = dict(stride=4, dilation=2, is_causal=True)
    yield made("na1d(kernel_size=6, stride=4, dilation=2, is_causal=True)", (47,), 6, **options)
    yield made("na2d(kernel_size=(3, 5))", (9, 7), (3, 5))
    options = dict(dilation=(2, 3), is_causal=(True, False))
    yield made("na2d(kernel_size=(3, 2), dilation=(2, 3), is_causal=(True, False))", (9, 7), (3, 2), **options)
    yield made("na3d(kernel_size=(2, 3, 4), stride=(1, 2, 3))", (3, 5, 6), (2, 3, 4), stride=(1, 2, 3))
    for n, w, d in product((7, 13, 31, 64), (2, 3, 6), (1, 2, 3)):
        if w * d <= n:
            yield made("na1d(kernel_size=w, dilation=d, is_causal=True)", (n,), w, dilation=d, is_causal=True)
            if d == 1:
                yield made("na1d(kernel_size=w, is_causal=True)", (n,), w, is_causal=True)
    written = "na1d, na2d, na3d(kernel_size=w, stride=s, dilation=d, is_causal=c)"
    for n, w, s, d, c in product((5, 13, 31, 47, 64), (2, 3, 6, 7), (1, 2, 5), (1, 2, 4), (False, True)):
        if s <= w and w * d <= n and not (w == n and c):
            yield made(written, (n,), (w,), stride=(s,), dilation=(d,), is_causal=(c,))
    for shape, w, s, d, c in product(
        ((5, 5), (9, 7), (6, 11)), ((2, 3), (3, 3), (5, 4)), ((1, 1), (2, 1), (2, 3)), ((1, 1), (1, 2), (2, 2)),
        ((False, False), (True, False), (True, True)),
    ):  # fmt: skip
        if all(a <= b and b * e <= f for a, b, e, f in zip(s, w, d, shape, strict=True)):
            yield made(written, shape, w, stride=s, dilation=d, is_causal=c)
    for shape, w, s, d, c in product(
        ((3, 5, 4), (4, 3, 7)), ((2, 3, 2), (3, 2, 4)), ((1, 1, 1), (2, 1, 2)), ((1, 1, 1), (1, 1, 2)),
        ((False,) * 3, (True, False, False), (False, True, True)),
    ):  # fmt: skip
        if all(a <= b and b * e <= f for a, b, e, f in zip(s, w, d, shape, strict=True)):
            yield made(written, shape, w, stride=s, dilation=d, is_causal=c)


def attended(
    run: Callable[[], Any], attention: nn.Module, values: Sequence[nn.Module], n: int, *, heads: int = 0,
    channels: slice = slice(None), layout: Callable[[Tensor], Tensor] = lambda x: x,
) -> Mask:  # fmt: skip
    """Bool [n, n], or [heads, n, n]: where the output of query i, taken in copy i of the batch, depends on values.

    Args:
        run: runs the module on n equal copies of a sequence of n tokens.
        attention: whose output is looked at.
        values: the projections that make its values.
        n: tokens; padding behind them is left out.
        heads: 0: the union of all heads.
        channels: of the projections, that are values.
        layout: brings what the modules return to [copies, tokens, channels].
    """
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, out: Any) -> None:
        kept[module] = out[0] if isinstance(out, tuple) else out

    handles = [module.register_forward_hook(keep) for module in (attention, *values)]
    run()
    for handle in handles:
        handle.remove()
    each = torch.arange(n)
    rows = layout(kept[attention])[each, each]
    made = [kept[module] for module in values if module in kept]
    found = torch.autograd.grad((rows * torch.randn_like(rows)).sum(), made, allow_unused=True)
    by_copy = [_by_copy(layout(x), n)[:, :n, channels] for x in found if x is not None]
    weights = torch.stack([x.unflatten(-1, (heads or 1, -1)).abs().sum(-1) for x in by_copy]).sum(0)
    mask = (weights > SMALL * weights.max()).permute(2, 0, 1).numpy()
    return mask if heads else mask[0]


def _by_copy(x: Tensor, n: int) -> Tensor:
    """[copies, tokens, channels]; Longformer puts the tokens first, padded to more."""
    return x if x.shape[0] == n else x.transpose(0, 1)


def transformers() -> Iterator[Made]:
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    yield from mask_functions.transformers()
    yield from _decoders()
    yield from _sliding()
    yield from _encoders()
    yield from _reformer()
    yield from _longformer()
    yield from _bigbird()


def embedded(model: nn.Module, n: int, width: int, **inputs: Any) -> Callable[[], Any]:
    """Runs a model on n copies of random embeddings of n tokens."""
    x = torch.randn(1, n, width, dtype=torch.float64).expand(n, n, width).clone()
    return lambda: model(inputs_embeds=x, **inputs)


def _decoders() -> Iterator[Made]:
    import transformers as lib

    sliding, full, chunks = "sliding_attention", "full_attention", "chunked_attention"
    for w, n in product((1, 2, 5, 16), (1, 2, 3, 7, 17, 31)):
        model = lib.MistralModel(lib.MistralConfig(**SMALL_MODEL | dict(num_hidden_layers=1), sliding_window=w))
        yield Made("MistralModel(sliding_window=w)", _layers(model, n)[0], dict(w=w))
        for name in ("Gemma2Model", "Gemma3TextModel", "GptOssModel"):
            experts = dict(num_local_experts=2, num_experts_per_tok=1, experts_implementation="eager")
            more = dict(sliding_window=w, layer_types=[sliding, full]) | (experts if name == "GptOssModel" else {})
            config: Any = getattr(lib, name.replace("Model", "Config"))(**SMALL_MODEL, **more)
            model = getattr(lib, name)(config)
            yield Made(f"{name}(sliding_window=w), a layer of each kind", _layers(model, n), dict(w=w))
        config = lib.Llama4TextConfig(
            **SMALL_MODEL, intermediate_size_mlp=16, attention_chunk_size=w, layer_types=[chunks, full],
            num_local_experts=2, no_rope_layers=[1, 0], moe_layers=[],
        )  # fmt: skip
        mask = _layers(lib.Llama4TextModel(config), n)
        yield Made("Llama4TextModel(attention_chunk_size=c), a layer of each kind", mask, dict(c=w))


def _sliding() -> Iterator[Made]:
    """Sliding layers of decoders that write them alike, and of two that do not."""
    import transformers as lib

    names = "Qwen2", "Qwen3", "Phi3", "Cohere2", "Olmo3", "Starcoder2", "SmolLM3", "Exaone4"
    for w, n, name in product((2, 5, 16), (1, 3, 17, 31), (*names, "ModernBertDecoder", "Gemma3Text")):
        more: dict[str, Any] = dict(sliding_window=w, layer_types=["sliding_attention"])
        written = f"{', '.join(names)}Model(sliding_window=w), sliding layers"
        match name:
            case "Qwen2" | "Qwen3":
                more = dict(sliding_window=w, use_sliding_window=True, max_window_layers=0)
            case "SmolLM3":
                more |= dict(use_sliding_window=True)
            case "ModernBertDecoder":
                more = dict(local_attention=w, layer_types=["sliding_attention"])
                written = "ModernBertDecoderModel(local_attention=w), local layers"
            case "Gemma3Text":
                more |= dict(use_bidirectional_attention=True)
                written = "Gemma3TextModel(sliding_window=w, use_bidirectional_attention=True), sliding layers"
        config: Any = getattr(lib, f"{name}Config")(**SMALL_MODEL | dict(num_hidden_layers=1), **more)
        model: Any = getattr(lib, f"{name}Model")(config).double().eval()
        layer = next(x for path, x in model.named_modules() if path.endswith("attn"))
        if fused := getattr(layer, "qkv_proj", None):
            mask = attended(embedded(model, n, 16), layer, [fused], n, channels=slice(32, 48))
        else:
            mask = attended(embedded(model, n, 16), layer, [layer.v_proj], n)
        yield Made(written, mask, dict(w=w))


def _layers(model: Any, n: int) -> Mask:
    """The masks of all layers of a decoder."""
    model = model.double().eval()
    run = embedded(model, n, model.config.hidden_size)
    return np.stack([attended(run, x.self_attn, [x.self_attn.v_proj], n) for x in model.layers])


def _encoders() -> Iterator[Made]:
    import transformers as lib

    for w, n in product((1, 2, 5, 16), (1, 2, 3, 7, 17, 31)):
        config: Any = lib.GPTNeoConfig(
            vocab_size=8, hidden_size=16, num_layers=1, num_heads=2, window_size=w, attention_types=[[["local"], 1]],
            max_position_embeddings=64, attn_implementation="eager", resid_dropout=0, embed_dropout=0,
        )  # fmt: skip
        model: Any = lib.GPTNeoModel(config).double().eval()
        layer = model.h[0].attn.attention
        mask = attended(embedded(model, n, 16), layer, [layer.v_proj], n)
        yield Made('GPTNeoModel(window_size=w), "local" layers', mask, dict(w=w))
        config = lib.LongT5Config(
            vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_heads=2, num_layers=1, num_decoder_layers=1,
            local_radius=w, encoder_attention_type="local", dropout_rate=0,
        )  # fmt: skip
        model = lib.LongT5EncoderModel(config).double().eval()
        layer = model.encoder.block[0].layer[0].LocalSelfAttention
        mask = attended(embedded(model, n, 16), layer, [layer.v], n)
        yield Made("LongT5EncoderModel(local_radius=r)", mask, dict(r=w))
        config = lib.ModernBertConfig(
            vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            local_attention=w + 1, global_attn_every_n_layers=2, attn_implementation="eager", pad_token_id=0,
        )  # fmt: skip
        model = lib.ModernBertModel(config).double().eval()
        layer = model.layers[1].attn
        mask = attended(embedded(model, n, 16), layer, [layer.Wqkv], n, channels=slice(32, 48))
        yield Made("ModernBertModel(local_attention=w), local layers", mask, dict(w=w + 1))


def _reformer() -> Iterator[Made]:
    import transformers as lib
    from transformers.models.reformer.modeling_reformer import LocalSelfAttention

    for c, before, n in product((1, 2, 5), (0, 1, 2), (1, 2, 4, 5, 10, 20, 30)):
        if n > c * (before + 1) and n % c == 0:
            config: Any = lib.ReformerConfig(
                attn_layers=["local"], hidden_size=16, num_attention_heads=2, attention_head_size=8, is_decoder=True,
                local_attn_chunk_length=c, local_num_chunks_before=before, local_num_chunks_after=0,
                local_attention_probs_dropout_prob=0, axial_pos_embds=False,
            )  # fmt: skip
            layer = LocalSelfAttention(config).double().eval()
            x = torch.randn(1, n, 16, dtype=torch.float64).expand(n, n, 16)
            mask = attended(partial(layer, x), layer, [layer.value], n)
            written = "ReformerModel(local_attn_chunk_length=c, local_num_chunks_before=b), local layers"
            yield Made(f"{written}, is_decoder=True", mask, dict(c=c, b=before))


def _longformer() -> Iterator[Made]:
    import transformers as lib

    for w, positions, n in product((4, 6, 16), ((), (0,), (0, 1, 2), (1, 5, 6, 30)), (1, 2, 3, 7, 17, 31)):
        config: Any = lib.LongformerConfig(
            vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            attention_window=w, max_position_embeddings=64, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
        )  # fmt: skip
        model: Any = lib.LongformerModel(config).double().eval()
        layer = model.encoder.layer[0].attention.self
        chosen = torch.isin(torch.arange(n), torch.tensor(positions)).long().expand(n, n)
        run = embedded(model, n, 16, attention_mask=torch.ones(n, n), global_attention_mask=chosen)
        mask = attended(run, layer, [layer.value, layer.value_global], n)
        written, g = "LongformerModel(attention_window=w), ", len(positions)
        yield Made(f"{written}global tokens at positions", mask, dict(w=w, positions=positions))
        if positions == tuple(range(g)):
            yield Made(f"{written}g global tokens at the start", mask, dict(w=w, g=g))


def _bigbird() -> Iterator[Made]:
    import transformers as lib
    from transformers.models.big_bird import modeling_big_bird as module

    written = 'BigBirdModel(attention_type="block_sparse", block_size=B)'
    for B, drawn, blocks, short in product((1, 2, 5), (1, 2), (10, 11, 17), (0, 1)):
        if blocks <= 5 + 2 * drawn or short >= B:
            continue
        config: Any = lib.BigBirdConfig(
            vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            block_size=B, num_random_blocks=drawn, max_position_embeddings=128, hidden_dropout_prob=0,
            attention_probs_dropout_prob=0, attention_type="block_sparse",
        )  # fmt: skip
        n = B * blocks - short
        model: Any = lib.BigBirdModel(config).double()
        layer = model.encoder.layer[0].attention.self
        run = embedded(model, n, 16, attention_mask=torch.ones(n, n))
        model.eval()
        for mask in attended(run, layer, [layer.value], n, heads=2):
            yield Made(written, mask, dict(B=B))
        model.train()
        kept: list[Any] = []
        draw = module.BigBirdBlockSparseAttention._bigbird_block_rand_mask_with_head

        def record(*args: Any, draw: Any = draw, kept: Any = kept, **more: Any) -> Any:
            kept.append(draw(*args, **more))
            return kept[-1]

        with patch.object(module.BigBirdBlockSparseAttention, "_bigbird_block_rand_mask_with_head", record):
            masks = attended(run, layer, [layer.value], n, heads=2)
        for mask, rows in zip(masks, kept[0], strict=True):
            pairs = [(row + 1, int(x)) for row, blocks_ in enumerate(rows) for x in blocks_]
            yield Made(f"{written}.train()", mask, dict(B=B, drawn=pairs))


def timm() -> Iterator[Made]:
    stubs = {} if find_spec("torchvision") else _torchvision()
    sys.modules.update(stubs)
    try:
        from timm.layers.halo_attn import HaloAttn
        from timm.models.maxxvit import MaxxVitTransformerCfg, PartitionAttentionCl
        from timm.models.swin_transformer import SwinTransformerBlock
    finally:
        for name in stubs:
            del sys.modules[name]
    torch.manual_seed(0)
    for (rows, columns), b, h in product(((1, 1), (1, 3), (2, 2), (3, 2)), (2, 3, 4), (0, 1, 2, 3)):
        layer = HaloAttn(8, num_heads=1, dim_head=8, block_size=b, halo_size=h).double()
        shape = (b * rows, b * columns)
        n = shape[0] * shape[1]
        x = torch.randn(1, 8, *shape, dtype=torch.float64).expand(n, -1, -1, -1)
        pixels = dict(channels=slice(8, 16), layout=lambda x: x.flatten(2).transpose(1, 2))
        mask = attended(partial(layer, x), layer, [layer.kv], n, **pixels)
        yield Made("HaloAttn(block_size=b, halo_size=h)", mask, dict(shape=shape, b=b, h=h))
    written = "SwinTransformerBlock(input_resolution=(H, W), window_size=s, shift_size=h)"
    for (rows, columns), s in product(((2, 2), (2, 3), (4, 2)), (2, 3, 4)):
        for h in {0, 1, s // 2, s - 1}:
            H, W = s * rows, s * columns
            layer = SwinTransformerBlock(8, (H, W), num_heads=2, window_size=s, shift_size=h).double().eval()
            n = H * W
            x = torch.randn(1, H, W, 8, dtype=torch.float64).expand(n, -1, -1, -1)
            mask = attended(partial(layer, x), layer, [layer.norm1], n, layout=lambda x: x.flatten(1, 2))
            yield Made(written, mask, dict(H=H, W=W, s=s, h=h))
        for kind, name in (("block", "window_size=s"), ("grid", "grid_size=s")):
            config = MaxxVitTransformerCfg(dim_head=8, window_size=(s, s), grid_size=(s, s))
            layer = PartitionAttentionCl(8, kind, config).double().eval()
            mask = attended(partial(layer, x), layer, [layer.norm1], n, layout=lambda x: x.flatten(1, 2))
            yield Made(f'PartitionAttentionCl("{kind}", {name}) on H x W tokens', mask, dict(H=H, W=W, s=s))


class _Nothing(type):
    """A class that has every attribute, each a class like itself."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


class _Stub(ModuleType):
    """A module of such classes."""

    __getattr__ = _Nothing.__getattr__


def _torchvision() -> dict[str, ModuleType]:
    """What timm imports of torchvision, for environments without it; nothing that runs here uses it."""
    parts = "ops", "ops.misc", "models", "models.feature_extraction", "transforms", "transforms.functional", "datasets"
    return {name: _Stub(name) for name in ("torchvision", *(f"torchvision.{part}" for part in parts))}
