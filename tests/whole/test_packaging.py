"""What is installed is what is in the tree, under its own name, and imports point one way."""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from contextlib import suppress
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from source import FOLDERS, ROOT, imports, module_name, tree

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def python(code: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=300
    )


# --- the list of packages


def test_the_list_of_packages_is_the_tree() -> None:
    folders = {installed.rpartition("/")[0].replace("/", ".") for installed in tree()}
    assert folders == set(SETUPTOOLS["packages"])


def test_every_package_has_an_init() -> None:
    missing = [name for name in SETUPTOOLS["packages"] if f"{name.replace('.', '/')}/__init__.py" not in tree()]
    assert missing == []


def test_the_mapping_names_the_folders() -> None:
    assert {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()} == FOLDERS


# --- the sdist, and the wheel that is built from it

DATA = ("pidsl/py.typed", "pidsl/pictures/page.css", "pidsl/pictures/page.js")
BESIDE = (
    "tests",
    "benchmarks",
    "docs",
    ".ci",
    "Makefile",
    "MANIFEST.in",
    ".gitignore",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "pyproject.toml",
)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist, built offline from a copy: a build folder left in the checkout could add files."""
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "copy"
    copy.mkdir()
    for name in ("pidsl", "codegen", "patterns", *BESIDE):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    built = python(f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})", cwd=copy)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder / path.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    copy = shutil.copytree(sdist, folder / "copy")
    built = python(f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})", cwd=copy)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_sdist_holds_what_make_test_needs(sdist: Path) -> None:
    def files(root: Path, *names: str) -> set[str]:
        found = [
            path for name in names for path in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
        ]
        found = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
        return {path.relative_to(root).as_posix() for path in found}

    assert files(sdist, *BESIDE) == files(ROOT, *BESIDE)
    assert {"tests/conftest.py", "tests/dense.py", ".ci/run"} <= files(sdist, *BESIDE)
    assert files(sdist, "codegen", "patterns") == files(ROOT, "codegen", "patterns")
    assert files(sdist, "pidsl") == {*tree(), *DATA}  # the symlinks of the checkout are folders


def test_the_tests_run_from_the_sdist(sdist: Path) -> None:
    code = "import pytest; raise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', *{args!r}]))"
    args = [
        "--collect-only",
        "tests/runtime/test_gate.py",
        "tests/whole/test_docs.py",
        "tests/whole/test_benchmark.py",
        "pidsl/codegen",
    ]
    ran = python(code.format(args=args), cwd=sdist, PYTHONPATH=str(sdist))
    assert ran.returncode == 0 and "::pidsl.codegen." in ran.stdout, ran.stdout + ran.stderr
    args = ["tests/relation/test_relation.py", "-k", "mask or decisions"]
    ran = python(code.format(args=args), cwd=sdist, PYTHONPATH=str(sdist))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name for name in names if not name.startswith("pidsl-")}
    assert shipped == {*tree(), *DATA}
    metadata = {name.partition("/")[0] for name in names} - {"pidsl"}
    assert len(metadata) == 1, f"top-level names beside pidsl: {metadata}"


def test_the_wheel_says_nothing_of_the_machine_that_built_it(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    here = [os.fsencode(folder) for folder in (ROOT, wheel.parent, Path.home()) if len(folder.parts) > 1]
    leaks = [name for name in archive.namelist() if any(folder + b"/" in archive.read(name) for folder in here)]
    assert leaks == []


def test_the_wheel_imports_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    unpacked, elsewhere = tmp_path / "unpacked", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(unpacked)
    elsewhere.mkdir()
    modules = sorted(module_name(name) for name in tree() if not name.endswith("__main__.py"))
    # Each module must come from the wheel: an editable install of the checkout would fill in for one that is missing.
    code = f"""
import importlib, pathlib
for name in {modules!r}:
    file = importlib.import_module(name).__file__
    if not pathlib.Path(file).resolve().is_relative_to({str(unpacked.resolve())!r}):
        raise SystemExit(f"{{name}} comes from {{file}}")
"""
    ran = python(code, cwd=elsewhere, PYTHONPATH=str(unpacked))
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- what is needed

REQUIRED = [*PYPROJECT["project"]["dependencies"], *chain(*PYPROJECT["project"]["optional-dependencies"].values())]


@pytest.mark.parametrize("text", REQUIRED)
def test_dependencies_have_lower_bounds(text: str) -> None:
    found = Requirement(text)
    bounds = [x.version for x in found.specifier if x.operator == ">="]
    assert len(bounds) == 1, f"{text}: the lowest version that works"
    with suppress(metadata.PackageNotFoundError):  # not every extra is installed
        assert found.specifier.contains(metadata.version(found.name), prereleases=True)


# --- imports, in a fresh process


def test_import_pidsl_needs_neither_torch_nor_triton(tmp_path: Path) -> None:
    code = """
import sys
absent = ("torch", "triton", "matplotlib", "z3", "pytest", "hypothesis")
sys.modules.update(dict.fromkeys(absent))  # None: importing it raises, as if it were not installed
import pidsl, pidsl.patterns
"""
    ran = python(code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_import_pidsl_pulls_in_neither_torch_nor_triton(tmp_path: Path) -> None:
    code = "import sys, pidsl; print(sorted({'torch', 'triton'} & {name.partition('.')[0] for name in sys.modules}))"
    ran = python(code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert ran.stdout == "[]\n", ran.stdout + ran.stderr


@pytest.mark.parametrize("name", ["codegen", "patterns"])
def test_the_generic_names_do_not_import_from_the_checkout(name: str) -> None:
    ran = python(f"import {name}", cwd=ROOT)
    assert ran.returncode != 0
    assert f"ImportError: this package is pidsl.{name}, not {name}" in ran.stderr


# --- imports point one way: patterns -> pidsl, codegen -> pidsl

LAYERS = ("pidsl.codegen", "pidsl.patterns")
TABLE = "pidsl.codegen.choice.targets"  # facts, and no other module of the layer
LATE = ("pidsl.runtime.run_triton", "pidsl.pictures.reordered")  # imported where a program is made, a plan is drawn


def layer(name: str) -> str:
    """The layer that a module belongs to: one of LAYERS, else pidsl, else "" for everything that is not pidsl's."""
    for known in (*LAYERS, "pidsl"):
        if name == known or name.startswith(known + "."):
            return known
    return ""


