"""`merge`: attention over the parts of a partition of the keys is attention over all of them."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from dense import dense, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import ArgumentError, Term, causal, keys, merge, window
from pidsl.testing import terms


@settings(max_examples=settings.default.max_examples // 2)
@given(
    term=terms(3),
    cuts=st.lists(st.integers(0, 20), max_size=3).map(sorted),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_parts_of_the_keys(term: Term, cuts: list[int], dtype: str) -> None:
    q, k, v = (x.requires_grad_() for x in tensors(17, 20, kv_heads=1, dtype=getattr(torch, dtype)))
    bounds = [0, *cuts, None]
    parts = [pidsl.compile(term & keys(first, last), "torch") for first, last in pairwise(bounds) if first != last]
    out, lse = merge([part(q, k, v, return_lse=True) for part in parts])
    want, want_lse = dense(term, q, k, v)
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(out, want, **close)
    torch.testing.assert_close(lse, want_lse, **close)
    live = want_lse.isfinite()
    seeds = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape), torch.where(live, 0.3, 0.0)
    got = torch.autograd.grad([out, lse], [q, k, v], [seeds[0], seeds[1].to(lse.dtype)])
    exact = torch.autograd.grad([want, want_lse], [q, k, v], [seeds[0].double(), seeds[1].double()])
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a, torch.nan_to_num(b), **close)  # torch's own lse of a row without keys is NaN


def test_one_and_none() -> None:
    q, k, v = tensors(5, 5)
    near = pidsl.compile(causal, "torch")(q, k, v, return_lse=True)
    none = pidsl.compile(pidsl.empty, "torch")(q, k, v, return_lse=True)
    for got in (merge([near]), merge([near, none]), merge([none, near]), merge((near, none, none))):
        torch.testing.assert_close(got, near)
    out, lse = merge([none, none])
    assert (out == 0).all() and (lse == -torch.inf).all()


def test_half_precision_is_merged_in_float32() -> None:
    q, k, v = tensors(30, 30, dtype=torch.float16)
    parts = [pidsl.compile(causal & keys(a, b), "torch")(q, k, v, return_lse=True) for a, b in ((0, 9), (9, None))]
    out, lse = merge(parts)
    assert (out.dtype, lse.dtype) == (torch.float16, torch.float32)
    torch.testing.assert_close(out.double(), dense(causal, q, k, v)[0], rtol=2e-3, atol=2e-3)


OUT, LSE = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4)


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([], "results: nothing\n  expected: a list of (out, lse)"),
        (OUT, "results: Tensor"),
        ([OUT], "result 0: Tensor\n  expected: (out, lse)"),
        ([(OUT, LSE), (OUT, LSE, LSE)], "result 1: tuple"),
        ([(OUT, None)], "lse of result 0: NoneType\n  expected: a torch.Tensor"),
        ([(OUT, OUT)], "lse of result 0: shape [1, 2, 4, 8]\n  expected: [1, 2, 4], as its out"),
        ([(OUT, LSE), (OUT[:, :1], LSE[:, :1])], "out of result 1: shape ([1, 1, 4, 8])"),
        ([(OUT, LSE), (OUT.double(), LSE)], "out of result 1: dtype torch.float64\n  expected: torch.float32"),
        ([(OUT, LSE), (OUT.to("meta"), LSE.to("meta"))], "out of result 1: device meta"),
        ([(OUT, None), (OUT, OUT)], "2 faults in merge([(out, lse), ...])"),
    ],
)
def test_what_does_not_fit(results: Any, said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        merge(results)
    assert said in str(caught.value)


def test_a_window_in_two_kernels() -> None:
    """What a cache of near and far keys does."""
    q, k, v = tensors(40, 40)
    near, far = pidsl.compile(window(7), "torch"), pidsl.compile(window(15) - window(7), "torch")
    got = merge([kernel(q, k, v, return_lse=True) for kernel in (near, far)])
    torch.testing.assert_close(got, pidsl.compile(window(15), "torch")(q, k, v, return_lse=True))
