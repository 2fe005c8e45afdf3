"""What a pattern is, costs and reaches: show, bounds, compare, design."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pidsl
from pidsl.cli.options import LENGTH, Binding, Size, as_json, bind, parts, pattern, ranges, read, write_json
from pidsl.console import console, picture, table
from pidsl.errors import ParseError, PidslError, SymbolError, TermError

if TYPE_CHECKING:
    from pidsl.analysis.bound import Bound
    from pidsl.analysis.formulas.assume import Condition
    from pidsl.language.terms import Term
    from pidsl.studies.compare import Row
    from pidsl.studies.front import Front

WIDEST = 64  # tokens of a text picture
COUNTED = 1 << 22  # tokens up to which keys are counted query by query


@click.command(
    epilog="""\b
Examples:
  pidsl show "window(2) | stride(5) & causal" -n 20
  pidsl show longformer --tokens 65536 --json
  echo "window(k) & causal" | pidsl show - --bind k=3"""
)
@pattern
@click.option(
    "-n", "--picture", "small", type=click.IntRange(0, WIDEST), default=32, show_default=True, metavar="TOKENS",
    help=f"Tokens of the picture, at most {WIDEST}.",
)  # fmt: skip
@click.option(
    "--tokens", type=LENGTH, default=4096, show_default=True, metavar="TOKENS", help="Tokens that are counted."
)
@as_json
def show(pattern: str, bound: Mapping[str, int], small: int, tokens: int, as_json: bool) -> None:
    """Draw PATTERN as text, and count its pairs.

    Rows are queries, columns keys. Of heads, layers, gates and summaries each part is shown.

    JSON: "pattern", and "parts" with "title", "pattern", "mask" (a string of 0 and 1 for each query), "tokens",
    "pairs", "sparsity", "degree" ("min", "max", "mean"; null for more than 2^22 tokens).
    """
    found = read(pattern, bound)
    each = [(title, term, term.mask(small), _counts(term, tokens)) for title, term in parts(found)]
    if as_json:
        shown = [
            {
                "title": title,
                "pattern": repr(term),
                "mask": ["".join("01"[int(x)] for x in row) for row in mask],
                **counts,
            }
            for title, term, mask, counts in each
        ]
        write_json({"pattern": repr(found), "parts": shown})
        return
    to = console()
    for title, term, mask, counts in each:
        to.print(f"{title}: {term!r}" if title else repr(term), style="bold", soft_wrap=True)
        click.echo(f"the first {small} tokens; rows: queries, columns: keys\n\n{picture(mask.tolist())}\n")
        click.echo(f"at n = {tokens:,}: {counts['pairs']:,} pairs, {counts['sparsity']:.2%} of all not attended")
        if degree := counts["degree"]:
            click.echo("keys per query: {min:,} to {max:,}, {mean:.1f} on average".format(**degree))
        click.echo()


def _counts(term: Term, n: int) -> dict[str, Any]:
    degree = None
    if n <= COUNTED:
        keys = term.degree(n)
        degree = {"min": int(keys.min()), "max": int(keys.max()), "mean": float(keys.mean())}
    formula = term.pairs() if n > COUNTED else None  # counting takes longer the longer the sequence
    pairs = int(formula(n=n)) if formula is not None and formula.is_exact else term.pairs(n)
    return {"tokens": n, "pairs": pairs, "sparsity": 1 - pairs / n**2, "degree": degree}


@click.command(
    epilog="""\b
