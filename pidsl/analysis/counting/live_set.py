"""The live set of a decoding step, as a set of isl: keys that some later query attends."""

from __future__ import annotations

from typing import Any

import islpy as isl

from pidsl.language.terms import Term
from pidsl.relation.isl import coalesced, limited, read_map, read_set
from pidsl.relation.lives import asked

_dim: Any = isl.dim_type


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
