"""Where the number of keys of query i among n changes, read off the constraints of a relation.

The relation is a union of parts, not disjoint ones; in each class of (i, j, n) modulo some M, whether i attends j is
decided by the signs of affine functions of (i, j, n). Each that j is in is 0 at one j, its root. While the roots keep
their order, the j between two of them either all count, class by class, or none does: their number is quasi-affine in
(i, n). So it changes where two roots meet, and where a function that j is not in is 0.
"""

from __future__ import annotations

from fractions import Fraction
from math import lcm

import islpy as isl
import numpy as np

from pidsl.analysis.counting.lattice import by_length
from pidsl.analysis.formulas.plane import Affine, Lines, of_isl
from pidsl.errors import TooHardError
from pidsl.language.terms import Compose, Halo, Neighborhood, Power, Term, walk
from pidsl.relation.isl import convex_parts, limited
from pidsl.relation.oracle import dense_mask
from pidsl.relation.pieces import Ints

ENTRIES = 60_000_000  # most entries of dense masks, of all parts of a term
WORTH = {Compose: 4, Power: 4, Neighborhood: 40, Halo: 40}  # entries that one of these is worth, in time
FEW = 100  # tokens for which the masks of every n are few entries
Root = tuple[Fraction, Fraction]


def borders(pairs: isl.Set) -> Lines:
    """Where the number of keys of query i changes, and how it repeats.

    Args:
        pairs: `[n] -> { [i, j] }`.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    functions: set[Affine] = set()
    with limited("the constraints of a relation"):
        for part in convex_parts(pairs):
            named = isl.Set.from_basic_set(part).move_dims(isl.dim_type.param, 1, isl.dim_type.set, 0, 2)
            named = named.set_dim_name(isl.dim_type.param, 1, "i").set_dim_name(isl.dim_type.param, 2, "j")
            for basic in named.get_basic_sets():
                functions.update(of_isl(c.get_aff()) for c in basic.get_constraints())
    lines = Lines()
    classes = lcm(*(f.modulus for f in functions))
    lines.modulus = classes
    roots: dict[Root, Affine] = {}  # j = query * i + length * n + c, by query and length
    for f in functions:
        if not f.key:
            lines.add(f)
            continue
        root = Affine(f.query, f.length, f.low, f.high).times(-1 / f.key)
        lines.modulus = lcm(lines.modulus, *((x / classes).denominator for x in (root.query, root.length)))
        known = roots.get((root.query, root.length), root)
        ends = min(known.low, root.low), max(known.high, root.high)
        roots[root.query, root.length] = Affine(root.query, root.length, *ends)
    directions = list(roots.values())
    for k, one in enumerate(directions):
        for other in directions[k + 1 :]:
            lines.add(one + other.times(Fraction(-1)))
    return lines


class Masks:
    """Keys of query i among n by dense masks, for all n up to a last one.

    Args:
        term: a concrete term.
        pairs: `[n] -> { [i, j] }`, its pairs.
        last: the largest n.

    Raises:
        TooHardError: there are too many.
    """

    def __init__(self, term: Term, pairs: isl.Set, last: int) -> None:
        self.ever: Ints | None = None
        entries = ENTRIES // sum(WORTH.get(type(t), 1) for t in walk(term))
        # then i attends j or not, whatever n is
        if last > FEW and last * last <= entries and by_length(pairs) is not None:
            self.ever = np.cumsum(dense_mask(term, last), axis=1, dtype=np.int32)
            return
        if last > FEW and last**3 // 3 > entries:
            raise TooHardError(f"dense masks for each n up to {last}", f"at most {entries} entries")
        self.each = np.zeros((last + 1, last), dtype=np.int32)
        for n in range(1, last + 1):
            self.each[n, :n] = dense_mask(term, n).sum(axis=1)

    def __call__(self, queries: Ints, lengths: Ints) -> Ints:
        if self.ever is not None:
            return self.ever[queries, lengths - 1].astype(np.int64)
        return self.each[lengths, queries].astype(np.int64)

    def largest(self, n: int) -> int:
        """The most keys of any query among n."""
        return int(self.ever[:n, n - 1].max() if self.ever is not None else self.each[n, :n].max())
