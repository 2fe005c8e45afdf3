"""Kernels of what is made of patterns with `chosen`: heads, gates, affine weights, summaries; traced, and counted."""

# follows the hints of pidsl/runtime/kernels/kernel.py: _one_choice
# follows the hints of pidsl/runtime/call/chosen.py: check_blocks, check_range
# follows the hints of pidsl/language/chosen.py: selection
# follows the hints of pidsl/relation/oracle.py: lists_of

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pidsl
from pidsl import ArgumentError, TermError, blocks, causal, chosen, documents, gate, heads, layers, spans, where, window

N = 29
CHOICE = chosen(4, 3, queries=8)
TERM = window(2) | CHOICE
Q, K, V = (torch.randn(2, h, N, 8, generator=torch.Generator().manual_seed(h), requires_grad=True) for h in (4, 2, 2))


def lists(kind: int, rows: int = 4, keys: int = 8) -> Tensor:
    made = torch.Generator().manual_seed(kind)
    return torch.randint(-1, keys, (2, kind, rows, 3), generator=made, dtype=torch.int32)


def masked(mask: Tensor) -> Tensor:
    """Attention under a mask [B, Hq, n, n], in float64."""
    q, k, v = (x.detach().double() for x in (Q, K, V))
    k, v = (x.repeat_interleave(2, 1) for x in (k, v))
    logits = (q @ k.mT / 8**0.5).masked_fill(~mask, -torch.inf)
    return torch.where(mask.any(-1, keepdim=True), logits.softmax(-1), 0.0) @ v


