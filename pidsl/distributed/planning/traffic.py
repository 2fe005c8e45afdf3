"""Key rows that move between workers, each of which holds a consecutive piece of a sequence: what a halo sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pidsl.distributed.planning.volumes import rows
from pidsl.distributed.tokens.placement import Placement
from pidsl.distributed.tokens.runs import Ints
from pidsl.distributed.tokens.shards import Shards
from pidsl.errors import SizeError
from pidsl.language.terms import Term, require_concrete, require_free
from pidsl.relation.isl import in_turn


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
        TooHardError: there is no closed form, and there are too many tokens or workers to look at one by one.
    """
    require_concrete(term, "count the rows between workers")
    require_free(term, "which rows workers need")
    for name, value, least in (("n", n, 0), ("workers", workers, 1)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
            raise SizeError(f"{name} = {value!r}", f"an integer >= {least}", where=repr(term))
    home = Shards(n, workers)
    found = rows(home, ((Placement(term, "keys", home, home), "keys"),))
    w, x = np.divmod(np.arange(workers * workers), workers)
    between = found.between(x, w).reshape(workers, workers)
    return Communication(n, workers, between + np.diag(found.own))
