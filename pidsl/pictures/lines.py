"""Formulas as lines: a bound against the symbol that is left open, and what attention costs against dense attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pidsl.analysis.bound import Bound
from pidsl.errors import SizeError, SymbolError, TermError, TooHardError
from pidsl.language.expr import whole
from pidsl.pictures import style
from pidsl.pictures.figure import panels
from pidsl.studies.cost import Cost

POINTS = 160
MOST = 1 << 40


def plot(subject: Bound | Cost, most: Any, *, ax: Axes | None = None, **values: int) -> Figure:
    """The picture of a bound or of a cost; see `Bound.plot` and `Cost.plot`."""
    end = whole(most)
    if end is None or not 1 <= end <= MOST:
        raise SizeError(f"{most!r}", f"1 <= largest value <= {MOST}", where="plot(...)")
    if isinstance(subject, Cost):
        return _cost(subject, end, ax, values)
    if not subject.is_known:
        raise TooHardError(f"{subject.name} is unknown", "a formula", subject.shown_subject, subject.reason)
    name = _open(subject, values)
    x = _points(end)
    figure, (own,) = panels(1, ax)
    _line(own, subject, name, x, values, style.LINES[0], subject.name)
    if subject.quantity == "pairs" and name == "n":
        own.plot(x, x.astype(float) ** 2, color=style.LINES[5], linestyle="--", label="dense")
        own.plot(x, x * (x + 1.0) / 2, color=style.LINES[5], linestyle=":", label="causal")
    _dressed(own, end, name, subject.name, style.shortened(subject.shown_subject))
    return figure


def _open(bound: Bound, values: Mapping[str, int]) -> str:
    left = sorted(bound.symbols - values.keys())
    if len(left) > 1:
        given = f"{bound.name} with {', '.join(left)} open"
        raise SymbolError(given, "numbers for all of them but one, the axis", where="plot(most, name=number, ...)")
    return left[0] if left else "n"


def _points(most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Whole numbers up to a largest one: all of a few, else evenly apart in their logarithms."""
    if most <= POINTS:
        return np.arange(1, most + 1)
    return np.unique(np.round(np.geomspace(1, most, POINTS)).astype(np.int64))


def _line(own: Axes, bound: Bound, name: str, x: Any, values: Mapping[str, int], color: str, label: str) -> None:
    found = []
    for value in x.tolist():
        try:
            y = float(bound(**{**values, name: value}))
        except SizeError:  # its assumptions do not hold there
            y = float("nan")
        found.append(y if np.isfinite(y) else float("nan"))
    own.plot(x, found, color=color, label=label, linewidth=1.8)


def _cost(cost: Cost, most: int, ax: Axes | None, values: Mapping[str, int]) -> Figure:
    head = cost.forward_flops
    if head.argument("n") is not None:
        raise TermError("the cost at one length", "formulas in n: term.cost()", where="plot(...)")
    if not head.is_known:
        raise TooHardError(f"{head.name} is unknown", "a formula", head.shown_subject, head.reason)
    open_ = sorted(head.symbols - {"n"} - values.keys())
    if open_:
        raise SymbolError(f"a cost with {', '.join(open_)} open", "numbers for them", where="plot(most, name=number)")
    x = _points(most)
    figure, (own,) = panels(1, ax)
    _line(own, head, "n", x, values, style.LINES[0], "forward")
    if cost.backward_flops.is_known:
        _line(own, cost.backward_flops, "n", x, values, style.LINES[1], "backward")
    dense = 4 * head.argument("head_dim") * head.argument("heads") * head.argument("batch")
    own.plot(x, dense * x.astype(float) ** 2, color=style.LINES[5], linestyle="--", label="forward, dense")
    own.plot(x, dense * x * (x + 1.0) / 2, color=style.LINES[5], linestyle=":", label="forward, causal")
    _dressed(own, most, "n", "FLOPs", f"cost of {style.shortened(head.shown_subject)}")
    return figure


def _dressed(own: Axes, most: int, across: str, up: str, title: str) -> None:
    if most > POINTS:
        own.set_xscale("log", base=2)
        own.set_yscale("log", nonpositive="mask")
    own.set_xlabel(across, fontsize=8)
    own.set_ylabel(up, fontsize=8)
    own.set_title(title, fontsize=9)
    own.tick_params(labelsize=7)
    own.grid(color=style.GRID, linewidth=0.5)
    if len(own.get_lines()) > 1:
        own.legend(fontsize=7, frameon=False)
