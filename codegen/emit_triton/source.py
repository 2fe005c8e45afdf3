"""From a plan to a Triton program: one readable Python module with the kernels of forward and backward.

The module stands on its own (it imports triton and nothing else), does not depend on n, and reads from the pattern to
the machine: what is computed, the device functions of the pattern, the kernels of the library, and tables that tell
`pidsl.runtime.run_triton.program` what to launch in which order.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pidsl.codegen.emit_triton.excerpt import INPUTS, excerpt, functions, stage_fields
from pidsl.codegen.emit_triton.lines import WIDTH, shown
from pidsl.codegen.emit_triton.lists import list_table, table_name
from pidsl.codegen.emit_triton.stages import KERNELS, Stages
from pidsl.codegen.plan.nodes import Plan
from pidsl.codegen.plan.walks import BlockList, Boxes, Lags, Listed, Runs
from pidsl.language.operators import walk
from pidsl.language.score import PLAIN
from pidsl.language.terms import Ring, Term

DRAWN, ROWS, COLUMNS = 2048, 4, 64  # keys of a row in the picture, its rows and columns


def triton_source(plan: Plan) -> str:
    """The program of `plan` as Python source: the same text for the same plan, whatever n will be.

    Python's own judgement of the text is left to the loader, which comes next and before anyone sees it.

    plan -> stages (pieces that share a kernel) -> device functions -> the library that they need -> module.
    """
    made = Stages(plan)
    rows = [row for rows in made.tables.values() for row in rows]
    text = "\n".join([*made.functions, *made.pattern.values(), *(row["WALKS"] for row in rows)])
    used = {KERNELS[name] for name, rows in made.tables.items() if rows}
    used |= set(re.findall(r"\b_[a-z_]+\b", text)) & functions()
    tables = [
        f"# What to launch, in this order. Integers stay below REACH[0] + REACH[1] * max({plan.frame.parameters}).",
        *(_table(name, made.tables) for name in made.tables),
        *_wrap(f"PATTERN = {shown(made.pattern)}", "", "           "),
        *_lists(plan),
        f"REACH = {made.reach()}",
    ]
    own = "\n\n".join(made.functions)
    parts = [_header(plan), *([own] if own else []), *excerpt(used, _known(plan, made, rows)), "\n".join(tables)]
    return "\n\n\n".join(parts) + "\n"


def _known(plan: Plan, made: Stages, rows: Sequence[Mapping[str, str]]) -> Iterator[Mapping[str, Any]]:
    """What is known of each kernel: fields of `Kind` and `Walk`, and of which inputs there are none.

    A field with a function holds its name, one that launches or walks differ in is left out.
    """
    absent: dict[str, Any] = dict.fromkeys(x for x in INPUTS if x not in plan.score.parameters)
    if not made.sums:
        absent["grad_q"] = "there is one"
    walks = "".join(row["WALKS"] for row in rows)
    of_walks: dict[str, Any] = {x: None for x in ("REST", "FULL_TILE", "TILE_OF") if f'"{x}"' not in walks}
    for field, usual in (("TILES", "masked"), ("BOUNDS", "")):  # what all walks have in common
        found = re.findall(rf'"{field}": "(\w+)"', walks)
        values = {*found, usual} if walks.count("_runs") > len(found) else set(found)
        if len(values) == 1:
            of_walks[field] = values.pop()
    for row in rows or [{}]:
        fields = {x: _literal(y) for x, y in {**row, **made.pattern}.items() if x.isupper()}
        yield {**stage_fields(), **fields, **absent, **of_walks}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def _header(plan: Plan) -> str:
    lines = ["The pattern", "", *_wrap(repr(plan.term), "    "), ""]
    if picture := list(_picture(plan)):
        lines += [*picture, ""]
    lines += ["as Triton kernels, in these pieces:", ""]
    for number, piece in enumerate(plan.pieces):
        match piece.forward:
            case Runs(layout, _, rows, cols) | Listed(layout, _, rows, cols):
                what = f"{layout}; tiles of {rows} rows x {cols} keys"
            case Boxes(layout, _, own, swept):
                sizes = (" x ".join(map(str, box)) for box in (own, swept))
                what = "{}; boxes of {} queries and {} keys".format(layout, *sizes)
            case Lags(lags=lags):
                what = f"diagonals, lags {', '.join(str(x.lag) for x in lags)}"
        if piece.reference and (attended := piece.attended) is not None:
            what += f"; {piece.computed:,} pairs computed for {attended:,} attended at n = {piece.reference}"
        lines += _wrap(f"{number}  {what}", "    ", "   ")
    if not plan.pieces:
        lines.append("    (none: no row attends any key)")
    for note in plan.notes:
        lines += ["", *_wrap(note, "")]
    if plan.score != PLAIN:
        lines += ["", "The logits:", "", *_wrap(repr(plan.score), "    ")]
    keys = ", row j of k position j + key_offset" if plan.frame.moved else ""
    lines += ["", f"Row r of q is position r + offset{keys}. Generated by pidsl; edits are lost."]
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{text}\n"""\n\nimport triton\nimport triton.language as tl'


def _picture(plan: Plan) -> Iterator[str]:
    """Which keys a few rows of a sequence of `DRAWN` attend: all (#), some (+) or none (.) of the keys of each column.

    Nothing for several heads, or where the pattern depends on lengths.
    """
    term = plan.term
    if isinstance(term, Term) and not any(isinstance(x, Ring) or getattr(x, "arity", 2) > 2 for x in walk(term)):
        for r in range(DRAWN // ROWS - 1, DRAWN, DRAWN // ROWS):
            row = term.mask(1, DRAWN, offset=r).reshape(COLUMNS, -1)
            drawn = ("#" if some.all() else "+" if some.any() else "." for some in row)
            yield f"    {r:>5}  {''.join(drawn)}"


def _wrap(text: str, indent: str, later: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + later)


def _table(name: str, tables: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """A table of the program; one that is like an earlier one says so."""
    for earlier, rows in tables.items():
        if earlier == name:
            entries = [line for row in rows for line in _wrap(f"    {shown(row)},", "", "     ")]
            return "\n".join([f"{name.upper()} = [", *entries, "]"]) if rows else f"{name.upper()} = []"
        if rows and rows == tables[name]:
            break
    return f"{name.upper()} = {earlier.upper()}"


def _lists(plan: Plan) -> Iterator[str]:
    """The tables of listed blocks, which kernels get as arguments."""
    listed = [(number, x.layout) for number, x in enumerate(plan.pieces) if isinstance(x.layout, BlockList)]
    if listed:
        yield "# Listed blocks: those that own some, where the entries of each begin, and the entries."
        yield "LISTS = {"
        for number, blocks in listed:
            for by_keys in (False, True):
                _, table = list_table(blocks, by_keys=by_keys)
                yield f'    "{table_name(number, by_keys=by_keys)}": ['
                yield from _wrap(", ".join(map(str, table)) + ",", "        ")
                yield "    ],"
        yield "}"
