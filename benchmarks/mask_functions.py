"""Masks that libraries make by functions: of positions (Splash, attention-gym, transformers), of blocks (DeepSpeed)."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

LENGTHS = (1, 2, 3, 5, 8, 13, 31, 64, 97)
SQUARE = [(n, n) for n in LENGTHS]
SHAPES = [*SQUARE, (1, 5), (5, 1), (7, 13), (13, 7), (33, 70), (40, 23)]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Made:
    """A mask that a library made, and what its spelling needs to say the same.

    Args:
        written: the call, as in `pidsl.patterns.spellings`.
        mask: bool [n, m]; of heads or layers [count, n, m].
        sizes: what the names in the spelling's term stand for.
        offset: position of the first query.
    """

    written: str
    mask: Mask
    sizes: Mapping[str, Any] = field(default_factory=dict)
    offset: int = 0


def splash() -> Iterator[Made]:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as lib

    for shape in SHAPES:
        n, m = shape
        yield Made("FullMask(shape)", lib.FullMask(shape)[:, :])
        for offset in {0, 1, 6, max(0, m - n)}:
            yield Made("CausalMask(shape, offset)", lib.CausalMask(shape, offset)[:, :], {}, offset)
            for left, right in ((0, 0), (4, 0), (3, 2), (0, 7), (40, 50)):
                sides = dict(left=left, right=right)
                for (a, x), (b, y) in product((("left", left), ("None", None)), (("right", right), ("None", None))):
                    made = lib.LocalMask(shape, (x, y), offset)[:, :]
                    if x is y is None:
                        yield Made("FullMask(shape)", made)
                    else:
                        yield Made(f"LocalMask(shape, ({a}, {b}), offset)", made, sides, offset)
        for p in (1, 4):
            yield Made("CausalMask(shape, -p)", lib.CausalMask(shape, -p)[:, :], dict(p=p))
            sides = dict(left=3, right=2, p=p)
            yield Made("LocalMask(shape, (left, right), -p)", lib.LocalMask(shape, (3, 2), -p)[:, :], sides)
        for c, (left, right) in product((1, 2, 6, 40), ((0, 0), (4, 1), (9, 30))):
            chunks, local = lib.ChunkedCausalMask(shape, c), lib.LocalMask(shape, (left, right), 0)
            sizes = dict(c=c, left=left, right=right)
            yield Made("ChunkedCausalMask(shape, c)", chunks[:, :], sizes)
            mixed = lib.CausalMask(shape) & local | chunks
            written = "CausalMask(shape) & LocalMask(shape, (left, right), 0) | ChunkedCausalMask(shape, c)"
            yield Made(written, mixed[:, :], sizes)
            heads = lib.MultiHeadMask([local, chunks])
            written = "MultiHeadMask([LocalMask(shape, (left, right), 0), ChunkedCausalMask(shape, c)])"
            yield Made(written, heads[:, :, :], sizes)
        drawn = lib.NumpyMask(lib.make_random_mask(shape, 0.8, seed=n))[:, :]
        yield Made("NumpyMask(array)", drawn, dict(drawn=np.argwhere(drawn)))


def attention_gym() -> Iterator[Made]:
    from attn_gym import masks as lib
    from torch.nn.attention.flex_attention import create_mask

    def made(written: str, mod: Any, shape: tuple[int, int], **sizes: Any) -> Made:
        return Made(written, create_mask(mod, 1, 1, *shape, device="cpu")[0, 0].numpy(), sizes)

    causal = lib.causal_mask
    for shape in SHAPES:
        yield made("causal_mask", causal, shape)
        for w in (0, 1, 4, 40):
            yield made("generate_sliding_window(w)", lib.generate_sliding_window(w), shape, w=w)
            yield made("generate_prefix_lm_mask(p)", lib.generate_prefix_lm_mask(w), shape, p=w)
            written = "generate_dilated_sliding_window(w, d)"
            for d in (1, 2, 3, 7):
                yield made(written, lib.generate_dilated_sliding_window(w, d), shape, w=w, d=d)
            for c in (1, 4, 7):
                inner = {
                    "causal_mask": causal,
                    "generate_sliding_window(w)": lib.generate_sliding_window(w),
                    "generate_prefix_lm_mask(p)": lib.generate_prefix_lm_mask(w),
                }
                for name, mod in inner.items():
                    batched = lib.batchify_mask_mod(mod, c)
                    yield made(f"batchify_mask_mod({name}, c)", batched, shape, c=c, w=w, p=w)
        for p, b in product((0, 1, 5), (1, 3, 8)):
            mod = lib.generate_jetspec_training_mask_mod(p, b)
            yield made("generate_jetspec_training_mask_mod(p, b)", mod, shape, p=p, b=b)
        for p, t, w, r in ((0, 6, 2, 1), (3, 10, 2, 4), (5, 13, 1, 8), (2, 5, 1, 16)):
            sizes = dict(p=p, f=3, t=t, w=w, r=r)
            mod = lib.generate_spatial_head_mask_mod(p, 3, t, w, round_width=r)
            yield made("generate_spatial_head_mask_mod(p, f, t, w, round_width=r)", mod, shape, **sizes)
            mod = lib.generate_temporal_head_mask_mod(p, 3, t, w)
            yield made("generate_temporal_head_mask_mod(p, f, t, w)", mod, shape, **sizes)
    yield from _gym_of_tensors(lib, made)
    yield from _gym_of_grids(lib, made)


def _gym_of_tensors(lib: Any, made: Callable[..., Made]) -> Iterator[Made]:
    """Masks of attention-gym that depend on tensors: documents, global tokens, trees, chosen tiles."""
    for n, g, w in product(LENGTHS, (0, 1, 4), (0, 3, 20)):
        mod = lib.generate_global_sliding_window(w, torch.arange(n) < g)
        yield made(
            "generate_global_sliding_window(w, is_global), g global tokens at the start", mod, (n, n), g=g, w=w
        )
    for n, a, b in ((3, 1, 1), (17, 5, 7), (61, 30, 2), (97, 1, 64)):
        offsets, documents = torch.tensor([0, a, a + b, n]), "documents of a, of b and of the remaining tokens"
        mod = lib.generate_doc_mask_mod(lib.causal_mask, offsets)
        yield made(f"generate_doc_mask_mod(causal_mask, offsets), {documents}", mod, (n, n), a=a, b=b)
        mod = lib.generate_packed_causal_doc_mask_mod(offsets)
        yield made(f"generate_packed_causal_doc_mask_mod(offsets), {documents}", mod, (n, n), a=a, b=b)
        mod = lib.generate_shared_prefix_mask_mod(offsets, torch.tensor([0, 0, 0]))
        written = "a prefix of a tokens, answers of b and of the remaining tokens"
        yield made(f"generate_shared_prefix_mask_mod(offsets, ids), {written}", mod, (n, n), a=a, b=b)
    for tokens, b in product((1, 2, 5, 12, 17), (1, 3, 4, 20)):
        mod = lib.generate_block_diffusion_mask(tokens, b)
        yield made("generate_block_diffusion_mask(L, b)", mod, (2 * tokens, 2 * tokens), L=tokens, b=b)
    for n, t, (a, b, c, d) in ((7, 3, (0, 4, 2, 7)), (31, 5, (3, 11, 11, 31)), (64, 16, (0, 64, 40, 41))):
        mod = lib.generate_vision_cross_attention_mask_mod(torch.tensor([[a, b], [c, d]]), t)
        written = "generate_vision_cross_attention_mask_mod(intervals, T), intervals [[a, b], [c, d]]"
        yield made(written, mod, (n, 2 * t), a=a, b=b, c=c, d=d, T=t)
    for nodes, p in product((1, 2, 9, 30), (0, 1, 11)):
        parents = [-1, *(random.Random(k).randrange(k) for k in range(1, nodes))]
        tree = lib.build_tree_ancestor_matrix(parents, device="cpu")
        mod = lib.generate_jetspec_tree_causal_mask_mod(p, tree)
        written = "generate_jetspec_tree_causal_mask_mod(p, ancestors)"
        yield made(written, mod, (nodes, p + nodes), p=p, drawn=np.argwhere(tree.numpy()))
    for tiles, tile, kept in ((1, 4, 1), (5, 3, 2), (9, 7, 4)):
        chosen = lib.compute_vsa_topk_indices(
            *(torch.randn(1, 1, tiles * tile, 8, generator=torch.Generator().manual_seed(k)) for k in (1, 2)),
            tile_numel=tile, top_k=kept,
        )  # fmt: skip
        drawn = [(q, int(k)) for q in range(tiles) for k in chosen[0, 0, q]]
        mod = lib.generate_vsa_mask_mod(chosen, tile)
        yield made("generate_vsa_mask_mod(topk_indices, tile)", mod, (tiles * tile,) * 2, drawn=drawn, tile=tile)


def _gym_of_grids(lib: Any, made: Callable[..., Made]) -> Iterator[Made]:
    """Masks of attention-gym on canvases, whose tokens may be numbered by tiles or along a curve."""
    yield made("generate_natten(8, 8, 3, 5)", lib.generate_natten(8, 8, 3, 5), (64, 64))
    for (w, h), (a, b) in product(((1, 1), (5, 5), (8, 8), (5, 9), (9, 4)), ((1, 1), (3, 3), (3, 5), (2, 4), (7, 1))):
        sizes, n = dict(W=w, H=h, a=a, b=b), w * h
        yield made(
            "generate_natten(W, H, a, b), any canvas and kernel", lib.generate_natten(w, h, a, b), (n, n), **sizes
        )
        for tw, th in ((1, 1), (w, h), (3 if w % 3 == 0 else 1, 2 if h % 2 == 0 else 1)):
            mod = lib.generate_tiled_natten(w, h, a, b, tw, th)
            yield made("generate_tiled_natten(W, H, a, b, TW, TH)", mod, (n, n), **sizes, TW=tw, TH=th)
    for side, (a, b) in product((2, 4, 8), ((1, 1), (3, 5), (5, 5), (4, 3))):
        mod = lib.generate_morton_natten(side, side, a, b)
        sizes = dict(W=side, H=side, a=a, b=b)
        yield made("generate_morton_natten(W, H, a, b)", mod, (side * side,) * 2, **sizes)
    for (h, w), (kh, kw), (th, tw) in (
        ((6, 6), (2, 4), (2, 2)), ((6, 10), (6, 2), (2, 1)), ((4, 9), (4, 3), (1, 3)), ((8, 8), (4, 6), (2, 2)),
        ((4, 4), (8, 2), (2, 2)),
    ):  # fmt: skip
        sizes, n = dict(H=h, W=w, kh=kh, kw=kw, th=th, tw=tw), h * w
        mod = lib.generate_sta_mask_mod_2d((h, w), (kh, kw), (th, tw))
        yield made("generate_sta_mask_mod_2d((H, W), (kh, kw), (th, tw))", mod, (n, n), **sizes)
        for text, more in product((1, 5), (0, 3)):
            mod = lib.generate_sta_mask_mod_2d((h, w), (kh, kw), (th, tw), text_seq_len=text)
            written = "generate_sta_mask_mod_2d((H, W), (kh, kw), (th, tw), text_seq_len=t), V = H * W"
            yield made(written, mod, (n + text + more,) * 2, **sizes, t=text, V=n)
    for (t, h, w), (kt, kh, kw), (tt, th, tw) in (
        ((2, 4, 6), (2, 2, 4), (1, 2, 2)), ((4, 4, 4), (4, 2, 6), (2, 2, 2)), ((3, 2, 5), (1, 2, 3), (1, 1, 1)),
    ):  # fmt: skip
        for text in (0, 7):
            mod = lib.generate_sta_mask_mod_3d((t, h, w), (kt, kh, kw), (tt, th, tw), text_seq_len=text)
            written = "generate_sta_mask_mod_3d((T, H, W), (kt, kh, kw), (tt, th, tw), text_seq_len=t), V = T * H * W"
            sizes = dict(T=t, H=h, W=w, kt=kt, kh=kh, kw=kw, tt=tt, th=th, tw=tw, t=text, V=t * h * w)
            yield made(written, mod, (t * h * w + text,) * 2, **sizes)


def transformers() -> Iterator[Made]:
    from transformers import masking_utils as lib

    def made(written: str, function: Any, shape: tuple[int, int], offset: int = 0, **sizes: Any) -> Made:
        n, m = shape
        mask = lib.sdpa_mask(1, n, m, q_offset=offset, mask_function=function, allow_is_causal_skip=False)
        return Made(written, mask[0, 0].numpy(), sizes, offset)

    for shape, offset in [*((x, 0) for x in SHAPES), ((1, 9), 8), ((5, 31), 26), ((7, 64), 20)]:
        yield made("causal_mask_function", lib.causal_mask_function, shape, offset)
        yield made("bidirectional_mask_function", lib.bidirectional_mask_function, shape, offset)
        for w in (1, 2, 5, 40):
            for name in ("sliding_window_causal_mask_function", "sliding_window_bidirectional_mask_function"):
                yield made(f"{name}(w)", getattr(lib, name)(w), shape, offset, w=w)
            yield made("sliding_window_overlay(w)", lib.sliding_window_overlay(w), shape, offset, w=w)
            for p in (0, 1, 7):
                padding, sizes = torch.tensor([p]), dict(c=w, p=p)
                name = "0" if p == 0 else "p"
                chunked = lib.chunked_causal_mask_function(w, padding)
                yield made(f"chunked_causal_mask_function(c, left_padding={name})", chunked, shape, offset, **sizes)
            chunked = lib.chunked_overlay(w, torch.tensor([0]))
            yield made("chunked_overlay(c, left_padding=0)", chunked, shape, offset, c=w)
        for p in (0, 1, 4):
            padded = lib.padding_mask_function((torch.arange(shape[1]) >= p)[None])
            function = lib.and_masks(lib.causal_mask_function, padded)
            written = "and_masks(causal_mask_function, padding_mask_function(mask)), p tokens of padding on the left"
            yield made(written, function, shape, offset, p=p)
    for n, a, b in ((3, 1, 1), (17, 5, 7), (61, 30, 2), (97, 1, 64)):
        ids = (torch.arange(n) >= a).int() + (torch.arange(n) >= a + b).int()
        written = "packed_sequence_mask_function(ids), documents of a, of b and of the remaining tokens"
        yield made(written, lib.packed_sequence_mask_function(ids[None]), (n, n), a=a, b=b)
        group = torch.where(ids == 1, 0, -1)
        function = lib.or_masks(lib.causal_mask_function, lib.blockwise_overlay(group[None]))
        written = "or_masks(causal_mask_function, blockwise_overlay(ids)), one group of the tokens a ... b - 1"
        yield made(written, function, (n, n), a=a, b=a + b)


def deepspeed_module() -> Any:
    """deepspeed.ops.sparse_attention.sparsity_config alone: the package around it builds operators when imported."""
    if (spec := find_spec("deepspeed")) is None or not spec.origin:
        raise ModuleNotFoundError("No module named 'deepspeed'")
    path = Path(spec.origin).parent / "ops" / "sparse_attention" / "sparsity_config.py"
    found = spec_from_file_location("sparsity_config", path)
    assert found is not None and found.loader is not None
    module = module_from_spec(found)
    sys.modules["sparsity_config"] = module
    found.loader.exec_module(module)
    return module


def deepspeed() -> Iterator[Made]:
    lib = deepspeed_module()

    def made(written: str, layout: Any, B: int, **sizes: Any) -> Made:
        return Made(written, np.kron(layout.numpy(), np.ones((B, B), dtype=int)) > 0, dict(B=B, **sizes))

    local = "LocalSlidingWindowSparsityConfig(block=B, num_sliding_window_blocks=w"
    longer = "BSLongformerSparsityConfig(block=B, num_sliding_window_blocks=w"
    big = "BigBirdSparsityConfig(block=B, num_sliding_window_blocks=w, num_global_blocks=g"
    one_way, both_ways = dict(attention="unidirectional"), dict(attention="bidirectional")
    said, unsaid = ', attention="unidirectional"', ', attention="bidirectional"'
    for B, blocks in product((1, 3), (1, 2, 3, 5, 8, 13, 17)):
        n = B * blocks
        yield made("DenseSparsityConfig(block=B)", lib.DenseSparsityConfig(1, B).make_layout(n)[0], B)
        for w in (w for w in (1, 2, 3, 5, 8) if w <= blocks):
            for about, options in (("", one_way), (unsaid, both_ways)):
                layout = lib.LocalSlidingWindowSparsityConfig(1, B, w, **options).make_layout(n)[0]
                yield made(f"{local}{about})", layout, B, w=w)
            for about, options in (("", both_ways), (said, one_way)):
                layout = lib.BSLongformerSparsityConfig(1, B, num_sliding_window_blocks=w, **options).make_layout(n)[0]
                yield made(f"{longer}{about})", layout, B, w=w)
                for g in (g for g in (1, 2) if g <= blocks):
                    config = lib.BigBirdSparsityConfig(
                        2, B, True, num_sliding_window_blocks=w, num_global_blocks=g, **options
                    )
                    for layout, drawn in _drawn(config, n):
                        yield made(f"{big}{about})", layout, B, w=w, g=g, drawn=drawn)
            for g, e in ((0, 2), (1, 3), (4, 9)):
                layout = lib.BSLongformerSparsityConfig(
                    1, B, num_sliding_window_blocks=w, global_block_indices=[g], global_block_end_indices=[e]
                ).make_layout(n)[0]
                written = f"{longer}, global_block_indices=[g], global_block_end_indices=[e])"
                yield made(written, layout, B, w=w, g=g, e=e)
        yield from (made(written, layout, B, **sizes) for written, layout, sizes in _fixed(lib, B, n))
        yield from (made(written, layout, B, **sizes) for written, layout, sizes in _variable(lib, B, n))


def _drawn(config: Any, n: int) -> Iterator[tuple[Any, list[tuple[int, int]]]]:
    """The layout of each head and the blocks drawn for it, which the library draws first."""
    random.seed(n)
    layouts = config.make_layout(n)
    random.seed(n)
    for head, layout in enumerate(layouts):
        empty = config.setup_layout(n)
        yield layout, [(int(q), int(k)) for q, k in np.argwhere(config.set_random_layout(head, empty)[head].numpy())]


def _fixed(lib: Any, B: int, n: int) -> Iterator[tuple[str, Any, dict[str, int]]]:
    name, head = "FixedSparsityConfig(block=B, num_local_blocks=l", "p = l - (1 + head % patterns) * g"
    for l in (1, 2, 4, 6):
        for about, options in (("", "bidirectional"), (', attention="unidirectional"', "unidirectional")):
            yield f"{name}{about})", lib.FixedSparsityConfig(1, B, False, l, attention=options).make_layout(n)[0], {"l": l}
        for g in (g for g in (1, 2, 3) if l % g == 0 and g <= n // B):
            for about, options in (
                ("", {}), (', attention="unidirectional"', dict(attention="unidirectional")),
                (", horizontal_global_attention=True", dict(horizontal_global_attention=True)),
            ):  # fmt: skip
                patterns = l // g
                config = lib.FixedSparsityConfig(
                    patterns + 1, B, True, l, g, num_different_global_patterns=patterns, **options
                )
                for h, layout in enumerate(config.make_layout(n)):
                    sizes = dict(l=l, g=g, p=l - (1 + h % patterns) * g)
                    yield f"{name}, num_global_blocks=g{about}), {head}", layout, sizes


def _variable(lib: Any, B: int, n: int) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    name = "VariableSparsityConfig(block=B, local_window_blocks=[a, b], global_block_indices=[g]"
    for a, b, g in product((1, 3, 7), (1, 2, 4), (0, 2, 9)):
        sizes = dict(a=a, b=b, g=g, e=g + 2)
        options: dict[str, Any] = dict(local_window_blocks=[a, b], global_block_indices=[g])
        yield f"{name})", lib.VariableSparsityConfig(1, B, **options).make_layout(n)[0], sizes
        if n // B >= 2:
            both = lib.VariableSparsityConfig(2, B, True, 2, **options, horizontal_global_attention=True)
            for layout, drawn in _drawn(both, n):
                yield f"{name}, num_random_blocks=r, horizontal_global_attention=True)", layout, dict(**sizes, drawn=drawn)
        options |= dict(global_block_end_indices=[g + 2], attention="unidirectional")
        written = f'{name}, global_block_end_indices=[e], attention="unidirectional")'
        yield written, lib.VariableSparsityConfig(1, B, **options).make_layout(n)[0], sizes
