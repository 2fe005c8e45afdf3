"""Words for tokens that lie on a grid: `neighborhood` and `halo`.

A grid has one to three axes of fixed lengths, and its tokens are numbered row by row: in a grid (H, W) the token at
(y, x) has position W * y + x. Positions beyond the grid attend nothing and are attended by nobody, and of a grid
that is longer than the sequence the tokens that exist take part: such a term, too, has a meaning for every n and m.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal

from pidsl.errors import TermError
from pidsl.language.expr import Expr
from pidsl.language.sizes import LIMIT, size
from pidsl.language.terms import Halo, Neighborhood, Term

Sizes = int | Sequence[int]  # one for all axes, or one per axis


def neighborhood(
    shape: Sizes, window: Sizes, stride: Sizes = 1, dilation: Sizes = 1, causal: bool | Sequence[bool] = False,
    border: Literal["clamp", "cut"] = "clamp",
) -> Term:  # fmt: skip
    """Attends, on every axis of a grid, the `window` tokens nearest to the query: neighborhood attention.

    On an axis of length L, position y of the query: within the residue class of y mod dilation, whose tokens are
    numbered 0, 1, ..., the window of token t starts at `leader - window // 2` and has `window` tokens, so an even
    window holds one token more before the query than after it. The leader of t is t itself, or with a stride the
    middle of its group, `t // stride * stride + stride // 2`, at most the last token. A causal axis has windows that
    end with t and start `window - 1` tokens before the last token of its group.

    At the border, "clamp" moves the window inward, so that every query has `window` keys (the whole class where
    that is shorter); "cut" leaves out what lies outside. Causal windows are cut in either case.

    >>> neighborhood(5, 3).mask(5).astype(int)
    array([[1, 1, 1, 0, 0],
           [1, 1, 1, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 1, 1, 1],
           [0, 0, 1, 1, 1]])
    >>> neighborhood((4, 6), (3, 5), border="cut").mask(24)[0].reshape(4, 6).astype(int)  # the keys of the first token
    array([[1, 1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0, 0],
           [0, 0, 0, 0, 0, 0],
           [0, 0, 0, 0, 0, 0]])

    Args:
        shape: lengths of the axes, in tokens: an integer, or a tuple of one to three; the last axis varies fastest.
        window: tokens of a window, >= 1; this and what follows for all axes, or a tuple with one for each.
        stride: tokens that share a leader, 1 .. window.
        dilation: distance of neighbouring tokens of a window, >= 1.
        causal: whether no key may lie after the query on the axis.
        border: "clamp" or "cut".

    Raises:
        TermError: a size is not an integer (symbols are none), out of range, or there are more or fewer than axes.

    Source: Hassani et al., Neighborhood Attention Transformer (2204.07143); strides: Generalized Neighborhood
    Attention (2504.16922). The same masks as NATTEN's, which allows only windows with window * dilation <= length.
    """
    shown = {"stride": stride, "dilation": dilation, "causal": causal, "border": border}
    usual = {"stride": 1, "dilation": 1, "causal": False, "border": "clamp"}
    named = "".join(f", {name}={value!r}" for name, value in shown.items() if value != usual[name])
    where = f"neighborhood({shape!r}, {window!r}{named})"
    axes = _shape(shape, where)
    windows = _per_axis(window, len(axes), "window", where, 1)
    strides = _per_axis(stride, len(axes), "stride", where, 1)
    for own, most in zip(strides, windows, strict=True):
        if own > most:
            hint = "queries further apart than a window would not see themselves"
            raise TermError(f"stride = {own}", f"1 <= stride <= window = {most}", where, hint)
    dilations = _per_axis(dilation, len(axes), "dilation", where, 1)
    flags: tuple[Any, ...] = tuple(causal) if isinstance(causal, tuple | list) else (causal,) * len(axes)
    if len(flags) != len(axes) or not all(isinstance(x, bool) for x in flags):
        raise TermError(f"causal = {causal!r}", f"True or False, or {_count(len(axes))} of them", where)
    if border not in ("clamp", "cut"):
        raise TermError(f"border = {border!r}", '"clamp" (windows move inward) or "cut" (windows end there)', where)
    return Neighborhood(axes, windows, strides, dilations, flags, border)


def halo(shape: Sizes, block: Sizes, halo: Sizes) -> Term:
    """Attends the query's block of a grid, grown by `halo` tokens on every side and cut at the border.

    On every axis: `block * (y // block) - halo <= key < block * (y // block) + block + halo`.

    >>> halo(6, 2, 1).mask(6).astype(int)
    array([[1, 1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 1, 1, 1, 1, 0],
           [0, 0, 0, 1, 1, 1],
           [0, 0, 0, 1, 1, 1]])

    Args:
        shape: lengths of the axes, in tokens: an integer, or a tuple of one to three; the last axis varies fastest.
        block: tokens of a block, >= 1, for all axes, or a tuple with one for each; the last block may be shorter.
        halo: tokens on either side, >= 0, likewise.

    Raises:
        TermError: a size is not an integer (symbols are none), out of range, or there are more or fewer than axes.

    Source: Vaswani et al., Scaling Local Self-Attention for Parameter Efficient Visual Backbones (2103.12731).
    """
    where = f"halo({shape!r}, {block!r}, {halo!r})"
    axes = _shape(shape, where)
    return Halo(
        axes, _per_axis(block, len(axes), "block", where, 1), _per_axis(halo, len(axes), "halo", where, 0)
    )  # fmt: skip


def _shape(value: Sizes, where: str) -> tuple[int, ...]:
    axes = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not 1 <= len(axes) <= 3:
        raise TermError(f"shape = {value!r}", "one to three axes", where)
    lengths = tuple(_number(x, "shape", where, 1) for x in axes)
    if prod(lengths) >= LIMIT:
        raise TermError(f"shape = {value!r}: {prod(lengths)} tokens", "fewer than 2**31 tokens", where)
    return lengths


def _per_axis(value: Sizes, axes: int, name: str, where: str, least: int) -> tuple[int, ...]:
    found: tuple[Any, ...] = tuple(value) if isinstance(value, tuple | list) else (value,) * axes
    if len(found) != axes:
        raise TermError(f"{name} = {value!r}", f"an integer, or {_count(axes)} of them", where)
    return tuple(_number(x, name, where, least) for x in found)


def _number(value: object, name: str, where: str, least: int) -> int:
    if isinstance(value, Expr):
        hint = "build the term from numbers: a function of the sizes that returns it"
        raise TermError(f"{name} = {value!r} (a symbol)", "a number: grids are fixed", where, hint)
    found = size(value, name, where, least=least)
    assert isinstance(found, int)
    return found


def _count(axes: int) -> str:
    return {1: "a tuple of one", 2: "a tuple of two", 3: "a tuple of three"}[axes]
