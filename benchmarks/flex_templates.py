"""FlexAttention's kernels for a mask, from the templates in the installed torch, without a GPU.

Inductor renders these templates with hooks of its own; the hooks here write what it writes for contiguous tensors, no
score modification and one mask for all heads. Nothing was captured from a running Inductor, and the templates of
torch.compile's options (TMA, prescaled logits, rows known to be safe) are left at its defaults. Nothing of their text
is kept here: where the installed torch has none, `NoTemplates` says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from gpu_cases import BLOCK, GpuCase

from pidsl.runtime.run_triton.ahead import KernelReport, Signature, Work, compiled

TEMPLATES = Path(torch.__file__).parent / "_inductor" / "kernel" / "flex" / "templates"
PARTS = {"forward": ("flex_attention", "utilities", "common"), "backward": ("flex_backwards", "utilities")}
BLOCK_COUNTS = ("KV_NUM_BLKS", "Q_NUM_BLKS", "FULL_KV_NUM_BLKS", "FULL_Q_NUM_BLKS")
BLOCK_INDICES = ("KV_IDX", "Q_IDX", "FULL_KV_IDX", "FULL_Q_IDX")


class NoTemplates(Exception):
    """The installed torch does not have the templates, or others than this module knows."""


@dataclass(frozen=True)
class Tiles:
    """What Inductor chooses for a kernel: rows and keys of its tiles (of dK and dV, then of dQ), stages, warps."""

    sizes: tuple[tuple[int, int], ...]
    stages: int
    warps: int


def tiles(capability: int, head_dim: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tiles]:
    """Inductor's choice for a GPU when it does not tune."""
    try:
        from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

        with patch("torch.cuda.get_device_capability", return_value=divmod(capability, 10)):
            known = CUDAConfigHeuristic()
            (first,) = known.get_flex_attn_fwd_configs(head_dim, dtype)
            (second,) = known.get_flex_attn_bwd_configs(head_dim, dtype)
        return {
            "forward": Tiles(((first.block_m, first.block_n),), first.num_stages, first.num_warps),
            "backward": Tiles(
                ((second.block_m1, second.block_n1), (second.block_m2, second.block_n2)),
                second.num_stages,
                second.num_warps,
            ),
        }
    except (ImportError, AttributeError, ValueError) as error:
        raise NoTemplates(f"torch {torch.__version__}: {error}") from error


@dataclass
class Text:
    """A value in the text of a mask: every operation on it becomes a line, as Inductor writes it for int32."""

    name: str
    lines: list[str]

    def _new(self, text: str) -> Text:
        name = f"tmp{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return Text(name, self.lines)

    def _other(self, x: Text | int) -> str:
        return x.name if isinstance(x, Text) else self._new(f"tl.full([1], {x}, tl.int32)").name

    def _with(self, sign: str, x: Text | int) -> Text:
        return self._new(f"{self.name} {sign} {self._other(x)}")

    def __sub__(self, x: Text | int) -> Text:
        return self._with("-", x)

    def __ge__(self, x: Text | int) -> Text:
        return self._with(">=", x)

    def __le__(self, x: Text | int) -> Text:
        return self._with("<=", x)

    def __lt__(self, x: Text | int) -> Text:
        return self._with("<", x)

    def __eq__(self, x: Text | int) -> Text:  # type: ignore[override]
        return self._with("==", x)

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, x: Text | int) -> Text:
        return self._with("&", x)

    def __or__(self, x: Text | int) -> Text:
        return self._with("|", x)

    def __mod__(self, k: int) -> Text:
        """The remainder with the sign of k."""
        divisor = self._other(k)
        rest = self._new(f"{self.name} % {divisor}").name
        return self._new(f"tl.where(({rest} != 0) & (({rest} < 0) != ({divisor} < 0)), {rest} + {divisor}, {rest})")

    def __floordiv__(self, k: int) -> Text:
        x, y = self.name, self._other(k)
        rounded = f"tl.where({x} % {y} != 0, {x} // {y} - 1, {x} // {y})"
        return self._new(f"tl.where(({x} < 0) != ({y} < 0), {rounded}, {x} // {y})")

    def __abs__(self) -> Text:
        return self._new(f"tl.abs({self.name})")

    def clamp(self, low: int, high: int) -> Text:
        return self._new(f"tl.minimum(tl.maximum({self.name}, {low}), {high})")


