"""How far attention sees through a number of layers, exactly and for every number of tokens: ways to a formula.

`S_L` is the set of pairs `(i, j)` for which j at the input reaches i through exactly L layers; `S_0` is the diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pidsl.analysis.bound import ANY, Bound, exact
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.layers.lag_formulas import lags_formula, pairs_formula
from pidsl.analysis.layers.long_lags import guessed
from pidsl.analysis.layers.short import lag_formula
from pidsl.analysis.layers.stacks import Stack, attempt, connected, lag_sums, stack
from pidsl.analysis.ways import Asked, NotMine
from pidsl.errors import TooHardError


def by_sums(asked: Asked) -> Bound:
    """Layers that only look back, by the lag alone: sums of lags."""
    return _made(asked, "lag sums", _of_sums(asked.question.quantity, _layers(asked)))


def by_composition(asked: Asked) -> Bound:
    """isl composes the layers."""
    return _made(asked, "layers", pairs_formula(asked.question.quantity, connected(_layers(asked))))


def by_short_sequences(asked: Asked) -> Bound:
    """Dense masks of short sequences, where these decide about long ones."""
    return _made(asked, "short sequences", lag_formula(asked.question.quantity, _layers(asked)))


def by_guess(asked: Asked) -> Bound:
    """What few tokens suggest; to be confirmed."""
    return _made(asked, "layers", guessed(asked.question.quantity, _layers(asked)))


def formula_of(quantity: str, layers: Stack) -> Formula:
    """Farthest or contiguous of given layers, for n >= 1.

    Raises:
        TooHardError: it is not known for every n.
    """
    ways: tuple[Callable[[], Formula], ...] = (
        partial(_of_sums, quantity, layers), lambda: pairs_formula(quantity, connected(layers)),
        partial(lag_formula, quantity, layers),
    )  # fmt: skip
    found: Formula | TooHardError | None = None
    for way in ways:
        try:
            found = attempt(way)
        except NotMine:
            continue
        if isinstance(found, Formula):
            return found
    raise found if isinstance(found, TooHardError) else TooHardError(f"{quantity} of {len(layers)} layers", "a formula")


def _of_sums(quantity: str, layers: Stack) -> Formula:
    if (lags := lag_sums(layers)) is None:
        raise NotMine
    return lags_formula(quantity, lags)


def _layers(asked: Asked) -> Stack:
    if asked.question.layers == ANY:
        raise NotMine
    return stack(asked.subject, asked.question.layers)


def _made(asked: Asked, rule: str, found: Formula) -> Bound:
    q = asked.question
    note = "for shorter n the formula has many cases" if found.least > 1 else ""
    given = {"layers": q.layers}
    return exact(q.subject, q.quantity, found.expr, rule, given=given, assumptions=found.assumptions, reason=note)
