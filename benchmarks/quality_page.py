"""The tables of docs/explanation/quality.md, from benchmarks/results/quality: a test holds the page to them.

An interval is of 95 % for the mean over seeds, by Student's t; differences are taken seed by seed, where both runs
began with the same sequences and, but for the gate, with the same weights.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
from devices_page import code, table
from quality_run import Run, field_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "quality.md"
LEVEL = 0.95
FAR = 4  # the last so many bins of positions: where a text has the most before it
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds, and half the width of its interval."""

    mean: float
    half: float
    seeds: int

    def __str__(self) -> str:
        return self.shown(1)

    def shown(self, digits: int, sign: str = "") -> str:
        return f"{self.mean:{sign}.{digits}f} ± {self.half:.{digits}f}"


def mean_of(values: Sequence[float]) -> Mean:
    """Of independent values.

    >>> print(mean_of([1.0, 2.0, 3.0]))
    2.0 ± 2.5
    """
    if len(values) < 2:
        return Mean(values[0] if values else math.nan, math.inf, len(values))
    half = quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Mean(statistics.fmean(values), half, len(values))


@cache
def quantile(degrees: int) -> float:
    """Of Student's t: within plus and minus so much lies `LEVEL`.

    >>> round(quantile(4), 3)
    2.776
    """

    def outside(t: Any) -> Any:
        return mpmath.betainc(degrees / 2, 0.5, 0, degrees / (degrees + t * t), regularized=True) - (1 - LEVEL)

    return float(mpmath.findroot(outside, 2.0 + 2.0 / degrees))


def by(rows: Rows, name: str) -> dict[Any, list[Mapping[str, Any]]]:
    """Results by an argument of their run, in the order in which its values come."""
    found: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["run"][name]].append(row)
    return dict(found)


def counted(row: Mapping[str, Any], side: int) -> tuple[int, int]:
    """Questions and right answers of a run, within the field (0) or beyond it (1)."""
    pairs = [pair[side] for pair in row["by_distance"].values()]
    return sum(asked for asked, _ in pairs), sum(right for _, right in pairs)


def accuracy(rows: Rows, side: int) -> Mean | None:
    """Of the questions on one side of the field, in percent; None: there are none in some run."""
    both = [counted(row, side) for row in rows]
    return None if any(asked == 0 for asked, _ in both) else mean_of([100 * right / asked for asked, right in both])


# -- tables ------------------------------------------------------------------------------------------------------------


def tables(results: Mapping[str, Rows]) -> Iterator[tuple[str, str]]:
    """Name and text of each."""
    for study in ("copy", "periods", "depth", "patience", "boundary"):
        yield study, at_distances(results[study])
    yield "content", by_content(results["content"])
    yield "beyond", beyond(results)
    for task in ("python", "novels"):
        yield task, in_bits([row for row in results["text"] if row["run"]["task"] == task])
    yield "time", times(results)


def renewed(text: str, results: Mapping[str, Rows]) -> str:
    """The page with its tables anew: each stands between `<!-- name -->` and the next empty line."""
    for name, new in tables(results):
        mark = f"<!-- {name} -->\n"
        before, found, after = text.partition(mark)
        assert found, f"the page has no {mark}"
        text = before + mark + new + after[after.index("\n\n") :]
    return text


def reach(row: Mapping[str, Any]) -> str:
    """`12 / 32`: contiguous and farthest, as proved; in brackets from the composed mask, where no bound is so short."""
    contiguous, farthest = row["proved"]["contiguous"], row["proved"]["farthest"]
    assert contiguous is not None, row
    if farthest is not None:
        return f"{contiguous} / {farthest}"
    queries, keys = np.nonzero(field_of(Run(**row["run"])))
    return f"{contiguous} / ({(queries - keys).max()})"


def at_distances(rows: Rows) -> str:
    """Accuracy by contender and distance: in bold within the field, and beyond it."""
    distances = sorted({row["run"]["distance"] for row in rows})
    lines = []
    for name, mine in by(rows, "name").items():
        cells = []
        for distance in distances:
            asked = by(mine, "distance").get(distance, [])
            inside, outside = (accuracy(asked, side) if asked else None for side in (0, 1))
            cells.append("; ".join([f"**{inside}**"] * bool(inside) + [str(outside)] * bool(outside)))
        lines.append([name, code(mine[0]["run"]["pattern"]), str(mine[0]["keys"]), reach(mine[0]), *cells])
    return table(["", "pattern", "keys", "reach", *(f"d = {x}" for x in distances)], lines)


