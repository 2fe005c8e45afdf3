"""From the form of a call to what it allocates and launches: forward and backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pidsl.codegen.emit_triton import library
from pidsl.runtime.call.call import Positions
from pidsl.runtime.run_triton.attended import every_key, every_row
from pidsl.runtime.run_triton.launch import FUSED, Stage, constant, launch_options, pad, shared_limit, stages_of
from pidsl.runtime.run_triton.prepared import Buffer, Facts, Given, Prepared, Step

STATISTICS_ROWS = 32  # rows per program of the generated `row_statistics`
NUMBERS = ("scale", "seed")  # of a call, which kernels get as they are
ABSENT = (
    "slopes", "sinks", "bias", "temperature", "seed", "grad_lse", "running", "running_k", "running_v", "grad_q",
    "slope_sums", "bias_sums", "table",
)  # fmt: skip  # arguments that are None in kernels without them
STRIDES = {"q": "q", "k": "k", "v": "v", "grad_out": "go", "out": "out"}  # tensors of any strides: how those are called
_INT32 = 2**31


class Loaded(NamedTuple):
    """A program as it was loaded.

    Args:
        module: the generated module.
        plan: what it computes; None where that is not known.
    """

    module: Any
    plan: Any


class Form(NamedTuple):
    """What decides what a call allocates and launches.

    Args:
        names: of the tensors of the call.
        tensors: their facts.
        positions: where the rows stand.
        device: where the tensors are.
        precision: of products of float32, as torch names it.
        learned: whether the gradients of slopes and bias are wanted.
    """

    names: tuple[str, ...]
    tensors: tuple[tuple[Any, ...], ...]
    positions: Positions
    device: torch.device
    precision: str
    learned: bool = False


def prepare_forward(program: Loaded, form: Form, lists: Mapping[str, Tensor]) -> Prepared:
    """A forward pass: its results are the buffers `out`, which may be float32, and `lse`."""
    made = _Pass(program, form, lists)
    q, stages = made.known["q"], stages_of(program.module, "FORWARD")
    names = made.chain("out", stages, (*q.shape[:3], made.known["v"].shape[3]))
    whole = bool(stages) and stages[0].whole
    unseen = Given("sinks") if "sinks" in made.known else -torch.inf  # what rows that have seen no key have
    made.buffers["lse"] = Buffer(q.shape[:3], torch.float32, None if whole else unseen)
    for x, stage in enumerate(stages):
        running = None if x == 0 and stage.whole else names[x]
        made.launch(stage, q, form.positions.offset, running=running, out=names[x + 1], lse=Given("lse"))
    return made.prepared()


def prepare_backward(program: Loaded, form: Form, lists: Mapping[str, Tensor]) -> Prepared:
    """A backward pass, of a call that has `out`, `lse`, `grad_out` and perhaps `grad_lse` among its tensors.

    Its results are the buffers `grad_q`, `grad_k` and `grad_v`, some of them float32, and `sums` says which others.
    """
    made = _Pass(program, form, lists)
    q, k, v = (made.known[name] for name in "qkv")
    offset, key_offset = form.positions
    rows = {name: made.known.get(name) for name in ("out", "grad_out", "lse", "grad_lse")}
    made.common |= {name: None if x is None else Given(name) for name, x in rows.items()}
    made.common |= {"lse2": Given("lse2"), "pull": Given("pull")}
    made.buffers |= {name: Buffer(q.shape[:3], torch.float32) for name in ("lse2", "pull")}
    programs = q.shape[0] * q.shape[1] * triton.cdiv(q.shape[2], STATISTICS_ROWS)
    made.step(library.row_statistics, programs, {}, {}, {"num_warps": 4, **FUSED})

    stages = stages_of(program.module, "GRAD_QUERY")
    names = made.chain("grad_q", stages, q.shape)
    for x, stage in enumerate(stages):
        running = None if x == 0 and stage.whole else names[x]
        made.launch(stage, q, offset, running=running, grad_q=names[x + 1])

    stages = stages_of(program.module, "GRAD_KEY")
    keys, values = made.chain("grad_k", stages, k.shape), made.chain("grad_v", stages, v.shape)
    for x, stage in enumerate(stages):
        fresh = x == 0 and stage.whole
        before = {"running_k": None if fresh else keys[x], "running_v": None if fresh else values[x]}
        made.launch(stage, k, key_offset, **before, grad_k=keys[x + 1], grad_v=values[x + 1])

    for x, stage in enumerate(stages_of(program.module, "GRAD_SCORE") if form.learned else ()):
        shape = (*q.shape[:2], stage.classes * stage.tiles(q.shape[2], offset))
        table = made.known["bias"].shape[1] if "bias" in made.known else 0
        slopes, bias = Given(f"slope_sums_{x}"), Given(f"bias_sums_{x}")
        made.buffers[slopes] = Buffer(shape, torch.float32, 0.0)  # programs without rows write none
        made.buffers[bias] = Buffer((*shape, table), torch.float32, 0.0)
        made.launch(stage, q, offset, slope_sums=slopes, bias_sums=bias)
    return made.prepared()


class _Pass:
    """A prepared call as it is put together.

    Attributes:
        known: the facts of the tensors of the call.
        common: arguments that do not differ from stage to stage, by the names the kernels have for them.
        buffers: what is allocated.
        steps: what is launched.
    """

    def __init__(self, program: Loaded, form: Form, lists: Mapping[str, Tensor]) -> None:
        self.module = module = program.module
        self.lists = lists
        self.device = form.device
        self.known = known = {name: Facts(*x) for name, x in zip(form.names, form.tensors, strict=True)}
        self.buffers: dict[str, Buffer] = {}
        self.steps: list[Step] = []
        q, k, v, (offset, key_offset) = known["q"], known["k"], known["v"], form.positions
        n, m, head_dim, value_dim = q.shape[2], k.shape[2], q.shape[3], v.shape[3]
        heads, group = q.shape[1], q.shape[1] // max(k.shape[1], 1)
        rounded = form.precision != "highest" and torch.version.hip is None
        self.tensor_cores = q.dtype != torch.float32 or rounded
        self.common: dict[str, Any] = {
            "n": n, "m": m, "offset": offset, "key_offset": key_offset,
            "heads": heads, "group": group, "first_tile": 0, "first_pair": 0, "own_first": 0,
            **dict.fromkeys(ABSENT), **{name: Given(name) for name in (*known, "scale")},
        }  # fmt: skip
        if "DROPOUT" in module.PATTERN:
            self.common["seed"] = Given("seed")
        self.kind: dict[str, Any] = {
            "D": head_dim, "D_PAD": pad(head_dim), "V": value_dim, "V_PAD": pad(value_dim),
            "PRECISION": "tf32" if rounded and q.dtype == torch.float32 else "ieee",
            "INDEX": tl.int32 if fits_int32(module, max(n, m, offset, key_offset)) else tl.int64,
            "EVERY_KEY": every_key(program.plan, n, m, form.positions, heads),
            "EVERY_ROW": every_row(program.plan, n, m, form.positions, heads),
        }  # fmt: skip
        for name, called in STRIDES.items():
            if name in known:
                self.common |= {f"{called}_{axis}": x for axis, x in zip("bhrd", known[name].strides, strict=True)}

    def chain(self, name: str, stages: Sequence[Stage], shape: tuple[int, ...]) -> list[Given]:
        """What stage number x goes on from (entry x) and writes (entry x + 1); the last is called `name`.

        Between stages the values are float32; the last stage writes q's dtype when it owns everything.
        """
        dtype, whole = self.known["q"].dtype, bool(stages) and stages[0].whole
        last = Given(name)
        if len(stages) < 2:
            self.buffers[last] = Buffer(shape, dtype, None if whole else 0.0)
            return [last, last]
        between = Given(f"running_{name}") if stages[-1].whole and dtype != torch.float32 else last
        self.buffers[between] = Buffer(shape, torch.float32, None if whole else 0.0)
        if between != last:
            self.buffers[last] = Buffer(shape, dtype)
        return [between] * len(stages) + [last]

    def launch(self, stage: Stage, owner: Facts, first: int, **others: Given | None) -> None:
        """One program per tile of `owner`'s positions (q for rows, k for keys), class, head and batch entry.

        The first of the positions is `first`; `others` are arguments of this stage alone.
        """
        options = launch_options(
            stage, self.kind["D_PAD"] + self.kind["V_PAD"], owner.dtype.itemsize,
            tensor_cores=self.tensor_cores, limit=shared_limit(self.device),
        )  # fmt: skip
        tiles, pairs = stage.tiles(owner.shape[2], first), owner.shape[0] * owner.shape[1]
        numbers = {"tiles": tiles, "classes": stage.classes, "pairs": pairs, "own_rows": owner.shape[2]}
        numbers["table"] = None if stage.table is None else self.lists[stage.table]
        kind = {**self.module.PATTERN, **stage.kind}
        self.step(stage.kernel, pairs * stage.classes * tiles, kind, {**numbers, **others}, options)

    def step(
        self, kernel: Any, grid: int, kind: Mapping[str, Any], others: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        """Launch a kernel, with 64-bit indices too where an address in one head of any of its tensors needs them."""
        arguments = {**self.common, **others}
        names = (name for name in kernel.arg_names if name != "KIND")
        tensors = (x for name in names if (x := self._facts_of(arguments[name])) is not None)
        index = {"INDEX": tl.int64} if any(x.reach >= _INT32 for x in tensors) else {}
        arguments["KIND"] = constant(library.Kind(**{**kind, **self.kind, **index}))
        self.steps.append(Step(kernel, grid, arguments, options))

    def _facts_of(self, x: Any) -> Facts | None:
        """Those of a tensor of the call or a buffer."""
        if not isinstance(x, Given) or x in NUMBERS:
            return None
        return self.buffers[x].facts if x in self.buffers else self.known[x]

    def prepared(self) -> Prepared:
        """What was put together."""
        return Prepared(self.buffers, self.steps)


def fits_int32(module: Any, longest: int) -> bool:
    """Whether every position and bound is below 2^31."""
    constant, slope = module.REACH
    return bool(constant + slope * longest < _INT32)
