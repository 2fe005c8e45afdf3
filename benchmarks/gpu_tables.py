"""Tables of results of benchmarks/ahead.py: on the screen, and in docs/explanation/gpu.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_limits import TASKS, kind_of, peer_loops, task_of, title

from pidsl.runtime.run_triton.machine_code import GROUPS, TENSOR

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "gpu.md"
SIDES = ("pidsl", "flex", "tutorial")
FACTS = {
    "warps": "warps",
    "registers": "registers",
    "stack_bytes": "stack",
    "shared_bytes": "shared",
    "programs": "fit",
}
COUNTS = ("instructions", "EX2", *GROUPS)
NO_LOOP = {"pairs": "-", "masked": False, "wait": "-", "spills": "-", "line": "-", "n": []}


def table(entry: dict[str, Any]) -> str:
    """All loops of an entry, and its times."""
    head = ["kernel", *FACTS.values(), "pairs", "loop", "products", *COUNTS]
    head += ["LDGSTS/TMA/LDG", "LDS+LDSM/STS", "wait", "spills", "line"]
    lines = [head]
    for side in SIDES:
        for kernel in entry.get(side, ()):
            for loop in kernel["loops"] or [NO_LOOP]:
                facts = [kernel[x] for x in FACTS]
                lines.append([f"{side} {title(kernel)}", *facts, *_cells(loop)])
    said = [f"no FlexAttention: {entry['no_flex']}"] if "no_flex" in entry else []
    for side, directions in entry.get("time", {}).items():
        for direction, found in directions.items():
            bound, compulsory = entry["bound_ms"][direction], entry["compulsory_megabytes"][direction]
            said.append(
                f"{side} {direction}: {found['ms']} ms, limit {found['limit_ms']}, bound {bound}; "
                f"{found['megabytes']} MB, compulsory {compulsory}"
            )
            said += [
                f"    {x['launches']} x {x['kernel']}: {x['ms']} ms, {x['megabytes']} MB" for x in found["launches"]
            ]
            said += [
                f"    {x['kernel']}: {x['programs']} programs walk {x['mean_tiles']} tiles, {x['most_tiles']} at most"
                for x in found["walks"]
            ]
    return "\n".join([markdown(lines), *said])


def _cells(loop: dict[str, Any]) -> list[Any]:
    copies = "/".join(str(loop.get(x, 0)) for x in ("LDGSTS", "UTMALDG", "LDG"))
    shared = f"{loop.get('LDS', 0) + loop.get('LDSM', 0)}/{loop.get('STS', 0)}"
    counts = [loop.get(x, "-") for x in COUNTS]
    return [
        loop["pairs"],
        kind_of(loop),
        _products(loop),
        *counts,
        copies,
        shared,
        loop["wait"],
        loop["spills"],
        loop["line"],
    ]


def _products(loop: dict[str, Any]) -> str:
    widths = f" n{'/'.join(map(str, loop['n']))}" if loop["n"] else ""
    return ", ".join(f"{loop[x]} {x}" for x in TENSOR if x in loop) + widths


def markdown(lines: list[list[Any]]) -> str:
    """A table; the first line is its head."""
    texts = [[str(x) for x in line] for line in lines]
    widths = [max(len(line[k]) for line in texts) for k in range(len(texts[0]))]
    texts.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)) + " |" for line in texts)


def as_json(found: Any, depth: int = 0) -> str:
    """JSON with a line for every kernel and every direction."""
    if depth == 5 or not isinstance(found, dict | list) or not found:
        return json.dumps(found)
    margin, end = f"\n{' ' * (depth + 1)}", f"\n{' ' * depth}"
    if isinstance(found, dict):
        parts = [f"{json.dumps(name)}: {as_json(x, depth + 1)}" for name, x in found.items()]
        return f"{{{margin}" + f",{margin}".join(parts) + f"{end}}}"
    return f"[{margin}" + f",{margin}".join(as_json(x, depth + 1) for x in found) + f"{end}]"


# -- the page ----------------------------------------------------------------------------------------------------------


def renew(found: dict[str, Any], page: Path = PAGE) -> None:
    """Put the tables of a results file where they stand in the page."""
    text = page.read_text(encoding="utf-8")
    for name, made in tables(found).items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + made + "\n" + end + rest.split(end)[1]
    page.write_text(text, encoding="utf-8")


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The tables of the page by name."""
    return {"times": markdown(_times(found)), "loops": markdown(_loops(found)), "versions": _versions(found)}


def _versions(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {x}" for name, x in found["versions"].items())
    return f"{found['target'].replace('cuda:', 'sm_')}, {found['dtype']}, {found['heads']} heads; {versions}."


def _times(found: dict[str, Any]) -> list[list[Any]]:
    lines: list[list[Any]] = [
        ["pattern", "D", "pass", "pidsl ms", "FlexAttention ms", "ratio", "limits", "bound", "MB", "compulsory"]
    ]
    for name, by_head_dim in found["patterns"].items():
        for head_dim, entry in by_head_dim.items():
            for direction, ours in entry["time"]["pidsl"].items():
                theirs = entry["time"].get("flex", {}).get(direction)
                peer = [f"{theirs['ms']:.3f}", f"{ours['ms'] / theirs['ms']:.2f}"] if theirs else ["-", "-"]
                limits = f"{ours['limit_ms']:.3f} / {theirs['limit_ms']:.3f}" if theirs else f"{ours['limit_ms']:.3f}"
                bound, moved = entry["bound_ms"][direction], entry["compulsory_megabytes"][direction]
                lines.append(
                    [
                        name,
                        head_dim,
                        direction,
                        f"{ours['ms']:.3f}",
                        *peer,
                        limits,
                        f"{bound:.3f}",
                        ours["megabytes"],
                        moved,
                    ]
                )
    return lines


def _loops(found: dict[str, Any]) -> list[list[Any]]:
    """One line for each of pidsl's loops, with FlexAttention's count for the same task and kind of loop."""
    lines: list[list[Any]] = [
        [
            "pattern",
            "D",
            "kernel",
            "loop",
            "pairs",
            "instructions",
            "FlexAttention",
            "products",
            "ISETP",
            "FSEL+SEL",
            "wait",
            "registers",
            "fit",
        ]
    ]
    for name, by_head_dim in found["patterns"].items():
        for head_dim, entry in by_head_dim.items():
            peers = peer_loops(entry)
            lines += [[name, head_dim, *line] for line in _loops_of(entry["pidsl"], peers)]
    return lines


def _loops_of(kernels: list[dict[str, Any]], peers: dict[tuple[str, str], dict[str, Any]]) -> Iterator[list[Any]]:
    for kernel in kernels:
        task = task_of(kernel["kernel"])
        for loop in kernel["loops"] if task in TASKS else ():
            peer = peers.get((task or "", kind_of(loop)), {}).get("instructions", "-")
            yield [
                title(kernel), kind_of(loop), loop["pairs"], loop["instructions"], peer, _products(loop),
                loop["ISETP"], loop["FSEL+SEL"], loop["wait"], kernel["registers"], kernel["programs"],
            ]  # fmt: skip
