"""Everything public from several threads at once, in a process of its own: a crash is a failed test."""

import os
import subprocess
import sys

import pytest

PREAMBLE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import torch
import pidsl
from pidsl import causal, keys, lags, stride, window
sys.setswitchinterval(1e-5)
k, p = pidsl.symbols("k p")
pool = ThreadPoolExecutor(4)

def together(work, items):
    return list(pool.map(work, items))
"""

PROOFS = """
bounds = [(window(k) | lags(37 + i)).pairs() for i in range(8)]
print(together(lambda b: b.proof.check(), bounds))
"""

QUESTIONS = """
# one question per thread of terms that share their parts; asked once more, one after the other
def ask(i):
    term = (window(i % 3 + 2) | stride(5 + i % 2) & causal | lags(11 + i)) - lags(1)
    free = window(k) | lags(p) | keys(0, i % 4) & causal
    found = [term.pairs(), term.degree().maximum, term.live(), term.depth(), term.farthest(2)]
    found += [free.pairs(), free.live(), free.farthest(), (window(k) | stride(p) & causal).depth()]
    found += term.cost().bounds.values()
    checks = [b.proof.check() for b in (found[0], free.pairs(), free.farthest()) if b.is_known]
    at = [term.pairs()(n=n) for n in (5, 30)], [int(term.mask(n).sum()) for n in (5, 30)]
    assert at[0] == at[1], at
    return [str(b) for b in found], checks, str(free.pairs().under("n > k + p", "p > k"))

items = [i % 4 for i in range(8)]
got = together(ask, items)
from sympy.core.cache import clear_cache
assert got == [ask(i) for i in items]
print(all(all(checks) for _, checks, _ in got))
"""

LIMITS = """
# the patience of one thread is not that of another: what is exact stays exact beside slow questions
from pidsl.relation.isl import CONTEXT, limited, patience
import time
def hasty(_):
    with patience(1e-6):
        time.sleep(0.01)
    return True
def steady(i):
    return (window(2 + i) | stride(7 + i) & causal).equals(causal & (window(2 + i) | stride(7 + i)))
def work(i):
    return hasty(i) if i % 2 else steady(i)
print(together(work, range(40)) == [True] * 40, CONTEXT.get_max_operations())
"""

KERNELS = """
q, key, v = torch.randn(3, 1, 2, 24, 16, requires_grad=True)
def work(i):
    i %= 8
    term = window(2 + i % 2) | stride(6 + i % 4) & causal
    if i < 4:
        kernel = pidsl.compile(term, "torch", pidsl.score(softcap=5.0, dropout=0.2))
        out = kernel(q, key, v, seed=i)
    else:
        kernel = pidsl.compile(pidsl.heads([(1, term), (1, window(i))]), ("torch", "triton")[i % 2])
        out = kernel(q, key, v)
    term.pairs(), term.mask(9), kernel.plan, kernel.source()
    return [out, *torch.autograd.grad(out.sum(), (q, key, v))]
got = together(work, range(12))
print(all(torch.equal(a, b) for i, x in enumerate(got) for a, b in zip(x, work(i))))
"""

CACHE = """
# two programs of one text, written and loaded by four threads
from pidsl.runtime import programs
from pidsl.runtime import compile
def work(i):
    programs._compiled.cache_clear(), compile._kept.cache_clear()
    return pidsl.compile(window(3 + i % 2), "triton")(*torch.ones(3, 1, 1, 8, 16))
print(all(torch.equal(x, torch.ones(1, 1, 8, 16)) for x in together(work, range(16))))
"""


@pytest.mark.parametrize(
    ("work", "said"),
    [(PROOFS, f"{[True] * 8}"), (QUESTIONS, "True"), (LIMITS, "True 0"), (KERNELS, "True"), (CACHE, "True")],
    ids=["proofs", "questions", "limits", "kernels", "cache"],
)
def test_four_threads(work: str, said: str, tmp_path) -> None:
    environment = {**os.environ, "PIDSL_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + work],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == said
