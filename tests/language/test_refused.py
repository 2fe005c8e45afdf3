"""What the language refuses: parameters of other meanings, wrong operators and sizes. Every hint is carried out."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy
import torch

import pidsl
from pidsl import causal, empty, full, keys, lags, parse, stride, symbols, where, window
from pidsl.errors import ParseError, PidslError, PredicateError, SizeError, TermError
from pidsl.language.terms import Term

k, period = symbols("k period")
a, b = window(3), stride(4)


def flex(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def flex_heads(batch: Any, head: Any, q_idx: Any, kv_idx: Any) -> Any:
    return (q_idx >= kv_idx) & (q_idx - kv_idx <= head)


# --- the parameters of a predicate

PARAMETERS: list[tuple[Callable[..., Any], str]] = [
    (flex, "flex(0, 0, i, j)"),
    (flex_heads, "flex_heads(0, h, i, j)"),
    (lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, "mask_mod(0, 0, i, j)"),
    (lambda b, h, i, j: i >= j, "mask_mod(0, 0, i, j)"),
    (lambda h, q, kv: q >= kv, "mask_mod(0, i, j)"),
    (lambda q, k, n, m: q >= k, "mask_mod(i, j, n, m)"),
    (lambda i, j, m, n: j >= m - 2, "mask_mod(i, j, n, m)"),
    (lambda j, i, n, m: j >= i, "mask_mod(i, j, n, m)"),
    (lambda score, b, h, q_idx, kv_idx: score, "pidsl.score("),
    (lambda i: i < 3, "where(lambda i, j"),
    (lambda: True, "where(lambda i, j"),
    (lambda i, j, k: i < 3, "where(lambda i, j"),
    (lambda i, j, n, m, k: i < 3, "where(lambda i, j"),
    (lambda *args: True, "where(lambda i, j"),
    (lambda i, *args: True, "where(lambda i, j"),
    (lambda i, j, **more: True, "where(lambda i, j"),
    (lambda *, i, j: True, "where(lambda i, j"),
    (lambda i, *, j: True, "where(lambda i, j"),
    (lambda b, h, q_idx=0, kv_idx=0: q_idx >= kv_idx, "where(lambda i, j"),
    (lambda b, h, q_idx, kv_idx=0: q_idx >= kv_idx, "where(lambda i, j"),
    (lambda b, h: b >= h, "where(lambda i, j"),
    (lambda h, q: q >= h, "where(lambda i, j"),
    (lambda n, m: n >= m, "where(lambda i, j"),
    (lambda j, i: i >= j, "mask_mod(j, i)"),
    (lambda kv_idx, q_idx: q_idx >= kv_idx, "mask_mod(j, i)"),
    (functools.partial(flex, b=0, h=0), "where(lambda i, j"),
    (functools.partial(flex, 0), "mask_mod(0, i, j)"),
    (max, "where(lambda i, j"),
]


@pytest.mark.parametrize(("predicate", "hint"), PARAMETERS)
def test_other_parameters_are_refused(predicate: Callable[..., Any], hint: str) -> None:
    with pytest.raises(PredicateError) as caught:
        where(predicate)
    assert hint in caught.value.hint
    assert caught.value.expected
    if predicate is not max and not isinstance(predicate, functools.partial):
        assert f"{predicate.__code__.co_filename}:{predicate.__code__.co_firstlineno}" in caught.value.where


def test_parameters_that_are_positions() -> None:
    expected = where(lambda i, j: i >= j)
    for predicate in (
        lambda q, c: q >= c,
        lambda q_idx, kv_idx: q_idx >= kv_idx,
        lambda a, b: a >= b,
        lambda x, y: x >= y,
        lambda row, col: row >= col,
        lambda i, j, n, m: i >= j,
        lambda i, j, width=4: i >= j,
        functools.partial(flex, 0, 0),
        operator.ge,
    ):
        assert where(predicate) == expected
    assert where(lambda i, j, n, m: j >= m - 2).mask(2, 4).tolist() == [[False, False, True, True]] * 2


def test_parameters_in_source() -> None:
    for names in ("b, h, q_idx, kv_idx", "b, h", "j, i", "n, m", "i", "i, j, k", "i, j, m, n", "*args", "i, j=3"):
        with pytest.raises(ParseError) as caught:
            parse(f"causal | where(lambda {names}: 3 < 4)")
        assert "(i, j" in caught.value.expected or "query" in caught.value.expected
    assert parse("where(lambda q, c: q - c < 4)") == where(lambda i, j: i - j < 4)


def run(code: str, **names: Any) -> Any:
    """What a piece of a hint makes."""
    scope = {name: getattr(pidsl, name) for name in pidsl.__all__} | {"pidsl": pidsl, "a": a, "b": b, "k": k}
    return eval(code, scope | {"functools": functools, "operator": operator, "torch": torch} | names)


def test_hints_for_parameters() -> None:
    with pytest.raises(PredicateError) as caught:
        where(flex)
    one, _, batch = caught.value.hint.split("; ")
    assert run(one.partition(", if ")[0], flex=flex).equals(causal)
    assert "calls of their own" in batch
    with pytest.raises(PredicateError) as caught:
        where(flex_heads)
    found = run(caught.value.hint.split("; ")[1].partition(", if ")[0], flex_heads=flex_heads)
    assert len(found) == 8
    assert all(term.equals(window(h)) for h, term in enumerate(found))
    for wrong, expected in (
        (lambda j, i: j <= i, causal),
        (lambda q, k, n, m: q >= k, causal),
        (lambda i, j, k: i >= j, window(3) | causal.T),
        (lambda n, m: n >= m, window(3) | causal.T),
    ):
        with pytest.raises(PredicateError) as caught:
            where(wrong)
        code = caught.value.hint.partition(", and ")[0]
        assert run(code, mask_mod=wrong).equals(expected)
    with pytest.raises(PredicateError) as caught:
        where(lambda score, b, h, q, k: score)
    assert run(caught.value.hint.partition(" and ")[0]).softcap == 50.0
    with pytest.raises(PredicateError) as caught:
        where(causal)  # type: ignore[arg-type]
    assert run(caught.value.hint) == causal


def far(i: Any) -> Any:
    return (
        i
        / 2
    )  # fmt: skip


def branching(i: Any, j: Any) -> Any:
    near = i - j < 4
    return near and j > 2


class Callable_:
    def __call__(self, i: Any, j: Any) -> Any:
        return i * j < 3


@pytest.mark.parametrize(
    ("predicate", "line"),
    [
        (branching, branching.__code__.co_firstlineno + 2),
        (lambda i, j: far(i) < j, far.__code__.co_firstlineno + 2),
        (Callable_(), Callable_.__call__.__code__.co_firstlineno + 1),
        (Callable_().__call__, Callable_.__call__.__code__.co_firstlineno + 1),
        (functools.partial(lambda c, i, j: i * c < j, 2.5), None),
        (lambda i, j: np.abs(i - j) < 3, None),
        (lambda i, j: [1, 2][i] < j, None),
        (lambda i, j: torch.tensor([1, 2])[i] < j, None),
        (lambda i, j: j in {0, 4}, None),
        (lambda i, j: i - j, None),
        (lambda i, j: None, None),
        (lambda i, j: i < 1 << 31, None),
        (lambda i, j: i % -2 == j, None),
    ],
)
def test_errors_of_a_predicate_name_file_and_line(predicate: Callable[..., Any], line: int | None) -> None:
    with pytest.raises(PidslError) as caught:
        where(predicate)
    function: Any = getattr(predicate, "func", predicate)
    assert f"{__file__}:{line or function.__code__.co_firstlineno}" in caught.value.where


# --- sizes

SIZES: list[tuple[Callable[[], Any], str, Term | None]] = [
    (lambda: window("k"), 'left=pidsl.symbols("k")', window(k)),  # type: ignore[arg-type]
    (lambda: window(sympy.Symbol("k")), 'left=pidsl.symbols("k")', window(k)),
    (lambda: window(sympy.Symbol("k") + 1), 'left=pidsl.symbols("size")', None),
    (lambda: window("3"), "left=3", window(3)),  # type: ignore[arg-type]
    (lambda: window(3.0), "left=3", window(3)),  # type: ignore[arg-type]
    (lambda: window(np.float32(3)), "left=3", window(3)),
    (lambda: window(torch.tensor(3.0)), "left=3", window(3)),
    (lambda: window(np.True_), "", None),
    (lambda: window(torch.tensor(True)), "", None),
    (lambda: window(np.array([1, 2])), "", None),
    (lambda: window(torch.tensor([1, 2])), "", None),
    (lambda: window(None), "", None),  # type: ignore[arg-type]
    (lambda: window(causal), "", None),  # type: ignore[arg-type]
    (lambda: window(3 + 1j), "", None),  # type: ignore[arg-type]
    (lambda: window(float("nan")), "", None),  # type: ignore[arg-type]
    (lambda: window(float("inf")), "", None),  # type: ignore[arg-type]
    (lambda: causal.dilated("k"), 'step=pidsl.symbols("k")', None),  # type: ignore[arg-type]
    (lambda: keys("i"), 'start=pidsl.symbols("size")', None),  # type: ignore[arg-type]
    (lambda: window(k + np.array([1, 2])), "whole numbers", None),
]


@pytest.mark.parametrize(("wrong", "hint", "meant"), SIZES)
def test_sizes(wrong: Callable[[], Any], hint: str, meant: Term | None) -> None:
    with pytest.raises(TermError) as caught:
        wrong()
    assert hint in caught.value.hint
    assert caught.value.expected
    if meant is not None:
        assert run(f"pidsl.window({caught.value.hint.partition(', ')[0]})") == meant


def test_integers_of_libraries_are_sizes() -> None:
    for three in (np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), sympy.Integer(3)):
        assert window(three) == lags(*range(4)) or window(three) == window(3)
        assert lags(three) == lags(3)
        assert causal.mask(three).shape == (3, 3)
        assert where(lambda i, j, three=three: i - j < three) == where(lambda i, j: i - j < 3)


@pytest.mark.parametrize("values", [[1, 2, 3], (1, 2, 3), range(1, 4), {1, 2, 3}, np.arange(1, 4), torch.arange(1, 4)])
def test_lags_of_a_list(values: Any) -> None:
    for wrong in (lambda: lags(values), lambda: lags(0, values)):
        with pytest.raises(TermError) as caught:
            wrong()
        assert run(caught.value.hint.partition(", ")[0], values=values) == lags(1, 2, 3)


@pytest.mark.parametrize("length", [np.array([1, 2]), torch.tensor([1, 2]), "3", sympy.Symbol("n"), True, np.True_, -1])
def test_lengths(length: Any) -> None:
    for ask in (
        causal.mask,
        causal.degree,
        causal.sparsity,
        lambda n: causal.mask(3, n),
        lambda n: causal.pairs(3, 3, n),
    ):
        with pytest.raises(SizeError):
            ask(length)


# --- operators

OPERATORS: list[tuple[Callable[[], Any], str, Any]] = [
    (lambda: a + b, "a | b", a | b),
    (lambda: sum([a, b]), "functools.reduce(operator.or_, patterns)", a | b),
    (lambda: 1 + a, "a | b", None),
    (lambda: np.eye(3) + a, "a | b", None),
    (lambda: torch.eye(3) + a, "a | b", None),
    (lambda: a * b, "a & b", a & b),
    (lambda: a * 2, "a ** layers", a**2),
    (lambda: 2 * a, "a ** layers", a**2),
    (lambda: a / b, "a - b", a - b),
    (lambda: 1 / a, "a | b", None),
    (lambda: a // 2, "a.blocked(size)", a.blocked(2)),
    (lambda: 2 // a, "a | b", None),
    (lambda: a % 2, "a.dilated(step)", a.dilated(2)),
    (lambda: 2 % a, "a | b", None),
    (lambda: divmod(a, 2), "a | b", None),
    (lambda: 2**a, "a | b", None),
    (lambda: a >> 2, "a.shift(by)", a.shift(2)),
    (lambda: a << 2, "a.shift(-by)", a.shift(-2)),
    (lambda: 2 >> a, "a | b", None),
    (lambda: 2 << a, "a | b", None),
    (lambda: -a, "~a", ~a),
    (lambda: +a, "a | b", None),
    (lambda: abs(a), "a.pairs(n)", a.pairs(9)),
    (lambda: len(a), "a.pairs(n)", a.pairs(9)),
    (lambda: a < b, "a <= b and not a.equals(b)", False),
    (lambda: a > b, "b <= a and not a.equals(b)", False),
    (lambda: a[0], "a.mask(n)[i, j]", True),
    (lambda: a[0, 1], "a.mask(n)[i, j]", True),
    (lambda: a[:4], "a.mask(n)[i, j]", True),
    (lambda: list(a), "", None),
    (lambda: [x for x in a], ".mask(n)[i, j]", None),  # noqa: C416
    (lambda: b in a, "a.mask(n)[i, j]", True),
    (lambda: causal(), "causal", causal),
    (lambda: full(), "full", full),
    (lambda: empty(), "empty", empty),
    (lambda: causal(1, x=2), "causal", causal),
    (lambda: a | True, "full", full),
    (lambda: False & a, "empty", empty),
    (lambda: a - 1, "lags(1)", lags(1)),
    (lambda: a | k, "lags(k)", lags(k)),
    (lambda: a | "causal", "pidsl.pairs", None),
    (lambda: a | None, "pidsl.pairs", None),
    (lambda: a | [(0, 1)], "pidsl.pairs", None),
    (lambda: a | (lambda i, j: i < j), "pidsl.pairs", None),
    (lambda: torch.eye(3) | a, "pidsl.pairs", None),
    (lambda: a**b, "", None),
    (lambda: heads_of(a), "", None),
]


def heads_of(term: Any) -> Any:
    return pidsl.heads(term)


@pytest.mark.parametrize(("wrong", "code", "meant"), OPERATORS)
def test_operators(wrong: Callable[[], Any], code: str, meant: Any) -> None:
    with pytest.raises(TermError) as caught:
        wrong()
    assert code in caught.value.hint
    assert caught.value.expected
    if meant is not None:
        values = {"patterns": [a, b], "layers": 2, "size": 2, "step": 2, "by": 2, "n": 9, "i": 4, "j": 2}
        assert run(code, **values) == meant


def test_a_pattern_is_not_called() -> None:
    for wrong in (lambda: window(3)(1, 2), lambda: causal.T(), lambda: (a | b)(q=1)):
        with pytest.raises(TermError) as caught:
            wrong()
        assert isinstance(run(caught.value.hint.partition(" is ")[0]), pidsl.Kernel)


def test_an_open_size_has_no_order() -> None:
    for wrong, text in ((lambda: k < 3, "k < 3"), (lambda: k >= period, "k >= period"), (lambda: 3 < k, "k > 3")):
        with pytest.raises(TermError) as caught:
            wrong()
        assert f'assume="{text}"' in caught.value.hint
    assert where(lambda i, j: k > i) == where(lambda i, j: i < k)
    assert window(k).pairs(assume="k < 3").expr is not None


def test_compiling_a_predicate() -> None:
    for wrong in (lambda i, j: i - j < 4, flex, max):
        with pytest.raises(TermError) as caught:
            pidsl.compile(wrong)  # type: ignore[call-overload]
        code = caught.value.hint.partition(", ")[0]
        assert isinstance(run(code, predicate=lambda i, j: i - j < 4), pidsl.Kernel)
