"""Faults planted in what finds answers, one at a time, and whether any wrong answer is proved.

    python benchmarks/mutants.py                    300 faults, ten minutes or so
    python benchmarks/mutants.py --faults 3000      the long run
    python benchmarks/mutants.py --modules layers   modules whose name has this in it
    python benchmarks/mutants.py --without-masks    checkers alone: held-out masks are not compared

A fault is a change of one place of one function: a number one larger or smaller, `+` for `-`, `<` for `<=`, a minimum
for a maximum, a condition turned round. It is planted in the modules of `pidsl.analysis` that a way to an answer
imports, but for the trusted ones and those that only checkers read. Each fault has a process of its own, which asks the
questions below. An answer that the fault changed is checked; one that is proved and wrong by the masks of `documented`
is a fault that was accepted. The exit status is 1 if there is one. Writes benchmarks/results/mutants.json.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import multiprocessing
import random
import sys
import time
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import bounds

import pidsl
from pidsl import blocks, causal, keys, lags, neighborhood, queries, ring, stride, where, window
from pidsl.analysis import held_out, portfolio
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.analysis.rules import RULES
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "mutants.json"
TRUSTED = {
    "pidsl.analysis." + name
    for name in ("bound", "ways", "verdict", "statements", "rules", "held_out", "measured", "dense", "consequence",
                 "formulas.words", "formulas.smt",
                 "formulas.smtlib", "formulas.text", "formulas.evaluate", "saved", "domains", "schedules")
}  # fmt: skip
LIMIT = 120  # seconds for the questions of one fault
ASKED = 12  # of the questions that need a function, for one fault in it
k, p, s = pidsl.symbols("k p s")

TERMS = (
    window(3) | stride(7) & causal, (window(2) | keys(0, 3)) & causal, lags(0, 1, 5, 13), lags(-2, 0, 1, 9), ring(2),
    stride(6, 2) ** 2, (window(1) | keys(0, 1)).blocked(4) & causal, window(2, 1).blocked(3),
    neighborhood((18, 15), (3, 5)),
    where(lambda i, j: (i + 2 * j) % 5 == 1), (blocks(4) ^ window(3)) | queries(-2, None), window(2) @ stride(4),
)  # fmt: skip
OPEN = (
    window(k) | lags(p), window(k) | stride(p) & causal, stride(p) & causal, window(k), window(k).dilated(p),
    window(k) | keys(0, s) & causal, blocks(p) & causal, window(k, s) | keys(0, p), lags(k, p),
    blocks(p) | window(k).blocked(p),
)  # fmt: skip


def asked() -> Iterator[Any]:
    """Questions, as functions without arguments."""
    for term in (*TERMS, *OPEN):
        yield from (lambda t=term, q=q: q(t) for _, q in bounds.QUESTIONS)
    for subject in (
        BaseSchedule(3),
        BaseSchedule(p),
        SkipSchedule(2, 7),
        SkipSchedule(k, p),
        (window(2), stride(3) & causal),
    ):
        yield from (lambda x=subject, q=q: q(x) for q in (ask.farthest, ask.contiguous, ask.depth))


def answered(question: Any) -> Bound | None:
    """The answer; None where there is none."""
    portfolio.tried.cache_clear()
    try:
        return question()
    except Exception:  # a fault may break anything, which is no wrong answer
        return None


def _traced(question: Any) -> tuple[Bound | None, set[types.CodeType]]:
    """The answer, and the functions that were called for it."""
    called: set[types.CodeType] = set()
    sys.setprofile(lambda frame, event, arg: called.add(frame.f_code) if event == "call" else None)
    try:
        return answered(question), called
    finally:
        sys.setprofile(None)


@dataclass
class Right:
    """The answers without a fault, and which functions each question needs.

    Args:
        answers: by question.
        needed: for the code of each function, the questions that call it, the quick ones first.
    """

    answers: list[Bound | None] = field(default_factory=list)
    needed: dict[types.CodeType, list[int]] = field(default_factory=dict)

    @staticmethod
    def of(questions: list[Any]) -> Right:
        found, seconds = Right(), []
        for number, question in enumerate(questions):
            start = time.process_time()
            bound, called = _traced(question)
            found.answers.append(bound)
            seconds.append(time.process_time() - start)
            for code in called:
                found.needed.setdefault(code, []).append(number)
        for numbers in found.needed.values():
            numbers.sort(key=seconds.__getitem__)
        return found


# -- faults ------------------------------------------------------------------------------------------------------------

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.In: ast.NotIn,
}  # fmt: skip
_NAMES = {"min": "max", "max": "min", "Min": "Max", "Max": "Min", "floor": "ceil", "ceil": "floor",
          "all": "any", "any": "all",
          "dim_min": "dim_max", "dim_max": "dim_min", "lexmin": "lexmax", "lexmax": "lexmin", "lcm": "max"}  # fmt: skip


class Planted(ast.NodeTransformer):
    """Changes the place with a number; counts places."""

    def __init__(self, at: int) -> None:
        self.at, self.places, self.what = at, 0, ""

    def _here(self, what: str) -> bool:
        self.places += 1
        if self.places - 1 == self.at:
            self.what = what
        return self.places - 1 == self.at

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is int:
            for by in (1, -1):
                if self._here(f"{node.value} -> {node.value + by}"):
                    return ast.copy_location(ast.Constant(node.value + by), node)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node  # texts of isl break when they are changed, and say so

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if type(node) in _OPERATORS and self._here(f"{type(node).__name__} -> {_OPERATORS[type(node)].__name__}"):
            return _OPERATORS[type(node)]()
        if isinstance(node, ast.Name) and node.id in _NAMES and self._here(f"{node.id} -> {_NAMES[node.id]}"):
            return ast.copy_location(ast.Name(_NAMES[node.id], node.ctx), node)
        if (
            isinstance(node, ast.Attribute)
            and node.attr in _NAMES
            and self._here(f"{node.attr} -> {_NAMES[node.attr]}")
        ):
            node.attr = _NAMES[node.attr]
        if isinstance(node, ast.If | ast.IfExp) and self._here(f"not {ast.unparse(node.test)}"):
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        return super().generic_visit(node)


def functions(name: str) -> Iterator[tuple[str, types.FunctionType]]:
    """The functions of a module and of its classes, by their names."""
    module = import_module(name)
    for owner in (module, *(x for x in vars(module).values() if inspect.isclass(x) and x.__module__ == name)):
        for x in list(vars(owner).values()):
            x = x.fget if isinstance(x, property) else inspect.unwrap(getattr(x, "__func__", x)) if callable(x) else x
            if isinstance(x, types.FunctionType) and x.__module__ == name and not x.__code__.co_freevars:
                yield x.__qualname__, x


def source_of(function: types.FunctionType) -> ast.Module | None:
    try:
        return ast.parse(_dedented(function))
    except (OSError, SyntaxError, TypeError):
        return None


def _dedented(function: types.FunctionType) -> str:
    lines = inspect.getsource(function).splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)


def plant(function: types.FunctionType, at: int) -> str:
    """Change one place of a function, for all that call it; what was changed, "" if there is no such place."""
    tree = source_of(function)
    if tree is None:
        return ""
    definition: Any = tree.body[0]
    definition.decorator_list = []
    planted = Planted(at)
    definition.body = [planted.visit(x) for x in definition.body]
    if not planted.what:
        return ""
    names: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(tree), inspect.getfile(function), "exec")
    exec(code, function.__globals__, names)
    new = names[definition.name].__code__
    if new.co_freevars:
        return ""
    function.__code__ = new
    return planted.what


def places(function: types.FunctionType) -> int:
    tree = source_of(function)
    if tree is None:
        return 0
    counted = Planted(-1)
    for x in tree.body[0].body:  # type: ignore[attr-defined]
        counted.visit(x)
    return counted.places


def modules_of_ways(part: str) -> list[str]:
    """Modules of pidsl.analysis that some way imports."""
    sys.path.insert(0, str(ROOT / "tests"))
    from whole.test_house import finders, graph

    arrows = graph("pidsl.analysis")
    seen, rest = set(), [*finders()]
    while rest:
        seen.add(at := rest.pop())
        rest += arrows[at] - seen
    checkers = {rule.checker.partition(":")[0] for rule in RULES.values()}
    return sorted(x for x in seen - TRUSTED - checkers if part in x and not x.endswith(("portfolio", "questions")))


# -- one fault ---------------------------------------------------------------------------------------------------------


def wrong(bound: Bound) -> str:
    """Where the masks of the documented meaning contradict a bound; "" nowhere that is looked at."""
    sweep = bounds.Sweep("", 0)
    draw = random.Random(str(bound))
    if not isinstance(bound.subject, pidsl.language.terms.Term):
        return held_out.refutation(bound, "by another draw")
    truths = sweep._truths(bound.subject, draw)
    sweep._compare("", bound, truths, draw)
    return sweep.wrong[0] if sweep.wrong else ""


def look(name: str, qualname: str, at: int, right: Right, masks: bool, to: Any) -> None:
    """Plant a fault, ask, and send what came of it."""
    function = dict(functions(name))[qualname]
    code = function.__code__
    what = plant(function, at)
    held_out.refutation.cache_clear()
    if not masks:
        refutation, held_out.refutation = held_out.refutation, lambda bound, purpose: ""  # type: ignore[assignment]
    changed, refused, accepted = 0, 0, []
    questions = list(asked())
    for number in right.needed.get(code, [])[:ASKED] if what else ():
        bound = answered(questions[number])
        if bound is None or not bound.is_known or _same(bound, right.answers[number]):
            continue
        changed += 1
        if not bound.proof.check():
            refused += 1
            continue
        if not masks:
            held_out.refutation = refutation
        if why := wrong(bound):
            accepted.append(f"{bound.name} of {bound.shown_subject}: {why}")
        if not masks:
            held_out.refutation = lambda bound, purpose: ""  # type: ignore[assignment]
    to.send({"what": what, "changed": changed, "refused": refused, "accepted": accepted})


def _same(bound: Bound, before: Bound | None) -> bool:
    return before is not None and (bound.relation, bound.expr, bound.assumptions) == (
        before.relation, before.expr, before.assumptions
    )  # fmt: skip


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    args.add_argument("--faults", type=int, default=300)
    args.add_argument("--modules", default="")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--without-masks", action="store_true")
    args.add_argument("--out", type=Path, default=RESULTS)
    options = args.parse_args()
    all_places = [
        (module, qualname, at)
        for module in modules_of_ways(options.modules)
        for qualname, function in functions(module)
        for at in range(places(function))
    ]
    chosen = random.Random(options.seed).sample(all_places, min(options.faults, len(all_places)))
    right = Right.of(list(asked()))
    rooms = len({module for module, _, _ in all_places})
    print(f"{len(all_places)} places in {rooms} modules, {len(right.answers)} questions", flush=True)
    context = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    accepted: list[str] = []
    for number, (module, qualname, at) in enumerate(chosen, 1):
        near, far = context.Pipe(duplex=False)
        process = context.Process(target=look, args=(module, qualname, at, right, not options.without_masks, far))
        process.start()
        far.close()
        try:
            found = near.recv() if near.poll(LIMIT) else {"what": "stopped"}
        except EOFError:
            found = {"what": "ended"}
        process.kill()
        process.join()
        if found.get("accepted"):
            outcomes["accepted"] += 1
            accepted.append(f"{module}:{qualname}, {found['what']}: {found['accepted'][0]}")
            print(f"\nACCEPTED {accepted[-1]}", flush=True)
        elif "changed" not in found:
            outcomes[found["what"]] += 1
        else:
            outcomes["changed, and refused or true" if found["changed"] else "no answer changed"] += 1
        print(f"\r{number} of {len(chosen)}: {dict(outcomes)}", end="", file=sys.stderr)
    print("\n", dict(outcomes), sep="")
    options.out.write_text(
        json.dumps({"command": f"python benchmarks/mutants.py --faults {options.faults} --seed {options.seed}",
                    "without_masks": options.without_masks, "places": len(all_places), "questions": len(right.answers),
                    "outcomes": dict(outcomes), "accepted": accepted}, indent=1) + "\n"
    )  # fmt: skip
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
