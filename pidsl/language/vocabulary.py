"""The words of the language: one checked constructor per row of the vocabulary.

`full`, `empty`, `causal` and `documents` are constants. `T & documents` holds T within each of the documents that a
call packs one after the other, on the positions within the document: windows, strides, sinks and blocks restart.

`i` is the query position, `j` the key position, `lag = i - j`; n queries and m keys. Every size is an integer or a
symbol; a wrong one raises `TermError` before anything is built.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from pidsl.errors import TermError
from pidsl.language.expr import Index, Pred, Symbol
from pidsl.language.grids import halo, neighborhood
from pidsl.language.refused import require_term
from pidsl.language.sizes import RESERVED, is_symbol_name, size
from pidsl.language.terms import (
    Blocks,
    Causal,
    Chosen,
    Documents,
    Empty,
    Full,
    Keys,
    Lags,
    Pairs,
    Queries,
    Ring,
    Stride,
    Term,
    Where,
    Window,
)

__all__ = [
    "blocks", "causal", "chosen", "documents", "empty", "full", "halo", "keys", "lags", "neighborhood", "pairs",
    "queries", "ring", "stride", "symbols", "window",
]  # fmt: skip

full = Full()
empty = Empty()
causal = Causal()
documents = Documents()

RESERVED.update(__all__)


def chosen(block: Index = 64, budget: Index = 16, queries: Index = 64, within: Term = causal) -> Term:
    """Attends, of the pairs of `within`, those whose key is in a block that the call lists for the query's block.

    A kernel of it takes `blocks`, int32 [B, 1 | Hkv | Hq, query blocks, up to budget]: for each block of query
    positions the numbers of the blocks of key positions, -1 for none, in any order, repeats counted once. What is
    proved of the pattern holds for every such list: at most `budget` blocks of `block` keys for each query.
    `term.forced` is what is attended whatever is listed, `term.possible` all that can be.

    >>> pattern = chosen(2, 1, queries=2) | window(0)
    >>> pattern.mask(6, blocks=[[-1], [0], [1]]).astype(int)
    array([[1, 0, 0, 0, 0, 0],
           [0, 1, 0, 0, 0, 0],
           [1, 1, 1, 0, 0, 0],
           [1, 1, 0, 1, 0, 0],
           [0, 0, 1, 1, 1, 0],
           [0, 0, 1, 1, 0, 1]])
    >>> pattern.forced, pattern.possible
    (window(0), causal | window(0))

    Args:
        block: keys of a block, >= 1; `block=1` chooses tokens. Block x holds the positions x * block and on.
        budget: blocks that are listed at most, >= 1.
        queries: queries of a block, >= 1, which have one list; `queries=1`: each token its own.
        within: the pairs that may be chosen.

    Raises:
        TermError: a size is below 1 or not an integer; `within` is no pattern, or has a choice or documents in it.

    Source: as in block-sparse selection of MoBA (2502.13189), NSA (2502.11089) and SeerAttention (2410.13276).
    """
    return Chosen.made(block, budget, queries, require_term(within, "within"))


def symbols(names: str) -> Any:
    """Open sizes, named: one symbol for one name, a tuple for several (separated by spaces or commas).

    >>> k, period = symbols("k period")
    >>> window(k) | stride(2 * period)
    window(k) | stride(2 * period)

    Args:
        names: identifiers; not Python keywords, not words of the language, not i, j, n, m.

    Returns:
        A `Symbol`, or a tuple of them. No type says how many names a text holds, so it is typed Any: write
        `k: Symbol = symbols("k")` where a checker should know.

    Raises:
        TermError: there is no name, or one that is not allowed.
    """
    if not isinstance(names, str):
        raise TermError(f"symbols({names!r})", "a string of names", hint='symbols("k period")')
    found = [unicodedata.normalize("NFKC", name) for name in names.replace(",", " ").split()]
    for name in found:
        if not is_symbol_name(name):
            expected = "an identifier that is neither a Python keyword nor a word of the language"
            raise TermError(f"symbol name {name!r}", expected, f"symbols({names!r})", f"{name}_" * name.isidentifier())
    if not found:
        raise TermError(f"symbols({names!r})", "at least one name", hint='symbols("k period")')
    made = tuple(Symbol(name) for name in found)
    return made[0] if len(made) == 1 else made


def window(left: Index, right: Index = 0) -> Term:
    """Attends when `-right <= lag <= left`, both ends included: `window(0)` is the diagonal, `window(3)` holds 4 keys.

    >>> window(1, 1).mask(3).astype(int)
    array([[1, 1, 0],
           [1, 1, 1],
           [0, 1, 1]])

    Args:
        left: how many tokens of the past, >= 0, beside the token itself.
        right: how many tokens of the future, >= 0.

    Raises:
        TermError: a side is negative or not an integer.
    """
    return Window.made(left, right)


def stride(period: Index, phase: Index = 0) -> Term:
    """Attends when `lag mod period == phase`, past and future alike; `stride(p) & causal` keeps the past.

    >>> stride(3, 1).mask(4).astype(int)
    array([[0, 0, 1, 0],
           [1, 0, 0, 1],
           [0, 1, 0, 0],
           [0, 0, 1, 0]])

    Args:
        period: tokens from one attended lag to the next, >= 1.
        phase: the smallest attended lag, in 0 .. period - 1.

    Raises:
        TermError: period < 1, or phase outside 0 .. period - 1, or either is not an integer.
    """
    return Stride.made(period, phase)


def lags(*values: Index) -> Term:
    """Attends when the lag is one of the values: `lag in {values}`; negative lags look ahead.

    Order and repeats do not change the meaning; `lags()` attends nothing.

    >>> lags(0, 2).mask(3).astype(int)
    array([[1, 0, 0],
           [0, 1, 0],
           [1, 0, 1]])

    Args:
        values: lags `i - j`, in tokens.

    Raises:
        TermError: a value is not an integer; a list of lags is `lags(*values)`.
    """
    return Lags.made(values)


def ring(radius: Index) -> Term:
    """Attends when the circular distance is at most `radius`: `min(lag mod n, -lag mod n) <= radius`.

    Defined between the n positions of a square pattern (as many keys as query positions).

    >>> ring(1).mask(4).astype(int)
    array([[1, 1, 0, 1],
           [1, 1, 1, 0],
           [0, 1, 1, 1],
           [1, 0, 1, 1]])

    Args:
        radius: tokens to either side, >= 0.

    Raises:
        TermError: the radius is negative or not an integer.
    """
    return Ring.made(radius)


def keys(start: Index, stop: Index | None = None, step: Index = 1) -> Term:
    """Attends when `j in range(m)[start:stop:step]`: negative bounds count from the end, None is the end itself.

    >>> keys(-2).mask(3).astype(int)
    array([[0, 1, 1],
           [0, 1, 1],
           [0, 1, 1]])

    Args:
        start: the first key.
        stop: the key after the last.
        step: from one key to the next, >= 1.

    Raises:
        TermError: a bound is not an integer, or step < 1.
    """
    return Keys.made(start, stop, step)


def queries(start: Index, stop: Index | None = None, step: Index = 1) -> Term:
    """Attends when `i in range(n)[start:stop:step]`: negative bounds count from the end, None is the end itself.

    With an offset, n is the number of query positions, offset included.

    >>> queries(0, None, 2).mask(3).astype(int)
    array([[1, 1, 1],
           [0, 0, 0],
           [1, 1, 1]])

    Args:
        start: the first query position.
        stop: the position after the last.
        step: from one position to the next, >= 1.

    Raises:
        TermError: a bound is not an integer, or step < 1.
    """
    return Queries.made(start, stop, step)


def blocks(size: Index) -> Term:
    """Attends within consecutive blocks: `i // size == j // size`.

    >>> blocks(2).mask(3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [0, 0, 1]])

    Args:
        size: tokens per block, >= 1; the last block may be shorter.

    Raises:
        TermError: size < 1, or not an integer.
    """
    return Blocks.made(size)


def pairs(values: Iterable[tuple[int, int]]) -> Term:
    """Attends exactly these: `(i, j) in values`; positions beyond n or m are simply not there.

    >>> pairs([(0, 2), (2, 0)]).mask(3).astype(int)
    array([[0, 0, 1],
           [0, 0, 0],
           [1, 0, 0]])

    Args:
        values: pairs (query position, key position), in any order; any iterable, an integer array [count, 2] too.

    Raises:
        TermError: an entry is not a pair of integers >= 0.
    """
    try:
        entries = list(values)
    except TypeError:
        raise TermError(f"pairs({values!r})", "a list of pairs (i, j)", hint="pairs([(0, 1), (2, 0)])") from None
    found: set[tuple[int, int]] = set()
    for entry in entries:
        where = f"pairs([... {entry!r} ...])"
        if isinstance(entry, str) or not hasattr(entry, "__len__") or len(entry) != 2:
            raise TermError(f"{entry!r}", "a pair (i, j) of integers", where, "pairs([(0, 1), (2, 0)])")
        i, j = (size(x, name, where, least=0) for x, name in zip(entry, "ij", strict=True))
        if not isinstance(i, int) or not isinstance(j, int):
            hint = "symbols stand for sizes, not for single pairs"
            raise TermError(f"{entry!r}", "plain integers", where, hint)
        found.add((i, j))
    return Pairs(tuple(sorted(found)))


def where_pred(pred: Pred) -> Term:
    """A predicate as a term; a constant one is `full` or `empty`.

    Raises:
        TermError: a divisor below 1, a constant of magnitude 2**31 and more, or too many operations.
    """
    return Where.made(pred)
