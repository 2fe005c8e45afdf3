"""Conditions and formulas as SMT-LIB 2 text, which any solver reads.

    Max(0, n - k) >= p*floor(n/p)        (>= (ite (>= 0 (- n k)) 0 (- n k)) (* p (div n p)))

`div` and `mod` are floors for divisors >= 1, the only ones there are. A formula with fractions is written as its least
whole multiple. What is defined by name is written as an application: `Definition`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from typing import Any, TypeAlias

import sympy
from sympy.core.function import AppliedUndef
from sympy.core.symbol import Str
from sympy.logic.boolalg import BooleanFunction

from pidsl.analysis.formulas.words import CeilLog
from pidsl.errors import TooHardError

Condition: TypeAlias = sympy.Basic  # a relation or a combination of them
RESERVED = {  # words of the language, and functions that scripts declare
    "abs", "and", "assert", "distinct", "div", "exists", "exit", "false", "forall", "is", "ite", "let", "log", "match",
    "mod", "not", "or", "par", "power", "true", "xor",
}  # fmt: skip


class IsZero(sympy.Function):
    """A conclusion: the argument is 0. Unlike sympy's Eq it is not simplified each time that something is replaced."""


class Count(sympy.Function):
    """A conclusion: of numbers and conditions in turn, the numbers whose condition holds sum to 0."""


SIDES: dict[str, Callable[[sympy.Expr], Condition]] = {
    "==": IsZero, "<=": lambda gap: gap >= 0, ">=": lambda gap: gap <= 0
}  # fmt: skip
"""What is claimed of a formula minus the quantity that it bounds."""


class Applied(BooleanFunction):
    """A condition that is defined by name, of some arguments."""


@dataclass(frozen=True)
class Definition:
    """What a name stands for: a formula or a condition of its parameters.

    >>> x, k = sympy.symbols("x k", integer=True)
    >>> near = Definition("near", (x,), x <= k)
    >>> near(k + 1), expanded(near(2 * k), [near])
    (Applied(near, k + 1), 2*k <= k)
    """

    name: str
    parameters: tuple[sympy.Symbol, ...]
    body: sympy.Basic

    @property
    def is_condition(self) -> bool:
        return not isinstance(self.body, sympy.Expr)  # a symbol may be both

    def __call__(self, *args: Any) -> Any:
        args = tuple(map(sympy.sympify, args))
        if self.is_condition:
            return Applied(Str(self.name), *args)
        return sympy.Function(self.name, integer=True)(*args)

    def at(self, *args: Any) -> Any:
        """What it stands for."""
        return self.body.subs(dict(zip(self.parameters, args, strict=True)), simultaneous=True)


def expanded(x: Any, definitions: Iterable[Definition]) -> Any:
    """With what names stand for."""
    known = {d.name: d for d in definitions}
    while applied := [a for a in x.atoms(Applied, AppliedUndef) if _name(a) in known]:
        inner = [a for a in applied if not any(b is not a and a.has(b) for b in applied)]
        x = x.xreplace({a: known[_name(a)].at(*_arguments(a)) for a in inner})
    return x


def used(parts: Iterable[Any], definitions: Iterable[Definition]) -> tuple[Definition, ...]:
    """The definitions that are applied somewhere."""
    names = {_name(a) for x in parts for a in x.atoms(Applied, AppliedUndef)}
    return tuple(d for d in definitions if d.name in names)


def _name(a: Any) -> str:
    return str(a.args[0]) if isinstance(a, Applied) else a.func.__name__


def _arguments(a: Any) -> tuple[Any, ...]:
    return a.args[1:] if isinstance(a, Applied) else a.args


@lru_cache(maxsize=4096)
def named(name: str) -> str:
    """The name of a variable, which no word of the language is."""
    if name in RESERVED:
        return f"${name}"
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_!]*", name) else f"|{name}|"


Scaled: TypeAlias = tuple[int, str]  # (d, text): the text is d times the formula


