"""Pictures hold what dense masks say."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import pidsl
from pidsl import blocks, causal, full, keys, lags, neighborhood, queries, ring, stride, window
from pidsl.errors import PidslError, SizeError, SymbolError, TermError
from pidsl.pictures import cells, field, reordered, svg
from pidsl.testing import heads as random_heads
from pidsl.testing import schedules, terms

FEW = settings.default.max_examples // 5


def drawn(figure: Any, panel: int = 0) -> np.ndarray[Any, Any]:
    """The numbers of the image in a panel."""
    return np.asarray(figure.axes[panel].images[0].get_array())


def reached(layers: list[pidsl.Term], token: int, n: int) -> np.ndarray[Any, Any]:
    """By matrices: the tokens that reach one through the first layers, a row for each number of them."""
    rows = [np.eye(n, dtype=bool)[token]]
    product = np.eye(n, dtype=bool)
    for term in layers:
        product = (term.mask(n).astype(int) @ product.astype(int)) > 0
        rows.append(product[token])
    return np.stack(rows)


def test_a_mask_is_drawn_pair_by_pair() -> None:
    figure = (window(2) | stride(5) & causal).plot(8)
    assert isinstance(figure, Figure)
    assert (drawn(figure) == 2 * np.array([
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 1, 1, 0],
        [0, 0, 1, 0, 0, 1, 1, 1],
    ])).all()  # fmt: skip


@settings(max_examples=FEW)
@given(terms(3), st.integers(1, 40), st.integers(1, 40))
def test_random_masks(term: pidsl.Term, n: int, m: int) -> None:
    assert (drawn(term.plot(n, m)) == 2 * term.mask(n, m)).all()


@settings(max_examples=FEW)
@given(terms(3), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9))
def test_tiles_are_full_partial_or_skipped(term: pidsl.Term, n: int, rows: int, columns: int) -> None:
    mask, found = term.mask(n), cells.tiles_of(term, n, None, (rows, columns))
    for r in range(-(-n // rows)):
        for c in range(-(-n // columns)):
            tile = mask[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns]
            assert found.kinds[r, c] == (2 if tile.all() else int(tile.any())), (r, c)
    shown = drawn(term.plot(n, tiles=(rows, columns)))
    assert ((shown == 3) == mask).all()


@settings(max_examples=FEW)
@given(st.lists(terms(2), min_size=1, max_size=3), st.data())
def test_the_field_of_a_token_is_a_power_of_matrices(layers: list[pidsl.Term], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    token, count = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, 5))
    through = [layers[k % len(layers)] for k in range(count)]
    assert (field.fields(layers, token, n, count) == reached(through, token, n)).all()


def test_fields_are_drawn() -> None:
    pattern = window(1) | lags(7)
    assert (drawn(pattern.plot(40, of=30, layers=3)) == 2 * reached([pattern] * 3, 30, 40)).all()
    assert (drawn(pattern.plot(40, layers=2)) == 2 * reached([pattern] * 2, 39, 40)).all()
    assert drawn(pattern.plot(40, of=3)).shape == (5, 40)
    schedule = pidsl.layers([window(1), pidsl.heads([(1, lags(3)), (1, keys(0, 1))])])
    assert (drawn(schedule.plot(20, of=9)) == 2 * reached(list(schedule.unions), 9, 20)).all()
    long = drawn((window(3) | lags(1000)).plot(1 << 20, of=5000, layers=3))
    assert long.shape == (4, 1024) and long[:, 5:].sum() == 0 and (long[3, 1:5] > 0).all() and not long[3, 0]


@pytest.mark.parametrize("of", [0, 5000, (1 << 17) - 1])
def test_a_long_field_equals_that_of_lags(of: int) -> None:
    found = field.fields([window(5) | stride(1024) & causal], of, 1 << 17, 2)[2]
    lag = np.arange(of, -1, -1)[: of + 1]
    assert not found[of + 1 :].any() and (found[: of + 1] == ((lag % 1024 <= 5) | (lag <= 10))).all()


@settings(max_examples=FEW)
@given(random_heads(2))
def test_heads_have_a_panel_for_each_pattern(several: pidsl.Heads) -> None:
    figure = several.plot(12)
    assert len(figure.axes) == len(several.distinct)
    for k, term in enumerate(several.distinct):
        assert (drawn(figure, k) == 2 * term.mask(12)).all()


@settings(max_examples=FEW)
@given(schedules(2))
def test_schedules_and_gates_have_panels(schedule: pidsl.Schedule) -> None:
    figure = schedule.plot(9)
    assert len(figure.axes) == sum(len(x.distinct) if isinstance(x, pidsl.Heads) else 1 for x in schedule)
    gate = pidsl.gate(a=window(2), b=causal).plot(9)
    assert [x.get_title().splitlines()[0] for x in gate.axes] == ["a: window(2)", "b: causal"]


def test_summaries_have_a_panel_for_each_level() -> None:
    seen = pidsl.where(lambda i, j: j < i // 4)
    figure = pidsl.summaries(blocks(4) & causal, [pidsl.spans(4, seen)]).plot(16)
    assert (drawn(figure, 1) == 2 * seen.mask(16, 4)).all()


@settings(max_examples=FEW)
@given(terms(2), terms(2), st.integers(1, 25))
def test_differences(a: pidsl.Term, b: pidsl.Term, n: int) -> None:
    mine, other = a.mask(n), b.mask(n)
    shown = drawn(a.plot(n, against=b))
    assert ((shown == 1) == (mine & ~other)).all() and ((shown == 2) == (other & ~mine)).all()
    assert ((shown == 3) == (mine & other)).all()
    title = a.plot(n, against=b).axes[0].get_title()
    if (mine == other).all():
        assert "no difference" in title
    else:
        i, j = np.argwhere(mine ^ other)[0]
        assert f"query {i}, key {j}, only in the {'first' if mine[i, j] else 'second'}" in title


@pytest.mark.parametrize(
    "term",
    [
        window(63) | stride(256) & causal, neighborhood((8, 9), 3), neighborhood((12, 10), (5, 3), dilation=2),
        lags(0, 3, 40), window(5).dilated(3), blocks(16) & causal | keys(0, 4), ring(4), keys(0, None, 8) & causal,
        queries(3, None, 5) | keys(2, None, 7), pidsl.pairs([(3, 4), (100, 20)]) | causal, full,
        (window(9) | stride(16, 3)) & causal, keys(3, 90, 2) & causal,
    ],
    ids=repr,
)  # fmt: skip
def test_a_plan_before_and_after_holds_the_pairs_of_the_pattern(term: pidsl.Term) -> None:
    n = 72 if term == neighborhood((8, 9), 3) else 130
    mask = term.mask(n)
    together = np.zeros_like(mask)
    pieces = list(reordered.reordered(reordered.plan_of(term), n))
    for piece in pieces:
        pairs = piece.after >= reordered.PAIR
        assert piece.classes[0] == piece.classes[1]
        own = np.zeros_like(mask)
        own[piece.rows[:, None], piece.keys[None, :]] = pairs
        assert ((piece.before >= reordered.PAIR) == own[: len(piece.before), : len(piece.before)]).all()
        assert not (together & own).any()
        together |= own
        full_tiles = piece.after == reordered.IN_FULL
        assert not (full_tiles & ~pairs).any()
    assert (together == mask).all()


def test_a_plan_is_drawn_in_two_columns() -> None:
    figure = (window(63) | stride(256) & causal).plot(32768, tiles="plan")
    assert len(figure.axes) == 4
    before, after = drawn(figure, 2), drawn(figure, 3)
    # eight classes of 128 tokens each would not fit: four of them, each a triangle below its diagonal
    assert after.shape == (512, 512) and before.shape == (1024, 1024)
    assert ((after >= 2) == np.kron(np.eye(4), np.tri(128, k=-1)).astype(bool)).all()


def rectangles(picture: str) -> dict[str, np.ndarray[Any, Any]]:
    """The cells of each class of an SVG."""
    root = ElementTree.fromstring(picture)
    *_, width, height = (int(x) for x in root.attrib["viewBox"].split())
    found = {}
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        cell = np.zeros((height, width), bool)
        for x, y, w, h in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)h-\d+z", path.attrib["d"]):
            assert not cell[int(y) : int(y) + int(h), int(x) : int(x) + int(w)].any()
            cell[int(y) : int(y) + int(h), int(x) : int(x) + int(w)] = True
        found[path.attrib["class"]] = cell
    return found


@settings(max_examples=FEW)
@given(terms(3), st.integers(1, 30))
def test_the_svg_of_a_mask_is_the_mask(term: pidsl.Term, n: int) -> None:
    mask = term.mask(n)
    found = rectangles(svg.mask(cells.cells_of(term, n), repr(term)))
    assert (found.get("pidsl-every", np.zeros_like(mask)) == mask).all()


@settings(max_examples=FEW)
@given(terms(3, ring=True, symbols=("k",)))
def test_notebooks_show_every_term(term: pidsl.Term) -> None:
    text, picture = term._repr_html_(), term._repr_svg_()
    ElementTree.fromstring(picture)
    ElementTree.fromstring(f"<p>{text}</p>".replace("&nbsp;", " "))
    assert text == term._repr_html_() and picture == term._repr_svg_()


def test_what_notebooks_show_is_escaped_and_the_same_each_time() -> None:
    k, period = pidsl.symbols("k period")
    term = pidsl.where(lambda i, j: (j < i) & (i - j < 9))
    kernel = pidsl.compile(window(3) | stride(8) & causal, "torch")
    shown: list[Any] = [
        term, pidsl.heads([(2, term), (1, causal)]), pidsl.layers([term, causal]), pidsl.gate(a=term, b=full),
        window(k), window(k).pairs(), (window(k) | lags(period)).depth(), (stride(5) & causal).pairs(),
        window(3).degree(), window(63).cost(), kernel, kernel.plan, pidsl.compile(pidsl.layers([term, full]), "torch"),
        pidsl.compile(pidsl.gate(a=term, b=full), "torch"), (stride(7) & causal).live(), window(3).depth(of="all"),
    ]  # fmt: skip
    for value in shown:
        text = value._repr_html_()
        ElementTree.fromstring(f"<p>{text}</p>".replace("<br>", "<br/>"))
        assert "<script" not in text and text == value._repr_html_()
    assert "j &lt; i" in term._repr_html_()
    assert "<mi>k</mi>" in window(k).pairs()._repr_html_()


def test_a_figure_is_the_same_svg_each_time_and_no_backend_is_touched() -> None:
    code = """
