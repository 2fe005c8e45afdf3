"""Keys that must be kept or moved: the live set of a decoding step, and traffic between workers.

The live set after the tokens 0..t are processed: the keys j <= t that some later query i > t attends, for some length
n > i. A pattern whose meaning depends on n (keys counted from the end, rings) may attend a key at one length and not
at another; while decoding, the length to come is unknown, so any length counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import islpy as isl
import numpy as np
import sympy

from pidsl.analysis.bound import Bound, exact, unknown
from pidsl.analysis.counting.counts import stretches_of
from pidsl.analysis.counting.counts_check import compare, progressions_counter
from pidsl.analysis.counting.lattice import Chambers, chambers, square, without
from pidsl.analysis.counting.progressions import keys_counter, loops_of
from pidsl.analysis.formulas import quasi
from pidsl.analysis.formulas.evaluate import first_difference
from pidsl.analysis.formulas.words import symbol
from pidsl.analysis.verdict import Verdict
from pidsl.analysis.ways import Asked
from pidsl.errors import SizeError, TooHardError
from pidsl.language.terms import Term, require_concrete, require_free
from pidsl.relation.counting import count_loops, period_of
from pidsl.relation.isl import coalesced, disjoint, in_turn, limited, read_map, read_set
from pidsl.relation.lives import asked
from pidsl.relation.pieces import Ints

t = symbol("t")
TIMES = "[t] -> { : t >= 0 }"
METHOD = "live keys"
LISTED = 3000  # tokens after which the live keys are counted one by one

_dim: Any = isl.dim_type


def size(asked: Asked) -> Bound:
    """How many keys, or pages, are live."""
    return live(asked.subject, asked.question.lookahead, asked.question.page).size


@dataclass(frozen=True)
class Live:
    """Which past keys a decoding step must keep.

    Args:
        size: how many, as a formula in t >= 0, the last token that is processed.
        shown: which, in words.
        points: `[t] -> { [j] }`; None where isl's operation limit struck.
    """

    size: Bound
    shown: str
    points: isl.Set | None = field(repr=False, compare=False, default=None)

    def contains(self, j: int, t: int) -> bool:
        """Whether key j (of pages: page j) may still be attended when the tokens 0..t are processed.

        Raises:
            TooHardError: the set is unknown.
        """
        if self.points is None:
            raise TooHardError(self.size.name, "a known live set", self.size.shown_subject, self.size.reason)
        with limited("whether a key is live"):
            one = read_set(f"[t] -> {{ [j] : t = {int(t)} and j = {int(j)} }}")
            return not (self.points & one).is_empty()

    def __str__(self) -> str:
        return f"{self.size}\n  keys: {self.shown}"

    __repr__ = __str__


def live(term: Term, lookahead: int | None = None, page: int | None = None) -> Live:
    """The past keys that some later query can attend, after the tokens 0..t are processed.

        { j : 0 <= j <= t, and i attends j for some i > t in a sequence of some length n > i }

    With a lookahead, those that a cache holds when the tokens 0..t are appended and the rows from `t - lookahead` on
    may still ask: `i >= t - lookahead` instead of `i > t`.

    >>> import pidsl
    >>> found = live(pidsl.window(4))
    >>> found.size.expr, found.shown
    (Piecewise((t + 1, t < 3), (4, True)), 'j >= -3 + t and 0 <= j <= t')
    >>> live(pidsl.stride(256)).shown
    'all keys 0..t'

    >>> live(pidsl.window(4), lookahead=0).size.expr, live(pidsl.stride(8) & pidsl.causal, page=16).size.expr
    (Piecewise((t + 1, t < 4), (5, True)), floor(t/16) + 1)

    Args:
        term: a term without symbols.
        lookahead: by how many tokens rows may lie behind the last one; None: only later ones ask.
        page: count pages of so many consecutive positions, those with a live key; None: count keys.

    Raises:
        SymbolError: the term holds unbound symbols.
    """
    require_concrete(term, "find the live keys")
    return _live(term, lookahead, page)


@lru_cache(maxsize=256)
def _live(term: Term, lookahead: int | None, page: int | None) -> Live:
    assumptions = (sympy.Ge(t, 0),)
    quantity = "live keys" if page is None else "live pages"
    given = {name: x for name, x in (("lookahead", lookahead), ("page", page)) if x is not None}
    try:
        points = live_set(term, lookahead, page)
        with limited("the live keys"):
            shape = chambers(points)
            shown = _shown(points)
        count = keys_counter(points, TIMES)
        found = stretches_of(shape, lambda times: count({"t": times}))
        expr, _ = quasi.expression(quasi.merged(found), t)
    except TooHardError as e:
        return Live(unknown(term, quantity, " ".join(f"{e.given}, {e.where}".split()), given), "unknown")
    return Live(exact(term, quantity, expr, METHOD, given=given, assumptions=assumptions), shown, points)


def live_set(term: Term, lookahead: int | None = None, page: int | None = None, *, fresh: bool = False) -> isl.Set:
    """`[t] -> { [j] }`: the keys up to t that a query after t, or after t - 1 - lookahead, attends at some length.

    With `page`, `[t] -> { [j // page] }`.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    ever = asked(term, fresh=fresh)
    with limited("the live keys"):
        since = 1 if lookahead is None else -lookahead
        later = ever & read_set(f"[t] -> {{ [i, j] : 0 <= j <= t and t + {since} <= i }}")
        counted = read_map("{ [i, j] -> [j] }" if page is None else f"{{ [i, j] -> [floor(j/{page})] }}")
        return coalesced(later.apply(counted).set_dim_name(_dim.set, 0, "j"))


