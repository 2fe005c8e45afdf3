"""What a budget of chosen blocks buys: recall of a small model, by selector and budget.

    python benchmarks/budget.py                    the table, and benchmarks/results/budget.json
    python benchmarks/budget.py --seeds 1 --steps 400

A transformer is trained with causal attention on two tasks of 256 tokens, of pidsl/demo/tasks.py. Then, with the
weights that it has, each query attends a window and the blocks of 8 keys that a selector lists for it. Nothing else is
trained, but for the gate, which is distilled from the attention of the trained model.

- recall (multi-query associative recall, arXiv 2312.04927): 16 keys with a value behind each stand among filler; in the
  last quarter all keys come again, and what is asked for is their value.
- passkey: a marker with four values behind it stands among filler; at the end it comes again.

Sequences of training are short at first. Each layer begins with a convolution over two tokens, as many models of this
size have (H3, arXiv 2212.14052), and is without position embedding, so that a model that small learns to recall within
a minute.

Besides the selectors of `pidsl.select` there are two for comparison: random blocks, and the blocks with the largest
logits, which reads all keys.

`local=0`: none lists the block of the query itself, which the window has. Of a block and head they keep: MoBA and the
gate 16 numbers, Quest 32, and what reads all keys 128.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pidsl
from pidsl import causal, chosen, window
from pidsl.demo.measure import machine, versions
from pidsl.demo.model import IGNORED
from pidsl.demo.tasks import MARKER, TASKS
from pidsl.nn import SparseAttention
from pidsl.select import MoBA, Quest, SeerGate
from pidsl.select.selector import Selector

OUT = Path(__file__).resolve().parent / "results" / "budget.json"
N, DIM, HEADS, LAYERS = 256, 64, 4, 2
NAMES = ("recall", "passkey")
BLOCK = 8
LOCAL = window(BLOCK - 1) & causal
BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class Layer(nn.Module):
    """A convolution over two tokens, attention, and a perceptron, each added to what comes in."""

    def __init__(self, pattern: pidsl.Term, select: Any) -> None:
        super().__init__()
        self.norm, self.wide_norm = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.before = nn.Linear(DIM, DIM, bias=False)
        self.attention = SparseAttention(DIM, HEADS, pattern, select=select, backend="torch")
        self.wide = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def seen(self, x: Tensor) -> Tensor:
        """What the attention is given."""
        x = self.norm(x)
        return x + self.before(F.pad(x, (0, 0, 1, -1)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.seen(x))
        return x + self.wide(self.wide_norm(x))


class Model(nn.Module):
    """Layers between an embedding and logits [B, n, tokens]."""

    def __init__(self, pattern: pidsl.Term, selects: Any = (None,) * LAYERS) -> None:
        super().__init__()
        self.embedding = nn.Embedding(MARKER + 1, DIM)
        self.layers = nn.ModuleList(Layer(pattern, select) for select in selects)
        self.norm, self.logits = nn.LayerNorm(DIM), nn.Linear(DIM, MARKER + 1)

    def queries_and_keys(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of the attention of each layer."""
        x = self.embedding(tokens)
        for layer in self.layers:
            yield layer.attention.project(layer.seen(x))[:2]
            x = layer(x)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.logits(self.norm(x))


