"""The documentation: examples print what they say, commands run, links lead somewhere, the site builds."""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pidsl
import pidsl.hf
import pidsl.nn
import pidsl.select
from pidsl import testing

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)
FENCE = re.compile(r"^```(\{?[\w-]*\}?)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Blocks of these languages say what is not run: text, shell lines that need a GPU, a network or minutes are `text`.
NOT_RUN = {"text", "smt2", "toml", "{toctree}", "{eval-rst}", "{include}", "{image}", "{figure}", "{note}", "{raw}"}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    for found in FENCE.finditer(page.read_text(encoding="utf-8")):
        yield found[1], found[2]


@each_page
def test_examples(page: Path) -> None:
    results = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


@each_page
def test_blocks_without_a_prompt_run(page: Path) -> None:
    """In the order of the page, in one namespace."""
    namespace: dict[str, object] = {"__name__": "page"}
    for language, text in blocks(page):
        if language == "python" and ">>>" not in text:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, str(page), "exec"), namespace)


@each_page
def test_blocks_name_a_language(page: Path) -> None:
    """So that what is not run says so."""
    languages = {language for language, _ in blocks(page)}
    assert languages <= NOT_RUN | {"python", "sh"}, languages


# What a page shows of a shell, by how it begins. Commands that write go to a folder of their own.
COMMANDS = sorted({
    (line.strip(), str(page.relative_to(ROOT)))
    for page in PAGES
    for language, text in blocks(page)
    if language == "sh"
    for line in text.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
})  # fmt: skip
NOT_HERE = {
    "make": "builds, tests and measures: each is a command of its own",
    "pip": "installs",
    "python -m pip": "installs",
    "git": "changes the checkout",
    "python -m venv": "makes an environment",
    "PIDSL_SHOW": "an environment for a program of the reader",
    "torchrun": "test_training_on_two_processes below",
    "python docs/examples": "test_training_on_two_processes and test_the_generate_example below",
    "python benchmarks": "takes minutes; tests/whole/test_benchmark.py runs benchmarks on less",
    "pidsl demo": "tests/whole/test_demo.py",
    "pidsl bench": "measures",
    "pidsl claims": "tests/studies/test_claims.py",
    "pidsl report": "tests/pictures/test_report.py",
}
TAKES_LONG = ("demo", "bench", "claims", "report")


