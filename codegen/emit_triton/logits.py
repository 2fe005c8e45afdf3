"""Kernels with a score: what is done with a tile of logits, and the functions that say it.

    plan with score(softcap=50.0, alibi=True)  ->  def _score(logits, i, j, slope):
                                                       logits, rate = _softcap(logits, 72.13...)
                                                       logits -= slope * tl.abs(i - j).to(tl.float32)
                                                       return logits, rate

Logits are base 2, as everywhere in the kernels. A tile's positions are `i = r + offset` and `j`, whatever layout the
rows r and the keys j come from. The sinks are where the softmax starts: one key of value 0 has been seen. The
gradients of sinks and temperature follow from lse, out and dQ; those of slopes and bias are summed by kernels of
their own, which are launched only when they are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.walks import KernelWriter
from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.stages import Stage
from pidsl.codegen.plan.walks import Lags
from pidsl.language.expr import Var
from pidsl.language.score import Score, threshold

LOG2E = 1.4426950408889634
_ROWS = "i[:, None], j[None, :]"  # positions of a tile [rows, keys]
_KEYS = "i[None, :], j[:, None]"  # ... of a tile [keys, rows]


class ScoredKernelWriter(KernelWriter):
    """Writes the kernels of a plan with a score."""

    no_lse = 'float("inf")'  # their weights are 0 whatever is added to their logits

    def __init__(self, plan: Plan, score: Score) -> None:
        super().__init__(plan)
        self.score = score
        self.pointers = " ".join(f"{name}," for name in score.parameters)
        self.numbers = ("seed",) if score.dropout else ()
        self.reach.add(Var("r") + Var("offset"), limits={})
        of_pair = {"slope": score.alibi, "by_lag": score.bias is not None}
        self._of_pair = "".join(f", {name}" for name, there in of_pair.items() if there)

    # The functions.

    def functions(self) -> Iterator[str]:
        """The device functions of the score."""
        score = self.score
        if score.bias is not None:
            low, high = score.bias
            yield _function(
                "_entry(i, j)",
                f"Where the pair's lag is in the table of lags {low} .. {high}.",
                [f"return tl.minimum(tl.maximum(i - j, {low}), {high}) {_signed(-low) if low else ''}"],
            )
        if score.softcap is not None or score.alibi or score.bias is not None:
            parts, rate = [], ""
            if score.softcap is not None:
                rate = ", rate"
                parts.append(f"logits, rate = _softcap(logits, {score.softcap!r} * {LOG2E})")
            if score.alibi:
                parts.append("logits -= slope * tl.abs(i - j).to(tl.float32)")
            if score.bias is not None:
                parts.append(f"logits += tl.load(by_lag + _entry(i, j)) * {LOG2E}")
            doc = "The logits, base 2, of queries at i and keys at j after the score"
            doc += ", and their derivative by those before." if rate else "."
            yield _function(f"_score(logits, i, j{self._of_pair})", doc, [*parts, f"return logits{rate}"])
        if score.dropout:
            yield _function(
                "_dropout(stream, i, j)",
                f"Factors of the weights: 0 with probability {score.dropout!r}, else 1 / (1 - {score.dropout!r}).",
                [
                    "bits = _mix(_mix(stream + i.to(tl.uint32)) + _mix(j.to(tl.uint32) + 0x9E3779B9))",
                    f"return tl.where(bits >= {threshold(score.dropout)}, {1 / (1 - score.dropout)!r}, 0.0)",
                ],
            )

    # What KernelWriter leaves open.

    def _of_rows(self) -> Iterator[str]:
        if self.score.temperature:
            yield "scale = scale / tl.load(temperature + head)"
        yield f"scale2 = scale * {LOG2E}"
        yield "i = r + offset"
        yield from self._shares("head")

    def _of_keys(self) -> Iterator[str]:
        if not self.score.temperature:
            yield f"scale2 = scale * {LOG2E}"

    def _of_head(self, head: str) -> Iterator[str]:
        if self.score.temperature:
            yield f"heat = tl.load(temperature + {head})"
            yield f"scale2 = scale / heat * {LOG2E}"
        yield from self._shares(head)

    def _shares(self, head: str) -> Iterator[str]:
        """What the score holds for one query head."""
        if self.score.alibi:
            yield f"slope = tl.load(slopes + {head}) * {LOG2E}"
        if self.score.bias is not None:
            yield f"by_lag = bias + {head}.to(tl.int64) * {self.score.table}"
        if self.score.dropout:
            yield f"stream = _stream(seed, batch * heads + {head})"

    def _nothing_seen(self, rows: int) -> Iterator[str]:
        if not self.score.sinks:
            yield from super()._nothing_seen(rows)
            return
        yield f"top = tl.zeros([{rows}], tl.float32) + tl.load(sinks + head) * {LOG2E}"
        yield 'total = tl.where(top == -float("inf"), 0.0, 1.0)'

    def _absorb(self, full: bool) -> Iterator[str]:
        yield from self._logits("tl.dot(query, tl.trans(key), input_precision=PRECISION)", _ROWS, "_")
        if not full:
            yield 'logits = tl.where(keep & inside[None, :], logits, -float("inf"))'
        yield "p, fade, top = _softmax_step(logits, top)"
        yield "total = total * fade + tl.sum(p, 1)"
        yield from self._drop("p *= _dropout(stream, {})", _ROWS)
        yield "acc = tl.dot(p.to(value.dtype), value, acc * fade[:, None], input_precision=PRECISION)"

    def _absorb_lag(self, lag: int) -> Iterator[str]:
        at = f"i, {_minus(lag)}"
        yield from self._logits(_PAIRS, at, "_")
        yield 'logits = tl.where(ok, logits, -float("inf"))'
        yield "p, fade, top = _softmax_lag(logits, top)"
        yield "total = total * fade + p"
        yield from self._drop("p *= _dropout(stream, {})", at)
        yield "acc = acc * fade[:, None] + p[:, None] * value.to(tl.float32)"

    def _query_grad(self, full: bool) -> Iterator[str]:
        yield from self._slopes(full)
        yield from self._raw()
        yield "query_grad = tl.dot(ds.to(key.dtype), key, query_grad, input_precision=PRECISION)"

    def _slopes(self, full: bool) -> Iterator[str]:
        """ds of a tile, the gradient of its final logits."""
        yield from self._logits("tl.dot(query, tl.trans(key), input_precision=PRECISION)", _ROWS)
        yield "p = tl.exp2(logits - row_lse2[:, None])"
        if not full:
            yield "p = tl.where(keep & inside[None, :], p, 0.0)"
        yield "dp = tl.dot(grad, tl.trans(value), input_precision=PRECISION)"
        yield from self._drop("dp *= _dropout(stream, {})", _ROWS)
        yield "ds = p * (dp - row_pull[:, None])"

    def _key_grads(self, keep: str) -> Iterator[str]:
        yield "i = r + offset"
        yield from self._logits("tl.dot(key, tl.trans(query), input_precision=PRECISION)", _KEYS)
        yield "p = tl.exp2(logits - row_lse2[None, :])"
        if keep:
            yield f"p = tl.where({self._kept(keep)}, p, 0.0)"
        yield "dp = tl.dot(value, tl.trans(grad), input_precision=PRECISION)"
        yield from self._drop("drop = _dropout(stream, {})", _KEYS)
        yield from self._drop("dp *= drop", "")
        yield "ds = p * (dp - row_pull[None, :])"
        yield from self._raw(of_keys=True)
        if keep and self.careful:
            yield "ds = tl.where(p == 0.0, 0.0, ds)"
        yield from self._drop("p *= drop", "")
        yield "key_grad = tl.dot(ds.to(query.dtype), query, key_grad, input_precision=PRECISION)"
        yield "value_grad = tl.dot(p.to(grad.dtype), grad, value_grad, input_precision=PRECISION)"

    def _lag_slopes(self, lag: int, of_keys: bool = False) -> Iterator[str]:
        yield from self._lag_slopes_before(lag, of_keys)
        yield from self._raw(of_keys)

    def _lag_slopes_before(self, lag: int, of_keys: bool = False) -> Iterator[str]:
        """ds of the pairs of a lag, the gradient of their final logits; for keys also p, as the values get it."""
        at = "r + offset, j" if of_keys else f"i, {_minus(lag)}"
        yield from self._logits(f"tl.where(ok, {_PAIRS}, 0.0)", at)  # what is not attended may be NaN
        yield "p = tl.where(ok, tl.exp2(logits - row_lse2), 0.0)"
        yield "dp = tl.sum(grad.to(tl.float32) * value.to(tl.float32), 1)"
        yield from self._drop("drop = _dropout(stream, {})", at)
        yield from self._drop("dp *= drop", "")
        yield "ds = tl.where(ok, p * (dp - row_pull), 0.0)"
        if of_keys:
            yield from self._drop("p *= drop", "")

    def _logits(self, product: str, at: str, rate: str = "rate") -> Iterator[str]:
        """The final logits of the pairs at positions `at`, and their derivative by those before the score."""
        yield f"logits = {product} * scale2"
        if self.score.softcap is not None:
            yield f"logits, {rate} = _score(logits, {at}{self._of_pair})"
        elif self._of_pair:
            yield f"logits = _score(logits, {at}{self._of_pair})"

    def _raw(self, of_keys: bool = False) -> Iterator[str]:
        """ds of the logits before the score. Programs that own rows divide by the temperature at the end."""
        if self.score.softcap is not None:
            yield "ds *= rate"
        if self.score.temperature and of_keys:
            yield "ds /= heat"

    def _drop(self, line: str, at: str) -> Iterator[str]:
        if self.score.dropout:
            yield line.format(at)

    # Slopes and bias.

    def score_stages(self, grad_query: Sequence[Stage]) -> tuple[Stage, ...]:
        """The kernels that sum the gradients of slopes and bias: they visit what those of dQ visit."""
        if not self._of_pair:
            return ()
        return tuple(replace(stage, name=stage.name.replace("grad_query", "grad_score")) for stage in grad_query)

    def grad_score(self, stage: Stage) -> str:
        """The kernel that sums, over the rows of each program, what slopes and bias get; torch adds the programs up."""
        out, score = Lines(), self.score
        width = 1 << max(0, score.table - 1).bit_length()
        pointers = "q, k, v, grad_out, lse2, pull,"
        pointers += " slope_sums," * score.alibi + " bias_sums," * (score.bias is not None)
        with self._kernel(out, stage, pointers, "q k v go"):
            self._load_rows(out, stage)
            if score.alibi:
                out.put(f"slope_sum = tl.zeros([{stage.tile}], tl.float32)")
            if score.bias is not None:
                out.put(f"bias_sum = tl.zeros([{width}], tl.float32)")
            for number, piece in stage.pieces:
                out.put("")
                if not isinstance(piece.forward, Lags):
                    for full in self._key_loops(out, number, piece, "grad_query"):
                        out.put(*self._slopes(full))
                        if score.alibi:
                            lags = "tl.abs(i[:, None] - j[None, :]).to(tl.float32)"
                            out.put(f"slope_sum -= tl.sum(ds * {lags}, 1)")
                        if score.bias is not None:
                            out.put(f"bias_sum = _add_by_entry(bias_sum, ds, _entry({_ROWS}), {width})")
                else:
                    for diagonal in self._lags_of_rows(out, number, piece):
                        out.put(*self._lag_slopes_before(diagonal.lag))
                        if score.alibi:
                            out.put(f"slope_sum -= ds * {abs(diagonal.lag)}")
                        if score.bias is not None:
                            at = f"_entry(i, {_minus(diagonal.lag)})"
                            out.put(f"bias_sum = _add_by_entry(bias_sum, ds, {at}, {width})")
            out.put("")
            if score.alibi:
                out.put("tl.store(slope_sums + tl.program_id(0), tl.sum(slope_sum))")
            if score.bias is not None:
                out.put(
                    f"column = tl.arange(0, {width})",
                    f"sums = bias_sums + tl.program_id(0).to(tl.int64) * {score.table}",
                    f"tl.store(sums + column, bias_sum, mask=column < {score.table})",
                )
        return str(out)


_PAIRS = "tl.sum(query.to(tl.float32) * key.to(tl.float32), 1)"


def _minus(lag: int) -> str:
    """The key position of a lag."""
    return f"i {_signed(-lag)}"


def _signed(number: int) -> str:
    """`+ 3`, `- 3`."""
    return f"- {-number}" if number < 0 else f"+ {number}"


def _function(head: str, doc: str, lines: list[str]) -> str:
    out = Lines()
    out.put("@triton.jit")
    with out.block(f"def {head}:"):
        out.put(f'"""{doc}"""', *lines)
    return str(out)