Examples:
  pidsl bounds "window(k) | lags(p)" --assume "p > k"
  pidsl bounds "window(63) | stride(256) & causal" --layers 4 --check
  pidsl bounds longformer --save bounds.json"""
)
@pattern
@click.option("--assume", default="", metavar="CONDITIONS", help='Such as "p > k, n > p".')
@click.option("--layers", type=click.IntRange(1), metavar="L", help="Number of layers; default: any number L.")
@click.option("--check", is_flag=True, help="Verify each proof from its statement; exit 1 if one fails.")
@click.option("--save", metavar="FILE", help="Write the bounds with their certificates, for `pidsl verify`.")
@as_json
@click.pass_context
def bounds(
    context: click.Context, pattern: str, bound: Mapping[str, int], assume: str, layers: int | None, check: bool,
    save: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Formulas for every length, with proofs.

    Pairs, keys of a query, the most of any, keys that a decoder must keep, how far layers see (farthest: the largest
    lag; contiguous: without a gap), and depth. Heads, layers and gates see together.

    JSON: "pattern", and "bounds" with "of" (null: all), "quantity", "relation", "formula" (null: unknown, with
    "reason"), "assumptions", "proof", "checked" (null: not asked).
    """
    from pidsl.analysis import questions as ask
    from pidsl.analysis.formulas.assume import conditions, require_known
    from pidsl.analysis.saved import to_json
    from pidsl.language.recipe import Recipe
    from pidsl.pictures.parts import schedule_of
    from pidsl.pictures.report import replace_file

    subject = read(pattern, bound)
    counted = list(dict.fromkeys(term for _, term in parts(subject)))
    seen = schedule_of(subject.of if isinstance(subject, Recipe) else subject, "pidsl bounds")
    symbols = frozenset().union(*(term.symbols for term in counted))
    known = conditions(assume)
    require_known(known, symbols, "nitL", repr(subject))

    def about(variables: str, terms: Iterable[Term]) -> list[Condition]:
        """The assumptions that a question with these variables can use."""
        mine = {*variables}.union(*(term.symbols for term in terms))
        return [c for c in known if {s.name for s in c.free_symbols} <= mine]

    found: list[tuple[str | None, Bound]] = []
    for term in counted:
        degree = ask.degree(term, about("in", [term]))
        own = [ask.pairs(term, about("n", [term])), degree.of_query, degree.maximum, ask.live(term, about("t", [term]))]
        found += [(repr(term), x) for x in own]
    far, near = about("nL" if layers is None else "n", seen), about("n", seen)
    through: Any = seen[0] if len(seen) == 1 else seen
    together = [
        ask.farthest(through, layers, far),
        ask.contiguous(through, layers, far),
        ask.depth(through, assume=near),
    ]
    found += [(None, x) for x in together]
    if save is not None:
        replace_file(Path(save), to_json([x for _, x in found if x.is_known]))
    verdicts = [x.proof.verdict() if check and x.is_known else None for _, x in found]
    if as_json:
        each = [
            {"of": of, **_bound(x), "checked": None if verdict is None else verdict.holds}
            for (of, x), verdict in zip(found, verdicts, strict=True)
        ]
        write_json({"pattern": repr(subject), "bounds": each})
    else:
        for (_, x), verdict in zip(found, verdicts, strict=True):
            click.echo(str(x))
            if verdict is not None:
                said = "yes" if verdict.holds else f"no, {verdict.failure}"
                click.echo(f"  checked: {said}, {len(verdict.steps)} steps")
            click.echo()
    if not all(verdict is None or verdict.holds for verdict in verdicts):
        context.exit(1)


@click.command(
    epilog="""\b
Examples:
  pidsl bounds "window(k) | lags(p)" --save bounds.json
  pidsl verify bounds.json"""
)
@click.argument("file", type=click.Path(path_type=Path))
@as_json
@click.pass_context
def verify(context: click.Context, file: Path, as_json: bool) -> None:
    """Saved bounds, verified by their certificates without a search.

    A bound is verified by its rule from the statement, its facts and its premises; nothing in the file is trusted.
    Exit code 1 where one is not.

    JSON: "bounds" with "of", "quantity", "relation", "formula", "assumptions", "rule", "checked", "steps", "failure".
    """
    from pidsl.analysis.saved import from_json

    try:
        found = from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise click.BadParameter(f"{str(file)!r} is not read: {e}", context, param_hint="FILE") from None
    verdicts = [x.proof.verdict() for x in found]
    if as_json:
        each = [
            {
                "of": x.shown_subject, **_bound(x), "rule": x.method, "checked": verdict.holds,
                "steps": list(verdict.steps), "failure": verdict.failure or None,
            }
            for x, verdict in zip(found, verdicts, strict=True)
        ]  # fmt: skip
        write_json({"bounds": each})
    else:
        for x, verdict in zip(found, verdicts, strict=True):
            click.echo(f"{x}\n  verified: {'yes' if verdict.holds else f'no, {verdict.failure}'}")
            click.echo("".join(f"    {step}\n" for step in dict.fromkeys(verdict.steps)))
    if not all(verdict.holds for verdict in verdicts):
        context.exit(1)


def _bound(x: Bound) -> dict[str, Any]:
    return {
        "quantity": x.name,
        "relation": x.relation,
        "formula": str(x.expr) if x.is_known else None,
        "assumptions": [x.shown_condition(c) for c in x.assumptions],
        "proof": x.proof.summary if x.is_known else None,
        "reason": x.reason or None,
    }


