"""Train one small model per pattern: same text, same batches, same starting weights where they share them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from pidsl.console import Progress
from pidsl.demo.measure import Times, peak_memory, synchronize
from pidsl.demo.model import ByteModel
from pidsl.demo.text import Text

WARMUP = 0.1  # share of the steps
MUON = 3.3  # its learning rate in units of AdamW's
LAST_RATE = 0.05  # share of the learning rate at the end


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


def train(name: str, model: ByteModel, text: Text, budget: Budget, device: torch.device) -> Run:
    """Train `model` in place.

    On a GPU in bfloat16 autocast, elsewhere in float32.
    """
    run = Run(name, sum(p.numel() for p in model.parameters()))
    optimizers = [*_optimizers(model, budget.rate)]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, _schedule(budget.steps)) for o in optimizers]
    generator = torch.Generator().manual_seed(budget.seed)
    held_out = text.validation(budget.excerpts, budget.length + 1).to(device)
    run.held_out_before = evaluate(model, held_out, budget.batch)
    seconds: list[float] = []
    with Progress(f"training {name}", budget.steps) as progress, peak_memory(device) as peak:
        for _ in range(budget.steps):
            tokens = text.batch(budget.batch, budget.length + 1, generator).to(device)
            synchronize(device)
            start = time.perf_counter()
            with precision(device):
                loss = model.loss(tokens)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            synchronize(device)
            seconds.append(time.perf_counter() - start)
            run.bits.append(float(loss.detach()) / math.log(2))
            progress.step(f"{run.bits[-1]:.2f} bits per byte")
    run.held_out = evaluate(model, held_out, budget.batch)
    run.step = Times(tuple(seconds))
    run.peak_bytes, run.peak_is = peak.bytes, peak.what
    return run


@torch.no_grad()
def evaluate(model: ByteModel, tokens: torch.Tensor, batch: int) -> float:
    """Bits per byte over the excerpts."""
    with precision(tokens.device):
        parts = [float(model.loss(part)) * len(part) for part in tokens.split(batch)]
    return sum(parts) / len(tokens) / math.log(2)


def share_weights(source: ByteModel, target: ByteModel) -> None:
    """Start `target` from the weights of `source` that both have."""
    unexpected = target.load_state_dict(source.state_dict(), strict=False).unexpected_keys
    assert not unexpected, unexpected


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast where a GPU has it, nothing elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def _optimizers(model: ByteModel, rate: float) -> Iterator[torch.optim.Optimizer]:
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
