"""Rules: by which theorem a statement is verified, what it can be about, and who checks it.

What is trusted: the dense masks of the oracle (NumPy), isl, z3, and the checkers of the rules below. A checker reads a
bound, its certificate and nothing else; it imports no module that finds formulas. Before it is asked, dense masks are
compared with the statement at sizes of their own (`held_out`), and premises are verified by their own rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from pidsl.analysis import held_out
from pidsl.analysis.bound import Bound, Certificate
from pidsl.analysis.choices import any_chosen
from pidsl.analysis.documents import ACROSS, any_confined
from pidsl.analysis.formulas import smt
from pidsl.analysis.sizes import FLOPS, TENSORS
from pidsl.analysis.statements import (
    ALL,
    COSTS,
    DEPTH,
    EVERY,
    KV_COSTS,
    LAYERS,
    NUMBERS,
    PAGES,
    REACH,
    ROWS,
    SOME,
    STACKS,
    TERMS,
    TOKENS,
    WHOLE,
    WITH_RULES,
    About,
    any_,
    from_,
    maybe,
    misstated,
    named,
)
from pidsl.analysis.verdict import Verdict, failed, is_soon
from pidsl.errors import PidslError
from pidsl.relation.isl import in_turn

Principle = Literal["agreement", "induction", "reduction", "decision"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A way to verify.

    Args:
        theorem: one line for people: what is done, and what makes it a proof.
        principle: agreement of two functions of a known shape at as many points as determine them; induction over
            layers, lengths or lags; reduction to other statements; or a decision of isl or z3.
        about: statements that it can prove.
        checker: "module:function" that verifies a bound.
        confined: whether it may be about a pattern within any documents.
        chosen: whether it may be about a pattern from which calls choose.
    """

    theorem: str
    principle: Principle
    about: tuple[About, ...]
    checker: str
    confined: bool = False
    chosen: bool = False

    def check(self, bound: Bound) -> Verdict:
        """Verify a statement of this kind, whose premises are verified."""
        module, function = self.checker.split(":")
        check: Callable[[Bound], Verdict] = getattr(import_module(module), function)
        return check(bound)


