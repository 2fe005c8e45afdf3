"""The device functions that generated programs are made of.

`triton_source` copies the ones a program uses, text and all, into the program, which then stands on its own; each
calls only such as stand before it. A tile of keys is `[keys, D]`, a tile of rows `[rows, D]`; D and V are the head dims
of q/k and of v, `D_PAD` and `V_PAD` the powers of two that hold them, and padded columns are zero. Rows and keys that a
tile blanks are zero in every operand, so they add zero to every gradient. Logarithms and exponentials are base 2 here:
`scale2` is the softmax scale times log2(e). A row that has met no key has `top = -inf` and `total = 0`.

Keys that nobody attends are blanked. NaN in a key that some row of a tile with a mask attends stays in that row in the
forward pass; in a value, and in the backward pass, it reaches the other rows of the tile, as in other fused kernels:
looking for it in every tile makes the loops 1.7 times as long, and they spill at head dimension 128.
"""

# mypy: ignore-errors
# ruff: noqa: SIM108 (the branches are chosen while compiling)
# pyright: basic, reportPossiblyUnboundVariable=false, reportInvalidTypeForm=false

import triton
import triton.language as tl


@triton.jit
def _floor_div(x, y):
    """The floor of x / y for y > 0 (Triton's `//` rounds toward zero)."""
    quotient = x // y
    return quotient - (quotient * y > x).to(tl.int32)


@triton.jit
def _floor_mod(x, y):
    """x - y * floor(x / y) for y > 0 (Triton's `%` has the sign of x)."""
    rest = x % y
    return rest + (rest < 0).to(tl.int32) * y


@triton.jit
def _matrix(base, batch, head, batch_stride, head_stride):
    """Where the matrix of one head of one batch entry begins; always in 64 bits."""
    return base + batch.to(tl.int64) * batch_stride + head.to(tl.int64) * head_stride


