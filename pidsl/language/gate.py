"""`gate`: several patterns side by side, each with a softmax of its own, blended by weights given at call time.

    Gate ::= gate(name=Term, ...)

    out[i] = sum over branches b of weights[i, b] * attention_b(q, k, v)[i]

A gate is a plain value like a term: immutable, hashable, compared by structure. It is not a term: `|` of two patterns
is one softmax over more keys, a gate is two softmaxes.
"""

from __future__ import annotations

import keyword
import unicodedata
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import ClassVar

from pidsl.errors import SymbolError, TermError
from pidsl.language.goes_with import check_documents, check_inside
from pidsl.language.shown import Shown
from pidsl.language.terms import Term


@dataclass(frozen=True, slots=True, repr=False)
class Gate(Shown):
    """Named branches in the order of their weights; made by `gate`.

    Args:
        branches: (name, term) for each branch.
    """

    part: ClassVar[str] = "gate"
    branches: tuple[tuple[str, Term], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the branches, in the order of the last dimension of the weights."""
        return tuple(name for name, _ in self.branches)

    @property
    def union(self) -> Term:
        """What any branch attends, as one pattern."""
        return reduce(or_, (term for _, term in self.branches))

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols that are still open."""
        return frozenset(symbol for _, term in self.branches for symbol in term.symbols)

    def bind(self, **values: int) -> Gate:
        """The gate with symbols replaced by numbers, in every branch that holds them.

        >>> import pidsl
        >>> k, period = pidsl.symbols("k period")
        >>> pidsl.gate(local=pidsl.window(k), skip=pidsl.stride(period)).bind(k=3, period=8)
        gate(local=window(3), skip=stride(8))

        Raises:
            SymbolError: a name is not a symbol of any branch.
            TermError: a value makes a size invalid (period=0, a float, ...).
        """
        if unknown := sorted(set(values) - self.symbols):
            raise SymbolError(
                f"bind({', '.join(f'{name}=...' for name in unknown)})",
                f"symbols of the gate: {', '.join(sorted(self.symbols)) or 'none, it is concrete already'}",
                where=repr(self),
            )
        return Gate(
            tuple(
                (name, term.bind(**{s: value for s, value in values.items() if s in term.symbols}))
                for name, term in self.branches
            )
        )

    def __repr__(self) -> str:
        return f"gate({', '.join(f'{name}={term!r}' for name, term in self.branches)})"


def gate(**branches: Term) -> Gate:
    """One softmax per named branch, blended with weights given when the compiled kernel is called.

    `out = sum over b of weights[..., b] * attention_b`. A row for which a branch has no key gets nothing from that
    branch. Weights are taken as given: they may be any numbers and need not sum to 1.

    >>> import pidsl
    >>> pidsl.gate(local=pidsl.window(63), skip=pidsl.stride(256))
    gate(local=window(63), skip=stride(256))

    Args:
        branches: a term per name; names are Python identifiers, and their order is that of the weights.

    Returns:
        A `Gate`, for `pidsl.compile`.

    Raises:
        TermError: no branch, a name that is not an identifier, or a branch that is not a term; `documents` in some of
            the branches only.
    """
    if not branches:
        raise TermError("gate()", "at least one branch", hint="gate(local=window(63), skip=stride(256))")
    for name, term in branches.items():
        same = name.isascii() or name == unicodedata.normalize("NFKC", name)  # as Python reads it
        if not name.isidentifier() or keyword.iskeyword(name) or not same:
            raise TermError(f"branch name {name!r}", "an identifier that is not a Python keyword", where="gate(...)")
        if not isinstance(term, Term):
            given = f"{name} = {term!r} ({type(term).__name__})"
            check_inside("gate", term, given, "gate(...)")
            nested = "one softmax over both is a | b" if isinstance(term, Gate) else "build it with pidsl.where"
            raise TermError(given, "a pidsl term", where="gate(...)", hint=nested)
    made = Gate(tuple(branches.items()))
    check_documents(branches.values(), repr(made), "gate(...)")
    return made
