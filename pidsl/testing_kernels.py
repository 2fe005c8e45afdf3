"""The part of `pidsl.testing` that calls kernels; import it from there. torch is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from hypothesis import strategies as st

from pidsl.language.heads import Heads
from pidsl.language.terms import Term

if TYPE_CHECKING:
    from torch import Tensor

    from pidsl.runtime.kernels.kernel import Kernel

DTYPES = ("float32", "float32", "float16", "float64")  # the first is drawn more often
LAYOUTS = ("plain", "tokens first", "expanded", "sliced")
# of out, lse and gradients, relative and absolute
TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 1e-2, "bfloat16": 8e-2}


@dataclass(frozen=True, slots=True)
class Shapes:
    """The sizes of one call: q `[batch, heads, n, head_dim]`, k `[batch, kv_heads, m, head_dim]`, v likewise."""

    batch: int
    heads: int
    kv_heads: int
    n: int
    m: int
    head_dim: int
    value_dim: int
    offset: int
    key_offset: int = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """One call of a kernel."""

    q: Tensor
    k: Tensor
    v: Tensor
    offset: int
    key_offset: int = 0


@st.composite
def shapes(
    draw: st.DrawFn, longest: int = 64, *, square: bool = False, head_dims: Sequence[int] = (8, 16, 40),
    offsets: Sequence[int] = (0, 0, 1, 17), key_offsets: Sequence[int] = (0,),
) -> Shapes:  # fmt: skip
    """Sizes of a call: no rows, one row, fewer keys than rows, groups of query heads, head dims that differ.

    Args:
        longest: greatest number of queries and of keys.
        square: as many positions of keys as of queries (n + offset == m + key_offset), which patterns with a ring ask
            for.
        head_dims: head dims of q and k, and those of v, are drawn from these.
        offsets: positions of the first query are drawn from these.
        key_offsets: positions of the first key, likewise.

    Returns:
        A strategy of `Shapes`.
    """
    n, offset, key_offset = (
        draw(st.integers(0, longest)),
        *(draw(st.sampled_from(tuple(x))) for x in (offsets, key_offsets)),
    )
    key_offset = min(key_offset, n + offset) if square else key_offset
    m = n + offset - key_offset if square else draw(st.sampled_from((n, n + offset)) | st.integers(0, longest))
    kv_heads, group = draw(st.sampled_from(((1, 1), (2, 1), (1, 2), (2, 2), (1, 4))))
    dims = st.sampled_from(tuple(head_dims))
    batch, heads = draw(st.sampled_from((1, 2))), kv_heads * group
    return Shapes(batch, heads, kv_heads, n, m, draw(dims), draw(dims), offset, key_offset)


@st.composite
def inputs(
    draw: st.DrawFn, of: Shapes | st.SearchStrategy[Shapes] | None = None, *, dtypes: Sequence[str] = DTYPES,
    device: str = "cpu",
) -> Inputs:  # fmt: skip
    """q, k, v of standard normal numbers, in any dtype and with any strides.

    Args:
        of: sizes, or a strategy of them; default: `shapes()`.
        dtypes: names of torch dtypes.
        device: where the tensors are.

    Returns:
        A strategy of `Inputs`. Tensors are contiguous, transposed views, expanded over heads, or slices.
    """
    import torch

    s = of if isinstance(of, Shapes) else draw(shapes() if of is None else of)
    dtype = getattr(torch, draw(st.sampled_from(tuple(dtypes))))
    made = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    layout = draw(st.sampled_from(LAYOUTS))

    def tensor(heads: int, rows: int, columns: int) -> Tensor:
        x = torch.randn(s.batch, heads, rows, columns, generator=made, dtype=torch.float64)
        return _laid(x.to(device, dtype), layout)

    q = tensor(s.heads, s.n, s.head_dim)
    k, v = (tensor(s.kv_heads, s.m, columns) for columns in (s.head_dim, s.value_dim))
    return Inputs(q, k, v, s.offset, s.key_offset)


def _laid(x: Tensor, layout: str) -> Tensor:
    """The same shape with other strides."""
    import torch

    match layout:
        case "tokens first":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "expanded":
            return x[:1, :1].expand(x.shape)
        case "sliced":
            return torch.cat([x, x], -1).repeat_interleave(2, 2)[:, :, ::2, : x.shape[3]]
    return x


def assert_matches_dense(
    term_or_kernel: Term | Heads | Kernel | Callable[..., Any], given: Inputs, *, term: Term | Heads | None = None,
    backend: Literal["auto", "triton", "torch", "reference"] = "auto", scale: float | None = None,
    tolerance: float | None = None, backward: bool = True, parameters: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Output, log-sum-exp and the gradients of q, k and v equal those of dense attention, computed in float64.

    With a score, the judge is the reference backend in float64, and the gradients of the parameters are compared too.

    Args:
        term_or_kernel: a pattern or heads, which are compiled; a compiled kernel; or any function that is called as a
            kernel is: `f(q, k, v, offset=..., scale=..., return_lse=True) -> (out, lse)`, with `key_offset=...` where
            that is not 0.
        given: what it is called with.
        term: the pattern of a function that is no kernel.
        backend: what a pattern is compiled for.
        scale: factor on the scores; default 1 / sqrt(head_dim).
        tolerance: relative and absolute; default by dtype: 1e-9, 2e-5, 1e-2, 8e-2 for float64, 32, 16, bfloat16.
        backward: whether to compare gradients, taken through the output and the lse.
        parameters: of the score, for a kernel compiled with one: tensors, and `seed`.

    Raises:
        AssertionError: a difference, or a wrong shape or dtype, with the pattern and the sizes.
        ValueError: a function without its pattern.
    """
    import torch

    from pidsl.runtime.compile import compile
    from pidsl.runtime.kernels.kernel import Kernel

    kernel: Callable[..., Any]
    pattern: Term | Heads
    if isinstance(term_or_kernel, Term | Heads):
        pattern, kernel = term_or_kernel, compile(term_or_kernel, backend)
    else:
        kernel = term_or_kernel
        found: Any = kernel.term if isinstance(kernel, Kernel) else term
        if found is None:
            raise ValueError("term=... is needed beside a function that is no kernel")
        pattern = found
    score = kernel.score if isinstance(kernel, Kernel) else None
    q, k, v = (x.detach().requires_grad_(backward) for x in (given.q, given.k, given.v))
    numbers = dict(parameters or {})
    learned = {name: x.detach().requires_grad_(backward) for name, x in numbers.items() if isinstance(x, torch.Tensor)}
    positions: dict[str, Any] = {"offset": given.offset} | (
        {"key_offset": given.key_offset} if given.key_offset else {}
    )
    out, lse = kernel(q, k, v, **positions, scale=scale, return_lse=True, **numbers | learned)
    if score is not None:
        wide = [x.double() for x in (q, k, v)]
        same = numbers | {name: x.double() for name, x in learned.items()}
        judge: Callable[..., Any] = compile(pattern, "reference", score)
        exact, exact_lse = judge(*wide, **positions, scale=scale, return_lse=True, **same)
    else:
        exact, exact_lse = _dense(pattern, replace(given, q=q, k=k, v=v), scale)
    name = str(q.dtype).removeprefix("torch.")
    allowed = TOLERANCES[name] if tolerance is None else tolerance
    scored = "" if score is None else f", {score!r}"
    sizes = ", ".join(f"{letter} {list(x.shape)}" for letter, x in (("q", q), ("k", k), ("v", v)))
    stand = ", ".join(f"{name} {x}" for name, x in positions.items())
    where = f"{pattern!r}{scored}, {sizes}, {stand}, {name}"

    def close(what: str, got: Tensor, want: Tensor, within: float) -> None:
        def message(text: str) -> str:
            return f"{what} of {where}\n{text}"

        torch.testing.assert_close(got.double(), want, rtol=within, atol=within, msg=message)

    assert out.dtype == q.dtype, f"out of {where} is {out.dtype}"
    close("out", out, exact, allowed)
    close("lse", lse, exact_lse, max(allowed, TOLERANCES["float32"]))
    if not backward:
        return
    made = torch.Generator().manual_seed(1)
    seed = torch.randn(exact.shape, generator=made, dtype=torch.float64).to(q.device)
    seed_lse = torch.randn(exact_lse.shape, generator=made, dtype=torch.float64).to(q.device) * exact_lse.isfinite()
    inputs = {"q": q, "k": k, "v": v, **learned}
    leaves = list(inputs.values())
    want = torch.autograd.grad([exact, exact_lse], leaves, [seed, seed_lse], materialize_grads=True)
    seeds = [seed.to(out.dtype), seed_lse.to(lse.dtype)]
    got = torch.autograd.grad([out, lse], leaves, seeds, materialize_grads=True)
    for letter, x, y in zip(inputs, got, want, strict=True):
        sums = q.shape[2] if letter in learned else 1  # a parameter's gradient sums what the rows say
        close(f"gradient of {letter}", x, y.double(), allowed * max(1, sums))


