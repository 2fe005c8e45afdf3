"""The tables of docs/explanation/many_devices.md, from benchmarks/results/devices.json: a test holds the page to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pidsl.distributed.planning.shown import bytes_of

WAYS = ("all-gather", "ring", "torch's context parallel")
FEW = (8, 64, 1024)  # GPUs of the table; the picture has all


def tables(report: dict[str, Any]) -> Iterator[str]:
    """One after the other: bytes sent, the model's times, GPUs that memory asks for, operations."""
    yield sent(report["measured"]["rows"])
    yield times(report["model"]["clusters"]["rows"])
    yield gpus(report["model"]["memory"]["rows"])
    yield operations(report["model"]["operations"]["rows"])


def renewed(text: str, report: dict[str, Any]) -> str:
    """The page with its tables anew; a table is known by its first line."""
    for new in tables(report):
        head = new.partition("\n")[0]
        before, found, after = text.partition(head)
        assert found, f"the page has no table {head}"
        text = before + new + after[after.index("\n\n") :]
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(pattern: str) -> str:
    return f"`{pattern}`".replace("|", r"\|")


def sent(rows: list[dict[str, Any]]) -> str:
    """Forward and backward, of the rank that gets most."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((row["pattern"], row["ranks"]), {})[row["way"]] = row

    def most(row: dict[str, Any]) -> str:
        both = (row["forward"], row["backward"])
        return " / ".join("-" if "does_not_run" in x else bytes_of(max(x["received"])) for x in both)

    head = ["pattern", "ranks", "pidsl", "as the plan says", *WAYS]
    return table(
        head,
        [
            [code(pattern), str(ranks), most(ways["pidsl"]), "yes" if ways["pidsl"]["as_planned"] else "no"]
            + [most(ways[way]) for way in WAYS]
            for (pattern, ranks), ways in found.items()
        ],
    )


def times(rows: list[dict[str, Any]]) -> str:
    ways = ("pidsl", "all-gather", "ring", "Ulysses")

    def ms(seconds: float | None) -> str:
        return "-" if seconds is None else f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"

    return table(
        ["pattern", "GPUs", "pairs to compute", *(f"exchange: {x}" for x in ways)],
        [
            [code(row["pattern"]), str(row["gpus"]), ms(row["compute_seconds"])]
            + [ms(row["exchange_seconds"][way]) for way in ways]
            for row in rows if row["gpus"] in FEW
        ],
    )  # fmt: skip


def gpus(rows: list[dict[str, Any]]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    ways = list(rows[0]["gpus"])
    by = {(row["model"], row["n"]): row["gpus"] for row in rows}
    return table(
        ["tokens", *(f"{model}: {way}" for model in models for way in (code(ways[0]), *ways[1:]))],
        [
            [f"{n:,}", *(str(by[model, n][way] or "none suffice") for model in models for way in ways)]
            for n in dict.fromkeys(row["n"] for row in rows)
        ],
    )


def operations(rows: list[dict[str, Any]]) -> str:
    models = list(dict.fromkeys(row["model"].partition(",")[0] for row in rows))
    by = {(row["model"].partition(",")[0], row["n"]): row["ratio"] for row in rows}
    some = [n for n in dict.fromkeys(row["n"] for row in rows) if n in (1 << 15, 1 << 17, 1 << 20)]
    return table(["tokens", *models], [[f"{n:,}", *(f"{by[model, n]:.2f}" for model in models)] for n in some])
