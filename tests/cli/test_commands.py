"""Every command: what it prints, its JSON, its exit code."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pidsl
from pidsl.cli import kernels, options
from pidsl.cli.dense_check import DTYPES, Check
from pidsl.cli.main import cli, main
from pidsl.cli.pages import expected

ROOT = Path(__file__).resolve().parent.parent.parent
Said = pytest.CaptureFixture[str]


def said(capsys: Said, *arguments: str, code: int = 0) -> str:
    """What a command prints on standard output."""
    found = main(arguments)
    captured = capsys.readouterr()
    assert found == code, captured.err
    assert "Traceback" not in captured.err
    return captured.out


def as_json(capsys: Said, *arguments: str, code: int = 0) -> Any:
    return json.loads(said(capsys, *arguments, "--json", code=code))


def shell(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "pidsl", *arguments],
        env=environment,
        text=True,
        capture_output=True,
        timeout=120,
        **more,
    )


# --- help


def test_help_fits_a_screen(capsys: Said) -> None:
    top = said(capsys, "--help")
    assert len(top.splitlines()) <= 25 and max(map(len, top.splitlines())) <= 80
    for name, command in cli.commands.items():
        assert f"\n  {name} " in top
        lines = said(capsys, name, "--help").splitlines()
        assert len(lines) <= 40 and max(map(len, lines)) <= 80, name
        assert any(f"  pidsl {name}" in line for line in lines), "an example"
        assert ("--json" in "\n".join(lines)) == (name not in ("demo", "report"))
        assert command.help


def test_examples_of_the_help_are_read() -> None:
    from click.testing import CliRunner

    for name, command in cli.commands.items():
        for line in (command.epilog or "").splitlines():
            if "pidsl " + name not in line:
                continue
            line = re.sub(r" > \S+\.\w+$", "", line).removeprefix('  echo "window(k) & causal" | ')
            words = shlex.split(re.sub(r" {3,}.*", "", line.strip()))[2:]
            found = CliRunner().invoke(command, [*words, "--help"])
            assert found.exit_code == 0, line
            command.make_context(name, words)


def test_nothing_heavy_is_imported_for_help_and_errors() -> None:
    code = """
import sys
from pidsl.cli.main import main
for words in (["--help"], ["check", "--help"], ["nonsense"], ["show", "windw(3)"], ["--version"]):
    main(words)
heavy = {"torch", "triton", "transformers", "matplotlib", "sympy", "z3"} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_version(capsys: Said) -> None:
    assert said(capsys, "--version") == f"pidsl {pidsl.__version__}\n"


# --- patterns


def test_show(capsys: Said) -> None:
    text = said(capsys, "show", "window(k) | stride(4) & causal", "--bind", "k=1", "-n", "5")
    for line in ("## . . . .", "#### . . .", " .#### . .", " . .#### .", "## . .####"):
        assert line in text.splitlines()
    assert f"{pidsl.parse('window(1) | stride(4) & causal').pairs(4096):,} pairs" in text
    found = as_json(capsys, "show", "window(1)", "-n", "3", "--tokens", "10")
    (part,) = found["parts"]
    assert part == {
        "title": "", "pattern": "window(1)", "mask": ["100", "110", "011"], "tokens": 10, "pairs": 19, "sparsity": 0.81,
        "degree": {"min": 1, "max": 2, "mean": 1.9},
    }  # fmt: skip
    assert found["pattern"] == "window(1)"


def test_show_counts_long_sequences(capsys: Said) -> None:
    found = as_json(capsys, "show", "window(63)", "--tokens", "2000000000")["parts"][0]
    assert found["pairs"] == pidsl.window(63).pairs(2_000_000_000) and found["degree"] is None


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("gate(local=window(3), skip=stride(4))", ["branch local", "branch skip"]),
        ("heads([(2, window(3)), (1, causal)])", ["2 heads", "1 head"]),
        ("layers([causal, heads([(2, window(3)), (1, causal)])])", ["layer 0", "layer 1, 2 heads", "layer 1, 1 head"]),
        ("pi_layers(3, 8, 2)", ["layer 0", "layer 1"]),
        ("compile(window(3), backend='torch')", [""]),
        ("summaries(blocks(4) & causal, [spans(4, window(3))])", ["exact keys"]),
    ],
)
def test_show_has_a_part_for_each_pattern(text: str, titles: list[str], capsys: Said) -> None:
    assert [part["title"] for part in as_json(capsys, "show", text, "-n", "4", "--tokens", "9")["parts"]] == titles
    assert all(title in said(capsys, "show", text, "-n", "4", "--tokens", "9") for title in titles)