def is_late(name: str) -> bool:
    """Whether a module is only imported inside of functions."""
    return any(name == late or name.startswith(late + ".") for late in LATE)


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a module that point the wrong way, as `line: name`."""
    package = module if is_package else module.rpartition(".")[0]
    home = layer(module)
    wrong = []
    for name, line, on_load in imports(ast.parse(source), package):
        generic = name.partition(".")[0] in ("codegen", "patterns")
        target = layer(name)
        # pidsl reaches a layer only inside a function; one layer never reaches the other.
        late = (is_late(module) and target == "pidsl.codegen") or name.startswith(TABLE + ".")
        upward = target in LAYERS and target != home and ((on_load and not late) or home != "pidsl")
        if generic or upward:
            wrong.append(f"{line}: {name}")
    return wrong


def test_imports_point_one_way() -> None:
    faults = {
        installed: wrong
        for installed, path in tree().items()
        if (
            wrong := wrong_imports(
                path.read_text(encoding="utf-8"), module_name(installed), is_package=path.name == "__init__.py"
            )
        )
    }
    assert faults == {}


def test_what_imports_layers_on_load_is_imported_late() -> None:
    found = set()
    for installed, path in tree().items():
        name = module_name(installed)
        if name == TABLE or not is_late(name):
            for imported, _, on_load in imports(ast.parse(path.read_text(encoding="utf-8")), name.rpartition(".")[0]):
                if (on_load and is_late(imported)) or (name == TABLE and on_load and layer(imported)):
                    found.add((name, imported))
    assert found == set()


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("pidsl.api", "import pidsl.codegen.plan", ["1: pidsl.codegen.plan"]),
        ("pidsl.api", "from pidsl import codegen", ["1: pidsl.codegen"]),
        ("pidsl.api", "from .codegen import plan", ["1: pidsl.codegen.plan"]),
        ("pidsl.runtime.programs", "from ..codegen.plan import Plan", ["1: pidsl.codegen.plan.Plan"]),
        (
            "pidsl.runtime.run_triton.cache",
            "try:\n    from ... import patterns\nexcept ImportError: pass",
            ["2: pidsl.patterns"],
        ),
        ("pidsl.api", "class A:\n    from . import codegen", ["2: pidsl.codegen"]),
        ("pidsl.api", "def compile():\n    from pidsl.codegen import plan", []),
        ("pidsl.api", "if TYPE_CHECKING:\n    from pidsl.codegen import plan", []),
        ("pidsl.codegen.plan.nodes", "import pidsl.language\nfrom . import emit\nfrom pidsl.relation import isl", []),
        ("pidsl.codegen.plan.nodes", "def f():\n    from ...patterns import pi", ["2: pidsl.patterns.pi"]),
        ("pidsl.patterns.pi", "from pidsl.codegen import plan", ["1: pidsl.codegen.plan"]),
        ("pidsl.patterns.pi", "from pidsl import window\nfrom .ring import ring", []),
        ("pidsl.patterns.pi", "def f():\n    import patterns.ring", ["2: patterns.ring"]),
    ],
)
def test_a_wrong_import_is_seen(module: str, source: str, wrong: list[str]) -> None:
    assert wrong_imports(source, module) == wrong


# --- the names of the package


def test_modules_are_attributes(tmp_path: Path) -> None:
    code = """
import pidsl
pidsl.errors.PidslError, pidsl.language.terms.Term, pidsl.relation, pidsl.patterns.pi_attention, pidsl.demo
pidsl.studies.report, pidsl.analysis.bound.Bound, pidsl.codegen.check.check_plan, pidsl.runtime.run_triton
pidsl.nn.SparseAttention, pidsl.testing.terms, pidsl.testing_kernels.inputs
"""
    ran = python(code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert ran.returncode == 0, ran.stderr


def test_what_there_is_not_is_no_attribute(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["hypothesis"] = None  # as if it were not installed
import pidsl
assert not any(hasattr(pidsl, name) for name in ("widnow", "__wrapped__", "__main__", "testing"))
assert not hasattr(pidsl.runtime, "kernel") and not hasattr(pidsl.codegen, "_shared")
try:
    pidsl.testing
except AttributeError as e:
    assert "pip install 'pidsl[test]'" in str(e), e
help_text = __import__("pydoc").render_doc(pidsl)
"""
    ran = python(code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert ran.returncode == 0, ran.stderr


def test_dir_names_what_is_imported_later(tmp_path: Path) -> None:
    code = """
import pidsl
wanted = {"compile", "compare", "design", "check_claims", "Kernel", "nn", "patterns", "testing", *pidsl.__all__}
assert wanted <= set(dir(pidsl)), wanted - set(dir(pidsl))
assert all(hasattr(pidsl, name) for name in dir(pidsl))
from pidsl import *
assert compile is pidsl.compile and Kernel is pidsl.Kernel and set(pidsl.__all__) <= set(globals())
"""
    ran = python(code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert ran.returncode == 0, ran.stderr
