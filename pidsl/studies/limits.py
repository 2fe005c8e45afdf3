"""What no pattern can beat: so many keys, and pairs, it takes to connect n tokens within so many layers."""

from __future__ import annotations

from bisect import bisect_left
from math import comb


def least_degree(n: int, layers: int) -> int:
    """The least d with `d**layers >= n`.

    With at most d keys per query, the last token sees at most d^L tokens through L layers, and it has to see n.

    >>> least_degree(4096, 4), least_degree(4097, 4)
    (8, 9)
    """
    low, high = 1, 1
    while high**layers < n:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**layers >= n else (middle + 1, high)
    return low


def least_keys(n: int, layers: int, depth: int) -> int:
    """Keys per query, summed over the layers, that no pattern can have fewer of which connects n tokens in `depth`.

    Let layer l have a query with at most d_l keys. The last token sees at most `d_1 ... d_D` tokens through D layers,
    and it has to see n; of numbers with so large a product those that differ by one at most have the least sum. The
    layers after them have a key each at least, or what was seen is lost.

    >>> least_keys(4096, 6, 6), least_keys(4096, 6, 3)
    (24, 51)
    """
    size = least_degree(n, depth)
    less = 0
    while less < depth and size > 1 and size ** (depth - less - 1) * (size - 1) ** (less + 1) >= n:
        less += 1
    return depth * size - less + layers - depth


def least_pairs(n: int, layers: int, same: bool) -> tuple[int, int]:
    """The largest of `pairs_needed` over all m, and the m: a lower bound of the pairs of all layers.

    >>> least_pairs(5, 1, same=True)  # window(4): all lags
    (15, 5)
    """
    if layers == 1:
        return n * (n + 1) // 2, n
    best, size, m = (0, 1), 1, 1
    while m <= n:  # the least m that needs this size, as fewer lags below a larger m are cheaper
        if same:
            best = max(best, (layers * _cost(size, m, n), m))
            m, size = comb(size + layers - 1, layers) + 1, size + 1
            continue
        for larger in range(1 if size > 1 else 0, layers + 1):  # layers with size + 1 lags, the others have size
            if m > n:
                break
            best = max(best, ((layers - larger) * _cost(size, m, n) + larger * _cost(size + 1, m, n), m))
            m = size ** (layers - larger) * (size + 1) ** larger + 1
        size += 1
    return best


def pairs_needed(n: int, layers: int, same: bool, m: int) -> int:
    """A lower bound of the pairs of all layers, for patterns of lags i - j >= 0 that connect n tokens, by any m <= n.

    Every layer attends lag 0, or some token would not see itself. The lags below m are sums of lags below m, one per
    layer; let layer l have s_l of them. There are at most `s_1 ... s_L` sums, and if all layers are the same, at most
    `C(s + L - 1, L)`: this has to be m or more. The lag d costs n - d pairs, so that s lags, of which one is 0 and the
    others differ and are below m, cost at least

        f(s) = n + (n - m + 1) + ... + (n - m + s - 1)

    f is convex, so sizes that differ by more than one can be brought closer without more cost and without fewer sums:
    the least cost has sizes r and r + 1 only.
    """
    if same:
        size = 1 + bisect_left(range(1, m + 1), m, key=lambda size: comb(size + layers - 1, layers))
        return layers * _cost(size, m, n)
    size = least_degree(m, layers)
    less = 0  # layers that can do with a lag less
    while size > 1 and less < layers and size ** (layers - less - 1) * (size - 1) ** (less + 1) >= m:
        less += 1
    return (layers - less) * _cost(size, m, n) + less * _cost(size - 1, m, n)


def _cost(size: int, m: int, n: int) -> int:
    """Pairs of a layer with so many lags below m at least."""
    return n + (size - 1) * (n - m) + size * (size - 1) // 2
