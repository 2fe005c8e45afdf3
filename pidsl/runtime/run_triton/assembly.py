"""A prepared call as it is put together: buffers, and kernels with all that they are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from pidsl.codegen.choice.targets import Target
from pidsl.codegen.emit_triton import library
from pidsl.runtime.call.call import Positions
from pidsl.runtime.run_triton.attended import every_key, every_row
from pidsl.runtime.run_triton.devices import interpreted, target_of
from pidsl.runtime.run_triton.launch import Loaded, pad
from pidsl.runtime.run_triton.prepared import Buffer, Facts, Given, Prepared, Step, View
from pidsl.runtime.run_triton.sequences import BLOCK, SORTED, Bounds, Programs, Tiles

ABSENT = ("running", "running_k", "running_v", "table", "slopes", "bias", "sinks", "temperature", "seed", "grad_lse",
          "grad_q", "slope_sums", "bias_sums", "segments", "listed", "choices", "key_table",
          "held")  # fmt: skip
STRIDES = {"q": "q", "k": "k", "v": "v", "grad_out": "go", "out": "out"}  # tensors of any strides: how those are called
_INT32 = 2**31
ROWS = 32  # of a program that merges


class Form(NamedTuple):
    """What decides what a call allocates and launches.

    Args:
        names: of the tensors of the call.
        tensors: their facts.
        positions: where the rows stand; of a ragged call what is known of its sequences.
        device: where the tensors are.
        precision: of products of float32, as torch names it.
        learned: whether the gradients of slopes and bias are wanted.
        target: what the kernels are for, where that is not the device.
    """

    names: tuple[str, ...]
    tensors: tuple[tuple[Any, ...], ...]
    positions: Positions | Bounds
    device: torch.device
    precision: str
    learned: bool = False
    target: Target | None = None


class Assembly:
    """Buffers and steps, in the order of the launches.

    Args:
        program: whose kernels they are.
        form: that of the call.
        lists: tables of listed blocks, by name.

    Attributes:
        target: what the kernels are for.
        known: the facts of the tensors of the call.
        ragged: what is known of the sequences of a ragged call, None for another one.
        lengths: n, m, offset, key_offset; of the longest sequence there may be.
        pairs: of batch entry and query head.
        group: query heads of each key head.
        tensor_cores: whether they do the products.
        fields: what all kernels are specialised for.
        common: arguments of all kernels, by the names that those have for them.
    """

    def __init__(self, program: Loaded, form: Form, lists: Mapping[str, Tensor]) -> None:
        self.program, self.lists = program, lists
        self.target = target_of(form.device) if form.target is None else form.target
        self.known = known = {name: Facts(*x) for name, x in zip(form.names, form.tensors, strict=True)}
        self.buffers: dict[str, Buffer | View] = {}
        self.steps: list[Step] = []
        q, k, v, heads = known["q"], known["k"], known["v"], known["q"].shape[1]
        self.ragged = form.positions if isinstance(form.positions, Bounds) else None
        self.lengths = (q.shape[2], k.shape[2], *form.positions) if self.ragged is None else self.ragged.lengths
        n, m, offset, key_offset = self.lengths
        longest = max(self.lengths) if self.ragged is None else self.ragged.longest
        self.pairs, self.group = q.shape[0] * heads, heads // max(k.shape[1], 1)
        rounded = form.precision != "highest" and torch.version.hip is None
        self.tensor_cores = q.dtype != torch.float32 or rounded
        self.fields: dict[str, Any] = {
            "D": q.shape[3], "D_PAD": pad(q.shape[3]), "V": v.shape[3], "V_PAD": pad(v.shape[3]),
            "PRECISION": "tf32" if rounded and q.dtype == torch.float32 else "ieee",
            "INDEX": tl.int32 if fits_int32(program.module, longest) else tl.int64,
            "EVERY_KEY": every_key(program.plan, n, m, form.positions, heads),
            "EVERY_ROW": every_row(program.plan, n, m, form.positions, heads),
        }  # fmt: skip
        self.common: dict[str, Any] = {
            **dict.fromkeys(ABSENT), "n": q.shape[2], "m": m, "offset": offset, "key_offset": key_offset,
            "prefix": 0, "each": 0, "list_rows": 0, "list_group": 0,
            "heads": heads, "group": self.group, **{name: Given(name) for name in (*known, "scale")},
        }  # fmt: skip
        if self.ragged is not None:
            self._of_sequences(self.ragged)
        if "DROPOUT" in program.module.PATTERN:
            self.common["seed"] = Given("seed")
        for name, called in STRIDES.items():
            if name in known:
                self.common |= {f"{called}_{axis}": x for axis, x in zip("bhrd", known[name].strides, strict=True)}

    def _of_sequences(self, bounds: Bounds) -> None:
        """What kernels are told of sequences."""
        self.fields |= {"RAGGED": True, "FROM_0": bounds.square}
        if bounds.keys_at is not None:
            where, number = bounds.keys_at
            self.fields |= {"KEYS_AT": where}
            table = self.known["key_table"]
            if where == "slots":
                self.fields |= {"PERIOD": table.shape[0]}
                self.common |= {"prefix": number, "each": self.known["held"].strides[0]}
            else:
                self.fields |= {"PAGE": number}
                self.common |= {"each": table.strides[0]}

    def outside(self, number: float) -> float | None:
        """What results hold at first: a number where there may be rows that belong to no sequence."""
        return None if self.ragged is None or self.ragged.whole else number

    def programs(self, tiles: Tiles, heads: int, *, by_keys: bool = False, last_first: bool = False) -> Programs:
        """Those for the tiles of all sequences of a ragged call, of so many heads.

        Args:
            tiles: those of a sequence.
            heads: of a sequence.
            by_keys: tiles are of keys.
            last_first: the last tiles have the most work.
        """
        assert self.ragged is not None
        bounds, sequences = self.ragged, self.known["segments"].shape[0]
        longest, together = (bounds.keys, bounds.all_keys) if by_keys else (bounds.rows, bounds.all_rows)
        each, classes = tiles.most(longest, from_0=bounds.square), min(tiles.classes, longest)
        entries = tiles.most_of_all(sequences, min(together, sequences * longest))
        if sequences * each * classes <= entries and (
            tiles.checked or not tiles.moved
        ):  # programs of those do not see where they end
            return Programs(each, classes, sequences * heads)
        found = Given(f"{'keys' if by_keys else 'rows'} in {tiles}{', the last first' * last_first}")
        if found not in self.buffers:
            self.buffers[found] = Buffer((entries, 4), torch.int32, -1)
            arguments = {
                **tiles._asdict(), "moved": int(tiles.moved), "end": _INT32 - 1 if tiles.end is None else tiles.end,
                "listed": found, "sequences": sequences, "column": 5 if by_keys else 2,
                "SORTED": sequences <= SORTED, "LAST": last_first,
            }  # fmt: skip
            self.helper(library.list_tiles, sequences * -(-each // BLOCK), arguments)
        return Programs(entries, 1, heads, found)

    def few(self, rows: int, heads: int, count: int, *, by_keys: bool = False) -> tuple[int, dict[str, Any]]:
        """Programs, and what those are given, that have some `rows` at a time.

        Args:
            rows: of each of them; of a ragged call all.
            heads: of a batch entry.
            count: pairs of batch entry and head.
            by_keys: rows are those of keys.
        """
        if self.ragged is None:
            found = Programs(-(-rows // ROWS), 1, count)
        else:
            found = self.programs(Tiles(ROWS), heads, by_keys=by_keys)
        given = {"tiles": found.tiles, "listed": found.listed, "heads": heads, "column": 4 if by_keys else 1}
        return found.grid, given

    def view(self, name: str, start: int) -> Given:
        """A buffer from one of its elements on."""
        if start == 0:
            return Given(name)
        found = Given(f"{name} from {start}")
        self.buffers[found] = View(name, start)
        return found

    def stage(
        self, fields: Mapping[str, Any], kernel: Any, grid: int, given: Mapping[str, Any], **options: Any
    ) -> None:
        """Launch a kernel of the program, specialised for `fields` too."""
        self._step(kernel, grid, given, {**self.fields, **self.program.module.PATTERN, **fields}, options)

    def helper(self, kernel: Any, grid: int, given: Mapping[str, Any], **fields: Any) -> None:
        """Launch a kernel that is the same in all programs."""
        fields |= {name: self.fields[name] for name in ("V", "V_PAD", "INDEX", "RAGGED") if name in self.fields}
        self._step(kernel, grid, given, fields, {"num_warps": 4})

    def _step(
        self, kernel: Any, grid: int, given: Mapping[str, Any], fields: dict[str, Any], options: Mapping[str, Any]
    ) -> None:
        """Launch a kernel, with 64-bit indices too where an address in one head of any of its tensors needs them."""
        arguments = {**self.common, **given, "KIND": None}
        if any(x.reach >= _INT32 for name in kernel.arg_names for x in self._facts_of(arguments[name])):
            fields["INDEX"] = tl.int64
        arguments["KIND"] = library.Kind(*map(fixed, library.Kind(**fields)))
        self.steps.append(Step(kernel, grid, arguments, {**options, **FUSED}, scratch=fields.get("TMA", False)))

    def _facts_of(self, x: Any) -> tuple[Facts, ...]:
        """Those of a tensor of the call or a buffer."""
        if not isinstance(x, Given):
            return ()
        made = self.buffers.get(x)
        if isinstance(made, View):
            made = self.buffers[made.of]
        return (made.facts,) if isinstance(made, Buffer) else (self.known[x],) if x in self.known else ()

    def prepared(self) -> Prepared:
        """What was put together."""
        return Prepared(self.buffers, self.steps)


FUSED = {"enable_fp_fusion": True}  # a * b + c in one instruction; later versions of Triton want to be asked


def fits_int32(module: Any, longest: int | None) -> bool:
    """Whether every position and bound is below 2^31; None: nobody knows how long anything is."""
    constant, slope = module.REACH
    return longest is not None and bool(constant + slope * longest < _INT32)


def fixed(x: Any) -> Any:
    """A value of a kernel's `Kind`, in the form in which every version of Triton takes it inside a tuple."""
    if isinstance(x, dict):
        walk = library.Walk(*map(fixed, library.Walk(**x)))
        return walk if interpreted() else tl.constexpr(walk)
    if isinstance(x, tuple):
        return tuple(fixed(y) for y in x)
    return tl.constexpr(x) if isinstance(x, int | float | str) and not interpreted() else x
