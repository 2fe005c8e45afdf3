"""What moves between many devices: devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from pidsl.cli.options import LENGTH, as_json, pattern, read, write_json

COUNT = click.IntRange(1)


@click.command(
    epilog="""\b
Examples:
  pidsl devices "window(4095)" -n 1048576 --ranks 64 --kv-heads 8
  pidsl devices "window(63) | stride(1024) & causal" -n 1048576 --ranks 64
  pidsl devices longformer -n 65536 --ranks 8 --sharding zigzag --json"""
)
@pattern
@click.option("-n", "--n", "--tokens", "n", type=LENGTH, required=True, metavar="TOKENS", help="Tokens.")
@click.option("--ranks", type=COUNT, required=True, metavar="P", help="How many devices share the tokens.")
@click.option("--kv-heads", type=COUNT, default=1, show_default=True, metavar="H", help="Key heads.")
@click.option("--heads", type=COUNT, metavar="H", help="Query heads; default: of the pattern, or as many as key heads.")
@click.option("--head-dim", type=COUNT, default=64, show_default=True, metavar="D", help="Of q and k, and of v.")
@click.option("--value-dim", type=COUNT, metavar="D", help="Of v and out; default: the head dimension.")
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "fp16", "fp32", "fp64"]),
    default="bf16",
    show_default=True,
    help="Of q, k and v.",
)
@click.option(
    "--sharding", type=click.Choice(["auto", "contiguous", "zigzag", "classes"]), default="auto", show_default=True,
    help="Which rank has which tokens; auto: what moves least among the balanced ones.",
)  # fmt: skip
@as_json
def devices(
    pattern: str, bound: Mapping[str, int], n: int, ranks: int, as_json: bool, **sizes: Any
) -> None:  # fmt: skip
    """How PATTERN is shared out among devices, and what moves between them.

    Bytes of the rank that gets most, beside all-gather, ring and Ulysses; for each part of the pattern the move that
    was chosen and what others would have moved.

    JSON: "pattern", "tokens", "ranks", "sharding" ("kind", "period"), "relation", "forward" and "backward" ("most",
    "total", and of each rank "received", "sent"), "pairs" of each rank, "imbalance", "others" ("name", "forward",
    "backward", "reason"), "parts" ("of", "part", "move", "bytes", "reason").
    """
    from pidsl.distributed import plan
    from pidsl.distributed.planning.shown import reason

    found = plan(read(pattern, bound), n, ranks, **sizes)
    if not as_json:
        click.echo(str(found))
        return
    passes = {"forward": found.forward, "backward": found.backward}
    write_json({
        "pattern": repr(found.asked.pattern), "tokens": n, "ranks": ranks,
        "sharding": {"kind": found.shards.kind, "period": found.shards.period},
        "relation": found.relation,
        **{
            name: {"most": x.most, "total": x.total, "received": x.received.tolist(), "sent": x.sent.tolist()}
            for name, x in passes.items()
        },
        "pairs": found.pairs.tolist(), "imbalance": float(found.imbalance),
        "others": [
            {"name": x.name, "forward": x.forward, "backward": x.backward, "reason": x.reason or None}
            for x in found.others
        ],
        "parts": [
            {
                "of": repr(term), "part": repr(x.part), "move": x.chosen.name, "bytes": x.chosen.bytes,
                "reason": reason(x),
            }
            for term, choices in found.choices.items()
            for x in choices
        ],
    })  # fmt: skip


COMMANDS = (devices,)
