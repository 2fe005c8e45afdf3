"""What one can ask of a term: its mask, its relation, what it costs and how far it sees.

Numbers for given lengths come back as numbers (`pairs(4096)`), without lengths as a `Bound`: a formula for every
length, with a proof (`pairs()`). The questions are here; who answers them is said in `pidsl/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast, overload

from pidsl.language.door import behind
from pidsl.language.expr import whole
from pidsl.language.refused import require_term
from pidsl.language.shown import Shown

if TYPE_CHECKING:
    import islpy
    import networkx
    import numpy as np
    from numpy.typing import NDArray

    from pidsl.analysis.bound import Bound
    from pidsl.analysis.layers.reachable import Reachable
    from pidsl.analysis.questions import Degree
    from pidsl.distributed.planning.traffic import Communication
    from pidsl.language.terms import Term
    from pidsl.relation.queries import Difference
    from pidsl.studies.cost import Cost

Assume = str | Iterable[str]
LONG = 1 << 22  # tokens from which on square patterns are counted by formula


class Questions(Shown):
    """The queries that every term has."""

    __slots__ = ()

    @property
    def _own(self) -> Term:
        return cast("Term", self)

    # -- meaning -------------------------------------------------------------------------------------------------

    def mask(
        self, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0, *,
        documents: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        blocks: Sequence[Sequence[int]] | NDArray[np.integer[Any]] | None = None,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """The dense mask, by the slow obvious definition.

        Args:
            n: number of queries (rows).
            m: number of keys (columns); default: n.
            offset: position of the first query. Row r is position `i = r + offset`.
            key_offset: position of the first key. Column c is position `j = c + key_offset`.
            documents: of a pattern `T & documents`, the document of each of the n tokens, in runs; a negative one for
                padding. Each document has the mask of T at its own length. Without it, the mask has every pair that
                some documents allow.
            blocks: of a pattern with a choice, the lists of a call: a row of block numbers for each block of query
                positions from the one of the first query on (of documents: those of each, one after the other); -1
                for none. Without it, the mask has every pair that some lists allow.

        Returns:
            bool array [n, m]; `mask[r, c]` says whether position r + offset attends position c + key_offset. Always
            equal to `mask(n + offset, m + key_offset)[offset:, key_offset:]`: offsets slice the pattern, they do not
            change it.

        >>> import pidsl
        >>> pidsl.window(1).mask(4).astype(int)
        array([[1, 0, 0, 0],
               [1, 1, 0, 0],
               [0, 1, 1, 0],
               [0, 0, 1, 1]])
        >>> (pidsl.causal & pidsl.documents).mask(4, documents=[0, 0, 0, 1]).astype(int)
        array([[1, 0, 0, 0],
               [1, 1, 0, 0],
               [1, 1, 1, 0],
               [0, 0, 0, 1]])

        Raises:
            SizeError: a length that is none, or does not fit; documents that are no runs, or not n; lists that are no
                integers, too long, or not one for each block of queries.
            SymbolError: the term holds unbound symbols.
            TermError: documents for a pattern that is not confined to them; blocks for one that chooses nothing.
        """
        if documents is not None:
            return behind("mask of documents")(self._own, n, m, offset, key_offset, documents, blocks)
        return behind("mask")(self._own, n, m, offset, key_offset, blocks)

    @property
    def forced(self) -> Term:
        """What is attended whatever a call chooses; of a pattern without `chosen`, itself.

        >>> import pidsl
        >>> (pidsl.window(63) | pidsl.chosen(64, 16)).forced
        window(63)
        """
        return behind("forced")(self._own)

    @property
    def possible(self) -> Term:
        """What is attended at most, whatever a call chooses; of a pattern without `chosen`, itself.

        >>> import pidsl
        >>> (pidsl.window(63) | pidsl.chosen(64, 16)).possible
        window(63) | causal
        """
        return behind("possible")(self._own)

    def relation(self) -> islpy.Map:
        """The exact relation `[n, m] -> { [i] -> [j] : 0 <= i < n and 0 <= j < m and ... }` as an isl map.

        Of a pattern `T & documents`, every pair that some documents allow: a superset of what any of them have.

        Raises:
            SymbolError: the term holds unbound symbols.
            TooHardError: isl's operation limit struck.
        """
        return behind("relation")(self._own)

    def equals(self, other: Term) -> bool:
        """Whether both attend exactly the same pairs, for every n and m, all documents, and whatever calls choose.

        Raises:
            TermError: one of them is confined to documents, and the other is not.
        """
        return behind("equals")(self._own, require_term(other, "equals"))

    def difference_at(self, other: Term, n: int | None = None) -> Difference | None:
        """A pair that only one of both attends: the first, by query and key, at the least n at which they differ.

        >>> import pidsl
        >>> pidsl.window(3).difference_at(pidsl.causal)
        Difference(i=4, j=0, n=5, m=5, only_in='other')
        >>> pidsl.window(3).difference_at(pidsl.causal, n=4) is None
        True

        Args:
            other: a pattern.
            n: look at this many queries and keys only.

        Returns:
            None where both are equal, for every n and m (or at `n`). Lengths n = m are looked at first; patterns
            that agree on these may differ at others. Of patterns confined to documents, a pair within one document.

        Raises:
            TermError: one of them is confined to documents, and the other is not.
            SizeError: n is no length.
            SymbolError: one of them holds unbound symbols.
            TooHardError: isl's operation limit struck.
        """
        return behind("difference_at")(self._own, require_term(other, "difference_at"), n)

    def __le__(self, other: Term) -> bool:
        """Whether every pair of `self` is a pair of `other`, for every n and m, all documents, and all choices.

        >>> import pidsl
        >>> (pidsl.chosen(64, 16) | pidsl.window(63)) <= pidsl.causal  # whatever a call lists
        True

        Raises:
            TermError: only `other` is confined to documents.
        """
        return behind("contained")(self._own, require_term(other, "<="))

    def __ge__(self, other: Term) -> bool:
        return require_term(other, ">=") <= self._own

    def is_empty(self) -> bool:
        """Whether no query attends any key, for every n and m."""
        return behind("is_empty")(self._own)

    # -- cost ----------------------------------------------------------------------------------------------------

    @overload
    def degree(self, n: None = None, *, assume: Assume = ()) -> Degree: ...
    @overload
    def degree(self, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> NDArray[np.int64]: ...
    def degree(
        self, n: int | None = None, m: int | None = None, offset: int = 0, key_offset: int = 0, *,
        assume: Assume = (),
    ) -> NDArray[np.int64] | Degree:  # fmt: skip
        """How many keys each query attends: int64 array [n], exact; without n, formulas in i and n, each a `Bound`.

        >>> import pidsl
        >>> pidsl.window(2).degree(4)
        array([1, 2, 3, 3])
        >>> pidsl.window(pidsl.symbols("k")).degree().of_query.expr
        Min(i, k) + 1
        """
        if n is None:
            return behind("degree for every length")(self._own, assume)
        return behind("degree")(self._own, n, m, offset, key_offset)

    @overload
    def pairs(self, n: None = None, *, assume: Assume = ()) -> Bound: ...
    @overload
    def pairs(self, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> int: ...
    def pairs(
        self, n: int | None = None, m: int | None = None, offset: int = 0, key_offset: int = 0, *,
        assume: Assume = (),
    ) -> int | Bound:  # fmt: skip
        """How many (query, key) pairs are attended, exact; without n, a formula in n and the symbols as a `Bound`.

        >>> import pidsl
        >>> pidsl.causal.pairs(4)
        10
        >>> pidsl.causal.pairs().expr
        n**2/2 + n/2
        """
        if n is None:
            return behind("pairs for every length")(self._own, assume)
        length = whole(n)
        square = m in (None, n) and (type(offset), type(key_offset), offset, key_offset) == (int, int, 0, 0)
        if length is not None and length > LONG and square and not self._own.symbols:
            formula = self.pairs()  # it takes no time that grows with n
            if formula.is_exact:
                return int(formula(n=length))
        return behind("pairs")(self._own, n, m, offset, key_offset)

    @overload
    def sparsity(self, n: None = None, *, assume: Assume = ()) -> Bound: ...
    @overload
    def sparsity(self, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> float: ...
    def sparsity(
        self, n: int | None = None, m: int | None = None, offset: int = 0, key_offset: int = 0, *,
        assume: Assume = (),
    ) -> float | Bound:  # fmt: skip
        """The share of the n * m pairs that is *not* attended, from the exact count; 1.0 where there are no pairs.

        Without n, a formula as a `Bound`.

        >>> import pidsl
        >>> pidsl.causal.sparsity(3)  # 6 of 9 pairs attended
        0.3333333333333333
        """
        if n is None:
            return behind("sparsity for every length")(self._own, assume)
        return behind("sparsity")(self._own, n, m, offset, key_offset)

    def live(self, *, assume: Assume = (), lookahead: int | None = None, page: int | None = None) -> Bound:
        """How many keys of tokens 0 .. t a decoding step must keep for later queries; see `analysis.questions.live`."""
        return behind("live")(self._own, assume, lookahead, page)

    def cost(
        self, n: int | None = None, *, head_dim: int = 64, dtype: str = "bf16", heads: int = 1,
        kv_heads: int | None = None, batch: int = 1,
    ) -> Cost:  # fmt: skip
        """FLOPs and bytes of forward, backward and decoding; see `pidsl.studies.cost.cost`."""
        return behind("cost")(self._own, n, head_dim=head_dim, dtype=dtype, heads=heads, kv_heads=kv_heads, batch=batch)

    # -- how far it sees -----------------------------------------------------------------------------------------

    def farthest(self, layers: int | None = None, *, assume: Assume = ()) -> Bound:
        """The largest lag over which L layers carry information; see `pidsl.analysis.questions.farthest`.

        >>> import pidsl
        >>> pidsl.window(4).farthest(3)(n=100)
        12
        """
        return behind("farthest")(self._own, layers, assume)

    def contiguous(self, layers: int | None = None, *, assume: Assume = ()) -> Bound:
        """How many predecessors every token sees without a gap; see `pidsl.analysis.questions.contiguous`."""
        return behind("contiguous")(self._own, layers, assume)

    def depth(self, n: int | None = None, of: str | None = None, *, assume: Assume = ()) -> Bound:
        """The fewest layers that connect every pair; see `pidsl.analysis.questions.depth`.

        >>> import pidsl
        >>> pidsl.window(4).depth()(n=4096)
        1024
        """
        return behind("depth")(self._own, n, of, assume)

    def attention_graph(self, n: int) -> networkx.DiGraph:
        """The pattern over n tokens as a graph; see `pidsl.studies.graph.attention_graph`."""
        return behind("attention_graph")(self._own, n)

    def path(self, i: int, j: int, layers: int, n: int | None = None) -> list[int] | None:
        """The tokens through which key j reaches query i; see `pidsl.studies.graph.path`."""
        return behind("path")(self._own, i, j, layers, n)

    def reachable(self, layers: int = 1) -> Reachable:
        """The lags, or else the pairs, that L layers connect; see `pidsl.analysis.layers.reachable.reachable`.

        >>> import pidsl
        >>> (pidsl.window(4) | pidsl.lags(16)).reachable(2)
        { 0..8, 16..20, 32 }
        """
        return behind("reachable")(self._own, layers)

    def received(self, assume: Assume = (), **form: Any) -> Bound:
        """Key rows, or their bytes, that a rank gets from others at most; see `pidsl.analysis.questions.received`.

        >>> import pidsl
        >>> pidsl.window(pidsl.symbols("k")).received().expr
        Min(k, n - 1)
        """
        return behind("received")(self._own, assume, **form)

    def communication(self, n: int, workers: int) -> Communication:
        """Key rows that each of P workers needs from each other; see `distributed.traffic.communication`."""
        return behind("communication")(self._own, n, workers)
