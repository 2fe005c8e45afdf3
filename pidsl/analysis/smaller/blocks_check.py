"""Verifies formulas for patterns between blocks: the premises say what is known between blocks, isl that tokens attend
each other as their blocks do, and the formula is what that comes to.

What it comes to is written down by the same rules (`between`) when a formula is found and here. So it is compared once
more with masks, and with isl's counts, of tokens.
"""

from __future__ import annotations

from random import Random

import islpy as isl
import sympy

from pidsl.analysis.bound import ANY, Bound
from pidsl.analysis.counting import elsewhere
from pidsl.analysis.counting.lattice import square
from pidsl.analysis.formulas.read import function
from pidsl.analysis.measured import refuted
from pidsl.analysis.smaller.between import Levels, assumed, between, levels, questions, unlike
from pidsl.analysis.smaller.block_keys import in_blocks, keys_function, lengths
from pidsl.analysis.verdict import Verdict, failed
from pidsl.errors import TooHardError
from pidsl.language.terms import Term
from pidsl.relation.isl import limited, read_set

EQUAL = 300_000  # operations of isl for comparing a pattern with that of its blocks
LONGEST = 800  # tokens whose layers are multiplied
SHORT, FEW = 40, 8  # all lengths below, all of so many whole blocks, and so many longer ones
WORK = 1e11  # multiplications for the layers of one of them
DEEP = 3  # layers of them, where there are any number


def check_blocks(bound: Bound) -> Verdict:
    """The formula follows from what is known between blocks."""
    fact = bound.certificate.fact
    size, parts = fact("size"), (fact("off"), fact("low"), fact("high"))
    if not (isinstance(size, int) and size >= 1 and all(isinstance(x, Term) and not x.symbols for x in parts)):
        return failed("no blocks")
    found = Levels(size, *parts)
    if why := _other(bound.term, found):
        return failed(why)
    if why := unlike(bound.quantity, found):
        return failed(why)
    wanted, premises = questions(bound.question, found), bound.certificate.premises
    if [p.question for p in premises] != [*wanted] or not all(p.is_exact for p in premises):
        return failed(f"not the premises {', '.join(q.quantity for q in wanted)} between blocks")
    if set(bound.assumptions) != set(assumed(bound.question, found, premises)):
        return failed(f"assumptions {bound.assumptions}")
    known = [p.expr for p in premises]
    steps = [f"between blocks of {size}, {p.name} of {p.shown_subject}: proved by itself" for p in premises]
    if bound.quantity == "max degree":
        if why := _not_the_most(bound, found, known):
            return failed(why, *steps)
    elif not _same(bound.expr, expr := between(bound.quantity, found, known)):
        return failed(f"not the formula {expr}", *steps)
    if why := _measured(bound, size):
        return failed(why, *steps)
    return Verdict(True, (*steps, "the formula is what they come to, and what masks of tokens say"))


def _other(term: Term, found: Levels) -> str:
    """Why a pattern is not that of the blocks, "" if it is: for every n (isl), or by its form and by masks."""
    why = "tokens do not attend each other as these blocks do"
    try:
        with limited(f"whether {term!r} is a pattern between blocks", EQUAL):
            same = square(term, fresh=True).is_equal(square(found.rebuilt, fresh=True))
    except TooHardError:
        lengths = (
            *range(1, SHORT),
            *(found.size * b + k for b in (1, 2, 3) for k in (0, 1) if found.size * b < LONGEST),
        )
        same = found == levels(term) and all((term.mask(x) == found.rebuilt.mask(x)).all() for x in lengths)
    if not same:
        return why
    with limited("how blocks attend themselves"):
        own, one = square(found.low) | square(found.high), read_set("[n] -> { [i, i] : 0 <= i < n }")
        if not own.is_subset(one):
            return "blocks attend others in part"
        return "" if (square(found.off) & own).is_empty() else "a block attends itself twice"


def _same(a: sympy.Expr, b: sympy.Expr) -> bool:
    return bool(a == b or sympy.expand(a - b) == 0)


def _not_the_most(bound: Bound, found: Levels, known: list[sympy.Expr]) -> str:
    """Why a formula is not the most keys of any query, "" if it is."""
    with limited("the comparison of formulas between blocks"):
        keys = keys_function(found, known)
        claimed = in_blocks(function(bound.expr, ("n",)), found.size)
        if not (lengths(found.size) - claimed.domain()).is_empty():
            return "the formula has no value somewhere"
        if not keys.gt_set(claimed).is_empty():
            return "some query has more keys"
        if not (lengths(found.size) - keys.eq_set(claimed).project_out(isl.dim_type.param, 2, 2)).is_empty():
            return "for some n no query has as many keys"
    return ""


# -- against tokens ----------------------------------------------------------------------------------------------------


def _measured(bound: Bound, size: int) -> str:
    """Where masks of tokens, or isl's counts of them, contradict the formula; "" if nowhere."""
    if bound.quantity not in ("depth", "farthest", "contiguous"):
        return elsewhere.differs(bound)
    draw = Random(f"{bound.quantity} of {bound.shown_subject} between blocks")
    blocks = range(1, max(2, LONGEST // size) + 1)
    few = {size * b + k for b in blocks[:FEW] for k in (-1, 0, 1)} | {*range(1, SHORT)}
    more = {size * b + k for b in blocks for k in (0, draw.randrange(size))}
    some = sorted(few | {*draw.sample(sorted(more), min(len(more), FEW))})
    layers = (1, DEEP) if bound.question.layers == ANY else (0,)
    return refuted(
        bound, ({"n": tokens} | ({"L": count} if count else {}) for tokens in some for count in layers), WORK
    )
