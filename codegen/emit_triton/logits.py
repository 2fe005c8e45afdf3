"""What happens to the logits of a tile, and the functions that say it.

    plan with score(softcap=50.0, alibi=True)  ->  def _score(logits, i, j, slope):
                                                       logits, rate = _softcap(logits, 72.13...)
                                                       logits -= slope * tl.abs(i - j).to(tl.float32)
                                                       return logits, rate

Logits are base 2, as everywhere in the kernels. Plain ones are absorbed by functions of the library, which scale them
after the maximum of a row is taken. Those of a score are lines of the kernel. A tile's positions are `i = r + offset`
and `j` (`j + key_offset` where keys are moved), whatever layout the rows r and the keys j come from. The sinks are
where the softmax starts: one key of value 0 has been seen. The gradients of sinks and temperature follow from lse, out
and dQ; those of slopes and bias are summed by kernels of their own, which are launched only when they are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pidsl.codegen.emit_triton.lines import Lines
from pidsl.language.score import PLAIN, Score, threshold
from pidsl.relation.frame import Frame

STATE = "acc, top, total"  # of the online softmax
LOG2E = 1.4426950408889634
_PAIRS = "tl.sum(query.to(tl.float32) * key.to(tl.float32), 1)"
_SCALE2 = f"scale2 = tl.maximum(scale * {LOG2E}, 1e-30)  # base 2; above 0 so that -inf stays -inf"


@dataclass(frozen=True, slots=True)
class Logits:
    """The lines of a kernel about logits and weights.

    Args:
        score: what happens to them.
        frame: where keys stand.
    """

    score: Score
    frame: Frame

    @property
    def plain(self) -> bool:
        """Nothing happens to them."""
        return self.score == PLAIN

    @property
    def inputs(self) -> str:
        """Further arguments of every kernel."""
        return " ".join(f"{name}," for name in self.score.parameters)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Further arguments of every kernel, for which it is not compiled again."""
        return ("seed",) if self.score.dropout else ()

    @property
    def no_lse(self) -> str:
        """lse of rows that do not exist or attend nothing; with a score their weights are 0 whatever is added."""
        return "0.0" if self.plain else 'float("inf")'

    @property
    def _j(self) -> str:
        """Positions of keys."""
        return f"({self.frame.key})" if self.frame.moved else "j"

    @property
    def _rows(self) -> str:
        """Positions of a tile [rows, keys]."""
        return f"i[:, None], {self._j}[None, :]"

    @property
    def _keys(self) -> str:
        """Positions of a tile [keys, rows]."""
        return f"i[None, :], {self._j}[:, None]"

    @property
    def _of_pair(self) -> str:
        """What `_score` takes beside a logit and its positions."""
        return ", slope" * self.score.alibi + ", by_lag" * (self.score.bias is not None)

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
        if score.softcap is not None or self._of_pair:
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

    # What a program knows before its first tile.

    def of_rows(self) -> Iterator[str]:
        """Numbers of the program that owns rows."""
        if self.plain:
            yield _SCALE2
            return
        if self.score.temperature:
            yield "scale = scale / tl.load(temperature + head)"
        yield f"scale2 = scale * {LOG2E}"
        yield "i = r + offset"
        yield from self._of_head("head")

    def of_keys(self) -> Iterator[str]:
        """Numbers of the program that owns keys."""
        if self.plain:
            yield _SCALE2
        elif not self.score.temperature:
            yield f"scale2 = scale * {LOG2E}"

    def of_head(self, head: str) -> Iterator[str]:
        """Numbers of one query head in a program that owns keys."""
        if self.score.temperature:
            yield f"heat = tl.load(temperature + {head})"
            yield f"scale2 = scale / heat * {LOG2E}"
        yield from self._of_head(head)

    def _of_head(self, head: str) -> Iterator[str]:
        if self.score.alibi:
            yield f"slope = tl.load(slopes + {head}) * {LOG2E}"
        if self.score.bias is not None:
            yield f"by_lag = bias + {head}.to(tl.int64) * {self.score.table}"
        if self.score.dropout:
            yield f"stream = _stream(seed, batch * heads + {head})"

    # The softmax.

    def nothing_seen(self, rows: int) -> Iterator[str]:
        """The softmax before the first key."""
        if self.score.sinks:
            yield f"top = tl.zeros([{rows}], tl.float32) + tl.load(sinks + head) * {LOG2E}"
            yield 'total = tl.where(top == -float("inf"), 0.0, 1.0)'
        else:
            yield f'top = tl.full([{rows}], -float("inf"), tl.float32)'
            yield f"total = tl.zeros([{rows}], tl.float32)"

    def absorb(self, full: bool) -> Iterator[str]:
        """Online softmax over a tile of keys."""
        if self.plain:
            absorb = "_absorb(" if full else "_absorb_where(keep, inside, "
            yield f"{STATE} = {absorb}query, key, value, {STATE}, scale2, PRECISION)"
            return
        yield from self._final("tl.dot(query, tl.trans(key), input_precision=PRECISION)", self._rows, "_")
        if not full:
            yield 'logits = tl.where(keep & inside[None, :], logits, -float("inf"))'
        yield "p, fade, top = _softmax_step(logits, top)"
        yield "total = total * fade + tl.sum(p, 1)"
        yield from self._dropped(f"p *= _dropout(stream, {self._rows})")
        yield "acc = tl.dot(p.to(value.dtype), value, acc * fade[:, None], input_precision=PRECISION)"

    def absorb_lag(self, lag: int) -> Iterator[str]:
        """Online softmax over the keys of a lag."""
        if self.plain:
            yield f"{STATE} = _absorb_lag(ok, query, key, value, {STATE}, scale2)"
            return
        at = f"i, {_minus(lag)}"
        yield from self._final(_PAIRS, at, "_")
        yield 'logits = tl.where(ok, logits, -float("inf"))'
        yield "p, fade, top = _softmax_lag(logits, top)"
        yield "total = total * fade + p"
        yield from self._dropped(f"p *= _dropout(stream, {at})")
        yield "acc = acc * fade[:, None] + p[:, None] * value.to(tl.float32)"

    # Gradients of q, k and v.

    def query_grad(self, full: bool) -> Iterator[str]:
        """What a tile of keys adds to dQ."""
        if self.plain:
            yield "p = _weights(query, key, row_lse2, scale2, PRECISION)"
            yield from self._kept(full)
            yield "query_grad = _add_query_grad(p, key, value, grad, row_pull, query_grad, PRECISION)"
            return
        yield from self._slopes(full)
        yield from self._raw()
        yield "query_grad = tl.dot(ds.to(key.dtype), key, query_grad, input_precision=PRECISION)"

    def key_grads(self, keep: str, careful: bool) -> Iterator[str]:
        """What a tile of rows adds to dK and dV.

        Args:
            keep: the mask, empty for all pairs.
            careful: keys without weight may be NaN.
        """
        careful = careful and bool(keep)
        if self.plain:
            yield "p_t = _weights_t(query, key, row_lse2, scale2, PRECISION)"
            if keep:
                yield f"p_t = tl.where({keep}, p_t, 0.0)"
            yield f"key_grad, value_grad = _add_key_grads{'_of' if careful else ''}("
            yield "    p_t, query, value, grad, row_pull, key_grad, value_grad, PRECISION"
            yield ")"
            return
        yield "i = r + offset"
        yield from self._final("tl.dot(key, tl.trans(query), input_precision=PRECISION)", self._keys)
        yield "p = tl.exp2(logits - row_lse2[None, :])"
        if keep:
            yield f"p = tl.where({keep}, p, 0.0)"
        yield "dp = tl.dot(value, tl.trans(grad), input_precision=PRECISION)"
        yield from self._dropped(f"drop = _dropout(stream, {self._keys})", "dp *= drop")
        yield "ds = p * (dp - row_pull[None, :])"
        yield from self._raw(of_keys=True)
        if careful:
            yield "ds = tl.where(p == 0.0, 0.0, ds)"
        yield from self._dropped("p *= drop")
        yield "key_grad = tl.dot(ds.to(query.dtype), query, key_grad, input_precision=PRECISION)"
        yield "value_grad = tl.dot(p.to(grad.dtype), grad, value_grad, input_precision=PRECISION)"

    def lag_slopes(self, lag: int, of_keys: bool = False) -> Iterator[str]:
        """ds of the pairs of a lag, the gradient of their raw logits; for keys also p, as the values get it."""
        if self.plain:
            p = "p" if of_keys else "_"
            yield f"{p}, ds = _lag_slopes(ok, query, key, value, grad, row_lse2, row_pull, scale2)"
            return
        yield from self._lag_slopes(lag, of_keys)
        yield from self._raw(of_keys)

    def _slopes(self, full: bool) -> Iterator[str]:
        """ds of a tile, the gradient of its final logits."""
        yield from self._final("tl.dot(query, tl.trans(key), input_precision=PRECISION)", self._rows)
        yield "p = tl.exp2(logits - row_lse2[:, None])"
        yield from self._kept(full)
        yield "dp = tl.dot(grad, tl.trans(value), input_precision=PRECISION)"
        yield from self._dropped(f"dp *= _dropout(stream, {self._rows})")
        yield "ds = p * (dp - row_pull[:, None])"

    def _lag_slopes(self, lag: int, of_keys: bool = False) -> Iterator[str]:
        """ds of the pairs of a lag, the gradient of their final logits; for keys also p."""
        at = f"r + offset, {self._j}" if of_keys else f"i, {_minus(lag)}"
        yield from self._final(f"tl.where(ok, {_PAIRS}, 0.0)", at)  # what is not attended may be NaN
        yield "p = tl.where(ok, tl.exp2(logits - row_lse2), 0.0)"
        yield "dp = tl.sum(grad.to(tl.float32) * value.to(tl.float32), 1)"
        yield from self._dropped(f"drop = _dropout(stream, {at})", "dp *= drop")
        yield "ds = tl.where(ok, p * (dp - row_pull), 0.0)"
        if of_keys:
            yield from self._dropped("p *= drop")

    def _final(self, product: str, at: str, rate: str = "rate") -> Iterator[str]:
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

    @staticmethod
    def _kept(full: bool) -> Iterator[str]:
        """The weights of a tile of keys, without those of the pairs that its mask drops."""
        if not full:
            yield "p = tl.where(keep & inside[None, :], p, 0.0)"

    def _dropped(self, *lines: str) -> Iterator[str]:
        if self.score.dropout:
            yield from lines

    # Gradients of slopes and bias.

    @property
    def sums(self) -> tuple[str, ...]:
        """The arguments for sums of the gradients of slopes and bias; none where there are neither."""
        return ("slope_sums,",) * self.score.alibi + ("bias_sums,",) * (self.score.bias is not None)

    @property
    def _width(self) -> int:
        return 1 << max(0, self.score.table - 1).bit_length()

    def no_sums(self, rows: int) -> Iterator[str]:
        """The sums before the first tile."""
        if self.score.alibi:
            yield f"slope_sum = tl.zeros([{rows}], tl.float32)"
        if self.score.bias is not None:
            yield f"bias_sum = tl.zeros([{self._width}], tl.float32)"

    def add_to_sums(self, full: bool) -> Iterator[str]:
        """What a tile of keys adds to the sums."""
        yield from self._slopes(full)
        yield from self._add_to_sums(
            f"tl.sum(ds * tl.abs(i[:, None] - {self._j}[None, :]).to(tl.float32), 1)", self._rows
        )

    def add_lag_to_sums(self, lag: int) -> Iterator[str]:
        """What the keys of a lag add to the sums."""
        yield from self._lag_slopes(lag)
        yield from self._add_to_sums(f"ds * {abs(lag)}", f"i, {_minus(lag)}")

    def _add_to_sums(self, by_lag: str, at: str) -> Iterator[str]:
        if self.score.alibi:
            yield f"slope_sum -= {by_lag}"
        if self.score.bias is not None:
            yield f"bias_sum = _add_by_entry(bias_sum, ds, _entry({at}), {self._width})"

    def store_sums(self) -> Iterator[str]:
        """Lines that store the sums of a program."""
        if self.score.alibi:
            yield "tl.store(slope_sums + tl.program_id(0), tl.sum(slope_sum))"
        if self.score.bias is not None:
            yield f"column = tl.arange(0, {self._width})"
            yield f"sums = bias_sums + tl.program_id(0).to(tl.int64) * {self.score.table}"
            yield f"tl.store(sums + column, bias_sum, mask=column < {self.score.table})"


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
