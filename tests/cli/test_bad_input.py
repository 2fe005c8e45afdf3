"""Mistakes are told in one message with the place, exit code 2, and no traceback.

# follows the hints of pidsl/cli/kernels.py: subjects
# follows the hints of pidsl/cli/pages.py: report
"""

import subprocess
import sys
from pathlib import Path

import pytest

from pidsl.cli.main import main

BAD: list[tuple[list[str], list[str]]] = [
    # commands and options
    ([], ["Usage: pidsl"]),
    (["shw", "causal"], ["no command 'shw': did you mean 'show'?", "pidsl shw causal\n          ^^^\n"]),
    (["qqqq"], ["no command 'qqqq'", "pidsl --help"]),
    (["analyse", "causal"], ["it is `pidsl bounds` now", "^^^^^^^"]),
    (["explain", "causal"], ["it is `pidsl plan` now"]),
    (["--nonsense"], ["No such option", "^^^^^^^^^^"]),
    (["show", "causal", "--bnd", "k=1"], ["Did you mean", "--bnd k=1\n" + " " * 22 + "^^^^^"]),
    (["show", "causal", "-q"], ["-q"]),
    (["show"], ["Missing argument 'PATTERN'", "pidsl show --help"]),
    (["show", "causal", "full"], ["unexpected extra argument", "^^^^"]),
    (["compare"], ["Missing argument"]),
    (["design", "--layers", "3"], ["Missing option", "-n"]),
    # numbers
    (["show", "causal", "-n", "x"], ["'x' is not a valid integer", "pidsl show causal -n x\n" + " " * 25 + "^\n"]),
    (["show", "causal", "-n", "-1"], ["-1 is not in the range", "^^"]),
    (["show", "causal", "-n", "65"], ["65 is not in the range"]),
    (["show", "causal", "-n"], ["requires an argument"]),
    (["show", "causal", "--tokens", "0"], ["0 is not in the range"]),
    (["show", "causal", "--tokens=1e3"], ["'1e3'", "^^^^^^^^^^^^"]),
    (["compare", "causal", "-n", "99999999999"], ["range"]),
    (["design", "-n", "9", "--layers", "0"], ["range"]),
    (["design", "-n", "9", "--layers", "2", "--family", "rings"], ["family 'rings'", "window | stride"]),
    (["source", "causal", "--target", "cuda:h100"], ["'cuda:h100' is none of", "^^^^^^^^^"]),
    (["source", "causal", "--head-dim", "257"], ["257"]),
    (["plan", "causal", "--backend", "tritn"], ["'tritn'", "triton", "^^^^^"]),
    (["bench", "causal", "--dtype", "float8"], ["float8"]),
    (["bench", "causal", "-n", "4194304", "--heads", "64"], ["a tensor of fewer than 2**31 numbers"]),
    (["check", "causal", "--cases", "0"], ["range"]),
    (["check", "causal", "--seed", "a"], ["'a'"]),
    # bindings
    (["show", "window(k)", "--bind", "k"], ["'k' is not NAME=NUMBER", "--bind k\n" + " " * 34 + "^"]),
    (["show", "window(k)", "--bind", "k=x"], ["'k=x' is not NAME=NUMBER", "^^^"]),
    (["show", "window(k)", "--bind", "k=1.5"], ["'k=1.5'"]),
    (["show", "window(k)", "--bind", "=3"], ["'=3'"]),
    (["show", "window(k)", "--bind=k=x"], ["'k=x'", "^^^^^^^^^^"]),
    (["show", "window(k)", "-b", "k=1", "-b", "k=2"], ["k is 1 and 2"]),
    (["show", "window(k)", "--bind", "k=1", "--bind", "1=k"], ["'1=k'", "^^^"]),
    (["show", "window(k)", "--bind", "k=-1"], ["-1"]),
    (["show", "window(k)", "--bind", "p=1"], ["symbols of the term: k", "--bind p=1\n" + " " * 34 + "^^^"]),
    (["show", "window(3)", "--bind=k=2"], ["no symbols", "^^^^^^^^^^"]),
    (["show", "window(k)"], ["unbound symbol k", "\n    window(k)\n           ^", "try: --bind k=NUMBER"]),
    (["plan", "window(k) | keys(0, s)"], ["unbound symbols k, s", "try: --bind k=NUMBER --bind s=NUMBER"]),
    (["compare", "window(k)", "causal", "--bind", "k=1", "--bind", "z=1"], ["--bind z=1", "a symbol of one"]),
    (["show", "compile(causal)", "--bind", "k=1"], ["--bind"]),
    # patterns
    (["show", "windw(3)"], ["unknown word 'windw'", "\n    windw(3)\n    ^", "try: window"]),
    (["show", "causal | windw(3)"], ["\n    causal | windw(3)\n             ^"]),
    (["show", "window(3"], ["syntax error", "window(3\n"]),
    (["show", "window"], ["`window` without its arguments", "^"]),
    (["show", ""], ["no text"]),
    (["show", "causal and full"], ["`and` or `or`"]),
    (["show", "window(-1)"], ["left = -1", "\n    window(-1)\n    ^"]),
    (["show", "causal | keys(5, 2, 0)"], ["step = 0", "\n    causal | keys(5, 2, 0)\n             ^"]),
    (["show", "causal ** -1"], ["layers = -1", "\n" + " " * 14 + "^"]),
    (["show", "heads([(1, causal.blocked(0))])"], ["size = 0", "\n" + " " * 15 + "^"]),
    (["show", "score(softcap=3.0)"], ["a pattern: a term, gate, heads, layers or summaries"]),
    (["show", "__import__('os')"], ["'__import__'"]),
    (["bench", "gate(a=causal, b=full)"], ["one term; here are branch a, branch b"]),
    (["bounds", "summaries(causal, [spans(4, causal)])"], ["heads, layers or a gate"]),
    (["bench", "layers([causal, full])"], ["one term; here are layer 0, layer 1"]),
    (["bounds", "window(k) | lags(p)", "--assume", "p ="], ["the assumption 'p ='"]),
    (["bounds", "window(k)", "--assume", "q > 1"], ["q"]),
    (["compare", "window(k)", "--range", "k=4:1"], ["k=4:1", "low to high"]),
    (["compare", "window(k)", "--range", "k=x"], ["NAME=LOW:HIGH"]),
    (["compare", "window(k)", "--range", "k=1:2", "--range", "k=3"], ["k is"]),
    (["compare", "window(k)", "--range", "z=1:2"], ["a range for z", "ranges for k"]),
    (["compare", "window(k)", "--range", "k=1:5000"], ["5,000 members"]),
    (["design", "window(k)", "-n", "9", "--layers", "2"], ["no range for k"]),
    (["design", "windw(k)", "-n", "9", "--layers", "2", "--range", "k=1:2"], ["windw"]),
    (["design", "-n", "9", "--layers", "2", "--range", "k=1:2"], ["a range for k", "nothing here has parameters"]),
    (["compare", "causal", "a=windw(3)"], ["windw"]),
    (["compare", "a=causal", "a=full"], ["two patterns under the name 'a'"]),
    (["compare", "-", "b=-"], ["two patterns from standard input"]),
    (["compare", "window(k)"], ["k"]),
    (["compare", "gate(a=causal, b=full)"], ["a pattern or a schedule"]),
    (["plan", "window(k)"], ["unbound symbol k"]),
    (["source", "score(softcap=3.0)"], ["a pattern"]),
    (["check", "compile(causal, score=score(sinks=True))"], ["takes sinks", "a kernel of q, k and v alone"]),
    (["check", "compile(causal, output_gate='head')"], ["output_gate"]),
    # what is not there
    (["claims", "Mistral"], ["claim 'Mistral'", "'Mistral, reach'", "pidsl claims Mistral\n" + " " * 17 + "^^^^^^^"]),
    (["report", "causal", "-o", "-"], ["the name of a file"]),
    (["demo", "--device", "nonsense"], ["--device nonsense"]),
    (["check", "causal", "--device", "cuda:99"], ["--device cuda:99"]),
    (["bench", "causal", "--device", "meta:x"], ["--device meta:x"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "wanted"), BAD, ids=[" ".join(x) or "nothing" for x, _ in BAD])
def test_mistakes(arguments: list[str], wanted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert captured.err.startswith("pidsl: ") or arguments == []
    for text in wanted:
        assert text in captured.err, captured.err


@pytest.mark.parametrize(("streams", "code"), [("> /dev/full", 2), (">&-", 0), ("2>&- > /dev/full", 2)])
def test_streams_that_take_nothing(streams: str, code: int) -> None:
    called = f"'{sys.executable}' -m pidsl show causal {streams}"
    ended = subprocess.run(["sh", "-c", called], capture_output=True, text=True, check=False)
    assert ended.returncode == code and "Traceback" not in ended.stderr


def test_the_check_of_documents_says_what_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "window(3) & documents"]) == 2
    assert "the pattern without `documents`: within each document it is that one" in capsys.readouterr().err
    assert main(["check", "window(3)", "--cases", "2", "--longest", "5"]) == 0


def test_a_report_needs_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pidsl.pictures.report", reason="the page is being built")
    assert main(["report", "causal", "-o", str(tmp_path / "none" / "a.html")]) == 2
    assert "a place to write the page" in capsys.readouterr().err
    assert main(["report", "causal", "-n", "64", "-o", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size > 1000
