"""`Cache`: the keys that a pattern can still ask for, and no others."""

from __future__ import annotations

from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pidsl.errors import ArgumentError
from pidsl.language.door import behind
from pidsl.language.terms import Term
from pidsl.relation.lives import LivesProof, proved_lives
from pidsl.relation.slots import SlotProof, slots
from pidsl.runtime.cache.checks import check_each, check_new, check_pages, check_size, check_within
from pidsl.runtime.cache.layers import LayerCaches
from pidsl.runtime.cache.pages import PageStore
from pidsl.runtime.cache.patterns import patterns_of
from pidsl.runtime.cache.slots import SlotStore
from pidsl.runtime.cache.store import Form, Store, Times
from pidsl.runtime.call.arguments import POSITIONS, WIDE, Fault, raise_faults
from pidsl.runtime.call.ragged import checked
from pidsl.runtime.call.segments import Pages, Slots
from pidsl.runtime.kernels.kernel import Kernel
from pidsl.runtime.kernels.layers import LayerKernels

if TYPE_CHECKING:
    from pidsl.analysis.bound import Bound


class Cache:
    """Keys and values that a kernel's pattern can still ask for, at their true positions.

        cache.append(k, v)              # the keys of new tokens
        out = kernel.decode(q, cache)   # the rows of the last tokens

    A key is kept from when it is appended until no later row can attend it, in a sequence of whatever length. Each
    lies in a slot that is a closed function of its position, of which isl proves for all times that no two live keys
    share one (`proof`); with `page_size`, in a page that is given back when none of its keys is live. Where nothing is
    proved, all keys are kept; `explain()` says what holds.

    >>> import pidsl, torch
    >>> kernel = pidsl.compile(pidsl.window(3) | pidsl.keys(0, 1) & pidsl.causal, backend="torch")
    >>> cache = pidsl.Cache(kernel, batch=1, kv_heads=2, head_dim=8, dtype=torch.float32, device="cpu")
    >>> for _ in range(10):
    ...     cache.append(torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8))
    >>> cache.positions
    tensor([[0, 9, 6, 7, 8]], dtype=torch.int32)
    >>> cache.proof.check()
    True

    Args:
        kernel: what will ask: its pattern, the branches of its gate, or the patterns of all its heads. For the kernels
            of layers the result is a sequence of caches, one for each layer: `LayerCaches`.
        batch: sequences, each of which has its own length.
        kv_heads: key heads.
        head_dim: of k.
        dtype, device: of k and v.
        max_tokens: tokens that there will be at most, for buffers that never move: a step that is traced or captured
            once serves all later ones. None: the buffers grow.
        lookahead: by how many tokens rows may lie behind the last token: `decode` takes the last `lookahead + 1` tokens
            and `crop` goes back by as many as `lookahead`, together.
        page_size: keys of a page; None: slots.
        value_dim: of v; default: head_dim.
        layout: of pages, [pages, 2, page, Hkv, D] ("NHD") or [pages, 2, Hkv, page, D] ("HND").

    Attributes:
        beside: what a selector keeps of the tokens so far, or None; it is reordered with the cache, and forgotten where
            tokens are.

    Raises:
        ArgumentError: an argument is not what is said here.
    """

    def __new__(cls, kernel: Kernel | LayerKernels | None = None, *args: Any, **options: Any) -> Any:
        """`LayerCaches` for the kernels of layers; without any, what `copy` fills."""
        if isinstance(kernel, LayerKernels):
            return LayerCaches([cls(own, *args, **options) for own in kernel])
        return object.__new__(cls)

    def __init__(
        self, kernel: Kernel | LayerKernels, batch: int, kv_heads: int, head_dim: int, dtype: torch.dtype,
        device: torch.device | str, max_tokens: int | None = None, lookahead: int = 0, page_size: int | None = None,
        value_dim: int | None = None, layout: Literal["NHD", "HND"] = "NHD",
    ) -> None:  # fmt: skip
        sizes = {"batch": batch, "kv_heads": kv_heads, "head_dim": head_dim}
        given = {"max_tokens": max_tokens, "page_size": page_size, "value_dim": value_dim}
        sizes |= {name: value for name, value in given.items() if value is not None}
        faults = [fault for name, value in sizes.items() for fault in check_size(name, value, 1)]
        faults += check_size("lookahead", lookahead, 0)
        if dtype not in WIDE:
            faults.append(Fault("dtype", f"{dtype}", "float32, float16, bfloat16 or float64"))
        if layout not in ("NHD", "HND"):
            faults.append(Fault("layout", f"{layout!r}", "'NHD' or 'HND'"))
        if page_size is not None and value_dim not in (None, head_dim):
            faults.append(Fault("value_dim", f"{value_dim}", f"{head_dim}, the head_dim: k and v share the pages"))
        raise_faults(faults, f"pidsl.Cache({kernel!r}, ...)")
        self.terms, self.lookahead, self.max_tokens = patterns_of(kernel), lookahead, max_tokens
        device = torch.empty(0, device=device).device  # with its index
        self.form = Form(batch, kv_heads, head_dim, value_dim or head_dim, dtype, device)
        self.page_size = page_size
        self.store: Store
        if page_size is None:
            self.store = SlotStore(slots(self.terms, lookahead, max_tokens), self.form, max_tokens)
        else:
            self.store = PageStore(self.terms, lookahead, self.form, page_size, layout, max_tokens)
        self.tokens = torch.zeros(batch, dtype=torch.int32, device=device)
        self._furthest = torch.zeros(batch, dtype=torch.int32, device=device)
        self._most, self._fewer = 0, False
        self.beside: Any = None

    # -- what a kernel asks

    @property
    def keys(self) -> Tensor:
        """[B, Hkv, slots, D], or [pages, Hkv, page, D], as programs take them with `keys_at`."""
        return self.store.keys

    @property
    def values(self) -> Tensor:
        """Like `keys`, Dv wide."""
        return self.store.values

    @property
    def keys_at(self) -> Slots | Pages:
        """Where the key of each position lies in `keys`."""
        return self.store.keys_at

    @property
    def most(self) -> int:
        """No batch entry has more tokens than that: `max_tokens`, or what was appended so far."""
        return self._most if self.max_tokens is None else self.max_tokens

    def check_rows(self, rows: int) -> list[Fault]:
        """The fault of a step with so many rows, after a crop: some may stand where keys are gone that they need."""
        if rows == 1 or not checked(self.form.device):  # the last row is kept wherever a crop may go
            return []
        first, kept = (self.tokens - rows).clamp(min=0), (self._furthest - 1 - self.lookahead).clamp(min=0)
        said = "positions of rows whose keys are kept, after a crop"
        return check_within("the first query", first, kept, self.tokens, said)

    def serves(self, kernel: Kernel) -> bool:
        """Whether the cache keeps all keys that `kernel` can ask for: it was made for its patterns."""
        try:
            return set(patterns_of(kernel)) <= set(self.terms)
        except ArgumentError:
            return False

    # -- what changes it

    def append(self, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> None:
        """Add the keys and values of t tokens behind those that there are; those that no row will ask for are not kept.

        Args:
            k: [B, Hkv, t, D].
            v: [B, Hkv, t, Dv].
            lengths: int [B], how many of the t are real, from the first on; default: all.

        Raises:
            ArgumentError: shapes, dtypes, devices or lengths do not fit, or there would be more than `max_tokens`;
                nothing was written.
        """
        self.check_append(k, v, lengths)
        new = k.shape[2]
        step = torch.arange(new, device=self.form.device)[None]
        counts = torch.full_like(self.tokens, new) if lengths is None else lengths.to(torch.int32)
        if self.max_tokens is None:
            self._fewer |= lengths is not None
            self._most += new
            if self._fewer and not self.store.fits(self._most):  # as many as that? this waits for the device, seldom
                self._most = int((self.tokens + counts).max())
            self.store.grow(self._most)
        at = self.tokens[:, None].to(torch.int64) + step
        self.tokens.add_(counts)
        self._furthest.copy_(torch.maximum(self._furthest, self.tokens))
        self.store.write(k.detach(), v.detach(), at, step < counts[:, None], self._times())

    def check_append(self, k: Tensor, v: Tensor, lengths: Tensor | None) -> None:
        """Raise what `append` raises."""
        faults = check_new(k, v, self.form)
        if lengths is not None:
            faults += check_each("lengths", lengths, self.form, "how many of the new tokens are real")
        if not faults and checked(self.form.device):
            faults += self._too_many(k.shape[2], lengths)
        self._raise(faults, "append(k, v)")

    def _too_many(self, new: int, lengths: Tensor | None) -> list[Fault]:
        faults = [] if lengths is None else check_within("lengths", lengths, 0, new, "of the new tokens")
        if self.max_tokens is not None and not faults:
            after = self.tokens + (new if lengths is None else lengths)
            said, hint = f"max_tokens = {self.max_tokens}", "pidsl.Cache(...) without max_tokens: it grows"
            faults += check_within("tokens", after, 0, self.max_tokens, said, hint)
        return faults

    def crop(self, tokens: int | Tensor) -> None:
        """Go back to `tokens` tokens, of all batch entries or of each, and forget the later ones.

        Never further than `lookahead` tokens behind the most that there were: keys that older rows need are gone.

        Args:
            tokens: an integer, or int [B].

        Raises:
            ArgumentError: further back, or more tokens than there are; nothing has changed.
        """
        left = self.check_crop(tokens)
        self.tokens.copy_(left)
        if self.max_tokens is None:
            self._fewer = True
            self._most = self._most if isinstance(tokens, Tensor) else tokens
        self.store.forget(self._times())
        self.beside = None

    def check_crop(self, tokens: int | Tensor) -> Tensor:
        """Raise what `crop` raises; else the tokens that are left, int [B]."""
        if isinstance(tokens, Tensor):
            faults = check_each("tokens", tokens, self.form, "how many tokens are left")
        else:
            faults = check_size("tokens", tokens, 0)
        self._raise(faults, "crop(tokens)")
        left = tokens if isinstance(tokens, Tensor) else torch.full_like(self.tokens, tokens)
        if checked(self.form.device):
            back = (self._furthest - self.lookahead).clamp(min=0)
            said = f"at most lookahead = {self.lookahead} tokens behind the most that there were, and no more than now"
            hint = "pidsl.Cache(..., lookahead=...), of as many tokens as are taken back"
            self._raise(check_within("tokens", left, back, self.tokens, said, hint), "crop(tokens)")
        return left

    def reorder(self, indices: Tensor) -> None:
        """Make batch entry b what `indices[b]` is, for the beams of a search.

        Args:
            indices: int [B], of batch entries.

        Raises:
            ArgumentError: not such a tensor.
        """
        self._raise(check_each("indices", indices, self.form, "batch entries"), "reorder(indices)")
        if checked(self.form.device):
            faults = check_within("indices", indices, 0, self.form.batch - 1, "batch entries")
            self._raise(faults, "reorder(indices)")
        for held in (self.tokens, self._furthest):
            held.copy_(held.index_select(0, indices))
        self.store.reorder(indices)
        if self.beside is not None:
            self.beside = self.beside.reordered(indices)

    def clear(self) -> None:
        """Forget all tokens."""
        self.tokens.zero_()
        self._furthest.zero_()
        self._most, self._fewer = 0, False
        self.store.clear()
        self.beside = None

    def load(self, pool: Tensor, table: Tensor, tokens: Tensor) -> None:
        """Begin with the pages of another cache, of which those with a live key are copied; the cache must have pages.

        Args:
            pool: [pages, 2, page, Hkv, D] or [pages, 2, Hkv, page, D], as the layout of the cache is.
            table: int32 [B, pages of a sequence], the page of the positions from `page_size * column` on, -1 for none.
                Entries may share pages.
            tokens: int [B], how many there are.

        Raises:
            ArgumentError: shapes, dtypes or devices do not fit, a page out of range, or one that is missing with a key
                that rows may ask for; nothing was written.
        """
        call = "load(pool, table, tokens)"
        if not isinstance(self.store, PageStore):
            hint = "pidsl.Cache(..., page_size=...), or append(k, v), which takes those of resume(tokens) alone"
            raise ArgumentError("a cache without pages", "one with page_size", self._call(call), hint)
        faults = check_pages(pool, table, self.store.pool.shape[1:], self.form)
        faults += check_each("tokens", tokens, self.form, "tokens that there are")
        self._raise(faults, call)
        most = int(tokens.max())
        self._raise(check_within("tokens", tokens, 0, self.max_tokens or POSITIONS, "tokens that there may be"), call)
        times = Times(tokens.long(), tokens.long() - 1 - self.lookahead)
        self._raise(self.store.check_load(pool, table, times, most), call)
        self.clear()
        self._most = most
        self.store.grow(most)
        for held in (self.tokens, self._furthest):
            held.copy_(tokens)
        self.store.load(pool, table, times)

    def _call(self, call: str) -> str:
        return f"cache.{call} of {self!r}"

    def _raise(self, faults: list[Fault], call: str) -> None:
        if faults:  # saying whose takes time
            raise_faults(faults, self._call(call))

    def _times(self) -> Times:
        tokens, furthest = self.tokens.to(torch.int64), self._furthest.to(torch.int64)
        return Times(tokens, furthest - 1 - self.lookahead)

    # -- what one may know

    @property
    def positions(self) -> Tensor:
        """int32 [B, slots]: the position of the key in each row of `keys` (of pages: by position), -1 for none."""
        return self.store.positions(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.store.nbytes

    @property
    def proof(self) -> LivesProof | SlotProof:
        """That no two live keys share a slot and none is lost; `proof.check()` decides it again, from the numbers."""
        return self.store.proof

    def resume(self, tokens: int) -> Tensor:
        """The positions that must be held to go on after `tokens` tokens: what a prefix found elsewhere has to have.

        Returns:
            int64 [keys], ascending, on the CPU.
        """
        self._raise(check_size("tokens", tokens, 0), "resume(tokens)")
        at = torch.arange(tokens)
        ends = torch.from_numpy(proved_lives(self.terms).at(at.numpy())) + at
        return at[ends >= tokens - 1 - self.lookahead]

    @cached_property
    def union(self) -> Term:
        """All pairs that any of its patterns attends."""
        return reduce(lambda a, b: a | b, self.terms)

    @cached_property
    def bound(self) -> Bound:
        """The number of live keys of a batch entry when the tokens 0 .. t are appended: a formula in t, with its proof.

        Live is what rows from `t - lookahead` on may ask for, in a sequence of any length; `bound(t=...)` is a number.
        """
        return self.union.live(lookahead=self.lookahead)

    @cached_property
    def bytes_bound(self) -> Bound:
        """The bytes of the live keys and values of all batch entries, a formula in t."""
        f = self.form
        sizes = {"head_dim": f.head_dim, "value_dim": f.value_dim, "kv_heads": f.heads, "batch": f.batch}
        return behind("kv bytes")(self.union, self.lookahead, dtype=str(f.dtype).removeprefix("torch."), **sizes)

    @cached_property
    def pages_bound(self) -> Bound:
        """The number of pages of a batch entry that hold a live key, a formula in t.

        Raises:
            ArgumentError: the cache has no pages.
        """
        if self.page_size is None:
            hint = "pidsl.Cache(..., page_size=16)"
            raise ArgumentError("a cache without pages", "one with page_size", self._call("pages_bound"), hint)
        return self.union.live(lookahead=self.lookahead, page=self.page_size)

    def explain(self) -> str:
        """What is kept, where, and what is proved, as text of several lines."""
        return f"{self!r}\n{self.store.explain()}"

    def __repr__(self) -> str:
        f = self.form
        more = "" if self.max_tokens is None else f", max_tokens={self.max_tokens}"
        more += f", lookahead={self.lookahead}" if self.lookahead else ""
        more += "" if self.page_size is None else f", page_size={self.page_size}"
        shown = ", ".join(map(repr, self.terms))
        return f"Cache({shown}, batch={f.batch}, kv_heads={f.heads}, head_dim={f.head_dim}{more}; {self.store.kept})"
