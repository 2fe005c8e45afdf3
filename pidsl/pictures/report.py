"""`write`: a pattern as one page that needs nothing else: no network, no fonts, no files beside it.

term, what it costs at n    its mask, to zoom into       what a token sees, by layers
bounds and their proofs     costs against dense          the plan before and after
the kernels' source         published claims about it
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from pidsl.errors import ArgumentError, PidslError, SizeError, TermError
from pidsl.language.expr import whole
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Term, is_confined, require_concrete, within
from pidsl.language.vocabulary import causal
from pidsl.pictures import facts, style
from pidsl.pictures.field import LONGEST, MOST_LAYERS
from pidsl.pictures.parts import Panel, schedule_of
from pidsl.pictures.script import keys_script
from pidsl.relation.oracle import check_square

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write(
    subject: Term | Heads | Schedule | Gate, path: str | os.PathLike[str], *, n: int = 1024, layers: int = 4,
    backend: str = "auto", title: str | None = None,
) -> Path:  # fmt: skip
    """Write a page about a pattern; a file that was there is replaced when all of the page is written.

    Args:
        subject: a pattern, heads, layers or a gate, without open symbols.
        path: the file, in a folder that there is.
        n: tokens of the pictures, at most 2**24.
        layers: the most layers through which a token is followed, at most 64.
        backend: whose kernel is shown, as in `pidsl.compile`; that of Triton is shown besides.
        title: of the page; default: the text of the pattern.

    Returns:
        The path of the file.

    Raises:
        SizeError: a number that is none, or too large.
        SymbolError: the pattern holds unbound symbols: bind them.
        TermError: summaries, or no pattern at all.
        ArgumentError: the path is a folder, or lies in none.
        BackendError: a backend that there is not.
        TooHardError: keys for which isl finds no loops, and more than 4096 tokens.
    """
    target = Path(path).expanduser()
    if target.is_dir() or not target.name:
        raise ArgumentError(f"path {str(path)!r}, a folder", "the name of a file", where="report.write(term, path)")
    if not target.parent.is_dir():
        expected = f"a folder that there is, not {str(target.parent)!r}"
        raise ArgumentError(f"path {str(path)!r}", expected, where="report.write(term, path)")
    page = report(subject, n=n, layers=layers, backend=backend, title=title)
    replace_file(target, page)
    return target


def replace_file(target: Path, text: str) -> None:
    """Write a file so that there is either the old one or the whole new one."""
    target = target.resolve()  # of a link, what it leads to
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page is about, checked.

    Args:
        panels: the distinct patterns, each within a document where it is confined to them.
        schedule: of each layer, the numbers of the patterns whose pairs it has.
    """

    subject: Any
    n: int
    layers: int
    panels: tuple[Panel, ...]
    schedule: tuple[tuple[int, ...], ...]


def checked(subject: Any, n: object, layers: object) -> Shown:
    """The patterns of a page, and its numbers."""
    if not isinstance(subject, Term | Heads | Schedule | Gate):
        given = f"{subject!r} ({type(subject).__name__})"
        raise TermError(given, "a pattern, heads, layers or a gate", where="a report")
    tokens, count = whole(n), whole(layers)
    if tokens is None or not 1 <= tokens <= LONGEST:
        raise SizeError(f"n = {n!r}", f"1 <= n <= {LONGEST} tokens", where="a report")
    if count is None or not 1 <= count <= MOST_LAYERS:
        raise SizeError(f"layers = {layers!r}", f"1 <= layers <= {MOST_LAYERS}", where="a report")
    for term in schedule_of(subject):
        require_concrete(term, "draw a report of it; bind its symbols first")
        check_square(term, tokens, tokens)
    distinct = facts.distinct(subject)
    numbers = {term: k for k, (_, term) in enumerate(distinct)}
    schedule = tuple(tuple(numbers[term] for term, _ in layer) for layer in facts.layers_of(subject))
    panels = tuple(Panel(title, within(term)[0]) for title, term in distinct)
    return Shown(subject, tokens, count, panels, schedule)


