"""What a notebook shows: patterns with their pictures, bounds with formulas that are set, plans, costs and kernels."""

from __future__ import annotations

from functools import singledispatch
from html import escape
from typing import Any

from pidsl.analysis.bound import Bound
from pidsl.analysis.questions import Degree
from pidsl.distributed.planning.plan import Plan
from pidsl.distributed.planning.shown import lines_of
from pidsl.errors import PidslError
from pidsl.language.expr import walk as walk_expression
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.summaries import Summaries
from pidsl.language.terms import Term, walk, within
from pidsl.pictures import mathml, style, svg
from pidsl.pictures.cells import Cells, cells_of
from pidsl.pictures.highlight import highlighted
from pidsl.pictures.parts import Panel, panels_of
from pidsl.studies.compare import Comparison
from pidsl.studies.cost import Cost
from pidsl.studies.design import Design
from pidsl.studies.front import Front

LEAST, MOST = 32, 512  # tokens of a picture that nobody gave a length
PANELS = 12  # pictures of one value

FRAME = 'style="display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start;margin:.4em 0"'


@singledispatch
def html(value: Any) -> str:
    """A value of pidsl as HTML, without scripts and without anything from elsewhere."""
    if hasattr(value, "explain"):  # kernels and plans: their rooms are not imported for a mask
        return kernel_html(value)
    if hasattr(value, "pieces"):
        return plan_html(value)
    if hasattr(value, "parts"):
        return "".join(f"<div>{escape(title)}</div>{html(part)}" for title, part in value.parts)
    return f"<pre>{escape(repr(value))}</pre>"


def kernel_html(kernel: Any) -> str:
    """A kernel: its pattern, what was decided, and its source."""
    about = f"<div>kernel, backend <code>{escape(getattr(kernel, 'backend', 'a kernel per layer'))}</code></div>"
    found = f"{html(kernel.recipe.of)}{about}{html(kernel.plan)}"
    return f"<div>{found}<details><summary>source</summary><pre>{highlighted(kernel.source())}</pre></details></div>"


@html.register(Heads)
@html.register(Schedule)
@html.register(Gate)
@html.register(Summaries)
@html.register(Term)
def patterns(value: Any) -> str:
    """The text, and a picture of each pattern in it."""
    text = f"<div><code>{escape(repr(value))}</code></div>"
    if value.symbols if not isinstance(value, Summaries) else False:
        names = ", ".join(f"<code>{escape(name)}</code>" for name in sorted(value.symbols))
        return f"{text}<div>for all values of {names}</div>"
    shown = panels_of(value)
    try:
        pictures = [_panel(panel, len(shown) > 1) for panel in shown[:PANELS]]
    except PidslError:  # a picture is more than was asked for
        return text
    more = f"<div>and {len(shown) - PANELS} more</div>" if len(shown) > PANELS else ""
    return f"<div>{text}<div {FRAME}>{''.join(pictures)}</div>{more}</div>"


def svg_of(value: Any) -> str:
    """The picture of the first pattern of a value."""
    if getattr(value, "symbols", ()):
        return nothing(repr(value))
    panel = panels_of(value)[0]
    try:
        found = drawn(panel)
    except PidslError:
        return nothing(repr(value))
    return svg.mask(found, f"{panel.title}, n = {found.n}")


def nothing(text: str) -> str:
    """A value without a picture: its text."""
    width = 9 * len(text) + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="28"><title>{escape(text)}</title>'
        f'<text x="6" y="19" font-family="monospace" font-size="14" fill="currentColor">{escape(text)}</text></svg>'
    )


def drawn(panel: Panel, n: int | None = None) -> Cells:
    """The cells of a panel, over as many tokens as show what is in it."""
    tokens = tokens_of(panel.term) if n is None else n
    return cells_of(within(panel.term)[0], tokens, None if panel.keys is None else panel.keys(tokens))


def tokens_of(term: Any) -> int:
    """A power of two that holds the numbers in a term about twice."""
    largest = 1
    for part in walk(term):
        for name in getattr(part, "__match_args__", ()):
            largest = max(largest, *_numbers(getattr(part, name)), 1)
    n = LEAST
    while n < MOST and n < 2 * largest:
        n *= 2
    return n


