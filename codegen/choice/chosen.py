"""The piece of the pairs that calls choose: its mask, and which blocks need none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from pidsl.codegen.choice.cost import REFERENCE, Backend, Price
from pidsl.codegen.choice.lists import beside
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import SMALLEST_TILE, ChosenBlocks, Over, Selected
from pidsl.errors import TooHardError
from pidsl.language.chosen import Selection, forced, possible
from pidsl.language.expr import Pred, Truth, Var, substitute_pred
from pidsl.language.terms import Term
from pidsl.relation.build import needs_square, rows_relation, unclipped
from pidsl.relation.forms import predicate
from pidsl.relation.frame import Frame
from pidsl.relation.isl import coalesced, limited, read_map, read_set

JOINED = 64  # positions of a tile that holds several blocks;
SMALL = SMALLEST_TILE, 32  # of one that is owned, where blocks are no longer
FULL = 300_000  # isl operations on which blocks need no mask; without an answer, all of them have one


def chosen_piece(term: Term, lists: Selection, backend: Backend, frame: Frame) -> Piece:
    """The piece of what a pattern may choose beside what it attends anyway, in the largest tiles that blocks fill.

    Programs own parts of one block, but tiles of what they meet may hold several.
    """
    block, budget, queries = lists.numbers
    within, other = possible(term), forced(term)
    with limited(f"the mask of what {term!r} chooses"):
        keep = _kept(within, other, frame)
    layout = ChosenBlocks(block, budget, queries, within, other, _full(within, other, (queries, block), frame))

    def walk(over: Over, prices: Sequence[Price]) -> Selected:
        own, met = (queries, block) if over == "keys" else (block, queries)
        together = met * budget if over == "keys" else JOINED  # of all blocks that one of the others meets
        most = max(own, SMALLEST_TILE), max(met, min(together, JOINED), SMALLEST_TILE)
        sizes = [(x.rows, x.cols) if over == "keys" else (x.cols, x.rows) for x in prices]
        if not backend.exact:
            sizes += [(x, y) for x in SMALL for y in (*SMALL, JOINED)]
        rows, cols = max([x for x in sizes if x[0] <= most[0] and x[1] <= most[1]] or [min(sizes)])
        return Selected(layout, over, *((rows, cols) if over == "keys" else (cols, rows)))

    over_keys = walk("keys", backend.forward)
    grad_query = walk("keys", backend.grad_query) if backend.grad_query else over_keys
    over_queries = walk("queries", backend.grad_key) if backend.grad_key else None
    return Piece((keep,), over_keys, grad_query, over_queries, None, reference=REFERENCE)


def _kept(within: Term, other: Term, frame: Frame) -> Pred:
    """The condition on an existing row r and key j that the pair is in one term and not in the other, a short one."""
    with suppress(TooHardError), limited(f"the pairs of {within!r} beside {other!r}", FULL):
        flat = frame.map("[[r] -> [j]] -> [r, j]")
        rest = rows_relation(within, frame) - rows_relation(other, frame)
        return predicate(coalesced(coalesced(rest).wrap().apply(flat).gist(frame.existing())), ("r", "j"))
    return beside(within, other, frame)


def _full(within: Term, other: Term, sizes: tuple[int, int], frame: Frame) -> Pred:
    """Over blocks x of queries and y of keys: whether every pair of theirs is in the one pattern and not in the other.

    Of blocks that the sequence ends in, or an offset, pairs that do not exist are asked too: so little is lost, and
    the condition is a short one.
    """
    queries, block = sizes
    with suppress(TooHardError), limited(f"the blocks of {within!r} that need no mask", FULL):
        every = read_map("[n, m] -> { [i] -> [j] : i >= 0 and j >= 0 and n >= 1 and m >= 1 }")
        missing = every - (unclipped(within) - unclipped(other))
        to_blocks = f"[[i] -> [j]] -> [x, y] : x = floor(i/{queries}) and y = floor(j/{block})"
        apart = missing.wrap().apply(read_map(f"[n, m] -> {{ {to_blocks} }}"))
        if needs_square(within) or needs_square(other):
            apart = apart | read_set("[n, m] -> { [x, y] : n != m }")
        blocks = read_set("[n, m] -> { [x, y] : x >= 0 and y >= 0 and n >= 1 and m >= 1 }")
        full = predicate(coalesced(coalesced(blocks - apart).gist(blocks)), ("x", "y"))
        lengths = {"n": Var("n") + Var("offset"), "m": frame.key_at(Var("m"))}
        return substitute_pred(full, lengths)
    return Truth(False)
