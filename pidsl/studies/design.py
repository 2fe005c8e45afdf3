"""Search: the parameters with the fewest pairs that connect all n tokens within so many layers.

The families, with lags as sets, k >= 1 and p > k (a p <= k is never better than k + 1; p = 1 attends every lag):

    window | stride   0..k and all multiples of p     window(k) | stride(p) & causal
    window | skip     0..k and p                      window(k) | lags(p)
    base schedule     0, b^l, ..., (b-1) b^l          BaseSchedule(b), layer l = 0, 1, ...
    window            0..k                            window(k)

The search runs on the closed formulas of depth and pairs; what it finds is asked again, exactly and with proofs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import comb

import numpy as np

from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.words import Value, symbol
from pidsl.analysis.schedules import BaseSchedule
from pidsl.analysis.symbolic.lag_pairs import pairs_by_lag
from pidsl.analysis.symbolic.lag_reach import reach_by_family
from pidsl.analysis.symbolic.definition import NotByLag, holds_at
from pidsl.errors import PidslError, SizeError, TermError, TooHardError
from pidsl.language.shown import Displayed
from pidsl.language.sizes import LIMIT
from pidsl.language.terms import Term
from pidsl.language.vocabulary import causal, lags, stride, window
from pidsl.relation.isl import in_turn
from pidsl.studies.compare import laid_out
from pidsl.studies.cost import shown
from pidsl.studies.members import Family, Pattern, Ranges, require_used
from pidsl.studies.search import Found, cheapest, layers_of

CHUNK = 1 << 16  # windows looked at together
LONG_STEP = 4096  # between lags, from which on pairs are not counted by isl


@dataclass(frozen=True)
class Candidate:
    """The best of a family.

    Args:
        family: its name.
        parameters: the sizes that were found.
        pattern: a term for every layer, or a schedule.
        n: tokens.
        layers: how many there are.
        pairs: attended pairs of all layers together.
        degree: keys of the query with the most, in any layer.
        depth: a bound that is at most `layers` at n.
        counts: a bound for the pairs of each layer.
        least_pairs: no pattern of this kind can have fewer pairs, see `least_pairs`; None of patterns that look at
            more than the lag, or ahead.
    """

    family: str
    parameters: tuple[tuple[str, int], ...]
    pattern: Pattern
    n: int
    layers: int
    pairs: int
    degree: int
    depth: Bound
    counts: tuple[Bound, ...]
    least_pairs: int | None

    @property
    def ratio(self) -> float | None:
        """Pairs / the fewest that are possible."""
        return None if self.least_pairs is None else self.pairs / self.least_pairs

    def check(self) -> bool:
        """Verify the depth and the pairs from the statements alone; takes seconds where z3 is asked."""
        distinct = {id(bound): bound for bound in (self.depth, *self.counts)}
        if not all(bound.is_known and bound.proof.check() for bound in distinct.values()):
            return False
        connected, total = _at(self.depth, self.n), sum(bound(n=self.n) for bound in self.counts)
        return bool(self.depth.relation in ("==", "<=") and connected <= self.layers and total == self.pairs)


@dataclass(frozen=True)
class Design(Displayed):
    """What was found; print it.

    Args:
        n, layers, max_degree: what was asked.
        found: the best of each family, the fewest pairs first.
        missing: why other families have none.
        least_degree: with fewer keys per query than this, no pattern connects n tokens in so many layers.
    """

    n: int
    layers: int
    max_degree: int | None
    found: tuple[Candidate, ...]
    missing: tuple[tuple[str, str], ...]
    least_degree: int

    @property
    def best(self) -> Candidate | None:
        """The candidate with the fewest pairs; None if nothing fits."""
        return self.found[0] if self.found else None

    @property
    def reason(self) -> str:
        """Why nothing fits, "" if something does."""
        if self.found:
            return ""
        if self.max_degree is not None and self.max_degree < self.least_degree:
            return f"{_too_few(self.n, self.layers, self.max_degree)}: no pattern of any kind connects them"
        return "; ".join(f"{family}: {why}" for family, why in self.missing)

    def __getitem__(self, family: str) -> Candidate:
        for candidate in self.found:
            if candidate.family == family:
                return candidate
        raise KeyError(family)

    def check(self) -> bool:
        """Whether there is a candidate and every proof holds."""
        return bool(self.found) and all(candidate.check() for candidate in self.found)

    @property
    def as_text(self) -> tuple[str, list[list[str]], list[str]]:
        """What is printed: a title, the cells of the table with their head, and notes."""
        limit = "" if self.max_degree is None else f", at most {self.max_degree:,} keys per query"
        within = f"{self.layers} layer" + "s" * (self.layers != 1)
        cells: list[list[str]] = []
        if self.found:
            cells.append(["family", "pattern", "pairs of all layers", "least possible", "ratio", "degree", "depth"])
        for x in self.found:
            least = ["", ""] if x.least_pairs is None else [shown(x.least_pairs), f"{x.ratio:.2f}"]
            depth = str(_at(x.depth, self.n))
            cells.append([x.family, repr(x.pattern), shown(x.pairs), *least, shown(x.degree), depth])
        notes = [f"{family}: {why}" for family, why in self.missing] if self.found else [f"nothing fits: {self.reason}"]
        notes.append(f"any pattern has a query with at least {self.least_degree:,} keys: degree^layers >= n")
        return f"all causal pairs of n = {self.n:,} tokens within {within}{limit}", cells, notes

    def __str__(self) -> str:
        return laid_out(*self.as_text, left=2)

    __repr__ = __str__


@in_turn
def design(
    n: int, layers: int, max_degree: int | None = None, families: Iterable[str] | None = None, *,
    family: Family | Mapping[str, Family] | None = None, ranges: Ranges | None = None,
) -> Design:  # fmt: skip
    """The cheapest patterns that connect every causal pair of n tokens within so many layers.

    Minimizes the attended pairs of all layers together (then the largest degree, then the window), family by family;
    every choice of parameters is covered. For n = 2**20 it takes well under a second.

    >>> import pidsl
    >>> found = design(4096, 4)
    >>> print(found)
    all causal pairs of n = 4,096 tokens within 4 layers
      family           pattern                           pairs of all layers  least possible  ratio  degree  depth
      base schedule    BaseSchedule(base=8)                          114,692          77,144   1.49       8      4
      window | stride  window(26) | stride(79) & causal              857,532         152,784   5.61      78      4
      window | skip    window(512) | lags(1537)                    7,889,916         152,784  51.64     514      4
      window           window(1024)                               14,694,400         152,784  96.18   1,025      4
      any pattern has a query with at least 8 keys: degree^layers >= n
    >>> found["window | stride"].check()
    True
    >>> print(design(4096, 4, max_degree=7))
    all causal pairs of n = 4,096 tokens within 4 layers, at most 7 keys per query
      nothing fits: a token sees at most 7^4 = 2,401 < 4,096 tokens: no pattern of any kind connects them
      any pattern has a query with at least 8 keys: degree^layers >= n

    A family of one's own is a function of parameters, or a term with symbols, with a range for each:

    >>> def dilated(w, s):
    ...     return pidsl.window(w) | pidsl.window(w).dilated(s)
    >>> print(design(1024, 4, family=dilated, ranges={"w": (4, 24), "s": [8, 16, 32]}))
    all causal pairs of n = 1,024 tokens within 4 layers
      family   pattern                              pairs of all layers  least possible  ratio  degree  depth
      dilated  window(16) | window(16).dilated(32)              117,216          26,972   4.35      33      4
      any pattern has a query with at least 6 keys: degree^layers >= n

    Args:
        n: tokens, 1 <= n < 2**31.
        layers: at most so many, >= 1.
        max_degree: keys of a query at most, >= 1; None: any number.
        families: some of "window | stride", "window | skip", "base schedule", "window"; default: all, or none beside a
            family of one's own.
        family: a function that returns a pattern (None: no member), or a term or schedule with symbols; or several
            under names. Every member is tried: of patterns that look ahead, every pair has to be connected.
        ranges: for each of its parameters (low, high), both included, or its integers one by one.

    Returns:
        The best of each family with formulas and proofs, and beside it what no pattern of its kind can beat; or why
        nothing fits.

    Raises:
        SizeError: n < 1, layers < 1 or max_degree < 1.
        TermError: an unknown family, or what is none.
        SymbolError: a parameter without a range, or a range without a parameter.
    """
    for name, value in (("n", n), ("layers", layers), ("max_degree", max_degree)):
        if value is None and name == "max_degree":
            continue
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:  # type: ignore[operator]
            raise SizeError(f"{name} = {value!r}", "an integer >= 1", where="design(...)")
    if n >= LIMIT:
        raise SizeError(f"n = {n}", "n below 2**31: sizes of patterns stay below it", where="design(...)")
    own = _own(family)
    require_used(own.values(), ranges, "design(...)")
    chosen = (() if own else tuple(FAMILIES)) if families is None else tuple(families)
    for name in chosen:
        if name not in FAMILIES:
            raise TermError(f"family {name!r}", f"some of {', '.join(map(repr, FAMILIES))}", where="design(...)")
    limit = n if max_degree is None else min(max_degree, n)
    found, missing = [], []
    for name, one in own.items():
        cheap, note = cheapest(one, ranges or {}, n, layers, limit)
        if cheap is not None:
            found.append(_member(name, cheap, n, layers))
        if note:
            missing.append((name, note))
    for name in chosen:
        best = FAMILIES[name].search(n, layers, limit)
        if best is None:
            missing.append((name, _why(name, n, layers, limit)))
        else:
            found.append(_candidate(name, best, n, layers))
    found.sort(key=lambda x: (x.pairs, x.degree))
    return Design(n, layers, max_degree, tuple(found), tuple(missing), least_degree(n, layers))


def _own(family: Family | Mapping[str, Family] | None) -> dict[str, Family]:
    """The caller's families under names; a function's is its own."""
    if family is None:
        return {}
    if isinstance(family, Mapping):
        if not family:
            raise TermError("family = {}", "at least one", where="design(...)")
        return {str(name): one for name, one in family.items()}
    if isinstance(family, str):
        hint = f"families=[{family!r}]" if family in FAMILIES else ""
        raise TermError(f"family = {family!r}", "a function or a term with symbols", "design(...)", hint)
    name = repr(family) if isinstance(family, Pattern) else getattr(family, "__name__", "family")
    return {"family" if name == "<lambda>" else name: family}


# -- what no pattern can beat ------------------------------------------------------------------------------------------


def least_degree(n: int, layers: int) -> int:
    """The least d with `d**layers >= n`.

    With at most d keys per query, the last token sees at most d^L tokens through L layers, and it has to see n.

    >>> least_degree(4096, 4), least_degree(4097, 4)
    (8, 9)
    """
    low, high = 1, 1
    while high**layers < n:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**layers >= n else (middle + 1, high)
    return low


def least_pairs(n: int, layers: int, same: bool) -> int:
    """A lower bound of the pairs of all layers, for patterns of lags i - j >= 0 that connect n tokens.

    Every layer attends lag 0, or some token would not see itself. Take any m <= n. The lags below m are sums of lags
    below m, one per layer; let layer l have s_l of them. There are at most `s_1 ... s_L` sums, and if all layers are
    the same, at most `C(s + L - 1, L)`: this has to be m or more. The lag d costs n - d pairs, so that s lags, of which
    one is 0 and the others differ and are below m, cost at least

        f(s) = n + (n - m + 1) + ... + (n - m + s - 1)

    f is convex, so sizes that differ by more than one can be brought closer without more cost and without fewer sums:
    the least cost has sizes r and r + 1 only. The bound is the best over m.

    >>> least_pairs(5, 1, same=True)  # window(4): all lags
    15

    Args:
        n: tokens.
        layers: how many.
        same: all layers have the same pattern.
    """
    if layers == 1:
        return n * (n + 1) // 2

    def cost(size: int, m: int) -> int:
        return n + (size - 1) * (n - m) + size * (size - 1) // 2

    best, size, m = 0, 1, 1
    while m <= n:  # the least m that needs this size, as fewer lags below a larger m are cheaper
        if same:
            best = max(best, layers * cost(size, m))
            m, size = comb(size + layers - 1, layers) + 1, size + 1
            continue
        for larger in range(1 if size > 1 else 0, layers + 1):  # layers with size + 1 lags, the others have size
            if m > n:
                break
            best = max(best, (layers - larger) * cost(size, m) + larger * cost(size + 1, m))
            m = size ** (layers - larger) * (size + 1) ** larger + 1
        size += 1
    return best


# -- the families ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """Parameters, the fewest pairs first."""

    pairs: int
    degree: int
    parameters: tuple[int, ...]


def window_pairs(k: int, n: int) -> int:
    """Pairs of the lags 0..k."""
    k = min(k, n - 1)
    return (k + 1) * (2 * n - k) // 2


def _windows(n: int, layers: int, limit: int) -> Choice | None:
    k = -(-(n - 1) // layers)
    return Choice(layers * window_pairs(k, n), k + 1, (k,)) if k + 1 <= limit else None


def _combs(n: int, layers: int, limit: int) -> Choice | None:
    """For each window the longest period, which has the fewest pairs and the smallest degree.

    L layers see every lag below n when k (L - 1) >= p - 1; or k L >= p - 1 and p + k (L - 1) >= n - 1, where only the
    first multiple is needed; or k L >= n - 1, where none is.
    """
    if layers == 1 or n <= 2:  # every causal pair has to be attended: all multiples of 1
        return Choice(layers * window_pairs(n - 1, n), n, (1, 1)) if n <= limit else None
    best: Choice | None = None
    top = min(-(-(n - 1) // layers), limit - 1)
    for start in range(1, top + 1, CHUNK):
        if best is not None and layers * window_pairs(start, n) >= best.pairs:
            break
        k = np.arange(start, min(start + CHUNK, top + 1))
        once = 2 * k * layers - k + 1 >= n - 1
        p = np.where(once, k * layers, k * (layers - 1)) + 1
        q = (n - 1) // p
        degree = 1 + k + q
        pairs = (k + 1) * (2 * n - k) // 2 + n * q - p * (q * (q + 1) // 2)
        fits = np.flatnonzero(degree <= limit)
        for x in fits[pairs[fits] == pairs[fits].min()] if len(fits) else []:
            choice = Choice(layers * int(pairs[x]), int(degree[x]), (int(k[x]), int(p[x])))
            best = choice if best is None else min(best, choice)
    return best


def _skips(n: int, layers: int, limit: int) -> Choice | None:
    """For each window the longest skip, from the smallest window that can do.

    With c = ceil((p - 1) / k) <= L the contiguous reach is p (L + 1 - c) + k (c - 1); for each c, p = k c + 1 is best.
    """
    low, high = 1, max(1, n - 1)
    while low < high:  # the reach grows with k
        middle = (low + high) // 2
        low, high = (low, middle) if _longest_skip(middle, n, layers) else (middle + 1, high)
    best: Choice | None = None
    for k in range(low, max(1, n - 1) + 1):
        if min(k + 1, n) > limit or (best is not None and layers * window_pairs(k, n) >= best.pairs):
            break
        p = _longest_skip(k, n, layers)
        pairs, degree = window_pairs(k, n) + max(0, n - p), min(k + 1, n) + (p < n)
        if degree <= limit:
            choice = Choice(layers * pairs, degree, (k, p))
            best = choice if best is None else min(best, choice)
    return best


def _longest_skip(k: int, n: int, layers: int) -> int:
    for c in range(min(layers, n), 0, -1):
        if (k * c + 1) * (layers + 1 - c) + k * (c - 1) >= n - 1:
            return k * c + 1
    return 0


def _bases(n: int, layers: int, limit: int) -> Choice | None:
    best: Choice | None = None
    base = max(2, least_degree(n, layers))
    while min(base, n) <= limit:
        if best is not None and (base > n or window_pairs(base - 1, n) + (layers - 1) * n >= best.pairs):
            break
        choice = Choice(sum(_digit_pairs(base, k, n) for k in range(layers)), min(base, n), (base,))
        best = choice if best is None else min(best, choice)
        base += 1
    return best


def _digit_pairs(base: int, layer: int, n: int) -> int:
    """Pairs of one layer of a base schedule."""
    step = base**layer
    q = min(base - 1, (n - 1) // step)
    return (q + 1) * n - step * q * (q + 1) // 2


@dataclass(frozen=True)
class Known:
    """A family with a search of its own.

    Args:
        names: of the parameters.
        pattern: with those parameters.
        search: for n, layers and the largest degree, the choice with the fewest pairs.
        same: every layer has the same pattern.
        by_formula: its depth is asked of the family's formula first, which takes no time that grows with the sizes.
    """

    names: tuple[str, ...]
    pattern: Callable[..., Term | BaseSchedule]
    search: Callable[[int, int, int], Choice | None]
    same: bool = True
    by_formula: bool = False


FAMILIES: dict[str, Known] = {
    "window | stride": Known(("k", "p"), lambda k, p: window(k) | stride(p) & causal, _combs),
    "window | skip": Known(("k", "p"), lambda k, p: window(k) | lags(p), _skips, by_formula=True),
    "base schedule": Known(("b",), BaseSchedule, _bases, same=False, by_formula=True),
    "window": Known(("k",), window, _windows),
}


def _candidate(family: str, choice: Choice, n: int, layers: int) -> Candidate:
    kind = FAMILIES[family]
    pattern = kind.pattern(*choice.parameters)
    depth = _depth(pattern, n, kind.by_formula)
    counts = _counts(pattern, n, layers)
    assert _at(depth, n) <= layers, f"{pattern!r} does not connect {n} tokens in {layers} layers"
    assert sum(bound(n=n) for bound in counts) == choice.pairs, f"the pairs of {pattern!r}"
    return Candidate(
        family=family,
        parameters=tuple(zip(kind.names, choice.parameters, strict=True)),
        pattern=pattern,
        n=n,
        layers=layers,
        pairs=choice.pairs,
        degree=choice.degree,
        depth=depth,
        counts=counts,
        least_pairs=least_pairs(n, layers, kind.same),
    )


def _member(name: str, found: Found, n: int, layers: int) -> Candidate:
    """The best member of a family that a caller has."""
    member, terms = found.member, layers_of(found.member.pattern, n, layers)
    counts = {term: ask.pairs(term) for term in terms}
    backwards = all(_by_lag(term) and term <= causal for term in counts)
    return Candidate(
        family=name,
        parameters=member.values,
        pattern=member.pattern,
        n=n,
        layers=layers,
        pairs=found.pairs,
        degree=found.degree,
        depth=found.depth,
        counts=tuple(counts[term] for term in terms),
        least_pairs=least_pairs(n, layers, len(counts) == 1) if backwards else None,
    )


def _by_lag(term: Term) -> bool:
    try:
        holds_at(term, symbol("d"))
    except NotByLag:
        return False
    return True


def _depth(pattern: Term | BaseSchedule, n: int, by_formula: bool) -> Bound:
    def formula() -> Bound:
        found = reach_by_family(pattern, "depth")
        found(n=n)
        return found

    ways = (formula, lambda: ask.depth(pattern, n))
    for way in ways if by_formula else reversed(ways):
        try:
            found = way()
        except (NotByLag, PidslError):
            continue
        if found.is_known:
            return found
    raise TooHardError(f"the depth of {pattern!r}", "a formula", where=f"design(n={n})")


def _counts(pattern: Term | BaseSchedule, n: int, layers: int) -> tuple[Bound, ...]:
    if not isinstance(pattern, BaseSchedule):
        return (_count(pattern, 1),) * layers
    assert isinstance(pattern.base, int)
    steps = [pattern.base**layer for layer in range(layers)]
    alone = _count(window(0), 1)  # in layers whose step is beyond n
    return tuple(_count(pattern.layer(k), step) if step < n else alone for k, step in enumerate(steps))


def _count(term: Term, step: int) -> Bound:
    """Pairs: of long periods by the rule for progressions of lags, which does not count up to the period."""
    found = ask.pairs(term) if step <= LONG_STEP else None
    return found if found is not None and found.is_known else pairs_by_lag(term)


def _why(family: str, n: int, layers: int, limit: int) -> str:
    """Why no member of a family fits: the smallest degree that would do."""
    if limit**layers < n:
        return _too_few(n, layers, limit)
    low, high = limit + 1, n
    while low < high:
        middle = (low + high) // 2
        fits = FAMILIES[family].search(n, layers, middle) is not None
        low, high = (low, middle) if fits else (middle + 1, high)
    return f"its members that connect {n:,} tokens in {layers} layers have a query with at least {low:,} keys"


def _too_few(n: int, layers: int, limit: int) -> str:
    return f"a token sees at most {limit:,}^{layers} = {limit**layers:,} < {n:,} tokens"


def _at(depth: Bound, n: int) -> Value:
    return depth(n=n)
