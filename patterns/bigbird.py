"""BigBird: window, global and random blocks (Zaheer et al., arXiv 2007.14062, section 2 and appendix).

In blocks of `block` tokens:  |b - c| <= (window - 1) / 2, or b or c is global, or c is one of `random` blocks drawn
for b. All widths count blocks, the own block included. Borders are cut. Published (base, ITC): blocks of 64 tokens,
window 3, two global blocks, three random ones. As in the implementation in transformers, the global blocks are the
first and the last one, and a block draws its random blocks from those that it does not attend anyway; which ones are
drawn there depends on the seed *and* on NumPy, so a given layout is written with `pairs(...)`; see
docs/reference/patterns.md.
"""

from __future__ import annotations

import random as randomness

import pidsl
from pidsl.errors import TermError
from pidsl.language.expr import Index
from pidsl.language.sizes import size
from pidsl.language.terms import Term
from pidsl.patterns.checks import number

__all__ = ["bigbird", "random_blocks"]


def bigbird(
    tokens: int,
    *,
    block: Index = 64,
    window: int = 3,
    first: int = 1,
    last: int = 1,
    random: int = 3,
    seed: int = 0,
    causal: bool = False,
) -> Term:
    """Window, global and random blocks, for sequences of `tokens` tokens.

    >>> bigbird(24, block=4, last=0, random=1).mask(24)[::4, ::4].astype(int)  # a token of each block
    array([[1, 1, 1, 1, 1, 1],
           [1, 1, 1, 0, 1, 0],
           [1, 1, 1, 1, 0, 1],
           [1, 1, 1, 1, 1, 0],
           [1, 0, 1, 1, 1, 1],
           [1, 0, 0, 1, 1, 1]])
    >>> bigbird(4096, random=0)
    (window(1, 1) | keys(0, 1) | queries(0, 1) | keys(-1, None) | queries(-1, None)).blocked(64)

    Args:
        tokens: length of the sequence; random blocks are drawn among its blocks.
        block: tokens per block.
        window: blocks of the window, the own block included; odd.
        first: global blocks at the start.
        last: global blocks at the end; 0 with causal=True, where they would be attended by themselves only.
        random: random blocks per block of queries, fewer where fewer are left.
        seed: of the random blocks.
        causal: only keys j <= i; random blocks are then drawn among the earlier ones.

    Raises:
        TermError: tokens < 1, block < 1, an even window, a negative number of blocks, a symbol where a number is
            needed, or last > 0 with causal=True.
    """
    where = (
        f"bigbird({tokens!r}, block={block!r}, window={window!r}, first={first!r}, last={last!r}, random={random!r}, "
        f"causal={causal!r})"
    )
    why = "random blocks are drawn among those of the sequence"
    tokens = number(tokens, "tokens", where, least=1, reason=why)
    block = number(block, "block", where, least=1, reason=why)
    window = number(window, "window", where, least=1, reason=why)
    first = number(first, "first", where, least=0, reason=why)
    last = number(last, "last", where, least=0, reason=why)
    random = number(random, "random", where, least=0, reason=why)
    if window % 2 == 0:
        raise TermError(f"window = {window}", "an odd number of blocks, the own one in the middle", where)
    if causal and last:
        raise TermError(f"last = {last} with causal = True", "no global blocks in the future", where, "last=0")
    side = window // 2
    term: Term = pidsl.window(side, 0 if causal else side)
    if first:
        term = term | pidsl.keys(0, first) | pidsl.queries(0, first)
    if last:
        term = term | pidsl.keys(-last) | pidsl.queries(-last)
    if random:
        term = term | random_blocks(
            -(-tokens // block), random, side=side, first=first, last=last, seed=seed, causal=causal
        )
    term = term.blocked(block)
    return term & pidsl.causal if causal else term


def random_blocks(
    blocks: int, count: int, *, side: int = 1, first: int = 1, last: int = 1, seed: int = 0, causal: bool = False
) -> Term:
    """The random part alone, as pairs of block indices.

    >>> random_blocks(6, 1, last=0)
    pairs([(1, 4), (2, 5), (3, 1), (4, 2), (5, 3)])

    Args:
        blocks: how many blocks there are.
        count: drawn per block of queries.
        side: blocks on either side that the window has already.
        first, last, seed, causal: as in `bigbird`.
    """
    where = f"random_blocks({blocks!r}, {count!r})"
    size(blocks, "blocks", where, least=0)
    size(count, "count", where, least=0)
    draw = randomness.Random(seed)
    found: list[tuple[int, int]] = []
    for b in range(first, blocks - last):
        stop = b - side if causal else blocks - last
        left = [c for c in range(first, stop) if abs(b - c) > side]
        found += [(b, c) for c in sorted(draw.sample(left, min(count, len(left))))]
    return pidsl.pairs(found)
