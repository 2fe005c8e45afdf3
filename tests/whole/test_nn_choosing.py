"""Attention modules whose blocks a selector lists: against the dense formula under the mask of the same lists."""

# follows the hints of pidsl/nn/choosing.py: check_selector, lists, lists_behind
# follows the hints of pidsl/nn/attention.py: forward

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pidsl
import pidsl.select
from pidsl import ArgumentError, causal, chosen, keys, window
from pidsl.nn import SparseAttention, rotate
from pidsl.select import Antidiagonal, Clusters, LightningIndexer, MoBA, Quest, Reuse, SeerGate

LOCAL = window(2) & causal
N = 27


def layer(pattern: Any, select: Any, **options: Any) -> SparseAttention:
    torch.manual_seed(0)
    return SparseAttention(32, 4, pattern, kv_heads=2, select=select, backend="torch", **options)


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(1)
    return make()


BY_TOKEN: dict[str, Callable[[], SparseAttention]] = {
    "moba": lambda: layer(LOCAL | chosen(4, 2, 1), MoBA(4, 2, 1, local=0), rope=1e4),
    "quest": lambda: layer(chosen(4, 3, 1) - keys(0, 2) | keys(0, 2) & causal, Quest(4, 3, 1, per="group"), rope=1e4),
    "gate": lambda: layer(LOCAL | chosen(4, 2, 1), seeded(lambda: SeerGate(8, 4, 2, 4, 2, 1, width=8)), rope=1e4),
    "indexer": lambda: layer(LOCAL | chosen(1, 5, 1), seeded(lambda: LightningIndexer(32, 16, 5, heads=2, width=4))),
    "clusters": lambda: layer(chosen(1, 5, 1), seeded(lambda: Clusters(8, 2, 3, 5)), rope=1e4),
    "heads": lambda: layer(pidsl.heads([(3, LOCAL | chosen(4, 2, 1)), (1, causal)]), MoBA(4, 2, 1)),
    "output": lambda: layer(
        LOCAL | chosen(4, 2, 1), MoBA(4, 1, 1, per="entry"), bias=True, output_gate="head", affine=True
    ),
}
IN_BLOCKS: dict[str, Callable[[], SparseAttention]] = {
    "blocks of queries": lambda: layer(LOCAL | chosen(4, 3, 8), MoBA(4, 3, 8), rope=1e4),
    "antidiagonal": lambda: layer(
        LOCAL | chosen(8, 2, 4), Antidiagonal(8, 2, 4, stride=2, first=0, threshold=None), rope=1e4
    ),
    "gate of blocks": lambda: layer(LOCAL | chosen(4, 3, 4), seeded(lambda: SeerGate(8, 4, 2, 4, 3, 4, width=8))),
}
MAKE = BY_TOKEN | IN_BLOCKS
layers = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
by_token = pytest.mark.parametrize("make", BY_TOKEN.values(), ids=BY_TOKEN)


def close(a: Tensor, b: Tensor, **how: Any) -> None:
    torch.testing.assert_close(a, b, **({"rtol": 1e-4, "atol": 2e-5} | how))