@pytest.mark.parametrize(("command", "page"), COMMANDS)
def test_commands_run(command: str, page: str, tmp_path: Path) -> None:
    words = shlex.split(command, comments=True)
    if words[:3] == ["python", "-m", "pidsl"]:
        words[:3] = ["pidsl"]
    if words[0] != "pidsl" or words[1] in TAKES_LONG:
        short = " ".join(words)
        assert any(short.startswith(begin) for begin in NOT_HERE), (
            f"{page}: {command} is neither run nor said to be not"
        )
        return
    found = subprocess.run(
        [sys.executable, "-m", "pidsl", *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_generate_example(capsys: pytest.CaptureFixture[str]) -> None:
    """Trained shortly, the letters are not right yet; with caches they are the same."""
    example = runpy.run_path(str(DOCS / "examples" / "generate.py"))
    assert example["main"](steps=4, count=12)
    assert "the same letters as without a cache: True" in capsys.readouterr().out


def test_readme_has_an_example() -> None:
    assert len(doctest.DocTestParser().get_examples((ROOT / "README.md").read_text())) >= 10


@pytest.fixture(scope="module")
def notebooks() -> SimpleNamespace:
    for package in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason="the notebooks are made and run by pidsl[docs]")
    return SimpleNamespace(**runpy.run_path(str(DOCS / "notebooks.py")))


def test_the_notebooks_are_made_of_the_pages(notebooks: SimpleNamespace, tmp_path: Path) -> None:
    """So that they say the same: `make notebooks`."""
    notebooks.main(tmp_path)
    made, kept = ({path.name: path.read_text() for path in of.iterdir()} for of in (tmp_path, DOCS / "notebooks"))
    assert made == kept


TUTORIAL = sorted((DOCS / "tutorial").glob("[!i]*.md"))


# One of them in a kernel; that the pages say what is shown is tested above for each.
@pytest.mark.parametrize(
    "page",
    [pytest.param(x, marks=[] if x.stem == "first_pattern" else pytest.mark.slow, id=x.stem) for x in TUTORIAL],
)
def test_the_notebooks_run_and_show_what_the_pages_say(notebooks: SimpleNamespace, page: Path) -> None:
    import nbclient

    book = notebooks.notebook(page)
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    judge = doctest.OutputChecker()
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell, wanted in zip(code, notebooks.shown(page), strict=True):
        got = "".join(shows(output) for output in cell.outputs)
        assert judge.check_output(wanted, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), (
            f"{cell.source}\n{got}\n{wanted}"
        )


def shows(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return f"{output.ename}: {output.evalue}\n"
    return f"{output.data['text/plain']}\n"


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and the site make of headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in HEADING.findall(text)}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        assert target.is_relative_to(ROOT), f"{link} leaves the checkout"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading, of {sorted(anchors(target))}"


# Pages lead to other sites only here; whether these answer is asked by `make linkcheck`, which wants a network.
ELSEWHERE = {"keepachangelog.com", "semver.org", "download.pytorch.org"}


@each_page
def test_links_to_other_sites_are_listed(page: Path) -> None:
    found = re.findall(r"\b(https?)://([\w.-]+)", page.read_text(encoding="utf-8"))
    assert {scheme for scheme, _ in found} <= {"https"}
    assert {host for _, host in found} <= ELSEWHERE


def test_the_citation_is_of_this_version() -> None:
    """Of the Citation File Format 1.2.0, all that is required; authors are a group, which has a name."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    said = dict(re.findall(r'^([\w-]+):(?: "?(.*?)"?)?$', text, re.MULTILINE))
    assert said.keys() >= {"cff-version", "message", "title", "authors", "version", "license"}
    assert (said["cff-version"], said["version"], said["license"]) == ("1.2.0", pidsl.__version__, "MIT")
    assert re.search(r'^authors:\n  - name: "', text, re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "docs/reference/measured.md"])
def test_times_are_those_of_the_committed_file(name: str) -> None:
    """The table under the name of the file: pidsl, dense, FlexAttention, its mask, and forward + backward."""
    found = json.loads((ROOT / "benchmarks" / "results" / "cpu-16384.json").read_text())["results"]
    sides = {(row["case"], row["side"]): row for row in found}
    text = (ROOT / name).read_text(encoding="utf-8").partition("| pattern | pidsl forward |")[2].partition("\n\n")[0]
    rows = [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in text.splitlines()[2:]]
    assert len(rows) == len({case for case, _ in sides})
    for row, case in zip(rows, dict.fromkeys(case for case, _ in sides), strict=True):
        dense, flex = sides[case, "dense SDPA"], sides[case, "FlexAttention"]
        ours = sides[case, "pidsl"]
        seconds = [
            *(side["forward"]["median_seconds"] for side in (ours, dense, flex)),
            flex["setup_seconds"]["mask"],
            *(side["forward+backward"]["median_seconds"] for side in (ours, dense)),
        ]
        assert row[1:] == [f"{x:.2f} s" if x >= 1 else f"{1000 * x:.0f} ms" for x in seconds]


NAMED = re.compile(r"\b(?:docs|benchmarks|tests|pidsl|codegen|patterns)/[\w./-]*\.(?:md|py|json|svg|png|ipynb)\b")


@each_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a warning, an orphan or a broken link is an error."""
    for package in ("sphinx", "furo", "myst_parser", "sphinx_copybutton"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'pidsl[docs]'")
    out = tmp_path_factory.mktemp("site")
    options = ["-W", "-n", "--keep-going", "-q", "-d", str(out / "trees")]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(out)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def test_the_site_has_every_page(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS)).with_suffix(".html").exists(), page


def test_the_site_has_every_public_name(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    described = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    documented = (pidsl, pidsl.hf, pidsl.nn, pidsl.select, testing)
    public = {f"{module.__name__}.{name}" for module in documented for name in module.__all__}
    assert sorted(public - described) == []


def test_the_site_asks_for_nothing_elsewhere(site: Path) -> None:
    """No script, style, picture or font from another host."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*\"", text), page
