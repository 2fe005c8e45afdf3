"""One run of the study of quality: a small model with a pattern is trained on a task or on text, and asked.

Beside what it answers stands the field: which answers the layers can see at all, as a mask composed layer by layer, and
how far they are proved to reach.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pidsl
from pidsl.analysis import questions as ask
from pidsl.demo.copying import OTHERS
from pidsl.demo.model import BYTES, Model, attention
from pidsl.demo.tasks import TASKS, Asked
from pidsl.demo.text import Text, novels, standard_library
from pidsl.demo.train import following, learn, said, until_learned
from pidsl.errors import ArgumentError, SizeError
from pidsl.language.gate import Gate
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Lags, Term, Window
from pidsl.nn import Attention, PiAttention

ITSELF = pidsl.window(0)
NEIGHBOUR = pidsl.lags(0, 1)  # what a convolution over two tokens sees
TEXTS: Mapping[str, Callable[[], Text]] = {"python": standard_library, "novels": novels}
QUESTIONS = 128  # sequences that a trained model is asked
EXCERPTS = 96  # of held-out text
BIN = 32  # positions of a text whose bits are put together
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """What is trained; one line of the study.

    Args:
        study: which table it belongs to.
        task: of pidsl/demo/tasks.py, or "python" or "novels" for text.
        name: of the contender.
        pattern: a spec: a term for all layers, `layers([...])`, or a gate of pi-attention.
        layers, dim, heads, widen, rope, convolution: of the model; rope 0: no position embedding.
        n: tokens of a sequence.
        distance: of the answers, where the task has one.
        steps, batch, rate: of the training; it ends early where all is learned.
        seed: of the starting weights and of the sequences.
    """

    study: str
    task: str
    name: str
    pattern: str
    layers: int
    n: int
    dim: int = 64
    heads: int = 4
    widen: int = 2
    rope: float = 1e4
    convolution: bool = False
    distance: int | None = None
    steps: int = 200
    batch: int = 16
    rate: float = 6e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.task not in (*TASKS, *TEXTS):
            raise ArgumentError(f"task = {self.task!r}", f"one of {', '.join((*TASKS, *TEXTS))}", str(self))
        if self.task in TASKS:
            TASKS[self.task].check(self.n, self.distance)
        elif self.distance is not None:
            raise ArgumentError(f"distance = {self.distance!r}", "none: text is no task at a distance", str(self))
        for term in self.terms:
            if not term <= pidsl.causal:
                raise ArgumentError(f"pattern = {self.pattern!r}", "a causal one", str(self))
            if not ITSELF <= term:  # or what the layers see would not be what their attention sees
                expected = "one in which each token attends itself, as the residual stream hands it on"
                raise ArgumentError(f"pattern = {self.pattern!r}", expected, str(self), f"{term!r} | {ITSELF!r}")

    def __str__(self) -> str:
        """All arguments, by name."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return " ".join(f"{k}={v!r}" for k, v in given.items())

    @property
    def spec(self) -> Any:
        return pidsl.parse(self.pattern)

    @property
    def terms(self) -> tuple[Term, ...]:
        """What each layer attends."""
        spec = self.spec
        if isinstance(spec, Schedule):
            if len(spec) != self.layers:
                raise ArgumentError(f"{len(spec)} layers in {self.pattern!r}", f"layers = {self.layers}", str(self))
            return spec.unions
        term = spec.union if isinstance(spec, Gate) else spec
        return (term if self.pattern == "causal" else term & pidsl.causal,) * self.layers

    @property
    def keys(self) -> int:
        """Keys of the query with the most, in any layer."""
        return max(int(term.degree().maximum(n=self.n)) for term in self.terms)

    @property
    def flow(self) -> tuple[Term, ...]:
        """Where information comes from, step by step: the attention, and a convolution before it."""
        return tuple(x for term in self.terms for x in ((NEIGHBOUR, term) if self.convolution else (term,)))

    def model(self) -> Model:
        """The model, untrained."""
        torch.manual_seed(self.seed)
        kinds = TASKS[self.task].tokens if self.task in TASKS else BYTES
        return Model(kinds, self.dim, self.attentions(), self.widen, self.convolution)

    def attentions(self) -> Iterator[Attention]:
        """One for each layer."""
        spec, rope = self.spec, self.rope or None
        for term in self.terms:
            if isinstance(spec, Gate):
                yield PiAttention(self.dim, self.heads, *_sizes(spec), rope=rope)
            else:
                yield attention(term, self.dim, self.heads, rope)


