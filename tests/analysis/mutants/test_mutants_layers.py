"""Faults planted in the finders of layers, one at a time: what comes out is true, or refused by its own check."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from importlib import import_module
from typing import Any

import islpy as isl
import numpy as np
import pytest
import sympy
from faults import Fault, Faulty, answered, changed, forget
from sympy import Piecewise

from pidsl import blocks, causal, keys, lags, parse, queries, ring, stride, window
from pidsl.analysis.bound import Bound, Question, asking
from pidsl.analysis.dense import contiguous_in, depth_of, farthest_in, times
from pidsl.analysis.formulas.piecewise import Formula
from pidsl.analysis.formulas.words import L, n
from pidsl.analysis.portfolio import answer
from pidsl.analysis.ways import Asked
from pidsl.language.terms import Term
from pidsl.relation.isl import read_map, read_set
from pidsl.relation.oracle import dense_mask

ROOM = "pidsl.analysis.layers."
PI, BOTH, COMB = window(4) | lags(16), lags(-2, -5, -6, 6), window(4) | stride(16) & causal
MIXED = stride(8, 3) ^ ring(2) ** 2 ^ stride(6)
FAR, NEAR, DEEP, ALL = (
    ("farthest", {"layers": "L"}), ("contiguous", {"layers": "L"}),
    ("depth", {"of": "causal"}), ("depth", {"of": "all"}),
)  # fmt: skip
GROWING, SOON = (window(2), window(2) | lags(7), window(2) | lags(14)), ("depth", {"of": "causal", "n": 90})
FAR2, NEAR2 = ("farthest", {"layers": 2}), ("contiguous", {"layers": 2})


def fault(
    what: str, where: str, faulty: Faulty, way: str, term: Term | tuple[Term, ...], question: tuple[str, dict[str, Any]]
) -> Fault:
    """A faulty version of something in a finder's module, and the question that shows it.

    Args:
        what: the fault, in words.
        where: "module.attribute" below the room.
        faulty: makes it from what is there.
        way: "module:function" that is asked.
        term: the pattern.
        question: the quantity and its arguments.
    """
    module, *path, name = where.split(".")
    owner = reduce(getattr, path, import_module(ROOM + module))
    return Fault(owner, name, faulty, ((way, asking(term, question[0], **question[1])),), what)


def formula(change: Callable[[sympy.Expr], sympy.Expr]) -> Faulty:
    return changed(lambda f: Formula(change(f.expr), f.least))


def value(number: object) -> Faulty:
    return lambda _: number


def wider(pairs: isl.Map) -> isl.Map:
    """A relation, and the pairs one token farther back."""
    return pairs | pairs.apply_range(read_map("[n] -> { [j] -> [j - 1] : 0 < j < n }"))


FAULTS = [
    # sums of lags
    *(
        fault(f"conductor {by:+}", "by_lags.conductor", changed(lambda x, by=by: (x[0], x[1] + by)), *asked)
        for by in (-1, 1)
        for asked in (("by_lags:reach", PI, NEAR), ("by_lags:depth", PI, DEEP), ("by_lags:depth", BOTH, ALL),
                      ("by_lags:reach", PI, FAR), ("by_lags:reach", lags(0, 2, 3), FAR))
    ),
    fault("low part lost", "by_lags.conductor", changed(lambda x: ((), x[1])), "by_lags:reach", lags(0, 2, 3), FAR),
    fault("high part cut", "by_lags.conductor", changed(lambda x: (x[0][:-1], x[1])), "by_lags:reach", PI, FAR),
    *(
        fault("regular one layer early", "by_lags.all_sums",
              changed(lambda x: (replace(x[0], layers=x[0].layers - 1), x[1][:-1])), *asked)
        for asked in (("by_lags:depth", BOTH, ALL), ("by_lags:reach", lags(3, 5, 6), FAR))
    ),
    fault("early sums lost", "by_lags.all_sums", changed(lambda x: (x[0], [((0, 0),)] * len(x[1]))),
          "by_lags:depth", lags(9, 10, -4, -3, -2), ALL),
    *(
        fault("lags of a layer " + what, "by_lags._below", faulty, "by_lags:depth_of_schedule", GROWING, SOON)
        for what, faulty in (
            ("lost", changed(lambda x: x[:1])), ("spread", changed(lambda x: ((0, x[0][1] + 3), *x[1:]))),
        )
    ),
    fault("a bit too far", "by_lags.plus", lambda real: lambda bits, parts: real(bits, [(a, b + 9) for a, b in parts]),
          "by_lags:depth_of_schedule", GROWING, SOON),
    fault("staircase a step short", "by_lags._heights", changed(lambda x: x[:-1]), "by_lags:reach", PI, NEAR),
    fault("a step too high", "by_lags._heights", changed(lambda x: (*x[:-1], x[-1] + 1)), "by_lags:reach", PI, NEAR),
    fault("a step too low", "by_lags._heights", changed(lambda x: (*x[:-1], x[-1] - 1)), "by_lags:depth", PI, DEEP),
    fault("everything too early", "by_lags._until_everything", changed(lambda x: x[:-1]), "by_lags:reach", COMB, NEAR),
    fault("everything too late", "by_lags._until_everything", changed(lambda x: (*x, x[-1])),
          "by_lags:depth", COMB, DEEP),
    fault("a period off by one", "by_lags.periodic", changed(lambda x: (x[0], x[1] + 1)), "by_lags:depth", COMB, DEEP),
    fault("a period halved", "by_lags.periodic", changed(lambda x: (x[0], x[1] // 2)), "by_lags:depth", COMB, DEEP),
    fault("repeating too early", "by_lags.periodic", changed(lambda x: (0, x[1])), "by_lags:depth",
          COMB | lags(18), DEEP),
    fault("a lag lost", "by_lags.lag_sums", changed(lambda x: x[:-1]), "by_lags:reach", PI, FAR2),
    fault("lags spread", "by_lags.lag_sums", changed(lambda x: ((0, x[0][1] + 1), *x[1:])), "by_lags:reach", PI, NEAR2),
    fault("a lag lost", "by_lags.finite_lags", changed(lambda x: x and x[:-1]), "by_lags:reach", PI, FAR),
    fault("a lag lost", "by_lags.finite_lags", changed(lambda x: x and x[1:]), "by_lags:depth", BOTH, ALL),
    fault("a lag lost", "by_lags.causal_lags", changed(lambda x: x & read_set("{ [d] : d < 16 }")),
          "by_lags:reach", PI, NEAR),
    fault("a bit too far", "by_lags.plus", lambda real: lambda bits, parts: real(bits, [(a, b + 1) for a, b in parts]),
          "by_lags:depth", PI, DEEP),
    fault("sums of one lag less", "by_lags.added", lambda _: lambda a, b: a, "by_lags:depth", BOTH, ALL),
    fault("a step misread", "by_lags.normal", changed(lambda x: (x[0], 1, x[2])), "by_lags:depth", lags(-1, 1), ALL),
    fault("a case dropped", "by_lags.chain", formula(lambda e: Piecewise(*e.args[1:])), "by_lags:depth", PI, DEEP),
    fault("a breakpoint moved", "by_lags.chain", formula(lambda e: e.subs(sympy.Ge(n, 10), sympy.Ge(n, 11))),
          "by_lags:depth", PI, DEEP),
    fault("a branch wrong", "by_lags.runs", changed(lambda x: [(e + 1, at) for e, at in x]),
          "by_lags:depth", BOTH, ALL),
    fault("a formula wrong", "by_lags.lags_formula", formula(lambda e: e + 1), "by_lags:reach", PI, FAR2),
    fault("wrong from 100 on", "by_lags.lags_formula", formula(lambda e: Piecewise((e, n < 100), (e + 1, True))),
          "by_lags:reach", PI, NEAR2),
    fault("wrong for L = 9 only", "by_lags.in_n_and_l", changed(lambda e: Piecewise((0, sympy.Eq(L, 9)), (e, True))),
          "by_lags:reach", lags(3, 7), FAR),
    # composed
    fault("a layer more", "by_composition.connected", lambda real: lambda t: real((*t, *t[:1])),
          "by_composition:reach", ring(2), NEAR2),
    fault("pairs too wide", "by_composition.connected", changed(wider), "by_composition:reach", ring(2), NEAR2),
    fault("off by one", "by_composition.pairs_formula", formula(lambda e: e - 1),
          "by_composition:reach", blocks(4), FAR2),
    fault("off by one for one n", "by_composition.pairs_formula", formula(lambda e: Piecewise((3, sympy.Eq(n, 77)),
          (e, True))),
          "by_composition:reach", blocks(4), NEAR2),
    fault("pairs too wide", "by_composition.connected", changed(wider), "by_composition:depth", ring(2), ALL),
    fault("a layer early", "by_composition._constant", lambda real: lambda x: real(max(1, x - 1)),
          "by_composition:depth",
          keys(0, 1) | queries(0, 1), ALL),
    fault("a layer late", "by_composition._constant", lambda real: lambda x: real(x + 1),
          "by_composition:depth", COMB, DEEP),
    fault("form of one layer later", "by_composition.closed_form", changed(lambda x: x and (x[0], x[1] + 1)),
          "by_composition:depth", ring(2), ALL),
    fault("form too wide", "by_composition.closed_form",
          changed(lambda x: x and (x[0] | read_map("[n, L] -> { [i] -> [j] : i - j = 7 and 0 <= j and i < n }"), x[1])),
          "by_composition:depth", ring(2), ALL),
    fault("least L plus one", "by_composition.least_layers", changed(lambda f: f.add_constant_val(isl.Val(1,
          f.get_ctx()))),
          "by_composition:depth", ring(2), ALL),
    fault("an invariant too small", "by_composition.closure", changed(lambda x: x & read_map("{ [i] -> [i] }")),
          "by_composition:depth", blocks(4), ALL),
    fault("anything is out of reach", "by_composition.outside", lambda _: lambda layers, target, closed, cycle: target,
          "by_composition:depth", window(3, 3), ALL),
    fault("all tokens unseen", "by_composition.unseen", lambda _: lambda layers, target: target,
          "by_composition:depth", ring(2), ALL),
    fault("layers come again at once", "by_composition._Depth._again", lambda _: lambda self, past, seen: 1,
          "by_composition:depth", window(3, 3), ALL),
    # forms in L
    fault("any guess is right", "by_forms.is_form", lambda _: lambda *args: True, "by_forms:by_form", PI, FAR),
    fault("form of one layer later", "by_forms.closed_form", changed(lambda x: x and (x[0], x[1] + 1)),
          "by_forms:by_form", ring(2), NEAR),
    fault("form too wide", "by_forms.closed_form",
          changed(lambda x: x and (x[0] | read_map("[n, L] -> { [i] -> [j] : i - j = 7 and 0 <= j and i < n }"), x[1])),
          "by_forms:by_form", ring(2), FAR),
    fault("form too early", "by_forms.closed_form", changed(lambda x: x and (x[0], 0)), "by_forms:by_form",
          keys(0, 4) & causal | window(8), NEAR),
    fault("formula wrong", "by_forms.written", changed(lambda e: e - 1), "by_forms:by_form", ring(2), NEAR),
    fault("formula wrong for one L", "by_forms.written", changed(lambda e: Piecewise((e + 1, sympy.Eq(L, 40)), (e,
          True))),
          "by_forms:by_form", ring(2), FAR),
    fault("the same at once", "by_forms._Layers.same", lambda _: lambda self, k, count: True,
          "by_forms:by_repetition", COMB, FAR),
    fault("repeating one layer early", "by_forms._cycle", changed(lambda x: (x[0], max(0, x[1] - 1), x[2])),
          "by_forms:by_repetition", COMB, NEAR),
    fault("a period off by one", "by_forms._cycle", changed(lambda x: ([*x[0], x[0][-1]], x[1], x[2] + 1)),
          "by_forms:by_repetition", stride(12, 6), FAR),
    fault("all of it, too early", "by_forms._cycle", changed(lambda x: (x[0][:-1], x[1] - 1, 0)),
          "by_forms:by_repetition", COMB, NEAR),
    fault("numbers of layers mixed up", "by_forms.by_number", changed(lambda x: (x[0].subs(L, L + 1), x[1])),
          "by_forms:by_repetition", COMB, NEAR),
    # short sequences
    fault("gaps too small", "by_short._of_pairs", changed(lambda x: replace(x, free=1)),
          "by_short:reach", ring(3), FAR2),
    fault("a period lost", "by_short._of_pairs", changed(lambda x: replace(x, period=1)), "by_short:depth", MIXED, ALL),
    fault("a period halved", "by_short._of_pairs", changed(lambda x: replace(x, period=max(1, x.period // 2))),
          "by_short:reach", stride(6) | window(1), NEAR2),
    fault("a period off by one", "by_short._of_pairs", changed(lambda x: replace(x, period=x.period + 1)),
          "by_short:any_number", blocks(4), FAR),
    fault("a formula off by one", "by_short.fitted", formula(lambda e: e + 1), "by_short:reach", ring(3), FAR2),
    fault("late cases lost", "by_short.fitted", formula(lambda e: Piecewise((e, n < 60), (0, True))),
          "by_short:reach", blocks(3), FAR2),
    fault("few layers compared", "by_short.depth_in", lambda real: lambda m, of: (real(m, of)[0], 1), "by_short:depth",
          keys(0, 1) | queries(0, 1), ALL),
    fault("a layer more", "by_short.depth_in", lambda real: lambda m, of: ((real(m, of)[0] or 0) + 1, real(m, of)[1]),
          "by_short:depth", keys(0, 1) | queries(0, 1), ALL),
    fault("repeating too early", "by_short.until_repeated", changed(lambda x: (x[0][:-1], max(0, x[1] - 1))),
          "by_short:any_number", keys(0, 2) & causal | keys(0, 1), FAR),
    fault("numbers of layers mixed up", "by_short.by_number", changed(lambda x: (x[0].subs(L, L + 1), x[1])),
          "by_short:any_number", blocks(4), FAR),
    # few tokens
    fault("a guess off by one", "by_tokens.guess", formula(lambda e: e + 1),
          "by_tokens:depth", ~stride(10) ^ ring(12), ALL),
    fault("a guess of long sequences", "by_tokens.guess", formula(lambda e: Piecewise((e, n < 70), (e + 1, True))),
          "by_tokens:depth", lags(-2, 9) | stride(4), ALL),
    fault("no token to follow", "by_tokens.candidates", lambda _: lambda *args: iter(()), "by_tokens:depth",
          ~stride(10) ^ ring(12), ALL),
    fault("a guess off by one", "by_tokens.guess", formula(lambda e: e - 1), "by_tokens:reach", ring(3), FAR2),
    fault("never", "by_tokens.guess", formula(lambda _: sympy.oo), "by_tokens:depth", ~stride(10) ^ ring(12), ALL),
    fault("a matrix too early", "by_composition.dense.depth_of", changed(lambda x: x and x - 1),
          "by_composition:by_small_matrices", ring(2), ("depth", {"of": "all", "n": 40})),
]  # fmt: skip


def found_by(asked: tuple[str, Question]) -> list[Bound]:
    module, function = asked[0].split(":")
    return [getattr(import_module(ROOM + module), function)(Asked(asked[1], (), answer))]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    forget("layers")
    yield
    forget("layers")


def is_right(bound: Bound) -> bool:
    """Whether a statement is what masks of up to 50 tokens say, for up to 14 layers."""
    if isinstance(bound.subject, tuple):  # of a number of layers at a number of tokens
        return bool(bound.expr == depth_of(bound.subject, bound.question.n or 1, "causal"))
    for tokens in (*range(1, 24), 31, 40, 50):
        layer, seen = dense_mask(bound.term, tokens), np.eye(tokens, dtype=np.bool_)
        measure = farthest_in if bound.quantity == "farthest" else contiguous_in
        if bound.quantity == "depth":
            known = depth_of((bound.term,), bound.question.n or tokens, bound.question.of or "all")
            if not _says(bound, math.inf if known is None else known, {n: tokens}):
                return False
            continue
        for layers in range(15):
            known = measure(seen)
            if bound.question.layers in ("L", layers) and not _says(
                bound, -math.inf if known is None else known, {n: tokens, L: layers}
            ):
                return False
            seen = times(layer, seen)
    return True


def _says(bound: Bound, known: float, at: dict[sympy.Symbol, int]) -> bool:
    if any(c.subs(at) == sympy.false for c in bound.assumptions):
        return True
    return bool(bound.expr.subs(at) == (known if math.isfinite(known) else sympy.oo * int(math.copysign(1, known))))


@pytest.mark.usefixtures("without_masks")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f} {f.questions[0][1]}")
def test_a_fault_is_refused(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    (question,) = fault.questions
    (real,) = found_by(question)
    assert is_right(real) and real.proof.check(), real.proof.verdict()
    forget("layers")
    fault.plant(monkeypatch)
    for wrong in answered(found_by, question):
        assert wrong != real, "the fault does not show"
        if wrong.proof.check():
            assert is_right(wrong), wrong


def test_the_check_begins_with_masks() -> None:
    bound = parse("window(4) | lags(16)").farthest(3)
    assert "the masks" in replace(bound, expr=bound.expr + 1).proof.verdict().failure
