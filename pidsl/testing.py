"""What one tests patterns and kernels with: Hypothesis strategies, and the two assertions that judge a kernel.

    terms, predicates, grids, sizes, lengths     patterns, and the numbers in them
    choices                                      patterns in which calls choose
    gates, heads, schedules, scores, summaries   what is made of patterns, and goes with them
    shapes, inputs, lists                        what a kernel is called with
    assert_matches_dense                         values and gradients are those of dense attention in float64
    assert_plan_sound                            the plan computes exactly its pattern, for every length

Sizes are small, so that patterns show all their corners (blocks that end early, windows that leave the sequence, keys
that nobody attends) within a few dozen positions. Needs `hypothesis`: `pip install 'pidsl[test]'`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, get_args

try:
    from hypothesis import strategies as st
except ImportError as e:  # pragma: no cover
    raise ImportError("pidsl.testing needs hypothesis: pip install 'pidsl[test]'") from e

from pidsl.language import trace, vocabulary
from pidsl.language.expr import Index, Symbol, Var
from pidsl.language.gate import Gate, gate
from pidsl.language.heads import Heads
from pidsl.language.heads import heads as heads_of
from pidsl.language.schedule import Schedule, layers
from pidsl.language.score import Normalizer, Score, score
from pidsl.language.summaries import Summaries, spans
from pidsl.language.summaries import summaries as summaries_of
from pidsl.language.terms import Blocks, Chosen, Keys, Leaf, Queries, Ring, Stride, Term, Window
from pidsl.testing_dense import Inputs, Shapes, assert_matches_dense
from pidsl.testing_kernels import assert_plan_sound, inputs, lists, shapes

__all__ = [
    "Inputs", "Shapes", "assert_matches_dense", "assert_plan_sound", "choices", "gates", "grids", "heads", "inputs",
    "lengths", "lists", "predicates", "schedules", "scores", "shapes", "sizes", "summaries", "terms",
]  # fmt: skip


Terms = st.SearchStrategy[Term]
LARGEST = 12  # size in a leaf


def lengths(largest: int = 30) -> st.SearchStrategy[int]:
    """Sequence lengths from 0 up."""
    return st.integers(0, largest)


@lru_cache
def sizes(least: int, most: int, symbols: tuple[str, ...] = ()) -> st.SearchStrategy[Index]:
    """Integers in least .. most, and expressions over `symbols`: `2 * k + 1`, `(k - 3) // p`."""
    numbers: st.SearchStrategy[Index] = st.integers(least, most)
    if not symbols:
        return numbers
    names: st.SearchStrategy[Index] = st.sampled_from([Symbol(name) for name in symbols])
    operators: list[Any] = [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a // (b if b != 0 else 1),
        lambda a, b: a % (b if b != 0 else 1),
        lambda a, _: -a,
    ]
    compound = st.recursive(
        numbers | names,
        lambda inner: st.builds(lambda op, a, b: op(a, b), st.sampled_from(operators), inner, inner),
        max_leaves=4,
    )
    return (numbers | names | compound).filter(lambda x: not isinstance(x, int) or least <= x <= most)


def terms(depth: int = 5, *, ring: bool = False, grid: bool = False, symbols: tuple[str, ...] = ()) -> Terms:
    """Terms of every word but `chosen` and every operator, up to `depth` operators inside one another.

    Args:
        depth: 0 gives single words.
        ring: whether rings may occur; such terms have a meaning for n == m only.
        grid: whether neighbourhoods and halos may occur; isl takes far longer over combinations of such terms.
        symbols: names of symbols that may stand for sizes. Binding one may make a size invalid.

    Returns:
        A strategy; what it draws is shown as DSL source, and shrinks toward fewer and smaller parts.
    """
    return _leaves(ring, grid, symbols) if depth == 0 else _combined(depth, ring, grid, symbols)


@st.composite
def _combined(draw: st.DrawFn, depth: int, ring: bool, grid: bool, symbols: tuple[str, ...]) -> Term:
    kind = draw(st.sampled_from(["leaf", "leaf", "set", "set", "moved", "layers"]))
    if kind == "leaf":
        return draw(_leaves(ring, grid, symbols))
    a = draw(terms(depth - 1, ring=ring, grid=grid, symbols=symbols))
    if kind == "set":
        b = draw(terms(depth - 1, ring=ring, grid=grid, symbols=symbols))
        return draw(st.sampled_from(_SET_OPERATORS))(a, b)
    if kind == "layers":
        if draw(st.booleans()):
            return a ** draw(sizes(0, 3, symbols))
        return a @ draw(terms(depth - 1, ring=ring, grid=grid, symbols=symbols))
    match draw(st.sampled_from(["~", "T", "shift", "blocked", "dilated"])):
        case "~":
            return ~a
        case "T":
            return a.T
        case "shift":
            return a.shift(draw(sizes(-LARGEST, LARGEST, symbols)))
        case "blocked":
            return a.blocked(draw(sizes(1, 5, symbols)))
        case _:
            return a.dilated(draw(sizes(1, 4, symbols)))


_SET_OPERATORS: list[Any] = [lambda a, b: a | b, lambda a, b: a & b, lambda a, b: a - b, lambda a, b: a ^ b]


@lru_cache
def _leaves(ring: bool, grid: bool, symbols: tuple[str, ...]) -> Terms:
    position = st.integers(0, 2 * LARGEST)
    small, lag = sizes(0, LARGEST, symbols), sizes(-LARGEST, LARGEST, symbols)
    count = sizes(1, LARGEST, symbols)
    bounds = (lag, st.none() | lag, sizes(1, 4, symbols))
    words: list[Terms] = [
        st.sampled_from([vocabulary.causal, vocabulary.full, vocabulary.empty]),
        st.builds(vocabulary.window, small, small | st.just(0)),
        st.builds(vocabulary.stride, count),
        st.integers(1, LARGEST).flatmap(lambda p: st.builds(vocabulary.stride, st.just(p), st.integers(0, p - 1))),
        st.lists(lag, max_size=4).map(lambda values: vocabulary.lags(*values)),
        st.builds(vocabulary.keys, *bounds),
        st.builds(vocabulary.queries, *bounds),
        st.builds(vocabulary.blocks, count),
        st.lists(st.tuples(position, position), max_size=6).map(vocabulary.pairs),
        predicates(symbols),
    ]
    if grid:
        words.append(grids())
    if ring:
        words.append(st.builds(vocabulary.ring, small))
    drawn = {Window, Stride, Keys, Queries, Blocks, Ring, Chosen}  # Chosen: see `choices`
    words += [_sized(word, symbols) for word in get_args(Leaf) if word.LEAST and word not in drawn]
    return st.one_of(words)


def _sized(word: type[Term], symbols: tuple[str, ...]) -> Terms:
    """A word whose sizes are any from their least up."""
    each = [sizes(-LARGEST if least is None else least, LARGEST, symbols) for least in word.LEAST]
    return st.builds(word.made, *each)


@st.composite
def grids(draw: st.DrawFn) -> Term:
    """`neighborhood` and `halo` terms on grids of at most 36 tokens, one to three axes."""
    longest = {1: 24, 2: 6, 3: 3}[axes := draw(st.sampled_from([1, 1, 2, 2, 3]))]
    shape = tuple(draw(st.lists(st.integers(1, longest), min_size=axes, max_size=axes)))

    def one_per_axis(most: int, least: int = 1) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(least, most), min_size=axes, max_size=axes)))

    if draw(st.integers(0, 3)) == 0:
        return vocabulary.halo(shape, one_per_axis(4), one_per_axis(3, 0))
    window = one_per_axis(7)
    stride = tuple(draw(st.just(1) | st.integers(1, most)) for most in window)
    dilation = tuple(draw(st.just(1) | st.integers(1, 3)) for _ in range(axes))
    causal = tuple(draw(st.lists(st.booleans(), min_size=axes, max_size=axes)))
    border: Literal["clamp", "cut"] = draw(st.sampled_from(["clamp", "cut"]))
    return vocabulary.neighborhood(shape, window, stride, dilation, causal, border)


@lru_cache
def predicates(symbols: tuple[str, ...] = ()) -> Terms:
    """`where` terms: comparisons of affine and modular expressions, joined by `& | ^ ~`."""
    constant = sizes(-LARGEST, LARGEST, symbols)
    divisor = sizes(1, LARGEST, symbols)
    # i and j are drawn more often than the lengths
    variable = st.sampled_from("ijijijnm").map(lambda name: trace.TracedIndex(Var(name)))
    number = st.recursive(
        variable | constant.map(trace.TracedIndex),
        lambda inner: st.one_of(
            st.builds(lambda a, b: a + b, inner, inner),
            st.builds(lambda a, b: a - b, inner, inner),
            st.builds(lambda a, c: c * a, inner, sizes(-3, 3, symbols)),
            st.builds(lambda a, c: a // c, inner, divisor),
            st.builds(lambda a, c: a % c, inner, divisor),
            st.builds(abs, inner),
            st.builds(trace.minimum, inner, inner),
            st.builds(trace.maximum, inner, inner),
        ),
        max_leaves=5,
    )
    comparisons: list[Any] = [
        lambda a, b: a < b,
        lambda a, b: a <= b,
        lambda a, b: a > b,
        lambda a, b: a >= b,
        lambda a, b: a == b,
        lambda a, b: a != b,
    ]
    pred = st.recursive(
        st.builds(lambda op, a, b: op(a, b), st.sampled_from(comparisons), number, number),
        lambda inner: st.one_of(
            st.builds(lambda op, a, b: op(a, b), st.sampled_from([_SET_OPERATORS[k] for k in (0, 1, 3)]), inner, inner),
            st.builds(lambda a: ~a, inner),
        ),
        max_leaves=3,
    )
    return pred.map(lambda p: vocabulary.where_pred(trace.as_pred(p)))


@st.composite
def choices(draw: st.DrawFn, depth: int = 2) -> Term:
    """Terms with a choice of small blocks, beside and among terms of up to `depth` operators inside one another."""
    sizes = draw(st.sampled_from([(4, 3, 4), (4, 3, 2), (8, 2, 4), (3, 4, 5), (1, 6, 1), (2, 20, 1), (16, 2, 16)]))
    found = vocabulary.chosen(*sizes, within=draw(st.just(vocabulary.causal) | terms(depth)))
    for _ in range(draw(st.integers(0, 2))):
        static = draw(terms(depth))
        found = draw(st.sampled_from([lambda a, b: a | b, lambda a, b: a & b, lambda a, b: a - b]))(found, static)
    return found


@lru_cache
def gates(depth: int = 2) -> st.SearchStrategy[Gate]:
    """Gates of one to three branches, which are terms of up to `depth` operators inside one another."""
    names = st.sampled_from(["local", "skip", "self", "a", "größe", "_1"])
    return st.dictionaries(names, terms(depth), min_size=1, max_size=3).map(lambda branches: gate(**branches))


@lru_cache
def heads(depth: int = 2, most: int = 4) -> st.SearchStrategy[Heads]:
    """Up to three groups of heads, each of at most `most`."""
    return st.lists(st.tuples(st.integers(1, most), terms(depth)), min_size=1, max_size=3).map(heads_of)


@lru_cache
def schedules(depth: int = 2) -> st.SearchStrategy[Schedule]:
    """One to four layers, of terms and of heads."""
    return st.lists(terms(depth) | heads(depth), min_size=1, max_size=4).map(layers)


@lru_cache
def scores(*, dropout: bool = True) -> st.SearchStrategy[Score]:
    """Scores of any parts.

    Args:
        dropout: whether weights may be dropped.
    """
    number = st.floats(0.125, 64.0)
    lag = st.integers(-LARGEST, LARGEST)
    return st.builds(
        score,
        scale=st.none() | number | number.map(lambda x: -x),
        softcap=st.none() | number,
        alibi=st.booleans(),
        bias=st.none() | st.tuples(lag, lag).map(lambda ends: (min(ends), max(ends))),
        sinks=st.booleans(),
        temperature=st.booleans(),
        dropout=st.just(0.0) | st.floats(0.0, 0.875) if dropout else st.just(0.0),
        normalizer=st.sampled_from(get_args(Normalizer)),
    )


@lru_cache
def summaries(depth: int = 2) -> st.SearchStrategy[Summaries]:
    """Exact keys and up to two levels of spans, whatever they hold."""
    of = st.sampled_from(["block", "above", "beside", "row"])
    level = st.builds(spans, st.integers(1, LARGEST), terms(depth), of)
    return st.builds(summaries_of, terms(depth), st.lists(level, max_size=2))
