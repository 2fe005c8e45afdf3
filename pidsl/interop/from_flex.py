"""`from_flex`: a mask of FlexAttention read as a pattern.

The mask is called once for each sequence and head with stand-ins (`traced`), what it computes becomes words of the
language (`recognised`) or, with tables, documents or cases (`tables`); then it is compared with the mask itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, and_masks, noop_mask

from pidsl.errors import PidslError, PredicateError, SizeError, TermError
from pidsl.interop.entries import of_entries, packed
from pidsl.interop.flex import Flex, attends_of
from pidsl.interop.imported import Imported, Pattern
from pidsl.interop.scores import Scoring, finite
from pidsl.interop.sequences import common, moved
from pidsl.interop.stand_ins import unsaid
from pidsl.interop.tables import by_cases, documents_of
from pidsl.interop.traced import traced
from pidsl.interop.traced_values import Columns, Unreadable
from pidsl.language.expr import Pred, Truth, vars_in, walk, whole
from pidsl.language.heads import Heads, heads
from pidsl.language.terms import Causal, Documents, Full, Term, Where, within
from pidsl.language.trace import at_line, where
from pidsl.relation.oracle import table
from pidsl.relation.queries import contained
from pidsl.relation.recognise import recognised

__all__ = ["from_flex"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
FEW = 1024  # positions of which all pairs are compared
LONG = 1 << 17  # queries and keys beyond the numbers of 16 bits, and products of them beyond those of 32
MOST_ENTRIES = 1 << 22  # of a mask that is read from its entries
CALL = "pidsl.from_flex(mask_mod, B, H, n, m)"


def from_flex(
    mask_mod: Callable[..., Any] | Flex | None, B: int | None = None, H: int | None = None, n: int | None = None,
    m: int | None = None, *, score_mod: Callable[..., Any] | None = None,
) -> Term | Heads | Imported:  # fmt: skip
    """The pattern of a `mask_mod(b, h, q_idx, kv_idx)`, and the score of a `score_mod(score, b, h, q_idx, kv_idx)`.

    >>> import torch
    >>> from_flex(lambda b, h, q, k: (torch.abs(q - k) <= 8) & (q >= k))
    window(8)
    >>> from_flex(lambda b, h, q, k: (q >= k) & (q - k <= torch.tensor([3, 3, 7])[h]), H=3)
    heads([(2, window(3)), (1, window(7))])
    >>> from_flex(lambda b, h, q, k: q >= k, score_mod=lambda score, b, h, q, k: 50.0 * torch.tanh(score / 50.0))
    Imported(causal, score=score(softcap=50.0))

    Args:
        mask_mod: made of arithmetic, comparisons and logic on the indices, `torch.where`, `clamp` and the like, and
            tables indexed by b, h, q_idx or kv_idx; or what `to_flex` gave. None: all pairs.
        B, H: how many sequences and query heads, where the mask asks which it is.
        n, m: how many queries and keys, where the mask reads tables by them: what comes back is for these lengths
            then. m defaults to n.
        score_mod: a cap by tanh, a factor, and what is added by head and lag: ALiBi and tables of relative positions,
            whose numbers are the inputs of the call, without gradient. Pairs that get -inf are not attended.

    Returns:
        A term, or `heads` where query heads differ. Where the call of a kernel needs something besides, or sequences
        differ, an `Imported`.

    Raises:
        PredicateError: the mask computes what no pattern says; the function of torch and the line are named. Or what
            was read is not the mask itself: every result is compared with it, entry by entry, at a few lengths.
        SizeError: B, H, n or m are no counts.
    """
    for name, size in (("B", B), ("H", H), ("n", n), ("m", m)):
        if size is not None and (isinstance(size, bool) or (whole(size) or 0) < 1):
            raise SizeError(f"{name} = {size!r}", "an integer >= 1, or None", CALL)
    of_heads = isinstance(mask_mod, Flex) and isinstance(mask_mod.term, Heads) and H is None
    if isinstance(mask_mod, Flex):
        n, m = n or mask_mod.n, m or mask_mod.m
        H = len(mask_mod.term) if isinstance(mask_mod.term, Heads) and H is None else H
        mask_mod = replace(mask_mod, n=n, m=n if m is None else m).mask_mod
    if isinstance(mask_mod, BlockMask):
        expected = "a mask_mod: the tiles that a BlockMask lists may leave out pairs of its own"
        raise PredicateError("a BlockMask", expected, CALL, "pidsl.from_flex(block_mask.mask_mod)")
    if mask_mod is None:
        mask_mod = noop_mask
    _check_signature(mask_mod)
    m = n if m is None else m
    if score_mod is None:
        found = _Reading(mask_mod, B, H, n, m).read()
        return heads([(H, found)]) if of_heads and H is not None and isinstance(found, Term) else found
    scoring = Scoring(score_mod, B, H, (n, m))
    if scoring.masks():
        mask_mod = and_masks(mask_mod, finite(score_mod))
    return _with_score(_Reading(mask_mod, B, H, n, m).read(), scoring)


def _with_score(found: Term | Heads | Imported, scoring: Scoring) -> Term | Heads | Imported:
    """What was read from a mask, with the score."""
    patterns = found.patterns if isinstance(found, Imported) else (found,)
    each = {x for pattern in patterns for x in (pattern.distinct if isinstance(pattern, Heads) else (pattern,))}
    logits, more = scoring.read(all(contained(within(x)[0], Causal()) for x in each))
    if logits is None:
        return found
    inputs = dict(found.inputs) if isinstance(found, Imported) else {}
    if "offset" in inputs and "key_offset" not in inputs and more:
        expected = "what is added to the score by the lag of positions: those of the queries are moved here"
        raise PredicateError(f"{', '.join(more)} and an offset", expected, CALL, "from_flex(mask_mod) alone")
    return Imported(patterns, inputs | more, logits)


def _check_signature(mask_mod: Any) -> None:
    try:
        parameters = list(inspect.signature(mask_mod).parameters.values())
    except (TypeError, ValueError):
        raise PredicateError(f"{mask_mod!r}", "a function mask_mod(b, h, q_idx, kv_idx)", CALL) from None
    needed = [
        x.name for x in parameters if x.default is x.empty and x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)
    ]
    given = f"a function of ({', '.join(map(str, parameters))})"
    if len(needed) == 5 or "score" in needed:
        hint = "from_flex(None, score_mod=score_mod), which gives a pidsl.score(...) where it is one"
        raise PredicateError(given, "a mask_mod: which pairs are attended; a score_mod is no mask", CALL, hint)
    hint = "pidsl.where(lambda i, j: i - j < 4)" if len(needed) == len(parameters) == 2 else ""
    try:
        inspect.signature(mask_mod).bind(*"bhqk")
    except TypeError:
        raise PredicateError(given, "a mask_mod of (b, h, q_idx, kv_idx)", CALL, hint) from None


@dataclass(frozen=True)
class _Read:
    """What one sequence and head attend: a predicate, and the pattern of it; of documents, those of the tokens."""

    pred: Pred
    term: Term
    documents: Ints | None = None


@dataclass(frozen=True)
class _Reading:
    mask_mod: Callable[..., Any]
    batch: int | None
    heads: int | None
    n: int | None
    m: int | None

    def read(self) -> Term | Heads | Imported:
        every = [[self._one(b, h) for h in _counted(self.heads)] for b in _counted(self.batch)]
        inputs: dict[str, Tensor] = {}
        if any(x.documents is not None for row in every for x in row):
            if all(_share(row) for row in every) and self.n is not None:
                every = [[_confined(x, self.n) for x in row] for row in every]
                ids = np.stack([row[0].documents for row in every if row[0].documents is not None])
                inputs["documents"] = torch.from_numpy(ids if len(ids) > 1 else ids[0]).int()
            else:  # heads with documents of their own: as queries and keys
                every = [[self._one(b, h, False) for h in _counted(self.heads)] for b in _counted(self.batch)]
        found = None
        of_all_heads = all(len({x.term for x in row}) == 1 for row in every)
        if of_all_heads and not inputs:
            found = common([row[0].term for row in every], self.m)
        if found is None and of_all_heads and not inputs:
            found = moved([row[0].pred for row in every])
        if found is not None:
            return Imported((found[0],), found[1])
        patterns = [_joined([x.term for x in row]) for row in every]
        if len(set(patterns)) == 1:
            patterns = patterns[:1]
        return Imported(tuple(patterns), inputs) if len(patterns) > 1 or inputs else patterns[0]

    def _one(self, b: int | None, h: int | None, confine: bool = True) -> _Read:
        """The pattern of one sequence and head: what the mask computes with, else what its entries are."""
        try:
            return self._traced(b, h, confine)
        except (PredicateError, TermError) as e:
            found = self._by_entries(b, h, confine)
            if found is None:
                raise e from e.__cause__
            return found

    def _traced(self, b: int | None, h: int | None, confine: bool) -> _Read:
        try:
            try:
                return self._of_columns(b, h, confine, Columns(self.n, self.m))
            except Unreadable:
                with suppress(Unreadable):
                    return self._of_columns(b, h, confine, Columns(self.n, self.m, written=True))
                raise
        except Unreadable as e:
            raise PredicateError(e.what, "arithmetic on the indices, and tables of them", self._at(e), e.hint) from None
        except PidslError:
            raise
        except Exception as e:  # the mask's own, of any kind
            raise PredicateError(_said(e), "torch functions of the indices", self._at(e)) from e

    def _of_columns(self, b: int | None, h: int | None, confine: bool, columns: Columns) -> _Read:
        pred = self._predicate(b, h, columns)
        if not columns.tables(pred):
            own = self._made_from(h)
            found = _Read(pred, recognised(pred) if own is None else own)
            self._check(found, b, h, _lengths(pred, self.n, self.m, columns.bounded))
            return found
        assert self.n is not None and self.m is not None
        guess = documents_of(pred, columns) or self._in_table(pred, columns) if confine else None
        if guess is not None:
            found = _Read(pred, *guess)
            if self._difference(found, b, h, self.n, self.m) is None:
                return found
        found = _Read(pred, by_cases(pred, columns))
        self._check(found, b, h, [(self.n, self.m)])
        return found

    def _in_table(self, pred: Pred, columns: Columns) -> tuple[Term, Ints] | None:
        """The documents of a table of query and key, where no few words say it."""
        by_pair = any(columns.by_name[name].axes == "ij" for name in columns.tables(pred))
        if not by_pair or self.n is None or self.n != self.m or self.n**2 > MOST_ENTRIES:
            return None
        return packed(columns.values(pred, "ij"))

    def _by_entries(self, b: int | None, h: int | None, confine: bool) -> _Read | None:
        """What is read from the entries of a mask of few: words for them, or the pairs themselves."""
        n, m = self.n, self.m
        if n is None or m is None or n * m > MOST_ENTRIES:
            return None
        try:
            mask, again = (self._mask(b, h, np.arange(n), np.arange(m), strict=True) for _ in range(2))
        except Exception:  # it asks for a sequence or head, or FlexAttention cannot compute it either
            return None
        same = mask.shape == (n, m) and np.array_equal(mask, again)
        if not same:
            return None
        if confine and (found := packed(mask)) is not None:
            return _Read(Truth(False), *found)
        term = of_entries(mask)
        return None if term is None else _Read(Truth(False), term)

    def _predicate(self, b: int | None, h: int | None, columns: Columns) -> Pred:
        if (term := self._made_from(h)) is not None:
            attends, of_lengths = attends_of(term)
            if of_lengths:  # the lengths as names, where the mask itself has numbers
                read = where(lambda i, j, n, m: attends(n, m, i, j))
                return read.pred if isinstance(read, Where) else Truth(isinstance(read, Full))
        return traced(self.mask_mod, b, h, columns)

    def _made_from(self, h: int | None) -> Term | None:
        """The pattern of a mask that `to_flex` made: the words that were its own."""
        made = getattr(self.mask_mod, "made_from", None)
        if not isinstance(made, Flex) or (isinstance(made.term, Heads) and not 0 <= (h or 0) < len(made.term)):
            return None
        if isinstance(made.term, Heads):
            return None if h is None else made.term[h]
        return made.term

    def _at(self, e: BaseException) -> str:
        return at_line(CALL, self.mask_mod, e)

    # -- whether it is the mask ------------------------------------------------------------------------------------

    def _check(self, found: _Read, b: int | None, h: int | None, lengths: Iterable[tuple[int, int]]) -> None:
        for n, m in lengths:
            if (at := self._difference(found, b, h, n, m)) is not None:
                of = f"{found.term!r}, read from the mask, n = {n} and m = {m}: query {at[0]} and key {at[1]} differ"
                expected = "a mask that gives the same whenever it is called, within the numbers of 32 bits"
                raise PredicateError(of, expected, at_line(CALL, self.mask_mod, None))

    def _difference(self, found: _Read, b: int | None, h: int | None, n: int, m: int) -> tuple[int, int] | None:
        """A query and key of which the mask says something else; of many, only some are looked at."""
        few = FEW if (self.batch or 1) * (self.heads or 1) <= 16 and (n, m) != (LONG, LONG) else FEW // 4
        i, j = _positions(n, few), _positions(m, few)
        own = _entries(found, i, j, n, m)
        apart = np.argwhere(own != self._mask(b, h, i, j))
        return (int(i[apart[0, 0]]), int(j[apart[0, 1]])) if len(apart) else None

    def _mask(self, b: int | None, h: int | None, i: Ints, j: Ints, strict: bool = False) -> Bools:
        """bool [len(i), len(j)]: the mask itself; strictly, it may not ask for what it was not told."""
        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

        sequence, head = (
            unsaid(name) if strict and x is None else torch.tensor(x or 0) for name, x in (("b", b), ("h", h))
        )

        def one(q: Tensor, k: Tensor) -> Tensor:
            return torch.as_tensor(self.mask_mod(sequence, head, q, k)).bool()

        with TransformGetItemToIndex():
            found = torch.vmap(torch.vmap(one, (None, 0)), (0, None))(torch.from_numpy(i), torch.from_numpy(j))
        return np.asarray(found.cpu().numpy(), dtype=np.bool_)


def _counted(count: int | None) -> Iterable[int | None]:
    return [None] if count is None else range(count)


def _joined(terms: list[Term]) -> Pattern:
    return terms[0] if len(set(terms)) == 1 else heads([(1, term) for term in terms])


def _share(row: list[_Read]) -> bool:
    """Whether the heads of a sequence have the same documents, or have none."""
    ids = [x.documents for x in row]
    return (
        all(x is None for x in ids) if ids[0] is None else all(x is not None and np.array_equal(x, ids[0]) for x in ids)
    )


def _confined(read: _Read, tokens: int) -> _Read:
    """The same with documents: all tokens in one, where there were none."""
    if read.documents is not None:
        return read
    term = Documents() if isinstance(read.term, Full) else read.term & Documents()
    return replace(read, term=term, documents=np.zeros(tokens, dtype=np.int64))


def _said(e: BaseException) -> str:
    """What an exception is called and says, in a line."""
    try:
        says = str(e).strip().splitlines()[:1]
    except Exception:  # what it holds has no text
        says = []
    return ": ".join([type(e).__name__, *says])


def _lengths(pred: Pred, n: int | None, m: int | None, bounded: bool) -> list[tuple[int, int]]:
    """Numbers of queries and keys at which a pattern without tables is compared: beyond what it names."""
    if bounded or vars_in(pred) & {"n", "m"}:
        assert n is not None and m is not None
        return [(n, m)]
    numbers = [abs(x) for part in walk(pred) for x in _own_numbers(part)]
    far = max([31, *(x for x in numbers if x < 1 << 24)])
    known = [(n, m)] if n is not None and m is not None else []
    return [(1, 1), (7, 12), (far + 40, 2 * far + 9), (LONG, LONG), *known]


def _own_numbers(part: Any) -> list[int]:
    return [x for x in (getattr(part, "left", None), getattr(part, "right", None)) if isinstance(x, int)]


def _positions(length: int, few: int) -> Ints:
    """All of few positions; of many the first, the last and some between with their neighbours, always the same."""
    if length <= few:
        return np.arange(length)
    some = np.random.default_rng(length).integers(0, length - 8, few // 16)[:, None] + np.arange(8)
    ends = np.arange(few // 4)
    return np.unique(np.concatenate([ends, length - 1 - ends, some.ravel()]))


def _entries(found: _Read, i: Ints, j: Ints, n: int, m: int) -> Bools:
    """bool [len(i), len(j)]: what was read says of these queries and keys."""
    if found.documents is None:
        return table(found.term, i, j, n, m)
    pattern, ids = within(found.term)[0], found.documents
    out = np.zeros((len(i), len(j)), dtype=np.bool_)
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    for start, stop in zip(starts, [*starts[1:], n], strict=True):
        rows, keys = (np.flatnonzero((x >= start) & (x < stop)) for x in (i, j))
        if ids[start] >= 0 and len(rows) and len(keys):
            out[np.ix_(rows, keys)] = table(pattern, i[rows] - start, j[keys] - start, stop - start, stop - start)
    return out
