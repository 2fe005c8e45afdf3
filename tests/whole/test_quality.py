"""The study of quality: its tasks ask what they say, its fields are what models see, and beyond them is chance."""

# follows the hints of pidsl/demo/tasks.py: check
# follows the hints of pidsl/demo/text.py: novels

from __future__ import annotations

import json
import math
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import budget
import numpy as np
import pytest
import quality
import quality_page
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_run import Run, field_of, proved

from pidsl import causal, layers, testing, window
from pidsl.demo.model import IGNORED
from pidsl.demo.tasks import FILLER, KEYS, MARKER, TASKS, VALUES, Asked
from pidsl.demo.text import LEAST, novels
from pidsl.demo.train import Step, learn, said, until_learned
from pidsl.errors import ArgumentError, PidslError
from pidsl.language.vocabulary import lags

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**31)


def made(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- tasks -------------------------------------------------------------------------------------------------------------


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, int | None, Asked]:
    """A task at any length and distance that it can have."""
    name = draw(st.sampled_from(sorted(TASKS)))
    task, distance = TASKS[name], None
    if task.at_distance:
        distance = draw(st.integers(1, 40))
    least = task.least(distance or 0)
    n = draw(st.integers(least, least + 90))
    return name, distance, task.asked(3, n, made(draw(SEEDS)), distance)


@given(questions())
def test_answers_stand_where_sources_say(drawn: tuple[str, int | None, Asked]) -> None:
    name, distance, found = drawn
    (batch, n), where = found.tokens.shape, found.where
    assert found.sources.shape == found.targets.shape == found.distances.shape == (batch, n)
    assert where.any(1).all() and 0 <= found.tokens.min() and found.tokens.max() < TASKS[name].tokens
    assert (found.targets[~where] == IGNORED).all() and (found.distances[~where] == 0).all()
    for b, i in where.nonzero().tolist():
        source = int(found.sources[b, i])
        assert 0 <= source < i
        assert found.targets[b, i] == found.tokens[b, source] and found.distances[b, i] == i - source
    if distance is not None:
        assert (found.distances[where] == distance).all()


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_as_likely_as_each_other(name: str) -> None:
    """Each as often as any, within 6 standard deviations: then chance is one in so many."""
    task = TASKS[name]
    found = task.asked(800, 64, made(1), 20 if task.at_distance else None)
    answers = Counter(found.targets[found.where].tolist())
    kinds = VALUES if name == "passkey" else task.choices  # its values differ: each excludes those said before it
    mean = sum(answers.values()) / kinds
    assert len(answers) == kinds and task.chance == 1 / task.choices
    assert all(abs(count - mean) < 6 * mean**0.5 for count in answers.values())


def test_passkeys_are_of_four_values_that_differ() -> None:
    said_ = TASKS["passkey"].asked(50, 32, made(0)).targets
    values = said_[said_ != IGNORED].view(50, 4)
    assert all(len(set(row)) == 4 for row in values.tolist()) and TASKS["passkey"].choices == VALUES - 3


