"""The page of a pattern: what it says, how it is written, and what it does in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import stat
from base64 import b64decode
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pidsl
from pidsl import blocks, causal, keys, lags, neighborhood, ring, stride, window
from pidsl.cli.main import main
from pidsl.errors import ArgumentError, PidslError, SizeError, SymbolError, TermError
from pidsl.pictures import facts, report
from pidsl.testing import terms

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browsing = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page in")

PATTERN = window(3) | stride(16) & causal
GATED = pidsl.gate(local=window(3), skip=stride(16) & causal, again=window(3))
SPANS = pidsl.summaries(blocks(4) & causal, [pidsl.spans(4, pidsl.where(lambda i, j: j < i // 4))])
LAYERED = pidsl.layers([window(2), pidsl.heads([(2, lags(5)), (1, keys(0, 1) & causal)]), window(1, 1)])


def reached(layers: list[pidsl.Term], token: int, n: int) -> np.ndarray[Any, Any]:
    """By matrices: the tokens that reach one through the first layers, a row for each number of them."""
    product = np.eye(n, dtype=bool)
    rows = [product[token]]
    for term in layers:
        product = (term.mask(n).astype(int) @ product.astype(int)) > 0
        rows.append(product[token])
    return np.stack(rows)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_page_has_every_section_and_needs_nothing(tmp_path: Path) -> None:
    """By the command that README and docs/howto/pictures.md show."""
    path = tmp_path / "report.html"
    assert main(["report", "window(63) | stride(256) & causal", "-o", str(path), "--backend", "torch"]) == 0
    text = path.read_text(encoding="utf-8")
    for part in ("The mask", "What a token sees", "Bounds", "Cost against dense", "The plan", "Kernel", "claims"):
        assert part in text, part
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:,)""", text) and "url(" not in text
    assert re.findall(r"https?://[^\"' <]+", text.replace("http://www.w3.org/2000/svg", "")) == []
    assert "window(63) | stride(256) &amp; causal" in text and "verified while this page was written" in text
    assert "not verified" not in text


