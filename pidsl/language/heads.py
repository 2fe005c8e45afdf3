"""`heads`: a pattern for each group of query heads.

    Heads ::= heads([(count, Term), ...])

    out[:, h] = attention under the pattern of head h

Heads are a plain value like a term: immutable, hashable, compared by structure. They are a sequence too, of one term
for each query head. They are not a term: `|` of two patterns gives every head more keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

from pidsl.errors import SymbolError, TermError
from pidsl.language.expr import Index
from pidsl.language.goes_with import check_documents, check_inside
from pidsl.language.shown import Shown
from pidsl.language.terms import Documents, Term, within

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, repr=False)
class Heads(Shown):
    """Groups of query heads in order; made by `heads`. `len`, indexing and iteration go over single heads.

    Args:
        groups: (query heads, term) for each group; neighbours differ in their terms.
    """

    part: ClassVar[str] = "heads"
    groups: tuple[tuple[int, Term], ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """The term of each query head."""
        return tuple(term for count, term in self.groups for _ in range(count))

    @property
    def distinct(self) -> dict[Term, tuple[int, ...]]:
        """The query heads of each distinct term, ascending.

        >>> import pidsl
        >>> heads([(2, pidsl.window(3)), (1, pidsl.causal), (1, pidsl.window(3))]).distinct
        {window(3): (0, 1, 3), causal: (2,)}
        """
        found: dict[Term, tuple[int, ...]] = {}
        for head, term in enumerate(self.terms):
            found[term] = (*found.get(term, ()), head)
        return found

    @property
    def union(self) -> Term:
        """What any head attends: over this pattern information flows from token to token."""
        parts = [within(term) for term in self.distinct]
        union = reduce(lambda a, b: a | b, [pattern for pattern, _ in parts])
        return union & Documents() if parts[0][1] else union

    def __len__(self) -> int:
        return sum(count for count, _ in self.groups)

    def __getitem__(self, head: int) -> Term:
        return self.terms[head]

    def __iter__(self) -> Iterator[Term]:
        return iter(self.terms)

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols that are still open."""
        return frozenset(symbol for _, term in self.groups for symbol in term.symbols)

    def bind(self, /, **values: Index) -> Heads:
        """The heads with symbols replaced, in every group that holds them.

        >>> import pidsl
        >>> k, step = pidsl.symbols("k step")
        >>> pidsl.heads([(6, pidsl.window(k)), (2, pidsl.window(k).dilated(step))]).bind(k=31, step=4)
        heads([(6, window(31)), (2, window(31).dilated(4))])

        Raises:
            SymbolError: a name is not a symbol of any group.
            TermError: a value makes a size invalid (step=0, a float, ...).
        """
        if unknown := sorted(set(values) - self.symbols):
            raise SymbolError(
                f"bind({', '.join(f'{name}=...' for name in unknown)})",
                f"symbols of the heads: {', '.join(sorted(self.symbols)) or 'none, they are concrete already'}",
                where=repr(self),
            )
        return heads(
            (count, term.bind(**{s: value for s, value in values.items() if s in term.symbols}))
            for count, term in self.groups
        )

    def mask(
        self, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0, *,
        documents: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """The dense masks of all query heads, bool [heads, n, m]; see `Term.mask`.

        >>> import pidsl
        >>> heads([(1, pidsl.causal), (1, pidsl.window(0))]).mask(2).astype(int)
        array([[[1, 0],
                [1, 1]],
        <BLANKLINE>
               [[1, 0],
                [0, 1]]])
        """
        import numpy as np

        masks = {term: term.mask(n, m, offset, key_offset, documents=documents) for term in self.distinct}
        return np.stack([masks[term] for term in self.terms])

    def degree(self, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> NDArray[np.int64]:
        """How many keys each query of each head attends: int64 array [heads, n]; see `Term.degree`."""
        import numpy as np

        degrees = {term: term.degree(n, m, offset, key_offset) for term in self.distinct}
        return np.stack([degrees[term] for term in self.terms])

    def pairs(self, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> int:
        """How many (query, key) pairs all query heads attend together, exact; see `Term.pairs`.

        >>> import pidsl
        >>> heads([(3, pidsl.causal), (1, pidsl.window(0))]).pairs(4)
        34
        """
        return sum(len(found) * term.pairs(n, m, offset, key_offset) for term, found in self.distinct.items())

    def sparsity(self, n: int, m: int | None = None, offset: int = 0, key_offset: int = 0) -> float:
        """The share of the heads * n * m pairs that is not attended; see `Term.sparsity`."""
        shares = (len(found) * term.sparsity(n, m, offset, key_offset) for term, found in self.distinct.items())
        return sum(shares) / len(self)

    def __repr__(self) -> str:
        return f"heads([{', '.join(f'({count}, {term!r})' for count, term in self.groups)}])"


def heads(groups: Iterable[tuple[int, Term]]) -> Heads:
    """A pattern for each group of query heads, in the order of the heads.

    `out[:, h] = attention under the pattern of head h`. Counts are of *query* heads; where key heads are shared, a
    group of heads may end anywhere among the query heads that share one.

    >>> import pidsl
    >>> split = pidsl.heads([(6, pidsl.window(63)), (2, pidsl.causal)])
    >>> split, len(split), split[7]
    (heads([(6, window(63)), (2, causal)]), 8, causal)

    Neighbouring groups with equal terms are one group:

    >>> pidsl.heads([(1, pidsl.causal), (3, pidsl.causal)])
    heads([(4, causal)])

    Args:
        groups: (count, term) pairs: the first `count` query heads have the first term, and so on.

    Returns:
        `Heads`, for `pidsl.compile` and as a layer of `pidsl.layers`.

    Raises:
        TermError: no group, a count below 1, or something that is not a term; `documents` in some groups only.
    """
    found: list[tuple[int, Term]] = []
    for index, group in enumerate(groups):
        count, term = _checked(index, group)
        if found and found[-1][1] == term:
            found[-1] = (found[-1][0] + count, term)
        else:
            found.append((count, term))
    if not found:
        raise TermError("heads([])", "at least one group", hint="heads([(6, window(63)), (2, causal)])")
    made = Heads(tuple(found))
    check_documents(made.distinct, repr(made), "heads([...])")
    return made


def _checked(index: int, group: Any) -> tuple[int, Any]:
    where = "heads([(count, term), ...])"
    if not isinstance(group, tuple) or len(group) != 2:
        raise TermError(f"group {index}: {group!r}", "a pair of a count of query heads and a term", where)
    count, term = group
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        turned = f"({term!r}, {count!r})" if isinstance(term, int) and isinstance(count, Term) else ""
        raise TermError(f"group {index}: {count!r} heads", "how many query heads, at least 1", where, turned)
    if not isinstance(term, Term):
        given = f"group {index}: {term!r} ({type(term).__name__})"
        check_inside("heads", term, given, where)
        raise TermError(given, "a pidsl term", where)
    return count, term
