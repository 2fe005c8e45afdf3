"""Long lists of pairs, such as the random blocks of BigBird, kept as lists: as a relation they have a part for each.

(window(1, 1) | pairs([(3, 9), (4, 1), ...])).blocked(64) & causal
other    window(1, 1).blocked(64) & causal                    planned as any term
within   causal                                               what a listed pair must satisfy besides
list     blocks of 64 tokens: (3, 9), (4, 1), ...             less what `other` holds already
"""

from __future__ import annotations

from collections.abc import Sequence

import islpy as isl

from pidsl.codegen.choice.cost import Backend, Price
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import BlockList, Listed, Over
from pidsl.language.expr import And, Not, Pred, fold
from pidsl.language.terms import Blocked, Difference, Empty, Full, Intersection, Pairs, Term, Transpose, Union, walk
from pidsl.relation.build import rows_relation
from pidsl.relation.forms import predicate
from pidsl.relation.frame import HOME, Frame
from pidsl.relation.isl import coalesced, limited

SHORT = 24  # pairs that are left to isl


def separate(term: Term) -> BlockList | None:
    """A term with one long list of pairs, taken apart; None for any other term.

    Unions, intersections and differences with what has no list, blocks and transposes are looked through; a pair of
    blocks (b, c) of size s stands for the pairs with i // s == b and j // s == c.
    """
    if sum(len(t.values) for t in walk(term) if isinstance(t, Pairs)) < SHORT:
        return None
    found = _separate(term)
    if found is None:
        return None
    other, lists = found
    sizes = {(within, size) for within, size, _ in lists}
    if len(sizes) != 1:
        return None
    ((within, size),) = sizes
    blocks = {pair for *_, pairs in lists for pair in pairs}
    return BlockList(size, tuple(sorted(blocks)), within, other)


_List = tuple[Term, int, tuple[tuple[int, int], ...]]  # within, size of a block, blocks


def _separate(term: Term) -> tuple[Term, list[_List]] | None:
    if not any(isinstance(t, Pairs) for t in walk(term)):
        return term, []
    match term:
        case Pairs(values):
            return Empty(), [(Full(), 1, values)]
        case Union(a, b):
            x, y = _separate(a), _separate(b)
            return x and y and (_either(x[0], y[0]), x[1] + y[1])
        case Intersection(a, b):
            x, y = _separate(a), _separate(b)
            if x is None or y is None or (x[1] and y[1]):
                return None
            (other, lists), (kept, _) = (x, y) if x[1] else (y, x)
            return _both(other, kept), [(_both(within, kept), size, pairs) for within, size, pairs in lists]
        case Difference(a, b):
            x = None if any(isinstance(t, Pairs) for t in walk(b)) else _separate(a)
            return x and (x[0] - b, [(within - b, size, pairs) for within, size, pairs in x[1]])
        case Blocked(a, int(step)):
            x = _separate(a)
            return x and (_blocked(x[0], step), [(_blocked(within, step), size * step, y) for within, size, y in x[1]])
        case Transpose(a):
            x = _separate(a)
            return x and (x[0].T, [(within.T, size, tuple((j, i) for i, j in pairs)) for within, size, pairs in x[1]])
        case _:
            return None


def _either(a: Term, b: Term) -> Term:
    return b if isinstance(a, Empty) else a if isinstance(b, Empty) else a | b


def _both(a: Term, b: Term) -> Term:
    return a if isinstance(a, Empty) else b if isinstance(a, Full) else a & b


def _blocked(a: Term, step: int) -> Term:
    return a if isinstance(a, Empty | Full) else a.blocked(step)


def list_piece(listed: BlockList, backend: Backend, frame: Frame = HOME) -> Piece:
    """The piece of the listed pairs, in the largest tiles that its blocks fill."""
    with limited(f"the mask of the listed pairs beside {listed.other!r}"):
        keep = beside(listed.within, listed.other, frame)

    def walk(over: Over, prices: Sequence[Price]) -> Listed:
        sizes = [(x.rows, x.cols) for x in prices]
        return Listed(listed, over, *max([x for x in sizes if max(x) <= listed.size] or [min(sizes)]))

    over_keys = walk("keys", backend.forward)
    grad_query = walk("keys", backend.grad_query) if backend.grad_query else over_keys
    over_queries = walk("queries", backend.grad_key) if backend.grad_key else None
    longest = (1 + max(map(max, listed.blocks), default=0)) * listed.size  # the least length with every block
    return Piece((keep,), over_keys, grad_query, over_queries, None, reference=longest)


def beside(within: Term, other: Term, frame: Frame) -> Pred:
    """The condition on an existing row r and key j that the pair is in one term and not in the other."""
    return fold(And(_pred(within, frame), fold(Not(_pred(other, frame)))))


def _pred(term: Term, frame: Frame) -> Pred:
    """The condition on an existing row r and key j that the pair is in the term."""
    flat: isl.Set = rows_relation(term, frame).wrap().apply(frame.map("[[r] -> [j]] -> [r, j]"))
    return predicate(coalesced(flat.gist(frame.existing())), ("r", "j"))
