"""What the mask function hands to the layers: a pattern, and where the rows and keys of a call stand.

It has a number or two for each batch entry, and never an entry for each pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

import pidsl
from pidsl.hf.padding import Run, block_ids, runs_of
from pidsl.hf.read import Mask, check_reading, read
from pidsl.hf.refused import UnsupportedError, refuse
from pidsl.language.terms import Term
from pidsl.runtime.call.arguments import WIDE


class Described:
    """A mask, described.

    Args:
        term: the pattern, on positions that count from the first token of each batch entry.
        sizes: queries, keys.
        first: the positions of the first query and of the first key in the cache, padding included.
        runs: of real tokens; more than one where padding lies between them.
        documents: ids of packed documents, [B, n]; None: each entry is one.
        by_lag: the pattern is the same wherever positions count from.
        is_full: it is every pair.
        blocks: an id for each token, [B, n], those of a block having the same one, and the pattern of what they see of
            one another besides.
    """

    ndim = 4  # where generate() makes masks ahead, models are handed them as attention_mask, and ask for that

    def __init__(
        self, term: Term, sizes: tuple[int, int], first: tuple[Any, int], runs: tuple[Run, ...],
        documents: Tensor | None, by_lag: bool, is_full: bool,
        blocks: tuple[Tensor, Term] | None = None,
    ) -> None:  # fmt: skip
        self.term, self.by_lag, self.is_full = term, by_lag, is_full
        self.n, self.m = sizes
        self.row, self.key = first
        self.runs, self.documents, self.blocks = runs, documents, blocks

    @property
    def left(self) -> Tensor | None:
        """int [B], tokens of padding on the left; None: none."""
        return self.runs[0].left

    @property
    def stop(self) -> Tensor | None:
        """int [B], the position behind the last token before padding; None: there is no padding behind."""
        return self.runs[0].stop

    def calls(self, is_full: bool, by_lag: bool) -> list[dict[str, Any]]:
        """The arguments of a kernel's calls that say where rows and keys stand, for a pattern of such a kind.

        There is a call for each run of keys, and their results are to be merged.
        """
        return [self._call(is_full, by_lag, *run) for run in self.runs]

    def _call(self, is_full: bool, by_lag: bool, left: Tensor | None, stop: Tensor | None) -> dict[str, Any]:
        if self.documents is not None:
            return {"documents": self.documents}
        found: dict[str, Any] = {}
        row, key = self.row, self.key
        if by_lag and key:  # no program is needed that knows where keys begin
            row, key, left = row - key, 0, None if left is None else (left - key).clamp(min=0)
        if left is None:
            found["offset"], found["key_offset"] = (0 if is_full else row), key
        else:
            found["offset"] = 0 if is_full else row - left  # rows of padding see what others see where all see all
            found["key_offset"] = key - left
        if stop is not None:
            found["key_lengths"] = (stop - self.key).clamp(0, self.m)
        return found

    def within(self, term: Term) -> Described:
        """The same call under both patterns; `term` is one of lags."""
        both = term if self.term == pidsl.causal and term <= pidsl.causal else self.term & term
        return Described(both, (self.n, self.m), (self.row, self.key), self.runs, self.documents, self.by_lag, False)

    def __repr__(self) -> str:
        padded = "".join(f", {x}" for x in ("left", "stop", "documents", "blocks") if getattr(self, x) is not None)
        padded += f", {len(self.runs)} runs" if len(self.runs) > 1 else ""
        return f"Described({self.term!r}, {self.n} queries, {self.m} keys{padded})"

    # -- models whose attention does not go through transformers' interface use a mask as a tensor

    def _refuse(self, name: str) -> NoReturn:
        raise _not_through(name)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise _not_through(getattr(function, "__name__", "an operation"))

    def __getitem__(self, place: Any) -> Described:
        """`mask[:, :, a:b, :]`, the mask of some of the queries (Gemma 4); other slices are refused."""
        match place:
            case (slice(start=None, stop=None), slice(start=None, stop=None), slice() as rows, *after) if (
                after in ([], [slice(None)])
                and self.documents is None
                and self.blocks is None
                and rows.step in (None, 1)
            ):
                start, stop, _ = rows.indices(self.n)
                first = self.row + start, self.key
                return Described(
                    self.term, (max(stop - start, 0), self.m), first, self.runs, None, self.by_lag, self.is_full
                )
        raise _not_through("a slice")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        raise _not_through(name)


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "invert", "and", "rand", "or", "ror"):
    setattr(Described, f"__{_name}__", lambda self, *other, name=_name: self._refuse(name))


def _not_through(what: str) -> Exception:
    given = (
        f"attention that takes its mask as a tensor ({what}): it does not go through transformers' attention interface"
    )
    return refuse(given, 'a model that runs with attn_implementation="sdpa" through that interface')


@torch.compiler.disable  # it reads what closures hold: torch runs it between two graphs
def described(
    batch_size: int, q_length: int, kv_length: int, q_offset: Any = 0, kv_offset: int = 0,
    mask_function: Mask | None = None, attention_mask: Tensor | None = None, device: Any = "cpu", **more: Any,
) -> Described:  # fmt: skip
    """The mask function that is registered with transformers: what `sdpa_mask` takes, to a description.

    Raises:
        UnsupportedError: the mask is none that pidsl has.
    """
    if isinstance(attention_mask, Described):  # made ahead by generate()
        return attention_mask
    assert mask_function is not None
    if isinstance(q_offset, Tensor):
        q_offset = q_offset.clone()  # a static cache counts on in the same tensor
    reading = read(mask_function)
    runs = runs_of(attention_mask, kv_offset + kv_length, ("causal", 0) in reading.parts)
    if len(runs) > 1 and not reading.is_full and not (reading.by_lag and ("causal", 0) in reading.parts):
        raise refuse_gaps(f"under {reading.term!r}")
    padded = any(x.left is not None for x in runs)
    if padded:
        _check_shift(reading.traced and not reading.by_lag, reading.is_full, attention_mask, q_offset, q_length)
    blocks = None
    if reading.blocks is not None:
        if len(runs) > 1 or reading.documents is not None or not reading.by_lag or int(q_offset) or kv_offset:
            raise refuse_blocks("with packed documents, gaps, chunks, or before which a cache has tokens")
        if not pidsl.window(0) <= reading.term:  # each token of none is a block of its own, which is not to see itself
            raise refuse_blocks("and a mask in which tokens do not see themselves")
        blocks = block_ids(reading.blocks[:, :q_length], attention_mask), reading.besides
    if reading.documents is not None and not reading.by_lag:
        _check_documents(reading.documents, reading.positions)
    kind = (reading.parts, reading.inside, reading.documents is None, padded)
    if reading.traced or blocks is not None or kind not in _CHECKED:
        first = int(q_offset), int(kv_offset)
        check_reading(mask_function, reading, (batch_size, q_length, kv_length), first, torch.device(device))
        _CHECKED.add(kind)
    return Described(
        reading.term, (q_length, kv_length), (q_offset, kv_offset), runs, reading.documents, reading.by_lag,
        reading.is_full, blocks,
    )  # fmt: skip


_CHECKED: set[Any] = set()  # kinds of masks whose reading was compared with the mask function


def refuse_gaps(what: str) -> UnsupportedError:
    """The error where padding lies between tokens, and positions count from the first one; to raise."""
    given = f"attention_mask with zeros between ones, {what}"
    hint = 'padding on one side: tokenizer.padding_side = "left" to generate'
    return refuse(given, "one run of ones in each entry, padding before or behind it", hint=hint)


def refuse_blocks(what: str) -> UnsupportedError:
    """The error where tokens of an image are to see one another and cannot; to raise."""
    return refuse(f"block_sequence_ids {what}", "a prompt as a whole, under the model's own pattern")


def _check_shift(traced: bool, is_full: bool, real: Tensor | None, q_offset: Any, q_length: int) -> None:
    if traced:
        given = "a mask function of positions in the padded batch, with padding on the left"
        raise refuse(given, "padding on the right for it")
    if real is not None and not is_full and int(q_offset) + q_length != real.shape[1]:
        given = f"queries up to position {int(q_offset) + q_length} and an attention_mask of {real.shape[1]} tokens"
        raise refuse(given, "queries that are the last tokens, where a pattern is not full and padding is on the left")


def _check_documents(ids: Tensor, positions: Tensor | None) -> None:
    if positions is None:
        return
    positions = positions.expand(*ids.shape)
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    if bool((positions[begins] != 0).any()):
        raise refuse("packed position_ids that do not start with 0", "positions from 0 on in each document")


def check_masked(mask: Any, module: Any) -> None:
    """Raise for a mask that is neither a description nor none.

    Raises:
        UnsupportedError: a tensor, or something else.
    """
    if isinstance(mask, Described) or mask is None:
        return
    if isinstance(mask, Tensor):
        kind = "bool" if mask.dtype == torch.bool else "additive" if mask.dtype in WIDE else str(mask.dtype)
        given = f"attention_mask: a tensor {list(mask.shape)} ({kind}), made by the caller or by the model itself"
        raise refuse(
            given, "an attention_mask [batch, tokens] of the model, or position_ids of packed documents", module
        )
    raise refuse(f"attention_mask: {type(mask).__name__}", "a mask of create_causal_mask and its like", module)


def sizes_differ(mask: Described, query: Sequence[int], key: Sequence[int]) -> str:
    """What of a description does not fit the tensors of a call, in words; empty where it fits."""
    if query[2] != mask.n:
        return f"{query[2]} queries, where the mask has {mask.n}"
    return f"{key[2]} keys, where the mask has {mask.m}" if key[2] != mask.m else ""