import matplotlib, sys, pidsl
assert "matplotlib.pyplot" not in sys.modules
backend = matplotlib.rcParams._get("backend") if hasattr(matplotlib.rcParams, "_get") else None
one, two = (pidsl.window(3).plot(20, **how).svg() for how in ({}, {}))
assert one == two and "dc:date" not in one
assert pidsl.window(3).plot(20)._repr_png_()[:4] == b"\\x89PNG"
assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
assert matplotlib.rcParams["svg.hashsalt"] is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_axes_of_the_caller_are_drawn_into() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert window(3).plot(9, ax=left) is figure
    assert window(3).plot(9, against=causal, ax=right) is figure
    assert len(left.images) == len(right.images) == 1


def test_documents_are_drawn() -> None:
    ids = [0] * 5 + [1] * 7 + [-1] * 2
    term = causal & pidsl.documents
    assert (drawn(term.plot(14, documents=ids)) == 2 * term.mask(14, documents=ids)).all()
    assert (drawn(term.plot(14)) == 2 * causal.mask(14)).all()
    long = [k // 300 for k in range(1500)]
    shown = cells.of_documents(term, 1500, long)
    mask = term.mask(1500, documents=long).reshape(375, 4, 375, 4)
    assert ((shown.kinds > 0) == mask.any(axis=(1, 3))).all()


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (SizeError, lambda: causal.plot(-1)),
        (SizeError, lambda: causal.plot(2.5)),
        (SizeError, lambda: causal.plot(10, of=10)),
        (SizeError, lambda: causal.plot(10, of=2, layers=-1)),
        (SizeError, lambda: causal.plot(10, of=2, layers=1000)),
        (SizeError, lambda: causal.plot(10, tiles=0)),
        (SizeError, lambda: causal.plot(10, tiles="plans")),
        (SizeError, lambda: causal.plot(10, tiles=(1, 2, 3))),
        (SizeError, lambda: causal.plot(1_000_000, tiles=16)),
        (SizeError, lambda: ring(3).plot(10, 12)),
        (SizeError, lambda: causal.plot(-3, tiles="plan")),
        (SymbolError, lambda: window(pidsl.symbols("k")).plot(10)),
        (SymbolError, lambda: window(pidsl.symbols("k")).plot(10, of=3)),
        (TermError, lambda: causal.plot(10, of=3, tiles=2)),
        (TermError, lambda: causal.plot(10, layers=3, against=full)),
        (TermError, lambda: causal.plot(10, against="full")),
        (TermError, lambda: causal.plot(10, 12, against=full)),
        (TermError, lambda: (causal & pidsl.documents).plot(10, against=causal)),
        (TermError, lambda: pidsl.gate(a=causal, b=full).plot(10, ax=Figure().subplots())),
        (TermError, lambda: causal.plot(10, ax=3)),
        (TermError, lambda: causal.plot(10, documents=[0] * 10)),
    ],
)
def test_what_cannot_be_drawn_is_refused(error: type[PidslError], wrong: Any) -> None:
    with pytest.raises(error):
        wrong()


