"""Checks of a kernel call: every fault is found before anything runs, and all of them are told at once."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from pidsl.errors import ArgumentError, SizeError
from pidsl.language.score import Score
from pidsl.language.terms import Term
from pidsl.relation.oracle import check_square
from pidsl.runtime.call.call import Positions

HALVES = (torch.float32, torch.float16, torch.bfloat16)
WIDE = (*HALVES, torch.float64)
DTYPES: Mapping[str, tuple[torch.dtype, ...]] = {"triton": HALVES, "torch": WIDE, "reference": WIDE}
LARGEST_HEAD_DIM = 256  # of the Triton programs, which keep whole rows in registers
POSITIONS = 2**31  # positions are int32 inside a kernel
SHAPES = {
    "q": "[batch, heads, queries, head_dim]", "k": "[batch, kv_heads, keys, head_dim]",
    "v": "[batch, kv_heads, keys, value_dim]",
}  # fmt: skip
PARTS = {  # of a score, that a call is given: how each is asked for
    "slopes": "alibi=True", "bias": "bias=(low, high)", "sinks": "sinks=True", "temperature": "temperature=True",
    "seed": "dropout=0.1",
}  # fmt: skip
_LEARNED_SCALE = (
    "scale.item() for a constant; for a learned one "
    "pidsl.compile(term, score=pidsl.score(scale=1.0, temperature=True)), "
    "then kernel(q, k, v, temperature=(1 / scale).expand(heads))"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a call: `name` got `got`, `expected` was expected, try `hint`."""

    name: str
    got: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.name}: got {self.got}, expected {self.expected}" + (f"; try {self.hint}" if self.hint else "")


def raise_faults(faults: Sequence[Fault], call: str) -> None:
    """Raise one `ArgumentError` that names every fault and the call; nothing when there is none."""
    match faults:
        case []:
            return
        case [fault]:
            raise ArgumentError(f"{fault.name}: {fault.got}", fault.expected, call, fault.hint)
        case _:
            raise ArgumentError(f"{len(faults)} faults in {call}", where="\n".join(map(str, faults)))


def check_attention(
    rings: Sequence[Term], backend: str, q: Tensor, k: Tensor, v: Tensor, positions: Positions | None
) -> tuple[list[Fault], dict[str, Tensor]]:
    """Faults of the tensors and the positions of one call, and those of q, k and v that have four dimensions.

    Args:
        rings: patterns that hold a ring and so restrict the lengths.
        backend: "triton", "torch" or "reference": they differ in dtypes and head dimensions.
        q, k, v: as given.
        positions: where the rows stand, each checked for itself; None for a ragged batch, which is checked elsewhere.
    """
    faults: list[Fault] = []
    usable: dict[str, Tensor] = {}
    for value, (name, shape) in zip((q, k, v), SHAPES.items(), strict=True):
        if fault := check_form(name, value, shape):
            faults.append(fault)
        else:
            usable[name] = value
    faults += check_kind(usable, DTYPES[backend], backend)
    faults += check_shapes(usable)
    faults += check_dims(usable, backend)
    if positions is None:
        return faults, usable
    offset, key_offset = positions
    if "q" in usable:
        faults += check_positions("offset", offset, usable["q"].shape[2])
    if "k" in usable and positions.moved:
        faults += check_positions("key_offset", key_offset, usable["k"].shape[2])
    for term in rings if "q" in usable and "k" in usable else ():
        try:
            check_square(term, offset + usable["q"].shape[2], key_offset + usable["k"].shape[2])
        except SizeError as e:
            faults.append(Fault("k", e.given, f"{e.expected} (in {e.where})"))
    return faults, usable


