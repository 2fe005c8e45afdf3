"""Checks that several families share."""

from __future__ import annotations

from pidsl.errors import TermError
from pidsl.language.sizes import size

__all__ = ["number"]


def number(value: object, name: str, where: str, *, least: int, reason: str) -> int:
    """`value` as an integer >= `least`; a symbol is refused.

    Args:
        value: what the caller passed.
        name: of the parameter.
        where: the call.
        least: the smallest one allowed.
        reason: why it cannot stay open, in words.

    Raises:
        TermError: a symbol, or anything `pidsl.language.sizes.size` refuses.
    """
    found = size(value, name, where, least=least)
    if not isinstance(found, int):
        raise TermError(f"{name} = {found!r}", f"a number: {reason}", where)
    return found
