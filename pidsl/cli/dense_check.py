"""`pidsl check`: compiled kernels against dense attention in float64, on calls drawn from a seed; the smallest failing.

Sizes, groups of heads, offsets, dtypes and strides are drawn; the first calls are the borders (no rows, one row, one
key). A call that fails is made smaller as long as it still fails.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import log2
from typing import TYPE_CHECKING, Any

from pidsl.errors import PidslError
from pidsl.testing_dense import LAYOUTS, Shapes, assert_matches_dense, random_inputs

if TYPE_CHECKING:
    from pidsl.language.heads import Heads
    from pidsl.language.terms import Term

DTYPES = {
    "cpu": ("float32", "float32", "float16", "bfloat16", "float64"),
    "cuda": ("float32", "float16", "bfloat16"),
}
GROUPS = ((1, 1), (2, 1), (1, 2), (2, 2), (1, 4))  # key heads, query heads of each
DIMS = (8, 16, 40, 64)


@dataclass(frozen=True, slots=True)
class Case:
    """One call: its sizes, dtype, strides, and the seed of its numbers."""

    shapes: Shapes
    dtype: str
    layout: str
    seed: int

    def __str__(self) -> str:
        s = self.shapes
        sizes = f"q [{s.batch}, {s.heads}, {s.n}, {s.head_dim}], k [{s.batch}, {s.kv_heads}, {s.m}, {s.head_dim}]"
        stand = f"offset={s.offset}, key_offset={s.key_offset}"
        return f"{sizes}, v [..., {s.value_dim}], {stand}, {self.dtype}, {self.layout}"

    def as_json(self) -> dict[str, Any]:
        """Its numbers by name."""
        return {**asdict(self.shapes), "dtype": self.dtype, "layout": self.layout, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class Failure:
    """The smallest call that fails, how, and the number of the one that failed first."""

    case: Case
    reason: str
    number: int


@dataclass(frozen=True, slots=True)
class Check:
    """What is checked.

    Args:
        of: the pattern or heads that the kernel claims to compute.
        attend: the kernel, called as kernels are.
        device: where tensors are.
        backward: whether gradients are compared.
        heads: the number of query heads, where the pattern fixes it.
        square: the pattern asks for as many queries as keys.
    """

    of: Term | Heads
    attend: Callable[..., Any]
    device: str = "cpu"
    backward: bool = True
    heads: int = 0
    square: bool = False

    def cases(self, count: int, seed: int, longest: int, dtypes: Sequence[str]) -> Iterator[Case]:
        """The calls of a seed; the same ones every time."""
        draw = random.Random(seed)
        for number in range(count):
            edge = number if number < 3 else None
            n = edge if edge is not None else round(2 ** draw.uniform(0, log2(longest)))
            offset, key_offset = draw.choice((0, 0, 1, 17)), draw.choice((0, 0, 0, 5))
            m = draw.choice((n, n, n + offset, round(2 ** draw.uniform(0, log2(longest))), 1))
            if self.square:
                key_offset = min(key_offset, n + offset)
                m = n + offset - key_offset
            kv_heads, group = draw.choice(GROUPS)
            heads = self.heads or kv_heads * group
            if self.heads:
                kv_heads = draw.choice([x for x in range(1, heads + 1) if heads % x == 0])
            dims, batch = (draw.choice(DIMS), draw.choice(DIMS)), draw.choice((1, 2))
            shapes = Shapes(batch, heads, kv_heads, n, m, *dims, offset, key_offset)
            yield Case(shapes, draw.choice(tuple(dtypes)), draw.choice(LAYOUTS), number)

    def fault(self, case: Case) -> str:
        """What is wrong with the kernel in a call, "" if nothing is.

        Raises:
            PidslError: the kernel refuses the call.
        """
        import torch

        given = random_inputs(case.shapes, getattr(torch, case.dtype), case.seed, case.layout, self.device)
        try:
            assert_matches_dense(self.attend, given, term=self.of, backward=self.backward)
        except PidslError:
            raise
        except Exception as e:  # a difference, or whatever a wrong kernel runs into
            return str(e) if isinstance(e, AssertionError) else f"{type(e).__name__}: {e}"
        return ""

    def run(self, cases: Iterator[Case], after: Callable[[], None] = lambda: None) -> tuple[int, Failure | None]:
        """How many calls were right, and the smallest that is not."""
        done = 0
        for number, case in enumerate(cases):
            if reason := self.fault(case):
                smallest, why = self._shrunk(case, reason)
                return done, Failure(smallest, why, number)
            done += 1
            after()
        return done, None

    def _shrunk(self, case: Case, reason: str) -> tuple[Case, str]:
        """The call with every size as small as it can be while it still fails."""
        smaller = True
        while smaller:
            smaller = False
            for other in self._smaller(case):
                if found := self.fault(other):
                    case, reason, smaller = other, found, True
                    break
        return case, reason

    def _smaller(self, case: Case) -> Iterator[Case]:
        s = case.shapes
        if self.square:
            sizes = [dict(n=x, m=x, offset=0, key_offset=0) for x in _below(min(s.n, s.m))]
            if s.offset or s.key_offset:
                sizes.insert(0, dict(n=s.n, m=s.n, offset=0, key_offset=0))
        else:
            sizes = [dict(n=x, m=x) for x in _below(s.n) if s.n == s.m]
            sizes += [{name: x} for name in ("n", "m", "offset", "key_offset") for x in _below(getattr(s, name))]
        sizes += [dict(batch=1)] if s.batch > 1 else []
        if not self.heads and s.heads > 1:
            sizes.append(dict(heads=1, kv_heads=1))
        sizes += [{name: x} for name in ("head_dim", "value_dim") for x in DIMS if x < getattr(s, name)]
        for changed in sizes:
            yield replace(case, shapes=replace(s, **changed))
        if case.layout != "plain":
            yield replace(case, layout="plain")
        if case.dtype not in ("float32", "float64"):
            yield replace(case, dtype="float32")


def _below(size: int) -> list[int]:
    """Smaller sizes, the smallest first of those that halve the way, then the next one."""
    found, step = [], size
    while step > 0:
        found.append(size - step)
        step //= 2
    return found
