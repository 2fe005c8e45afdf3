"""The kernels of generated programs: forward, dQ, dK and dV, and the sums for slopes and bias.

A pattern contributes device functions only, which stand before these in a program: which rows or keys a program owns
(`OWN`), and its walks, the loops over the tiles that those meet (`WALKS`). A kernel hands each walk what is done with
a tile (`DO`: how its tiles are loaded, and what happens to one), a walk hands it tiles. `triton_source` copies what a
program uses, text and all, without branches that no kernel of it takes; each function calls only such as stand before
it.

A tile of keys is `[keys, D]`, a tile of rows `[rows, D]`; D and V are the head dims of q/k and of v, `D_PAD` and
`V_PAD` the powers of two that hold them, and padded columns are zero. Rows and keys that a tile blanks are zero in
every operand, so they add zero to every gradient. Logarithms and exponentials are base 2: `scale2` is the softmax scale
times log2(e). A row that has met no key has `top = -inf` and `total = 0`.

Keys that nobody attends are blanked. NaN in a key that some row of a tile with a mask attends stays in that row in the
forward pass; in a value, and in the backward pass, it reaches the other rows of the tile, as in other fused kernels:
looking for it in every tile makes the loops 1.7 times as long, and they spill at head dimension 128.
"""

# mypy: ignore-errors
# ruff: noqa: SIM108 (the branches are chosen while compiling)
# pyright: basic, reportPossiblyUnboundVariable=false, reportInvalidTypeForm=false

from collections import namedtuple

import triton
import triton.language as tl

# What kernels are specialised for. By a row of the tables: which positions a program owns (tile t of TILE of a class
# mod STEP, which CLASS says where there is one; or what OWN says), the walks over what they meet, whether that is one
# key (row) each (LAGS), which keys and rows are attended (KEYS, ROWS; or CAREFUL: what the mask says), whether it is
# the call that lists what they meet (LISTS), and what happens to logits and weights. By a call: widths, the precision of products, the dtype of indices, whether every key and every
# row that exists is attended, whether tiles come through tensor descriptors, into how many parts walks are split (of
# how many tiles each; 0: alike), whether the last tile comes first, how many query heads share a tile of rows, whether
# warps have tasks of their own; whether there are sequences, all from position 0 on (FROM_0), and where their keys lie
# ("slots", with a PERIOD, or "pages" of so many keys; see `pidsl.runtime.call.segments`).
STAGE = {"WALKS": (), "TILE": 0, "STEP": 1, "CLASS": None, "OWN": None, "LAGS": False, "KEYS": None, "ROWS": None,
         "CAREFUL": False, "LISTS": False, "SCORE": None, "SOFTPLUS": False, "DROPOUT": None, "ENTRY": None, "TABLE": 0,
         "WIDTH": 0}  # fmt: skip
CALL = {"D": 0, "D_PAD": 0, "V": 0, "V_PAD": 0, "PRECISION": "ieee", "INDEX": tl.int32, "EVERY_KEY": False,
        "EVERY_ROW": False, "TMA": False, "SPLITS": 1, "PART": 0, "DESCENDING": False, "PACK": 1,
        "SPECIALIZED": False, "RAGGED": False, "FROM_0": False, "KEYS_AT": None, "PERIOD": 0, "PAGE": 0}  # fmt: skip
Kind = namedtuple("Kind", [*STAGE, *CALL], defaults=[*STAGE.values(), *CALL.values()])
# A walk: its LOOPS. Those of `_runs` ask SPAN for the class met, the BOUNDS of what each row (key) meets ("low",
# "high", "both" or "") and the loops over TILES ("full", "masked" or "both") of SIZE; positions are STEP apart. Where
# runs of tiles share a loop, FULL_TILE and TILE_OF say which tile is number x of it; REST is what else a mask asks.
WALK = {"LOOPS": None, "SPAN": None, "SIZE": 0, "STEP": 1, "BOUNDS": "", "TILES": "masked", "REST": None,
        "FULL_TILE": None, "TILE_OF": None}  # fmt: skip
Walk = namedtuple("Walk", WALK, defaults=WALK.values())

# Not worth a kernel each; `group` is: where it is 1 there is no loop over heads.
NUMBERS = ["n", "m", "offset", "key_offset", "heads", "seed", "tiles", "classes", "pairs", "first_tile", "first_pair",
           "own_first", "own_rows", "target_first", "target_rows", "prefix", "each", "sequences", "entries", "column",
           "size", "beside", "moved", "end", "list_rows", "list_group"]  # fmt: skip


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
def _which(x, listed, tiles, classes, heads, KIND: tl.constexpr):
    """The tile, class, and pair of batch entry (or sequence) and head that a program has.

    Where tiles are `listed`, see `list_tiles`, `tiles` are all of a head, and those behind the last one are -1.
    """
    if listed is not None:
        at = listed + x % tiles * 4
        return tl.load(at), tl.load(at + 1), tl.maximum(tl.load(at + 2), 0) * heads + x // tiles
    else:
        tile = x % tiles
        if KIND.DESCENDING:
            tile = tiles - 1 - tile
        return tile, x // tiles % classes, x // tiles // classes


@triton.jit
def _program(listed, tiles, classes, first_tile, heads, KIND: tl.constexpr):
    """Which part of a split walk, which tile, class, and pair of batch entry and head of those launched."""
    split, x = 0, tl.program_id(0)
    if KIND.SPLITS > 1:
        split, x = x % KIND.SPLITS, x // KIND.SPLITS
    tile, c, pair = _which(x, listed, tiles, classes, heads, KIND)
    return split, (first_tile + tile).to(KIND.INDEX), c.to(KIND.INDEX), pair


