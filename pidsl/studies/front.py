"""The members of families that no other is better than, under a budget: what `design(...).front` is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pidsl.errors import PidslError, SizeError, TermError, TooHardError
from pidsl.language.door import behind
from pidsl.language.shown import Displayed
from pidsl.language.terms import Term, is_confined, require_free
from pidsl.language.vocabulary import causal, lags, window
from pidsl.studies.compare import laid_out
from pidsl.studies.known_fronts import FRONTS, SKIPS, of_skips
from pidsl.studies.layered import schedules
from pidsl.studies.limits import least_keys
from pidsl.studies.members import Family, Member, Ranges, members
from pidsl.studies.model import IN_BYTES, Sizes
from pidsl.studies.numbers import depth_within, layers_of, reason_of, surely
from pidsl.studies.points import LIMITS, MEASURES, Point, planned, point, undominated, within_budget
from pidsl.studies.search import depth_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 40  # points of a table as text
PLANNED = 24  # members of a known family, or schedules of a list, that are planned for ranks; a plan takes a second
TRIED = 512  # members of a caller's family that are
SAME_DEPTH = 64  # windows with a skip that are looked at for each depth, where there are more


@dataclass(frozen=True)
class Wanted:
    """What is asked of a front: tokens, layers, the most of each number, and a window that every layer holds.

    With the sizes of a model, numbers of bytes are asked for as well.
    """

    n: int
    layers: int
    budget: Mapping[str, int]
    window: int = 0
    sizes: Sizes | None = None

    @property
    def in_keys(self) -> dict[str, int]:
        """The budget without bytes: of a cache, so many keys as it holds."""
        found = {name: most for name, most in self.budget.items() if name not in IN_BYTES}
        if self.sizes is not None and "cache_bytes" in self.budget:
            keys = self.budget["cache_bytes"] // self.sizes.key
            found["cache"] = min(keys, found.get("cache", keys))
        return found


@dataclass(frozen=True)
class Front(Displayed):
    """Points that no other is better than; print it, or `plot` it.

    Args:
        n, layers: what was asked.
        budget: the most of each number: of "degree", "keys", "cache", "received", "depth", "cache_bytes" and
            "exchange_bytes", some or none.
        window: every layer attends the last so many tokens, and itself.
        points: the fewest keys first.
        missing: of families, what was not looked at, or is not known.
        sizes: of the model that bytes are those of; None: they are not told.
    """

    n: int
    layers: int
    budget: Mapping[str, int]
    window: int
    points: tuple[Point, ...]
    missing: tuple[tuple[str, str], ...]
    sizes: Sizes | None = None

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __getitem__(self, index: int) -> Point:
        return self.points[index]

    def check(self) -> bool:
        """Whether there are points, as was asked, every number of each is proved, and none is better than another."""
        asked = all(self._is_asked(x) for x in self.points)
        return bool(self.points) and asked and undominated(self.points) == self.points and all(x.check() for x in self)

    def _is_asked(self, x: Point) -> bool:
        """Whether a point is of these tokens, layers and sizes, within the budget, with the window in each layer."""
        moves = self.sizes is not None and self.sizes.ranks is not None
        same = (x.n, x.layers, x.sizes, x.exchange_bytes is not None) == (self.n, self.layers, self.sizes, moves)
        return same and within_budget(x, self.budget) and _holds(x.terms, self.window)

    @property
    def as_text(self) -> tuple[str, list[list[str]], list[str]]:
        """What is printed: a title, the cells of the table with their head, and notes."""
        within = f"{self.layers} layer" + "s" * (self.layers != 1)
        limits = "".join(f", {name} <= {most:,}" for name, most in self.budget.items())
        held = f", window({self.window}) in each" if self.window else ""
        last = len(self.points) - 1
        rows = self.points if last < SHOWN else tuple(self.points[k * last // (SHOWN - 1)] for k in range(SHOWN))
        kept, moved = self._columns
        head = ["family", "pattern", "keys", "least possible", "largest", kept[0], moved[0], "depth"]
        cells = [head] if rows else []
        for x in rows:
            least = least_keys(self.n, self.layers, x.depth)
            cells.append([x.family, _short(x), x.shown("keys"), f"{least:,}", f"{x.degree:,}", x.shown(kept[1]),
                          x.shown(moved[1]), f"{x.depth:,}"])  # fmt: skip
        notes = [f"{family}: {why}" for family, why in self.missing]
        if not rows:
            notes.insert(0, "nothing fits")
        elif len(rows) < len(self.points):
            notes.append(f"{len(rows)} of {len(self.points):,} points are shown, evenly apart; `.points` has all")
        if any(x.keys == least_keys(self.n, self.layers, x.depth) for x in rows):
            notes.append("no pattern of any kind that is as deep has fewer keys than the least possible")
        if rows:
            of = f"keys, {kept[0]} and {moved[0]}"
            notes.append(f"{of} are sums over the layers; largest: keys of a query in one layer")
        if rows and self.sizes is not None:
            ranks = "" if moved[0] == "received" else f"; exchange: of the busiest of {self.sizes.ranks:,} ranks"
            notes.append(f"bytes of one sequence, {self.sizes}{ranks}")
        return f"n = {self.n:,} tokens connected within {within}{held}{limits}", cells, notes

    @property
    def _columns(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """What a table says of the cache and of what ranks get, and the name of the number."""
        kept = ("KV keys", "cache") if self.sizes is None else ("cache bytes", "cache_bytes")
        if self.sizes is None or self.sizes.ranks is None:
            return kept, ("received", "received")
        return kept, ("exchange bytes", "exchange_bytes")

    def __str__(self) -> str:
        return laid_out(*self.as_text, left=2)

    __repr__ = __str__

    def plot(self, *, ax: Axes | None = None) -> Figure:
        """Keys against depth, beside the fewest that are possible, and keys against what decoding keeps.

        >>> import pidsl
        >>> figure = pidsl.design(4096, 6).front.plot()
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['keys per query, all layers', 'keys per query, all layers']

        Args:
            ax: matplotlib axes to draw into: keys against depth alone.

        Returns:
            A `matplotlib.figure.Figure`: `figure.savefig("front.png")`.

        Raises:
            TermError: there are no points; `ax` what is none.
        """
        return behind("plot of a front")(self, ax)


def _short(x: Point) -> str:
    """A pattern in a line: a schedule of known sizes by those."""
    if x.family in FRONTS and x.parameters and len(repr(x.pattern)) > 60:
        return ", ".join(f"{name} = {value}" for name, value in x.parameters)
    text = repr(x.pattern)
    return text if len(text) <= 100 else f"{text[:64]} ... {text[-31:]}"


def checked_budget(budget: Any, window_: Any, max_degree: int | None, where: str) -> dict[str, int]:
    """The most of each number.

    Raises:
        TermError: no mapping, or a name that is none.
        SizeError: what is no number, or below 0.
    """
    if budget is not None and not isinstance(budget, Mapping):
        raise TermError(f"budget = {budget!r}", "a number for each of some names", where, 'budget={"cache": 65536}')
    found: dict[str, int] = {} if max_degree is None else {"degree": max_degree}
    for name, most in (budget or {}).items():
        if name not in LIMITS:
            raise TermError(f"{name!r} in a budget", f"one of {', '.join(map(repr, LIMITS))}", where)
        least = 1 if name in ("degree", "depth") else 0
        if isinstance(most, bool) or not hasattr(most, "__index__") or int(most.__index__()) < least:
            raise SizeError(f"{name}: {most!r}", f"an integer >= {least}", where)
        found[name] = min(int(most.__index__()), found.get(name, int(most.__index__())))
    if isinstance(window_, bool) or not hasattr(window_, "__index__") or int(window_.__index__()) < 0:
        raise SizeError(f"window = {window_!r}", "an integer >= 0: the tokens before its own that a query sees", where)
    return found


def front_of(
    own: Mapping[str, Family | list[Family]], known: Iterable[str], ranges: Ranges | None, wanted: Wanted
) -> tuple[Front, dict[str, list[Point]]]:
    """The front of families, and the points of each that fit the budget, by their names.

    Raises:
        TermError, SymbolError, SizeError: as `members` and `schedules` do.
    """
    of: dict[str, list[Point]] = {}
    missing: list[tuple[str, str]] = []
    for name, family in own.items():
        if isinstance(family, list):
            found, note = _of_list(name, family, ranges, wanted)
        else:
            found, note = _of_members(name, family, ranges, wanted)
        of[name] = _fit(found, wanted)
        missing += [(name, note)] if note else []
    for name in known:
        if name != SKIPS:
            of[name] = _fit(_of_known(name, wanted), wanted)
    if SKIPS in known:
        others = [x for each in of.values() for x in each]
        found, note = _skips(others, wanted)
        of[SKIPS] = _fit(found, wanted)
        missing += [(SKIPS, note)] if note else []
    if wanted.sizes is not None and wanted.sizes.ranks is not None:
        for name, points in of.items():
            every = name in own and not isinstance(own[name], list)
            of[name], note = _planned(points, wanted, TRIED if every else PLANNED)
            missing += [(name, note)] if note else []
        if any(of[name] and isinstance(own.get(name, []), list) for name in of):
            what = "members of known families, and of lists, are those that cost least in the other numbers"
            missing.append(("exchange bytes", what))
    front = undominated(x for each in of.values() for x in each)
    return Front(wanted.n, wanted.layers, wanted.budget, wanted.window, front, tuple(missing), wanted.sizes), of


def _fit(points: Iterable[Point], wanted: Wanted) -> list[Point]:
    """Those within the budget, with the sizes that bytes are those of; what ranks exchange is not asked yet."""
    limits = wanted.in_keys
    return [replace(x, sizes=wanted.sizes) for x in points if within_budget(x, limits)]


def _planned(points: list[Point], wanted: Wanted, most: int) -> tuple[list[Point], str]:
    """Those within the budget, with the bytes that ranks exchange; and what was not planned."""
    first = undominated(points)[:most]
    rest = sorted((x for x in points if x not in first), key=lambda x: x.measures)
    left = most - len(first)
    rest = rest if len(rest) <= left else [rest[k * len(rest) // left] for k in range(left)]
    found: list[Point] = []
    unknown: list[str] = []
    for x in (*first, *rest):
        try:
            found.append(planned(x))
        except TooHardError as e:
            unknown.append(f"{_short(x)}: {reason_of(e)}")
    notes = [] if len(points) <= most else [f"{most:,} of {len(points):,} members are planned for ranks"]
    if unknown:
        notes.append(f"what ranks exchange is not known of {len(unknown):,} ({unknown[0]})")
    return [x for x in found if within_budget(x, wanted.budget)], "; ".join(notes)


def _of_known(name: str, wanted: Wanted) -> Iterator[Point]:
    """Members of a family with formulas; how deep each is is counted."""
    n, layers = wanted.n, wanted.layers
    last = min(layers, wanted.in_keys.get("depth", layers))
    seen = set()
    for member, depth in FRONTS[name](n, layers, wanted.window):
        if depth > last or member.values in seen:
            continue
        seen.add(member.values)
        counted = depth_within(layers_of(member.pattern, n, layers), n, layers)
        exact = depth if counted is None else counted
        if exact <= last:
            yield point(name, member.values, member.pattern, n, layers, int(exact))


def _skips(others: list[Point], wanted: Wanted) -> tuple[list[Point], str]:
    """Windows with a skip, without those that a point of another family is better than."""
    n, layers = wanted.n, wanted.layers
    found: list[Point] = []
    most = 0
    for depth, k, p in of_skips(n, min(layers, wanted.in_keys.get("depth", layers)), wanted.window):
        degree = np.minimum(k + 1, n) + ((k < p) & (p < n))
        each = np.stack([layers * degree, layers * np.minimum(p, n), layers * np.minimum(p, n - 1), 0 * p + depth], 1)
        keep = np.ones(len(k), bool)
        for name, values in (("degree", degree), *zip(MEASURES, each.T, strict=True)):
            keep &= values <= wanted.in_keys.get(name, 1 << 62)
        for other in others:
            keep &= ~(np.asarray(other.measures) <= each).all(1)
        at = np.flatnonzero(keep)
        most = max(most, len(at))
        if len(at) > SAME_DEPTH:
            at = at[np.unique(np.linspace(0, len(at) - 1, SAME_DEPTH).astype(int))]
        for k_, p_ in zip(k[at].tolist(), p[at].tolist(), strict=True):
            found.append(point(SKIPS, (("k", k_), ("p", p_)), window(k_) | lags(p_), n, layers, depth))
    if most <= SAME_DEPTH:
        return found, ""
    return found, f"of each depth at most {SAME_DEPTH} of {most:,} members are looked at, evenly apart"


def _of_members(name: str, family: Family, ranges: Ranges | None, wanted: Wanted) -> tuple[list[Point], str]:
    """Members of a caller's family that connect all tokens; and of how many that is not known."""
    n, layers = wanted.n, wanted.layers
    last = min(layers, wanted.in_keys.get("depth", layers))
    found: list[Point] = []
    unknown: list[str] = []
    for member in members(family, ranges, "design(...)"):
        try:
            terms = layers_of(member.pattern, n, layers)
            for term in dict.fromkeys(terms):
                if is_confined(term):
                    require_free(term, "what it costs and reaches")
            if not _holds(terms, wanted.window):
                continue
            depth = _depth(member, terms, n, last)
            if depth is not None:
                found.append(point(name, member.values, member.pattern, n, layers, depth))
        except PidslError as e:
            if is_error_of_caller(e):
                raise
            unknown.append(f"{member}: {reason_of(e)}")
    if not unknown:
        return found, ""
    many = f"what {len(unknown):,} member{'s' * (len(unknown) != 1)} cost or reach is not known"
    return found, f"{many} ({unknown[0]})"


