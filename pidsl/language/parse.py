"""`parse`: DSL source to what it spells, by its own grammar over Python's syntax tree; nothing is ever evaluated.

    spec  ::= term | gate(name=term, ...) | heads([(count, term), ...]) | layers([term or heads, ...])
            | summaries(term, [spans(integer, term, of="block"), ...]) | score(name=value, ...)
            | a call of the library: pi_attention(63, 256) | compile(spec, backend="torch", score=score(...), ...)
    term  ::= full | empty | causal | word(values) | where(lambda i, j: predicate) | pairs([(i, j), ...])
            | term op term | ~term | term ** size | term.T | term.shift(size) | term.blocked(size) | term.dilated(size)
    op    ::= |  &  -  ^  @
    value ::= spec | size | number | True | False | None | "text" | (value, ...) | [value, ...]
    size  ::= integer | symbol | size + size | size - size | size * size | size // size | size % size | -size

Arguments go by place or by name, and are read as the annotations of the function that is called say. A name in the
place of a size is a symbol; a name in the place of a term must be a word of the language.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pidsl.errors import ParseError, PidslError
from pidsl.language import trace, vocabulary
from pidsl.language.door import behind
from pidsl.language.expr import Index, Sub, Symbol, Truth, Var, simplify
from pidsl.language.gate import Gate, gate
from pidsl.language.heads import Heads, heads
from pidsl.language.recipe import Recipe
from pidsl.language.schedule import Schedule, layers
from pidsl.language.score import Score, score
from pidsl.language.sizes import is_symbol_name
from pidsl.language.summaries import Spans, Summaries, spans, summaries
from pidsl.language.terms import Term
from pidsl.language.trees import Steps, run

CONSTANTS: Mapping[str, Any] = {
    name: word for name in vocabulary.__all__ if isinstance(word := getattr(vocabulary, name), Term)
}
WORDS: Mapping[str, Callable[..., Any]] = {
    name: getattr(vocabulary, name) for name in vocabulary.__all__ if name not in {"symbols", *CONSTANTS}
}
SPECS: Mapping[str, Callable[..., Any]] = {
    "gate": gate, "heads": heads, "layers": layers, "score": score, "spans": spans, "summaries": summaries,
    "compile": Recipe,
}  # fmt: skip
METHODS: Mapping[str, Callable[..., Term]] = {
    "shift": Term.shift, "blocked": Term.blocked, "dilated": Term.dilated,
}  # fmt: skip
OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.BitOr: lambda a, b: a | b, ast.BitAnd: lambda a, b: a & b, ast.BitXor: lambda a, b: a ^ b,
    ast.Sub: lambda a, b: a - b, ast.MatMult: lambda a, b: a @ b,
}  # fmt: skip
ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b, ast.Mod: lambda a, b: a % b,
}  # fmt: skip
EXAMPLES = {
    "lags": "integers or symbols: lags(0, 1, 2)",
    "pairs": "one list of pairs: pairs([(0, 1), (2, 0)])",
    "neighborhood": "a shape and a window: neighborhood((64, 64), 7)",
    "halo": "a shape, a block and a halo: halo((64, 64), 8, 3)",
    "where": "one lambda: where(lambda i, j: i - j < 4)",
    "gate": "a term for each name: gate(local=window(63), skip=stride(256))",
    "heads": "one list of groups: heads([(6, window(63)), (2, causal)])",
    "layers": "one list of layers: layers([window(63), causal])",
    "compile": "what to compile: compile(window(63), backend='torch')",
}
COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b, ast.LtE: lambda a, b: a <= b, ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b, ast.Gt: lambda a, b: a > b, ast.GtE: lambda a, b: a >= b,
}  # fmt: skip
KINDS: Mapping[type[Any], str] = {
    Gate: "a gate", Heads: "heads", Recipe: "a recipe", Schedule: "layers", Score: "a score", Spans: "spans",
    Summaries: "summaries",
}  # fmt: skip


def parse(text: str) -> Any:
    """What `text` spells: a term, gate, heads, layers, score, summaries, or a recipe; the inverse of `repr`.

    >>> parse("window(k) | stride(256) & causal")
    window(k) | stride(256) & causal
    >>> parse("layers([heads([(2, window(3)), (1, pi_attention(3, 8))]), causal])")
    layers([heads([(2, window(3)), (1, window(3) | lags(8))]), causal])

    Args:
        text: pidsl source; may have line breaks and `#` comments. The names of `pidsl.patterns.WRITTEN` are words too.

    Returns:
        What is written: typed Any, since only the text says which. `parse_term` is for terms alone.

    Raises:
        ParseError: a syntax error, an unknown word, or a construct outside the grammar, with a caret under it.
        TermError: a size that its word does not accept.
    """
    return Parser(text).read(Parser.spec)


def parse_term(text: str) -> Term:
    """The term that `text` spells.

    >>> parse_term("gate(local=window(3), skip=causal)")
    Traceback (most recent call last):
    pidsl.errors.ParseError: `gate(local=window(3), skip=causal)`, a gate
      expected: a term
    ...

    Raises:
        ParseError, TermError: as `parse`; something else is written than a term.
    """
    return Parser(text).read(Parser.term)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes: the annotations of its parameters, after `self` where it is a method.

    Args:
        places: names of the parameters that may be given by place.
        named: the annotations of those that may be given by name.
        needed: names of those without a default.
        more: the annotation of further ones by place, where there may be any.
        others: the annotation of further ones by name, where there may be any.
    """

    places: list[str]
    named: dict[str, ast.expr]
    needed: list[str]
    more: ast.expr | None
    others: ast.expr | None

    def kind(self, place: int) -> ast.expr:
        """The annotation of the argument at a place."""
        found = self.named[self.places[place]] if place < len(self.places) else self.more
        assert found is not None
        return found


