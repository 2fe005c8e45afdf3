"""The source of pidsl as the tests read it: its files, by the names they have once installed, and what they import."""

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"pidsl": ROOT / "pidsl", "pidsl.codegen": ROOT / "codegen", "pidsl.patterns": ROOT / "patterns"}


def tree() -> dict[str, Path]:
    """Every source file by the name it has once installed: pidsl/codegen/plan/nodes.py -> codegen/plan/nodes.py."""
    files = {}
    for package, folder in FOLDERS.items():
        for parent, below, names in os.walk(folder):  # does not follow the symlinks pidsl/codegen and pidsl/patterns
            below[:] = [name for name in below if name != "__pycache__"]
            for name in names:
                if name.endswith(".py"):
                    path = Path(parent, name)
                    files[f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"] = path
    return files


def module_name(installed: str) -> str:
    """The dotted name of an installed file: pidsl/codegen/__init__.py -> pidsl.codegen."""
    return installed.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


@cache
def modules() -> dict[str, tuple[ast.Module, str]]:
    """The syntax tree of every module, and the package that its relative imports start from."""
    found = {}
    for installed, path in tree().items():
        name = module_name(installed)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = ast.parse(path.read_text(encoding="utf-8")), package
    return found


def imports(tree: ast.Module, package: str) -> Iterator[tuple[str, int, bool]]:
    """The absolute names that a module imports, each with its line and whether it is imported on loading the module."""

    def names(node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        parts = package.split(".")
        above = parts[: len(parts) - node.level + 1] if node.level else []
        base = ".".join([*above, node.module] if node.module else above)
        return [f"{base}.{alias.name}" for alias in node.names]

    def walk(node: ast.AST, on_load: bool) -> Iterator[tuple[str, int, bool]]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((name, node.lineno, on_load) for name in names(node))
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                yield from walk(child, on_load)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, on_load and not inside)

    return walk(tree, True)
