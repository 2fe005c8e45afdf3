"""The cheapest member of a family: of one with closed formulas, or of a caller's, whose members are counted.

The families with formulas, with lags as sets, k >= 1 and p > k (a p <= k is never better than k + 1; p = 1 attends
every lag):

    window | stride   0..k and all multiples of p     window(k) | stride(p) & causal
    window | skip     0..k and p                      window(k) | lags(p)
    base schedule     0, b^l, ..., (b-1) b^l          BaseSchedule(b), layer l = 0, 1, ...
    window            0..k                            window(k)

Whatever is found is asked again, exactly and with proofs: a wrong formula here finds a worse member, or none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.analysis.schedules import BaseSchedule
from pidsl.errors import PidslError, TooHardError
from pidsl.language.terms import Term, is_confined, require_free
from pidsl.language.vocabulary import causal, lags, stride, window
from pidsl.studies.limits import least_degree
from pidsl.studies.members import Family, Member, Pattern, Ranges, members
from pidsl.studies.numbers import cost_at, depth_within, layers_of, reason_of, surely

NEAR = 4  # members that are asked for their depth where none fits


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """Parameters of a member that connects all tokens, the fewest pairs first.

    Args:
        pairs: of all layers.
        degree: the largest in any.
        parameters: of the family.
        later: no later choice has fewer pairs, or a smaller degree.
    """

    pairs: int
    degree: int
    parameters: tuple[int, ...]
    later: tuple[int, int]


@dataclass(frozen=True)
class Known:
    """A family with closed formulas.

    Args:
        names: of the parameters.
        pattern: with those parameters.
        choices: members that connect n tokens within so many layers, the best among them.
    """

    names: tuple[str, ...]
    pattern: Callable[..., Pattern]
    choices: Callable[[int, int], Iterator[Choice]]


def cheapest_known(family: Known, n: int, layers: int, limit: int) -> tuple[Member | None, str]:
    """The member with the fewest pairs among those with at most `limit` keys; or None, and why there is none."""
    best, narrow = best_of(family.choices(n, layers), limit)
    if best is None and limit**layers < n:
        return None, too_few(n, layers, limit)
    if best is None:
        many = f"have a query with at least {narrow:,} keys"
        return None, f"its members that connect {n:,} tokens in {layers} layers {many}"
    return Member(tuple(zip(family.names, best.parameters, strict=True)), family.pattern(*best.parameters)), ""


def best_of(choices: Iterable[Choice], limit: int) -> tuple[Choice | None, int]:
    """The least choice with at most `limit` keys, and the least degree of those that were looked at."""
    best, narrow = None, 0
    for choice in choices:
        narrow = min(narrow or choice.degree, choice.degree)
        if choice.degree <= limit:
            best = choice if best is None else min(best, choice)
        pairs, degree = choice.later
        if (best is not None and pairs >= best.pairs) or (best is None and degree > limit and degree >= narrow):
            break
    return best, narrow


def too_few(n: int, layers: int, limit: int) -> str:
    """Why nothing connects so many tokens, where no query has more keys than the limit."""
    return f"a token sees at most {limit:,}^{layers} = {limit**layers:,} < {n:,} tokens"


# -- with closed formulas ----------------------------------------------------------------------------------------------


def window_pairs(k: int, n: int) -> int:
    """Pairs of the lags 0..k."""
    k = min(k, n - 1)
    return (k + 1) * (2 * n - k) // 2


def _choice(k: int, n: int, layers: int, pairs: int, degree: int, *more: int) -> Choice:
    """With a window of radius k: every later one has a larger window, and its pairs."""
    return Choice(layers * pairs, degree, (k, *more), (layers * window_pairs(k + 1, n), min(k + 2, n)))


def _windows(n: int, layers: int) -> Iterator[Choice]:
    k = -(-(n - 1) // layers)
    yield _choice(k, n, layers, window_pairs(k, n), min(k + 1, n))


def _combs(n: int, layers: int) -> Iterator[Choice]:
    """For each window the longest period, which has the fewest pairs and the smallest degree.

    L layers see every lag below n when k (L - 1) >= p - 1; or k L >= p - 1 and p + k (L - 1) >= n - 1, where only the
    first multiple is needed; or k L >= n - 1, where none is.
    """
    if layers == 1 or n <= 2:  # every causal pair has to be attended: all multiples of 1
        yield Choice(layers * window_pairs(n - 1, n), n, (1, 1), (0, n))
        return
    for k in range(1, -(-(n - 1) // layers) + 1):
        p = (k * layers if 2 * k * layers - k + 1 >= n - 1 else k * (layers - 1)) + 1
        q = (n - 1) // p
        yield _choice(k, n, layers, window_pairs(k, n) + n * q - p * (q * (q + 1) // 2), 1 + k + q, p)


def _skips(n: int, layers: int) -> Iterator[Choice]:
    """For each window the longest skip, from the smallest window that can do: the reach grows with k."""
    top = max(1, n - 1)
    for k in range(1 + bisect_left(range(1, top), True, key=lambda k: _longest_skip(k, n, layers) > 0), top + 1):
        p = _longest_skip(k, n, layers)
        yield _choice(k, n, layers, window_pairs(k, n) + max(0, n - p), min(k + 1, n) + (p < n), p)


def _longest_skip(k: int, n: int, layers: int) -> int:
    """With c = ceil((p - 1) / k) <= L the contiguous reach is p (L + 1 - c) + k (c - 1): for each c, p = k c + 1."""
    for c in range(min(layers, n), 0, -1):
        if (k * c + 1) * (layers + 1 - c) + k * (c - 1) >= n - 1:
            return k * c + 1
    return 0


def _bases(n: int, layers: int) -> Iterator[Choice]:
    for base in count(max(2, least_degree(n, layers))):
        pairs = sum(_digit_pairs(base, layer, n) for layer in range(layers))
        later = n if base >= n else window_pairs(base, n) + (layers - 1) * n
        yield Choice(pairs, min(base, n), (base,), (pairs if base >= n else later, min(base + 1, n)))
        if base > n:
            return


def _digit_pairs(base: int, layer: int, n: int) -> int:
    """Pairs of one layer of a base schedule."""
    step = base**layer
    q = min(base - 1, (n - 1) // step)
    return (q + 1) * n - step * q * (q + 1) // 2


FAMILIES: dict[str, Known] = {
    "window | stride": Known(("k", "p"), lambda k, p: window(k) | stride(p) & causal, _combs),
    "window | skip": Known(("k", "p"), lambda k, p: window(k) | lags(p), _skips),
    "base schedule": Known(("b",), BaseSchedule, _bases),
    "window": Known(("k",), window, _windows),
}


# -- of callers --------------------------------------------------------------------------------------------------------


def cheapest(family: Family, ranges: Ranges, n: int, layers: int, limit: int) -> tuple[Member | None, str]:
    """The member with the fewest pairs (then the smallest degree) whose depth at n is at most `layers`.

    Returns:
        It, or None; and why none fits, or what is not known of cheaper ones.

    Raises:
        TermError, SymbolError, SizeError: as `members` does.
        TooHardError: the pairs or the degree of a member are not known.
    """
    known: dict[Term, tuple[int, int]] = {}

    def counted(term: Term) -> tuple[int, int]:
        if term not in known:
            if is_confined(term):
                require_free(term, "what it costs and reaches")
            known[term] = cost_at(term, n)
        return known[term]

    costs = []
    for member in members(family, ranges, "design(...)"):
        each = [counted(term) for term in layers_of(member.pattern, n, layers)]
        costs.append((sum(pairs for pairs, _ in each), max(degree for _, degree in each), member))
    if not costs:
        return None, "it has no members"
    costs.sort(key=lambda x: x[:2])
    unknown: list[str] = []
    deep: list[Member] = []  # too deep, the most pairs last
    wide: list[int] = []  # the degrees of members that connect, with more keys than the limit
    for _, degree, member in costs:
        if degree**layers < n or (wide and degree > limit):  # no query sees all, or nothing new is learnt
            continue
        try:
            connects = _connects(member, n, layers)
        except PidslError as e:
            unknown.append(f"{member}: {reason_of(e)}")
            continue
        if not connects:
            deep.append(member)
        elif degree > limit:
            wide.append(degree)
        else:
            return member, _unknown(unknown, "cheaper ")
    told = f"none of its {len(costs):,} members connects {n:,} tokens in {layers} layer{'s' * (layers != 1)}"
    if wide:
        told = f"a member that connects {n:,} tokens in {layers} layers has {min(wide):,} keys for a query"
    else:
        told += _nearest(deep[-NEAR:], n)
    return None, "; ".join(filter(None, (told, _unknown(unknown, ""))))


def _connects(member: Member, n: int, layers: int) -> bool:
    """Whether at most so many layers connect n tokens; by the formula of the depth, which is known of what does.

    Of what calls choose, whether they do whatever is chosen.

    Raises:
        TooHardError: what is known does not tell.
    """
    pattern = surely(member.pattern)
    counted = depth_within(layers_of(pattern, n, layers), n, layers)
    if counted is not None and counted > layers:
        return False
    depth = ask.depth(pattern, n)
    return reached(depth, n, layers)


def depth_at(pattern: Pattern, n: int) -> float:
    """The depth at n, exactly.

    Raises:
        TooHardError: it is not known.
    """
    depth = ask.depth(pattern, n)
    found = float(depth(n=n))
    if not depth.is_exact:
        raise TooHardError(f"a depth {depth.relation} {found:g}", "one that is known")
    return found


def reached(depth: Bound, n: int, layers: int) -> bool:
    """Whether the depth at n is at most so many layers.

    Raises:
        TooHardError: what is known does not tell.
    """
    found = float(depth(n=n))
    if not depth.is_exact and (found > layers) != (depth.relation == ">="):
        raise TooHardError(f"a depth {depth.relation} {found:g}", "one that is known")
    return found <= layers


def _nearest(deep: list[Member], n: int) -> str:
    """How many layers the least deep takes, where that is known."""
    depths = [(ask.depth(member.pattern, n), member) for member in deep]
    known = [(int(depth(n=n)), str(member)) for depth, member in depths if depth.is_exact and depth.expr.is_finite]
    return "; {1} takes {0:,}".format(*min(known)) if known else ""


def _unknown(unknown: list[str], kind: str) -> str:
    if not unknown:
        return ""
    many = f"the depth of {len(unknown):,} {kind}member{'s' * (len(unknown) != 1)} is not known"
    return f"{many} ({unknown[0]})"
