"""The spellings of docs/reference/patterns.md are what `from_flex`, `from_natten` and `from_sdpa` give."""

import ast

import numpy as np
import pytest
from attn_gym import masks

import pidsl
from pidsl import from_flex, from_natten, from_sdpa
from pidsl.language.terms import Neighborhood
from pidsl.patterns.spellings import OTHERS, SPELLINGS

ROWS = [x for rows in (*SPELLINGS.values(), OTHERS) for x in rows if x.term]
SIZES = {"w": 6, "d": 2, "p": 5, "c": 8, "s": 3, "b": 4}


def of_sizes(row):
    """Whether the call is Python, and of sizes alone; tests/interop/test_attention_gym.py has all functions."""
    try:
        called = {x.id for x in ast.walk(ast.parse(row.written)) if isinstance(x, ast.Name)}
    except SyntaxError:
        return False
    used = {x.id for x in ast.walk(ast.parse(row.term)) if isinstance(x, ast.Name)} - {*pidsl.__all__, "i", "j"}
    return called <= {*dir(masks), *SIZES} and used <= SIZES.keys()


def each(rows):
    return pytest.mark.parametrize("row", rows, ids=[x.written for x in rows])


@each([x for x in ROWS if x.library in ("NATTEN", "torch")])
def test_calls(row):
    if "na1d, na2d, na3d" in row.written:
        named = {"shape": (9, 7), "w": (3, 2), "s": (2, 1), "d": (1, 3), "c": (True, False)}
        call = f"na2d({row.written.partition('(')[2]}"
    else:
        named, call = SIZES, row.written
    term = row.made(**named)

    def natten(**given):
        return from_natten(**given, shape=term.shape if isinstance(term, Neighborhood) else None)

    functions = {"na1d": natten, "na2d": natten, "na3d": natten, "scaled_dot_product_attention": from_sdpa}
    assert eval(call, functions | named) == term


@each([x for x in ROWS if x.library == "attention-gym" and of_sizes(x)])
def test_masks(row):
    term, found = row.made(**SIZES), from_flex(eval(row.written, vars(masks) | SIZES))
    for n in (64, 37):
        np.testing.assert_array_equal(found.mask(n), term.mask(n))
    if "neighborhood" not in row.term:  # which has nothing beyond its grid
        assert found.equals(term)


def test_there_are_such_rows():
    assert sum(x.library == "attention-gym" and of_sizes(x) for x in ROWS) >= 7
    assert {x.library for x in ROWS} >= {"NATTEN", "torch", "attention-gym"}