@cache
def _signature(function: Callable[..., Any]) -> Signature:
    takes = Signature([], {}, [], None, None)
    for p in inspect.signature(function).parameters.values():
        if p.name == "self":
            continue
        kind = ast.parse(str(p.annotation), mode="eval").body
        if p.kind is p.VAR_POSITIONAL:
            takes = replace(takes, more=kind)
        elif p.kind is p.VAR_KEYWORD:
            takes = replace(takes, others=kind)
        else:
            takes.named[p.name] = kind
            takes.places.extend([p.name] * (p.kind is not p.KEYWORD_ONLY))
            takes.needed.extend([p.name] * (p.default is p.empty))
    return takes


class Parser:
    """One parse: holds the text, so that errors can point into it."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise ParseError(f"parse({text!r})", "a string of pidsl source")
        self.text = text
        # No string of the grammar holds a # or a line break, so a # always starts a comment, and line breaks mean
        # nothing. Both become blanks, one for each character: positions in `line` are positions in `text`. So does the
        # `pidsl.` before a name, as kernels print it.
        self.line = re.sub(r"#[^\n]*|\s|\bpidsl\.(?=\w)", lambda found: " " * len(found[0]), text)
        self.start = len(self.line) - len(self.line.lstrip())  # Python takes leading blanks for an indent

    def read(self, part: Callable[[Parser, ast.expr], Any]) -> Any:
        """What the whole text is, as `part` reads it."""
        node = self._expression()
        try:
            return part(self, node)
        except RecursionError:
            raise ParseError("too many parts inside one another", "fewer", self._caret(0)) from None

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

    @contextmanager
    def _at(self, node: ast.expr) -> Iterator[None]:
        """What a word refuses points at `node`."""
        try:
            yield
        except ParseError:
            raise
        except PidslError as e:
            raise type(e)(e.given, e.expected, self.fail(node, "", "").where, e.hint) from None

    def spec(self, node: ast.expr) -> Any:
        """`node` where anything may stand that has a meaning of its own."""
        match node:
            case ast.Call(func=ast.Name(id=word)):
                return self._call(node, word)
        return self.term(node)

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
                left, right = (yield self._term(a)), (yield self._term(b))
                with self._at(node):
                    return OPERATORS[type(op)](left, right)
            case ast.BinOp(left=a, op=ast.Pow(), right=b):
                left, power = (yield self._term(a)), self.size(b)
                with self._at(b):
                    return left**power
            case ast.UnaryOp(op=ast.Invert(), operand=a):
                return ~(yield self._term(a))
            case ast.Attribute(value=a, attr="T"):
                return (yield self._term(a)).T
            case ast.Call(func=ast.Attribute(value=a, attr=method)) if method in METHODS:
                of: Term = yield self._term(a)
                args, named = self.arguments(node, METHODS[method])
                with self._at(node):
                    return METHODS[method](of, *args, **named)
            case ast.Call(func=ast.Name(id=word)):
                found = self._call(node, word)
                if not isinstance(found, Term):
                    raise self.fail(node, f"`{ast.unparse(node)}`, {KINDS.get(type(found), 'several terms')}", "a term")
                return found
            case ast.BoolOp():
                raise self.fail(node, "`and` or `or` between terms", "& or |", "a & b, a | b")
            case ast.UnaryOp(op=ast.Not()):
                raise self.fail(node, "`not` before a term", "~", "~a")
            case ast.Attribute(attr=name) | ast.Call(func=ast.Attribute(attr=name)):
                raise self.fail(node, f"attribute .{name}", "one of .T, .shift(by), .blocked(size), .dilated(step)")
            case _:
                raise self.fail(node, f"`{ast.unparse(node)}`", "a term: full, causal, window(...), a | b, ...")

    def _call(self, node: ast.Call, word: str) -> Any:
        match word, node.args, node.keywords:
            case "where", [ast.Lambda() as function], []:
                return self._where(function)
            case "where", _, _:
                raise self.fail(node, f"`{ast.unparse(node)}`", EXAMPLES[word])
        if word in CONSTANTS:
            raise self.fail(node, f"`{ast.unparse(node)}`", f"`{word}` without parentheses: it is a constant", word)
        if (make := WORDS.get(word) or SPECS.get(word) or behind("library").get(word)) is None:
            raise self._unknown(node, word)
        args, named = self.arguments(node, make)
        try:
            with self._at(node):
                return make(*args, **named)
        except PidslError:
            raise
        except (AttributeError, TypeError, ValueError) as e:
            raise self.fail(node, f"`{ast.unparse(node)}`: {e}", _shown(word, make)) from None

    def arguments(self, node: ast.Call, function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
        """The values of a call by place and by name, each read as the function's annotation of it says."""
        takes = _signature(function)
        places = takes.places
        if len(node.args) > len(places) and takes.more is None:
            most = f"at most {len(places)}: {', '.join(takes.named)}"
            expected = most if places else _shown(ast.unparse(node.func), function)
            raise self.fail(node, f"{len(node.args)} arguments", expected)
        args = [self._as(arg, takes.kind(k)) for k, arg in enumerate(node.args)]
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            name, kind = keyword.arg, takes.named.get(keyword.arg or "", takes.others)
            if name is None or kind is None or name in named or name in places[: len(args)]:
                each = f"each of {', '.join(takes.named)} at most once"
                expected = each if takes.named else _shown(ast.unparse(node.func), function)
                raise self.fail(node, f"argument {name or '**'}", expected)
            named[name] = self._as(keyword.value, kind)
        for name in takes.needed:
            if name not in named and name not in places[: len(args)]:
                expected = _shown(ast.unparse(node.func), function)
                raise self.fail(node, f"no {name} in `{ast.unparse(node)}`", expected)
        return args, named

    def _as(self, node: ast.expr, kind: ast.expr) -> Any:
        """`node` in the place of an argument, as its annotation says."""
        match kind, node:
            case ast.Name(id="Index"), _:
                return self.size(node)
            case ast.BinOp(left=ast.Name(id="Index"), right=ast.Constant()), _:
                return None if isinstance(node, ast.Constant) and node.value is None else self.size(node)
            case ast.Name(id="Term"), _:
                return self.term(node)
            case ast.Name(id="int"), _:
                if not isinstance(number := self.size(node), int):
                    raise self.fail(node, f"`{ast.unparse(node)}`, a symbol", "a number")
                return number
            case ast.Subscript(value=ast.Name(id="Iterable"), slice=item), ast.List(elts=items) | ast.Tuple(elts=items):
                return [self._as(x, item) for x in items]
            case ast.Subscript(value=ast.Name(id="Iterable"), slice=item), _:
                if not isinstance(found := self.value(node), tuple | Schedule):  # what a call of the library may give
                    raise self.fail(node, f"`{ast.unparse(node)}`", f"a list: each a {ast.unparse(item)}")
                return found
            case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=kinds)), _:
                if isinstance(node, ast.Tuple) and len(node.elts) == len(kinds):
                    return tuple(self._as(x, own) for x, own in zip(node.elts, kinds, strict=True))
                raise self.fail(node, f"`{ast.unparse(node)}`", f"({', '.join(map(ast.unparse, kinds))})")
        return self.value(node)

    def value(self, node: ast.expr) -> Any:
        """`node` in the place of an argument that may be anything."""
        match node:
            case ast.Tuple(elts=items):
                return tuple(map(self.value, items))
            case ast.List(elts=items):
                return list(map(self.value, items))
            case ast.Constant(value=bool() | float() | str() | None as plain):
                return plain
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=float(number))):
                return -number
        return self.size(node) if _is_size(node) else self.spec(node)

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
        words, library = {**WORDS, "where": trace.where, **SPECS}, behind("library")
        if known := words.get(name) or library.get(name):
            return self.fail(node, f"`{name}` without its arguments", _shown(name, known))
        close = difflib.get_close_matches(name, [*CONSTANTS, *words, *library], n=1)
        listed = ", ".join([*CONSTANTS, *words])
        expected = f"one of {listed}, or a name of pidsl.patterns"
        return self.fail(node, f"unknown word {name!r}", expected, close[0] if close else "")


def _shown(name: str, function: Callable[..., Any]) -> str:
    """How a function is called."""
    return EXAMPLES.get(name) or f"{name}({', '.join(_signature(function).named)})"


def _is_size(node: ast.expr) -> bool:
    """Whether an expression that may be a term or a size is a size, by what stands first in it."""
    match node:
        case ast.Constant(value=int()) | ast.UnaryOp(op=ast.USub()):
            return True
        case ast.Name(id=name):
            return is_symbol_name(name)
        case ast.BinOp(left=left, op=op):
            return type(op) in ARITHMETIC and _is_size(left)
    return False
