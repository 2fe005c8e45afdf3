"""A store of pages of consecutive positions: a pool `[pages, 2, page, Hkv, D]` or `[pages, 2, Hkv, page, D]`, a table.

A page is held while one of its keys is live, be it the first one or one in the middle of the sequence; then it is given
back, and the next page that is needed takes its place. Which pages are held follows from the lives of keys: all is
computed on the device, from the tables of lives, the tokens and the table of pages.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pidsl.language.terms import Term
from pidsl.relation.lives import LivesProof, proved_lives
from pidsl.relation.pieces import Ints
from pidsl.runtime.cache.checks import check_table
from pidsl.runtime.cache.store import Form, LivesOnDevice, Times
from pidsl.runtime.call.arguments import Fault
from pidsl.runtime.call.segments import Pages

AHEAD = 256  # tokens for which pools and tables grow at once


class PageStore:
    """Pages of all batch entries in one pool. One more page than there are takes what is not kept.

    Args:
        terms: the patterns that ask for keys.
        lookahead: by how many tokens rows may lie behind the last one.
        form: what is held for each key.
        size: keys of a page.
        layout: "NHD" or "HND".
        tokens: how many there will be at most; None: it grows.
    """

    def __init__(
        self, terms: tuple[Term, ...], lookahead: int, form: Form, size: int, layout: str, tokens: int | None
    ) -> None:  # fmt: skip
        self.terms, self.lives, self.lookahead = terms, proved_lives(terms), lookahead
        self.form, self.size, self.layout = form, size, layout
        self._lives, self._tokens = LivesOnDevice(self.lives, form.device), -1
        self.fixed = False
        self.table = torch.full((form.batch, 0), -1, dtype=torch.int32, device=form.device)
        self.used = torch.zeros(1, dtype=torch.bool, device=form.device)  # pages of the pool, the last for nothing
        self._ends = torch.zeros(0, dtype=torch.int64, device=form.device)  # the last row that asks for a page
        self._pool = self._empty(0)
        self.grow(tokens or 0)
        self.fixed = tokens is not None

    def _empty(self, pages: int) -> Tensor:
        f = self.form
        inner = (self.size, f.heads) if self.layout == "NHD" else (f.heads, self.size)
        return torch.zeros(pages + 1, 2, *inner, f.head_dim, dtype=f.dtype, device=f.device)

    @property
    def pages(self) -> int:
        """Of the pool."""
        return self._pool.shape[0] - 1

    @property
    def pool(self) -> Tensor:
        """[pages, 2, page, Hkv, D] or [pages, 2, Hkv, page, D]."""
        return self._pool[: self.pages]

    def _part(self, which: int) -> Tensor:
        """Keys (0) or values (1) of all pages and the one for nothing, [pages + 1, Hkv, page, D]."""
        part = self._pool[:, which]
        return part.transpose(1, 2) if self.layout == "NHD" else part

    @property
    def keys(self) -> Tensor:
        """[pages, Hkv, page, D]."""
        return self._part(0)[: self.pages]

    @property
    def values(self) -> Tensor:
        """[pages, Hkv, page, D]."""
        return self._part(1)[: self.pages]

    @property
    def keys_at(self) -> Pages:
        return Pages(self.table, self.size)

    @property
    def in_use(self) -> Tensor:
        """How many pages each batch entry holds, int64 [B]."""
        return (self.table >= 0).sum(1)

    def positions(self, tokens: Tensor) -> Tensor:
        at = torch.arange(self.table.shape[1] * self.size, dtype=torch.int32, device=self.form.device)
        held = (self.table >= 0).repeat_interleave(self.size, 1)
        return torch.where(held & (at < tokens[:, None]), at, -1)

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self._pool, self.table, self.used, self._ends))

    @property
    def proof(self) -> LivesProof:
        """That no row asks for a key of a page that was given back."""
        return LivesProof(self.terms, self.lives)

    def fits(self, tokens: int) -> bool:
        return self.fixed or tokens <= self._tokens

    def grow(self, tokens: int) -> None:
        if self.fits(tokens):
            return
        self._tokens = tokens if self._tokens < 0 else -(-tokens // AHEAD) * AHEAD
        device, count = self.form.device, -(-self._tokens // self.size)
        ends = self._ends_of(count)
        self._ends = torch.from_numpy(ends).to(device)
        wider = torch.full((self.form.batch, count), -1, dtype=torch.int32, device=device)
        wider[:, : self.table.shape[1]] = self.table
        self.table = wider
        old, held = self._pool, self.pages
        pages = self.form.batch * most_pages(ends, self.size, self.lookahead, self._tokens)
        if pages > held:
            self._pool = self._empty(pages)
            self._pool[:held] = old[:held]
            self.used = torch.cat([self.used[:held], self.used.new_zeros(pages + 1 - held)])

    def _ends_of(self, count: int) -> Ints:
        """The last row that asks for each of the first pages."""
        at = np.arange(count * self.size)
        return (at + self.lives.at(at)).reshape(count, self.size).max(1)

    def _wanted(self, times: Times, ends: Tensor) -> Tensor:
        """The pages with a live key, bool [B, P], given the last row that asks for each."""
        page = torch.arange(len(ends), device=self.form.device)
        tokens, row = times.tokens[:, None], times.row[:, None]
        wanted = ((page + 1) * self.size <= tokens) & (ends >= row)
        last = times.tokens // self.size  # begun, not full: only the keys that are there count
        at = last[:, None] * self.size + torch.arange(self.size, device=self.form.device)
        begun = ((at < tokens) & (self._lives.ends(at) >= row)).any(1)
        return wanted | ((page == last[:, None]) & begun[:, None])

    def _settle(self, times: Times) -> None:
        """Give back the pages that nobody asks for any more, and take those that are new."""
        wanted, held = self._wanted(times, self._ends), self.table >= 0
        table = self.table.to(torch.int64)
        self.used[torch.where(held & ~wanted, table, self.pages)] = False
        new = wanted & ~held
        free = self.used[: self.pages].to(torch.uint8).argsort(stable=True)
        number = new.flatten().cumsum(0).view(new.shape) - 1
        taken = free[number.clamp(0, max(self.pages - 1, 0))] if self.pages else table
        self.used[torch.where(new, taken, self.pages)] = True
        self.used[self.pages] = False
        self.table.copy_(torch.where(new, taken, torch.where(wanted, table, -1)))

    def write(self, k: Tensor, v: Tensor, at: Tensor, real: Tensor, times: Times) -> None:
        self._settle(times)
        if not self.table.shape[1]:
            return
        page = self.table.gather(1, (at // self.size).clamp(max=self.table.shape[1] - 1)).to(torch.int64)
        page = torch.where(real & (page >= 0), page, self.pages)
        for which, given in enumerate((k, v)):
            self._part(which)[page, :, at % self.size] = given.transpose(1, 2)

    def forget(self, times: Times) -> None:
        self._settle(times)

    def reorder(self, entries: Tensor) -> None:
        """The pages of all batch entries in order, one after the other."""
        source = self.table.index_select(0, entries).to(torch.int64)
        held = source >= 0
        number = held.flatten().cumsum(0).view(held.shape) - 1
        copied = torch.full_like(self.used, self.pages, dtype=torch.int64)
        copied[torch.where(held, number, self.pages)] = source.clamp(min=0)
        self._pool.copy_(self._pool.index_select(0, copied))
        self.used.copy_(torch.arange(self.pages + 1, device=self.form.device) < held.sum())
        self.table.copy_(torch.where(held, number, -1))

    def check_load(self, pool: Tensor, table: Tensor, times: Times, most: int) -> list[Fault]:
        """Faults of the values of a table: pages that the pool does not have, or that are missing."""
        faults = check_table(table, pool.shape[0])
        columns = -(-most // self.size)
        if columns > table.shape[1]:
            got = f"{table.shape[1]} pages of a sequence"
            return [*faults, Fault("table", got, f"at least {columns}, for {most} tokens")]
        wanted = self._wanted(times, torch.from_numpy(self._ends_of(columns)).to(self.form.device))
        missing = wanted & (table[:, :columns] < 0)
        if not faults and bool(missing.any()):
            entry, page = missing.nonzero()[0].tolist()
            expected = (
                f"a page for positions {page * self.size} .. {(page + 1) * self.size - 1}, of which some are live"
            )
            hint = "the pages of the positions of cache.resume(tokens)"
            faults.append(Fault("table", f"-1 for page {page} of batch entry {entry}", expected, hint))
        return faults

    def load(self, pool: Tensor, table: Tensor, times: Times) -> None:
        """Take the live pages of another pool, in an empty store."""
        self._settle(times)
        entry, page = (self.table >= 0).nonzero(as_tuple=True)
        self._pool[self.table[entry, page].long()] = pool[table[entry, page].long()]

    def clear(self) -> None:
        self.table.fill_(-1)
        self.used.fill_(False)

    @property
    def kept(self) -> str:
        """What is kept, in a line."""
        return f"pages of {self.size} keys"

    def explain(self) -> str:
        lines = [f"a page of {self.size} keys is held while one of them may be asked for, and then given back"]
        lines.append(f"a pool of {self.pages} pages, {self.layout}")
        return "\n".join([*lines, f"proof: {self.proof.summary}"])


def most_pages(ends: Ints, size: int, lookahead: int, tokens: int) -> int:
    """The most pages that a sequence of up to so many tokens needs at a time.

    Args:
        ends: the last row that asks for each page.
        size: keys of a page.
        lookahead: by how many tokens rows may lie behind the last one.
        tokens: the most.
    """
    first = np.arange(len(ends)) * size + 1  # tokens from which on a page is begun
    last = np.minimum(ends + 1 + lookahead, tokens)  # and up to which a key of it is live
    real = last >= first
    change = np.zeros(tokens + 2, dtype=np.int64)
    np.add.at(change, first[real], 1)
    np.add.at(change, last[real] + 1, -1)
    return int(change.cumsum().max(initial=0))
