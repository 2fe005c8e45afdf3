"""One program per term, backend, kind of call and frame of positions: lowered, emitted and kept.

`PIDSL_SHOW=plan,source` prints each plan and each generated program to stderr when it is made;
docs/reference/settings.md has this and the other environment variables.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from pidsl.codegen.choice.targets import Kind, kind
from pidsl.language.chosen import selection
from pidsl.language.heads import Heads
from pidsl.language.parse import parse, parse_term
from pidsl.language.score import PLAIN, Score
from pidsl.language.terms import Ring, Term, walk
from pidsl.language.trace import where
from pidsl.runtime.call.call import Call, Gradients
from pidsl.runtime.call.chosen import Listed

if TYPE_CHECKING:
    from pidsl.codegen.plan.nodes import Plan

KEPT = 512  # programs kept; the least recently used go first
ANY = Kind()  # of programs that serve all calls

Sizes = tuple[tuple[int, int], ...] | None  # (rows, keys) of the tiles of each pass, instead of the cheapest
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

    plan: Any  # what it computes; None of a program made of its text
    ragged: bool  # it takes ragged calls; others run one sequence after the other

    @property
    def source(self) -> str:
        """The text of the generated program."""

    def forward(self, call: Call) -> tuple[Tensor, Tensor]:
        """out [B, Hq, n, Dv] in q's dtype, and lse [B, Hq, n], natural log, float32 (float64 for float64).

        Rows without keys have 0 and -inf. With sinks, lse is the logarithm of the whole denominator. Ragged calls come
        to programs that are `ragged` alone; for others there are `attends` and `picked`, see
        `pidsl.runtime.sequences`.
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


def structure(score: Score | None) -> Score:
    """What decides which program it is: the score without its scale, which every call brings; `PLAIN` for nothing."""
    if score is None:  # what torch traces, should find no numbers here
        return PLAIN
    bare = replace(score, scale=None)
    return PLAIN if bare == PLAIN else bare


def scored(text: str) -> Score:
    """The score that a text names, "" that of plain attention."""
    return parse(text) if text else PLAIN


def kind_of(backend: str, q: Tensor, v: Tensor) -> Kind:
    """The kind of program that serves a call: on Triton it depends on the GPU, the head dimension and the dtype."""
    if backend != "triton":
        return ANY
    return kind(target_of(q.device), max(q.shape[3], v.shape[3]), q.dtype.itemsize)


def usual(backend: str, head_dim: int = 64) -> Kind:
    """The kind of program that is shown where no call was made: in 16 bits, on this machine's GPU if there is one."""
    if backend != "triton":
        return ANY
    return kind(target_of(torch.device("cuda")), head_dim, 2)


@untraced
def target_of(device: torch.device) -> str:
    """What `codegen.choice.targets` calls a device; the default where there is no GPU to ask."""
    from pidsl.runtime.run_triton.devices import name_of

    return name_of(device)


class Programs:
    """The programs of a pattern, or of heads that run together, under one score.

    Args:
        term: what to attend to, without symbols.
        score: what happens to the logits.
        tune: whether Triton's tiles are chosen by trying some.

    Attributes:
        inputs: what the programs are given beside q, k and v.
        text: what names them in a graph, with a backend after it: no pattern and no score holds a semicolon.
    """

    def __init__(self, term: Term | Heads, score: Score | None, tune: bool = False) -> None:
        self.term, self.score, self.tune = term, structure(score), tune
        self.text = f"{term!r}; {'' if self.score is PLAIN else repr(self.score)}; {'tuned; ' * tune}"
        self.inputs = () if score is None else score.parameters
        if is_choice(self.text):
            self.inputs = (*self.inputs, "blocks")
        self.kept: dict[tuple[str, Kind, bool], Program | None] = {}

    def made(self, backend: str, of: Kind = ANY, moved: bool = False) -> Any:
        """See `compiled`, which is asked once: looking for a term costs more."""
        key = backend, of, moved
        if key not in self.kept:  # another thread may write the same entry: it is the same object
            self.kept[key] = compiled(self.term, backend, of, self.score, moved, self.tune)
        return self.kept[key]

    def exist(self, backend: str, of: Kind = ANY, moved: bool = False) -> bool:
        """Whether there is a program, made now; whatever cannot be compiled fails here."""
        if torch.compiler.is_compiling():
            return prepared(self.text + backend, *of, moved)
        return self.made(backend, of, moved) is not None


def compiled(
    of: Term | Heads, backend: str, which: Kind, score: Score = PLAIN, moved: bool = False, tune: bool = False
) -> Program | None:  # fmt: skip
    """The program, made on first use; None for heads whose layouts do not agree. Safe to call from several threads.

    Args:
        of: a pattern without symbols, or heads, which a Triton program may serve in one launch of each pass.
        backend: "triton", "torch" or "reference".
        which: the kind of calls it serves, see `kind_of`.
        score: what happens to the logits, see `structure`. Heads with dropout have a seed for each launch, so no
            program serves all of them.
        moved: for calls whose keys start at a position other than 0.
        tune: whether tiles are chosen by trying some; those of heads in one launch are not, nor those of torch.
    """
    if isinstance(of, Heads) and (len(of.distinct) == 1 or score.dropout):
        return None
    from pidsl.relation.isl import alone  # what one thread does at a time

    with alone:
        moved = moved and backend != "reference"
        if tune and backend == "triton" and isinstance(of, Term):
            return _tuned(of, which, score, moved)
        return _compiled(of, backend, which, score, moved)


