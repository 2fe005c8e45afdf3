"""Patterns put into models, with a cache of the keys that they can still ask for."""

# follows the hints of pidsl/hf/patching.py: patch, attention_modules, _by_layer, _check_select, __call__
# follows the hints of pidsl/hf/derived.py: __init__, attend
# follows the hints of pidsl/hf/attention.py: attend, refuse_changed, _check_packed, _check_whole
# follows the hints of pidsl/hf/interface.py: _not_through

from __future__ import annotations

import copy
import pickle
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import pidsl
import pidsl.hf
import pidsl.select
from pidsl import blocks, causal, chosen, keys, stride, window
from pidsl.errors import ArgumentError

OPTIONS: dict[str, Any] = dict(max_new_tokens=14, do_sample=False, eos_token_id=None, pad_token_id=0)
COMB = window(3) | keys(0, None, 8) & causal


def model(small: ModuleType, name: str = "mistral", implementation: str = "eager") -> Any:
    auto = small.T.AutoModelForCausalLM if name in small.CAUSAL else small.ENCODERS[name][0]
    return small.made(auto, (small.CAUSAL.get(name) or small.ENCODERS[name][1])(), implementation)


def ids(n: int = 17, batch: int = 2) -> Tensor:
    return torch.randint(3, 99, (batch, n), generator=torch.Generator().manual_seed(1))


def kept(cache: Any) -> list[list[int]]:
    return [(layer.kept.positions >= 0).sum(1).tolist() for layer in cache.layers]


@pytest.mark.parametrize(
    "pattern",
    [COMB, window(3) | keys(0, 2) & causal, pidsl.heads([(2, window(4)), (2, stride(4) & causal)]),
     pidsl.layers([window(2), blocks(8) & causal])],
)  # fmt: skip
def test_the_same_tokens_as_with_all_keys(small: ModuleType, pattern: Any) -> None:
    patched = pidsl.hf.patch(model(small), pattern)
    for side in ("none", "left"):
        given = {**OPTIONS, "attention_mask": small.padded(ids(), side)}
        wanted = patched.generate(ids(), use_cache=False, **given)
        assert torch.equal(patched.generate(ids(), **given), wanted)
        assert torch.equal(patched.generate(ids(), cache=small.T.DynamicCache(), **given), wanted)
        beams = patched.generate(ids(), num_beams=3, **given)
        assert torch.equal(beams, patched.generate(ids(), num_beams=3, cache=small.T.DynamicCache(), **given))


def test_memory_is_bounded(small: ModuleType) -> None:
    patched = pidsl.hf.patch(model(small, "llama"), pidsl.layers([window(3), COMB]))
    cache = pidsl.hf.DerivedCache(patched)
    mask = small.padded(ids(), "left")
    patched.generate(ids(), cache=cache, attention_mask=mask, **{**OPTIONS, "max_new_tokens": 40})
    assert cache.get_seq_length() == 56
    assert kept(cache) == [[4, 4], [4 + 7, 4 + 7]]  # the last 4, and the multiples of 8 among 56 and 51 tokens
    assert cache.layers[0].kept.keys.shape[2] == 4


def test_patched_logits(small: ModuleType) -> None:
    """What the same model gives under a mask of its own, by eager with a mask of four dimensions."""
    own = model(small, "llama")
    dense = torch.from_numpy(COMB.mask(17))[None, None].expand(2, 1, 17, 17)
    additive = torch.where(dense, 0.0, torch.finfo(torch.float32).min)
    wanted = own(ids(), attention_mask=additive).logits
    plain = own(ids()).logits
    with pidsl.hf.patched(own, COMB) as patched:
        assert patched is own
        assert torch.allclose(patched(ids()).logits, wanted, atol=1e-4)
    assert torch.equal(own(ids()).logits, plain) and own.config._attn_implementation == "eager"
    assert "generate" not in vars(own)


