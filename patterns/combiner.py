"""Combiner: exact keys, and spans of the remaining past by one key each (Ren et al., arXiv 2107.05768).

Every query attends its whole past in one softmax: some tokens exactly, the others through spans that, with the exact
tokens, are a partition of j <= i. A span's key is the maximum of its tokens' keys, its value their attention under the
maximum of their queries (`pidsl.summaries` has the formulas; other keys and values can be given at call time).

    fixed              exact: the own block of s, up to i         spans: each earlier block
    logsparse          exact: i, and i - 1 if i is odd            spans: dyadic blocks of 2, 4, ..., the digits of i
    axial, vertical    exact: own row and own column, up to i     spans: each other column, over the earlier rows
    axial, horizontal  the same                                   spans: each earlier row without the own column
    rowmajor           exact: own row, up to i                    spans: each earlier row, by its token in i's column

Positions count from 0; a row has `width` tokens. All logits of n tokens, those inside the spans included, are
O(n sqrt n) for blocks and rows of about sqrt n, and O(n log n) for logsparse. In rowmajor the authors compute a span's
key from the attention output of its token by a learned projection; here it is the token's own key (their option
"none"). In axial horizontal their code has two spans for each earlier row, on the left and on the right of the column.
The counts are of logits, not of what tiles compute: levels of small spans, and of columns, fill their tiles sparsely.
"""

from __future__ import annotations

from typing import Literal, get_args

import pidsl
from pidsl.errors import TermError
from pidsl.language.summaries import Summaries
from pidsl.patterns.checks import number

__all__ = ["Direction", "combiner_axial", "combiner_fixed", "combiner_logsparse", "combiner_rowmajor"]

Direction = Literal["vertical", "horizontal"]
FIXED = "how many spans there are depends on it"


def combiner_fixed(size: int) -> Summaries:
    """The own block exactly, each earlier block as a span.

    >>> combiner_fixed(64)
    summaries(blocks(64) & causal, [spans(64, where(lambda i, j: j < i // 64))])
    >>> combiner_fixed(64).covers(pidsl.causal)
    True

    Args:
        size: tokens per block; sqrt n gives the fewest logits.

    Raises:
        TermError: size < 1, or a symbol.
    """
    size = number(size, "size", f"combiner_fixed({size!r})", least=1, reason=FIXED)
    return pidsl.summaries(
        pidsl.blocks(size) & pidsl.causal, [pidsl.spans(size, pidsl.where(lambda i, j: j < i // size))]
    )


def combiner_logsparse(tokens: int) -> Summaries:
    """The token itself, and its past as one block for each binary digit 1 of i.

    >>> combiner_logsparse(5)
    summaries(lags(0) | lags(1) & queries(1, None, 2), \
[spans(2, where(lambda i, j: (j == i // 2 - 1) & (i // 2 % 2 == 1))), \
spans(4, where(lambda i, j: (j == i // 4 - 1) & (i // 4 % 2 == 1)))])

    Args:
        tokens: the longest sequence; beyond it, larger blocks would be missing.

    Raises:
        TermError: tokens < 1, or a symbol.
    """
    reason = "it decides how many levels of spans there are"
    tokens = number(tokens, "tokens", f"combiner_logsparse({tokens!r})", least=1, reason=reason)

    def level(size: int) -> pidsl.language.summaries.Spans:
        return pidsl.spans(size, pidsl.where(lambda i, j: (j == i // size - 1) & (i // size % 2 == 1)))

    exact = pidsl.lags(0) | pidsl.lags(1) & pidsl.queries(1, None, 2)
    return pidsl.summaries(exact, [level(1 << digit) for digit in range(1, (tokens - 1).bit_length())])


def combiner_axial(width: int, direction: Direction = "vertical") -> Summaries:
    """The own row and column exactly, the rest of the past by columns or by rows.

    >>> combiner_axial(32, "horizontal")
    summaries((blocks(32) | stride(32)) & causal, [spans(32, stride(32) & causal - lags(0), of='beside')])

    Args:
        width: tokens per row.
        direction: "vertical": a span is a column over the earlier rows; "horizontal": an earlier row.

    Raises:
        TermError: width < 1, a symbol, or another direction.
    """
    where = f"combiner_axial({width!r}, {direction!r})"
    width = number(width, "width", where, least=1, reason=FIXED)
    if direction not in get_args(Direction):
        raise TermError(f"direction = {direction!r}", '"vertical" or "horizontal"', where)
    exact = (pidsl.blocks(width) | pidsl.stride(width)) & pidsl.causal
    if direction == "vertical":
        others = (pidsl.blocks(width) - pidsl.lags(0)) & pidsl.queries(width, None)
        return pidsl.summaries(exact, [pidsl.spans(width, others, of="above")])
    if width == 1:  # the own column is everything
        return pidsl.summaries(exact, [])
    above = pidsl.stride(width) & pidsl.causal - pidsl.lags(0)
    return pidsl.summaries(exact, [pidsl.spans(width, above, of="beside")])


def combiner_rowmajor(width: int) -> Summaries:
    """The own row exactly, each earlier row as a span with the key of its token in the query's column.

    >>> combiner_rowmajor(32)
    summaries(blocks(32) & causal, [spans(32, stride(32) & causal - lags(0), of='row')])

    Args:
        width: tokens per row.

    Raises:
        TermError: width < 1, or a symbol.
    """
    width = number(width, "width", f"combiner_rowmajor({width!r})", least=1, reason=FIXED)
    above = pidsl.stride(width) & pidsl.causal - pidsl.lags(0)
    return pidsl.summaries(pidsl.blocks(width) & pidsl.causal, [pidsl.spans(width, above, of="row")])
