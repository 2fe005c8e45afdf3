"""Keys that a rank gets from others: bounds for every n and number of ranks against masks, and faults in them."""

from dataclasses import replace

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pidsl import Term, blocks, causal, chosen, documents, full, keys, lags, queries, ring, stride, symbols, window
from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.words import n, symbol
from pidsl.analysis.questions import received
from pidsl.distributed import Shards, plan
from pidsl.errors import ArgumentError, SizeError, SymbolError, TermError
from pidsl.testing import terms

assert settings.default is not None
EXAMPLES = settings.default.max_examples
k, p, s = symbols("k p s")
K, P, S = (symbol(name) for name in "kps")


def of_mask(mask: NDArray[np.bool_]) -> int:
    """The most keys outside of a piece of consecutive tokens that the piece attends."""
    most = 0
    for a in range(len(mask)):
        for b in range(a + 1, len(mask) + 1):
            seen = np.flatnonzero(mask[a:b].any(axis=0))
            most = max(most, int(((seen < a) | (seen >= b)).sum()))
    return most


@settings(max_examples=EXAMPLES // 3)
@given(terms(2, ring=True), st.integers(1, 14))
def test_no_rank_gets_more(term: Term, length: int) -> None:
    bound = received(term)
    if bound.is_known:
        assert bound.relation == "<=" and bound.proof.check()
        assert of_mask(term.mask(length)) <= bound(n=length)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (window(k), sympy.Min(K, n - 1)),
        (window(k, p), sympy.Min(K + P, n - 1)),
        (window(k) | keys(0, s) & causal, sympy.Min(K + S, n - 1)),
        (window(k) | lags(p), sympy.Min(sympy.Max(K, P), n - 1)),
        (window(k).dilated(p), sympy.Min(K * P, n - 1)),
        (blocks(s) & causal, sympy.Min(S - 1, n - 1)),
        (stride(p) & causal, n - 1),
        (window(4095), sympy.Min(4095, n - 1)),
        (full, n - 1),
    ],
    ids=repr,
)
def test_formulas_with_symbols(term: Term, expected: sympy.Expr) -> None:
    bound = term.received()
    assert bound.expr == expected and bound.relation == "<=" and bound.proof.check()
    values = dict(zip(sorted(term.symbols), (2, 5, 3), strict=False))
    for length in (1, 2, 9, 24):
        found = of_mask(term.bind(**values).mask(length)) if values else of_mask(term.mask(length))
        assert found <= bound(n=length, **values)


def test_a_plan_keeps_to_the_bound() -> None:
    for term in (window(511), window(100, 30), window(63) | keys(0, 16) & causal, blocks(128) & causal):
        bound = int(term.received()(n=2**16))
        for ranks in (2, 7, 64, 1000):
            found = plan(term, 2**16, ranks, sharding=Shards(2**16, ranks), head_dim=1, dtype="fp16")
            assert found.forward.most <= bound * 4


def test_bytes_are_rows_of_keys_and_values() -> None:
    bound = window(4095).received(kv_heads=8, head_dim=128)
    assert bound.name.startswith("received bytes") and bound(n=2**20) == 4095 * 8 * 256 * 2 and bound.proof.check()
    wide = window(k).received(kv_heads=2, head_dim=3, value_dim=5, dtype="fp32")
    assert wide(n=100, k=7) == 7 * 2 * (3 + 5) * 4 and wide.proof.check()
    assert Bound.from_json(wide.to_json()).proof.check()


def test_within_documents_and_where_calls_choose_it_is_at_most() -> None:
    assert (window(3) & documents).received()(n=50) == 3
    found = (window(3) | chosen(4, 2)).received()
    assert found.relation == "<=" and found(n=50) == 49 and found.proof.check()


def tampered(bound: Bound) -> list[Bound]:
    """Statements that say more than is known."""
    certificate = bound.certificate
    live = certificate.premises[0]
    smaller = window(1)
    return [
        replace(bound, expr=bound.expr - 1),
        replace(bound, relation="=="),
        replace(bound, relation=">="),
        replace(bound, question=replace(bound.question, subject=full)),
        replace(bound, certificate=replace(certificate, premises=())),
        replace(bound, certificate=replace(certificate, premises=(live, live))),
        replace(bound, certificate=replace(certificate, premises=(smaller.live(), *certificate.premises[1:]))),
        replace(bound, certificate=replace(certificate, premises=(replace(live, expr=live.expr - 1),))),
        replace(bound, certificate=replace(certificate, facts=(("ahead", "k"),), premises=(live,))),
        replace(bound, certificate=replace(certificate, facts=(("ahead", sympy.Integer(0)),), premises=(live,))),
    ]


@pytest.mark.usefixtures("without_masks")
@pytest.mark.parametrize("term", [window(k, p), window(3, 4), window(k, 2) | keys(0, s)], ids=repr)
def test_what_says_more_is_refused(term: Term) -> None:
    bound = term.received()
    assert bound.proof.check()
    for wrong in tampered(bound):
        assert not wrong.proof.check(), wrong


@pytest.mark.parametrize("term", [window(3, 4), window(2), ring(2), queries(0, 2)], ids=repr)
def test_masks_refuse_it_first(term: Term) -> None:
    bound = term.received()
    wrong = replace(bound, expr=sympy.Min(1, n - 1))
    assert "the masks" in wrong.proof.verdict().failure


def test_bad_input_is_told() -> None:
    with pytest.raises(TermError, match="a pattern"):
        received("window(3)")  # type: ignore[arg-type]
    with pytest.raises(SymbolError):
        window(k).received("q > 3")
    with pytest.raises(SizeError, match="kv_heads = 0"):
        window(k).received(kv_heads=0)
    with pytest.raises(ArgumentError, match="int8"):
        window(k).received(dtype="int8")
