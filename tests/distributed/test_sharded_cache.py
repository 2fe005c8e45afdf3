"""A cache that ranks share against all keys on one device: results, and what each rank holds."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import replace

import gloo
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl.distributed.running.dealt import dealt
from pidsl.distributed.running.decode import SharedCache
from pidsl.errors import ArgumentError, BackendError
from pidsl.testing import terms

HKV, GROUP, D, DV = 2, 2, 4, 3
BY_ENTRY = "weights", "output_gate", "blocks"
EXACT = {"batch": 2, "head_dim": D, "dtype": torch.float64, "device": "cpu"}


class Keys:
    """All keys that there are, by batch entry; the slow, obvious side."""

    def __init__(self, seed, batch, dtype, head_dim=D, value_dim=None, **_):
        self.widths = head_dim, value_dim or head_dim
        self.k, self.v = ([torch.empty(HKV, 0, d, dtype=dtype) for _ in range(batch)] for d in self.widths)
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def drawn(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def new(self, count, lengths):
        k, v = (self.drawn(len(self.k), HKV, count, d) for d in self.widths)
        for b, real in enumerate(lengths or [count] * len(self.k)):
            self.k[b], self.v[b] = (torch.cat([held[b], x[b, :, :real]], 1) for held, x in ((self.k, k), (self.v, v)))
        return k, v

    def crop(self, tokens):
        self.k, self.v = ([x[:, :tokens] for x in held] for held in (self.k, self.v))

    def reorder(self, indices):
        self.k, self.v = ([held[b] for b in indices] for held in (self.k, self.v))

    def attended(self, kernel, q, inputs):
        """(out, lse) of the last rows, of each batch entry by a call of its own."""
        found = []
        for b, (k, v) in enumerate(zip(self.k, self.v, strict=True)):
            own = {
                name: x[b : b + 1] if name in ("weights", "output_gate", "blocks") else x for name, x in inputs.items()
            }
            offset = torch.tensor([k.shape[1] - q.shape[2]])
            found.append(kernel(q[b : b + 1], k[None], v[None], offset=offset, return_lse=True, **own))
        return tuple(torch.cat(x) for x in zip(*found, strict=True))


def played(steps, keys, cache, ask):
    """What `ask(q)` gives at each step that asks, after the steps before it."""
    found = []
    for kind, *what in steps:
        if kind == "append":
            count, lengths = what
            k, v = keys.new(count, lengths)
            if cache is not None:
                cache.append(k, v, lengths=None if lengths is None else torch.tensor(lengths))
        elif kind == "decode":
            found.append(ask(keys.drawn(len(keys.k), HKV * GROUP, what[0], keys.widths[0])))
        elif kind == "crop":
            keys.crop(what[0])
            if cache is not None:
                cache.crop(what[0])
        else:
            keys.reorder(what[0])
            if cache is not None:
                cache.reorder(torch.tensor(what[0]))
    return found


def on_ranks(group, recipe, steps, seed, options, inputs):
    kernel = pidsl.compile(pidsl.parse(recipe))
    keys, cache = Keys(seed, **options), SharedCache(kernel, kv_heads=HKV, group=group, **options)
    found = played(steps, keys, cache, lambda q: kernel.decode(q, cache, return_lse=True, **inputs))
    return found, cache.nbytes, cache.positions, cache.proof.check()


def on_one(recipe, steps, seed, options, inputs):
    """By dense attention over all keys."""
    kernel = pidsl.compile(
        replace(pidsl.parse(recipe.replace(" & documents", "")), backend="reference")
    )  # of one sequence, a document
    keys = Keys(seed, **options)
    return played(steps, keys, None, lambda q: keys.attended(kernel, q, inputs))


def check(ranks, recipe, steps, options=None, inputs=None, seed=0, tolerance=1e-12):
    options, inputs = {**EXACT, **(options or {})}, inputs or {}
    expected = on_one(recipe, steps, seed, options, inputs)
    found = gloo.run(ranks, on_ranks, recipe, steps, seed, options, inputs)
    for results, _, _, proved in found:
        assert proved
        for (out, lse), (dense, dense_lse), (first, first_lse) in zip(results, expected, found[0][0], strict=True):
            torch.testing.assert_close(out, dense, atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(lse, dense_lse, atol=tolerance, rtol=tolerance)
            assert torch.equal(out, first) and torch.equal(lse, first_lse)  # the same bits on all ranks
    return found


PROMPT = [("append", 21, None), ("decode", 1), ("append", 1, None), ("decode", 1), ("append", 1, None), ("decode", 1)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "pattern",
    [
        "causal",
        "window(6)",
        "(window(3) | keys(0, 2)) & causal",
        "(window(3) | keys(0, None, 4)) & causal",
        "keys(0, 2) & causal",
        "heads([(3, window(3)), (1, causal)])",
    ],
)
def test_patterns(pattern, ranks):
    check(ranks, f"compile({pattern}, backend='torch')", PROMPT)


@pytest.mark.parametrize(
    ("recipe", "inputs"),
    [
        ("compile(gate(near=window(3), far=causal), backend='torch')", {"weights": (2, HKV * GROUP, 1, 2)}),
        ("compile(window(5), backend='torch', score=score(sinks=True, softcap=5.0))", {"sinks": (HKV * GROUP,)}),
        ("compile(gate(a=window(2), b=stride(3) & causal), backend='torch', score=score(sinks=True, alibi=True))",
         {"sinks": (HKV * GROUP,), "slopes": (HKV * GROUP,), "weights": (2, HKV * GROUP, 1, 2)}),
        ("compile(causal, backend='torch', score=score(bias=(0, 4), temperature=True))",
         {"bias": (HKV * GROUP, 5), "temperature": (HKV * GROUP,)}),
        ("compile(window(9), backend='torch', output_gate='head')", {"output_gate": (2, HKV * GROUP, 1)}),
        ("compile(causal & documents, backend='torch')", {}),
    ],
)  # fmt: skip
def test_what_kernels_are_given(recipe, inputs):
    generator = torch.Generator().manual_seed(5)
    given = {name: torch.rand(*shape, generator=generator, dtype=torch.float64) for name, shape in inputs.items()}
    check(3, recipe, PROMPT, inputs=given)


def test_dropout_is_that_of_one_device():
    recipe = "compile(heads([(2, window(9)), (2, causal)]), backend='torch', score=score(dropout=0.4))"
    check(3, recipe, PROMPT, {"batch": 1}, {"seed": 7})  # the mask of a sequence depends on its place in the batch


def test_chosen_blocks():
    blocks = torch.tensor([[0, 4], [2, -1]], dtype=torch.int32).view(2, 1, 1, 2)
    steps = [("append", 21, None), ("decode", 1)]
    check(3, "compile(chosen(4, 2, 1) | window(1), backend='torch')", steps, inputs={"blocks": blocks})


@pytest.mark.parametrize("options", [{}, {"max_tokens": 40}, {"page_size": 4}, {"page_size": 2, "layout": "HND"}])
def test_batches_with_lengths_that_go_back_and_change_places(options):
    steps = [
        ("append", 9, [9, 4]), ("decode", 1), ("append", 3, [1, 3]), ("decode", 2), ("append", 2, None), ("decode", 3),
        ("reorder", [1, 0]), ("decode", 1), ("append", 1, [0, 1]), ("decode", 2), ("reorder", [0, 0]), ("crop", 9),
        ("append", 1, None), ("decode", 1),
    ]  # fmt: skip
    check(4, "compile((window(5) | keys(0, 2)) & causal, backend='torch')", steps, {"lookahead": 3, **options})


def test_values_of_another_width_in_half_precision():
    check(3, "compile(window(30), backend='torch')", PROMPT, {"value_dim": DV, "dtype": torch.bfloat16}, tolerance=2e-2)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12), st.sampled_from([None, [0, 1], [1, 1]])),
        st.tuples(st.just("decode"), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=5,
)


@given(terms(2), st.integers(1, 8), STEPS, st.sampled_from([{}, {"page_size": 3}]), st.integers(0, 99))
@settings(max_examples=settings.default.max_examples // 5)
def test_random_patterns(term, ranks, steps, options, seed):
    steps = [("append", 15, [15, 6]), *steps, ("decode", 1)]
    check(ranks, f"compile({term!r}, backend='torch')", steps, {"lookahead": 2, **options}, seed=seed)


# -- what each rank holds ----------------------------------------------------------------------------------------


def _held(group, recipe, tokens, options):
    kernel = pidsl.compile(pidsl.parse(recipe))
    sizes = 1, HKV, D, torch.float32, "cpu"
    whole = pidsl.Cache(kernel, *sizes, **options)
    cache = SharedCache(kernel, *sizes, group=group, **options)
    for at in range(0, tokens, 5000):
        new = torch.zeros(1, HKV, min(5000, tokens - at), D)
        whole.append(new, new)
        cache.append(new, new)
    return whole.nbytes, cache.nbytes, repr(cache)


@pytest.mark.parametrize(
    ("pattern", "options", "most"),
    [
        ("causal", {}, 0.26),
        ("causal", {"page_size": 16, "max_tokens": 20000}, 0.26),
        ("window(4095)", {}, 0.26),
        ("window(4095)", {"page_size": 16}, 0.31),
        ("(window(63) | keys(0, None, 16)) & causal", {"max_tokens": 20000}, 0.29),
        ("heads([(2, window(1023)), (2, window(63) | keys(0, 4) & causal)])", {}, 0.27),
        ("where(lambda i, j: (j <= i) & (i <= 2 * j))", {"max_tokens": 20000}, 0.26),
    ],
)
def test_a_rank_holds_its_share_of_the_bytes(pattern, options, most):
    for whole, own, said in gloo.run(4, _held, f"compile({pattern}, backend='torch')", 20000, options):
        assert own <= most * whole, said


def test_what_a_rank_may_hold_is_proved():
    of_rank = pidsl.window(63) & dealt((pidsl.window(63),), 4).kept_by(1)
    bound = of_rank.live()
    assert bound.proof is not None and all(15 <= bound(t=t) <= 16 for t in range(100, 120))


# -- modules, layers, backends -----------------------------------------------------------------------------------


def _module(group, pattern, select):
    torch.manual_seed(3)
    layer = pidsl.nn.SparseAttention(
        32, 4, pidsl.parse(pattern), kv_heads=2, rope=100.0, select=select, backend="torch"
    )
    x, sizes = torch.randn(2, 20, 32), (2, 2, 8, torch.float32, "cpu")
    results = []
    for cache in (pidsl.Cache(layer.kernel, *sizes), SharedCache(layer.kernel, *sizes, group=group)):
        with torch.no_grad():
            prompt = layer(x[:, :17], lengths=torch.tensor([17, 9]), cache=cache)
            results.append([prompt, *(layer(x[:, t : t + 1], cache=cache) for t in (17, 18, 19))])
    return results


@pytest.mark.parametrize(
    ("pattern", "select"),
    [("window(6)", None), ("chosen(4, 2, 4) | window(3)", pidsl.select.MoBA(block=4, budget=2, queries=4))],
)
def test_a_module_decodes_with_it(pattern, select):
    for one, shared in gloo.run(3, _module, pattern, select):
        for a, b in zip(one, shared, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def _compiled(group):
    torch.manual_seed(3)
    layer = pidsl.nn.SparseAttention(32, 4, pidsl.window(6), kv_heads=2, backend="torch")
    x, sizes = torch.randn(1, 5, 32), (1, 2, 8, torch.float32, "cpu", group)
    results = []
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (layer, torch.compile(layer, backend="eager")):
            cache = SharedCache(layer.kernel, *sizes, max_tokens=8)
            results.append([call(x[:, t : t + 1], cache=cache) for t in range(5)])
    return results


def test_a_compiled_module():
    for plain, compiled in gloo.run(2, _compiled):
        for a, b in zip(plain, compiled, strict=True):
            torch.testing.assert_close(a, b)


def _after_a_prompt(group):
    kernel = pidsl.compile(pidsl.window(5), backend="torch")
    parallel = pidsl.distributed.ContextParallel(kernel, group)
    cache = SharedCache(kernel, 1, HKV, D, torch.float64, "cpu", group=group)
    keys = Keys(0, 1, torch.float64)
    k, v = keys.new(20, None)
    q = keys.drawn(1, HKV * GROUP, 20, D)
    own = [parallel.shard(x) for x in (q, k, v)]
    prompt = parallel.unshard(parallel(*own))
    cache.append(parallel.unshard(own[1]), parallel.unshard(own[2]))
    cache.append(*keys.new(1, None))
    step = keys.drawn(1, HKV * GROUP, 1, D)
    return (prompt, kernel(q, k, v)), (kernel.decode(step, cache), keys.attended(kernel, step, {})[0])


def test_after_a_prompt_whose_tokens_are_shared_out():
    for pairs in gloo.run(3, _after_a_prompt):
        for found, expected in pairs:
            torch.testing.assert_close(found, expected)


def _layered(group):
    kernels = pidsl.compile(pidsl.layers([pidsl.window(3), pidsl.causal]), backend="torch")
    caches = SharedCache(kernels, 1, HKV, D, torch.float64, "cpu", group=group)
    keys = [Keys(layer, 1, torch.float64) for layer in range(2)]
    new = [own.new(9, None) for own in keys]
    caches.append([k for k, _ in new], [v for _, v in new])
    assert caches.serves(kernels)
    found = []
    for own, kernel, cache in zip(keys, kernels, caches, strict=True):
        q = own.drawn(1, HKV * GROUP, 1, D)
        found.append((kernel.decode(q, cache), own.attended(kernel, q, {})[0]))
    held = [sorted(positions.tolist()) for positions in caches.resume(9)]
    caches.crop(9)
    caches.clear()
    return found, caches.tokens.tolist(), held


def test_layers():
    results = gloo.run(2, _layered)
    assert [held for _, _, held in results] == [[[6, 8], [0, 2, 4, 6, 8]], [[5, 7], [1, 3, 5, 7]]]
    for found, tokens, _ in results:
        assert tokens == [0]
        for out, expected in found:
            torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(("pattern", "ranks"), [("window(6) | keys(0, 2) & causal", 2), ("keys(0, 2) & causal", 3)])
@pytest.mark.parametrize("more", [{}, {"page_size": 4}])
def test_triton(pattern, ranks, more):
    options = {"dtype": torch.float32, "batch": 1, "head_dim": 16, **more}
    check(ranks, f"compile({pattern}, backend='triton')", PROMPT[:4], options, tolerance=1e-5)


# -- what goes wrong ---------------------------------------------------------------------------------------------
# follows the hints of pidsl/distributed/running/decode.py: _refuse_sums, _refuse_gated_gates


def _said(group, fault):
    rank = dist.get_rank(group)
    recipe = f"compile(window({5 if fault == 'pattern' and rank == 1 else 4}), backend='torch', affine=True)"
    kernel, q = pidsl.compile(pidsl.parse(recipe)), torch.zeros(1, 4, 1, D)
    try:
        cache = SharedCache(kernel, 1, HKV, D, torch.float32, "cpu", group=group)
        cache.append(*torch.zeros(2, 1, HKV, 7 if fault == "step" and rank == 1 else 6, D))
        if fault == "query":
            q = q[:, :2] if rank == 1 else q
        if fault == "other kernel":
            kernel = pidsl.compile(pidsl.causal, backend="torch")
        kernel.decode(q, cache, **{"beta": 0.5 if fault == "beta" else 0} if fault != "other kernel" else {})
    except ArgumentError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("pattern", "cache: rank 1 has window(5), batch=1, kv_heads=2, head_dim=4, dtype=torch.float32, the others"),
        ("step", "step: rank 1 has 7 tokens appended, 0 crops, 0 reorders, the others 6 tokens appended, 0 crops"),
        ("query", "q: rank 1 has [1, 2, 1, 4] torch.float32, the others [1, 4, 1, 4] torch.float32"),
        ("other kernel", "cache: pidsl.distributed.SharedCache(window(4); rank"),
        ("beta", "beta = 0.5 (compile(window(4), backend='torch', affine=True))"),
        ("none", ""),
    ],
)  # fmt: skip
def test_refused_on_every_rank(fault, said):
    texts = gloo.run(3, _said, fault)
    assert all(text.startswith(said) and bool(text) == bool(said) for text in texts), texts[0]


def _gated(group):
    of, sizes = "gate(a=window(2), b=causal)", (1, HKV, D, torch.float64, "cpu")
    gated, plain = (
        pidsl.compile(pidsl.parse(f"compile({of}, backend='torch'{x})")) for x in (", output_gate='head'", "")
    )
    with pytest.raises(ArgumentError, match="a gate without an output gate") as refused:
        SharedCache(gated, *sizes, group=group)
    one, shared = pidsl.Cache(gated, *sizes), SharedCache(plain, *sizes, group=group)
    k, v, q = (torch.randn(1, heads, 7, D, dtype=torch.float64) for heads in (HKV, HKV, HKV * GROUP))
    one.append(k, v)
    shared.append(k, v)
    q, weights, logits = (
        q[:, :, :1],
        torch.rand(1, 4, 1, 2, dtype=torch.float64),
        torch.randn(1, 4, 1, dtype=torch.float64),
    )
    expected = gated.decode(q, one, weights, output_gate=logits)
    torch.testing.assert_close(plain.decode(q, shared, weights) * torch.sigmoid(logits)[..., None], expected)
    return str(refused.value).splitlines()[-1]


def test_a_gate_with_an_output_gate():
    hint = "  try: pidsl.compile(gate), and what it decodes times torch.sigmoid(output_gate)"
    assert gloo.run(2, _gated) == [hint] * 2


def _silent(group):
    """One rank dies between two steps."""
    kernel = pidsl.compile(pidsl.causal, backend="torch")
    cache = SharedCache(kernel, 1, HKV, D, torch.float32, "cpu", group=group)
    cache.append(*torch.zeros(2, 1, HKV, 5, D))
    kernel.decode(torch.zeros(1, 4, 1, D), cache)
    if dist.get_rank(group) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        kernel.decode(torch.zeros(1, 4, 1, D), cache)
    except BackendError as error:
        return str(error)


def test_a_rank_that_dies_is_named():
    one, died, other = gloo.fresh(3, _silent, timeout=5)
    assert died == gloo.Died(-9)
    assert all(text.startswith("rank 1 died or did not come") for text in (one, other))
