"""What attention under a pattern costs: FLOPs, bytes and memory as formulas in n, and what the chosen plan adds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy

from pidsl.analysis import questions as ask
from pidsl.analysis.bound import Bound, asking, exact
from pidsl.analysis.consequence import derived
from pidsl.analysis.formulas.words import n as tokens
from pidsl.analysis.layers.stacks import number
from pidsl.analysis.sizes import DTYPES, TENSORS
from pidsl.errors import ArgumentError, PidslError, SizeError, SymbolError
from pidsl.language.shown import Drawn
from pidsl.language.terms import Term, is_confined
from pidsl.relation.isl import in_turn
from pidsl.studies.plan_cost import PlanCost, plan_cost

SIZES = "tensor sizes"


@dataclass(frozen=True)
class Cost(Drawn):
    """What attention costs; every field but the last two is a `Bound`: a formula in n, or a number for a given n.

    Args:
        pairs: attended (query, key) pairs of one head.
        forward_flops, backward_flops: of all heads.
        forward_read_bytes, forward_write_bytes: moved at least, by the forward pass.
        backward_read_bytes, backward_write_bytes: moved at least, by the backward pass.
        memory_bytes: out and lse; there are no temporaries of n * n elements.
        kv_bytes: K and V rows that decoding must keep after the tokens 0 .. t, t = n - 1 for a given n.
        decode_bytes: K and V rows that a step reads which decodes one token of n: of the keys of the query with most;
            where calls choose, by one list for the heads that share a key head.
        plan: what the chosen plan computes; None where there is none.
        plan_reason: why there is none.
    """

    pairs: Bound
    forward_flops: Bound
    backward_flops: Bound
    forward_read_bytes: Bound
    forward_write_bytes: Bound
    backward_read_bytes: Bound
    backward_write_bytes: Bound
    memory_bytes: Bound
    kv_bytes: Bound
    decode_bytes: Bound
    plan: PlanCost | None
    plan_reason: str = ""

    @property
    def bounds(self) -> dict[str, Bound]:
        """All formulas by the names of their fields."""
        return {name: value for name in self.__dataclass_fields__ if isinstance(value := getattr(self, name), Bound)}

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    __repr__ = __str__


@in_turn
def cost(
    term: Term, n: int | None = None, *, head_dim: int = 64, dtype: str = "bf16", heads: int = 1,
    kv_heads: int | None = None, batch: int = 1,
) -> Cost:  # fmt: skip
    """FLOPs, bytes and memory of attention, n queries and n keys.

    Conventions, D = head_dim:

        forward    4 D FLOPs per attended pair: q k and p v, a multiply and an add each
        backward  10 D FLOPs per attended pair: five products, as in FlashAttention: q k, dO v, p dO, dS k, dS q
        bytes     q, k, v read once, out written once, lse (float32) written once; backward reads q, k, v, out, dout
                  and lse once and writes dq, dk, dv once
        decoding  2 D * kv_heads * batch * bytes(dtype) per live key that is kept, and per attended key that is read

    The softmax is not counted. The plan computes whole tiles, and scores twice in its two backward passes: 6 D and
    8 D FLOPs per computed pair.

    >>> import pidsl
    >>> k = pidsl.symbols("k")
    >>> found = cost(pidsl.window(k))
    >>> found.forward_flops.under("n > k").expr
    128*(-k + 2*n)*(k + 1)
    >>> found = cost(pidsl.window(63), 4096, heads=8)
    >>> int(found.forward_flops), int(found.kv_bytes), round(found.plan.waste, 2)
    (532742144, 129024, 2.0)

    Args:
        term: a pattern.
        n: tokens; None: formulas in n, and in t for `kv_bytes`.
        head_dim: elements of a row of q, k and v.
        dtype: of q, k and v: bf16, fp16, fp32 or fp64, or torch's name of it.
        heads: query heads.
        kv_heads: key heads, a divisor of `heads`; default: `heads`.
        batch: sequences.

    Returns:
        A `Cost`; print it for a table. Where the pairs are known as a bound only, so are the FLOPs; where calls
        choose, all of it is what they cost at most.

    Raises:
        SizeError: a number is negative, zero where it counts something, or `kv_heads` does not divide `heads`.
        ArgumentError: an unknown dtype.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentError(f"dtype = {dtype!r}", f"one of {', '.join(DTYPES)}", where="cost(...)")
    groups = heads if kv_heads is None else kv_heads
    counts = {"head_dim": head_dim, "heads": heads, "kv_heads": groups, "batch": batch}
    checked = {key: number(value, key, 1, "cost(...)") for key, value in counts.items()}
    length = None if n is None else number(n, "n", 0, "cost(...)")
    if heads % groups:
        raise SizeError(f"kv_heads = {groups}", f"a divisor of heads = {heads}", where="cost(...)")
    given: dict[str, Any] = {**checked, "dtype": name}
    pairs, live = ask.pairs(term), ask.live(term)

    def scaled(quantity: str, source: Bound) -> Bound:
        return derived(source, asking(term, quantity, **given, n=length))

    def sizes(quantity: str) -> Bound:
        expr = tensor_bytes(quantity, given)
        at = given if length is None else {**given, "n": length}
        return exact(term, quantity, expr if length is None else expr.subs(tokens, length), SIZES, given=at)

    plan, reason = _planned(term, length, checked, DTYPES[name])
    return Cost(
        pairs=pairs if length is None else derived(pairs, asking(term, "pairs", n=length)),
        forward_flops=scaled("forward flops", pairs),
        backward_flops=scaled("backward flops", pairs),
        forward_read_bytes=sizes("forward read bytes"),
        forward_write_bytes=sizes("forward write bytes"),
        backward_read_bytes=sizes("backward read bytes"),
        backward_write_bytes=sizes("backward write bytes"),
        memory_bytes=sizes("memory bytes"),
        kv_bytes=scaled("kv bytes", live),
        decode_bytes=scaled("decode bytes", ask.degree(term).maximum),
        plan=plan,
        plan_reason=reason,
    )