def test_bounds(capsys: Said) -> None:
    words = ["bounds", "window(k) | lags(p)", "--bind", "k=4", "--assume", "p > 9", "--layers", "2", "--check"]
    text = said(capsys, *words)
    expected = (
        "pairs of window(4) | lags(p)",
        "p > 9",
        "farthest(layers=2)",
        "== 2*p",
        "checked: yes",
        "depth(of=causal)",
    )
    for line in expected:
        assert line in text
    assert "checked: no" not in text
    found = as_json(capsys, "bounds", "window(4)", "--layers", "2")
    by_name = {x["quantity"]: x for x in found["bounds"]}
    assert by_name["farthest(layers=2)"]["relation"] == "==" and "8" in by_name["farthest(layers=2)"]["formula"]
    assert all(x.keys() == {"of", "quantity", "relation", "formula", "assumptions", "proof", "reason", "checked"}
               for x in found["bounds"])  # fmt: skip
    assert all(x["checked"] is None for x in found["bounds"])


@pytest.mark.parametrize(
    ("text", "patterns", "through"),
    [
        (
            "gate(a=window(3), b=stride(8) & causal)",
            ["window(3)", "stride(8) & causal"],
            "window(3) | stride(8) & causal",
        ),
        ("heads([(2, window(3)), (1, lags(9)), (1, window(3))])", ["window(3)", "lags(9)"], "window(3) | lags(9)"),
        ("compile(gate(a=window(3)), backend='torch')", ["window(3)"], "window(3)"),
    ],
)
def test_bounds_of_several_patterns(text: str, patterns: list[str], through: str, capsys: Said) -> None:
    found = as_json(capsys, "bounds", text)["bounds"]
    each = [x for pattern in patterns for x in as_json(capsys, "bounds", pattern)["bounds"] if x["of"] is not None]
    together = [x for x in as_json(capsys, "bounds", through)["bounds"] if x["of"] is None]
    assert found == each + together
    assert len(as_json(capsys, "bounds", "layers([window(3), heads([(1, causal), (1, lags(2))])])")["bounds"]) == 15