def check_form(name: str, value: object, shape: str) -> Fault | None:
    """The fault of something that is not an ordinary tensor of the rank of a shape; None when it is one."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided:
        return check_tensor(name, value, f"a torch.Tensor {shape}")
    rank = shape.partition("]")[0].count(",") + 1
    if value.dim() != rank:
        hint = f"{name}.unsqueeze(0) adds the batch" if value.dim() == 3 and rank == 4 else ""
        return Fault(name, f"shape {_shape(value)}", f"rank {rank}, {shape}", hint)
    return None


def check_tensor(name: str, value: object, expected: str) -> Fault | None:
    """The fault of something that is not an ordinary tensor."""
    if not isinstance(value, Tensor):
        return Fault(name, type(value).__name__, expected, tensor_hint(name, value))
    if value.is_nested:
        return Fault(name, "a nested tensor", "an ordinary (strided) tensor", f"{name}.to_padded_tensor(0.0)")
    if value.layout != torch.strided:
        return Fault(name, f"layout {value.layout}", "an ordinary (strided) tensor", f"{name}.to_dense()")
    return None


def check_kind(tensors: Mapping[str, Tensor], dtypes: Sequence[torch.dtype], backend: str) -> list[Fault]:
    """Faults of dtype and device: the first tensor sets what the others must have."""
    faults: list[Fault] = []
    first = next(iter(tensors), "")
    for name, tensor in tensors.items():
        judge = tensors[first]
        if name == first and tensor.dtype not in dtypes:
            wide = tensor.dtype == torch.float64
            hint = f'{name}.float(), or compile(..., backend="torch")' if wide else f"{name}.float()"
            expected = f"one of {', '.join(map(_dtype, dtypes))} (backend {backend!r})"
            faults.append(Fault(name, f"dtype {_dtype(tensor.dtype)}", expected, hint))
        if tensor.dtype != judge.dtype:
            got, expected = f"dtype {_dtype(tensor.dtype)}", f"{_dtype(judge.dtype)}, the dtype of {first}"
            faults.append(Fault(name, got, expected, f"{name}.to({first}.dtype)"))
        if tensor.device != judge.device:
            got, expected = f"device {tensor.device}", f"{judge.device}, the device of {first}"
            faults.append(Fault(name, got, expected, f"{name}.to({first}.device)"))
    return faults


def check_shapes(tensors: Mapping[str, Tensor]) -> list[Fault]:
    """Faults of sizes that two tensors should share. Sizes are compared pair by pair, whichever pairs there are."""
    faults: list[Fault] = []
    first = "q" if "q" in tensors else "k"
    pairs = [("q", "k", 0, "batch"), (first, "v", 0, "batch"), ("q", "k", 3, "head_dim")]
    for a, b, axis, what in (*pairs, ("k", "v", 1, "kv_heads"), ("k", "v", 2, "keys")):
        if a in tensors and b in tensors and tensors[a].shape[axis] != tensors[b].shape[axis]:
            got = f"{what} {tensors[b].shape[axis]} in shape {_shape(tensors[b])}"
            faults.append(Fault(b, got, f"{tensors[a].shape[axis]}, as in {a} {_shape(tensors[a])}"))
    shared = "k" if "k" in tensors else "v"
    if "q" in tensors and shared in tensors:
        heads, kv_heads = tensors["q"].shape[1], tensors[shared].shape[1]
        if (kv_heads == 0 and heads != 0) or (kv_heads != 0 and heads % kv_heads != 0):
            got = f"{heads} heads with {kv_heads} kv_heads"
            hint = "q and k are [batch, heads, tokens, dim]: is `transpose(1, 2)` missing?"
            faults.append(Fault("q", got, f"heads a multiple of {shared}'s kv_heads", hint))
    return faults


def check_dims(tensors: Mapping[str, Tensor], backend: str) -> list[Fault]:
    """Faults of the head dimension (of q and k) and of the value dimension."""
    faults = []
    for name, what in (("q", "head_dim"), ("v", "value_dim")):
        if name not in tensors or head_dim_fits(size := tensors[name].shape[3], backend):
            continue
        if backend == "triton":
            expected = f"a multiple of 8 from 8 to {LARGEST_HEAD_DIM} (backend 'triton')"
            hint = 'pad with zeros (and pass scale=), or compile(..., backend="torch")'
            faults.append(Fault(name, f"{what} {size}", expected, hint if size else ""))
        else:
            faults.append(Fault(name, f"{what} {size}", "at least 1"))
    return faults


def head_dim_fits(size: int, backend: str) -> bool:
    """Whether programs of this backend take rows of `size` elements."""
    return size >= 1 and (backend != "triton" or (size % 8 == 0 and size <= LARGEST_HEAD_DIM))


def check_weights(tensors: Mapping[str, Tensor], weights: Any, names: Sequence[str]) -> list[Fault]:
    """Faults of the weights of branches: [B, Hq, n, branches], of q's dtype and device; nothing is broadcast."""
    shape = f"[batch, heads, queries, {len(names)}] (branches {', '.join(names)})"
    if fault := check_form("weights", weights, shape):
        return [fault]
    if "q" not in tensors:
        return []
    q = tensors["q"]
    faults = check_kind({"q": q, "weights": weights}, (q.dtype,), "")
    want = (*q.shape[:3], len(names))
    if tuple(weights.shape) != want:
        expected = f"{list(want)}: [batch, heads, queries] of q, and branches {', '.join(names)}"
        faults.append(Fault("weights", f"shape {_shape(weights)}", expected, f"weights.expand({list(want)})"))
    return faults


