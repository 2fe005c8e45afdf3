"""What must hold of the machine code of pidsl's kernels on sm_90, and of the times that it is modelled to take.

`python benchmarks/ahead.py --check` asks this of a results file; tests/runtime/test_machine_code.py of kernels that it
compiles. Counts are warp instructions per 64 x 64 pairs, as in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MOST = {  # (task, kind of loop): {D: instructions}
    ("forward", "full"): {64: 1050, 128: 1050},
    ("forward", "masked"): {64: 1750, 128: 1900},
    ("grad_query", "full"): {64: 1150, 128: 1450},
    ("grad_key", "full"): {64: 1450, 128: 1750},
}
MASKED = ("causal", "window1023", "window127", "stride256")  # whose masked loops these are
TASKS = ("forward", "grad_query", "grad_key")
PEER_PRODUCTS = {
    "forward": 2,
    "grad_query": 3,
    "grad_key": 4,
}  # of FlexAttention's loops, two of which are in one kernel
NARROWEST = 64  # n of the warp-group products of gradients
SLOWER = 1.05  # than FlexAttention
AHEAD = {"pi": 15.0, "stride256": 15.0}  # times as fast
BYTES = {"pi": 1.6}  # times the compulsory ones, forward
LONGEST, BEYOND = 4, 64  # times the average tiles of a walk, and tiles beyond it, that a program may have,
FEW = 8  # but for so many

NARROW = "tiles of 64 x 64, on which what every tile costs weighs more; larger ones would compute more pairs"
SETS = "masks of sets of lags cost more per pair than FlexAttention's, of fewer tiles"
BOXES = "boxes of tokens compute their positions and gather keys; of fewer tiles than FlexAttention's"
# What does not hold yet, by the beginning of what is said of it, and why; docs/explanation/gpu.md lists the same.
OPEN = {
    "window127 D 64 forward [0] full": NARROW,
    "window127 D 128 forward [0] full": NARROW,
    "dil4 D 64 forward [0] full": NARROW,
    "dil64 D 64 forward [0] full": NARROW,
    "dil64 D 128 forward [0] full": NARROW,
    "pi D 128 forward: ": "one head with what its stages hand on is larger than the second-level cache",
    "lags D 64 forward [0] masked": SETS,
    "lags D 128 grad_query [0] masked": SETS,
    "longformer D 64 grad_key [1] / 32 full": "one key that every row meets; why its loop is longer is not known yet",
    "natten D 64 forward [0] masked": BOXES,
    "natten D 64 grad_key [0] masked": BOXES,
    "natten D 128 grad_key [0]": BOXES,
}


def task_of(kernel: str) -> str | None:
    return next((task for task in TASKS if kernel.startswith(task)), None)


def title(kernel: dict[str, Any]) -> str:
    """A kernel, the pieces of the plan that it visits, and into how many parts their walks are cut."""
    pieces = f" [{', '.join(map(str, kernel['pieces']))}]" if kernel.get("pieces") else ""
    splits = f" / {kernel['splits']}" if kernel.get("splits", 1) > 1 else ""
    return f"{kernel['kernel']}{pieces}{splits}"


def kind_of(loop: dict[str, Any]) -> str:
    return "masked" if loop["masked"] else "full"


def broken_by_loops(name: str, head_dim: int, entry: dict[str, Any]) -> Iterator[str]:
    """What the loops of a pattern's kernels break."""
    theirs = peer_loops(entry)
    for kernel in entry["pidsl"]:
        task, where = task_of(kernel["kernel"]), f"{name} D {head_dim} {title(kernel)}"
        if kernel["spills_in_loops"]:
            yield f"{where}: {kernel['spills_in_loops']} loads and stores of local memory in loops"
        for loop in kernel["loops"] if task else ():
            kind = kind_of(loop)
            at = f"{where} {kind} (line {loop['line']})"
            if "HGMMA" not in loop:
                continue  # elementwise
            most = MOST.get((task or "", kind), {}).get(head_dim)
            if most is not None and (kind == "full" or name in MASKED) and loop["instructions"] > most:
                yield f"{at}: {loop['instructions']} instructions, at most {most}"
            peer = theirs.get((task or "", kind))
            if peer is not None and loop["instructions"] > peer["instructions"]:
                yield f"{at}: {loop['instructions']} instructions, FlexAttention {peer['instructions']}"
            if loop["wait"] == "DEPBAR 0":
                yield f"{at}: waits for its copies at once"
            if task != "forward" and any(n < NARROWEST for n in loop["n"]):
                yield f"{at}: products of n = {min(loop['n'])}"


def peer_loops(entry: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """FlexAttention's loops by task and kind."""
    found = {}
    for kernel in entry.get("flex", ()):
        for loop in kernel["loops"]:
            for task, products in PEER_PRODUCTS.items():
                if products == loop["matrix_products"]:
                    found[task, kind_of(loop)] = loop
    return found


def broken_by_times(name: str, head_dim: int, entry: dict[str, Any]) -> Iterator[str]:
    """What the modelled times of a pattern break."""
    for direction, ours in entry.get("time", {}).get("pidsl", {}).items():
        where = f"{name} D {head_dim} {direction}"
        if theirs := entry["time"].get("flex", {}).get(direction):
            ratio = ours["ms"] / theirs["ms"]
            if ratio > SLOWER:
                yield f"{where}: modelled {ours['ms']} ms, FlexAttention {theirs['ms']}: {ratio:.2f}, at most {SLOWER}"
            if 1 / ratio < AHEAD.get(name, 0.0):
                yield f"{where}: {1 / ratio:.1f} times as fast as FlexAttention, at least {AHEAD[name]}"
        if direction == "forward" and (most := BYTES.get(name)):
            times = ours["megabytes"] / entry["compulsory_megabytes"][direction]
            if times > most:
                yield f"{where}: {times:.2f} times the compulsory bytes, at most {most}"
        for walk in ours["walks"]:
            if walk["most_tiles"] > max(FEW, min(LONGEST * walk["mean_tiles"], walk["mean_tiles"] + BEYOND)):
                walks = f"a program walks {walk['most_tiles']} tiles, the mean is {walk['mean_tiles']}"
                yield f"{where} {walk['kernel']}: {walks}"


def unexpected(said: list[str]) -> list[str]:
    """What is broken beside what is known, and what is known and holds by now."""
    news = [x for x in said if not x.startswith(tuple(OPEN))]
    return news + [f"{known}: holds" for known in OPEN if not any(x.startswith(known) for x in said)]


def broken(found: dict[str, Any]) -> list[str]:
    """All that a results file breaks."""
    said: list[str] = []
    for name, by_head_dim in found["patterns"].items():
        for head_dim, entry in by_head_dim.items():
            said += broken_by_loops(name, int(head_dim), entry)
            said += broken_by_times(name, int(head_dim), entry)
    return said
