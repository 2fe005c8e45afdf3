"""Isolated lags as device functions: every row meets one key per lag, and every key one row."""

from __future__ import annotations

from collections.abc import Iterator

from pidsl.codegen.emit_triton.expr import index_source, pred_source
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.masks import load_mask
from pidsl.codegen.emit_triton.reach import Met
from pidsl.codegen.emit_triton.runs import OfClasses
from pidsl.codegen.plan.walks import Lag, Lags
from pidsl.language.algebra import settled
from pidsl.language.expr import Compare, Index, Pred, Truth, Var, substitute_pred

NOWHERE = -(2**30)


class LagsWalker(OfClasses[Lags]):
    """Lags, one after the other, without a loop."""

    @property
    def doc(self) -> str:
        own, other = ("row", "key") if self.over_keys else ("key", "row")
        return f"Piece {self.number}, {len(self.walk.lags)} diagonals: every {own} meets one {other} per lag."

    def loops(self, out: Lines) -> None:
        own, letter = self.owned.name, self.owned.letter
        out.put(f"{own} = {letter}")
        with out.block("if KIND.RAGGED:"):  # plans are made for some rows and some keys
            out.put(f"{own} = tl.where(task[1] > 0, {letter}, {NOWHERE})")
        for x in self.walk.lags:
            met = index_source(self._met_by(x))
            if not self.over_keys:
                out.put(f"r = {met}")
            tests = [substitute_pred(test, {"q_head": Var("head")}) for test in _tests(x)]
            out.put(f"ok = {load_mask(' & '.join(f'({pred_source(test)})' for test in tests), tests)}")
            out.put(
                f"state = DO[1](task, state, 0, 0, {met if self.over_keys else 'r'}, ok, None, KIND)  # lag {x.lag}"
            )

    def met(self) -> Iterator[Met]:
        yield from super().met()
        for x in self.walk.lags:
            yield from ((e, {}) for e in (self._met_by(x), *_tests(x)))

    @property
    def pad(self) -> int:
        return self.walk.owned

    def _met_by(self, x: Lag) -> Index:
        """The key (row) that a row (key) meets."""
        ahead = self.frame.ahead
        return Var("r") + ahead - x.lag if self.over_keys else Var("j") - ahead + x.lag


def _tests(x: Lag) -> Iterator[Pred]:
    """Whether row r has the lag."""
    yield Compare(">=", Var("r"), x.first)
    yield Compare("<=", Var("r"), x.last)
    if x.keep is not None and (keep := settled(x.keep)) != Truth(True):
        yield keep