def test_text_of_a_pattern_cannot_break_the_page(tmp_path: Path) -> None:
    term = pidsl.where(lambda i, j: (j <= i) & (i - j < 9)) | window(2)
    title = "</title></script><script>alert('x')</script> & {css}"
    text = report.write(term, tmp_path / "x.html", n=40, title=title).read_text(encoding="utf-8")
    assert "<script>alert" not in text and text.count("</script>") == 1
    assert escape(title) in text
    assert "j &lt;= i" in text


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    path.chmod(0o640)

    def fails(*_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="no space"):
            report.write(window(2), path, n=16)
    assert path.read_text() == "old" and [x.name for x in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(SymbolError):
        report.write(window(pidsl.symbols("k")), path)
    assert path.read_text() == "old"
    report.write(window(2), path, n=16)
    assert path.read_text().startswith("<!doctype html>") and stat.S_IMODE(path.stat().st_mode) == 0o640
    link = tmp_path / "link.html"
    link.symlink_to(path)
    report.write(window(3), link, n=16)
    assert link.is_symlink() and "window(3)" in path.read_text()


@pytest.mark.parametrize(
    ("error", "wrong"),
    [
        (ArgumentError, lambda folder: report.write(causal, folder)),
        (ArgumentError, lambda folder: report.write(causal, folder / "none" / "x.html")),
        (SizeError, lambda folder: report.write(causal, folder / "x.html", n=0)),
        (SizeError, lambda folder: report.write(causal, folder / "x.html", n=1 << 25)),
        (SizeError, lambda folder: report.write(causal, folder / "x.html", layers=0)),
        (SymbolError, lambda folder: report.write(window(pidsl.symbols("k")), folder / "x.html")),
        (TermError, lambda folder: report.write(SPANS, folder / "x.html")),
        (TermError, lambda folder: report.write("causal", folder / "x.html")),
        (PidslError, lambda folder: report.write(causal, folder / "x.html", n=16, backend="cuda")),
    ],
)
def test_what_has_no_page_is_refused(error: type[PidslError], wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(error):
        wrong(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_claims_are_those_about_patterns_of_the_form() -> None:
    def names(term: Any) -> list[str]:
        return [claim.name for claim, _, _ in facts.concerning(term)]

    assert "pi-Attention, reach, comb" in names(window(63) | stride(256) & causal)
    assert "pi-Attention, reach, skip in every layer" in names(window(63) | lags(256))
    assert "Longformer, dilated reach" in names(window(3).dilated(4)) and names(stride(7, 3)) == []
    assert "Mistral, reach" in names(pidsl.layers([causal, window(7)]))


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-device-scale-factor=1"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Opens the page of a pattern; at the end, nothing may have been said on the console, or asked of a network."""

    said: list[str] = []
    pages: list[Any] = []

    def opened(subject: Any, width: int = 1280, dark: bool = False, whole: bool = False, **how: Any) -> Any:
        for section in () if whole else ("bounds", "costs", "plans", "kernels", "claims"):
            monkeypatch.setattr(facts, section, lambda *_: "left out")  # they take seconds, and have no script
        path = report.write(subject, tmp_path / "page.html", **how)
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", has_touch=width < 500
        )
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith("file:") or said.append(request.url))
        page.goto(path.as_uri())
        settled(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert said == []


def settled(page: Any) -> None:
    """Until the pictures are drawn."""
    page.evaluate("""() => new Promise((done) => {
        const look = () => mask.dataset.drawn === 'yes' ? requestAnimationFrame(() => requestAnimationFrame(done))
            : requestAnimationFrame(look);
        requestAnimationFrame(look); })""")


def pixels(page: Any, canvas: str) -> np.ndarray[Any, Any]:
    """The colours of a canvas, int [height, width, 3]."""
    code = """(id) => { const c = document.getElementById(id);
        const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, parts = [];
        for (let k = 0; k < data.length; k += 8192) parts.push(String.fromCharCode(...data.subarray(k, k + 8192)));
        return [c.height, c.width, btoa(parts.join(''))]; }"""
    height, width, data = page.evaluate(code, canvas)
    return np.frombuffer(b64decode(data), np.uint8).reshape(height, width, 4)[:, :, :3]


def drawn(page: Any, canvas: str, paper: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray[Any, Any]:
    return np.asarray((pixels(page, canvas) != np.array(paper)).any(axis=2))


def shown_mask(page: Any, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """The mask that a canvas shows, where a token has pixels of its own: by the first pixel of each pair."""
    found = drawn(page, "mask")
    first = [-(-np.arange(x) * len(found) // x) for x in (rows, columns)]
    return np.asarray(found[first[0][:, None], first[1][None, :]])


def set_slider(page: Any, name: str, value: int) -> None:
    page.locator(f"#{name}").evaluate(
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )
    settled(page)


def shown_field(page: Any, n: int) -> np.ndarray[Any, Any]:
    """The rows of the field, where a token has pixels of its own; the mark of the token counts as seen."""
    found = drawn(page, "field")
    return np.asarray(found[11::22][:, -(-np.arange(n) * found.shape[1] // n)])


@browsing
@pytest.mark.parametrize(
    ("term", "n"),
    [
        (PATTERN, 100), (neighborhood((6, 8), 3), 60), (ring(4), 31), (blocks(7) ^ stride(5, 2), 50),
        (window(2) ** 3, 40),
        (pidsl.where(lambda i, j: (j - i) % 4 < 2) | ~causal, 33),
        (pidsl.pairs([(3, 20), (9, 1)]) | lags(0, 2**30), 25),
        (window(3) & pidsl.documents, 20),
    ],
    ids=repr,
)  # fmt: skip
def test_the_mask_is_drawn(show: Any, term: pidsl.Term, n: int) -> None:
    page = show(term, n=n)
    pattern = pidsl.language.terms.within(term)[0]
    assert (shown_mask(page, n, n) == pattern.mask(n)).all()
    token = n // 3
    set_slider(page, "token", token)
    set_slider(page, "layers", 3)
    assert (shown_field(page, n)[:4] == reached([pattern] * 3, token, n)).all()


@browsing
def test_the_keys_and_fields_of_random_patterns(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for section in ("bounds", "costs", "plans", "kernels", "claims"):
        monkeypatch.setattr(facts, section, lambda *_: "")
    page, path = browser.new_page(), tmp_path / "page.html"

    @settings(max_examples=settings.default.max_examples // 4)
    @given(terms(4, ring=True, grid=True), st.integers(1, 40))
    def compared(term: pidsl.Term, n: int) -> None:
        page.goto(report.write(term, path, n=n, layers=3).as_uri())
        code = """(token) => { const rows = [];
            for (let i = 0; i < n; i++) { const row = new Array(n).fill(0);
                keys(0, i, (first, last, by) => { for (let x = first; x <= last; x += by) row[x] += 1; });
                rows.push(row); }
            return [rows, fields(token, 3).map((seen) => Array.from(seen))]; }"""
        mask, seen = page.evaluate(code, n // 2)
        assert (np.array(mask) == term.mask(n)).all()  # each key once
        assert (np.array(seen) == reached([term] * 3, n // 2, n)).all()

    compared()
    page.close()


@browsing
def test_the_sliders_move_the_field(show: Any) -> None:
    n, page = 120, show(PATTERN, n=120, layers=6)
    assert page.locator("#seen").inner_text().startswith("Token 119 sees ")
    for token, layers in ((119, 6), (70, 0), (70, 1), (3, 5), (0, 2)):
        set_slider(page, "token", token)
        set_slider(page, "layers", layers)
        expected = reached([PATTERN] * layers, token, n)
        found = shown_field(page, n)
        assert (found[: layers + 1] == expected).all() and not found[layers + 1 :].any()
        seen = int(expected[-1].sum())
        assert f"Token {token} sees {seen} token" in page.locator("#seen").inner_text()
        counts = ", ".join(str(x) for x in expected.sum(axis=1))
        assert page.locator("#counts").inner_text() == f"After each layer: {counts}."
        assert page.locator("#token-number").input_value() == str(token)
    page.locator("#token-number").fill("50")
    page.locator("#token-number").press("Enter")
    settled(page)
    assert (shown_field(page, n)[:3] == reached([PATTERN] * 2, 50, n)).all()
    page.locator("#token").focus()
    page.keyboard.press("ArrowRight")
    settled(page)
    assert page.locator("#token-number").input_value() == "51"


@browsing
def test_layers_and_heads(show: Any) -> None:
    n, page = 60, show(LAYERED, n=60, layers=7)
    for k, term in enumerate([window(2), lags(5), keys(0, 1) & causal, window(1, 1)]):
        page.locator("#pattern").select_option(str(k))
        settled(page)
        assert (shown_mask(page, n, n) == term.mask(n)).all()
    for token, layers in ((59, 7), (20, 4), (33, 2)):
        set_slider(page, "token", token)
        set_slider(page, "layers", layers)
        through = [LAYERED.unions[k % 3] for k in range(layers)]
        assert (shown_field(page, n)[: layers + 1] == reached(through, token, n)).all()


@browsing
def test_the_branches_of_a_gate(show: Any) -> None:
    n, page = 60, show(GATED, n=60, layers=4)
    for k, term in enumerate([window(3), stride(16) & causal]):
        page.locator("#pattern").select_option(str(k))
        settled(page)
        assert (shown_mask(page, n, n) == term.mask(n)).all()
    pairs = 2 * window(3).pairs(n) + (stride(16) & causal).pairs(n)
    assert f"{pairs:,}\nattended pairs" in page.locator(".facts").inner_text()
    set_slider(page, "token", 50)
    set_slider(page, "layers", 3)
    assert (shown_field(page, n)[:4] == reached([PATTERN] * 3, 50, n)).all()


@browsing
def test_zooming(show: Any) -> None:
    n, page = 256, show(PATTERN, n=256)
    whole = PATTERN.mask(n)
    page.locator("#in").click()
    settled(page)
    assert page.locator("#where").inner_text() == "queries 64 to 191, keys 64 to 191"
    assert (shown_mask(page, 128, 128) == whole[64:192, 64:192]).all()
    page.locator("#mask").focus()
    steps = {
        "+": (96, 96, 64),
        "ArrowUp": (80, 96, 64),
        "ArrowLeft": (80, 80, 64),
        "-": (48, 48, 128),
        "0": (0, 0, 256),
    }
    for key, where in steps.items():
        page.keyboard.press(key)
        settled(page)
        row, column, size = where
        expected = whole[row : row + size, column : column + size]
        assert (shown_mask(page, size, size) == expected).all(), key
    box = page.locator("#mask").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] - 10)
    page.mouse.wheel(0, -300)
    settled(page)
    size = round(256 * 0.8)
    assert re.match("queries (49|50) to", page.locator("#where").inner_text())
    assert f"keys 1 to {size}" in page.locator("#where").inner_text()
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + box["height"] - 100, steps=4)
    page.mouse.up()
    settled(page)
    assert "keys 0 to" in page.locator("#where").inner_text()
    page.locator("#whole").click()
    page.mouse.move(box["x"] + box["width"] * 3.5 / n, box["y"] + box["height"] * 5.5 / n)
    assert page.locator("#pair").inner_text() == "query 5, key 3: attended"


@browsing
@pytest.mark.parametrize("term", [PATTERN, stride(2) & causal, blocks(1000) & ~causal, keys(5, None, 3)], ids=repr)
def test_a_long_mask_is_drawn_pixel_by_pixel(show: Any, term: pidsl.Term) -> None:
    n, page = 5000, show(term, n=5000)
    found, side = pixels(page, "mask"), len(pixels(page, "mask"))
    edges = (np.arange(side + 1) * n) // side
    mask = term.mask(n)
    counts = np.add.reduceat(np.add.reduceat(mask.astype(int), edges[:-1], axis=0), edges[:-1], axis=1)
    sizes = np.diff(edges)[:, None] * np.diff(edges)[None, :]
    assert ((found != 255).any(axis=2) == (counts > 0)).all()
    every = (found == np.array([0x1F, 0x5F, 0xA8])).all(axis=2)
    assert (every == (counts == sizes)).all()
    page.locator("#mask").focus()
    for _ in range(5):
        page.keyboard.press("+")
    settled(page)
    where = [int(x.replace(",", "")) for x in re.findall(r"[\d,]*\d", page.locator("#where").inner_text())]
    row, stop, column, end = where
    size = stop - row + 1
    assert size < side and (shown_mask(page, size, size) == mask[row : stop + 1, column : end + 1]).all()


@browsing
def test_a_million_tokens(show: Any) -> None:
    page = show(window(63) | lags(1 << 18), n=1 << 20)
    found = drawn(page, "mask")
    lag = np.arange(len(found))[:, None] - np.arange(len(found))[None, :]
    assert found[lag == 0].all() and not found[lag < 0].any()
    quarter = len(found) // 4
    assert found[np.abs(lag - quarter) <= 1].any() and not found[(lag > 2) & (lag < quarter - 2)].any()
    set_slider(page, "token", 1_000_000)
    set_slider(page, "layers", 3)
    assert "sees 382 tokens of 1,048,576 through 3 layers" in page.locator("#seen").inner_text()


@browsing
@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (390, True), (1280, False),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in ((390, False), (1280, True))),
    ],
)  # fmt: skip
def test_the_page_fits(show: Any, width: int, dark: bool) -> None:
    page = show(window(63) | stride(256) & causal, width=width, dark=dark, whole=True, layers=6)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    out = page.evaluate("""() => [...document.querySelectorAll('section, canvas, button, input, select, h1, p, pre')]
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))""")
    assert out == []
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, select, canvas, svg')]
        .filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length)))
        .map((e) => e.outerHTML.slice(0, 80))""")
    assert unnamed == []
    assert page.locator("math").count() > 5 and page.locator("merror").count() == 0
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    lightness = [sum(map(int, re.findall(r"\d+", x)[:3])) / 765 for x in (ground, ink)]
    assert (lightness[0] < 0.2 < 0.7 < lightness[1]) if dark else (lightness[1] < 0.3 < 0.9 < lightness[0])


@browsing
def test_two_fingers_zoom(show: Any) -> None:
    page = show(PATTERN, width=390, n=256)
    page.evaluate("""() => { const c = document.getElementById('mask'), b = c.getBoundingClientRect();
        const at = (type, id, u, v) => c.dispatchEvent(new PointerEvent(type, { pointerId: id, pointerType: 'touch',
            clientX: b.left + u * b.width, clientY: b.top + v * b.height, bubbles: true }));
        at('pointerdown', 1, 0.4, 0.5); at('pointerdown', 2, 0.6, 0.5);
        at('pointermove', 2, 0.8, 0.5); at('pointerup', 2, 0.8, 0.5); at('pointerup', 1, 0.4, 0.5); }""")
    settled(page)
    where = [int(x) for x in re.findall(r"\d+", page.locator("#where").inner_text())]
    assert where[1] - where[0] + 1 == 128