def report(subject: Any, *, n: object, layers: object, backend: str, title: str | None) -> str:
    """The text of the page."""
    shown = checked(subject, n, layers)
    loops = [keys_script(panel.term, shown.n) for panel in shown.panels]
    data = json.dumps({"n": shown.n, "schedule": shown.schedule}).replace("<", "\\u003c")
    text = repr(subject)
    name = text if title is None else str(title)
    sections = [
        _section("Bounds, each with its proof", facts.bounds(subject)),
        _section("Cost against dense attention", facts.costs(subject, shown.n)),
        _section("The plan, before and after tokens are re-ordered", facts.plans([p.term for p in shown.panels])),
        _section("Kernel", facts.kernels(subject, backend)),
        _section("Published claims", facts.claims(subject)),
    ]
    return PAGE.format(
        title=escape(style.shortened(name, 100)),
        heading=f"<h1>{escape(name)}</h1>" if title is not None else "<h1>A sparse attention pattern</h1>",
        policy=escape(POLICY),
        css=_resource("page.css"),
        term=escape(text),
        facts=_facts(shown),
        mask=_mask(shown),
        field=_field(shown),
        sections="".join(sections),
        version=escape(facts.version()),
        data=f"const DATA = {data};\nconst LOOPS = [{', '.join(loops)}];",
        script=_resource("page.js"),
    )


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{css}</style>
</head>
<body>
<main>
{heading}
<code class="term">{term}</code>
{facts}
<div class="pair">
{mask}
{field}
</div>
{sections}
<footer>Written by pidsl {version}. This file is complete: it loads nothing.</footer>
</main>
<script>
{data}
{script}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return resources.files("pidsl.pictures").joinpath(name).read_text(encoding="utf-8")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}\n</section>\n"


def _facts(shown: Shown) -> str:
    """Numbers at n, of all patterns together."""
    entries: list[tuple[str, str]] = [(f"{shown.n:,}", "tokens")]
    counts = [_pairs(panel.term, shown.n) for panel in shown.panels]
    weights = facts.weights(shown.subject)
    if None not in counts:
        pairs = sum(w * (c or 0) for w, c in zip(weights, counts, strict=True))
        dense = sum(weights) * shown.n**2
        entries += [(f"{pairs:,}", "attended pairs"), (style.percent(pairs, dense), "of all pairs")]
        if pairs:
            entries.append((f"{dense / pairs:,.1f}x", "fewer than dense"))
    if len(shown.schedule) > 1:
        entries.append((str(len(shown.schedule)), "layers"))
    if isinstance(shown.subject, Heads):
        entries.append((str(len(shown.subject)), "query heads"))
    if isinstance(shown.subject, Gate):
        entries.append((str(len(shown.subject.branches)), "branches, a softmax each"))
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(what)}</span></li>" for value, what in entries)
    note = "<p class='soft'>Within documents: everything here is about one document.</p>"
    return f"<ul class='facts'>{items}</ul>{note if any(map(is_confined, schedule_of(shown.subject))) else ''}"


def _pairs(term: Term, n: int) -> int | None:
    with suppress(PidslError):
        return term.pairs(n)
    return None


def _mask(shown: Shown) -> str:
    zoom = "Plus and minus zoom, arrows move, 0 shows all."
    choice = ""
    if len(shown.panels) > 1:
        named = enumerate(panel.title for panel in shown.panels)
        options = "".join(f"<option value='{k}'>{escape(title)}</option>" for k, title in named)
        choice = f"<label>Pattern <select id='pattern'>{options}</select></label>"
    return f"""<section><h2>The mask</h2>
<div class="controls">{choice}<button id="in" type="button" aria-label="zoom in">+</button>
<button id="out" type="button" aria-label="zoom out">&minus;</button>
<button id="whole" type="button">Whole</button></div>
<canvas id="mask" tabindex="0" role="img"
 aria-label="The mask: rows are queries, columns are keys. {zoom}"></canvas>
<output id="where" class="soft"></output><output id="pair" class="soft"></output>
<div class="key"><span><i style="background:var(--every)"></i>attended</span>
<span><i style="background:var(--some)"></i>some pairs of a pixel</span>
<span><i style="background:var(--paper)"></i>not attended</span></div>
<p class="soft">Rows are queries, columns are keys. Click the picture, then turn the wheel or press + and &minus;;
drag or press arrows to move; pinch on a touch screen.</p>
<noscript>The pictures are drawn by a script in this page.</noscript></section>"""


def _field(shown: Shown) -> str:
    last, start = shown.n - 1, shown.n - 1
    if not all(within(term)[0] <= causal for term in schedule_of(shown.subject)):
        start = last // 2
    first = min(shown.layers, max(2, len(shown.schedule)))
    return f"""<section><h2>What a token sees</h2>
<div class="controls">
<label class="slider"><span>Token</span><input id="token" type="range" min="0" max="{last}" value="{start}">
<input id="token-number" type="number" min="0" max="{last}" value="{start}" aria-label="number of the token"></label>
<label class="slider"><span>Layers</span><input id="layers" type="range" min="0" max="{shown.layers}" value="{first}">
<span id="layers-number">{first}</span></label></div>
<div class="field"><div id="rows" aria-hidden="true"></div><canvas id="field" role="img" aria-describedby="seen counts"
 aria-label="A row for each number of layers, from 0 at the top: the tokens at the input that the token sees."></canvas>
</div>
<output id="seen" aria-live="polite"></output>
<p id="counts" class="soft"></p>
<p class="soft">A row for each number of layers, from 0 at the top; columns are tokens at the input, 0 to {last:,}.</p>
</section>"""
