"""Tiles chosen by trying: what is tried and when, where choices are kept, and when they are made again."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import tensors
from torch import Tensor
from triton.runtime.errors import OutOfResources

import pidsl
from pidsl import causal, neighborhood, score, stride, window
from pidsl.codegen.choice.targets import Kind
from pidsl.codegen.lower import lower
from pidsl.errors import BackendError
from pidsl.language.terms import Term
from pidsl.runtime.call.call import Call
from pidsl.runtime.run_triton import tune
from pidsl.runtime.run_triton.program import TritonProgram
from pidsl.runtime.run_triton.tune import Sizes, TunedProgram

interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="CPU tensors need the interpreter")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIDSL_CACHE", str(tmp_path))
    return tmp_path


class Timed:
    """A program to tune and a clock for which measurement number `fastest` is that; `sizes` are those made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, term: Term, fastest: int) -> None:
        self.term, self.fastest, self.count = term, fastest, 0
        self.sizes: list[Sizes] = []
        monkeypatch.setattr(tune, "seconds", self.seconds)

    def seconds(self, work: Callable[[], Any]) -> float:
        work()
        self.count += 1
        return 1.0 if self.count == self.fastest else 2.0

    def program(self) -> TunedProgram:
        def variant(sizes: Sizes) -> TritonProgram:
            self.sizes.append(sizes)
            return TritonProgram(lower(self.term, size=sizes))

        return TunedProgram(TritonProgram(lower(self.term)), variant, Kind())


def call(n: int) -> Call:
    q, k, v = tensors(n, n, heads=1, kv_heads=1)
    return Call(q, k, v, 0.25)


def both(program: Any, given: Call) -> list[Tensor]:
    out, lse = program.forward(given)
    return [out, lse, *program.backward(given, out, lse, out, None, False)[:3]]


@interpreted
def test_each_class_is_timed_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, window(5) | stride(7) & causal, fastest=2)
    made, x = timed.program(), call(20)
    expected = both(TritonProgram(lower(timed.term)), x)
    for y, wanted in zip(both(made, x), expected, strict=True):
        torch.testing.assert_close(y, wanted)
    first, files = timed.count, sorted(home.glob("tuned_*.json"))
    assert first > 4 and len(files) == 3
    chosen = {json.loads(x.read_text())["class"]["pass"]: json.loads(x.read_text())["tiles"] for x in files}
    assert chosen["forward"] is not None and chosen["grad_query"] is chosen["grad_key"] is None
    both(made, call(30)), both(made, x), both(timed.program(), x)  # 30 is of the same class, and files are read
    assert timed.count == first and tuple(chosen["forward"]) == timed.sizes[-1][0]
    both(made, call(40))
    assert timed.count == 2 * first and len(list(home.glob("tuned_*.json"))) == 6


@interpreted
@pytest.mark.parametrize("damage", ["", "{", "[]", '"x"', "{}", "tiles", "class"])
def test_files_that_hold_anything_else_are_written_again(
    damage: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Timed(monkeypatch, window(5), fastest=2)
    timed.program().forward(call(20))
    (file,), count = home.glob("tuned_*.json"), timed.count
    sound = file.read_text()
    if damage in ("tiles", "class"):
        damage = json.dumps(json.loads(sound) | {damage: [7, 7]})
    file.write_text(damage)
    timed.count = 0
    timed.program().forward(call(20))
    assert timed.count == count and file.read_text() == sound


@interpreted
def test_what_has_no_room_is_not_chosen(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(work: Callable[[], Any]) -> float:
        times.append(float(len(times)))
        if len(times) == 1:
            raise OutOfResources(300_000, 200_000, "shared memory")
        return times[-1]

    times: list[float] = []
    timed = Timed(monkeypatch, window(5), fastest=0)
    monkeypatch.setattr(tune, "seconds", clock)
    timed.program().forward(call(20))
    (file,) = home.glob("tuned_*.json")
    assert len(times) > 2 and json.loads(file.read_text())["tiles"] == list(timed.sizes[-1][0])


@interpreted
def test_a_pattern_without_tiles_has_nothing_to_try(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, neighborhood((8, 8), 3), fastest=1)
    both(timed.program(), call(64))
    assert not timed.count and not list(home.glob("tuned_*.json"))


@interpreted
def test_nothing_is_timed_while_a_graph_is_captured(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed(monkeypatch, window(5), fastest=2)
    made = timed.program()
    monkeypatch.setattr(tune, "_capturing", lambda: True)
    made.forward(call(20))
    assert not timed.count and not list(home.glob("tuned_*.json"))
    monkeypatch.setattr(tune, "_capturing", lambda: False)
    made.forward(call(20))
    assert timed.count


@pytest.mark.parametrize("backend", ["auto", "triton", "torch", "reference"])
def test_without_a_gpu_it_is_refused(backend: Any) -> None:
    with pytest.raises(BackendError, match=r"tune=True with backend '(torch|triton|reference)'"):
        pidsl.compile(window(3), backend, tune=True)


def test_the_interpreter_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BackendError, match="Triton interprets"):
        pidsl.compile(window(3), "triton", tune=True)


def test_a_recipe_says_it() -> None:
    recipe = pidsl.parse("compile(window(63), backend='triton', tune=True)")
    assert recipe.tune and pidsl.parse(repr(recipe)) == recipe != pidsl.parse("compile(window(63), backend='triton')")
    assert "tune" not in repr(pidsl.compile(window(3), "torch", score(sinks=True)))
