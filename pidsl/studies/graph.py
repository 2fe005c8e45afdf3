"""The attention graph, and the actual way by which one token reaches another."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import islpy as isl
import networkx as nx
import numpy as np

from pidsl.analysis.layers import stacks
from pidsl.analysis.layers.stacks import Stack, checked, square, stack
from pidsl.errors import SizeError
from pidsl.language.terms import Term, require_concrete, require_free
from pidsl.relation.isl import coalesced, in_turn, largest, limited, read_set
from pidsl.relation.oracle import dense_mask

NODES = 4096  # tokens of a graph, or between two tokens, that are listed one by one


@in_turn
def attention_graph(term: Term, n: int) -> nx.DiGraph[int]:
    """The graph of one layer over n tokens: an edge j -> i where i attends j, the way that information flows.

    >>> import pidsl
    >>> graph = attention_graph(pidsl.window(1), 3)
    >>> sorted(graph.edges)
    [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]

    Args:
        term: the pattern.
        n: how many tokens; the graph has all of them, 0 .. n - 1.

    Raises:
        SizeError: n is no integer >= 0, or more than 4096: the graph lists every pair.
        SymbolError: the term holds unbound symbols.
    """
    require_concrete(term, "draw its graph")
    require_free(term, "its graph")
    count = stacks.number(n, "n")
    if count > NODES:
        raise SizeError(f"n = {n}", f"at most {NODES}", hint="path(term, i, j, layers) finds its way without a graph")
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(count))
    queries, keys = np.nonzero(dense_mask(term, count))
    graph.add_edges_from((int(j), int(i)) for i, j in zip(queries, keys, strict=True))
    return graph


def path(subject: object, i: int, j: int, layers: int | None = None, n: int | None = None) -> list[int] | None:
    """A chain of tokens by which token j at the input reaches token i after the last layer.

    `chain[l]` attends `chain[l - 1]` in layer l = 1 .. L, from `chain[0] == j` to `chain[L] == i`.

    >>> import pidsl
    >>> path(pidsl.window(4) | pidsl.lags(16), 2**40, 2**40 - 36, 4)
    [1099511627740, 1099511627756, 1099511627772, 1099511627776, 1099511627776]
    >>> path(pidsl.window(4), 9, 0, 2) is None
    True

    Args:
        subject: a term, or a term per layer, the layer at the input first.
        i: the token that is reached.
        j: the token that it depends on.
        layers: how many layers; a schedule begins again after its last. None: one, or each of a schedule once.
        n: how many tokens; default: just enough for i and j.

    Returns:
        The chain, or None if there is none.

    Raises:
        SizeError: a token is not one of the n, or `layers` is negative.
        TooHardError: isl's operation limit struck.
    """
    layers_, tokens = _arguments(subject, i, j, layers, n)
    with limited(f"a path through {len(layers_)} layers"):
        seen = _seen_from(layers_, j, tokens)
        if not _holds(seen[-1], i):
            return None
        chain = [i]
        for level in range(len(layers_), 0, -1):
            keys = _row(_at(layers_[level - 1], tokens), chain[-1]) & seen[level - 1]
            chain.append(largest(keys))  # the latest of them
    chain.reverse()
    _check(chain, layers_, tokens)
    return chain


def _arguments(subject: object, i: object, j: object, layers: object, n: object) -> tuple[Stack, int]:
    terms = stack(checked(subject), None if layers is None else stacks.number(layers, "layers"))
    for term in terms:
        require_free(term, "a path")
    query, key = stacks.number(i, "i"), stacks.number(j, "j")
    tokens = max(query, key) + 1 if n is None else stacks.number(n, "n", 1)
    if max(query, key) >= tokens:
        raise SizeError(f"token {max(query, key)}", f"one of the {tokens} tokens 0 .. {tokens - 1}")
    return terms, tokens


@lru_cache(maxsize=64)
def _at(term: Term, tokens: int) -> isl.Map:
    """The relation between so many tokens, without parameters."""
    value = isl.Val.read_from_str(square(term).get_ctx(), str(tokens))
    fixed = square(term).fix_val(isl.dim_type.param, 0, value)
    return coalesced(fixed.project_out(isl.dim_type.param, 0, 1))


def _seen_from(layers: Stack, j: int, tokens: int) -> list[isl.Set]:
    """After each number of layers, the tokens that j has reached."""
    seen = [read_set(f"{{ [t] : t = {j} }}")]
    for term in layers:
        seen.append(coalesced(seen[-1].apply(_at(term, tokens).reverse())))
    return seen


def _row(pairs: isl.Map, i: int) -> isl.Set:
    return read_set(f"{{ [t] : t = {i} }}").apply(pairs)


def _holds(tokens: isl.Set, i: int) -> bool:
    return not (tokens & read_set(f"{{ [t] : t = {i} }}")).is_empty()


def _check(chain: list[int], layers: Stack, tokens: int) -> None:
    """Every step is a pair of its layer."""
    for term, (key, query) in zip(layers, pairwise(chain), strict=True):
        if not _holds(_row(_at(term, tokens), query), key):
            raise AssertionError(f"a step from {key} to {query} that {term!r} lacks")