def is_error_of_caller(e: PidslError) -> bool:
    """Whether it says that something given is wrong, not that something is too hard."""
    return isinstance(e, TermError | SizeError)


def _depth(member: Member, terms: tuple[Term, ...], n: int, last: int) -> int | None:
    """The depth, None where it is more than so many layers; counted where that is quick.

    Raises:
        TooHardError: it is not known.
    """
    certain = surely(member.pattern)
    each = terms if certain is member.pattern else layers_of(certain, n, len(terms))
    counted = depth_within(each, n, last)
    if counted is None:
        found = depth_at(certain, n)
        return int(found) if found <= last else None
    return int(counted) if counted <= last else None


def _of_list(
    name: str, family: list[Family], ranges: Ranges | None, wanted: Wanted
) -> tuple[list[Point], str]:  # fmt: skip
    """Schedules whose layers are of a list."""
    terms: list[Term] = []
    for one in family:
        for member in members(one, ranges, "design(...)"):
            if not isinstance(member.pattern, Term):
                given = f"family {name!r}, a list with {member.pattern!r}"
                raise TermError(
                    given, "patterns, one for each layer", "design(...)", "the schedule as a family of its own"
                )
            if _holds((member.pattern,), wanted.window):
                terms.append(member.pattern)
    return schedules(name, terms, wanted.n, wanted.layers, wanted.in_keys) if terms else ([], "it has no members")


def _holds(terms: Iterable[Term], radius: int) -> bool:
    """Whether each layer attends the last so many tokens."""
    return radius == 0 or all(window(radius) & causal <= term for term in dict.fromkeys(terms))
