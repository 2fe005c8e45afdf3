"""What is written or takes minutes: claims, demo, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from pidsl.cli.kernels import backend_option, device_option, usable
from pidsl.cli.options import LENGTH, as_json, pattern, read, write_json
from pidsl.console import Progress, table
from pidsl.errors import PidslError

if TYPE_CHECKING:
    from pidsl.studies.claims import Finding


@click.command(
    epilog="""\b
Examples:
  pidsl claims
  pidsl claims "Mistral, reach" "Longformer, dilated reach" --check
  pidsl claims --json > claims.json"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--check", is_flag=True, help="Verify each proof and counterexample again.")
@click.option("--long", "in_full", is_flag=True, help="With readings, counterexamples and repairs.")
@click.option("--markdown", is_flag=True, help="As the page of claims in the documentation.")
@as_json
@click.pass_context
def claims(
    context: click.Context, names: tuple[str, ...], check: bool, in_full: bool, markdown: bool, as_json: bool
) -> None:
    """Published bounds, each proved or refuted; about a minute.

    Exit code 1 where one came out otherwise than is known: undecided, refuted without a repair, or its repair not
    proved; or where --check fails.

    JSON: "claims" with "name", "source", "wording", "statement", "reading", "stated", "verdict", "counterexample",
    "repair", "repaired" (its verdict), "checked" (null: not asked), "expected".
    """
    from pidsl.studies.claims import Findings, check_claims
    from pidsl.studies.claims import claims as published
    from pidsl.studies.report import markdown as page

    known = [claim.name for claim in published()]
    for name in names:
        if name not in known:
            check_claims(name)  # says which there are
    found: list[Finding] = []
    checked: list[bool | None] = []
    chosen = list(names) or known
    with Progress("judging", len(chosen)) as progress:
        for name in chosen:
            found += check_claims(name)
            checked.append(found[-1].check() if check else None)
            progress.step(name)
    good = [expected(x) and y is not False for x, y in zip(found, checked, strict=True)]
    if as_json:
        write_json({"claims": [_claim(x, y) for x, y in zip(found, checked, strict=True)]})
    elif markdown:
        click.echo(page(Findings(found)), nl=False)
    elif in_full:
        click.echo(str(Findings(found)))
    else:
        rows = [
            [x.claim.name, x.verdict, x.repaired.outcome if x.repaired else "", *_checked(y)]
            for x, y in zip(found, checked, strict=True)
        ]
        click.echo(table(["claim", "verdict", "its repair", *(["checked"] if check else [])], rows, left=4))
    if not all(good):
        wrong = [x.claim.name for x, y in zip(found, good, strict=True) if not y]
        click.echo(f"otherwise than known: {'; '.join(wrong)}", err=True)
        context.exit(1)


def expected(finding: Finding) -> bool:
    """Whether a claim came out as the page says: proved, or refuted with a repair that is not itself in doubt."""
    if finding.repaired is not None and finding.repaired.outcome != "proved":
        return False
    return finding.verdict == "proved" or (finding.verdict == "refuted" and bool(finding.claim.repair))


def _checked(found: bool | None) -> list[str]:
    return [] if found is None else ["yes" if found else "no"]


def _claim(x: Finding, checked: bool | None) -> dict[str, Any]:
    bound = x.judgement.claim
    return {
        "name": x.claim.name, "source": x.claim.source, "wording": x.claim.wording,
        "statement": x.claim.statement, "reading": x.claim.reading,
        "stated": f"{bound.name} of {bound.shown_subject} {bound.relation} {bound.expr}", "verdict": x.verdict,
        "counterexample": None if x.judgement.counterexample is None else dict(x.judgement.counterexample.values),
        "repair": x.claim.repair or None, "repaired": None if x.repaired is None else x.repaired.outcome,
        "checked": checked, "expected": expected(x),
    }  # fmt: skip


@click.command(
    epilog="""\b
Examples:
  pidsl demo
  pidsl demo --quick --out results --device cpu"""
)
@click.option("--quick", is_flag=True, help="Shorter sequences and a tenth of the training.")
@click.option("--out", default="pidsl-demo", show_default=True, metavar="FOLDER", help="Where results go.")
@click.option(
    "--skip", type=click.Choice(["single", "comb"]), default="comb", show_default=True,
    help="Reading of pi-attention's skip set.",
)  # fmt: skip
@device_option
def demo(quick: bool, out: str, skip: Literal["single", "comb"], device: str | None) -> None:
    """Declare, analyse, compile, check, time and train; three minutes."""
    at = str(usable(device)) if device else None

    from pidsl.demo.run import Demo
    from pidsl.demo.settings import Settings

    settings = replace(Settings(), skip=skip)
    Demo(settings.quick() if quick else settings, out, at).run()


@click.command(
    epilog="""\b
Examples:
  pidsl report "window(63) | stride(256) & causal"
  pidsl report longformer -n 8192 --layers 12 -o longformer.html"""
)
@pattern
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"), show_default=True,
    metavar="FILE", help="Where the page goes.",
)  # fmt: skip
@click.option("-n", "--tokens", "n", type=LENGTH, default=4096, show_default=True, metavar="TOKENS", help="Tokens.")
@click.option("--layers", type=click.IntRange(1, 64), default=8, show_default=True, metavar="L", help="Layers.")
@backend_option
def report(pattern: str, bound: Mapping[str, int], out: Path, n: int, layers: int, backend: str) -> None:
    """One page of all that is known of PATTERN, to send to a colleague.

    A single HTML file that needs no network: mask, receptive field, bounds with proofs, plan, kernel, claims, costs.
    """
    write: Any = import_module("pidsl.pictures.report").write
    found = read(pattern, bound)
    if out.name in ("", "-"):
        raise PidslError(f"{str(out)!r}", "the name of a file", hint="-o report.html")
    if not out.parent.is_dir():
        raise PidslError(f"{out}: no folder {str(out.parent)!r}", "a place to write the page", hint="-o report.html")
    try:
        write(found, out, n=n, layers=layers, backend=backend)
    except OSError as e:
        raise PidslError(f"{out}: {e.strerror or e}", "a place to write the page", hint="-o report.html") from e
    click.echo(str(out))


COMMANDS = (claims, demo, report)
