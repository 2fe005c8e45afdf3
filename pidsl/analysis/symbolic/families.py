"""Families of causal patterns, closed under adding layers: what L layers reach, and which keys to look at.

    window          0 .. k                              L layers reach 0 .. k L
    window + skip   0 .. k and p,  p > k                p s + (0 .. k (L - s)) for 0 <= s <= L
    window + comb   0 .. k and all multiples of p       0 .. k L and p t + (0 .. k (L - 1)) for t >= 0
    dilated         0, d, .., k d                       d t for 0 <= t <= k L
    stride          all multiples of p                  the same in every layer
    blocks          the own block of b tokens           the same in every layer
    sinks           0 .. k and the keys 0 .. s - 1      0 .. k L and the keys 0 .. s - 1
    base b          0, b^l, ..., (b - 1) b^l in layer l      0 .. b^L - 1
    some skips      0 .. k, in some layers p > k        p s + (0 .. k (L - s)) for 0 <= s <= skips

A family proposes and proves nothing: `induction` makes obligations of the term's own definition and the formula, and
looks up here only what it would have to search for. Everything is said of query i!, key j!, a token m! between them,
and a witness w!.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import sympy

from pidsl.analysis.formulas.smtlib import Condition
from pidsl.analysis.formulas.words import CeilLog, L, n
from pidsl.analysis.symbolic.definition import I, J, M, W

And, Or, Max, Min = sympy.And, sympy.Or, sympy.Max, sympy.Min
ZERO, ONE, TRUE = sympy.Integer(0), sympy.Integer(1), sympy.true
LAG, LAST, REST = I - J, I - M, M - J  # of query and key; of the last layer, of the layers before it
Cases: TypeAlias = tuple[tuple[Any, ...], ...]
ALWAYS: Cases = ((TRUE, ZERO),)


def ceil_div(y: sympy.Expr, by: sympy.Expr) -> sympy.Expr:
    """The least integer >= y / by."""
    return sympy.ceiling(y / by)


@dataclass(frozen=True)
class Connected:
    """Of L layers among n tokens, in one case: all lags up to `far` are reached, and a pair of the next one is not.

    Args:
        when: the case.
        far: the lag; `oo` where all are reached.
        every: (when, witness) for a pair of such a lag.
        missing: (when, query, key) of the next one.
    """

    when: Condition
    far: sympy.Expr
    every: Cases = ALWAYS
    missing: Cases = ()


@dataclass(frozen=True)
class Answer:
    """A formula, what it needs to be true, and what to say with it."""

    expr: sympy.Expr
    assumptions: tuple[Condition, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Family:
    """What is proposed of a family of patterns.

    Args:
        shown: what L layers reach, for people.
        needs: conditions on the symbols under which a pattern is of this family.
        reached: whether L >= 1 layers carry key j! to query i!, by the witness w!.
        answers: the formulas of "farthest", "contiguous" and "depth".
        first: (when, witness) of what one layer attends.
        longer: (when, witness) of i! and j!, where i! attends m! in a layer after L that carry j! to m! by w!.
        between: (when, token, witness): which m! it is, where L + 1 layers carry j! to i! by w!.
        attained: (when, query, key, witness) of the farthest pair.
        connected: which lags are reached, see `Connected`.
        cuts: (obligation, given, lemma): what helps z3 with an obligation. The lemma is proved from what is given.
    """

    shown: str
    needs: tuple[Condition, ...]
    reached: Condition
    answers: dict[str, Answer]
    first: Cases = ALWAYS
    longer: Cases = ALWAYS
    between: Cases = ()
    attained: Cases = ()
    connected: tuple[Connected, ...] = ()
    cuts: Cases = ()

    def facts(self, quantity: str) -> tuple[tuple[str, Any], ...]:
        """What a certificate holds of it."""
        of = {"farthest": ("attained",)}.get(quantity, ("connected",))
        names = ("needs", "reached", "first", "longer", "between", *of, "cuts")
        found = {name: getattr(self, name) for name in names}
        if "connected" in found:
            found["connected"] = tuple(tuple(getattr(c, f.name) for f in fields(c)) for c in self.connected)
        return tuple(found.items())


def window(k: sympy.Expr, inside: tuple[sympy.Expr, ...] = ()) -> Family:
    """Lags 0 .. k; `inside` are lags that the term names and the window holds."""
    far = k * L
    return Family(
        "L layers of lags 0..k reach the lags 0..k*L",
        (k >= 1, *(c for lag in inside for c in (lag >= 1, lag <= k))),
        And(0 <= LAG, LAG <= k * L),
        {
            "farthest": Answer(far, (L >= 1, n > far)), "contiguous": Answer(far, (L >= 1, n > far + 1)),
            "depth": Answer(Max(1, ceil_div(n - 1, k)), (n >= 1,)),
        },
        between=((TRUE, J + Max(0, LAG - k), ZERO),),
        attained=((TRUE, far, ZERO, ZERO),),
        connected=(Connected(TRUE, far, missing=((TRUE, far + 1, ZERO),)),),
    )  # fmt: skip


def window_and_skip(k: sympy.Expr, p: sympy.Expr) -> Family:
    """Lags 0 .. k and p > k, in every layer."""
    c = ceil_div(p - 1, k)  # layers of the window that close the gap between two skips
    walked = k * (c - 1)
    far = p * (L + 1 - c) + walked
    near = sympy.Piecewise((k * L, L < c), (far, True))
    depth = sympy.Piecewise((Max(1, ceil_div(n - 1, k)), n - 1 <= walked), (c - 1 + ceil_div(n - 1 - walked, p), True))
    q, top = sympy.floor(LAG / p), L + 1 - c
    found = window_and_some_skips(k, p, L)
    return replace(
        found,
        shown="L layers reach p*s + (0..k*(L-s)) for s = 0..L",
        answers={
            **found.answers, "contiguous": Answer(near, (L >= 1, n > near + 1)), "depth": Answer(depth, (n >= 1,)),
        },
        connected=(
            Connected(L < c, k * L, ALWAYS, ((TRUE, k * L + 1, ZERO),)),
            Connected(L >= c, far, ((q < top, q), (q >= top, top)), ((TRUE, far + 1, ZERO),)),
        ),
        cuts=(
            *found.cuts,
            *((name, (), c >= 1) for name in ("every 2", "missing 1", "missing 2")),
            ("every 2", (q < top,), k * (top - 1 - q) >= 0),
            ("every 2", (q >= top,), p * (q - top) >= 0),
            ("missing 1", (L < c,), k * L <= walked), ("missing 1", (), Or(W <= 0, p * W >= p)),
            ("missing 2", (), Or(And(W <= top, (p - k) * (top - W) >= 0), And(W > top, p * (W - top - 1) >= 0))),
        ),
    )  # fmt: skip


def window_and_comb(k: sympy.Expr, p: sympy.Expr) -> Family:
    """Lags 0 .. k and all multiples of p > k. The witness is the multiple."""
    rest, q = LAG - p * W, sympy.floor((n - 1) / p)
    most = p + k * (L - 1)
    far = Max(Min(k * L, n - 1), p * q + Min(n - 1 - p * q, k * (L - 1)))
    all_, some = k * (L - 1) >= p - 1, k * L >= p - 1
    near = sympy.Piecewise((n - 1, all_), (Min(n - 1, most), some), (Min(n - 1, k * L), True))
    steps = sympy.floor(LAST / p)
    return Family(
        "L layers reach 0..k*L and p*t + (0..k*(L-1)) for t >= 0",
        (k >= 1, p > k),
        Or(And(0 <= LAG, LAG <= k * L), And(0 <= W, 0 <= rest, rest <= k * (L - 1))),
        {
            "farthest": Answer(far, (L >= 1, n >= 1)), "contiguous": Answer(near, (L >= 1, n >= 1)),
            "depth": Answer(1 + ceil_div(p - 1, k), (n >= 2 * p,), f"the same for every n >= {2 * p}"),
        },
        first=((TRUE, sympy.floor(LAG / p)),),
        longer=((LAST <= k, W), (And(LAST > k, REST <= k * L), steps), (And(LAST > k, REST > k * L), W + steps)),
        between=(
            (LAG <= k * (L + 1), J + Max(0, LAG - k), W),
            (LAG > k * (L + 1), I - Min(rest, k), W),
        ),
        attained=((TRUE, far, ZERO, q),),
        connected=(
            Connected(all_, sympy.oo, ((TRUE, sympy.floor(LAG / p)),)),
            Connected(And(some, sympy.Not(all_)), most, ((TRUE, ONE),), ((TRUE, most + 1, ZERO),)),
            Connected(sympy.Not(some), k * L, ALWAYS, ((TRUE, k * L + 1, ZERO),)),
        ),
        cuts=(
            ("first back", (sympy.Eq(LAG, p * W),), sympy.Eq(sympy.Mod(LAG, p), 0)),
            ("beyond", (n >= 1,), And(p * q <= n - 1, n - 1 < p * q + p)),
            ("beyond", (), Or(W >= q, p * W <= p * q - p)), ("beyond", (), Or(W <= q, p * W >= p * q + p)),
            ("attained", (n >= 1,), q >= 0),
            ("missing 2", (), Or(W <= 0, sympy.Eq(W, 1), p * W >= 2 * p)), ("missing 3", (), Or(W <= 0, p * W >= p)),
        ),
    )  # fmt: skip


NEVER = "no number of layers is enough: lag 1 is no multiple of the "


def multiples(d: sympy.Expr, k: sympy.Expr | None) -> Family:
    """Lags 0, d, ..., k d for d >= 2; None: all multiples. The witness is the lag in steps of d."""
    far, name = (d * sympy.floor((n - 1) / d), "period") if k is None else (k * d * L, "dilation")
    q, one, least = far / d, W if k is None else Min(W, k), (L >= 1, n >= 1) if k is None else (L >= 1, n > far)
    within = W <= q if k is None else W <= k * L
    cuts: Cases = (("missing 1", (), Or(W <= 0, d * W >= 2)),)
    if k is None:
        cuts += (("beyond", (), Or(W <= q, d * W >= d * q + d)), ("beyond", (within,), d * (q - W) >= 0))
        cuts += (("attained", (n >= 1,), q >= 0),)
    else:
        cuts += (("beyond", (within,), d * (k * L - W) >= 0),)
    return Family(
        "sums of multiples of p are multiples of p: L layers reach what one does" if k is None
        else "L layers reach d*w for w = 0..k*L",
        (d >= 2,) if k is None else (k >= 1, d >= 2),
        And(0 <= W, TRUE if k is None else within, sympy.Eq(LAG, d * W)),
        {
            "farthest": Answer(far, least), "contiguous": Answer(ZERO, (L >= 1, n >= 2)),
            "depth": Answer(sympy.oo, (n >= 2,), NEVER + name),
        },
        first=((TRUE, sympy.floor(LAG / d)),),
        longer=((TRUE, W + sympy.floor(LAST / d)),),
        between=((TRUE, J + d * (W - one), W - one),),
        attained=((TRUE, far, ZERO, q),),
        connected=(Connected(TRUE, ZERO, missing=((TRUE, ONE, ZERO),)),),
        cuts=cuts,
    )  # fmt: skip


def own_block(b: sympy.Expr, causal: bool) -> Family:
    """The own block of b tokens, up to the own position or all of it."""
    same = sympy.Eq(sympy.floor(I / b), sympy.floor(J / b))
    far = Min(b, n) - 1
    return Family(
        "the own block of the own block is the own block: L layers reach what one does",
        (b >= 1,),
        And(same, J <= I) if causal else same,
        {
            "farthest": Answer(far, (L >= 1, n >= 1)),
            "contiguous": Answer(sympy.Piecewise((n - 1, n <= b), (0, True)), (L >= 1, n >= 1)),
            "depth": Answer(
                sympy.Piecewise((ONE, n <= b), (sympy.oo, True)), (n >= 1,),
                "beyond one block no number of layers is enough: token b never sees token b - 1",
            ),
        },
        between=((TRUE, J, ZERO),),
        attained=((TRUE, far, ZERO, ZERO),),
        connected=(Connected(n <= b, sympy.oo), Connected(n > b, ZERO, missing=((TRUE, b, b - 1),))),
    )  # fmt: skip


def window_and_sinks(k: sympy.Expr, sinks: sympy.Expr) -> Family:
    """Lags 0 .. k and the first `sinks` keys."""
    far, all_ = k * L, n < k * L + sinks + 2
    return Family(
        "L layers reach the lags 0..k*L and the sinks",
        (k >= 1, sinks >= 1),
        And(J >= 0, Or(And(0 <= LAG, LAG <= far), And(J < sinks, J <= I))),
        {
            "farthest": Answer(n - 1, (L >= 1, n >= 1)),
            "contiguous": Answer(sympy.Piecewise((far, n >= far + sinks + 2), (n - 1, True)), (L >= 1, n >= 1)),
            "depth": Answer(Max(1, ceil_div(n - 1 - sinks, k)), (n >= 1,)),
        },
        between=((LAG <= k * (L + 1), J + Max(0, LAG - k), ZERO), (LAG > k * (L + 1), I, ZERO)),
        attained=((TRUE, n - 1, ZERO, ZERO),),
        connected=(
            Connected(all_, sympy.oo),
            Connected(sympy.Not(all_), far, missing=((TRUE, sinks + far + 1, sinks),)),
        ),
    )  # fmt: skip


def by_digits(base: sympy.Expr) -> Family:
    """Layer l = 0, 1, ... attends the lags 0, b^l, 2 b^l, ..., (b - 1) b^l: digits of the lag in base b."""
    power = base**L
    far, last, digit = power - 1, sympy.floor(LAST / power), sympy.floor(LAG / power)
    return Family(
        "a lag below base^L is a sum of one multiple of each power: its digits",
        (base >= 2,),
        And(0 <= LAG, LAG <= far),
        {
            "farthest": Answer(far, (L >= 1, n > far)), "contiguous": Answer(far, (L >= 1, n > far + 1)),
            "depth": Answer(Max(1, CeilLog(base, n)), (n >= 1,), "the least L >= 1 with base^L >= n"),
        },
        between=((TRUE, I - power * digit, ZERO),),
        attained=((TRUE, far, ZERO, ZERO),),
        connected=(Connected(TRUE, far, missing=((TRUE, far + 1, ZERO),)),),
        cuts=(
            ("longer", (last <= base - 1,), power * (base - 1 - last) >= 0),
            ("longer", (last >= 0,), power * last >= 0),
            ("between", (), Or(digit <= base - 1, power * digit >= power * base)),
            ("between", (), Or(digit >= 0, power * digit <= -power)),
        ),
    )  # fmt: skip


def window_and_some_skips(k: sympy.Expr, p: sympy.Expr, skips: sympy.Expr) -> Family:
    """Lags 0 .. k in every layer, p > k in some of them: `skips` of the first L. The witness is how many are taken."""
    rest, far = LAG - p * W, k * (L - skips) + p * skips
    more = skips.subs(L, L + 1)
    return Family(
        "L layers, g of them with the skip, reach p*s + (0..k*(L-s)) for s = 0..g",
        (k >= 1, p > k),
        And(0 <= W, W <= skips, 0 <= rest, rest <= k * (L - W)),
        {"farthest": Answer(far, (L >= 1, n > far))},
        first=((LAG <= k, ZERO), (LAG > k, ONE)),
        longer=((LAST <= k, W), (LAST > k, W + 1)),
        between=((W <= skips, I - Min(rest, k), W), (And(W > skips, W <= more), I - p, W - 1)),
        attained=((TRUE, far, ZERO, skips),),
        cuts=(
            ("beyond", (W <= skips,), (p - k) * (skips - W) >= 0),
            ("between", (W >= 0,), p * W >= W),
            *((name, (), And(0 <= skips, skips <= L)) for name in ("beyond", "attained", "between", "longer")),
        ),
    )
