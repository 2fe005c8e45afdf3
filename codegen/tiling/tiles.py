"""The loops over tiles that compute a piece, for every n at once.

A program owns one tile of a dimension and sweeps tiles of the other. From the band of the piece (the interval of
keys of each row) the tiles follow by looking at the corners of the own tile, because the bounds are monotone:

    touched   from the least lower bound to the greatest upper bound of the tile's rows
    full      from the greatest lower bound to the least upper bound: no pair is missing, no mask is needed
    runs      the full tiles, and the touched ones before and after them; all end at the last tile that exists

Where the sequence ends is kept apart from the pattern: rows beyond n may hang over a full tile (they are never
stored); the ragged last tile of keys is masked. A piece without a band goes through isl's set operations
(`tile_sets`); a mask is always right, so giving up on precision only costs time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pidsl.codegen.plan.walks import Over, Run, Runs
from pidsl.codegen.tiling.bands import Band, Bound, Placed, band
from pidsl.codegen.tiling.coordinates import Coordinates
from pidsl.codegen.tiling.forms import Form
from pidsl.codegen.tiling.tile_sets import general_sweep, last_tile, whole_tiles
from pidsl.language.algebra import both, greatest, smallest
from pidsl.language.expr import And, Index, Not, Pred, evaluate

PROBE = 16384  # length at which a sweep without any full tile is taken to have none


def sweep(placed: Placed, over: Over, rows: int, cols: int, *, split: bool = True) -> Runs:
    """Loops over the tiles of one dimension for a given tile `t` of the other.

    Args:
        placed: the piece in its layout.
        over: the dimension that is swept.
        rows: rows of a tile.
        cols: keys of a tile.
        split: whether to look for full tiles; without, every run has a mask.
    """
    at = placed.at
    found = placed.keys if over == "keys" else band(placed.mask, over)
    if found is None:
        return general_sweep(at, placed.mask, over, rows, cols, split=split)
    runs = _runs(at, found, over, rows, cols, split)
    return Runs(at.layout, over, rows, cols, tuple(_plain(at, run) for run in runs))


def _runs(at: Coordinates, found: Band, over: Over, rows: int, cols: int, split: bool) -> list[Run]:
    own, own_size, size = ("a", rows, cols) if over == "keys" else ("b", cols, rows)
    near = Form(0, {"t": own_size})
    far = Form(own_size - 1, {"t": own_size})
    end = last_tile(at, over, size)

    def tiles(bounds: Sequence[Bound], *, least: bool, plus: int = 0) -> list[Form]:
        corners = (b.value.put(own, near if (b.slope > 0) == least else far) for b in bounds)
        return [Form(x.constant + plus, x.terms).floored(size) for x in corners]

    # tiles that some row of the own tile reaches
    first = greatest([0, *(x.index() for x in tiles(found.lower, least=True))])
    last = smallest([end, *(x.index() for x in tiles(found.upper, least=False))])
    guard = found.guard
    within: Pred | None = None  # every own index has keys
    for x in found.first:
        guard = both(guard, far.plus(x, -1).compare(">="))
        within = both(within, near.plus(x, -1).compare(">="))
    for x in found.last:
        guard = both(guard, x.plus(near, -1).compare(">="))
        within = both(within, x.plus(far, -1).compare(">="))
    if within is None:
        everything = [Run(False, first, last, 1, guard)]
    else:
        assert guard is not None
        edges = Run(False, first, last, 1, And(guard, Not(within)), edge=True)
        everything = [Run(False, first, last, 1, within if found.guard is None else And(found.guard, within)), edges]
    if not split or not found.exact or found.guard is not None:
        return everything
    # tiles in which no row of the own tile misses a key
    whole = end if over == "queries" else whole_tiles(at, size) - 1
    inner_first = greatest([0, *(x.index() for x in tiles(found.lower, least=False, plus=size - 1))])
    before = (Form(x.constant - 1, x.terms) for x in tiles(found.upper, least=True, plus=1))
    inner_last = smallest([whole, *(x.index() for x in before)])
    if not _ever(at, over, own_size, inner_first, inner_last):
        return everything
    runs = [Run(True, inner_first, inner_last, 1, within)]
    if inner_first != first:
        runs.append(Run(False, first, smallest([inner_first - 1, last]), 1, within))
    if inner_last != last:
        runs.append(Run(False, greatest([first, inner_first, inner_last + 1]), last, 1, within))
    return [*runs, *everything[1:]]


def _ever(at: Coordinates, over: Over, own_size: int, first: Index, last: Index) -> bool:
    """Whether the loop first .. last is ever entered at the probe length (if not, dropping it costs nothing there)."""
    layout = at.layout
    step = layout.query_step if over == "keys" else layout.key_step
    tiles = np.arange(max(1, -(-PROBE // (step * own_size))))
    env: dict[str, Any] = {"n": PROBE, "m": PROBE, "offset": 0, "key_offset": 0, "t": tiles, "c": 0}
    env["d"] = evaluate(layout.key_class_of(0), env)
    return bool(np.any(np.asarray(evaluate(at.plain(first), env)) <= np.asarray(evaluate(at.plain(last), env))))


def _plain(at: Coordinates, run: Run) -> Run:
    guard = None if run.guard is None else at.plain_pred(run.guard)
    return Run(run.full, at.plain(run.first), at.plain(run.last), run.step, guard, run.edge)
