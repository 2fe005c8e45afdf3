"""Key rows that move between workers, each of which holds a consecutive piece of a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pidsl.analysis.counting.lattice import square, without
from pidsl.analysis.counting.progressions import counter
from pidsl.errors import SizeError
from pidsl.language.terms import Term, require_concrete, require_free
from pidsl.relation.isl import coalesced, in_turn, limited, read_map, read_set
from pidsl.relation.pieces import Ints


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
    rows = counter(keys)({"w": w, "x": x})
    return Communication(n, workers, rows.reshape(workers, workers))
