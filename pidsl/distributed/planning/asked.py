"""What a plan for ranks is asked for: patterns by layer and head, tokens, ranks, sizes; all of it checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pidsl.analysis.sizes import DTYPES
from pidsl.distributed.planning.choose import Widths, candidates
from pidsl.distributed.tokens.parts import parts
from pidsl.distributed.tokens.shards import Kind, Shards
from pidsl.errors import ArgumentError, SizeError, SymbolError, TermError
from pidsl.language.gate import Gate
from pidsl.language.heads import Heads
from pidsl.language.recipe import Recipe
from pidsl.language.schedule import Schedule
from pidsl.language.terms import Term, is_chosen, is_confined, within

MOST = 1 << 30  # tokens: pairs are counted in 64 bits
RANKS = 1 << 20
WHERE = "plan(...)"


@dataclass(frozen=True)
class Layer:
    """The patterns of a layer that have a softmax of their own, and the query heads of each."""

    heads: Mapping[Term, tuple[int, ...]]

    def by_key_head(self, group: int) -> dict[tuple[Term, ...], int]:
        """How many key heads, of so many query heads each, are for the same patterns."""
        of: dict[int, tuple[Term, ...]] = {}
        for term, heads in self.heads.items():
            for head in sorted({head // group for head in heads}):
                of[head] = (*of.get(head, ()), term)
        found: dict[tuple[Term, ...], int] = {}
        for terms in of.values():
            found[terms] = found.get(terms, 0) + 1
        return found


@dataclass(frozen=True)
class Asked:
    """A checked question.

    Args:
        pattern: a term, heads, gate or layers.
        n: tokens.
        ranks: how many share them.
        heads, kv_heads: query heads and key heads.
        head_dim, value_dim: elements of a row of q and k, and of a row of v.
        dtype: of q, k and v.
        sharding: "auto", a kind, or which rank has which token.
    """

    pattern: Any
    n: int
    ranks: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    dtype: str
    sharding: str | Shards

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The patterns of each layer."""
        each = tuple(self.pattern) if isinstance(self.pattern, Schedule) else (self.pattern,)
        return tuple(Layer(_heads(x, self.heads)) for x in each)

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.heads // self.kv_heads

    @property
    def one(self) -> Widths:
        """Bytes of rows of one head."""
        size = DTYPES[self.dtype]
        result = self.value_dim * size + max(4, size)  # lse: float32, float64 for float64
        return Widths((self.head_dim + self.value_dim) * size, self.head_dim * size, result)

    def widths(self, heads: tuple[int, ...]) -> Widths:
        """Bytes of rows of some query heads, and of the key heads that they share."""
        one, keys = self.one, len({head // self.group for head in heads})
        return Widths(one.keys * keys, one.queries * len(heads), one.results * len(heads))

    @property
    def shardings(self) -> list[Shards]:
        """Those to choose from."""
        if isinstance(self.sharding, Shards):
            return [self.sharding]
        terms = dict.fromkeys(term for layer in self.layers for term in layer.heads)
        cut = [part for term in terms if not is_chosen(term) for part in parts(term)]
        found = candidates(cut, self.n, self.ranks)
        if self.sharding == "auto":
            return found
        own = [x for x in found if x.kind == self.sharding]
        return own or [Shards(self.n, self.ranks, "classes", self.ranks)]

    def rank(self, x: Any, name: str) -> int:
        """A rank, checked."""
        return _number(x, name, 0, self.ranks - 1, "between(...)")


def asked(
    pattern: Any, n: Any, ranks: Any, kv_heads: Any, heads: Any, dims: tuple[Any, Any], dtype: Any, sharding: Any
) -> Asked:
    """A question, checked before any work.

    Raises:
        TermError: no pattern, one with symbols, or one of documents.
        SizeError: a number that is none, or too large or small; heads that key heads do not divide.
        ArgumentError: an unknown dtype or sharding.
    """
    of = pattern.of if isinstance(pattern, Recipe) else pattern
    for term in _terms(of):
        if term.symbols:
            numbers = ", ".join(f"{name}=64" for name in sorted(term.symbols))
            raise SymbolError(f"{term!r}", "numbers for all sizes", WHERE, f"bind({numbers})")
        if is_confined(term):
            expected = "a pattern without `documents`: a plan is for one document"
            raise TermError(
                f"{term!r}", expected, WHERE, f"the pattern within a document: plan({within(term)[0]!r}, ...)"
            )
    checked = {
        "n": _number(n, "n", 1, MOST),
        "ranks": _number(ranks, "ranks", 1, RANKS),
        "kv_heads": _number(kv_heads, "kv_heads", 1),
        "head_dim": _number(dims[0], "head_dim", 1),
        "value_dim": _number(dims[0] if dims[1] is None else dims[1], "value_dim", 1),
    }
    own = {len(x) for x in (of if isinstance(of, Schedule) else [of]) if isinstance(x, Heads)}
    usual = next(iter(own), checked["kv_heads"])
    count = usual if heads is None else _number(heads, "heads", 1)
    if own - {count}:
        given = f"heads = {count}" if heads is not None else f"layers of {' and '.join(map(str, sorted(own)))} heads"
        raise SizeError(given, f"{usual}, as many as the pattern has", WHERE)
    if count % checked["kv_heads"]:
        raise SizeError(f"kv_heads = {checked['kv_heads']}", f"a divisor of heads = {count}", WHERE)
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentError(f"dtype = {dtype!r}", f"one of {', '.join(DTYPES)}", WHERE)
    if isinstance(sharding, Shards):
        if (sharding.n, sharding.ranks) != (checked["n"], checked["ranks"]):
            raise ArgumentError(f"sharding = {sharding!r}", f"of n = {n} tokens over {ranks} ranks", WHERE)
    elif sharding not in ("auto", *get_args(Kind)):
        expected = f"one of {', '.join(map(repr, ('auto', *get_args(Kind))))}, or Shards"
        raise ArgumentError(f"sharding = {sharding!r}", expected, WHERE)
    return Asked(of, heads=count, dtype=name, sharding=sharding, **checked)


def _terms(of: Any) -> Iterator[Term]:
    match of:
        case Term():
            yield of
        case Heads():
            yield from of.distinct
        case Gate():
            yield from (term for _, term in of.branches)
        case Schedule():
            for layer in of:
                yield from _terms(layer)
        case _:
            given = f"{of!r} ({type(of).__name__})"
            raise TermError(given, "a term, heads, a gate, or layers", WHERE, "window(64) | stride(256) & causal")


def _heads(of: Any, count: int) -> dict[Term, tuple[int, ...]]:
    """The query heads of each pattern with a softmax of its own."""
    if isinstance(of, Heads):
        return of.distinct
    return dict.fromkeys(_terms(of), tuple(range(count)))


def _number(x: Any, name: str, least: int, most: int = (1 << 31) - 1, where: str = WHERE) -> int:
    if isinstance(x, bool) or not hasattr(x, "__index__") or not least <= int(x) <= most:
        raise SizeError(f"{name} = {x!r}", f"an integer from {least} to {most:,}", where)
    return int(x)
