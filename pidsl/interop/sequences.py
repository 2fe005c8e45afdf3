"""Masks that differ from sequence to sequence of a batch, as one pattern and numbers of each sequence for the call.

key_lengths             T & keys(0, length)                 the last keys are padding
offset, key_offset      T & keys(padding, None), T causal   the first tokens are padding
offset                  T of the lag, queries further on    a chunk of a longer sequence
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from pidsl.language.algebra import positive, tidied
from pidsl.language.expr import Add, Compare, Index, Pred, Sub, Var, simplify, substitute_pred, walk
from pidsl.language.terms import Causal, Empty, Full, Intersection, Keys, Term, of_lags_alone
from pidsl.language.trees import parts_of
from pidsl.relation.queries import contained
from pidsl.relation.recognise import recognised

__all__ = ["common", "moved"]

Found = tuple[Term, Mapping[str, Tensor]]


def common(terms: Sequence[Term], keys: int | None = None) -> Found | None:
    """One pattern, and which keys of each sequence are no padding; None: that is not all they differ in.

    Args:
        terms: of each sequence.
        keys: how many there are, where that was said.
    """
    if len(set(terms)) == 1:
        return None
    for at_start in (False, True):
        bases, bounds = set[Term](), list[int]()
        for term in terms:
            base, bound = _padded(term, at_start)
            bound = keys if bound == -1 and keys is not None and not at_start else bound
            bounds.append(bound)
            if base is not None:
                bases.add(base)
        if len(bases) != 1 or -1 in bounds:
            continue
        (base,) = bases
        if at_start and (of_lags_alone(base) and contained(base, Causal())):
            padding = -torch.tensor(bounds)
            return base, {"offset": padding, "key_offset": padding}
        if not at_start and (keys is None or max(bounds) <= keys):
            return base, {"key_lengths": torch.tensor(bounds)}
    return None


def _padded(term: Term, at_start: bool) -> tuple[Term | None, int]:
    """What is left of a pattern without its bound on the keys, and that bound (-1: it has none)."""
    if isinstance(term, Empty) and not at_start:
        return None, 0
    parts = list(parts_of(Intersection, term))
    bounds = [
        x for x in parts if isinstance(x, Keys) and x.step == 1 and (x.stop is None if at_start else x.start == 0)
    ]
    rest = [x for x in parts if x not in bounds]
    base: Term = reduce(lambda a, b: a & b, rest) if rest else Full()
    match bounds:
        case [Keys(int(start), None, _)] if at_start:
            return base, start
        case [Keys(_, int(stop), _)] if not at_start and stop >= 0:
            return base, stop
        case []:
            return base, 0 if at_start else -1
    return base, -1


def moved(preds: Sequence[Pred]) -> Found | None:
    """One pattern of the lag, and how far the queries of each sequence stand ahead; None: that is not all."""
    preds = [tidied(positive(pred)) for pred in preds]
    if len(set(preds)) == 1:
        return None
    offsets = [0]
    for pred in preds[1:]:
        ahead = next((by for by in _differences(preds[0], pred) if _ahead(pred, by) == preds[0]), None)
        if ahead is None:
            return None
        offsets.append(ahead)
    for start in sorted({0, *_numbers(preds[0]), *(-x for x in _numbers(preds[0]))}, key=abs):
        base = recognised(_ahead(preds[0], start))
        if of_lags_alone(base) and contained(base, Causal()) and min(offsets) + start >= 0:
            return base, {"offset": torch.tensor([x + start for x in offsets])}
    return None


def _ahead(pred: Pred, by: int) -> Pred:
    """What a predicate says of queries, by their positions that lie `by` further on."""
    there: Mapping[str, Index] = {"i": simplify(Sub(Var("i"), by) if by >= 0 else Add(Var("i"), -by))}
    return tidied(substitute_pred(pred, there))


def _numbers(pred: Pred) -> list[int]:
    return [x.right for x in walk(pred) if isinstance(x, Compare) and isinstance(x.right, int)]


def _differences(a: Pred, b: Pred) -> list[int]:
    found = [y - x for x, y in zip(_numbers(a), _numbers(b), strict=False) if x != y][:1]
    return [sign * x for x in found for sign in (1, -1)]