def check_parameters(
    score: Score | None, wanted: Collection[str], tensors: Mapping[str, Tensor], given: Mapping[str, Any]
) -> list[Fault]:
    """Faults of the parameters of a call: missing, superfluous, or of another shape, dtype or device than asked for.

    Args:
        score: what the kernel was compiled with.
        wanted: its parameters; torch would fix the numbers of a score in a graph that it traces if they were asked.
        tensors: the usable ones of q, k, v.
        given: by name, others too; None is nothing.
    """
    faults = []
    for name in PARTS:
        value = given.get(name)
        if value is None:
            if name in wanted:
                expected = f"{_wanted(name, score)}, for {score!r}"
                faults.append(Fault(name, "nothing", expected, f"kernel(..., {name}=...)"))
        elif name not in wanted:
            expected = "a kernel without a score" if score is None else f"nothing: the kernel has {score!r}"
            faults.append(Fault(name, "a value", expected, f"pidsl.compile(term, score=pidsl.score({PARTS[name]}))"))
        elif name == "seed":
            if isinstance(value, bool) or not isinstance(value, int | torch.SymInt) or not 0 <= value < 2**63:
                faults.append(Fault(name, f"{value!r} ({type(value).__name__})", "an integer, 0 <= seed < 2 ** 63"))
        else:
            q, table = tensors.get("q"), [score.table] if name == "bias" and score is not None else []
            shapes = [] if q is None else [[q.shape[1], *table]]
            faults += check_numbers(name, value, q, shapes, _wanted(name, score))
    return faults


def check_numbers(name: str, value: object, q: Tensor | None, shapes: list[list[int]], said: str) -> list[Fault]:
    """Faults of a tensor of floating numbers on q's device, of one of some shapes; `said`: these in words."""
    if fault := check_tensor(name, value, f"a torch.Tensor {said}"):
        return [fault]
    assert isinstance(value, Tensor)
    faults = []
    if not value.is_floating_point():
        faults.append(Fault(name, f"dtype {_dtype(value.dtype)}", "a floating dtype", f"{name}.float()"))
    if q is not None and value.device != q.device:
        faults.append(Fault(name, f"device {value.device}", f"{q.device}, the device of q", f"{name}.to(q.device)"))
    if q is not None and all(list(value.shape) != x for x in shapes):  # torch traces no `in` of lists
        faults.append(Fault(name, f"shape {list(value.shape)}", f"{' or '.join(map(str, shapes))}: {said}"))
    return faults


