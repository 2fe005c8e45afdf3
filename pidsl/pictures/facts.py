"""The sections of a report: bounds with proofs, costs against dense attention, plans, kernels, published claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any

from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.errors import BackendError, PidslError
from pidsl.language.expr import Symbol
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Term, within
from pidsl.pictures import mathml, style, svg
from pidsl.pictures.highlight import highlighted
from pidsl.pictures.html import conditions
from pidsl.pictures.parts import panels_of, schedule_of
from pidsl.studies.claims import Claim, find
from pidsl.studies.claims import claims as published

PATTERNS = 8  # distinct patterns whose bounds and plans are shown


def version() -> str:
    """Of the library."""
    import pidsl

    return pidsl.__version__


def weights(subject: Any) -> list[int]:
    """How many heads and layers have each distinct pattern, in the order of the panels."""
    found: dict[Term, int] = {}
    for part in layers_of(subject):
        for term, many in part:
            found[term] = found.get(term, 0) + many
    return list(found.values())


def layers_of(subject: Any) -> Iterator[list[tuple[Term, int]]]:
    """Of each layer, its distinct patterns and how many heads, or branches of a gate, have each."""
    for part in subject if isinstance(subject, Schedule) else [subject]:
        match part:
            case Heads():
                yield [(term, len(heads)) for term, heads in part.distinct.items()]
            case Gate():
                yield list(Counter(term for _, term in part.branches).items())
            case _:
                yield [(part, 1)]


def distinct(subject: Any) -> list[tuple[str, Term]]:
    """The distinct patterns, with what they are."""
    found: dict[Term, str] = {}
    for panel in panels_of(subject):
        found.setdefault(panel.term, panel.title)
    return [(title, term) for term, title in found.items()]


# -- bounds ------------------------------------------------------------------------------------------------------------


def bounds(subject: Any) -> str:
    """What holds for every number of tokens: of each pattern its size, of all layers how far they see."""
    parts: list[str] = []
    patterns = distinct(subject)
    for title, term in patterns[:PATTERNS]:
        if len(patterns) > 1:
            parts.append(f"<h3><code>{escape(title)}</code></h3>")
        degree = _asked(ask.degree, term)
        parts.append(_bound("attended pairs", _asked(ask.pairs, term)))
        if isinstance(degree, str):
            parts.append(_bound("keys of a query", degree))
        else:
            parts += [_bound("keys of query i", degree.of_query), _bound("the most keys of a query", degree.maximum)]
        parts.append(_bound("keys that a decoder keeps after token t", _asked(ask.live, term)))
    if len(patterns) > 1:
        by = "any branch" if isinstance(subject, Gate) else "any head"
        parts.append(f"<h3>Through all layers, {by}</h3>")
    through: Any = schedule_of(subject)
    through = through[0] if len(through) == 1 else tuple(through)
    for what, question in (
        ("the largest lag that L layers see", ask.farthest),
        ("predecessors seen without a gap", ask.contiguous),
        ("layers until every token sees all before it", ask.depth),
    ):
        parts.append(_bound(what, _asked(question, through)))
    return "\n".join(parts)


def _asked(question: Callable[[Any], Any], subject: Any) -> Any:
    """An answer, or why there is none."""
    try:
        return question(subject)
    except PidslError as e:
        return f"{e.given}{f', {e.expected}' if e.expected else ''}"


def _bound(what: str, bound: Bound | str) -> str:
    if isinstance(bound, str) or not bound.is_known:
        reason = bound if isinstance(bound, str) else bound.reason
        return f"<div class='bound'>{escape(what)}: unknown, because {escape(reason)}</div>"
    stated = mathml.statement(bound.name, bound.relation, bound.expr)
    verdict = bound.proof.verdict()
    steps = "".join(f"<li>{escape(step)}</li>" for step in verdict.steps)
    outcome = "verified while this page was written" if verdict.holds else f"not verified: {verdict.failure}"
    note = f"<p class='soft'>Note: {escape(bound.reason)}</p>" if bound.reason else ""
    return (
        f"<div class='bound'><span class='soft'>{escape(what)}</span><div>{stated}{conditions(bound)}</div>"
        f"<details><summary>Proof</summary><p>{escape(bound.proof.summary)}</p><p>{escape(outcome)}</p>"
        f"{f'<ol>{steps}</ol>' if steps else ''}{note}</details></div>"
    )


# -- costs -------------------------------------------------------------------------------------------------------------

LENGTHS = [1 << e for e in range(8, 21, 2)]
COUNTED = 1 << 16  # tokens up to which pairs are counted, where no formula is known


def costs(subject: Any, n: int) -> str:
    """Pairs of the pattern, of causal and of full attention, by length."""
    patterns, many = [term for _, term in distinct(subject)], weights(subject)
    lengths = sorted({*LENGTHS, n})
    counts = [_count(patterns, many, length) for length in lengths]
    rows, plain = [], sum(many)
    for length, count in zip(lengths, counts, strict=True):
        dense = plain * length**2
        if count is None:
            continue
        ratio = f"{dense / count:,.1f}x" if count else "nothing to attend"
        causal = plain * length * (length + 1) // 2
        cells = (f"{length:,}", f"{count:,}", f"{causal:,}", f"{dense:,}", ratio, style.flops(4 * 64 * count))
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    if not rows:
        return "<p>The pairs cannot be counted within isl's limits.</p>"
    known = [(length, count) for length, count in zip(lengths, counts, strict=True) if count is not None]
    across = [length for length, _ in known]
    series = {
        "dense": [plain * x**2 for x in across],
        "causal": [plain * x * (x + 1) // 2 for x in across],
        "this pattern": [count for _, count in known],
    }
    key = "".join(
        f"<span><span class='swatch s{k}' style='color:{style.LINES[k]}'></span>{escape(name)}</span>"
        for k, name in enumerate(series)
    )
    names = ("tokens", "pairs", "causal", "dense", "fewer than dense", "forward FLOPs")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    note = "Forward FLOPs: 4 x 64 for each attended pair, head dimension 64."
    together = "branches" if isinstance(subject, Gate) else "heads and layers"
    many_note = f" All {plain} {together} together." if plain > 1 else ""
    drawn = svg.chart(across, series, across="tokens", up="attended pairs") if len(known) > 1 else ""
    return (
        f"<div class='key'>{key}</div><div class='wide'>{drawn}</div>"
        f"<div class='wide' tabindex='0'><table>{head}{''.join(rows)}</table></div>"
        f"<p class='soft'>{note}{many_note}</p>"
    )


def _count(patterns: Sequence[Term], many: Sequence[int], n: int) -> int | None:
    total = 0
    for term, times in zip(patterns, many, strict=True):
        try:
            plain = within(term)[0]
            formula = plain.pairs()
            if formula.is_exact:
                with suppress(PidslError):
                    total += times * int(formula(n=n))
                    continue
            if n > COUNTED:
                return None
            total += times * plain.pairs(n)
        except PidslError:
            return None
    return total


# -- plans and kernels -------------------------------------------------------------------------------------------------


def plans(terms: Sequence[Term]) -> str:
    """The pieces of the Triton plan of each pattern, as tokens stand and as the layouts number them."""
    from pidsl.pictures.reordered import plan_of, plan_pictures

    parts = [
        "<p class='soft'>The plan for Triton. First: the pairs of a piece as tokens stand; each tile with a pair would "
        "have to be computed. Then, where the layout moves them: the pairs as it numbers them, and the tiles that the "
        "kernel computes.</p>",
        "<div class='key'><span><i style='background:var(--every)'></i>pair in a full tile</span>"
        "<span><i style='background:var(--pair)'></i>pair in a tile with a mask</span>"
        "<span><i style='background:var(--vain)'></i>computed in vain</span>"
        "<span><i style='background:var(--paper)'></i>skipped</span></div>",
    ]
    for term in list(terms)[:PATTERNS]:
        if len(terms) > 1:
            parts.append(f"<h3><code>{escape(repr(term))}</code></h3>")
        try:
            plan = plan_of(term)
        except PidslError as e:
            parts.append(f"<p>No plan: {escape(e.given)}</p>")
            continue
        parts.append(f"<div class='pieces'>{''.join(plan_pictures(plan, size=300))}</div>")
        parts.append(f"<details><summary>The plan as text</summary><pre>{escape(str(plan))}</pre></details>")
    return "\n".join(parts)


def kernels(subject: Any, backend: str) -> str:
    """The source of the kernel that a backend runs, and that of Triton."""
    from pidsl.runtime.compile import compile

    compiled: Callable[..., Any] = compile
    kernel = compiled(subject, backend=backend)
    used = getattr(kernel, "chosen", None) or getattr(kernel[0], "chosen", backend)
    parts = [_source(f"Source for {used}", kernel.source())]
    if used != "triton":
        with suppress(BackendError):  # where Triton is not installed
            parts.append(_source("Source for Triton", compiled(subject, backend="triton").source()))
    return "\n".join(parts)


def _source(title: str, source: str) -> str:
    lines = source.count("\n") + 1
    text = f"<pre tabindex='0'>{highlighted(source)}</pre>"
    return f"<details><summary>{escape(title)}, {lines} lines</summary>{text}</details>"


# -- claims ------------------------------------------------------------------------------------------------------------


def claims(subject: Any) -> str:
    """What was published about patterns of this form, and whether it holds."""
    found = list(concerning(subject))
    if not found:
        total = len(published())
        return f"<p>None of the {total} published bounds that pidsl knows is about a pattern of this form.</p>"
    parts = []
    several = len(distinct(subject)) > 1
    for claim, values, term in found:
        finding = find(claim)
        bound = claim.bound
        here = ", ".join(f"{name} = {value:,}" for name, value in sorted(values.items()))
        counter = finding.judgement.counterexample
        about = f"<p>About <code>{escape(repr(term))}</code> in every layer and head:</p>" if several else ""
        lines = [
            f"<h3>{escape(claim.name)}: <span class='verdict {finding.verdict}'>{finding.verdict}</span></h3>",
            f"{about}<p>{escape(claim.statement)} <span class='soft'>({escape(claim.source)})</span></p>",
            f"<p>Read as: {escape(claim.reading)}</p>",
            f"<p>{mathml.statement(bound.name, bound.relation, bound.expr)}{conditions(bound)}"
            f"{f'; here {escape(here)}' if here else ''}</p>",
        ]
        if counter is not None:
            lines.append(f"<p>Smallest counterexample: {escape(str(counter))}</p>")
        if claim.repair:
            lines.append(f"<p>Repair: {escape(claim.repair)}</p>")
        parts.append("".join(lines))
    return "\n".join(parts)


def concerning(subject: Any) -> Iterator[tuple[Claim, dict[str, int], Term]]:
    """The claims about a pattern of the form of one of the subject's, with the values of their symbols and that one.

    >>> import pidsl
    >>> [(claim.name, values) for claim, values, _ in concerning(pidsl.window(3).dilated(4))][0]
    ('Longformer, dilated reach', {'k': 3, 'dilation': 4})
    """
    terms = [term for _, term in distinct(subject)]
    for claim in published():
        if not isinstance(claim.bound.subject, Term):
            continue
        for term in terms:
            values: dict[str, int] = {}
            if unified(claim.bound.subject, term, values):
                yield claim, values, term
                break


def unified(form: Any, value: Any, values: dict[str, int]) -> bool:
    """Whether a value has a form, with numbers for the symbols of the form, which are added to `values`."""
    if isinstance(form, Symbol):
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return values.setdefault(form.name, value) == value
    if is_dataclass(form) and not isinstance(form, type):
        return type(form) is type(value) and all(
            unified(getattr(form, x.name), getattr(value, x.name), values) for x in fields(form)
        )
    if isinstance(form, tuple):
        same = isinstance(value, tuple) and len(form) == len(value)
        return same and all(unified(a, b, values) for a, b in zip(form, value, strict=True))
    return type(form) is type(value) and bool(form == value)
