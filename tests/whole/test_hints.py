"""Every hint of an error, followed: what provokes it, what it says, and that what it says works.

A hint is known by its place: the function that has it, and its text. `test_every_hint_is_followed` reads the source and
fails for a hint that no case below provokes. A new hint needs a case here; or, where its own test file follows it, this
comment in that file: `# follows the hints of FILE: function, function`.
"""

from __future__ import annotations

import ast
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from itertools import count
from operator import add, or_
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from dense import tensors
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import pidsl
from pidsl import blocks, causal, chosen, full, lags, maximum, parse, stride, where, window
from pidsl.analysis.layers import stacks
from pidsl.codegen.emit_triton.expr import index_source
from pidsl.demo.output import Folder
from pidsl.demo.text import standard_library
from pidsl.errors import PidslError
from pidsl.language.expr import Symbol
from pidsl.nn import PiAttention, SparseAttention, rotate
from pidsl.relation import counting
from pidsl.runtime.call import ragged
from pidsl.runtime.call.keywords import ELSEWHERE
from pidsl.runtime.run_triton import cache
from pidsl.runtime.run_triton.program import TritonProgram
from pidsl.select import MoBA
from pidsl.studies.graph import attention_graph

ROOT = Path(__file__).resolve().parent.parent.parent
Action = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    says: str  # part of the hint, as it is read
    wrong: Action
    right: Action