def _shown(points: isl.Set) -> str:
    """The conditions on j as isl writes them."""
    if points.is_empty():
        return "none"
    if points.is_equal(read_set("[t] -> { [j] : 0 <= j <= t }")):
        return "all keys 0..t"
    parts = [text.split(":", 1)[1].strip() for text in str(points).split("{")[1].rstrip(" }").split(";")]
    return " or ".join(f"({part})" if len(parts) > 1 else part for part in parts)


def check_live(bound: Bound) -> Verdict:
    """The number of live keys, from the relation built again and counted by progressions."""
    if bound.assumptions not in ((), (sympy.Ge(t, 0),)):
        return Verdict(False, failure=f"assumptions {bound.assumptions}")
    points = live_set(bound.term, bound.argument("lookahead"), bound.argument("page"), fresh=True)
    with limited("the parts of the live keys"):
        each = [chambers(isl.Set.from_basic_set(part)) for part in disjoint(points)]
    counter = progressions_counter(points, TIMES)
    found = compare(bound, bound.expr, t, each, 1, lambda at: counter({"t": at}))
    if found.holds and (failure := _differs(bound.expr, points, each)):
        return Verdict(False, found.steps, failure)
    return found


def _differs(expr: sympy.Expr, points: isl.Set, each: list[Chambers]) -> str:
    """Where a formula is not the number of points, one by one, at some t that it was not made from; "" if nowhere."""
    starts = sorted({s for own in each for s in own.starts})
    last = (starts[-1] if starts else 0) + 2 * max((own.period for own in each), default=1)
    for at in dict.fromkeys((*range(last, last + 9), *(s + 1 for s in starts[:9]), 2 * last + 5, 3 * last + 1)):
        if at > LISTED:
            continue
        with limited("the live keys after one token"):
            right = without(points.intersect_params(read_set(f"[t] -> {{ : t = {at} }}")), "t").count_val().to_python()
        if first_difference(expr, {t: np.array([at], dtype=object)}, np.array([int(right)], dtype=object)) is not None:
            return f"at t = {at}, held out, {right} keys are live, not {expr.subs(t, at)}"
    return ""


@dataclass(frozen=True)
class Communication:
    """Key rows between workers that hold consecutive pieces of a sequence.

    Args:
        n: tokens in all.
        workers: worker w holds the tokens from w * ceil(n / workers) to before (w + 1) * ceil(n / workers).
        rows: int64 [workers, workers]: `rows[w, x]` rows of keys that worker w needs from worker x; the diagonal is
            what it needs of its own.
    """

    n: int
    workers: int
    rows: Ints

    @property
    def total(self) -> int:
        """Rows that move: all but the workers' own."""
        return int(self.rows.sum() - np.trace(self.rows))

    @property
    def most(self) -> int:
        """Rows that the busiest receiver gets from others."""
        return int((self.rows.sum(axis=1) - np.diagonal(self.rows)).max())


@in_turn
def communication(term: Term, n: int, workers: int) -> Communication:
    """How many key rows each worker needs from each other one, exactly.

    >>> import pidsl
    >>> communication(pidsl.window(4), 2**40, 4).rows
    array([[274877906944,            0,            0,            0],
           [           4, 274877906944,            0,            0],
           [           0,            4, 274877906944,            0],
           [           0,            0,            4, 274877906944]])

    Args:
        term: a term without symbols.
        n: tokens, at least 0; the time does not depend on it.
        workers: at least 1.

    Raises:
        SymbolError: the term holds unbound symbols.
        SizeError: n < 0 or workers < 1.
        TooHardError: isl's operation limit struck.
    """
    require_concrete(term, "count the rows between workers")
    require_free(term, "which rows workers need")
    for name, value, least in (("n", n, 0), ("workers", workers, 1)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
            raise SizeError(f"{name} = {value!r}", f"an integer >= {least}", where=repr(term))
    size = -(-n // workers)
    pairs = square(term)
    with limited(f"the key rows between {workers} workers"):
        here = without(pairs.intersect_params(read_set(f"[n] -> {{ : n = {n} }}")), "n")
        here &= read_set(f"[w, x] -> {{ [i, j] : {size} w <= i < {size} w + {size} and 0 <= w < {workers} }}")
        here &= read_set(f"[w, x] -> {{ [i, j] : {size} x <= j < {size} x + {size} and 0 <= x < {workers} }}")
        keys = coalesced(here.apply(read_map("{ [i, j] -> [j] }")))
        keys = keys.align_params(read_set("[w, x] -> { : }").get_space())
    w, x = np.divmod(np.arange(workers * workers), workers)
    rows = _counted(keys, f"[w, x] -> {{ : 0 <= w < {workers} and 0 <= x < {workers} }}", w, x)
    return Communication(n, workers, rows.reshape(workers, workers))


def _counted(keys: isl.Set, context: str, w: Ints, x: Ints) -> Ints:
    try:
        loops = loops_of(keys, context)
    except TooHardError:
        loops = None
    if loops is not None and all(p.inside is None or (period_of(p.inside) or 1 << 40) < 1 << 16 for p in loops):
        return count_loops(loops, {"w": w, "x": x})
    return np.asarray(progressions_counter(keys, context)({"w": w, "x": x}))
