"""The part of `pidsl.testing` that draws calls of kernels; import it from there, torch comes when it is needed."""

from __future__ import annotations

from collections.abc import Sequence

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
