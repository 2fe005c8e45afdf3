"""One task that asks for reach alone: each token is to answer with the token that stands at a distance before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch

from pidsl.analysis.layers.reachable import reachable
from pidsl.console import Progress
from pidsl.demo.measure import Times
from pidsl.demo.model import Model, attention
from pidsl.demo.settings import Copying
from pidsl.demo.tasks import TASKS
from pidsl.demo.train import learn, said, until_learned
from pidsl.language.terms import Term
from pidsl.studies.graph import path

OTHERS = 1 << 32  # added to a seed: sequences that no model was trained on


@dataclass(frozen=True, slots=True)
class Copied:
    """What came of one model.

    Args:
        name, term: what its layers attend.
        way: lags, one for each layer, through which the asked token is seen; None: there are none.
        bits: per answer, of each training batch.
        asked, right: questions of sequences that it was not trained on, and right answers.
        step: of the training.
    """

    name: str
    term: Term
    way: list[int] | None
    bits: list[float]
    asked: int
    right: int
    step: Times

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


def learn_to_copy(name: str, term: Term, sizes: Copying, device: torch.device) -> Copied:
    """Train a model to copy, until it can or the steps are spent, and ask it.

    All models start from the same weights, and see the same sequences.
    """
    task, budget = TASKS["copy"], sizes.budget
    task.check(budget.length, sizes.distance)
    torch.manual_seed(budget.seed)
    attentions = (attention(term, sizes.dim, sizes.heads) for _ in range(sizes.layers))
    model = Model(task.tokens, sizes.dim, attentions, sizes.widen).to(device)
    made = torch.Generator().manual_seed(budget.seed)
    sequences = (task.asked(budget.batch, budget.length, made, sizes.distance) for _ in range(budget.steps))
    bits, seconds = [], []
    with Progress(f"copying, {name}", budget.steps) as progress:
        batches = ((x.tokens, x.targets) for x in sequences)
        for step in until_learned(learn(model, batches, budget.steps, budget.rate, device)):
            seconds.append(step.seconds)
            bits.append(step.nats / math.log(2))
            progress.step(f"{bits[-1]:.2f} bits per answer")
    made = torch.Generator().manual_seed(OTHERS + budget.seed)
    asked = task.asked(budget.excerpts, budget.length, made, sizes.distance)
    right = (said(model, asked.tokens, device) == asked.targets)[asked.where]
    return Copied(name, term, way(term, sizes), bits, right.numel(), int(right.sum()), Times(tuple(seconds)))


def way(term: Term, sizes: Copying) -> list[int] | None:
    """Lags, one for each layer, that add up to the distance; None: there are none, for any number of tokens."""
    if sizes.distance not in reachable(term, sizes.layers):
        return None
    tokens = path(term, sizes.distance, 0, sizes.layers, sizes.distance + 1)
    assert tokens is not None
    return [int(b - a) for a, b in pairwise(tokens)]
