"""The layout of each part: candidates priced at a reference length, the cheapest taken, the rest remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pidsl.codegen.bands import Placed, place
from pidsl.codegen.coordinates import coordinates
from pidsl.codegen.cost import Prices, Shape, shape, tile_cost
from pidsl.codegen.parts import Part
from pidsl.codegen.plan import Alternative, Layout


@dataclass(frozen=True, slots=True)
class Choice:
    """A part with the layout it is computed in; None: as diagonals."""

    part: Part
    layout: Layout | None
    placed: Placed
    shape: Shape


def choose_layouts(found: Sequence[Part], prices: Prices, square: bool) -> tuple[list[Choice], list[Alternative]]:
    """The cheapest layout of each part (identity first, diagonals, then the others), and what was rejected."""
    choices: list[Choice] = []
    rejected: list[Alternative] = []
    for x in found:
        lags = x.lags.values()
        places = {layout: place(x.relation, coordinates(layout, square)) for layout in x.layouts}
        outlines = {layout: shape(placed) for layout, placed in places.items()}
        options: list[tuple[float, str, Layout | None]] = []
        for layout, outline in outlines.items():
            cost, rows, cols = min((tile_cost(outline, prices, r, c), r, c) for r, c in prices.sizes)
            tiles = f"tiles of {rows} rows" + (f" x {cols} keys" if cols > 1 else "")
            options.append((cost, f"{x.lags}: {layout}, {tiles}", layout))
        if lags is not None:
            cost = outlines[Layout()].attended * prices.diagonal
            options.append((cost, f"{x.lags}: {len(lags)} diagonals", None))
        options.sort(key=lambda o: o[0])
        best = options[0][2]
        choices.append(Choice(x, best, places[best or Layout()], outlines[best or Layout()]))
        least = max(options[0][0], 1.0)
        rejected += [Alternative(what, cost / least) for cost, what, _ in options[1:]]
    choices.sort(key=lambda c: (c.layout is not None and c.layout != Layout(), c.layout is None, str(c.layout)))
    return choices, rejected
