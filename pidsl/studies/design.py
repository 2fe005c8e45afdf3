"""The parameters with the fewest pairs that connect all n tokens within so many layers, with formulas and proofs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeAlias, Unpack

from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, asking
from pidsl.analysis.layers.stacks import number
from pidsl.analysis.portfolio import answer
from pidsl.errors import PidslError, SizeError, TermError
from pidsl.language.schedule import Schedule
from pidsl.language.shown import Displayed
from pidsl.language.sizes import LIMIT
from pidsl.language.terms import Term, is_chosen, of_lags_alone
from pidsl.language.vocabulary import causal
from pidsl.relation.isl import in_turn
from pidsl.studies.compare import laid_out
from pidsl.studies.cost import shown
from pidsl.studies.front import Front, Wanted, checked_budget, front_of
from pidsl.studies.limits import least_degree, least_pairs, pairs_needed
from pidsl.studies.members import Family, Member, Pattern, Ranges, require_used
from pidsl.studies.model import Given, checked_sizes
from pidsl.studies.numbers import cost_at, layers_of, surely, value_at
from pidsl.studies.points import Point
from pidsl.studies.search import FAMILIES, cheapest, cheapest_known, reached, too_few

Own: TypeAlias = Family | list[Family]  # a list: what each layer of a schedule may be
DIGITS = "window | digits"
KNOWN = (*FAMILIES, DIGITS)
Search = Callable[[int, int, int], tuple[Member | None, str]]  # of n, layers and the largest degree


@dataclass(frozen=True)
class Candidate:
    """The best of a family.

    Args:
        family: its name.
        parameters: the sizes that were found.
        pattern: a term for every layer, or a schedule.
        n: tokens.
        layers: how many there are.
        pairs: attended pairs of all layers together; where calls choose, at most.
        degree: keys of the query with the most, in any layer; likewise.
        depth: a bound that is at most `layers` at n; where calls choose, of what is attended in every call.
        counts: a bound for the pairs of each layer; unknown where they were counted.
        least_pairs: no pattern of this kind can have fewer pairs, by `pairs_needed` at `least_at`; None of patterns
            that look at more than the lag, or ahead.
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
    least_at: int | None

    @property
    def ratio(self) -> float | None:
        """Pairs / the fewest that are possible."""
        return None if self.least_pairs is None else self.pairs / self.least_pairs

    def check(self) -> bool:
        """Verify the depth, the pairs and the degree from the statements alone; takes seconds where z3 is asked.

        That the bounds are about this pattern, that each is proved, and that at n they say what is said here.
        """
        terms = layers_of(self.pattern, self.n, self.layers)
        certain = surely(self.pattern)
        subject = certain.unions if isinstance(certain, Schedule) else certain
        stated = self.depth.question
        if (stated.subject, stated.quantity) != (subject, "depth") or stated.n not in (None, self.n):
            return False
        if stated.of != "all" and not all(term <= causal for term in terms):
            return False
        if [bound.question for bound in self.counts] != [asking(term, "pairs") for term in terms]:
            return False
        largest = {term: answer(asking(term, "max degree")) for term in dict.fromkeys(terms)}
        try:
            pairs = sum(_exactly(bound, self.n) for bound in self.counts)
            degree = max(_exactly(bound, self.n) for bound in largest.values())
            connects = self.depth.relation in ("==", "<=") and reached(self.depth, self.n, self.layers)
        except PidslError:
            return False
        if (pairs, degree) != (self.pairs, self.degree) or not connects or not self._cannot_be_beaten(set(terms)):
            return False
        stated_of = (x for x in (*self.counts, *largest.values()) if x.is_exact or (x.is_known and is_chosen(x.term)))
        distinct = {id(bound): bound for bound in stated_of}
        return all(bound.proof.check() for bound in (self.depth, *distinct.values()))

    def _cannot_be_beaten(self, terms: set[Term]) -> bool:
        if self.least_pairs is None or self.least_at is None:
            return self.least_pairs is self.least_at
        needed = pairs_needed(self.n, self.layers, len(terms) == 1, self.least_at)
        return 1 <= self.least_at <= self.n and self.least_pairs <= needed and all(map(looks_back, terms))


