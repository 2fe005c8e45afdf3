"""The layout of each part: candidates priced at a reference length, the cheapest taken, the rest remembered."""

from __future__ import annotations

from collections.abc import Sequence

from pidsl.codegen.coordinates import coordinates
from pidsl.codegen.cost import Prices, shape, tile_cost
from pidsl.codegen.parts import Part
from pidsl.codegen.plan import Alternative, Layout

Group = tuple[Layout | None, list[Part]]  # parts that share a layout; None: computed as diagonals


def choose_layouts(
    found: Sequence[Part], prices: Prices, square: bool
) -> tuple[list[Group], list[Alternative]]:
    """Parts grouped by their cheapest layout (identity first, then diagonals, then the others), and what was rejected."""
    groups: dict[Layout | None, list[Part]] = {}
    rejected: list[Alternative] = []
    for x in found:
        options: list[tuple[float, str, Layout | None]] = []
        for layout in x.layouts:
            outline = shape(x.relation, coordinates(layout, square))
            cost, rows, cols = min((tile_cost(outline, prices, r, c), r, c) for r, c in prices.sizes)
            tiles = f"tiles of {rows} rows" + (f" x {cols} keys" if cols > 1 else "")
            options.append((cost, f"{x.lags}: {layout}, {tiles}", layout))
        if (values := x.lags.values()) is not None:
            attended = shape(x.relation, coordinates(Layout(), square)).attended
            options.append((attended * prices.diagonal, f"{x.lags}: {len(values)} diagonals", None))
        options.sort(key=lambda o: o[0])
        groups.setdefault(options[0][2], []).append(x)
        least = max(options[0][0], 1.0)
        rejected += [Alternative(what, cost / least) for cost, what, _ in options[1:]]
    order = sorted(groups, key=lambda g: (g is not None and g != Layout(), g is None, str(g)))
    return [(layout, groups[layout]) for layout in order], rejected