def test_nothing_is_drawn_of_nothing() -> None:
    assert "0 pairs" in causal.plot(0).axes[0].get_title()
    assert "0 pairs" in pidsl.empty.plot(4).axes[0].get_title()


def lines(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {x.get_label(): (list(x.get_xdata()), list(x.get_ydata())) for x in figure.axes[0].get_lines()}


def test_formulas_are_lines_through_their_values() -> None:
    pattern = window(3) | stride(8) & causal
    for n, y in zip(*lines(pattern.pairs().plot(60))["pairs"], strict=True):
        assert y == pattern.pairs(int(n))
    assert lines(causal.pairs().plot(1 << 20))["dense"][1][-1] == 2.0**40
    k = pidsl.symbols("k")
    found = lines(window(k).farthest().plot(20, k=3, n=1000))["farthest(layers=L)"]
    assert found == (list(range(1, 21)), [3.0 * x for x in range(1, 21)])
    costs = lines(pattern.cost(head_dim=32, heads=2).plot(50))
    assert costs["forward"][1] == [4 * 32 * 2 * pattern.pairs(n) for n in range(1, 51)]
    assert costs["forward, dense"][1][-1] == 4 * 32 * 2 * 50 * 50
    with pytest.raises(SymbolError):
        window(k).pairs().plot(20)
    with pytest.raises(SymbolError):
        window(k).cost().plot(20)
    with pytest.raises(SizeError):
        causal.pairs().plot(0)
    with pytest.raises(TermError):
        causal.cost(64).plot(20)


def test_a_million_tokens_are_drawn_from_the_relation() -> None:
    shown = drawn((window(63) | lags(1 << 18)).plot(1 << 20))
    lag = np.arange(512)[:, None] - np.arange(512)[None, :]
    assert ((shown > 0) == ((lag == 0) | (lag == 1) | (lag == 128))).all() and (shown < 2).all()
    assert (drawn(causal.plot(1 << 20)) == np.tri(512) + np.tri(512, k=-1)).all()
