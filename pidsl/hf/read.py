"""From a mask function of transformers to a pattern.

transformers says a mask as a predicate of batch entry, head, query and key, put together from a few of its own:

    mask ::= causal | bidirectional                      of positions in the cache
           | sliding(w) | symmetric sliding(w)           overlays
           | chunked(c, left padding)                    chunks count from the first token of each entry
           | mask & mask ... | mask | mask ...
           | remapped(mask, position_ids)                positions within packed documents
           | same document(ids)
           | mask | same block(ids)                    tokens of an image see one another

They are read by what their closures hold. Other functions, a user's, are traced as `pidsl.where` traces predicates.
What was read is compared with the function itself, at a few positions, before it is used (`check_reading`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import pidsl
from pidsl.errors import PidslError
from pidsl.hf.refused import refuse
from pidsl.language.terms import Term
from pidsl.relation.oracle import table

MODULE = "transformers.masking_utils"
Mask = Callable[..., Any]
NOTHING = (("lower", 0),)  # no pair


class Reading(NamedTuple):
    """A mask function as a pattern.

    Args:
        parts: what all hold, as text that names each: kind and number, or a traced term.
        documents: ids of packed documents, [B, n], if it keeps them apart.
        positions: of the tokens within their documents, [B, n].
        left: the padding on the left that chunks count from, [B].
        traced: a function was traced, whose positions are those of the cache, padding included.
        blocks: ids of blocks that see themselves besides, [B, m]; -1: none.
        inside: what holds within blocks too, as `parts`.
    """

    parts: tuple[Any, ...]
    documents: Tensor | None = None
    positions: Tensor | None = None
    left: Tensor | None = None
    traced: bool = False
    blocks: Tensor | None = None
    inside: tuple[Any, ...] = ()

    @property
    def term(self) -> Term:
        """The pattern; one object for all that are equal."""
        return _term(self.parts)

    @property
    def besides(self) -> Term:
        """What pairs within blocks have besides."""
        return _term(self.inside) & ~self.term

    @property
    def by_lag(self) -> bool:
        """Whether only the lag of a pair counts, so that positions may count from anywhere."""
        return all(isinstance(x, tuple) and x[0] in ("causal", "full", "lower", "both", "lags") for x in self.parts)

    @property
    def is_full(self) -> bool:
        """Every pair."""
        return all(x == ("full", 0) for x in self.parts)


def read(mask: Mask) -> Reading:
    """What a mask function says.

    Raises:
        UnsupportedError: it, or a part of it, is of a kind that is not known and cannot be traced.
    """
    name = getattr(mask, "__qualname__", type(mask).__name__).split(".")[0]
    if getattr(mask, "__module__", "") != MODULE:
        return _traced(mask)
    held = {x: cell.cell_contents for x, cell in zip(mask.__code__.co_freevars, mask.__closure__ or (), strict=True)}
    match name:
        case "causal_mask_function":
            return Reading((("causal", 0),))
        case "bidirectional_mask_function":
            return Reading((("full", 0),))
        case "sliding_window_overlay":
            return Reading((("lower", int(held["sliding_window"])),))
        case "sliding_window_bidirectional_overlay":
            return Reading((("both", int(held["sliding_window"])),))
        case "chunked_overlay":
            return Reading((("chunk", int(held["chunk_size"])),), left=held["left_padding"])
        case "packed_sequence_mask_function":
            return Reading((), documents=held["packed_sequence_mask"])
        case "remap_positions_for_packed_sequence":
            return read(held["mask_function"])._replace(positions=held["position_ids"])
        case "and_masks":
            return reduce(_both, map(read, held["mask_functions"]), Reading(()))
        case "or_masks":
            return _either([x for x in held["mask_functions"] if not _says_nothing(x)])
        case "blockwise_overlay":
            return Reading(NOTHING, blocks=held["block_sequence_ids"])
    return _traced(mask)


def _says_nothing(mask: Mask) -> bool:
    """Whether a mask is one of blocks and no token is in any."""
    if getattr(mask, "__module__", "") != MODULE or not mask.__qualname__.startswith("blockwise_overlay"):
        return False
    (cell,) = mask.__closure__ or ()
    return bool((cell.cell_contents < 0).all())


def _both(a: Reading, b: Reading) -> Reading:
    if a.blocks is not None and b.blocks is not None:
        raise refuse("an intersection of masks of blocks", "blocks beside one mask of positions")

    def one(x: Any, y: Any) -> Any:
        return y if x is None else x

    return Reading(
        tuple(dict.fromkeys((*a.parts, *b.parts))), one(a.documents, b.documents), one(a.positions, b.positions),
        one(a.left, b.left), a.traced or b.traced, one(a.blocks, b.blocks),
        a.inside + b.inside + (b.parts if a.blocks is not None else ()) + (a.parts if b.blocks is not None else ()),
    )  # fmt: skip


def _either(masks: Sequence[Mask]) -> Reading:
    found_ones = [read(x) for x in masks]
    blocks = [x.blocks for x in found_ones if x.blocks is not None]
    read_ones = [x for x in found_ones if x.blocks is None]
    if len(blocks) > 1 or not read_ones or any(x.blocks is not None and x.parts != NOTHING for x in found_ones):
        raise refuse("a union of masks of blocks", "blocks beside one mask of positions")
    found = _positions(read_ones)
    return found._replace(blocks=blocks[0]) if blocks and not found.is_full else found


def _positions(read_ones: Sequence[Reading]) -> Reading:
    if len(read_ones) == 1:
        return read_ones[0]
    if any(x.is_full for x in read_ones):
        return Reading((("full", 0),), traced=any(x.traced for x in read_ones))
    if any(x.documents is not None or x.positions is not None or x.left is not None for x in read_ones):
        raise refuse("a union of masks of which one is of documents or of chunks", "a union of masks of positions")
    term = reduce(lambda a, b: a | b, (x.term for x in read_ones))
    part = ("lags", term) if all(x.by_lag for x in read_ones) else term
    return Reading((part,), traced=any(x.traced for x in read_ones))


def _traced(mask: Mask) -> Reading:
    """A function of someone else's, as a predicate of query and key position."""
    name = f"{getattr(mask, '__module__', '')}.{getattr(mask, '__qualname__', type(mask).__name__)}".strip(".")

    def asked(i: Any, j: Any) -> Any:
        found = mask(0, 0, i, j)
        return bool(found) if isinstance(found, Tensor) and found.numel() == 1 else found

    try:
        term = pidsl.where(asked)
        moved = pidsl.where(lambda i, j: asked(i + 1, j + 1))
    except (PidslError, TypeError, AttributeError, IndexError, ValueError, RuntimeError) as e:
        said = e.given if isinstance(e, PidslError) else str(e)
        given = f"mask function {name}, which is no predicate of query and key positions: {said}"
        expected = "mask functions of transformers.masking_utils, or what pidsl.where traces"
        raise refuse(given, expected) from e
    part: Any = ("full", 0) if term == pidsl.full else ("lags", term) if _equal(term, moved) else term
    return Reading((part,), traced=True)


