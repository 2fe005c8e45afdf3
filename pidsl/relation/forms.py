"""Constraints as isl has them: quasi-affine forms, sums of variables and of floors of such sums, that are >= 0.

A constraint is said about one variable by taking that variable out of the floors around it:

    42 * floor((b + 3) / 42) <= a           b <= 42 * floor(a / 42) + 38      the same
    6 * floor((3 - b) / 6) + 6 * b <= a     floor((5 * b + 3) / 6) <= ...     the same, then as above
    a + b - 7 * floor((a + b) / 7) >= 1     (nothing)                         says less: the modulus is dropped

The third kind, congruences, restricts which indices of an interval occur and not the interval, so little is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Literal

import islpy as isl

from pidsl.language.algebra import any_of
from pidsl.language.expr import Add, And, Compare, FloorDiv, Index, Mod, Mul, Pred, Sub, Truth, Var, fold, simplify
from pidsl.relation.isl import convex_parts

_dim = isl.dim_type


@dataclass(frozen=True, slots=True, eq=False)  # equal to itself only: isl shares its divisions
class Floor:
    """`floor(of / by)`."""

    of: Form
    by: int


Atom = str | Floor


@dataclass(frozen=True, slots=True)
class Form:
    """`constant + sum of factor * atom`, no factor zero."""

    constant: int
    terms: Mapping[Atom, int]

    def plus(self, other: Form, factor: int = 1) -> Form:
        """`self + factor * other`."""
        terms = dict(self.terms)
        for atom, value in other.terms.items():
            terms[atom] = terms.get(atom, 0) + factor * value
        return Form(self.constant + factor * other.constant, {atom: x for atom, x in terms.items() if x})

    def times(self, factor: int) -> Form:
        """`factor * self` for a factor that is not 0."""
        return Form(factor * self.constant, {atom: factor * x for atom, x in self.terms.items()})

    def without(self, atom: Atom) -> Form:
        """The other terms."""
        return Form(self.constant, {other: x for other, x in self.terms.items() if other != atom})

    def floors(self, name: str) -> list[Floor]:
        """The floors of this sum that a variable stands in."""
        return [atom for atom in self.terms if isinstance(atom, Floor) and atom.of.involves(name)]

    def involves(self, name: str) -> bool:
        """Whether a variable occurs, in floors too."""
        return name in self.terms or bool(self.floors(name))

    def put(self, name: str, value: Form) -> Form:
        """With `value` in place of a variable."""
        out = Form(self.constant, {})
        for atom, factor in self.terms.items():
            if atom == name:
                out = out.plus(value, factor)
            elif isinstance(atom, Floor) and atom.of.involves(name):
                out = out.plus(atom.of.put(name, value).floored(atom.by), factor)
            else:
                out = out.plus(Form(0, {atom: factor}))
        return out

    def floored(self, by: int) -> Form:
        """`floor(self / by)`."""
        match list(self.terms.items()):
            case [(Floor(of, inner), 1)]:  # floor((floor(x / 3) + 2) / 4) -> floor((x + 6) / 12)
                return Form(of.constant + inner * self.constant, of.terms).floored(inner * by)
        common = gcd(by, *self.terms.values())  # floor((6 * x + 5) / 4) -> floor((3 * x + 2) / 2)
        form = Form(self.constant // common, {atom: x // common for atom, x in self.terms.items()})
        if by == common:
            return form
        return Form(0, {Floor(form, by // common): 1})

    def bound(self, name: str) -> Form:
        """The least (greatest) value of a variable with `self >= 0`, for a positive (negative) factor of it."""
        factor, rest = self.terms[name], self.without(name)
        if factor > 0:  # factor * name >= -rest, rounded up
            rest = Form(factor - 1, {}).plus(rest, -1)
        return rest.floored(abs(factor))

    def steps(self, name: str) -> tuple[int, int]:
        """The least and the greatest change when a variable grows by one."""
        low = high = self.terms.get(name, 0)
        for floor in self.floors(name):
            factor = self.terms[floor]
            least, most = floor.of.steps(name)
            ends = factor * (least // floor.by), factor * -(-most // floor.by)
            low, high = low + min(ends), high + max(ends)
        return low, high

    def index(self) -> Index:
        """As an expression: positive terms first, so that little is subtracted from nothing."""
        constant, terms = self._printable()
        out: Index = 0
        for factor, term in sorted(terms, key=lambda x: x[0] < 0):
            size = simplify(Mul(abs(factor), term))
            out = simplify(Add(out, size)) if factor > 0 else simplify(Sub(out, size))
        return simplify(Add(out, constant))

    def compare(self, op: Literal[">=", "=="]) -> Pred:
        """`self >= 0` or `self == 0` with the negative terms on the other side: `a + 63 >= b`, `b <= 3`."""
        constant, terms = self._printable()
        sides: list[Index] = [0, 0]
        for factor, term in [*terms, (1 if constant > 0 else -1, abs(constant))]:
            side = factor < 0
            sides[side] = simplify(Add(sides[side], simplify(Mul(abs(factor), term))))
        left, right = sides
        if isinstance(left, int):
            return fold(Compare("<=" if op == ">=" else op, right, left))
        return fold(Compare(op, left, right))

    def _printable(self) -> tuple[int, list[tuple[int, Index]]]:
        """The constant and the terms, with `x - s * floor(x / s)` as a modulus."""
        form, terms = self, list[tuple[int, Index]]()
        for floor in [x for x in self.terms if isinstance(x, Floor)]:
            factor, inner = self.terms[floor], floor.of.index()
            rest = form.without(floor).plus(floor.of, factor // floor.by)
            if factor % floor.by == 0 and not rest.terms.keys() & floor.of.terms.keys():
                form = rest
                terms.append((-(factor // floor.by), Mod(inner, floor.by)))
            else:
                form = form.without(floor)
                terms.append((factor, simplify(FloorDiv(inner, floor.by))))
        return form.constant, [(x, Var(name)) for name, x in form.terms.items() if isinstance(name, str)] + terms


@dataclass(frozen=True, slots=True)
class Constraint:
    """`form >= 0`; not `exact`: it says less than what it was made from."""

    form: Form
    exact: bool = True

    @property
    def trivial(self) -> bool:
        """It says nothing."""
        return not self.form.terms and self.form.constant >= 0

    def solved(self, name: str) -> Constraint:
        """A consequence in which a variable stands outside all floors; the same thing where that can be."""
        form, exact = self.form, self.exact
        while floors := form.floors(name):
            form, floor = _gathered(form, floors[0], name)
            rest, factor = form.without(floor), form.terms[floor]
            if not rest.involves(name):
                form = _lifted(rest, factor, floor)
                continue
            form, exact = _relaxed(form, floor), False
        return Constraint(_reduced(form), exact)

    def monotone(self, name: str) -> Constraint:
        """A consequence that only rises or only falls with a variable; the others stay where they stand."""
        form, exact = self.form, self.exact
        while not _is_monotone(form, name):
            form, floor = _gathered(form, form.floors(name)[0], name)
            if not _is_monotone(form, name):
                form, exact = _relaxed(form, floor), False
        return Constraint(_reduced(form), exact)


def _is_monotone(form: Form, name: str) -> bool:
    least, most = form.steps(name)
    return least >= 0 or most <= 0


def _gathered(form: Form, floor: Floor, name: str) -> tuple[Form, Floor]:
    """A variable that stands beside a floor too, taken into it: `6 * floor((3 - b) / 6) + 6 * b`."""
    factor, beside = form.terms[floor], form.terms.get(name, 0)
    if not beside or beside % factor:
        return form, floor
    inner = Floor(floor.of.plus(Form(0, {name: 1}), floor.by * (beside // factor)), floor.by)
    return Form(form.constant, {**form.without(floor).without(name).terms, inner: factor}), inner


def _lifted(rest: Form, factor: int, floor: Floor) -> Form:
    """`rest + factor * floor(of / by) >= 0` as a bound on `of`."""
    if factor > 0:  # floor(of / by) >= ceil(-rest / factor)
        return floor.of.plus(Form(factor - 1, {}).plus(rest, -1).floored(factor), -floor.by)
    return Form(floor.by - 1, {}).plus(rest.floored(-factor), floor.by).plus(floor.of, -1)


def _relaxed(form: Form, floor: Floor, *, most: bool = True) -> Form:
    """A positive multiple of what `form` is at most (at least), without one of its floors."""
    factor = form.terms[floor]
    highest = (factor > 0) == most  # of / by, else (of - by + 1) / by
    of = floor.of if highest else Form(floor.of.constant - floor.by + 1, floor.of.terms)
    return form.without(floor).times(floor.by).plus(of, factor)


def _reduced(form: Form) -> Form:
    """`form >= 0` without common factors."""
    common = gcd(*form.terms.values()) if form.terms else 1
    if common == 1:
        return form
    return Form(form.constant // common, {atom: x // common for atom, x in form.terms.items()})


def _holds(form: Form) -> bool:
    """Whether `form >= 0` by what a floor is: `x - 3 * floor(x / 3) >= 0`."""
    least = (_relaxed(form, x, most=False) for x in form.terms if isinstance(x, Floor))
    return any(not x.terms and x.constant >= 0 for x in least)


def constraints(convex: isl.BasicSet, names: Iterable[str]) -> Iterator[Constraint]:
    """The constraints of one of the `convex_parts`, with names for its dimensions; an equality is two of them."""
    for equal, form in _forms(convex, names):
        yield from (Constraint(x) for x in (form, form.times(-1))[: 1 + equal] if not _holds(x))


def predicate(points: isl.Set, names: Sequence[str]) -> Pred:
    """The condition on dimensions (with these names) and parameters that a point is in the set.

    `[n] -> { [a, b] : b <= 3 or (a - b) mod 4 = 1 }` gives `(b <= 3) | ((a - b + 3) % 4 == 0)`
    """
    alternatives: list[Pred] = []
    for part in convex_parts(points):
        every: Pred = Truth(True)
        for equal, form in _forms(part, names):
            if equal or not _holds(form):
                every = fold(And(every, form.compare("==" if equal else ">=")))
        alternatives.append(every)
    return any_of(alternatives)


def atoms_of(convex: isl.BasicSet, names: Iterable[str]) -> list[Atom]:
    """What the constraints of one of the `convex_parts` are sums of: parameters, dimensions and its divisions."""
    atoms: list[Atom] = [str(convex.get_dim_name(_dim.param, k)) for k in range(convex.dim(_dim.param))]
    atoms += names
    local = convex.get_local_space()
    for k in range(convex.dim(_dim.div)):
        division = local.get_div(k)
        scale = division.get_denominator_val()
        numerators = [division.get_constant_val()]
        numerators += [division.get_coefficient_val(_dim.param, x) for x in range(convex.dim(_dim.param))]
        numerators += [division.get_coefficient_val(_dim.in_, x) for x in range(convex.dim(_dim.set))]
        numerators += [division.get_coefficient_val(_dim.div, x) for x in range(k)]
        atoms.append(Floor(_form([int((x * scale).to_python()) for x in numerators], atoms), int(scale.to_python())))
    return atoms


def _forms(convex: isl.BasicSet, names: Iterable[str]) -> Iterator[tuple[bool, Form]]:
    """Forms that are 0 (True) or at least 0 (False) in a basic set."""
    atoms = atoms_of(convex, names)
    order = _dim.cst, _dim.param, _dim.set, _dim.div
    yield from ((True, _form(row, atoms)) for row in _rows(convex.equalities_matrix(*order)))
    yield from ((False, _form(row, atoms)) for row in _rows(convex.inequalities_matrix(*order)))


def _rows(matrix: isl.Mat) -> Iterator[list[int]]:
    for y in range(matrix.rows()):
        yield [int(matrix.get_element_val(y, x).to_python()) for x in range(matrix.cols())]


def _form(row: list[int], atoms: list[Atom]) -> Form:
    return Form(row[0], {atom: value for atom, value in zip(atoms, row[1:], strict=False) if value})
