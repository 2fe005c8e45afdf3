"""Whether exact keys and spans hold every token of a pattern once, for every number of tokens at once.

    pairs of a level   { [i -> j] -> s : query i sees span s, and s stands for token j }

Over n tokens there are S spans, and S is a function of n; isl decides the rest.
"""

from __future__ import annotations

from itertools import combinations

import islpy as isl

from pidsl.language.confined import confined
from pidsl.language.summaries import Spans, Summaries
from pidsl.language.terms import Term, within
from pidsl.relation.build import relation
from pidsl.relation.isl import limited, read_set

_COUNTS = {  # how many spans; r: rows of tokens
    "block": "[n, S] -> {{ : exists r : S = r and {size}r - {size} < n <= {size}r }}",
    "above": "[n, S] -> {{ : exists r : S = {size}r and {size}r - {size} < n <= {size}r }}",
    "beside": "[n, S] -> {{ : S = n }}",
    "row": "[n, S] -> {{ : S = n }}",
}


def covers(summaries: Summaries, term: Term, most: int | None) -> bool:
    """Whether exact keys and spans together are `term`, and no token stands twice in the softmax of a query.

    Args:
        summaries: exact keys and levels of spans.
        term: the pairs of tokens that should be there.
        most: for at most so many tokens; None: for any number.

    Raises:
        TooHardError: isl's operation limit struck.
    """
    (summaries, inside), (term, confined_too) = confined(summaries), within(term)
    if inside != confined_too:
        return False
    parts = [_square(summaries.exact)]
    with limited(f"whether {summaries!r} covers {term!r}"):
        for level in summaries.levels:
            pairs = _pairs(level)
            if not pairs.is_single_valued():  # two spans hold the same token
                return False
            parts.append(pairs.domain().unwrap())
        allowed = read_set("[n] -> { : }" if most is None else f"[n] -> {{ : n <= {most} }}")
        parts = [part.intersect_params(allowed) for part in parts]
        if not all(a.is_disjoint(b) for a, b in combinations(parts, 2)):
            return False
        together = parts[0]
        for part in parts[1:]:
            together = together | part
        return together.is_equal(_square(term).intersect_params(allowed))


def _pairs(level: Spans) -> isl.Map:
    """`[n] -> { [[i] -> [j]] -> [s] }`."""
    seen, members = relation(level.seen), relation(level.members)
    seen = _renamed(seen, {"m": "S"})
    members = _renamed(members, {"n": "S", "m": "n"})
    found = seen.reverse().range_product(members).reverse()
    found = found.intersect_params(read_set(_COUNTS[level.of].format(size=level.size)))
    return _without(found, "S")


def _square(term: Term) -> isl.Map:
    """The relation for n = m, over the parameter n."""
    return _without(relation(term).intersect_params(read_set("[n, m] -> { : n = m }")), "m")


def _renamed(x: isl.Map, names: dict[str, str]) -> isl.Map:
    for at in range(x.dim(isl.dim_type.param)):
        name = x.get_dim_name(isl.dim_type.param, at)
        if name in names:
            x = x.set_dim_name(isl.dim_type.param, at, names[name])
    return x


def _without(x: isl.Map, name: str) -> isl.Map:
    at = x.find_dim_by_name(isl.dim_type.param, name)
    return x.project_out(isl.dim_type.param, at, 1) if at >= 0 else x
