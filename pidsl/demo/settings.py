"""What the main job runs on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pidsl.demo.train import Budget
from pidsl.language.gate import Gate
from pidsl.language.terms import Term

if TYPE_CHECKING:
    from pidsl.patterns.pi import Skip


@dataclass(frozen=True, slots=True)
class Copying:
    """The task to copy the token at a distance, and the models for it.

    Args:
        distance: how far back the answers stand, in tokens.
        k, period: of pi-attention with a single skip; the window has as many keys.
        dim, heads, layers, widen: of the models.
        budget: of their training, which ends early where all is learned; then `excerpts` sequences are asked.
    """

    distance: int = 20
    k: int = 6
    period: int = 16
    dim: int = 64
    heads: int = 4
    layers: int = 2
    widen: int = 2
    budget: Budget = field(default_factory=lambda: Budget(steps=150, batch=16, length=128, excerpts=128))

    @property
    def patterns(self) -> dict[str, Term]:
        """Two with as many keys per query, and the ceiling."""
        from pidsl.patterns import dense_attention, pi_attention, ring_attention

        return {
            "window": ring_attention(self.k + 1),
            "pi": pi_attention(self.k, self.period, skip="single"),
            "dense": dense_attention(),
        }


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes of all stages.

    Args:
        k, period, skip: of pi-attention; the ring window has the same k.
        tokens: the length at which patterns are analysed.
        depths: layers for the receptive field.
        long: the length at which kernels are timed.
        rounds: timed calls of each side, forward.
        dim, heads, layers: of the language models.
        budget: of their training.
        copying: the task where reach decides.
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
    layers: int = 3
    budget: Budget = field(default_factory=lambda: Budget(steps=200, batch=2, length=1024))
    copying: Copying = field(default_factory=Copying)

    def quick(self) -> Settings:
        """Shorter sequences and a tenth of the training: the models hardly learn."""

        def less(budget: Budget) -> Budget:
            return replace(budget, steps=max(1, budget.steps // 10), excerpts=4)

        copying = replace(self.copying, budget=less(self.copying.budget))
        return replace(self, long=self.long // 4, rounds=3, budget=less(self.budget), copying=copying)

    @property
    def patterns(self) -> dict[str, Term]:
        """The three patterns by name."""
        from pidsl.patterns import dense_attention, pi_attention, ring_attention

        return {
            "dense": dense_attention(),
            "ring": ring_attention(self.k),
            "pi": pi_attention(self.k, self.period, skip=self.skip),
        }

    @property
    def gate(self) -> Gate:
        """pi-attention with a softmax per branch."""
        from pidsl.patterns import pi_gate

        return pi_gate(self.k, self.period, skip=self.skip)

    def stacks(self, depth: int) -> dict[str, tuple[Term, ...]]:
        """A term per layer, for each pattern and for the single skip in all and in some layers."""
        from pidsl.patterns import pi_layers

        return {
            **{name: (term,) * depth for name, term in self.patterns.items()},
            "pi, single skip": pi_layers(self.k, self.period, depth, at="all"),
            "single, layers 1, 2, 4, 8": pi_layers(self.k, self.period, depth),
        }
