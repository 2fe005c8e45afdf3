"""Formulas against dense masks, at sizes that no derivation has looked at.

A derivation and its checker can share a mistake, or a library below them can: the masks share nothing with either. So
every formula is compared with them before a question returns it (`portfolio.tried`), and again, at other sizes, when
its proof is checked (`rules.verdict_of`): at random lengths, just past the numbers where its cases change, and for some
values of its symbols, the least that are admitted among them. What the masks of a few hundred tokens do not show is
left to the proof.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice

import sympy

from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.words import Periodic, symbol
from pidsl.analysis.measured import (
    BY_TIME,
    CORNER,
    ENTRIES,
    FAR_ENTRIES,
    FAR_WORK,
    LAYERS,
    PRODUCTS,
    TOKENS,
    admits,
    composed,
    connected,
    layers_of,
    longest_mask,
    look_back,
    refuted,
    sizes_of,
    varies,
)
from pidsl.analysis.statements import names_of

FIRST, AGAIN = "before it is returned", "when its proof is checked"  # what the sizes are drawn for

SHORT = 16  # tokens of short sequences
VALUES = 3  # of the symbols of a pattern
SMALL = (0, 1, 2, 3, 4, 5, 7, 10)  # what they are drawn from
TRIES = 60
FAR, FAR_LAYERS = 2500, 1300  # the longest sequences, of counts and of layers
PARTS = 100  # of a formula that are searched for numbers

COUNTS = ("pairs", "sparsity", "degree", "max degree", "average degree")
MEASURED = (
    *COUNTS, *BY_TIME, *PRODUCTS, "decode bytes", "received keys", "received bytes", "farthest", "contiguous", "depth",
)  # fmt: skip


@lru_cache(maxsize=512)
def refutation(bound: Bound, purpose: str) -> str:
    """Where a mask contradicts a formula, "" if no mask of those that are looked at does.

    >>> import pidsl
    >>> from dataclasses import replace
    >>> bound = pidsl.window(2).pairs()
    >>> refutation(bound, FIRST), bool(refutation(replace(bound, expr=bound.expr + 1), FIRST))
    ('', True)
    """
    if not bound.is_known or bound.quantity not in MEASURED:
        return ""
    draw = random.Random(f"{purpose}: {bound.quantity} of {bound.shown_subject}")
    if purpose == AGAIN:
        return refuted(bound, chain(_samples(bound, draw), _far(bound, draw)), FAR_WORK)
    return refuted(bound, _samples(bound, draw))


# -- where to look -----------------------------------------------------------------------------------------------------


def _samples(bound: Bound, draw: random.Random) -> Iterator[dict[str, int]]:
    """Numbers for everything that is open: the symbols of the pattern, n, i, L and t."""
    for values in _bindings(bound, draw):
        terms = layers_of(bound.subject, values, 1)
        longest = min(map(longest_mask, terms))
        if bound.quantity in BY_TIME and bound.argument("n") is None:
            past = {b + k for b in _numbers(bound, values) for k in (-1, 0, 1) if 0 <= b + k <= TOKENS}
            tokens = {0, 1, *draw.sample(range(TOKENS), 8), *draw.sample(sorted(past), min(len(past), 8))}
            yield from ({**values, "t": t} for t in sorted(tokens))
        elif isinstance(count := bound.argument("n"), int):
            yield from [{**values, "n": count}] if count <= longest else []
        else:
            free = {s.name for s in bound.expr.free_symbols | set().union(*(c.free_symbols for c in bound.assumptions))}
            layers: Iterable[int | None] = sorted({1, 2, draw.randint(1, LAYERS)}) if "L" in free else (None,)
            for count in layers:
                here = values if count is None else {**values, "L": count}
                yield from _lengths(bound, here, longest, draw)


def _far(bound: Bound, draw: random.Random) -> Iterator[dict[str, int]]:
    """Long sequences, where a size of the pattern or of the formula is too large for those always looked at."""
    if bound.argument("n") is not None:
        return
    for values in islice(_bindings(bound, draw), 1):
        terms = layers_of(bound.subject, values, 1)
        near, far = (min(longest_mask(term, entries) for term in terms) for entries in (ENTRIES, FAR_ENTRIES))
        far = min(far, FAR if bound.quantity in (*COUNTS, *PRODUCTS) and not any(map(composed, terms)) else FAR_LAYERS)
        sizes = {x for x in (*_numbers(bound, values), *sizes_of(terms)) if near < 3 * x and x + 1 < far}
        lengths = {x + k for x in sorted(sizes)[-2:] for k in (1, draw.randint(1, max(1, min(4 * x, far - x - 1))))}
        if bound.quantity in BY_TIME:
            yield from ({**values, "t": t} for t in sorted(lengths) if t > TOKENS)
            continue
        free = {s.name for s in bound.expr.free_symbols}
        for layers in (1, 2) if "L" in free else (None,):
            at = values if layers is None else {**values, "L": layers}
            least = _least(bound, at, far)
            late = {least, least + draw.randint(1, SHORT)} if least is not None and least > near // 3 else set()
            points = [{**at, "n": n} for n in sorted(x for x in lengths | late if x <= far)]
            if bound.quantity == "degree":
                points = [{**point, "i": i} for point in points for i in {point["n"] - 1, draw.randrange(point["n"])}]
            yield from points


def _lengths(bound: Bound, values: dict[str, int], longest: int, draw: random.Random) -> Iterator[dict[str, int]]:
    """Some n up to the longest: small ones, just past a case of the formula, and after what determines the last case.

    A count with a period P is determined by 3 P values from the last case on: then come those that nobody looked at.
    """
    least = _least(bound, values, longest)
    if least is None:
        return
    some = 2 if values else 3 if varies(bound.subject) else 5
    cases = [b for b in _numbers(bound, values) if least <= b <= longest]
    breaks = sorted({b + k for b in cases for k in (0, 1, 2) if b + k <= longest})
    period = _period(bound.expr)
    tail = range(min(max([least, *cases]) + 3 * period, max(least, longest - period)), longest + 1)[: 2 * period]
    found = {least, *draw.sample(breaks, min(len(breaks), some)), *draw.sample(tail, min(len(tail), 4 * some))}
    found.update(draw.randint(least, min(longest, least + SHORT)) for _ in range(some))
    if bound.quantity == "depth" and look_back(layers := layers_of(bound.subject, values, LAYERS)):
        found.update(n for tokens in connected(layers) for n in (tokens, tokens + 1) if least <= n <= CORNER)
    lengths = ({**values, "n": n} for n in sorted(found))
    if bound.quantity == "degree":
        lengths = ({**at, "i": i} for at in lengths if at["n"] for i in {at["n"] - 1, draw.randrange(at["n"])})
    yield from lengths


def _period(expr: sympy.Expr) -> int:
    """With which n comes in floors and periodic numbers, as far as masks go."""
    found = 1
    for part in expr.atoms(sympy.floor, sympy.ceiling, sympy.Mod, Periodic):
        if isinstance(part, Periodic):
            own = len(part.args) - 1
        elif isinstance(part, sympy.Mod):
            own = int(part.args[1]) if part.args[1].is_Integer else 1
        else:
            own = math.lcm(*(x.q for x in part.args[0].atoms(sympy.Rational)))
        found = math.lcm(found, own) if math.lcm(found, own) <= CORNER else found
    return found


def _least(bound: Bound, values: dict[str, int], longest: int) -> int | None:
    """The first n that the assumptions admit, up to the longest; they are about sequences that are long enough."""
    about = [c for c in bound.assumptions if symbol("n") in c.free_symbols and not c.has(symbol("i"))]
    low, high = 0 if bound.quantity in ("pairs", *PRODUCTS) else 1, longest
    if low > high or not admits(about, {**values, "n": high}):
        return None
    while low < high:
        n = (low + high) // 2
        low, high = (low, n) if admits(about, {**values, "n": n}) else (n + 1, high)
    return low


def _numbers(bound: Bound, values: dict[str, int]) -> set[int]:
    """Whole numbers that sizes are compared with: where the cases of a formula change, or its assumptions."""
    compared = islice(bound.expr.atoms(sympy.core.relational.Relational, sympy.Min, sympy.Max), PARTS)
    found = {int(x) for part in (*compared, *bound.assumptions) for x in part.atoms(sympy.Integer) if x >= 0}
    return found | set(values.values())


def _bindings(bound: Bound, draw: random.Random) -> Iterator[dict[str, int]]:
    """Values of the symbols of the pattern that the assumptions and the pattern admit: small ones, then any."""
    names = sorted(names_of(bound.subject))
    if not names:
        yield {}
        return
    found: list[dict[str, int]] = []
    for k in range(TRIES):
        most = min(len(SMALL), 2 + k // 4)  # small ones first
        values = {name: SMALL[draw.randrange(most)] for name in names}
        if values in found or not admits(bound.assumptions, values) or not layers_of(bound.subject, values, 1):
            continue
        found.append(values)
        yield values
        if len(found) == VALUES:
            return
