"""Trees of any depth: compared, hashed, copied, pickled and walked without recursion, and unions kept shallow.

A term of some thousand parts is deeper than Python's stack. What recurses over one is written as a generator that
yields its calls, and `run` keeps their stack:

    def _depth(x: Term) -> Steps[int]:
        return 1 + (yield _depth(x.of)) if isinstance(x, Complement) else 1

    run(_depth(term))
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import reduce
from typing import Any, TypeVar, cast

T = TypeVar("T")
Steps = Generator[Any, Any, T]

WIDE = 16  # so many parts of a union lean left, as Python groups them; more are halved


def run(call: Steps[T]) -> T:
    """The result of a generator that yields calls of its own kind and is sent what they return."""
    stack: list[Steps[Any]] = [call]
    value: Any = None
    while stack:
        try:
            stack.append(stack[-1].send(value))
            value = None
        except StopIteration as done:
            stack.pop()
            value = done.value
    return value


class Tree:
    """Base of immutable dataclasses (`frozen=True, slots=True, eq=False`) that hold others of their kind."""

    __slots__ = ("_chooses", "_hash", "_width")  # kept from the first time they are asked for
    _chooses: bool
    _hash: int
    _width: int
    __match_args__: tuple[str, ...] = ()

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:  # those of the nodes inside come first, so that none is asked for from within another
            for node in bottom_up(self, lambda x: not hasattr(x, "_hash")):
                object.__setattr__(node, "_hash", hash((type(node), *own_values(node))))
            return self._hash

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        rest: list[tuple[Any, Any]] = [(self, other)]
        seen: set[tuple[int, int]] = set()
        while rest:
            a, b = rest.pop()
            if a is b or (id(a), id(b)) in seen:
                continue
            if not isinstance(a, Tree):
                if a != b:
                    return False
            elif type(a) is not type(b) or hash(a) != hash(b):
                return False
            else:
                seen.add((id(a), id(b)))
                rest.extend(zip(own_values(a), own_values(b), strict=True))
        return True

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        order = list(bottom_up(self))
        place = {id(node): k for k, node in enumerate(order)}
        recipe = [
            (type(node), [(True, place[id(x)]) if isinstance(x, Tree) else (False, x) for x in own_values(node)])
            for node in order
        ]
        return _built, (recipe,)


def _built(recipe: list[tuple[type, list[tuple[bool, Any]]]]) -> Any:
    """The last of the nodes of a pickle, each made of values and of earlier nodes."""
    made: list[Any] = []
    for kind, values in recipe:
        made.append(kind(*(made[x] if is_node else x for is_node, x in values)))
    return made[-1]


def own_values(node: Tree) -> list[Any]:
    """The values of a node's fields, nodes included."""
    return [getattr(node, name) for name in node.__match_args__]


def children(node: Tree) -> list[Any]:
    """The nodes right inside `node`."""
    return [x for x in own_values(node) if isinstance(x, Tree)]


def walk_tree(node: T, kind: type[Any]) -> Iterator[T]:
    """`node` and every node of a kind inside it; an object that stands in several places comes once."""
    rest, seen = [node], {id(node)}
    while rest:
        yield (x := rest.pop())
        for child in reversed(children(x)):  # type: ignore[arg-type]
            if isinstance(child, kind) and id(child) not in seen:
                seen.add(id(child))
                rest.append(child)


def bottom_up(node: Tree, wanted: Callable[[Any], bool] = lambda x: True) -> Iterator[Any]:
    """`node` and every node inside it, each once and after those it holds; no unwanted ones, nor what they hold."""
    rest: list[Any] = [node]
    done: set[int] = set()
    while rest:
        x = rest[-1]
        open_ = [child for child in children(x) if id(child) not in done and wanted(child)]
        if open_:
            rest.extend(reversed(open_))
            continue
        rest.pop()
        if id(x) not in done:
            done.add(id(x))
            yield x


def parts_of(kind: type[Any], node: Any) -> list[Any]:
    """The parts of a union (an intersection, ...: `kind`), however they are grouped; of anything else, itself."""
    parts, rest = [], [node]
    while rest:
        x = rest.pop()
        if type(x) is kind:
            rest += (x.right, x.left)
        else:
            parts.append(x)
    return parts


def shallow(node: T) -> T:
    """`node`, of an associative kind (a union, ...), with more than `WIDE` parts grouped in one way only.

    The first `WIDE` * 2**k parts of more are a group, so that a thousand parts are no deep tree.
    """
    if width(node) <= WIDE:
        return node
    kind, a, b = type(node), node.left, node.right  # type: ignore[attr-defined]
    if type(b) is not kind and type(a) is kind and width(a) > WIDE:
        return cast(T, _appended(kind, a, b, width(a)))
    return cast(T, _grouped(kind, parts_of(kind, node)))


def extent(tree: Any) -> tuple[int, int]:
    """How many nodes deep a tree is, and of how many nodes, those that stand in several places counted in each."""
    found: dict[int, tuple[int, int]] = {}
    for node in bottom_up(tree):
        inside = [found[id(x)] for x in children(node)]
        found[id(node)] = (1 + max((d for d, _ in inside), default=0), 1 + sum(size for _, size in inside))
    return found[id(tree)] if found else (1, 1)


def _appended(kind: Any, tree: Any, part: Any, parts: int) -> Any:
    if parts < WIDE or parts == (half := _half(parts + 1)):
        return kind(tree, part)
    if type(tree.left) is not kind or width(tree.left) != half:  # made by hand, and grouped in another way
        return _grouped(kind, [*parts_of(kind, tree), part])
    return kind(tree.left, _appended(kind, tree.right, part, parts - half))


def _grouped(kind: Any, parts: list[Any]) -> Any:
    if len(parts) <= WIDE:
        made = reduce(kind, parts)
    else:
        half = _half(len(parts))
        made = kind(_grouped(kind, parts[:half]), _grouped(kind, parts[half:]))
    if len(parts) > 1:
        object.__setattr__(made, "_width", len(parts))
    return made


def _half(parts: int) -> int:
    """How many of more than `WIDE` parts are the left group."""
    return WIDE << ((parts - 1) // WIDE).bit_length() - 1


def width(node: Any) -> int:
    """How many parts a union, an intersection, ... has."""
    kind, parts, rest = type(node), 0, [node]
    while rest:
        x = rest.pop()
        if type(x) is not kind:
            parts += 1
        elif parts >= WIDE and hasattr(x, "_width"):  # those of few parts are just counted
            parts += x._width
        else:
            rest += (x.right, x.left)
    if parts > WIDE and not hasattr(node, "_width"):
        object.__setattr__(node, "_width", parts)
    return parts