def parts(own: SparseAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v before rotation."""
    sizes = [h * own.head_dim for h in (own.heads, own.kv_heads, own.kv_heads)]
    q, k, v = (y.unflatten(2, (-1, own.head_dim)).transpose(1, 2) for y in own.qkv(x).split(sizes, 2))
    return q, k, v


def formula(own: SparseAttention, x: Tensor, blocks: Tensor) -> Tensor:
    """What the module should give under some lists, with a mask for each head."""
    n = x.shape[1]
    q, k, v = parts(own, x)
    if own.rope is not None:
        q, k = rotate(q, own.rope), rotate(k, own.rope)
    term = own.kernel.term
    terms = [t for count, t in term.groups for _ in range(count)] if isinstance(term, pidsl.Heads) else [term] * 4
    each = blocks.repeat_interleave(4 // blocks.shape[1], 1).numpy()
    mask = torch.tensor([[t.mask(n, **({"blocks": own_lists} if "chosen" in repr(t) else {})).tolist()
                          for t, own_lists in zip(terms, entry, strict=True)] for entry in each])  # fmt: skip
    logits = (q @ k.repeat_interleave(2, 1).mT / 8**0.5).masked_fill(~mask, -torch.inf)
    weights = logits.softmax(-1).nan_to_num(0.0)
    if own.affine:
        weights = torch.where(mask, own.alpha[:, None, None] * weights + own.beta[:, None, None], 0.0)
    found = weights @ v.repeat_interleave(2, 1)
    if own.output_gate == "head":
        found = found * own.gate(x).sigmoid().transpose(1, 2)[..., None]
    return own.out(found.transpose(1, 2).flatten(2))


def listed(own: SparseAttention, x: Tensor) -> Tensor:
    """What the selector lists for the module's queries and keys."""
    q, k, _ = parts(own, x)
    if own.select.rotated and own.rope is not None:
        q, k = rotate(q, own.rope), rotate(k, own.rope)
    blocks: Tensor = own.select(q, k)
    return blocks


@layers
@pytest.mark.parametrize("n", [1, N])
def test_values_and_gradients_are_the_formulas(make: Callable[[], SparseAttention], n: int) -> None:
    own = make().double()
    x = torch.randn(2, n, 32, dtype=torch.float64, requires_grad=True)
    y, expected = own(x), formula(own, x, listed(own, x))
    close(y, expected, rtol=0, atol=1e-5)
    leaves = [x, *own.qkv.parameters(), *own.out.parameters()]
    seed = torch.randn_like(y)
    for got, want in zip(*(torch.autograd.grad(out, leaves, seed) for out in (y, expected)), strict=True):
        close(got, want, rtol=0, atol=1e-4)


@layers
def test_documents_lengths_and_padding_are_as_each_alone(make: Callable[[], SparseAttention]) -> None:
    own, lengths = make(), [9, 1, 11, 6]
    x = torch.randn(1, sum(lengths), 32, requires_grad=True)
    ids = torch.repeat_interleave(torch.tensor([3, 9, -1, 2]), torch.tensor(lengths))[None]
    alone = [own(part) for part in x.split(lengths, 1)]
    y = own(x, documents=ids)
    real = ids[0] >= 0
    close(y[:, real], torch.cat(alone, 1)[:, real])
    seed = torch.randn_like(y) * real[:, None]
    close(*(torch.autograd.grad(out, x, seed)[0] for out in (y, torch.cat(alone, 1))))
    batch = torch.zeros(4, 11, 32)
    right, left = batch.clone(), batch.clone()
    for b, part in enumerate(x.detach().split(lengths, 1)):
        right[b, : lengths[b]], left[b, 11 - lengths[b] :] = part[0], part[0]
    behind = own(right, lengths=torch.tensor(lengths))
    before = own(left, offset=torch.tensor(lengths) - 11)
    for b, (n, want) in enumerate(zip(lengths, alone, strict=True)):
        close(behind[b : b + 1, :n], want)
        close(before[b : b + 1, 11 - n :], want)
    close(own(right[:, :5], lengths=4)[:, :4], own(right[:, :4]))
    close(own(left[2:3, 3:], offset=torch.tensor(-0)), own(left[2:3, 3:]))
    assert own(torch.zeros(2, 3, 32), documents=torch.full((2, 3), -1)).shape == (2, 3, 32)
    assert own(torch.zeros(2, 3, 32), lengths=torch.tensor([0, 0])).shape == (2, 3, 32)


def cache_of(own: SparseAttention, batch: int, **options: Any) -> Any:
    return pidsl.Cache(own.kernel, batch, own.kv_heads, own.head_dim, torch.float32, "cpu", **options)


@pytest.mark.parametrize("page_size", [None, 4])
@by_token
def test_token_by_token(make: Callable[[], SparseAttention], page_size: int | None) -> None:
    own = make()
    x = torch.randn(2, N, 32)
    with torch.no_grad():
        expected = own(x)
        cache = cache_of(own, 2, page_size=page_size, max_tokens=None if page_size else N)
        close(torch.cat([own(x[:, t : t + 1], cache=cache) for t in range(N)], 1), expected)
        cache = cache_of(own, 2, page_size=page_size, lookahead=3)
        pieces = [own(x[:, a:b], cache=cache) for a, b in ((0, 10), (10, 14), (14, 15), (15, 19), (19, 22))]
        close(torch.cat(pieces, 1), expected[:, :22])
        cache.reorder(torch.tensor([1, 1]))  # both go on from the second one
        again = own(x[1:, 22:26].expand(2, -1, -1), cache=cache)
        close(again, expected[1:, 22:26].expand(2, -1, -1))


@by_token
def test_prompts_of_different_lengths_and_then_tokens(make: Callable[[], SparseAttention]) -> None:
    own, lengths = make(), torch.tensor([11, 4, 0])
    x, more = torch.randn(3, 11, 32), torch.randn(3, 12, 32)
    whole = [torch.cat([a[:n], b])[None] for a, b, n in zip(x, more, lengths.tolist(), strict=True)]
    with torch.no_grad():
        cache = cache_of(own, 3, lookahead=2)
        prompt = own(x, lengths=lengths, cache=cache)
        found = torch.cat([own(more[:, t : t + 3], cache=cache) for t in range(0, 9, 3)], 1)
        cache.reorder(torch.tensor([0, 2, 1]))
        last = own(more[[0, 2, 1], 9:], cache=cache)[[0, 2, 1]]
        for b, n in enumerate(lengths.tolist()):
            expected = own(whole[b])
            close(prompt[b : b + 1, :n], expected[:, :n])
            close(torch.cat([found, last], 1)[b : b + 1], expected[:, n:])


@pytest.mark.parametrize("make", IN_BLOCKS.values(), ids=IN_BLOCKS)
def test_steps_inside_of_blocks_of_queries(make: Callable[[], SparseAttention]) -> None:
    """The list of a block of queries that comes in parts is made of each part: what the selector says of it."""
    own = make()
    x = torch.randn(2, N, 32)
    q, k, _ = parts(own, x)
    if own.select.rotated and own.rope is not None:
        q, k = rotate(q, own.rope), rotate(k, own.rope)
    with torch.no_grad():
        cache, start = cache_of(own, 2, lookahead=4), 0
        for n in (7, 3, 5, 1, 4):
            found = own(x[:, start : start + n], cache=cache)
            lists = own.select(q[:, :, start : start + n], k[:, :, : start + n], offset=start)
            # a row of lists for every row, so that the formula knows of no parts
            first = start // own.select.queries
            every = torch.full((*lists.shape[:2], -(-(start + n) // own.select.queries), lists.shape[3]), -1)
            every[:, :, first:] = lists
            close(found, formula(own, x[:, : start + n], every)[:, start:])
            start += n


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_selector_of_tokens(data: st.DataObject) -> None:
    """Prompts of any lengths, then steps of several tokens, are as each sequence alone; and that is the formula."""
    block, first, local = (data.draw(st.integers(*ends)) for ends in ((1, 7), (0, 1), (0, 2)))
    budget = data.draw(st.integers(max(1, first + local), 4))
    kind, per = data.draw(st.sampled_from((MoBA, Quest))), data.draw(st.sampled_from(("head", "group", "entry")))
    static = data.draw(st.sampled_from((LOCAL, keys(0, 2) & causal, pidsl.empty)))
    select = kind(block, budget, 1, first=first, local=local, per=per)
    own = layer(static | chosen(block, budget, 1), select, rope=data.draw(st.sampled_from((None, 1e4))))
    lengths = data.draw(st.lists(st.integers(0, 12), min_size=2, max_size=3))
    steps, most = data.draw(st.lists(st.integers(1, 3), max_size=3)), max(*lengths, 1)
    x, more = torch.randn(len(lengths), most, 32), torch.randn(len(lengths), sum(steps), 32)
    with torch.no_grad():
        cache = cache_of(own, len(lengths), lookahead=2, page_size=data.draw(st.sampled_from((None, 4))))
        found = [own(x, lengths=torch.tensor(lengths), cache=cache)]
        found += [own(part, cache=cache) for part in more.split(steps, 1)] if steps else []
        for b, n in enumerate(lengths):
            whole = torch.cat([x[b, :n], more[b]])[None]
            if whole.shape[1]:
                mine = torch.cat([found[0][b, :n], *(part[b] for part in found[1:])])[None]
                close(mine, own(whole))
                close(mine, formula(own, whole, listed(own, whole)))


def test_lists_that_are_given() -> None:
    own = layer(LOCAL | chosen(4, 3, 4), None)
    x = torch.randn(2, 14, 32)
    blocks = torch.randint(-1, 4, (2, 2, 4, 3), dtype=torch.int32)
    close(own(x, blocks=blocks), formula(own, x, blocks))
    seen = []

    def made(q: Tensor, k: Tensor) -> Tensor:
        seen.append((q, k))
        return blocks

    turned = layer(LOCAL | chosen(4, 3, 4), MoBA(4, 3, 4), rope=1e4)  # in place of those of its selector
    close(turned(x, blocks=made), formula(turned, x, blocks))
    q, k, _ = parts(turned, x)
    close(seen[0][0], rotate(q, 1e4))
    close(seen[0][1], rotate(k, 1e4))
    blocks = blocks[:1].clamp(max=1)  # of each document
    packed = own(x[:1], blocks=blocks, documents=torch.tensor([[0] * 6 + [1] * 8]))
    close(packed[:, :6], own(x[:1, :6], blocks=blocks[:, :, :2]))
    close(packed[:, 6:], own(x[:1, 6:], blocks=blocks[:, :, 2:]))


def test_a_layer_uses_the_choice_of_another() -> None:
    first, second = (layer(LOCAL | chosen(4, 2, 1), None, rope=1e4) for _ in range(2))
    reuse = Reuse([0, 0], {0: MoBA(4, 2, 1)})
    x = torch.randn(2, N, 32)

    def both(x: Tensor, choices: Any, caches: Any = (None, None)) -> Tensor:
        y = first(x, blocks=lambda q, k: choices.blocks(0, q, k), cache=caches[0])
        out: Tensor = second(y, blocks=lambda q, k: choices.blocks(1, q, k), cache=caches[1])
        return out

    with torch.no_grad():
        whole = both(x, reuse.begin())
        q, k, _ = parts(first, x)
        lists = reuse.selectors["0"](rotate(q, 1e4), rotate(k, 1e4))
        close(whole, second(first(x, blocks=lists), blocks=lists))
        assert not torch.equal(whole, second(first(x, blocks=lists), blocks=lambda q, k: MoBA(4, 2, 1)(q, k)))
        caches, states, found = [cache_of(own, 2) for own in (first, second)], reuse.start(2, 2, 8), []
        for t in range(N):
            choices = reuse.begin(states)
            found.append(both(x[:, t : t + 1], choices, caches))
            states = choices.states
    close(torch.cat(found, 1), whole)


def test_the_whole_budget_is_causal_attention() -> None:
    dense = SparseAttention(32, 4, causal, kv_heads=2, rope=1e4, backend="torch")
    for select in (MoBA(4, 7, 1), MoBA(4, 7, 4), Quest(8, 4, 2), SeerGate(8, 4, 2, 4, 7, 4, width=8)):
        own = layer(chosen(select.block, select.budget, select.queries) | LOCAL, select, rope=1e4)
        own.load_state_dict(dense.state_dict(), strict=False)
        x = torch.randn(2, N, 32)
        close(own(x), dense(x))


def test_a_call_is_one_graph() -> None:
    own, graphs = MAKE["moba"](), []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    x = torch.randn(2, N, 32)
    close(torch.compile(own, backend=count, fullgraph=True)(x), own(x))
    assert len(graphs) == 1


def test_the_parameters_of_a_gate_are_the_modules() -> None:
    own, other = MAKE["gate"](), layer(LOCAL | chosen(4, 2, 1), SeerGate(8, 4, 2, 4, 2, 1, width=8), rope=1e4)
    x = torch.randn(1, N, 32)
    assert "select.q_map" in own.state_dict() and not torch.equal(own(x), other(x))
    other.load_state_dict(own.state_dict())
    assert torch.equal(own(x), other(x))


MIXED = LOCAL | chosen(4, 2, 1)
OWN = layer(MIXED, MoBA(4, 2, 1), rope=1e4)
PLAIN = layer(MIXED, None)
X = torch.randn(2, 9, 32)


def fails(call: Callable[[], Any], given: str, expected: str, hint: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call()
    assert given in caught.value.given and expected in caught.value.expected and caught.value.hint == hint
    assert caught.value.where


def test_a_selector_that_is_not_the_patterns() -> None:
    select = MoBA(4, 2, 1)
    fails(
        lambda: layer(LOCAL, select), "select with window(2)", "a pattern with a choice",
        f"{LOCAL!r} | pidsl.chosen(select.block, select.budget, select.queries)",
    )  # fmt: skip
    close(layer(LOCAL | chosen(select.block, select.budget, select.queries), select)(X), layer(MIXED, select)(X))
    for wrong in (MoBA(8, 2, 1), MoBA(4, 2, 4), MoBA(4, 3, 1)):
        fails(
            lambda wrong=wrong: layer(MIXED, wrong), f"{wrong.budget} blocks of {wrong.block} for {wrong.queries} quer",
            "at most 2 blocks of 4 for 1 queries", "pidsl.chosen(select.block, select.budget, select.queries)",
        )  # fmt: skip
        layer(LOCAL | chosen(wrong.block, wrong.budget, wrong.queries), wrong)(X)
    layer(MIXED, MoBA(4, 1, 1))(X)  # fewer are fine
    for other in (LOCAL, MIXED):
        fails(lambda other=other: layer(other, "moba"), "select without block: 'moba'", "a pidsl.select.Selector", "")


def test_lists_that_are_missing() -> None:
    hint = "SparseAttention(..., select=pidsl.select.MoBA(block, budget, queries)), or layer(x, blocks=lists)"
    fails(lambda: PLAIN(X), "blocks: nothing", "lists for", hint)
    lists = MoBA(4, 2, 1)(*parts(PLAIN, X)[:2])
    close(PLAIN(X, blocks=lists), layer(MIXED, MoBA(4, 2, 1))(X))
    plain = layer(LOCAL, None)
    hint = "pattern | pidsl.chosen(block, budget, queries)"
    fails(lambda: plain(X, blocks=lists), "blocks: a value", "nothing: window(2) & causal has no choice", hint)
    close(layer(LOCAL | chosen(4, 2, 1), None)(X, blocks=lists), PLAIN(X, blocks=lists))


def test_tokens_that_a_selector_has_not_seen() -> None:
    hint = "layer(x, cache=cache), a cache that the tokens before came to"
    for offset in (3, torch.tensor([0, 3])):
        fails(lambda offset=offset: OWN(X, offset=offset), "offset: 3", "at most 0", hint)
    with torch.no_grad():
        whole, cache = OWN(X), cache_of(OWN, 2, lookahead=5)
        close(OWN(X[:, :3], cache=cache), whole[:, :3])
        close(OWN(X[:, 3:], cache=cache), whole[:, 3:])
        cache.crop(7)
        hint = "cache.clear(), and the prompt again: after cache.crop(...), or tokens that other calls appended"
        fails(lambda: OWN(X[:, 7:], cache=cache), "7 tokens, of which the selector knows 0", "their queries", hint)
        cache.clear()
        close(OWN(X, cache=cache), whole)
        lists = torch.zeros(2, 1, 1, 2, dtype=torch.int32)
        OWN(X[:, :1], cache=cache, blocks=lists)
        fails(lambda: OWN(X[:, :1], cache=cache), "10 tokens, of which the selector knows 9", "their queries", hint)
        cache.clear()
        close(OWN(X, cache=cache), whole)


def test_nothing_is_kept_of_a_call_that_fails() -> None:
    cache = cache_of(OWN, 2, max_tokens=9)
    with torch.no_grad():
        whole = OWN(X)
        OWN(X[:, :8], cache=cache)
        for wrong, said in (
            (torch.zeros(2, 1, 1, 3, dtype=torch.int32), r"shape \[2, 1, 1, 3\]"),
            (torch.zeros(2, 1, 0, 2, dtype=torch.int32), "0 rows"),
            (torch.full((2, 1, 1, 2), 3, dtype=torch.int32), "0 .. 2"),
            (torch.zeros(2, 1, 1, 2), "dtype torch.float32"),
        ):
            with pytest.raises(ArgumentError, match=said):
                OWN(X[:, 8:], cache=cache, blocks=wrong)
        close(OWN(X[:, 8:], cache=cache), whole[:, 8:])
        with pytest.raises(ArgumentError, match="max_tokens"):
            OWN(X[:, 8:], cache=cache)
    assert cache.tokens.tolist() == [9, 9] and cache.beside.length == 9
