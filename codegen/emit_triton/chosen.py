"""Blocks that calls choose as device functions: a program owns a tile of one block and visits the blocks that the call
lists for it, first those without a mask.

Lists reach the kernel by blocks of queries and by blocks of keys, see `pidsl.runtime.run_triton.chosen`: where the
blocks begin that a block meets. A tile of what is met is part of one block, or holds several short ones.
"""

from __future__ import annotations

from functools import cached_property, reduce

from pidsl.codegen.emit_triton.expr import index_source, pred_source
from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.lists import doc_of
from pidsl.codegen.emit_triton.masks import Interval, Mask, interval
from pidsl.codegen.emit_triton.walker import Named, Walker
from pidsl.codegen.plan.walks import Selected
from pidsl.language.algebra import settled
from pidsl.language.expr import Var, substitute_pred


class SelectedWalker(Walker[Selected]):
    """Tiles of the blocks that the call lists for the own one."""

    @property
    def doc(self) -> str:
        return doc_of(self)

    @property
    def sizes(self) -> tuple[int, int]:
        """Positions of a block that programs own, and of one that they meet."""
        layout = self.walk.layout
        return (layout.queries, layout.block) if self.over_keys else (layout.block, layout.queries)

    @property
    def tiles(self) -> int:
        """Programs of a block."""
        return -(-self.sizes[0] // self.walk.owned)

    @cached_property
    def _joined(self) -> int:
        """Blocks of a tile that holds several; 0 where blocks are of one tile or more."""
        size, tile = self.sizes[1], self.walk.visited
        return tile // size if size < tile else 0

    @cached_property
    def _even(self) -> bool:
        """No tile is longer than its blocks."""
        size, tile = self.sizes[1], self.walk.visited
        return size % tile == 0 or tile % size == 0

    def put(self, named: Named, name: str) -> dict[str, str]:
        if not self._rest.everything:
            named(self._rest.function, self._rest.source)
        fields = {"LOOPS": named(name, self._source)}
        return fields if self._joined or not self._even else {**fields, "SIZE": str(self.walk.visited)}

    def put_own(self, out: Lines) -> list[str]:
        size, own = self.sizes[0], self.owned
        less = " - first" if own.first else ""
        before = f"first // {size} + " if own.first else ""
        out.put(
            f"block = t // {self.tiles}" if self.tiles > 1 else "block = t",
            f"start = {f'({before}block)' if before else 'block'} * {size}{less}",
            f"stop = tl.minimum(start + {size}, length)",
            "start = tl.maximum(start, 0)" + (f" + t % {self.tiles} * KIND.TILE" if self.tiles > 1 else ""),
            "inside = tl.arange(0, KIND.TILE)",
        )
        if self.over_keys:
            with out.block("if KIND.PACK > 1:"):
                out.put("inside %= KIND.TILE // KIND.PACK")
        out.put(f"{own.name} = start + inside", f"exists = {own.name} < stop")
        return [own.name, "block", "start < stop", "table"]

    def loops(self, out: Lines) -> None:
        own, joined = self.owned, self._joined
        each = f" * {self._each}" if self._each > 1 else ""
        out.put(
            f"{own.name}, block, there, lists = {own.letter}",
            "entries, full, listed = _list(lists, head, block, there, KIND)",
        )
        begin, many, source = "0", f"tl.cdiv(listed, {joined})" if joined else f"listed{each}", "0"
        if self._even:
            if joined:
                out.put(f"full = full // {joined}")
            else:
                out.put("source = DO[0](task, 0, WALK, KIND)", *[f"full *= {self._each}"] * (self._each > 1))
                source = "source"
            out.put("first, stop = _part(0, full, split, KIND)")
            self._put_loop(out, source, masked=False)
            begin, many = "full", f"listed{each}"
            if joined:
                out.put(f"full *= {joined}")
                begin, many = "0", f"tl.cdiv(listed - full, {joined})"
        out.put(f"first, stop = _part({begin}, {many}, split, KIND)")
        self._put_loop(out, source, masked=True)

    @property
    def _each(self) -> int:
        """Tiles of a block."""
        return -(-self.sizes[1] // self.walk.visited)

    def _put_loop(self, out: Lines, source: str, *, masked: bool) -> None:
        """Put the loop over tiles x of blocks, the number of which is loaded one tile ahead; or those of short ones."""
        swept, joined, each = self.swept, self._joined, self._each
        if masked:
            out.put(*self._bounds)
        stages = ", num_stages=1" if masked and self._even and (self.over_keys or joined) else ""  # few
        if not joined:
            by = f" // {each}" if each > 1 else ""
            out.put(f"here = entries + first{by}", "entry = tl.load(here)")
        with out.block(f"for x in tl.range(first, stop{stages}):"):
            tests, inside = self._put_joined(out, masked=masked) if joined else self._put_tile(out), "None, None"
            if masked:
                out.put(f"inside = {self._inside(tests)}", f"keep = {self._keep}" + " & inside[None, :]" * bool(tests))
                inside = "inside, keep"
            # keys that no row of the tile attends are blanked, which descriptors do not
            at = "None" if joined or not self._even or (masked and self.over_keys) else "at"
            out.put(f"state = DO[1](task, state, {source}, {at}, {swept.name}, {inside}, KIND)")
            if not joined:  # behind the last one of all there is one more
                out.put(f"here = entries + (x + 1){by}" if by else "here += 1", "entry = tl.load(here)")

    def _inside(self, tests: list[str]) -> str:
        """Which rows (keys) of a tile there are, and in which some own position can meet any."""
        name = self.swept.name
        if self.careful:
            return self.swept.exist(*tests)
        return " & ".join([*tests, f"({name} >= first_met)", f"({name} <= last_met)"])

    @cached_property
    def _interval(self) -> Interval:
        """Between which rows (keys) each own position meets others, and what else its mask asks."""
        return interval(settled(substitute_pred(self.masks[0].pred, {"q_head": Var("head")})), self.swept.name)

    @cached_property
    def _rest(self) -> Mask:
        """What is left of the mask, as a function."""
        name, doc = self.masks[0].function, self.masks[0].doc
        return Mask(name if self.over_keys else f"{name}_by_keys", doc, self._interval.rest)

    @property
    def careful(self) -> bool:
        """Which keys of a tile some row attends, only its mask tells."""
        return not self.over_keys or not self._rest.everything

    @property
    def _bounds(self) -> list[str]:
        """Lines with the bounds of what each own position meets, among what there is."""
        found, own, length = self._interval, self.owned.name, self.swept.length
        low, high = ["0"], [f"{length} - 1"]
        for ends, given in ((low, found.low), (high, found.high)):
            ends += [index_source(x) for x in given]
        lines = [f"low = {own} * 0 + {reduce('tl.maximum({}, {})'.format, low)}"]
        lines.append(f"high = {own} * 0 + {reduce('tl.minimum({}, {})'.format, high)}")
        if found.own is not None:
            lines.append(f"high = tl.where({pred_source(found.own)}, high, -1)")
        if not self.careful:
            lines += [
                f"first_met = tl.min(tl.where(task[4] & (low <= high), low, {length}), 0)",
                "last_met = tl.max(tl.where(task[4], high, -1), 0)",
            ]
        return [*lines, "_, width = _between(low, high, KIND)", "low = tl.where(high < low, -1073741824, low)"]

    @property
    def _keep(self) -> str:
        """The mask of a tile."""
        own, swept = f"{self.owned.name}[:, None]", f"{self.swept.name}[None, :]"
        keep = f"_within({swept}, low[:, None], width[:, None])"
        if self._rest.everything:
            return keep
        r, j = (own, swept) if self.over_keys else (swept, own)
        return f"{keep} & {self._rest.call({'r': r, 'j': j, 'q_head': 'head'})}"

    def _put_tile(self, out: Lines) -> list[str]:
        """Put where the rows (keys) of a tile of one block are; which of them are in the block."""
        size, tile, swept, each = self.sizes[1], self.walk.visited, self.swept, self._each
        inner = f" + x % {each} * {tile}" if each > 1 else ""
        out.put(
            f"at = entry.to(KIND.INDEX){inner}",
            f"{swept.name} = at + tl.arange(0, {tile})",
        )
        return [f"(x % {each} * {tile} + tl.arange(0, {tile}) < {size})"] if size % tile else []

    def _put_joined(self, out: Lines, *, masked: bool) -> list[str]:
        """Put where the rows (keys) of a tile of several blocks are; which of them are in a block."""
        size, tile, joined, swept = self.sizes[1], self.walk.visited, self._joined, self.swept
        inside = f"tl.arange(0, {tile})"
        number = f"x * {joined} + {inside}" + (f" // {size}" if size > 1 else "")
        load = f"tl.load(entries + {number})"
        if masked:
            out.put(f"number = {f'full + {number}' if self._even else number}")
            beyond = f" & ({inside} < {joined * size})" if tile % size else ""
            out.put(f"listing = (number < listed){beyond}")
            load = "tl.load(entries + number, mask=listing, other=0)"
        inner = f" + {inside} % {size}" if size > 1 else ""
        out.put(f"{swept.name} = {load}.to(KIND.INDEX){inner}")
        return ["listing"]

    @property
    def pad(self) -> int:
        return 2 * max(self.sizes) + self.walk.owned + self.walk.visited
