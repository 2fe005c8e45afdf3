"""Grid words as conditions for isl: axis by axis on the coordinates of query and key, which the positions determine.

neighborhood((4, 6), (3, 5)) on the second axis, coordinates x of the query and u of the key:

    x - 2 <= u <= x + 2  or  x < 2 and u < 5  or  x >= 4 and u >= 1

The windows that border="clamp" moves inward contain what "cut" leaves of them, so the first part needs no condition on
x, and an interior query has one window, not three.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from pidsl.language.terms import Halo, Neighborhood

QUERY, KEY = ("y0", "y1", "y2"), ("u0", "u1", "u2")


@dataclass(frozen=True, slots=True)
class Axis:
    """Windows on one axis; `causal` ones end at the query."""

    length: int
    window: int
    stride: int
    dilation: int
    causal: bool
    clamped: bool


def grid_condition(term: Neighborhood | Halo) -> str:
    """The condition on i and j, quantified over the coordinates, that a pair is in the term."""
    match term:
        case Neighborhood(shape, window, stride, dilation, causal, border):
            sizes = zip(shape, window, stride, dilation, causal, strict=True)
            found = [neighbors(Axis(*x, border == "clamp"), q, k) for x, q, k in zip(sizes, QUERY, KEY, strict=False)]
        case Halo(shape, block, halo):
            blocks = zip(shape, block, halo, strict=True)
            found = [grown(*x, q, k) for x, q, k in zip(blocks, QUERY, KEY, strict=False)]
    named = dict(zip(QUERY, _places("i", shape), strict=False)) | dict(zip(KEY, _places("j", shape), strict=False))
    inside = [f"{position} >= 0 and {position} < {prod(shape)}" for position in "ij"]
    where = [*inside, *(f"{name} = {place}" for name, place in named.items()), *(f"({x})" for x in found if x)]
    return f"exists {', '.join(named)}: {' and '.join(where)}"


def _places(position: str, shape: Sequence[int]) -> Iterator[str]:
    """The coordinates of a position: `floor(i/6)` and `i mod 6` in a grid with rows of 6.

    Said the other way round, i = 6 y + x with 0 <= x < 6, isl has to find the floors again, and takes minutes.
    """
    for k, length in enumerate(shape):
        inner = prod(shape[k + 1 :])
        row = position if inner == 1 else f"floor({position}/{inner})"
        yield row if k == 0 else f"(({row}) mod {length})"


def neighbors(x: Axis, q: str, k: str) -> str:
    """The condition on coordinates q and k of an axis; empty: all of them."""
    if x.dilation == 1:
        return " or ".join(_windows(x, x.length, q, k))
    t, s, c = f"{q}t", f"{k}t", f"{q}c"
    classes, longer = divmod(x.length, x.dilation)
    options = []
    for first, after, length in ((0, longer, classes + 1), (longer, x.dilation, classes)):
        if first == after or length == 0:
            continue
        windows = " or ".join(_windows(x, length, t, s))
        place = f"{q} = {x.dilation} {t} + {c} and {k} = {x.dilation} {s} + {c} and {first} <= {c} < {after}"
        options.append(f"(exists {t}, {s}, {c}: {place}" + (f" and ({windows}))" if windows else ")"))
    return " or ".join(options)


def _windows(x: Axis, length: int, t: str, s: str) -> Iterator[str]:
    """Alternatives for query t and key s of a class of `length` tokens; none: all keys. Ends are left to the class."""
    window, stride = x.window, x.stride
    group = t if stride == 1 else f"{stride}*floor({t}/{stride})"
    if x.causal:
        if window < length or stride > 1:
            yield f"{group} - {window - stride} <= {s} <= {t}"
            if length % stride:  # the last group ends before its leader
                yield f"{t} >= {length - length % stride} and {length - window} <= {s} <= {t}"
        else:
            yield f"{s} <= {t}"
        return
    before = window // 2
    after = window - 1 - before
    if x.clamped and window >= length:
        return
    leader = stride // 2  # of the group that starts at 0
    yield f"{group} - {before - leader} <= {s} <= {group} + {after + leader}"

    def group_from(position: int) -> int:
        """First token of the first group whose leader is at `position` or behind it."""
        return -(-(position - leader) // stride) * stride

    if not x.clamped:
        if group_from(length) < length:  # the last group ends before its leader
            yield f"{t} >= {group_from(length)} and {s} >= {length - 1 - before}"
        return
    if group_from(before) > 0:
        yield f"{t} < {group_from(before)} and {s} < {window}"
    if group_from(length - after) < length:
        yield f"{t} >= {max(group_from(length - after), 0)} and {s} >= {length - window}"


def grown(length: int, block: int, halo: int, q: str, k: str) -> str:
    """The condition that k is in the block of q or at most `halo` beside it; empty: always."""
    if block >= length:
        return ""
    own = q if block == 1 else f"{block}*floor({q}/{block})"
    return f"{own} - {halo} <= {k} <= {own} + {block - 1 + halo}"