def _sizes(gate: Gate) -> tuple[int, int]:
    match gate.branches:
        case (("local", Window(int(k), 0)), ("skip", Lags((int(period),)))):
            return k, period
    raise ArgumentError(f"pattern = {gate!r}", "a gate of pi-attention: pi_gate(6, 16)", "pattern")


def field_of(run: Run) -> np.ndarray:
    """Whether a token can be known at another one, bool [n, n]: the masks of the steps composed."""
    found = np.eye(run.n, dtype=bool)
    for term in run.flow:
        found = (term.mask(run.n).astype(np.float32) @ found.astype(np.float32)) > 0
    return found


@lru_cache(maxsize=256)
def proved(flow: tuple[Term, ...], n: int) -> dict[str, int | None]:
    """The contiguous and the farthest reach at n, from bounds whose proof has been checked; None: there is none."""
    found: dict[str, int | None] = {}
    for quantity in (ask.contiguous, ask.farthest):
        bound = quantity(flow, None)
        found[quantity.__name__] = None
        with suppress(SizeError):  # of short sequences it says nothing
            found[quantity.__name__] = int(bound(n=n)) if bound.is_exact and bound.proof.check() else None
    return found


def carried_out(run: Run, device: torch.device = CPU) -> dict[str, Any]:
    """The run, and what came of it, as JSON takes it."""
    started, model = time.process_time(), run.model().to(device)
    made = torch.Generator().manual_seed(run.seed)
    of_text = run.task in TEXTS
    batches = _excerpts(run, made) if of_text else _questions(run, made)
    losses = [step.nats for step in until_learned(learn(model, batches, run.steps, run.rate, device))]
    found = {
        "run": dataclasses.asdict(run), "keys": run.keys, "proved": proved(run.flow, run.n),
        "parameters": sum(p.numel() for p in model.parameters()), "steps": len(losses),
        "loss": [round(float(np.mean(losses[k : k + 25])), 4) for k in range(0, len(losses), 25)],
    }  # fmt: skip
    found |= _bits(model, run, device) if of_text else _answers(model, run, device)
    return found | {"cpu_seconds": round(time.process_time() - started, 2)}


# -- tasks -------------------------------------------------------------------------------------------------------------


def asked(run: Run, batch: int, made: torch.Generator) -> Asked:
    """Sequences with the questions of the run's task."""
    return TASKS[run.task].asked(batch, run.n, made, run.distance)


def _questions(run: Run, made: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(run.steps):
        found = asked(run, run.batch, made)
        yield found.tokens, found.targets


def _answers(model: Model, run: Run, device: torch.device) -> dict[str, Any]:
    """Of sequences that it was not trained on: how many questions, how many right, by distance and by field.

    `by_distance` maps a distance to [asked, right] within the field and [asked, right] beyond it.
    """
    questions = asked(run, QUESTIONS, torch.Generator().manual_seed(OTHERS + run.seed))
    where = questions.where
    right = (said(model, questions.tokens, device) == questions.targets)[where].numpy()
    queries = torch.arange(run.n).expand_as(where)[where].numpy()
    sources, distances = questions.sources[where].numpy(), questions.distances[where].numpy()
    within = field_of(run)[queries, sources]
    by_distance: dict[str, list[list[int]]] = {}
    for distance in np.unique(distances):
        at = distances == distance
        by_distance[str(distance)] = [[int((at & x).sum()), int(right[at & x].sum())] for x in (within, ~within)]
    return {"chance": TASKS[run.task].chance, "by_distance": by_distance}


# -- text --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _text(name: str) -> Text:
    return TEXTS[name]()


def _excerpts(run: Run, made: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(run.steps):
        yield following(_text(run.task).batch(run.batch, run.n + 1, made))


@torch.no_grad()
def _bits(model: Model, run: Run, device: torch.device) -> dict[str, Any]:
    """Bits per byte of held-out text, which is the same for all runs: of all, and by position, `BIN` at a time."""
    excerpts = _text(run.task).validation(EXCERPTS, run.n + 1)
    parts = []
    for tokens, targets in zip(*(x.split(8) for x in following(excerpts)), strict=True):
        logits = model(tokens.to(device)).float().flatten(0, 1)
        nats = torch.nn.functional.cross_entropy(logits, targets.flatten().to(device), reduction="none")
        parts.append(nats.view(targets.shape).cpu() / math.log(2))
    bits = torch.cat(parts)
    return {
        "bits": round(bits.mean().item(), 5),
        "by_position": [round(x.mean().item(), 5) for x in bits.split(BIN, 1)],
    }
