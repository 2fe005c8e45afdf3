"""Whole specifications as text: what is written comes back, the names of the library are words, and errors point."""

from __future__ import annotations

import ast
from typing import Any, get_args

import pytest
from hypothesis import given, settings

import pidsl
from pidsl import ParseError, PidslError, TermError, causal, gate, heads, layers, parse, score, spans, summaries, window
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.parse import parse_term
from pidsl.language.schedule import Schedule
from pidsl.language.summaries import Spans, Summaries
from pidsl.language.terms import Leaf
from pidsl.patterns import WRITTEN
from pidsl.patterns.families import families
from pidsl.testing import gates, schedules, scores
from pidsl.testing import heads as some_heads
from pidsl.testing import summaries as some_summaries

k, period = pidsl.symbols("k period")
HALF = settings(max_examples=settings.default.max_examples // 2)

# --- what is printed is read back


@given(gates())
@HALF
def test_gates_are_read_back(x: Gate) -> None:
    assert parse(repr(x)) == x
    assert parse(repr(x)).names == x.names  # their order is that of the weights


@given(some_heads())
@HALF
def test_heads_are_read_back(x: Heads) -> None:
    assert parse(repr(x)) == x


@given(schedules())
@HALF
def test_layers_are_read_back(x: Schedule) -> None:
    assert parse(repr(x)) == x


@given(scores())
def test_scores_are_read_back(x: pidsl.Score) -> None:
    assert parse(repr(x)) == x


@given(some_summaries())
@HALF
def test_summaries_are_read_back(x: Summaries) -> None:
    assert parse(repr(x)) == x
    for level in x.levels:
        assert parse(repr(level)) == level and isinstance(level, Spans)


def test_symbols_are_read_back() -> None:
    for x in (
        gate(local=window(k), skip=pidsl.stride(2 * period) & causal),
        heads([(2, window(k)), (1, causal.shift(period))]),
        layers([window(k), heads([(1, window(period))])]),
    ):
        assert parse(repr(x)) == x and parse(repr(x)).symbols == x.symbols


# --- the library


def test_calls_of_the_library_give_what_they_give() -> None:
    for family in families():
        for call in family.calls:
            try:
                tree = ast.parse(call.text, mode="eval").body
            except SyntaxError:
                continue
            if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and call.text.isascii():
                assert parse(call.text) == call.term, call.text


CALLS = {
    "axial(16)", "base_layers(4)", "bigbird(4096, seed=3)", "block_diagonal(64)", "butterfly(3, block=4)",
    "butterfly_layers(4)", "chunked()", "combiner_axial(32, 'horizontal')", "combiner_fixed(64)",
    "combiner_logsparse(100)", "combiner_rowmajor(32)", "dense_attention(causal=False)", "dilated_window(4, 2)",
    "gemma3_layers(7, 512)", "gpt_oss_layers(3)", "halo_1d(8, 3)", "halo_attention((8, 8), 4, (1, 2))",
    "interleaved(4, window(1), per_global=2, distant=full)", "inward_windows(2, 30, 52, (3, 6))", "llama4_layers(4)",
    "log_sparse(100, local=8)", "longformer(16, global_tokens=[0, 5])", "longformer_heads((1, 2), 8)",
    "neighborhood_attention((16, 16), 7, causal=(True, False))", "pi_attention(63, 256)",
    "pi_attention(3, 8, skip='both', causal=False)", "pi_gate(63, 256, skip='comb')",
    "pi_layers(4, 16, 5, at='powers of two')", "power_attention(4096)", "prefix_lm(16)",
    "random_blocks(8, 2, seed=1)", "ring_attention(3, causal=False, wrap=True)", "s2_heads(32, block=16)",
    "shifted_blocks(64)",
    "sliding_window(9)", "sparse_fixed(8)", "sparse_strided(8)", "streaming_llm()", "swin_layers(4, 64)",
}  # fmt: skip


@pytest.mark.parametrize("text", sorted(CALLS))
def test_a_call_of_the_library(text: str) -> None:
    expected = eval(text, {**WRITTEN, "window": window, "full": pidsl.full})
    assert parse(text) == expected
    if isinstance(expected, tuple):
        expected = layers(expected)
        assert parse(f"layers({text})") == expected
    assert parse(repr(expected)) == expected


def test_every_name_of_the_library_is_a_word() -> None:
    called = {text.partition("(")[0] for text in CALLS}
    assert called == set(WRITTEN) == set(pidsl.patterns.__all__) - {"pi_branches"}


def test_calls_stand_inside_one_another() -> None:
    pi = pidsl.patterns.pi_attention(3, 8)
    assert parse("layers([heads([(2, window(3)), (1, pi_attention(3, 8))]), causal])") == layers(
        [heads([(2, window(3)), (1, pi)]), causal]
    )
    assert parse("gate(local=sliding_window(4), skip=pi_attention(k, period) - window(k))") == gate(
        local=window(3), skip=pidsl.patterns.pi_attention(k, period) - window(k)
    )
    assert parse("pi_attention(3, period=8).dilated(2) & chunked(64)") == pi.dilated(2) & pidsl.patterns.chunked(64)
    assert parse("interleaved(3, s2_heads(8), per_global=2)") == pidsl.patterns.interleaved(
        3, pidsl.patterns.s2_heads(8), per_global=2
    )
    assert parse("summaries(blocks(4) & causal, (spans(4, where(lambda i, j: j < i // 4)),))") == summaries(
        pidsl.blocks(4) & causal, [spans(4, pidsl.where(lambda i, j: j < i // 4))]
    )
    assert parse("score(softcap=50, scale=-.5, bias=[-3, 3], alibi=True)  # of a file\n") == score(
        softcap=50, scale=-0.5, bias=(-3, 3), alibi=True
    )


def test_a_symbol_may_have_the_name_of_a_call() -> None:
    assert parse("window(chunked) | lags(gate)").symbols == {"chunked", "gate"}


# --- terms alone, and all that a kernel is made of


def test_only_a_term() -> None:
    assert parse_term("pi_attention(3, 8)") == window(3) | pidsl.lags(8)
    for text, kind in (
        ("gate(a=causal)", "a gate"), ("heads([(1, causal)])", "heads"), ("layers([causal])", "layers"),
        ("score()", "a score"), ("summaries(causal, [])", "summaries"), ("spans(4, causal)", "spans"),
        ("pi_layers(3, 8, 2)", "several terms"),
    ):  # fmt: skip
        with pytest.raises(ParseError, match=kind) as caught:
            parse_term(text)
        assert caught.value.expected == "a term"


def test_a_recipe() -> None:
    text = "compile(gate(local=window(63), skip=stride(256)), backend='torch', score=score(softcap=50.0))"
    recipe = parse(text)
    blended = gate(local=window(63), skip=pidsl.stride(256))
    assert recipe == pidsl.Recipe(blended, "torch", score(softcap=50.0)) and repr(recipe) == text
    for other in (
        pidsl.Recipe(window(3) | causal.T, "reference", score(bias=(-3, 3)), "head", True),
        pidsl.Recipe(parse("s2_heads(8)"), output_gate="element"),
        pidsl.Recipe(parse("gemma3_layers(7, 512)")),
        pidsl.Recipe(parse("combiner_fixed(64)"), "triton"),
    ):
        assert parse(repr(other)) == other


# --- what is refused

REFUSED = [
    ("gate()", None, "at least one branch"),
    ("gate(causal)", 0, "1 arguments gate(local=window(63), skip=stride(256))"),
    ("gate(local=3)", 11, "`3` a term"),
    ("gate(a=causal, a=full)", 0, "argument a"),
    ("gate(a=gate(b=causal))", 7, "a gate a term"),
    ("gate(**k)", 0, "argument **"),
    ("heads([(2, 3)])", 11, "`3` a term"),
    ("heads([(x, causal)])", 8, "`x` a number"),
    ("heads([(0, causal)])", None, "at least 1"),
    ("heads([(1.5, causal)])", 8, "`1.5` as a size"),
    ("heads([(1, causal, 3)])", 7, "(int, Term)"),
    ("heads([causal])", 7, "(int, Term)"),
    ("heads(causal)", 6, "a list"),
    ("heads()", 0, "no groups one list of groups"),
    ("layers([])", None, "at least one pattern"),
    ("layers([causal, 3])", None, "layer 1"),
    ("layers(causal)", 7, "a list"),
    ("score(50.0)", 0, "1 arguments score(scale, softcap"),
    ("score(loud=2)", 0, "argument loud"),
    ("score(softcap=f(3))", 14, "unknown word 'f'"),
    ("score(softcap=0)", None, "above 0"),
    ("score(softcap={1: 2})", 14, "`{1: 2}`"),
    ("score(softcap=1j)", 14, "`1j`"),
    ("score", 0, "without its arguments score("),
    ("spans(k, causal)", 6, "a number"),
    ("summaries(causal, [causal])", None, "spans"),
    ("compile()", 0, "no of what to compile"),
    ("compile(causal, 'torch', softcap=3)", 0, "argument softcap score at most once"),
    ("compile(causal, backend='cuda')", None, "backend = 'cuda'"),
    ("compile(compile(causal))", None, "Recipe"),
    ("causal | compile(causal)", 9, "a recipe a term"),
    ("gate(a=causal) | causal", 0, "a gate a term"),
    ("causal | heads([(1, causal)])", 9, "heads a term"),
    ("pi_attention", 0, "without its arguments pi_attention(k, period, skip, causal)"),
    ("pi_attention(3)", 0, "no period"),
    ("pi_attention(3, 8, 'comb')", 0, "3 arguments at most 2"),
    ("pi_attention(3, 8, skip='other')", None, "'single'"),
    ("pi_atention(3, 8)", 0, "pi_attention"),
    ("causal & pi_layer(3, 8)", 9, "pi_layers"),
    ("pi_branches(3, 8)", 0, "unknown word"),
    ("s2_heads(k)", 9, "a number"),
    ("power_attention('x')", 16, "as a size"),
    ("halo_attention(None)", None, ""),
    ("__import__('os').system('true')", 0, ".system"),
    ("__import__('os')", 0, "unknown word '__import__'"),
    ("open('x')", 0, "unknown word 'open'"),
    ("gate(a=[causal for x in (1, 2)])", 7, "a term"),
    ("score(scale=(lambda: 1)())", 12, "a term"),
]


@pytest.mark.parametrize(("text", "column", "words"), REFUSED, ids=[text[:40] for text, _, _ in REFUSED])
def test_what_is_refused(text: str, column: int | None, words: str) -> None:
    """With a caret where the text is at fault; without one where the word says what it does not take."""
    with pytest.raises(ParseError if column is not None else PidslError) as caught:
        parse(text)
    e = caught.value
    for word in words.split():
        assert word in f"{e.given} {e.expected} {e.where} {e.hint}", str(e)
    if column is not None:
        assert e.where.split("\n") == [text, " " * column + "^"], str(e)


def test_deep_text_is_refused() -> None:
    for text in ("layers([" * 90 + "causal" + "])" * 90, "window(" + "-" * 5000 + "1)", "gate(a=" * 500):
        with pytest.raises((ParseError, TermError)):
            parse(text)


def test_a_branch_has_a_name_that_is_read_as_it_is_written() -> None:
    branches = {"\ufb01": causal}  # Python reads it as fi
    with pytest.raises(TermError, match="branch name"):
        gate(**branches)


def test_every_word_says_what_its_sizes_are_at_least() -> None:
    words: list[Any] = [word for word in get_args(Leaf) if word.LEAST]
    assert all(len(word.LEAST) == len(word.__match_args__) for word in words)
    assert {type(parse(text)) for text in ("window(1)", "ring(1)", "keys(1)", "blocks(2)")} <= set(words)
