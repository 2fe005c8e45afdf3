"""What goes with what: the parts of a kernel's specification, and the pairs of them that have no meaning together.

`REFUSED` is the only place that refuses a pair, and docs/reference/goes_with.md, which `page` writes, shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pidsl.errors import TermError
from pidsl.language.terms import Term, is_confined

PARTS: Mapping[str, str] = {  # how each is asked for
    "gate": "`gate(local=term, skip=term)`",
    "heads": "`heads([(count, term), ...])`",
    "layers": "`layers([term, ...])`",
    "summaries": "`summaries(term, [spans(...), ...])`",
    "score": "`score(softcap=..., alibi=True, ...)`",
    "dropout": "`score(dropout=...)`",
    "output gate": '`output_gate="head"`',
    "affine weights": "`affine=True`",
}


class Refusal(NamedTuple):
    """Why two parts do not go together, and what to write instead."""

    why: str
    hint: str = ""


REFUSED: Mapping[frozenset[str], Refusal] = {
    frozenset(pair): refusal
    for pair, refusal in {
        ("gate", "heads"): Refusal(
            "the branches of a gate are weighed for all heads of a call",
            "a kernel for each, called with its query heads: compile(gate)(q[:, :4], k, v, weights)",
        ),
        ("gate", "layers"): Refusal(
            "layers are patterns that information flows over; weights are given to one call",
            "a kernel for each layer: [pidsl.compile(layer) for layer in model]",
        ),
        ("gate", "summaries"): Refusal("a gate has a softmax for each branch, summaries are one softmax over all keys"),
        ("gate", "affine weights"): Refusal(
            "each branch of a gate has weights of its own", "a kernel with affine=True for each branch"
        ),
        ("heads", "summaries"): Refusal("the spans of a kernel are the same for all its heads"),
        ("layers", "summaries"): Refusal("layers are patterns of tokens, and spans are none"),
        ("summaries", "score"): Refusal("a span has no lag, and its key stands for several logits"),
        ("summaries", "dropout"): Refusal("a span has no lag, and its key stands for several logits"),
        ("summaries", "affine weights"): Refusal(
            "the value of a span is a softmax, and its tokens have no weights of their own"
        ),
    }.items()
}


def check_together(parts: Sequence[str], given: str, where: str = "") -> None:
    """Raise for two parts that do not go together.

    Args:
        parts: names of `PARTS`.
        given: what they are parts of, for the message.
        where: the call.

    Raises:
        TermError: a pair of them is refused.
    """
    for k, a in enumerate(parts):
        for b in parts[k + 1 :]:
            if refusal := REFUSED.get(frozenset((a, b))):
                raise TermError(given, f"{a} or {b}, one of the two: {refusal.why}", where, refusal.hint)


def check_inside(outer: str, value: object, given: str, where: str) -> None:
    """Raise for a value of a kind that does not go together with the kind it is put into.

    Args:
        outer: the kind.
        value: what is put into it.
        given, where: for the message.

    Raises:
        TermError: the pair is refused.
    """
    inner = getattr(type(value), "part", outer)
    if inner != outer:
        check_together((outer, inner), given, where)


def check_documents(terms: Iterable[Term], given: str, where: str) -> None:
    """Raise where some of the patterns that one kernel or model is made of are confined to documents, and others not.

    Args:
        terms: the patterns.
        given: what they are parts of, for the message.
        where: the call.

    Raises:
        TermError: `documents` is in some of them only.
    """
    parts = list(terms)
    if 0 < sum(map(is_confined, parts)) < len(parts):
        free = next(term for term in parts if not is_confined(term))
        expected = "`documents` in all of its patterns or in none: the others would see other documents"
        raise TermError(f"{given}, in which {free!r} is not confined to documents", expected, where, "a & documents")


def page() -> str:
    """docs/reference/goes_with.md."""
    names = list(PARTS)
    lines = [
        "# What goes with what",
        "",
        "Written by `pidsl.language.goes_with.page()` from the table that refuses pairs. A number refers to a reason",
        "below. Of two kinds of patterns, one may stand inside the other: layers of heads. `documents` goes with all",
        "kinds: it is in each of their patterns, or in none.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    reasons: list[str] = []
    for a in names:
        cells = []
        for b in names:
            if a == b:
                cells.append("")
            elif refusal := REFUSED.get(frozenset((a, b))):
                if refusal.why not in reasons:
                    reasons.append(refusal.why)
                cells.append(f"no ({reasons.index(refusal.why) + 1})")
            else:
                cells.append("yes")
        lines.append(f"| {a}: {PARTS[a]} | " + " | ".join(cells) + " |")
    hints = {refusal.why: refusal.hint for refusal in REFUSED.values()}
    lines.append("")
    for number, why in enumerate(reasons, 1):
        lines.append(f"{number}. {why}" + (f"; instead: {hints[why]}" if hints[why] else ""))
    return "\n".join(lines) + "\n"