class Writer:
    """Writes formulas and conditions, those with definitions by their names."""

    def __init__(self, definitions: Iterable[Definition] = (), taken: Iterable[str] = ()) -> None:
        self.definitions = {d.name: d for d in definitions}
        self.taken = frozenset(taken)  # names of variables
        self.bases: set[tuple[str, str]] = set()  # of powers and logarithms, each by its function
        self.gaps: list[str] = []  # variables for what formulas are where no case holds
        self._scales: dict[str, int] = {}
        self._known: dict[sympy.Basic, Any] = {}

    def defined(self) -> list[str]:
        """The definitions, one line each, with how many times the formula is written."""
        lines = []
        for d in self.definitions.values():
            parameters = " ".join(f"({named(p.name)} Int)" for p in d.parameters)
            if d.is_condition:
                lines.append(f"(define-fun {self.called(d.name)} ({parameters}) Bool {self.condition(d.body)})")
                continue
            scale, text = self.formula(d.body)
            self._scales[d.name] = scale
            note = f" ; {scale} times it" if scale != 1 else ""
            lines.append(f"(define-fun {self.called(d.name)} ({parameters}) Int {text}){note}")
        return lines

    def called(self, name: str) -> str:
        return f"{name}!" if name in self.taken else name

    def condition(self, c: Condition) -> str:
        """A condition as text."""
        if c not in self._known:
            self._known[c] = self._condition(c)
        return str(self._known[c])

    def _condition(self, c: Condition) -> str:
        if c in (sympy.true, sympy.false):
            return str(c).lower()
        for kind, word in _JOINED.items():
            if isinstance(c, kind):
                return f"({word} {' '.join(map(self.condition, c.args))})"
        if isinstance(c, Applied):
            return f"({self.called(_name(c))} {' '.join(self.whole(a) for a in _arguments(c))})"
        if isinstance(c, IsZero):
            return f"(= {self.formula(c.args[0])[1]} 0)"
        if isinstance(c, Count):
            parts = zip(c.args[::2], c.args[1::2], strict=True)
            return f"(= (+ 0 {' '.join(f'(ite {self.condition(x)} {self.whole(w)} 0)' for w, x in parts)}) 0)"
        if isinstance(c, sympy.Rel):
            (a, x), (b, y) = self.formula(c.lhs), self.formula(c.rhs)
            x, y = _times(lcm(a, b) // a, x), _times(lcm(a, b) // b, y)
            return f"(not (= {x} {y}))" if c.rel_op == "!=" else f"({_COMPARED[c.rel_op]} {x} {y})"
        raise TooHardError(f"the condition {c}", "comparisons of formulas")

    def whole(self, e: sympy.Expr) -> str:
        """A formula without fractions as text."""
        scale, text = self.formula(e)
        if scale != 1:
            raise TooHardError(f"the formula {e}", "one without fractions")
        return text

    def formula(self, e: sympy.Expr) -> Scaled:
        """A formula as text, times a number that makes it whole."""
        if e not in self._known:
            self._known[e] = self._formula(e)
        found: Scaled = self._known[e]
        return found

    def _formula(self, e: sympy.Expr) -> Scaled:
        if e.is_Rational:
            return int(e.q), str(e.p) if e.p >= 0 else f"(- {-e.p})"
        if e.is_Symbol:
            return 1, named(e.name)
        if e.is_Add:
            scale, parts = self._common(e.args)
            return scale, f"(+ {' '.join(parts)})"
        if e.is_Mul:
            found = [self.formula(x) for x in e.args]
            scale = sympy.prod([s for s, _ in found])
            return int(scale), _product([text for _, text in found if text != "1"])
        if e.is_Pow and e.exp.is_Integer and e.exp > 0:
            scale, text = self.formula(e.base)
            return scale ** int(e.exp), _product([text] * int(e.exp))
        if e.is_Pow and e.exp.is_integer is not False and not e.exp.is_Integer:
            base = self.whole(e.base)
            self.bases.add(("power", base))
            return 1, f"(power {base} {self.whole(e.exp)})"
        if isinstance(e, CeilLog):
            base = self.whole(e.args[0])
            self.bases.add(("log", base))
            return 1, f"(log {base} {self.whole(e.args[1])})"
        if isinstance(e, sympy.Min | sympy.Max):
            return self._extreme(e)
        if isinstance(e, sympy.Abs):
            scale, text = self.formula(e.args[0])
            return scale, f"(ite (>= {text} 0) {text} (- {text}))"
        if isinstance(e, sympy.Piecewise):
            return self._cases(e)
        if isinstance(e, sympy.floor | sympy.ceiling):
            sign = 1 if isinstance(e, sympy.floor) else -1
            above, below = quotient(sign * e.args[0])
            text = f"(div {self.whole(above)} {self.whole(below)})"
            return 1, text if sign == 1 else f"(- {text})"
        if isinstance(e, sympy.Mod):
            return 1, f"(mod {self.whole(e.args[0])} {self.whole(e.args[1])})"
        if isinstance(e, AppliedUndef):
            text = f"({self.called(_name(e))} {' '.join(map(self.whole, e.args))})"
            return self._scales.get(_name(e), 1), text
        raise TooHardError(f"the formula {e}", "one of polynomials, floors, minima and cases")

    def _common(self, parts: Iterable[sympy.Expr]) -> tuple[int, list[str]]:
        found = [self.formula(x) for x in parts]
        scale = lcm(*(s for s, _ in found))
        return scale, [_times(scale // s, text) for s, text in found]

    def _extreme(self, e: sympy.Expr) -> Scaled:
        scale, parts = self._common(e.args)
        word = "<=" if isinstance(e, sympy.Min) else ">="
        found = parts[0]
        for text in parts[1:]:
            found = f"(ite ({word} {found} {text}) {found} {text})"
        return scale, found

    def _cases(self, e: sympy.Expr) -> Scaled:
        scale, parts = self._common([x for x, _ in e.args])
        conditions = [c for _, c in e.args]
        if conditions[-1] == sympy.true:
            found = parts.pop()
        else:
            found = f"gap{len(self.gaps)}!!"
            self.gaps.append(found)
        for text, c in zip(reversed(parts), reversed(conditions[: len(parts)]), strict=True):
            found = f"(ite {self.condition(c)} {text} {found})"
        return scale, found


_JOINED: Mapping[Any, str] = {
    sympy.And: "and", sympy.Or: "or", sympy.Not: "not", sympy.ITE: "ite", sympy.Implies: "=>"
}  # fmt: skip
_COMPARED = {"==": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def _product(factors: list[str]) -> str:
    """Factors as one; SMT-LIB multiplies two at least."""
    return factors[0] if len(factors) == 1 else f"(* {' '.join(factors)})" if factors else "1"


def _times(factor: int, text: str) -> str:
    return text if factor == 1 else f"(* {factor} {text})"


def quotient(x: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """A quotient as two formulas without fractions, the lower one positive where that can be seen."""
    above, below = sympy.fraction(sympy.together(x))
    if below.could_extract_minus_sign():
        above, below = -above, -below
    return sympy.expand(above), sympy.expand(below)


def divided(x: sympy.Expr, by: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """x as by * multiple + rest, term by term: `p*q + r - 1` by p is (q, r - 1)."""
    multiple = rest = sympy.Integer(0)
    for term in sympy.Add.make_args(x):
        share = term / by
        whole = share.as_numer_denom()[1] == 1
        multiple, rest = (multiple + share, rest) if whole else (multiple, rest + term)
    return multiple, rest


def declared(parts: Iterable[sympy.Basic]) -> str:
    """The variables of conditions, one declaration each."""
    names = sorted({s.name for part in parts for s in part.free_symbols})
    return "".join(f"(declare-const {named(name)} Int)\n" for name in names)


def _polynomial(c: Condition) -> Condition:
    """A condition on polynomials, multiplied out."""
    if isinstance(c, IsZero):
        return IsZero(sympy.expand(c.args[0]))
    if isinstance(c, sympy.Rel):
        return c.func(sympy.expand(c.lhs - c.rhs), sympy.Integer(0), evaluate=False)
    if isinstance(c, Applied | sympy.Symbol) or not isinstance(c, BooleanFunction):
        return c
    return c.func(*map(_polynomial, c.args), evaluate=False)


_PLAIN = Writer()


@lru_cache(maxsize=1 << 14)
def written(c: Condition) -> str:
    """A condition on polynomials as text."""
    for part in c.atoms(sympy.Rel, IsZero):
        if part.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan):
            raise TooHardError(f"the formula {part}", "one with finite values")
    if len(_PLAIN._known) > 1 << 16:
        _PLAIN._known.clear()
    return _PLAIN.condition(_polynomial(c))


def asserted(conditions: Iterable[Condition], write: Callable[[Condition], str] = written) -> str:
    """Conditions as assertions, one line each."""
    return "".join(f"(assert {write(c)})\n" for c in conditions)
