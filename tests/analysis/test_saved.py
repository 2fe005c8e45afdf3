"""Bounds travel as JSON: what comes back is verified without a search, and what was changed on the way is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from test_statements import statements

import pidsl
from pidsl import ParseError, causal, lags, stride, window
from pidsl.analysis import portfolio
from pidsl.analysis.bound import Bound
from pidsl.analysis.formulas.text import formula_of, text_of
from pidsl.analysis.formulas.words import CeilLog, Periodic, Table, internal, n, symbol, value_of
from pidsl.analysis.saved import from_json, to_json
from pidsl.cli.main import main

k, p = pidsl.symbols("k p")


# -- formulas ----------------------------------------------------------------------------------------------------------

atoms = st.one_of(st.integers(-9, 99).map(sympy.Integer), st.sampled_from([n, symbol("k"), symbol("L"), internal("w")]))


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    two = st.tuples(inner, inner)
    return st.one_of(
        two.map(lambda x: x[0] + x[1]), two.map(lambda x: x[0] * x[1]), two.map(lambda x: sympy.Min(*x)),
        two.map(lambda x: sympy.Max(*x)), inner.map(lambda x: sympy.floor(x / 3)), inner.map(lambda x: x / 2),
        inner.map(lambda x: sympy.ceiling(x / 7)), inner.map(lambda x: sympy.Mod(x, 5)), inner.map(lambda x: x**2),
        inner.map(lambda x: Periodic(x, 1, sympy.Rational(1, 2), n)), inner.map(lambda x: -x),
        two.map(lambda x: sympy.Piecewise((x[0], (n < 3) & (x[1] >= n)), (x[1], sympy.Ne(n, 5)), (n, True))),
    )  # fmt: skip


@given(st.recursive(atoms, grown, max_leaves=6), st.integers(0, 30), st.integers(0, 30))
def test_a_formula_is_read_back(expr: Any, x: int, y: int) -> None:
    again = formula_of(text_of(expr))
    numbers = {s: sympy.Integer((x, y, x + y, x - y)[k]) for k, s in enumerate(sorted(expr.free_symbols, key=str))}
    assert again == expr or _value(again, numbers) == _value(expr, numbers)


def _value(expr: Any, numbers: Any) -> Any:
    try:
        return value_of(expr, numbers)
    except (ValueError, AttributeError):  # sympy makes nan of some; a fraction in a list has no place
        return None


def test_what_formulas_are_made_of() -> None:
    for x in (sympy.oo, -sympy.oo, CeilLog(2, n + 1), Table(n, 1, 4), 2**n, sympy.Eq(sympy.Mod(n, 3), 0), n >= 2,
              sympy.true, sympy.Not(sympy.Eq(n, 3) & (n > 1)), sympy.Rational(7, 3) * n):  # fmt: skip
        assert formula_of(text_of(x)) == x
    for text in ("", "n +", "__import__('os')", "n.x", "open('x')", "lambda: n", "n if n else 1", "[n]", "'n'", "1.5",
                 "f(n)", "Min(*n)", "Piecewise(n)", "n @ n"):  # fmt: skip
        with pytest.raises(ParseError):
            formula_of(text)


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_every_statement_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    """No way to an answer is tried while it is verified."""
    saved = [to_json(bound) for bound in statements()]
    monkeypatch.setattr(portfolio, "WAYS", {})
    for text, bound in zip(saved, statements(), strict=True):
        (again,) = from_json(text)
        assert (again.question, again.relation) == (bound.question, bound.relation)
        verdict = again.proof.verdict()
        assert verdict.holds, (bound, verdict.failure)


def test_what_is_changed_on_the_way_is_refused() -> None:
    draw, accepted = random.Random(0), 0
    for bound in statements():
        if bound.relation != "==" or bound.expr.has(sympy.oo, -sympy.oo):
            continue
        data = json.loads(to_json(bound))
        for formula in (
            f"{data['formula']} + 1",
            f"Piecewise(({data['formula']}, n < 40), ({data['formula']} + 1, True))",
        ):
            changed = {**data, "formula": formula}
            try:
                wrong = from_json(json.dumps(changed))[0]
            except ParseError:
                continue
            accepted += wrong.proof.check() and print(wrong) is None
        place = draw.choice(["rule", "facts", "premises"])
        other = {"rule": "no such", "facts": {"form": "x", "first": -1}, "premises": []}[place]
        changed = {**data, "formula": f"{data['formula']} + 1", "certificate": {**data["certificate"], place: other}}
        assert not from_json(json.dumps(changed))[0].proof.check()
    assert accepted == 0


@given(st.data())
def test_any_text_is_read_or_refused(data: st.DataObject) -> None:
    text = to_json((window(4) | lags(16)).farthest(3))
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from(['"', "{", "9", "-", "x", "null", "[]", " "])) + text[at + 1 :]
    try:
        found = from_json(changed)
    except ParseError:
        return
    for bound in found:
        verdict = bound.proof.verdict()
        assert verdict.holds or verdict.failure


@pytest.mark.parametrize(
    "text", ["", "5", "[]", "{}", '{"pidsl": 2}', '{"pidsl": 1}', '{"pidsl": 1, "bounds": 5}', "{"]
)
def test_what_is_no_bound(text: str) -> None:
    with pytest.raises(ParseError, match="no saved bound"):
        from_json(text)


def test_several_bounds_and_one() -> None:
    both = to_json([window(k).pairs(), (stride(p) & causal).live()])
    assert len(from_json(both)) == 2
    with pytest.raises(ParseError, match="2 bounds"):
        Bound.from_json(both)


def test_a_file_is_verified(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bounds.json"
    assert main(["bounds", "window(k)", "--save", str(file)]) == 0
    assert main(["verify", str(file)]) == 0
    assert "verified: yes" in capsys.readouterr().out
    assert main(["verify", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["bounds"]
    assert all(x["checked"] for x in found) and {x["quantity"] for x in found} >= {"pairs", "degree", "live keys"}
    file.write_text(file.read_text().replace("L*k", "L*k + 1"))
    assert main(["verify", str(file)]) == 1
    assert "verified: no, " in capsys.readouterr().out
    file.write_text("{}")
    assert main(["verify", str(file)]) == 2
    assert "no saved bound" in capsys.readouterr().err


def test_ways_are_explained() -> None:
    text = (window(4) | lags(16)).contiguous().explain()
    assert "ways that were tried" in text and "sums of lags" in text
    assert "lags" in window(k).pairs().under("n > k").explain()
