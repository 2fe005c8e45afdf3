"""2,000 steps of decoding from a derived cache are those from all keys, with crops and new beams in between."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import pidsl
from pidsl import Cache, blocks, causal, heads, keys, layers, patterns, window

B, HQ, HKV, D = 2, 2, 1, 8
STEPS, LOOKAHEAD, ROOM = 2000, 3, 2600
COMB = (window(7) | keys(0, None, 8)) & causal
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "comb": (COMB, {}),
    "sinks and window": (patterns.streaming_llm(63, sinks=4), {"max_tokens": ROOM}),
    "single skip": (patterns.pi_attention(63, 256), {}),
    "chunked": (blocks(64) & causal, {"max_tokens": ROOM}),
    "power": (patterns.power_attention(4096, block=16, window=3), {"max_tokens": ROOM}),
    "mixed": (window(15) | window(255) & keys(0, None, 8), {}),
    "heads": (heads([(1, window(15)), (1, (window(3) | keys(0, 4)) & causal)]), {"max_tokens": ROOM}),
    "pages": ((window(31) | keys(0, 4)) & causal, {"page_size": 16}),
    "pages with gaps": (window(7) | window(511) & keys(0, 4096, 64), {"page_size": 16, "max_tokens": ROOM}),
    "layers": (layers([window(15), COMB, heads([(1, window(15)), (1, blocks(32) & causal)])]), {"max_tokens": ROOM}),
}  # fmt: skip


class Full:
    """All keys of all entries, and attention over them in float64, by masks."""

    def __init__(self, of: Any) -> None:
        masks = of.mask(ROOM) if isinstance(of, pidsl.Heads) else of.mask(ROOM)[None].repeat(HQ, 0)
        self.mask = torch.from_numpy(np.ascontiguousarray(masks))
        self.k, self.v = (torch.zeros(B, HKV, ROOM, D, dtype=torch.float64) for _ in range(2))

    def rows(self, q: Tensor, tokens: list[int]) -> Tensor:
        """What the rows of the last tokens of each entry are: q [B, HQ, n, D]."""
        found = torch.zeros(B, HQ, q.shape[2], D, dtype=torch.float64)
        for b, count in enumerate(tokens):
            for r in range(q.shape[2]):
                i = count - q.shape[2] + r
                if i < 0:
                    continue
                for h in range(HQ):
                    seen = self.mask[h, i, :count].nonzero()[:, 0]
                    weights = torch.softmax(self.k[b, 0, seen] @ q[b, h, r].double() * D**-0.5, 0)
                    found[b, h, r] = weights @ self.v[b, 0, seen]
        return found


@pytest.mark.parametrize("name", CASES)
def test_decoding_is_that_over_all_keys(name: str) -> None:
    of, options = CASES[name]
    kernel = pidsl.compile(of, "torch")
    cache: Any = Cache(kernel, B, HKV, D, torch.float32, "cpu", lookahead=LOOKAHEAD, **options)
    each = [(x, y, Full(z)) for x, y, z in zip(kernel, cache, of, strict=True)] if name == "layers" else None
    each = each or [(kernel, cache, Full(of))]
    draw, torch_draw = random.Random(name), torch.Generator().manual_seed(1)
    tokens, furthest, done = [0] * B, [0] * B, {"crop": 0, "reorder": 0, "grow": 0}

    def append(count: int, lengths: list[int] | None) -> None:
        for _, held, full in each:
            k, v = (torch.randn(B, HKV, count, D, generator=torch_draw) for _ in range(2))
            for b in range(B):
                real = count if lengths is None else lengths[b]
                full.k[b, :, tokens[b] : tokens[b] + real] = k[b, :, :real]
                full.v[b, :, tokens[b] : tokens[b] + real] = v[b, :, :real]
            held.append(k, v, None if lengths is None else torch.tensor(lengths))
        for b in range(B):
            tokens[b] += count if lengths is None else lengths[b]
            furthest[b] = max(furthest[b], tokens[b])

    append(40, [40, 23])  # a ragged prefill
    for step in range(STEPS):
        what = draw.random()
        if what < 0.05:
            left = [min(t, max(f - draw.randint(0, LOOKAHEAD), 1)) for t, f in zip(tokens, furthest, strict=True)]
            cache.crop(torch.tensor(left))
            tokens[:], done["crop"] = left, done["crop"] + 1
        elif what < 0.08:
            beams = [draw.randrange(B) for _ in range(B)]
            cache.reorder(torch.tensor(beams))
            for _, _, full in each:
                full.k, full.v = full.k[beams], full.v[beams]
            tokens[:], furthest[:] = [tokens[b] for b in beams], [furthest[b] for b in beams]
            done["reorder"] += 1
        elif what < 0.12:
            append(LOOKAHEAD + 1, None)
            done["grow"] += 1
        elif what < 0.14:
            append(2, [draw.randint(0, 2) for _ in range(B)])
        else:
            append(1, None)
        allowed = min(t - (f - 1 - LOOKAHEAD) for t, f in zip(tokens, furthest, strict=True))
        rows = min(LOOKAHEAD + 1 if step % 10 == 0 else 1, allowed)
        for own, held, full in each:
            q = torch.randn(B, HQ, rows, D, generator=torch_draw)
            torch.testing.assert_close(own.decode(q, held).double(), full.rows(q, tokens), rtol=1e-4, atol=1e-5)
        assert all(held.tokens.tolist() == tokens for _, held, _ in each)
    assert min(done.values()) > 30 and min(tokens) > 1500
    for _, held, _ in each:
        assert held.proof.check()
