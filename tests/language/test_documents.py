"""`documents`: where the word may stand, what it means, and what is proved of it.

# follows the hints of pidsl/language/operators.py: _free
# follows the hints of pidsl/language/terms.py: misplaced, require_free
# follows the hints of pidsl/language/goes_with.py: check_documents
# follows the hints of pidsl/relation/oracle.py: document_mask, _any_documents
# follows the hints of pidsl/relation/queries.py: _apart
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import (
    PidslError,
    SizeError,
    Term,
    TermError,
    blocks,
    causal,
    confined,
    documents,
    full,
    gate,
    heads,
    keys,
    lags,
    layers,
    no_leak,
    parse,
    ring,
    spans,
    stride,
    summaries,
    symbols,
    where,
    window,
)
from pidsl.analysis.bound import restated
from pidsl.language.terms import Transpose, Union
from pidsl.relation.documents import crossing
from pidsl.studies.graph import attention_graph
from pidsl.testing import terms

PACKED = window(3) & documents
k, period = symbols("k period")


@st.composite
def cuts(draw: st.DrawFn, most: int = 24) -> list[int]:
    """The document of each token: runs of any ids, each once; negative ones are padding."""
    lengths = draw(st.lists(st.integers(1, 9), max_size=5))
    names = draw(st.permutations(range(-2, len(lengths))))
    return [name for name, length in zip(names, lengths, strict=False) for _ in range(length)][:most]


def block_by_block(pattern: Term, ids: list[int]) -> Any:
    """The definition: the mask of the pattern at each document's length, on the diagonal."""
    out = np.zeros((len(ids), len(ids)), dtype=bool)
    for one in (x for x in set(ids) if x >= 0):  # negative ones are padding
        at = [t for t, own in enumerate(ids) if own == one]
        out[at[0] : at[-1] + 1, at[0] : at[-1] + 1] = pattern.mask(len(at))
    return out


# --- meaning


@given(terms(3, ring=True, grid=True), cuts())
def test_a_mask_is_that_of_each_document(pattern: Term, ids: list[int]) -> None:
    expected = block_by_block(pattern, ids)
    for term in (pattern & documents, documents & pattern, pattern & documents & full):
        assert (term.mask(len(ids), documents=np.array(ids, dtype=np.int32)) == expected).all()
    assert ((pattern & documents).T.mask(len(ids), documents=ids) == block_by_block(pattern.T, ids)).all()


@given(terms(3), cuts())
def test_without_documents_it_is_a_superset(pattern: Term, ids: list[int]) -> None:
    term = pattern & documents
    assert not (term.mask(len(ids), documents=ids) & ~term.mask(len(ids))).any()


@settings(deadline=None)
@given(terms(2), st.integers(0, 7), st.integers(0, 7))
def test_the_relation_is_the_union_over_all_documents(pattern: Term, n: int, m: int) -> None:
    term = pattern & documents
    try:
        relation = term.relation()
    except pidsl.TooHardError:
        return
    at = relation.intersect_params(_lengths(n, m)).wrap()
    pairs: list[tuple[int, int]] = []
    at.flatten().foreach_point(lambda p: pairs.append((_coordinate(p, 0), _coordinate(p, 1))))
    found = set(pairs)
    assert found == set(zip(*map(list, np.nonzero(term.mask(n, m))), strict=True))
    if n == m:
        union = np.zeros((n, n), dtype=bool)
        for start in range(n):
            for stop in range(start + 1, n + 1):
                union[start:stop, start:stop] |= pattern.mask(stop - start)
        assert (term.mask(n) == union).all()


def _lengths(n: int, m: int) -> Any:
    from pidsl.relation.isl import read_set

    return read_set(f"[n, m] -> {{ : n = {n} and m = {m} }}")


def _coordinate(point: Any, axis: int) -> int:
    import islpy as isl

    return int(point.get_coordinate_val(isl.dim_type.set, axis).to_python())