@pytest.mark.parametrize("name", ["gpt_neo", "gemma3", "gpt_oss", "deepseek_v3", "gpt2"])
def test_patch_other_models(small: ModuleType, name: str) -> None:
    own = model(small, name)
    before = own(ids()).logits
    pidsl.hf.patch(own, window(2))
    assert (own(ids()).logits - before).abs().max() > 1e-3
    wanted = own.generate(ids(), use_cache=False, **OPTIONS)
    assert torch.equal(own.generate(ids(), **OPTIONS), wanted)
    pidsl.hf.patch(own, causal)  # in place of the first one
    pidsl.hf.unpatch(pidsl.hf.unpatch(own))
    assert torch.equal(own(ids()).logits, before)


def test_kinds_of_layers(small: ModuleType) -> None:
    own = model(small, "gemma3")
    wanted = own(ids()).logits
    pidsl.hf.patch(own, {"sliding_attention": window(4)})  # as its config has it
    assert torch.allclose(own(ids()).logits, wanted, atol=1e-4)
    assert torch.equal(own.generate(ids(), **OPTIONS), own.generate(ids(), use_cache=False, **OPTIONS))
    with pytest.raises(ArgumentError, match="full_attention, sliding_attention"):
        pidsl.hf.patch(own, {"local": window(4)})


def test_an_encoder(small: ModuleType) -> None:
    own = pidsl.hf.patch(model(small, "bert"), window(2, 2))
    mask = small.padded(ids(), "left")
    found = own(ids(), attention_mask=mask).logits[1, 5:]
    assert torch.isfinite(found).all()
    places = torch.arange(5, 17)[None]
    assert torch.allclose(own(ids()[1:, 5:], position_ids=places).logits[0], found, atol=1e-4)


def test_training_copies_and_pickles(small: ModuleType) -> None:
    own = pidsl.hf.patch(model(small), COMB).train()
    own.gradient_checkpointing_enable()
    own(ids(), labels=ids(), use_cache=False).loss.backward()
    assert all(torch.isfinite(x.grad).all() for x in own.parameters())
    assert own.model.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0
    other = copy.deepcopy(own)
    assert other.generate.model is other
    pidsl.hf.unpatch(own)
    assert torch.equal(other.generate(ids(), **OPTIONS), other.generate(ids(), use_cache=False, **OPTIONS))
    own = pidsl.hf.patch(model(small), COMB)  # checkpoints of transformers leave hooks that are not pickled
    again = pickle.loads(pickle.dumps(own))
    assert again.generate.model is again
    assert torch.equal(again.generate(ids(), **OPTIONS), own.generate(ids(), **OPTIONS))
    term = own.model.layers[0].self_attn._pidsl_swapped.term
    assert pickle.loads(pickle.dumps(term)) == COMB
    assert not [x for x in own.state_dict() if "pidsl" in x]


def test_going_back(small: ModuleType) -> None:
    own = pidsl.hf.patch(model(small), COMB)
    wanted = own.generate(ids(batch=1), use_cache=False, **OPTIONS)
    guessed = dict(prompt_lookup_num_tokens=3, **OPTIONS)
    assert torch.equal(own.generate(ids(batch=1), **guessed), wanted)
    cache = pidsl.hf.DerivedCache(own, lookahead=8)
    assert torch.equal(own.generate(ids(batch=1), cache=cache, **guessed), wanted)
    assert cache.is_croppable and not pidsl.hf.DerivedCache(own).layers
    cache.reset()
    assert cache.get_seq_length() == 0
    with torch.no_grad():
        own(ids(), cache=cache)
    with pytest.raises(ArgumentError, match="lookahead"):
        cache.crop(-9)
    for change in (lambda: cache.batch_repeat_interleave(2), lambda: cache.batch_select_indices(torch.tensor([0]))):
        with pytest.raises(pidsl.hf.UnsupportedError, match="as many batch entries as at first"):
            change()