@lru_cache(maxsize=256)
def _equal(a: Term, b: Term) -> bool:
    return a.equals(b)


@lru_cache(maxsize=256)
def _term(parts: tuple[Any, ...]) -> Term:
    said = {x[0]: x[1] for x in parts if isinstance(x, tuple)}
    if len(said) < sum(isinstance(x, tuple) for x in parts):  # two windows: the smaller one, by themselves
        return reduce(lambda a, b: a & b, (_term((x,)) for x in parts))
    terms: list[Term] = [x for x in parts if not isinstance(x, tuple)]
    if "lower" in said:
        if said["lower"] < 1:
            terms.append(pidsl.empty)
        elif "causal" in said:
            terms.append(pidsl.window(said.pop("lower") - 1))
            said.pop("causal")
        else:
            width = said["lower"]
            terms.append(pidsl.where(lambda i, j: i - j < width))
    if "both" in said:
        terms.append(pidsl.window(said["both"], said["both"]))
    if "chunk" in said:
        terms.append(pidsl.blocks(said["chunk"]))
    if "causal" in said:
        terms.append(pidsl.causal)
    if "lags" in said:
        terms.append(said["lags"])
    return reduce(lambda a, b: a & b, terms) if terms else pidsl.full


def check_reading(
    mask: Mask, reading: Reading, sizes: tuple[int, int, int], first: tuple[int, int], device: torch.device
) -> None:
    """Compare what was read with the mask function, at a few queries and keys.

    Args:
        mask, reading: the function, and what was read.
        sizes: batch entries, queries, keys.
        first: the positions of the first query and key.
        device: of what the function holds.

    Raises:
        UnsupportedError: they differ.
    """
    batch, n, m = sizes
    entries = torch.arange(min(batch, 3), device=device)
    rows, columns = (_few(start, count).to(device) for start, count in zip(first, (n, m), strict=True))
    zero = torch.zeros(1, dtype=torch.long, device=device)
    shaped = entries[:, None, None, None], zero[None, :, None, None], rows[None, None, :, None], columns
    found = torch.as_tensor(mask(*shaped)).expand(len(entries), 1, len(rows), len(columns))[:, 0].cpu().numpy()
    for b in range(len(entries)):
        i, j = rows.cpu().numpy(), columns.cpu().numpy()
        same = np.ones((len(i), len(j)), dtype=bool)
        if reading.documents is not None:
            ids = reading.documents[b].cpu().numpy()
            same = ids[i][:, None] == ids[j][None]
        if reading.positions is not None:
            where = reading.positions.expand(batch, -1)[b].cpu().numpy()
            i, j = where[i], where[j]
        if reading.left is not None:
            i, j = i - int(reading.left[b]), j - int(reading.left[b])
        real = (i >= 0)[:, None] & (j >= 0)[None]
        stop = int(max(i.max(initial=0), j.max(initial=0))) + 1
        mine = table(reading.term, i.clip(0), j.clip(0), stop, stop) & same
        if reading.blocks is not None:
            ids = reading.blocks[b].cpu().numpy()
            besides = table(reading.besides, i.clip(0), j.clip(0), stop, stop)
            mine |= besides & (ids[i][:, None] == ids[j][None]) & (ids[i] >= 0)[:, None]
        if ((mine != found[b]) & real).any():
            given = f"a mask that was read as {reading.term!r} and is another one"
            raise refuse(given, "a mask function of transformers.masking_utils")


def _few(start: int, count: int) -> Tensor:
    """At most some forty of so many positions: the first and last ones, and some between."""
    if count <= 40:
        return torch.arange(start, start + count)
    places = torch.cat([torch.arange(12), torch.linspace(12, count - 13, 16).long(), torch.arange(count - 12, count)])
    return start + places
