"""The folder of generated programs: bounded, shared by processes, and not needed by what is loaded."""

import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pidsl.errors import BackendError
from pidsl.runtime.run_triton import cache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIDSL_CACHE", str(tmp_path / "programs"))
    return tmp_path / "programs"


def program(number: int, size: int = 1000) -> str:
    return f"def f():\n    return {number}\n".ljust(size, "#")


def held(home: Path) -> set[int]:
    return {int(path.read_text().split("return ")[1].split("\n")[0]) for path in home.glob("program_*.py")}


def test_what_was_used_least_recently_goes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDSL_CACHE_MB", "0.003")  # three programs of 1000 bytes
    for number in (1, 2, 3):
        os.utime(cache.write(program(number)), (number, number))  # written long ago, one after the other
    cache.write(program(1))  # used again
    cache.write(program(4))
    assert held(home) == {1, 3, 4}
    cache.write(program(5, 2500))
    assert held(home) == {5}


@pytest.mark.parametrize(("given", "kept"), [("0", {3}), ("0.002", {2, 3}), ("", {1, 2, 3}), ("inf", {1, 2, 3})])
def test_the_limit(home: Path, monkeypatch: pytest.MonkeyPatch, given: str, kept: set[int]) -> None:
    monkeypatch.setenv("PIDSL_CACHE_MB", given)
    for number in (1, 2, 3):
        os.utime(cache.write(program(number)), (number, number))
    assert held(home) == kept


@pytest.mark.parametrize("given", ["many", "-1", "nan", "256MB"])
def test_a_limit_that_is_no_number(home: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("PIDSL_CACHE_MB", given)
    with pytest.raises(BackendError, match="PIDSL_CACHE_MB=256"):
        cache.write(program(1))
    monkeypatch.setenv("PIDSL_CACHE_MB", "256")
    cache.write(program(1))


def test_other_files_are_left_alone_and_abandoned_ones_are_not(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDSL_CACHE_MB", "0")
    home.mkdir()
    for name, age in (("notes.txt", 9000), ("old.tmp", 9000), ("new.tmp", 0)):
        (home / name).write_text("x" * 5000)
        os.utime(home / name, (time.time() - age,) * 2)
    cache.write(program(1))
    assert {path.name for path in home.iterdir() if path.suffix != ".py"} == {"notes.txt", "new.tmp"}


def test_a_loaded_program_needs_no_file(home: Path) -> None:
    source = program(7)
    path = cache.write(source)
    path.unlink()  # as another process may do at any time
    module = cache.load(path, source)
    assert module.f() == 7 and inspect.getsource(module.f) == "def f():\n    return 7\n"
    assert cache.load(path, source) is module
    assert cache.write(source).read_text() == source  # written again


def test_a_kernel_runs_after_its_file_is_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from dense import dense, tensors

    from pidsl import window
    from pidsl.codegen.lower import lower
    from pidsl.runtime.call.call import Call
    from pidsl.runtime.run_triton.program import TritonProgram

    made = TritonProgram(lower(window(37)))
    made.path.unlink()
    q, k, v = tensors(9, 9, heads=1, kv_heads=1)
    torch.testing.assert_close(made.forward(Call(q, k, v, 0.25))[0], dense(window(37), q, k, v, 0.25)[0].float())


def test_several_processes_share_a_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
from pidsl.runtime.run_triton import cache
for number in range(150):
    source = f"def f(): return {number % 30}".ljust(1000, "#")
    assert cache.load(cache.write(source), source).f() == number % 30
"""
    monkeypatch.setenv("PIDSL_CACHE_MB", "0.005")
    runs = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(run.communicate(timeout=200)[1].decode(), run.returncode) for run in runs] == [("", 0)] * 3
    cache.write(program(1))
    assert len(list(home.glob("program_*"))) <= 5 and not list(home.glob("*.tmp"))


def test_a_folder_that_may_only_be_read_serves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.write(program(1))

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    assert cache.write(program(1)) == path
