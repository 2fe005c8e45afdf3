"""torch.compile and torch.export: one graph for all numbers of a call, equal to eager, and programs that travel."""

import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

import pidsl
from pidsl import causal, gate, heads, lags, layers, score, spans, stride, summaries, window
from pidsl.nn import PiAttention, SparseAttention, rotate
from pidsl.runtime import operator

NEAR, FAR = window(3), stride(5) & causal
PARTS = score(softcap=5.0, alibi=True, bias=(-3, 4), sinks=True, temperature=True, dropout=0.2)
SPANS = summaries(NEAR, [spans(4, pidsl.where(lambda i, j: 4 * j + 3 < i - 3))])
ROWS = summaries(NEAR, [spans(4, NEAR, of=of) for of in ("above", "beside", "row")])
HEADS = heads([(1, NEAR), (1, FAR)])


def compile(term: Any, backend: Any = "torch", **options: Any) -> Any:
    return pidsl.compile(term, backend=backend, **options)


def leaf(*shape: int) -> Tensor:
    return torch.rand(*shape).add(0.3).requires_grad_()


def qkv(n: int, m: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(1, 2, x, 16, requires_grad=True) for x in (n, m or n, m or n))


def learned(s: Any = PARTS) -> dict[str, Tensor]:
    shapes = {"slopes": (2,), "bias": (2, s.table), "sinks": (2,), "temperature": (2,)}
    return {name: leaf(*shapes[name]) for name in s.parameters if name in shapes}


def leaves(args: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(args) if isinstance(x, Tensor) and x.requires_grad]


