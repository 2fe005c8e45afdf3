"""Every mask of attention-gym: read entry for entry, or refused with the reason."""

import inspect

import mask_gym
import numpy as np
import pytest
import torch
from attn_gym import masks, mods
from torch.nn.attention.flex_attention import create_mask

import pidsl
from pidsl import Heads, from_flex
from pidsl.errors import PredicateError
from pidsl.interop.imported import Imported


def entries(found, n, m):
    if isinstance(found, Imported):
        assert [*found.inputs] == ["documents"]
        return found.pattern.mask(n, documents=found.inputs["documents"].numpy())
    return found.mask(n, m)


def test_all_masks():
    seen, nice = set(), set()
    for k, (written, mod, (n, m), _) in enumerate(mask_gym.mods()):
        name = written.split("(")[0]
        if (
            name in seen and k % 3 and "offsets" not in written
        ):  # a third of the sizes; `python benchmarks/masks.py` goes through all
            continue
        seen.add(name)
        found = from_flex(mod, n=n, m=m)
        wanted = create_mask(mod, 1, 1, n, m, device="cpu")[0, 0].numpy()
        np.testing.assert_array_equal(entries(found, n, m), wanted, err_msg=f"{written} {n} {m}")
        if "where" not in repr(found):
            nice.add(name)
    makes = {name for name in dir(masks) if name.startswith("generate_")} | {"causal_mask", "batchify_mask_mod"}
    assert seen == makes
    assert nice >= {
        "causal_mask", "generate_sliding_window", "generate_prefix_lm_mask", "generate_dilated_sliding_window",
        "generate_doc_mask_mod", "generate_packed_causal_doc_mask_mod", "generate_shared_prefix_mask_mod",
        "generate_vision_cross_attention_mask_mod", "generate_global_sliding_window", "generate_vsa_mask_mod",
        "generate_jetspec_tree_causal_mask_mod", "batchify_mask_mod",
    }  # fmt: skip


def test_documents_are_inputs_of_the_call():
    offsets = torch.tensor([0, 30, 31, 90])
    for mod, pattern in (
        (masks.generate_doc_mask_mod(masks.causal_mask, offsets), "causal & documents"),
        (masks.generate_packed_causal_doc_mask_mod(offsets), "causal & documents"),
        (masks.generate_doc_mask_mod(masks.generate_sliding_window(7), offsets), "window(7) & documents"),
        (masks.generate_doc_mask_mod(masks.generate_prefix_lm_mask(7), offsets), "(keys(0, 7) | causal) & documents"),
    ):
        found = from_flex(mod, n=90)
        assert (repr(found.pattern), found.inputs["documents"].unique().tolist()) == (pattern, [0, 1, 2])


def test_tiles_chosen_for_each_sequence_and_head():
    """With variable sizes of tiles at the border, whose padding no query sees."""
    chosen = torch.stack([torch.stack([torch.randperm(5)[:2] for _ in range(5)]) for _ in range(6)]).reshape(2, 3, 5, 2)
    sizes = torch.tensor([4, 3, 4, 4, 1])
    for mod in (masks.generate_vsa_mask_mod(chosen, 4), masks.generate_vsa_mask_mod(chosen, 4, sizes)):
        found = from_flex(mod, B=2, H=3, n=20)
        wanted = create_mask(mod, 2, 3, 20, 20, device="cpu").numpy()
        for b, pattern in enumerate(found.patterns):
            assert isinstance(pattern, Heads)
            np.testing.assert_array_equal(pattern.mask(20), wanted[b])
        with pytest.raises(PredicateError, match=r"batch, b|head, h"):
            from_flex(mod, n=20)


@pytest.mark.parametrize("name", [x for x in dir(mods) if x.startswith("generate_")])
def test_score_mods_are_no_masks(name):
    make = getattr(mods, name)
    given = [torch.ones(4, 4) if "Tensor" in str(x.annotation) else 4
             for x in inspect.signature(make).parameters.values() if x.default is x.empty]  # fmt: skip
    with pytest.raises(PredicateError, match="a score_mod is no mask") as caught:
        from_flex(make(*given))
    assert "from_flex(None, score_mod=score_mod)" in caught.value.hint and pidsl.score(softcap=50.0)


def test_block_masks_are_no_masks():
    block_mask = masks.create_vsa_block_mask(torch.zeros(1, 1, 2, 1, dtype=torch.int64), 4, 2)
    with pytest.raises(PredicateError, match="a BlockMask") as caught:
        from_flex(block_mask)
    assert caught.value.hint == "pidsl.from_flex(block_mask.mask_mod)"
    assert from_flex(block_mask.mask_mod) == pidsl.full
