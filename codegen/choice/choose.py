"""The layout of each part: candidates priced at a reference length, the cheapest taken, the rest remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pidsl.codegen.choice.boxes import Product
from pidsl.codegen.choice.cost import Backend, Shape, best_tiles, shape
from pidsl.codegen.choice.digits import products
from pidsl.codegen.choice.parts import Part
from pidsl.codegen.plan.nodes import Alternative
from pidsl.codegen.plan.walks import Grid, Layout
from pidsl.codegen.tiling.bands import Placed, place
from pidsl.codegen.tiling.coordinates import coordinates

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


def choose_layouts(
    found: Sequence[Part], backend: Backend, square: bool, length: int
) -> tuple[list[Choice], list[Alternative]]:
    """The cheapest layout of each part (identity first, diagonals, then the others), and what was rejected."""
    choices: list[Choice] = []
    rejected: list[Alternative] = []
    for x in found:
        best, *others = _options(x, backend, square, length)
        choices += best.choices
        rejected += [Alternative(other.what, other.cost / max(best.cost, 1.0)) for other in others]
    choices.sort(key=lambda c: (str(c.layout) not in ("None", "identity"), c.layout is None, str(c.layout)))
    return choices, rejected


@dataclass(frozen=True, slots=True, order=True)
class _Option:
    """A way to compute a part; of equal costs the lower rank is taken."""

    cost: float
    rank: int
    what: str
    choices: tuple[Choice, ...] = field(compare=False)


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
