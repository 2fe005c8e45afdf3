"""From isl to programs: loops that visit a one-dimensional set, as `expr` trees.

isl's AST generator knows which loops, strides and guards visit exactly the points of a set for given parameters;
here its answer becomes pidsl's own expressions. isl prints `floord` where an operand may be negative and `/`, `%`
where it cannot; all of them become floor division and floor modulo, which agree with both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import islpy as isl

from pidsl.errors import TooHardError
from pidsl.language.expr import (
    Add,
    And,
    Compare,
    FloorDiv,
    Index,
    Max,
    Min,
    Mod,
    Mul,
    Not,
    Or,
    Pred,
    Sub,
    Truth,
    Var,
    simplify,
    substitute_pred,
)
from pidsl.relation.isl import CONTEXT, affine, coalesced, limited, region, scope

# An operation of isl's generator takes up to 13 microseconds, most take 0.5. All parts of a union at once make the
# best program; where that is too much work, one by one often is not.
WHOLE_OPERATIONS = 200_000
PARTS_OPERATIONS = 500_000
VERIFY_OPERATIONS = 1_800_000  # for the points of the loops, to be compared with the set

# islpy's type stubs call the kinds of nodes int and misspell some of their names, so nodes are Any here.
_op: Any = isl.ast_expr_op_type
_expr_kind: Any = isl.ast_expr_type
_node_kind: Any = isl.ast_node_type
_BINARY: dict[Any, Any] = {
    _op.add: Add, _op.sub: Sub, _op.mul: Mul, _op.div: FloorDiv, _op.fdiv_q: FloorDiv, _op.pdiv_q: FloorDiv,
    _op.pdiv_r: Mod, _op.zdiv_r: Mod, _op.max: Max, _op.min: Min,
}  # fmt: skip
_COMPARE: dict[Any, str] = {_op.eq: "==", _op.le: "<=", _op.lt: "<", _op.ge: ">=", _op.gt: ">"}
_LOGIC: dict[Any, Any] = {_op.and_: And, _op.and_then: And, _op.or_: Or, _op.or_else: Or}


class NoLoop(Exception):
    """isl's program has a shape that pidsl's loops cannot say (a conditional expression, a loop in a loop)."""


@dataclass(frozen=True, slots=True)
class Loop:
    """`for x in range(first, last + 1, step): if inside(x): ...`, all of it only when `guard` holds (None: always)."""

    first: Index
    last: Index
    step: int = 1
    guard: Pred | None = None
    inside: Pred | None = None  # over the loop variable VARIABLE; None: every iteration


VARIABLE = "x"


def loops(points: isl.Set, context: isl.Set, operations: int = PARTS_OPERATIONS) -> list[Loop]:
    """Loops that visit exactly `points` (one-dimensional), each once.

    Part by part, more of them, but each simpler and hardly any with a test `inside`; all at once where that fails.

    Args:
        points: `[params] -> { [x] : ... }`.
        context: a parameter set that is known to hold; the loops need not check it again.
        operations: of isl, for the parts.

    Raises:
        NoLoop: the points need a program that `Loop` cannot say.
        TooHardError: isl's operation limit struck.
    """
    if points.is_empty():
        return []
    # parts without divisions are quickly told apart, and a long list of them is no hard set
    simple = all(part.dim(isl.dim_type.div) == 0 for part in points.get_basic_sets())
    operations *= max(-(-points.n_basic_set() // 50), 1) if simple else 1
    try:
        with limited("the parts of a set", operations):
            parts = [isl.Set.from_basic_set(part) for part in points.make_disjoint().get_basic_sets()]
        return _checked(parts, context, operations)
    except (NoLoop, TooHardError):
        return _checked([points], context, min(operations, WHOLE_OPERATIONS))


def _checked(parts: list[isl.Set], context: isl.Set, operations: int) -> list[Loop]:
    """Loops for each part, compared with its points: isl's generator now and then loses some of a set with floors.

    Of `[n] -> { [j] : 0 <= j <= 1 and n + 2 j <= 2*floor((1 + n + j)/2) <= 1 + n + 2 j }` it takes j = 0 to be all;
    with the equalities of the set spelt out, it finds j = 1 too.
    """
    with limited("the loops over a set", operations):
        found = [_scan(part, context) for part in parts]
    for k, part in enumerate(parts):
        if _visits(found[k], part, context):
            continue
        with limited("the loops over a set", operations):
            found[k] = _scan(part.detect_equalities(), context)
        if not _visits(found[k], part, context):
            raise NoLoop("other points than those it was asked for")
    return [loop for some in found for loop in some]


def _visits(found: list[Loop], points: isl.Set, context: isl.Set) -> bool:
    """Whether the loops visit exactly the points, each once, where the context holds."""
    if not any(part.dim(isl.dim_type.div) for part in points.get_basic_sets()):
        return True  # bounds of a polytope are taken from its constraints as they are
    with limited("whether loops visit the points of a set", VERIFY_OPERATIONS):
        points = points.intersect_params(context).set_dim_name(isl.dim_type.set, 0, VARIABLE)
        params = [str(points.get_dim_name(isl.dim_type.param, k)) for k in range(points.dim(isl.dim_type.param))]
        line = f"[{', '.join(params)}] -> {{ [{VARIABLE}] }}"
        names, left = scope(line), points
        for loop in found:
            here = coalesced(_points(loop, names).intersect_params(context))
            if not here.is_subset(left):  # one more than there are, or one that another loop has visited
                return False
            left = left - here
        return bool(left.is_empty())


def _points(loop: Loop, names: Mapping[str, isl.PwAff]) -> isl.Set:
    at = names[VARIABLE]
    first = affine(loop.first, names)
    found = at.ge_set(first) & at.le_set(affine(loop.last, names))
    if loop.step > 1:
        found &= (at - first).mod_val(isl.Val(loop.step, CONTEXT)).eq_set(at - at)
    for test in (loop.guard, loop.inside):
        found = found if test is None else found & region(test, names)
    return found


def _scan(points: isl.Set, context: isl.Set) -> list[Loop]:
    schedule = isl.Map.identity(points.get_space().map_from_set()).intersect_domain(points)
    tree = isl.AstBuild.from_context(context).node_from_schedule_map(isl.UnionMap.from_map(schedule))
    found: list[Loop] = []
    _collect(tree, None, found)
    return found


def _collect(node: Any, guard: Pred | None, out: list[Loop]) -> None:
    kind = node.get_type()
    if kind == _node_kind.block:
        children = node.block_get_children()
        for k in range(children.n_ast_node()):
            _collect(children.get_ast_node(k), guard, out)
    elif kind == _node_kind.if_:
        test = _pred(node.if_get_cond())
        _collect(node.if_get_then_node(), _both(guard, test), out)
        if node.if_has_else_node():
            _collect(node.if_get_else_node(), _both(guard, Not(test)), out)
    elif kind == _node_kind.for_:
        out.append(_for(node, guard))
    elif kind == _node_kind.user:
        at = _index(node.user_get_expr().get_op_arg(1))
        out.append(Loop(at, at, 1, guard))
    else:
        raise NoLoop(str(kind))


def _both(a: Pred | None, b: Pred) -> Pred:
    return b if a is None else And(a, b)


def _for(node: Any, guard: Pred | None) -> Loop:
    name = node.for_get_iterator().get_id().get_name()
    first = _index(node.for_get_init())
    if node.for_is_degenerate():
        last, step = first, 1
    else:
        match _pred(node.for_get_cond()):
            case Compare("<=", Var(v), bound) if v == name:
                last = bound
            case Compare("<", Var(v), bound) if v == name:
                last = simplify(Sub(bound, 1))
            case other:
                raise NoLoop(f"loop condition {other}")
        increment = _index(node.for_get_inc())
        if not isinstance(increment, int):
            raise NoLoop("symbolic step")
        step = increment
    tests: list[Pred] = []
    body = node.for_get_body()
    while body.get_type() == _node_kind.if_:
        if body.if_has_else_node():
            raise NoLoop("else in a loop")
        tests.append(_pred(body.if_get_cond()))
        body = body.if_get_then_node()
    if body.get_type() != _node_kind.user:
        raise NoLoop("nested loops")
    inside: Pred | None = None
    for test in tests:
        inside = _both(inside, substitute_pred(test, {name: Var(VARIABLE)}))
    at = _index(body.user_get_expr().get_op_arg(1))
    if at != Var(name):
        raise NoLoop("a scaled loop variable")
    return Loop(first, last, step, guard, inside)


def _index(e: Any) -> Index:
    kind = e.get_type()
    if kind == _expr_kind.int:
        return int(e.get_val().to_python())
    if kind == _expr_kind.id:
        return Var(e.get_id().get_name())
    op = e.get_op_type()
    if op == _op.minus:
        return simplify(Sub(0, _index(e.get_op_arg(0))))
    if op not in _BINARY:
        raise NoLoop(f"expression {e.to_C_str()}")
    parts = [_index(e.get_op_arg(k)) for k in range(e.get_op_n_arg())]
    value = parts[0]
    for part in parts[1:]:  # max and min take any number of arguments
        value = simplify(_BINARY[op](value, part))
    return value


def _pred(e: Any) -> Pred:
    if e.get_type() == _expr_kind.int:
        return Truth(int(e.get_val().to_python()) != 0)
    op = e.get_op_type() if e.get_type() == _expr_kind.op else None
    if op in _COMPARE:
        return Compare(_COMPARE[op], _index(e.get_op_arg(0)), _index(e.get_op_arg(1)))
    if op in _LOGIC:
        parts = [_pred(e.get_op_arg(k)) for k in range(e.get_op_n_arg())]
        value = parts[0]
        for part in parts[1:]:
            value = _LOGIC[op](value, part)
        return value
    raise NoLoop(f"condition {e.to_C_str()}")