@dataclass
class Hooks:
    """What a template calls while it is rendered."""

    name: str
    constants: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    mask: Callable[[Any, Any], Any]
    masks: int  # the number of the subgraph that is the mask
    arguments: list[str] = field(default_factory=list)

    def def_kernel(self, *arguments: str) -> str:
        self.arguments = [f"arg_{x}" for x in arguments]
        head = f"@triton.jit\ndef {self.name}({self.gen_argdefs()}):\n"
        return head + self._assigned("    ") + "".join(f"    {x} = arg_{x}\n" for x in arguments)

    def gen_argdefs(self) -> str:
        return ", ".join([*self.arguments, "out_ptr0"])

    def gen_defines(self) -> str:
        return self._assigned("").rstrip("\n")

    def _assigned(self, indent: str) -> str:
        """The constants; the one that names a type of Triton is no text there."""
        values = {name: x if name == "INDEX_DTYPE" else repr(x) for name, x in self.constants.items()}
        return "".join(f"{indent}{name} : tl.constexpr = {x}\n" for name, x in values.items())

    def size(self, name: str, axis: int) -> str:
        return str(self.shapes[name][axis])

    def stride(self, name: str, axis: int | None = None) -> str:
        steps = torch.empty(self.shapes[name], device="meta").stride()
        return ", ".join(map(str, steps)) if axis is None else str(steps[axis])

    def modification(self, subgraph_number: int, output_name: str | None = None, **given: str) -> str:
        if output_name is None:  # gradients of captured tensors: there are none
            return "pass"
        if subgraph_number != self.masks:  # the score as it is, or its gradient
            return f"{output_name} = ({given['grad_score_mod' if 'grad_score_mod' in given else 'score']})"
        lines: list[str] = []
        i, j = (Text("", lines)._new(f"({given[x]})") for x in ("m", "n"))
        found = self.mask(i, j)
        return "\n".join([*lines, f"{output_name} = {found.name}"])

    def store_output(self, indices: Sequence[str], value: str, mask: str, indent_width: int = 4, **_: Any) -> str:
        steps = torch.empty(self.shapes["Q"], device="meta").stride()
        at = " + ".join(f"{step}*{index}" for step, index in zip(steps, indices, strict=True))
        indent = " " * indent_width
        return f"xindex = {at}\n{indent}tl.store(out_ptr0 + tl.broadcast_to(xindex, {value}.shape), {value}, {mask})"


def source(case: GpuCase, task: str, head_dim: int, heads: int, chosen: Tiles) -> str:
    """The program of one pass ("forward" or "backward")."""
    try:
        from jinja2 import Environment, StrictUndefined

        text = "".join((TEMPLATES / f"{part}.py.jinja").read_text() for part in PARTS[task])
    except (ImportError, OSError) as error:
        raise NoTemplates(f"torch {torch.__version__}: {error}") from error
    constants: dict[str, Any] = {
        "PRESCALE_QK": False, "ROWS_GUARANTEED_SAFE": False, "BLOCKS_ARE_CONTIGUOUS": False, "WRITE_DQ": True,
        "FLOAT32_PRECISION": "tf32", "IS_DIVISIBLE": case.length % BLOCK == 0, "SM_SCALE": head_dim**-0.5,
        "GQA_SHARED_HEADS": 1, "HAS_FULL_BLOCKS": True, "QK_HEAD_DIM": head_dim, "QK_HEAD_DIM_ROUNDED": head_dim,
        "V_HEAD_DIM": head_dim, "V_HEAD_DIM_ROUNDED": head_dim, "SAFE_HEAD_DIM": True, "USE_TMA": False,
        "SPARSE_Q_BLOCK_SIZE": BLOCK, "SPARSE_KV_BLOCK_SIZE": BLOCK, "INDEX_DTYPE": "tl.int32",
    }  # fmt: skip
    if task == "forward":
        constants |= {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False}
        constants |= dict(zip(("BLOCK_M", "BLOCK_N"), chosen.sizes[0], strict=True))
    else:
        names = ("BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2")
        constants |= dict(zip(names, (x for size in chosen.sizes for x in size), strict=True))
    count = case.length // BLOCK
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
        ("Q", "K", "V", "DO", "DQ", "DV"), (case.batch, heads, case.length, head_dim)
    )
    shapes |= dict.fromkeys(BLOCK_COUNTS, (1, 1, count)) | dict.fromkeys(BLOCK_INDICES, (1, 1, count, count))
    hooks = Hooks(f"flex_{task}", constants, shapes, case.attends, masks=1 if task == "forward" else 2)
    environment = Environment(undefined=StrictUndefined)
    environment.filters["indent_except_first"] = _indent_except_first
    called = ("def_kernel", "gen_argdefs", "gen_defines", "size", "stride", "modification", "store_output")
    try:
        body = environment.from_string(text).render(**{x: getattr(hooks, x) for x in called}, **constants)
    except Exception as error:  # another template than this one was written for
        raise NoTemplates(f"torch {torch.__version__}: {type(error).__name__}: {error}") from error
    return f"import triton\nimport triton.language as tl\n\n{body}"


def _indent_except_first(text: str, levels: int) -> str:
    first, *others = text.splitlines(keepends=True)
    return first + "".join(" " * 4 * levels + line if line.strip() else line for line in others)


def report(case: GpuCase, task: str, head_dim: int, heads: int, target: str, folder: Path) -> KernelReport:
    """One pass compiled; only in a process without TRITON_INTERPRET. `folder` keeps the program's text."""
    chosen = tiles(int(target.partition(":")[2]), head_dim)[task]
    text = source(case, task, head_dim, heads, chosen)
    kernel = getattr(_module(text, folder), f"flex_{task}")
    kinds = dict.fromkeys(("LSE", "MAX", "DELTA"), "*fp32") | dict.fromkeys((*BLOCK_COUNTS, *BLOCK_INDICES), "*i32")
    types = {x.name: kinds.get(x.name.removeprefix("arg_"), "*bf16") for x in kernel.params}
    hints: dict[tuple[int, ...], list[list[Any]]] = {
        (number,): [["tt.divisibility", 16]] for number in range(len(kernel.params))
    }
    rows, keys = chosen.sizes[0]
    options = {"num_stages": chosen.stages, "num_warps": chosen.warps}
    return compiled(kernel, Signature(types, {}, hints), target, options, Work(rows * keys))


def _module(text: str, folder: Path) -> Any:
    name = f"flex_{hashlib.sha1(text.encode()).hexdigest()[:16]}"
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