@lru_cache(maxsize=KEPT)
def _tuned(of: Term, which: Kind, score: Score, moved: bool) -> Program:
    from pidsl.runtime.run_triton.tune import TunedProgram

    def variant(sizes: Sizes) -> Any:
        return _compiled(of, "triton", which, score, moved, sizes)

    return TunedProgram(variant(None), variant, which)


@lru_cache(maxsize=KEPT)
def _compiled(
    of: Term | Heads, backend: str, which: Kind, score: Score, moved: bool, sizes: Sizes = None
) -> Program | None:
    plan = _planned(of, backend, which, moved, sizes)
    if plan is None:
        return None
    made = _program(replace(plan, score=score))
    show = os.environ.get("PIDSL_SHOW", "").replace(" ", "").split(",")
    if "plan" in show:
        print(made.plan, file=sys.stderr)
    if "source" in show:
        print(made.source, file=sys.stderr)
    return made


def _planned(of: Term | Heads, backend: str, which: Kind, moved: bool, sizes: Sizes = None) -> Plan | None:
    if backend == "reference":
        from pidsl.codegen.plan.nodes import Plan

        note = "dense scores under the oracle's mask, in chunks of rows: O(n * m) time, for judging other backends"
        return Plan(of, backend, (), None, None, None, notes=(note,))

    from pidsl.codegen.choice.cost import backend_of
    from pidsl.codegen.choice.together import together
    from pidsl.codegen.lower import lower
    from pidsl.relation.frame import Frame

    target, head_dim, itemsize = which
    if isinstance(of, Heads):
        return together(
            of, lambda term, size: lower(term, backend, head_dim, size, Frame(moved), target, itemsize),
            backend_of(backend, which),
        )  # fmt: skip
    return lower(of, backend, head_dim, sizes, Frame(moved), target, itemsize)


def _program(plan: Plan) -> Program:
    """The program of a plan, on the plan's backend."""
    match plan.backend:
        case "triton":
            from pidsl.runtime.run_triton.program import TritonProgram

            return TritonProgram(plan)
        case "torch":
            from pidsl.runtime.run_torch.program import TorchProgram

            return TorchProgram(plan)
        case _:
            from pidsl.runtime.run_dense.reference import ReferenceProgram

            return ReferenceProgram(plan)


@lru_cache(maxsize=2 * KEPT)
def named(program: str, which: Kind, moved: bool) -> Program | None:
    """The program that a text names: "pattern; score; backend", or "pattern; score; tuned; backend"."""
    pattern, score, *tuned, backend = program.split("; ")
    return compiled(parse(pattern), backend, which, scored(score), moved, bool(tuned))


@untraced
def prepared(program: str, target: str, head_dim: int, itemsize: int, moved: bool) -> bool:
    """Whether there is a program that a text names, made now. None of it is traced by torch.

    A term that is built inside a function that torch traces is no object of Python yet: it comes as its text.
    """
    return named(program, Kind(target, head_dim, itemsize), moved) is not None


@untraced
def rings(pattern: str) -> bool:
    """Whether a pattern, by its text, holds a ring."""
    return any(isinstance(t, Ring) for t in walk(parse_term(pattern)))


def is_choice(program: str) -> bool:
    """Whether calls of a program that a text names list blocks: the pattern has the word, and no other one holds it."""
    return "chosen(" in program


@untraced
def chooses(pattern: str) -> tuple[Listed, ...]:
    """What calls of a pattern list, by its text; numbers, which torch can trace."""
    found = selection(parse_term(pattern))
    return () if found is None else (found.numbers,)


@untraced
def triton_installed() -> bool:
    """Whether the triton package is there (it is not on macOS and Windows)."""
    return importlib.util.find_spec("triton") is not None


@untraced
def preferred(backend: str) -> tuple[str, str]:
    """What a backend, `auto` too, stands for on this machine, and why."""
    if backend != "auto":
        return backend, "asked for"
    if not torch.cuda.is_available():
        return "torch", "no GPU found"
    if not triton_installed():
        return "torch", "a GPU, but triton is not installed"
    return "triton", "a GPU; CPU tensors, float64 and head dimensions that triton does not take run on torch"


@untraced
def _has_autocast(kind: str) -> bool:
    """Whether torch has an autocast for a kind of device, which torch 2.11 cannot trace."""
    return torch.amp.is_autocast_available(kind)


def autocasts(kind: str) -> bool:
    """Whether calls on a kind of device are inside `torch.autocast`."""
    return _has_autocast(kind) and torch.is_autocast_enabled(kind)
