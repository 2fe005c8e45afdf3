"""The main job: its stages, in order."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pidsl
from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.console import Progress, heading, table
from pidsl.demo import figure
from pidsl.demo.check import compare
from pidsl.demo.copying import Copied, learn_to_copy
from pidsl.demo.measure import MIB, Times, alternate, default_device, machine, versions
from pidsl.demo.model import BYTES, ROPE, Block, DenseAttention, Model
from pidsl.demo.output import Folder
from pidsl.demo.settings import Settings
from pidsl.demo.tasks import TASKS
from pidsl.demo.text import standard_library
from pidsl.demo.train import Run, share_weights, train
from pidsl.language.gate import Gate
from pidsl.language.terms import Term
from pidsl.nn import Attention, PiAttention, SparseAttention


class Demo:
    """Declare three patterns, say what is known of them, compile, check, time, and train with them.

    Args:
        settings: sizes.
        out: folder for the results.
        device: cpu, cuda, ...; default: the GPU where there is one.

    Attributes:
        results: the figures so far, as written to results.json.
    """

    def __init__(self, settings: Settings, out: str | Path, device: str | None = None) -> None:
        self.settings, self.folder, self.device = settings, Folder(out), default_device(device)
        self.patterns, self.gate = settings.patterns, settings.gate
        self.backend = pidsl.compile(self.patterns["pi"]).plan.backend
        self.text = standard_library()
        self.models = self.make_models()
        self.results: dict[str, Any] = {
            "settings": asdict(settings), "machine": machine(self.device), "versions": versions(),
            "backend": self.backend,
        }  # fmt: skip

    def run(self) -> dict[str, Any]:
        """All stages; the report goes to standard output, figures and files to the folder."""
        started = time.monotonic()
        print(f"pidsl {versions()['pidsl']}, torch {torch.__version__}, backend {self.backend}, on {self.where}")
        heading(f"1. Three patterns, and what is known of them at n = {self.settings.tokens}")
        self.results["pairs"] = self.count()
        self.results["reach"] = self.receptive_fields()
        heading("2. The plan and the programs")
        self.results["programs"] = self.write_programs()
        heading("3. Kernels against dense attention on real activations: the starting weights")
        self.results["errors"] = {"starting weights": self.check()}
        heading(f"4. Times at n = {self.settings.long}")
        self.results["seconds"] = self.time()
        heading(f"5. A task where reach decides: the token {self.settings.copying.distance} back")
        copied = self.copy()
        self.results["copying"] = [summary(model) for model in copied]
        heading("6. Three byte-level language models on the source code of the Python standard library")
        runs = self.train()
        print(beside(runs, copied))
        self.results["training"] = [{**asdict(run), "step": list(run.step.seconds)} for run in runs]
        heading("7. Kernels against dense attention on real activations: the trained weights")
        self.results["errors"]["trained weights"] = self.check()
        heading("8. Results")
        self.results["total_seconds"] = time.monotonic() - started
        self.write_results(runs, copied)
        print(f"\n{self.results['total_seconds']:.0f} s in all, on {self.where}, backend {self.backend}")
        return self.results

    @property
    def where(self) -> str:
        """The device, in words."""
        found = machine(self.device)
        return f"{self.device} ({found.get('gpu') or '{cpu}, {cores} cores'.format(**found)})"

    # -- what is known ---------------------------------------------------------------------------------------------

    def count(self) -> list[list[Any]]:
        """Pairs and tiles of each pattern."""
        n = self.settings.tokens
        rows: list[list[Any]] = []
        for name, term in self.patterns.items():
            pairs, tiles = term.pairs(n), sum(piece.computed_at(n) for piece in pidsl.compile(term).plan.pieces)
            share = pairs / max(1, tiles)
            rows.append([name, repr(term), pairs, f"{term.sparsity(n):.2%}", f"{share:.1%}"])
        print(table(["", "term", "pairs", "not attended", "attended / computed"], rows, left=2))
        print("Pairs are counted from the relation; computed are the tiles of the plan.")
        return rows

    def receptive_fields(self) -> dict[str, dict[int, str]]:
        """How far each pattern sees through several layers."""
        found: dict[str, dict[int, str]] = {}
        for depth in self.settings.depths:
            for name, stack in self.settings.stacks(depth).items():
                found.setdefault(name, {})[depth] = seen(stack, self.settings.tokens)
        n = self.settings.tokens
        print(f"\nReceptive field of L layers, contiguous / farthest lag: proved for every n, here n = {n}")
        rows = ([name, *by_depth.values()] for name, by_depth in found.items())
        print(table(["", *(f"L={depth}" for depth in self.settings.depths)], rows))
        return found

    def write_programs(self) -> dict[str, str]:
        """The plan of pi-attention, and its programs as files."""
        term = self.patterns["pi"]
        print(f"{pidsl.compile(term).explain()}\n")
        written: dict[str, str] = {}
        for backend in ("triton", "torch"):
            try:
                source = pidsl.compile(term, backend=backend).source()
            except pidsl.BackendError as e:
                print(f"{backend} source: {e}")
                continue
            written[backend] = str(self.folder.write(f"pi_{backend}.py", source))
            print(f"{backend} source: {written[backend]}, {len(source.splitlines())} lines")
        return written

    # -- kernels -----------------------------------------------------------------------------------------------------

    def check(self) -> list[list[Any]]:
        """Kernels against float64 on what the last layer of the pi model computes from held-out text."""
        tokens = self.text.validation(1, self.settings.budget.length).to(self.device)
        q, k, v, weights = activations(self.models["pi"], tokens)
        dtypes = [torch.float32, *([torch.bfloat16] if self.device.type == "cuda" else [])]
        checks: dict[str, Term | Gate] = {**self.patterns, "pi, gated": self.gate}
        rows: list[list[Any]] = []
        with Progress("checking", len(checks) * len(dtypes)) as progress:
            for name, pattern in checks.items():
                for dtype in dtypes:
                    gated = weights.to(dtype) if isinstance(pattern, Gate) else None
                    errors = compare(pattern, q.to(dtype), k.to(dtype), v.to(dtype), gated)
                    both = [f"{errors.pidsl[x]:.1e} / {errors.sdpa[x]:.1e}" for x in ("out", "dq", "dk", "dv")]
                    rows.append([name, str(dtype).removeprefix("torch."), *both, f"{errors.worst_ratio:.2f}"])
                    progress.step()
        print("Largest errors against float64, pidsl / SDPA under the same mask:")
        print(table(["", "", "out", "dq", "dk", "dv", "worst ratio"], rows, left=2))
        return rows

    def time(self) -> dict[str, dict[str, list[float]]]:
        """The sparse patterns against torch's dense causal attention."""
        n, heads, head_dim = self.settings.long, 4, 64
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        q, k, v = (torch.randn(1, heads, n, head_dim, device=self.device, dtype=dtype) for _ in range(3))
        sides: dict[str, Callable[..., Tensor]] = {"dense SDPA": sdpa}
        sides |= {f"pidsl, {name}": pidsl.compile(self.patterns[name]) for name in ("ring", "pi")}

        def forward(attend: Callable[..., Tensor]) -> Tensor:
            with torch.no_grad():
                return attend(q, k, v)

        def both(attend: Callable[..., Tensor]) -> None:
            attend(*(x.detach().requires_grad_() for x in (q, k, v))).backward(v)

        times: dict[str, dict[str, Times]] = {}
        for what, run, rounds in (("forward", forward, self.settings.rounds), ("forward + backward", both, 3)):
            with Progress(f"timing {what}", rounds) as progress:
                calls = {name: lambda run=run, attend=attend: run(attend) for name, attend in sides.items()}
                times[what] = alternate(calls, rounds, self.device, after=progress.step)
        rows = []
        for name in sides:
            faster = [t["dense SDPA"].median / t[name].median for t in times.values()]
            cells = [x for t, f in zip(times.values(), faster, strict=True) for x in (str(t[name]), f"{f:.1f}x")]
            rows.append([name, *cells])
        print(f"{heads} heads of {head_dim}, {str(dtype).removeprefix('torch.')}, median (min .. max):")
        print(table(["", "forward", "", "forward + backward", ""], rows))
        return {what: {name: list(t.seconds) for name, t in by_side.items()} for what, by_side in times.items()}

    # -- models ------------------------------------------------------------------------------------------------------

    def make_models(self) -> dict[str, Model]:
        """One model per pattern; they differ in the attention only."""
        settings = self.settings
        size = (settings.dim, settings.heads)
        attentions: dict[str, Callable[[], Attention]] = {
            "dense": lambda: DenseAttention(*size),
            "ring": lambda: SparseAttention(*size, self.patterns["ring"], rope=ROPE),
            "pi": lambda: PiAttention(*size, settings.k, settings.period, skip=settings.skip, rope=ROPE),
        }
        models: dict[str, Model] = {}
        for name, attention in attentions.items():
            torch.manual_seed(settings.budget.seed)
            models[name] = Model(BYTES, settings.dim, (attention() for _ in range(settings.layers))).to(self.device)
            share_weights(models["dense"], models[name])
        return models

    def copy(self) -> list[Copied]:
        """Train models to copy, and hold what they answer beside what they are proved to see."""
        sizes, task = self.settings.copying, TASKS["copy"]
        n, budget = sizes.budget.length, sizes.budget
        print(
            f"{task.tokens} symbols at random, {n} of them; each asks for the one {sizes.distance} before it.\n"
            f"{sizes.layers} layers, width {sizes.dim}, {sizes.heads} heads; at most {budget.steps} steps of "
            f"{budget.batch} x {n} symbols; same seed, sequences and starting weights."
        )
        models = [learn_to_copy(name, term, sizes, self.device) for name, term in sizes.patterns.items()]
        rows = [
            [
                x.name, repr(x.term), int(x.term.degree().maximum(n=n)), seen((x.term,) * sizes.layers, n),
                "none" if x.way is None else " + ".join(map(str, x.way)),
                len(x.bits), f"{x.step.median * 1e3:.0f}", f"{x.accuracy:.2%}",
            ]
            for x in models
        ]  # fmt: skip
        header = ["", "term", "keys", "contiguous / farthest", f"way to lag {sizes.distance}", "steps", "ms per step"]
        print(table([*header, "right"], rows, left=2))
        print(
            f"Reach and way are proved for every n; right: of {models[0].asked} questions about other sequences.\n"
            f"Who cannot see the symbol is right {task.chance:.2%} of the time, in the mean, whatever it has learned."
        )
        return models

    def train(self) -> list[Run]:
        """Train them all, and say what became of each."""
        settings, budget, text = self.settings, self.settings.budget, self.text
        print(
            f"Python {platform.python_version()}: {text.files} files, {len(text.train) / 1e6:.1f} MB to train on, "
            f"{len(text.held_out) / 1e6:.1f} MB of other files held out.\n"
            f"{settings.layers} layers, width {settings.dim}, {settings.heads} heads; {budget.steps} steps of "
            f"{budget.batch} x {budget.length} bytes; same seed, batches and starting weights."
        )
        runs = [train(name, model, text, budget, self.device) for name, model in self.models.items()]
        rows = [
            [
                run.name, run.parameters, f"{run.held_out_before:.3f}", f"{run.held_out:.3f}",
                f"{run.step.median * 1e3:.0f}", f"{run.peak_bytes / MIB:.0f}",
            ]
            for run in runs
        ]  # fmt: skip
        print(table(["", "parameters", "bits/byte before", "after", "ms per step", "peak MiB"], rows))
        print(
            "Bits per byte are of the held-out files; the dense model uses torch's SDPA.\n"
            f"Peak: {runs[0].peak_is}, above what was held before training."
        )
        return runs

    def write_results(self, runs: list[Run], copied: list[Copied]) -> None:
        """The picture and the figures."""
        size = min(5 * self.settings.period // 2, 1024)
        print(self.folder.write("figure.png", lambda path: figure.draw(path, self.patterns, size, runs, copied)))
        print(self.folder.write("results.json", json.dumps(self.results, indent=1) + "\n"))


def summary(model: Copied) -> dict[str, Any]:
    """As results.json has it."""
    return {
        "name": model.name, "term": repr(model.term), "way": model.way, "bits": model.bits, "asked": model.asked,
        "right": model.right, "step": list(model.step.seconds),
    }  # fmt: skip


def beside(runs: list[Run], copied: list[Copied]) -> str:
    """What text makes of pi-attention and the window, and what copying does."""
    held_out = {run.name: run.held_out for run in runs}
    accuracy = {model.name: model.accuracy for model in copied}
    worse = held_out["pi"] - held_out["ring"]
    return (
        f"On text pi is {abs(worse):.3f} bits per byte {'worse' if worse > 0 else 'better'} than the ring window, of "
        f"one seed; copying, pi is right {accuracy['pi']:.1%} of the time, a window of as many keys "
        f"{accuracy['window']:.1%}."
    )


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's dense causal attention."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@torch.no_grad()
def activations(model: Model, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and gate weights as the kernel of the last layer gets them."""
    x = model.embedding(tokens)
    for block in model.blocks[:-1]:
        x = block(x)
    last = model.blocks[-1]
    assert isinstance(last, Block)
    attention = last.attention
    assert isinstance(attention, PiAttention)
    q, k, v = attention.project(last.attention_norm(x))
    return attention.rotated(q), attention.rotated(k), v, attention.weights(q)


def seen(stack: tuple[Term, ...], n: int) -> str:
    """The contiguous reach and the farthest lag of layers over n tokens, from bounds that hold for every n."""
    asked = (stack[0], len(stack)) if len(set(stack)) == 1 else (stack, None)
    return " / ".join(_at(quantity(*asked), n) for quantity in (ask.contiguous, ask.farthest))


def _at(bound: Bound, n: int) -> str:
    if not bound.is_known:
        return "unknown"
    return f"{'' if bound.is_exact else f'{bound.relation} '}{bound(n=n)}"