@triton.jit
def _place(pair, first_pair, heads, n, m, offset, key_offset, segments, KIND: tl.constexpr):
    """What a pair is: its batch entry or sequence, batch entry, head, and its number among what is written; its n, m,
    offset and key_offset; and its first row and key, of those of a batch entry."""
    number, head = (pair + first_pair) // heads, (pair + first_pair) % heads
    batch, own, row, key = number, pair, 0, 0
    if KIND.RAGGED:
        at = segments + number * 8
        batch, row, n = tl.load(at), tl.load(at + 1), tl.load(at + 2)
        key, m = tl.load(at + 4), tl.load(at + 5)
        if not KIND.FROM_0:  # loops whose bounds come from memory take a few instructions more
            offset, key_offset = tl.load(at + 3), tl.load(at + 6)
        own = batch * heads + head
    lengths = n.to(KIND.INDEX), m.to(KIND.INDEX), offset.to(KIND.INDEX), key_offset.to(KIND.INDEX)
    return number, batch, head, own, lengths, row, key


@triton.jit
def _nothing(t, c, length, KIND: tl.constexpr):
    """Whether a program has no rows (keys): behind the last one of a short class or sequence, and of those listed."""
    if KIND.OWN is None:
        return (t < 0) | (t * KIND.TILE * KIND.STEP + c >= length)
    else:
        return t < 0


@triton.jit
def _own(t, c, length, first, table, KIND: tl.constexpr):
    """The rows (keys) of tile t of class c, which of them exist, and what walks know them by."""
    if KIND.OWN is not None:
        return KIND.OWN(t, length, first, table, KIND)
    else:
        inside = tl.arange(0, KIND.TILE)
        if KIND.PACK > 1:
            inside %= KIND.TILE // KIND.PACK
        a = t * KIND.TILE + inside
        return a * KIND.STEP + c, a * KIND.STEP + c < length, a


@triton.jit
def _part(first, stop, split, KIND: tl.constexpr):
    """The part `split` of a loop."""
    if KIND.SPLITS > 1 and KIND.PART > 0:  # the last one has the rest
        first += split * KIND.PART
        stop = tl.where(split < KIND.SPLITS - 1, tl.minimum(stop, first + KIND.PART), stop)
    elif KIND.SPLITS > 1:
        steps = tl.maximum(stop - first, 0)
        first, stop = first + steps * split // KIND.SPLITS, first + steps * (split + 1) // KIND.SPLITS
    return first, stop


