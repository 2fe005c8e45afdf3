"""pidsl: sparse attention as a compiler problem.

Declare which query may see which key as a short expression, ask what it costs and how far it sees, and compile it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pidsl.errors import (
    ArgumentError,
    BackendError,
    ParseError,
    PidslError,
    PredicateError,
    SizeError,
    SymbolError,
    TermError,
    TooHardError,
    TruthError,
)
from pidsl.language.gate import Gate, gate
from pidsl.language.parse import parse
from pidsl.language.schedule import Schedule, layers
from pidsl.language.terms import Term
from pidsl.language.trace import maximum, minimum, where
from pidsl.language.vocabulary import (
    blocks,
    causal,
    empty,
    full,
    keys,
    lags,
    pairs,
    queries,
    ring,
    stride,
    symbols,
    window,
)

if TYPE_CHECKING:
    from pidsl.runtime.kernel import Kernel, compile

__all__ = [
    "ArgumentError", "BackendError", "Gate", "Kernel", "ParseError", "PidslError", "PredicateError",
    "Schedule", "SizeError", "SymbolError", "Term", "TermError", "TooHardError", "TruthError", "blocks", "causal",
    "compile", "empty", "full", "gate", "keys", "lags", "layers", "maximum", "minimum", "pairs", "parse", "queries",
    "ring", "stride", "symbols", "where", "window",
]  # fmt: skip
__version__ = "0.1.0"


if not TYPE_CHECKING:  # kernels need torch: it is imported when they are first asked for

    def __getattr__(name: str) -> Any:
        if name in ("Kernel", "compile"):
            from pidsl.runtime import kernel

            return getattr(kernel, name)
        raise AttributeError(f"module 'pidsl' has no attribute {name!r}")
