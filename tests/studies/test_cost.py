"""What attention costs, and patterns side by side: every number against dense masks, every tampered proof refused."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import blocks, causal, empty, full, keys, lags, layers, queries, ring, stride, window
from pidsl.analysis import dense as matrices
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, Certificate, asking, exact, restated
from pidsl.analysis.formulas.words import n
from pidsl.analysis.schedules import BaseSchedule
from pidsl.codegen.choice.targets import Kind
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.nodes import Piece
from pidsl.codegen.plan.walks import Boxes, Lags, Runs
from pidsl.errors import ArgumentError, SizeError, SymbolError, TermError, TooHardError
from pidsl.language.expr import evaluate, holds
from pidsl.language.terms import Term
from pidsl.relation.oracle import dense_mask
from pidsl.studies.compare import COLUMNS, compare
from pidsl.studies.cost import cost
from pidsl.studies.plan_cost import plan_cost, plan_of
from pidsl.testing import terms

EXAMPLES = settings.default.max_examples
k, p = pidsl.symbols("k p")
PI = window(4) | lags(16)
COMB = window(4) | stride(16) & causal
LIBRARY = [
    *(window(5), window(3, 2), PI, COMB, stride(6) & causal, blocks(4) & causal, keys(0, 2) & causal | window(3)),
    *(ring(2), full, causal, empty, lags(0, 1, 2, 4, 8), queries(1, 9, 2) & causal, stride(7, 3)),
]


def live_in(term: Term, tokens: int, longest: int) -> int:
    """Keys of tokens 0 .. tokens - 1 that a later query attends at some length up to `longest`."""
    later = [dense_mask(term, size)[tokens:, :tokens].any(0) for size in range(tokens + 1, longest + 1)]
    return int(np.logical_or.reduce([np.zeros(tokens, dtype=bool), *later]).sum())


# -- cost --------------------------------------------------------------------------------------------------------------


def test_conventions_by_eye() -> None:
    found = cost(window(1), 3, head_dim=8, dtype="fp16", heads=4, kv_heads=2, batch=5)
    assert int(found.pairs) == 5
    assert int(found.forward_flops) == 4 * 8 * 5 * 4 * 5
    assert int(found.backward_flops) == 10 * 8 * 5 * 4 * 5
    q, kv, lse = 5 * 4 * 3 * 8 * 2, 5 * 2 * 3 * 8 * 2, 5 * 4 * 3 * 4
    assert int(found.forward_read_bytes) == q + 2 * kv
    assert int(found.forward_write_bytes) == int(found.memory_bytes) == q + lse
    assert int(found.backward_read_bytes) == 3 * q + 2 * kv + lse
    assert int(found.backward_write_bytes) == q + 2 * kv
    assert int(found.kv_bytes) == 2 * 8 * 2 * 5 * 2 * 1
    assert "forward_flops" in str(found) and "computed" in str(found)


@pytest.mark.parametrize("dtype", ["fp32", "float32", "torch.float32"])
def test_names_of_dtypes(dtype: str) -> None:
    assert int(cost(window(1), 3, dtype=dtype).memory_bytes) == 3 * (64 * 4 + 4)
    assert int(cost(window(1), 3, dtype="fp64").memory_bytes) == 3 * (64 * 8 + 8)


@pytest.mark.parametrize("term", LIBRARY, ids=repr)
def test_numbers_are_those_of_the_mask(term: Term) -> None:
    formulas = cost(term, heads=2, head_dim=16)
    for tokens in (0, 1, 2, 9, 23):
        pairs = int(dense_mask(term, tokens).sum())
        found = cost(term, tokens, heads=2, head_dim=16)
        assert int(found.pairs) == formulas.pairs(n=tokens) == pairs
        assert int(found.forward_flops) == formulas.forward_flops(n=tokens) == 4 * 16 * 2 * pairs
        assert int(found.backward_flops) == 10 * 16 * 2 * pairs
        live = live_in(term, tokens, tokens + 45)
        assert int(found.kv_bytes) == 2 * 16 * 2 * 2 * live
        if tokens:
            assert formulas.kv_bytes(t=tokens - 1) == int(found.kv_bytes)
        for bound in found.bounds.values():
            assert bound.proof.check(), bound.proof.verdict()
    for bound in formulas.bounds.values():
        assert bound.proof.check(), bound.proof.verdict()
        assert not replace(bound, expr=bound.expr + 1).proof.check()


@settings(max_examples=EXAMPLES // 4)
@given(terms(3), st.integers(0, 24))
def test_random_terms(term: Term, tokens: int) -> None:
    found = cost(term, tokens, head_dim=8)
    if found.pairs.is_known:
        assert int(found.forward_flops) == 32 * int(dense_mask(term, tokens).sum())
        assert not replace(found.forward_flops, expr=found.forward_flops.expr + 32).proof.check()
    if found.kv_bytes.is_known:
        assert int(found.kv_bytes) >= 32 * live_in(term, tokens, tokens + 12)
    assert found.plan is None or found.plan.attended == int(dense_mask(term, tokens).sum())


@pytest.mark.parametrize("term", [window(k), window(k) | lags(p), stride(p) & causal], ids=repr)
def test_symbols(term: Term) -> None:
    found = cost(term, head_dim=2)
    assert found.plan is None and "symbol" in found.plan_reason
    assert "no plan" in str(found)
    numbers = {"k": 3, "p": 5}
    concrete = term.bind(**{name: numbers[name] for name in term.symbols})
    for tokens in (1, 4, 6, 17):
        pairs = int(dense_mask(concrete, tokens).sum())
        assert found.forward_flops(n=tokens, **numbers) == 8 * pairs
        at = cost(term, tokens, head_dim=2)
        assert at.backward_flops(**numbers) == 20 * pairs
        assert at.kv_bytes(**numbers) == 2 * 2 * 2 * live_in(concrete, tokens, tokens + 20)
    assert found.forward_flops.proof.check()
    assert not replace(found.forward_flops, expr=found.forward_flops.expr + n).proof.check()
    assert found.kv_bytes.proof.check()
    assert not replace(found.kv_bytes, expr=2 * found.kv_bytes.expr).proof.check()


def test_upper_bounds_stay_upper_bounds() -> None:
    q = pidsl.symbols("q")
    term = window(k) | stride(p) & causal | lags(q)
    pairs, found = ask.pairs(term), cost(term)
    assert pairs.relation == found.forward_flops.relation == "<="
    assert ask.sparsity(term).relation == ">="
    assert found.forward_flops(n=30, k=3, p=4, q=6) >= 256 * dense_mask(term.bind(k=3, p=4, q=6), 30).sum()


def test_sparsity_from_the_pairs() -> None:
    bound = ask.sparsity(window(k), "n > k")
    assert bound.method == "consequence" and bound.proof.check()
    assert bound(n=10, k=2) == 1 - sympy.Rational(27, 100)
    for expr in (bound.expr + 1 / n**2, 2 * bound.expr):
        assert not replace(bound, expr=expr).proof.check()
    assert not replace(bound, assumptions=()).proof.check()  # n = 0
    assert replace(bound, relation="<=").proof.check()


def test_false_statements_are_refused() -> None:
    bound = cost(window(k)).forward_flops
    for wrong in (
        restated(bound, subject=window(2 * k)),
        restated(bound, quantity="backward flops"),
        restated(bound, quantity="anything"),
        restated(bound, form=replace(bound.question.form, head_dim=65)),
        restated(bound, form=None),
        replace(bound, assumptions=(*bound.assumptions, n < 0, n > 0)),
        replace(bound, assumptions=()),
    ):
        assert not wrong.proof.check(), wrong
    sizes = cost(window(2)).memory_bytes
    assert sizes.proof.check()
    for wrong in (restated(sizes, quantity="backward read bytes"), restated(sizes, form=None), replace(sizes, expr=n)):
        assert not wrong.proof.check()
    with_n = cost(window(2), 10).forward_flops
    assert not restated(with_n, n=11).proof.check()


def test_no_layer() -> None:
    for bound in (ask.farthest(window(k), 0), ask.contiguous(window(k), 0)):
        assert bound.method == "no layer" and bound.proof.check()
        assert not replace(bound, expr=sympy.Integer(1)).proof.check()
        assert not restated(bound, layers=1).proof.check()
        assert not restated(bound, quantity="depth").proof.check()


def test_errors() -> None:
    for arguments in (
        dict(n=-1), dict(n=2.5), dict(head_dim=0), dict(heads=0), dict(batch=True), dict(heads=3, kv_heads=2)
    ):  # fmt: skip
        with pytest.raises(SizeError):
            cost(window(1), **arguments)
    with pytest.raises(ArgumentError):
        cost(window(1), dtype="int7")
    with pytest.raises(TermError):
        cost("window(1)")  # type: ignore[arg-type]


# -- the plan ----------------------------------------------------------------------------------------------------------


def boxes_one_by_one(piece: Piece, sweep: Boxes, tokens: int) -> int:
    """Pairs in visited boxes that hold tokens, one box after the other; sizes on an axis multiply."""
    product = 1
    for axis, (length, inner) in enumerate(zip(piece.layout.lengths, piece.layout.strides, strict=True)):
        rows = math.ceil(tokens / inner)
        count = rows if length is None else min(length, rows)
        pairs = 0
        for t in range(math.ceil(count / sweep.own[axis])):
            last = sweep.last[axis]
            end = count - 1 if last is None else min(evaluate(last, {"t": t}), count - 1)
            visited = range(max(0, evaluate(sweep.first[axis], {"t": t})), end + 1, sweep.swept[axis])
            pairs += len(visited) * sweep.swept[axis] * sweep.own[axis]
        product *= pairs
    return product


def computed_one_by_one(term: Term, tokens: int) -> tuple[int, int, int]:
    """Pairs in visited tiles, tile after tile and run after run."""
    totals = [0, 0, 0]
    for piece in plan_of(term, Kind()).pieces:
        env = {"n": tokens, "m": tokens, "offset": 0}
        if isinstance(piece.forward, Lags):
            rows = sum(max(0, evaluate(x.last, env) - evaluate(x.first, env) + 1) for x in piece.forward.lags)
            totals = [x + rows for x in totals]
            continue
        if isinstance(piece.forward, Boxes):
            sweeps = (piece.forward, piece.grad_query, piece.grad_key)
            totals = [x + boxes_one_by_one(piece, sweep, tokens) for x, sweep in zip(totals, sweeps, strict=True)]
            continue
        assert isinstance(piece.forward, Runs)
        layout = piece.layout
        for at, sweep in enumerate((piece.forward, piece.grad_query, piece.grad_key)):
            by_keys = sweep.over == "keys"
            step, size = (layout.query_step, sweep.rows) if by_keys else (layout.key_step, sweep.cols)
            for own in range(min(step, tokens)):
                if by_keys:
                    other = evaluate(layout.key_class_of(own), env)
                    names = {"c": own, "d": other}
                    skip = not layout.linked and own != evaluate(layout.row_class_of(), env)
                else:
                    other = evaluate(layout.row_class_of(own), env)
                    names = {"c": other, "d": own}
                    skip = not layout.linked and own != (layout.key_class or 0)
                if skip:
                    continue
                for t in range(math.ceil(len(range(own, tokens, step)) / size)):
                    here = {**env, **names, "t": t}
                    for run in sweep.runs:
                        if run.guard is None or holds(run.guard, here):
                            visited = range(evaluate(run.first, here), evaluate(run.last, here) + 1, run.step)
                            totals[at] += len(visited) * sweep.rows * sweep.cols
    return totals[0], totals[1], totals[2]


PLANNED = [
    *(window(63), COMB, window(64) | stride(256) & causal, window(9) | lags(40, 80), stride(3, 1) & causal),
    *(
        blocks(64),
        keys(0, 4) & causal | window(30),
        keys(1, None, 5) & causal,
        queries(2, None, 3),
        full,
        empty,
        ring(3),
    ),
]


@pytest.mark.parametrize("term", PLANNED, ids=repr)
def test_the_plan_computes_what_its_loops_visit(term: Term) -> None:
    for tokens in (1, 5, 129, 700):
        found = plan_cost(term, tokens)
        assert found.attended == int(dense_mask(term, tokens).sum())
        assert (found.forward, found.grad_query, found.grad_key) == computed_one_by_one(term, tokens)
        assert min(found.forward, found.grad_query, found.grad_key) >= found.attended


@pytest.mark.parametrize("term", [window(63), blocks(64), window(9) | lags(40, 80)], ids=repr)
def test_as_the_plan_itself_counts(term: Term) -> None:
    plan, found = lower(term), plan_cost(term)
    assert found.n == plan.reference
    assert found.forward == sum(piece.computed for piece in plan.pieces)
    assert found.attended == sum(piece.attended for piece in plan.pieces)


@settings(max_examples=EXAMPLES // 5)
@given(terms(2), st.integers(1, 90))
def test_plans_of_random_terms(term: Term, tokens: int) -> None:
    try:
        found = plan_cost(term, tokens)
    except TooHardError:
        return
    assert (found.forward, found.grad_query, found.grad_key) == computed_one_by_one(term, tokens)
    assert found.forward >= found.attended


def test_neither_torch_nor_triton() -> None:
    code = (
        "import sys, pidsl; from pidsl import window; from pidsl.studies.compare import compare;"
        "from pidsl.studies.design import design;"
        "print(compare([window(3)], n=100)); print(design(100, 2)); assert window(3).cost(100).plan;"
        "assert not {'torch', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# -- compare -----------------------------------------------------------------------------------------------------------


def connected(schedule: list[Term], count: int, tokens: int) -> np.ndarray:
    seen = np.eye(tokens, dtype=bool)
    for layer in range(count):
        seen = matrices.times(dense_mask(schedule[layer % len(schedule)], tokens), seen)
    return seen


def check_reach(row: object, schedule: list[Term], tokens: int, count: int) -> None:
    seen = connected(schedule, count, tokens)
    lag = np.subtract.outer(np.arange(tokens), np.arange(tokens))
    missing = lag[(lag >= 0) & ~seen]
    if row["farthest"] is not None:  # type: ignore[index]
        assert row["farthest"] == max(lag[seen].tolist(), default=-math.inf)  # type: ignore[index]
    if row["contiguous"] is not None:  # type: ignore[index]
        assert row["contiguous"] == (missing.min() - 1 if missing.size else tokens - 1)  # type: ignore[index]
    if row["depth"] is not None:  # type: ignore[index]
        looks_back = all(not np.triu(dense_mask(term, tokens), 1).any() for term in schedule)
        wanted = lag >= 0 if looks_back and all(term <= causal for term in schedule) else lag == lag
        depth = row["depth"]  # type: ignore[index]
        most = 3 * tokens if depth == math.inf else int(depth)
        for layer in range(1, most + 1):
            assert (connected(schedule, layer, tokens) >= wanted).all() == (layer == depth)


@pytest.mark.parametrize("term", LIBRARY, ids=repr)
@pytest.mark.parametrize("tokens", [1, 6, 20])
def test_columns_are_those_of_the_mask(term: Term, tokens: int) -> None:
    row = compare([term], tokens, layers=3).rows[0]
    mask = dense_mask(term, tokens)
    assert not row.reasons and all(row[column] is not None for column in COLUMNS)
    assert row["pairs"] == mask.sum()
    assert row["sparsity"] == 1 - sympy.Rational(int(mask.sum()), tokens**2)
    assert row["degree"] == mask.sum(1).max() or term == empty
    assert row["live"] == live_in(term, tokens, tokens + 45)
    check_reach(row, [term], tokens, 3)


@settings(max_examples=EXAMPLES // 5)
@given(terms(2), st.integers(1, 14), st.integers(1, 4))
def test_rows_of_random_terms(term: Term, tokens: int, count: int) -> None:
    row = compare([term], tokens, layers=count).rows[0]
    mask = dense_mask(term, tokens)
    assert row["pairs"] == mask.sum()
    assert row["degree"] == mask.sum(1).max()
    assert row["farthest"] is not None and row["contiguous"] is not None
    check_reach(row, [term], tokens, count)


def test_schedules() -> None:
    base = BaseSchedule(3)
    schedule = layers(base.terms(3))
    found = compare({"named": schedule, "base": base}, 27, layers=3)
    for row in found:
        assert row["depth"] == 3 and row["farthest"] == row["contiguous"] == 26 and row["degree"] == 3
        assert row["pairs"] == sum(sympy.Integer(int(dense_mask(t, 27).sum())) for t in base.terms(3)) / 3
    check_reach(compare([schedule], 27, layers=2).rows[0], list(base.terms(3)), 27, 2)
    assert "means over its layers" in str(found)
    assert compare([BaseSchedule(2)], 9, layers=40).rows[0]["contiguous"] == 8


def test_tables() -> None:
    found = compare({"a": window(3), "b": COMB}, n=100, layers=2)
    assert len(found) == 2 and found["a"]["pairs"] == window(3).pairs(100)
    assert found["a"].bounds["depth"][0].proof.check()
    with pytest.raises(KeyError):
        found["c"]
    lines = found.to_markdown().splitlines()
    assert lines[2].startswith("| pattern |") and lines[3].count("---") == len(COLUMNS) + 1
    assert [line.split()[0] for line in str(found).splitlines()[1:]] == ["pattern", "a", "b"]
    unknown = compare([layers(BaseSchedule(4).terms(5))], n=2**20, layers=5)
    if unknown.rows[0]["depth"] is None:
        assert "? [1]" in str(unknown) and "[1] " in str(unknown).splitlines()[-2]
    assert "\\|" in compare([PI], 10).to_markdown()


def test_long_sequences() -> None:
    patterns = [window(64), window(64) | lags(512), window(64) | stride(256) & causal, blocks(64) & causal, causal]
    patterns += [window(1024) | stride(1024) & causal, keys(0, 4) & causal | window(64), ring(3), stride(16) & causal]
    found = compare(patterns, n=2**30, layers=12)
    assert all(row[column] is not None for row in found for column in COLUMNS)


def test_compare_errors() -> None:
    for arguments in (dict(n=0), dict(n=1.5), dict(n=3, layers=0), dict(n=3, head_dim=0), dict(n=True)):
        with pytest.raises(SizeError):
            compare([window(1)], **arguments)
    with pytest.raises(SymbolError):
        compare([window(k)], 5)
    with pytest.raises(SymbolError):
        compare([BaseSchedule(k)], 5)
    for nothing in ([], ["window(1)"]):
        with pytest.raises(TermError):
            compare(nothing, 5)  # type: ignore[arg-type]


def test_bounds_without_a_rule() -> None:
    assert not exact(window(1), "speed", 3, "consequence").proof.check()
    assert not Bound(asking((window(1),), "pairs"), "==", n, (), Certificate("consequence")).proof.check()
