"""Python source as HTML, with its tokens told apart; by inline styles, so that it needs no style sheet."""

from __future__ import annotations

import builtins
import io
import keyword
import token
import tokenize
from collections.abc import Iterator
from html import escape

NAMES = frozenset(dir(builtins))
STYLES = {
    "keyword": "color:var(--pidsl-keyword,#7a3e9d)", "comment": "color:var(--pidsl-comment,#5f6b7a)",
    "string": "color:var(--pidsl-string,#00704f)", "number": "color:var(--pidsl-number,#a8430a)",
    "name": "color:var(--pidsl-name,#1f5fa8)", "builtin": "color:var(--pidsl-builtin,#8a6d00)",
}  # fmt: skip


def highlighted(source: str) -> str:
    """The text as HTML; as it is, where it is no Python.

    >>> highlighted("x = a < 2")
    'x = a &lt; <span style="color:var(--pidsl-number,#a8430a)">2</span>'
    """
    try:
        found = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError):
        return escape(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    parts: list[str] = []
    done = 0
    for (kind, text), (start, stop) in zip(_kinds(found), _spans(found, starts), strict=True):
        if kind and text and start >= done:
            parts.append(escape(source[done:start], quote=False))
            parts.append(f'<span style="{STYLES[kind]}">{escape(source[start:stop], quote=False)}</span>')
            done = stop
    return "".join([*parts, escape(source[done:], quote=False)])


def _spans(found: list[tokenize.TokenInfo], starts: list[int]) -> Iterator[tuple[int, int]]:
    for x in found:
        (a, first), (b, last) = x.start, x.end
        yield starts[min(a - 1, len(starts) - 1)] + first, starts[min(b - 1, len(starts) - 1)] + last


def _kinds(found: list[tokenize.TokenInfo]) -> Iterator[tuple[str, str]]:
    before = ""
    for x in found:
        kind = ""
        if x.type == token.NAME:
            if keyword.iskeyword(x.string):
                kind = "keyword"
            elif before in ("def", "class"):
                kind = "name"
            elif x.string in NAMES and before != ".":
                kind = "builtin"
        elif x.type == tokenize.COMMENT:
            kind = "comment"
        elif x.type == token.STRING:
            kind = "string"
        elif x.type == token.NUMBER:
            kind = "number"
        yield kind, x.string
        before = x.string
