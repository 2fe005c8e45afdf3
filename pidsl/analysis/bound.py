"""A `Bound`: what is claimed about a pattern, under which assumptions, and what a checker needs to verify it.

    question   relation  expr        e.g.  pairs(window(k) | stride(p))  ==  (k + 1)*n + ...   for k >= 0, p > k

A bound is its own statement: everything that `proof.check()` reads is in its fields, so a bound with another formula
has another proof, which fails. The certificate says by which rule it is verified (`rules`), and what was found on the
way that a checker need not search for again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import sympy

from pidsl.analysis.formulas.words import L, Value, holds, number, symbol, value_of
from pidsl.analysis.schedules import LayerRule
from pidsl.errors import ParseError, SizeError, SymbolError, TermError, TooHardError
from pidsl.language.door import behind
from pidsl.language.shown import Drawn
from pidsl.language.terms import Term
from pidsl.relation.isl import in_turn

if TYPE_CHECKING:
    from pidsl.analysis.rules import Proof

Relation = Literal["==", "<=", ">=", "unknown"]
# one term, a term per layer (the layer at the input first), or a rule for any number of layers
Subject = Term | tuple[Term, ...] | LayerRule
ANY: Literal["L"] = "L"
"""The number of layers that a formula in L is about."""


@dataclass(frozen=True, slots=True)
class Form:
    """Of the tensors that bytes and FLOPs are counted of.

    Args:
        head_dim: elements of a row of q, k and v.
        heads, kv_heads: of queries, and of keys.
        batch: sequences.
        dtype: of q, k and v, by its short name.
        value_dim: elements of a row of v; None: `head_dim`.
    """

    head_dim: int
    heads: int
    kv_heads: int
    batch: int
    dtype: str
    value_dim: int | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a pattern. Equal questions are equal values: see `asking`.

    Args:
        subject: a term, a term per layer, or a rule for layers.
        quantity: "pairs", "degree", "farthest", ...
        layers: how many, or `ANY`; None where the quantity is not about layers.
        of: the pairs that a depth is about, "causal" or "all".
        n: how many tokens, where the answer is for one number of them.
        lookahead: of live keys: by how many tokens rows may lie behind the last one; None: only later ones ask.
        page: of live keys: count pages of so many positions.
        form: of bytes and FLOPs.
        allowed: of patterns within documents: about every pair that some documents allow, not about any documents.
    """

    subject: Subject
    quantity: str
    layers: int | Literal["L"] | None = None
    of: Literal["causal", "all"] | None = None
    n: int | None = None
    lookahead: int | None = None
    page: int | None = None
    form: Form | None = None
    allowed: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """The arguments of the quantity that it has, by name."""
        found = {name: getattr(self, name) for name in ("layers", "of", "lookahead", "page")}
        if isinstance(self.form, Form):
            found |= {x.name: getattr(self.form, x.name) for x in fields(Form)}
        return {name: value for name, value in (found | {"n": self.n}).items() if value is not None}


def asking(subject: Subject, quantity: str, **given: Any) -> Question:
    """The question with these arguments, in its normal form: any number of layers is `ANY`, a form is a `Form`."""
    named = {name: given.pop(name) for name in [*given] if name in Form.__dataclass_fields__}
    if named:
        given["form"] = Form(**named)
    if given.get("layers") == L:
        given["layers"] = ANY
    return Question(subject, quantity, **given)


@dataclass(frozen=True, slots=True)
class Certificate:
    """How a statement is verified.

    Args:
        rule: the name of the rule in `rules.RULES`.
        facts: what was found: numbers, texts, formulas, terms, and tuples of them, by name. They may come from
            anywhere: the rule's checker verifies what it uses of them.
        premises: statements that it rests on, each with a certificate of its own.
    """

    rule: str = ""
    facts: tuple[tuple[str, Any], ...] = ()
    premises: tuple[Bound, ...] = ()

    def fact(self, name: str) -> Any:
        """What is said under a name; None where nothing is."""
        return dict(self.facts).get(name)