def _dense(term: Term | Heads, given: Inputs, scale: float | None) -> tuple[Tensor, Tensor]:
    """(out, lse) in float64, by the definition: softmax over the attended keys; 0 and -inf for rows without any."""
    import torch

    q, k, v = given.q, given.k, given.v
    found = term.mask(q.shape[2], k.shape[2], given.offset, given.key_offset)
    mask = torch.from_numpy(found.copy()).to(q.device)
    group = max(1, q.shape[1] // max(1, k.shape[1]))
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = (q @ k.mT * (q.shape[3] ** -0.5 if scale is None else scale)).masked_fill(~mask, -torch.inf)
    live = mask.any(-1)[..., None]
    p = torch.softmax(scores.masked_fill(~live, 0.0), -1).masked_fill(~live, 0.0)
    return p @ v, torch.logsumexp(scores, -1)


def assert_plan_sound(term: Term, backends: Sequence[str] = ("torch", "triton"), *, moved: bool = False) -> None:
    """isl proves, for every n, m and offset at once, that the plans of a pattern compute its pairs, each once.

    Args:
        term: a pattern without unbound symbols.
        backends: whose plans.
        moved: those of calls with a `key_offset`, for every value of it.

    Raises:
        PlanError: a property that does not hold, with the plan.
        TooHardError: isl could not decide within its limit.
    """
    from pidsl.codegen.check import check_plan
    from pidsl.codegen.lower import lower
    from pidsl.relation.frame import Frame

    for backend in backends:
        check_plan(lower(term, backend, frame=Frame(moved)))
