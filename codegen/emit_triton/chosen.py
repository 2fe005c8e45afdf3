"""Blocks that calls choose as device functions: a program owns a tile of one block and visits the blocks that the call
lists for it, first those without a mask.

Lists reach the kernel by blocks of queries and by blocks of keys, see `pidsl.runtime.run_triton.chosen`: the numbers of
the blocks that a block meets, among all blocks of the sequence. A tile of what is met is part of one block, or holds
several short ones.
"""

from __future__ import annotations

from functools import cached_property

from pidsl.codegen.emit_triton.lines import Lines
from pidsl.codegen.emit_triton.walker import Named, Walker
from pidsl.codegen.plan.walks import Selected


class SelectedWalker(Walker[Selected]):
    """Tiles of the blocks that the call lists for the own one."""

    @property
    def doc(self) -> str:
        own, met = ("rows", "keys") if self.over_keys else ("keys", "rows")
        sizes = self.walk.owned, self.walk.visited
        meet = f"what {sizes[0]} {own} meet in the listed ones, in tiles of {sizes[1]} {met}"
        return f"Piece {self.number}, {self.walk.layout}: {meet}."

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
        fields = super().put(named, name)
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
        size, tile, joined, own, swept = self.sizes[1], self.walk.visited, self._joined, self.owned, self.swept
        each = f" * {-(-size // tile)}" if size > tile else ""
        out.put(
            f"{own.name}, block, there, lists = {own.letter}",
            "entries, full, listed = _list(lists, head, block, there, KIND)",
        )
        if self._even:
            if not joined:
                out.put("source = DO[0](task, 0, WALK, KIND)")
            out.put(f"full = full // {joined}" if joined else f"full = full{each}")
            out.put("first, stop = _part(0, full, split, KIND)")
            with out.block("for x in tl.range(first, stop):"):
                at = self._put_places(out, masked=False)
                source = "0" if joined else "source"
                out.put(f"state = DO[1](task, state, {source}, {at}, {swept.name}, None, None, KIND)")
        begin, many = "full" if self._even else "0", f"listed{each}"
        if joined:
            if self._even:
                out.put(f"full *= {joined}")
            begin, many = "0", f"tl.cdiv(listed - {begin}, {joined})" if self._even else f"tl.cdiv(listed, {joined})"
        out.put(f"first, stop = _part({begin}, {many}, split, KIND)")
        with out.block("for x in tl.range(first, stop):"):
            at = self._put_places(out, masked=True)
            out.put(f"keep = {self.kept((own.name, swept.name))}")
            if at != "None":
                out.put(f"place = None if KIND.CAREFUL else {at}")
                at = "place"
            source = "source" if self._even and not joined else "0"
            out.put(f"state = DO[1](task, state, {source}, {at}, {swept.name}, inside, keep, KIND)")

    def _put_places(self, out: Lines, *, masked: bool) -> str:
        """Put where the rows (keys) of tile x are, and with a mask which there are; the name of the first, where they
        follow each other."""
        size, tile, joined, swept = self.sizes[1], self.walk.visited, self._joined, self.swept
        each, tests = -(-size // tile), []
        if joined:
            inside = "tl.arange(0, {})".format(tile)
            number = f"x * {joined} + {inside} // {size}" if size > 1 else f"x * {joined} + {inside}"
            load = f"tl.load(entries + {number})"
            if masked:
                if self._even:
                    number = f"full + {number}"
                out.put(f"number = {number}")
                out.put("listing = (number < listed)" + (f" & ({inside} < {joined * size})" if tile % size else ""))
                load, tests = "tl.load(entries + number, mask=listing, other=0)", ["listing"]
            y = f" + {inside} % {size}" if size > 1 else ""
            out.put(f"{swept.name} = {load}.to(KIND.INDEX) * {size}{y}{swept.less}")
        else:
            entry = f"x // {each}" if each > 1 else "x"
            inner = f" + x % {each} * {tile}" if each > 1 else ""
            out.put(
                f"at = tl.load(entries + {entry}).to(KIND.INDEX) * {size}{inner}{swept.less}",
                f"{swept.name} = at + tl.arange(0, {tile})",
            )
            if size % tile:
                tests = [f"(x % {each} * {tile} + tl.arange(0, {tile}) < {size})"]
        if masked:
            out.put(f"inside = {swept.exist(*tests)}")
        return "None" if joined or not self._even else "at"

    @property
    def pad(self) -> int:
        return 2 * max(self.sizes) + self.walk.owned + self.walk.visited
