"""How long a key is asked for: the largest lag of a later query that attends it, as a function of its position.

    life(p) = max { i - p : i attends p in a sequence of some length n = m > i }

`FOREVER` where there is no largest, `NEVER` where there is no query. While decoding the length to come is unknown, so
any length counts. Of patterns made of windows, blocks, strides and given keys the life is a list of numbers, and after
that periodic in p. isl says what the life is, as a piecewise function of p with floors; its divisors and its constants
say which periods and which beginnings to look for. What is found is a claim: `outlived` lets isl decide it for all
positions, from the term and the numbers alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, lcm
from typing import Any

import islpy as isl
import numpy as np

from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation import build
from pidsl.relation.isl import coalesced, interval_of, limited, read_map, read_set
from pidsl.relation.pieces import Ints, count_piece

FOREVER = 2**31 - 1  # beyond any position
NEVER = -(2**31)
LONGEST = 1 << 17  # positions whose lives are looked at
CLASSES = 1 << 13  # most residue classes of a period
LISTED = 1 << 12  # most positions before the period begins

_dim: Any = isl.dim_type


@dataclass(frozen=True, slots=True)
class Lives:
    """Lives of all positions.

    Args:
        first: of the positions before the period begins.
        classes: of position `len(first) + c + len(classes) * x`, whatever x >= 0.
    """

    first: tuple[int, ...]
    classes: tuple[int, ...]

    def at(self, positions: Ints) -> Ints:
        """The life of each position."""
        first, classes = np.array(self.first, dtype=np.int64), np.array(self.classes, dtype=np.int64)
        later = classes[(positions - len(first)) % len(classes)]
        return (
            np.where(positions < len(first), first[np.minimum(positions, len(first) - 1)], later)
            if len(first)
            else later
        )


ALL_FOREVER = Lives((), (FOREVER,))


def asked(term: Term, *, fresh: bool = False) -> isl.Set:
    """`{ [i, j] }`: query i attends key j in a sequence of some length.

    Args:
        term: a concrete term.
        fresh: build the relation again instead of taking the one that is remembered.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    with limited(f"which keys {term!r} attends at some length"):
        if fresh:
            whole = build.unclipped(term) & read_map("[n, m] -> { [i] -> [j] : 0 <= i < n and 0 <= j < m }")
        else:
            whole = build.relation(term)
        points = whole.wrap().flatten().intersect_params(read_set("[n, m] -> { : n = m }"))
        return coalesced(points.project_out(_dim.param, 0, 2))


def lives(terms: Sequence[Term]) -> Lives | None:
    """The lives of keys that `terms` attend, eventually periodic; None where none such is found.

    They are exact, or, where the exact ones are not periodic or have a long period, all as long as the longest; where
    there is no longest, for ever but for the residue classes that nobody asks for.

    >>> import pidsl
    >>> lives([pidsl.window(4) | pidsl.keys(0, 2) & pidsl.causal])
    Lives(first=(2147483647, 2147483647), classes=(4,))
    >>> lives([pidsl.blocks(4) & pidsl.causal])
    Lives(first=(), classes=(3, 2, 1, 0))

    Raises:
        TooHardError: isl's operation limit struck.
    """
    each = [_of(term) for term in terms]
    period, edge = lcm(*(found.period for found in each)), max(found.edge for found in each)
    count = edge + 3 * period + 2
    if period > CLASSES or edge > LISTED or count > LONGEST:
        return _longest(terms, each) or _of_classes(terms)
    with limited("the lives of keys, one by one"):
        life = np.stack([found.at(count) for found in each]).max(0)
    for shorter in (d for d in range(1, period + 1) if period % d == 0):
        differs = np.flatnonzero(life[shorter:] != life[:-shorter])
        start = int(differs[-1]) + 1 if len(differs) else 0
        if start <= edge + 1:
            return Lives(tuple(life[:start].tolist()), tuple(life[start : start + shorter].tolist()))
    return _longest(terms, each) or _of_classes(terms)


def _longest(terms: Sequence[Term], each: Sequence[_Function]) -> Lives | None:
    """One life for all keys but the first ones, which live for ever."""
    start, most = 0, NEVER
    for term, function in zip(terms, each, strict=True):
        with limited(f"the longest that {term!r} asks for a key"):
            if not function.forever.is_empty():
                last = interval_of(function.forever.move_dims(_dim.set, 0, _dim.param, 0, 1))[1]
                if last is None or last >= LISTED:
                    return None
                start = max(start, last + 1)
            rest = asked(term) & read_set(f"{{ [i, j] : j >= {start} }}")
            if not rest.is_empty():
                longest = interval_of(rest.apply(read_map("{ [i, j] -> [i - j] }")))[1]
                if longest is None:
                    return None
                most = max(most, longest)
    return Lives((FOREVER,) * start, (most,))


