"""Patterns side by side: what they cost and how far they see, at one length and number of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, asking
from pidsl.analysis.formulas.words import Value
from pidsl.analysis.layers.stacks import number
from pidsl.analysis.portfolio import answer
from pidsl.errors import PidslError, TermError
from pidsl.language.shown import Displayed
from pidsl.language.terms import Term, is_confined, require_concrete, require_free
from pidsl.language.vocabulary import window
from pidsl.relation.isl import in_turn
from pidsl.studies.cost import shown
from pidsl.studies.members import Family, Pattern, Ranges, is_family, members, require_pattern, require_used
from pidsl.studies.numbers import Answer, reason_of, terms_of, value_at
from pidsl.studies.plan_cost import plan_cost

MEMBERS = 1024  # of one family
SHOWN = 40  # rows of a table as text

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
        number(value, name, 1, "compare(...)")
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
        if is_confined(term):
            require_free(term, "what it costs and reaches")
    found: dict[str, tuple[Answer, ...]] = {}
    reasons: dict[str, str] = {}
    asked: dict[str, Callable[[], Iterable[Bound]]] = {
        "pairs": lambda: map(ask.pairs, terms),
        "degree": lambda: (answer(asking(term, "max degree")) for term in terms),
        "live": lambda: map(ask.live, terms),
        "depth": lambda: [ask.depth(pattern, n)],
        "farthest": lambda: [ask.farthest(pattern, layers)],
        "contiguous": lambda: [ask.contiguous(pattern, layers)],
    }
    for column, bounds in asked.items():
        try:
            if column in ("farthest", "contiguous") and _connected(found.get("depth"), terms, layers):
                found[column] = ((n - 1, found["depth"][0][1]),)
            else:
                found[column] = tuple(value_at(bound, n) for bound in bounds())
        except PidslError as e:
            reasons[column] = reason_of(e)
    if "pairs" in found:
        found["sparsity"] = tuple((1 - Fraction(value) / n**2, bound) for value, bound in found["pairs"])
    else:
        reasons["sparsity"] = reasons["pairs"]
    values: dict[str, Value | None] = dict.fromkeys(COLUMNS)
    for column, answers in found.items():
        each = [value for value, _ in answers]
        values[column] = max(each) if column == "degree" else _mean(each)
    bounds_of = {column: tuple(b for _, b in answers if b is not None) for column, answers in found.items()}
    inexact = {c: b.relation for c, each in bounds_of.items() for b in each if not b.is_exact and c != "sparsity"}
    try:
        plans = [plan_cost(term, n, head_dim) for term in terms]
        attended = sum(p.attended for p in plans)
        values["waste"] = sum(p.forward for p in plans) / attended if attended else 1.0
    except PidslError as e:
        reasons["waste"] = reason_of(e)
    return Row(name, pattern, values, bounds_of, inexact, reasons)


def _connected(depth: tuple[Answer, ...] | None, terms: tuple[Term, ...], layers: int) -> bool:
    """Whether so many layers connect everything: the depth is reached, and every token keeps what it has seen."""
    if depth is None:
        return False
    ((value, bound),) = depth
    at_most = bound is None or bound.relation in ("==", "<=")
    return at_most and value <= layers and all(window(0) <= term for term in terms)


def _mean(values: list[Value]) -> Value:
    if len(values) == 1:
        return values[0]
    mean = sum((Fraction(x) for x in values), Fraction(0)) / len(values)
    return int(mean) if mean.denominator == 1 else mean