def tensor_bytes(quantity: str, given: Mapping[str, Any]) -> sympy.Expr:
    """The size of the tensors that a quantity counts, as a formula in n."""
    total = sympy.Integer(0)
    for tensor in TENSORS[quantity]:
        heads = given["kv_heads"] if tensor in ("k", "v", "dk", "dv") else given["heads"]
        size = DTYPES[given["dtype"]]
        row = max(4, size) if tensor == "lse" else size * given["head_dim"]  # lse: float32, float64 for float64
        total += given["batch"] * heads * row * tokens
    return total


def kv_bytes(term: Term, lookahead: int, **form: Any) -> Bound:
    """The bytes that a cache holds after the tokens 0 .. t: of the keys that rows from `t - lookahead` on may ask for.

    Args:
        term: a pattern without symbols.
        lookahead: by how many tokens rows may lie behind the last one.
        form: head_dim, value_dim, kv_heads, batch, dtype.
    """
    given = {**form, "heads": form["kv_heads"], "lookahead": lookahead}
    return derived(ask.live(term, (), lookahead), asking(term, "kv bytes", **given))


def _planned(
    term: Term, length: int | None, counts: Mapping[str, int], itemsize: int
) -> tuple[PlanCost | None, str]:  # fmt: skip
    if is_confined(term):
        return None, "no plan: what it computes depends on the documents"
    try:
        return plan_cost(term, length, counts["head_dim"], counts["heads"] * counts["batch"], itemsize), ""
    except SymbolError as e:
        return None, f"no plan: {e.given}"
    except PidslError as e:
        return None, f"no plan: {e.given} {e.where}".strip()


def shown(value: object) -> str:
    """A number with its thousands apart, or a formula.

    >>> shown(1048576)
    '1,048,576'
    """
    if isinstance(value, int | sympy.Integer):
        return f"{int(value):,}"
    if isinstance(value, Fraction | sympy.Rational | float):
        return f"{float(value):,.1f}" if math.isfinite(value) else str(value)
    return str(value)


def _lines(found: Cost) -> Iterator[str]:
    head = found.forward_read_bytes
    where = "n tokens" if head.argument("n") is None else f"n = {head.argument('n'):,}"
    what = ", ".join(f"{name} {head.argument(name)}" for name in ("head_dim", "dtype", "heads", "kv_heads", "batch"))
    yield f"cost of {head.shown_subject}: {where}, {what}"
    width = max(map(len, found.bounds)) + 2
    notes: list[str] = []
    for name, bound in found.bounds.items():
        if not bound.is_known:
            yield f"  {name:{width}}?  {bound.reason}"
            continue
        yield f"  {name:{width}}{bound.relation} {shown(bound.expr)}"
        notes += [str(c) for c in bound.assumptions if str(c) not in notes]
    if notes:
        yield "  for " + ", ".join(notes)
    plan = found.plan
    if plan is None:
        yield f"  {found.plan_reason}"
        return
    yield f"  plan ({plan.backend}), n = {plan.n:,}:"
    ratio = f"computed {plan.forward:,} / attended {plan.attended:,} = {plan.waste:.2f}"
    yield f"    {'pairs':{width - 2}}{ratio}"
    yield f"    {'forward_flops':{width - 2}}== {plan.forward_flops:,}"
    yield f"    {'backward_flops':{width - 2}}== {plan.backward_flops:,}"
