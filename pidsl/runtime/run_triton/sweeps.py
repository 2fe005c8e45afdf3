"""The stages of a pass on ranges of positions: alone, going on from each other, or in parts that are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import triton

from pidsl.codegen.choice.targets import options
from pidsl.codegen.emit_triton import library
from pidsl.codegen.plan.walks import Pass
from pidsl.language.score import PLAIN
from pidsl.runtime.run_triton import chosen
from pidsl.runtime.run_triton.assembly import Assembly
from pidsl.runtime.run_triton.launch import Stage, pad
from pidsl.runtime.run_triton.prepared import Buffer, Facts, Given
from pidsl.runtime.run_triton.ranges import (
    PARTS,
    Handing,
    Part,
    Range,
    Work,
    even,
    of_fixed_size,
    of_sequences,
    ranges,
    together,
)
from pidsl.runtime.run_triton.sequences import Programs

LONG = 2  # tiles of a walk for which it pays to make tensor descriptors;
WIDE = 128  # columns from which on it always does: addresses take registers that tiles need


class Output(NamedTuple):
    """What a pass writes: the argument for it (and the buffer), that for what earlier stages left, length of a row."""

    argument: str
    running: str
    width: int


class Pairs(NamedTuple):
    """Pairs of batch entry and head that run together."""

    first: int
    many: int


class Sweep:
    """One pass.

    Args:
        made: what it is added to.
        task: the pass.
        outputs: what it writes.
        table: that of its stages, where it is not named for the pass.
    """

    def __init__(self, made: Assembly, task: Pass, outputs: Sequence[Output], table: str = "") -> None:
        self.made, self.task, self.outputs = made, task, outputs
        n, m, offset, key_offset = made.lengths
        self.own = (m, key_offset) if task == "grad_key" else (n, offset)
        self.owner: Facts = made.known["k" if task == "grad_key" else "q"]
        self.length = self.owner.shape[2]  # of all sequences
        self.stages: list[Stage] = made.program.stages(table or task.upper())
        self.pack = self._packed() if task == "forward" and self.stages else 1
        self.pairs = made.pairs // made.group if task == "grad_key" or self.pack > 1 else made.pairs
        self.heads = self.owner.shape[1] // (made.group if self.pack > 1 else 1)  # of a batch entry, of the pairs
        self.kernel = getattr(made.program.module, task, None)  # a program without pieces has none

    @cached_property
    def works(self) -> list[Work]:
        """What the programs of every stage do."""
        found = []
        times = self.made.group if self.task == "grad_key" else 1
        for x in self.stages:
            tiles = x.work(self.made.program, self.task, self.made.lengths, self.own)
            found.append(Work(times * tiles, x.rows(*self.own), not x.lags))
        return found

    def run(self) -> None:
        """Add buffers and launches."""
        length, dtype = self.length, self.owner.dtype
        for x in self.outputs:
            shape = *self.owner.shape[:2], length, x.width
            self.made.buffers[x.argument] = Buffer(shape, dtype, self.made.outside(0.0))
        if not self.stages or 0 in self.made.lengths[:2]:  # nothing meets anything
            everything = Pairs(0, self.pairs)
            return self._merge(Range(0, length, ()), everything, self._results(everything), 0)
        multiprocessors = self.made.target.multiprocessors
        if self.made.ragged is not None:
            wanted = [of_sequences(self.works, length, self._cut(multiprocessors))]
        else:
            wanted = list(ranges(self.works, length, self.pairs, multiprocessors))
        for found in wanted:
            if found.merged:
                self._in_parts(found)
            else:
                self._in_turn(found)
        return None

    def sum_up(self) -> None:
        """Add launches of all programs of all stages, each of which leaves sums for slopes and bias."""
        bias = self.made.known.get("bias")
        for number, stage in enumerate(self.stages):
            part = Part(number, 0, stage.programs(*self.own)[1])
            found = self._numbered(part, Pairs(0, self.pairs))
            heads = self.owner.shape[1]
            shape = (found.pairs // heads, heads, found.classes * found.tiles)
            sums = {"slope_sums": shape, "bias_sums": (*shape, 0 if bias is None else bias.shape[1])}
            given = {name: Given(f"{name}_{number}") for name in sums}
            for name, of_programs in sums.items():  # programs without rows write none
                self.made.buffers[given[name]] = Buffer(of_programs, torch.float32, 0.0)
            self._launch(part, Pairs(0, self.pairs), given, (0, self.length))

    # -- ways to run a range ---------------------------------------------------------------------------------------

    def _in_turn(self, found: Range) -> None:
        """Each stage goes on from what the one before left in float32, which the last one turns into the result."""
        stages = [self.stages[part.stage] for part in found.parts]
        begun, ended = self._covered(stages[0]), self._covered(stages[-1])
        between = len(stages) > 1 and self.owner.dtype != torch.float32
        for pairs in self._together(found, len(stages) + (not begun) + (between and not ended)):
            results = self._results(pairs)
            handed = {**results, **{x.argument: self._running(x, pairs) for x in self.outputs}} if between else results
            before = {x.running: handed[x.argument] for x in self.outputs}
            if not begun:
                self._merge(found, pairs, handed, 0)
            for number, part in enumerate(found.parts):
                target = results if ended and part is found.parts[-1] else handed
                self._launch(part, pairs, {**target, **(before if number or not begun else {})}, (0, self.length))
            if between and not ended:
                self._merge(found, pairs, results, 0, before)

    def _in_parts(self, found: Range) -> None:
        """All stages write parts in float32, which one more kernel merges."""
        rows = found.stop - found.first
        each = 4 * found.merged * rows * sum(x.width for x in self.outputs)
        for pairs in (
            [Pairs(0, self.pairs)]
            if self.pack > 1 or self.made.ragged is not None
            else self._even(PARTS // max(each, 1))
        ):
            heads = self._heads(pairs)
            sizes = {x.argument: x.width for x in self.outputs} | ({"lse": 1} if self.task == "forward" else {})
            for name, width in sizes.items():
                self._between(f"parts of {name} from {found.first}", (found.merged, heads, rows, width))
            begun = 0
            for part in found.parts:
                start = begun * heads * rows
                views = {
                    name: self.made.view(f"parts of {name} from {found.first}", start * width)
                    for name, width in sizes.items()
                }
                self._launch(part, pairs, {**views, "sinks": None}, (found.first, rows))
                begun += part.splits
            self._merge(found, pairs, self._results(pairs), found.merged)

    def _covered(self, stage: Stage) -> bool:
        """Whether every position belongs to a program of a stage."""
        if self.made.ragged is None:
            return stage.covers(*self.own)
        longest = self.made.ragged.longest
        return stage.covers(longest, 0) if longest is not None else stage.whole

    def _even(self, most: int) -> list[Pairs]:
        """The pairs, at most so many at a time."""
        group = 1 if self.task == "grad_key" else self.made.group
        return [Pairs(*x) for x in even(self.pairs, group, max(most, 1))]

    def _together(self, found: Range, launches: int) -> list[Pairs]:
        """The pairs, a few at a time where that keeps what stages hand on in the cache."""
        if len(found.parts) == 1 or self.pack > 1 or self.made.ragged is not None:
            return [Pairs(0, self.pairs)]
        handed = 4 * self.length * sum(x.width for x in self.outputs)
        read, again = self._read(), len(found.parts) - 1
        programs = min(self._programs(part) for part in found.parts)
        of = Handing(read + handed, again * (read + 2 * handed), programs, launches)
        target, group = self.made.target, 1 if self.task == "grad_key" else self.made.group
        return [Pairs(*x) for x in together(self.pairs, group, of, target.multiprocessors, target.l2)]

    def _read(self) -> int:
        """Bytes that a stage reads for one pair: keys and values, queries, and in the backward pass their gradients."""
        n, m, *_ = self.made.lengths
        fields, group = self.made.fields, self.made.group
        keys = m * (fields["D"] + fields["V"])
        rows = n * (fields["D"] + (0 if self.task == "forward" else fields["V"]))
        elements = keys + group * rows if self.task == "grad_key" else keys // group + rows
        return int(self.owner.dtype.itemsize * elements)

    def _results(self, pairs: Pairs) -> dict[str, Given]:
        """Where the results of some pairs are."""
        rows = pairs.first * self.length
        found = {x.argument: self.made.view(x.argument, rows * x.width) for x in self.outputs}
        return {**found, "lse": self.made.view("lse", rows)} if self.task == "forward" else found

    def _running(self, x: Output, pairs: Pairs) -> Given:
        """Where stages leave what the next one goes on from."""
        return self._between(f"running {x.argument}", (1, self._heads(pairs), self.length, x.width))

    def _between(self, name: str, shape: tuple[int, ...]) -> Given:
        """A buffer in float32 that launches on some pairs hand on, and on others again: for those that are the most."""
        known = self.made.buffers.get(name)
        if not isinstance(known, Buffer) or known.shape[1] < shape[1]:
            self.made.buffers[name] = Buffer(shape, torch.float32)
        return Given(name)

    def _heads(self, pairs: Pairs) -> int:
        """How many heads (of batch entries) some pairs write."""
        return pairs.many * self.made.group if self.pack > 1 else pairs.many

    # -- launches --------------------------------------------------------------------------------------------------

    def _launch(self, part: Part, pairs: Pairs, given: Mapping[str, Any], own: tuple[int, int]) -> None:
        """A stage on a range of its tiles; `own`: the first of the rows of what it writes, and how many those are."""
        stage, fields = self.stages[part.stage], self.made.fields
        rows, cols = (stage.swept, stage.tile) if self.task == "grad_key" else (stage.tile, stage.swept)
        width = max(fields["D_PAD"], fields["V_PAD"])
        compiled = options(
            self.made.target, self.task, rows, cols, width, self.owner.dtype.itemsize, self.made.tensor_cores
        )
        pack = self.pack if self.pack > 1 else self._pack_of_lists(stage, pairs)
        if pack > self.pack:
            pairs = Pairs(pairs.first // self.made.group, pairs.many // self.made.group)
        found = self._numbered(part, pairs, pack)
        arguments = {
            **given, "classes": found.classes, "tiles": found.tiles, "first_tile": part.first, "listed": found.listed,
            "pairs": pairs.many, "first_pair": pairs.first, "own_first": own[0], "own_rows": own[1],
            "table": None if stage.table is None else self.made.lists[stage.table],
            **(self._chosen() if stage.chosen else {}),
        }  # fmt: skip
        described = self._described(part.stage)
        special = {
            **stage.kind, "SPLITS": part.splits, "PART": part.each,
            "DESCENDING": part.descending and found.listed is None, "PACK": pack, "TMA": described,
            "SPECIALIZED": described and self.task == "forward" and self.made.target.specialized,
        }  # fmt: skip
        self.made.stage(special, self.kernel, found.grid * part.splits, arguments, **compiled)

    def _chosen(self) -> dict[str, Any]:
        """The lists of the call."""
        table, entries, segments = chosen.names(self._lists_by)
        shape = self.made.known[table].shape
        given = {"table": Given(table), "choices": Given(entries), "list_rows": shape[2]}
        given["list_group"] = self.made.known["q"].shape[1] // shape[1]
        return given if self.made.ragged is None else {**given, "segments": Given(segments)}

    @property
    def _lists_by(self) -> str:
        return chosen.BY_KEYS if self.task == "grad_key" else chosen.BY_QUERIES

    def _numbered(self, part: Part, pairs: Pairs, pack: int = 1) -> Programs:
        """The programs of a launch, unsplit; `pack`: query heads of a key head that share a tile."""
        stage = self.stages[part.stage]
        if self.made.ragged is None:
            return Programs(part.tiles, stage.programs(*self.own)[0], pairs.many)
        by_keys = self.task == "grad_key"
        heads = self.heads // (self.made.group if pack > self.pack else 1)
        longest = self.made.ragged.keys if by_keys else self.made.ragged.rows
        return self.made.programs(stage.tiles(longest), heads, by_keys=by_keys, last_first=part.descending)

    def _programs(self, part: Part) -> int:
        """Of a launch, for each pair, unsplit."""
        return self.stages[part.stage].programs(*self.own)[0] * part.tiles

    def _merge(
        self, found: Range, pairs: Pairs, results: Mapping[str, Given], splits: int,
        before: Mapping[str, Given] | None = None,
    ) -> None:  # fmt: skip
        """The results on a range from parts and from what was left `before`; of none of both, those of no key."""
        rows, count = found.stop - found.first, self._heads(pairs)
        grid, programs = self.made.few(rows, self.owner.shape[1], count, by_keys=self.task == "grad_key")
        common = {"pairs": count, "own_rows": rows, "target_first": found.first, "target_rows": self.length}
        for x in self.outputs:
            running = None if before is None else before[x.running]
            target = results[x.argument]
            parts = Given(f"parts of {x.argument} from {found.first}") if splits else target
            given = {**common, **programs, "parts": parts, "running": running}
            if self.task == "forward":
                lse = results["lse"]
                given |= {"out": target, "lse": lse, "first_pair": pairs.first}
                given["part_lse"] = Given(f"parts of lse from {found.first}") if splits else lse
                self.made.helper(library.join, grid, given, SPLITS=splits)
            else:
                given |= {"grad": target, "WIDTH": x.width, "PAD": pad(x.width)}
                self.made.helper(library.add_parts, grid, given, SPLITS=splits)

    def _cut(self, multiprocessors: int) -> list[tuple[int, int]]:
        """Into how many parts walks over the keys of few rows are cut, and tiles of each; one for more rows, and where
        all that is known of a sequence is how many keys all of them have: parts would depend on the others."""
        bounds, sequences = self.made.ragged, self.made.known["segments"].shape[0]
        few = all((x.consecutive or x.chosen) and self.own[0] <= x.step * x.tile for x in self.stages)
        if bounds is None or self.task != "forward" or not few or not bounds.apart:
            return [(1, 0)] * len(self.works)
        found = []
        for work in self.works:
            walk = int(work.tiles.max(initial=0)) if work.divisible else 0
            found.append(of_fixed_size(walk, len(work.tiles) * sequences * self.heads, multiprocessors))
        parts = 4 * sum(x for x, _ in found) * self.length * self.made.pairs * sum(x.width for x in self.outputs)
        return found if parts <= PARTS else [(1, 0)] * len(found)

    # -- what a launch is specialised for --------------------------------------------------------------------------

    def _packed(self) -> int:
        """Query heads of a key head that share a tile of rows, as a power of two: where a tile has room for all."""
        plan, group = self.made.program.plan, self.made.group
        bounds = self.made.ragged
        if plan is None or plan.of_heads or plan.score != PLAIN or group == 1 or (bounds and not bounds.apart):
            return 1
        pack = int(triton.next_power_of_2(group))
        fits = (
            self._shares(x, pack)
            if x.chosen
            else x.consecutive and triton.cdiv(self.own[0], x.step) <= x.tile // pack and "CLASS" not in x.kind
            for x in self.stages
        )
        return pack if all(fits) else 1

    def _shares(self, stage: Stage, pack: int) -> bool:
        """Whether query heads of a key head, which have one list, fit in a tile with all rows of a block."""
        assert stage.box is not None
        one = (
            self.made.group == 1
            or self.made.known[chosen.names(self._lists_by)[0]].shape[1] < self.made.known["q"].shape[1]
        )
        return one and min(stage.box[0], self.own[0]) <= stage.tile // pack

    def _pack_of_lists(self, stage: Stage, pairs: Pairs) -> int:
        """Query heads of a key head that share a tile of a stage alone, whatever the others do."""
        plan, group = self.made.program.plan, self.made.group
        if self.task != "forward" or not stage.chosen or plan is None or plan.of_heads or plan.score != PLAIN:
            return 1
        pack = int(triton.next_power_of_2(group))
        whole = pairs.first % group == 0 and pairs.many % group == 0
        return pack if whole and self._shares(stage, pack) else 1

    def _described(self, number: int) -> bool:
        """Whether tiles come through tensor descriptors, which a program makes for itself: for walks of some length."""
        made = self.made
        if (
            "KEYS_AT" in made.fields
            or not made.target.descriptors
            or not (made.fields["EVERY_ROW" if self.task == "grad_key" else "EVERY_KEY"] or self.stages[number].chosen)
        ):
            return False
        loops = getattr(made.program.module, "_runs", None)
        walks = self.stages[number].kind["WALKS"]
        wide = max(made.fields["D_PAD"], made.fields["V_PAD"]) >= WIDE
        if (not wide and self.works[number].tiles.mean() < LONG) or any(
            x["LOOPS"] is not loops and not x.get("SIZE") for x in walks
        ):
            return False
        return all(made.known[x].describable for x in (("q", "grad_out") if self.task == "grad_key" else ("k", "v")))