def old_recall(batch: int, n: int, made: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """As the study of budgets was made with."""
    tokens, targets = torch.randint(FILLER, (batch, n), generator=made), torch.full((batch, n), IGNORED)
    pairs, behind = n // 16, n // 4
    keys = torch.rand(batch, KEYS, generator=made).argsort(1)[:, :pairs] + FILLER
    values = torch.randint(FILLER + KEYS, MARKER, (batch, pairs), generator=made)
    at = 2 * torch.rand(batch, (n - behind) // 2, generator=made).argsort(1)[:, :pairs]
    asked = n - behind + 2 * torch.rand(batch, behind // 2, generator=made).argsort(1)[:, :pairs]
    for where in (at, asked):
        tokens.scatter_(1, where, keys).scatter_(1, where + 1, values)
    return tokens, targets.scatter_(1, asked, values)


def old_passkey(batch: int, n: int, made: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, targets = torch.randint(FILLER, (batch, n), generator=made), torch.full((batch, n), IGNORED)
    values = torch.rand(batch, VALUES, generator=made).argsort(1)[:, :4] + FILLER + KEYS
    said = torch.cat([torch.full((batch, 1), MARKER), values], 1)
    at = torch.randint(n - n // 4 - 5, (batch, 1), generator=made) + torch.arange(5)
    tokens.scatter_(1, at, said)
    tokens[:, -5:], targets[:, -5:-1] = said, values
    return tokens, targets


@pytest.mark.parametrize(("name", "before"), [("recall", old_recall), ("passkey", old_passkey)])
def test_budgets_are_measured_with_the_sequences_they_were(name: str, before: Any) -> None:
    for n in (32, 64, 256):
        for x, y in zip(budget.asked(name, 5, n, made(n)), before(5, n, made(n)), strict=True):
            assert torch.equal(x, y)


REFUSED: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("copy", {"n": 20, "distance": 20}, "at least 21 tokens for answers 20 tokens back", {"n": 21}),
    ("copy", {"n": 20}, "distance = None\n  expected: a distance, in tokens", {"n": 21, "distance": 20}),
    ("copy", {"n": 20, "distance": 0}, "1 or more", {"distance": 1}),
    ("boundary", {"n": 23, "distance": 20}, "at least 24 tokens", {"n": 24}),
    ("boundary", {"n": 3, "distance": 2}, "at least 4 tokens", {"n": 4}),
    ("induction", {"n": 31}, "at least 32 tokens", {"n": 32}),
    ("induction", {"n": 31, "distance": 4}, "none: the sequences have any", {"n": 32, "distance": None}),
    ("recall", {"n": 15}, "at least 16 tokens", {"n": 16}),
    ("recall", {"n": 1040}, "at most 1039 tokens", {"n": 1039}),
    ("passkey", {"n": 15}, "at least 16 tokens", {"n": 16}),
]


@pytest.mark.parametrize(("name", "given_", "expected", "hint"), REFUSED)
def test_a_task_refuses_what_it_cannot_be(
    name: str, given_: dict[str, Any], expected: str, hint: dict[str, Any]
) -> None:
    with pytest.raises(ArgumentError, match=re.escape(expected)) as caught:
        TASKS[name].asked(2, made=made(0), **given_)
    assert caught.value.where == name
    word, _, value = caught.value.hint.partition("=")
    assert str(hint[word]) == value
    found = TASKS[name].asked(2, made=made(0), **{**given_, **hint})
    assert found.where.any(1).all()


# -- what models see ---------------------------------------------------------------------------------------------------


def run_of(pattern: str, count: int, n: int, **given_: Any) -> Run:
    """A run of copying, with a small model."""
    sizes = {"dim": 8, "heads": 2, "distance": 1, **given_}
    return Run(study="seen", task="copy", name="any", pattern=pattern, layers=count, n=n, **sizes)


def changed(run: Run, dtype: torch.dtype) -> np.ndarray:
    """Whether what an untrained model says at a token is other bits when another token is another one: bool [n, n]."""
    model, n = run.model().to(dtype), run.n
    before = torch.randint(16, (n,), generator=made(run.seed)).expand(n, n)
    after = (before + torch.eye(n, dtype=torch.int64) * (1 + run.seed % 15)) % 16  # in sequence k, token k
    with torch.no_grad():
        return (model(after) != model(before)).any(-1).T.numpy()


@given(
    st.lists(testing.terms(2), min_size=1, max_size=3),
    st.integers(2, 14),
    st.booleans(),
    st.sampled_from([0.0, 1e4]),
    st.integers(0, 99),
)
def test_the_field_is_what_a_model_sees(terms: list[Any], n: int, convolution: bool, rope: float, seed: int) -> None:
    """Beyond it nothing changes, in no bit; within it, where sums are precise enough, something does."""
    pattern = repr(layers([(term | window(0)) & causal for term in terms]))
    run = run_of(pattern, len(terms), n, convolution=convolution, rope=rope, seed=seed)
    field = field_of(run)
    assert not (changed(run, torch.float32) & ~field).any()
    assert (changed(run, torch.float64) == field).all()


@settings(max_examples=settings.default.max_examples // 2)
@given(
    st.lists(
        st.builds(lambda k, more: window(k) | lags(*more), st.integers(0, 6), st.sets(st.integers(1, 24), max_size=3)),
        min_size=1,
        max_size=3,
    ),
    st.integers(2, 99),
    st.booleans(),
)
def test_the_field_is_as_far_as_it_is_proved(terms: list[Any], n: int, convolution: bool) -> None:
    run = run_of(repr(layers(terms)), len(terms), n, convolution=convolution)
    field, back = field_of(run), np.subtract.outer(np.arange(n), np.arange(n))
    seen = [bool(field[back == lag].all()) for lag in range(n)]
    assert all(seen[lag] == field[back == lag].any() for lag in range(n))  # a matter of the lag
    far = max(lag for lag in range(n) if seen[lag])
    found = proved(run.flow, n)
    assert found["contiguous"] in {[*seen, False].index(False) - 1, None}
    assert found["farthest"] in {far, None}
    lags_of = [np.subtract(*np.nonzero(term.mask(99))) for term in run.flow]
    if sum(int(lags.max()) for lags in lags_of) < n:  # only of short sequences may nothing be proved
        assert None not in found.values()


def test_a_gated_model_sees_the_union_of_its_branches() -> None:
    run = run_of("pi_gate(2, 7)", 2, 24)
    assert (changed(run, torch.float64) == field_of(run)).all()
    assert (field_of(run) == field_of(run_of("window(2) | lags(7)", 2, 24))).all()


# -- what they learn ---------------------------------------------------------------------------------------------------


def answered(pattern: str, distance: int, steps: int) -> tuple[int, int, bool]:
    """Questions and right answers of a trained model, and whether it sees what is asked.

    One question of each sequence is counted, its last one. Of who cannot see a symbol, each of these answers is right
    with a probability of 1/16, whatever the others are: the symbol is drawn for itself alone.
    """
    run = Run("learned", "copy", "any", pattern, layers=2, n=64, distance=distance, steps=steps, batch=16)
    model, drawn = run.model(), made(run.seed)
    batches = (TASKS["copy"].asked(16, run.n, drawn, distance) for _ in range(steps))
    for _ in until_learned(learn(model, ((x.tokens, x.targets) for x in batches), steps, run.rate, CPU)):
        pass
    asked = TASKS["copy"].asked(640, run.n, made(1 << 40), distance)
    right = (said(model, asked.tokens, CPU) == asked.targets)[:, -1]
    return len(right), int(right.sum()), bool(field_of(run)[-1, -1 - distance])


def by_chance(right: int, of: int, p: float) -> float:
    """The probability of so many or more right answers, or of so few or fewer, whichever is less."""

    def exactly(k: int) -> float:
        ways = math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        return math.exp(ways + k * math.log(p) + (of - k) * math.log1p(-p))

    return min(math.fsum(map(exactly, range(right, of + 1))), math.fsum(map(exactly, range(right + 1))))


@pytest.mark.parametrize(
    ("pattern", "distance"),
    [("window(7)", 20), ("window(6) | lags(16)", 24), ("window(4) | stride(32)", 15)],
)
def test_beyond_the_field_is_chance(pattern: str, distance: int) -> None:
    """A false alarm is less likely than one in a million."""
    of, right, sees = answered(pattern, distance, 40)
    assert not sees
    assert by_chance(right, of, TASKS["copy"].chance) > 5e-7, f"{right} of {of}"


def test_within_the_field_it_is_learned() -> None:
    of, right, sees = answered("window(6) | lags(16)", 20, 100)
    assert sees and right > 0.9 * of
    assert by_chance(right, of, TASKS["copy"].chance) < 1e-6


def test_training_ends_when_there_is_nothing_to_learn() -> None:
    def taken(nats: list[float]) -> int:
        return len(list(until_learned(Step(x, 0.0) for x in nats)))

    assert taken([1.0, 0.5]) == 2 and taken([0.0] * 9) == 5
    assert taken([0.0, 0.0, 1.0, *[0.001] * 9]) == 8


# -- the study ---------------------------------------------------------------------------------------------------------


def test_the_committed_study_is_at_equal_keys() -> None:
    """As the comment beside each group says, for all but the ceiling."""
    text = quality.CONFIG.read_text(encoding="utf-8")
    stated = {name: int(keys) for name, keys in re.findall(r"\[contenders\.(\w+)\].*?at most (\d+) keys", text)}
    assert stated == {"eight": 8, "four_layers": 8, "sixteen": 16, "short": 8}
    contenders = quality.tomllib.loads(text)["contenders"]
    group_of = {(name, spec): group for group in contenders for name, spec in contenders[group].items()}
    runs = quality.planned(quality.CONFIG)
    checked = set()
    for run in {(run.pattern, run.n): run for run in runs}.values():
        groups = [group for (name, spec), group in group_of.items() if spec == run.pattern and group in stated]
        for group in groups if run.pattern != "causal" else []:
            assert run.keys <= stated[group], run
            checked.add((group, run.pattern))
    assert {group for group, _ in checked} == set(stated)
    periods = {run.name: run.keys for run in runs if run.study == "periods"}
    assert {keys for name, keys in periods.items() if name.startswith("period_")} == {8}
    assert len(set(runs)) == len(runs) > 500 and {run.seed for run in runs} == set(range(5))


@pytest.fixture(scope="module")
def results() -> dict[str, list[dict[str, Any]]]:
    return quality.results_of(quality.planned(quality.CONFIG), quality.RESULTS)


def test_the_study_is_done_and_the_page_is_of_it(results: dict[str, list[dict[str, Any]]]) -> None:
    assert not quality.missing(quality.planned(quality.CONFIG), quality.RESULTS)
    page = quality_page.PAGE.read_text(encoding="utf-8")
    assert quality_page.renewed(page, results) == page  # else: python benchmarks/quality.py --page


def test_what_the_study_found_beyond_the_field_is_chance(results: dict[str, list[dict[str, Any]]]) -> None:
    """Of all its runs. Copies and recall within the field of one model are all but independent."""
    asked = [
        (row["chance"], *quality_page.counted(row, 1)) for rows in results.values() for row in rows if "chance" in row
    ]
    beyond = [(chance, n, right) for chance, n, right in asked if n]
    assert len(beyond) > 300 and sum(n for _, n, _ in beyond) > 10**6
    for chance, n, right in beyond:
        assert abs(right - n * chance) < 7 * math.sqrt(n * chance)  # once in 10**11


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [0.5, 0.1, 0.9, 0.3, 0.2]])
def test_intervals_cover_as_often_as_they_say(values: list[float]) -> None:
    """By the density of Student's t, integrated."""
    found, n = quality_page.mean_of(values), len(values)
    t = found.half / (np.std(values, ddof=1) / math.sqrt(n))
    x = np.linspace(-t, t, 200_001)
    density = (1 + x * x / (n - 1)) ** (-n / 2)
    whole = math.sqrt((n - 1) * math.pi) * math.gamma((n - 1) / 2) / math.gamma(n / 2)
    assert np.trapezoid(density, x) / whole == pytest.approx(0.95, abs=1e-6)
    assert found.mean == pytest.approx(np.mean(values))


STUDY = """
[contenders.few]
pi = "window(1) | lags(4)"
window = "window(2)"

[[runs]]
study = "tiny"
task = "copy"
group = "few"
of = ["pi", "window"]
layers = 1
n = 32
dim = 8
heads = 2
distance = 4
steps = 2
batch = 2
"""
WRONG = [
    ('task = "copy"', 'task = "coppy"', r"task = 'coppy'\n  expected: one of copy, boundary"),
    ("distance = 4", "distance = 32", r"n = 32\n  expected: at least 33 tokens for answers 32 tokens back"),
    ("distance = 4", "", r"distance = None\n  expected: a distance"),
    ('task = "copy"', 'task = "novels"', r"distance = 4\n  expected: none: text"),
    ('of = ["pi", "window"]', 'of = ["pie"]', r"of = 'pie'\n  expected: one of pi, window"),
    ('group = "few"', 'group = "fewer"', r"group = 'fewer'\n  expected: one of few"),
    ("steps = 2", "step = 2", r"step: 2\n  expected: .*no other than arguments of Run"),
    ("layers = 1", "", r"layers: 'missing'"),
    ("lags(4)", "lags(4", r"expected"),
    ("window(2)", "layers([window(2, 1)])", r"expected: a causal one"),
    ("window(2)", "lags(1, 2)", r"each token attends itself(.|\n)*try: .*\| window\(0\)"),
    ("window(2)", "layers([window(2), window(2)])", r"2 layers in .*\n  expected: layers = 1"),
    ('of = ["pi", "window"]', 'of = ["pi", "pi"]', r"twice: study='tiny'"),
    ("[[runs]]", "[[run]]", r"'runs'\n  expected: a file of contenders and runs"),
    ("steps = 2", "steps = ", r"expected: a file of contenders and runs"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), WRONG)
def test_a_study_that_cannot_be_is_refused(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    config = tmp_path / "study.toml"
    config.write_text(STUDY.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(PidslError) as caught:
        quality.planned(config)
    assert re.search(message, str(caught.value)), caught.value


def test_an_unknown_study_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "study.toml"
    config.write_text(STUDY, encoding="utf-8")
    for argv, message in (
        (["--config", str(config), "--only", "huge"], "no study 'huge': there are tiny"),
        (["--config", str(tmp_path / "none.toml")], "No such file"),
    ):
        with pytest.raises(SystemExit) as ended:
            quality.main(argv)
        assert ended.value.code == 2 and message in capsys.readouterr().err


def test_what_was_stopped_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "study.toml", tmp_path / "results"
    config.write_text(STUDY, encoding="utf-8")
    argv = ["--config", str(config), "--results", str(out), "--jobs", "1"]
    quality.main([*argv, "--list"])
    assert [line.count("study='tiny'") for line in capsys.readouterr().out.splitlines()] == [1, 1]
    out.mkdir()
    path = out / "tiny.jsonl"
    path.write_text('{"run": {"study": "tiny", "ta', encoding="utf-8")  # its writer was killed
    assert quality.main(argv) == 0
    assert "tiny: the last line was cut off, and its run is done again" in capsys.readouterr().err
    lines = path.read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["run"]["name"] for line in lines} == {"pi", "window"} and len(lines) == 2
    for line in map(json.loads, lines):
        assert line["steps"] == 2 and line["chance"] == 1 / 16
        within, beyond = line["by_distance"]["4"]
        asked = [128 * (32 - 4), 0]
        assert [within[0], beyond[0]] == (asked if line["run"]["name"] == "pi" else asked[::-1])
    assert quality.main(argv) == 0 and path.read_text(encoding="utf-8").splitlines() == lines  # nothing is left to do

    runs = quality.planned(config)
    path.write_text(lines[0] + "\n" + lines[1][:50], encoding="utf-8")
    assert [run.name for run in quality.missing(runs, out)] == [json.loads(lines[1])["run"]["name"]]
    path.write_text(lines[0] + "\n{}\n", encoding="utf-8")
    with pytest.raises(ArgumentError, match=r"a result of a run\n.*tiny.jsonl, line 2"):
        quality.done("tiny", out)


# -- novels ------------------------------------------------------------------------------------------------------------


def vector(lines: list[str]) -> bytes:
    """A vector of strings as R writes it: flags, a length, and for each string its flags, length and bytes."""
    strings = [line.encode() for line in lines]
    flags = [b"\x00\x04\x00\x09" if string.isascii() else b"\x00\x08\x00\x09" for string in strings]
    each = (flag + len(string).to_bytes(4) + string for flag, string in zip(flags, strings, strict=True))
    return b"X\n" + bytes(12) + b"\x00\x00\x00\x10" + len(lines).to_bytes(4) + b"".join(each)


def package(folder: Path, vectors: list[list[str]]) -> Path:
    """A package with these in its database: each in zlib, with its length before it."""
    (folder / "data").mkdir(parents=True)
    stored = [vector(lines) for lines in vectors]
    database = b"".join(len(x).to_bytes(4) + zlib.compress(x) for x in stored)
    (folder / "data" / "Rdata.rdb").write_bytes(database)
    return folder


def test_novels_are_read_from_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = LEAST // 8 // 16
    books = [[f"{name} ligne é {k:06}" for k in range(many)] + ["", f"the end of {name}"] for name in "ABC"]
    folder = package(tmp_path / "janeaustenr", [books[0], ["no", "novel"], *books[1:]])
    monkeypatch.setenv("NOVELS", str(folder))
    text = novels()
    assert text.files == 3 and text.folder == folder
    assert bytes(text.held_out.tolist()).decode() == "\n".join(books[2])
    assert bytes(text.train.tolist()).decode() == "\n".join(books[0]) + "\n".join(books[1])
    assert torch.equal(novels(folder).train, text.train)


def test_novels_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = ["a line of a novel " * 20] * (LEAST // 8 // 300)
    one = package(tmp_path / "one", [book])
    broken = package(tmp_path / "broken", [])
    (broken / "data" / "Rdata.rdb").write_bytes(b"\x00\x00\x00\x09no zlib")
    for folder, given_ in ((tmp_path, "no "), (one, "1 novels in "), (broken, "0 novels in ")):
        monkeypatch.setenv("NOVELS", str(folder))
        with pytest.raises(PidslError) as caught:
            novels()
        assert caught.value.given == f"{given_}{folder / 'data' / 'Rdata.rdb'}"
        assert "name its folder in NOVELS" in caught.value.hint
    monkeypatch.setenv("NOVELS", str(package(tmp_path / "there", [book, book])))
    assert novels().files == 2