@pytest.mark.parametrize("lookahead", [1, 3, 20])
def test_padding_behind_tokens_of_one_call(small: ModuleType, lookahead: int) -> None:
    """A call whose entries have different numbers of real tokens, with padding before or behind them."""
    own = pidsl.hf.patch(model(small), COMB)
    mask = torch.ones_like(ids())
    mask[0, 13:], mask[1, :5] = 0, 0
    with torch.no_grad():
        wanted = own(ids(), attention_mask=mask, use_cache=False).logits
        for steps in ((4, 4, 9), (12, 1, 4), (1, 15, 1)):
            cache, found, start = pidsl.hf.DerivedCache(own, lookahead=lookahead), [], 0
            for n in steps:
                rows = ids()[:, start : start + n]
                found.append(own(rows, attention_mask=mask[:, : start + n], past_key_values=cache).logits)
                start += n
            assert torch.allclose(torch.cat(found, 1)[mask == 1], wanted[mask == 1], atol=1e-4)


def test_layers_with_a_state(small: ModuleType) -> None:
    """They need the cache that transformers makes for them."""
    own = pidsl.hf.patch(model(small, "jamba"), COMB)
    assert torch.equal(own.generate(ids(), **OPTIONS), own.generate(ids(), use_cache=False, **OPTIONS))
    with pytest.raises(pidsl.hf.UnsupportedError, match="layers of kind"):
        pidsl.hf.DerivedCache(own)


def test_a_cache_goes_on_from_a_copy(small: ModuleType) -> None:
    """A prompt that is read once, and continued in several ways."""
    own = pidsl.hf.patch(model(small), COMB)
    cache = pidsl.hf.DerivedCache(own)
    with torch.no_grad():
        own(ids()[:1, :9], cache=cache)
    for entry in (0, 1):
        prompt = torch.cat([ids()[:1, :9], ids()[entry : entry + 1, 9:]], 1)
        found = own.generate(prompt, cache=copy.deepcopy(cache), **OPTIONS)
        assert torch.equal(found, own.generate(prompt, use_cache=False, **OPTIONS))
    assert cache.get_seq_length() == 9


def test_values_that_a_layer_changes(small: ModuleType) -> None:
    """DiffLlama puts values together that its cache has apart."""
    config = small.T.DiffLlamaConfig(**small.GROUPED)
    eager = small.made(small.T.AutoModelForCausalLM, config, "eager")
    mine = small.made(small.T.AutoModelForCausalLM, config, "pidsl", eager.state_dict())
    assert torch.equal(*(m.generate(ids(), **OPTIONS) for m in (eager, mine)))
    with pytest.raises(pidsl.hf.UnsupportedError, match="a layer changed behind its cache"):
        mine.generate(ids(), cache=pidsl.hf.DerivedCache(mine), **OPTIONS)


def test_patterns_that_look_ahead(small: ModuleType) -> None:
    own = pidsl.hf.patch(model(small), window(2, 2))
    for cache in ({}, {"cache_implementation": "static"}):
        with pytest.raises(pidsl.hf.UnsupportedError, match=r"tokens attend later ones[\s\S]*use_cache=False"):
            own.generate(ids(), **cache, **OPTIONS)
    assert own.generate(ids(), use_cache=False, **OPTIONS).shape == (2, 31)
    with pytest.raises(ArgumentError, match="the pattern without documents"):
        pidsl.hf.patch(own, window(2) & pidsl.documents)
    pidsl.hf.patch(own, window(2))
    places = torch.cat([torch.arange(8), torch.arange(9)])[None]
    packed = own(ids(), position_ids=places, use_cache=False).logits
    assert torch.allclose(packed[:, 8:], own(ids()[:, 8:]).logits, atol=1e-4)