RULES: dict[str, Rule] = {
    "first differences": Rule(
        "one more lag is one more key, for all values of the symbols (z3), and the first lag agrees",
        "induction",
        (About(TERMS, ("degree",)),),
        "pidsl.analysis.symbolic.differences:check_degree",
    ),
    "largest of degrees": Rule(
        "the degrees rise up to one query and fall from it on, for all values of the symbols (z3)",
        "induction",
        (About(TERMS, ("max degree",)),),
        "pidsl.analysis.symbolic.differences:check_largest",
    ),
    "layers by induction": Rule(
        "what L layers reach, by induction over L, and the formula from it, for all values of the symbols (z3)",
        "induction",
        (
            About(WITH_RULES, REACH, EVERY),
            About(WITH_RULES, ("depth",), {"of": named("causal")}),
        ),
        "pidsl.analysis.symbolic.induction:check_reach",
    ),
    "live keys by witness": Rule(
        "later queries attend these keys and no others, for all values of the symbols (z3)",
        "decision",
        (About(TERMS, ("live keys",)),),
        "pidsl.analysis.symbolic.live_check:check_live",
    ),
    "quasi-polynomial": Rule(
        "equal to exact counts at as many n of each chamber as determine a quasi-polynomial",
        "agreement",
        (About(NUMBERS, ("pairs",)),),
        "pidsl.analysis.counting.counts_check:check_pairs",
    ),
    "degree": Rule(
        "isl: the keys of each query are arithmetic progressions, whose sizes sum to the formula for all i and n",
        "decision",
        (About(NUMBERS, ("degree",)),),
        "pidsl.analysis.counting.degrees_check:check_degree",
    ),
    "largest degree": Rule(
        "isl: no query has more keys, and for every n some query has as many",
        "decision",
        (About(NUMBERS, ("max degree",)),),
        "pidsl.analysis.counting.degrees_check:check_maximum",
    ),
    "whole grids": Rule(
        "rows of the mask of a grid are products of rows of its axes, on each of which layers act alone",
        "reduction",
        (
            About(NUMBERS, ("pairs", "degree", "max degree", "live keys")),
            About(STACKS, REACH, {"layers": lambda x: from_(1, WHOLE)(x) or any_(x)}),
            About(STACKS, ("depth",), DEPTH),
        ),
        "pidsl.analysis.smaller.grids_check:check_grid",
    ),
    "live keys": Rule(
        "equal to exact counts at as many t of each chamber as determine a quasi-polynomial",
        "agreement",
        (
            About(NUMBERS, ("live keys",), ROWS),
            About(NUMBERS, ("live pages",), {**ROWS, "page": from_(1)}),
        ),
        "pidsl.analysis.counting.counts_check:check_live",
    ),
    "layers": Rule(
        "isl composes the layers and compares the formula for all n",
        "decision",
        (About(STACKS, REACH, LAYERS),),
        "pidsl.analysis.layers.check_composed:check_layers",
    ),
    "sums of lags": Rule(
        "the pairs are a matter of the lag: sums of lags, and induction on the number of layers",
        "induction",
        (
            About(STACKS, REACH, SOME),
            About(STACKS, ("depth",), DEPTH),
        ),
        "pidsl.analysis.layers.check_lags:check",
    ),
    "depth": Rule(
        "isl composes layer by layer, for all n; where none is enough, an invariant that holds of any number",
        "decision",
        (About(STACKS, ("depth",), DEPTH),),
        "pidsl.analysis.layers.check_composed:check_depth",
    ),
    "depth by tokens": Rule(
        "matrices for short n; for others isl composes enough layers, and follows tokens that lack keys after fewer",
        "agreement",
        (About(NUMBERS, ("depth",), DEPTH),),
        "pidsl.analysis.layers.check_tokens:check",
    ),
    "blocks": Rule(
        "tokens attend each other as their blocks do (isl): made of what is known between blocks, proved by itself",
        "reduction",
        (
            About(NUMBERS, ("pairs", "degree", "max degree", "live keys")),
            About(NUMBERS, REACH, SOME),
            About(NUMBERS, ("depth",), DEPTH),
        ),
        "pidsl.analysis.smaller.blocks_check:check_blocks",
    ),
    "short sequences": Rule(
        "of long gaps between tokens only the remainder matters, so dense masks of short sequences decide",
        "agreement",
        (About(NUMBERS, ("depth",), DEPTH), About(STACKS, REACH, SOME)),
        "pidsl.analysis.layers.check_short:check",
    ),
    "matrices": Rule(
        "boolean matrices for this n, until they repeat",
        "decision",
        (About(STACKS, ("depth",), {**DEPTH, "n": from_(1)}),),
        "pidsl.analysis.layers.check_composed:check_matrices",
    ),
    "form in L": Rule(
        "isl verifies the pairs of L layers by induction on L, as a form in L or as some that come again",
        "induction",
        (About(NUMBERS, REACH, EVERY),),
        "pidsl.analysis.layers.check_composed:check_form",
    ),
    "second differences": Rule(
        "the second differences in n are the keys gained, for all values of the symbols (z3), and n = 0, 1 agree",
        "induction",
        (About(TERMS, ("pairs",)),),
        "pidsl.analysis.symbolic.differences:check_pairs",
    ),
    "tensor sizes": Rule(
        "the shapes of the tensors that are read or written",
        "decision",
        (About(TERMS, (*TENSORS,), COSTS),),
        "pidsl.analysis.sizes:check_sizes",
        confined=True,
        chosen=True,
    ),
    "no layer": Rule(
        "without a layer, every token is itself",
        "decision",
        (About(ALL, REACH, {"layers": from_(0, 0)}),),
        "pidsl.analysis.sizes:check_no_layer",
    ),
    "documents apart": Rule(
        "isl: of what programs compute of a document, every pair stays in it, for all starts, lengths and offsets",
        "decision",
        (About(TERMS, (ACROSS,)),),
        "pidsl.analysis.documents:check_apart",
        confined=True,
        chosen=True,
    ),
    "corners": Rule(
        "a sum of corners of the (query, key) plane, to which a key and a query more add what they say (z3)",
        "induction",
        (About(TERMS, ("pairs", "degree")),),
        "pidsl.analysis.symbolic.differences:check_corners",
    ),
    "second differences, at most": Rule(
        "the second differences in n are at least the keys gained, for all values of the symbols (z3)",
        "induction",
        (About(TERMS, ("pairs",)),),
        "pidsl.analysis.symbolic.differences:check_pairs",
    ),
    "choice": Rule(
        "whatever calls choose lies between what is forced and all that is possible, at most a budget of keys further",
        "reduction",
        (
            About(TERMS, ("pairs", "degree", "max degree", "received keys")),
            About(TERMS, ("live keys",), ROWS),
            About(TERMS, ("live pages",), PAGES),
            About(ALL, REACH, SOME),
            About(ALL, ("depth",), DEPTH),
        ),
        "pidsl.analysis.choices_check:check",
        confined=True,
        chosen=True,
    ),
    "ranks": Rule(
        "keys before a rank's own are live at its first row, those after them within reach ahead (z3)",
        "reduction",
        (About(TERMS, ("received keys",)),),
        "pidsl.analysis.symbolic.ranks_check:check",
    ),
    "consequence": Rule(
        "follows from another statement about the same pattern, proved by itself",
        "reduction",
        (
            About(TERMS, ("pairs",), TOKENS),
            About(TERMS, ("max degree", "sparsity", "average degree"), {"n": maybe(from_(1))}),
            About(TERMS, ("decode bytes", *FLOPS), COSTS),
            About(TERMS, ("degree", ACROSS)),
            About(TERMS, ("live keys",), {**ROWS, **TOKENS}),
            About(TERMS, ("live pages",), PAGES),
            About(TERMS, ("kv bytes",), KV_COSTS),
            About(TERMS, ("received keys",), TOKENS),
            About(TERMS, ("received bytes",), KV_COSTS),
            About(ALL, REACH, SOME),
            About(ALL, ("depth",), DEPTH),
        ),
        "pidsl.analysis.consequence:check",
        confined=True,
        chosen=True,
    ),
}


