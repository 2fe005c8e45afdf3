"""The blocks that a call lists, as tables for kernels: by blocks of queries, and by blocks of keys.

A table has for every block, of every head that has lists, where its entries begin, how many of those are full, and how
many there are. The entries of a block of queries are where blocks of keys begin, those of a block of keys where blocks
of queries begin: rows of k and of q, counted from the first ones of the sequence; one that those cut begins before 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pidsl.codegen.plan.walks import Selected
from pidsl.language.expr import Pred, Truth, holds
from pidsl.runtime.call.call import Call, Positions
from pidsl.runtime.call.chosen import Choice, Lists, first_rows, lists_of, rows_of, spans, transposed
from pidsl.runtime.call.segments import COLUMNS
from pidsl.runtime.run_triton.launch import Loaded

INPUT = "blocks"  # of a call
BY_QUERIES, BY_KEYS = "queries", "keys"


def choice_of(program: Loaded) -> Choice | None:
    """What a program says of the lists of its calls; None where it has none. Without a plan, no block is full."""
    if not hasattr(program.module, "CHOSEN"):
        return None
    full: Pred = Truth(False)
    if program.plan is not None:
        (piece,) = program.plan.walked(Selected)
        full = piece.layout.full
    block, budget, queries = program.module.CHOSEN
    return Choice(block, budget, queries, lambda **lengths: holds(full, lengths))


def names(by: str) -> tuple[str, str, str]:
    """The table, the entries and the sequences, which say where their blocks begin: arguments of prepared calls."""
    return f"lists_by_{by}", f"choices_by_{by}", f"segments_by_{by}"


def tables(call: Call, choice: Choice, *, backward: bool = False) -> dict[str, Tensor]:
    """Those of a call: int64 [B, H, blocks, 3], entries int32 and one more, and of a ragged call its sequences.

    Args:
        call: with the input `blocks`.
        choice: what its program says of those.
        backward: by blocks of keys too; the numbers have been checked then.

    Raises:
        ArgumentError: a number that is neither -1 nor a block of keys that there is.
    """
    blocks: Tensor = call.inputs[INPUT]
    shape = call.q.shape[0], call.q.shape[2], call.k.shape[2]
    rows = rows_of(choice, call.positions, shape, blocks.shape[2], blocks.device)
    lists = lists_of(blocks, choice, rows, check=not backward)
    begin = (lists.entries.long() * choice.block - rows.key_offset).int()
    found = _named(BY_QUERIES, _table(lists), begin, call, choice.queries)
    if backward:
        by_keys = transposed(lists)
        counts = by_keys.begin[:-1], by_keys.full, by_keys.begin.diff()
        table = torch.stack([x.long() for x in counts], -1).view(*blocks.shape[:2], by_keys.owners, 3)
        found |= _named(BY_KEYS, table, by_keys.entries, call, choice.block)
    return found


def _table(lists: Lists) -> Tensor:
    """Where each list begins among all of them, and its lengths."""
    budget = lists.entries.shape[-1]
    begin = torch.arange(lists.full.numel(), device=lists.full.device).view(lists.full.shape) * budget
    return torch.stack([begin, lists.full.long(), lists.listed.long()], -1)


def _named(by: str, table: Tensor, entries: Tensor, call: Call, size: int) -> dict[str, Tensor]:
    made = dict(zip(names(by), (table, pad(entries.flatten(), (0, 1))), strict=False))
    where = call.positions
    if not isinstance(where, Positions):
        of, _, length, offset, _, keys, key_offset = where.table.long().unbind(1)[: len(COLUMNS)]
        if by == BY_KEYS:
            length, offset = keys, key_offset
        begin = first_rows(of, spans(offset, length, size))
        made[names(by)[2]] = torch.cat([where.table[:, : len(COLUMNS)], begin[:, None].int()], 1)
    return made