@triton.jit
def _lists(table, choices, segments, number, batch, heads, list_rows, list_group, KIND: tl.constexpr):
    """The lists of a batch entry, or of a sequence: the table of the entry, the entries of all, where those of the
    sequence begin, how many the entry has for each head that has some, and how many query heads share them."""
    begin = 0
    if KIND.RAGGED:
        begin = tl.load(segments + number * 8 + 7)
    return table + batch.to(tl.int64) * (heads // list_group) * list_rows * 3, choices, begin, list_rows, list_group


@triton.jit
def _list(lists, head, block, there, KIND: tl.constexpr):
    """The list of a block for a head, where the block is there: its entries, how many are full, and of all of them."""
    table, choices, begin, list_rows, list_group = lists
    if KIND.PACK > 1:
        head = tl.min(head, 0)  # of those that share a tile, which share lists
    there &= begin + block < list_rows
    at = table + ((head // list_group).to(tl.int64) * list_rows + begin + block) * 3
    first = tl.load(at, mask=there, other=0)
    full = tl.load(at + 1, mask=there, other=0).to(tl.int32)
    return choices + first, full, tl.load(at + 2, mask=there, other=0).to(tl.int32)


@triton.jit
def _between(low, high, KIND: tl.constexpr):
    """An interval of indices as its first one and how many follow, without a sign; an empty one holds none."""
    unsigned: tl.constexpr = tl.uint64 if KIND.INDEX == tl.int64 else tl.uint32
    return tl.where(high < low, -1, low), tl.maximum(high - low, 0).to(unsigned)


@triton.jit
def _within(x, low, width):
    """Whether indices lie in an interval, by one comparison."""
    return (x - low).to(width.dtype) <= width


@triton.jit
def _runs(WALK: tl.constexpr, DO: tl.constexpr, task, state, split, t, c, a, KIND: tl.constexpr):
    """Runs of tiles of one class: full ones, then those with a mask, between the bounds of each row (key)."""
    head, n, m, offset, key_offset = task[2]
    d, low, high, first_full, stop_full, first, stop = WALK.SPAN(t, c, a, head, n, m, offset, key_offset)
    source = DO[0](task, d, WALK, KIND)
    if WALK.TILES != "masked":
        first_full, stop_full = _part(first_full, stop_full, split, KIND)
        for x in tl.range(first_full, stop_full, warp_specialize=KIND.SPECIALIZED):
            tile = x
            if WALK.FULL_TILE is not None:
                tile = WALK.FULL_TILE(x, t, c, head, n, m, offset, key_offset)
            b = tile * WALK.SIZE + tl.arange(0, WALK.SIZE)
            state = DO[1](task, state, source, tile * WALK.SIZE, b * WALK.STEP + d, None, None, KIND)
    if WALK.TILES != "full":
        first, stop = _part(first, stop, split, KIND)
        if WALK.BOUNDS == "both":
            low, width = _between(low, high, KIND)
        for x in tl.range(first, stop, warp_specialize=KIND.SPECIALIZED):
            tile = x
            if WALK.TILE_OF is not None:
                tile = WALK.TILE_OF(x, t, c, head, n, m, offset, key_offset)
            b = tile * WALK.SIZE + tl.arange(0, WALK.SIZE)
            keep = None
            if WALK.BOUNDS == "both":
                keep = _within(b[None, :], low[:, None], width[:, None])
            elif WALK.BOUNDS == "high":
                keep = b[None, :] <= high[:, None]
            elif WALK.BOUNDS == "low":
                keep = b[None, :] >= low[:, None]
            if WALK.REST is not None:
                rest = WALK.REST(a[:, None], b[None, :], c, d, head, n, m, offset, key_offset)
                if WALK.BOUNDS == "":
                    keep = rest
                else:
                    keep &= rest
            j = b * WALK.STEP + d
            state = DO[1](task, state, source, tile * WALK.SIZE, j, j < task[1], keep, KIND)
    return state


@triton.jit
def _meet(DO: tl.constexpr, task, state, split, t, c, a, KIND: tl.constexpr):
    """All walks of a program, one after the other."""
    for x in tl.static_range(len(KIND.WALKS)):
        state = KIND.WALKS[x].LOOPS(KIND.WALKS[x], DO, task, state, split, t, c, a, KIND)
    return state


@triton.jit
def _rows(exists, r, place, KIND: tl.constexpr):
    """Which of the rows that exist attend some key."""
    if KIND.ROWS is not None and not KIND.EVERY_ROW:
        head, n, m, offset, key_offset = place
        exists = (exists & KIND.ROWS(r, head, n, m, offset, key_offset)) != 0
    return exists


@triton.jit
def _matrix(base, batch, head, batch_stride, head_stride, row, row_stride, KIND: tl.constexpr):
    """Where the matrix of one head of one batch entry begins, or that of a sequence; always in 64 bits."""
    base += batch.to(tl.int64) * batch_stride + head.to(tl.int64) * head_stride
    if KIND.RAGGED:
        base += row.to(tl.int64) * row_stride
    return base


@triton.jit
def _load(matrix, index, live, row_stride, column_stride, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """Rows `index` of a matrix, zeros where not `live`: what lies there is not read; None: all of them."""
    column = tl.arange(0, PAD)
    at = matrix + index[:, None] * row_stride + column[None, :].to(index.dtype) * column_stride
    if WIDTH < PAD:
        inside = column[None, :] < WIDTH if live is None else live[:, None] & (column[None, :] < WIDTH)
        return tl.load(at, mask=inside, other=0.0)
    elif live is None:
        return tl.load(at)
    else:
        return tl.load(at, mask=live[:, None], other=0.0)


@triton.jit
def _store(matrix, row, ok, tile, WIDTH: tl.constexpr, PAD: tl.constexpr):
    """Write the rows `row` of a contiguous matrix where `ok`."""
    column = tl.arange(0, PAD)
    inside = ok[:, None]
    if WIDTH < PAD:
        inside &= column[None, :] < WIDTH
    tl.store(matrix + row[:, None] * WIDTH + column[None, :], tile.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def _tiles(task, d, WALK: tl.constexpr, KIND: tl.constexpr):
    """How tiles of class d are loaded: through tensor descriptors, which end where the class does, or by index."""
    if KIND.TMA:
        left, right, left_r, _, right_r, _ = task[0]
        rows = tl.maximum(tl.cdiv(task[1] - d, WALK.STEP), 1).to(tl.int32)
        strides = WALK.STEP * left_r.to(tl.int64), WALK.STEP * right_r.to(tl.int64)
        return (
            tl.make_tensor_descriptor(left + d * left_r, [rows, KIND.D], [strides[0], 1], [WALK.SIZE, KIND.D_PAD]),
            tl.make_tensor_descriptor(right + d * right_r, [rows, KIND.V], [strides[1], 1], [WALK.SIZE, KIND.V_PAD]),
        )
    else:
        return 0, 0


@triton.jit
def _pair(task, source, at, index, live, KIND: tl.constexpr):
    """A tile of keys and their values, or of queries and their gradients."""
    left, right, left_r, left_d, right_r, right_d = task[0]
    if KIND.TMA and at is not None:
        return source[0].load([at.to(tl.int32), 0]), source[1].load([at.to(tl.int32), 0])
    else:
        x = _load(left, index, live, left_r, left_d, KIND.D, KIND.D_PAD)
        return x, _load(right, index, live, right_r, right_d, KIND.V, KIND.V_PAD)


@triton.jit
def _found(places, p, live, KIND: tl.constexpr):
    """Where the keys at positions p lie: their rows of k and v, which of them are there, and how far on in k and v."""
    table, held, prefix, k_b, v_b = places
    if KIND.KEYS_AT == "slots":
        x = tl.maximum(p - prefix, 0)
        entry = table + x % KIND.PERIOD * 4
        base, many = tl.load(entry), tl.load(entry + 1)
        rank, size = tl.load(entry + 2), tl.load(entry + 3)
        slot = tl.where(p < prefix, p, base + (x // KIND.PERIOD * many + rank) % tl.maximum(size, 1))
        there = (p < prefix) | (size > 0)
        if live is not None:
            there &= live
        there &= tl.load(held + slot, mask=there, other=-1) == p
        return slot, there, 0, 0
    else:
        if live is None:
            page = tl.load(table + p // KIND.PAGE)
        else:
            page = tl.load(table + p // KIND.PAGE, mask=live, other=-1)
        return p % KIND.PAGE, page >= 0, (page.to(tl.int64) * k_b)[:, None], (page.to(tl.int64) * v_b)[:, None]


@triton.jit
def _keys(task, source, at, j, inside, keep, KIND: tl.constexpr):
    """Keys and their values; those are blanked that no row attends. Without a mask all of them are there."""
    live = inside
    if keep is not None:
        if KIND.CAREFUL:
            live = inside & (tl.max((keep & task[4][:, None]).to(tl.int32), 0) != 0)
        elif KIND.KEYS is not None and not KIND.EVERY_KEY:
            head, n, m, offset, key_offset = task[2]
            live = (inside & KIND.KEYS(j, head, head, n, m, offset, key_offset)) != 0
    if KIND.KEYS_AT is None:
        return _pair(task, source, at, j, live, KIND)
    else:
        left, right, left_r, left_d, right_r, right_d = task[0]
        j, live, left_on, right_on = _found(task[5], j + task[2][4], live, KIND)
        task = (left + left_on, right + right_on, left_r, left_d, right_r, right_d), 0
        return _pair(task, source, at, j, live, KIND)


@triton.jit
def _softcap(logits, cap):
    """cap * tanh(logits / cap), and its derivative by the logits."""
    t = 1.0 - 2.0 / (tl.exp2(logits * (2.885390081777927 / cap)) + 1.0)  # 2 log2(e)
    return cap * t, 1.0 - t * t


@triton.jit
def _softplus(logits):
    """softplus(s) of s = logits * ln(2) as 2^low * rest, and the derivative of that as 2^low * rate.

    With t = e^-|s|: low = min(logits, 0) and rest = ln(1 + t) / t, or s + ln(1 + t) above 0; rate = 1 / (1 + t).
    Nothing overflows, and nothing is lost where softplus(s) is e^s. The polynomial is ln(1 + t) / t within 3e-7.
    """
    t = tl.exp2(-tl.abs(logits))
    rest = 0.178472057 + t * (-0.109022871 + t * (0.0449866094 - t * 0.00877894554))
    rest = 1.0 + t * (-0.499981791 + t * (0.332840651 + t * (-0.245368659 + t * rest)))
    rest = tl.where(logits > 0.0, logits * 0.6931471805599453 + t * rest, rest)
    return tl.minimum(logits, 0.0), rest, 1.0 / (1.0 + t)


@triton.jit
def _mix(x):
    """32 well-mixed bits from 32: lowbias32, as in pidsl.runtime.call.dropout."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _of_head(slopes, bias, temperature, seed, scale, batch, head, heads, KIND: tl.constexpr):
    """What happens to the logits of a head: scale (base 2), temperature, slope, table of lags, stream of bits."""
    heat, slope, by_lag, stream = 1.0, 0.0, 0, 0
    if temperature is not None:
        heat = tl.load(temperature + head)
        scale /= heat
    if slopes is not None:
        slope = tl.load(slopes + head) * 1.4426950408889634
    if bias is not None:
        by_lag = bias + head.to(tl.int64) * KIND.TABLE
    if seed is not None:
        stream = _mix(seed.to(tl.uint32) + (batch * heads + head + 1).to(tl.uint32) * 0x9E3779B9)
    scale2 = scale * 1.4426950408889634
    if KIND.SCORE is None:
        scale2 = tl.maximum(scale2, 1e-30)  # above 0 so that -inf stays -inf
    return scale2, heat, slope, by_lag, stream


@triton.jit
def _absorb(task, state, source, at, j, inside, keep, KIND: tl.constexpr):
    """Online softmax over one more tile of keys, of the pairs in `keep`; or, for lags, over one key per row."""
    acc, top, total = state
    query, i, score = task[3]
    scale2, _, slope, by_lag, stream = score
    key, value = _keys(task, source, at, j, inside, keep, KIND)
    j += task[2][4]
    if KIND.LAGS:
        logits, keep = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1), inside
    else:
        logits, i, j = tl.dot(query, tl.trans(key), input_precision=KIND.PRECISION), i[:, None], j[None, :]
    if KIND.SCORE is not None:
        logits = KIND.SCORE(logits * scale2, i, j, slope, by_lag)[0]
        scale2 = 1.0
    if keep is not None:
        logits = tl.where(keep, logits, -float("inf"))
    if KIND.SOFTPLUS:
        logits, rest, _ = _softplus(logits)
    if KIND.LAGS:
        highest = logits
    else:
        highest = tl.max(logits, 1)
    if KIND.SOFTPLUS and KIND.LAGS:
        highest += tl.log2(rest)
    elif KIND.SOFTPLUS:
        highest += tl.log2(tl.max(rest, 1))
    new_top = tl.maximum(top, highest * scale2)
    base = new_top
    if keep is not None or KIND.SCORE is not None:
        base = tl.where(new_top == -float("inf"), 0.0, new_top)  # -inf - -inf is NaN
    fade = tl.exp2(top - base)
    if KIND.LAGS:
        p = tl.exp2(logits * scale2 - base)
    else:
        p = tl.exp2(logits * scale2 - base[:, None])
    if KIND.SOFTPLUS:
        p *= rest
    if KIND.LAGS:
        total = total * fade + p
    else:
        total = total * fade + tl.sum(p, 1)
    if KIND.DROPOUT is not None:
        p *= KIND.DROPOUT(stream, i, j)
    if KIND.LAGS:
        acc = acc * fade[:, None] + p[:, None] * value.to(tl.float32)
    else:
        acc = tl.dot(p.to(value.dtype), value, acc * fade[:, None], input_precision=KIND.PRECISION)
    return acc, new_top, total


@triton.jit
def _weights(x, lse2, keep, i, j, score, KIND: tl.constexpr):
    """The weights of pairs and their derivative by the logit, their factors by dropout, and the derivative of the logit
    by that before the score."""
    scale2, _, slope, by_lag, stream = score
    logits, rate, drop = x * scale2, 1.0, 1.0
    if KIND.SCORE is not None:
        logits, rate = KIND.SCORE(logits, i, j, slope, by_lag)
    if KIND.SOFTPLUS:
        if keep is not None:
            logits = tl.where(keep, logits, 0.0)
        logits, rest, bend = _softplus(logits)
    p = tl.exp2(logits - lse2)
    if keep is not None:
        p = tl.where(keep, p, 0.0)
    bent = p
    if KIND.SOFTPLUS:
        p, bent = p * rest, p * bend
    if KIND.DROPOUT is not None:
        drop = KIND.DROPOUT(stream, i, j)
    return p, bent, drop, rate


@triton.jit
def _slopes(bent, drop, rate, dp, pull, keep, KIND: tl.constexpr):
    """ds = bent * (dO . V - pull) of the logits after the score, and of those before."""
    if KIND.DROPOUT is not None:
        dp *= drop
    ds = bent * (dp - pull)
    if KIND.LAGS or (KIND.CAREFUL and keep is not None):  # what is not attended may be NaN
        ds, rate = tl.where(keep, ds, 0.0), tl.where(keep, rate, 0.0)
    if KIND.SCORE is not None:
        return ds, ds * rate
    else:
        return ds, ds


@triton.jit
def _row_slopes(task, source, at, j, inside, keep, KIND: tl.constexpr):
    """ds of a tile of keys, of the logits after the score and before; their positions, and the keys."""
    query, i, score = task[3]
    grad, lse2, pull = task[5]
    key, value = _keys(task, source, at, j, inside, keep, KIND)
    j += task[2][4]
    if KIND.LAGS:
        x = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1)
        dp = tl.sum(grad.to(tl.float32) * value.to(tl.float32), 1)
        _, bent, drop, rate = _weights(x, lse2, inside, i, j, score, KIND)
        final, ds = _slopes(bent, drop, rate, dp, pull, inside, KIND)
    else:
        i, j = i[:, None], j[None, :]
        x = tl.dot(query, tl.trans(key), input_precision=KIND.PRECISION)
        _, bent, drop, rate = _weights(x, lse2[:, None], keep, i, j, score, KIND)
        dp = tl.dot(grad, tl.trans(value), input_precision=KIND.PRECISION)
        final, ds = _slopes(bent, drop, rate, dp, pull[:, None], keep, KIND)
    return final, ds, i, j, key


@triton.jit
def _add_query_grad(task, state, source, at, j, inside, keep, KIND: tl.constexpr):
    """What a tile of keys adds to dQ."""
    _, ds, _, _, key = _row_slopes(task, source, at, j, inside, keep, KIND)
    if KIND.LAGS:
        return state + ds[:, None] * key.to(tl.float32)
    else:
        return tl.dot(ds.to(key.dtype), key, state, input_precision=KIND.PRECISION)


@triton.jit
def _add_by_entry(sums, ds, entry, KIND: tl.constexpr):
    """sums[x] plus the ds of the pairs whose entry is x, one entry after the other: slow, and always in one order."""
    column = tl.arange(0, KIND.WIDTH)
    for x in range(tl.min(entry), tl.max(entry) + 1):
        sums += tl.where(column == x, tl.sum(tl.where(entry == x, ds, 0.0)), 0.0)
    return sums


@triton.jit
def _add_score_grads(task, state, source, at, j, inside, keep, KIND: tl.constexpr):
    """What a tile of keys adds to the sums for slopes and bias."""
    slope_sum, bias_sum = state
    final, _, i, j, _ = _row_slopes(task, source, at, j, inside, keep, KIND)
    away = final * tl.abs(i - j).to(tl.float32)
    if KIND.LAGS:
        slope_sum -= away
    else:
        slope_sum -= tl.sum(away, 1)
    if KIND.ENTRY is not None:
        bias_sum = _add_by_entry(bias_sum, final, KIND.ENTRY(i, j), KIND)
    return slope_sum, bias_sum


@triton.jit
def _add_key_grads(task, state, source, at, r, inside, keep, KIND: tl.constexpr):
    """What a tile of rows adds to dK and dV."""
    grad_k, grad_v = state
    key, value, j, score = task[3]
    lse2, pull = task[5]
    live = inside
    if inside is None:
        live = r < task[1]
    if not KIND.LAGS:
        live = _rows(live, r, task[2], KIND)
    query, grad = _pair(task, source, at, r, live, KIND)
    unseen: tl.constexpr = 0.0 if KIND.SCORE is None else float("inf")  # weights are 0 whatever a score adds
    row_lse2 = tl.load(lse2 + r, mask=live, other=unseen)
    row_pull = tl.load(pull + r, mask=live, other=0.0)
    i = r + task[2][3]
    if KIND.LAGS:
        x = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1)
        dp = tl.sum(grad.to(tl.float32) * value.to(tl.float32), 1)
        p, bent, drop, rate = _weights(x, row_lse2, live, i, j, score, KIND)
        ds = _slopes(bent, drop, rate, dp, row_pull, live, KIND)[1]
        grad_v += (p * drop)[:, None] * grad.to(tl.float32)
    else:
        if KIND.CAREFUL and keep is not None and not KIND.LISTS:  # those ask for rows that are there
            keep = keep & live[None, :]
        x = tl.dot(key, tl.trans(query), input_precision=KIND.PRECISION)
        p, bent, drop, rate = _weights(x, row_lse2[None, :], keep, i[None, :], j[:, None], score, KIND)
        grad_v = tl.dot((p * drop).to(grad.dtype), grad, grad_v, input_precision=KIND.PRECISION)
        dp = tl.dot(value, tl.trans(grad), input_precision=KIND.PRECISION)
        ds = _slopes(bent, drop, rate, dp, row_pull[None, :], keep, KIND)[1]
    if KIND.SCORE is not None:
        ds /= score[1]
    if KIND.LAGS:
        return grad_k + ds[:, None] * query.to(tl.float32), grad_v
    else:
        return tl.dot(ds.to(query.dtype), query, grad_k, input_precision=KIND.PRECISION), grad_v


@triton.jit
def _finish(out, lse, row, ok, acc, top, total, KIND: tl.constexpr):
    """Write out = acc / total and the natural-log lse; a row without keys gets 0 and -inf."""
    total = tl.where(total == 0.0, 1.0, total)
    _store(out, row, ok, acc / total[:, None], KIND.V, KIND.V_PAD)
    tl.store(lse + row, (top + tl.log2(total)) * 0.6931471805599453, mask=ok)


@triton.jit
def _begin(running, lse, sinks, row, ok, head, TILE: tl.constexpr, KIND: tl.constexpr):
    """The softmax before the first key: from what earlier kernels left, as one key of weight 1 at logit lse; or from
    a sink, as one key of value 0."""
    acc = tl.zeros([TILE, KIND.V_PAD], tl.float32)
    top, total = tl.full([TILE], -float("inf"), tl.float32), tl.zeros([TILE], tl.float32)
    if running is not None:
        acc = _load(running, row, ok, KIND.V, 1, KIND.V, KIND.V_PAD).to(tl.float32)
        top = tl.load(lse + row, mask=ok, other=-float("inf")) * 1.4426950408889634
        total = tl.where(top == -float("inf"), 0.0, 1.0)
    elif sinks is not None:
        top = tl.zeros([TILE], tl.float32) + tl.load(sinks + head) * 1.4426950408889634
        total = tl.where(top == -float("inf"), 0.0, 1.0)
    return acc, top, total


@triton.jit(do_not_specialize=NUMBERS)
def forward(
    q, k, v, out, lse, running, table, slopes, sinks, bias, temperature, seed,
    segments, listed, choices, list_rows, list_group, key_table, held, prefix, each,
    scale, n, m, offset, key_offset, heads, group, tiles, classes, pairs, first_tile, first_pair, own_first, own_rows,
    q_b, q_h, q_r, q_d, k_b, k_h, k_r, k_d, v_b, v_h, v_r, v_d, KIND: tl.constexpr,
):  # fmt: skip
    """out and lse: a program owns a tile of rows and absorbs the keys that they meet."""
    of = heads
    if KIND.PACK > 1:
        of = heads // group
    split, t, c, pair = _program(listed, tiles, classes, first_tile, of, KIND)
    number, batch, head, own, lengths, first_row, first_key = _place(
        pair, first_pair, of, n, m, offset, key_offset, segments, KIND
    )
    n, m, offset, key_offset = lengths
    if KIND.CLASS is not None:
        c = KIND.CLASS(offset, key_offset)
    if (KIND.STEP > 1 or KIND.RAGGED) and _nothing(t, c, n, KIND):
        return
    if KIND.LISTS:
        table = _lists(table, choices, segments, number, batch, heads, list_rows, list_group, KIND)
    r, exists, a = _own(t, c, n, offset, table, KIND)
    if KIND.PACK > 1:  # the rows of all query heads of a key head
        key_head = head
        member = tl.arange(0, KIND.TILE) // (KIND.TILE // KIND.PACK)
        head, exists = key_head * group + member, exists & (member < group)
        row = ((split * pairs + own) * group + member).to(tl.int64) * own_rows - own_first + first_row + r
        queries = _matrix(q, batch, head, q_b, q_h, first_row, q_r, KIND)[:, None]
    else:
        key_head = head // group
        row = (split * pairs + own).to(tl.int64) * own_rows - own_first + first_row + r
        queries = _matrix(q, batch, head, q_b, q_h, first_row, q_r, KIND)
    place = head, n, m, offset, key_offset
    mine = _rows(exists, r, place, KIND)
    query = _load(queries, r, mine, q_r, q_d, KIND.D, KIND.D_PAD)
    score = _of_head(slopes, bias, temperature, seed, scale, number, head, heads, KIND)
    if KIND.KEYS_AT == "pages":  # a page has the stride of a batch entry
        left, right = k + key_head.to(tl.int64) * k_h, v + key_head.to(tl.int64) * v_h
    else:
        left = _matrix(k, batch, key_head, k_b, k_h, first_key, k_r, KIND)
        right = _matrix(v, batch, key_head, v_b, v_h, first_key, v_r, KIND)
    places = 0
    if KIND.KEYS_AT == "slots":
        places = key_table, held + batch.to(tl.int64) * each, prefix, 0, 0
    elif KIND.KEYS_AT == "pages":
        places = key_table + batch.to(tl.int64) * each, 0, 0, k_b, v_b
    keys = left, right, k_r, k_d, v_r, v_d
    rows = query, r + offset, score
    state = _begin(running, lse, sinks, row, exists, head, KIND.TILE, KIND)
    state = _meet((_tiles, _absorb), (keys, m, place, rows, exists, places), state, split, t, c, a, KIND)
    _finish(out, lse, row, exists, state[0], state[1], state[2], KIND)


@triton.jit(do_not_specialize=NUMBERS)
def grad_query(
    q, k, v, grad_out, lse2, pull, grad_q, running, table, slopes, bias, temperature, seed, slope_sums, bias_sums,
    segments, listed, choices, list_rows, list_group,
    scale, n, m, offset, key_offset, heads, group, tiles, classes, pairs, first_tile, first_pair, own_first, own_rows,
    q_b, q_h, q_r, q_d, k_b, k_h, k_r, k_d, v_b, v_h, v_r, v_d, go_b, go_h, go_r, go_d, KIND: tl.constexpr,
):  # fmt: skip
    """dQ, or where that is None the sums for slopes and bias: a program owns a tile of rows and meets keys."""
    split, t, c, pair = _program(listed, tiles, classes, first_tile, heads, KIND)
    all_rows = n
    number, batch, head, own, lengths, first_row, first_key = _place(
        pair, first_pair, heads, n, m, offset, key_offset, segments, KIND
    )
    n, m, offset, key_offset = lengths
    if KIND.CLASS is not None:
        c = KIND.CLASS(offset, key_offset)
    if (KIND.STEP > 1 or KIND.RAGGED) and _nothing(t, c, n, KIND):
        return
    if KIND.LISTS:
        table = _lists(table, choices, segments, number, batch, heads, list_rows, list_group, KIND)
    r, exists, a = _own(t, c, n, offset, table, KIND)
    place = head, n, m, offset, key_offset
    mine = _rows(exists, r, place, KIND)
    query = _load(_matrix(q, batch, head, q_b, q_h, first_row, q_r, KIND), r, mine, q_r, q_d, KIND.D, KIND.D_PAD)
    grads = _matrix(grad_out, batch, head, go_b, go_h, first_row, go_r, KIND)
    grad = _load(grads, r, mine, go_r, go_d, KIND.V, KIND.V_PAD)
    at = (batch * heads + head).to(tl.int64) * all_rows + first_row + r
    grads = grad, tl.load(lse2 + at, mask=mine, other=float("inf")), tl.load(pull + at, mask=mine, other=0.0)
    score = _of_head(slopes, bias, temperature, seed, scale, number, head, heads, KIND)
    left = _matrix(k, batch, head // group, k_b, k_h, first_key, k_r, KIND)
    right = _matrix(v, batch, head // group, v_b, v_h, first_key, v_r, KIND)
    keys = left, right, k_r, k_d, v_r, v_d
    rows = query, r + offset, score
    if grad_q is None:
        sums = tl.zeros([KIND.TILE], tl.float32), tl.zeros([KIND.WIDTH], tl.float32)
        sums = _meet((_tiles, _add_score_grads), (keys, m, place, rows, exists, grads), sums, split, t, c, a, KIND)
        if slopes is not None:
            tl.store(slope_sums + tl.program_id(0), tl.sum(sums[0]))
        if bias is not None:
            column = tl.arange(0, KIND.WIDTH)
            program = bias_sums + tl.program_id(0).to(tl.int64) * KIND.TABLE
            tl.store(program + column, sums[1], mask=column < KIND.TABLE)
    else:
        state = tl.zeros([KIND.TILE, KIND.D_PAD], tl.float32)
        state = _meet((_tiles, _add_query_grad), (keys, m, place, rows, exists, grads), state, split, t, c, a, KIND)
        state *= scale / score[1]
        row = (split * pairs + own).to(tl.int64) * own_rows - own_first + first_row + r
        if running is not None:
            state += _load(running, row, exists, KIND.D, 1, KIND.D, KIND.D_PAD)
        _store(grad_q, row, exists, state, KIND.D, KIND.D_PAD)


@triton.jit(do_not_specialize=NUMBERS)
def grad_key(
    q, k, v, grad_out, lse2, pull, grad_k, grad_v, running_k, running_v, table, slopes, bias, temperature, seed,
    segments, listed, choices, list_rows, list_group,
    scale, n, m, offset, key_offset, heads, group, tiles, classes, pairs, first_tile, first_pair, own_first, own_rows,
    q_b, q_h, q_r, q_d, k_b, k_h, k_r, k_d, v_b, v_h, v_r, v_d, go_b, go_h, go_r, go_d, KIND: tl.constexpr,
):  # fmt: skip
    """dK and dV: a program owns a tile of keys and meets the rows of all query heads of its group."""
    split, t, d, pair = _program(listed, tiles, classes, first_tile, heads // group, KIND)
    all_rows = n
    number, batch, key_head, own, lengths, first_row, first_key = _place(
        pair, first_pair, heads // group, n, m, offset, key_offset, segments, KIND
    )
    n, m, offset, key_offset = lengths
    if KIND.CLASS is not None:
        d = KIND.CLASS(offset, key_offset)
    if (KIND.STEP > 1 or KIND.RAGGED) and _nothing(t, d, m, KIND):
        return
    if KIND.LISTS:
        table = _lists(table, choices, segments, number, batch, heads, list_rows, list_group, KIND)
    j, exists, b = _own(t, d, m, key_offset, table, KIND)
    mine = exists
    if KIND.KEYS is not None and not KIND.EVERY_KEY:
        first_head = key_head * group
        of_group = KIND.KEYS(j, first_head, first_head + group - 1, n, m, offset, key_offset)
        mine = (exists & of_group) != 0
    left = _matrix(k, batch, key_head, k_b, k_h, first_key, k_r, KIND)
    right = _matrix(v, batch, key_head, v_b, v_h, first_key, v_r, KIND)
    key = _load(left, j, mine, k_r, k_d, KIND.D, KIND.D_PAD)
    value = _load(right, j, mine, v_r, v_d, KIND.V, KIND.V_PAD)
    key_0 = (split * pairs + own).to(tl.int64) * own_rows - own_first + first_key
    sum_v = tl.zeros([KIND.TILE, KIND.V_PAD], tl.float32)
    if running_v is not None:
        sum_v += _load(running_v + key_0 * KIND.V, j, exists, KIND.V, 1, KIND.V, KIND.V_PAD)
    state = tl.zeros([KIND.TILE, KIND.D_PAD], tl.float32), sum_v
    for member in tl.range(0, group, disable_licm=True):
        head = key_head * group + member
        score = _of_head(slopes, bias, temperature, seed, scale, number, head, heads, KIND)
        left = _matrix(q, batch, head, q_b, q_h, first_row, q_r, KIND)
        right = _matrix(grad_out, batch, head, go_b, go_h, first_row, go_r, KIND)
        row_0 = (batch * heads + head).to(tl.int64) * all_rows + first_row
        place, of_keys = (head, n, m, offset, key_offset), (key, value, j + key_offset, score)
        task = (left, right, q_r, q_d, go_r, go_d), n, place, of_keys, exists, (lse2 + row_0, pull + row_0)
        state = _meet((_tiles, _add_key_grads), task, state, split, t, d, b, KIND)
    sum_k, sum_v = state
    sum_k *= scale
    _store(grad_v + key_0 * KIND.V, j, exists, sum_v, KIND.V, KIND.V_PAD)
    if running_k is not None:  # not before: with both of them it is more than registers hold
        sum_k += _load(running_k + key_0 * KIND.D, j, exists, KIND.D, 1, KIND.D, KIND.D_PAD)
    _store(grad_k + key_0 * KIND.D, j, exists, sum_k, KIND.D, KIND.D_PAD)


@triton.jit
def _few(segments, listed, tiles, heads, length, column, KIND: tl.constexpr):
    """32 rows (keys): the number of their pair of batch entry and head, where that has them, and which there are."""
    t, _, pair = _which(tl.program_id(0), listed, tiles, 1, heads, KIND)
    x = t.to(tl.int64) * 32 + tl.arange(0, 32)
    if KIND.RAGGED:
        at = segments + pair // heads * 8
        first, length = tl.load(at + column), tl.load(at + column + 1)
        return tl.load(at) * heads + pair % heads, first + x, (x >= 0) & (x < length)
    else:
        return pair, x, x < length


@triton.jit(do_not_specialize=NUMBERS)
def row_statistics(
    out, grad_out, lse, grad_lse, lse2, pull, segments, listed, n, heads, tiles,
    out_b, out_h, out_r, out_d, go_b, go_h, go_r, go_d, KIND: tl.constexpr,
):  # fmt: skip
    """What the gradients need of each row: lse in base 2, and pull = rowsum(dO * O) - dlse; 32 rows of one head.

    Rows without keys get lse2 = +inf, which makes all their weights 0.
    """
    pair, r, ok = _few(segments, listed, tiles, heads, n, 1, KIND)
    batch, head, row, r = pair // heads, pair % heads, pair.to(tl.int64) * n + r, r.to(KIND.INDEX)
    results = out + batch.to(tl.int64) * out_b + head.to(tl.int64) * out_h
    grads = grad_out + batch.to(tl.int64) * go_b + head.to(tl.int64) * go_h
    o = _load(results, r, ok, out_r, out_d, KIND.V, KIND.V_PAD)
    grad = _load(grads, r, ok, go_r, go_d, KIND.V, KIND.V_PAD)
    sums = tl.sum(o.to(tl.float32) * grad.to(tl.float32), 1)
    if grad_lse is not None:
        sums -= tl.load(grad_lse + row, mask=ok, other=0.0)
    row_lse = tl.load(lse + row, mask=ok, other=0.0)
    keyless = row_lse == -float("inf")
    tl.store(lse2 + row, tl.where(keyless, float("inf"), row_lse * 1.4426950408889634), mask=ok)
    tl.store(pull + row, tl.where(keyless, 0.0, sums), mask=ok)


@triton.jit(do_not_specialize=NUMBERS)
def join(
    parts, part_lse, out, lse, running, sinks, segments, listed, pairs, heads, tiles, first_pair, own_rows,
    target_first, target_rows, KIND: tl.constexpr,
):  # fmt: skip
    """out and lse of a range of rows from the parts of a split walk and what earlier kernels left; 32 rows."""
    own, x, ok = _few(segments, listed, tiles, heads, own_rows, 1, KIND)
    ok &= target_first + x < target_rows
    row = own.to(tl.int64) * target_rows + target_first + x
    acc, top, total = _begin(running, lse, sinks, row, ok, (own + first_pair) % heads, 32, KIND)
    for split in range(KIND.SPLITS):
        at = (split * pairs + own).to(tl.int64) * own_rows + x
        part_top = tl.load(part_lse + at, mask=ok, other=-float("inf")) * 1.4426950408889634
        new_top = tl.maximum(top, part_top)
        base = tl.where(new_top == -float("inf"), 0.0, new_top)
        fade, weight = tl.exp2(top - base), tl.exp2(part_top - base)
        acc = acc * fade[:, None] + _load(parts, at, ok, KIND.V, 1, KIND.V, KIND.V_PAD) * weight[:, None]
        top, total = new_top, total * fade + weight
    _finish(out, lse, row, ok, acc, top, total, KIND)


@triton.jit(do_not_specialize=NUMBERS)
def add_parts(
    parts, grad, running, segments, listed, pairs, heads, tiles, own_rows, target_first, target_rows, column,
    WIDTH: tl.constexpr, PAD: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """A gradient of a range of rows from the parts of a split walk, in their order; 32 rows."""
    own, x, ok = _few(segments, listed, tiles, heads, own_rows, column, KIND)
    ok &= target_first + x < target_rows
    row = own.to(tl.int64) * target_rows + target_first + x
    total = tl.zeros([32, PAD], tl.float32)
    if running is not None:
        total += _load(running, row, ok, WIDTH, 1, WIDTH, PAD).to(tl.float32)
    for split in range(KIND.SPLITS):
        total += _load(parts, (split * pairs + own).to(tl.int64) * own_rows + x, ok, WIDTH, 1, WIDTH, PAD)
    _store(grad, row, ok, total, WIDTH, PAD)


@triton.jit
def _counts(segments, e, there, classes, size, beside, end, moved, column):
    """Classes of sequences, and tiles of each of those: of `size` positions, with so many `beside` each other."""
    length = tl.load(segments + e * 8 + column, mask=there, other=0)
    first = tl.load(segments + e * 8 + column + 1, mask=there, other=0) * moved
    stop = tl.minimum(first + length, end)
    tiles = tl.maximum((stop + size - 1) // size - first // size, 0) * beside
    return tl.minimum(length, classes), tl.where(length > 0, tiles, 0)


@triton.jit(do_not_specialize=NUMBERS)
def list_tiles(
    segments, listed, sequences, classes, size, beside, end, moved, column, SORTED: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """The tiles of all sequences as rows (tile, class, sequence, 0) of a table: 64 tiles of one sequence.

    They stand in the order of their numbers (the LAST ones first), whichever sequence they are of; or, not SORTED,
    sequence after sequence.
    """
    own = tl.program_id(0) % sequences
    own_classes, own_tiles = _counts(segments, own, own < sequences, classes, size, beside, end, moved, column)
    if tl.program_id(0) // sequences * 64 >= own_tiles:
        return
    t = tl.program_id(0) // sequences * 64 + tl.arange(0, 64)
    before = tl.zeros([64], tl.int32)
    for first in range(0, sequences, 64):
        other = first + tl.arange(0, 64)
        of_class, tiles = _counts(segments, other, other < sequences, classes, size, beside, end, moved, column)
        if SORTED:
            over = tiles[None, :] > t[:, None]
            if LAST:
                sooner = tl.maximum(tiles[None, :] - 1 - t[:, None], 0)
            else:
                sooner = tl.minimum(tiles[None, :], t[:, None])
            sooner += (over & (other < own)[None, :]).to(tl.int32)
            before += tl.sum(sooner * of_class[None, :], 1)
        else:
            before += tl.sum(tl.where(other < own, of_class * tiles, 0))
    if not SORTED:
        before += tl.where(LAST, own_tiles - 1 - t, t) * own_classes
    for c in range(own_classes):
        at, ok = listed + (before + c) * 4, t < own_tiles
        tl.store(at, t, mask=ok)
        tl.store(at + 1, tl.zeros([64], tl.int32) + c, mask=ok)
        tl.store(at + 2, tl.zeros([64], tl.int32) + own, mask=ok)
