"""`from_natten`: against windows written down token by token, as NATTEN documents them."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

import pidsl
from pidsl import from_natten
from pidsl.errors import KeywordError, TermError
from pidsl.interop.imported import Imported


def window_of(token, length, size, stride, dilation, causal):
    """The keys of a token of one axis."""
    own = list(range(token % dilation, length, dilation))
    at = own.index(token)
    if causal:
        leader = min(at // stride * stride + stride - 1, len(own) - 1)
        return {own[k] for k in range(max(leader - size + 1, 0), at + 1)}
    leader = min(at // stride * stride + stride // 2, len(own) - 1)
    start = min(max(leader - size // 2, 0), len(own) - size)
    return set(own[start : start + size])


def dense(shape, size, stride, dilation, causal):
    """bool [n, n], token by token."""
    tokens = list(product(*map(range, shape)))
    mask = np.zeros((len(tokens), len(tokens)), dtype=bool)
    for i, query in enumerate(tokens):
        near = [window_of(*axis) for axis in zip(query, shape, size, stride, dilation, causal, strict=True)]
        mask[i] = [all(x in keys for x, keys in zip(key, near, strict=True)) for key in tokens]
    return mask


@st.composite
def calls(draw):
    axes = draw(st.integers(1, 3))
    most = {1: 40, 2: 10, 3: 5}[axes]
    out = []
    for _ in range(axes):
        length = draw(st.integers(2, most))
        dilation = draw(st.integers(1, max(length // 2, 1)))
        size = draw(st.integers(1, length // dilation))
        out.append((length, size, draw(st.integers(1, size)), dilation, draw(st.booleans())))
    return tuple(zip(*out, strict=True))


@settings(max_examples=120)
@given(calls())
def test_any_call(call):
    shape, size, stride, dilation, causal = call
    found = from_natten(kernel_size=size, stride=stride, dilation=dilation, is_causal=causal, shape=shape)
    np.testing.assert_array_equal(found.mask(int(np.prod(shape))), dense(*call))
    if len(shape) == 1 and stride == (1,) and causal == (True,):
        anywhere = from_natten(kernel_size=size[0], dilation=dilation, is_causal=True)
        np.testing.assert_array_equal(anywhere.mask(*shape), dense(*call))


def test_arguments_of_all_axes():
    one = from_natten(kernel_size=3, stride=2, dilation=2, is_causal=True, shape=torch.ones(1, 6, 8, 2, 4).shape[1:-2])
    assert one == from_natten([3, 3], (2, 2), [2, 2], (True, True), shape=[6, 8])
    assert from_natten(kernel_size=4, stride=None, dilation=None, is_causal=None, shape=9) == pidsl.neighborhood(9, 4)
    assert from_natten(4, backend="flex-fna", torch_compile=True, additional_keys=None, shape=9) == from_natten(
        4, shape=9
    )
    assert repr(from_natten(9, is_causal=True)) == "window(8)"
    assert repr(from_natten((9,), (1,), (4,), (True,), scale=0.0)) == "window(8).dilated(4)"
    scaled = from_natten(3, shape=5, scale=0.5, return_lse=True)
    assert isinstance(scaled, Imported) and dict(scaled.inputs) == {"scale": 0.5, "return_lse": True}


def test_attention():
    q, k, v = torch.randn(3, 2, 6, 7, 4, 8)
    call = ((6, 7), (3, 4), (1, 2), (2, 1), (False, True))
    found = from_natten(*call[1:], scale=0.5, shape=q.shape[1:-2])
    rows = [x.flatten(1, -3).transpose(1, 2) for x in (q, k, v)]
    expected = scaled_dot_product_attention(*rows, attn_mask=torch.from_numpy(dense(*call)), scale=0.5)
    torch.testing.assert_close(pidsl.compile(found.pattern, "torch")(*rows, **found.inputs), expected)


# follows the hints of pidsl/interop/from_natten.py: from_natten, _of_grid, _of_any_length
def test_what_is_no_pattern_is_refused():
    def refused(match, hint, error=TermError, **given):
        with pytest.raises(error, match=match) as caught:
            from_natten(**given)
        assert hint in caught.value.hint

    keys = torch.ones(1, 3, 4, 8)
    refused("additional_keys", "pidsl.merge", kernel_size=3, shape=9, additional_keys=keys, additional_values=keys)
    refused("rpb", "pidsl.score(bias=(low, high))", kernel_size=3, shape=9, rpb=keys)
    refused("no shape", "shape=query.shape[1:-2]", kernel_size=3)
    refused("no shape", "shape=query.shape[1:-2]", kernel_size=(3, 3), is_causal=True)
    refused("no shape", "shape=query.shape[1:-2]", kernel_size=4, stride=2, is_causal=True)
    refused("kernel_size 5 with dilation 2", "neighborhood(9, 5, dilation=2)", kernel_size=5, dilation=2,
            shape=9)  # fmt: skip
    refused("stride = 4", "further apart", kernel_size=3, stride=4, shape=9)
    refused("window", "", kernel_size=0, shape=9)
    refused("window", "", kernel_size=2.5, is_causal=True)
    refused("dilation", "", kernel_size=3, dilation=0, is_causal=True)
    refused("window", "", kernel_size=(3, 3), shape=(9, 9, 9))
    refused("causal", "", kernel_size=3, is_causal=1, shape=9)
    refused("softmax_scale", "scale=", KeywordError, kernel_size=3, shape=9, softmax_scale=1.0)
    refused("kernelsize", "kernel_size=", KeywordError, kernel_size=3, shape=9, kernelsize=7)

    q, k, v = torch.randn(3, 1, 2, 9, 8)
    more = torch.randn(2, 1, 2, 3, 8)
    near = pidsl.compile(from_natten(kernel_size=3, shape=9), "torch")(q, k, v, return_lse=True)
    beside = pidsl.compile(pidsl.full, "torch")(q, *more, return_lse=True)
    mask = torch.cat([torch.from_numpy(dense((9,), (3,), (1,), (1,), (False,))), torch.ones(9, 3).bool()], 1)
    expected = scaled_dot_product_attention(q, torch.cat([k, more[0]], 2), torch.cat([v, more[1]], 2), attn_mask=mask)
    torch.testing.assert_close(pidsl.merge([near, beside])[0], expected)
    assert from_natten(3, shape=torch.ones(1, 9, 2, 8).shape[1:-2]) == pidsl.neighborhood(9, 3)