@triton.jit
def _load(matrix, index, row_stride, column_stride, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """Whole rows `index` of a matrix, all of which exist."""
    column = tl.arange(0, PAD)
    at = matrix + index[:, None] * row_stride + column[None, :].to(index.dtype) * column_stride
    if WIDTH == PAD:
        tile = tl.load(at)
    else:
        tile = tl.load(at, mask=column[None, :] < WIDTH, other=0.0)
    return tile


@triton.jit
def _load_where(ok, matrix, index, row_stride, column_stride, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """Rows `index` of a matrix where `ok`, zeros elsewhere: what lies there is not read."""
    column = tl.arange(0, PAD)
    at = matrix + index[:, None] * row_stride + column[None, :].to(index.dtype) * column_stride
    if WIDTH == PAD:
        tile = tl.load(at, mask=ok[:, None], other=0.0)
    else:
        tile = tl.load(at, mask=ok[:, None] & (column[None, :] < WIDTH), other=0.0)
    return tile


@triton.jit
def _store_where(ok, matrix, index, tile, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """Write the rows `index` of a contiguous matrix where `ok`."""
    column = tl.arange(0, PAD)
    at = matrix + index[:, None] * WIDTH + column[None, :]
    if WIDTH == PAD:
        tl.store(at, tile.to(matrix.dtype.element_ty), mask=ok[:, None])
    else:
        tl.store(at, tile.to(matrix.dtype.element_ty), mask=ok[:, None] & (column[None, :] < WIDTH))


@triton.jit
def _met(keep, exists):
    """The keys of a tile `[rows, keys]` that some row attends."""
    return tl.max((keep & exists[:, None]).to(tl.int32), 0) != 0


@triton.jit
def _absorb(query, key, value, acc, top, total, scale2, PRECISION: tl.constexpr):
    """Online softmax over one more tile of keys, all of which every row attends."""
    logits = tl.dot(query, tl.trans(key), input_precision=PRECISION)
    new_top = tl.maximum(top, tl.max(logits, 1) * scale2)
    p = tl.exp2(logits * scale2 - new_top[:, None])
    fade = tl.exp2(top - new_top)
    acc = tl.dot(p.to(value.dtype), value, acc * fade[:, None], input_precision=PRECISION)
    return acc, new_top, total * fade + tl.sum(p, 1)


@triton.jit
def _absorb_where(keep, inside, query, key, value, acc, top, total, scale2, PRECISION: tl.constexpr):
    """Online softmax over one more tile of keys, of the pairs in `keep` with keys `inside`; top may be -inf."""
    dead = tl.where(inside, 0.0, -float("inf"))  # added with the scaling, so that it costs nothing per pair
    logits = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale2 + dead[None, :]
    logits = tl.where(keep, logits, -float("inf"))
    new_top = tl.maximum(top, tl.max(logits, 1))
    base = tl.where(new_top == -float("inf"), 0.0, new_top)  # -inf - -inf is NaN
    p = tl.exp2(logits - base[:, None])
    fade = tl.exp2(top - base)
    acc = tl.dot(p.to(value.dtype), value, acc * fade[:, None], input_precision=PRECISION)
    return acc, new_top, total * fade + tl.sum(p, 1)


@triton.jit
def _absorb_lag(ok, query, key, value, acc, top, total, scale2):
    """Online softmax over one more key per row: row x of `query` attends row x of `key` where `ok`."""
    logits = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1)
    logits = tl.where(ok, logits * scale2, -float("inf"))
    new_top = tl.maximum(top, logits)
    base = tl.where(new_top == -float("inf"), 0.0, new_top)
    p = tl.exp2(logits - base)
    fade = tl.exp2(top - base)
    return acc * fade[:, None] + p[:, None] * value.to(tl.float32), new_top, total * fade + p


@triton.jit
def _resume(ok, out, lse, index, V: tl.constexpr, V_PAD: tl.constexpr):
    """The state of the softmax from the (out, lse) that earlier kernels left: one key of weight 1 at logit lse."""
    top = tl.load(lse + index, mask=ok, other=-float("inf")) * 1.4426950408889634
    total = tl.where(top == -float("inf"), 0.0, 1.0)
    return _load_where(ok, out, index, V, 1, V, V_PAD).to(tl.float32), top, total


@triton.jit
def _finish(ok, out, lse, index, acc, top, total, V: tl.constexpr, V_PAD: tl.constexpr):
    """Write out = acc / total and the natural-log lse; a row without keys gets 0 and -inf."""
    total = tl.where(total == 0.0, 1.0, total)
    _store_where(ok, out, index, acc / total[:, None], V, V_PAD)
    tl.store(lse + index, (top + tl.log2(total)) * 0.6931471805599453, mask=ok)


@triton.jit
def _weights(query, key, lse2, scale2, PRECISION: tl.constexpr):
    """The softmax weights [rows, keys] of a tile, recomputed from the final lse."""
    return tl.exp2(tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale2 - lse2[:, None])


@triton.jit
def _add_query_grad(p, key, value, grad_out, pull, grad, PRECISION: tl.constexpr):
    """dQ of one tile: with ds = p * (dO V^T - pull), grad + ds K."""
    ds = p * (tl.dot(grad_out, tl.trans(value), input_precision=PRECISION) - pull[:, None])
    return tl.dot(ds.to(key.dtype), key, grad, input_precision=PRECISION)


@triton.jit
def _weights_t(query, key, lse2, scale2, PRECISION: tl.constexpr):
    """The softmax weights of a tile, transposed: [keys, rows]."""
    return tl.exp2(tl.dot(key, tl.trans(query), input_precision=PRECISION) * scale2 - lse2[None, :])


@triton.jit
def _add_key_grads(p_t, query, value, grad_out, pull, grad_k, grad_v, PRECISION: tl.constexpr):
    """dK and dV of one tile from its transposed weights: grad_k + ds^T Q and grad_v + p^T dO."""
    grad_v = tl.dot(p_t.to(grad_out.dtype), grad_out, grad_v, input_precision=PRECISION)
    ds_t = p_t * (tl.dot(value, tl.trans(grad_out), input_precision=PRECISION) - pull[None, :])
    return tl.dot(ds_t.to(query.dtype), query, grad_k, input_precision=PRECISION), grad_v


@triton.jit
def _add_key_grads_of(p_t, query, value, grad_out, pull, grad_k, grad_v, PRECISION: tl.constexpr):
    """`_add_key_grads` where keys without weight may be NaN."""
    grad_v = tl.dot(p_t.to(grad_out.dtype), grad_out, grad_v, input_precision=PRECISION)
    ds_t = p_t * (tl.dot(value, tl.trans(grad_out), input_precision=PRECISION) - pull[None, :])
    ds_t = tl.where(p_t == 0.0, 0.0, ds_t)
    return tl.dot(ds_t.to(query.dtype), query, grad_k, input_precision=PRECISION), grad_v


@triton.jit
def _lag_slopes(ok, query, key, value, grad_out, lse2, pull, scale2):
    """p and ds = p * (dO . V - pull) of pairs (row x of `query`, row x of `key`)."""
    p = tl.exp2(tl.sum(query.to(tl.float32) * key.to(tl.float32), 1) * scale2 - lse2)
    p = tl.where(ok, p, 0.0)
    slopes = tl.sum(grad_out.to(tl.float32) * value.to(tl.float32), 1) - pull
    return p, tl.where(ok, p * slopes, 0.0)  # what is not attended may be NaN


@triton.jit
def _softcap(logits, cap):
    """cap * tanh(logits / cap), and its derivative by the logits."""
    t = 1.0 - 2.0 / (tl.exp2(logits * (2.885390081777927 / cap)) + 1.0)  # 2 log2(e)
    return cap * t, 1.0 - t * t


@triton.jit
def _softmax_step(highest, top):
    """With further keys, of these highest logits: what is taken off logits, how earlier weights fade, the maximum."""
    new_top = tl.maximum(top, highest)
    base = tl.where(new_top == -float("inf"), 0.0, new_top)  # -inf - -inf is NaN
    return base, tl.exp2(top - base), new_top


@triton.jit
def _mix(x):
    """32 well-mixed bits from 32: lowbias32, as in pidsl.runtime.call.dropout."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _stream(seed, head):
    """The bits that the pairs of one head of one batch entry start from."""
    return _mix(seed.to(tl.uint32) + (head + 1).to(tl.uint32) * 0x9E3779B9)


@triton.jit
def _add_by_entry(sums, ds, entry, WIDTH: tl.constexpr):
    """sums[x] plus the ds of the pairs whose entry is x, one entry after the other: slow, and always in one order."""
    column = tl.arange(0, WIDTH)
    for x in range(tl.min(entry), tl.max(entry) + 1):
        sums += tl.where(column == x, tl.sum(tl.where(entry == x, ds, 0.0)), 0.0)
    return sums


@triton.jit(do_not_specialize=["n", "heads"])
def row_statistics(
    out, grad_out, lse, grad_lse, lse2, pull, n, heads,
    out_b, out_h, out_r, out_d, go_b, go_h, go_r, go_d,
    V: tl.constexpr, V_PAD: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """What the gradients need of each row: lse in base 2, and pull = rowsum(dO * O) - dlse; 32 rows of one head.

    Rows without keys get lse2 = +inf, which makes all their weights 0.
    """
    tiles = tl.cdiv(n, 32)
    program = tl.program_id(0)
    head = program // tiles % heads
    batch = program // tiles // heads
    r = (program % tiles).to(INDEX) * 32 + tl.arange(0, 32)
    ok = r < n
    row = (batch * heads + head).to(tl.int64) * n + r
    o = _load_where(ok, _matrix(out, batch, head, out_b, out_h), r, out_r, out_d, V, V_PAD)
    grad = _load_where(ok, _matrix(grad_out, batch, head, go_b, go_h), r, go_r, go_d, V, V_PAD)
    sums = tl.sum(o.to(tl.float32) * grad.to(tl.float32), 1)
    if grad_lse is not None:
        sums -= tl.load(grad_lse + row, mask=ok, other=0.0)
    row_lse = tl.load(lse + row, mask=ok, other=0.0)
    keyless = row_lse == -float("inf")
    tl.store(lse2 + row, tl.where(keyless, float("inf"), row_lse * 1.4426950408889634), mask=ok)
    tl.store(pull + row, tl.where(keyless, 0.0, sums), mask=ok)