TERM = window(3)
Q, K, V = tensors(8, 8, heads=4, kv_heads=2)
SLOPES, SCALE = pidsl.alibi_slopes(4), torch.tensor(0.3, requires_grad=True)
WEIGHTS = torch.rand(1, 4, 8, 2)
GATE = pidsl.gate(a=TERM, b=stride(3))
HEADS = pidsl.heads([(2, TERM), (2, causal)])
SPANS = pidsl.summaries(blocks(4) & causal, [pidsl.spans(4, where(lambda i, j: j < i // 4))])
k, p = pidsl.symbols("k p")
kernel = pidsl.compile(TERM, "torch")
compiled: Any = partial(pidsl.compile, backend="torch")
FRESH = count(8)


def hard() -> pidsl.Term:
    """Too hard for isl, and each time another one: failures are remembered."""
    return parse(
        f"(stride(7) | stride(11, 3).blocked(2) | blocks(13) - keys(5, None, 3) ^ keys(-{next(FRESH)}, None, 4)) ** 5"
    )


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, check_dtype=False, rtol=1e-4, atol=1e-5)


def added_in_pairs(parts: list[Any]) -> Any:
    half = len(parts) // 2
    return added_in_pairs(parts[:half]) + added_in_pairs(parts[half:]) if half else parts[0]


def in_a_folder(action: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return action(Path(folder))


def is_mask(term: pidsl.Term, rows: Callable[[Any, Any], Any], n: int = 9) -> None:
    assert (term.mask(n) == np.fromfunction(rows, (n, n), dtype=int)).all()


def patch(target: Any, name: str, value: Any, action: Action) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(target, name, value)
        return action()


def environment(action: Action, **values: str) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in values.items():
            patched.setenv(name, value)
        return action()


def learned_scale() -> None:
    scored = compiled(TERM, score=pidsl.score(scale=1.0, temperature=True))
    out = scored(Q, K, V, temperature=(1 / SCALE).expand(4))
    same(out, kernel(Q, K, V, scale=SCALE.item()))
    assert torch.autograd.grad(out.sum(), SCALE)[0].abs() > 0


def negative_offset() -> None:
    """Rows that stand before the first key: torch's offset of a mask aligned at the end, n > m."""
    for term in (causal, window(3), window(2, 2), stride(3) & causal):
        lag = np.arange(8)[:, None] - 3 - np.arange(5)[None, :]
        within = (term.mask(40)[20] > 0)[20 - np.clip(lag, -20, 20)]  # by lag, from a row far from both ends
        out = compiled(term.shift(3))(Q, K[:, :, :5], V[:, :, :5])
        mask = torch.from_numpy(within)
        grouped = [x[:, :, :5].repeat_interleave(2, 1) for x in (K, V)]
        with sdpa_kernel(SDPBackend.MATH):
            expected = scaled_dot_product_attention(Q, *grouped, attn_mask=mask)
        same(out, torch.where(mask.any(1)[:, None], expected, 0.0))


# --- derivatives: what is refused, and what is named instead, works

DEAD = window(2) - lags(0)  # its first row attends nothing
D_KERNEL, D_SCORED = compiled(DEAD), compiled(DEAD, score=pidsl.score(softcap=2.0))
X, Y, Z = (x.double() for x in tensors(5, 5, d=8, dv=8))


def math_sdpa(q: Tensor) -> Tensor:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return scaled_dot_product_attention(q, Y, Z, attn_mask=torch.tensor(DEAD.mask(5, 5, 0)))


def by_formula(q: Tensor) -> Tensor:
    """docs/reference/score.md, over all pairs."""
    logits = 2.0 * torch.tanh(q @ Y.mT * 8**-0.5 / 2.0)
    mask = torch.tensor(DEAD.mask(5, 5, 0))
    weights = logits.exp() * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30) @ Z


def second_derivative(f: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.autograd.functional.hessian(lambda x: f(x).pow(3).sum(), X)


def forward_mode(f: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
        tangent: Tensor = torch.autograd.forward_ad.unpack_dual(f(dual)).tangent
        return tangent


def plain(f: Any) -> Callable[[Tensor], Tensor]:
    return lambda q: f(q, Y, Z)


def batched(f: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.autograd.functional.jacobian(f, X, vectorize=True)


def dense_derivatives(f: Any, instead: Callable[[Tensor], Tensor]) -> None:
    """What `instead` gives is what the kernel gives, and all the derivatives that the kernel has not."""
    same(instead(X), f(X, Y, Z))
    total = lambda q: instead(q).pow(3).sum()  # noqa: E731
    exact = second_derivative(instead)
    same(torch.func.hessian(total)(X), exact)
    same(torch.func.jacrev(torch.func.grad(total))(X), exact)
    along = torch.ones_like(X)
    same(torch.func.jvp(instead, (X,), (along,))[1], forward_mode(instead))
    same(batched(instead), torch.autograd.functional.jacobian(plain(f), X))
    x = X.clone().requires_grad_()
    same(torch.autograd.grad(f(x, Y, Z).pow(3).sum(), x)[0], torch.func.grad(total)(X))
    both = torch.stack([X, 2 * X])  # vmap: one more factor of the batch
    folded = f(both.flatten(0, 1), *(torch.stack([x, x]).flatten(0, 1) for x in (Y, Z))).unflatten(0, (2, 1))
    same(torch.vmap(instead)(both), folded)


MATH = "sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
FORMULA = "docs/reference/score.md's formula"
DERIVATIVES = [
    Case(text, partial(how, plain(f)), partial(dense_derivatives, f, instead))
    for f, instead, text in ((D_KERNEL, math_sdpa, MATH), (D_SCORED, by_formula, FORMULA))
    for how in (
        second_derivative,
        forward_mode,
        batched,
        lambda f: torch.func.grad(lambda q: f(q).sum())(X),
        lambda f: torch.func.vjp(f, X),
        lambda f: torch.func.jvp(f, (X,), (X,)),
        lambda f: torch.func.jacrev(f)(X),
        lambda f: torch.func.jacfwd(f)(X),
        lambda f: torch.func.hessian(lambda q: f(q).sum())(X),
        lambda f: torch.vmap(f)(torch.stack([X, X])),
    )
]


# --- the table

LANGUAGE = [
    Case("k // 2", lambda: window(k / 2), lambda: window(k // 2).bind(k=8)),
    Case("k * k", lambda: window(k**2), lambda: window(k * k).bind(k=2)),
    Case("whole numbers", lambda: window(k + 1.5), lambda: window(k + 1)),
    Case(
        "gate(local=window(63), skip=stride(256))",
        lambda: pidsl.gate(),
        lambda: pidsl.gate(local=window(63), skip=stride(256)),
    ),
    Case("a | b", lambda: pidsl.gate(x=pidsl.gate(a=TERM)), lambda: compiled(TERM | stride(3))(Q, K, V)),
    Case("pidsl.where", lambda: pidsl.gate(x="window(3)"), lambda: pidsl.gate(x=where(lambda i, j: i == j))),
    Case(
        "q[:, :4]",
        lambda: pidsl.gate(x=pidsl.heads([(4, TERM), (4, causal)])),
        lambda: compiled(pidsl.gate(x=TERM))(*(x[:, :4] for x in (Q, K, V)), WEIGHTS[..., :1]),
    ),
    Case(
        "would not see themselves",
        lambda: pidsl.neighborhood((4, 4), 2, stride=3),
        lambda: pidsl.neighborhood((4, 4), 2, stride=2),
    ),
    Case(
        "build the term from numbers",
        lambda: pidsl.neighborhood((k, 4), 3),
        lambda: (lambda size: pidsl.neighborhood((size, 4), 3))(4),
    ),
    Case(
        "heads([(6, window(63)), (2, causal)])",
        lambda: pidsl.heads([]),
        lambda: pidsl.heads([(6, window(63)), (2, causal)]),
    ),
    Case("(2, window(3))", lambda: pidsl.heads([(TERM, 2)]), lambda: pidsl.heads([(2, TERM)])),
    Case(
        "compile(gate)(q[:, :4], k, v, weights)",
        lambda: pidsl.heads([(4, GATE)]),
        lambda: compiled(GATE)(Q[:, :4], K, V, WEIGHTS),
    ),
    Case(
        "a kernel for each layer: [pidsl.compile(layer) for layer in model]",
        lambda: pidsl.layers([GATE, GATE]),  # type: ignore[list-item]
        lambda: [compiled(layer) for layer in (GATE, GATE)],
    ),
    Case(
        "pidsl.merge([kernel(..., return_lse=True), ...])",
        lambda: pidsl.merge([kernel(Q, K, V)]),  # type: ignore[list-item]
        lambda: pidsl.merge([kernel(Q, K, V, return_lse=True), kernel(Q, K, V, return_lse=True)]),
    ),
    Case("a & b, a | b", lambda: parse("causal and window(3)"), lambda: parse("causal & window(3)")),
    Case("~a", lambda: parse("not causal"), lambda: parse("~causal")),
    Case("causal", lambda: parse("causal()"), lambda: parse("causal")),
    Case("window", lambda: parse("windw(3)"), lambda: parse("window(3)")),
    Case(
        "lambda i, j, n, m:",
        lambda: parse("where(lambda i, j: j < n)"),
        lambda: parse("where(lambda i, j, n, m: j < n)"),
    ),
    Case(
        "(lo <= x) & (x <= hi)",
        lambda: parse("where(lambda i, j: 0 <= j < 4)"),
        lambda: parse("where(lambda i, j: (0 <= j) & (j <= 4))"),
    ),
    Case(
        "(a) & (b), (a) | (b)",
        lambda: parse("where(lambda i, j: i < 4 and j < 4)"),
        lambda: parse("where(lambda i, j: (i < 4) & (j < 4))"),
    ),
    Case(
        "alibi=True here",
        lambda: pidsl.score(alibi=SLOPES),
        lambda: compiled(TERM, score=pidsl.score(alibi=True))(Q, K, V, slopes=SLOPES),
    ),
    Case(
        "pidsl.score(normalizer='softplus')",
        lambda: pidsl.score(normalizer="soft_plus"),  # type: ignore[arg-type]
        lambda: compiled(TERM, score=pidsl.score(normalizer="softplus"))(Q, K, V),
    ),
    Case(
        "bias=(0, 127) here",
        lambda: pidsl.score(bias=torch.zeros(4, 128)),
        lambda: compiled(TERM, score=pidsl.score(bias=(0, 127)))(Q, K, V, bias=torch.zeros(4, 128)),
    ),
    Case(
        "spans(64, seen)",
        lambda: pidsl.summaries(causal, [TERM]),
        lambda: pidsl.summaries(causal, [pidsl.spans(64, where(lambda i, j: j < i // 64))]),
    ),
    Case(
        "a.equals(b), a <= b, a.is_empty()",
        lambda: bool(TERM),
        lambda: (TERM & causal, TERM | causal, ~TERM, TERM.equals(causal), TERM <= causal, TERM.is_empty()),
    ),
    Case("left=3", lambda: window(3.0), lambda: window(left=3)),
    Case("count from 1", lambda: stride(0), lambda: stride(1)),
    Case("full or causal", lambda: window(2**31), lambda: (full.mask(3), causal.mask(3))),
    Case("term.bind(k=...)", lambda: window(k).mask(4), lambda: window(k).bind(k=2).mask(4)),
    Case("lags(3) for one lag, window(3)", lambda: causal | 3, lambda: (causal | lags(3), causal | window(3))),
    Case(
        "pidsl.pairs for given pairs, pidsl.where",
        lambda: causal | "x",
        lambda: (causal | pidsl.pairs([(0, 1)]), causal | where(lambda i, j: j == 0)),
    ),
    Case("where(lambda i, j: i - j < 4)", lambda: where(lambda i: i), lambda: where(lambda i, j: i - j < 4)),
    Case(
        "(j == 0) | (j == 4)", lambda: where(lambda i, j: j in {0, 4}), lambda: where(lambda i, j: (j == 0) | (j == 4))
    ),
    Case("i - j == 0, for instance", lambda: where(lambda i, j: i - j), lambda: where(lambda i, j: i - j == 0)),
    Case("where(lambda i, j: i - j < 4)", lambda: where(lambda i, j: None), lambda: where(lambda i, j: i - j < 4)),
    Case(
        "parentheses", lambda: where(lambda i, j: maximum(i < 3, 2) < j), lambda: where(lambda i, j: (i < 3) & (j > 2))
    ),
    Case("try: 2", lambda: where(lambda i, j: i < 2.0), lambda: where(lambda i, j: i < 2)),
    Case(
        "(a) & (b), (a) | (b), ~(a), minimum(a, b), maximum(a, b)",
        lambda: where(lambda i, j: i < 4 and j < 4),
        lambda: where(lambda i, j: (i < 4) & (j < 4) | ~(pidsl.minimum(i, j) < maximum(i, 2)) & ((1 <= i) & (i <= 3))),
    ),
    Case("use // for division", lambda: where(lambda i, j: float(i) < j), lambda: where(lambda i, j: i // 2 < j)),
    Case("positions are integers already", lambda: where(lambda i, j: int(i) < j), lambda: where(lambda i, j: i < j)),
    Case("compute with i and j", lambda: where(lambda i, j: [1, 2][i] < j), lambda: where(lambda i, j: i + 1 < j)),
    Case("by constants only", lambda: where(lambda i, j: i * j < 3), lambda: where(lambda i, j: 2 * i < 3)),
    Case("divide by constants only", lambda: where(lambda i, j: i // j < 3), lambda: where(lambda i, j: i // 2 < 3)),
    Case("divisors count from 1", lambda: where(lambda i, j: i // 0 < 3), lambda: where(lambda i, j: i // 1 < 3)),
    Case("i // 2", lambda: where(lambda i, j: i / 2 < 3), lambda: where(lambda i, j: i // 2 < 3)),
    Case(
        "divide by constants only, with //",
        lambda: where(lambda i, j: 6 / i < 3),
        lambda: where(lambda i, j: i // 6 < 3),
    ),
    Case("lags(1, 2, 4, 8)", lambda: where(lambda i, j: 2**i == j), lambda: lags(1, 2, 4, 8)),
    Case(
        "i % 2 == 0 for the lowest bit", lambda: where(lambda i, j: i & 1 == 0), lambda: where(lambda i, j: i % 2 == 0)
    ),
    Case("~(i < 4)", lambda: where(lambda i, j: ~i == j), lambda: where(lambda i, j: ~(i < 4))),
    Case("parentheses", lambda: where(lambda i, j: (i < 4) & 3), lambda: where(lambda i, j: (i < 4) & (j < 3))),
    Case(
        "combine truth values with & | ~",
        lambda: where(lambda i, j: (i < 4) + (j < 4) == 1),
        lambda: where(lambda i, j: (i < 4) & ~(j < 4) | ~(i < 4) & (j < 4)),
    ),
    Case('symbols("k period")', lambda: pidsl.symbols(3), lambda: pidsl.symbols("k period")),
    Case("lambda_", lambda: pidsl.symbols("lambda"), lambda: pidsl.symbols("lambda_")),
    Case('symbols("k period")', lambda: pidsl.symbols(""), lambda: pidsl.symbols("k period")),
    Case(
        "phase=2, the same lags",
        lambda: stride(5, 7),
        lambda: is_mask(stride(5, phase=2), lambda i, j: (i - j - 7) % 5 == 0),
    ),
    Case("pairs([(0, 1), (2, 0)])", lambda: pidsl.pairs(3), lambda: pidsl.pairs([(0, 1), (2, 0)])),
    Case("pairs([(0, 1), (2, 0)])", lambda: pidsl.pairs([3]), lambda: pidsl.pairs([(0, 1), (2, 0)])),
    Case("symbols stand for sizes", lambda: pidsl.pairs([(k, 1)]), lambda: (pidsl.pairs([(3, 1)]), window(k))),
]

ANY: Any = TERM
BIG = parse("|".join(f"where(lambda i, j: i - 3 * j == {x})" for x in range(3)))
REFUSED = [
    Case("causal", lambda: ANY_CAUSAL(), lambda: causal.mask(3)),
    Case("pidsl.compile(window(3)) is the kernel", lambda: ANY(Q, K, V), lambda: compiled(window(3))(Q, K, V)),
    Case("pairs of either are a | b", lambda: ANY + causal, lambda: TERM | causal),
    Case("functools.reduce(operator.or_, patterns)", lambda: sum([ANY, causal]), lambda: reduce(or_, [TERM, causal])),
    Case("pairs of both are a & b", lambda: ANY * causal, lambda: TERM & causal),
    Case("a ** layers", lambda: ANY * 2, lambda: TERM**2),
    Case("a ** layers", lambda: 2 * ANY, lambda: TERM**2),
    Case("a - b for the pairs of a", lambda: ANY / causal, lambda: TERM - causal),
    Case("a.blocked(size)", lambda: ANY // 2, lambda: TERM.blocked(2)),
    Case("a.dilated(step)", lambda: ANY % 2, lambda: TERM.dilated(2)),
    Case(
        "a.shift(by) moves a pattern into the past",
        lambda: ANY >> 2,
        lambda: is_mask(lags(0).shift(2), lambda i, j: i - j == 2),
    ),
    Case(
        "a.shift(-by) moves a pattern into the future",
        lambda: ANY << 2,
        lambda: is_mask(lags(0).shift(-2), lambda i, j: j - i == 2),
    ),
    Case("~a", lambda: -ANY, lambda: ~TERM),
    Case("a.pairs(n)", lambda: abs(ANY), lambda: TERM.pairs(9)),
    Case("a.pairs(n)", lambda: len(ANY), lambda: TERM.pairs(9)),
    Case("a <= b and not a.equals(b)", lambda: ANY < causal, lambda: TERM <= causal and not TERM.equals(causal)),
    Case("b <= a and not a.equals(b)", lambda: ANY > causal, lambda: causal <= TERM and not TERM.equals(causal)),
    Case("a.mask(n)[i, j] for one pair, a.mask(n) for all", lambda: ANY[1, 0], lambda: TERM.mask(9)[1, 0]),
    Case("b <= a for all pairs", lambda: (1, 0) in ANY, lambda: (TERM.mask(9)[1, 0], lags(1) <= TERM)),
    Case("a | b", lambda: +ANY, lambda: TERM | causal),
    Case(
        'assume="k < 3" in a question, or term.bind(...) first',
        lambda: k < 3,
        lambda: ((window(k) | lags(3)).pairs(assume="k < 3"), window(k).bind(k=2)),
    ),
    Case(
        "lambda i, j: i - j < 4",
        lambda: parse("where(lambda i: i < 4)"),
        lambda: parse("where(lambda i, j: i - j < 4)"),
    ),
    Case("window(3)", lambda: where(ANY), lambda: window(3)),
    Case("lags(*values)", lambda: lags([1, 2]), lambda: lags(*[1, 2])),
    Case(
        "pairs(n, m), a Python integer",
        lambda: pidsl.full.degree(1, 2**64),
        lambda: pidsl.full.pairs(2**20, 2**64),
    ),
    Case("full for all pairs", lambda: causal | True, lambda: causal | pidsl.full),
    Case(
        "add in pairs",
        lambda: window(reduce(add, [k * (x + 2) for x in range(300)])),
        lambda: window(added_in_pairs([k * (x + 2) for x in range(300)])),
    ),
    Case(
        "where(a) | where(b)",
        lambda: patch(
            sys.modules["pidsl.language.sizes"],
            "DEEPEST",
            2,
            lambda: where(lambda i, j: (i == j + 1) | (i < j - 3) | (i > 8 + j)),
        ),
        lambda: where(lambda i, j: i == j) | where(lambda i, j: i > j),
    ),
    Case(
        "term.relation() knows no lengths",
        lambda: patch(sys.modules["pidsl.relation.oracle"], "MOST", 10, lambda: (BIG @ BIG.T).mask(30)),
        lambda: (BIG @ BIG.T).relation(),
    ),
    Case(
        "pidsl.compile(pidsl.where(predicate))",
        lambda: pidsl.compile(lambda i, j: i - j < 4),
        lambda: compiled(where(lambda i, j: i - j < 4))(Q, K, V),
    ),
]
ANY_CAUSAL: Any = causal

PATTERNS = [
    Case("last=0", lambda: bigbird(last=1), lambda: bigbird(last=0)),
    Case("shift=1", lambda: pidsl.patterns.shifted_blocks(4, 5), lambda: pidsl.patterns.shifted_blocks(4, shift=1)),
    Case(
        "width=5, or pidsl.window(2, 1)",
        lambda: pidsl.patterns.sliding_window(4, causal=False),
        lambda: (pidsl.patterns.sliding_window(width=5, causal=False), window(2, 1)),
    ),
    Case("window=4", lambda: pidsl.patterns.longformer(3), lambda: pidsl.patterns.longformer(window=4)),
    Case(
        'skip="single", or causal=False',
        lambda: pidsl.patterns.pi_attention(2, 5, skip="both"),
        lambda: (
            pidsl.patterns.pi_attention(2, 5, skip="single"),
            pidsl.patterns.pi_attention(2, 5, skip="both", causal=False),
        ),
    ),
    Case(
        "causal=False",
        lambda: pidsl.patterns.ring_attention(2, causal=True, wrap=True),
        lambda: pidsl.patterns.ring_attention(2, causal=False, wrap=True),
    ),
]


def bigbird(last: int) -> pidsl.Term:
    return pidsl.patterns.bigbird(16, block=4, window=3, first=1, last=last, random=0, causal=True)


def too_short() -> Any:
    return patch(sys.modules["pidsl.demo.text"], "LEAST", 10**12, standard_library)


def no_loop(module: Any, action: Action) -> Any:
    def refuse(*_: Any) -> Any:
        raise module.NoLoop("a loop of another form")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "part_loops", refuse, raising=False)
        patched.setattr(module, "loops", refuse)
        return action()


ANALYSIS = [
    Case(
        "period > k",
        lambda: window(k).pairs(assume="k ~ 3"),
        lambda: (window(k) | lags(pidsl.symbols("period"))).pairs(assume="period > k"),
    ),
    Case(
        "bind the term to numbers",
        lambda: (window(k) | lags(p)).pairs(assume="n > p, p > k")(n=9, k=3, p=2),
        lambda: (window(k) | lags(p)).bind(k=3, p=2).pairs(9),
    ),
    Case(
        "layers(pattern.unions)",
        lambda: pidsl.compare([pidsl.layers([HEADS])], n=16, layers=1),
        lambda: pidsl.compare([pidsl.layers(pidsl.layers([HEADS]).unions)], n=16, layers=1),
    ),
    Case("path(term, i, j, layers)", lambda: attention_graph(TERM, 5000), lambda: TERM.path(50, 2, 30)),
    Case("L_", lambda: window(pidsl.symbols("L")).farthest(), lambda: window(pidsl.symbols("L_")).farthest()),
    Case(
        "simplify the term",
        lambda: no_loop(counting, lambda: counting.key_loops(parse(f"window({next(FRESH)}) - stride(17, 5)"))),
        lambda: counting.key_loops(window(3)),
    ),
    Case("layers=None for a formula in L", lambda: TERM.farthest(stacks.WHOLE + 1), lambda: TERM.farthest(layers=None)),
    Case(
        "simplify the term, or ask for concrete sizes",
        lambda: hard().equals(causal),
        lambda: (causal.equals(~~causal), hard().mask(40)),
    ),
    Case(
        "--out DIR",
        lambda: Folder(ROOT / "README.md").write("x.txt", "x"),
        lambda: in_a_folder(lambda out: Folder(out).write("x.txt", "x")),
    ),
    Case("install the source of the standard library", too_short, standard_library),
    Case("term.bind(k=...) before compiling", lambda: index_source(Symbol("k")), lambda: compiled(window(k).bind(k=3))),
]

KERNELS = [
    Case("q.unsqueeze(0) adds the batch", lambda: kernel(Q[0], K, V), lambda: kernel(Q[0].unsqueeze(0), K, V)),
    Case("torch.as_tensor(q)", lambda: kernel(Q.numpy(), K, V), lambda: kernel(torch.as_tensor(Q.numpy()), K, V)),
    Case("torch.as_tensor(q)", lambda: kernel(Q.tolist(), K, V), lambda: kernel(torch.as_tensor(Q.tolist()), K, V)),
    Case(
        "k.to_padded_tensor(0.0)",
        lambda: kernel(Q, torch.nested.nested_tensor(list(K)), V),
        lambda: kernel(Q, torch.nested.nested_tensor(list(K)).to_padded_tensor(0.0), V),
    ),
    Case("k.to_dense()", lambda: kernel(Q, K.to_sparse(), V), lambda: kernel(Q, K.to_sparse().to_dense(), V)),
    Case(
        'q.float(), or compile(..., backend="torch")',
        lambda: pidsl.compile(TERM, "triton")(Q.double(), K.double(), V.double()),
        lambda: (kernel(Q.double().float(), K, V), compiled(TERM)(Q.double(), K.double(), V.double())),
    ),
    Case("q.float()", lambda: kernel(Q.int(), K.int(), V.int()), lambda: kernel(Q.int().float(), K, V)),
    Case("k.to(q.dtype)", lambda: kernel(Q, K.half(), V), lambda: kernel(Q, K.half().to(Q.dtype), V)),
    Case("v.to(q.device)", lambda: kernel(Q, K, V.to("meta")), lambda: kernel(Q, K, V.to(Q.device))),
    Case(
        "transpose(1, 2)",
        lambda: kernel(Q.transpose(1, 2)[:, :3], *(x.transpose(1, 2)[:, :2] for x in (K, V))),
        lambda: kernel(*(x.transpose(1, 2).transpose(1, 2) for x in (Q, K, V))),
    ),
    Case(
        "pad with zeros (and pass scale=)",
        lambda: pidsl.compile(TERM, "triton")(Q[..., :12], K[..., :12], V),
        lambda: same(
            pidsl.compile(TERM, "triton")(
                *(torch.nn.functional.pad(x[..., :12], (0, 4)) for x in (Q, K)), V, scale=12**-0.5
            ),
            compiled(TERM)(Q[..., :12], K[..., :12], V),
        ),
    ),
    Case(
        "weights.expand([1, 4, 8, 2])",
        lambda: compiled(GATE)(Q, K, V, WEIGHTS[:, :1]),
        lambda: compiled(GATE)(Q, K, V, WEIGHTS[:, :1].expand([1, 4, 8, 2])),
    ),
    Case("temperature=(1 / scale).expand(heads)", lambda: kernel(Q, K, V, scale=SCALE), learned_scale),
    Case(
        "scale.item() for a constant", lambda: kernel(Q, K, V, scale=SCALE), lambda: kernel(Q, K, V, scale=SCALE.item())
    ),
    Case("term.shift(3)", lambda: kernel(Q, K[:, :, :5], V[:, :, :5], offset=5 - 8), negative_offset),
    Case("term.shift(3)", lambda: causal.mask(8, 5, offset=-3), negative_offset),
    Case(
        "PIDSL_CACHE_MB=256",
        lambda: environment(cache.limit, PIDSL_CACHE_MB="many"),
        lambda: environment(cache.limit, PIDSL_CACHE_MB="256"),
    ),
    Case(
        "set PIDSL_CACHE to one",
        lambda: environment(lambda: cache.write("x"), PIDSL_CACHE=str(ROOT / "README.md" / "x")),
        lambda: in_a_folder(lambda folder: environment(lambda: cache.write("x"), PIDSL_CACHE=str(folder))),
    ),
    Case(
        "pidsl.compile(pidsl.parse('window(3)'))",
        lambda: pidsl.compile("window(3)"),
        lambda: pidsl.compile(pidsl.parse("window(3)")),
    ),
    Case("pidsl.window(63)", lambda: pidsl.compile(None), lambda: pidsl.compile(pidsl.window(63))),
    Case("backend='triton'", lambda: pidsl.compile(TERM, "tritn"), lambda: pidsl.compile(TERM, backend="triton")),
    Case(
        "backend='torch' runs anywhere",
        lambda: patch(
            sys.modules["pidsl.runtime.compile"],
            "triton_installed",
            lambda: False,
            lambda: pidsl.compile(window(11), "triton"),
        ),
        lambda: patch(
            sys.modules["pidsl.runtime.compile"],
            "triton_installed",
            lambda: False,
            lambda: pidsl.compile(window(11), backend="torch"),
        ),
    ),
    Case(
        "output_gate='head' here",
        lambda: pidsl.compile(TERM, output_gate=torch.zeros(1, 4, 8)),
        lambda: compiled(TERM, output_gate="head")(Q, K, V, output_gate=torch.zeros(1, 4, 8)),
    ),
    Case(
        "output_gate='element'",
        lambda: compiled(TERM, output_gate="elements"),
        lambda: compiled(TERM, output_gate="element"),
    ),
    Case(
        "pidsl.score(softcap=50.0)",
        lambda: compiled(TERM, score=50.0),
        lambda: compiled(TERM, score=pidsl.score(softcap=50.0))(Q, K, V),
    ),
    Case(
        "kernels[layer](q, k, v)",
        lambda: compiled(pidsl.layers([TERM, causal]))(Q, K, V),
        lambda: compiled(pidsl.layers([TERM, causal]))[1](Q, K, V),
    ),
    Case(
        'compile(..., output_gate="head")',
        lambda: compiled(TERM, affine=True)(Q, K, V, output_gate=torch.zeros(1, 4, 8)),
        lambda: compiled(TERM, output_gate="head", affine=True)(Q, K, V, output_gate=torch.zeros(1, 4, 8)),
    ),
    Case(
        "compile(..., affine=True)",
        lambda: compiled(TERM, output_gate="head")(Q, K, V, output_gate=torch.zeros(1, 4, 8), beta=0.5),
        lambda: compiled(TERM, output_gate="head", affine=True)(Q, K, V, output_gate=torch.zeros(1, 4, 8), beta=0.5),
    ),
    Case(
        "torch.as_tensor(alpha)",
        lambda: compiled(TERM, affine=True)(Q, K, V, alpha=[1.0] * 4),
        lambda: compiled(TERM, affine=True)(Q, K, V, alpha=torch.as_tensor([1.0] * 4)),
    ),
    Case(
        "a kernel with affine=True for each branch",
        lambda: compiled(GATE, affine=True),
        lambda: [compiled(term, affine=True)(Q, K, V) for _, term in GATE.branches],
    ),
    Case(
        "alpha.float()",
        lambda: compiled(TERM, affine=True)(Q, K, V, alpha=torch.ones(4).int()),
        lambda: compiled(TERM, affine=True)(Q, K, V, alpha=torch.ones(4).int().float()),
    ),
    Case(
        "alpha.to(q.device)",
        lambda: compiled(TERM, affine=True)(Q, K, V, alpha=torch.ones(4, device="meta")),
        lambda: compiled(TERM, affine=True)(Q, K, V, alpha=torch.ones(4).to(Q.device)),
    ),
    Case(
        "kernel(..., slopes=...)",
        lambda: compiled(TERM, score=pidsl.score(alibi=True))(Q, K, V),
        lambda: compiled(TERM, score=pidsl.score(alibi=True))(Q, K, V, slopes=SLOPES),
    ),
    Case(
        "pidsl.compile(term, score=pidsl.score(sinks=True))",
        lambda: kernel(Q, K, V, sinks=SLOPES),
        lambda: compiled(TERM, score=pidsl.score(sinks=True))(Q, K, V, sinks=SLOPES),
    ),
    Case(
        "slopes.float()",
        lambda: compiled(TERM, score=pidsl.score(alibi=True))(Q, K, V, slopes=SLOPES.int()),
        lambda: compiled(TERM, score=pidsl.score(alibi=True))(Q, K, V, slopes=SLOPES.int().float()),
    ),
    Case(
        "slopes.to(q.device)",
        lambda: compiled(TERM, score=pidsl.score(alibi=True))(Q, K, V, slopes=SLOPES.to("meta")),
        lambda: compiled(TERM, score=pidsl.score(alibi=True))(Q, K, V, slopes=SLOPES.to(Q.device)),
    ),
    *(
        Case(
            "summaries=[(kbar, vbar), ...]",
            lambda given=given: compiled(SPANS)(Q, K, V, summaries=given),
            lambda: compiled(SPANS)(Q, K, V, summaries=[(K[:, :, :2], V[:, :, :2])]),
        )
        for given in ([5], K[:, :, :2], [], [(K,)])
    ),
    Case(
        "kept from earlier",
        lambda: compiled(SPANS)(Q[:, :, 5:], K, V, offset=5),
        lambda: compiled(SPANS)(Q[:, :, 5:], K, V, offset=5, summaries=[(K[:, :, :2], V[:, :, :2])]),
    ),
    Case("pidsl.compile(term), whose tiles", lambda: pidsl.compile(TERM, tune=True), lambda: pidsl.compile(TERM)),
    Case('backend="torch" runs on any device', lambda: device_check(), lambda: compiled(TERM)(Q, K, V)),
    Case(
        "x.unsqueeze(0) adds the batch",
        lambda: LAYER(torch.zeros(5, 16)),
        lambda: LAYER(torch.zeros(5, 16).unsqueeze(0)),
    ),
    Case(
        "x.to(layer.qkv.weight.dtype)",
        lambda: LAYER(torch.zeros(1, 5, 16).half()),
        lambda: LAYER(torch.zeros(1, 5, 16).half().to(LAYER.qkv.weight.dtype)),
    ),
    Case(
        "[pidsl.nn.SparseAttention(dim, heads, layer) for layer in pattern]",
        lambda: SparseAttention(16, 2, pidsl.layers([TERM, causal])),
        lambda: [SparseAttention(16, 2, layer)(torch.zeros(1, 5, 16)) for layer in pidsl.layers([TERM, causal])],
    ),
    Case(
        "pidsl.nn.PiAttention, or a module of your own",
        lambda: SparseAttention(16, 2, GATE),
        lambda: (PiAttention(16, 2, 3, 5), compiled(GATE)),
    ),
    Case("base=10000.0", lambda: rotate(torch.zeros(2, 4), base=-1.0), lambda: rotate(torch.zeros(2, 4), base=10000.0)),
    Case(
        "rope=10000.0",
        lambda: SparseAttention(16, 2, TERM, rope=True),
        lambda: SparseAttention(16, 2, TERM, rope=10000.0),
    ),
]
LAYER = SparseAttention(16, 2, TERM, backend="torch")


def device_check() -> None:
    """As where Triton does not interpret."""
    made = object.__new__(TritonProgram)
    patch(TritonProgram, "_interpreted", False, lambda: made._check_device(Q))


# --- what other libraries call it: each text of `ELSEWHERE`, by a part of it, and what it names


def packed(align: Any = None) -> None:
    """Two documents of 3 and 5 queries; with an alignment, of 4 and 4 keys."""
    ends, of_keys = torch.tensor([0, 3, 8]).int(), torch.tensor([0, 4, 8]).int()
    q, k, v = (x[0].transpose(0, 1) for x in (Q, K, V))
    out = kernel.packed(q, k, v, ends, None if align is None else of_keys, align=align)
    mask = np.zeros((8, 8), bool)
    if align is None:
        mask[:3, :3], mask[3:, 3:] = TERM.mask(3), TERM.mask(5)
    else:
        mask[:3, :4], mask[4:, 4:] = TERM.mask(3, 4, offset=1), TERM.mask(4, 4)
    judge = compiled(pidsl.pairs([(int(i), int(j)) for i, j in zip(*mask.nonzero(), strict=True)]))
    same(out, judge(Q, K, V)[0].transpose(0, 1))


def padded() -> None:
    """The last three tokens are padding, or the first three."""
    last, first = torch.tensor([5]), torch.tensor([-3])
    out = kernel(Q, K, V, lengths=last, key_lengths=last)
    same(out[:, :, :5], kernel(*(x[:, :, :5] for x in (Q, K, V))))
    out = kernel(Q, K, V, offset=first, key_offset=first)
    same(out[:, :, 3:], kernel(*(x[:, :, 3:] for x in (Q, K, V))))


def regions() -> None:
    of = pidsl.Regions(torch.tensor([[0, 0, 1, 1, 0, 0, 1, 1]]))
    out = of.restore(kernel.packed(*map(of.sort, (Q, K, V)), of.packing.cu_seqlens_q))
    ids = of.packing.documents[None]
    same(out, of.restore(kernel(*(x[:, :, of.order] for x in (Q, K, V)), documents=ids)[0].transpose(0, 1)))


def documents() -> None:
    """Ids in runs, a negative one for padding."""
    out = kernel(Q, K, V, documents=torch.tensor([[4, 4, 4, -1, 9, 9, 9, 9]]))
    same(out[:, :, 4:], kernel(*(x[:, :, 4:] for x in (Q, K, V))))
    assert not out[:, :, 3].any()


def filled(kernel: Any, lookahead: int = 0) -> Any:
    """A cache that holds K and V."""
    cache = pidsl.Cache(
        kernel, batch=1, kv_heads=2, head_dim=K.shape[3], dtype=K.dtype, device="cpu", lookahead=lookahead
    )
    cache.append(K, V)
    return cache


def decoded(rows: int = 1) -> None:
    with torch.no_grad():
        found = kernel.decode(Q[:, :, 8 - rows :].clone().requires_grad_(), filled(kernel, lookahead=rows - 1))
    same(found, kernel(Q[:, :, 8 - rows :], K, V, offset=8 - rows))


def grouped() -> None:
    same(kernel(Q, K, V), kernel(Q, *(x.repeat_interleave(2, 1) for x in (K, V))))


def scored(score: pidsl.Score, **parameters: Any) -> Any:
    return compiled(TERM, score=score)(Q, K, V, **parameters)


CALLED_ELSEWHERE: list[tuple[str, Action]] = [
    (
        "the pattern is the mask",
        lambda: (compiled(where(lambda i, j: i - j < 2))(Q, K, V), compiled(pidsl.pairs([(1, 0)]))(Q, K, V)),
    ),
    ("lengths and key_lengths, integers [B], where the last tokens are padding; offset and key_offset", padded),
    ("kernel.packed(q, k, v, cu_seqlens_q)", packed),
    ("lengths=", lambda: kernel(Q, K, V, lengths=torch.tensor([5]))),
    ("key_lengths=", lambda: kernel(Q, K, V, key_lengths=torch.tensor([5]))),
    ("documents=", lambda: kernel(Q, K, V, documents=torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]]))),
    (
        "pidsl.compile(term & pidsl.causal)",
        lambda: same(compiled(window(2, 2) & causal)(Q, K, V), compiled(window(2))(Q, K, V)),
    ),
    (
        "pidsl.compile(term & pidsl.window(left, right))",
        lambda: is_mask(full & window(2, 1), lambda i, j: (i - j <= 2) & (j - i <= 1)),
    ),
    ("pidsl.score(dropout=0.1)), then kernel(q, k, v, seed=0)", lambda: scored(pidsl.score(dropout=0.1), seed=0)),
    ("pidsl.score(softcap=50.0)", lambda: scored(pidsl.score(softcap=50.0))),
    (
        "softcap, alibi, bias and more",
        lambda: scored(pidsl.score(softcap=9.0, alibi=True, bias=(0, 1)), slopes=SLOPES, bias=torch.ones(4, 2)),
    ),
    ("slopes=pidsl.alibi_slopes(heads)", lambda: scored(pidsl.score(alibi=True), slopes=pidsl.alibi_slopes(4))),
    ("bias=table) by head and lag", lambda: scored(pidsl.score(bias=(0, 3)), bias=torch.ones(4, 4))),
    ("sinks=logits), one per head", lambda: scored(pidsl.score(sinks=True), sinks=torch.zeros(4))),
    ("k and v may have fewer heads than q", grouped),
    ("kernel(q, k, v, return_lse=True)", lambda: kernel(Q, K, V, return_lse=True)),
    ("kernel.explain()", kernel.explain),
    ("scale=", lambda: kernel(Q, K, V, scale=0.5)),
    ("offset=", lambda: kernel(Q, K, V, offset=2)),
    ("dim=", lambda: SparseAttention(dim=16, heads=2, pattern=TERM)),
    ("heads=", lambda: SparseAttention(dim=16, heads=2, pattern=TERM)),
    ("kv_heads=", lambda: SparseAttention(16, 2, TERM, kv_heads=1)),
    ("rope=", lambda: SparseAttention(16, 2, TERM, rope=10000.0)),
    (
        "layer.to(...), or tensors.to(...)",
        lambda: SparseAttention(16, 2, TERM).to(torch.float64)(torch.zeros(1, 5, 16).to(torch.float64)),
    ),
    ("x is [batch, tokens, dim]", lambda: LAYER(torch.zeros(1, 5, 16))),
    ("kernel(q, k, v, ...) takes it, when it is called", lambda: kernel(Q, K, V, scale=1.0, offset=1, return_lse=True)),
    (
        "pidsl.compile(term, ...) takes it",
        lambda: pidsl.compile(TERM, backend="torch", score=pidsl.score(softcap=9.0), affine=True),
    ),
]
OF_MODULES = ("dim=", "heads=", "kv_heads=", "rope=")


def elsewhere() -> Iterator[Case]:
    for name, hint in ELSEWHERE.items():
        rights = [do for says, do in CALLED_ELSEWHERE if (hint == says if says[-1] == "=" else says in hint)]
        right = rights[0] if rights else None
        assert right is not None, f"nothing follows {hint!r}"
        call: Any = partial(kernel, Q, K, V)
        if hint in OF_MODULES:
            call = SparseAttention
        elif "when it is called" in hint:
            call = partial(pidsl.compile, TERM)
        yield Case(f"{name}: {hint}", partial(call, **{name: 1}), right)


KEYWORDS = [
    *elsewhere(),
    Case("scal: scale=", lambda: kernel(Q, K, V, scal=1.0), lambda: kernel(Q, K, V, scale=1.0)),
    Case("options by keyword", lambda: kernel(Q, K, V, 0.5), lambda: kernel(Q, K, V, scale=0.5)),
    Case("the pattern is the mask", lambda: kernel(Q, K, V, Q), lambda: compiled(where(lambda i, j: i > j))(Q, K, V)),
    Case(
        "torch.as_tensor(lengths)",
        lambda: kernel(Q, K, V, lengths=[5]),  # type: ignore[arg-type]
        lambda: kernel(Q, K, V, lengths=torch.as_tensor([5])),
    ),
    Case(
        "lengths.int()",
        lambda: kernel(Q, K, V, lengths=torch.ones(1)),
        lambda: kernel(Q, K, V, lengths=torch.ones(1).int()),
    ),
    Case(
        "lengths.to(q.device)",
        lambda: kernel(Q, K, V, lengths=torch.ones(1, device="meta").int()),
        lambda: kernel(Q, K, V, lengths=torch.ones(1).int().to(Q.device)),
    ),
    Case("cu_seqlens_q.int()", lambda: kernel.packed(Q[0], K[0], V[0], torch.tensor([0, 4])), packed),
    Case(
        "cu_seqlens_q.to(q.device)",
        lambda: kernel.packed(Q[0], K[0], V[0], torch.ones(2, device="meta").int()),
        lambda: torch.ones(2).int().to(Q.device),
    ),
    Case(
        'align="end" for queries that are the last',
        lambda: kernel.packed(Q[0], K[0], V[0], torch.tensor([0, 4]).int(), torch.tensor([0, 2]).int()),
        lambda: packed("end"),
    ),
    Case(
        "kernel.packed(q, k, v, cu_seqlens_q, cu_seqlens_k)",
        lambda: kernel(Q[:, :, :4], K, V, documents=torch.zeros(1, 4).int()),
        lambda: packed("end"),
    ),
    Case(
        "a negative id for tokens that are padding",
        lambda: kernel(Q, K, V, documents=torch.zeros(1, 8).int(), lengths=5),
        documents,
    ),
    Case(
        "ids that are different for every document",
        lambda: kernel(Q, K, V, documents=torch.tensor([[0, 0, 1, 1, 0, 0, 1, 1]])),
        lambda: (documents(), regions()),
    ),
    Case(
        "a call for each sequence",
        lambda: compiled(SPANS)(Q, K, V, lengths=torch.tensor([5]), summaries=[None]),
        lambda: compiled(SPANS)(*(x[:, :, :5] for x in (Q, K, V))),
    ),
    Case(
        "kernel.packed(q, k, v, cu_seqlens), whose documents are counted",
        lambda: patch(
            ragged, "capturing", lambda device: True, lambda: kernel(Q, K, V, documents=torch.zeros(1, 8).int())
        ),
        packed,
    ),
    Case(
        "kernel(q, k, v, documents=ids), or kernel.packed(q, k, v, cu_seqlens_q)",
        lambda: compiled(TERM & pidsl.documents)(Q, K, V),
        lambda: (packed(), documents()),
    ),
    Case(
        "pidsl.Cache(kernel, batch, kv_heads, head_dim, dtype, device)",
        lambda: kernel.decode(Q[:, :, :1], None),  # type: ignore[arg-type]
        decoded,
    ),
    Case(
        "pidsl.Cache(kernel, ...), of the kernel that decodes",
        lambda: kernel.decode(Q[:, :, :1], filled(compiled(causal))),
        decoded,
    ),
    Case("lookahead=1)", lambda: kernel.decode(Q[:, :, 6:], filled(kernel)), lambda: decoded(rows=2)),
    Case(
        "kernel(q, k, v, offset=...), whose keys are all there; or torch.no_grad()",
        lambda: kernel.decode(Q[:, :, 7:].clone().requires_grad_(), filled(kernel)).sum().backward(),
        decoded,
    ),
    Case("x alone", lambda: LAYER(*[torch.zeros(1, 5, 16)] * 3), lambda: LAYER(torch.zeros(1, 5, 16))),
]

FAMILY = pidsl.window(k) & causal
FAMILIES = [
    Case(
        "families=['window']",
        lambda: pidsl.design(9, 2, family="window"),  # type: ignore[arg-type]
        lambda: pidsl.design(9, 2, families=["window"]),
    ),
    Case(
        'ranges={"k": (1, 64)}',
        lambda: pidsl.design(9, 2, family=FAMILY),
        lambda: pidsl.design(9, 2, family=FAMILY, ranges={"k": (1, 64)}),
    ),
    Case(
        'fewer numbers, such as ranges={"k": range(1, 9000, 16)}',
        lambda: pidsl.design(9, 1, family=FAMILY, ranges={k: (1, 9000)}),
        lambda: pidsl.design(9, 1, family=FAMILY, ranges={"k": range(1, 9000, 16)}),
    ),
    Case(
        'ranges={"k": (16, 256)}',
        lambda: pidsl.design(9, 2, family=FAMILY, ranges=[(16, 256)]),  # type: ignore[arg-type]
        lambda: pidsl.design(9, 2, family=FAMILY, ranges={"k": (16, 256)}),
    ),
]

# --- what calls choose

CHOSEN = chosen(4, 2, 4)
CHOOSING = compiled(TERM | CHOSEN)
LISTS = torch.tensor([[0, -1], [1, 0]], dtype=torch.int32).expand(1, 4, 2, 2)


def under_lists(blocks: Tensor, own: Any = CHOOSING) -> None:
    """A call under some lists is the dense formula under their mask."""
    found = own(Q, K, V, blocks=blocks)
    every = blocks.expand(1, 4, 2, blocks.shape[3])[0].cpu().numpy()
    mask = torch.stack([torch.from_numpy(own.term.mask(8, blocks=x)) for x in every])
    same(found, scaled_dot_product_attention(Q, *(x.repeat_interleave(2, 1) for x in (K, V)), attn_mask=mask))


def one_choice_of_each() -> None:
    for other in (CHOSEN, window(1) | CHOSEN):
        gated = compiled(pidsl.gate(a=CHOSEN, b=other))(Q, K, V, weights=WEIGHTS, blocks=LISTS)
        each = [compiled(x)(Q, K, V, blocks=LISTS) for x in (CHOSEN, other)]
        same(gated, each[0] * WEIGHTS[..., :1] + each[1] * WEIGHTS[..., 1:])
    headed = compiled(pidsl.heads([(2, CHOSEN), (2, TERM | CHOSEN)]))(Q, K, V, blocks=LISTS)
    same(headed, torch.cat([compiled(CHOSEN)(Q, K, V, blocks=LISTS)[:, :2], CHOOSING(Q, K, V, blocks=LISTS)[:, 2:]], 1))


def no_block_behind_the_last(last: int = 1) -> None:
    far = torch.where(LISTS == 1, 7, LISTS)
    under_lists(far.masked_fill(far > last, -1))


CHOICES = [
    Case("chosen(...) of the same block, budget and queries; or a gate, or heads, with a choice in each",
         lambda: compiled(CHOSEN | chosen(8, 2)), one_choice_of_each),
    Case("within=shift of what may be chosen", lambda: compiled(CHOSEN.shift(1)),
         lambda: under_lists(LISTS, compiled(TERM | chosen(4, 2, 4, within=causal.shift(1))))),
    Case("chosen(...) of the same block, budget and queries; or a kernel for each: pidsl.compile(term)",
         lambda: compiled(pidsl.gate(a=CHOSEN, b=chosen(8, 2, 4))), one_choice_of_each),
    Case("window(3) | chosen(64, 16)", lambda: TERM.mask(8, blocks=[[0]]),
         lambda: is_mask(TERM | chosen(64, 16), lambda i, j: j <= i)
         or (TERM | chosen(64, 16)).mask(8, blocks=[[0]])),
    Case("kernel(q, k, v, blocks=lists), lists that a selector of pidsl.select makes", lambda: CHOOSING(Q, K, V),
         lambda: under_lists(MoBA(4, 2, 4)(Q, K))),
    Case("blocks.int()", lambda: CHOOSING(Q, K, V, blocks=LISTS.long()), lambda: under_lists(LISTS.long().int())),
    Case("blocks.to(q.device)", lambda: CHOOSING(Q, K, V, blocks=LISTS.to("meta")),
         lambda: under_lists(LISTS.to(Q.device))),
    Case("blocks.masked_fill(blocks > last, -1)",
         lambda: CHOOSING(Q, K, V, blocks=torch.where(LISTS == 1, 7, LISTS)), no_block_behind_the_last),
]  # fmt: skip

CASES = [*CHOICES, *FAMILIES, *LANGUAGE, *REFUSED, *PATTERNS, *ANALYSIS, *KERNELS, *KEYWORDS, *DERIVATIVES]
NAMES = [f"{number}: {case.says}" for number, case in enumerate(CASES)]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_hint_followed_works(case: Case) -> None:
    with pytest.raises(PidslError) as caught:
        case.wrong()
    assert case.says in f"try: {caught.value.hint}\n{caught.value.where}"  # with several faults, their hints are there
    case.right()


# --- none is forgotten


@dataclass(frozen=True)
class Hint:
    """A text in the source that becomes the hint of an error."""

    file: str
    function: str
    lines: range
    text: str  # a regular expression

    def __str__(self) -> str:
        return f"{self.file}:{self.lines.start} {self.function}: {self.text}"


POSITION = {"Fault": 3, "fail": 3, "_refuse": 1}  # of the hint among the arguments; 3 in every error
NAMES_OF_HINTS = ("hint", "nested", "turned")
HANDED_ON = ("hint", "reason", "nested", "turned", "instead")  # made elsewhere, and known there


def hints(path: Path) -> Iterator[Hint]:
    file = path.relative_to(ROOT).as_posix()

    def visit(node: ast.AST, function: str) -> Iterator[Hint]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef) else function
            for value in texts(child):
                if text := template(value):
                    yield Hint(file, inside, range(value.lineno, (value.end_lineno or value.lineno) + 1), text)
            yield from visit(child, inside)

    return visit(ast.parse(path.read_text(encoding="utf-8")), "")


def texts(node: ast.AST) -> Iterator[ast.expr]:
    """What a call, an assignment or a function whose name says so makes the hint."""
    found: list[ast.expr] = []
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            place = POSITION.get(name, 3 if name.endswith("Error") else len(node.args))
            found = [*node.args[place : place + 1], *(word.value for word in node.keywords if word.arg == "hint")]
        case ast.Assign(targets=[ast.Name(id=name)]) if name in NAMES_OF_HINTS:
            found = [node.value]
        case ast.FunctionDef(name=name) if name.endswith("_hint"):
            found = [x.value for x in ast.walk(node) if isinstance(x, ast.Return) and x.value is not None]
    for value in found:
        yield from (x for x in choices(value) if not isinstance(node, ast.Assign) or is_text(x))


def choices(value: ast.expr) -> Iterator[ast.expr]:
    match value:
        case ast.IfExp(body=a, orelse=b):
            yield from choices(a)
            yield from choices(b)
        case _:
            yield value


def is_text(value: ast.expr) -> bool:
    if isinstance(value, ast.Constant):
        return isinstance(value.value, str)
    return isinstance(value, ast.JoinedStr) or (
        isinstance(value, ast.Name) and re.fullmatch("[A-Z_]{3,}", value.id) is not None
    )


def template(value: ast.expr) -> str:
    """The texts that a hint may be; nothing for one that is made elsewhere."""
    match value:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=parts):
            return "".join(template(x) if isinstance(x, ast.Constant) else ".*" for x in parts)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in HANDED_ON:
            return ""
        case ast.Call(func=ast.Name(id=name)) if name.endswith("_hint"):
            return ""
    return ".*"


def told(case: Case, wanted: dict[str, set[str]]) -> tuple[str, set[tuple[str, int]]]:
    """What a case says, and the lines of functions with hints that ran."""
    ran: set[tuple[str, int]] = set()

    def line(frame: FrameType, event: str, _: Any) -> Any:
        ran.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if frame.f_code.co_name in wanted.get(frame.f_code.co_filename, ()) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        case.wrong()
    except PidslError as e:
        return f"{e.hint}\n{e.where}", ran
    finally:
        sys.settrace(before)
    raise AssertionError(f"{case.says}: no error")


FOLLOWED = re.compile(r"# follows the hints of (\S+): (\w+(?:, \w+)*)")


def test_every_hint_is_followed() -> None:
    files = [x for folder in ("pidsl", "codegen", "patterns") for x in sorted((ROOT / folder).rglob("*.py"))]
    files = [x for x in files if not x.parent.is_symlink() and x.relative_to(ROOT).parts[:2] != ("pidsl", "codegen")]
    left = {hint for x in files for hint in hints(x)}
    assert len(left) > 90
    for path in (ROOT / "tests").rglob("*.py"):
        for file, names in FOLLOWED.findall(path.read_text(encoding="utf-8")):
            left = {x for x in left if x.file != file or x.function not in names.split(", ")}
    wanted: dict[str, set[str]] = {}
    for hint in left:
        wanted.setdefault(hint.file, set()).add(hint.function)
    by_name = {str((ROOT / file).resolve()): names for file, names in wanted.items()}
    by_name |= {str(ROOT / "pidsl" / file): names for file, names in wanted.items()}  # through the symlinks
    for case in CASES:
        text, ran = told(case, by_name)
        lines = {(str(Path(file).resolve()), number) for file, number in ran}
        left = {
            x
            for x in left
            if not any((str(ROOT / x.file), number) in lines for number in x.lines) or not re.search(x.text, text)
        }
    assert not left, "no case of this file follows\n" + "\n".join(sorted(map(str, left)))
