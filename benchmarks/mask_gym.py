"""Masks that attention-gym makes for FlexAttention."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from mask_functions import LENGTHS, SHAPES, Made


class Mod(NamedTuple):
    """A mask_mod of attention-gym, with numbers of queries and keys that it is for."""

    written: str
    mod: Any
    shape: tuple[int, int]
    sizes: dict[str, Any]


def attention_gym() -> Iterator[Made]:
    from torch.nn.attention.flex_attention import create_mask

    for written, mod, shape, sizes in mods():
        yield Made(written, create_mask(mod, 1, 1, *shape, device="cpu")[0, 0].numpy(), sizes)


def mods() -> Iterator[Mod]:
    """Every mask of attention-gym that is a mask_mod, at many sizes."""
    from attn_gym import masks as lib

    def made(written: str, mod: Any, shape: tuple[int, int], **sizes: Any) -> Mod:
        return Mod(written, mod, shape, sizes)

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


def _gym_of_tensors(lib: Any, made: Callable[..., Mod]) -> Iterator[Mod]:
    """Masks of attention-gym that depend on tensors: documents, global tokens, trees, chosen tiles."""
    written = "generate_global_sliding_window(w, is_global), global tokens at positions"
    for n, w, positions in product(LENGTHS, (0, 3, 20), ((2,), (0, 5, 6, 40))):
        mod = lib.generate_global_sliding_window(w, torch.isin(torch.arange(n), torch.tensor(positions)))
        yield made(written, mod, (n, n), w=w, positions=positions)
    for n, g, w in product(LENGTHS, (0, 1, 4), (0, 3, 20)):
        mod = lib.generate_global_sliding_window(w, torch.arange(n) < g)
        yield made("generate_global_sliding_window(w, is_global), g global tokens at the start", mod, (n, n), g=g, w=w)
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


def _gym_of_grids(lib: Any, made: Callable[..., Mod]) -> Iterator[Mod]:
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