def test_refused(small: ModuleType) -> None:
    own = model(small)
    unsupported = pidsl.hf.UnsupportedError
    with pytest.raises(unsupported, match=r"implementation='eager'[\s\S]*pidsl.hf.register\(\)"):
        pidsl.hf.DerivedCache(own)
    with pytest.raises(ArgumentError, match="3 layers\n  expected: 2"):
        pidsl.hf.patch(own, pidsl.layers([causal] * 3))
    with pytest.raises(ArgumentError, match="heads for 3 query heads\n  expected: 4"):
        pidsl.hf.patch(own, pidsl.heads([(3, causal)]))
    with pytest.raises(ArgumentError, match="a term, heads, layers"):
        pidsl.hf.patch(own, "causal")
    with pytest.raises(ArgumentError, match="a model of transformers"):
        pidsl.hf.patch(torch.nn.Linear(2, 2), causal)  # type: ignore[type-var]
    with pytest.raises(ArgumentError, match=r"pidsl.hf.patch\(model, pidsl.layers"):
        pidsl.hf.patch(model(small, "gpt2"), {"full_attention": causal})
    with pytest.raises(unsupported, match="attention interface"):
        pidsl.hf.patch(model(small, "bloom"), causal)
    both = small.made(small.T.AutoModelForSeq2SeqLM, small.PAIRS["bart"](), "eager")
    with pytest.raises(unsupported, match=r"pidsl.hf.patch\(model.get_encoder\(\), pattern\)"):
        pidsl.hf.patch(both, causal)
    pidsl.hf.patch(both.get_encoder(), window(2, 2))
    assert torch.isfinite(both(ids(), decoder_input_ids=ids()).logits).all()
    with pytest.raises(pidsl.SymbolError):
        pidsl.hf.patch(own, window(pidsl.symbols("k")))
    assert not hasattr(own, "_pidsl_before") and own.config._attn_implementation == "eager"


def test_a_cache_that_dropped_keys_is_refused(small: ModuleType) -> None:
    own = pidsl.hf.patch(model(small), causal)
    with pytest.raises(pidsl.hf.UnsupportedError, match=r"dropped \d+ keys[\s\S]*DerivedCache\(model\)"):
        own.generate(ids(), cache=small.T.DynamicCache(config=own.config), **OPTIONS)
    assert own.generate(ids(), cache=pidsl.hf.DerivedCache(own), **OPTIONS).shape == (2, 31)


def test_calls_refused_by_name(small: ModuleType) -> None:
    own = model(small, "mistral", "pidsl")
    for given, said in (
        ({"attention_mask": torch.ones(2, 1, 17, 17, dtype=torch.bool)}, r"a tensor \[2, 1, 17, 17\] \(bool\)"),
        ({"output_attentions": True}, "output_attentions: the weights"),
        ({"head_mask": torch.ones(4)}, "head_mask: factors of heads"),
        ({"cu_seq_lens_q": torch.tensor([0, 7, 17])}, "position_ids that restart in each document"),
    ):
        with pytest.raises(pidsl.hf.UnsupportedError, match=said):
            own(ids(), **given)
    places = torch.cat([torch.arange(7), torch.arange(10)])[None]
    packed = own(ids(), position_ids=places, cu_seq_lens_q=torch.tensor([0, 7, 17]), use_cache=False).logits
    assert torch.allclose(packed[:, 7:], own(ids()[:, 7:]).logits, atol=1e-4)
    with pytest.raises(pidsl.hf.UnsupportedError, match="a dict of sub-configs"):
        small.made(small.T.AutoModelForCausalLM, small.CAUSAL["falcon"](), "pidsl")


def test_keys_that_a_layer_changes(small: ModuleType) -> None:
    own = model(small, "llama", "pidsl")
    cache = pidsl.hf.DerivedCache(own)
    layer = cache.layer_class_to_replicate()
    layer.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8))
    with pytest.raises(pidsl.hf.UnsupportedError, match=r"past_key_values=transformers.DynamicCache\(\)"):
        layer.update(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8))
    with pytest.raises(pidsl.hf.UnsupportedError, match="latent attention"):
        pidsl.hf.DerivedCache(model(small, "deepseek_v3", "pidsl"))
    assert copy.deepcopy(own.config)._attn_implementation == "pidsl"


CHOOSE = {
    "moba": lambda: pidsl.select.MoBA(4, 2, 1, local=0, per="group"),
    "indexer": lambda: pidsl.select.LightningIndexer(32, 16, 8, heads=2, width=4),
}