@click.command(
    epilog="""\b
Examples:
  pidsl compare "window(64)" "window(64) | lags(512)" -n 1048576 --layers 12
  pidsl compare local="window(64)" skip="window(64) | lags(512)" -n 65536
  pidsl compare longformer bigbird streaming_llm -n 8192 --json
  pidsl compare "window(k) | keys(0, 4) & causal" --range k=16,64,256"""
)
@click.argument("patterns", nargs=-1, required=True, metavar="[NAME=]PATTERN...")
@bind
@ranges
@click.option("-n", "--tokens", "n", type=LENGTH, default=4096, show_default=True, metavar="TOKENS", help="Tokens.")
@click.option("--layers", type=click.IntRange(1), default=1, show_default=True, metavar="L", help="Number of layers.")
@click.option(
    "--head-dim", type=click.IntRange(1), default=64, show_default=True, metavar="D", help="Of the plan's tiles."
)
@as_json
def compare(
    patterns: tuple[str, ...], bound: Mapping[str, int], ranges: Mapping[str, list[int]], n: int, layers: int,
    head_dim: int, as_json: bool,
) -> None:  # fmt: skip
    """What patterns cost and how far they see, side by side.

    --bind is for every pattern that has the symbol; --range gives a row for each number. "?" is unknown, with the
    reason in a footnote.

    JSON: "tokens", "layers", and "rows" with "name", "pattern", and for "pairs", "sparsity", "degree", "depth",
    "farthest", "contiguous", "live", "waste" an object of "value" (null: unknown), "relation", "reason".
    """
    from pidsl.studies.compare import COLUMNS

    named = _all_named(patterns, bound)
    found = pidsl.compare(named, n=n, layers=layers, head_dim=head_dim, ranges=ranges or None)
    if as_json:
        rows = [
            {"name": row.name, "pattern": repr(row.pattern)}
            | {
                column: {
                    "value": row[column],
                    "relation": None if row[column] is None else row.relations.get(column, "=="),
                    "reason": row.reasons.get(column),
                }
                for column in COLUMNS
            }
            for row in found
        ]
        write_json({"tokens": n, "layers": layers, "rows": rows})
        return
    shown = found.shown_rows
    notes = list(dict.fromkeys(reason for row in shown for x in COLUMNS if (reason := row.reasons.get(x))))
    cells = [[row.name, *(_cell(row, x, notes) for x in COLUMNS)] for row in shown]
    click.echo(f"n = {n:,}; farthest and contiguous through {layers} layer{'s' * (layers != 1)}; one head")
    click.echo(table(["pattern", *COLUMNS.values()], cells))
    for number, reason in enumerate(notes, 1):
        click.echo(f"[{number}] {reason}")
    if len(shown) < len(found):
        click.echo(f"{len(shown)} of {len(found):,} rows, evenly apart; --json has all")


def _all_named(patterns: Iterable[str], bound: Mapping[str, int]) -> dict[str, Any]:
    """What `[NAME=]PATTERN...` say, by their names or else as they are, with numbers for symbols."""
    sources = [_named(text) for text in patterns]
    if sum(source.strip() == "-" for _, source in sources) > 1:
        raise ParseError("two patterns from standard input", "`-` once, and the other patterns as text")
    named: dict[str, Any] = {}
    unused = dict(bound)
    for name, source in sources:
        pattern = read(source, {})
        mine = {x: number for x, number in bound.items() if x in getattr(pattern, "symbols", ())}
        unused = {x: number for x, number in unused.items() if x not in mine}
        pattern = pattern.bind(**mine) if mine else pattern
        key = name or repr(pattern)
        if named.setdefault(key, pattern) != pattern:
            raise TermError(f"two patterns under the name {key!r}", "a name for each")
    for x, number in unused.items():
        raise SymbolError(f"--bind {x}={number}", "a symbol of one of the patterns", where=", ".join(named))
    return named


def _cell(row: Row, column: str, notes: list[str]) -> str:
    reason = row.reasons.get(column)
    return row.shown(column) + (f" [{notes.index(reason) + 1}]" if reason else "")


def _named(text: str) -> tuple[str, str]:
    """The name and the pattern of `NAME=PATTERN`; no name where there is none."""
    match = re.match(r"\s*([\w][\w .-]*?)\s*=(?!=)\s*(.*)", text, re.DOTALL)
    return (match[1], match[2]) if match else ("", text)