def check(
    f: Callable[..., Any], calls: list[tuple[Any, ...]], backend: str = "aot_eager", dynamic: bool = True
) -> None:
    """The calls are one graph; results and gradients are those of eager calls."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    traced = torch.compile(f, backend=counter, fullgraph=True, dynamic=dynamic)
    for args in calls:
        results = []
        for run in (f, traced):
            found = torch.utils._pytree.tree_leaves(run(*args))
            total = sum(x.sin().sum() for x in found)
            results.append([*found, *torch.autograd.grad(total, leaves(args), allow_unused=True)])
        for a, b in zip(*results, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(
                    a, b, **({"rtol": 0, "atol": 0} if backend == "aot_eager" else {"rtol": 1e-5, "atol": 1e-4})
                )
    assert counter.frame_count == 1


OFFSETS = (3, 4, 100)


# -- offset, scale and seed --------------------------------------------------------------------------------------------


def with_offsets(*more: Callable[[], Any]) -> list[tuple[Any, ...]]:
    return [(*qkv(4, 30), p, *(x() for x in more)) for p in OFFSETS]


WRAPPERS: dict[str, tuple[Callable[..., Any], tuple[Callable[[], Any], ...]]] = {
    "plain": (lambda k: k(NEAR | FAR), ()),
    "heads": (lambda k: k(HEADS), ()),
    "reference": (lambda k: k(NEAR | FAR, "reference"), ()),
    "reference, score": (lambda k: k(NEAR | FAR, "reference", score=PARTS), (learned,)),
    "triton": (lambda k: k(NEAR, "triton"), ()),
    "triton, heads together": (lambda k: k(heads([(1, NEAR), (1, window(5))]), "triton"), ()),
    "score": (lambda k: k(NEAR | FAR, score=PARTS), (learned,)),
    "score, heads": (lambda k: k(HEADS, score=PARTS), (learned,)),
}


@pytest.mark.parametrize(("make", "more"), WRAPPERS.values(), ids=WRAPPERS)
def test_a_changing_offset_and_seed(make: Callable[..., Any], more: tuple[Callable[[], Any], ...]) -> None:
    kernel = make(compile)

    def f(q: Tensor, k: Tensor, v: Tensor, p: int, given: Any = None) -> Any:
        seed = {} if given is None else {"seed": p + 1}
        return kernel(q, k, v, offset=p, return_lse=True, **(given or {}), **seed)

    check(f, with_offsets(*more))


def test_a_changing_offset_of_gates_and_outputs() -> None:
    gated, scored = compile(gate(a=NEAR, b=FAR)), compile(gate(a=NEAR, b=FAR), score=PARTS)
    out = compile(NEAR, output_gate="head", affine=True)
    element = compile(HEADS, output_gate="element")

    def f(q: Tensor, k: Tensor, v: Tensor, p: int, w: Tensor, given: Any, g: Tensor, b: Tensor) -> Any:
        return (
            gated(q, k, v, w, offset=p),
            scored(q, k, v, w, offset=p, seed=p, **given),
            out(q, k, v, output_gate=g[..., 0], beta=b, offset=p),
            element(q, k, v, output_gate=g, offset=p),
        )

    check(f, with_offsets(lambda: leaf(1, 2, 4, 2), learned, lambda: leaf(1, 2, 4, 16), lambda: leaf(2)))


def test_a_changing_offset_of_layers_and_summaries() -> None:
    schedule, spanned = compile(layers([NEAR, HEADS, NEAR])), compile(SPANS)

    def f(q: Tensor, k: Tensor, v: Tensor, p: int, a: Tensor, b: Tensor) -> Any:
        out = q
        for kernel in schedule:
            out = kernel(out, k, v, offset=p)
        return schedule[1](out, k, v, offset=p), spanned(q, k, v, offset=p, summaries=[(a, b)], return_lse=True)

    check(f, with_offsets(*[lambda: leaf(1, 2, 8, 16)] * 2))


@pytest.mark.parametrize("term", [NEAR | FAR, HEADS, pidsl.ring(2)], ids=repr)
def test_an_offset_from_lengths(term: Any) -> None:
    kernel = compile(term)
    check(lambda q, k, v: kernel(q, k, v, offset=k.shape[2] - q.shape[2]), [qkv(3, 8), qkv(3, 9), qkv(5, 17)])


def test_the_second_offset_is_the_last_graph() -> None:
    """Without `dynamic=True` torch takes the first number for a constant, and the second for one that varies."""
    kernel = compile(NEAR | FAR)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    traced = torch.compile(lambda q, k, v, p, s: kernel(q, k, v, offset=p, scale=s), backend=counter, fullgraph=True)
    q, k, v = qkv(4, 30)
    for p in (5, 6, 7, 100):
        assert torch.equal(traced(q, k, v, p, p / 7), kernel(q, k, v, offset=p, scale=p / 7))
    assert counter.frame_count == 2


SCALED = {
    "plain": lambda: compile(NEAR | FAR),
    "heads": lambda: compile(HEADS),
    "score": lambda: compile(NEAR, score=score(softcap=3.0)),
    "summaries": lambda: compile(SPANS),
}


@pytest.mark.parametrize("make", SCALED.values(), ids=SCALED)
def test_a_changing_scale(make: Callable[[], Any]) -> None:
    kernel = make()
    check(lambda q, k, v, s: kernel(q, k, v, scale=s), [(*qkv(9), s) for s in (0.1, 0.25, 1.5)])


def test_other_scales() -> None:
    kernel, own = compile(NEAR), compile(NEAR, score=score(scale=0.3))
    check(lambda q, k, v, s: kernel(q, k, v, scale=s), [(*qkv(9), s) for s in (2, 3, 7)])
    check(lambda q, k, v: kernel(q, k, v, scale=1 / q.shape[2]) + own(q, k, v), [qkv(n) for n in (8, 9, 12)])
    gated = compile(gate(a=NEAR, b=FAR))
    check(lambda q, k, v, w, s: gated(q, k, v, w, scale=s), [(*qkv(9), leaf(1, 2, 9, 2), s) for s in (0.1, 0.2)])


@torch._dynamo.config.patch(capture_scalar_outputs=True)
def test_an_offset_that_is_data() -> None:
    kernel = compile(NEAR | FAR)
    f = lambda q, k, v, p: kernel(q, k, v, offset=p.item())  # noqa: E731
    check(f, [(*qkv(4, 30), torch.tensor(p)) for p in OFFSETS])
    with pytest.raises(pidsl.ArgumentError, match="offset: -1"):
        torch.compile(f, backend="aot_eager")(*qkv(4, 30), torch.tensor(-1))

    class Model(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, p: Tensor) -> Any:
            return f(q, k, v, p)

    model = torch.export.export(Model(), (*qkv(4, 30), torch.tensor(5))).module()  # knows nothing of the offset
    args = qkv(4, 30)
    assert torch.equal(model(*args, torch.tensor(7)), kernel(*args, offset=7))
    with pytest.raises(pidsl.ArgumentError, match="offset: -1"):
        model(*args, torch.tensor(-1))


@pytest.mark.parametrize("term", [SPANS, ROWS], ids=["blocks", "rows"])
def test_summaries_of_any_length(term: Any) -> None:
    kernel = compile(term)
    check(lambda q, k, v: kernel(q, k, v), [qkv(n) for n in (9, 14, 16, 31)])


def test_inductor() -> None:
    """The whole of torch.compile, once: a changing offset and scale, results changed in place, parameters of heads."""
    kernel = compile(HEADS, score=score(sinks=True))

    def f(q: Tensor, k: Tensor, v: Tensor, p: int, s: float, sinks: Tensor) -> Tensor:
        out = kernel(q.sin(), k, v, offset=p, scale=s, sinks=sinks)
        out += 1
        return out.mul_(2)

    check(f, [(*qkv(4, 30), p, p / 9, leaf(2)) for p in OFFSETS], backend="inductor")


# -- modules, and kernels made while torch traces ----------------------------------------------------------------------

MODULES = {
    "pi": lambda: PiAttention(16, 2, 3, 5),
    "pi, comb, rope": lambda: PiAttention(16, 2, 3, 5, rope=1e4, skip="comb"),
    "pi, both": lambda: PiAttention(16, 2, 3, 5, skip="both", causal=False),
    "sparse, rope": lambda: SparseAttention(16, 2, NEAR, rope=1e4),
    "sparse, all": lambda: SparseAttention(16, 2, HEADS, rope=500.5, output_gate="element", affine=True, kv_heads=1),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_modules(make: Callable[[], torch.nn.Module]) -> None:
    check(make(), [(torch.randn(1, n, 16, requires_grad=True),) for n in (9, 14, 20)])


MADE: dict[str, Callable[[], Any]] = {
    "a term from outside": lambda: pidsl.compile(NEAR | FAR),
    "words": lambda: pidsl.compile(pidsl.window(3) | (pidsl.stride(8) & pidsl.causal).shift(1)),
    "text": lambda: pidsl.compile(pidsl.parse("window(3) | lags(7)")),
    "heads": lambda: pidsl.compile(pidsl.heads([(1, NEAR), (1, pidsl.window(5))]), "triton"),
    "score": lambda: pidsl.compile(pidsl.window(3), score=pidsl.score(softcap=3.0)),
    "layers": lambda: pidsl.compile(pidsl.layers([NEAR, FAR]))[1],
    "affine": lambda: pidsl.compile(NEAR, affine=True),
    "summaries": lambda: pidsl.compile(ROWS),
}


@pytest.mark.filterwarnings("error:Dynamo detected")
@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_compile_inside_a_compiled_function(make: Callable[[], Any]) -> None:
    check(lambda q, k, v: make()(q, k, v), [qkv(n) for n in (9, 14)])


def test_a_gate_inside_a_compiled_function() -> None:
    f = lambda q, k, v, w: pidsl.compile(pidsl.gate(a=NEAR, b=FAR))(q, k, v, w)  # noqa: E731
    check(f, [(*qkv(n), leaf(1, 2, n, 2)) for n in (9, 14)])


# -- the ops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [None, 0.3], ids=["number", "tensor"])
@pytest.mark.parametrize(
    ("backend", "parts"),
    [("torch", None), ("torch", PARTS), ("torch", score(softcap=3.0)), ("reference", PARTS)],
    ids=["plain", "score", "score without inputs", "reference"],
)
def test_the_operators_keep_their_promises(backend: str, parts: Any, factor: float | None) -> None:
    q, k, v = qkv(9)
    given = {} if parts is None else learned(parts)
    inputs = [given[name] for name in sorted(given)]
    scale = None if factor is None else torch.tensor(factor, dtype=torch.float64)
    program = f"{NEAR | lags(7)!r}; {parts or ''}; {backend}"
    rest = scale, program, 0.25, [3, 0, 5]
    torch.library.opcheck(operator.attention, (q, k, v, inputs, *rest))
    with torch.no_grad():
        tensors = [x.detach() for x in (q, k, v, *inputs)]
        torch.library.opcheck(operator.attention, (*tensors[:3], tensors[3:], *rest))
        results = list(operator.attention(*tensors[:3], tensors[3:], *rest))
    ones = [torch.ones_like(x) for x in results]
    for grads in (ones, [ones[0], None], [None, None]):
        for learns in (True, False) if parts else (False,):
            torch.library.opcheck(operator.attention_backward, (tensors, results, grads, *rest, learns))
    empty = [x[:, :, :0] for x in tensors[:3]]
    torch.library.opcheck(operator.attention, (*empty, tensors[3:], *rest))


def test_no_second_derivative_of_the_op() -> None:
    out, _ = operator.attention(*(given := qkv(9)), [], None, f"{NEAR!r}; ; torch", 0.25, [0, 0, 0])
    (dq,) = torch.autograd.grad(out.sum(), given[0], create_graph=True)
    with pytest.raises(pidsl.BackendError, match=r"the gradient of the kernel of window\(3\)"):
        dq.sum().backward()


# -- export ------------------------------------------------------------------------------------------------------------


class Step(torch.nn.Module):
    """A decoding step: the newest queries, and a cache that grows."""

    def __init__(self, kernel: Any, **options: Any) -> None:
        super().__init__()
        self.kernel, self.options = kernel, options

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        first = k.shape[2] - q.shape[2]
        return self.kernel(rotate(q, 1e4, first), rotate(k, 1e4), v, offset=first, **self.options)


N, M = Dim("n", min=2, max=1 << 20), Dim("m", min=2, max=1 << 20)
TOKENS = ({1: N},)
CACHE = ({}, {2: M}, {2: M})
EXPORTED: dict[str, tuple[Callable[[], torch.nn.Module], Any]] = {
    **{name: (make, TOKENS) for name, make in MODULES.items()},
    "step": (lambda: Step(compile(NEAR | FAR)), CACHE),
    "step, heads": (lambda: Step(compile(HEADS)), CACHE),
    "step, gate": (lambda: Step(compile(gate(a=NEAR, b=FAR)), weights=torch.ones(1, 2, 1, 2)), CACHE),
    "step, score": (lambda: Step(compile(FAR, score=score(softcap=4.0, sinks=True)), sinks=torch.ones(2)), CACHE),
    "step, output": (lambda: Step(compile(NEAR, affine=True), beta=0.3, scale=0.2), CACHE),
}


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize(("make", "dynamic"), EXPORTED.values(), ids=EXPORTED)
def test_export_with_a_dynamic_length(make: Callable[[], torch.nn.Module], dynamic: Any, strict: bool) -> None:
    model = make()
    inputs = [(torch.randn(1, n, 16),) if dynamic is TOKENS else qkv(1, n) for n in (9, 4, 30)]
    exported = torch.export.export(model, inputs[0], dynamic_shapes=dynamic, strict=strict)
    for args in inputs:
        torch.testing.assert_close(exported.module()(*args), model(*args), rtol=0, atol=0)


@pytest.mark.parametrize(
    "first",
    [
        "import pidsl\nimport torch", "import torch\nimport pidsl",
        pytest.param("import pidsl.nn, torch", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_an_export_loads_where_pidsl_is_imported(first: str, tmp_path: Any) -> None:
    model = Step(compile(heads([(1, window(3) | lags(11)), (1, FAR)]), score=score(softcap=4.0)))
    args = qkv(1, 9)
    file, longer = tmp_path / "step.pt2", [x.detach() for x in qkv(1, 40)]
    torch.export.save(torch.export.export(model, args, dynamic_shapes=CACHE), file)
    torch.save((longer, model(*longer)), tmp_path / "case.pt")
    code = textwrap.dedent("""
        step = torch.export.load("step.pt2").module()
        args, want = torch.load("case.pt")
        print(torch.equal(step(*args), want))
    """)
    done = subprocess.run(
        [sys.executable, "-c", f"{first}\n{code}"], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "True"


def test_an_export_holds_the_recipe() -> None:
    exported = torch.export.export(Step(compile(HEADS, score=score(softcap=4.0))), qkv(1, 9), dynamic_shapes=CACHE)
    file = io.BytesIO()
    torch.export.save(exported, file)
    text = str(exported.graph)
    assert repr(NEAR) in text and repr(FAR) in text and "score(softcap=4.0)" in text


def test_importing_registers_the_ops_without_importing_dynamo() -> None:
    code = """
import sys, torch
before = set(sys.modules)
import pidsl
assert hasattr(torch.ops.pidsl, "attention") and hasattr(torch.ops.pidsl, "attention_backward")
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new & {"islpy", "sympy", "z3", "triton"}), "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
