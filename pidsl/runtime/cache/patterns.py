"""Which patterns a cache is made for."""

from __future__ import annotations

from typing import Any

from pidsl.errors import ArgumentError
from pidsl.language.confined import confined
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.terms import Term
from pidsl.runtime.kernels.kernel import Kernel


def patterns_of(kernel: Any) -> tuple[Term, ...]:
    """The patterns that ask for keys when a kernel is called; without `documents`, since what is decoded is one.

    Raises:
        ArgumentError: it is no kernel, or one of summaries.
    """
    if isinstance(kernel, Kernel):
        of, _ = confined(kernel.recipe.of)
        if isinstance(of, Term):
            return (of,)
        if isinstance(of, Gate):
            return tuple(dict.fromkeys(term for _, term in of.branches))
        if isinstance(of, Heads):
            return tuple(of.distinct)
        given, hint = f"a kernel of {of.part}", "a cache of pidsl.compile(summaries.exact)"
    else:
        given, hint = f"{kernel!r} ({type(kernel).__name__})", "pidsl.compile(term)"
    expected = "a compiled kernel of a pattern, a gate, heads or layers"
    raise ArgumentError(given, expected, "pidsl.Cache(kernel, ...)", hint)
