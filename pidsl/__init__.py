"""pidsl: sparse attention as a compiler problem.

Declare which query may see which key as a short expression, ask what it costs and how far it sees, and compile it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pidsl.errors import (
    ArgumentError,
    BackendError,
    KeywordError,
    ParseError,
    PidslError,
    PredicateError,
    SizeError,
    SymbolError,
    TermError,
    TooHardError,
    TruthError,
)
from pidsl.language.confined import confined
from pidsl.language.door import stand_behind
from pidsl.language.gate import Gate, gate
from pidsl.language.heads import Heads, heads
from pidsl.language.parse import parse
from pidsl.language.recipe import Recipe
from pidsl.language.schedule import Schedule, layers
from pidsl.language.score import Score, alibi_slopes, score
from pidsl.language.summaries import Summaries, spans, summaries
from pidsl.language.terms import Term
from pidsl.language.trace import maximum, minimum, where
from pidsl.language.vocabulary import (
    blocks,
    causal,
    chosen,
    documents,
    empty,
    full,
    halo,
    keys,
    lags,
    neighborhood,
    pairs,
    queries,
    ring,
    stride,
    symbols,
    window,
)
from pidsl.later import submodule
from pidsl.runtime.registration import register

if TYPE_CHECKING:
    from pidsl import analysis as analysis
    from pidsl import codegen as codegen
    from pidsl import distributed as distributed
    from pidsl import nn as nn
    from pidsl import patterns as patterns
    from pidsl import runtime as runtime
    from pidsl import select as select
    from pidsl import testing as testing
    from pidsl.analysis.bound import Bound
    from pidsl.analysis.documents import no_leak
    from pidsl.interop.flex import to_flex
    from pidsl.interop.from_flex import from_flex
    from pidsl.interop.from_natten import from_natten
    from pidsl.interop.from_sdpa import from_sdpa
    from pidsl.interop.packing import Packing
    from pidsl.interop.regions import Regions
    from pidsl.runtime.cache.cache import Cache
    from pidsl.runtime.compile import compile
    from pidsl.runtime.kernels.form import Explained
    from pidsl.runtime.kernels.kernel import Kernel
    from pidsl.runtime.kernels.merge import merge
    from pidsl.studies.claims import check_claims
    from pidsl.studies.compare import compare
    from pidsl.studies.design import design

__all__ = [
    "ArgumentError", "BackendError", "Bound", "Cache", "Explained", "Gate", "Heads", "Kernel", "KeywordError",
    "Packing", "ParseError", "PidslError", "PredicateError", "Recipe", "Regions", "Schedule", "Score", "SizeError",
    "Summaries", "SymbolError", "Term", "TermError", "TooHardError", "TruthError",
    "alibi_slopes", "blocks", "causal", "check_claims", "chosen", "compare", "compile", "confined", "design",
    "documents", "empty", "from_flex", "from_natten", "from_sdpa", "full", "gate", "halo", "heads", "keys", "lags",
    "layers", "maximum", "merge", "minimum", "neighborhood", "no_leak", "pairs", "parse", "queries", "ring", "score",
    "spans", "stride", "summaries", "symbols", "to_flex", "where", "window",
]  # fmt: skip
__version__ = "0.1.0"

stand_behind({  # who answers the questions that one asks of a pattern, each imported when it is first asked
    "library": "pidsl.patterns:WRITTEN",
    "mask": "pidsl.relation.oracle:dense_mask",
    "mask of documents": "pidsl.relation.oracle:document_mask",
    "forced": "pidsl.language.chosen:forced",
    "possible": "pidsl.language.chosen:possible",
    "relation": "pidsl.relation.build:relation",
    "equals": "pidsl.relation.queries:equals",
    "contained": "pidsl.relation.queries:contained",
    "difference_at": "pidsl.relation.queries:difference_at",
    "is_empty": "pidsl.relation.queries:is_empty",
    "covers": "pidsl.relation.partition:covers",
    "degree": "pidsl.relation.counting:degree",
    "pairs": "pidsl.relation.counting:pairs",
    "sparsity": "pidsl.relation.counting:sparsity",
    "a bound under assumptions": "pidsl.analysis.consequence:under",
    "bounds as JSON": "pidsl.analysis.saved:to_json",
    "bounds from JSON": "pidsl.analysis.saved:from_json",
    "the proof of a bound": "pidsl.analysis.rules:Proof",
    "ways to a bound": "pidsl.analysis.portfolio:explained",
    "degree for every length": "pidsl.analysis.questions:degree",
    "pairs for every length": "pidsl.analysis.questions:pairs",
    "sparsity for every length": "pidsl.analysis.questions:sparsity",
    "live": "pidsl.analysis.questions:live",
    "received": "pidsl.analysis.questions:received",
    "kv bytes": "pidsl.studies.cost:kv_bytes",
    "farthest": "pidsl.analysis.questions:farthest",
    "contiguous": "pidsl.analysis.questions:contiguous",
    "depth": "pidsl.analysis.questions:depth",
    "cost": "pidsl.studies.cost:cost",
    "attention_graph": "pidsl.studies.graph:attention_graph",
    "path": "pidsl.studies.graph:path",
    "reachable": "pidsl.analysis.layers.reachable:reachable",
    "communication": "pidsl.distributed.planning.traffic:communication",
    "plot": "pidsl.pictures.plot:plot",
    "plot of formulas": "pidsl.pictures.lines:plot",
    "plot of a front": "pidsl.pictures.front:plot",
    "plot of a plan for ranks": "pidsl.pictures.ranks:plot",
    "html": "pidsl.pictures.html:html",
    "svg": "pidsl.pictures.html:svg_of",
})  # fmt: skip

if not TYPE_CHECKING:  # what needs torch, or takes time to import, is imported when it is first asked for
    _LATER = {
        "Bound": "pidsl.analysis.bound",
        "Cache": "pidsl.runtime.cache.cache",
        "check_claims": "pidsl.studies.claims",
        "compare": "pidsl.studies.compare",
        "design": "pidsl.studies.design",
        "Explained": "pidsl.runtime.kernels.form",
        "Kernel": "pidsl.runtime.kernels.kernel",
        "Packing": "pidsl.interop.packing",
        "Regions": "pidsl.interop.regions",
        "compile": "pidsl.runtime.compile",
        "merge": "pidsl.runtime.kernels.merge",
        "no_leak": "pidsl.analysis.documents",
        "from_flex": "pidsl.interop.from_flex",
        "from_natten": "pidsl.interop.from_natten",
        "from_sdpa": "pidsl.interop.from_sdpa",
        "to_flex": "pidsl.interop.flex",
    }

    register()

    def __getattr__(name: str) -> Any:
        if name in _LATER:
            return getattr(import_module(_LATER[name]), name)
        return submodule(__name__, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "distributed", "nn", "patterns", "select", "testing"})
