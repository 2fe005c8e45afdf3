"""How other libraries write patterns of grids: shifted blocks, halos, neighbourhoods and tiles of them."""

from __future__ import annotations

from pidsl.patterns.spelling import Spelling

__all__ = ["GRIDS"]

_CLAMPED = (
    "(abs(minimum(maximum(x(i), a), W - 1 - a) - x(j)) <= a) & (abs(minimum(maximum(y(i), b), H - 1 - b) - y(j)) <= b)"
)
_TILED = "x=lambda t: t // (TH * TW) % (W // TW) * TW + t % TW, y=lambda t: t // (TH * W) * TH + t % (TH * TW) // TW"
_EVEN = "sum(t // 4**k % 2 * 2**k for k in range(8))"  # the number of every other bit
_MORTON = f"x=lambda t: {_EVEN}, y=lambda t: {_EVEN.replace('t //', 't // 2 //')}"
_TEXT = "keys(V, None) | queries(V, None)) & keys(0, V + t)"

GRIDS: dict[str, tuple[Spelling, ...]] = {
    "block_local": (
        Spelling(
            "Swin, timm",
            "window_size=s, shift_size=h, in one dimension",
            "where(lambda i, j: (i - h) // s == (j - h) // s)",
            "after the cyclic shift and its mask; n a multiple of s",
        ),
        Spelling(
            "timm",
            "SwinTransformerBlock(input_resolution=(H, W), window_size=s, shift_size=h)",
            "where(lambda i, j: ((i // W - h) // s == (j // W - h) // s) & ((i % W - h) // s == (j % W - h) // s))",
            "H and W multiples of s; timm pads other lengths, and mixes both ends there",
        ),
        Spelling(
            "timm", 'PartitionAttentionCl("block", window_size=s) on H x W tokens', "halo((H, W), s, 0)", "MaxViT"
        ),
        Spelling(
            "timm",
            'PartitionAttentionCl("grid", grid_size=s) on H x W tokens',
            "where(lambda i, j: (i // W % (H // s) == j // W % (H // s)) & (i % (W // s) == j % (W // s)))",
            "MaxViT: s tokens per axis, as far apart as the grid allows",
        ),
    ),
    "halonet": (
        Spelling(
            "timm",
            "HaloAttn(block_size=b, halo_size=h)",
            "halo(shape, b, h)",
            "the same keys; timm pads with zeros beside, which enter the softmax of blocks at the border",
        ),
    ),
    "neighborhood": (
        Spelling("NATTEN", "na1d(kernel_size=6)", "neighborhood(48, 6)"),
        Spelling("NATTEN", "na1d(kernel_size=5, dilation=3)", "neighborhood(47, 5, dilation=3)"),
        Spelling("NATTEN", "na1d(kernel_size=6, stride=4)", "neighborhood(47, 6, stride=4)"),
        Spelling(
            "NATTEN",
            "na1d(kernel_size=6, stride=4, dilation=2, is_causal=True)",
            "neighborhood(47, 6, stride=4, dilation=2, causal=True)",
        ),
        Spelling("NATTEN", "na2d(kernel_size=(3, 5))", "neighborhood((9, 7), (3, 5))"),
        Spelling(
            "NATTEN",
            "na2d(kernel_size=(3, 2), dilation=(2, 3), is_causal=(True, False))",
            "neighborhood((9, 7), (3, 2), dilation=(2, 3), causal=(True, False))",
        ),
        Spelling(
            "NATTEN",
            "na3d(kernel_size=(2, 3, 4), stride=(1, 2, 3))",
            "neighborhood((3, 5, 6), (2, 3, 4), stride=(1, 2, 3))",
        ),
        Spelling(
            "NATTEN",
            "na1d, na2d, na3d(kernel_size=w, stride=s, dilation=d, is_causal=c)",
            "neighborhood(shape, w, s, d, c)",
            "`shape` is that of the input's tokens",
        ),
        Spelling(
            "attention-gym",
            "generate_natten(8, 8, 3, 5)",
            "neighborhood((8, 8), (3, 5))",
            "square canvases and odd kernels; for others, whose rows are clamped by the width, see below",
        ),
        Spelling(
            "attention-gym",
            "generate_natten(W, H, a, b), any canvas and kernel",
            "where(lambda i, j, a=a // 2, b=b // 2: "
            "(abs(minimum(maximum(i // W, a), W - 1 - a) - j // W) <= a) & "
            "(abs(minimum(maximum(i % W, b), H - 1 - b) - j % W) <= b))",
        ),
        Spelling(
            "attention-gym",
            "generate_tiled_natten(W, H, a, b, TW, TH)",
            f"where(lambda i, j, {_TILED}, a=a // 2, b=b // 2: {_CLAMPED})",
            "tokens numbered tile by tile",
        ),
        Spelling(
            "attention-gym",
            "generate_morton_natten(W, H, a, b)",
            f"where(lambda i, j, {_MORTON}, a=a // 2, b=b // 2: {_CLAMPED})",
            "tokens along a Morton curve",
        ),
        Spelling(
            "attention-gym",
            "generate_sta_mask_mod_2d((H, W), (kh, kw), (th, tw))",
            "neighborhood((H // th, W // tw), (kh // th, kw // tw)).blocked(th * tw)",
            "sliding tiles, tokens numbered tile by tile",
        ),
        Spelling(
            "attention-gym",
            "generate_sta_mask_mod_2d((H, W), (kh, kw), (th, tw), text_seq_len=t), V = H * W",
            f"(neighborhood((H // th, W // tw), (kh // th, kw // tw)).blocked(th * tw) | {_TEXT}",
        ),
        Spelling(
            "attention-gym",
            "generate_sta_mask_mod_3d((T, H, W), (kt, kh, kw), (tt, th, tw), text_seq_len=t), V = T * H * W",
            "(neighborhood((T // tt, H // th, W // tw), (kt // tt, kh // th, kw // tw)).blocked(tt * th * tw) | "
            f"{_TEXT}",
        ),
    ),
}
