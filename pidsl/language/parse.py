"""`parse`: DSL source to a term, by its own grammar over Python's syntax tree; nothing is ever evaluated.

    term ::= full | empty | causal | word(sizes) | where(lambda i, j: predicate) | pairs([(i, j), ...])
           | neighborhood(axes, axes, stride=axes, dilation=axes, causal=axes, border="clamp") | halo(axes, axes, axes)
           | term op term | ~term | term ** size | term.T | term.shift(size) | term.blocked(size) | term.dilated(size)
    op   ::= |  &  -  ^  @
    axes ::= integer | (integer, ...) | True | False | (True, ...)
    size ::= integer | symbol | size + size | size - size | size * size | size // size | size % size | -size

A name in the place of a size is a symbol; a name in the place of a term must be a word of the language.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from pidsl.errors import ParseError, PidslError
from pidsl.language import trace, vocabulary
from pidsl.language.expr import Index, Sub, Symbol, Truth, Var, simplify
from pidsl.language.heads import Heads, heads
from pidsl.language.sizes import is_symbol_name
from pidsl.language.terms import Term
from pidsl.language.trees import Steps, run

CONSTANTS: Mapping[str, Term] = {
    "full": vocabulary.full, "empty": vocabulary.empty, "causal": vocabulary.causal,
}  # fmt: skip
WORDS: Mapping[str, tuple[Callable[..., Term], tuple[str, ...]]] = {
    "window": (vocabulary.window, ("left", "right")),
    "stride": (vocabulary.stride, ("period", "phase")),
    "ring": (vocabulary.ring, ("radius",)),
    "keys": (vocabulary.keys, ("start", "stop", "step")),
    "queries": (vocabulary.queries, ("start", "stop", "step")),
    "blocks": (vocabulary.blocks, ("size",)),
}
GRIDS: Mapping[str, tuple[Callable[..., Term], tuple[str, ...], int]] = {  # and how many arguments there must be
    "neighborhood": (
        vocabulary.neighborhood, ("shape", "window", "stride", "dilation", "causal", "border"), 2,
    ),
    "halo": (vocabulary.halo, ("shape", "block", "halo"), 3),
}  # fmt: skip
METHODS = {"shift": ("by",), "blocked": ("size",), "dilated": ("step",)}
DEFAULTS: Mapping[str, Index | None] = {"right": 0, "phase": 0, "stop": None, "step": 1}
OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.BitOr: lambda a, b: a | b, ast.BitAnd: lambda a, b: a & b, ast.BitXor: lambda a, b: a ^ b,
    ast.Sub: lambda a, b: a - b, ast.MatMult: lambda a, b: a @ b,
}  # fmt: skip
ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b, ast.Mod: lambda a, b: a % b,
}  # fmt: skip
SPECIAL = {
    "lags": "integers or symbols: lags(0, 1, 2)",
    "pairs": "one list of pairs: pairs([(0, 1), (2, 0)])",
    "neighborhood": "a shape and a window: neighborhood((64, 64), 7)",
    "halo": "a shape, a block and a halo: halo((64, 64), 8, 3)",
    "where": "one lambda: where(lambda i, j: i - j < 4)",
}
COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b, ast.Gt: lambda a, b: a > b, ast.GtE: lambda a, b: a >= b,
}  # fmt: skip


def parse(text: str) -> Term:
    """The term that `text` spells; the inverse of `repr`.

    >>> parse("window(k) | stride(256) & causal")
    window(k) | stride(256) & causal

    Args:
        text: pidsl source; may have line breaks and `#` comments.

    Raises:
        ParseError: a syntax error, an unknown word, or a construct outside the grammar, with a caret under it.
        TermError: a size that its word does not accept.
    """
    if not isinstance(text, str):
        raise ParseError(f"parse({text!r})", "a string of pidsl source")
    return Parser(text).run()


def parse_heads(text: str) -> Heads:
    """The heads that `text` spells; the inverse of `repr`.

    >>> parse_heads("heads([(6, window(63)), (2, causal)])")[7]
    causal

    Raises:
        ParseError: anything but `heads([(count, term), ...])`, with a caret under what does not fit.
        TermError: a size that its word does not accept, or no heads in a group.
    """
    return Parser(text).heads()


class Parser:
    """One parse: holds the text, so that errors can point into it."""

    def __init__(self, text: str) -> None:
        self.text = text
        # The only strings of the grammar are the borders of a grid, so a # always starts a comment, and line breaks
        # mean nothing. Both become blanks, one for each character: positions in `line` are positions in `text`.
        self.line = re.sub(r"#[^\n]*|\s", lambda found: " " * len(found[0]), text)
        self.start = len(self.line) - len(self.line.lstrip())  # Python takes leading blanks for an indent

    def run(self) -> Term:
        """The term."""
        return self.term(self._expression())

    def heads(self) -> Heads:
        """The heads."""
        node = self._expression()
        match node:
            case ast.Call(func=ast.Name(id="heads"), args=[ast.List(elts=groups)], keywords=[]):
                return heads([self._group(group) for group in groups])
        raise self.fail(node, f"`{ast.unparse(node)}`", "heads([(count, term), ...])")

    def _group(self, node: ast.expr) -> tuple[int, Term]:
        match node:
            case ast.Tuple(elts=[ast.Constant(value=int(count)), term]):
                return count, self.term(term)
        raise self.fail(node, f"`{ast.unparse(node)}`", "a group of heads: (count, term)")

    def _expression(self) -> ast.expr:
        try:
            tree = ast.parse(self.line.strip(), mode="eval")
        except (SyntaxError, ValueError, MemoryError) as e:
            reason = getattr(e, "msg", None) or str(e) or "too large"
            offset = (getattr(e, "offset", None) or len(self.line.strip())) - 1  # 0: at the end
            given = f"syntax error: {reason.removesuffix(' (<unknown>, line 1)')}" if self.line.strip() else "no text"
            raise ParseError(given, "one pidsl expression", self._caret(offset)) from None
        except RecursionError:
            raise ParseError("too many operators inside one another", "a term of fewer parts") from None
        return tree.body

    def _caret(self, column: int) -> str:
        """The line of the text that holds position `column` of the stripped line, and a caret under it."""
        at = min(self.start + max(column, 0), max(len(self.text) - 1, 0))
        first = self.text.rfind("\n", 0, at) + 1
        shown = self.text[first:].split("\n", 1)[0].replace("\t", " ")
        return f"{shown}\n{' ' * (at - first)}^"

    def fail(self, node: ast.expr, given: str, expected: str, hint: str = "") -> ParseError:
        """An error that points at `node`."""
        before = self.line.strip().encode()[: node.col_offset]  # Python counts bytes
        return ParseError(given, expected, self._caret(len(before.decode(errors="ignore"))), hint)

    def term(self, node: ast.expr) -> Term:
        """`node` in the place of a term."""
        return run(self._term(node))

    def _term(self, node: ast.expr) -> Steps[Term]:
        match node:
            case ast.Name(id=name) if name in CONSTANTS:
                return CONSTANTS[name]
            case ast.Name(id=name):
                raise self._unknown(node, name)
            case ast.BinOp(left=a, op=op, right=b) if type(op) in OPERATORS:
                return OPERATORS[type(op)]((yield self._term(a)), (yield self._term(b)))
            case ast.BinOp(left=a, op=ast.Pow(), right=b):
                return (yield self._term(a)) ** self.size(b)
            case ast.UnaryOp(op=ast.Invert(), operand=a):
                return ~(yield self._term(a))
            case ast.Attribute(value=a, attr="T"):
                return (yield self._term(a)).T
            case ast.Call(func=ast.Attribute(value=a, attr=method)) if method in METHODS:
                return getattr((yield self._term(a)), method)(*self._arguments(node, METHODS[method]))
            case ast.Call(func=ast.Name(id=word)):
                return self._call(node, word)
            case ast.BoolOp():
                raise self.fail(node, "`and` or `or` between terms", "& or |", "a & b, a | b")
            case ast.UnaryOp(op=ast.Not()):
                raise self.fail(node, "`not` before a term", "~", "~a")
            case ast.Attribute(attr=name) | ast.Call(func=ast.Attribute(attr=name)):
                raise self.fail(node, f"attribute .{name}", "one of .T, .shift(by), .blocked(size), .dilated(step)")
            case _:
                raise self.fail(node, f"`{ast.unparse(node)}`", "a term: full, causal, window(...), a | b, ...")

    def _call(self, node: ast.Call, word: str) -> Term:
        match word, node.args, node.keywords:
            case "lags", args, []:
                return vocabulary.lags(*map(self.size, args))
            case "pairs", [ast.List() | ast.Tuple() as items], []:
                return vocabulary.pairs([self._pair(x) for x in items.elts])
            case "where", [ast.Lambda() as function], []:
                return self._where(function)
        if word in GRIDS:
            return self._grid(node, word)
        if word in SPECIAL:
            raise self.fail(node, f"`{ast.unparse(node)}`", SPECIAL[word])
        if word in CONSTANTS:
            raise self.fail(node, f"`{ast.unparse(node)}`", f"`{word}` without parentheses: it is a constant", word)
        if word not in WORDS:
            raise self._unknown(node, word)
        make, names = WORDS[word]
        return make(*self._arguments(node, names))

    def _grid(self, node: ast.Call, word: str) -> Term:
        make, names, needed = GRIDS[word]
        if len(node.args) > len(names):
            raise self.fail(node, f"{len(node.args)} arguments", f"at most {len(names)}: {', '.join(names)}")
        given = {name: self._axes(arg) for name, arg in zip(names, node.args, strict=False)}
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg not in names or keyword.arg in given:
                given_ = f"argument {keyword.arg or '**'}"
                raise self.fail(node, given_, f"each of {', '.join(names)} at most once")
            given[keyword.arg] = self._axes(keyword.value)
        if any(name not in given for name in names[:needed]):
            raise self.fail(node, f"`{ast.unparse(node)}`", SPECIAL[word])
        return make(**given)

    def _axes(self, node: ast.expr) -> Any:
        """An argument of a grid word: a number, a truth value or a border, or one for each axis."""
        match node:
            case ast.Tuple(elts=items):
                return tuple(map(self._axes, items))
            case ast.Constant(value=bool(value)) | ast.Constant(value=str(value)):
                return value
        found = self.size(node)
        if not isinstance(found, int):
            raise self.fail(node, f"`{ast.unparse(node)}`, a symbol, in a grid", "a number: grids are fixed")
        return found

    def _arguments(self, node: ast.Call, names: tuple[str, ...]) -> list[Index | None]:
        """Sizes by place or by name, in the order of `names`."""
        given: dict[str, Index | None] = {}
        if len(node.args) > len(names):
            raise self.fail(node, f"{len(node.args)} arguments", f"at most {len(names)}: {', '.join(names)}")
        for name, arg in zip(names, node.args, strict=False):
            given[name] = self._optional(arg) if name == "stop" else self.size(arg)
        for keyword in node.keywords:
            word, arg = keyword.arg, keyword.value
            if word is None or word not in names or word in given:
                raise self.fail(node, f"argument {word or '**'}", f"each of {', '.join(names)} at most once")
            given[word] = self._optional(arg) if word == "stop" else self.size(arg)
        optional = DEFAULTS if len(names) > 1 else {}  # the step of .dilated is none
        missing = [name for name in names if name not in given and name not in optional]
        if missing:
            raise self.fail(node, f"no {missing[0]} in `{ast.unparse(node)}`", f"a size for {missing[0]}")
        return [given.get(name, DEFAULTS.get(name)) for name in names]

    def _optional(self, node: ast.expr) -> Index | None:
        return None if isinstance(node, ast.Constant) and node.value is None else self.size(node)

    def size(self, node: ast.expr) -> Index:
        """`node` in the place of a size."""
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name) if is_symbol_name(name):
                return Symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=a):
                return simplify(Sub(0, self.size(a)))
            case ast.BinOp(left=a, op=op, right=b) if type(op) in ARITHMETIC:
                left, right = self.size(a), self.size(b)
                if right == 0 and isinstance(op, ast.FloorDiv | ast.Mod):
                    raise self.fail(node, f"`{ast.unparse(node)}` divides by zero", "a divisor that is not 0")
                return ARITHMETIC[type(op)](left, right)
        hint = "lambda i, j, n, m: ... where the lengths matter" if isinstance(node, ast.Name) else ""
        raise self.fail(node, f"`{ast.unparse(node)}` as a size", "an integer or a symbol", hint)

    def _pair(self, node: ast.expr) -> tuple[int, int]:
        match node:
            case ast.Tuple(elts=[ast.Constant(value=int(i)), ast.Constant(value=int(j))]):
                return i, j
            case _:
                raise self.fail(node, f"`{ast.unparse(node)}`", "a pair of integers", "pairs([(0, 1), (2, 0)])")

    def _where(self, node: ast.Lambda) -> Term:
        a = node.args
        names = [arg.arg for arg in a.args]
        plain = not (a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or a.defaults)
        if wrong := trace.wrong_parameters(names if plain else ["*"], "mask_mod"):
            raise self.fail(node, f"`lambda {ast.unparse(a)}`", f"a lambda of {wrong[0]}", "lambda i, j: i - j < 4")
        scope = {name: trace.TracedIndex(Var(v)) for name, v in zip(names, "ijnm", strict=False)}
        try:
            value = self._value(node.body, scope)
        except RecursionError:
            raise self.fail(node, "too many operators inside one another", "a predicate of fewer") from None
        try:
            return vocabulary.where_pred(trace.as_pred(value))
        except PidslError as e:
            raise self.fail(node.body, e.given, e.expected, e.hint) from None

    def _value(self, node: ast.expr, scope: Mapping[str, Any]) -> Any:
        """Part of a predicate, computed on traced positions (which check it)."""
        try:
            return self._traced(node, scope)
        except ParseError:
            raise
        except PidslError as e:
            raise self.fail(node, e.given, e.expected, e.hint) from None
        except TypeError:
            raise self.fail(node, f"`{ast.unparse(node)}` in a predicate", trace.WORDS) from None

    def _traced(self, node: ast.expr, scope: Mapping[str, Any]) -> Any:
        match node:
            case ast.Name(id=name) if name in scope:
                return scope[name]
            case ast.Constant(value=bool(value)):
                return trace.TracedPred(Truth(value))
            case ast.Constant() | ast.Name():
                return trace.TracedIndex(self.size(node))
            case ast.BinOp(left=a, op=op, right=b) if type(op) in ARITHMETIC:
                return ARITHMETIC[type(op)](self._value(a, scope), self._value(b, scope))
            case ast.BinOp(left=a, op=ast.BitOr() | ast.BitAnd() | ast.BitXor() as op, right=b):
                return OPERATORS[type(op)](self._value(a, scope), self._value(b, scope))
            case ast.UnaryOp(op=ast.USub(), operand=a):
                return -self._value(a, scope)
            case ast.UnaryOp(op=ast.Invert(), operand=a):
                return ~self._value(a, scope)
            case ast.Compare(left=a, ops=[op], comparators=[b]) if type(op) in COMPARISONS:
                return COMPARISONS[type(op)](self._value(a, scope), self._value(b, scope))
            case ast.Compare():
                raise self.fail(node, "a chained comparison", "one comparison at a time", "(lo <= x) & (x <= hi)")
            case ast.BoolOp():
                raise self.fail(node, "`and` or `or` in a predicate", "& or |", "(a) & (b), (a) | (b)")
            case ast.Call(func=ast.Name(id="abs"), args=[a], keywords=[]):
                return abs(self._value(a, scope))
            case ast.Call(func=ast.Name(id="minimum"), args=[a, b], keywords=[]):
                return trace.minimum(self._value(a, scope), self._value(b, scope))
            case ast.Call(func=ast.Name(id="maximum"), args=[a, b], keywords=[]):
                return trace.maximum(self._value(a, scope), self._value(b, scope))
            case _:
                raise self.fail(node, f"`{ast.unparse(node)}` in a predicate", trace.WORDS)

    def _unknown(self, node: ast.expr, name: str) -> ParseError:
        if name in WORDS:
            return self.fail(node, f"`{name}` without its sizes", f"{name}({', '.join(WORDS[name][1])})")
        if name in SPECIAL:
            return self.fail(node, f"`{name}` without its arguments", SPECIAL[name])
        known = [*CONSTANTS, *WORDS, *SPECIAL]
        close = difflib.get_close_matches(name, known, n=1)
        return self.fail(node, f"unknown word {name!r}", f"one of {', '.join(known)}", close[0] if close else "")
