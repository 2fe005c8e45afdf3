"""Scores: the declared value, the kernels of all backends against the reference, and the emitted source."""

from __future__ import annotations

import ast
import copy
import difflib
import pickle
from typing import Any, get_args

import pytest
import torch
from dense import dense, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
from pidsl import (
    ArgumentError,
    BackendError,
    ParseError,
    Score,
    Term,
    TermError,
    alibi_slopes,
    causal,
    compile,
    empty,
    gate,
    keys,
    lags,
    neighborhood,
    queries,
    score,
    stride,
    window,
)
from pidsl.language.score import Normalizer
from pidsl.patterns import combiner_fixed
from pidsl.runtime.call import dropout
from pidsl.testing import Inputs, assert_matches_dense, inputs, shapes, terms

FAST = ("torch", "reference")
ALL = ("torch", "reference", "triton")
PI = window(2) | stride(4) & causal
PARTS: dict[str, dict[str, Any]] = {
    "softcap": {"softcap": 2.0},
    "alibi": {"alibi": True},
    "bias": {"bias": (-3, 4)},
    "sinks": {"sinks": True},
    "temperature": {"temperature": True},
    "dropout": {"dropout": 0.3},
    "softplus": {"normalizer": "softplus"},
    "all": {"scale": 0.3, "softcap": 3.0, "alibi": True, "bias": (0, 6), "sinks": True, "temperature": True,
            "dropout": 0.2},
}  # fmt: skip


