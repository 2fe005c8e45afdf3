"""The cheapest member of a family: every member is counted, and asked for its depth from the fewest pairs on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pidsl.analysis.bound import Bound
from pidsl.errors import PidslError, TooHardError
from pidsl.language.terms import Term, require_free
from pidsl.relation import counting
from pidsl.studies.compare import degree_at, depth_at, pairs_at, reason_of, terms_of
from pidsl.studies.members import Family, Member, Pattern, Ranges, members

COUNTED = 1 << 14  # tokens up to which keys are counted query by query


@dataclass(frozen=True)
class Found:
    """The best member: pairs of all layers, the largest degree in any."""

    member: Member
    pairs: int
    degree: int
    depth: Bound


def layers_of(pattern: Pattern, n: int, layers: int) -> tuple[Term, ...]:
    """The term of each layer; a schedule begins again after its last."""
    each = terms_of(pattern, n, layers)
    return tuple(each[layer % len(each)] for layer in range(layers))


def cheapest(family: Family, ranges: Ranges, n: int, layers: int, limit: int) -> tuple[Found | None, str]:
    """The member with the fewest pairs (then the smallest degree) whose depth at n is at most `layers`.

    Returns:
        It, or None; and why none fits, or what is not known of cheaper ones.

    Raises:
        TermError, SymbolError, SizeError: as `members` does.
        TooHardError: the pairs or the degree of a member are not known.
    """
    known: dict[Term, tuple[int, int]] = {}

    def counted(term: Term) -> tuple[int, int]:
        if term not in known:
            require_free(term, "what it costs and reaches")
            known[term] = _counted(term, n)
        return known[term]

    costs = []
    for member in members(family, ranges, "design(...)"):
        each = [counted(term) for term in layers_of(member.pattern, n, layers)]
        costs.append((sum(pairs for pairs, _ in each), max(degree for _, degree in each), member))
    if not costs:
        return None, "it has no members"
    costs.sort(key=lambda x: x[:2])
    unknown: list[str] = []
    nearest: list[tuple[float, Member]] = []  # the depth of members that are too deep
    wide: list[int] = []  # the degrees of members that connect, with more keys than the limit
    for pairs, degree, member in costs:
        if degree**layers < n or (wide and degree > limit):  # no query sees all, or nothing new is learnt
            continue
        try:
            depth = depth_at(member.pattern, n)
            reached = _reached(depth, n, layers)
        except PidslError as e:
            unknown.append(f"{member}: {reason_of(e)}")
            continue
        if reached > layers:
            nearest.append((reached, member))
        elif degree > limit:
            wide.append(degree)
        else:
            return Found(member, pairs, degree, depth), _unknown(unknown, "cheaper ")
    return None, _why(len(costs), n, layers, nearest, wide, unknown)


def _counted(term: Term, n: int) -> tuple[int, int]:
    """Pairs and the largest degree: query by query, or by formulas where there are many queries."""
    if n > COUNTED:
        answers = pairs_at(term, n), degree_at(term, n)
        if all(bound is None or bound.is_exact for _, bound in answers):
            return int(answers[0][0]), int(answers[1][0])
    keys = counting.degree(term, n)
    return int(keys.sum()), int(keys.max())


def _reached(depth: Bound, n: int, layers: int) -> float:
    """The depth at n.

    Raises:
        TooHardError: what is known does not tell whether it is at most `layers`.
    """
    found = float(depth(n=n))
    if not depth.is_exact and (found > layers) != (depth.relation == ">="):
        raise TooHardError(f"a depth {depth.relation} {found:g}", "one that is known")
    return found


def _unknown(unknown: list[str], kind: str) -> str:
    if not unknown:
        return ""
    many = f"the depth of {len(unknown):,} {kind}member{'s' * (len(unknown) != 1)} is not known"
    return f"{many} ({unknown[0]})"


def _why(
    many: int, n: int, layers: int, nearest: list[tuple[float, Member]], wide: list[int], unknown: list[str]
) -> str:  # fmt: skip
    """Why no member fits."""
    told = f"none of its {many:,} members connects {n:,} tokens in {layers} layer{'s' * (layers != 1)}"
    if wide:
        told = f"a member that connects {n:,} tokens in {layers} layers has {min(wide):,} keys for a query"
    elif nearest:
        depth, member = min(nearest, key=lambda x: x[0])
        if math.isfinite(depth):
            told += f"; {member} takes {depth:,.0f}"
    return "; ".join(filter(None, (told, _unknown(unknown, ""))))