def _is_certificate(x: object) -> bool:
    """Whether this names a rule, facts, and premises; what the facts are is for the rule to say."""
    if not (isinstance(x, Certificate) and isinstance(x.rule, str) and isinstance(x.premises, tuple)):
        return False
    named = isinstance(x.facts, tuple) and all(isinstance(f, tuple) and len(f) == 2 for f in x.facts)
    return named and all(isinstance(name, str) for name, _ in x.facts) and all(isinstance(p, Bound) for p in x.premises)


@in_turn
def verdict_of(bound: Bound, known: dict[Bound, Verdict] | None = None) -> Verdict:
    """Verify a bound from its statement and its certificate.

    That it is a statement of its rule, that no dense mask contradicts it, that its premises hold, and then by its rule.

    Args:
        bound: the statement.
        known: premises that were verified on the way, each once.
    """
    seen = {} if known is None else known
    if not bound.is_known:
        return failed("nothing is claimed")
    certificate = bound.certificate
    if not _is_certificate(certificate):
        return failed(f"no certificate: {certificate!r}")
    rule = RULES.get(certificate.rule)
    if rule is None:
        return failed(f"no rule {certificate.rule!r}")
    try:
        if why := misstated(bound, rule.about):
            return failed(why)
        if any_confined(bound.subject) and not (bound.question.allowed or rule.confined):
            return failed("of a pattern within documents, what is proved follows from all pairs that some allow")
        if any_chosen(bound.subject) and not rule.chosen:
            return failed("of a pattern from which calls choose, only what holds of every choice is proved")
        if not is_soon() and (why := held_out.refutation(bound, held_out.AGAIN)):
            return failed(why)
        steps: list[str] = []
        scripts: list[str] = []
        for premise in certificate.premises:
            if (found := seen.get(premise)) is None:
                found = seen[premise] = verdict_of(premise, seen)
            if not found.holds:
                return failed(f"its premise {premise.name} of {premise.shown_subject}: {found.failure}", *steps)
            steps += found.steps
            scripts += [found.smtlib] if found.smtlib else []
        own = rule.check(bound)
    except PidslError as e:
        return failed(str(e))
    except Exception as e:
        if not certificate.facts:
            raise
        return failed(f"its facts are not what {certificate.rule!r} needs: {e!r}")  # they may come from anywhere
    scripts += [own.smtlib] if own.smtlib else []
    return Verdict(own.holds, (*steps, *own.steps), own.failure, "\n(reset)\n".join(scripts))


@dataclass(frozen=True, slots=True)
class Proof:
    """The proof of a bound.

    Attributes:
        statement: the bound.
    """

    statement: Bound

    @property
    def summary(self) -> str:
        """How it is proved, in one line: by the rule, or by that of what it follows from."""
        certificate = self.statement.certificate
        if certificate.rule == "consequence" and certificate.premises:
            return certificate.premises[0].proof.summary
        rule = RULES.get(certificate.rule)
        return rule.theorem if rule else "none"

    def check(self) -> bool:
        """Verify the statement again, from nothing but the question, the formula, the assumptions and the certificate.

        Returns:
            True when every step holds; False when one fails or cannot be decided. `verdict()` says which.
        """
        return self.verdict().holds

    def verdict(self) -> Verdict:
        """As `check`, with the steps and the first failure."""
        return verdict_of(self.statement)

    def to_smtlib(self) -> str:
        """What an SMT solver is asked, as SMT-LIB 2 scripts, each to be answered `unsat`; a comment where none is.

        Scripts are separated by `(reset)`, so that the text can be given to any solver as it is.
        """
        with smt.writing():
            verdict = self.verdict()
        if not verdict.holds:
            return f"; not proved: {verdict.failure}\n"
        return verdict.smtlib or f"; proved without an SMT solver: {self.summary}\n"