@click.command(
    epilog="""\b
Examples:
  pidsl design -n 65536 --layers 4
  pidsl design -n 4096 --layers 4 --max-degree 64 --check
  pidsl design -n 1048576 --layers 12 --family "window | skip" --json
  pidsl design -n 32768 --layers 12 --front --window 63 --budget keys=800
  pidsl design "window(w) | lags(s)" -n 1024 --layers 9 -r w=1:64 -r s=64,128"""
)
@click.argument("patterns", nargs=-1, metavar="[[NAME=]PATTERN...]")
@ranges
@click.option("-n", "--tokens", "n", type=LENGTH, required=True, metavar="TOKENS", help="Tokens to connect.")
@click.option("--layers", type=click.IntRange(1), required=True, metavar="L", help="At most so many layers.")
@click.option("--max-degree", type=click.IntRange(1), metavar="KEYS", help="Keys of a query at most.")
@click.option("--family", "families", multiple=True, metavar="NAME", help="Only this family; may be given again.")
@click.option(
    "--budget",
    "budget",
    multiple=True,
    type=Binding(),
    metavar="NAME=NUMBER",
    help="At most: degree, keys, cache, cache_bytes, received, exchange_bytes, depth.",
)
@click.option("--window", type=click.IntRange(0), default=0, metavar="TOKENS", help="Each layer attends the last ones.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=Size(),
    metavar="NAME=VALUE",
    help="kv_heads, head_dim, dtype, ranks: for bytes.",
)
@click.option("--front", is_flag=True, help="All members that no other is better than, not the best of each family.")
@click.option("--check", is_flag=True, help="Verify what was found from the statements; exit 1 if that fails.")
@as_json
@click.pass_context
def design(
    context: click.Context, /, patterns: tuple[str, ...], ranges: Mapping[str, list[int]], n: int, layers: int,
    max_degree: int | None, families: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """The fewest pairs that connect all tokens within so many layers.

    Of the families that are known; or of each PATTERN, with a --range for each of its symbols: every member is tried.
    Exit code 1 where nothing fits.

    JSON: "tokens", "layers", "max_degree", "least_degree", "reason" (null where something fits), "missing" (why, by
    family), "checked" (null: not asked), and "found" with "family", "parameters", "pattern", "pairs", "least_pairs",
    "degree", "depth". With --front "found" has "keys", "cache", "received", "depth",
    "cache_bytes" and "exchange_bytes" of each point instead.
    """
    own, budget = _all_named(patterns, {}) or None, dict(options["budget"])
    sizes: Any = dict(options["sizes"])
    found = pidsl.design(n, layers, max_degree, families or None, family=own, ranges=ranges or None,
                         budget=budget or None, window=options["window"], **sizes)  # fmt: skip
    check, as_json = options["check"], options["as_json"]
    if options["front"]:
        _write_front(context, found.front, check, as_json)
        return
    checked = found.check() if check and found.found else None
    if as_json:
        each = [
            {
                "family": x.family, "parameters": dict(x.parameters), "pattern": repr(x.pattern), "pairs": x.pairs,
                "least_pairs": x.least_pairs, "degree": x.degree, "depth": _at(x.depth, n),
            }
            for x in found.found
        ]  # fmt: skip
        write_json({
            "tokens": n, "layers": layers, "max_degree": max_degree, "least_degree": found.least_degree,
            "reason": found.reason or None, "missing": dict(found.missing), "checked": checked, "found": each,
        })  # fmt: skip
    _end(context, None if as_json else found, checked, bool(found.found))


def _end(context: click.Context, shown: object, checked: bool | None, found: bool) -> None:
    """Print what was found, unless it was written as JSON; exit 1 where that is nothing, or does not hold."""
    if shown is not None:
        click.echo(str(shown))
        if checked is not None:
            click.echo(f"  checked: {'yes' if checked else 'no'}")
    if not found or checked is False:
        context.exit(1)


def _write_front(context: click.Context, front: Front, check: bool, as_json: bool) -> None:
    checked = front.check() if check and front.points else None
    if as_json:
        from pidsl.studies.model import IN_BYTES
        from pidsl.studies.points import MEASURES

        each = [
            {
                "family": x.family, "parameters": dict(x.parameters), "pattern": repr(x.pattern), "degree": x.degree,
                **{name: getattr(x, name) for name in (*MEASURES, *IN_BYTES)},
            }
            for x in front
        ]  # fmt: skip
        write_json({
            "tokens": front.n, "layers": front.layers, "window": front.window, "budget": dict(front.budget),
            "missing": dict(front.missing), "checked": checked, "found": each,
        })  # fmt: skip
    _end(context, None if as_json else front, checked, bool(front.points))


def _at(bound: Bound, n: int) -> Any:
    try:
        return bound(n=n)
    except PidslError:
        return None


COMMANDS = (show, bounds, verify, compare, design)
