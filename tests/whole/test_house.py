"""The house: which room may know which, and habits that keep rooms apart.

docs/howto/extending.md says what stands where.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from importlib import import_module

import pytest
from source import imports, modules, tree

from pidsl.analysis.portfolio import WAYS
from pidsl.analysis.rules import RULES

MOST_PARAMETERS = 8

# The public door, where everything that a call is given is a parameter.
DOOR = {
    *(f"pidsl.runtime.kernels.kernel:Kernel.{name}" for name in ("__call__", "packed")),
    "pidsl.runtime.cache.cache:Cache.__init__",
}


def known(name: str) -> str:
    """The module that an imported name is or stands in; "" for others' ones."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def graph(*rooms: str) -> dict[str, set[str]]:
    """Which modules of some packages each of their modules imports, in functions too."""
    inside = [name for name in modules() if any(name == room or name.startswith(f"{room}.") for room in rooms)]
    found = {}
    for name in inside:
        source, package = modules()[name]
        targets = {known(target) for target, _, _ in imports(source, package)}
        found[name] = {x for x in targets if x in inside and x != name}
    return found


def circles(arrows: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules each of which reaches every other."""

    def reached(name: str) -> set[str]:
        seen: set[str] = set()
        rest = [name]
        while rest:
            new = arrows[rest.pop()] - seen
            seen |= new
            rest += new
        return seen

    reach = {name: reached(name) for name in arrows}
    return {frozenset(x for x in reach[name] if name in reach[x]) for name in arrows if name in reach[name]}


@pytest.mark.parametrize(
    "rooms",
    [("pidsl.codegen", "pidsl.runtime"), ("pidsl.language", "pidsl.relation"), ("pidsl.analysis", "pidsl.studies")],
)
def test_no_import_goes_in_a_circle(rooms: tuple[str, ...]) -> None:
    assert circles(graph(*rooms)) == set()


@pytest.mark.parametrize("house", ["pidsl.codegen", "pidsl.runtime", "pidsl.analysis", "pidsl.distributed"])
def test_rooms_import_one_way(house: str) -> None:
    def room(name: str) -> str:
        return ".".join(name.split(".")[:3])

    packages = {room(name) for name in modules() if name.count(".") == 3 and name.startswith(f"{house}.")}
    arrows = {
        (room(a), room(b))
        for a, targets in graph(house).items()
        for b in targets
        if room(a) != room(b) and {room(a), room(b)} <= packages
    }
    assert circles({x: {b for a, b in arrows if a == x} for x in packages}) == set()


def test_selectors_know_errors_alone() -> None:
    """On loading: modules, which some of them need the rotation of, are given selectors."""
    for name, (source, package) in modules().items():
        if name.startswith("pidsl.select"):
            loaded = {x for x, _, on_load in imports(source, package) if on_load and x.startswith("pidsl")}
            assert all(x.startswith(("pidsl.select", "pidsl.errors")) for x in loaded), name


def private(name: str) -> Iterator[str]:
    """Private names of other modules that a module takes: `from x import _y`, or `x._y` of an imported module x."""
    source, package = modules()[name]
    own_names: dict[str, str] = {}
    for target, _, _ in imports(source, package):
        if target.rpartition(".")[2].startswith("_") and not target.rpartition(".")[2].startswith("__"):
            if known(target):
                yield target
        elif target in modules():
            own_names[target.rpartition(".")[2]] = target
    for node in ast.walk(source):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                target = alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
                if alias.asname and target in modules():
                    own_names[alias.asname] = target
    for node in ast.walk(source):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=attribute) if module in own_names:
                if attribute.startswith("_") and not attribute.startswith("__"):
                    yield f"{own_names[module]}.{attribute}"


def test_no_module_takes_a_private_name_of_another() -> None:
    assert {(name, taken) for name in modules() for taken in private(name)} == set()


def functions(source: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions, by the names of the classes and functions that they stand in."""

    def walk(node: ast.AST, where: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            inside = where
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                inside = f"{where}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    yield inside, child
            yield from walk(child, inside)

    return walk(source, "")


def test_no_function_has_many_parameters() -> None:
    found = set()
    for name, (source, _) in modules().items():
        if not name.startswith(("pidsl.codegen", "pidsl.runtime", "pidsl.language", "pidsl.relation")):
            continue
        for function, node in functions(source):
            if any("triton.jit" in ast.unparse(x) for x in node.decorator_list):
                continue  # kernels, and what hands on their tiles one by one
            a = node.args
            all_ = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
            if len([x for x in all_ if x.arg not in ("self", "cls", "ctx")]) > MOST_PARAMETERS:
                found.add(f"{name}:{function}")
    assert found == DOOR


def test_no_override_is_ignored() -> None:
    ignored = re.compile(r"type: ignore\[[^\]]*\boverride\b")
    found = {name for name, path in tree().items() if ignored.search(path.read_text(encoding="utf-8"))}
    assert found == set()


# -- proofs ------------------------------------------------------------------------------------------------------------


def finders() -> set[str]:
    """The modules of the ways to an answer."""
    ways = {way for each in WAYS.values() for way in each}
    return {f"pidsl.analysis.{way.finder.partition(':')[0]}" for way in ways}


@pytest.mark.parametrize("name", RULES)
def test_a_checker_imports_no_finder(name: str) -> None:
    """Neither itself, nor through others, nor in functions: what is verified is not what found it."""
    arrows = graph("pidsl.analysis")
    seen, rest = set(), [RULES[name].checker.partition(":")[0]]
    while rest:
        seen.add(at := rest.pop())
        rest += arrows[at] - seen
    assert seen & finders() == set()


def test_every_way_and_every_rule_is_there() -> None:
    for way in {way for each in WAYS.values() for way in each}:
        module, function = way.finder.split(":")
        assert callable(getattr(import_module(f"pidsl.analysis.{module}"), function)), way
    for name, rule in RULES.items():
        module, function = rule.checker.split(":")
        assert callable(getattr(import_module(module), function)), name
        assert rule.theorem and rule.about and rule.principle
