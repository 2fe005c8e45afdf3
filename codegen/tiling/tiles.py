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
from pidsl.codegen.tiling.coordinates import Tiles
from pidsl.codegen.tiling.tile_sets import general_sweep
from pidsl.language.algebra import both, greatest, smallest
from pidsl.language.expr import Index, Not, Pred, evaluate
from pidsl.relation.forms import Form

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
    tiles = Tiles(placed.at, over, rows, cols)
    found = placed.keys if over == "keys" else band(placed.mask, over)
    if found is None:
        return general_sweep(tiles, placed.mask, split=split)
    return tiles.walk(_runs(tiles, found, split))


def _runs(swept: Tiles, found: Band, split: bool) -> list[Run]:
    own, size = "a" if swept.over == "keys" else "b", swept.visited
    near, far = Form(0, {"t": swept.owned}), Form(swept.owned - 1, {"t": swept.owned})
    end = swept.last

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
    everything = [Run(False, first, last, 1, found.guard if within is None else both(found.guard, within))]
    if within is not None:
        everything.append(Run(False, first, last, 1, both(guard, Not(within)), edge=True))
    if not split or not found.exact or found.guard is not None:
        return everything
    # tiles in which no row of the own tile misses a key
    whole = end if swept.over == "queries" else swept.whole - 1
    inner_first = greatest([0, *(x.index() for x in tiles(found.lower, least=False, plus=size - 1))])
    before = (Form(x.constant - 1, x.terms) for x in tiles(found.upper, least=True, plus=1))
    inner_last = smallest([whole, *(x.index() for x in before)])
    if not _ever(swept, inner_first, inner_last):
        return everything
    runs = [Run(True, inner_first, inner_last, 1, within)]
    if inner_first != first:
        runs.append(Run(False, first, smallest([inner_first - 1, last]), 1, within))
    if inner_last != last:
        runs.append(Run(False, greatest([first, inner_first, inner_last + 1]), last, 1, within))
    return [*runs, *everything[1:]]


def _ever(swept: Tiles, first: Index, last: Index) -> bool:
    """Whether the loop first .. last is ever entered at the probe length (if not, dropping it costs nothing there)."""
    at, layout = swept.at, swept.at.layout
    step = layout.query_step if swept.over == "keys" else layout.key_step
    tiles = np.arange(max(1, -(-PROBE // (step * swept.owned))))
    env: dict[str, Any] = {"n": PROBE, "m": PROBE, "offset": 0, "key_offset": 0, "t": tiles, "c": 0}
    env["d"] = evaluate(layout.key_class_of(0), env)
    return bool(np.any(np.asarray(evaluate(at.plain(first), env)) <= np.asarray(evaluate(at.plain(last), env))))
