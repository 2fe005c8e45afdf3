"""Inclusion and exclusion: counts of a term from those of terms with fewer operators."""

from __future__ import annotations

from pidsl.language.terms import Complement, Difference, Full, Intersection, SymmetricDifference, Term, Union


def inclusion(term: Term) -> list[tuple[int, Term]]:
    """Terms whose pairs, added and subtracted, are those of `term`; none where it is not made of two sets.

    `a | b -> a + b - (a & b)`, `a - b -> a - (a & b)`, `a ^ b -> a + b - 2 (a & b)`, `~a -> full - a`, and
    `(a | b) & c -> (a & c) + (b & c) - (a & b & c)`
    """
    match term:
        case Union(a, b):
            return [(1, a), (1, b), (-1, a & b)]
        case Difference(a, b):
            return [(1, a), (-1, a & b)]
        case SymmetricDifference(a, b):
            return [(1, a), (1, b), (-2, a & b)]
        case Complement(a):
            return [(1, Full()), (-1, a)]
        case Intersection(a, b):
            if found := inclusion(a):
                return [(sign, part & b) for sign, part in found]
            return [(sign, a & part) for sign, part in inclusion(b)]
        case _:
            return []
