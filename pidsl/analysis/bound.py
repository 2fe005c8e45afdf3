"""A `Bound`: what is claimed about a pattern, under which assumptions, and how it can be checked again.

    quantity  relation  expr        e.g.  pairs(window(k) | stride(p))  ==  (k + 1)*n + ...   for k >= 0, p > k

A bound is its own statement: everything that `proof.check()` reads is in its fields, so a bound with another formula
has another proof, which fails. The checkers live beside the rules they know (`proofs` finds them by the name of the
method) and start from the term alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import sympy

from pidsl.analysis.formulas.words import Value, holds, number, symbol, value_of
from pidsl.analysis.schedules import LayerRule
from pidsl.errors import SizeError, SymbolError, TermError, TooHardError
from pidsl.language.shown import Drawn
from pidsl.language.terms import Term
from pidsl.relation.isl import in_turn

if TYPE_CHECKING:
    from pidsl.analysis.proofs import Proof

Relation = Literal["==", "<=", ">=", "unknown"]
# one term, a term per layer (the layer at the input first), or a rule for any number of layers
Subject = Term | tuple[Term, ...] | LayerRule


@dataclass(frozen=True)
class Bound(Drawn):
    """What holds of one quantity of a pattern.

    >>> import pidsl
    >>> k = pidsl.symbols("k")
    >>> bound = pidsl.window(k).pairs()
    >>> bound.relation, bound(n=10, k=2)
    ('==', 27)

    Args:
        subject: the term, or a term per layer.
        quantity: what is bounded: "pairs", "degree", "farthest", ...
        relation: "==", "<=", ">=" or "unknown".
        expr: the formula, over integer symbols such as n, i, L and those of the term; `oo` where no number of layers
            is enough, `-oo` for the maximum of nothing.
        assumptions: conditions under which it holds, besides n >= 0.
        method: name of the way it was proved, which is the way it is checked again.
        given: arguments of the quantity, by name: (("layers", 3),).
        reason: why it is unknown, or what the reader should know.
    """

    subject: Subject
    quantity: str
    relation: Relation
    expr: sympy.Expr
    assumptions: tuple[sympy.Basic, ...] = ()
    method: str = ""
    given: tuple[tuple[str, Any], ...] = ()
    reason: str = ""

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
        from pidsl.analysis.proofs import Proof

        return Proof(self)

    def argument(self, name: str) -> Any:
        """The argument of the quantity with this name; None if it has none."""
        return dict(self.given).get(name)

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
        from pidsl.analysis.formulas import smt
        from pidsl.analysis.formulas.assume import conditions, require_known, simplified
        from pidsl.analysis.statements import VARIABLES, names_of

        require_known(conditions(assume), names_of(self.subject), VARIABLES[self.quantity], self.shown_subject)

        known = (*self.assumptions, *(c for c in conditions(assume) if c not in self.assumptions))
        positive = [symbol(name) >= 0 for name in ("n", "t") if name in self.symbols]
        smt.require_consistent([*known, *positive])
        stated = []
        for c in known:
            others = [*positive, *(d for d in known if d != c)]
            plain = isinstance(c, sympy.Rel) and c.has(sympy.Piecewise)
            stated.append(c.func(simplified(c.lhs, others), simplified(c.rhs, others)) if plain else c)
        return replace(self, expr=simplified(self.expr, [*known, *positive]), assumptions=tuple(stated))

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
        inside = ", ".join(f"{key}={value}" for key, value in self.given)
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
    return Bound(subject, quantity, "unknown", sympy.nan, given=tuple((given or {}).items()), reason=reason)


def exact(
    subject: Subject, quantity: str, expr: object, method: str, *, given: Mapping[str, Any] | None = None,
    assumptions: tuple[sympy.Basic, ...] = (), reason: str = "",
) -> Bound:  # fmt: skip
    """The quantity is the formula."""
    return Bound(
        subject, quantity, "==", number(expr), assumptions, method, tuple((given or {}).items()), reason
    )  # fmt: skip
