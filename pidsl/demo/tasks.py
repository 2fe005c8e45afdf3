"""Tasks whose answer stands at one place of the sequence: what a layer cannot see, a model cannot answer.

Each makes tokens, and for each of them the place of the token that is asked for there, which is an earlier one. The
distance between both is under control, so that accuracy can be held beside what a pattern is proved to reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pidsl.demo.model import IGNORED
from pidsl.errors import ArgumentError

SYMBOLS = 16  # of copies
SAID = 4  # symbols or values, where some are said and asked for in order
KINDS, RUN = 64, 16  # of tokens of a run that comes again, and how many they are
FILLER, KEYS, VALUES = 32, 64, 64  # tokens of each kind, in this order; then the marker
MARKER = FILLER + KEYS + VALUES


@dataclass(frozen=True, slots=True)
class Asked:
    """Sequences with questions.

    Args:
        tokens: int64 [B, n].
        sources: int64 [B, n], the position of the answer of each token; negative: nothing is asked there.
    """

    tokens: Tensor
    sources: Tensor

    @property
    def where(self) -> Tensor:
        """Which tokens ask, bool [B, n]."""
        return self.sources >= 0

    @property
    def targets(self) -> Tensor:
        """The answers [B, n], IGNORED where nothing is asked."""
        answers = self.tokens.gather(1, self.sources.clamp(min=0))
        return torch.where(self.where, answers, IGNORED)

    @property
    def distances(self) -> Tensor:
        """How far back the answers stand, [B, n]; 0 where nothing is asked."""
        positions = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return torch.where(self.where, positions - self.sources, 0)


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question.

    Args:
        make: sequences, of (batch, n, generator), and of the distance where `at_distance`.
        tokens: kinds of tokens there are.
        choices: so many answers are equally likely for who cannot see the source, at least.
        least, most: of (distance): the fewest tokens of a sequence, and the most.
        at_distance: all answers stand at a given distance.
    """

    make: Callable[..., Asked]
    tokens: int
    choices: int
    least: Callable[[int], int]
    most: float = math.inf
    at_distance: bool = False

    @property
    def chance(self) -> float:
        """The largest accuracy, in the mean, of who cannot see the source."""
        return 1 / self.choices

    def check(self, n: int, distance: int | None = None) -> None:
        """Whether there are such sequences.

        Raises:
            ArgumentError: a distance is missing, or is not the task's to have; n tokens are too few, or too many.
        """
        name = self.make.__name__
        if self.at_distance != (distance is not None):
            expected = "a distance, in tokens" if self.at_distance else "none: the sequences have any"
            hint = "distance=20" if self.at_distance else "distance=None"
            raise ArgumentError(f"distance = {distance!r}", expected, name, hint)
        if distance is not None and distance < 1:
            raise ArgumentError(f"distance = {distance}", "1 or more: answers stand before", name, "distance=1")
        least = self.least(distance or 0)
        if n < least:
            behind = "" if distance is None else f" for answers {distance} tokens back"
            raise ArgumentError(f"n = {n}", f"at least {least} tokens{behind}", name, f"n={least}")
        if n > self.most:
            raise ArgumentError(f"n = {n}", f"at most {self.most} tokens", name, f"n={self.most}")

    def asked(self, batch: int, n: int, made: torch.Generator, distance: int | None = None) -> Asked:
        """Sequences [batch, n] with questions.

        Raises:
            ArgumentError: as `check` says.
        """
        self.check(n, distance)
        return self.make(batch, n, made, *([] if distance is None else [distance]))


def copy(batch: int, n: int, made: torch.Generator, distance: int) -> Asked:
    """Random symbols; asked everywhere is the one at a distance."""
    tokens = torch.randint(SYMBOLS, (batch, n), generator=made)
    return Asked(tokens, (torch.arange(n) - distance).clamp(min=-1).expand(batch, n))


def boundary(batch: int, n: int, made: torch.Generator, distance: int, length: int = SAID) -> Asked:
    """A few symbols somewhere among filler; at a distance behind them as many marks, which ask for them in order."""
    tokens = torch.randint(SYMBOLS, 2 * SYMBOLS, (batch, n), generator=made)
    length = min(length, distance)
    at = torch.randint(n - distance - length + 1, (batch, 1), generator=made) + torch.arange(length)
    tokens.scatter_(1, at, torch.randint(SYMBOLS, (batch, length), generator=made))
    tokens.scatter_(1, at + distance, 2 * SYMBOLS)
    return Asked(tokens, torch.full((batch, n), -1).scatter_(1, at + distance, at))


def induction(batch: int, n: int, made: torch.Generator, length: int = RUN) -> Asked:
    """A run of random tokens comes again at any distance; asked, from its second token on, is what came next before.

    A token alone may have occurred elsewhere too: who looks at one, and not at two, is not always right.
    """
    tokens = torch.randint(KINDS, (batch, n), generator=made)
    gap = torch.randint(length, n - length + 1, (batch, 1), generator=made)
    first = (torch.rand(batch, 1, generator=made) * (n - length - gap + 1)).long() + torch.arange(length)
    tokens.scatter_(1, first + gap, tokens.gather(1, first))
    return Asked(tokens, torch.full((batch, n), -1).scatter_(1, (first + gap)[:, 1:-1], first[:, 2:]))


def recall(batch: int, n: int, made: torch.Generator) -> Asked:
    """Keys with a value behind each among filler; in the last quarter all keys come again, and ask for their value.

    Multi-query associative recall, arXiv 2312.04927, with n / 16 keys.
    """
    tokens = torch.randint(FILLER, (batch, n), generator=made)
    pairs, behind = n // 16, n // 4
    keys = torch.rand(batch, KEYS, generator=made).argsort(1)[:, :pairs] + FILLER
    values = torch.randint(FILLER + KEYS, MARKER, (batch, pairs), generator=made)
    at = 2 * torch.rand(batch, (n - behind) // 2, generator=made).argsort(1)[:, :pairs]
    asked = n - behind + 2 * torch.rand(batch, behind // 2, generator=made).argsort(1)[:, :pairs]
    for where in (at, asked):
        tokens.scatter_(1, where, keys).scatter_(1, where + 1, values)
    return Asked(tokens, torch.full((batch, n), -1).scatter_(1, asked, at + 1))


def passkey(batch: int, n: int, made: torch.Generator) -> Asked:
    """A marker with four values behind it among filler; at the end it comes again, and asks for them one by one."""
    tokens = torch.randint(FILLER, (batch, n), generator=made)
    values = torch.rand(batch, VALUES, generator=made).argsort(1)[:, :SAID] + FILLER + KEYS
    said = torch.cat([torch.full((batch, 1), MARKER), values], 1)
    at = torch.randint(n - n // 4 - 5, (batch, 1), generator=made) + torch.arange(5)
    tokens.scatter_(1, at, said)
    tokens[:, -5:] = said
    sources = torch.full((batch, n), -1)
    sources[:, -5:-1] = at[:, 1:]
    return Asked(tokens, sources)


TASKS = {
    "copy": Task(copy, SYMBOLS, SYMBOLS, lambda distance: distance + 1, at_distance=True),
    "boundary": Task(
        boundary, 2 * SYMBOLS + 1, SYMBOLS, lambda distance: distance + min(SAID, distance), at_distance=True
    ),
    "induction": Task(induction, KINDS, KINDS, lambda _: 2 * RUN),
    "recall": Task(recall, MARKER + 1, VALUES, lambda _: 16, most=16 * KEYS + 15),
    "passkey": Task(passkey, MARKER + 1, VALUES - SAID + 1, lambda _: 16),
}
