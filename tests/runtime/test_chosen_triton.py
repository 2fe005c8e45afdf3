"""Blocks that calls list, on the Triton backend, interpreted: values and gradients, any lists, what is not finite."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from dense import gradients, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import causal, chosen, full, keys, score, stride, window
from pidsl.errors import ArgumentError
from pidsl.language.terms import Term
from pidsl.relation.build import needs_square
from pidsl.testing import Inputs, assert_matches_dense, choices, inputs, lists, shapes

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")

FEW = settings.default.max_examples // 7
MIXED = window(5) & causal | keys(0, 2) & causal | chosen(16, 3, queries=16)
LATENT = chosen(1, 20, queries=1) | window(2) & causal
ODD = chosen(20, 2, queries=12, within=window(40) & causal) | stride(8) & causal
NOT_CAUSAL = chosen(4, 5, queries=24, within=full) - keys(0, 2)
SIZES = {MIXED: (16, 3, 16), LATENT: (1, 20, 1), ODD: (20, 2, 12), NOT_CAUSAL: (4, 5, 24)}


@settings(deadline=None, max_examples=FEW)
@given(st.data(), choices())
def test_random_terms_and_lists(data: st.DataObject, term: Term) -> None:
    square = needs_square(term.possible) or needs_square(term.forced)
    of = data.draw(shapes(16, square=square, offsets=(0, 0, 3, 16), key_offsets=(0, 0, 0, 5, 12), head_dims=(16,)))
    call = data.draw(inputs(of, dtypes=("float32",)))
    assert_matches_dense(term, replace(call, blocks=data.draw(lists(term, of))), backend="triton", tolerance=1e-4)


@settings(deadline=None, max_examples=FEW)
@given(st.data(), st.sampled_from((MIXED, ODD, NOT_CAUSAL)))
def test_tiles_of_parts_of_blocks_and_of_many_blocks(data: st.DataObject, term: Term) -> None:
    of = data.draw(shapes(60, offsets=(0, 5, 64), key_offsets=(0, 0, 7), head_dims=(16,)))
    call = data.draw(inputs(of, dtypes=("float32", "bfloat16", "float16")))
    assert_matches_dense(term, replace(call, blocks=data.draw(lists(term, of))), backend="triton")
