"""Pictures as SVG: a path for each kind of cell, the same text each time, with classes for a page to colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.pictures import style
from pidsl.pictures.cells import Cells

MASK = {1: ("some", style.PARTIAL), 2: ("every", style.FULL)}


def rectangles(kinds: NDArray[np.uint8], kind: int) -> Iterator[tuple[int, int, int, int]]:
    """(row, column, height, width) of the runs of a kind; equal ones in rows below each other are one.

    >>> list(rectangles(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], np.uint8), 1))
    [(0, 0, 2, 2), (2, 2, 1, 1)]
    """
    open_: dict[tuple[int, int], int] = {}
    for row in range(len(kinds) + 1):
        runs: dict[tuple[int, int], int] = {}
        if row < len(kinds):
            edges = np.flatnonzero(np.diff(np.pad((kinds[row] == kind).astype(np.int8), 1)))
            runs = {(int(a), int(b)): row for a, b in zip(edges[::2], edges[1::2], strict=True)}
        for run, start in open_.items():
            if run in runs:
                runs[run] = start
            else:
                yield start, run[0], row - start, run[1] - run[0]
        open_ = runs


def path(kinds: NDArray[np.uint8], kind: int) -> str:
    """The cells of a kind as the data of a path."""
    found = sorted(rectangles(kinds, kind))
    return "".join(f"M{x} {y}h{w}v{h}h{-w}z" for y, x, h, w in found)


def picture(
    kinds: NDArray[np.uint8], names: Mapping[int, tuple[str, str]], label: str, lines: str = "", size: int = 320
) -> str:
    """Numbered kinds as an image of `size` pixels at most, `names` giving the class and the colour of each.

    Args:
        kinds: uint8 [R, C]; 0 is paper.
        names: for each kind a class and a colour.
        label: what it shows, for who cannot see it.
        lines: data of a path that is drawn over it: the edges of tiles.
        size: of its longer side.
    """
    rows, columns = max(1, kinds.shape[0]), max(1, kinds.shape[1])
    scale = size / max(rows, columns)
    drawn = "".join(
        f'<path class="pidsl-{name}" fill="{color}" d="{data}"/>'
        for kind, (name, color) in names.items()
        if (data := path(kinds, kind))
    )
    stroke = max(rows, columns) / 640
    over = f'<path class="pidsl-line" fill="none" stroke="{style.GRID}" stroke-width="{stroke:g}" d="{lines}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {columns} {rows}" '
        f'width="{max(8, round(columns * scale))}" height="{max(8, round(rows * scale))}" preserveAspectRatio="none" '
        f'shape-rendering="crispEdges"><title>{escape(label)}</title>'
        f'<rect class="pidsl-paper" width="{columns}" height="{rows}" fill="{style.PAPER}"/>{drawn}'
        f"{over if lines else ''}"
        f'<rect class="pidsl-frame" width="{columns}" height="{rows}" fill="none" stroke="{style.GRID}" '
        f'stroke-width="{2 * stroke:g}"/></svg>'
    )


def mask(found: Cells, label: str, size: int = 320) -> str:
    """The cells of a pattern."""
    return picture(found.kinds, MASK, label, size=size)


def chart(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    across: str,
    up: str,
    width: int = 560,
    height: int = 300,
) -> str:
    """Lines over a logarithmic x and a logarithmic y, labelled where they end.

    Args:
        x: ascending, > 0.
        series: a value > 0 for each x, by name.
        across, up: what the axes are.
    """
    left, right, top, bottom = 58, 12, 12, 44
    low, high = np.log10(min(x)), np.log10(max(x))
    values = [v for line in series.values() for v in line if v > 0] or [1.0]
    floor, ceiling = np.floor(np.log10(min(values))), np.ceil(np.log10(max(values)) + 1e-9)
    ceiling = max(ceiling, floor + 1)

    def at(a: float, b: float) -> tuple[float, float]:
        across_ = (np.log10(a) - low) / max(high - low, 1e-9)
        up_ = (np.log10(b) - floor) / (ceiling - floor)
        return left + across_ * (width - left - right), height - bottom - up_ * (height - top - bottom)

    parts: list[str] = []
    step = max(1, int(np.ceil((ceiling - floor) / 6)))
    for power in range(int(floor), int(ceiling) + 1, step):
        _, y = at(x[0], 10.0**power)
        parts.append(f'<path class="pidsl-line" stroke="{style.GRID}" d="M{left} {y:.1f}H{width - right}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_power(power)}</text>')
    for value in x[:: max(1, len(x) // 6)]:
        px, _ = at(value, 10.0**floor)
        parts.append(f'<text x="{px:.1f}" y="{height - bottom + 16}" text-anchor="middle">{short(value)}</text>')
    for k, (name, line) in enumerate(series.items()):
        points = [at(a, b) for a, b in zip(x, line, strict=True) if b > 0]
        data = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) if points else ""
        color = style.LINES[k % len(style.LINES)]
        dash = ' stroke-dasharray="6 4"' if k == 0 else ""
        parts.append(
            f'<path class="pidsl-series-{k}" fill="none" stroke="{color}" stroke-width="2"{dash} d="{data}">'
            f"<title>{escape(name)}</title></path>"
        )
    parts.append(
        f'<text x="{(left + width - right) / 2:.0f}" y="{height - 8}" text-anchor="middle">{escape(across)}</text>'
    )
    label = f"{up} against {across}: " + ", ".join(series)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pidsl-chart" role="img" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-size="12" font-family="sans-serif" fill="currentColor">'
        f"<title>{escape(label)}</title>{''.join(parts)}</svg>"
    )


def _power(power: int) -> str:
    return {0: "1", 1: "10"}.get(power, f'10<tspan dy="-5" font-size="9">{power}</tspan>')


def short(value: Any) -> str:
    """A length as people write it.

    >>> short(1024), short(65536), short(1048576), short(1000)
    ('1k', '64k', '1M', '1,000')
    """
    whole = int(value)
    for size, name in ((1 << 20, "M"), (1 << 10, "k")):
        if whole >= size and whole % size == 0:
            return f"{whole // size}{name}"
    return f"{whole:,}"