@dataclass(frozen=True)
class Design(Displayed):
    """What was found; print it.

    Args:
        n, layers, max_degree: what was asked.
        found: the best of each family, the fewest pairs first.
        missing: why other families have none.
        least_degree: with fewer keys per query than this, no pattern connects n tokens in so many layers.
        wanted: finds the front.
    """

    n: int
    layers: int
    max_degree: int | None
    found: tuple[Candidate, ...]
    missing: tuple[tuple[str, str], ...]
    least_degree: int
    wanted: Callable[[], Front] = field(repr=False, compare=False)

    @cached_property
    def front(self) -> Front:
        """The members that no other is better than in keys, cache, received and depth; found when first asked for."""
        return self.wanted()

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
            return f"{too_few(self.n, self.layers, self.max_degree)}: no pattern of any kind connects them"
        return "; ".join(f"{family}: {why}" for family, why in self.missing)

    def __getitem__(self, family: str) -> Candidate:
        for candidate in self.found:
            if candidate.family == family:
                return candidate
        raise KeyError(family)

    def check(self) -> bool:
        """Whether there is a candidate, every proof holds, and no smaller degree could do."""
        d, layers = self.least_degree, self.layers
        least = d**layers >= self.n and (d == 1 or (d - 1) ** layers < self.n)
        return bool(self.found) and least and all(candidate.check() for candidate in self.found)

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
            depth = str(x.depth(n=self.n))
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
    family: Own | Mapping[str, Own] | None = None, ranges: Ranges | None = None,
    budget: Mapping[str, int] | None = None, window: int = 0, **sizes: Unpack[Given],
) -> Design:  # fmt: skip
    """The cheapest patterns that connect every causal pair of n tokens within so many layers.

    Minimizes the attended pairs of all layers together (then the largest degree, then the window), family by family;
    every choice of parameters is covered. For n = 2**20 it takes a second or a few.

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

    Beside the fewest pairs there is a front: members that no other is better than in keys per query, keys kept for
    decoding, keys received from other ranks, and depth. It is found when it is asked for.

    >>> print(design(4096, 4, budget={"keys": 400}, window=31).front)
    n = 4,096 tokens connected within 4 layers, window(31) in each, keys <= 400
      family           pattern               keys  least possible  largest  KV keys  received  depth
      window | digits  w = 31, m = 3, D = 4   139              32       36    4,095  <= 4,095      4
      window | digits  w = 31, m = 2, D = 3   148              49       42    4,126  <= 4,126      3
      window | digits  w = 31, m = 2, D = 2   227             130       82    4,157  <= 4,157      2
      keys, KV keys and received are sums over the layers; largest: keys of a query in one layer

    Args:
        n: tokens, 1 <= n < 2**31.
        layers: at most so many, >= 1.
        max_degree: keys of a query at most, >= 1; None: any number.
        families: some of "window | stride", "window | skip", "base schedule", "window", and for the front
            "window | digits", a window in every layer and lags that grow from layer to layer; default: all, or none
            beside a family of one's own.
        family: a function that returns a pattern (None: no member), or a term or schedule with symbols; or several
            under names. Every member is tried: of patterns that look ahead, every pair has to be connected. A list
            is what each layer of a schedule may be: patterns of the lag alone, that look back.
        ranges: for each of its parameters (low, high), both included, or its integers one by one.
        budget: the most of "degree" (as `max_degree`), "keys" (of a query, summed over the layers), "cache" (keys that
            decoding keeps, summed over the layers), "received" (keys that a rank with consecutive tokens gets from
            others, likewise) and "depth"; some or none. A key is a row of k and v. With sizes also "cache_bytes",
            that decoding keeps, and "exchange_bytes", that the busiest of `ranks` gets, or sends if that is more, in
            a forward pass; the same backward. Bytes are those of one sequence and all layers.
        window: every layer attends at least the last so many tokens, and the query's own.
        sizes: of a model, as `pidsl.distributed.plan` takes them: kv_heads and head_dim; heads (default: `kv_heads`),
            value_dim (`head_dim`), dtype ("bf16"), and ranks, how many share the tokens. The front says bytes then;
            with ranks those of each member's plan, in the place of the keys received.

    Returns:
        The best of each family with formulas and proofs, and beside it what no pattern of its kind can beat; or why
        nothing fits. With a budget, a window, a list, or "window | digits" asked for by name, the best of a family is
        the point of its front with the fewest pairs.

    Raises:
        SizeError: n < 1, layers < 1 or max_degree < 1; no number in a budget, or of a size.
        TermError: an unknown family, or what is none; an unknown name in a budget; a list with patterns that look
            ahead, or at more than the lag.
        SymbolError: a parameter without a range, or a range without a parameter.
        ArgumentError: an unknown size or dtype; a budget in bytes, or sizes, without what makes a key so many bytes.
    """
    for name, value in (("n", n), ("layers", layers), ("max_degree", max_degree)):
        if value is not None or name != "max_degree":
            number(value, name, 1, "design(...)")
    if n >= LIMIT:
        raise SizeError(f"n = {n}", "n below 2**31: sizes of patterns stay below it", where="design(...)")
    limits = checked_budget(budget, window, max_degree, "design(...)")
    own = _own(family)
    flat = [one for each in own.values() for one in (each if isinstance(each, list) else [each])]
    require_used(flat, ranges, "design(...)")
    known = (() if own else KNOWN) if families is None else tuple(families)
    for name in known:
        if name not in KNOWN:
            raise TermError(f"family {name!r}", f"some of {', '.join(map(repr, KNOWN))}", where="design(...)")
    model = checked_sizes(sizes, limits, "design(...)")
    asked = partial(_asked, own, known, ranges, Wanted(n, layers, limits, int(window), model))
    only_there = any(isinstance(one, list) for one in own.values()) or (families is not None and DIGITS in known)
    if budget or window or only_there:
        found, missing, front = _of_front(*asked(), n, layers)
        return Design(n, layers, limits.get("degree"), found, missing, least_degree(n, layers), lambda: front)
    limit = n if max_degree is None else min(max_degree, n)
    searches: dict[str, Search] = {name: partial(cheapest, one, ranges or {}) for name, one in own.items()}  # type: ignore[arg-type]
    searches |= {name: partial(cheapest_known, FAMILIES[name]) for name in known if name in FAMILIES}
    best: list[Candidate] = []
    none: list[tuple[str, str]] = []
    for name, search in searches.items():
        member, note = search(n, layers, limit)
        if member is not None:
            best.append(_candidate(name, member, n, layers))
        if note:
            none.append((name, note))
    best.sort(key=lambda x: (x.pairs, x.degree))
    return Design(n, layers, max_degree, tuple(best), tuple(none), least_degree(n, layers), lambda: asked()[0])