def test_by_eye() -> None:
    sinks = (window(1) | keys(0, 1) & causal) & documents
    found = sinks.mask(6, documents=[7, 7, 7, 7, 3, 3])
    assert found.astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]
    assert (documents.mask(3, documents=[0, 1, 1]) == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]).all()
    assert sinks.mask(0, documents=[]).shape == (0, 0)
    assert (PACKED.mask(9, 7, 2) == window(3).mask(9, 7, 2)).all()
    assert ring(1).mask(3).all() and ((ring(1) & documents).mask(5, documents=[0, 0, 0, 1, 1]).sum() == 13)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([0, 1, 0], "document 0 from token 0 and again from token 2"),
        ([0, 1], "documents of shape [2]"),
        ([0.0, 1.0, 1.0], "dtype float64"),
        ([[0, 1, 1]], "documents of shape [1, 3]"),
    ],
)
def test_documents_that_are_none(ids: Any, says: str) -> None:
    with pytest.raises(SizeError) as caught:
        PACKED.mask(3, documents=ids)
    assert caught.value.given.startswith(says) or says in caught.value.given


def test_documents_of_a_part_of_the_tokens() -> None:
    for lengths in ((3, 4), (3, None, 1), (3, 3, 0, 2)):
        with pytest.raises(SizeError, match="as many keys as queries, both from position 0 on"):
            PACKED.mask(*lengths, documents=[0, 0, 1])


# --- where it may stand

INSIDE: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "(a | b) & documents": (lambda: PACKED | causal, lambda: (window(3) | causal) & documents),
    "(a - b) & documents": (lambda: causal - documents, lambda: (causal - window(3)) & documents),
    "(a ^ b) & documents": (lambda: causal ^ PACKED, lambda: (causal ^ window(3)) & documents),
    "(a @ b) & documents": (lambda: PACKED @ PACKED, lambda: (window(3) @ window(3)) & documents),
    "~a & documents": (lambda: ~PACKED, lambda: ~window(3) & documents),
    "a ** layers & documents": (lambda: PACKED**2, lambda: window(3) ** 2 & documents),
    "a.shift(size) & documents": (lambda: PACKED.shift(1), lambda: window(3).shift(1) & documents),
    "a.blocked(size) & documents": (lambda: documents.blocked(2), lambda: window(3).blocked(2) & documents),
    "a.dilated(size) & documents": (lambda: PACKED.dilated(2), lambda: window(3).dilated(2) & documents),
}


@pytest.mark.parametrize("hint", list(INSIDE))
def test_it_confines_a_whole_pattern(hint: str) -> None:
    wrong, right = INSIDE[hint]
    with pytest.raises(TermError) as caught:
        wrong()
    assert caught.value.hint == hint and caught.value.where == "documents"
    term = right()
    assert confined(term)[1]
    assert (term.mask(5, documents=[0, 0, 1, 1, 1]) == block_by_block(confined(term)[0], [0, 0, 1, 1, 1])).all()


def test_in_text_as_well() -> None:
    with pytest.raises(TermError, match=r"inside of `\|`"):
        parse("causal | documents & window(3)")
    assert parse("documents & window(k) & causal").bind(k=3) == documents & window(3) & causal


def test_built_by_hand_it_has_no_meaning() -> None:
    for ask in (lambda x: x.mask(3), lambda x: x.relation()):
        with pytest.raises(TermError) as caught:
            ask(Union(causal, documents))
        assert caught.value.hint == "(a | b) & documents"


@given(terms(3, symbols=("k",)), terms(2))
def test_it_is_a_term_like_others(a: Term, b: Term) -> None:
    for term in (a & documents, documents & a, a & documents & b, documents):
        assert parse(repr(term)) == term and hash(parse(repr(term))) == hash(term)
        assert pickle.loads(pickle.dumps(term)) == copy.deepcopy(term) == term
        pattern, has = confined(term)
        assert has and not confined(pattern)[1]
        assert confined(term.T)[1] and parse(repr(term.T)) == term.T
        if not term.symbols:
            assert (term.T.mask(6) == term.mask(6).T).all()