def asked(name: str, batch: int, n: int, made: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [batch, n] of a task, and its answers."""
    found = TASKS[name].asked(batch, n, made)
    return found.tokens, found.targets


def trained(steps: int, made: torch.Generator, batch: int = 16) -> Model:
    """A model with causal attention that has seen both tasks, in sequences of 32 tokens at first and N at last."""
    model = Model(causal)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        n = N >> max(0, 3 - 6 * step // steps)
        both = [asked(name, batch * N // n // 2, n, made) for name in NAMES]
        tokens, targets = (torch.cat(x) for x in zip(*both, strict=True))
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def distilled(model: Model, steps: int, made: torch.Generator, batch: int = 4) -> list[Selector]:
    """A gate for each layer of a model, trained to the attention that it has."""
    size = DIM // HEADS
    gates = [SeerGate(size, HEADS, HEADS, BLOCK, 1, 1, local=0, width=size, rope=None) for _ in model.layers]
    optimizer = torch.optim.AdamW([x for gate in gates for x in gate.parameters()], 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        both = [asked(name, batch // 2, N, made)[0] for name in NAMES]
        loss = torch.zeros(())
        with torch.no_grad():
            seen = list(model.queries_and_keys(torch.cat(both)))
        for gate, (q, k) in zip(gates, seen, strict=True):
            loss = loss + gate.distillation(q, k, (q, k))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return list(gates)


class Random(Selector):
    """Any blocks, others in each call."""

    def summarise(self, units: Tensor, first: int) -> Tensor:
        return units[..., 0, :1]

    def scores(self, q: Tensor, kept: Tensor, rows: Any) -> Tensor:
        return torch.rand(*q.shape[:2], rows.count, rows.blocks)


class Largest(Selector):
    """Blocks by the largest logit of a query with any of their keys, which are all kept."""

    def summarise(self, units: Tensor, first: int) -> Tensor:
        return F.pad(units, (0, 0, 0, self.block - units.shape[3])).flatten(3)

    def scores(self, q: Tensor, kept: Tensor, rows: Any) -> Tensor:
        logits = q @ kept.unflatten(3, (self.block, -1)).flatten(2, 3).mT
        return logits.unflatten(3, (-1, self.block)).amax(4)


def selectors(gates: list[Selector]) -> dict[str, list[Selector]]:
    """Those that are compared, one for each layer."""
    kinds: dict[str, Callable[..., Selector]] = {"MoBA": MoBA, "Quest": Quest, "random": Random, "largest": Largest}
    return {"SeerGate": gates, **{name: [kind(BLOCK, 1, 1, local=0)] * LAYERS for name, kind in kinds.items()}}


@torch.no_grad()
def accuracy(model: Model, questions: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """The share of what is asked for that is answered, of each task."""
    found = {}
    for name, (tokens, targets) in questions.items():
        said = torch.cat([model(part).argmax(-1) for part in tokens.split(16)])
        found[name] = (said == targets)[targets != IGNORED].float().mean().item()
    return found


def compared(model: Model, gates: list[Selector], questions: dict[str, tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    """The accuracy of a model under each selector and budget; all keys and the window alone besides."""
    rows = []

    def row(name: str, pattern: pidsl.Term, budget: int | None, selects: Sequence[Any]) -> None:
        other = Model(pattern, selects)
        missing = other.load_state_dict(model.state_dict(), strict=False)
        assert not missing.unexpected_keys and all("select" in x for x in missing.missing_keys)
        keys = int(pattern.degree().maximum(n=N))
        rows.append({"selector": name, "budget": budget, "keys": keys, **accuracy(other, questions)})

    row("all keys", causal, None, (None,) * LAYERS)
    row("window", LOCAL, 0, (None,) * LAYERS)
    for name, selects in selectors(gates).items():
        for budget in BUDGETS:
            for select in selects:
                select.budget = budget
            row(name, LOCAL | chosen(BLOCK, budget, 1), budget, selects)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="of the model")
    parser.add_argument("--gate-steps", type=int, default=500)
    parser.add_argument("--questions", type=int, default=32, help="sequences of each task that accuracy is of")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/budget.py", *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
        "sizes": {"n": N, "dim": DIM, "heads": HEADS, "layers": LAYERS, "block": BLOCK, "window": repr(LOCAL)},
        "runs": [],
    }
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        made, times = torch.Generator().manual_seed(seed), [time.process_time()]
        model = trained(args.steps, made)
        times.append(time.process_time())
        gates = distilled(model, args.gate_steps, made)
        times.append(time.process_time())
        rows = compared(model, gates, {name: asked(name, args.questions, N, made) for name in NAMES})
        times.append(time.process_time())
        names = ("training", "distilling", "comparing")
        seconds = {name: round(b - a, 1) for name, (a, b) in zip(names, pairwise(times), strict=True)}
        report["runs"].append({"seed": seed, "cpu_seconds": seconds, "rows": rows})
        print(f"seed {seed}: CPU seconds {seconds}", file=sys.stderr, flush=True)
    print_table(report["runs"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def print_table(runs: list[dict[str, Any]]) -> None:
    """The median over seeds, with (min .. max)."""
    print(f"{'selector':>10} {'blocks':>6} {'keys':>5}  {'recall':<26} passkey")
    for rows in zip(*(run["rows"] for run in runs), strict=True):
        first, cells = rows[0], []
        for task in NAMES:
            own = [row[task] for row in rows]
            cells.append(f"{statistics.median(own):6.1%} ({min(own):.1%} .. {max(own):.1%})")
        print(f"{first['selector']:>10} {first['budget'] or '':>6} {first['keys']:>5}  {cells[0]:<26} {cells[1]}")


if __name__ == "__main__":
    raise SystemExit(main())
