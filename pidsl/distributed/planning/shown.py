"""What a plan for ranks says of itself: a table beside other ways to do the same work, and why each part moves so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pidsl.distributed.planning.choose import Choice, Option
from pidsl.distributed.planning.volumes import rows
from pidsl.distributed.tokens.shards import Shards

if TYPE_CHECKING:
    from pidsl.distributed.planning.plan import Plan


def bytes_of(count: int) -> str:
    """Bytes as people write them, in powers of 1000.

    >>> bytes_of(16_773_120), bytes_of(4_227_858_432), bytes_of(0)
    ('16.8 MB', '4.23 GB', '0 B')
    """
    for size, name in ((10**15, "PB"), (10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {name}" if count < 1000 * size else f"{count // size:,} {name}"
    return f"{count} B"


def sharding(shards: Shards) -> str:
    """How tokens are shared out, in words.

    >>> sharding(Shards(64, 4, "classes", 16))
    'residue classes mod 16, 4 to a rank: 16 tokens'
    """
    most = max(shards.rows(0), shards.rows(min(1, shards.ranks - 1)))
    if shards.kind == "classes":
        return f"residue classes mod {shards.period:,}, {shards.chunk:,} to a rank: {tokens(most)}"
    return f"{shards.kind}, {tokens(most)} a rank"


def tokens(count: int) -> str:
    """A number of tokens, in words."""
    return f"{count:,} token{'s' * (count != 1)}"


def lines_of(found: Plan) -> tuple[str, list[list[str]], list[str]]:
    """A title, a table whose first line names the columns, and lines below."""
    asked, most = found.asked, "at most " if found.relation == "<=" else ""
    title = (
        f"{asked.n:,} tokens over {asked.ranks:,} rank{'s' * (asked.ranks != 1)}: {sharding(found.shards)}; "
        f"{asked.heads} query heads, {asked.kv_heads} key heads, head_dim {asked.head_dim}"
        + (f", value_dim {asked.value_dim}" if asked.value_dim != asked.head_dim else "")
        + f", {asked.dtype}"
        + (f"; {len(found.layers)} layers" if len(found.layers) > 1 else "")
    )
    cells = [["bytes that one rank gets, at most", "forward", "backward"]]
    cells.append(["this plan", bytes_of(found.forward.most), bytes_of(found.backward.most)])
    notes = []
    for other in found.others:
        shown = [bytes_of(x) if x is not None else "-" for x in (other.forward, other.backward)]
        cells.append([other.name, *shown])
        notes += [f"{other.name}: {other.reason}"] if other.reason else []
    if found.relation == "<=":
        notes.append("calls choose keys: what is computed and moved is at most this")
    notes.append(f"moved in all, forward: {most}{bytes_of(found.forward.total)}")
    pairs = int(found.pairs.max())
    notes.append(f"pairs: {most}{pairs:,} on a rank, {float(found.imbalance):.3f} times the mean")
    return title, cells, notes + list(reasons(found))


def text(found: Plan) -> str:
    """All of it as text."""
    title, cells, notes = lines_of(found)
    widths = [max(len(line[k]) for line in cells) for k in range(3)]
    table = [f"  {a:{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in cells]
    return "\n".join([f"plan: {title}", *table, *(f"  {note}" for note in notes)])


def reasons(found: Plan) -> Iterator[str]:
    """A line for each part of each pattern: how it moves, and what the other ways would have moved."""
    for term, choices in found.choices.items():
        for choice in choices:
            of = f" (of {term!r})" if len(choices) > 1 else ""
            yield f"{choice.part!r}{of}: {reason(choice)}"


def reason(choice: Choice) -> str:
    """Why a part is placed as it is."""
    chosen = choice.chosen
    said = _said(chosen)
    others = [f"{_named(x)} {bytes_of(x.bytes)}" if x.bytes is not None else "" for x in choice.others]
    others = [x for x in dict.fromkeys(others) if x]
    if chosen.bytes and others:
        said += f"; {', '.join(others)} instead"
    return said


def _said(option: Option) -> str:
    placement, name = option.placement, option.name
    home = placement.home
    if name == "nothing":
        return "nothing moves, each pair is where its query and its key are"
    busiest = f"{bytes_of(option.bytes or 0)} for the busiest rank"
    keys, queries = (rows(home, ((placement, side),)) for side in ("keys", "queries"))
    if name in ("halo", "gather"):
        most = int(keys.received.max())
        at = int(keys.received.argmax())
        ranks = np.arange(home.ranks)
        senders = int((keys.between(ranks, np.full_like(ranks, at)) > 0).sum())
        return f"{name}: up to {most:,} keys, of {senders:,} other rank{'s' * (senders != 1)}, {busiest}"
    moved = int(queries.received.max())
    if name == "queries":
        return f"queries: up to {moved:,} go to the keys, results come back, {busiest}"
    fetched = int(keys.received.max())
    return f"{_named(option)}: up to {moved:,} queries and {fetched:,} keys go, results come back, {busiest}"


def _named(option: Option) -> str:
    layout = option.placement.layout
    if option.name != "re-shard":
        return option.name
    return f"re-shard ({sharding(layout).split(':')[0]})" if layout.kind == "classes" else f"re-shard ({layout.kind})"
