"""Small random models of transformers: what pidsl gives beside eager. Prints a table.

    python benchmarks/hf_models.py [--only mistral,llama] [--json FILE]

Columns: the largest difference of logits without padding, with padding on the left and on the right (real tokens),
the largest relative difference of gradients, and whether generate() has the same tokens with a dynamic, a static and
the derived cache. What is refused is named.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as T
from torch import Tensor

import pidsl.hf
from pidsl.errors import PidslError

TOKENS = 99
SIZES = dict(
    vocab_size=TOKENS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
BOTH = ["sliding_attention", "full_attention"]
SLIDING = dict(use_sliding_window=True, sliding_window=5)
FOUR = {**GROUPED, "num_hidden_layers": 4}
SHARED = dict(
    sliding_window=5, num_kv_shared_layers=2, hidden_size_per_layer_input=8, vocab_size_per_layer_input=TOKENS
)
MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
LATENT = dict(q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=8)
GPT = dict(vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
NO_DROPOUT = dict(attention_dropout=0.0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
SEQ2SEQ = dict(
    vocab_size=TOKENS, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, pad_token_id=0,
    decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, dropout=0.0,
    bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
)  # fmt: skip


def t5gemma() -> Any:
    part = {**FOUR, "sliding_window": 5, "query_pre_attn_scalar": 8}
    return T.T5GemmaConfig(encoder=part, decoder={**part, "cross_attention_hidden_size": 32}, vocab_size=TOKENS)


CAUSAL: dict[str, Callable[[], Any]] = {
    "mistral": lambda: T.MistralConfig(**GROUPED, sliding_window=5),
    "llama": lambda: T.LlamaConfig(**GROUPED),
    "gemma2": lambda: T.Gemma2Config(**GROUPED, sliding_window=5, query_pre_attn_scalar=16),
    "gemma3": lambda: T.Gemma3TextConfig(**GROUPED, sliding_window=5, layer_types=BOTH),
    "gemma3_bidirectional": lambda: T.Gemma3TextConfig(  # EmbeddingGemma
        **GROUPED, sliding_window=5, layer_types=BOTH, use_bidirectional_attention=True
    ),
    "gemma3n": lambda: T.Gemma3nTextConfig(
        **{**FOUR, "intermediate_size": [48] * 4}, **SHARED, layer_types=BOTH * 2, laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 4,
    ),
    "gemma4": lambda: T.Gemma4TextConfig(**FOUR, **SHARED, layer_types=BOTH * 2, global_head_dim=16),
    "gpt_oss": lambda: T.GptOssConfig(**GROUPED, sliding_window=5, num_local_experts=4, num_experts_per_tok=2),
    "llama4": lambda: T.Llama4TextConfig(**FOUR, attention_chunk_size=6, num_local_experts=2, intermediate_size_mlp=48),
    "phi3": lambda: T.Phi3Config(**{**GROUPED, "sliding_window": 5}),
    "qwen3": lambda: T.Qwen3Config(**GROUPED),
    "gpt_neo": lambda: T.GPTNeoConfig(
        vocab_size=TOKENS, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
        window_size=5, max_position_embeddings=64, attention_dropout=0.0, resid_dropout=0.0, embed_dropout=0.0,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    ),
    "qwen2": lambda: T.Qwen2Config(**SIZES, **SLIDING, num_key_value_heads=2, max_window_layers=1),
    "qwen3_moe": lambda: T.Qwen3MoeConfig(**GROUPED, **MOE),
    "olmo2": lambda: T.Olmo2Config(**SIZES, num_key_value_heads=2),
    "olmo3": lambda: T.Olmo3Config(**{**SIZES, "num_hidden_layers": 4}, num_key_value_heads=2, sliding_window=5),
    "cohere2": lambda: T.Cohere2Config(**{**FOUR, "sliding_window": 5}),
    "smollm3": lambda: T.SmolLM3Config(**SIZES, num_key_value_heads=2),
    "starcoder2": lambda: T.Starcoder2Config(**SIZES, num_key_value_heads=2, sliding_window=5),
    "granite": lambda: T.GraniteConfig(**SIZES, num_key_value_heads=2),
    "gpt2": lambda: T.GPT2Config(**GPT, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, pad_token_id=0),
    "gpt_neox": lambda: T.GPTNeoXConfig(**SIZES),
    "opt": lambda: T.OPTConfig(
        vocab_size=TOKENS, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, dropout=0.0,
        max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "mixtral": lambda: T.MixtralConfig(**GROUPED, num_local_experts=4, sliding_window=5),
    "deepseek_v3": lambda: T.DeepseekV3Config(
        **SIZES, **LATENT, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2, moe_intermediate_size=32,
        first_k_dense_replace=1, num_key_value_heads=4,
    ),
    "exaone4": lambda: T.Exaone4Config(**FOUR, sliding_window=5, sliding_window_pattern=4),
    "helium": lambda: T.HeliumConfig(**GROUPED),
    "glm4": lambda: T.Glm4Config(**GROUPED),
    "nemotron": lambda: T.NemotronConfig(**GROUPED),
    "stablelm": lambda: T.StableLmConfig(**SIZES, num_key_value_heads=2),
    "phi": lambda: T.PhiConfig(**SIZES),
    "biogpt": lambda: T.BioGptConfig(**SIZES, **NO_DROPOUT),
    "ministral": lambda: T.MinistralConfig(**GROUPED, sliding_window=5),
    "smollm3_sliding": lambda: T.SmolLM3Config(**SIZES, **SLIDING, num_key_value_heads=2),
    "gemma": lambda: T.GemmaConfig(**GROUPED),
    "apertus": lambda: T.ApertusConfig(**SIZES, num_key_value_heads=2),
    "arcee": lambda: T.ArceeConfig(**SIZES, num_key_value_heads=2),
    "hunyuan": lambda: T.HunYuanDenseV1Config(**GROUPED),
    "modernbert_decoder": lambda: T.ModernBertDecoderConfig(
        **SIZES, local_attention=8, layer_types=BOTH, embedding_dropout=0.0,
        mlp_dropout=0.0, attention_dropout=0.0, cls_token_id=1, sep_token_id=2,
    ),
    "vaultgemma": lambda: T.VaultGemmaConfig(**GROUPED, sliding_window=5),
    "gptj": lambda: T.GPTJConfig(**GPT, rotary_dim=4),
    "codegen": lambda: T.CodeGenConfig(**GPT, rotary_dim=4),
    "jamba": lambda: T.JambaConfig(
        **SIZES, num_key_value_heads=2, num_experts=2, attn_layer_offset=1, attn_layer_period=2,
        use_mamba_kernels=False,
    ),
    "mpt": lambda: T.MptConfig(vocab_size=TOKENS, d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    "bloom": lambda: T.BloomConfig(vocab_size=TOKENS, hidden_size=32, n_layer=2, n_head=4),
    "falcon": lambda: T.FalconConfig(vocab_size=TOKENS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
}  # fmt: skip
ENCODERS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "bert": (T.AutoModelForMaskedLM, lambda: T.BertConfig(**SIZES, **NO_DROPOUT)),
    "roberta": (T.AutoModelForMaskedLM, lambda: T.RobertaConfig(**SIZES, **NO_DROPOUT)),
    "modernbert": (
        T.AutoModelForMaskedLM,
        lambda: T.ModernBertConfig(
            **{**SIZES, "num_hidden_layers": 4}, local_attention=8, global_attn_every_n_layers=3, cls_token_id=1,
            sep_token_id=2,
            embedding_dropout=0.0, mlp_dropout=0.0, attention_dropout=0.0,
        ),
    ),
    "albert": (T.AutoModelForMaskedLM, lambda: T.AlbertConfig(**SIZES, embedding_size=16)),
    "electra": (T.AutoModelForMaskedLM, lambda: T.ElectraConfig(**SIZES, **NO_DROPOUT, embedding_size=16)),
    "distilbert": (
        T.AutoModelForMaskedLM,
        lambda: T.DistilBertConfig(
            vocab_size=TOKENS, dim=32, n_layers=2, n_heads=4, hidden_dim=48, dropout=0.0, attention_dropout=0.0,
        ),
    ),
    "deberta": (T.AutoModelForMaskedLM, lambda: T.DebertaV2Config(**SIZES)),
    "eurobert": (T.AutoModelForMaskedLM, lambda: T.EuroBertConfig(**SIZES)),
}  # fmt: skip
PAIRS: dict[str, Callable[[], Any]] = {
    "bart": lambda: T.BartConfig(**SEQ2SEQ),
    "marian": lambda: T.MarianConfig(**SEQ2SEQ),
    "t5gemma": t5gemma,
    "t5": lambda: T.T5Config(
        vocab_size=TOKENS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=1,
    ),
}  # fmt: skip  # fmt: skip


def made(auto: Any, config: Any, implementation: str, weights: Any = None) -> Any:
    """A model with random weights that are large enough to tell patterns apart, or with those of another."""
    torch.manual_seed(0)
    model = auto.from_config(copy.deepcopy(config), attn_implementation=implementation).float().eval()
    if weights is not None:
        model.load_state_dict(weights)
        return model
    for x in model.parameters():
        if x.dim() > 1:
            torch.nn.init.normal_(x, std=0.2)
        else:
            x.data += 0.1 * torch.randn_like(x)
    return model


def padded(ids: Tensor, side: str) -> Tensor:
    """An attention mask: 5 tokens of padding in the second entry."""
    mask = torch.ones_like(ids)
    if side == "left":
        mask[1, :5] = 0
    elif side == "right":
        mask[1, -5:] = 0
    return mask


def compared(models: tuple[Any, Any], ids: Tensor, side: str, **more: Any) -> tuple[float, float]:
    """The largest difference of logits of real tokens, and the largest of gradients, relative to their parameter's."""
    mask, found = padded(ids, side), []
    for model in models:
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask, **more).logits
        rows = logits if "decoder_input_ids" in more else logits[mask.bool()]
        (rows.float().log_softmax(-1)[..., 7].sum() / rows.shape[0]).backward()
        found.append((rows.detach(), [None if x.grad is None else x.grad.clone() for x in model.parameters()]))
    (a, grads), (b, others) = found
    pairs = [(x, y) for x, y in zip(grads, others, strict=True) if x is not None and y is not None]
    scale = max(float(x.abs().max()) for x, _ in pairs)
    worst = max(float((x - y).abs().max()) for x, y in pairs) / scale
    return float((a - b).abs().max()), worst


