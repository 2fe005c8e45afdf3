"""What a key is in bytes, and between how many ranks it moves: sizes of a model, for budgets in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from pidsl.analysis.layers.stacks import number
from pidsl.analysis.sizes import DTYPES
from pidsl.errors import ArgumentError, SizeError, TooHardError
from pidsl.language.schedule import layers as layers_with
from pidsl.language.terms import Term, is_chosen

if TYPE_CHECKING:
    from pidsl.distributed.planning.plan import Plan

IN_BYTES = ("cache_bytes", "exchange_bytes")  # of a budget


class Given(TypedDict, total=False):
    """Sizes by their names, as `pidsl.distributed.plan` takes them."""

    kv_heads: int
    head_dim: int
    heads: int
    value_dim: int
    dtype: str
    ranks: int


@dataclass(frozen=True)
class Sizes:
    """Of a model, one sequence at a time.

    Args:
        kv_heads, heads: key heads and query heads of a layer.
        head_dim, value_dim: elements of a row of q and k, and of a row of v.
        dtype: of q, k and v.
        ranks: how many share the tokens; None: that is not known.
    """

    kv_heads: int
    heads: int
    head_dim: int
    value_dim: int
    dtype: str
    ranks: int | None = None

    @property
    def key(self) -> int:
        """Bytes of a row of k and one of v, of all key heads."""
        return self.kv_heads * (self.head_dim + self.value_dim) * DTYPES[self.dtype]

    @property
    def query(self) -> int:
        """Bytes of a row of q, of all query heads."""
        return self.heads * self.head_dim * DTYPES[self.dtype]

    @property
    def result(self) -> int:
        """Bytes of a row of out and its lse, of all query heads."""
        size = DTYPES[self.dtype]
        return self.heads * (self.value_dim * size + max(4, size))

    def plan(self, terms: Sequence[Term], n: int) -> Plan:
        """How layers are shared out among the ranks.

        Raises:
            TooHardError: what moves cannot be counted; or calls choose keys, so that it is not one number.
        """
        from pidsl.distributed.planning.plan import plan

        if self.ranks is None:
            raise TooHardError("a plan for an unknown number of ranks", "a number", hint="ranks=8")
        if any(map(is_chosen, terms)):
            raise TooHardError("what ranks exchange where calls choose keys", "a pattern without a choice")
        return plan(
            layers_with(terms), n, self.ranks, kv_heads=self.kv_heads, heads=self.heads, head_dim=self.head_dim,
            value_dim=self.value_dim, dtype=self.dtype,
        )  # fmt: skip

    def __str__(self) -> str:
        dims = str(self.head_dim) if self.head_dim == self.value_dim else f"{self.head_dim} + {self.value_dim}"
        return f"{self.kv_heads} key head{'s' * (self.kv_heads != 1)} of {dims} {self.dtype} elements"


def checked_sizes(given: Mapping[str, Any], budget: Mapping[str, int], where: str) -> Sizes | None:
    """The sizes of a model; None where none are given, and none are needed.

    Raises:
        ArgumentError: a name or a dtype that is none; sizes, or a budget in bytes, without what makes it one.
        SizeError: a number that is none; key heads that do not divide query heads.
    """
    for name in given:
        if name not in Given.__annotations__:
            raise ArgumentError(f"{name} = {given[name]!r}", f"one of {', '.join(Given.__annotations__)}", where)
    in_bytes = [name for name in IN_BYTES if name in budget]
    if not given and not in_bytes:
        return None
    for name in ("kv_heads", "head_dim"):
        if given.get(name) is None:
            what = f"a budget of {in_bytes[0]!r}" if in_bytes else ", ".join(f"{k} = {v!r}" for k, v in given.items())
            hint = "kv_heads=8, head_dim=128"
            raise ArgumentError(f"{what} without {name}", "what makes a key a number of bytes", where, hint)
    if "exchange_bytes" in budget and given.get("ranks") is None:
        what, expected = "a budget of 'exchange_bytes' without ranks", "how many ranks share the tokens"
        hint = 'ranks=8, or a budget of "received": keys that a rank gets at most, however many there are'
        raise ArgumentError(what, expected, where, hint)
    found = {name: number(given[name], name, 1, where) for name in ("kv_heads", "head_dim")}
    rest = {"heads": found["kv_heads"], "value_dim": found["head_dim"], "ranks": None}
    for name, usual in rest.items():
        told = given.get(name)
        found[name] = usual if told is None else number(told, name, 1, where)  # type: ignore[assignment]
    if found["heads"] % found["kv_heads"]:
        raise SizeError(f"kv_heads = {found['kv_heads']}", f"a divisor of heads = {found['heads']}", where)
    dtype = str(given.get("dtype", "bf16")).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ArgumentError(f"dtype = {given['dtype']!r}", f"one of {', '.join(DTYPES)}", where)
    return Sizes(dtype=dtype, **found)
