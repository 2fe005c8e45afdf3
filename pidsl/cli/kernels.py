"""What is compiled: plan, source, check, bench."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from pidsl.cli.options import BACKENDS, as_json, parts, pattern, read, term_of, write_json
from pidsl.console import Progress, table
from pidsl.errors import BackendError, PidslError, SizeError

backend_option = click.option("--backend", type=BACKENDS, default="auto", show_default=True, help="What it runs on.")
device_option = click.option("--device", metavar="DEVICE", help="cpu, cuda, ...; default: the GPU, if there is one.")
head_dim_option = click.option(
    "--head-dim", type=click.IntRange(1, 256), default=64, show_default=True, metavar="D", help="Size of a head."
)


def compiled(found: Any, backend: str) -> Any:
    """The kernel of what a pattern spells; a recipe says its backend itself, unless the command line does."""
    from dataclasses import replace

    import pidsl
    from pidsl.language.recipe import Recipe

    if isinstance(found, Recipe):
        return pidsl.compile(found if backend == "auto" else replace(found, backend=backend))  # type: ignore[arg-type]
    parts(found)
    return pidsl.compile(found, backend)  # type: ignore[call-overload]


def usable(device: str | None) -> Any:
    """The torch device of a name, the default where there is none.

    Raises:
        BackendError: there is no such device here.
    """
    import torch

    from pidsl.demo.measure import default_device

    try:
        found = default_device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        reason = str(e).splitlines()[0]
        raise BackendError(f"--device {device}: {reason}", "cpu, or a GPU that torch sees") from None
    return found


@click.command(
    epilog="""\b
Examples:
  pidsl plan "window(63) | stride(256) & causal"
  pidsl plan longformer --backend triton
  pidsl plan "heads([(2, window(63)), (2, causal)])" --json"""
)
@pattern
@backend_option
@as_json
def plan(pattern: str, bound: Mapping[str, int], backend: str, as_json: bool) -> None:
    """What the planner decided, and why: pieces, layouts, tiles, costs.

    JSON: "pattern", "explanation", and "plan": of one program "backend" and "pieces" with "layout", "attended",
    "computed" (pairs at the length "reference"); of several "parts" with "title" and "plan".
    """
    kernel = compiled(read(pattern, bound), backend)
    if as_json:
        write_json({"pattern": repr(kernel.recipe.of), "plan": _plan(kernel.plan), "explanation": kernel.explain()})
    else:
        click.echo(kernel.explain())


def _plan(found: Any) -> dict[str, Any]:
    if hasattr(found, "parts"):
        return {"parts": [{"title": title, "plan": _plan(each)} for title, each in found.parts]}
    pieces = [
        {"layout": str(x.layout), "attended": x.attended, "computed": x.computed, "reference": x.reference}
        for x in found.pieces
    ]
    return {"backend": found.backend, "pieces": pieces}


class Target(click.ParamType[str]):
    """`auto`, a backend, or a GPU, also by the compilers' names: sm_90 is cuda:90, gfx942 is hip:gfx942."""

    name = "TARGET"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = re.sub(r"^sm_(?=\d+$)", "cuda:", re.sub(r"^(?=gfx)", "hip:", str(value)))
        if not re.fullmatch(r"auto|triton|torch|reference|cuda:\d+|hip:gfx[0-9a-f]+", text):
            self.fail(f"{value!r} is none of auto, triton, torch, reference, cuda:90, hip:gfx942", param, ctx)
        return text


@click.command(
    epilog="""\b
Examples:
  pidsl source "window(63) | stride(256) & causal" --target triton
  pidsl source "window(63)" --target torch > program.py
  pidsl source "window(63)" --target cuda:90      registers, spills, loops
  pidsl source "window(63)" --target hip:gfx942 --json"""
)
@pattern
@click.option(
    "--target", "-t", type=Target(), default="auto", show_default=True,
    help="auto, triton, torch or reference: the program. cuda:90, hip:gfx942: what a compiler makes of it.",
)  # fmt: skip
@head_dim_option
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True)
@as_json
def source(pattern: str, bound: Mapping[str, int], target: str, head_dim: int, dtype: str, as_json: bool) -> None:
    """The generated program, or facts of its machine code.

    For a GPU target every kernel is compiled without a GPU (half a minute); needs Triton.

    JSON: "pattern", "target", and "source", or "kernels" with "name", "warps", "stages", "shared_bytes", "registers",
    "spills", "spills_in_loops", "programs" (of a multiprocessor), "hgmma", "hmma" (null: not told for the target).
    """
    if ":" not in target:
        kernel = compiled(read(pattern, bound), target)
        text = kernel.source(head_dim)
        if as_json:
            write_json({"pattern": repr(kernel.recipe.of), "target": target, "source": text})
        else:
            click.echo(text, nl=not text.endswith("\n"))
        return
    found = term_of(pattern, bound)
    reports = _machine_code(compiled(found, "triton"), target, dtype, head_dim)
    if as_json:
        write_json({"pattern": repr(found), "target": target, "kernels": reports})
        return
    names = {
        "name": "kernel", "warps": "warps", "stages": "stages", "shared_bytes": "shared bytes",
        "registers": "registers", "spills": "spills", "spills_in_loops": "in loops", "programs": "per multiprocessor",
    }  # fmt: skip
    rows = [["-" if x[key] is None else x[key] for key in names] for x in reports]
    click.echo(f"{found!r} for {target}, {dtype}, head dim {head_dim}; forward, then backward")
    click.echo(table(list(names.values()), rows))


