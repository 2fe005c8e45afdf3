"""A `score_mod` of FlexAttention as a score: read from what it gives, and compared with it.

    score_mod(s, b, h, i, j) = softcap * tanh(s / temperature[h] / softcap)  +  added[h, i - j]

What is added is `alibi` where it falls with the lag, and `bias` else. Where it is -inf, the pair is not attended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pidsl.errors import PredicateError
from pidsl.interop.stand_ins import unsaid
from pidsl.interop.traced_values import Unreadable
from pidsl.language.score import LONGEST_TABLE, Score, score
from pidsl.language.trace import at_line

__all__ = ["Scoring", "finite"]

ScoreMod = Callable[..., Any]
Numbers = NDArray[np.float64]
CALL = "pidsl.from_flex(mask_mod, B, H, n, m, score_mod)"
LOW = -1e30  # at and below it a pair is not attended
FAR = 1e9  # a logit where tanh is 1
SEEN = 192  # positions of which all pairs are looked at
CLOSE = 1e-5
_EXPECTED = "a cap of the score, a factor, and what is added by head and lag"


def finite(score_mod: ScoreMod) -> Callable[..., Any]:
    """The mask_mod of the pairs to which it does not give -inf."""

    def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        found = score_mod(torch.zeros(()), b, h, q_idx, kv_idx)
        return found > LOW if isinstance(found, Tensor) else torch.tensor(True)

    return mask_mod


@dataclass(frozen=True)
class Scoring:
    """A score_mod, and what `from_flex` was told besides.

    Args:
        score_mod: as FlexAttention takes it.
        batch, heads, lengths: how many there are, where that was said.
    """

    score_mod: ScoreMod
    batch: int | None
    heads: int | None
    lengths: tuple[int | None, int | None]

    def masks(self) -> bool:
        """Whether it gives -inf to pairs."""
        with self._named():
            rows, keys = self._pairs(False)
            return bool((self._values(0.0, rows, keys) <= LOW).any())

    def read(self, causal: bool) -> tuple[Score | None, dict[str, Tensor]]:
        """The score, and the tensors of a call that it asks for.

        Args:
            causal: whether no key is attended that stands behind the query.

        Raises:
            PredicateError: it is none of these, or needs a number that was not told.
        """
        with self._named():
            rows, keys = self._pairs(causal)
            added = self._values(0.0, rows, keys)
            attended = added > LOW
            if not attended.any():
                return None, {}
            factor, cap = self._of_the_score(rows, keys, added)
            lags, by_lag = self._by_lag(rows - keys, added, causal)
            made, inputs = self._words(factor, cap, lags, by_lag)
            for s in (-3.7, -0.4, 0.0, 0.9, 2.2):
                capped = factor[None, :, None] * s
                capped = capped if cap is None else cap * np.tanh(capped / cap)
                expected = capped + by_lag[:, rows - keys - lags[0]][None]
                self._compare(self._values(s, rows, keys), np.where(attended, expected, np.nan), rows, keys)
            return (made if made != score() else None), inputs

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Whatever goes wrong in it, with the line of the function."""
        try:
            yield
        except Unreadable as e:
            raise PredicateError(e.what, _EXPECTED, at_line(CALL, self.score_mod, e), e.hint) from None
        except PredicateError:
            raise
        except Exception as e:  # of the function itself
            says = str(e).strip().splitlines()[:1]
            given = ": ".join([type(e).__name__, *says])
            raise PredicateError(given, _EXPECTED, at_line(CALL, self.score_mod, e)) from e

    def _pairs(self, causal: bool) -> tuple[Any, Any]:
        """Queries and keys that are looked at."""
        i, j = (_some(SEEN if x is None else x) for x in self.lengths)
        rows, keys = (x.ravel() for x in np.meshgrid(i, j, indexing="ij"))
        return (rows[rows >= keys], keys[rows >= keys]) if causal else (rows, keys)

    def _values(self, s: float, rows: Any, keys: Any) -> Numbers:
        """float64 [sequences, heads, pairs]."""
        batches = [unsaid("b")] if self.batch is None else [torch.tensor(b) for b in range(self.batch)]
        heads = [torch.tensor(h) for h in range(self.heads or 1)]
        if self.heads is None:
            heads = [unsaid("h")]
        i, j = torch.from_numpy(rows), torch.from_numpy(keys)
        given = torch.tensor(s, dtype=torch.float64)

        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

        def one(b: Tensor, h: Tensor) -> Tensor:
            def of(q: Tensor, k: Tensor) -> Tensor:
                return torch.as_tensor(self.score_mod(given, b, h, q, k), dtype=torch.float64).reshape(())

            with TransformGetItemToIndex():
                return torch.vmap(of)(i, j)

        return np.stack([np.stack([one(b, h).detach().cpu().numpy() for h in heads]) for b in batches])

    def _of_the_score(self, rows: Any, keys: Any, added: Numbers) -> tuple[Numbers, float | None]:
        """The factor of each head, and the cap."""
        attended = added[0] > LOW
        own = range(len(attended))
        at = attended.argmax(1)
        far, one = (self._values(s, rows[at], keys[at])[0, own, own] - added[0, own, at] for s in (FAR, 1.0))
        far, one = (np.where(attended.any(1), x, 1.0) for x in (far, one))
        if not (np.abs(far) < FAR * 1e-3).all() or not attended.any():
            return one, None
        cap = float(f"{float(far[0]):.6g}")
        if cap <= 0 or not (np.abs(one) < cap).all():
            raise Unreadable("a score_mod that does not grow with the score", "a cap by tanh, a factor above 0")
        return cap * np.arctanh(one / cap), cap

    def _by_lag(self, lags: Any, added: Numbers, causal: bool) -> tuple[Any, Numbers]:
        """All lags, ascending, and what is added for each, float64 [heads, lags]; NaN where that was not seen."""
        n, m = (SEEN if x is None else x for x in self.lengths)
        every = np.arange(0 if causal else -(m - 1), n)
        values = np.full((added.shape[1], len(every)), np.nan)
        if self.lengths[0] is not None:
            rows = np.maximum(every, 0)
            one = self._values(0.0, rows, rows - every)[0]
            values = np.where(one > LOW, one, np.nan)
        for head in range(len(values)):
            for sequence in added[:, head]:
                values[head, lags[sequence > LOW] - every[0]] = sequence[sequence > LOW]
        return every, values

    def _words(self, factor: Numbers, cap: float | None, lags: Any, added: Numbers) -> tuple[Score, dict[str, Tensor]]:
        inputs, options = dict[str, Tensor](), dict[str, Any]()
        if not np.allclose(factor, 1, atol=CLOSE):
            if (factor <= 0).any():
                raise Unreadable("a score_mod that does not grow with the score", "a cap by tanh, a factor above 0")
            inputs["temperature"], options["temperature"] = torch.from_numpy(1 / factor).float(), True
        if np.nanmax(np.abs(added)) > CLOSE:
            slopes = _slopes(lags, added)
            if np.nanmax(np.abs(added + slopes[:, None] * np.abs(lags))) <= CLOSE * np.nanmax(np.abs(added)):
                inputs["slopes"], options["alibi"] = torch.from_numpy(slopes).float(), True
            elif self.lengths[0] is None:
                raise Unreadable("what is added to the score is known for some lags only", "from_flex(..., n=...)")
            else:
                inputs["bias"], options["bias"] = self._table(lags, added)
        if inputs and self.heads is None:
            raise Unreadable(f"{', '.join(inputs)}, one for each query head", "from_flex(..., H=...)")
        return score(softcap=cap, **options), inputs

    def _table(self, lags: Any, added: Numbers) -> tuple[Tensor, tuple[int, int]]:
        """A table of what is added, without lags at either end that get the same as the next."""
        if np.isnan(added).any() and max(x or 0 for x in self.lengths) > SEEN:
            given = f"what is added for a lag of {lags[np.isnan(added).any(0)][0]}, where pairs that were seen get -inf"
            raise Unreadable(given, "from_flex(mask_mod, score_mod=score_mod), the mask apart")
        added = np.where(np.isnan(added), 0.0, added)  # no pair has this lag
        differ = np.flatnonzero((np.abs(np.diff(added, axis=1)) > 1e-9).any(0))
        first, last = (int(differ[0]), int(differ[-1]) + 1) if len(differ) else (0, 0)
        if last - first >= LONGEST_TABLE:
            raise Unreadable(f"what is added differs for {last - first + 1} lags", f"at most {LONGEST_TABLE} of them")
        return torch.from_numpy(added[:, first : last + 1]).float(), (int(lags[first]), int(lags[last]))

    def _compare(self, found: Numbers, expected: Numbers, rows: Any, keys: Any) -> None:
        apart = np.argwhere(~np.isnan(expected) & ~np.isclose(found, expected, rtol=1e-4, atol=1e-4))
        if len(apart):
            b, h, at = apart[0]
            given = f"a score_mod that is none of these for sequence {b}, head {h}, query {rows[at]}, key {keys[at]}"
            hint = "pidsl.score(softcap=50.0), score(alibi=True), score(bias=(low, high)): the parts of a score"
            raise PredicateError(given, _EXPECTED, at_line(CALL, self.score_mod, None), hint)


def _some(length: int) -> Any:
    if length <= SEEN:
        return np.arange(length)
    ends = np.arange(SEEN // 4)
    inside = np.random.default_rng(length).integers(0, length, SEEN // 2)
    return np.unique(np.concatenate([ends, length - 1 - ends, inside]))


def _slopes(lags: Any, added: Numbers) -> Numbers:
    """How what is added falls, by the farthest lag of each head."""
    out = np.zeros(len(added))
    for head, own in enumerate(added):
        known = np.flatnonzero(~np.isnan(own) & (lags != 0))
        if len(known):
            farthest = known[np.argmax(np.abs(lags[known]))]
            out[head] = -own[farthest] / abs(lags[farthest])
    return out
