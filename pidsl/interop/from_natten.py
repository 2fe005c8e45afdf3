"""`from_natten`: a call of NATTEN's `na1d`, `na2d` or `na3d` as a pattern (NATTEN 0.20 and later)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pidsl.errors import TermError
from pidsl.interop.imported import Imported, scale_of
from pidsl.language.expr import whole
from pidsl.language.grids import neighborhood
from pidsl.language.terms import Neighborhood, Term
from pidsl.runtime.call.keywords import refuse

__all__ = ["from_natten"]

Sizes = int | Sequence[int]
CALL = "pidsl.from_natten(kernel_size, ...)"

# Its calls, as docs/reference/patterns.md has them.
_CAUSAL = "na1d(kernel_size=w, is_causal=True)"
_DILATED = "na1d(kernel_size=w, dilation=d, is_causal=True)"
_GRID = "na1d, na2d, na3d(kernel_size=w, stride=s, dilation=d, is_causal=c)"

# Of NATTEN's arguments, those that say how it computes, and not what.
_HOW = frozenset([
    "backend", "q_tile_shape", "kv_tile_shape", "backward_q_tile_shape", "backward_kv_tile_shape",
    "backward_kv_splits", "backward_use_pt_reduction", "run_persistent_kernel", "kernel_schedule", "torch_compile",
    "attention_kwargs", "use_flex_attention", "try_fuse_additional_keys",
])  # fmt: skip
# And what is no pattern of a grid.
_BESIDE = {
    "additional_keys": "keys beside the grid: a kernel for them, and pidsl.merge([(out, lse), ...]) of both",
    "additional_values": "values beside the grid: a kernel for them, and pidsl.merge([(out, lse), ...]) of both",
    "rpb": "a bias for each offset of a window: pidsl.score(bias=(low, high)) has one for each lag",
}


def from_natten(
    kernel_size: Sizes, stride: Sizes | None = 1, dilation: Sizes | None = 1,
    is_causal: bool | Sequence[bool] | None = False, scale: float | None = None, *, shape: Sizes | None = None,
    return_lse: bool = False, **options: Any,
) -> Term | Imported:  # fmt: skip
    """The pattern of `na1d`, `na2d` or `na3d(query, key, value, kernel_size, stride, dilation, is_causal, scale)`.

    >>> from_natten(kernel_size=(7, 7), dilation=2, shape=(32, 48))
    neighborhood((32, 48), 7, dilation=2)
    >>> from_natten(kernel_size=8, dilation=3, is_causal=True)
    window(7).dilated(3)

    q, k and v of NATTEN are `[batch, *shape, heads, dim]`; a kernel of pidsl takes
    `q.flatten(1, -3).transpose(1, 2)`, the tokens row by row.

    Args:
        kernel_size, stride, dilation, is_causal: as NATTEN takes them, for all axes or one for each.
        scale: goes to the call; None or 0: 1 / sqrt(dim), as in NATTEN.
        shape: lengths of the axes in tokens, those of the input: `query.shape[1:-2]`. A causal window over one axis
            without a stride needs none: it is the same at every length.
        return_lse: goes to the call.
        options: those of NATTEN that say how it computes are left aside.

    Returns:
        A term. With a scale or `return_lse`, an `Imported`.

    Raises:
        TermError: what NATTEN refuses too, such as windows that reach beyond the grid; no shape; additional keys.
        KeywordError: an argument that NATTEN has not, with where it goes.
    """
    if unknown := {name: value for name, value in options.items() if name not in _HOW and value is not None}:
        name = next((x for x in unknown if x in _BESIDE), None)
        if name is None:
            refuse(from_natten, CALL, (), unknown)
        given, expected = f"{name} = ...", "what makes a pattern: kernel_size, stride, dilation, is_causal"
        raise TermError(given, expected, CALL, _BESIDE[name])
    stride, dilation = (1 if x is None else x for x in (stride, dilation))
    is_causal = False if is_causal is None else is_causal
    if shape is None:
        found = _of_any_length(kernel_size, stride, dilation, is_causal)
    else:
        found = _of_grid(kernel_size, stride, dilation, is_causal, shape)
    inputs: dict[str, Any] = {"scale": scale_of(scale, CALL)} if scale else {}
    inputs |= {"return_lse": True} if return_lse else {}
    return Imported((found,), inputs) if inputs else found


def _of_grid(
    kernel_size: Sizes, stride: Sizes, dilation: Sizes, is_causal: bool | Sequence[bool], shape: Sizes
) -> Term:
    grid, keys, groups, apart = (
        tuple(x) if isinstance(x, Sequence) else x for x in (shape, kernel_size, stride, dilation)
    )
    causal = tuple(is_causal) if isinstance(is_causal, Sequence) else is_causal
    found = _spelled(_GRID, shape=grid, w=keys, s=groups, d=apart, c=causal)
    assert isinstance(found, Neighborhood)
    for length, size, step in zip(found.shape, found.window, found.dilation, strict=True):
        if size * step > length:
            given = f"kernel_size {size} with dilation {step} on an axis of {length} tokens"
            hint = f"pidsl.{found!r}, which NATTEN does not compute"
            raise TermError(given, "kernel_size * dilation <= the length of the axis, as NATTEN asks", CALL, hint)
    return found


def _of_any_length(kernel_size: Sizes, stride: Sizes, dilation: Sizes, is_causal: bool | Sequence[bool]) -> Term:
    """A causal window over one axis: nothing of it moves inward at a border."""
    one: list[Any] = [
        x[0] if isinstance(x, Sequence) and len(x) == 1 else x for x in (kernel_size, stride, dilation, is_causal)
    ]
    if any(isinstance(x, Sequence) for x in one) or one[3] is not True or one[1] != 1:
        expected = "the shape of the grid: windows move inward at its border"
        raise TermError("no shape", expected, CALL, "from_natten(..., shape=query.shape[1:-2])")
    size, apart = whole(one[0]) or 1, whole(one[2]) or 1
    neighborhood(size * apart, one[0], 1, one[2], True)  # refuses what sizes cannot be
    return _spelled(_CAUSAL, w=size) if apart == 1 else _spelled(_DILATED, w=size, d=apart)


def _spelled(written: str, **sizes: Any) -> Term:
    from pidsl.patterns.spellings import spelled

    return spelled("NATTEN", written).made(**sizes)
