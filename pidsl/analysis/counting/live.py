"""Keys that must be kept: the live set of a decoding step, and its size as a formula.

The live set after the tokens 0..t are processed: the keys j <= t that some later query i > t attends, for some length
n > i. A pattern whose meaning depends on n (keys counted from the end, rings) may attend a key at one length and not
at another; while decoding, the length to come is unknown, so any length counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import islpy as isl
import sympy

from pidsl.analysis.bound import Bound, exact, unknown
from pidsl.analysis.counting.counts import stretches_of
from pidsl.analysis.counting.lattice import chambers
from pidsl.analysis.counting.live_set import live_set
from pidsl.analysis.counting.progressions import counter
from pidsl.analysis.formulas import quasi
from pidsl.analysis.formulas.words import symbol
from pidsl.analysis.ways import Asked
from pidsl.errors import TooHardError
from pidsl.language.terms import Term, require_concrete
from pidsl.relation.isl import limited, read_set

t = symbol("t")
METHOD = "live keys"


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
        count = counter(points)
        found = stretches_of(shape, lambda times: count({"t": times}))
        expr, _ = quasi.expression(quasi.merged(found), t)
    except TooHardError as e:
        return Live(unknown(term, quantity, " ".join(f"{e.given}, {e.where}".split()), given), "unknown")
    return Live(exact(term, quantity, expr, METHOD, given=given, assumptions=assumptions), shown, points)


def _shown(points: isl.Set) -> str:
    """The conditions on j as isl writes them."""
    if points.is_empty():
        return "none"
    if points.is_equal(read_set("[t] -> { [j] : 0 <= j <= t }")):
        return "all keys 0..t"
    parts = [text.split(":", 1)[1].strip() for text in str(points).split("{")[1].rstrip(" }").split(";")]
    return " or ".join(f"({part})" if len(parts) > 1 else part for part in parts)
