"""Layers that use the choice of an earlier layer: what is shared, that nothing is kept, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pidsl.errors import ArgumentError, TermError
from pidsl.select import MoBA, Quest, Reuse


def inputs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, n, 8, generator=made), torch.randn(2, 2, n, 8, generator=made)


def reuse() -> Reuse:
    return Reuse([0, 0, None, 3, 0, 3], {0: MoBA(8, 3, 8), 3: Quest(4, 5, 1)})


def test_each_layer_has_the_lists_of_the_one_it_uses() -> None:
    uses, choices = reuse(), reuse().begin()
    own = {0: MoBA(8, 3, 8)(*inputs(50, 0)), 3: Quest(4, 5, 1)(*inputs(50, 3))}
    for layer, at in enumerate(uses.uses):
        found = choices.blocks(layer, *inputs(50, layer))
        assert (found is None) == (at is None)
        if at is not None and found is not None:
            assert torch.equal(found, own[at])


def test_asked_again_it_is_the_same() -> None:
    """As the recomputation of a checkpoint asks."""
    choices = reuse().begin()
    first = [choices.blocks(layer, *inputs(50, layer)) for layer in range(6)]
    again = [choices.blocks(layer, *inputs(50, layer)) for layer in (5, 4, 3, 2, 1, 0)][::-1]
    for a, b in zip(first, again, strict=True):
        assert (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


def test_no_choice_goes_from_one_pass_to_the_next() -> None:
    uses = reuse()
    uses.begin().blocks(0, *inputs(50, 0))
    with pytest.raises(ArgumentError, match="layer 1 uses the choice of layer 0"):
        uses.begin().blocks(1, *inputs(50, 1))
    assert uses.state_dict() == {}
    assert {*vars(uses)} == {*vars(torch.nn.Module()), "uses"}


def test_nor_to_other_tokens() -> None:
    choices = reuse().begin()
    choices.blocks(0, *inputs(50, 0))
    with pytest.raises(ArgumentError, match=r"layer 1 has 2 x 4 x 8 query blocks"):
        choices.blocks(1, *inputs(60, 1))


def test_step_by_step() -> None:
    """States go in and come out; the same lists as at once."""
    uses, ends = reuse(), [16, 24, 50]
    whole = uses.begin()
    wanted = [whole.blocks(layer, *inputs(50, layer)) for layer in range(6)]
    states, at = uses.start(2, 2, 8), 0
    assert {*states} == {0, 3}
    found: list[list[Tensor]] = [[] for _ in range(6)]
    for end in ends:
        choices = uses.begin(states)
        for layer in range(6):
            q, k = (x[:, :, at:end] for x in inputs(50, layer))
            lists = choices.blocks(layer, q, k)
            if lists is not None:
                found[layer].append(torch.nn.functional.pad(lists, (0, 5 - lists.shape[3]), value=-1))
        states, at = choices.states, end
    for each, lists in zip(found, wanted, strict=True):
        assert bool(each) == (lists is not None)
        if lists is not None:
            assert torch.equal(torch.cat(each, 2), torch.nn.functional.pad(lists, (0, 5 - lists.shape[3]), value=-1))


def test_steps_inside_a_query_block() -> None:
    """Tokens of two query blocks make two rows, wherever the state ends."""
    uses, (q, k) = Reuse([0, 0], {0: MoBA(8, 3, 8)}), inputs(10, 0)
    states = uses.begin(uses.start(2, 2, 8))
    states.blocks(0, q[:, :, :6], k[:, :, :6])
    choices = uses.begin(states.states)
    lists = choices.blocks(0, q[:, :, 6:], k[:, :, 6:])
    assert lists is not None
    assert lists.shape[2] == 2
    assert choices.blocks(1, q[:, :, 6:], k[:, :, 6:]) is lists


def test_parameters_are_those_of_the_selectors() -> None:
    from pidsl.select import SeerGate

    uses = Reuse([0, 0], {0: SeerGate(8, 4, 2, width=4)})
    assert {*uses.state_dict()} == {"selectors.0.q_map", "selectors.0.k_map"}
    assert uses.of(1) is uses.of(0)
    assert "uses=[0, 0]" in repr(uses)


@pytest.mark.parametrize(
    ("uses", "layers", "says"),
    [
        ([1, 1], [1], "layer 0 uses the choice of layer 1"),
        ([0, 0, 1], [0], "layer 2 uses the choice of layer 1"),
        ([0, None, 1], [0], "layer 2 uses the choice of layer 1"),
        ([-1], [0], "layer 0 uses the choice of layer -1"),
        ([0, 1], [0], r"selectors of layers \[0\]"),
        ([0, 0], [0, 1], r"those of the layers that choose, \[0\]"),
    ],
)
def test_uses_that_are_refused(uses: list[int | None], layers: list[int], says: str) -> None:
    with pytest.raises(TermError, match=says):
        Reuse(uses, {layer: MoBA() for layer in layers})