def by_content(rows: Rows) -> str:
    """Accuracy within and beyond the field, by task."""
    tasks = list(by(rows, "task"))
    lines = []
    for name, mine in by(rows, "name").items():
        cells = []
        for task in tasks:
            asked = by(mine, "task")[task]
            share = sum(counted(row, 0)[0] for row in asked) / sum(
                sum(counted(row, k)[0] for k in (0, 1)) for row in asked
            )
            cells += [f"{100 * share:.0f} %", *(str(accuracy(asked, side) or "-") for side in (0, 1))]
        lines.append([name, code(mine[0]["run"]["pattern"]), reach(mine[0]), *cells])
    return table(
        ["", "pattern", "reach", *(x for task in tasks for x in (f"{task}: within reach", "right there", "beyond"))],
        lines,
    )


def beyond(results: Mapping[str, Rows]) -> str:
    """What is answered beyond the field, study by study and by chance.

    Runs of one seed are asked the same questions, so they count once: an interval is of the means of seeds.
    """
    lines = []
    for study, rows in results.items():
        asked = [(row, *counted(row, 1)) for row in rows if "by_distance" in row and counted(row, 1)[0]]
        for chance in dict.fromkeys(row["chance"] for row, _, _ in asked):
            alike = [each for each in asked if each[0]["chance"] == chance]
            mine = [(n, right) for _, n, right in alike]
            of_seed = defaultdict(list)
            for row, n, right in alike:
                of_seed[row["run"]["seed"]].append(100 * (right / n - chance))
            total, right_of_all = (sum(x) for x in zip(*mine, strict=True))
            excess = mean_of([statistics.fmean(each) for each in of_seed.values()])
            most = max((right - n * chance) / math.sqrt(n * chance * (1 - chance)) for n, right in mine)
            lines.append(
                [study, str(len(mine)), f"{total:,}", f"{100 * chance:.2f}", f"{100 * right_of_all / total:.2f}",
                 excess.shown(2, "+"), f"{most:.1f}"]
            )  # fmt: skip
    return table(
        ["study", "runs", "questions", "chance, %", "right, %", "right less chance", "most of a run, in s.d."], lines
    )


def in_bits(rows: Rows) -> str:
    """Bits per byte, and differences to the window and to dense attention, seed by seed."""
    lines = []
    for name, mine in by(rows, "name").items():
        first = mine[0]
        cells = [mean_of([bits(row) for row in mine]).shown(3), *[""] * 4]
        if name != "window":
            less = less_than("window", mine, rows, bits)
            cells[1:4] = less.shown(3, "+"), ratio(less), less_than("window", mine, rows, far).shown(3, "+")
        if name != "dense":
            cells[4] = less_than("dense", mine, rows, bits).shown(3, "+")
        of = [name, code(first["run"]["pattern"]), str(first["keys"]), f"{first['parameters']:,}", reach(first)]
        lines.append([*of, *cells])
    behind = rows[0]["run"]["n"] * (1 - FAR / len(rows[0]["by_position"]))
    return table(
        ["", "pattern", "keys", "parameters", "reach", "bits per byte", "less the window's", "as perplexity per byte",
         f"less the window's, behind {behind:.0f} bytes", "less dense attention's"], lines
    )  # fmt: skip


def bits(row: Mapping[str, Any]) -> float:
    """Per byte."""
    return float(row["bits"])


def far(row: Mapping[str, Any]) -> float:
    """The same, of the last positions."""
    return statistics.fmean(row["by_position"][-FAR:])


def less_than(name: str, mine: Rows, rows: Rows, bits: Callable[[Mapping[str, Any]], float]) -> Mean:
    """The difference of some runs to those of a contender with the same seeds."""
    other = {row["run"]["seed"]: bits(row) for row in rows if row["run"]["name"] == name}
    return mean_of([bits(row) - other[row["run"]["seed"]] for row in mine if row["run"]["seed"] in other])


def ratio(less: Mean) -> str:
    """Of perplexities, from a difference of bits, less 1: the ends of the interval."""
    low, high = (100 * (2 ** (less.mean + side * less.half) - 1) for side in (-1, 1))
    return f"{low:+.1f} .. {high:+.1f} %"


def times(results: Mapping[str, Rows]) -> str:
    """What it took."""
    lines = [
        [study, len(rows), len({row["run"]["seed"] for row in rows}), sum(row["cpu_seconds"] for row in rows) / 60]
        for study, rows in results.items()
    ]
    lines.append(
        ["all", sum(line[1] for line in lines), max(line[2] for line in lines), sum(line[3] for line in lines)]
    )
    return table(["study", "runs", "seeds", "CPU minutes"], [[*map(str, line[:3]), f"{line[3]:.0f}"] for line in lines])


def write(results: Mapping[str, Rows], page: Path = PAGE) -> Path:
    """Renew the tables of the page; pictures are drawn by docs/images.py."""
    page.write_text(renewed(page.read_text(encoding="utf-8"), results), encoding="utf-8")
    return page
