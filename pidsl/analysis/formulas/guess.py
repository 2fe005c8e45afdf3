"""From the values of a function at n = 1, 2, ... to the formula that it seems to be: a guess, for a proof to follow."""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from pidsl.analysis.formulas.piecewise import PERIOD, Formula, chain, fit, runs

SEEN = 3  # periods that are seen before a guess is made


def guess(values: Sequence[int | None], missing: sympy.Expr, most: int, seen: int) -> Formula | None:
    """A formula with these values at 1, 2, ...: some of them one by one, then affine in each class of n mod a period.

    >>> from sympy import oo
    >>> guess([1, 2, 3, 4, 5, 5, 5, 5, 5, 5, 5, 5], oo, 8, 6).expr
    Piecewise((5, n >= 5), (n, True))

    Args:
        values: the values; None for what has no number.
        missing: what the formula is there.
        most: how many branches it may have; with more of them, it is for long n only.
        seen: the fewest values at the end that are to follow one rule.

    Returns:
        The formula; None where no period is seen `SEEN` times.
    """
    last = len(values)
    for period in range(1, min(last // SEEN, PERIOD) + 1):
        start = last
        while start > 0 and (start + 2 * period > last or _even(values, start - 1, period)):
            start -= 1
        if start + max(SEEN * period, seen) <= last:
            break
    else:
        return None

    def at(n: int) -> int | None:
        return values[n - 1] if n <= last else _continued(values, n - 1, period)

    branches = runs(at, 1, start + 1, missing) + fit(at, start + 1, None, period, missing)
    return chain(branches, lambda n: missing if (found := at(n)) is None else found, most)


def _even(values: Sequence[int | None], k: int, period: int) -> bool:
    """Whether the values grow evenly from k on, over two periods."""
    a, b, c = values[k], values[k + period], values[k + 2 * period]
    if a is None or b is None or c is None:
        return a is b is c
    return a + c == 2 * b


def _continued(values: Sequence[int | None], k: int, period: int) -> int | None:
    """The value at an index beyond the last, if it goes on as it did."""
    times = -(-(k - len(values) + 1) // period)
    a, b = values[k - times * period], values[k - (times + 1) * period]
    return None if a is None or b is None else a + times * (a - b)