@pytest.mark.parametrize("name", CHOOSE)
def test_chosen_blocks_have_the_same_tokens_with_any_cache(small: ModuleType, name: str) -> None:
    torch.manual_seed(0)
    select = CHOOSE[name]()
    pattern = window(2) | chosen(select.block, select.budget, select.queries)
    own = pidsl.hf.patch(model(small), pattern, select=select)
    for side in ("none", "left"):
        given = {**OPTIONS, "attention_mask": small.padded(ids(), side)}
        wanted = own.generate(ids(), use_cache=False, **given)
        assert torch.equal(own.generate(ids(), **given), wanted)
        assert torch.equal(own.generate(ids(), cache=small.T.DynamicCache(), **given), wanted)
    beams = own.generate(ids(), num_beams=3, **given)
    assert torch.equal(beams, own.generate(ids(), num_beams=3, cache=small.T.DynamicCache(), **given))
    assert not torch.equal(wanted, pidsl.hf.patch(own, window(2)).generate(ids(), **given))


def test_chosen_blocks_of_keys_that_layers_share(small: ModuleType) -> None:
    """Layers of Gemma 3n that have no keys of their own choose among those of another one."""
    own = pidsl.hf.patch(model(small, "gemma3n"), window(2) | chosen(4, 2, 1), select=pidsl.select.MoBA(4, 2, 1))
    given = {**OPTIONS, "attention_mask": small.padded(ids(), "left")}
    wanted = own.generate(ids(), use_cache=False, **given)
    assert torch.equal(own.generate(ids(), **given), wanted)
    alike = [pidsl.select.MoBA(4, 2, 1) for _ in range(4)]
    pidsl.hf.patch(own, window(2) | chosen(4, 2, 1), select=alike)
    with pytest.raises(pidsl.hf.UnsupportedError, match="a summary of one selector") as shared:
        own.generate(ids(), **given)
    assert "DynamicCache(), or one selector for all layers that share keys" in shared.value.hint
    assert torch.equal(own.generate(ids(), cache=small.T.DynamicCache(), **given), wanted)


def test_each_layer_has_a_selector_of_its_own(small: ModuleType) -> None:
    """As learned ones are: by the first one for both, the second layer lists something else."""
    torch.manual_seed(0)
    own, pattern = model(small), window(1) | chosen(1, 4, 1)
    each = torch.nn.ModuleList(pidsl.select.LightningIndexer(32, 16, 4, heads=2, width=4) for _ in range(2))
    pidsl.hf.patch(own, pattern, select=each)
    wanted, logits = own.generate(ids(), use_cache=False, **OPTIONS), own(ids()).logits
    assert torch.equal(own.generate(ids(), **OPTIONS), wanted)
    assert not torch.allclose(pidsl.hf.patch(own, pattern, select=each[0])(ids()).logits, logits, atol=1e-4)
    assert torch.equal(pidsl.hf.patch(own, pattern, select=list(each))(ids()).logits, logits)
    with pytest.raises(ArgumentError, match="3 selectors\n  expected: one, or 2, one for each layer"):
        pidsl.hf.patch(own, pattern, select=[each[0]] * 3)
    with pytest.raises(ArgumentError, match="without a selector"):
        pidsl.hf.patch(own, pattern, select=[each[0], None])
    pidsl.hf.patch(own, pidsl.layers([window(1), pattern]), select=[None, each[0]])
    assert torch.equal(own.generate(ids(), **OPTIONS), own.generate(ids(), use_cache=False, **OPTIONS))


def test_chosen_blocks_of_the_whole_budget_are_the_model(small: ModuleType) -> None:
    """The logits and tokens of a model whose attention is causal, and that has its own again afterwards."""
    own = model(small, "llama")
    tokens, mask = own.generate(ids(), use_cache=False, **OPTIONS), small.padded(ids(), "right")
    plain, masked = own(ids()).logits, own(ids(), attention_mask=mask).logits
    for select in (pidsl.select.MoBA(4, 8, 1), pidsl.select.Quest(8, 4, 4)):
        with pidsl.hf.patched(own, window(1) | chosen(select.block, select.budget, select.queries), select=select):
            assert torch.allclose(own(ids()).logits, plain, atol=1e-4)
            assert torch.allclose(own(ids(), attention_mask=mask).logits[mask == 1], masked[mask == 1], atol=1e-4)
            assert torch.equal(own.generate(ids(), **OPTIONS), tokens)
            packed = own(ids(), position_ids=torch.cat([torch.arange(8), torch.arange(9)])[None], use_cache=False)
            assert torch.allclose(packed.logits[:, 8:], own(ids()[:, 8:]).logits, atol=1e-4)
    assert torch.equal(own(ids()).logits, plain)


