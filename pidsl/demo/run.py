"""The stages of the main job, in order."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import pidsl
from pidsl.demo import figure
from pidsl.demo.check import Errors, compare
from pidsl.demo.console import Progress, heading, table
from pidsl.demo.measure import MIB, Times, alternate, default_device, duration, machine, synchronize, versions
from pidsl.demo.model import ROPE, Block, ByteModel, DenseAttention
from pidsl.demo.output import Folder
from pidsl.demo.text import Text, standard_library
from pidsl.demo.train import Budget, Run, evaluate, share_weights, train
from pidsl.errors import TooHardError
from pidsl.language.gate import Gate
from pidsl.language.terms import Term
from pidsl.nn import Attention, PiAttention, SparseAttention
from pidsl.patterns import dense_attention, pi_attention, pi_gate, pi_layers, ring_attention
from pidsl.patterns.pi import Skip
from pidsl.relation.reach import reach


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run.

    Args:
        k, period, skip: of pi-attention; the ring window has the same k.
        tokens: the length at which patterns are analysed.
        depths: layers for the receptive field.
        long: the length at which kernels are timed.
        rounds: timed calls of each side.
        dim, heads, layers: of the language models.
        budget: of their training.
    """

    k: int = 63
    period: int = 256
    skip: Skip = "comb"
    tokens: int = 4096
    depths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12)
    long: int = 16384
    rounds: int = 5
    dim: int = 128
    heads: int = 4
    layers: int = 4
    budget: Budget = field(default_factory=lambda: Budget(steps=200, batch=2, length=1024))

    def quick(self) -> Settings:
        """The same, in about a quarter of the time; the models hardly learn."""
        budget = replace(self.budget, steps=max(1, self.budget.steps // 10), excerpts=4)
        return replace(self, long=self.long // 4, rounds=3, budget=budget)


def demo(settings: Settings, out: str | Path, device_name: str | None = None) -> dict[str, Any]:
    """Run all stages, print the report, write the results into the folder `out`.

    Returns:
        The figures, as written to results.json.
    """
    started = time.monotonic()
    device = default_device(device_name)
    folder = Folder(out)
    patterns: dict[str, Term] = {
        "dense": dense_attention(),
        "ring": ring_attention(settings.k),
        "pi": pi_attention(settings.k, settings.period, skip=settings.skip),
    }
    gate = pi_gate(settings.k, settings.period, skip=settings.skip)
    results: dict[str, Any] = {"settings": asdict(settings), "machine": machine(device), "versions": versions()}
    results["backend"] = pidsl.compile(patterns["pi"]).plan.backend
    print(f"pidsl {versions()['pidsl']}, torch {torch.__version__}, backend {results['backend']}, on {_on(device)}")

    results["patterns"] = analyse(settings, patterns)
    results["programs"] = programs(patterns["pi"], folder)
    text = standard_library()
    models = make_models(settings, device)
    results["errors_before"] = check("starting weights", settings, patterns, gate, models["pi"], text, device)
    results["times"] = time_kernels(settings, patterns, device)
    runs = train_models(settings, models, text, device)
    results["errors_after"] = check("trained weights", settings, patterns, gate, models["pi"], text, device)
    results["training"] = [{**asdict(run), "step": list(run.step.seconds)} for run in runs]

    heading("Written")
    if figure.available():
        size = min(2 * settings.period + settings.period // 2, 1024)
        print(folder.write("figure.png", lambda path: figure.draw(path, patterns, size, runs)))
    else:
        print("no picture: matplotlib is not installed (pip install 'pidsl[plot]')")
    results["seconds"] = time.monotonic() - started
    print(folder.write("results.json", json.dumps(results, indent=1) + "\n"))
    print(f"\n{results['seconds']:.0f} s in all, on {_on(device)}, backend {results['backend']}")
    return results


def analyse(settings: Settings, patterns: Mapping[str, Term]) -> dict[str, Any]:
    """What the relation says of each pattern: pairs, tiles, receptive field."""
    n = settings.tokens
    heading(f"1. Three patterns, and what is known of them at n = {n}")
    rows = []
    for name, term in patterns.items():
        pairs, plan = term.pairs(n), pidsl.compile(term).plan
        attended = sum(piece.attended for piece in plan.pieces)
        computed = sum(piece.computed for piece in plan.pieces)
        rows.append([name, repr(term), pairs, f"{term.sparsity(n):.2%}", f"{attended / max(computed, 1):.1%}"])
    print(table(["", "term", "pairs", "not attended", "of computed pairs attended"], rows, left=2))
    print("Pairs are counted from the relation. The last column is the plan's: its tiles cover what is computed.")

    stacks: dict[str, Any] = {name: lambda depth, term=term: [term] * depth for name, term in patterns.items()}
    if settings.skip == "comb":
        single = pi_attention(settings.k, settings.period)
        stacks["pi, single skip"] = lambda depth: [single] * depth
    stacks["... in layers 1, 2, 4, 8"] = lambda depth: list(pi_layers(settings.k, settings.period, depth))
    found: dict[str, Any] = {}
    for name, stack in stacks.items():
        found[name] = {depth: _reach(stack(depth), n) for depth in settings.depths}
    print(f"\nReceptive field after L layers, n = {n}: contiguous reach / farthest lag, exact, from the relation")
    header = ["", *(f"L={depth}" for depth in settings.depths)]
    print(table(header, ([name, *by_depth.values()] for name, by_depth in found.items())))
    return {"table": rows, "reach": found}


def _reach(stack: list[Term], n: int) -> str:
    try:
        found = reach(stack, n)
    except TooHardError:
        return "too hard"
    return f"{found.contiguous} / {found.farthest}"


def programs(term: Term, folder: Folder) -> dict[str, str]:
    """The plan of the pattern, and its programs for both backends as files."""
    heading("2. The plan and the programs")
    print(pidsl.compile(term).explain())
    written = {}
    for backend in ("triton", "torch"):
        try:
            source = pidsl.compile(term, backend=backend).source()  # type: ignore[call-overload]
        except pidsl.BackendError as e:
            print(f"\n{backend} source: {e}")
            continue
        written[backend] = str(folder.write(f"pi_{backend}.py", source))
        print(f"{'' if written.keys() - {backend} else chr(10)}{backend} source: {written[backend]}, {len(source.splitlines())} lines")
    return written


def make_models(settings: Settings, device: torch.device) -> dict[str, ByteModel]:
    """One model per pattern; they differ in the attention only."""
    size = (settings.dim, settings.heads)

    def ring() -> Attention:
        return SparseAttention(*size, ring_attention(settings.k), rope=ROPE)

    def pi() -> Attention:
        return PiAttention(*size, settings.k, settings.period, skip=settings.skip, rope=ROPE)

    models = {}
    for name, attention in {"dense": lambda: DenseAttention(*size), "ring": ring, "pi": pi}.items():
        torch.manual_seed(settings.budget.seed)
        models[name] = ByteModel(settings.dim, settings.layers, attention).to(device)
        share_weights(models["dense"], models[name])
    return models


def check(
    which: str, settings: Settings, patterns: Mapping[str, Term], gate: Gate, model: ByteModel, text: Text,
    device: torch.device,
) -> list[list[Any]]:  # fmt: skip
    """Kernels against float64 on the activations of the last layer, on held-out text."""
    heading(f"Kernels against dense attention on real activations, {which}")
    tokens = text.validation(1, settings.budget.length).to(device)
    q, k, v, weights = activations(model, tokens)
    dtypes = [torch.float32, *([torch.bfloat16] if device.type == "cuda" else [])]
    checks: list[tuple[str, Term | Gate]] = [*patterns.items(), ("pi, gated", gate)]
    rows: list[list[Any]] = []
    with Progress("checking", len(checks) * len(dtypes)) as progress:
        for name, pattern in checks:
            for dtype in dtypes:
                gated = weights.to(dtype) if isinstance(pattern, Gate) else None
                errors = compare(pattern, q.to(dtype), k.to(dtype), v.to(dtype), gated)
                rows.append([name, str(dtype).removeprefix("torch."), *_pairs_of(errors)])
                progress.step()
    print("Largest error against float64, pidsl / SDPA under the same mask, both in the dtype of the row:")
    print(table(["", "", "out", "dq", "dk", "dv", "worst ratio"], rows, left=2))
    return rows


def _pairs_of(errors: Errors) -> list[str]:
    pairs = [f"{errors.pidsl[name]:.1e} / {errors.sdpa[name]:.1e}" for name in ("out", "dq", "dk", "dv")]
    return [*pairs, f"{errors.worst_ratio:.2f}"]


@torch.no_grad()
def activations(model: ByteModel, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and gate weights of the last layer, as its kernel gets them, in float32."""
    x = model.embedding(tokens)
    for block in model.blocks[:-1]:
        x = block(x)
    last = model.blocks[-1]
    assert isinstance(last, Block)
    attention = last.attention
    assert isinstance(attention, PiAttention)
    q, k, v = attention.project(last.attention_norm(x))
    return attention.rotated(q), attention.rotated(k), v, attention.weights(q)


def time_kernels(settings: Settings, patterns: Mapping[str, Term], device: torch.device) -> dict[str, Any]:
    """The patterns against torch's dense causal attention."""
    n, heads, head_dim = settings.long, 4, 64
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    heading(f"4. Times at n = {n}, {heads} heads of {head_dim}, {str(dtype).removeprefix('torch.')}, on {_on(device)}")
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, heads, n, head_dim, device=device, dtype=dtype) for _ in range(3))
    sides: dict[str, Any] = {"dense SDPA": lambda *x: F.scaled_dot_product_attention(*x, is_causal=True)}
    sides |= {f"pidsl, {name}": pidsl.compile(term) for name, term in patterns.items() if name != "dense"}

    def forward(attend: Any) -> Any:
        def call() -> None:
            with torch.no_grad():
                attend(q, k, v)

        return call

    def both(attend: Any) -> Any:
        def call() -> None:
            leaves = [x.detach().requires_grad_() for x in (q, k, v)]
            attend(*leaves).backward(v)

        return call

    times: dict[str, dict[str, Times]] = {}
    for what, make, rounds in (("forward", forward, settings.rounds), ("forward + backward", both, 3)):
        with Progress(f"timing {what}", rounds) as progress:
            calls = {name: make(attend) for name, attend in sides.items()}
            times[what] = alternate(calls, rounds, device, after=progress.step)
    rows = []
    for name in sides:
        row: list[str] = [name]
        for by_side in times.values():
            row += [str(by_side[name]), f"{by_side['dense SDPA'].median / by_side[name].median:.1f}x"]
        rows.append(row)
    print(table(["median (min .. max)", "forward", "", "forward + backward", ""], rows))
    return {what: {name: list(t.seconds) for name, t in by_side.items()} for what, by_side in times.items()}


def train_models(settings: Settings, models: Mapping[str, ByteModel], text: Text, device: torch.device) -> list[Run]:
    """One language model per pattern, and what became of each."""
    budget = settings.budget
    heading("5. Three byte-level language models, on the source code of the Python standard library")
    print(
        f"{text.files} files of {text.folder}: {len(text.train) / 1e6:.1f} MB to train on, "
        f"{len(text.held_out) / 1e6:.1f} MB of other files held out.\n"
        f"{settings.layers} layers, width {settings.dim}, {settings.heads} heads; {budget.steps} steps of "
        f"{budget.batch} x {budget.length} bytes each; same seed, batches and starting weights."
    )
    runs = [train(name, model, text, budget, device) for name, model in models.items()]
    rows = [
        [
            run.name, run.parameters, f"{run.held_out_before:.3f}", f"{run.held_out:.3f}",
            f"{run.step.median * 1e3:.0f}", f"{run.peak_bytes / MIB:.0f}",
        ]
        for run in runs
    ]  # fmt: skip
    header = ["", "parameters", "bits/byte before", "after (held out)", "ms per step", "peak MiB"]
    print(table(header, rows))
    print(f"The dense model uses torch's SDPA. Peak memory: {runs[0].peak_is}, above what was held before training.")
    return runs


def _on(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    found = machine(device)
    return f"{device} ({found['cpu']}, {found['cores']} cores)"
