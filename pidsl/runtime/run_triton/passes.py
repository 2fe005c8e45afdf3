"""From the form of a call to what it allocates and launches: forward and backward."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor

from pidsl.codegen.emit_triton import library
from pidsl.runtime.run_triton.assembly import Assembly, Form
from pidsl.runtime.run_triton.launch import Loaded
from pidsl.runtime.run_triton.prepared import Buffer, Given, Prepared
from pidsl.runtime.run_triton.sweeps import Output, Sweep


def prepare_forward(program: Loaded, form: Form, lists: Mapping[str, Tensor]) -> Prepared:
    """A forward pass: its results are the buffers `out` and `lse`."""
    made = Assembly(program, form, lists)
    made.buffers["lse"] = Buffer(made.known["q"].shape[:3], torch.float32, made.outside(-inf))
    Sweep(made, "forward", [Output("out", "running", made.known["v"].shape[3])]).run()
    return made.prepared()


def prepare_backward(program: Loaded, form: Form, lists: Mapping[str, Tensor]) -> Prepared:
    """A backward pass, of a call that has `out`, `lse`, `grad_out` and perhaps `grad_lse` among its tensors.

    Its results are the buffers `grad_q`, `grad_k` and `grad_v`, and for each stage number x that sums what slopes and
    bias get, `slope_sums_x` [B, Hq, programs] and `bias_sums_x` [B, Hq, programs, table].
    """
    made = Assembly(program, form, lists)
    q, v = made.known["q"], made.known["v"]
    for name in ("lse2", "pull"):
        made.buffers[name], made.common[name] = Buffer(q.shape[:3], torch.float32), Given(name)
    made.helper(library.row_statistics, *made.few(q.shape[2], q.shape[1], made.pairs))
    Sweep(made, "grad_query", [Output("grad_q", "running", q.shape[3])]).run()
    Sweep(
        made, "grad_key", [Output("grad_k", "running_k", q.shape[3]), Output("grad_v", "running_v", v.shape[3])]
    ).run()
    if form.learned:
        Sweep(made, "grad_query", [], "GRAD_SCORE").sum_up()
    return made.prepared()
