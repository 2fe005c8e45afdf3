"""The layout of each part: candidates priced at a reference length, the cheapest taken, the rest remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pidsl.codegen.choice.boxes import Product
from pidsl.codegen.choice.cost import Backend, Shape, best_tiles, shape
from pidsl.codegen.choice.digits import products
from pidsl.codegen.choice.lag_tiles import ALIGNED, LagTiles, lags_of
from pidsl.codegen.choice.parts import Part, union_of
from pidsl.codegen.plan.nodes import Alternative
from pidsl.codegen.plan.numbers import Range, joined
from pidsl.codegen.plan.walks import Grid, Layout
from pidsl.codegen.tiling.bands import Placed, place
from pidsl.codegen.tiling.coordinates import coordinates
from pidsl.relation.frame import frame_of

GATHERED = 1.5  # factor on the cost of boxes, whose keys are gathered: plain tiles are taken where they come close
SPARSE = 2.0  # times the cost of the attended pairs alone, from where on products of digits are looked for


@dataclass(frozen=True, slots=True)
class Choice:
    """A part with the layout it is computed in; None: as diagonals."""

    part: Part
    layout: Layout | Grid | None
    placed: Placed
    shape: Shape
    product: Product | None = None  # of a grid
    tiles: LagTiles | None = None  # of the lags of several parts


def choose_layouts(
    found: Sequence[Part], backend: Backend, square: bool, length: int
) -> tuple[list[Choice], list[Alternative]]:
    """The cheapest layout of each part (identity first, diagonals, then the others), and what was rejected."""
    rejected: list[Alternative] = []
    best: list[_Option] = []
    for x in found:
        own, *others = _options(x, backend, square, length)
        best.append(own)
        rejected += [Alternative(other.what, other.cost / max(own.cost, 1.0)) for other in others]
    choices = [choice for option in with_lags_in_tiles(best, backend, square, length) for choice in option.choices]
    choices.sort(key=lambda c: (str(c.layout) not in ("None", "identity"), c.layout is None, str(c.layout)))
    return choices, rejected


@dataclass(frozen=True, slots=True, order=True)
class _Option:
    """A way to compute a part; of equal costs the lower rank is taken."""

    cost: float
    rank: int
    what: str
    choices: tuple[Choice, ...] = field(compare=False)


def with_lags_in_tiles(found: list[_Option], backend: Backend, square: bool, length: int) -> list[_Option]:
    """The options, with parts that are lags in tiles together where that costs less (see `lag_tiles`)."""
    if backend.calls:  # each tile is a call of its own
        return found
    lags = {k: own for k, x in enumerate(found) if (own := _lags_of(x, square)) is not None}
    others = any(_plain(y) for k, x in enumerate(found) if k not in lags for y in x.choices)  # tiles of more than lags
    if len(lags) + others < 2 or all(_plain(found[k].choices[0]) for k in lags):
        return found
    first = found[next(iter(lags))].choices[0]
    frame, rows = frame_of(first.part.relation), first.shape.rows[0][0].size

    def cost(tiled: Sequence[int]) -> float:
        """Of some parts in tiles together, and of the others apart."""
        apart = [k for k in lags if k not in tiled]
        kernels = {True} if tiled or others else set[bool]()
        kernels |= {_plain(found[k].choices[0]) for k in apart}
        total = sum(found[k].cost for k in apart) + (len(kernels) - 1) * rows * backend.resume
        if not tiled:
            return total
        tiles = LagTiles(joined([lags[k] for k in tiled]), frame, square, length)
        return total + tiles.cost(backend, alone=not others)

    near = LagTiles(joined(list(lags.values())), frame, square, length).groups(ALIGNED, ALIGNED)
    groups = [[k for k, x in lags.items() if first <= x[0] and x[1] <= last] for first, last in near]
    dense = [k for own in groups if cost(own) < cost([]) for k in own]  # of those that pay by themselves
    ways = [[], list(lags), dense]
    tiled = min(ways, key=cost)
    if not tiled:
        return found
    tiles = LagTiles(joined([lags[k] for k in tiled]), frame, square, length)
    part = replace(first.part, relation=union_of([found[k].choices[0].part for k in tiled]))
    choice = Choice(part, Layout(frame=frame), first.placed, tiles.shape, tiles=tiles)
    return [*(x for k, x in enumerate(found) if k not in tiled), _Option(cost(tiled), 0, "lags in tiles", (choice,))]


def _lags_of(x: _Option, square: bool) -> Range | None:
    """The lags of a part that is computed as diagonals, or in tiles as it stands."""
    first, *others = x.choices
    return lags_of(first.part, square) if not others and (first.layout is None or _plain(first)) else None


def _plain(x: Choice) -> bool:
    """In tiles as it stands."""
    return isinstance(x.layout, Layout) and x.layout.identity


def _options(x: Part, backend: Backend, square: bool, length: int) -> list[_Option]:
    """The ways to compute a part, the cheapest first."""
    lags = x.lags.values()
    options: list[_Option] = []
    for rank, layout in reversed(list(enumerate(x.layouts))):
        if options and layout.identity and lags is None:  # the identity comes last, and seldom has a chance here
            best = min(options)
            cost = best.choices[0].shape.spread * min(price.full for price in backend.forward)
            if cost > best.cost:
                options.append(_Option(cost, rank, f"{x.lags}: {layout}, at best", best.choices))
                continue
        placed = place(x.relation, coordinates(layout, square))
        outline = shape(placed, length)
        size = best_tiles(outline, backend)
        rows, cols = size.size
        tiles = f"tiles of {rows} rows" + (f" x {cols} keys" if cols > 1 else "")
        choice = Choice(x, layout, placed, outline)
        options.append(_Option(size.cost, rank, f"{x.lags}: {layout}, {tiles}", (choice,)))
    if lags is not None:
        plain = options[-1].choices[0]  # in the identity
        cost = plain.shape.attended * backend.diagonal
        options.append(_Option(cost, len(options), f"{x.lags}: {len(lags)} diagonals", (replace(plain, layout=None),)))
    best = min(options)
    if best.cost > SPARSE * best.choices[0].shape.attended * backend.pair:
        options += _in_digits(x, best.choices[0], backend, length, len(options))
    return sorted(options)


def _in_digits(x: Part, plain: Choice, backend: Backend, length: int, rank: int) -> list[_Option]:
    """The part as products of digits, in boxes, where it falls into such."""
    found = [(relation, Product(axes, backend, length)) for relation, axes in products(x.relation, length) or ()]
    if not found:
        return []
    cost = sum(product.cheapest.cost for _, product in found)
    grids = ", ".join(dict.fromkeys(str(product.grid) for _, product in found))
    choices = tuple(
        replace(plain, part=replace(x, relation=relation), layout=product.grid, product=product)
        for relation, product in found
    )
    return [_Option(GATHERED * cost, rank, f"{x.lags}: {grids}", choices)]