def generated(models: tuple[Any, Any], ids: Tensor, causal: bool) -> str:
    """Whether tokens are the same: dynamic, static, derived, each without padding and with padding on the left."""
    eager, mine = models
    said = []
    options = dict(max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    for kind in ("dynamic", "static", "derived") if causal else ("dynamic", "static"):
        word = "yes"
        for side in ("none", "left"):
            mask = padded(ids, side)
            wanted = eager.generate(ids, attention_mask=mask, **options)
            try:
                cache = {"derived": dict(cache=pidsl.hf.DerivedCache(mine)) if kind == "derived" else {}}.get(
                    kind, {"cache_implementation": kind}
                )
                found = mine.generate(ids, attention_mask=mask, **cache, **options)
                if not torch.equal(wanted, found):  # nor are those of eager, of some models with a static cache
                    same = {} if kind == "derived" else cache
                    own = eager.generate(ids, attention_mask=mask, **same, **options)
                    word = word if torch.equal(own, found) else f"NO ({side})"
            except PidslError as e:
                word = f"refused: {e.given}"
            except Exception as e:  # of transformers itself, where eager has it too
                word = f"fails: {type(e).__name__}"
                try:
                    eager.generate(ids, attention_mask=mask, cache_implementation="static", **options)
                except Exception:
                    word = "no, nor eager"
        said.append(word)
    return ", ".join(said)


def row(name: str) -> list[str]:
    """A line of the table."""
    torch.manual_seed(1)
    ids = torch.randint(3, TOKENS, (2, 17))
    more: dict[str, Tensor] = {}
    if name in ENCODERS:
        auto, config = ENCODERS[name]
    elif name in PAIRS:
        auto, config, more = T.AutoModelForSeq2SeqLM, PAIRS[name], {"decoder_input_ids": ids[:, :9]}
    else:
        auto, config = T.AutoModelForCausalLM, CAUSAL[name]
    try:
        eager = made(auto, config(), "eager")
        models = eager, made(auto, config(), "pidsl", eager.state_dict())
        cells, worst = [], 0.0
        for side in ("none", "left", "right"):
            logits, grads = compared(models, ids, side, **more)
            cells.append(f"{logits:.1e}")
            worst = max(worst, grads)
        cells.append(f"{worst:.1e}")
        cells.append("" if name in ENCODERS else generated(models, ids, name in CAUSAL))
    except PidslError as e:
        return [name, f"refused: {e.given}"]
    return [name, *cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--json", type=Path, help="write the table there too")
    given = parser.parse_args()
    pidsl.hf.register()
    logging.disable(logging.WARNING)
    names = given.only.split(",") if given.only else [*CAUSAL, *ENCODERS, *PAIRS]
    print("| model | logits | left | right | gradients | dynamic, static, derived |\n|---|--:|--:|--:|--:|---|")
    rows = []
    for name in names:
        try:
            rows.append(row(name))
        except Exception as e:
            rows.append([name, f"FAILS: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"])
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    if given.json:
        given.json.write_text(
            json.dumps({"torch": torch.__version__, "transformers": T.__version__, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    sys.exit(main())
