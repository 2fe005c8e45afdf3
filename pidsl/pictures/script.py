"""Patterns as JavaScript: the loops over the keys of a query, in closed form, so that a page can draw any part of them.

    window(63)  ->  [{step: 1, first: (n, m, i) => mx(0, i - 63), last: (n, m, i) => mn(i, m - 1), ...}]

A page of a million tokens is then as short as one of ten. A pattern without such loops has the runs of its mask.
"""

from __future__ import annotations

import numpy as np

from pidsl.errors import TooHardError
from pidsl.language.expr import (
    Abs,
    And,
    Compare,
    Dialect,
    FloorDiv,
    Index,
    Max,
    Min,
    Not,
    Or,
    Pred,
    Truth,
    largest,
    show,
)  # fmt: skip
from pidsl.language.terms import Term
from pidsl.relation.counting import key_loops
from pidsl.relation.loops import VARIABLE, Loop
from pidsl.relation.oracle import dense_mask

EXACT = 1 << 53  # integers that JavaScript's numbers hold
DENSE = 4096  # tokens of a mask, where there are no loops

JAVASCRIPT = Dialect(
    {Abs: "Math.abs", Min: "mn", Max: "mx"}, lambda e: ("fd" if isinstance(e, FloorDiv) else "md", e.left, e.right)
)


def keys_script(term: Term, n: int) -> str:
    """The keys of each query of a pattern over n tokens, as an array of loops.

    Raises:
        TooHardError: no loops, and too many tokens for a mask.
    """
    try:
        parts = key_loops(term)
    except TooHardError:
        if n > DENSE:
            raise
        return _runs(term, n)
    tests = [test for x in parts for test in (x.first, x.last, x.guard, x.inside) if test is not None]
    if max([0, *(largest(test, 2 * n) for test in tests)]) >= EXACT:
        if n > DENSE:
            raise TooHardError(f"numbers of {term!r}", f"numbers below 2**53 in a page, or n <= {DENSE}")
        return _runs(term, n)
    return f"[{', '.join(map(_loop, parts))}]"


def _loop(x: Loop) -> str:
    fields = [f"step: {x.step}", f"first: (n, m, i) => {index(x.first)}", f"last: (n, m, i) => {index(x.last)}"]
    if x.guard is not None:
        fields.append(f"guard: (n, m, i) => {condition(x.guard)}")
    if x.inside is not None:
        fields.append(f"inside: (n, m, i, {VARIABLE}) => {condition(x.inside)}")
    return f"{{{', '.join(fields)}}}"


def _runs(term: Term, n: int) -> str:
    """The runs of keys of each query, from its mask: [first, last, first, last, ...]."""
    rows = []
    for row in dense_mask(term, n):
        edges = np.flatnonzero(np.diff(np.pad(row.astype(np.int8), 1)))
        edges[1::2] -= 1
        rows.append(f"[{','.join(map(str, edges.tolist()))}]")
    return f"[{{rows: [{','.join(rows)}]}}]"


def index(e: Index) -> str:
    """An expression.

    >>> from pidsl.language.expr import Var
    >>> index(Var("i") // 4 * 4 + Var("n") % 3)
    'fd(i, 4) * 4 + md(n, 3)'
    """
    return show(e, 0, JAVASCRIPT)


def condition(p: Pred) -> str:
    """A predicate; JavaScript's own `&`, `|` and `~` are of numbers."""
    match p:
        case Compare(op, a, b):
            return f"{index(a)} {({'==': '===', '!=': '!=='}).get(op, op)} {index(b)}"
        case And(a, b):
            return f"({condition(a)} && {condition(b)})"
        case Or(a, b):
            return f"({condition(a)} || {condition(b)})"
        case Not(a):
            return f"!({condition(a)})"
        case Truth(value):
            return "true" if value else "false"
