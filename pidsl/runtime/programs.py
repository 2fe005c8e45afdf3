"""One program per term, backend, class of head dimension and frame of positions: lowered, emitted and kept.

`PIDSL_SHOW=plan,source` prints each plan and each generated program to stderr when it is made; docs/settings.md has
this and the other environment variables.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from pidsl.language.heads import Heads
from pidsl.language.parse import parse, parse_term
from pidsl.language.score import PLAIN, Score
from pidsl.language.terms import Ring, Term, walk
from pidsl.language.trace import where
from pidsl.runtime.call.call import Call, Gradients

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan

KEPT = 512  # programs kept; the least recently used go first
WIDE_HEAD_DIM = 128  # above it, Triton's tiles are smaller


Called = TypeVar("Called", bound=Callable[..., Any])


def untraced(function: Called) -> Called:
    """Call the function while torch traces, with constants, instead of tracing what it does.

    This is `torch.compiler.assume_constant_result`, which imports all of torch._dynamo: several seconds.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


for word in (parse, where):  # they read source and signatures, which torch cannot trace
    untraced(word)


class Program(Protocol):
    """What a backend makes of a plan and its score. Sizes are positive here: empty calls never reach a program."""

    @property
    def source(self) -> str:
        """The text of the generated program."""

    def forward(self, call: Call) -> tuple[Tensor, Tensor]:
        """out [B, Hq, n, Dv] in q's dtype, and lse [B, Hq, n], natural log, float32 (float64 for float64).

        Rows without keys have 0 and -inf. With sinks, lse is the logarithm of the whole denominator.
        """

    def backward(
        self, call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, learned: bool
    ) -> Gradients:
        """The gradients of q, k and v, of their shapes and dtypes, and those of the inputs, by name.

        Args:
            call, out, lse: what `forward` was given and returned.
            grad_out, grad_lse: the gradients of its results; None is zero.
            learned: whether those of slopes and bias are wanted.
        """


@dataclass(frozen=True, slots=True)
class Compiled:
    """A plan and its program."""

    plan: Plan
    program: Program


def structure(score: Score | None) -> Score:
    """What decides which program it is: the score without its scale, which every call brings; `PLAIN` for nothing."""
    if score is None:  # what torch traces, should find no numbers here
        return PLAIN
    bare = replace(score, scale=None)
    return PLAIN if bare == PLAIN else bare


def scored(text: str) -> Score:
    """The score that a text names, "" that of plain attention."""
    return parse(text) if text else PLAIN


def is_wide(backend: str, head_dim: int) -> bool:
    """The class of a head dimension: whether rows of `head_dim` elements need a program of their own."""
    return backend == "triton" and head_dim > WIDE_HEAD_DIM


def compiled(term: Term, backend: str, wide: bool, score: Score = PLAIN, moved: bool = False) -> Compiled:
    """The program for `term`, made on first use. Safe to call from several threads.

    Args:
        term: the pattern, without symbols.
        backend: "triton", "torch" or "reference".
        wide: the class of the head dimension, see `is_wide`.
        score: what happens to the logits, see `structure`.
        moved: for calls whose keys start at a position other than 0.
    """
    with _alone():
        return _compiled(term, backend, 256 if wide else 64, score, moved and backend != "reference")


def _alone() -> AbstractContextManager[Any]:
    """The lock of everything that one thread does at a time; isl is imported with it."""
    from pidsl.relation.isl import alone

    return alone


@lru_cache(maxsize=KEPT)
def _compiled(term: Term, backend: str, head_dim: int, score: Score, moved: bool) -> Compiled:
    if backend == "reference":
        from pidsl.codegen.plan.nodes import Plan

        note = "dense scores under the oracle's mask, in chunks of rows: O(n * m) time, for judging other backends"
        return _made(Plan(term, backend, (), None, None, None, notes=(note,)), score)

    from pidsl.codegen.lower import lower
    from pidsl.relation.frame import Frame

    return _made(lower(term, backend, head_dim, frame=Frame(moved)), score)


def _made(plan: Plan, score: Score) -> Compiled:
    """The program of a plan, on the plan's backend."""
    plan = replace(plan, score=score)
    made: Program
    match plan.backend:
        case "triton":
            from pidsl.runtime.run_triton.program import TritonProgram

            made = TritonProgram(plan)
        case "torch":
            from pidsl.runtime.run_torch.program import TorchProgram

            made = TorchProgram(plan)
        case _:
            from pidsl.runtime.run_dense.reference import ReferenceProgram

            assert not isinstance(plan.term, Heads)
            made = ReferenceProgram(plan.term, score)
    return _shown(Compiled(plan, made))


def _shown(made: Compiled) -> Compiled:
    """What `PIDSL_SHOW` asks for, printed."""
    show = os.environ.get("PIDSL_SHOW", "").replace(" ", "").split(",")
    if "plan" in show:
        print(made.plan, file=sys.stderr)
    if "source" in show:
        print(made.program.source, file=sys.stderr)
    return made


def together(heads: Heads, wide: bool, score: Score = PLAIN, moved: bool = False) -> Compiled | None:
    """The Triton program that serves all heads in one launch of each pass, where their layouts agree; else None.

    Args:
        heads: the pattern of each query head, without symbols.
        wide: the class of the head dimension, see `is_wide`.
        score: what happens to the logits. One with dropout has no such program: each launch has a seed of its own.
        moved: for calls whose keys start at a position other than 0.
    """
    if len(heads.distinct) == 1 or score.dropout:
        return None
    with _alone():
        return _together(heads, 256 if wide else 64, score, moved)


@lru_cache(maxsize=KEPT)
def _together(heads: Heads, head_dim: int, score: Score, moved: bool) -> Compiled | None:
    from pidsl.codegen.choice.together import together
    from pidsl.codegen.lower import lower
    from pidsl.relation.frame import Frame

    plan = together(heads, lambda term, size: lower(term, "triton", head_dim, size, Frame(moved)))
    return None if plan is None else _made(plan, score)


def named(pattern: str, score: str, backend: str, wide: bool, moved: bool = False) -> Compiled:
    """The program for a pattern, or for heads that run together, and a score, by their texts."""
    made = _by_text(pattern, score, backend, wide, moved)
    assert made is not None, pattern
    return made


@untraced
def prepared(pattern: str, score: str, backend: str, wide: bool = False, moved: bool = False) -> bool:
    """Whether there is a program for a pattern, or for heads together, made now; None of it is traced by torch.

    A term that is built inside a function that torch traces is no object of Python yet: it comes as its text.
    """
    return _by_text(pattern, score, backend, wide, moved) is not None


def _by_text(pattern: str, score: str, backend: str, wide: bool, moved: bool) -> Compiled | None:
    found, asked = parse(pattern), scored(score)
    if isinstance(found, Heads):
        return together(found, wide, asked, moved)
    return compiled(found, backend, wide, asked, moved)


@untraced
def rings(pattern: str) -> bool:
    """Whether a pattern, by its text, holds a ring."""
    return any(isinstance(t, Ring) for t in walk(parse_term(pattern)))


@untraced
def triton_installed() -> bool:
    """Whether the triton package is there (it is not on macOS and Windows)."""
    return importlib.util.find_spec("triton") is not None


@untraced
def preferred() -> tuple[str, str]:
    """What `auto` stands for on this machine, and why."""
    if not torch.cuda.is_available():
        return "torch", "no GPU found"
    if not triton_installed():
        return "torch", "a GPU, but triton is not installed"
    return "triton", "a GPU; CPU tensors, float64 and head dimensions that triton does not take run on torch"