def _of_classes(terms: Sequence[Term]) -> Lives | None:
    """For ever, or never for the residue classes of keys that no query attends; None where all are attended.

    >>> import pidsl
    >>> growing = pidsl.where(lambda i, j: (j <= i) & (i <= 2 * j))
    >>> _of_classes([growing]), lives([growing & pidsl.keys(1, None, 2)])
    (None, Lives(first=(), classes=(-2147483648, 2147483647)))
    """
    with limited("which keys are asked for"):
        keys = [coalesced(asked(term).apply(read_map("{ [i, j] -> [j] }"))).compute_divs() for term in terms]
        parts = [part for found in keys for part in found.get_basic_sets()]
        period = lcm(*(_shape(constraint.get_aff())[0] for part in parts for constraint in part.get_constraints()))
        if not 1 < period <= CLASSES:
            return None
        life = [NEVER] * period

        def seen(c: isl.Point) -> None:
            life[c.get_coordinate_val(_dim.set, 0).to_python()] = FOREVER

        for found in keys:
            found.apply(read_map(f"{{ [j] -> [j mod {period}] }}")).foreach_point(seen)
    return Lives((), tuple(life)) if NEVER in life else None


@dataclass(frozen=True, slots=True)
class _Function:
    """The last query that asks for key j, where there is one: parts of `[j] -> { : }` and its value on each.

    Args:
        forever: the keys that have no last query.
        last: pieces of the function.
        period: of the floors in them.
        edge: a position after which no piece begins or ends.
    """

    forever: isl.Set
    last: tuple[tuple[isl.Set, isl.Aff], ...]
    period: int
    edge: int

    def at(self, count: int) -> Ints:
        """The lives of the positions 0 .. count - 1."""
        j = np.arange(count)
        life = np.full(count, NEVER, dtype=np.int64)
        for domain, last in self.last:
            # queries up to the last one: 0 is none
            queries = count_piece(domain, last.add_constant_val(isl.Val(1, last.get_ctx())), {"j": j})
            life = np.where(queries > 0, queries - 1 - j, life)
        ends = isl.Aff.zero_on_domain(isl.LocalSpace.from_space(self.forever.get_space()))
        ends = ends.add_constant_val(isl.Val(1, ends.get_ctx()))
        return np.where(count_piece(self.forever, ends, {"j": j}) > 0, FOREVER, life)


@lru_cache(maxsize=256)
def _of(term: Term) -> _Function:
    points = asked(term)
    with limited(f"how long {term!r} asks for a key"):
        keys = points.apply(read_map("{ [i, j] -> [j] }"))
        more = points.apply(read_map("{ [i, j] -> [j, b] : 0 <= b < i }"))
        done = coalesced(keys.apply(read_map("{ [j] -> [j, b] : b >= 0 }")) - more)  # no query after b asks for j
        finite = done.apply(read_map("{ [j, b] -> [j] }"))
        forever = coalesced(keys - finite).move_dims(_dim.param, 0, _dim.set, 0, 1).params()
        function = done.move_dims(_dim.param, 0, _dim.set, 0, 1).dim_min(0).coalesce()
        forever = forever.set_dim_name(_dim.param, 0, "j").compute_divs()
        pieces: list[tuple[isl.Set, isl.Aff]] = []
        for domain, last in function.get_pieces():
            pieces.append(
                (domain.set_dim_name(_dim.param, 0, "j").compute_divs(), last.set_dim_name(_dim.param, 0, "j"))
            )
        period, edge = 1, 0
        for domain in (forever, *(domain for domain, _ in pieces)):
            for part in domain.get_basic_sets():
                for constraint in part.get_constraints():
                    own, slope, beside = _shape(constraint.get_aff())
                    period = lcm(period, own)
                    edge = max(edge, ceil(beside / abs(slope))) if slope else edge
        for _, last in pieces:
            period = lcm(period, _shape(last)[0])
    return _Function(forever, tuple(pieces), period, edge)


