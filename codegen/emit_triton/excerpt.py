"""What a program needs of the library: the functions that it uses, without the branches that no kernel of it takes.

    if KIND.SCORE is not None:              ->      (nothing, for a pattern without a score)
        logits, rate = KIND.SCORE(...)

Text stays as it was written; the lines of a branch that is always taken move to the left.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

UNKNOWN = object()
INPUTS = ("slopes", "sinks", "bias", "temperature", "seed")  # None in kernels of patterns without them


@cache
def _library() -> tuple[list[str], list[ast.stmt]]:
    text = (files("pidsl.codegen.emit_triton") / "library.py").read_text(encoding="utf-8")
    body = ast.parse(text).body
    return text.splitlines(), [x for x in body if isinstance(x, ast.FunctionDef | ast.Assign)]


def functions() -> set[str]:
    """The names of the functions of the library."""
    return {x.name for x in _library()[1] if isinstance(x, ast.FunctionDef)}


def fields_of(name: str) -> dict[str, Any]:
    """The fields that a pattern sets of `Kind` (STAGE) or of a walk (WALK), and what they are where it does not."""
    found = (x for x in _library()[1] if isinstance(x, ast.Assign))
    return next(dict(ast.literal_eval(x.value)) for x in found if ast.unparse(x.targets[0]) == name)


def excerpt(used: Iterable[str], known: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The functions `used`, and those that they use, in the order of the library.

    Args:
        used: names of functions.
        known: for each kernel of the program, the fields of `Kind` that are known, and which inputs are None.
    """
    asked = _asked()
    facts = (tuple(sorted((name, x) for name, x in each.items() if name in asked)) for each in known)
    return _excerpt(frozenset(used), tuple(dict.fromkeys(facts)))


@lru_cache(maxsize=64)
def _excerpt(used: frozenset[str], facts: tuple[tuple[tuple[str, Any], ...], ...]) -> tuple[str, ...]:
    lines, statements = _library()
    known = [dict(x) for x in facts]
    texts, calls = dict[str, str](), dict[str, set[str]]()
    names = functions()
    for node in (x for x in statements if isinstance(x, ast.FunctionDef)):
        start = node.decorator_list[0].lineno
        kept = [*lines[start - 1 : node.body[0].lineno - 1], *_statements(lines, node.body, node.body[0].lineno, known)]
        texts[node.name] = "\n".join(kept)
        tree = ast.parse(texts[node.name])
        calls[node.name] = {x.id for x in ast.walk(tree) if isinstance(x, ast.Name)} & names - {node.name}
    needed, todo = set[str](), list(used)
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += calls[name]
    numbers = [x for x in statements if isinstance(x, ast.Assign)][-1]
    constants = "\n".join(lines[numbers.lineno - 1 : numbers.end_lineno])
    return constants, *(text for name, text in texts.items() if name in needed)


@cache
def _asked() -> set[str]:
    """What the branches of the library ask."""
    tests = (x.test for node in _library()[1] for x in ast.walk(node) if isinstance(x, ast.If))
    inside = [x for test in tests for x in ast.walk(test)]
    fields = {x.attr for x in inside if isinstance(x, ast.Attribute)}
    return fields | {x.id for x in inside if isinstance(x, ast.Name)}


def _statements(lines: list[str], body: list[ast.stmt], at: int, known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of some statements from line `at` on, with what stands between them."""
    for node in body:
        yield from lines[at - 1 : node.lineno - 1]
        yield from _statement(lines, node, known)
        assert node.end_lineno is not None
        at = node.end_lineno + 1


def _statement(lines: list[str], node: ast.stmt, known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    assert node.end_lineno is not None
    if isinstance(node, ast.For):
        yield from lines[node.lineno - 1 : node.body[0].lineno - 1]
        yield from _statements(lines, node.body, node.body[0].lineno, known)
    elif not isinstance(node, ast.If):
        yield from lines[node.lineno - 1 : node.end_lineno]
    elif (taken := _taken(node.test, known)) is UNKNOWN:
        body = list(_statements(lines, node.body, node.body[0].lineno, known))
        others = list(_otherwise(lines, node, known))
        if body or others:
            yield lines[node.lineno - 1]
            yield from body or [" " * node.col_offset + "    pass"]
            yield from others
    elif taken:
        yield from (x[4:] for x in _statements(lines, node.body, node.body[0].lineno, known))
    elif len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If) and _is_elif(lines, node.orelse[0]):
        kept = list(_statement(lines, node.orelse[0], known))
        yield from (x.replace("elif ", "if ", 1) if n == 0 else x for n, x in enumerate(kept))
    elif node.orelse:
        yield from (x[4:] for x in _statements(lines, node.orelse, node.orelse[0].lineno, known))


def _otherwise(lines: list[str], node: ast.If, known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of the other branches of a test that is left in."""
    if len(node.orelse) == 1 and isinstance(other := node.orelse[0], ast.If) and _is_elif(lines, other):
        if (taken := _taken(other.test, known)) is UNKNOWN:
            yield lines[other.lineno - 1]
            yield from _statements(lines, other.body, other.body[0].lineno, known)
            yield from _otherwise(lines, other, known)
        elif taken:
            yield " " * other.col_offset + "else:"
            yield from _statements(lines, other.body, other.body[0].lineno, known)
        else:
            yield from _otherwise(lines, other, known)
    elif node.orelse:
        body = list(_statements(lines, node.orelse, node.orelse[0].lineno, known))
        if body:
            yield " " * node.col_offset + "else:"
            yield from body


def _is_elif(lines: list[str], node: ast.If) -> bool:
    return lines[node.lineno - 1][node.col_offset :].startswith("elif")


def _taken(test: ast.expr, known: Sequence[Mapping[str, Any]]) -> Any:
    """Whether all kernels take a branch, or none; UNKNOWN where they differ or a launch decides."""
    found = {_truth(_value(test, x)) for x in known}
    return found.pop() if len(found) == 1 else UNKNOWN


def _truth(x: Any) -> Any:
    return x if x is UNKNOWN else bool(x)


def _value(e: ast.expr, known: Mapping[str, Any]) -> Any:
    match e:
        case ast.Constant(value):
            return value
        case ast.Name(name) | ast.Attribute(ast.Name("KIND" | "WALK"), name):
            return known.get(name, UNKNOWN)
        case ast.UnaryOp(ast.Not(), x):
            value = _truth(_value(x, known))
            return value if value is UNKNOWN else not value
        case ast.BoolOp(op, values):
            ends = isinstance(op, ast.Or)  # the value that decides
            found = [_truth(_value(x, known)) for x in values]
            return ends if ends in found else UNKNOWN if UNKNOWN in found else not ends
        case ast.Compare(x, [op], [y]):
            a, b = _value(x, known), _value(y, known)
            if a is UNKNOWN or b is UNKNOWN:
                return UNKNOWN
            match op:
                case ast.Is():
                    return a is b
                case ast.IsNot():
                    return a is not b
                case ast.Eq():
                    return a == b
                case ast.NotEq():
                    return a != b
                case ast.Gt():
                    return a > b
    return UNKNOWN
