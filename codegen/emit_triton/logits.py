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
from typing import NamedTuple

from pidsl.codegen.emit_triton.lines import function
from pidsl.codegen.emit_triton.walker import Tile
from pidsl.language.score import PLAIN, Score, threshold
from pidsl.relation.frame import Frame

STATE = "acc, top, total"  # of the online softmax
LOG2E = 1.4426950408889634


class Pairs(NamedTuple):
    """Those of a tile, and how they lie in it."""

    i: str  # positions of the queries
    j: str  # ... and of the keys
    row: str  # spreads a number of each row over them
    kept: str  # which take part; "" for all
    product: str  # of queries (or their gradients) and keys (values)
    lag: int | None  # of one key per row
    of_keys: bool  # in a program that owns keys


@dataclass(frozen=True, slots=True)
class Logits:
    """The lines of a kernel about logits and weights."""

    score: Score  # what happens to them
    frame: Frame  # where keys stand
    careful: bool  # keys without weight may be NaN

    @property
    def plain(self) -> bool:
        """Nothing happens to them."""
        return self.score == PLAIN

    @property
    def _scale2(self) -> str:
        if self.plain:
            return f"scale2 = tl.maximum(scale * {LOG2E}, 1e-30)  # base 2; above 0 so that -inf stays -inf"
        return f"scale2 = scale * {LOG2E}"

    @property
    def _of_pair(self) -> str:
        """What `_score` takes beside a logit and its positions."""
        return ", slope" * self.score.alibi + ", by_lag" * (self.score.bias is not None)

    def functions(self) -> Iterator[str]:
        """The device functions of the score."""
        score = self.score
        if score.bias is not None:
            low, high = score.bias
            entry = f"tl.minimum(tl.maximum(i - j, {low}), {high}) {_signed(-low) if low else ''}"
            doc = f"Where the pair's lag is in the table of lags {low} .. {high}."
            yield function("_entry(i, j)", doc, f"return {entry}")
        if score.softcap is not None or self._of_pair:
            parts, rate = [], ""
            doc = "The logits, base 2, of queries at i and keys at j after the score"
            if score.softcap is not None:
                rate, doc = ", rate", f"{doc}, and their derivative by those before"
                parts.append(f"logits, rate = _softcap(logits, {score.softcap!r} * {LOG2E})")
            if score.alibi:
                parts.append("logits -= slope * tl.abs(i - j).to(tl.float32)")
            if score.bias is not None:
                parts.append(f"logits += tl.load(by_lag + _entry(i, j)) * {LOG2E}")
            yield function(f"_score(logits, i, j{self._of_pair})", f"{doc}.", *parts, f"return logits{rate}")
        if p := score.dropout:
            doc = f"Factors of the weights: 0 with probability {p!r}, else 1 / (1 - {p!r})."
            bits = "bits = _mix(_mix(stream + i.to(tl.uint32)) + _mix(j.to(tl.uint32) + 0x9E3779B9))"
            kept = f"return tl.where(bits >= {threshold(p)}, {1 / (1 - p)!r}, 0.0)"
            yield function("_dropout(stream, i, j)", doc, bits, kept)

    # What a program knows before its first tile.

    def of_rows(self) -> Iterator[str]:
        """Numbers of the program that owns rows."""
        if self.score.temperature:
            yield "scale = scale / tl.load(temperature + head)"
        yield self._scale2
        if not self.plain:
            yield "i = r + offset"
        yield from self._of_head("head")

    def of_keys(self) -> Iterator[str]:
        """Numbers of the program that owns keys."""
        if not self.score.temperature:
            yield self._scale2

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

    def absorb(self, tile: Tile) -> Iterator[str]:
        """Online softmax over the keys of a tile."""
        x = self._pairs(tile)
        if self.plain:
            if x.lag is not None:
                yield f"{STATE} = _absorb_lag(ok, query, key, value, {STATE}, scale2)"
            else:
                absorb = "_absorb_where(keep, inside, " if x.kept else "_absorb("
                yield f"{STATE} = {absorb}query, key, value, {STATE}, scale2, PRECISION)"
            return
        yield from self._final(x, "_")
        if x.kept:
            yield f'logits = tl.where({x.kept}, logits, -float("inf"))'
        highest, weight = ("tl.max(logits, 1)", "tl.sum(p, 1)") if x.lag is None else ("logits", "p")
        yield f"base, fade, top = _softmax_step({highest}, top)"
        yield f"p = tl.exp2(logits - base{x.row})"
        yield f"total = total * fade + {weight}"
        if self.score.dropout:
            yield f"p *= _dropout(stream, {x.i}, {x.j})"
        yield "acc *= fade[:, None]"
        yield _added(x, "acc", "p", "value")

    def _pairs(self, tile: Tile, of_keys: bool = False) -> Pairs:
        lag, j = tile.lag, f"({self.frame.key})" if self.frame.moved else "j"
        if lag is not None:
            product = "tl.sum({0}.to(tl.float32) * {1}.to(tl.float32), 1)"
            return Pairs("i", j if of_keys else f"i {_signed(-lag)}", "", "ok", product, lag, of_keys)
        if of_keys:
            product = "tl.dot({1}, tl.trans({0}), input_precision=PRECISION)"
            kept = f"({tile.keep}) & live[None, :]" if tile.keep and self.careful else tile.keep
            return Pairs("i[None, :]", f"{j}[:, None]", "[None, :]", kept, product, lag, of_keys)
        product = "tl.dot({0}, tl.trans({1}), input_precision=PRECISION)"
        kept = "" if tile.full else "keep & inside[None, :]"
        return Pairs("i[:, None]", f"{j}[None, :]", "[:, None]", kept, product, lag, of_keys)

    def _final(self, x: Pairs, rate: str = "rate") -> Iterator[str]:
        """The final logits of some pairs, and their derivative by those before the score."""
        yield f"logits = {x.product.format('query', 'key')} * scale2"
        if self.score.softcap is not None:
            yield f"logits, {rate} = _score(logits, {x.i}, {x.j}{self._of_pair})"
        elif self._of_pair:
            yield f"logits = _score(logits, {x.i}, {x.j}{self._of_pair})"

    # Gradients.

    def query_grad(self, tile: Tile) -> Iterator[str]:
        """What a tile of keys adds to dQ."""
        x = self._pairs(tile)
        if self.plain and x.lag is None:
            yield "p = _weights(query, key, row_lse2, scale2, PRECISION)"
            if x.kept:
                yield f"p = tl.where({x.kept}, p, 0.0)"
            yield "query_grad = _add_query_grad(p, key, value, grad, row_pull, query_grad, PRECISION)"
        else:
            yield from self._slopes(x)
            yield _added(x, "query_grad", "ds", "key")

    def key_grads(self, tile: Tile) -> Iterator[str]:
        """What a tile of rows adds to dK and dV."""
        x = self._pairs(tile, of_keys=True)
        if self.plain and x.lag is None:
            yield "p_t = _weights_t(query, key, row_lse2, scale2, PRECISION)"
            if x.kept:
                yield f"p_t = tl.where({x.kept}, p_t, 0.0)"
            yield f"key_grad, value_grad = _add_key_grads{'_of' if self.careful and x.kept else ''}("
            yield "    p_t, query, value, grad, row_pull, key_grad, value_grad, PRECISION"
            yield ")"
        else:
            if not self.plain:
                yield "i = r + offset"
            yield from self._slopes(x)
            yield _added(x, "key_grad", "ds", "query")
            yield _added(x, "value_grad", "p", "grad")

    def _slopes(self, x: Pairs, final: bool = False) -> Iterator[str]:
        """ds, the gradient of the raw logits or of the `final` ones; for keys also p, as the values get it.

        Programs that own rows divide by the temperature at the end.
        """
        if self.plain:  # of a lag
            p = "p" if x.of_keys else "_"
            yield f"{p}, ds = _lag_slopes(ok, query, key, value, grad, row_lse2, row_pull, scale2)"
            return
        yield from self._final(x)
        yield f"p = tl.exp2(logits - row_lse2{x.row})"
        if x.kept:
            yield f"p = tl.where({x.kept}, p, 0.0)"
        yield f"dp = {x.product.format('grad', 'value')}"
        if self.score.dropout:
            yield from (f"drop = _dropout(stream, {x.i}, {x.j})", "dp *= drop")
        yield f"ds = p * (dp - row_pull{x.row})"
        if self.score.softcap is not None and not final:
            yield "ds *= rate"
        if self.score.temperature and x.of_keys:
            yield "ds /= heat"
        if x.lag is not None:
            yield "ds = tl.where(ok, ds, 0.0)  # what is not attended may be NaN"
        elif self.careful and x.of_keys and x.kept:
            yield "ds = tl.where(p == 0.0, 0.0, ds)"
        if self.score.dropout and x.of_keys:
            yield "p *= drop"

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

    def add_to_sums(self, tile: Tile) -> Iterator[str]:
        """What a tile of keys adds to the sums."""
        x = self._pairs(tile)
        yield from self._slopes(x, final=True)
        if self.score.alibi:
            wide = f"tl.sum(ds * tl.abs({x.i} - {x.j}).to(tl.float32), 1)"
            yield f"slope_sum -= {wide if tile.lag is None else f'ds * {abs(tile.lag)}'}"
        if self.score.bias is not None:
            yield f"bias_sum = _add_by_entry(bias_sum, ds, _entry({x.i}, {x.j}), {self._width})"

    def store_sums(self) -> Iterator[str]:
        """Lines that store the sums of a program."""
        if self.score.alibi:
            yield "tl.store(slope_sums + tl.program_id(0), tl.sum(slope_sum))"
        if self.score.bias is not None:
            yield f"column = tl.arange(0, {self._width})"
            yield f"sums = bias_sums + tl.program_id(0).to(tl.int64) * {self.score.table}"
            yield f"tl.store(sums + column, bias_sum, mask=column < {self.score.table})"


def _added(x: Pairs, sums: str, weights: str, tile: str) -> str:
    """A line that adds `weights` times the rows of a tile."""
    if x.lag is None:
        return f"{sums} = tl.dot({weights}.to({tile}.dtype), {tile}, {sums}, input_precision=PRECISION)"
    return f"{sums} += {weights}[:, None] * {tile}.to(tl.float32)"


def _signed(number: int) -> str:
    """`+ 3`, `- 3`."""
    return f"- {-number}" if number < 0 else f"+ {number}"
