"""Patterns side by side: what they cost and how far they see, at one length and number of layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np

from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound
from pidsl.analysis.dense import times
from pidsl.analysis.formulas.words import Value
from pidsl.analysis.schedules import BaseSchedule
from pidsl.analysis.symbolic.lag_reach import reach_by_family
from pidsl.analysis.symbolic.definition import NotByLag
from pidsl.errors import PidslError, SizeError, SymbolError, TermError, TooHardError
from pidsl.language.schedule import Schedule
from pidsl.language.shown import Displayed
from pidsl.language.terms import Term, require_concrete, require_free
from pidsl.language.vocabulary import window
from pidsl.relation import counting
from pidsl.relation.isl import in_turn
from pidsl.relation.oracle import dense_mask
from pidsl.studies.cost import shown
from pidsl.studies.members import Family, Pattern, Ranges, is_family, members, require_pattern, require_used
from pidsl.studies.plan_cost import plan_cost

Answer = tuple[Value, Bound | None]  # a number, and the formula it comes from

COUNTED = 1 << 22  # tokens up to which pairs without a formula are counted query by query
MEMBERS = 1024  # of one family
SHOWN = 40  # rows of a table as text
MATRICES = 1024  # tokens up to which layers without a formula are multiplied out

COLUMNS: dict[str, str] = {
    "pairs": "pairs",
    "sparsity": "sparsity",
    "degree": "largest degree",
    "depth": "depth",
    "farthest": "farthest",
    "contiguous": "contiguous",
    "live": "KV keys",
    "waste": "computed/attended",
}


@dataclass(frozen=True)
class Row:
    """One pattern.

    Args:
        name: as given, or the pattern in its own notation.
        pattern: the pattern.
        values: the number in each column, None where it is unknown. `row["pairs"]` is short for it.
        bounds: the formulas behind the numbers, with their proofs; of a schedule, one per layer where layers count.
            None for numbers that were counted one by one for lack of a formula.
        relations: "==", "<=" or ">=" for each number.
        reasons: why a number is unknown.
    """

    name: str
    pattern: Pattern
    values: Mapping[str, Value | None]
    bounds: Mapping[str, tuple[Bound, ...]]
    relations: Mapping[str, str]
    reasons: Mapping[str, str]

    def __getitem__(self, column: str) -> Value | None:
        return self.values[column]

    def shown(self, column: str) -> str:
        """The number as text, "?" if it is unknown."""
        value = self.values[column]
        if value is None:
            return "?"
        text = f"{float(value):.4%}" if column == "sparsity" else f"{value:.2f}" if column == "waste" else shown(value)
        relation = self.relations.get(column, "==")
        return text if relation == "==" else f"{relation} {text}"


@dataclass(frozen=True)
class Comparison(Displayed):
    """A table of patterns; print it.

    Args:
        n: tokens.
        layers: through which `farthest` and `contiguous` look.
        rows: one per pattern, in the order given. `comparison["name"]` finds one.
    """

    n: int
    layers: int
    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shown_rows(self) -> tuple[Row, ...]:
        """The rows that are printed: of many, some that are evenly apart, the first and the last among them."""
        if (last := len(self.rows) - 1) < SHOWN:
            return self.rows
        return tuple(self.rows[k * last // (SHOWN - 1)] for k in range(SHOWN))

    @property
    def as_text(self) -> tuple[str, list[list[str]], list[str]]:
        """What is printed: a title, the cells of the table with their head, and notes."""
        return self._title, *self._cells()

    def __str__(self) -> str:
        return laid_out(*self.as_text)

    __repr__ = __str__

    def to_markdown(self) -> str:
        """The table in Markdown, with its footnotes below."""
        cells, notes = self._cells()
        head, *body = [[x.replace("|", r"\|") for x in line] for line in cells]
        rule = ["---", *["---:"] * (len(head) - 1)]
        lines = ["| " + " | ".join(line) + " |" for line in (head, rule, *body)]
        return "\n".join([self._title, "", *lines, *(x for note in notes for x in ("", note))]) + "\n"

    @property
    def _title(self) -> str:
        layers = f"{self.layers} layer" + "s" * (self.layers != 1)
        return f"n = {self.n:,}, farthest and contiguous through {layers}; counts are those of one layer and head"

    def _cells(self) -> tuple[list[list[str]], list[str]]:
        notes: list[str] = []
        cells = [["pattern", *COLUMNS.values()]]
        rows = self.shown_rows
        for row in rows:
            line = [row.name]
            for column in COLUMNS:
                text = row.shown(column)
                if reason := row.reasons.get(column):
                    if reason not in notes:
                        notes.append(reason)
                    text += f" [{notes.index(reason) + 1}]"
                line.append(text)
            cells.append(line)
        found = [f"[{k}] {reason}" for k, reason in enumerate(notes, 1)]
        if len(rows) < len(self.rows):
            found.append(f"{len(rows)} of {len(self.rows):,} rows are shown, evenly apart; `.rows` has all")
        if any(not isinstance(row.pattern, Term) for row in self.rows):
            found.append("the counts of a schedule are means over its layers, its degree is the largest")
        return cells, found


def laid_out(title: str, cells: list[list[str]], notes: list[str], left: int = 1) -> str:
    """A table as text: the first columns are flush left."""
    width = [max((len(line[k]) for line in cells), default=0) for k in range(len(cells[0]) if cells else 0)]
    lines = [title]
    for line in cells:
        padded = [x.ljust(w) if k < left else x.rjust(w) for k, (x, w) in enumerate(zip(line, width, strict=True))]
        lines.append("  " + "  ".join(padded).rstrip())
    return "\n".join([*lines, *("  " + note for note in notes)])


@in_turn
def compare(
    patterns: Iterable[Pattern | Family] | Mapping[str, Pattern | Family] | Pattern | Family, n: int, layers: int = 1,
    head_dim: int = 64, *, ranges: Ranges | None = None,
) -> Comparison:  # fmt: skip
    """What patterns cost and how far they see, as a table.

    >>> import pidsl
    >>> local, skip = pidsl.window(64), pidsl.window(64) | pidsl.lags(512)
    >>> print(compare({"local": local, "skip": skip}, n=2**20, layers=12))
    n = 1,048,576, farthest and contiguous through 12 layers; counts are those of one layer and head
      pattern       pairs  sparsity  largest degree   depth  farthest  contiguous  KV keys  computed/attended
      local  68,155,360  99.9938%              65  16,384       768         768       64               1.97
      skip   69,203,424  99.9937%              66   2,055     6,144       3,008      512               2.91

    A family is compared member by member:

    >>> k = pidsl.symbols("k")
    >>> found = compare({"sinks": pidsl.window(k) | pidsl.keys(0, 4) & pidsl.causal}, n=4096, ranges={k: [16, 64]})
    >>> [(row.name, row["pairs"], row["live"]) for row in found]
    [('sinks, k = 16', 85806, 20), ('sinks, k = 64', 280278, 68)]

    Args:
        patterns: terms and schedules in a list or under names, or one; with `ranges` also families: terms with symbols,
            and functions of parameters that return a pattern (or None for no member).
        n: tokens, >= 1. No column takes time that grows with it, but for the waste up to 2**20 tokens.
        layers: how many layers `farthest` and `contiguous` look through; a schedule begins again after its last.
        head_dim: for which the waste of the plan is counted.
        ranges: for each symbol and parameter of the families (low, high), both included, or its integers one by one.

    Returns:
        The table. Columns: attended pairs; the share of the n * n that is not attended; keys of the query with the
        most; fewest layers that connect everything (every causal pair, where patterns only look back); farthest lag and
        number of predecessors seen without a gap; keys that decoding must keep after token n - 1; pairs that the plan
        computes per attended pair. "?" is unknown, with the reason in a footnote.

    Raises:
        SizeError: n < 1, layers < 1 or head_dim < 1.
        TermError: no patterns, or what is none.
        SymbolError: a pattern holds symbols without a range, or a range is for none.
    """
    for name, value in (("n", n), ("layers", layers), ("head_dim", head_dim)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
            raise SizeError(f"{name} = {value!r}", "an integer >= 1", where="compare(...)")
    named = list(_named(patterns, ranges))
    if not named:
        raise TermError("no patterns", "at least one", where="compare([])")
    return Comparison(n, layers, tuple(_row(name, pattern, n, layers, head_dim) for name, pattern in named))


def _named(
    patterns: Iterable[Pattern | Family] | Mapping[str, Pattern | Family] | Pattern | Family, ranges: Ranges | None
) -> Iterator[tuple[str, Pattern]]:  # fmt: skip
    """Every pattern with its name; of families each member, with its numbers in its name."""
    where = "compare(...)"
    if isinstance(patterns, Mapping):
        each = [(str(name), x) for name, x in patterns.items()]
    else:
        alone = isinstance(patterns, Pattern) or not isinstance(patterns, Iterable)
        each = [("", x) for x in cast(Iterable[Any], [patterns] if alone else patterns)]
    families = [x for _, x in each if is_family(x)] if ranges is not None else []
    require_used(families, ranges, where)
    for name, x in each:
        if x in families or (not isinstance(x, Pattern) and callable(x)):
            for member in members(cast(Family, x), ranges, where, most=MEMBERS):
                yield (f"{name}, {member}" if name else repr(member.pattern)), member.pattern
        else:
            require_pattern(x, where)
            yield name or repr(x), cast(Pattern, x)


def _row(name: str, pattern: Pattern, n: int, layers: int, head_dim: int) -> Row:
    terms = terms_of(pattern, n, layers)
    for term in terms:
        require_concrete(term, "compare patterns")
        require_free(term, "what it costs and reaches")
    found: dict[str, tuple[Answer, ...]] = {}
    reasons: dict[str, str] = {}

    def note(column: str, answer: Callable[[], Iterable[Answer]]) -> None:
        try:
            found[column] = tuple(answer())
        except PidslError as e:
            reasons[column] = reason_of(e)

    note("pairs", lambda: [pairs_at(term, n) for term in terms])
    if "pairs" in found:
        found["sparsity"] = tuple((1 - Fraction(value) / n**2, bound) for value, bound in found["pairs"])
    else:
        reasons["sparsity"] = reasons["pairs"]
    note("degree", lambda: [degree_at(term, n) for term in terms])
    note("depth", lambda: [_value(depth_at(pattern, n), n)])
    for quantity in ("farthest", "contiguous"):
        note(quantity, lambda quantity=quantity: [_reach(pattern, terms, quantity, n, layers, found)])  # type: ignore[misc]
    note("live", lambda: [_value(ask.live(term), n) for term in terms])
    values: dict[str, Value | None] = dict.fromkeys(COLUMNS)
    for column, answers in found.items():
        each = [value for value, _ in answers]
        values[column] = max(each) if column == "degree" else _mean(each)
    bounds = {column: tuple(b for _, b in answers if b is not None) for column, answers in found.items()}
    inexact = {c: b.relation for c, each in bounds.items() for b in each if not b.is_exact and c != "sparsity"}
    try:
        plans = [plan_cost(term, n, head_dim) for term in terms]
        attended = sum(p.attended for p in plans)
        values["waste"] = sum(p.forward for p in plans) / attended if attended else 1.0
    except PidslError as e:
        reasons["waste"] = reason_of(e)
    return Row(name, pattern, values, bounds, inexact, reasons)


def reason_of(e: PidslError) -> str:
    """Why there is no answer, in one line."""
    text = e.hint if isinstance(e, TooHardError) and e.hint else f"{e.given}: {e.expected}" if e.expected else e.given
    return " ".join(text.split())


def terms_of(pattern: Pattern, n: int, layers: int) -> tuple[Term, ...]:
    """The patterns that are counted: each layer of a schedule; of a base schedule, as many as are asked for."""
    if isinstance(pattern, BaseSchedule):
        if not isinstance(pattern.base, int):
            raise SymbolError(f"{pattern!r}", "a number for the base, to compare patterns")
        base = pattern.base
        return tuple(pattern.layer(k) if base**k < n else window(0) for k in range(layers))
    return pattern.unions if isinstance(pattern, Schedule) else (pattern,)


def pairs_at(term: Term, n: int) -> Answer:
    """By the formula for any term, by that for lags, or one by one."""
    bound = ask.pairs(term)
    return _counted(bound, n, lambda: counting.pairs(term, n))


def degree_at(term: Term, n: int) -> Answer:
    """The keys of the query with the most, as `pairs_at` counts."""
    bound = ask.degree(term).maximum
    return _counted(bound, n, lambda: int(counting.degree(term, n).max()))


def _counted(bound: Bound, n: int, count: Callable[[], int]) -> Answer:
    """The formula at n, or a count where there is none that holds for n."""
    try:
        return _value(bound, n)
    except (SizeError, TooHardError):
        if n > COUNTED:
            raise
        return count(), None


def depth_at(pattern: Pattern, n: int) -> Bound:
    """The depth, by the formula of a family where the pattern is in one and the formula holds for n.

    A family's formula takes no time that grows with its sizes.
    """
    if isinstance(pattern, Schedule):
        return ask.depth(pattern, n)
    try:
        found = reach_by_family(pattern, "depth")
        found(n=n)
        return found
    except (NotByLag, PidslError):
        return ask.depth(pattern, n)


def _reach(
    pattern: Pattern, terms: tuple[Term, ...], quantity: str, n: int, layers: int,
    found: Mapping[str, tuple[Answer, ...]],
) -> Answer:  # fmt: skip
    """Farthest lag or contiguous reach: n - 1 where the depth is reached and every token keeps what it has seen."""
    if "depth" in found and found["depth"][0][0] <= layers and all(window(0) <= term for term in terms):
        return n - 1, found["depth"][0][1]
    if not isinstance(pattern, Schedule):
        try:
            return _value(reach_by_family(pattern, quantity, layers), n)
        except (NotByLag, PidslError):
            pass
    subject = terms if isinstance(pattern, BaseSchedule) else pattern
    try:
        return _value((ask.farthest if quantity == "farthest" else ask.contiguous)(subject, layers), n)
    except PidslError:
        if n > MATRICES:
            raise
    masks = [dense_mask(term, n) for term in terms]
    seen = np.eye(n, dtype=np.bool_)
    for layer in range(layers):
        seen = times(masks[layer % len(masks)], seen)
    i, j = np.nonzero(seen if quantity == "farthest" else ~seen & np.tri(n, dtype=np.bool_))
    if quantity == "farthest":
        return (int((i - j).max()) if len(i) else -math.inf), None
    return (int((i - j).min()) - 1 if len(i) else n - 1), None


def _value(bound: Bound, n: int) -> Answer:
    return (bound(t=n - 1) if bound.quantity == "live keys" else bound(n=n)), bound


def _mean(values: list[Value]) -> Value:
    if len(values) == 1:
        return values[0]
    mean = sum((Fraction(x) for x in values), Fraction(0)) / len(values)
    return int(mean) if mean.denominator == 1 else mean