def test_chosen_blocks_by_the_formula(small: ModuleType) -> None:
    """One layer under the mask of the lists that its selector made."""
    select = pidsl.select.MoBA(4, 2, 4, per="entry")
    made: list[Tensor] = []
    select.register_forward_hook(lambda module, given, out: made.append(out))
    pattern = window(2) | chosen(4, 2, 4)
    config = small.T.LlamaConfig(**{**small.GROUPED, "num_hidden_layers": 1})
    own = small.made(small.T.AutoModelForCausalLM, config, "eager")
    with pidsl.hf.patched(own, pattern, select=select):
        found = own(ids()).logits
    (lists,) = made
    dense = torch.tensor([[pattern.mask(17, blocks=entry[0].numpy()).tolist()] for entry in lists])
    additive = torch.where(dense, 0.0, torch.finfo(torch.float32).min)
    assert torch.allclose(own(ids(), attention_mask=additive).logits, found, atol=1e-4)


def test_chosen_blocks_in_some_layers(small: ModuleType) -> None:
    """A selector has its say where there is a choice; its steps go back, and copies go on, with the cache."""
    select = pidsl.select.MoBA(4, 2, 1)
    own = pidsl.hf.patch(model(small), pidsl.layers([COMB, window(2) | chosen(4, 2, 1)]), select=select)
    swapped = [x._pidsl_swapped.select for x in own.modules() if hasattr(x, "_pidsl_swapped")]
    assert swapped == [None, select]
    wanted = own.generate(ids(), use_cache=False, **OPTIONS)
    assert torch.equal(own.generate(ids(), **OPTIONS), wanted)
    mask = torch.ones_like(ids())
    mask[0, 13:], mask[1, :5] = 0, 0
    with torch.no_grad():
        whole = own(ids(), attention_mask=mask, use_cache=False).logits
        for steps in ((4, 4, 9), (12, 1, 4), (1, 15, 1)):
            for lookahead in (1, 20):
                cache, found, start = pidsl.hf.DerivedCache(own, lookahead=lookahead), [], 0
                for n in steps:
                    rows = ids()[:, start : start + n]
                    found.append(own(rows, attention_mask=mask[:, : start + n], past_key_values=cache).logits)
                    start += n
                assert torch.allclose(torch.cat(found, 1)[mask == 1], whole[mask == 1], atol=1e-4)
    again = pickle.loads(pickle.dumps(own))
    assert torch.equal(again.generate(ids(), **OPTIONS), wanted)


def test_a_selector_is_needed_and_fits(small: ModuleType) -> None:
    own, pattern = model(small), window(2) | chosen(4, 2, 1)
    with pytest.raises(ArgumentError, match="without a selector") as missing:
        pidsl.hf.patch(own, pattern)
    assert missing.value.hint == "pidsl.hf.patch(model, pattern, select=pidsl.select.MoBA(block, budget, queries))"
    gate = pidsl.select.SeerGate(8, 4, 2, 4, 2, 1)
    with pytest.raises(ArgumentError, match="SeerGate") as before:
        pidsl.hf.patch(own, pattern, select=gate)
    assert before.value.hint == "pidsl.select.MoBA(block, budget, queries)"
    with pytest.raises(ArgumentError, match="at most 2 blocks of 4"):
        pidsl.hf.patch(own, pattern, select=pidsl.select.MoBA(4, 3, 1))
    with pytest.raises(ArgumentError, match="a pattern with a choice"):
        pidsl.hf.patch(own, pidsl.layers([window(2), window(3)]), select=pidsl.select.MoBA(4, 3, 1))
    assert not hasattr(own, "_pidsl_before")
    pidsl.hf.patch(own, pattern, select=pidsl.select.MoBA(4, 2, 1))
    assert torch.isfinite(own(ids()).logits).all()
