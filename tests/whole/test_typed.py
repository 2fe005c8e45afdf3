"""What a type checker tells a user, outside of the checkout."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="the type checker is a tool of developers")
ROOT = Path(__file__).resolve().parent.parent.parent

USER = """
import torch
import pidsl
from pidsl import Term, causal, documents, full, heads, keys, lags, layers, stride, symbols, where, window
from pidsl.language.expr import Symbol

reveal_type(window(63) | stride(256) & causal)  # Term
reveal_type(window(63))  # Term
reveal_type(~causal - keys(0, 4) ^ full @ causal.T ** 2)  # Term
reveal_type(window(3).shift(1).blocked(4).dilated(2).bind(k=3))  # Term
reveal_type(where(lambda i, j: i - j < 4))  # Term
term: Term = causal
k, period = symbols("k period")
symbol: Symbol = symbols("k")
reveal_type(window(k) | lags(period))  # Term
reveal_type(window(3).pairs(10))  # int
q = torch.ones(1, 1, 4, 8)
kernel = pidsl.compile(window(63), output_gate="head")
reveal_type(kernel)  # Kernel
reveal_type(pidsl.compile(layers([causal, window(3)])))  # LayerKernels
reveal_type(pidsl.compile(heads([(2, causal)]), "torch"))  # Kernel
reveal_type(kernel(q, q, q))  # Tensor
reveal_type(kernel(q, q, q, return_lse=False, scale=0.5))  # Tensor
reveal_type(kernel(q, q, q, return_lse=True))  # tuple[Tensor, Tensor]
reveal_type(kernel.packed(q, q, q, q))  # Tensor
reveal_type(kernel.packed(q, q, q, q, return_lse=True))  # tuple[Tensor, Tensor]
def both(flag: bool) -> None:
    reveal_type(kernel(q, q, q, return_lse=flag))  # Any
pidsl.compile(causal, output_gate="heads")  # error: Literal
pidsl.compile(causal, backend="tritn")  # error: Literal
window("3")  # error: arg-type
causal | 3  # error: operator
"""


def test_types_are_told(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "user.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    told: dict[int, str] = {}
    for line in ran.stdout.splitlines():
        if found := re.match(r"user\.py:(\d+): (.*)", line):
            number = int(found[1])
            told[number] = told.get(number, "") + found[2] + "\n"
    for number, line in enumerate(USER.splitlines(), 1):
        _, _, wanted = line.partition("  # ")
        said = told.pop(number, "")
        if wanted.startswith("error"):
            assert "error: " in said, line
        elif wanted:
            revealed = re.sub(r"[\w.]+\.(\w+)", r"\1", re.findall(r'Revealed type is "(.*)"', said)[0])
            assert revealed == wanted, (line, said)
        else:
            assert not said, (line, said)
    assert not told and "error: Cannot find" not in ran.stdout, ran.stdout + ran.stderr
