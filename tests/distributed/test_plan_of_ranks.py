"""Plans for ranks: what they count against dense masks and against the sets of their placements; what they choose."""

import itertools
import subprocess
import sys
import time
from fractions import Fraction

import matplotlib.figure
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import pidsl
from pidsl import (
    Heads,
    Term,
    causal,
    chosen,
    documents,
    empty,
    gate,
    heads,
    keys,
    lags,
    layers,
    queries,
    stride,
    window,
)
from pidsl.distributed import Plan, Shards, plan
from pidsl.distributed.planning.sets import Side
from pidsl.distributed.planning.shown import bytes_of
from pidsl.distributed.planning.volumes import Rows, pairs
from pidsl.distributed.tokens.placement import Move, Placement
from pidsl.distributed.tokens.runs import Ints, positions
from pidsl.distributed.tokens.shards import Kind
from pidsl.errors import ArgumentError, PidslError, SizeError, SymbolError, TermError, TooHardError
from pidsl.language.terms import Halo, Neighborhood, Pairs, walk
from pidsl.patterns.families import families
from pidsl.testing import terms

assert settings.default is not None
EXAMPLES = settings.default.max_examples
KINDS: list[Kind] = ["contiguous", "zigzag", "classes"]
SUMMARIES = pidsl.summaries(pidsl.blocks(8) & causal, [pidsl.spans(8, pidsl.where(lambda i, j: j < i // 8))])
COMB = stride(1024) & causal
PAPER = {"kv_heads": 8, "head_dim": 128}


@st.composite
def shards(draw: st.DrawFn, n: int, ranks: int) -> Shards:
    kind = draw(st.sampled_from(KINDS))
    return Shards(n, ranks, kind, draw(st.integers(1, 13)) if kind == "classes" else 1)


def of_mask(placement: Placement, mask: np.ndarray) -> dict[Side, np.ndarray]:
    """bool [ranks, n]: the queries and the keys of each rank, from the dense mask."""
    at = placement.layout.owner(np.arange(len(mask)))
    own = at == np.arange(placement.layout.ranks)[:, None]
    if placement.move == "keys":
        return {"queries": own, "keys": own @ mask}
    return {"queries": own @ mask.T, "keys": own}


def moved(wanted: np.ndarray, home: Shards) -> Ints:
    """int64 [ranks, ranks]: rows from each rank to each, from what each wants."""
    held = home.owner(np.arange(home.n)) == np.arange(home.ranks)[:, None]
    found = held.astype(np.int64) @ wanted.T.astype(np.int64)
    return np.asarray(found - np.diag(np.diag(found)))


def between(found: Plan) -> Ints:
    """int64 [ranks, ranks]: bytes from each rank to each."""
    ranks = found.shards.ranks
    sender, receiver = np.divmod(np.arange(ranks**2), ranks)
    return found.matrix(sender, receiver).reshape(ranks, ranks)


# -- counted rows ------------------------------------------------------------------------------------------------------


@settings(max_examples=4 * EXAMPLES)
@given(terms(2, ring=True), st.integers(1, 40), st.integers(1, 6), st.sampled_from(["keys", "queries"]), st.data())
def test_rows_are_those_of_the_mask(term: Term, n: int, ranks: int, move: Move, data: st.DataObject) -> None:
    home = data.draw(shards(n, ranks))
    placement = Placement(term, move, home, data.draw(st.sampled_from([home, data.draw(shards(n, ranks))])))
    try:
        wanted = of_mask(placement, term.mask(n))
        sides: tuple[Side, ...] = ("queries", "keys")
        for side in sides:
            found, expected = Rows(home, ((placement, side),)), moved(wanted[side], home)
            np.testing.assert_array_equal(found.received, expected.sum(axis=0))
            np.testing.assert_array_equal(found.sent, expected.sum(axis=1))
            sender, receiver = np.divmod(np.arange(ranks**2), ranks)
            np.testing.assert_array_equal(found.between(sender, receiver), expected.reshape(-1))
        at = placement.layout.owner(np.arange(n))
        degree = term.mask(n).sum(axis=1 if move == "keys" else 0)
        np.testing.assert_array_equal(pairs(placement), np.bincount(at, degree, ranks))
    except TooHardError:
        reject()


@settings(max_examples=EXAMPLES)
@given(terms(1), terms(1), st.integers(1, 40), st.integers(1, 6), st.data())
def test_rows_that_two_parts_need_are_counted_once(a: Term, b: Term, n: int, ranks: int, data: st.DataObject) -> None:
    home = data.draw(shards(n, ranks))
    layouts = [home, data.draw(shards(n, ranks))]
    moves: list[Move] = ["keys", "queries"]
    found = [Placement(t, data.draw(st.sampled_from(moves)), home, data.draw(st.sampled_from(layouts))) for t in (a, b)]
    try:
        for side in ("queries", "keys"):
            needs: tuple[tuple[Placement, Side], ...] = tuple((x, side) for x in found)
            wanted = np.logical_or.reduce([of_mask(x, x.term.mask(n))[side] for x in found])
            expected = moved(wanted, home)
            rows = Rows(home, needs)
            np.testing.assert_array_equal(rows.received, expected.sum(axis=0))
            np.testing.assert_array_equal(rows.sent, expected.sum(axis=1))
    except TooHardError:
        reject()


# -- plans -------------------------------------------------------------------------------------------------------------


@st.composite
def asked(draw: st.DrawFn) -> tuple[object, dict[str, int]]:
    """A pattern of any kind, and sizes that go with it."""
    kind = draw(st.sampled_from(["term", "heads", "gate", "layers"]))
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    sizes = {"kv_heads": kv_heads, "head_dim": draw(st.integers(1, 8)), "value_dim": draw(st.integers(1, 8))}
    one, two = draw(terms(2)), draw(terms(1))
    own = kv_heads * group
    if kind == "heads" and own > 1:
        return heads([(1, one), (own - 1, two)]), sizes
    pattern: object = {"gate": gate(a=one, b=two), "layers": layers([one, two])}.get(kind, one)
    return pattern, {**sizes, "heads": own}


@settings(max_examples=2 * EXAMPLES)
@given(asked(), st.integers(1, 40), st.integers(1, 8), st.sampled_from(["auto", *KINDS]), st.data())
def test_a_plan_is_what_its_placements_move(
    of: tuple[object, dict[str, int]], n: int, ranks: int, sharding: str, data: st.DataObject
) -> None:
    pattern, sizes = of
    dtype, itemsize = data.draw(st.sampled_from([("bf16", 2), ("fp32", 4), ("float64", 8)]))
    try:
        found = plan(pattern, n, ranks, dtype=dtype, sharding=sharding, **sizes)
        counted = between(found)
    except TooHardError:
        reject()
    home, placements = found.shards, found.placements
    assert (home.n, home.ranks) == (n, ranks) and sharding in ("auto", home.kind)
    total = sizes.get("heads", len(pattern) if isinstance(pattern, Heads) else sizes["kv_heads"])
    group = total // sizes["kv_heads"]
    expected, computed = np.zeros((ranks, ranks), np.int64), np.zeros(ranks, np.int64)
    for terms_of_head in _terms_of_heads(pattern, total):
        for key_head in range(sizes["kv_heads"]):
            mine = {t for head in range(key_head * group, (key_head + 1) * group) for t in terms_of_head[head]}
            wanted = _wanted([x for t in mine for x in placements[t]], "keys", n, ranks)
            expected += moved(wanted, home) * (sizes["head_dim"] + sizes["value_dim"]) * itemsize
        for own in terms_of_head:
            parts = [x for t in own for x in placements[t]]
            expected += moved(_wanted(parts, "queries", n, ranks), home) * sizes["head_dim"] * itemsize
            for x in parts:
                back = moved(_wanted([x], "queries", n, ranks), home).T
                expected += back * (sizes["value_dim"] * itemsize + max(4, itemsize))
                mask = x.term.mask(n)
                for rank in range(ranks):
                    at = positions(x.layout.runs(rank))
                    computed[rank] += (mask[at] if x.move == "keys" else mask[:, at]).sum()
    np.testing.assert_array_equal(counted, expected)
    np.testing.assert_array_equal(found.forward.received, expected.sum(axis=0))
    np.testing.assert_array_equal(found.forward.sent, expected.sum(axis=1))
    np.testing.assert_array_equal(found.backward.received, expected.sum(axis=1))
    np.testing.assert_array_equal(found.pairs, computed)
    if computed.sum():
        assert found.imbalance == Fraction(int(computed.max()) * ranks, int(computed.sum()))
    assert found.between(0, ranks - 1) == expected[0, -1] == found.between(ranks - 1, 0, backward=True)
    assert str(found) and found.reasons and "<table>" in found._repr_html_()


def _terms_of_heads(pattern: object, total: int) -> list[list[tuple[Term, ...]]]:
    """For each layer the terms of each query head."""
    if isinstance(pattern, pidsl.Schedule):
        return [_terms_of_heads(x, total)[0] for x in pattern]
    if isinstance(pattern, Heads):
        return [[(t,) for t in pattern]]
    if isinstance(pattern, pidsl.Gate):
        return [[tuple(dict.fromkeys(t for _, t in pattern.branches))] * total]
    assert isinstance(pattern, Term)
    return [[(pattern,)] * total]


def _wanted(placements: list[Placement], side: str, n: int, ranks: int) -> np.ndarray:
    """bool [ranks, n]: from the sets of placements, which must not be larger than what the mask says."""
    found = np.zeros((ranks, n), dtype=np.bool_)
    for x, rank in itertools.product(placements, range(ranks)):
        found[rank, positions(x.queries(rank) if side == "queries" else x.keys(rank))] = True
    return found


@settings(max_examples=2 * EXAMPLES)
@given(terms(3), st.integers(1, 48), st.integers(1, 8), st.sampled_from(["auto", *KINDS]))
def test_each_pair_is_computed_once(term: Term, n: int, ranks: int, sharding: str) -> None:
    try:
        found = plan(term, n, ranks, sharding=sharding)
    except TooHardError:
        reject()
    times = np.zeros((n, n), np.int64)
    for x in found.placements[term]:
        mask = x.term.mask(n)
        for rank in range(ranks):
            rows, columns = positions(x.queries(rank)), positions(x.keys(rank))
            own = positions(x.layout.runs(rank))
            local = mask[np.ix_(rows, columns)]
            times[np.ix_(rows, columns)] += local
            assert local.sum() == (mask[own] if x.move == "keys" else mask[:, own]).sum()
    np.testing.assert_array_equal(times, term.mask(n))


# -- what is chosen, and how much it moves ----------------------------------------------------------------------------


def test_a_window_is_a_halo() -> None:
    found = plan(window(4095), 2**20, 64, **PAPER)
    assert found.shards == Shards(2**20, 64)
    assert found.forward.most == found.backward.most == 4095 * 8 * 256 * 2 <= 17e6
    assert found.others[0].forward == 63 * 2**14 * 8 * 256 * 2 > 4e9
    (choice,) = found.choices[window(4095)]
    assert choice.chosen.name == "halo"
    assert "halo: up to 4,095 keys, of 1 other rank, 16.8 MB" in str(found)
    assert found.imbalance < 1.01


def test_a_halo_may_come_from_many_ranks() -> None:
    found = plan(window(1000), 4096, 64)
    assert "of 16 other ranks" in found.reasons[0]
    assert sum(found.between(x, 40) > 0 for x in range(64)) == 16


@pytest.mark.parametrize("sharding", ["contiguous", "zigzag"])
def test_the_comb_is_sharded_anew(sharding: str) -> None:
    found = plan(COMB, 2**20, 64, sharding=sharding, heads=32, **PAPER)
    (choice,) = found.choices[COMB]
    assert choice.chosen.name == "re-shard" and choice.chosen.placement.layout == Shards(2**20, 64, "classes", 1024)
    shard = 2**14 * 128 * 2
    assert found.busiest <= (2 * 32 + 2 * 8) * shard + 2**14 * 32 * 4  # and the lse of the results
    assert found.busiest < found.others[0].forward / 10
    assert "gather" in found.reasons[0] and "re-shard (residue classes mod 1,024, 16 to a rank)" in found.reasons[0]
    assert found.imbalance < 1.01


def test_the_comb_moves_nothing_where_classes_are_home() -> None:
    found = plan(COMB, 2**20, 64, **PAPER)
    assert found.shards.kind == "classes" and found.busiest == found.forward.total == 0
    assert found.reasons[0].endswith("nothing moves, each pair is where its query and its key are")


def test_parts_move_in_different_ways() -> None:
    found = plan(window(63) | COMB, 2**20, 64, **PAPER)
    assert [x.chosen.name for x in found.choices[window(63) | COMB]] == ["halo", "re-shard"]
    found = plan(window(255, 255) | keys(0, 16) | queries(0, 16), 2**20, 64, **PAPER)
    assert [x.chosen.name for choices in found.choices.values() for x in choices] == ["queries", "halo"]
    assert found.forward.most < 10e6


def test_dense_causal_attention_is_balanced_by_zigzag() -> None:
    found = plan(causal, 2**20, 64, heads=32, **PAPER)
    assert found.shards.kind == "zigzag" and found.imbalance == 1
    assert [x.chosen.name for x in found.choices[causal]] == ["gather"]
    assert plan(causal, 2**20, 64, sharding="contiguous").imbalance > 1.9


def test_keys_of_heads_that_share_a_key_head_are_sent_once() -> None:
    of = heads([(1, window(10)), (1, window(20)), (2, window(30))])
    one, two = plan(of, 256, 4, kv_heads=1), plan(of, 256, 4, kv_heads=2)
    assert one.forward.most == 30 * 2 * 64 * 2
    assert two.forward.most == (20 + 30) * 2 * 64 * 2


def kind(term: Term) -> str:
    """A grid has tokens of its own; pairs, listed one by one, are slow to count."""
    kinds = {type(part) for part in walk(term)}
    return "grid" if kinds & {Neighborhood, Halo} else "pairs" if Pairs in kinds else "plain"


@pytest.mark.parametrize(
    ("n", "ranks", "of"),
    [
        (2**15 + 100, 7, "plain"),
        pytest.param(2**15, 8, "plain", marks=pytest.mark.slow),
        pytest.param(2**16, 32, "plain", marks=pytest.mark.slow),
        (0, 8, "grid"),
        (2**12, 8, "pairs"),
        pytest.param(2**15, 8, "pairs", marks=pytest.mark.slow),
    ],
)
def test_the_library_is_balanced(n: int, ranks: int, of: str) -> None:
    for family in families():
        for call in family.calls:
            if not isinstance(call.term, Term) or call.term.confines or kind(call.term) != of:
                continue
            found = plan(call.term, n or call.n, ranks, **PAPER)
            assert found.imbalance <= 1.1, (call.text, found)
            assert found.forward.most <= (found.others[0].forward or 0), (call.text, found)


def test_ten_thousand_ranks() -> None:
    started = time.process_time()
    for term in (window(4095), window(4095) | stride(16384) & causal, causal, window(511) | keys(0, 64) & causal):
        found = plan(term, 2**24, 10_000, **PAPER)
        assert found.imbalance <= 1.1 and found.forward.total == found.forward.sent.sum()
        assert found.between(4999, 5000) > 0
    assert time.process_time() - started < 20


def test_no_torch_is_needed() -> None:
    code = "import sys; from pidsl.distributed import plan; import pidsl; plan(pidsl.window(3), 64, 4); " + (
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- other ways --------------------------------------------------------------------------------------------------------


def test_other_ways_by_hand() -> None:
    gathered, ring, ulysses = plan(causal, 8, 2, kv_heads=2, heads=4, head_dim=3, value_dim=5).others
    row = (3 + 5) * 2 * 2  # a row of k and v of both key heads
    assert (gathered.forward, gathered.backward) == (4 * row, 4 * row)
    assert (ring.forward, ring.backward) == (4 * row, 8 * row)
    # the q of its 2 heads and the k, v of its key head of 4 tokens; the out of 2 other heads of its own 4 tokens
    assert ulysses.forward == 4 * (2 * 3 + 1 * (3 + 5)) * 2 + 4 * 2 * 5 * 2
    assert plan(causal, 8, 3, heads=4, kv_heads=4).others[2].reason == "4 query heads are not shared out among 3 ranks"
    assert [x.forward for x in plan(causal, 8, 1).others] == [0, 0, 0]


def test_bytes_as_people_write_them() -> None:
    assert [bytes_of(x) for x in (0, 999, 1000, 999_999, 4_227_858_432)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1e+03 kB",
        "4.23 GB",
    ]


# -- calls that choose, and bad input ----------------------------------------------------------------------------------


def test_where_calls_choose_it_is_at_most() -> None:
    found = plan(window(63) | chosen(64, 4), 4096, 8)
    assert found.relation == "<=" and "at most" in str(found)
    assert found.forward.most <= plan(causal, 4096, 8).others[0].forward
    assert plan(window(63), 4096, 8).relation == "=="


@settings(max_examples=EXAMPLES)
@given(terms(1), st.integers(1, 40), st.integers(1, 6), st.sampled_from(["auto", *KINDS]), st.data())
def test_no_lists_need_more(term: Term, n: int, ranks: int, sharding: str, data: st.DataObject) -> None:
    block, budget, size = (data.draw(st.integers(1, most)) for most in (4, 3, 8))
    of = term | chosen(block, budget, queries=size)
    try:
        found = plan(of, n, ranks, sharding=sharding, head_dim=1)
    except TooHardError:
        reject()
    lists = data.draw(st.lists(st.lists(st.integers(0, -(-n // block) - 1), max_size=budget), min_size=-(-n // size)))
    filled = [own + [-1] * (budget - len(own)) for own in lists[: -(-n // size)]]
    mask = of.mask(n, blocks=filled)
    owner = found.shards.owner(np.arange(n))
    wanted = np.array([mask[owner == rank].any(axis=0) for rank in range(ranks)])
    needed = moved(wanted, found.shards) * 4
    assert (needed <= between(found)).all()
    assert (needed.sum(axis=0) <= found.forward.received).all() and (needed.sum(axis=1) <= found.forward.sent).all()
    assert (np.bincount(owner, mask.sum(axis=1), ranks) <= found.pairs).all()


def test_a_budget_caps_what_a_rank_gets() -> None:
    found = plan(chosen(64, 4), 2**20, 64, kv_heads=2)
    assert found.forward.most == (2**14 // 64) * 4 * 64 * 2 * 256 < found.others[0].forward
    assert found.imbalance < 1.1 and found.relation == "<="


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"n": 0}, SizeError, "n = 0"),
        ({"n": 2.5}, SizeError, "n = 2.5"),
        ({"n": 2**31}, SizeError, "n = 2147483648"),
        ({"ranks": 0}, SizeError, "ranks = 0"),
        ({"ranks": True}, SizeError, "ranks = True"),
        ({"kv_heads": 3, "heads": 8}, SizeError, "a divisor of heads = 8"),
        ({"kv_heads": 0}, SizeError, "kv_heads = 0"),
        ({"head_dim": -1}, SizeError, "head_dim = -1"),
        ({"value_dim": "x"}, SizeError, "value_dim = 'x'"),
        ({"dtype": "int8"}, ArgumentError, "dtype = 'int8'"),
        ({"sharding": "striped"}, ArgumentError, "'auto', 'contiguous', 'zigzag', 'classes'"),
        ({"sharding": Shards(10, 2)}, ArgumentError, "of n = 64 tokens over 4 ranks"),
        ({"pattern": window(pidsl.symbols("k"))}, SymbolError, "bind(k=64)"),
        ({"pattern": window(3) & documents}, TermError, "a plan is for one document"),
        ({"pattern": "window(3)"}, TermError, "'window(3)' (str)"),
        ({"pattern": SUMMARIES}, TermError, "a term, heads, a gate, or"),
        ({"pattern": heads([(2, window(3)), (2, causal)]), "heads": 8}, SizeError, "heads = 8"),
        ({"pattern": layers([heads([(2, causal)]), heads([(4, causal)])])}, SizeError, "layers of 2 and 4 heads"),
    ],
)
def test_bad_input_is_told(change: dict[str, object], error: type[PidslError], said: str) -> None:
    given: dict[str, object] = {"pattern": window(3), "n": 64, "ranks": 4, **change}
    with pytest.raises(error) as told:
        plan(given.pop("pattern"), given.pop("n"), given.pop("ranks"), **given)  # type: ignore[arg-type]
    assert said in str(told.value)


# follows the hints of pidsl/distributed/planning/asked.py: asked, _terms
def test_hints_are_right() -> None:
    k, p = pidsl.symbols("k p")
    wrong = {window(k) | lags(p): "bind", window(3) & documents: "plan", "x": "window"}
    for pattern, word in wrong.items():
        with pytest.raises(PidslError) as told:
            plan(pattern, 64, 4)
        hint = told.value.hint
        assert word in hint
        if word == "bind":
            right = eval(f"pattern.{hint}", {"pattern": pattern})
        else:
            right = pidsl.parse(hint.partition("plan(")[2].removesuffix(", ...)") if word == "plan" else hint)
        assert plan(right, 64, 4).forward.most >= 0


def test_the_picture_has_bytes_and_pairs_of_ranks() -> None:
    found = plan(window(63) | stride(64) & causal, 4096, 8)
    figure = found.plot()
    profile, matrix = figure.axes[0], figure.axes[1]
    assert "imbalance" in profile.get_title() and "from rank to rank" in matrix.get_title()
    drawn = np.asarray(matrix.get_images()[0].get_array())
    np.testing.assert_array_equal(np.ma.filled(drawn, 0), between(found).T)
    assert len(plan(causal, 2**20, 1000).plot().axes) == 2  # of many ranks, no pairs of them
    assert plan(empty, 64, 4).plot() and plan(causal, 64, 1).plot()
    own = found.plot(ax=matplotlib.figure.Figure().add_subplot())
    assert len(own.axes) == 2 and "<table>" in found._repr_html_()
    with pytest.raises(TermError, match="matplotlib axes"):
        found.plot(ax="here")  # type: ignore[arg-type]


def test_a_rank_that_is_none_is_told() -> None:
    with pytest.raises(SizeError, match="receiver = 4"):
        plan(window(3), 64, 4).between(0, 4)
