"""Checks of what a cache is given: all faults are found, and told at once, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pidsl.runtime.cache.store import Form
from pidsl.runtime.call.arguments import POSITIONS, Fault, check_form, check_tensor
from pidsl.runtime.call.ragged import INTEGERS


def check_size(name: str, value: object, least: int, most: int = POSITIONS) -> list[Fault]:
    """The fault of a number that should be an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        return [Fault(name, f"{value!r} ({type(value).__name__})", f"an integer >= {least}")]
    return [] if least <= value < most else [Fault(name, f"{value}", f"an integer, {least} <= {name} < {most}")]


def check_new(k: object, v: object, form: Form) -> list[Fault]:
    """Faults of new keys and values: `[B, Hkv, t, D]` and `[B, Hkv, t, Dv]`."""
    faults, usable = [], {}
    for name, value, width in (("k", k, form.head_dim), ("v", v, form.value_dim)):
        shape = f"[{form.batch}, {form.heads}, tokens, {width}]"
        if fault := check_form(name, value, shape):
            faults.append(fault)
            continue
        assert isinstance(value, Tensor)
        usable[name] = value
        sizes = list(value.shape)
        if (sizes[0], sizes[1], sizes[3]) != (form.batch, form.heads, width):
            hint = (
                f"{name}.transpose(1, 2)" if [sizes[0], sizes[2], sizes[3]] == [form.batch, form.heads, width] else ""
            )
            faults.append(Fault(name, f"shape {sizes}", f"{shape}, as the cache was made for", hint))
        faults += check_place(name, value, (form.dtype,), form.device)
    if len(usable) == 2 and usable["k"].shape[2] != usable["v"].shape[2]:
        faults.append(Fault("v", f"{usable['v'].shape[2]} tokens", f"{usable['k'].shape[2]}, as in k"))
    return faults


def check_place(name: str, value: Tensor, dtypes: tuple[torch.dtype, ...], device: torch.device) -> list[Fault]:
    """Faults of dtype and device."""
    faults = []
    if value.dtype not in dtypes:
        expected = " or ".join(str(x).removeprefix("torch.") for x in dtypes)
        faults.append(Fault(name, f"dtype {value.dtype}".replace("torch.", ""), expected, f"{name}.to({dtypes[0]})"))
    if value.device != device:
        faults.append(
            Fault(name, f"device {value.device}", f"{device}, the device of the cache", f"{name}.to({str(device)!r})")
        )
    return faults


def check_each(name: str, value: object, form: Form, said: str) -> list[Fault]:
    """Faults of an integer tensor with one number for each batch entry."""
    if fault := check_tensor(name, value, f"an integer tensor [{form.batch}]: {said}"):
        return [fault]
    assert isinstance(value, Tensor)
    faults = check_place(name, value, INTEGERS, form.device)
    if list(value.shape) != [form.batch]:
        faults.append(Fault(name, f"shape {list(value.shape)}", f"[{form.batch}]: {said}"))
    return faults


def check_within(name: str, value: Tensor, least: Any, most: Any, said: str, hint: str = "") -> list[Fault]:
    """The fault of the first batch entry whose number is not in least .. most; waits for the device."""
    wrong = (value < least) | (value > most)
    if not bool(wrong.any()):
        return []
    entry = int(wrong.nonzero()[0])
    low, high = (int(x[entry]) if isinstance(x, Tensor) else int(x) for x in (least, most))
    return [Fault(name, f"{int(value[entry])} for batch entry {entry}", f"{low} .. {high}: {said}", hint)]


def check_pages(pool: object, table: object, shape: Sequence[int], form: Form) -> list[Fault]:
    """Faults of the form of a pool of pages `[pages, *shape]` and of a table `[B, pages of a sequence]`."""
    said = f"[pages, {', '.join(map(str, shape))}]"
    faults = []
    if fault := check_tensor("pool", pool, f"a torch.Tensor {said}"):
        faults.append(fault)
    else:
        assert isinstance(pool, Tensor)
        faults += check_place("pool", pool, (form.dtype,), form.device)
        if pool.dim() != 5 or list(pool.shape[1:]) != list(shape):
            faults.append(Fault("pool", f"shape {list(pool.shape)}", said))
    if fault := check_tensor("table", table, f"an int32 tensor [{form.batch}, pages of a sequence]"):
        return [*faults, fault]
    assert isinstance(table, Tensor)
    faults += check_place("table", table, (torch.int32,), form.device)
    if table.dim() != 2 or table.shape[0] != form.batch:
        faults.append(Fault("table", f"shape {list(table.shape)}", f"[{form.batch}, pages of a sequence]"))
    return faults


def check_table(table: Tensor, pages: int) -> list[Fault]:
    """The fault of a table that names a page that a pool of so many does not have; waits for the device."""
    wrong = (table < -1) | (table >= pages)
    if not bool(wrong.any()):
        return []
    entry, page = wrong.nonzero()[0].tolist()
    given = f"{int(table[entry, page])} for page {page} of batch entry {entry}"
    return [Fault("table", given, f"0 .. {pages - 1}, or -1 for none")]
