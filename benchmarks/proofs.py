"""Another solver re-checks what z3 was asked: every SMT-LIB script of every proof, by cvc5.

    python benchmarks/proofs.py               patterns with symbols, some minutes
    python benchmarks/proofs.py --library     the published patterns as well, much longer

Each script is expected to be `unsat`. One that cvc5 does not decide within its limit is counted as open; one that is
`sat` makes the exit status 1. Writes nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import cvc5
from library import QUESTIONS

from pidsl import blocks, causal, keys, lags, queries, stride, symbols, window
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule
from pidsl.errors import PidslError
from pidsl.patterns.families import families

RESOURCES = "1000000"  # of cvc5 for a script: some seconds
k, p, q, s, w = symbols("k p q s w")
COMB, FIRST = stride(p) & causal, keys(0, s) & causal
TERMS = (
    window(k), COMB, stride(p), window(k) | COMB, window(k) | lags(p), window(k, k), window(k).dilated(p), window(k).T,
    lags(p), window(k) | lags(p, q), window(k).shift(p), blocks(p) & causal, blocks(p), window(k) | FIRST,
    (window(k) | keys(0, s)) & causal, window(k, k) | keys(0, p), window(k, k) | keys(0, p) | queries(0, p),
    causal - keys(0, s), keys(s, p) & causal, window(w).blocked(k) & causal, blocks(k) & causal | FIRST,
)  # fmt: skip
RULES = (BaseSchedule(p), SkipSchedule(k, p), SkipSchedule(k, p, 2))


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    args.add_argument("--library", action="store_true", help="the published patterns as well")
    options = args.parse_args()
    total: Counter[str] = Counter()
    print(f"{'statement':74} scripts unsat open seconds")
    for bound in statements(library=options.library):
        scripts = bound.proof.to_smtlib()
        if "(check-sat)" not in scripts:
            if scripts.startswith("; not proved"):
                print(f"{shown(bound)} {scripts.strip()}")
                total["not proved"] += 1
            continue
        start = time.process_time()
        said = Counter(answer(script) for script in scripts.split("(reset)"))
        open_ = sum(many for word, many in said.items() if word not in ("unsat", "sat"))
        seconds = time.process_time() - start
        print(f"{shown(bound)} {sum(said.values()):7} {said['unsat']:5} {open_:4} {seconds:7.1f}", flush=True)
        if said["sat"]:
            print(f"{'':74} {said['sat']} ANSWERED sat")
        total.update({"statements": 1, "unsat": said["unsat"], "open": open_, "sat": said["sat"]})
    print(", ".join(f"{name}: {many}" for name, many in total.items()))
    return 1 if total["sat"] or total["not proved"] else 0


def statements(*, library: bool) -> Iterator[Bound]:
    """What is known of the patterns."""
    terms = [*TERMS, *(call.term for family in families() for call in family.calls if library)]
    for term in terms:
        for question in QUESTIONS.values():
            try:
                bound: Any = question(term)
            except PidslError:
                continue
            if bound.is_known:
                yield bound
    for rule in RULES:
        yield from (b for b in (ask.farthest(rule), ask.contiguous(rule), ask.depth(rule)) if b.is_known)


def shown(bound: Bound) -> str:
    return f"{bound.name} of {bound.shown_subject}"[:74].ljust(74)


def answer(script: str) -> str:
    """What cvc5 says."""
    terms = cvc5.TermManager()
    solver = cvc5.Solver(terms)
    solver.setOption("rlimit", RESOURCES)
    parser = cvc5.InputParser(solver)
    parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, script, "script")
    manager, said = parser.getSymbolManager(), ""
    while not (command := parser.nextCommand()).isNull():
        said += str(command.invoke(solver, manager))
    return said.strip()


if __name__ == "__main__":
    sys.exit(main())
