"""Train small models: same batches and same starting weights where they share them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pidsl.console import Progress
from pidsl.demo.measure import Times, peak_memory, synchronize
from pidsl.demo.model import Model
from pidsl.demo.text import Text

WARMUP = 0.1  # share of the steps
MUON = 3.3  # its learning rate in units of AdamW's
LAST_RATE = 0.05  # share of the learning rate at the end
LEARNED, IN_A_ROW = 0.01, 5  # nats, in so many batches: nothing more to learn


@dataclass(frozen=True, slots=True)
class Budget:
    """What each model gets.

    Args:
        steps, batch, length: batches of `batch` excerpts of `length` bytes.
        rate: the highest learning rate of AdamW.
        seed: of the starting weights and of the batches.
        excerpts: of the held-out text, for the final figure.
    """

    steps: int
    batch: int
    length: int
    rate: float = 6e-3
    seed: int = 0
    excerpts: int = 16


@dataclass(slots=True)
class Run:
    """What came of it."""

    name: str
    parameters: int
    bits: list[float] = field(default_factory=list)  # per byte, of each training batch
    held_out_before: float = math.nan
    held_out: float = math.nan
    step: Times = field(default_factory=lambda: Times(()))
    peak_bytes: int = 0
    peak_is: str = ""


def train(name: str, model: Model, text: Text, budget: Budget, device: torch.device) -> Run:
    """Train `model` in place.

    On a GPU in bfloat16 autocast, elsewhere in float32.
    """
    run = Run(name, sum(p.numel() for p in model.parameters()))
    generator = torch.Generator().manual_seed(budget.seed)
    held_out = text.validation(budget.excerpts, budget.length + 1).to(device)
    run.held_out_before = evaluate(model, held_out, budget.batch)
    seconds: list[float] = []
    with Progress(f"training {name}", budget.steps) as progress, peak_memory(device) as peak:
        batches = (following(text.batch(budget.batch, budget.length + 1, generator)) for _ in range(budget.steps))
        for step in learn(model, batches, budget.steps, budget.rate, device):
            seconds.append(step.seconds)
            run.bits.append(step.nats / math.log(2))
            progress.step(f"{run.bits[-1]:.2f} bits per byte")
    run.held_out = evaluate(model, held_out, budget.batch)
    run.step = Times(tuple(seconds))
    run.peak_bytes, run.peak_is = peak.bytes, peak.what
    return run


def following(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, n] and the one that follows each, of `tokens` [B, n + 1]."""
    return tokens[:, :-1], tokens[:, 1:]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of training: the loss before it, and how long it took."""

    nats: float
    seconds: float


def learn(
    model: Model, batches: Iterable[tuple[Tensor, Tensor]], steps: int, rate: float, device: torch.device
) -> Iterator[Step]:
    """Train `model` in place, a step with each of `batches`, tokens and targets [B, n], of which there are `steps`.

    Who takes no more steps ends it early.
    """
    optimizers = [*_optimizers(model, rate)]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, _schedule(steps)) for o in optimizers]
    for tokens, targets in batches:
        tokens, targets = tokens.to(device), targets.to(device)
        synchronize(device)
        start = time.perf_counter()
        with precision(device):
            loss = model.loss(tokens, targets)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        synchronize(device)
        yield Step(float(loss.detach()), time.perf_counter() - start)


def until_learned(steps: Iterable[Step]) -> Iterator[Step]:
    """Steps until there is nothing more to learn: the loss of several batches in a row was next to nothing."""
    low = 0
    for step in steps:
        yield step
        low = low + 1 if step.nats < LEARNED else 0
        if low == IN_A_ROW:
            return


@torch.no_grad()
def said(model: Model, tokens: Tensor, device: torch.device, batch: int = 16) -> Tensor:
    """What a model answers at each of `tokens` [B, n], int64 [B, n]."""
    return torch.cat([model(part.to(device)).argmax(-1).cpu() for part in tokens.split(batch)])


@torch.no_grad()
def evaluate(model: Model, tokens: torch.Tensor, batch: int) -> float:
    """Bits per byte over the excerpts."""
    with precision(tokens.device):
        parts = [float(model.loss(*following(part))) * len(part) for part in tokens.split(batch)]
    return sum(parts) / len(tokens) / math.log(2)


def share_weights(source: Model, target: Model) -> None:
    """Start `target` from the weights of `source` that both have."""
    unexpected = target.load_state_dict(source.state_dict(), strict=False).unexpected_keys
    assert not unexpected, unexpected


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where a GPU has it, nothing elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def _optimizers(model: Model, rate: float) -> Iterator[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else: few steps have to do."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    yield torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    yield torch.optim.Muon(matrices, lr=MUON * rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")


def _schedule(steps: int) -> Callable[[int], float]:
    """Linear warm-up, then a cosine."""
    warm = max(1, round(WARMUP * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        done = min(1.0, (step - warm) / max(1, steps - warm))
        return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2

    return factor