@dataclass(frozen=True)
class Bound(Drawn):
    """What holds of one quantity of a pattern.

    >>> import pidsl
    >>> k = pidsl.symbols("k")
    >>> bound = pidsl.window(k).pairs()
    >>> bound.relation, bound(n=10, k=2)
    ('==', 27)

    Args:
        question: what is bounded.
        relation: "==", "<=", ">=" or "unknown".
        expr: the formula, over integer symbols such as n, i, L and those of the term; `oo` where no number of layers
            is enough, `-oo` for the maximum of nothing.
        assumptions: conditions under which it holds, besides n >= 0.
        certificate: how it is verified.
        reason: why it is unknown, or what the reader should know.
    """

    question: Question
    relation: Relation
    expr: sympy.Expr
    assumptions: tuple[sympy.Basic, ...] = ()
    certificate: Certificate = Certificate()
    reason: str = ""

    @property
    def subject(self) -> Subject:
        """The term, a term per layer, or a rule for layers."""
        return self.question.subject

    @property
    def quantity(self) -> str:
        """What is bounded: "pairs", "degree", "farthest", ..."""
        return self.question.quantity

    @property
    def method(self) -> str:
        """The name of the rule by which it is verified."""
        return self.certificate.rule

    @property
    def is_exact(self) -> bool:
        """Whether the formula is the quantity itself."""
        return self.relation == "=="

    @property
    def is_known(self) -> bool:
        """Whether there is a formula at all."""
        return self.relation != "unknown"

    @property
    def term(self) -> Term:
        """The subject, where it is one term.

        Raises:
            TermError: it is a schedule.
        """
        if isinstance(self.subject, tuple | LayerRule):
            raise TermError(self.shown_subject, "one term", where=self.quantity)
        return self.subject

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols in the formula."""
        return frozenset(s.name for s in self.expr.free_symbols)

    @property
    def proof(self) -> Proof:
        """How the statement is proved; `proof.check()` does it again."""
        found: Proof = behind("the proof of a bound")(self)
        return found

    def to_json(self) -> str:
        """The statement and its certificate as JSON: `python -m pidsl verify FILE` checks it again."""
        return str(behind("bounds as JSON")(self))

    @staticmethod
    def from_json(text: str) -> Bound:
        """A bound from what `to_json` wrote.

        >>> import pidsl
        >>> bound = pidsl.window(4).farthest(3)
        >>> again = pidsl.Bound.from_json(bound.to_json())
        >>> again == bound, again.proof.check()
        (True, True)

        Raises:
            ParseError: it is no such text, or has several bounds.
        """
        found: list[Bound] = behind("bounds from JSON")(text)
        if len(found) != 1:
            raise ParseError(f"{len(found)} bounds", "one; `pidsl verify` reads several", "Bound.from_json")
        return found[0]

    def explain(self) -> str:
        """Which ways to an answer were tried, in order of price, and what came of each."""
        return str(behind("ways to a bound")(self))

    def argument(self, name: str) -> Any:
        """The argument of the quantity with this name; None if it has none."""
        return self.question.given.get(name)

    @in_turn
    def __call__(self, /, **values: int) -> Value:
        """The formula at numbers.

        Args:
            values: one per symbol of the formula; names that it does not mention but its assumptions or the term do
                are welcome.

        Returns:
            An int where it is whole (a Fraction otherwise), `math.inf` or `-math.inf`.

        Raises:
            SymbolError: a symbol without a value.
            SizeError: the values contradict an assumption.
            TooHardError: the bound is unknown.
        """
        if not self.is_known:
            raise TooHardError(f"{self.name} is unknown", "a formula", where=self.shown_subject, hint=self.reason)
        missing = sorted(self.symbols - values.keys())
        if missing:
            wanted = ", ".join(f"{name}=..." for name in missing)
            raise SymbolError(
                f"{self.name} without {', '.join(missing)}", f"a number for {wanted}", where=str(self.expr)
            )
        for name, value in values.items():
            if isinstance(value, bool) or not hasattr(value, "__index__") or (name in ("n", "m", "L") and value < 0):
                raise SizeError(f"{name} = {value!r}", "an integer" + (" >= 0" if name in ("n", "m", "L") else ""))
        numbers = {symbol(name): sympy.Integer(int(value)) for name, value in values.items()}
        for condition in self.assumptions:
            known = condition.free_symbols <= numbers.keys()
            if not (holds(condition, numbers) if known else condition.subs(numbers) != sympy.false):
                raise SizeError(
                    ", ".join(f"{name} = {value}" for name, value in values.items()),
                    f"values with {condition}: the formula is proved for these only",
                    where=f"{self.name} {self.relation} {self.expr}",
                    hint="bind the term to numbers and ask again: a concrete term needs fewer assumptions",
                )
        return value_of(self.expr, numbers)

    @in_turn
    def under(self, *assume: str | sympy.Basic) -> Bound:
        """The bound under further assumptions, in a simpler form where they decide a minimum or a case.

        >>> import pidsl
        >>> k = pidsl.symbols("k")
        >>> pidsl.window(k).pairs().under("n > k").expr
        (-k + 2*n)*(k + 1)/2

        Args:
            assume: comparisons as text, "period > k", or as sympy relations.

        Raises:
            ParseError: text that is no comparison.
            SymbolError: an assumption is about a name that neither the pattern nor the formula has.
            TermError: the assumptions contradict each other.
        """
        found: Bound = behind("a bound under assumptions")(self, assume)
        return found

    def __int__(self) -> int:
        found = self()
        if not isinstance(found, int):
            raise SizeError(f"{self.name} = {found}", "a whole number")
        return found

    def __float__(self) -> float:
        return float(self())

    @property
    def name(self) -> str:
        """The quantity with its arguments: `farthest(layers=3)`."""
        inside = ", ".join(f"{key}={value}" for key, value in self.question.given.items())
        return f"{self.quantity}({inside})" if inside else self.quantity

    @property
    def shown_subject(self) -> str:
        if isinstance(self.subject, tuple):
            return "layers([" + ", ".join(map(repr, self.subject)) + "])"
        return repr(self.subject)

    def __str__(self) -> str:
        lines = [f"{self.name} of {self.shown_subject}"]
        if self.is_known:
            lines.append(f"  {self.relation} {self.expr}")
            if self.assumptions:
                lines.append("  for " + ", ".join(self.shown_condition(c) for c in self.assumptions))
            lines.append(f"  proof: {self.proof.summary}")
        else:
            lines.append("  unknown")
        if self.reason:
            lines.append(f"  {'because' if not self.is_known else 'note'}: {self.reason}")
        return "\n".join(lines)

    __repr__ = __str__

    def shown_condition(self, condition: sympy.Basic) -> str:
        """A condition as text; the formula itself is called by the name of its quantity."""
        if self.expr.count_ops() > 2:
            condition = condition.xreplace({self.expr: sympy.Symbol(self.quantity)})
        return f"{condition.lhs} == {condition.rhs}" if isinstance(condition, sympy.Eq) else str(condition)


def unknown(subject: Subject, quantity: str, reason: str, given: Mapping[str, Any] | None = None) -> Bound:
    """No answer, and why."""
    return Bound(asking(subject, quantity, **(given or {})), "unknown", sympy.nan, reason=reason)


def exact(
    subject: Subject, quantity: str, expr: object, rule: str, *, given: Mapping[str, Any] | None = None,
    assumptions: tuple[sympy.Basic, ...] = (), reason: str = "",
) -> Bound:  # fmt: skip
    """The quantity is the formula, by a rule without facts or premises."""
    return Bound(asking(subject, quantity, **(given or {})), "==", number(expr), assumptions, Certificate(rule), reason)


def restated(bound: Bound, **changes: Any) -> Bound:
    """A bound with other fields, those of its question and its certificate among them: the certificate is the old one.

    >>> import pidsl
    >>> restated(pidsl.window(2).farthest(3), layers=4).proof.check()
    False
    """
    question = {name: changes.pop(name) for name in [*changes] if name in Question.__dataclass_fields__}
    certificate = {name: changes.pop(name) for name in [*changes] if name in Certificate.__dataclass_fields__}
    if question:
        changes["question"] = replace(bound.question, **question)
    if certificate:
        changes["certificate"] = replace(bound.certificate, **certificate)
    return replace(bound, **changes)
