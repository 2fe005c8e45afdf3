"""`Recipe`: all that decides what a kernel computes, as one value.

    Recipe ::= compile(of, backend=..., score=Score, output_gate="head" | "element", affine=True, tune=True)
    of     ::= Term | Gate | Heads | Schedule | Summaries

It is immutable, hashable, compared by structure and printed as source: what `compile` keeps kernels by, what a pickled
kernel holds, and what a configuration file may say.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, get_args

from pidsl.errors import BackendError, TermError
from pidsl.language.gate import Gate
from pidsl.language.goes_with import check_together
from pidsl.language.heads import Heads
from pidsl.language.schedule import Schedule
from pidsl.language.score import Score
from pidsl.language.summaries import Summaries
from pidsl.language.terms import Term

Composed = Gate | Heads | Schedule | Summaries
Backend = Literal["auto", "triton", "torch", "reference"]
OutputGate = Literal["head", "element"]
BACKENDS: tuple[str, ...] = get_args(Backend)


@dataclass(frozen=True, slots=True, repr=False)
class Recipe:
    """What to compile; the arguments are those of `pidsl.compile`, which has their meanings.

    >>> import pidsl
    >>> recipe = pidsl.parse("compile(gate(local=window(63), skip=stride(256)), backend='torch')")
    >>> recipe
    compile(gate(local=window(63), skip=stride(256)), backend='torch')
    >>> pidsl.compile(recipe)
    pidsl.compile(gate(local=window(63), skip=stride(256)), backend='torch')

    Raises:
        TermError: not a pattern, or not a score; an unknown output gate; parts that do not go together.
        BackendError: an unknown backend.
    """

    of: Term | Composed
    backend: Backend = "auto"
    score: Score | None = None
    output_gate: OutputGate | None = None
    affine: bool = False
    tune: bool = False

    def __post_init__(self) -> None:
        _check_of(self.of)
        where = f"compile({self.of!r}, ...)"
        if not isinstance(self.backend, str) or self.backend not in BACKENDS:
            close = difflib.get_close_matches(str(self.backend), BACKENDS, n=1)
            expected = f"one of {', '.join(map(repr, BACKENDS))}"
            raise BackendError(f"backend = {self.backend!r}", expected, hint=f"backend={close[0]!r}" if close else "")
        if self.score is not None and not isinstance(self.score, Score):
            given, hint = (
                f"score = {self.score!r} ({type(self.score).__name__})",
                "build one: pidsl.score(softcap=50.0)",
            )
            raise TermError(given, "a pidsl.score(...) or None", hint=hint)
        for name, value in (("affine", self.affine), ("tune", self.tune)):
            if not isinstance(value, bool):
                raise TermError(f"{name} = {value!r}", "True or False", where)
        if self.output_gate is not None:
            _check_output_gate(self.output_gate, where)
        check_together(self.parts(), f"{self!r}")

    def parts(self) -> list[str]:
        """What it is made of, by the names of `pidsl.language.goes_with.PARTS`."""
        found = [self.of.part] if isinstance(self.of, Composed) else []
        if self.score is not None:
            found += ["score", "dropout"] if self.score.dropout else ["score"]
        if self.output_gate is not None:
            found.append("output gate")
        if self.affine:
            found.append("affine weights")
        return found

    def __repr__(self) -> str:
        scored = "" if self.score is None else f", score={self.score!r}"
        gate = "" if self.output_gate is None else f", output_gate={self.output_gate!r}"
        flags = ", affine=True" * self.affine + ", tune=True" * self.tune
        return f"compile({self.of!r}, backend={self.backend!r}{scored}{gate}{flags})"


def _check_of(of: object) -> None:
    if isinstance(of, Term | Composed):
        return
    if isinstance(of, str):
        hint = f"pidsl.compile(pidsl.parse({of!r}))"
    elif callable(of):
        hint = "pidsl.compile(pidsl.where(predicate)), a predicate of positions: lambda i, j: i - j < 4"
    else:
        hint = "build one: pidsl.window(63)"
    expected = "a pidsl term, gate, heads, layers or summaries"
    raise TermError(f"compile({of!r}) ({type(of).__name__})", expected, hint=hint)


def _check_output_gate(gate: object, where: str) -> None:
    if not isinstance(gate, str):
        hint = "output_gate='head' here, and the logits when the kernel is called"
        raise TermError(f"output_gate: {type(gate).__name__}", "None, 'head' or 'element'", hint=hint)
    if gate not in get_args(OutputGate):
        close = difflib.get_close_matches(gate, get_args(OutputGate), n=1, cutoff=0.5)
        hint = f"output_gate={close[0]!r}" if close else ""
        raise TermError(f"output_gate = {gate!r}", "None, 'head' or 'element'", where, hint)
