"""The command line: `python -m pidsl demo`, and a look at single patterns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import pidsl
from pidsl.errors import PidslError
from pidsl.language.parse import parse_term
from pidsl.language.recipe import BACKENDS
from pidsl.language.terms import Term

WIDEST = 64  # tokens in a text picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 when pidsl has something to say against the input."""
    args = parser().parse_args(arguments)
    try:
        args.run(args)
    except PidslError as e:
        print(f"pidsl: {e}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("\npidsl: interrupted", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="python -m pidsl", description="Sparse attention as a compiler problem.")
    top.add_argument("--version", action="version", version=f"pidsl {pidsl.__version__}")
    commands = top.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="declare, analyse, compile, check, time and train; about 3 minutes")
    demo.add_argument("--quick", action="store_true", help="shorter sequences and a tenth of the training")
    demo.add_argument("--out", default="pidsl-demo", help="folder for the results (default: %(default)s)")
    demo.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU where there is one)")
    demo.add_argument("--skip", choices=("single", "comb"), default="comb", help="reading of pi-attention's skip set")
    demo.set_defaults(run=run_demo)

    show = commands.add_parser("show", help="picture, counts and plan of a pattern")
    show.add_argument("-n", type=_count, default=32, help=f"tokens in the picture, at most {WIDEST} (default: 32)")
    show.add_argument("--tokens", type=_count, default=4096, help="tokens to count pairs for (default: 4096)")
    show.set_defaults(run=run_show)
    analyse = commands.add_parser("analyse", help="formulas with proofs: degree, pairs, live keys, reach, depth")
    analyse.add_argument("--assume", default="", help='conditions, such as "p > k, n > p"')
    analyse.add_argument("--layers", type=_count, help="how many layers (default: L of them)")
    analyse.add_argument("--check", action="store_true", help="verify every proof again")
    analyse.set_defaults(run=run_analyse)
    claims = commands.add_parser("claims", help="published bounds, proved or refuted; about a minute")
    claims.add_argument("--markdown", action="store_true", help="as docs/reference/claims.md")
    claims.set_defaults(run=run_claims)
    explain = commands.add_parser("explain", help="what the planner decided, and why")
    explain.set_defaults(run=lambda args: print(pidsl.compile(term_of(args), backend=args.backend).explain()))
    source = commands.add_parser("source", help="the generated program")
    source.add_argument("--head-dim", type=_count, default=64, help="size of a head (default: 64)")
    source.set_defaults(
        run=lambda args: print(pidsl.compile(term_of(args), backend=args.backend).source(args.head_dim), end="")
    )
    for command in (show, explain, source, analyse):
        command.add_argument("term", help='such as "window(63) | stride(256) & causal"')
        if command is not analyse:
            command.add_argument("--backend", choices=BACKENDS, default="auto")
        command.add_argument(
            "--bind", type=_binding, action="append", default=[], metavar="NAME=NUMBER", help="a number for a symbol"
        )
    return top


def term_of(args: argparse.Namespace) -> Term:
    """The term of the command line, with its symbols bound."""
    term = parse_term(args.term)
    return term.bind(**dict(args.bind)) if args.bind else term


def run_show(args: argparse.Namespace) -> None:
    """`show`: the mask over a few tokens, counts at a larger length, the plan."""
    from pidsl.demo.console import picture

    term = term_of(args)
    small, n = min(args.n, WIDEST), args.tokens
    mask = term.mask(small)  # before anything is printed: it says what is wrong with the term
    degree = term.degree(n)
    print(f"{term!r}, the first {small} tokens (rows: queries, columns: keys)\n")
    print(picture(mask.tolist()))
    print(f"\nat n = {n}: {degree.sum()} pairs, {term.sparsity(n):.2%} of all pairs not attended")
    if n:
        print(f"keys per query: {degree.min()} to {degree.max()}, {degree.mean():.1f} on average\n")
    print(pidsl.compile(term, backend=args.backend).explain())


def run_analyse(args: argparse.Namespace) -> None:
    """`analyse`: what is known of a pattern for every length, and how it was proved."""
    from pidsl.analysis import ask
    from pidsl.analysis.assume import Condition, conditions, require_known

    term, known = term_of(args), conditions(args.assume)
    require_known(known, term.symbols, "nitL", repr(term))

    def about(variables: str) -> list[Condition]:
        """The assumptions that a question with these variables can use."""
        return [c for c in known if {s.name for s in c.free_symbols} <= {*term.symbols, *variables}]

    degree = ask.degree(term, about("in"))
    bounds = [ask.pairs(term, about("n")), degree.of_query, degree.maximum, ask.live(term, about("t"))]
    far = about("nL" if args.layers is None else "n")
    bounds += [ask.farthest(term, args.layers, far), ask.contiguous(term, args.layers, far)]
    bounds.append(ask.depth(term, assume=about("n")))
    for bound in bounds:
        print(bound)
        if args.check and bound.is_known:
            verdict = bound.proof.verdict()
            print(f"  checked: {'yes' if verdict.holds else 'no, ' + verdict.failure}, {len(verdict.steps)} steps")
        print()


def run_claims(args: argparse.Namespace) -> None:
    """`claims`: the published bounds and what became of them."""
    from pidsl.analysis.report import markdown

    found = pidsl.check_claims()
    print(markdown(found), end="") if args.markdown else print(found)


def run_demo(args: argparse.Namespace) -> None:
    """`demo`: the main job."""
    import torch

    from pidsl.demo.run import Demo
    from pidsl.demo.settings import Settings

    if args.device:
        try:
            torch.empty(0, device=args.device)
        except (RuntimeError, AssertionError) as e:
            reason = str(e).splitlines()[0]
            raise pidsl.BackendError(f"--device {args.device}: {reason}", "cpu, or a GPU that torch sees") from None
    settings = replace(Settings(), skip=args.skip)
    Demo(settings.quick() if args.quick else settings, args.out, args.device).run()


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number >= 0")
    return value


def _binding(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=NUMBER, such as k=63") from None


if __name__ == "__main__":
    sys.exit(main())