def _machine_code(kernel: Any, target: str, dtype: str, head_dim: int) -> list[dict[str, Any]]:
    """A row for each kernel of a program, from Triton's compiler."""
    import torch

    from pidsl.runtime.run_triton.ahead import compile_ahead

    kept = (
        "name", "warps", "stages", "shared_bytes", "registers", "spills", "spills_in_loops", "programs", "hgmma",
        "hmma",
    )  # fmt: skip
    with Progress(f"compiling for {target}", 1) as progress:
        found = compile_ahead(kernel.source(head_dim), target, getattr(torch, dtype), head_dim)
        progress.step()
    return [{name: getattr(x, name) for name in kept} for x in found]


@click.command(
    epilog="""\b
Examples:
  pidsl check "window(63) | stride(256) & causal"
  pidsl check longformer --cases 200 --seed 1 --longest 1000
  pidsl check "window(3)" --backend torch --forward-only --json"""
)
@pattern
@click.option("--cases", type=click.IntRange(1), default=40, show_default=True, metavar="COUNT", help="Calls to draw.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="NUMBER", help="Of the calls.")
@click.option(
    "--longest", type=click.IntRange(1, 8192), default=320, show_default=True, metavar="TOKENS",
    help="Most queries and most keys.",
)  # fmt: skip
@click.option("--forward-only", is_flag=True, help="No gradients.")
@backend_option
@device_option
@as_json
@click.pass_context
def check(
    context: click.Context, pattern: str, bound: Mapping[str, int], cases: int, seed: int, longest: int,
    forward_only: bool, backend: str, device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Test the kernel against dense attention in float64.

    Draws sizes, groups of heads, offsets, dtypes and strides; compares output, log-sum-exp and gradients. Exit code 1
    and the smallest failing call where they differ. Of layers and gates each pattern is checked.

    JSON: "pattern", "backend", "cases", "passed", "seed", "failure": null, or an object of "pattern", "reason" and
    the sizes of the call.
    """
    from pidsl.cli.dense_check import DTYPES, Check
    from pidsl.language.heads import Heads

    at = usable(device)
    found = read(pattern, bound)
    dtypes = DTYPES.get(at.type, DTYPES["cuda"])
    if backend == "triton":
        dtypes = tuple(x for x in dtypes if x != "float64")
    checked = [
        Check(of, kernel, str(at), not forward_only, len(of) if isinstance(of, Heads) else 0, bool(kernel.rings))
        for of, kernel in subjects(found, backend)
    ]
    passed, failure = 0, None
    with Progress("checking", cases * len(checked)) as progress:
        for one in checked:
            done, wrong = one.run(one.cases(cases, seed, longest, dtypes), progress.step)
            passed += done
            if wrong is not None:
                failure = (one, wrong)
                break
    total = cases * len(checked)
    if as_json:
        told = None
        if failure is not None:
            told = {"pattern": repr(failure[0].of), "reason": failure[1].reason, **failure[1].case.as_json()}
        write_json({
            "pattern": repr(found), "backend": backend, "cases": total, "passed": passed, "seed": seed, "failure": told,
        })  # fmt: skip
    elif failure is None:
        what = "output and lse" if forward_only else "output, lse and gradients"
        whose = f"{found!r}" if len(checked) == 1 else f"each of {len(checked)} patterns of {found!r}"
        click.echo(f"{whose}: {what} of {passed} calls are those of dense attention (seed {seed}, on {at})")
    else:
        one, wrong = failure
        click.echo(f"{one.of!r}: call {wrong.number} of seed {seed} differs from dense attention, and the smallest is")
        click.echo(f"  {wrong.case}\n{wrong.reason}")
    if failure is not None:
        context.exit(1)


def subjects(found: Any, backend: str) -> list[tuple[Any, Any]]:
    """What is checked of something compiled, each with its kernel: terms and heads, and the patterns of others once.

    Raises:
        PidslError: a pattern of documents, or a recipe whose calls take more than q, k and v.
    """
    from pidsl.language.heads import Heads
    from pidsl.language.recipe import Recipe
    from pidsl.language.schedule import Schedule
    from pidsl.language.terms import Term

    if isinstance(found, Recipe) and not isinstance(found.of, Term | Heads):
        return subjects(found.of, backend)
    of: list[Any]
    if isinstance(found, Schedule):
        of = list(dict.fromkeys(found))
    elif isinstance(found, Heads | Recipe):
        of = [found]
    else:
        of = list(dict.fromkeys(term for _, term in parts(found)))
    each = [(x.of if isinstance(x, Recipe) else x, compiled(x, backend)) for x in of]
    for x, kernel in each:
        if kernel.confined:
            hint = "the pattern without `documents`: within each document it is that one"
            raise PidslError(f"{x!r}, a pattern of documents", "a pattern of one sequence", hint=hint)
        needed = [*kernel.parameters, *kernel.form.inputs]
        if needed:
            raise PidslError(f"{kernel.recipe!r}, which takes {', '.join(needed)}", "a kernel of q, k and v alone")
    return each


@click.command(
    epilog="""\b
Examples:
  pidsl bench "window(63) | stride(256) & causal" -n 16384
  pidsl bench longformer -n 4096 --no-flex --backward
  pidsl bench "window(63)" -n 8192 --json > times.json"""
)
@pattern
@click.option(
    "-n", "--tokens", "n", type=click.IntRange(1, 1 << 22), default=4096, show_default=True, metavar="TOKENS",
    help="Tokens.",
)  # fmt: skip
@click.option("--heads", type=click.IntRange(1), default=4, show_default=True, metavar="H", help="Heads.")
@head_dim_option
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, metavar="COUNT", help="Timed calls.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Default: bfloat16 on a GPU.")
@click.option("--backward", is_flag=True, help="Forward and backward together.")
@click.option("--no-flex", is_flag=True, help="Without FlexAttention, which torch compiles first.")
@device_option
@as_json
def bench(
    pattern: str, bound: Mapping[str, int], n: int, heads: int, head_dim: int, rounds: int, dtype: str | None,
    backward: bool, no_flex: bool, device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Time pidsl against dense SDPA and compiled FlexAttention.

    The sides take turns, after a call each to warm up; seconds are medians. Dense SDPA attends every key (every
    earlier one, where the pattern only looks back): it is there for its time.

    JSON: "pattern", "tokens", "heads", "head_dim", "dtype", "device", "rounds", "backward", "versions", and "sides"
    with "name", "median", "min", "max" in seconds (null, with "reason", where a side cannot run).
    """
    import torch

    from pidsl.cli.sides import timed
    from pidsl.demo.measure import versions

    at, term = usable(device), term_of(pattern, bound)
    kind = dtype or ("bfloat16" if at.type == "cuda" else "float32")
    if n * heads * head_dim >= 1 << 31:
        raise SizeError(f"{n} tokens of {heads} heads of {head_dim}", "a tensor of fewer than 2**31 numbers")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, n, head_dim, generator=generator).to(at, getattr(torch, kind)) for _ in range(3))
    with Progress("timing", rounds) as progress:
        times, missing = timed(term, (q, k, v), rounds, backward=backward, flex=not no_flex, after=progress.step)
    if as_json:
        sides = [
            {"name": name, "median": t.median, "min": min(t.seconds), "max": max(t.seconds), "reason": None}
            for name, t in times.items()
        ]
        sides += [{"name": x, "median": None, "min": None, "max": None, "reason": why} for x, why in missing.items()]
        write_json({
            "pattern": repr(term), "tokens": n, "heads": heads, "head_dim": head_dim, "dtype": kind, "device": str(at),
            "rounds": rounds, "backward": backward, "versions": versions(), "sides": sides,
        })  # fmt: skip
        return
    ours = times["pidsl"].median
    rows = [[name, *str(t).removesuffix(")").split(" (", 1), f"{t.median / ours:.2f}"] for name, t in times.items()]
    rows += [[name, "-", "-", "-"] for name in missing]
    what = "forward + backward" if backward else "forward"
    click.echo(f"{term!r}, {what}, n = {n:,}, {heads} heads of {head_dim}, {kind}, {at}; medians of {rounds}")
    click.echo(table(["", "median", "min .. max", "of pidsl's"], rows))
    for name, why in missing.items():
        click.echo(f"{name}: {why}")


COMMANDS = (plan, source, check, bench)