def test_a_proof_that_fails_is_exit_code_1(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from pidsl.analysis.rules import Proof

    verdict = type("No", (), {"holds": False, "failure": "made up", "steps": ()})
    monkeypatch.setattr(Proof, "verdict", lambda self: verdict)
    assert "checked: no, made up" in said(capsys, "bounds", "window(4)", "--check", code=1)


def test_compare(capsys: Said) -> None:
    found = as_json(capsys, "compare", "local=window(w)", "causal", "--bind", "w=3", "-n", "100", "--layers", "2")
    assert [row["name"] for row in found["rows"]] == ["local", "causal"]
    wanted = pidsl.compare({"local": pidsl.window(3), "causal": pidsl.causal}, n=100, layers=2)
    for row in found["rows"]:
        assert row["pairs"]["value"] == wanted[row["name"]]["pairs"]
        assert row["farthest"]["relation"] == "=="
    text = said(capsys, "compare", "window(3)", "pi_layers(3, 8, 2)", "-n", "64")
    assert "computed/attended" in text and "layers([" in text


def test_design(capsys: Said) -> None:
    found = as_json(capsys, "design", "-n", "512", "--layers", "3", "--family", "window", "--check")
    assert [x["family"] for x in found["found"]] == ["window"] and found["checked"] is True
    assert found["found"][0]["pairs"] == pidsl.design(512, 3, families=["window"])["window"].pairs
    assert "window | stride" in said(capsys, "design", "-n", "512", "--layers", "3")
    nothing = as_json(capsys, "design", "-n", "4096", "--layers", "4", "--max-degree", "7", code=1)
    assert nothing["found"] == [] and "7^4" in nothing["reason"]


def test_a_front(capsys: Said) -> None:
    asked = ("design", "-n", "300", "--layers", "3", "--front", "--window", "3", "--budget", "depth=2")
    found = as_json(capsys, *asked, "--check")
    front = pidsl.design(300, 3, window=3, budget={"depth": 2}).front
    assert found["checked"] is True and found["budget"] == {"depth": 2} and found["window"] == 3
    assert [(x["keys"], x["cache"], x["received"], x["depth"]) for x in found["found"]] == [x.measures for x in front]
    assert "least possible" in said(capsys, *asked)
    assert "nothing fits" in said(capsys, *asked, "--budget", "keys=4", code=1)


def test_a_front_in_bytes(capsys: Said) -> None:
    sizes = ("kv_heads=2", "heads=4", "head_dim=16", "dtype=fp32", "ranks=2")
    asked = ("design", "window(w)", "-r", "w=15:31", "-n", "64", "--layers", "4", "--front")
    asked += tuple(x for size in sizes for x in ("--size", size))  # type: ignore[assignment]
    found = as_json(capsys, *asked, "--budget", "exchange_bytes=20000", "--budget", "cache_bytes=20000", "--check")
    (x,) = found["found"]
    plan = pidsl.distributed.plan(pidsl.window(16), 64, 2, kv_heads=2, heads=4, head_dim=16, dtype="fp32")
    assert found["checked"] is True and x["cache_bytes"] == 4 * 16 * 256 and x["exchange_bytes"] == 4 * plan.busiest
    assert "exchange bytes" in said(capsys, *asked)


def test_families_with_ranges(capsys: Said) -> None:
    text = "window(k) | keys(0, 4) & causal"
    found = as_json(capsys, "compare", f"sinks={text}", "causal", "--range", "k=2,4", "-n", "64")
    k = pidsl.symbols("k")
    wanted = pidsl.compare({"sinks": pidsl.parse(text), "causal": pidsl.causal}, n=64, ranges={k: [2, 4]})
    assert [row["name"] for row in found["rows"]] == ["sinks, k = 2", "sinks, k = 4", "causal"]
    assert [row["pairs"]["value"] for row in found["rows"]] == [row["pairs"] for row in wanted]
    assert "40 of 64 rows" in said(capsys, "compare", "window(k)", "-r", "k=0:63", "-n", "32")
    best = as_json(
        capsys, "design", f"sinks={text}", "lags(s) | window(w)", "-n", "64", "--layers", "3",
        "-r", "k=1:32", "-r", "w=1:20", "-r", "s=4:16:4",
    )  # fmt: skip
    api = pidsl.design(
        64, 3, family={"sinks": pidsl.parse(text), "skip": pidsl.parse("lags(s) | window(w)")},
        ranges={"k": (1, 32), "w": (1, 20), "s": [4, 8, 12, 16]},
    )  # fmt: skip
    assert [(x["pattern"], x["pairs"]) for x in best["found"]] == [(repr(x.pattern), x.pairs) for x in api.found]
    assert "nothing fits" in said(capsys, "design", "window(k)", "-n", "64", "--layers", "2", "-r", "k=1:8", code=1)


# --- kernels


def test_plan(capsys: Said) -> None:
    text = said(capsys, "plan", "window(63) | stride(256) & causal")
    assert "residue classes mod 256" in text
    found = as_json(capsys, "plan", "window(63) | stride(256) & causal", "--backend", "torch")
    assert [x["layout"] for x in found["plan"]["pieces"]] == [
        "identity", "residue classes mod 256, lag mod 256 == 0",
    ]  # fmt: skip
    assert found["plan"]["backend"] == "torch"
    assert found["explanation"] == pidsl.compile(pidsl.parse(found["pattern"]), "torch").explain()
    parts = as_json(capsys, "plan", "gate(a=window(3), b=causal)")["plan"]["parts"]
    assert [x["title"] for x in parts] == ["branch a", "branch b"]
    assert as_json(capsys, "plan", "layers([window(3), causal])")["plan"]["parts"]


def test_source(capsys: Said) -> None:
    for target in ("triton", "torch"):
        wanted = pidsl.compile(pidsl.window(3), target).source()
        assert said(capsys, "source", "window(3)", "--target", target) == wanted
        assert as_json(capsys, "source", "window(3)", "--target", target)["source"] == wanted


def test_source_for_a_gpu(capsys: Said) -> None:
    found = as_json(capsys, "source", "window(3)", "--target", "sm_90")
    assert len(found["kernels"]) >= 2
    for row in found["kernels"]:
        assert row["registers"] > 0 and row["shared_bytes"] >= 0


def test_check(capsys: Said) -> None:
    words = ("check", "window(3) | stride(16) & causal", "--cases", "12", "--longest", "70")
    assert "12 calls are those of dense attention" in said(capsys, *words)
    assert as_json(capsys, *words)["failure"] is None
    for text in (
        "ring(3)",
        "heads([(3, window(3)), (1, causal)])",
        "compile(causal, score=score(softcap=5.0))",
        "empty",
    ):
        assert as_json(capsys, "check", text, "--cases", "6", "--longest", "30")["passed"] == 6
    assert as_json(capsys, "check", "layers([causal, window(2)])", "--cases", "4", "--longest", "9")["passed"] == 8


def test_calls_of_a_seed_are_the_same_and_many_kinds() -> None:
    check = Check(pidsl.causal, pidsl.compile(pidsl.causal, "torch"))
    cases = list(check.cases(200, 3, 100, DTYPES["cpu"]))
    assert cases == list(check.cases(200, 3, 100, DTYPES["cpu"]))
    assert {x.shapes.n for x in cases} >= {0, 1, 2} and max(x.shapes.n for x in cases) <= 100
    assert {x.dtype for x in cases} == set(DTYPES["cpu"])
    assert any(x.shapes.heads > x.shapes.kv_heads for x in cases) and any(x.shapes.key_offset for x in cases)
    assert any(x.shapes.n < x.shapes.m for x in cases) and any(x.shapes.n > x.shapes.m for x in cases)


def test_a_wrong_kernel_is_exit_code_1_with_the_smallest_call(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.subjects

    def wrong(found: Any, backend: str) -> Any:
        """A kernel of 8 keys in the place of one of 9: the first difference is at the 9th key."""
        (_, kernel), = right(pidsl.window(7), backend)  # fmt: skip
        return [(found, lambda *x, **y: kernel(*x, **y))]

    class Plain:
        rings = ()

        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __call__(self, *x: Any, **y: Any) -> Any:
            return self.kernel(*x, **y)

    monkeypatch.setattr(kernels, "subjects", lambda *x: [(of, Plain(kernel)) for of, kernel in wrong(*x)])
    found = as_json(capsys, "check", "window(8)", "--longest", "60", code=1)
    failure = found["failure"]
    assert found["passed"] < found["cases"]
    assert failure["batch"] == failure["heads"] == failure["kv_heads"] == 1
    assert failure["n"] + failure["offset"] - failure["key_offset"] <= 9
    assert failure["head_dim"] == failure["value_dim"] == 8 and failure["layout"] == "plain"
    text = said(capsys, "check", "window(8)", "--longest", "60", code=1)
    assert "differs from dense attention, and the smallest is" in text and "q [1, 1, " in text


def test_bench(capsys: Said) -> None:
    words = ("bench", "window(3)", "-n", "64", "--rounds", "2", "--heads", "2", "--head-dim", "8")
    found = as_json(capsys, *words, "--no-flex")
    assert [x["name"] for x in found["sides"]] == ["pidsl", "dense SDPA, causal"]
    assert all(0 < x["min"] <= x["median"] <= x["max"] for x in found["sides"])
    text = said(capsys, *words, "--backward")
    assert "FlexAttention: has no backward on a CPU" in text
    assert "dense SDPA" in said(capsys, "bench", "full", *words[2:], "--no-flex")


def test_bench_says_why_a_side_is_missing(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from pidsl.cli import sides

    def fail(*x: Any) -> Any:
        raise RuntimeError("no C++ compiler\nmore")

    monkeypatch.setattr(sides, "flex_attention", fail)
    found = as_json(capsys, "bench", "window(3)", "-n", "16", "--rounds", "1")
    assert found["sides"][-1] == {
        "name": "FlexAttention", "median": None, "min": None, "max": None, "reason": "no C++ compiler",
    }  # fmt: skip


# --- claims


def test_claims(capsys: Said) -> None:
    names = ("Mistral, reach", "Mistral, reach, attained")
    found = as_json(capsys, "claims", *names, "--check")["claims"]
    assert [(x["verdict"], x["repaired"], x["checked"], x["expected"]) for x in found] == [
        ("proved", None, True, True), ("refuted", "proved", True, True),
    ]  # fmt: skip
    assert found[1]["counterexample"]
    assert "refuted" in said(capsys, "claims", names[1])
    assert "smallest counterexample" in said(capsys, "claims", names[1], "--long")
    assert said(capsys, "claims", names[1], "--markdown").startswith("# Published bounds, checked")


def test_a_claim_that_is_not_as_known_is_exit_code_1(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from pidsl.cli import pages

    monkeypatch.setattr(pages, "expected", lambda finding: False)
    assert as_json(capsys, "claims", "Mistral, reach", code=1)["claims"][0]["expected"] is False


def test_what_is_known_of_claims() -> None:
    from types import SimpleNamespace as Of

    def finding(verdict: str, repair: str = "", repaired: str = "") -> Any:
        of = Of(outcome=repaired) if repaired else None
        return Of(verdict=verdict, claim=Of(repair=repair), repaired=of)

    assert expected(finding("proved")) and expected(finding("refuted", "so", "proved"))
    assert not expected(finding("unknown")) and not expected(finding("refuted"))
    assert not expected(finding("refuted", "so", "unknown"))


# --- streams


def test_a_pattern_from_standard_input_and_nothing_but_json_on_standard_output() -> None:
    ran = shell("show", "-", "-n", "2", "--tokens", "4", "--json", input="window(1)  # two keys\n & causal\n")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["pattern"] == "window(1) & causal" or json.loads(ran.stdout)["pattern"] == "window(1)"
    ran = shell("check", "window(1)", "--cases", "3", "--json")
    assert json.loads(ran.stdout)["passed"] == 3 and "checking: " in ran.stderr


def test_pipes_get_plain_text_and_may_close() -> None:
    ran = shell("design", "-n", "512", "--layers", "3")
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "\x1b" not in shell("compare", "causal", "windw", env={"NO_COLOR": "1"}).stderr
    code = f"{sys.executable} -m pidsl source 'window(63) | stride(256) & causal' --target triton | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {code}"], env=environment, text=True, capture_output=True, check=False
    )
    assert ran.returncode == 0 and ran.stderr == "" and len(ran.stdout.splitlines()) == 1


def test_an_interrupt_is_130(capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*x: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "parse", stop)
    assert main(["show", "causal"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_completion_is_clicks() -> None:
    ran = shell(env={"_PIDSL_COMPLETE": "bash_source"})
    assert "complete -o nosort -F" in ran.stdout and ran.returncode == 0


# --- names of the library


def test_a_bare_name_stands_for_the_call_of_the_page(capsys: Said) -> None:
    assert main(["show", "longformer", "-n", "2", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "longformer stands for longformer(512)\n"
    assert json.loads(captured.out)["pattern"] == repr(pidsl.parse("longformer(512)"))


def test_devices(capsys: Said) -> None:
    asked = (
        "devices",
        "window(k) | stride(64) & causal",
        "-b",
        "k=15",
        "--n",
        "16384",
        "--ranks",
        "8",
        "--kv-heads",
        "2",
    )
    text = said(capsys, *asked)
    found = pidsl.distributed.plan(pidsl.window(15) | pidsl.stride(64) & pidsl.causal, n=16384, ranks=8, kv_heads=2)
    assert text == f"{found}\n" and "all-gather" in text
    told = as_json(capsys, *asked)
    assert told["forward"] == {
        "most": found.forward.most, "total": found.forward.total,
        "received": found.forward.received.tolist(), "sent": found.forward.sent.tolist(),
    }  # fmt: skip
    assert told["pairs"] == found.pairs.tolist() and told["sharding"]["kind"] == found.shards.kind
    assert [x["move"] for x in told["parts"]] == [x.chosen.name for xs in found.choices.values() for x in xs]
    assert [x["reason"] is None for x in told["others"]] == [True, True, False]


@pytest.mark.parametrize("name", sorted(pidsl.patterns.WRITTEN))
def test_every_name_of_the_library_is_read_or_told_its_arguments(name: str) -> None:
    told = ""
    try:
        found = options.parts(options.read(name, {}))
    except pidsl.ParseError as e:
        found, told = [], str(e)
    assert found or (f"`{name}` without its arguments" in told and f"{name}(" in told)


def test_the_page_of_the_command_line_has_every_command_and_key(capsys: Said) -> None:
    page = (ROOT / "docs" / "reference" / "command_line.md").read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        assert f"| `{name}" in page
        _, _, keys = (command.help or "").partition("JSON:")
        missing = [key for key in re.findall(r'"(\w+)"', keys) if f"`{key}`" not in page]
        assert not missing, (name, missing)