@in_turn
def _asked(
    own: Mapping[str, Own], known: tuple[str, ...], ranges: Ranges | None, wanted: Wanted
) -> tuple[Front, dict[str, list[Point]]]:
    return front_of(own, known, ranges, wanted)


def _of_front(
    front: Front, of: Mapping[str, list[Point]], n: int, layers: int
) -> tuple[tuple[Candidate, ...], tuple[tuple[str, str], ...], Front]:
    """Of each family the point with the fewest pairs, and which have none."""
    best = [min(points, key=lambda x: (x.pairs, x.degree)) for points in of.values() if points]
    found = [_candidate(x.family, Member(x.parameters, x.pattern), n, layers) for x in best]
    told = dict(front.missing)
    none = [(name, "no member that connects all tokens is known to fit") for name, each in of.items() if not each]
    missing = [(name, "; ".join(filter(None, (why, told.pop(name, ""))))) for name, why in none]
    return tuple(sorted(found, key=lambda x: (x.pairs, x.degree))), (*missing, *told.items()), front


def _own(family: Own | Mapping[str, Own] | None) -> dict[str, Own]:
    """The caller's families under names; a function's is its own."""
    if family is None:
        return {}
    if isinstance(family, tuple | list):
        family = {"layers": list(family)}
    if isinstance(family, Mapping):
        if not family:
            raise TermError("family = {}", "at least one", where="design(...)")
        named = {str(name): list(one) if isinstance(one, tuple) else one for name, one in family.items()}
        for name, one in named.items():
            if one == []:
                raise TermError(f"family {name!r}, an empty list", "what each layer may be", where="design(...)")
        return named
    if isinstance(family, str):
        hint = f"families=[{family!r}]" if family in FAMILIES else ""
        raise TermError(f"family = {family!r}", "a function or a term with symbols", "design(...)", hint)
    name = repr(family) if isinstance(family, Pattern) else getattr(family, "__name__", "family")
    return {"family" if name == "<lambda>" else name: family}


def _candidate(name: str, member: Member, n: int, layers: int) -> Candidate:
    """A member with its formulas, each proved by itself."""
    terms = layers_of(member.pattern, n, layers)
    known = {term: ask.pairs(term) for term in dict.fromkeys(terms)}
    least = least_pairs(n, layers, len(known) == 1) if all(map(looks_back, known)) else (None, None)
    return Candidate(
        family=name,
        parameters=member.values,
        pattern=member.pattern,
        n=n,
        layers=layers,
        pairs=sum(_exactly(known[term], n) for term in terms),
        degree=max(cost_at(term, n)[1] for term in known),
        depth=ask.depth(surely(member.pattern), n),
        counts=tuple(known[term] for term in terms),
        least_pairs=least[0],
        least_at=least[1],
    )


def _exactly(bound: Bound, n: int) -> int:
    """By an exact formula, or counted; of what calls choose, the most."""
    told = bound.is_exact or is_chosen(bound.term)
    return int(value_at(bound if told else replace(bound, relation="unknown"), n)[0])


def looks_back(term: Term) -> bool:
    """Whether a pattern attends earlier tokens alone, by the lag alone."""
    return of_lags_alone(term) and bool(term <= causal)