def _shape(f: isl.Aff) -> tuple[int, Fraction, Fraction]:
    """Of a function of j with floors: `|f(j) - slope * j| <= beside`, and the period of their difference."""
    slope, beside = Fraction(0), abs(_fraction(f.get_constant_val()))
    period = int(f.get_denominator_val().to_python())
    if f.dim(_dim.param):
        slope = _fraction(f.get_coefficient_val(_dim.param, 0))
    for k in range(f.dim(_dim.div)):
        if factor := _fraction(f.get_coefficient_val(_dim.div, k)):
            own, rise, around = _shape(f.get_div(k))
            period, slope, beside = lcm(period, own), slope + factor * rise, beside + abs(factor) * (around + 1)
    return period, slope, beside


def _fraction(x: isl.Val) -> Fraction:
    bottom = x.get_den_val()
    return Fraction(int((x * bottom).to_python()), int(bottom.to_python()))


# -- the claim, decided


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive residue classes whose numbers go up by the same steps.

    Args:
        start: the first of them.
        count: how many.
        first: the numbers of the first one.
        step: by how much those of the next are more.
    """

    start: int
    count: int
    first: tuple[int, ...]
    step: tuple[int, ...]


def runs(rows: Sequence[tuple[int, ...]], kinds: Sequence[Hashable]) -> Iterator[Run]:
    """The rows of a table in few runs of one kind each, from the first row on.

    >>> list(runs([(3, 0), (2, 1), (1, 2), (7, 0)], "aaab"))
    [Run(start=0, count=3, first=(3, 0), step=(-1, 1)), Run(start=3, count=1, first=(7, 0), step=(0, 0))]
    """
    start = 0
    while start < len(rows):
        first = rows[start]
        step, stop = (0,) * len(first), start + 1
        if stop < len(rows) and kinds[stop] == kinds[start]:
            step = tuple(b - a for a, b in zip(first, rows[stop], strict=True))
        while (
            stop < len(rows)
            and kinds[stop] == kinds[start]
            and all(b - a == s for a, b, s in zip(rows[stop - 1], rows[stop], step, strict=True))
        ):
            stop += 1
        yield Run(start, stop - start, first, step)
        start = stop


def _runs(each: Sequence[int]) -> Iterator[Run]:
    return runs([(life,) for life in each], [life == FOREVER for life in each])


def outlived(terms: Sequence[Term], claim: Lives) -> str:
    """Where a query of some term attends a key after its life, "" if nowhere; the relations are built again.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    first, period = len(claim.first), len(claim.classes)
    # classes are k = 0 .. of a run: the first positions are x = 0 of a period of as many
    pieces = [(0, max(first, 1), run, "x = 0") for run in _runs(claim.first)]
    pieces += [(first, period, run, "x >= 0") for run in _runs(claim.classes)]
    pieces = [piece for piece in pieces if piece[2].first[0] != FOREVER]
    for term in terms if pieces else ():
        points = asked(term, fresh=True)
        with limited(f"whether {term!r} asks for a key after its life"):
            for begin, many, run, which in pieces:
                late = read_set(
                    f"{{ [i, j] : exists x, k: j = {begin + run.start} + {many} x + k and 0 <= k < {run.count} "
                    f"and {which} and i > j + {run.first[0]} + {run.step[0]} k }}"
                )
                if not (found := points & late).is_empty():
                    i, j = (found.sample_point().get_coordinate_val(_dim.set, x).to_python() for x in (0, 1))
                    return f"query {i} of {term!r} attends key {j}, which was to live {claim.at(np.array([j]))[0]}"
    return ""


@dataclass(frozen=True, slots=True)
class LivesProof:
    """The proof that no query of some terms attends a key after its life.

    Args:
        terms: the patterns.
        lives: the claim.
    """

    terms: tuple[Term, ...]
    lives: Lives
    summary = "isl: no query asks for a key after its life"

    def check(self) -> bool:
        """Decide it from nothing but the terms and the numbers; what isl cannot decide soon does not hold."""
        return not self.failure()

    def failure(self) -> str:
        """A query that asks too late, "" if there is none."""
        try:
            return outlived(self.terms, self.lives)
        except TooHardError as e:
            return str(e)


@lru_cache(maxsize=256)
def proved_lives(terms: tuple[Term, ...]) -> Lives:
    """Lives that isl confirmed for all positions; those of keys that live for ever where it finds no others."""
    try:
        found = lives(terms)
    except TooHardError:
        found = None
    return found if found is not None and LivesProof(terms, found).check() else ALL_FOREVER