def _numbers(value: Any) -> list[int]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [abs(value)]
    if isinstance(value, tuple):
        return [x for one in value[:64] for x in _numbers(one)]
    if hasattr(value, "__match_args__") and not isinstance(value, Term):
        return [abs(x) for x in walk_expression(value) if isinstance(x, int)]
    return []


def _panel(panel: Panel, titled: bool) -> str:
    found = drawn(panel)
    pairs = int((found.kinds > 0).sum())
    what = f"n = {found.n}: {pairs:,} pairs, {style.percent(pairs, found.kinds.size)} of all"
    title = f"<div><code>{escape(panel.title)}</code></div>" if titled else ""
    label = f"mask of {panel.title}, {found.n} queries (rows) and {found.m} keys (columns)"
    return f"<figure style='margin:0'>{title}{svg.mask(found, label, 240)}<figcaption>{what}</figcaption></figure>"


# -- answers -----------------------------------------------------------------------------------------------------------


@html.register
def bound_html(bound: Bound) -> str:
    """A bound: the statement, for what it holds, and how it is proved."""
    subject = f"<code>{escape(style.shortened(bound.shown_subject, 120))}</code>"
    if not bound.is_known:
        return f"<div>{escape(bound.name)} of {subject}: unknown, because {escape(bound.reason)}</div>"
    stated = mathml.statement(bound.name, bound.relation, bound.expr)
    lines = [f"<div>{subject}</div><div>{stated}{conditions(bound)}</div>"]
    lines.append(f"<div style='opacity:.75'>proof: {escape(bound.proof.summary)}</div>")
    if bound.reason:
        lines.append(f"<div style='opacity:.75'>note: {escape(bound.reason)}</div>")
    return f"<div>{''.join(lines)}</div>"


def conditions(bound: Bound) -> str:
    """For what a bound holds."""
    if not bound.assumptions:
        return ""
    return " for " + ", ".join(mathml.formula(c) for c in bound.assumptions)


@html.register
def degree_html(found: Degree) -> str:
    """Keys of each query, and the most of them."""
    return bound_html(found.of_query) + bound_html(found.maximum)


@html.register
def cost_html(found: Cost) -> str:
    """A table of formulas."""
    rows = []
    for name, bound in found.bounds.items():
        value = mathml.statement("", bound.relation, bound.expr) if bound.is_known else f"? {escape(bound.reason)}"
        rows.append(f"<tr><th style='text-align:left'>{name.replace('_', ' ')}</th>"
                    f"<td style='text-align:left'>{value}{conditions(bound)}</td></tr>")  # fmt: skip
    return f"<div><code>{escape(found.pairs.shown_subject)}</code><table>{''.join(rows)}</table></div>"


@html.register
def comparison_html(found: Comparison) -> str:
    """Patterns side by side."""
    return _table(*found.as_text, left=1)


@html.register
def design_html(found: Design) -> str:
    """The best of each family, and what was not found."""
    return _table(*found.as_text, left=2)


@html.register
def front_html(found: Front) -> str:
    """The points of a front."""
    return _table(*found.as_text, left=2)


@html.register
def ranks_html(found: Plan) -> str:
    """A plan for ranks: its table, and its reasons below."""
    text = f"<div><code>{escape(repr(found.asked.pattern))}</code></div>"
    return f"<div>{text}{_table(*lines_of(found), left=1)}</div>"


def _table(title: str, cells: list[list[str]], notes: list[str], left: int) -> str:
    """A line, a table whose first line names the columns, the first of them flush left, and lines below."""
    rows = []
    for number, line in enumerate(cells):
        tag = "th" if number == 0 else "td"
        sides = ["left" if k < left else "right" for k in range(len(line))]
        each = [f"<{tag} style='text-align:{x}'>{escape(cell)}</{tag}>" for x, cell in zip(sides, line, strict=True)]
        rows.append(f"<tr>{''.join(each)}</tr>")
    below = "".join(f"<div style='opacity:.75'>{escape(note)}</div>" for note in notes)
    return f"<div><div>{escape(title)}</div><table>{''.join(rows)}</table>{below}</div>"


def plan_html(plan: Any) -> str:
    """A plan: its pieces before and after they are laid out, and its text."""
    from pidsl.pictures.reordered import plan_pictures

    pictures = "".join(plan_pictures(plan))
    text = f"<details><summary>the plan</summary><pre>{escape(str(plan))}</pre></details>"
    return f"<div><div {FRAME}>{pictures}</div>{text}</div>"
