"""What a layout does to a piece of a plan: its pairs as tokens stand, and as the layout numbers them, with their tiles.

Both sides show the same kinds of pairs:

    SKIPPED   in a tile that nobody visits
    IN_VAIN   computed with a mask, and not attended
    PAIR      attended, in a tile with a mask
    IN_FULL   attended, in a tile that needs no mask

As tokens stand, a tile is visited when it has a pair; after, where the loops of the plan visit it. Of long sequences
a cut is shown: the first tokens, and the first classes of a layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pidsl.codegen.lower import lower
from pidsl.codegen.plan.nodes import Piece, Plan
from pidsl.codegen.plan.walks import BlockList, Boxes, Grid, Lags, Listed, Runs, Selected
from pidsl.errors import SizeError
from pidsl.language.expr import Var, evaluate, holds, whole
from pidsl.language.heads import Heads
from pidsl.language.terms import Term
from pidsl.pictures import style, svg
from pidsl.pictures.cells import Kinds, tiled
from pidsl.relation.isl import in_turn

SKIPPED, IN_VAIN, PAIR, IN_FULL = range(4)
NAMES = {
    IN_VAIN: ("vain", style.VISITED), PAIR: ("some", style.PARTIAL_PAIR), IN_FULL: ("every", style.FULL),
}  # fmt: skip

CUT = 512  # positions of a side that are shown
LONGEST = 1 << 17  # tokens, of which a cut is shown
TILES = 2  # of a class that is long enough to be looked at

Order = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Reordered:
    """One piece, before and after.

    Args:
        title: the layout.
        n: tokens.
        before: kinds of the first tokens, as they stand.
        after: kinds of the positions that the layout numbers first.
        rows, keys: the tokens at these positions.
        tile: rows and keys of a tile.
        classes: how many classes of positions are shown, and how many there are.
    """

    title: str
    n: int
    before: Kinds
    after: Kinds
    rows: Order
    keys: Order
    tile: tuple[int, int]
    classes: tuple[int, int] = (1, 1)

    @property
    def moves(self) -> bool:
        """Whether the layout numbers tokens otherwise than they stand, or visits other tiles than those with pairs."""
        return self.before.shape != self.after.shape or bool((self.before != self.after).any())

    @property
    def cut(self) -> str:
        """What of the tokens is shown after."""
        shown, there = self.classes
        if shown < there:
            return f"{shown} of {there} classes"
        return f"the first {len(self.rows)} of {self.n:,}" if len(self.rows) < self.n else f"n = {self.n:,}"

    @property
    def cut_before(self) -> str:
        """What of the tokens is shown before."""
        return f"the first {len(self.before)} of {self.n:,}" if len(self.before) < self.n else f"n = {self.n:,}"


def waste(kinds: Kinds) -> str:
    """Pairs that are computed for each that is attended."""
    attended = int((kinds >= PAIR).sum())
    computed = int((kinds != SKIPPED).sum())
    return f"{computed:,} computed, {attended:,} attended" + (f": {computed / attended:.1f}x" if attended else "")


@in_turn
def reordered(plan: Plan, n: object = None) -> Iterator[Reordered]:
    """Each piece of a plan before and after, over n tokens; None: as many as show what its layout does.

    Raises:
        SizeError: n is no number of tokens that is drawn.
    """
    length = None if n is None else whole(n)
    if n is not None and (length is None or not 1 <= length <= LONGEST):
        raise SizeError(f"n = {n!r}", f"1 <= n <= {LONGEST} tokens", where="the pictures of a plan")
    drawn = (x for x in plan.pieces if not isinstance(x.forward, Selected))  # what calls choose is not known yet
    return iter([_piece(piece, length) for piece in drawn if not _of_heads(plan)])


def _of_heads(plan: Plan) -> bool:
    return isinstance(plan.term, Heads)


def _piece(piece: Piece, n: int | None) -> Reordered:
    match piece.forward:
        case Runs() as walk:
            return _runs(piece, walk, n or _length(walk.layout.query_step, walk.rows))
        case Boxes(layout=grid) as walk:
            return _boxes(piece, walk, grid, n or min(CUT, grid.tokens or CUT))
        case Selected():
            raise TypeError("what a call chooses is not drawn before it")
        case Listed(layout=blocks) as walk:
            return _listed(piece, walk, blocks, n or CUT)
        case Lags() as walk:
            return _lags(walk, n or CUT)


def _length(step: int, tile: int) -> int:
    """Tokens of which a class holds a few tiles."""
    return min(LONGEST, max(CUT, step * tile * TILES))


def _env(n: int) -> dict[str, Any]:
    return {"n": n, "m": n, "offset": 0, "key_offset": 0}


def _runs(piece: Piece, walk: Runs, n: int) -> Reordered:
    """Classes one after the other, and in each its tiles."""
    layout, env = walk.layout, _env(n)
    s, t = layout.query_step, layout.key_step
    classes = list(range(min(s, n))) if layout.linked else [int(evaluate(layout.row_class_of(), env))]
    shown: list[tuple[Order, Order, Kinds]] = []
    for c in classes:
        d = int(evaluate(layout.key_class_of(c), env))
        rows, keys = np.arange(c, n, s)[:CUT], np.arange(d, n, t)[:CUT]
        if shown and sum(len(x[0]) for x in shown) + len(rows) > CUT:
            break
        shown.append((rows, keys, _class(piece, walk, {**env, "c": c, "d": d}, len(rows), len(keys))))
    rows, keys = (np.concatenate([x[side] for x in shown]) for side in (0, 1))
    after = np.zeros((len(rows), len(keys)), np.uint8)
    row = key = 0
    for own, swept, kinds in shown:
        after[row : row + len(own), key : key + len(swept)] = kinds
        row, key = row + len(own), key + len(swept)
    tile = walk.rows, walk.rows if walk.cols == 1 else walk.cols
    first = min(n, max(CUT, 4 * max(s, t))) if max(s, t) <= CUT else min(n, 2 * CUT)
    before = _standing(_pairs(piece, walk, env, first), tile)
    return Reordered(str(layout), n, before, after, rows, keys, tile, (len(shown), len(classes)))


def _class(piece: Piece, walk: Runs, env: dict[str, Any], rows: int, keys: int) -> Kinds:
    """The first rows and keys of one class."""
    visited = np.zeros((rows, keys), np.uint8)
    for t in range(-(-rows // walk.rows)):
        here = {**env, "t": t, "q_head": 0}
        own = slice(t * walk.rows, (t + 1) * walk.rows)
        for run in walk.runs:
            if run.guard is not None and not holds(run.guard, here):
                continue
            first, last = int(evaluate(run.first, here)), int(evaluate(run.last, here))
            for x in range(max(first, 0), min(last, -(-keys // walk.cols)) + 1, run.step):
                visited[own, x * walk.cols : (x + 1) * walk.cols] = 2 if run.full else 1
    a, b = np.arange(rows)[:, None], np.arange(keys)[None, :]
    kept = np.broadcast_to(np.asarray(holds(piece.keep[0], {**env, "a": a, "b": b})), visited.shape)
    return _kinds(kept & (visited > 0), visited)


def _kinds(pairs: NDArray[np.bool_], visited: Kinds) -> Kinds:
    """Kinds of pairs that are visited with a mask (1) or without (2)."""
    found = np.where(visited > 0, np.uint8(IN_VAIN), np.uint8(SKIPPED))
    found[pairs] = PAIR
    found[pairs & (visited == 2)] = IN_FULL
    return found


def _pairs(piece: Piece, walk: Runs, env: dict[str, Any], first: int) -> NDArray[np.bool_]:
    """bool [first, first]: the pairs of a piece as tokens stand."""
    layout = walk.layout
    s, t = layout.query_step, layout.key_step
    found = np.zeros((first, first), np.bool_)
    for c in range(min(s, first)) if layout.linked else [int(evaluate(layout.row_class_of(), env))]:
        d = int(evaluate(layout.key_class_of(c), env))
        rows, keys = np.arange(c, first, s), np.arange(d, first, t)
        here = {**env, "c": c, "d": d, "a": np.arange(len(rows))[:, None], "b": np.arange(len(keys))[None, :]}
        found[rows[:, None], keys[None, :]] = np.asarray(holds(piece.keep[0], here))
    return found


def _standing(pairs: NDArray[np.bool_], tile: tuple[int, int]) -> Kinds:
    """Kinds of the pairs in tiles as tokens stand."""
    return _kinds(pairs, tiled(pairs, *tile).spread())


def _boxes(piece: Piece, walk: Boxes, grid: Grid, n: int) -> Reordered:
    """Tokens of a grid box by box."""
    tokens = np.arange(min(n, grid.tokens or n, 2 * CUT))
    at = [np.asarray(evaluate(x, {"r": tokens})) + 0 * tokens for x in grid.coordinates(Var("r"))]
    boxes = [x // own for x, own in zip(at, walk.own, strict=True)]
    order = np.lexsort([*reversed(at), *reversed(boxes)])  # by boxes, and in a box by tokens
    pairs = np.ones((len(tokens), len(tokens)), np.bool_)
    visited = np.ones_like(pairs)
    sides = zip(at, walk.own, walk.swept, walk.first, walk.last, piece.keep, strict=True)
    for axis, (x, own, swept, first, last, keep) in enumerate(sides):
        a, b = x[:, None], x[None, :]
        pairs &= np.asarray(holds(keep, {"a": a, "b": b}))
        length = grid.lengths[axis]
        end = int(x.max()) if length is None else length - 1
        low = np.maximum(np.asarray(evaluate(first, {"t": x // own})) + 0 * x, 0)
        high = end + 0 * x if last is None else np.minimum(np.asarray(evaluate(last, {"t": x // own})) + 0 * x, end)
        reach = low + -(-(high + 1 - low) // swept) * swept - 1  # whole boxes of keys
        visited &= (b >= low[:, None]) & (b <= reach[:, None])
    kinds = _kinds(pairs & visited, visited.astype(np.uint8))
    tile = walk.owned, walk.owned if walk.visited == 1 else walk.visited
    shown = order[:CUT]
    return Reordered(str(grid), n, _standing(pairs[:CUT, :CUT], tile), kinds[shown[:, None], shown[None, :]],
                     shown, shown, tile)  # fmt: skip


def _listed(piece: Piece, walk: Listed, blocks: BlockList, n: int) -> Reordered:
    """Blocks of a list, as tokens stand."""
    first = min(n, 2 * CUT)
    r, j = np.arange(first)[:, None], np.arange(first)[None, :]
    visited = np.zeros((first, first), np.uint8)
    for own, swept in blocks.blocks:
        a, b = own * blocks.size, swept * blocks.size
        visited[a : a + blocks.size, b : b + blocks.size] = 1
    kept = np.broadcast_to(np.asarray(holds(piece.keep[0], {**_env(n), "r": r, "j": j})), visited.shape)
    pairs, tokens = kept & (visited > 0), np.arange(first)
    tile = walk.rows, walk.cols if walk.cols > 1 else walk.rows
    return Reordered(str(blocks), n, _standing(pairs, tile), _kinds(pairs, visited), tokens, tokens, tile)


def _lags(walk: Lags, n: int) -> Reordered:
    """Diagonals: nothing but the pairs is computed."""
    first = min(n, CUT)
    pairs, tokens = np.zeros((first, first), np.bool_), np.arange(first)
    for x in walk.lags:
        env = {**_env(n), "q_head": 0}
        r = np.arange(max(0, int(evaluate(x.first, env))), min(first - 1, int(evaluate(x.last, env))) + 1)
        if x.keep is not None:
            r = r[np.broadcast_to(np.asarray(holds(x.keep, {**env, "r": r})), r.shape)]
        r = r[(r - x.lag >= 0) & (r - x.lag < first)]
        pairs[r, r - x.lag] = True
    tile = (64, 64)
    title = f"{len(walk.lags)} diagonal{'s' * (len(walk.lags) > 1)}, elementwise"
    return Reordered(title, n, _standing(pairs, tile), _kinds(pairs, 2 * pairs.astype(np.uint8)), tokens, tokens, tile)


def plan_of(term: Term) -> Plan:
    """The plan that pictures show: that of Triton, whose tiles are the same on all machines."""
    return lower(term, "triton")


def plan_pictures(plan: Plan, n: object = None, size: int = 260) -> Iterator[str]:
    """A figure for each piece: before and after, side by side."""
    for number, piece in enumerate(reordered(plan, n)):
        sides = [("as tokens stand", piece.before, piece.cut_before)]
        if piece.moves:
            sides.append(("as the layout numbers them", piece.after, piece.cut))
        drawn = []
        for what, kinds, cut in sides:
            label = f"piece {number}, {piece.title}, {what}, {cut}: {waste(kinds)}"
            lines = _edges(kinds.shape, piece.tile)
            drawn.append(
                f"<figure style='margin:0'>{svg.picture(kinds, NAMES, label, lines, size)}"
                f"<figcaption>{what}, {cut}<br>{waste(kinds)}</figcaption></figure>"
            )
        yield (
            f"<div class='pidsl-piece'><div>piece {number}: {piece.title}, tiles of "
            f"{piece.tile[0]} x {piece.tile[1]}</div><div style='display:flex;flex-wrap:wrap;gap:1em'>"
            f"{''.join(drawn)}</div></div>"
        )


def _edges(shape: tuple[int, ...], tile: tuple[int, int]) -> str:
    """The edges of tiles as the data of a path; none where they would cover the picture."""
    rows, columns = shape
    if rows // tile[0] > 40 or columns // tile[1] > 40:
        return ""
    across = "".join(f"M0 {y}H{columns}" for y in range(tile[0], rows, tile[0]))
    return across + "".join(f"M{x} 0V{rows}" for x in range(tile[1], columns, tile[1]))
