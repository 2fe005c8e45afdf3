"""What the sizes in a term satisfy, and which names formulas keep for themselves."""

from __future__ import annotations

from collections.abc import Iterable

import sympy

from pidsl.analysis.formulas.words import from_index
from pidsl.errors import SymbolError
from pidsl.language.terms import Stride, Term, walk
from pidsl.language.trees import own_values


def require_names(names: Iterable[str], where: str) -> None:
    """Refuse symbols that a formula would mistake for its own variables.

    Raises:
        SymbolError: a symbol is called L (layers) or t (the last token seen).
    """
    for name in sorted({"L", "t"}.intersection(names)):
        meaning = {"L": "the number of layers", "t": "the last token seen"}[name]
        raise SymbolError(
            f"a symbol called {name}", f"another name: {name} is {meaning} in formulas", where, f"{name}_"
        )


def domain(term: Term) -> tuple[sympy.Basic, ...]:
    """What the sizes in a term satisfy, or the term would not exist: radii >= 0, periods >= 1, phases below periods.

    Raises:
        SymbolError: a symbol has the name of a variable of formulas.
    """
    require_names(term.symbols, repr(term))
    found: dict[sympy.Basic, None] = {}
    for t in walk(term):
        sizes = zip(own_values(t), t.LEAST, strict=False)
        wanted = [from_index(size) >= least for size, least in sizes if least is not None]
        if isinstance(t, Stride) and t.phase != 0:
            wanted.append(from_index(t.phase) < from_index(t.period))
        found.update(dict.fromkeys(c for c in wanted if c != sympy.true))
    return tuple(found)
