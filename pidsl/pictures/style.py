"""Colours and words that all pictures share. The colours are apart for colour-blind readers, and in grey."""

from __future__ import annotations

PAPER, PARTIAL, FULL = "#ffffff", "#9cc3ea", "#1f5fa8"  # no pair, some, every
GRID = "#d5dbe3"
ONLY_FIRST, ONLY_SECOND, BOTH_DIFFER = "#d55e00", "#009e73", "#7a3e9d"
COMMON = "#b9c6d6"
VISITED = "#f3d9a4"  # computed, with a mask
PARTIAL_PAIR = "#5b93d1"  # a pair in a tile with a mask
LINES = ("#1f5fa8", "#d55e00", "#009e73", "#7a3e9d", "#8a6d00", "#5c6b7a")

TITLE = 64  # characters of a term in a title


def shortened(text: str, most: int = TITLE) -> str:
    """The text, its middle left out where it is long.

    >>> shortened("window(63) | stride(256)", 12)
    'windo … 256)'
    """
    if len(text) <= most:
        return text
    half = (most - 2) // 2
    return f"{text[:half]} … {text[len(text) - (most - 3 - half) :]}"


def percent(part: int, whole: int) -> str:
    """A share as people write it.

    >>> percent(21, 64), percent(1, 10**6), percent(0, 0)
    ('32.8%', '0.0001%', '0%')
    """
    share = 100 * part / whole if whole else 0.0
    if share == 0 or share >= 99.995:
        return f"{share:.0f}%" if part in (0, whole) else "just below 100%"
    return f"{share:.1f}%" if share >= 1 else f"{share:.2g}%" if share >= 1e-4 else f"{share:.1e}%"


def flops(count: int) -> str:
    """Operations as people write them.

    >>> flops(1_500), flops(2_000_000_000)
    ('1.50 kFLOP', '2.00 GFLOP')
    """
    for size, name in ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.2f} {name}FLOP"
    return f"{count} FLOP"