def numbers(s: Score, heads: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Parameters for a score."""
    made = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {
        "slopes": torch.rand(heads, generator=made, dtype=torch.float64).to(dtype),
        "bias": torch.randn(heads, s.table, generator=made, dtype=torch.float64).to(dtype),
        "sinks": torch.randn(heads, generator=made, dtype=torch.float64).to(dtype),
        "temperature": (torch.rand(heads, generator=made, dtype=torch.float64) + 0.5).to(dtype),
        "seed": seed,
    }
    return {name: values[name] for name in s.parameters}


def check(term: Term, s: Score, backend: Any, given: Inputs) -> None:
    assert_matches_dense(compile(term, backend, s), given, parameters=numbers(s, given.q.shape[1]))


# -- the value ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_value(parts: dict[str, Any]) -> None:
    s = score(**parts)
    assert s == score(**parts) and hash(s) == hash(score(**parts)) and s != score(softcap=1.0)
    assert eval(repr(s), vars(pidsl)) == s == pidsl.parse(repr(s))
    assert pickle.loads(pickle.dumps(s)) == copy.deepcopy(s) == s
    with pytest.raises(AttributeError):
        s.softcap = 3.0  # type: ignore[misc]


def test_text() -> None:
    assert repr(score(softcap=50, bias=[0, 3])) == "score(softcap=50.0, bias=(0, 3))"  # type: ignore[arg-type]
    assert repr(score()) == "score()"
    for text in ("score(softcap=f())", "print(1)", "score(1)", "score(loud=2)", "score(", "score(**x)"):
        with pytest.raises(ParseError):
            pidsl.parse(text)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"softcap": 0}, "softcap = 0"),
        ({"softcap": True}, "softcap = True"),
        ({"scale": float("nan")}, "scale = nan"),
        ({"alibi": [0.5]}, "True or False"),
        ({"bias": (3, 0)}, r"two lags \(low, high\)"),
        ({"bias": 7}, r"two lags \(low, high\)"),
        ({"bias": (0, 1 << 20)}, "at most 16384 lags"),
        ({"dropout": 1.0}, "0 <= dropout < 1"),
        ({"dropout": -0.1}, "0 <= dropout < 1"),
        ({"normalizer": "Soft_plus"}, r"normalizer = 'Soft_plus'[\s\S]*pidsl\.score\(normalizer='softplus'\)"),
        ({"normalizer": "relu"}, "'length_scaled_softplus': a function of each logit and its query's position"),
        ({"normalizer": None}, "normalizer = None"),
    ],
)
def test_values_that_are_none(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(TermError, match=message):
        score(**parts)


def test_alibi_slopes() -> None:
    assert alibi_slopes(1).tolist() == [2.0**-8]
    twelve = alibi_slopes(12)  # as the authors' code: those of 8, then every other one of 16
    torch.testing.assert_close(twelve[:8], alibi_slopes(8))
    torch.testing.assert_close(twelve[8:], alibi_slopes(16)[::2][:4])
    with pytest.raises(TermError):
        alibi_slopes(0)


# -- meaning: against formulas of other projects -----------------------------------------------------------------


def test_the_reference_is_plain_attention_over_changed_scores() -> None:
    """Gemma 2's softcap, ALiBi and gpt-oss's sinks, written as their authors write them."""
    q, k, v = tensors(12, 12, heads=2, dtype=torch.float64)
    mask = torch.from_numpy(causal.mask(12).copy())
    slopes, sinks = alibi_slopes(2).double(), torch.tensor([0.5, -1.0], dtype=torch.float64)

    logits = q @ k.mT / 4
    gemma = torch.softmax((torch.tanh(logits / 5.0) * 5.0).masked_fill(~mask, -torch.inf), -1) @ v
    torch.testing.assert_close(compile(causal, "reference", score(softcap=5.0))(q, k, v), gemma)

    # ALiBi adds slope * (0, 1, 2, ..., i) to the keys of row i; softmax does not see the constant slope * i
    bias = slopes[:, None, None] * torch.arange(12)
    alibi = torch.softmax((logits + bias).masked_fill(~mask, -torch.inf), -1) @ v
    torch.testing.assert_close(compile(causal, "reference", score(alibi=True))(q, k, v, slopes=slopes), alibi)

    combined = torch.cat([logits.masked_fill(~mask, -torch.inf), sinks.view(1, 2, 1, 1).expand(1, 2, 12, 1)], -1)
    oss = torch.softmax(combined, -1)[..., :-1] @ v
    torch.testing.assert_close(compile(causal, "reference", score(sinks=True))(q, k, v, sinks=sinks), oss)


@pytest.mark.parametrize("backend", ALL)
def test_a_score_of_nothing_and_of_scale_is_the_plain_kernel(backend: Any) -> None:
    plain, given = compile(PI, backend), tensors(9, 9, heads=2)
    for s in (score(), score(scale=0.7)):
        kernel = compile(PI, backend, s)
        assert kernel.source() == plain.source()
        assert torch.equal(kernel(*given), plain(*given, scale=s.scale))


# -- values and gradients ----------------------------------------------------------------------------------------

FEW = {
    "band": window(3, 1),
    "classes": PI,
    "diagonals": lags(0, 1, 2, 4, 8, 16),
    "band and diagonals": window(2) | lags(7, 11),
    "key and query classes": queries(1, None, 4) & keys(1, None, 3) | window(1),
    "boxes": neighborhood((4, 6), 3),
    "boxes and keys": neighborhood((4, 5), (3, 2), causal=(True, False)) | keys(0, 2),
    "empty": empty,
}


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_torch_agrees_with_the_reference(name: str, parts: dict[str, Any]) -> None:
    q, k, v = tensors(29, 31, 8, 16, heads=4, kv_heads=2, batch=2)
    check(FEW[name], score(**parts), "torch", Inputs(q, k, v, 2))


@pytest.mark.parametrize("name", FEW)
def test_triton_agrees_with_the_reference(name: str) -> None:
    q, k, v = tensors(21, 23, 8, 16, heads=2, kv_heads=1)
    check(FEW[name], score(**PARTS["all"]), "triton", Inputs(q, k, v, 2))


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"all"}))
def test_each_part_on_triton(name: str) -> None:
    q, k, v = tensors(13, 13, 16, 8, heads=2, kv_heads=2, dtype=torch.float16)
    check(window(3) | lags(5, 8), score(**PARTS[name]), "triton", Inputs(q, k, v, 0))


@st.composite
def calls(draw: st.DrawFn, longest: int, dtypes: tuple[str, ...]) -> tuple[Term, Score, Inputs]:
    s = score(
        softcap=draw(st.sampled_from([None, None, 1.5, 30.0])),
        alibi=draw(st.booleans()),
        bias=draw(st.sampled_from([None, (0, 0), (-2, 5), (1, 9), (-9, -3)])),
        sinks=draw(st.booleans()),
        temperature=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.0, 0.1, 0.7])),
        normalizer=draw(st.sampled_from(["softmax", "softmax", *get_args(Normalizer)])),
    )
    return draw(terms(depth=2)), s, draw(inputs(shapes(longest, head_dims=(8, 16)), dtypes=dtypes))


@settings(max_examples=settings.default.max_examples * 2 // 5)
@given(calls(40, ("float32", "float32", "float16", "float64")))
def test_random_scores_on_torch(call: tuple[Term, Score, Inputs]) -> None:
    term, s, given = call
    check(term, s, "torch", given)


@settings(max_examples=max(1, settings.default.max_examples // 10))
@given(calls(16, ("float32", "float16")))
def test_random_scores_on_triton(call: tuple[Term, Score, Inputs]) -> None:
    term, s, given = call
    check(term, s, "triton", given)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("scale", [0.0, -0.7])
def test_scales_that_are_not_positive(backend: Any, scale: float) -> None:
    q, k, v = tensors(11, 11, heads=1, kv_heads=1)
    check(window(3), score(**PARTS["all"] | {"scale": scale}), backend, Inputs(q, k, v, 0))


@pytest.mark.parametrize(
    ("backend", "term"),
    [("torch", PI), ("torch", lags(1, 2, 5)), ("torch", keys(1, 3) - window(1)), ("reference", PI)],
    ids=repr,
)
def test_gradcheck(backend: Any, term: Term) -> None:
    s = score(**PARTS["all"])
    leaves = [*tensors(6, 6, 2, 2, heads=2, kv_heads=1, dtype=torch.float64)]
    given = numbers(s, 2, dtype=torch.float64)
    seed = {"seed": given.pop("seed")} if "seed" in given else {}
    kernel = compile(term, backend, s)

    def function(q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = kernel(q, k, v, return_lse=True, **dict(zip(given, rest, strict=True)), **seed)
        return out, lse

    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in (*leaves, *given.values())])


@pytest.mark.parametrize("backend", ALL)
def test_rows_without_keys(backend: Any) -> None:
    term, (q, k, v) = lags(3, 9) & keys(4, 20), tensors(14, 14)
    dead = torch.from_numpy(~term.mask(14).any(1))
    sinks = torch.tensor([0.5, -torch.inf], requires_grad=True)
    out, lse = compile(term, backend, score(sinks=True, softcap=2.0))(q, k, v, sinks=sinks, return_lse=True)
    assert not out[:, :, dead].any()
    assert (lse[:, 0, dead] == 0.5).all() and (lse[:, 1, dead] == -torch.inf).all()
    (grad,) = torch.autograd.grad(out.sum() + lse[:, 0].sum(), sinks)
    assert grad.isfinite().all() and grad[1] == 0


@pytest.mark.parametrize("backend", ALL)
def test_nan_where_nobody_looks(backend: Any) -> None:
    term, s = (lags(3, 9) | stride(8)) & keys(4, 20) & queries(0, 22), score(**PARTS["all"])
    mask = torch.from_numpy(term.mask(26).copy())
    given = {name: x.requires_grad_() if isinstance(x, Tensor) else x for name, x in numbers(s, 2).items()}
    clean, results = tensors(26, 26), []
    for poison in (0.0, torch.nan):
        q, k, v = (x.clone() for x in clean)
        grad = torch.ones(1, 2, 26, 16)
        k[:, :, ~mask.any(0)] = v[:, :, ~mask.any(0)] = poison
        q[:, :, ~mask.any(1)] = grad[:, :, ~mask.any(1)] = poison
        leaves = [x.requires_grad_() for x in (q, k, v)]
        out = compile(term, backend, s)(*leaves, **given)
        leaves += [x for x in given.values() if isinstance(x, Tensor)]
        results.append([out, *torch.autograd.grad([out], leaves, [grad])])
    for plain, poisoned in zip(*results, strict=True):
        assert torch.equal(plain, poisoned)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_empty_tensors(backend: Any, n: int, m: int) -> None:
    s = score(**PARTS["all"])
    given = {name: x.requires_grad_() if isinstance(x, Tensor) else x for name, x in numbers(s, 2).items()}
    out, lse = compile(window(3, 3), backend, s)(*tensors(n, m), return_lse=True, **given)
    assert not out.any() and torch.equal(lse, given["sinks"][:, None].expand(1, 2, n))
    (out.sum() + lse.sum()).backward()
    assert torch.equal(given["sinks"].grad, torch.full((2,), float(n)))
    assert not given["bias"].grad.any()


@pytest.mark.parametrize("backend", ALL)
def test_same_bits_every_time(backend: Any) -> None:
    s = score(**PARTS["all"])

    def run() -> list[Tensor]:
        given = {name: x.requires_grad_() if isinstance(x, Tensor) else x for name, x in numbers(s, 2).items()}
        leaves = [x.requires_grad_() for x in tensors(11, 11, kv_heads=1)]
        out, lse = compile(PI, backend, s)(*leaves, return_lse=True, **given)
        leaves += [x for x in given.values() if isinstance(x, Tensor)]
        return [out, lse, *torch.autograd.grad(out.square().sum() + lse.sum(), leaves)]

    assert all(map(torch.equal, run(), run()))


@pytest.mark.parametrize("backend", FAST)
def test_parameters_of_another_dtype(backend: Any) -> None:
    q, k, v = tensors(9, 9, dtype=torch.bfloat16)
    slopes = alibi_slopes(2).requires_grad_()
    out = compile(PI, backend, score(alibi=True))(q, k, v, slopes=slopes)
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16 and slopes.grad is not None and slopes.grad.dtype == torch.float32


@pytest.mark.parametrize("backend", FAST)
def test_gates_share_the_score(backend: Any) -> None:
    s, branches = score(**PARTS["all"]), gate(local=window(2), skip=stride(4) & causal)
    kernel, (q, k, v), given = compile(branches, backend, s), tensors(13, 13), numbers(s, 2)
    weights = torch.randn(1, 2, 13, 2, generator=torch.Generator().manual_seed(5))
    want = sum(
        weights[..., b, None] * compile(term, backend, s)(q, k, v, **given)
        for b, (_, term) in enumerate(branches.branches)
    )
    torch.testing.assert_close(kernel(q, k, v, weights, **given), want)
    assert pickle.loads(pickle.dumps(kernel)) is kernel and f"score={s!r}" in repr(kernel)
    with pytest.raises(ArgumentError, match="sinks: got nothing"):
        kernel(q, k, v, weights)


# -- dropout -----------------------------------------------------------------------------------------------------


def kept_pairs(backend: Any, term: Term, n: int, p: float, seed: int, heads: int = 2, offset: int = 0) -> Tensor:
    """bool [1, heads, n, m]: pairs whose weight reaches the output, read off values that are unit vectors."""
    m = n + offset
    q, k, _ = tensors(n, m, 8, 8, heads, heads)
    v = torch.eye(m, -(-m // 8) * 8).expand(1, heads, m, -1)
    return compile(term, backend, score(dropout=p))(q, k, v, seed=seed, offset=offset)[..., :m] != 0


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("name", ["band", "classes", "diagonals"])
def test_every_backend_drops_the_same_pairs(name: str, seed: int) -> None:
    masks = [kept_pairs(backend, FEW[name], 21, 0.4, seed, offset=3) for backend in ALL]
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_dropout_is_a_fair_hash_of_the_positions() -> None:
    mask = kept_pairs("torch", causal, 200, 0.25, 5)
    pairs = 200 * 201 / 2
    for head in (0, 1):
        assert abs(int(mask[0, head].sum()) - 0.75 * pairs) < 4 * (pairs * 0.25 * 0.75) ** 0.5
    assert not torch.equal(mask[0, 0], mask[0, 1])
    assert not torch.equal(mask, kept_pairs("torch", causal, 200, 0.25, 6))
    # later rows alone, by their positions, drop what they drop among all rows
    m = 40
    q, k, v = tensors(m, m, 8, 8)
    kernel = compile(causal, "torch", score(dropout=0.25))
    torch.testing.assert_close(kernel(q, k, v, seed=5)[:, :, 30:], kernel(q[:, :, 30:], k, v, seed=5, offset=30))


def test_the_expectation_is_attention_without_dropout() -> None:
    q, k, v = tensors(16, 16, dtype=torch.float64)
    kernel = compile(causal, "torch", score(dropout=0.5))
    mean = torch.stack([kernel(q, k, v, seed=x) for x in range(150)]).mean(0)
    assert float((mean - dense(causal, q, k, v)[0]).abs().mean()) < 0.1


def test_bits_of_the_hash() -> None:
    """Fixed for ever: a seed written down in a paper must mean the same mask."""
    i, j = torch.arange(2)[:, None], torch.arange(64)
    assert (dropout.seed_key(0), dropout.seed_key(2**63 - 1)) == (0xAE6F80F1, 0xD09B8DB1)
    assert dropout.kept(1, 0.5, torch.tensor(0), i, j)[0, :16].int().tolist() == [
        0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0, 0,
    ]  # fmt: skip
    flips = torch.stack([dropout.mix(j) ^ dropout.mix(j ^ (1 << bit)) for bit in range(32)])
    ones = sum(((flips >> bit) & 1).double().mean() for bit in range(32))
    assert 15 < float(ones) < 17


# -- faults ------------------------------------------------------------------------------------------------------


def test_every_fault_is_told_at_once() -> None:
    q, k, v = tensors(9, 9)
    with pytest.raises(ArgumentError) as caught:
        compile(PI, "torch", score(alibi=True, bias=(0, 3), dropout=0.5, scale=0.1))(
            q, k, v, scale=0.5, slopes=torch.ones(3), sinks=torch.ones(2), bias=[1.0], seed=-1
        )
    for name in ("slopes", "sinks", "bias", "seed", "scale"):
        assert f"{name}: got" in str(caught.value)
    with pytest.raises(ArgumentError, match="slopes: nothing"):
        compile(PI, "torch", score(alibi=True))(q, k, v)
    with pytest.raises(ArgumentError, match=r"score=pidsl\.score"):
        compile(PI, "torch")(q, k, v, sinks=torch.ones(2))
    with pytest.raises(ArgumentError, match="a floating dtype"):
        compile(PI, "torch", score(sinks=True))(q, k, v, sinks=torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize("options", [{}, {"output_gate": "head"}, {"output_gate": "head", "affine": True}], ids=repr)
def test_what_does_not_go_together_is_named(options: dict[str, Any]) -> None:
    spans = combiner_fixed(4)
    with pytest.raises(TermError, match="summaries or score, one of the two: a span has no lag"):
        compile(spans, "torch", score(softcap=5.0), **options)


def test_what_is_no_score() -> None:
    with pytest.raises(TermError, match=r"a pidsl\.score"):
        compile(PI, "torch", 0.5)  # type: ignore[call-overload]


def test_twice_differentiated_is_an_error() -> None:
    q, k, v = tensors(9, 9)
    sinks = torch.ones(2, requires_grad=True)
    (grad,) = torch.autograd.grad(
        compile(PI, "torch", score(sinks=True))(q, k, v, sinks=sinks).sum(), sinks, create_graph=True
    )
    with pytest.raises(BackendError, match="first derivatives only"):
        (grad.sum() + sinks.sum()).backward()


# -- the handle, torch.compile -----------------------------------------------------------------------------------


def test_what_a_kernel_says() -> None:
    s = score(softcap=50.0, alibi=True)
    kernel = compile(PI, "torch", s)
    assert repr(kernel) == f"pidsl.compile({PI!r}, backend='torch', score={s!r})"
    assert kernel is compile(PI, "torch", score(softcap=50.0, alibi=True)) is not compile(PI, "torch")
    assert pickle.loads(pickle.dumps(kernel)) is kernel
    assert kernel.plan.score == s and f"logits: {s!r}" in kernel.explain()


def test_compiled_in_one_graph() -> None:
    s = score(**PARTS["all"])
    kernel, given = compile(PI, "torch", s), numbers(s, 2)

    def model(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = kernel(q * 2, k, v, **given | {"slopes": slopes, "bias": bias})
        return out.sin()

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    results = []
    for function in (model, compiled):
        leaves = [x.requires_grad_() for x in (*tensors(9, 9), given["slopes"].clone(), given["bias"].clone())]
        out = function(*leaves)
        results.append([out, *torch.autograd.grad(out.sum(), leaves)])
    assert all(map(torch.equal, *results))


# -- the source --------------------------------------------------------------------------------------------------


def changed(backend: Any, before: Score, after: Score) -> list[str]:
    """Lines that differ between two programs for the same pattern."""
    sources = [compile(PI, backend, s).source().splitlines() for s in (before, after)]
    return [x for x in difflib.ndiff(*sources) if x[0] in "+-"]


def test_torch_source_has_a_line_per_part() -> None:
    source = compile(PI, "torch", score(softcap=50.0, bias=(0, 7))).source()
    assert "SCORE = Score(\n    softcap=50.0,\n    bias=(0, 7),\n)" in source
    assert changed("torch", score(softcap=50.0, alibi=True), score(softcap=30.0, alibi=True)) == [
        "-     softcap=50.0,", "+     softcap=30.0,",
    ]  # fmt: skip
    assert changed("torch", score(softcap=50.0), score(softcap=50.0, sinks=True)) == ["+     sinks=True,"]


def test_triton_source_is_readable() -> None:
    s = score(softcap=50.0, alibi=True, bias=(-1, 6), sinks=True, temperature=True, dropout=0.1)
    source = compile(window(5) | lags(20), "triton", s).source()
    ast.parse(source)
    assert max(map(len, source.splitlines())) <= 120
    assert f"The logits:\n\n    {s!r}\n" in source
    for line in (
        "logits, rate = _softcap(logits, 50.0 * 1.4426950408889634)",
        "logits -= slope * tl.abs(i - j).to(tl.float32)",
        "logits += tl.load(by_lag + _entry(i, j)) * 1.4426950408889634",
        "return tl.minimum(tl.maximum(i - j, -1), 6) + 1",
        "heat = tl.load(temperature + head)",
    ):
        assert f"    {line}\n" in source


def test_a_part_changes_its_own_lines_of_triton_source() -> None:
    lines = changed("triton", score(softcap=50.0, alibi=True), score(softcap=30.0, alibi=True))
    assert len(lines) == 4 and all("softcap" in x for x in lines)  # the header and the number
    lines = changed("triton", score(softcap=30.0), score(softcap=30.0, sinks=True))
    assert sum(x.startswith("-") for x in lines) == 1  # the header
    assert all(any(word in x for word in ("sinks", "top", "total", "softcap")) for x in lines if x[2:].strip())
    for parts in ({"bias": (0, 9)}, {"dropout": 0.1}, {"temperature": True}):
        lines = changed("triton", score(softcap=30.0, alibi=True), score(softcap=30.0, alibi=True, **parts))
        taken = [x[2:].strip() for x in lines if x.startswith("-")]  # of the library, a part takes its own branches
        assert all(x.startswith(("score(", "PATTERN = ")) for x in taken)
    plain = compile(PI, "triton").source()
    assert "KIND.SCORE(" not in plain and "slopes is not" not in plain


def test_a_kernel_leaves_the_sinks_as_they_were() -> None:
    q, k, v = tensors(1, 4, heads=2, kv_heads=1)
    sinks = torch.tensor([0.7, 1.2])
    kernel = compile(pidsl.neighborhood((2, 2), 1), "triton", score(sinks=True))  # goes on from an lse that holds them
    first = kernel(q, k, v, sinks=sinks)
    torch.testing.assert_close(sinks, torch.tensor([0.7, 1.2]))
    torch.testing.assert_close(kernel(q, k, v, sinks=sinks), first)
