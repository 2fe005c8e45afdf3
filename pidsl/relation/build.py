"""A term as an exact isl relation, parametric in the numbers of queries and keys.

`unclipped(term)` is `[n, m] -> { [i] -> [j] : ... }` over all integers; `relation(term)` keeps existing positions,
`rows_relation(term)` renames query positions to rows of q: `[n, m, offset] -> { [r] -> [j] }` with i = r + offset,
and key positions to rows of k where keys start at an offset too (see `frame`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, reduce
from typing import Any, assert_never, cast

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.language.expr import FloorDiv, Mod, evaluate
from pidsl.language.expr import walk as walk_expr
from pidsl.language.terms import (
    Blocked,
    Blocks,
    Causal,
    Chosen,
    Complement,
    Compose,
    Difference,
    Dilated,
    Documents,
    Empty,
    Full,
    Halo,
    Intersection,
    Keys,
    Lags,
    Neighborhood,
    Node,
    Pairs,
    Power,
    Queries,
    Ring,
    Shift,
    Stride,
    SymmetricDifference,
    Term,
    Transpose,
    Union,
    Where,
    Window,
    misplaced,
    require_concrete,
    walk,
    within,
)  # fmt: skip
from pidsl.language.trees import WIDE, Steps, extent, parts_of, run, width
from pidsl.relation.frame import HOME, Frame
from pidsl.relation.grids import grid_condition
from pidsl.relation.isl import MAX_OPERATIONS, coalesced, limited, read_map, read_set, region, scope
from pidsl.relation.runs import Runs, condition, merged, runs_within


def relation(term: Term) -> isl.Map:
    """`[n, m] -> { [i] -> [j] : 0 <= i < n and 0 <= j < m and ... }`; square only (n = m) for terms with a ring.

    Raises:
        SymbolError: the term holds unbound symbols.
        TooHardError: isl's operation limit struck.
    """
    require_concrete(term, "build the relation")
    found = _relation(term)
    if isinstance(found, TooHardError):
        raise TooHardError(found.given, found.expected, found.where, found.hint)
    return found


@lru_cache(maxsize=256)
def _relation(term: Term) -> isl.Map | TooHardError:
    """The relation, or why there is none: failing takes a second, so it is remembered too."""
    bounds = "0 <= i < n and 0 <= j < m" + (" and n = m" if needs_square(term) else "")
    try:
        with limited(f"the relation of {term!r}", MAX_OPERATIONS * patience_for(term)):
            return coalesced(unclipped(term) & read_map(f"[n, m] -> {{ [i] -> [j] : {bounds} }}"))
    except TooHardError as e:
        return e.with_traceback(None)


@lru_cache(maxsize=256)
def rows_relation(term: Term, frame: Frame = HOME) -> isl.Map:
    """`[n, m, offset] -> { [r] -> [j] : 0 <= r < n and 0 <= j < m and (r + offset, j) in the pattern }`.

    The pattern has n + offset query positions: an offset slices it. So does a key offset, in a frame that has one.
    """
    whole = relation(term)
    with limited(f"the relation of {term!r}"):
        rows = frame.map("[i] -> [r] : r = i - offset and 0 <= r < n")
        found = _lengthened(whole, "n", "[total, m, n, offset] -> { : total = n + offset and offset >= 0 and n >= 0 }")
        found = found.apply_domain(rows)
        if frame.moved:
            lengths = "[n, total, m, key_offset] -> { : total = m + key_offset and key_offset >= 0 and m >= 0 }"
            found = _lengthened(found, "m", lengths)
            found = found.apply_range(frame.map("[i] -> [j] : j = i - key_offset and 0 <= j < m"))
        return coalesced(found.align_params(frame.set(":").get_space()))


def _lengthened(m: isl.Map, length: str, lengths: str) -> isl.Map:
    """A relation with the `total` of others for one of its lengths."""
    parameter = isl.dim_type.param
    m = m.set_dim_name(parameter, m.find_dim_by_name(parameter, length), "total").intersect_params(read_set(lengths))
    return m.project_out(parameter, m.find_dim_by_name(parameter, "total"), 1)


def patience_for(term: Term) -> int:
    """How many times isl's usual limit a term is worth: once per hundred words, pairs and comparisons, if none divides.

    Parts without divisions are quickly compared, and a long list of them is no hard term. Parts with divisions are
    compared each with each: then it is once per eight parts of the longest union.
    """
    size, divides, longest = 1, False, 1
    for t in walk(term):
        match t:
            case Lags(values) | Pairs(values):
                size += len(values)
            case Where(pred, _):
                divides |= any(isinstance(e, FloorDiv | Mod) for e in walk_expr(pred))
                size += extent(pred)[1] // 4
            case Keys(_, _, step) | Queries(_, _, step):
                divides |= _int(step) > 1
                size += 1
            case Stride() | Blocks() | Ring() | Neighborhood() | Halo() | Compose() | Power() | Blocked() | Dilated():
                divides = True
            case Union():
                longest = max(longest, width(t))
                size += 1
            case _:
                size += 1
    return max(1, longest // 8 if divides else -(-size // 100))


def needs_square(term: Term) -> bool:
    """Whether the term has a meaning only for as many keys as query positions."""
    return any(isinstance(t, Ring) for t in walk(term))


def unclipped(term: Term) -> isl.Map:
    """The term over all integers i, j; of one confined to documents, what some documents allow."""
    pattern, confined = within(term)
    if confined:
        return _any_documents(unclipped(pattern), needs_square(pattern))
    return run(_unclipped(term, runs_within(term)))


def _any_documents(pattern: isl.Map, square: bool) -> isl.Map:
    """Pairs that a pattern has in some document s .. e - 1, which has the positions below n and the keys below m."""
    further = "i' = i + 1 and j' = j + 1"
    if not pattern.involves_dims(isl.dim_type.param, 0, 2) and pattern.is_equal(_at(pattern, further)):
        return pattern  # of lags alone
    bounds = "0 <= i < n and 0 <= j < m" + (" and n = m" if square else "")
    one = pattern & read_map(f"[n, m] -> {{ [i] -> [j] : {bounds} }}")
    ends = "0 <= s <= e and s <= n and s <= m and n' = min(e, n) - s and m' = min(e, m) - s"
    return _at(one, f"exists s, e: i' = i - s and j' = j - s and {ends}")


def _unclipped(term: Term, runs: Mapping[int, Runs]) -> Steps[isl.Map]:
    if id(term) in runs:
        return _any_of(map(condition, runs[id(term)]))
    node = cast(Node, term)
    match node:
        case Full():
            return _leaf("")
        case Empty():
            return _leaf("1 = 0")
        case Causal():
            return _leaf("j <= i")
        case Stride(period, phase):
            return _leaf(f"(i - j - {_int(phase)}) mod {_int(period)} = 0")
        case Window(left, right):
            return _leaf(f"-{_int(right)} <= i - j <= {_int(left)}")
        case Lags(values):
            return _any_of([f"i - j = {v}" for v in sorted({_int(v) for v in values})])
        case Ring(radius):
            r = _int(radius)
            near = f"(-{r} <= i - j <= {r} or i - j >= n - {r} or j - i >= n - {r})"
            return _leaf(f"0 <= i < n and 0 <= j < n and {near}")
        case Keys(start, stop, step):
            return _leaf(_sliced("j", "m", start, stop, step))
        case Queries(start, stop, step):
            return _leaf(_sliced("i", "n", start, stop, step))
        case Blocks(size):
            return _leaf(f"floor(i/{_int(size)}) = floor(j/{_int(size)})")
        case Where(pred, _):
            found = region(pred, scope("[n, m] -> { [i, j] }"))
            return coalesced(found.apply(read_map("[n, m] -> { [i, j] -> [[i] -> [j]] }")).unwrap())
        case Pairs(values):
            return _listed(values)
        case Neighborhood() | Halo():
            return coalesced(_leaf(grid_condition(node)))
        case Chosen(within=pairs):
            return (yield _unclipped(pairs, runs))
        case Documents():
            raise misplaced(term)
        case Union():
            return (yield _union(parts_of(Union, term), runs))
        case Intersection(a, b) if width(term) <= WIDE:
            return coalesced((yield _unclipped(a, runs)) & (yield _unclipped(b, runs)))
        case Intersection():
            # What is taken away is taken away at once: of a & ~b & ~c, the part of a that is outside b | c.
            parts = parts_of(Intersection, term)
            kept = [part for part in parts if not isinstance(part, Complement)]
            whole: isl.Map = (yield _all_of(kept, runs)) if kept else _leaf("")
            return (yield _without(whole, [part.of for part in parts if isinstance(part, Complement)], runs))
        case Difference():
            first: Term = term
            taken: list[Term] = []
            while isinstance(first, Difference):
                taken.append(first.right)
                first = first.left
            return (yield _without((yield _unclipped(first, runs)), taken[::-1], runs))
        case SymmetricDifference(a, b):
            x, y = (yield _unclipped(a, runs)), (yield _unclipped(b, runs))
            return coalesced((x - y) | (y - x))
        case Complement(a):
            return coalesced((yield _unclipped(a, runs)).complement())
        case Transpose(a):
            return _at((yield _unclipped(a, runs)), "i' = j and j' = i and n' = m and m' = n")
        case Compose(a, b):
            last = _to_tokens((yield _unclipped(a, runs)))
            return _compose(last, _between_tokens((yield _unclipped(b, runs))))
        case Power(a, layers):
            return _power((yield _unclipped(a, runs)), _int(layers)) if _int(layers) else _leaf("i = j")
        case Shift(a, by):
            return _at((yield _unclipped(a, runs)), f"i' = i and j' = j + {_int(by)} and n' = n and m' = m")
        case Blocked(a, size):
            s = _int(size)
            ceil = f"n' = floor((n + {s - 1})/{s}) and m' = floor((m + {s - 1})/{s})"
            return _at((yield _unclipped(a, runs)), f"i' = floor(i/{s}) and j' = floor(j/{s}) and {ceil}")
        case Dilated(a, step):
            s = _int(step)
            # class c = i mod s has the positions c, c + s, ...: ceil((n - c)/s) of them (none when n <= c)
            count = f"n' = floor((n - c + {s - 1})/{s}) and m' = floor((m - c + {s - 1})/{s})"
            same = f"i = {s} i' + c and j = {s} j' + c and 0 <= c < {s}"
            return _at((yield _unclipped(a, runs)), f"exists c: {same} and {count}")
        case _:
            assert_never(node)


def _union(terms: list[Term], runs: Mapping[int, Runs]) -> Steps[isl.Map]:
    """All terms together; of many, those of lags alone as one, and pairs as one."""
    found: list[isl.Map] = []
    if len(terms) > WIDE:
        if lags := [run for term in terms for run in runs.get(id(term), ())]:
            found.append(_any_of(map(condition, merged(lags))))
        if listed := sorted({pair for term in terms if isinstance(term, Pairs) for pair in term.values}):
            found.append(_listed(listed))
        terms = [term for term in terms if id(term) not in runs and not isinstance(term, Pairs)]
    for term in terms:
        found.append((yield _unclipped(term, runs)))
    return _together(found, lambda a, b: coalesced(a | b)) if found else _leaf("1 = 0")


def _all_of(terms: list[Term], runs: Mapping[int, Runs]) -> Steps[isl.Map]:
    found = []
    for term in terms:
        found.append((yield _unclipped(term, runs)))
    return _together(found, lambda a, b: coalesced(a & b))


def _without(found: isl.Map, taken: list[Term], runs: Mapping[int, Runs]) -> Steps[isl.Map]:
    """One after another; many at once."""
    if len(taken) > WIDE:
        return coalesced(found - (yield _union(taken, runs)))
    for term in taken:
        found = coalesced(found - (yield _unclipped(term, runs)))
    return found


def _together(found: list[isl.Map], both: Callable[[isl.Map, isl.Map], isl.Map]) -> isl.Map:
    """Of the first few one after another, as they are written; of many, two by two: their parts are compared."""
    while len(found) > WIDE:
        found = [reduce(both, found[k : k + 2]) for k in range(0, len(found), 2)]
    return reduce(both, found)


def _leaf(condition: str) -> isl.Map:
    return read_map(f"[n, m] -> {{ [i] -> [j] : {condition} }}" if condition else "[n, m] -> { [i] -> [j] }")


def _any_of(conditions: Iterable[str]) -> isl.Map:
    parts = "; ".join(f"[i] -> [j] : {c}" for c in conditions)
    return coalesced(read_map(f"[n, m] -> {{ {parts} }}")) if parts else _leaf("1 = 0")


def _listed(pairs: Iterable[tuple[int, int]]) -> isl.Map:
    """Sorted pairs, those side by side as one part."""
    rows: list[list[int]] = []  # i, first j, last j
    for i, j in pairs:
        if rows and rows[-1][0] == i and rows[-1][2] == j - 1:
            rows[-1][2] = j
        else:
            rows.append([i, j, j])
    return _any_of(f"i = {i} and {first} <= j <= {last}" for i, first, last in rows)


def _sliced(var: str, length: str, start: Any, stop: Any, step: Any) -> str:
    """`var in range(length)[start:stop:step]`."""

    def bound(x: Any) -> str:
        return f"{x}" if x >= 0 else f"max({length} - {-x}, 0)"

    first = bound(_int(start))
    condition = f"{var} >= {first} and 0 <= {var} < {length}"
    if stop is not None:
        condition += f" and {var} < {bound(_int(stop))}"
    if _int(step) > 1:
        condition += f" and ({var} - {first}) mod {_int(step)} = 0"
    return condition


def _at(inner: isl.Map, moved: str) -> isl.Map:
    """A term read at other coordinates and lengths: pairs (i, j) for which (i', j') is in the term for n', m'."""
    needed = inner.involves_dims(isl.dim_type.param, 0, 2)
    points = inner.wrap().flatten()
    if not needed:  # spares isl the lengths of the residue classes
        where = read_map(f"[n, m] -> {{ [i, j] -> [i', j'] : exists n', m': {moved} }}")
    else:
        where = read_map(f"[n, m] -> {{ [i, j] -> [i', j', n', m'] : {moved} }}")
        points = points.move_dims(isl.dim_type.set, 2, isl.dim_type.param, 0, 2)
    found = points.apply(where.reverse())
    return coalesced(found.apply(read_map("[n, m] -> { [i, j] -> [[i] -> [j]] }")).unwrap())


def _to_tokens(m: isl.Map) -> isl.Map:
    return m.intersect_range(read_set("[n, m] -> { [t] : 0 <= t < m }"))


def _between_tokens(layer: isl.Map) -> isl.Map:
    """A layer below the last: its queries are the tokens 0 .. m - 1, so its number of queries is m."""
    if layer.involves_dims(isl.dim_type.param, 0, 1):
        layer = layer.intersect_params(read_set("[n, m] -> { : n = m }")).project_out(isl.dim_type.param, 0, 1)
        layer = layer.insert_dims(isl.dim_type.param, 0, 1).set_dim_name(isl.dim_type.param, 0, "n")
    return layer.intersect_domain(read_set("[n, m] -> { [t] : 0 <= t < m }"))


def _compose(last: isl.Map, first: isl.Map) -> isl.Map:
    return coalesced(last.apply_range(first))


def _power(last: isl.Map, layers: int) -> isl.Map:
    """`layers` layers, one or more, by repeated squaring of the layer between tokens."""
    result, between = last, _between_tokens(last)
    rest = layers - 1
    while rest:
        if rest & 1:
            result = _compose(_to_tokens(result), between)
        rest >>= 1
        if rest:
            between = _compose(_to_tokens(between), between)
    return result


def _int(value: Any) -> int:
    return int(evaluate(value, {}))
