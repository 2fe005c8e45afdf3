"""The forward kernel of Triton's tutorial on fused attention, compiled without a GPU from a file that you fetched.

Fetch python/tutorials/06-fused-attention.py of the Triton you have installed (its tag); nothing of it is kept here. It
asks for a GPU when it is imported, so only its functions for the device are taken, without their tuning.
"""

from __future__ import annotations

import ast
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from pidsl.runtime.run_triton.ahead import KernelReport, Signature, Work, compiled

KERNEL = "_attn_fwd"
CONFIGURATIONS = {64: ((128, 64, 3, 4), (128, 128, 3, 8)), 128: ((128, 64, 3, 4), (128, 128, 3, 8))}  # of its own list
TYPES = {"sm_scale": "fp32", "M": "*fp32", "Z": "i32", "H": "i32", "N_CTX": "i32"}  # all others are tensors


def reports(file: Path, head_dim: int, target: str) -> list[KernelReport]:
    """The causal forward kernel in bfloat16, with some of its configurations."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = _kernel(file, Path(folder))
        return [_report(kernel, head_dim, target, chosen) for chosen in CONFIGURATIONS[head_dim]]


def _report(kernel: Any, head_dim: int, target: str, chosen: tuple[int, int, int, int]) -> KernelReport:
    import triton.language as tl

    rows, keys, stages, warps = chosen
    hopper = target == "cuda:90"
    constants = {
        "HEAD_DIM": head_dim, "BLOCK_M": rows, "BLOCK_N": keys, "STAGE": 3, "FP8_OUTPUT": False, "dtype": tl.bfloat16,
        "warp_specialize": False, "IS_HOPPER": hopper, "CAUSAL": True,
    }  # fmt: skip
    types: dict[str, str] = {}
    fixed: dict[tuple[int, ...], Any] = {}
    hints: dict[tuple[int, ...], list[list[Any]]] = {}
    for number, parameter in enumerate(kernel.params):
        if parameter.is_constexpr:
            types[parameter.name], fixed[number,] = "constexpr", constants[parameter.name]
        else:
            types[parameter.name] = TYPES.get(parameter.name, "*bf16")
            if types[parameter.name] != "fp32":
                hints[number,] = [["tt.divisibility", 16]]
    options = {"num_stages": stages, "num_warps": warps}
    return compiled(kernel, Signature(types, fixed, hints), target, options, Work(rows * keys))


def _kernel(file: Path, folder: Path) -> Any:
    """The kernel as a module of its own has it: the device functions of the file, and Triton."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kept = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = [x for x in node.decorator_list if ast.unparse(x) == "triton.jit"]
            kept += [node] if node.decorator_list else []
    path = folder / "tutorial.py"
    path.write_text("import triton\nimport triton.language as tl\n\n\n" + "\n\n\n".join(map(ast.unparse, kept)) + "\n")
    spec = importlib.util.spec_from_file_location("tutorial", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, KERNEL)
