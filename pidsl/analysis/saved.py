"""Bounds as JSON, with the certificates by which they are verified again, in another place or at another time.

    {"pidsl": 1, "question": {"subject": "window(4)", "quantity": "farthest", "layers": 3}, "relation": "==", ...
     "formula": "Min(12, n - 1)", "assumptions": ["n >= 1"], "certificate": {"rule": ..., "facts": {}, "premises": []}}
Nothing in a file is trusted or executed: terms and formulas are parsed by grammars, and what they say is verified.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import sympy

from pidsl.analysis.bound import Bound, Certificate, Form, Question, Relation, Subject
from pidsl.analysis.formulas.text import formula_of, text_of
from pidsl.analysis.formulas.words import from_index
from pidsl.analysis.schedules import BaseSchedule, LayerRule, SkipSchedule
from pidsl.errors import ParseError, PidslError
from pidsl.language.parse import parse
from pidsl.language.terms import Lags, Term

VERSION = 1
DEEPEST = 64  # premises of premises


def to_json(bounds: Bound | list[Bound]) -> str:
    """One bound, or several, as JSON."""
    many = [_bound(b) for b in (bounds if isinstance(bounds, list) else [bounds])]
    shown = {"pidsl": VERSION, **(many[0] if isinstance(bounds, Bound) else {"bounds": many})}
    return json.dumps(shown, indent=1) + "\n"


def from_json(text: str) -> list[Bound]:
    """The bounds of a text that `to_json` wrote.

    Raises:
        ParseError: it is no such text.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("pidsl") != VERSION:
            raise ValueError(f'"pidsl" is {data.get("pidsl")!r}' if isinstance(data, dict) else "no object")
        return [_read(x, 0) for x in data["bounds"]] if "bounds" in data else [_read(data, 0)]
    except PidslError as e:
        raise ParseError(f"a bound with {e.given}", e.expected, e.where) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ParseError(
            "a text that is no saved bound", 'JSON with "pidsl": 1, as `Bound.to_json` writes it', f"{e!r}"[:200]
        ) from None


# -- writing -----------------------------------------------------------------------------------------------------------


def _bound(b: Bound) -> dict[str, Any]:
    q = b.question
    question: dict[str, Any] = {"subject": _subject(q.subject), "quantity": q.quantity}
    question |= {k: v for k in ("layers", "of", "n", "lookahead", "page") if (v := getattr(q, k)) is not None}
    question |= {"allowed": True} if q.allowed else {}
    if q.form is not None:
        question["form"] = {name: x for name, x in asdict(q.form).items() if x is not None}
    certificate = {
        "rule": b.certificate.rule,
        "facts": {name: _value(x) for name, x in b.certificate.facts},
        "premises": [_bound(p) for p in b.certificate.premises],
    }
    return {
        "question": question, "relation": b.relation, "formula": text_of(b.expr),
        "assumptions": [text_of(c) for c in b.assumptions], "certificate": certificate, "reason": b.reason,
    }  # fmt: skip


def _subject(subject: Subject) -> Any:
    if isinstance(subject, tuple):
        return [repr(t) for t in subject]
    if isinstance(subject, BaseSchedule):
        return {"base": _size(subject.base)}
    if isinstance(subject, SkipSchedule):
        return {"k": _size(subject.k), "period": _size(subject.period), "first": subject.first}
    return repr(subject)


def _size(x: Any) -> str:
    return text_of(from_index(x))


def _value(x: Any) -> Any:
    if isinstance(x, tuple):
        return [_value(y) for y in x]
    if isinstance(x, Term):
        return {"term": repr(x)}
    return {"formula": text_of(x)} if isinstance(x, sympy.Basic) else x


# -- reading -----------------------------------------------------------------------------------------------------------


def _read(data: Mapping[str, Any], depth: int) -> Bound:
    if depth > DEEPEST:
        raise ValueError(f"premises of premises, more than {DEEPEST} deep")
    question, certificate = dict(data["question"]), data["certificate"]
    subject = _read_subject(question.pop("subject"))
    form = question.pop("form", None)
    return Bound(
        Question(subject, form=None if form is None else Form(**form), **question),
        cast(Relation, data["relation"]),
        formula_of(data["formula"]),
        tuple(formula_of(c) for c in data["assumptions"]),
        Certificate(
            certificate["rule"],
            tuple((name, _read_value(x)) for name, x in certificate["facts"].items()),
            tuple(_read(p, depth + 1) for p in certificate["premises"]),
        ),
        str(data.get("reason", "")),
    )


def _read_subject(x: Any) -> Subject:
    if isinstance(x, list):
        return tuple(_term(t) for t in x)
    if isinstance(x, dict):
        return _read_rule(x)
    return _term(x)


def _term(text: str) -> Term:
    found = parse(text)
    if not isinstance(found, Term):
        raise ValueError(f"{text} is no term")
    return found


def _read_rule(x: Mapping[str, Any]) -> LayerRule:
    if "base" in x:
        return BaseSchedule(_read_size(x["base"]))
    return SkipSchedule(_read_size(x["k"]), _read_size(x["period"]), x["first"])


def _read_size(text: str) -> Any:
    return cast(Lags, _term(f"lags({text})")).values[0]


def _read_value(x: Any) -> Any:
    if isinstance(x, list):
        return tuple(_read_value(y) for y in x)
    if isinstance(x, dict):
        return _term(x["term"]) if "term" in x else formula_of(x["formula"])
    return x
