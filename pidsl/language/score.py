"""`score`: what happens to a logit between `q . k` and the softmax, what joins the softmax, and dropout of its weights.

    s_ij = softcap * tanh(scale * q_i . k_j / temperature / softcap)  -  slope * |lag|  +  bias[clamp(lag, low, high)]

    w(s) = e^s, or softplus(s) = log(1 + e^s)
    denominator_i = sum_j w(s_ij) + e^sink        out_i = sum_j drop_ij w(s_ij) / denominator_i v_j

Every part is left out unless asked for, and every parameter is one per query head. A score is the *structure*: a
plain value, immutable, hashable, compared by structure, printed as source. The numbers that are learned are tensors
given when the compiled kernel is called.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from pidsl.errors import TermError

if TYPE_CHECKING:
    from torch import Tensor

Normalizer = Literal["softmax", "softplus", "length_scaled_softmax", "length_scaled_softplus"]

LONGEST_TABLE = 1 << 14  # entries of a bias table: a kernel sums its gradient in registers


@dataclass(frozen=True, slots=True, repr=False)
class Score:
    """The parts of a score; made by `score`, which has their meanings."""

    scale: float | None = None
    softcap: float | None = None
    alibi: bool = False
    bias: tuple[int, int] | None = None
    sinks: bool = False
    temperature: bool = False
    dropout: float = 0.0
    normalizer: Normalizer = "softmax"

    @property
    def softplus(self) -> bool:
        """Whether weights are softplus of the logits, not e to their power."""
        return self.normalizer.endswith("softplus")

    @property
    def length_scaled(self) -> bool:
        """Whether `q . k` is multiplied by log(i + 1)."""
        return self.normalizer.startswith("length_scaled")

    @property
    def positional(self) -> bool:
        """Whether it asks where query and key stand."""
        return bool(self.alibi or self.bias is not None or self.dropout or self.length_scaled)

    @property
    def parameters(self) -> tuple[str, ...]:
        """What a kernel with this score must be given by name when it is called."""
        asked = {
            "slopes": self.alibi,
            "bias": self.bias is not None,
            "sinks": self.sinks,
            "temperature": self.temperature,
            "seed": self.dropout > 0,
        }
        return tuple(name for name, needed in asked.items() if needed)

    @property
    def table(self) -> int:
        """Entries of the bias table per head."""
        return 0 if self.bias is None else self.bias[1] - self.bias[0] + 1

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return f"score({', '.join(f'{f.name}={given[f.name]!r}' for f in fields(self) if given[f.name] != f.default)})"


PLAIN = Score()  # that of plain attention: nothing happens to the logits


def score(
    *, scale: float | None = None, softcap: float | None = None, alibi: bool = False,
    bias: tuple[int, int] | None = None, sinks: bool = False, temperature: bool = False, dropout: float = 0,
    normalizer: Normalizer = "softmax",
) -> Score:  # fmt: skip
    """What happens to a logit, for `pidsl.compile(term, score=...)`.

    >>> import pidsl, torch
    >>> gemma = pidsl.score(softcap=50.0)
    >>> kernel = pidsl.compile(pidsl.window(63), "torch", score=gemma)
    >>> q, k, v = torch.randn(3, 1, 4, 100, 64)
    >>> kernel(q, k, v).shape
    torch.Size([1, 4, 100, 64])
    >>> pidsl.score(alibi=True, bias=(0, 15), dropout=0.1).parameters
    ('slopes', 'bias', 'seed')

    Args:
        scale: factor of the logits, instead of 1 / sqrt(D).
        softcap: `logit -> softcap * tanh(logit / softcap)`, before anything is added (Gemma 2, arXiv 2408.00118).
        alibi: subtract `slopes[h] * |i - j|` (arXiv 2108.12409); the call takes `slopes [Hq]`.
        bias: `(low, high)`: add `bias[h, lag - low]` for lags `low .. high`, both included; lags outside get the
            nearest end. The call takes `bias [Hq, high - low + 1]`.
        sinks: one more logit per head, in the denominator only; the call takes `sinks [Hq]` (gpt-oss). A row without
            keys then has out 0 and lse `sinks[h]`.
        temperature: divide the logits by `temperature[h]` before the softcap; the call takes `temperature [Hq]`.
        dropout: probability with which a weight is dropped after the softmax; the others are divided by
            1 - dropout. The call takes `seed`, an integer: equal seeds drop equal pairs, on every backend.
        normalizer: what makes weights of the logits s of a row: "softmax", e^s over their sum; "softplus",
            softplus(s) over their sum, and `lse` is the logarithm of that sum. In the two that are "length scaled",
            `scale * q . k` is first multiplied by log(i + 1), i the position of the query: of softplus the first
            stage of LSSAR (arXiv 2501.13428), of softmax Scalable-Softmax (arXiv 2501.19399).

    Returns:
        A `Score`.

    Raises:
        TermError: a value that the part does not take.
    """
    for name, switch in (("alibi", alibi), ("sinks", sinks), ("temperature", temperature)):
        if not isinstance(switch, bool):
            hint = f"{name}=True here, and the numbers when the kernel is called"
            raise TermError(f"{name} = {switch!r}", "True or False", "score(...)", hint)
    if scale is not None:
        scale = _number("scale", scale, "a finite number", -math.inf)
    if softcap is not None:
        softcap = _number("softcap", softcap, "a finite number above 0", 0.0)
    if bias is not None:
        bias = _lags(bias)
    dropped = _number("dropout", dropout, "0 <= dropout < 1", -math.inf)
    if not 0 <= dropped < 1:
        raise TermError(f"dropout = {dropout!r}", "0 <= dropout < 1", "score(...)")
    if normalizer not in get_args(Normalizer):
        _refuse_normalizer(normalizer)
    return Score(scale, softcap, alibi, bias, sinks, temperature, dropped, normalizer)


def threshold(dropout: float) -> int:
    """A weight is dropped when the 32 bits that its pair hashes to are below this number."""
    return min(round(dropout * 2**32), 2**32 - 1)


def alibi_slopes(heads: int) -> Tensor:
    """The slopes of the ALiBi paper for so many heads, float32 `[heads]`.

    For a power of two `2 ** (-8 * (h + 1) / heads)`; for other numbers those of the largest power of two below,
    then every other one of twice that power, as in the authors' code.

    >>> alibi_slopes(8).tolist()
    [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]
    """
    import torch

    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise TermError(f"heads = {heads!r}", "an integer >= 1", "alibi_slopes(heads)")
    power = 1 << (heads.bit_length() - 1)

    def slopes(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (h + 1) / count) for h in range(count)]

    return torch.tensor((slopes(power) + slopes(2 * power)[::2])[:heads])


def _number(name: str, value: Any, expected: str, above: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not above < float(value) < math.inf:
        raise TermError(f"{name} = {value!r} ({type(value).__name__})", expected, "score(...)")
    return float(value)


def _refuse_normalizer(normalizer: object) -> NoReturn:
    close = difflib.get_close_matches(str(normalizer).lower(), get_args(Normalizer), n=1)
    expected = f"one of {', '.join(map(repr, get_args(Normalizer)))}: a function of each logit and its query's position"
    hint = f"pidsl.score(normalizer={close[0]!r})" if close else ""
    raise TermError(f"normalizer = {normalizer!r}", expected, "score(...)", hint)


def _lags(bias: Any) -> tuple[int, int]:
    if (
        not isinstance(bias, tuple | list)
        or len(bias) != 2
        or any(isinstance(x, bool) or not isinstance(x, int) for x in bias)
        or bias[0] > bias[1]
    ):
        hint = "bias=(0, 127) here, and the table when the kernel is called"
        raise TermError(f"bias = {bias!r}", "two lags (low, high), low <= high", "score(...)", hint)
    low, high = bias
    if high - low >= LONGEST_TABLE or max(abs(low), abs(high)) >= 1 << 30:
        raise TermError(f"bias = {bias!r}", f"at most {LONGEST_TABLE} lags, each below 2 ** 30", "score(...)")
    return low, high
