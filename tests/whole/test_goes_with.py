"""What goes with what: every cell of the table is compiled and run, or refused with the reason of the table."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import tensors

import pidsl
from pidsl import TermError, blocks, causal, gate, heads, layers, score, spans, stride, summaries, where, window
from pidsl.language.goes_with import PARTS, REFUSED, page

NEAR, FAR = window(3), stride(4) & causal
SPANS = summaries(blocks(4) & causal, [spans(4, where(lambda i, j: j < i // 4))])
MADE: dict[str, Any] = {  # what each kind of pattern makes of two others
    "gate": lambda a, b: gate(a=a, b=b),
    "heads": lambda a, b: heads([(1, a), (1, b)]),
    "layers": lambda a, b: layers([a, b]),
    "summaries": lambda a, b: summaries(a, [spans(4, b)]),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "score": {"score": score(softcap=5.0, alibi=True)},
    "dropout": {"score": score(dropout=0.5)},
    "output gate": {"output_gate": "head"},
    "affine weights": {"affine": True},
}
GIVEN: dict[str, Any] = {
    "slopes": torch.ones(2),
    "seed": 3,
    "weights": torch.ones(1, 2, 9, 2),
    "output_gate": torch.ones(1, 2, 9),
    "alpha": 2.0,
    "beta": 0.5,
}


def made(kind: str, inner: Any = None) -> Any:
    """A value of a kind; `inner` in the places of its patterns."""
    if kind == "summaries" and inner is None:
        return SPANS
    return MADE[kind](NEAR if inner is None else inner, FAR if inner is None else inner)


def ways(a: str, b: str) -> list[Any]:
    """Attempts to have both in one kernel: a pattern with an option, two options, or one kind inside the other."""
    if a in OPTIONS and b in OPTIONS:
        both = OPTIONS[a] | OPTIONS[b]
        if {a, b} == {"score", "dropout"}:
            both = {"score": score(softcap=5.0, alibi=True, dropout=0.5)}
        return [lambda: pidsl.compile(NEAR, "torch", **both)]
    if b in OPTIONS:
        return [lambda: pidsl.compile(made(a), "torch", **OPTIONS[b])]
    return [lambda: pidsl.compile(made(a, made(b)), "torch"), lambda: pidsl.compile(made(b, made(a)), "torch")]


def run(kernel: Any) -> None:
    """It says what it is, is its text, and gives finite numbers and gradients."""
    assert isinstance(kernel, pidsl.Explained)
    assert str(kernel.plan) and kernel.source() and kernel.explain()
    assert pidsl.compile(pidsl.parse(repr(kernel))) is kernel
    for one in kernel if isinstance(kernel, Sequence) else [kernel]:
        named = {name: GIVEN[name] for name in one.parameters}
        named |= {name: GIVEN[name] for name in ("weights", "output_gate", "alpha", "beta") if asks(one, name)}
        q, k, v = (x.requires_grad_() for x in tensors(9, 9))
        out = one(q, k, v, **named)
        assert out.isfinite().all()
        assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum(), (q, k, v)))


def asks(kernel: Any, name: str) -> bool:
    recipe = kernel.recipe
    if name == "weights":
        return isinstance(recipe.of, pidsl.Gate)
    return recipe.output_gate is not None if name == "output_gate" else recipe.affine


@pytest.mark.parametrize(("a", "b"), list(combinations(PARTS, 2)))
def test_every_pair(a: str, b: str) -> None:
    refusal = REFUSED.get(frozenset((a, b)))
    if refusal is not None:
        for way in ways(a, b):
            with pytest.raises(TermError) as caught:
                way()
            assert refusal.why in str(caught.value) and refusal.hint in str(caught.value)
        return
    kernels = []
    for way in ways(a, b):
        with suppress(TermError):  # one of the ways is enough: layers of heads are, heads of layers are not
            kernels.append(way())
    assert kernels
    for kernel in kernels:
        run(kernel)


def test_the_page() -> None:
    path = Path(__file__).parent.parent.parent / "docs" / "reference" / "goes_with.md"
    assert path.read_text(encoding="utf-8") == page(), "write pidsl.language.goes_with.page() to it"