def mask(term: pidsl.Term, given: Tensor) -> Tensor:
    """bool [B, Hq, n, n]."""
    return torch.stack(
        [torch.stack([torch.from_numpy(term.mask(N, blocks=own.numpy())) for own in entry]) for entry in given]
    ).repeat_interleave(4 // given.shape[1], 1)


@pytest.mark.parametrize("kind", [1, 2, 4])
def test_heads_and_gates(kind: int) -> None:
    given = lists(kind)
    own = mask(TERM, given)
    own[:, 1:3] = torch.from_numpy(window(2).mask(N))
    found = pidsl.compile(heads([(1, TERM), (2, window(2)), (1, TERM)]), "torch")(Q, K, V, blocks=given)
    torch.testing.assert_close(found.double(), masked(own), rtol=1e-4, atol=1e-5)
    weights = torch.rand(2, 4, N, 2)
    found = pidsl.compile(gate(near=window(3), far=TERM), "torch")(Q, K, V, weights, blocks=given)
    near = masked(torch.from_numpy(window(3).mask(N)).expand(2, 4, N, N))
    expected = weights[..., :1] * near + weights[..., 1:] * masked(mask(TERM, given))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


FORMS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "affine": (TERM, {"affine": True}, {"alpha": 0.5, "beta": 0.1}),
    "score": (
        TERM, {"score": pidsl.score(softcap=5.0, alibi=True, sinks=True)},
        {"slopes": torch.rand(4), "sinks": torch.randn(4)},
    ),
    "dropout": (TERM, {"score": pidsl.score(dropout=0.3)}, {"seed": 3}),
    "summaries": (
        pidsl.summaries(blocks(4) & causal | CHOICE, [spans(4, where(lambda i, j: j < i // 4 - 1))]), {}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_those_of_the_reference(form: str) -> None:
    of, options, more = FORMS[form]
    found: list[tuple[Tensor, ...]] = []
    for backend in ("torch", "reference"):
        out = pidsl.compile(of, backend, **options)(Q, K, V, blocks=lists(2), **more)
        found.append((out, *torch.autograd.grad(out.square().sum(), (Q, K, V))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


def test_layers_documents_and_pickles() -> None:
    first, second = pidsl.compile(layers([TERM, causal]), "torch")
    assert first.choice == (4, 3, 8) and second.choice is None
    again = pickle.loads(pickle.dumps(first))
    assert torch.equal(again(Q, K, V, blocks=lists(1)), first(Q, K, V, blocks=lists(1)))
    apart = pidsl.compile(TERM & documents, "torch")
    ends = torch.tensor([0, 10, 10, N], dtype=torch.int32)
    own = lists(2, rows=5, keys=3)[:1]
    out = apart.packed(*(x[0].transpose(0, 1) for x in (Q, K, V)), ends, blocks=own)
    for (start, stop), rows in (((0, 10), slice(0, 2)), ((10, N), slice(2, 5))):
        alone = first(*(x[:1, :, start:stop] for x in (Q, K, V)), blocks=own[:, :, rows])
        torch.testing.assert_close(out[start:stop].transpose(0, 1)[None], alone)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_call_is_traced(backend: str) -> None:
    kernel = pidsl.compile(TERM, "torch")
    traced = torch.compile(lambda q, k, v, own: kernel(q, k, v, blocks=own), backend=backend, fullgraph=True)
    given = lists(2)
    grads = []
    for call in (traced, lambda q, k, v, own: kernel(q, k, v, blocks=own)):
        out = call(Q, K, V, given)
        grads.append((out, *torch.autograd.grad(out.sum(), (Q, K, V))))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_flops_are_the_most_that_lists_attend() -> None:
    kernel = pidsl.compile(TERM, "torch")
    with FlopCounterMode(display=False) as counter:
        kernel(Q, K, V, blocks=lists(2))
    assert counter.get_total_flops() == 2 * 4 * 16 * 2 * min(TERM.possible.pairs(N), TERM.forced.pairs(N) + N * 12)


def test_lists_that_do_not_fit() -> None:
    kernel = pidsl.compile(TERM, "torch")
    good = lists(2)
    wrong: list[tuple[Any, str]] = [
        (None, "nothing"), (good.long(), "int64"), (good[:, :, :3], "shape"), (good[:, :1].expand(2, 3, 4, 3), "shape"),
        (torch.cat([good, good], -1), "up to 3"), (good[0], "rank 4"), (good.tolist(), "list"),
        (torch.full_like(good, 8), "blocks that there are|block of keys"), (torch.full_like(good, -2), "= -2"),
    ]  # fmt: skip
    for given, message in wrong:
        with pytest.raises(ArgumentError, match=message):
            kernel(Q, K, V, **({} if given is None else {"blocks": given}))
    kernel(Q, K, V, blocks=good.long().int())  # what the hints say
    kernel(Q, K, V, blocks=torch.full_like(good, 8).masked_fill(torch.full_like(good, 8) > 7, -1))
    kernel(Q, K, V, blocks=pidsl.select.MoBA(4, 3, 8)(Q, K))
    kernel(Q, K, V, blocks=good.to(Q.device))
    with pytest.raises(ArgumentError, match="blocks"):
        kernel(Q, K, V, blocks=good.to("meta"))


def test_what_is_out_of_range_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given = lists(2)
    wild = torch.where(given == 3, 1000, torch.where(given == 5, -7, given))
    mild = torch.where((given == 3) | (given == 5), -1, given)
    monkeypatch.setenv("PIDSL_CHECK_VALUES", "0")
    for backend in ("torch", "reference"):
        kernel = pidsl.compile(TERM, backend)
        found = [torch.autograd.grad(kernel(Q, K, V, blocks=x).square().sum(), (Q, K, V)) for x in (wild, mild)]
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)


def test_one_list_for_one_call() -> None:
    several = gate(a=chosen(2, 2), b=CHOICE)
    with pytest.raises(TermError, match="one `blocks`"):
        pidsl.compile(several, "torch")
    pidsl.compile(gate(a=chosen(4, 3, queries=8, within=window(9)), b=CHOICE), "torch")  # as the hint says
    pidsl.compile(chosen(2, 2), "torch")
    with pytest.raises(TermError, match="one choice"):
        pidsl.compile(chosen(2, 2) | CHOICE, "torch")
    with pytest.raises(TermError, match="under"):
        pidsl.compile(CHOICE.T, "torch")
    pidsl.compile(chosen(4, 3, queries=8, within=causal.T), "torch")
    with pytest.raises(TermError, match="a pattern with a choice"):
        window(2).mask(4, blocks=[[0]])
    (window(2) | chosen(64, 16)).mask(4, blocks=[[0]])
