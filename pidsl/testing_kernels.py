"""The part of `pidsl.testing` that draws calls of kernels; import it from there, torch comes when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from pidsl.language.terms import Term
from pidsl.testing_dense import LAYOUTS, Inputs, Shapes, random_inputs

DTYPES = ("float32", "float32", "float16", "float64")  # the first is drawn more often


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
    return random_inputs(s, dtype, draw(st.integers(0, 9)), draw(st.sampled_from(LAYOUTS)), device)


@st.composite
def lists(draw: st.DrawFn, term: Term, of: Shapes, *, device: str = "cpu") -> Any:
    """What calls list for a pattern with a choice: any order, repeats, -1, fewer than the budget, rows that are empty.

    Args:
        term: the pattern.
        of: sizes of the call.
        device: where the tensor is.

    Returns:
        A strategy of int32 tensors [B, 1 or Hkv or Hq, query blocks, up to the budget].
    """
    import torch

    from pidsl.language.chosen import selection

    choice = selection(term)
    assert choice is not None, f"{term!r} has no choice"
    block, budget, queries = choice.numbers
    rows = (of.offset + of.n - 1) // queries - of.offset // queries + 1 if of.n else 0
    first, last = of.key_offset // block, (of.key_offset + of.m - 1) // block if of.m else -1
    heads = draw(st.sampled_from(sorted({1, of.kv_heads, of.heads})))
    width, skipped = draw(st.integers(0, budget) | st.just(budget)), draw(st.sampled_from((0.0, 0.3, 1.0)))
    made = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    shape = of.batch, heads, rows, width
    found = torch.randint(first, max(first, last) + 1, shape, generator=made, dtype=torch.int32)
    none = torch.rand(shape, generator=made) < skipped
    if last < first:
        none = torch.ones_like(none)
    elif rows > 1 and draw(st.booleans()):  # whole rows
        none |= torch.rand((*shape[:3], 1), generator=made) < 0.3
    return found.masked_fill_(none, -1).to(device)


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