def _wanted(name: str, score: Score | None) -> str:
    if name == "seed":
        return "an integer"
    return f"[heads, {score.table}]" if name == "bias" and score is not None else "[heads]"


def check_scale(scale: Any) -> tuple[list[Fault], Any]:
    """`scale` as a float, or a symbol of torch's (None: not given), and its faults."""
    if scale is None:
        return [], None
    if not isinstance(scale, Real | torch.SymFloat | torch.SymInt) or isinstance(scale, bool):
        hint = _LEARNED_SCALE if isinstance(scale, Tensor) else ""
        return [Fault("scale", f"{type(scale).__name__}", "a finite number, or None for 1 / sqrt(head_dim)", hint)], 1.0
    try:
        value = float(scale) if isinstance(scale, Real) else scale  # a symbol stays one: float() would fix its value
    except OverflowError:
        value = math.inf
    if not -math.inf < value < math.inf:
        return [Fault("scale", f"{value}", "a finite number, or None for 1 / sqrt(head_dim)")], 1.0
    return [], value


def check_position(name: str, value: Any) -> tuple[list[Fault], Any]:
    """`offset` or `key_offset` as an int, or a symbol of torch's, and its faults."""
    if type(value) is int and 0 <= value < POSITIONS:
        return [], value
    faults, found = _whole(name, value)
    faults = faults or check_positions(name, found, 0)
    return faults, 0 if faults else found


def check_length(name: str, value: Any) -> tuple[list[Fault], Any]:
    """`lengths` or `key_lengths`, of all batch entries, as an int, or a symbol of torch's, and its faults."""
    faults, found = _whole(name, value)
    if not faults and _certain(found < 0):
        faults = [Fault(name, f"{found}", "an integer >= 0, or integers [batch]")]
    return faults, 0 if faults else found


def _whole(name: str, value: Any) -> tuple[list[Fault], Any]:
    if isinstance(value, int | torch.SymInt) and not isinstance(value, bool):
        return [], value  # a symbol stays one: index() would fix its value
    try:
        return [], operator.index(None if isinstance(value, bool | Tensor) else value)  # type: ignore[arg-type]
    except TypeError:
        got = repr(value)
        got = type(value).__name__ if len(got) > 40 else f"{got} ({type(value).__name__})"
        return [Fault(name, got, "an integer >= 0, or integers [batch]", tensor_hint(name, value))], 0


_BEFORE = {
    "offset": "no offset, and term.shift({by}) for a pattern of lags such as window or causal: {by} queries stand "
    "before the first key",
    "key_offset": "no key_offset, and an offset of {by} more for a pattern of lags such as window or causal: only how "
    "far queries and keys are apart matters to it",
}


def check_positions(name: str, first: int, rows: int) -> list[Fault]:
    """Faults of an offset that is a number. What torch does not know while it traces, an op asks when it runs."""
    if not torch.compiler.is_compiling() and 0 <= first < POSITIONS - rows:
        return []
    of = "query" if name == "offset" else "key"
    if _certain(first < 0):
        expected = f"an integer >= 0: the position of the first {of}"
        return [Fault(name, f"{first}", expected, _BEFORE[name].format(by=-first))]
    if _certain(first + rows >= POSITIONS):
        plural = "queries" if name == "offset" else "keys"
        return [Fault(name, f"{first} with {rows} {plural}", f"{name} + {plural} < {POSITIONS}")]
    return []


def _certain(condition: Any) -> bool:
    """Whether a condition on the numbers of a call holds; False where they are data that torch has not seen yet."""
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(condition)


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tensor_hint(name: str, value: object) -> str:
    """What makes a tensor of an array or a list."""
    return f"torch.as_tensor({name})" if hasattr(value, "__array__") or isinstance(value, list) else ""