def test_confined() -> None:
    assert confined(PACKED) == (window(3), True)
    assert confined(documents) == (full, True)
    assert confined(window(3)) == (window(3), False)
    assert confined(documents & causal & documents) == (causal, True)
    assert documents.T == documents and PACKED.T == window(3).T & documents
    assert causal.T == Transpose(causal)
    assert (window(k) & documents).bind(k=3) == PACKED


PAST = where(lambda i, j: j < i // 4)
MADE: list[tuple[Callable[[Term, Term], Any], Term, Term]] = [
    (lambda a, b: gate(local=a, skip=b), causal, stride(3)),
    (lambda a, b: heads([(2, a), (1, b)]), causal, stride(3)),
    (lambda a, b: layers([a, b]), causal, stride(3)),
    (lambda a, b: layers([heads([(2, a), (1, full & a)]), b]), causal, stride(3)),
    (lambda a, b: summaries(a, [spans(4, b)]), blocks(4) & causal, PAST),
]


@pytest.mark.parametrize(("make", "a", "b"), MADE)
def test_all_parts_or_none(make: Callable[[Term, Term], Any], a: Term, b: Term) -> None:
    packed = make(a & documents, b & documents)
    free = make(a, b)
    assert parse(repr(packed)) == packed and confined(packed) == (confined(make(a, b))[0], True)
    assert confined(free) == (free, False)
    for mixed in ((a & documents, b), (a, b & documents)):
        with pytest.raises(TermError) as caught:
            make(*mixed)
        assert caught.value.hint == "a & documents"
        assert "is not confined to documents" in caught.value.given


def test_heads_and_summaries_of_documents() -> None:
    ids = [0, 0, 0, 1, 1]
    both = heads([(1, PACKED), (2, causal & documents)])
    found = both.mask(5, documents=ids)
    assert (found[0] == block_by_block(window(3), ids)).all() and (found[2] == block_by_block(causal, ids)).all()
    assert both.union == (window(3) | causal) & documents
    exact = summaries(blocks(4) & causal & documents, [spans(4, PAST & documents)])
    plain = summaries(blocks(4) & causal, [spans(4, PAST)])
    assert exact.covers(causal & documents) and not exact.covers(causal)
    assert (exact.times(9) == plain.times(9)).all() and exact.logits(9) == plain.logits(9)


# --- questions


def test_comparisons() -> None:
    assert PACKED.equals(documents & window(3) & causal) and not PACKED.equals(documents)
    assert PACKED <= documents and not documents <= PACKED
    assert PACKED <= causal and not (keys(0, 1) & causal & documents) <= keys(0, 1)
    assert (causal & ~causal & documents).is_empty() and not PACKED.is_empty()
    for ask in (lambda a, b: a.equals(b), lambda a, b: b.equals(a), lambda a, b: b <= a):
        with pytest.raises(TermError) as caught:
            ask(PACKED, causal)
        assert caught.value.hint == "a & documents for the one that is not confined"
    assert PACKED.equals(causal & documents & window(3))


QUESTIONS: list[Callable[[Term], Any]] = [
    lambda term: term.pairs(8),
    lambda term: term.degree(8),
    lambda term: term.sparsity(8),
    lambda term: attention_graph(term, 8),
    lambda term: term.path(5, 3, 1),
    lambda term: term.reachable(2),
    lambda term: term.communication(8, 2),
    lambda term: heads([(2, term)]).pairs(8),
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_numbers_need_the_documents(question: Callable[[Term], Any]) -> None:
    with pytest.raises(TermError) as caught:
        question(PACKED)
    assert caught.value.hint == "term.mask(n, documents=ids), which knows them"
    assert PACKED.mask(8, documents=[0] * 5 + [1] * 3).sum() == window(3).pairs(5) + window(3).pairs(3)


def test_masks_of_long_sequences() -> None:
    sinks = keys(0, 1) & causal & documents
    with pytest.raises(SizeError) as caught:
        sinks.mask(600)
    assert caught.value.hint == "term.mask(n, documents=ids), which knows them"
    assert sinks.mask(600, documents=[0] * 600).sum() == 600
    with pytest.raises(TermError) as wrong:
        (causal | window(3, 3)).mask(4, documents=[0, 0, 1, 1])
    assert parse(wrong.value.hint) == (causal | window(3, 3)) & documents
    assert parse(wrong.value.hint).mask(4, documents=[0, 0, 1, 1]).sum() == 8


BOUNDED = [window(3), stride(4) & causal, window(2) | keys(0, 2) & causal, blocks(4), window(1, 1) @ window(1, 1)]


@pytest.mark.parametrize("pattern", BOUNDED, ids=repr)
def test_formulas_are_bounds(pattern: Term) -> None:
    term = pattern & documents
    ids = np.repeat(np.arange(4), [7, 1, 9, 3])
    mask = term.mask(20, documents=ids)
    degree = term.degree()
    numbers = [(term.pairs(), mask.sum()), (degree.maximum, mask.sum(1).max()), (degree.average, mask.sum() / 20)]
    for bound, actual in numbers:
        assert bound.relation in ("<=", "unknown")
        assert not bound.is_known or (bound(n=20) >= actual and bound.subject == term)
    if degree.of_query.is_known:
        assert all(degree.of_query(n=20, i=i) >= mask[i].sum() for i in range(20))
    assert term.sparsity().relation == ">=" and term.sparsity()(n=20) <= 1 - mask.mean()
    lag = int((np.subtract(*np.nonzero(mask))).max())
    farthest = term.farthest(1)
    assert farthest.relation == "<=" and farthest(n=20) >= lag
    assert term.live().relation in ("<=", "unknown")
    assert not term.depth().is_known and not term.contiguous().is_known
    assert "documents are not connected" in term.depth().reason


def test_proofs_of_bounds() -> None:
    term = (window(k) | stride(period) & causal) & documents
    for bound in (term.pairs(), term.live(), PACKED.farthest(3), PACKED.pairs(), PACKED.degree().maximum):
        assert bound.relation == "<=" and bound.proof.check(), str(bound)
        for wrong in (
            restated(bound, relation="=="),
            restated(bound, relation=">="),
            restated(bound, expr=bound.expr - 1),
        ):
            assert not wrong.proof.check()
    assert not restated(window(3).depth(), subject=PACKED).proof.check()
    cost = PACKED.cost(64)
    assert cost.forward_flops.relation == cost.kv_bytes.relation == "<=" and cost.plan is None
    assert cost.forward_flops.proof.check() and cost.kv_bytes.proof.check() and cost.memory_bytes.proof.check()
    assert layers([PACKED, causal & documents]).farthest().relation == "<="


# --- no pair crosses


@settings(deadline=None)
@given(terms(2, ring=True))
def test_no_pair_crosses(pattern: Term) -> None:
    bound = no_leak(pattern & documents)
    assert bound.is_exact and bound.expr == 0
    assert bound.proof.check()


def test_the_theorem() -> None:
    assert no_leak(window(k) & documents).proof.check()
    assert not no_leak(window(3)).is_known and not no_leak(window(k)).is_known
    assert no_leak(lags(0)).proof.check()
    bound = no_leak(PACKED)
    for wrong in (
        restated(bound, subject=window(3)),
        restated(bound, expr=sympy.Integer(1)),
        restated(bound, relation=">="),
    ):
        assert not wrong.proof.check()
    assert not crossing(window(3)).is_empty()
    with pytest.raises(TermError):
        no_leak("window(3)")  # type: ignore[arg-type]


def test_a_claim_without_the_word_is_refuted() -> None:
    claim = pidsl.check_claims("Packing, positions alone")[0]
    found = claim.judgement.counterexample
    assert claim.verdict == "refuted" and found is not None and found.pair == (1, 0) and found.check()
    assert not replace(found, claim=restated(found.claim, subject=window(k) & documents)).check()


def test_errors_are_of_pidsl() -> None:
    with pytest.raises(PidslError, match="without parentheses"):
        documents()  # type: ignore[operator]
