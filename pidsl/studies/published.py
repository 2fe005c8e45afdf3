"""Bounds that were published about patterns, as data.

A published sentence leaves things open (which keys a stride adds, whether a width counts the token itself), so a claim
is stated under a named reading, and says whose words are judged: those of the paper, those of a summary of it, or
ours. Sources say what was found in print, in our words; the readings are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sympy

from pidsl.analysis.bound import Bound, Subject, asking
from pidsl.analysis.documents import ACROSS
from pidsl.analysis.formulas.assume import conditions
from pidsl.analysis.formulas.words import CeilLog, L, n, symbol
from pidsl.analysis.schedules import BaseSchedule, SkipSchedule
from pidsl.language.trace import where
from pidsl.language.vocabulary import (
    blocks,
    causal,
    documents,
    full,
    halo,
    keys,
    lags,
    neighborhood,
    queries,
    stride,
    symbols,
    window,
)

Wording = Literal["the paper's", "a summary's", "ours"]
PAPER: Wording = "the paper's"
SUMMARY: Wording = "a summary's"
OURS: Wording = "ours"

PI = "Liu and Yu, pi-Attention, arXiv 2511.10696"
SPARSE = "Child et al., Sparse Transformers, arXiv 1904.10509, section 4"
LONGFORMER = "Beltagy et al., Longformer, arXiv 2004.05150, section 3.1"
MISTRAL = "Jiang et al., Mistral 7B, arXiv 2310.06825, section 2"
LOGSPARSE = "Li et al., LogSparse Transformer, arXiv 1907.00235, section 4.2"
POWER = "Chen et al., PowerAttention, arXiv 2503.03588"
BIGBIRD = "Zaheer et al., BigBird, arXiv 2007.14062, section 2"
LONGNET = "Ding et al., LongNet, arXiv 2307.02486, abstract and section 2"
KRELL = "Krell et al., Efficient Sequence Packing without Cross-contamination, arXiv 2107.02027"
PRACTICE = "a practice: position ids that restart with each document, and no mask"
SINKS = "Xiao et al., StreamingLLM, arXiv 2309.17453, section 3"
NAT = "Hassani et al., Neighborhood Attention Transformer, arXiv 2204.07143"
DINAT = "Hassani and Shi, Dilated Neighborhood Attention Transformer, arXiv 2209.15001, abstract"
SWIN = "Liu et al., Swin Transformer, arXiv 2103.14030, section 3.2"
HALONET = "Vaswani et al., HaloNet, arXiv 2103.12731"
FREESWIM = "FreeSwim, arXiv 2511.14712, its code"
NSA = "Yuan et al., Native Sparse Attention, arXiv 2502.11089, section 3"
DSA = "DeepSeek V3.2, sparse attention with an indexer: 2,048 tokens for a query, its code"
CSA = "DeepSeek V4, compressed sparse attention, its code"
MOBA = "Lu et al., MoBA, arXiv 2502.13189, section 2"
RING = "Liu et al., Ring Attention, arXiv 2310.01889, section 3"
HALO = "context parallelism with a halo, as frameworks count its volume"
LOCALITY = "Yang, Locality Does Not Imply Reachability, arXiv 2606.02680, abstract"
FIBONACCI = "Capps, Depth-Staggered Fibonacci Spacing, arXiv 2606.28560, abstract"
VLLM = "vLLM 0.33, pages that a sliding window is admitted with, its code"


@dataclass(frozen=True)
class Claim:
    """A published bound under one reading.

    Args:
        name: a short name, unique.
        source: the paper, and where in it.
        wording: whose words the bound is: the paper's, a summary's where the paper could not be had, or ours.
        statement: what is said there.
        reading: what the words are taken to mean here, and what is assumed of the pattern.
        bound: the statement about a pattern.
        repair: how to state it so that it holds; "" where nothing is to be repaired.
        repaired: the repaired statement, to be proved as well.
    """

    name: str
    source: str
    wording: Wording
    statement: str
    reading: str
    bound: Bound
    repair: str = ""
    repaired: Bound | None = None


def claims() -> Sequence[Claim]:
    """The claims, in the order of the papers."""
    return [
        *_pi(),
        *_windows(),
        *_two_steps(),
        *_powers(),
        *_images(),
        *_chosen(),
        *_workers(),
        *_unreached(),
        *_packed(),
    ]


def _pi() -> list[Claim]:
    k, p = symbols("k period")
    K, P = symbol("k"), symbol("period")
    single, comb = window(k) | lags(p), window(k) | (stride(p) & causal)
    first, second = SkipSchedule(k, p, first=1), SkipSchedule(k, p, first=2)
    reach, proper = K * L + P * CeilLog(2, L), "k >= 1, period > k"
    text = "R(L) <= k*L + pi*ceil(log2 L): the tokens to the left that L layers reach"
    return [
        Claim(
            "pi-Attention, reach, skip in every layer", PI, SUMMARY, text,
            "lags 0..k and one skip, in every layer; R(L) is the largest lag. This form is that of a summary: the "
            "abstract has O(k L + pi log L), asymptotic and with L for the sequence length, which is not judged",
            _claim(single, "farthest", "<=", reach, proper),
            "the largest lag is period*L: every layer may skip",
            _claim(single, "farthest", "<=", P * L, proper),
        ),
        Claim(
            "pi-Attention, contiguous reach, skip in every layer", PI, SUMMARY, text,
            "lags 0..k and one skip, in every layer; R(L) counts the lags 0..R without a gap",
            _claim(single, "contiguous", "<=", reach, proper),
            "it is at most period*L; k*L until the windows close the gap between skips, then slope period",
            _claim(single, "contiguous", "<=", P * L, proper),
        ),
        Claim(
            "pi-Attention, reach, skip in layers 1, 2, 4, ...", PI, SUMMARY, text,
            "lags 0..k in every layer, the skip in the layers 1, 2, 4, 8, ... counted from the input",
            _claim(first, "farthest", "<=", reach, proper),
            "layer 1 skips as well: one skip more, ceil(log2 (L + 1)) of them",
            _claim(first, "farthest", "<=", K * L + P * CeilLog(2, L + 1), proper),
        ),
        Claim(
            "pi-Attention, reach, skip in layers 2, 4, 8, ...", PI, SUMMARY, text,
            "lags 0..k in every layer, the skip in the layers 2, 4, 8, ...: a path skips at most log2 L times",
            _claim(second, "farthest", "<=", reach, proper),
        ),
        Claim(
            "pi-Attention, reach, comb", PI, SUMMARY, text,
            "lags 0..k and every multiple of the period, in every layer",
            _claim(comb, "farthest", "<=", reach, proper),
            "one layer reaches the beginning of the sequence; all of it is reached in 1 + ceil((period - 1)/k) layers",
            _claim(comb, "depth", "<=", 1 + sympy.ceiling((P - 1) / K), f"{proper}, n >= 2*period"),
        ),
        Claim(
            "pi-Attention, compute, single skip", PI, SUMMARY, "O(n k) compute per layer",
            "lags 0..k and one skip; the constant is ours: at most k + 2 pairs per token",
            _claim(single, "pairs", "<=", n * (K + 2), proper),
        ),
        Claim(
            "pi-Attention, memory, single skip", PI, SUMMARY, "O(n k + n) memory",
            "the scores of all pairs and one number per token; the constant is ours",
            _claim(single, "pairs", "<=", n * (K + 3) - n, proper),
        ),
        Claim(
            "pi-Attention, compute, comb", PI, SUMMARY, "O(n k) compute per layer",
            "lags 0..k and every multiple of the period; the constant is ours: 2 (k + 1) pairs per token",
            _claim(comb, "pairs", "<=", 2 * n * (K + 1), proper),
            "no constant will do: the last query alone has at least n/period keys; O(n k) needs a period of order n/k",
            _claim(stride(p) & causal, "max degree", ">=", sympy.floor(n / P), "period >= 1, n >= 1"),
        ),
    ]  # fmt: skip


def _windows() -> list[Claim]:
    """Windows, dilated and not, and what is kept of them."""
    k, d, s = symbols("k dilation sinks")
    K, D, S = symbol("k"), symbol("dilation"), symbol("sinks")
    dilated = window(k).dilated(d)
    return [
        Claim(
            "Mistral, reach", MISTRAL, PAPER, "after L layers information moves by up to W*L tokens",
            "W keys, the token itself among them: lags 0..W - 1",
            _claim(window(k), "farthest", "<=", (K + 1) * L, "k >= 1"),
        ),
        Claim(
            "Mistral, reach, attained", MISTRAL, OURS, "after L layers information moves by W*L tokens",
            "W keys, the token itself among them: lags 0..W - 1; the paper says up to, which holds",
            _claim(window(k), "farthest", "==", (K + 1) * L, "k >= 1"),
            "exactly (W - 1)*L: the token itself is one of the W",
            _claim(window(k), "farthest", "==", K * L, "k >= 1"),
        ),
        Claim(
            "Mistral, span", MISTRAL, PAPER, "W = 4096 and 32 layers span about 131 thousand tokens",
            "lags 0..4095 in each of 32 layers; about: at most 32*4096, and no thousandth less",
            _claim(window(4095), "farthest", ">=", sympy.Integer(130_941), "n >= 131073", layers=32),
        ),
        Claim(
            "Mistral, cache", MISTRAL, PAPER, "a rolling buffer of W entries is enough",
            "lags 0..W - 1: keys that a later query still attends",
            _claim(window(k), "live keys", "<=", K + 1, "k >= 0"),
        ),
        Claim(
            "Longformer, reach", LONGFORMER, PAPER, "l layers of windows of width w have a receptive field of l*w",
            "w/2 on each side; the half that looks back, k = w/2: all of k*L tokens are seen, and no token before them",
            _claim(window(k), "contiguous", "==", K * L, "k >= 1, n > k*L"),
        ),
        Claim(
            "Longformer, dilated reach", LONGFORMER, PAPER, "the receptive field of dilated windows is l*d*w",
            "causal half: lags 0, d, ..., k*d in every layer; the largest lag",
            _claim(dilated, "farthest", "<=", K * D * L, "k >= 1, dilation >= 2"),
        ),
        Claim(
            "Longformer, dilated coverage", LONGFORMER, OURS, "a receptive field of l*d*w tokens, every one seen",
            "causal half: lags 0, d, ..., k*d in every layer; that every token in the field is seen is our addition",
            _claim(dilated, "contiguous", ">=", K * D * L, "k >= 1, dilation >= 2"),
            "only every d-th token is seen, at any depth: mix dilations, as the paper does across heads",
            _claim(dilated, "contiguous", "==", sympy.Integer(0), "k >= 1, dilation >= 2"),
        ),
        Claim(
            "StreamingLLM, cache", SINKS, PAPER, "a constant number of keys is kept",
            "sinks and a window: at most k + sinks keys are live, however long the stream",
            _claim(window(k) | (keys(0, s) & causal), "live keys", "<=", K + S, "k >= 0, sinks >= 1"),
        ),
        Claim(
            "StreamingLLM, budget", SINKS, PAPER, "4 sinks and 1020 recent tokens make a cache of 1024",
            "keys of any query, the token itself among them; at their true positions, not those in the cache",
            _claim(window(1019) | keys(0, 4) & causal, "max degree", "<=", sympy.Integer(1024), "n >= 1"),
        ),
        Claim(
            "Sliding window, pages", VLLM, PAPER, "ceil((W - 1)/page) + 1 pages hold what a window of W keys needs",
            "W = 4096 and pages of 16: whole pages of a cache, wherever they begin",
            _claim(window(4095), "live pages", "<=", sympy.Integer(257), "t >= 0", page=16),
        ),
    ]  # fmt: skip


def _two_steps() -> list[Claim]:
    """Global tokens, strides and dilated blocks: few steps between any two tokens."""
    p = symbols("period")
    P = symbol("period")
    strided = window(p - 1) | (stride(p) & causal)
    fixed = (blocks(8) | where(lambda i, j: j % 8 == 7)) & causal
    one_global, two_global = (window(3, 3) | keys(0, x) | queries(0, x) for x in (1, 2))
    longnet = blocks(8) | blocks(16) & stride(2) & keys(0, None, 2) | blocks(32) & stride(4) & keys(0, None, 4)
    return [
        Claim(
            "Longformer, global tokens", LONGFORMER, PAPER, "global tokens connect all pairs in two layers",
            "window of 3 on both sides; token 0 sees all and is seen by all",
            _claim(one_global, "depth", "<=", sympy.Integer(2), "n >= 1", of="all"),
        ),
        Claim(
            "Longformer, cost", LONGFORMER, PAPER, "the cost grows linearly with the sequence",
            "window of 3 on both sides and one global token; the constant is ours: 9 pairs per token",
            _claim(one_global, "pairs", "<=", 9 * n, "n >= 0"),
        ),
        Claim(
            "BigBird, global tokens", BIGBIRD, PAPER, "with a global token every pair is two hops apart",
            "window of 3 on both sides, two global tokens that see all and are seen by all; no random keys",
            _claim(two_global, "depth", "<=", sympy.Integer(2), "n >= 1", of="all"),
        ),
        Claim(
            "BigBird, global tokens in a decoder", BIGBIRD, OURS, "with a global token every pair is two hops apart",
            "the same tokens in a causal decoder, of which the paper does not say it",
            _claim(two_global & causal, "depth", "<=", sympy.Integer(2), "n >= 1"),
            "two hops need global tokens that also look ahead; causal ones only hold what came before them",
            _claim(two_global, "depth", "<=", sympy.Integer(2), "n >= 1", of="all"),
        ),
        Claim(
            "BigBird, cost", BIGBIRD, PAPER, "O(n) pairs",
            "window of 3 on both sides and two global tokens; the constant is ours: 11 pairs per token",
            _claim(two_global, "pairs", "<=", 11 * n, "n >= 0"),
        ),
        Claim(
            "Sparse Transformer, strided, steps", SPARSE, PAPER, "every pair is connected in two steps",
            "lags below the stride and its multiples, in one mask",
            _claim(strided, "depth", "<=", sympy.Integer(2), "period >= 2, n >= 2*period"),
        ),
        Claim(
            "Sparse Transformer, strided, cost", SPARSE, PAPER, "O(n sqrt n) pairs",
            "the stride is the root of n: at most 2*stride keys for each of stride**2 tokens",
            _claim(strided, "max degree", "<=", 2 * P, "period >= 2, n == period*period"),
        ),
        Claim(
            "Sparse Transformer, fixed, steps", SPARSE, PAPER, "every pair is connected in two steps",
            "own block of 8 and the last position of each block (c = 1)",
            _claim(fixed, "depth", "<=", sympy.Integer(2), "n >= 1"),
        ),
        Claim(
            "Sparse Transformer, fixed, cost", SPARSE, PAPER, "O(n sqrt n) pairs",
            "own block of 8 and the last position of each block: at most n/8 + 8 keys, which is least for blocks of "
            "sqrt n",
            _claim(fixed, "max degree", "<=", n / 8 + 8, "n >= 1"),
        ),
        Claim(
            "LongNet, cost", LONGNET, PAPER, "linear cost: segments and dilations grow together, a geometric series",
            "every token in segments of 8, every 2nd of 16, every 4th of 32: 8 keys, and at most 4 more by each",
            _claim(longnet, "max degree", "<=", sympy.Integer(16), "n >= 1"),
        ),
        Claim(
            "LongNet, steps", LONGNET, PAPER, "a number of steps between any two tokens that is logarithmic",
            "the same three of them, for as many tokens as the longest segment has: three steps",
            _claim(longnet, "depth", "<=", sympy.Integer(3), "n >= 1, n <= 32", of="all"),
        ),
    ]  # fmt: skip


def _powers() -> list[Claim]:
    """Lags that grow, by powers or by Fibonacci's numbers."""
    powers = tuple(2**e for e in range(11))
    fibonacci = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)
    power = (window(4) | lags(8, 16, 32, 64) | keys(0, 1)).blocked(256) & causal
    staggered = (window(3) | lags(5, 8, 13), window(3) | lags(13, 21, 34))
    return [
        Claim(
            "LogSparse, depth", LOGSPARSE, PAPER, "O(log n) layers connect every cell to every earlier one",
            "the lags 0 and 2^l in layer l: the binary digits of the lag; more lags per layer only add",
            _claim(BaseSchedule(2), "depth", "<=", CeilLog(2, n), "n >= 2"),
        ),
        Claim(
            "LogSparse, keys", LOGSPARSE, PAPER, "a cell attends O(log n) others",
            "itself and the lags 1, 2, 4, ..., 1024, for as many tokens: log2 n + 1 keys",
            _claim(lags(0, *powers), "max degree", "<=", sympy.Integer(12), "n >= 1, n <= 2048"),
        ),
        Claim(
            "LogSparse, cost", LOGSPARSE, PAPER, "O(n log n) pairs in a layer",
            "the same lags and 2048 tokens: n (log2 n + 1) pairs at most",
            _claim(lags(0, *powers), "pairs", "<=", sympy.Integer(2048 * 12), "", n=2048),
        ),
        Claim(
            "PowerAttention, degree", f"{POWER}, theorem B.1", PAPER, "out-degree at most log n",
            "lags 1, 2, 4, ..., 1024, enough for 2^11 tokens: at most 11 keys, the token itself not counted",
            _claim(lags(*powers), "max degree", "<=", sympy.Integer(11), "n >= 1"),
        ),
        Claim(
            "PowerAttention, reach", POWER, PAPER, "after L layers 2^L tokens are reached",
            "lags 0, 1, 2, 4, ..., 1024 in every layer, L = 8: the last 2^8 tokens without a gap",
            _claim(lags(0, *powers), "contiguous", ">=", sympy.Integer(255), "n > 600", layers=8),
        ),
        Claim(
            "PowerAttention, distance", f"{POWER}, theorem B.1", PAPER, "distance at most log n between any two tokens",
            "lags 0, 1, 2, 4, ..., 1024 in every layer",
            _claim(lags(0, *powers), "depth", "<=", sympy.Integer(11), "n >= 1, n <= 2048"),
        ),
        Claim(
            "PowerAttention, budget", POWER, PAPER, "about 10 blocks of 256 are attended at 32K",
            "a window of 5 blocks, one sink block, and the blocks 8, 16, 32 and 64 before",
            _claim(power, "max degree", "<=", sympy.Integer(2560), "n >= 1"),
        ),
        Claim(
            "PowerAttention, sparsity", POWER, PAPER, "a sparsity of 0.94 at 32K",
            "the same blocks; the share of all n*n pairs, to within a hundredth",
            _claim(power, "sparsity", ">=", sympy.Rational(93, 100), "", n=32768),
        ),
        Claim(
            "Fibonacci offsets, positions", FIBONACCI, PAPER, "queries meet only relative positions that training had",
            "a window and offsets up to 144: no lag is larger, however long the sequence",
            _claim(window(3) | lags(*fibonacci), "farthest", "<=", sympy.Integer(144), "n >= 145", layers=1),
        ),
        Claim(
            "Fibonacci offsets, coverage", FIBONACCI, OURS, "few layers leave no gap: sums of Fibonacci's numbers",
            "offsets 0, 1, 2, 3, 5, ..., 144 in each of 5 layers: every one of the last 231 tokens",
            _claim(lags(0, *fibonacci), "contiguous", ">=", sympy.Integer(231), "n >= 232", layers=5),
        ),
        Claim(
            "Fibonacci offsets, staggered depth", FIBONACCI, OURS, "a layer with other offsets sees farther",
            "offsets 5, 8, 13 in one layer and 13, 21, 34 in the next: the largest add up; with the first in both, 26",
            _claim(staggered, "farthest", "==", sympy.Integer(13 + 34), "n >= 48", layers=2),
        ),
    ]  # fmt: skip


def _images() -> list[Claim]:
    """Windows on grids: counts, and how the receptive field grows."""
    b, base = symbols("block base")
    B, base_ = symbol("block"), symbol("base")
    shifted = where(lambda i, j: (i - 4) // 8 == (j - 4) // 8)
    grid, swin = neighborhood((32, 32), 7), halo((56, 56), 7, 0)
    return [
        Claim(
            "Neighborhood attention, keys", NAT, PAPER, "every pixel attends its k*k nearest ones, at borders as well",
            "a grid of 32 x 32 and k = 7",
            _claim(grid, "max degree", "==", sympy.Integer(49), "n >= 1024"),
        ),
        Claim(
            "Neighborhood attention, cost", NAT, PAPER, "k*k pairs for each of h*w pixels",
            "a grid of 32 x 32 and k = 7",
            _claim(grid, "pairs", "==", sympy.Integer(49 * 1024), "n >= 1024"),
        ),
        Claim(
            "Neighborhood attention, reach", NAT, OURS, "a receptive field that grows by k - 1 with each layer",
            "one axis, k = 7: three pixels more on either side, all of them seen",
            _claim(window(3, 3), "contiguous", "==", 3 * L, "n > 3*L"),
        ),
        Claim(
            "Neighborhood attention, whole images", NAT, OURS, "11 layers of k = 7 connect an image of 32 x 32",
            "three pixels for each layer, 31 of them; at borders windows are moved inward, which only helps",
            _claim(grid, "depth", "<=", sympy.Integer(11), "", of="all", n=1024),
        ),
        Claim(
            "Dilated neighborhood attention, reach", DINAT, PAPER, "receptive fields expand exponentially",
            "one axis and its causal half: dilations 1, b, b^2, ... of b keys; all of b^L tokens after L layers",
            _claim(BaseSchedule(base), "contiguous", "==", base_**L - 1, "base >= 2, n > base**L"),
        ),
        Claim(
            "Swin, cost", SWIN, PAPER, "M*M pairs for each of h*w patches",
            "windows of M = 7 on a grid of 56 x 56",
            _claim(swin, "pairs", "==", sympy.Integer(49 * 3136), "n >= 3136"),
        ),
        Claim(
            "Swin, windows that stay", SWIN, PAPER, "without a shift nothing is seen across windows",
            "one axis: the own window of M patches in every layer; at most M - 1 patches away",
            _claim(blocks(b), "farthest", "<=", B - 1, "block >= 1"),
        ),
        Claim(
            "Swin, shifted windows", SWIN, OURS, "four layers with shifts of M/2 see fields of 4*M patches",
            "one axis, M = 8: M/2 more on either side with each layer after the first, so that the farthest is "
            "M - 1 + 3*M/2 away",
            _claim((blocks(8), shifted) * 2, "farthest", "==", sympy.Integer(19), "n >= 20", layers=4),
        ),
        Claim(
            "HaloNet, keys", HALONET, PAPER, "(b + 2 h)**2 keys for every pixel of a block",
            "b = 8 and h = 3 on a grid of 32 x 32; at borders fewer, since what lies outside is no key here",
            _claim(halo((32, 32), 8, 3), "max degree", "<=", sympy.Integer(14**2), "n >= 1024"),
        ),
        Claim(
            "FreeSwim, keys", FREESWIM, PAPER, "every query keeps (2 dh + 1)(2 dw + 1) T keys, at borders as well",
            "4 frames of 16 x 16, dh = 2 and dw = 3, for all queries together",
            _claim(neighborhood((4, 16, 16), (4, 5, 7)), "pairs", "==", sympy.Integer(140 * 1024), "n >= 1024"),
        ),
    ]  # fmt: skip


def _chosen() -> list[Claim]:
    """Keys that are chosen while a model runs: how many, whichever they are."""
    moba, moba_long = lags(0, 1, 2).blocked(512) & causal, lags(*range(12)).blocked(4096) & causal
    nearest = "the nearest ones stand for any: earlier blocks are whole, so that others are as many keys"
    return [
        Claim(
            "NSA, compressed keys", NSA, PAPER, "blocks of 32 at a stride of 16 are n/16 keys at most",
            "entry j is made of the tokens 16 j .. 16 j + 31, and seen by queries from the last of them on",
            _claim(where(lambda i, j: 16 * j + 31 <= i), "max degree", "<=", n / 16, "n >= 1"),
        ),
        Claim(
            "NSA, chosen keys", NSA, PAPER, "16 blocks of 64 are 1024 keys for a query",
            f"the own block among them; {nearest}",
            _claim(lags(*range(16)).blocked(64) & causal, "max degree", "<=", sympy.Integer(1024), "n >= 1"),
        ),
        Claim(
            "DeepSeek, compressed entries", CSA, PAPER, "a query sees the entries c < (position + 1)//4",
            "entry j is complete with token 4 j + 3, and seen from there on",
            _claim(where(lambda i, j: 4 * j + 3 <= i), "degree", "==", sympy.floor((symbol("i") + 1) / 4), ""),
        ),
        Claim(
            "DeepSeek, a budget for the cache", DSA, OURS, "so many keys for a query, so many keys in the cache",
            "the indexer may choose any earlier token: what it may choose must be kept; with 16 keys for 2,048",
            _claim(causal, "live keys", "<=", sympy.Integer(16), "t >= 0"),
            "a budget per query bounds what is read, not what is kept: every earlier token stays live",
            _claim(causal, "live keys", "==", symbol("t") + 1, "t >= 0"),
        ),
        Claim(
            "MoBA, keys", MOBA, PAPER, "3 blocks of 512, the own one among them, for a query",
            nearest,
            _claim(moba, "max degree", "<=", sympy.Integer(1536), "n >= 1"),
        ),
        Claim(
            "MoBA, sparsity at 8K", MOBA, PAPER, "a sparsity of 81.25 % with 3 blocks of 512 among 8192 tokens",
            f"the share of all n*n pairs is at least that, and more since causality takes some; {nearest}",
            _claim(moba, "sparsity", ">=", sympy.Rational(8125, 10000), "", n=8192),
        ),
        Claim(
            "MoBA, sparsity at 1M", MOBA, PAPER, "a sparsity of 95.31 % with 12 blocks of 4096 among 2^20 tokens",
            f"the share of all n*n pairs is at least that; {nearest}",
            _claim(moba_long, "sparsity", ">=", sympy.Rational(9531, 10000), "", n=2**20),
        ),
    ]  # fmt: skip


def _workers() -> list[Claim]:
    """Rows of keys and values that go from one worker to another."""
    k = symbols("k")
    K = symbol("k")
    cached: dict[str, Any] = {"head_dim": 128, "heads": 8, "kv_heads": 8, "batch": 1, "dtype": "bf16"}
    one_head = {**cached, "head_dim": 64, "heads": 1, "kv_heads": 1}
    return [
        Claim(
            "Ring Attention, rows for a worker", RING, PAPER, "the blocks of all other workers come to each",
            "workers with 64 tokens each, causal: of ceil(n/64) workers the last needs the rows of all others",
            _claim(causal - blocks(64), "max degree", "<=", 64 * sympy.ceiling(n / 64) - 64, "n >= 1"),
        ),
        Claim(
            "Ring Attention, volume", RING, OURS, "what a ring moves, (P - 1) n rows, is needed",
            "causal, P workers with 8 tokens each, n = 8 P: every row that a worker lacks is one for each of its 8 "
            "queries, so that 8 rows moved are pairs of other workers",
            _claim(causal - blocks(8), "pairs", ">=", n * (n - 8), "n >= 16"),
            "under a causal mask at most half of what a ring moves is needed",
            _claim(causal - blocks(8), "pairs", "<=", n * n / 2, "n >= 0"),
        ),
        Claim(
            "Ring Attention, work on a block", RING, PAPER, "4 d c**2 FLOPs for c queries and c keys",
            "d = 64; multiplying and adding count one each, all pairs of the two blocks, n = c",
            _claim(full, "forward flops", "==", 4 * 64 * n**2, "n >= 0", **one_head),
        ),
        Claim(
            "Halo, rows for a worker", HALO, OURS, "a window of W keys needs W - 1 rows from before, for any workers",
            "wherever a worker begins: of the tokens before, those that it or a later one still attends",
            _claim(window(k), "live keys", "<=", K, "k >= 0"),
        ),
        Claim(
            "Halo, one hop", HALO, OURS, "a window of W keys needs the worker before, if that has W - 1 tokens",
            "W - 1 = 512 and workers with 512 tokens: no pair is more than one worker apart",
            _claim(window(512) - window(1).blocked(512), "pairs", "<=", sympy.Integer(0), "n >= 0"),
        ),
        Claim(
            "Halo, bytes", HALO, OURS, "16.8 MB for a window of 4096, 8 key heads of 128 in bf16, whatever n and P",
            "K and V of the rows that come from before; a ring moves 4.03 GB for a million tokens and 64 workers",
            _claim(window(4095), "kv bytes", "<=", sympy.Integer(16_800_000), "t >= 0", **cached),
        ),
        Claim(
            "Ring, bytes", HALO, OURS, "4096 bytes for each token before, with 8 key heads of 128 in bf16",
            "causal attention: of what came before a worker, everything is needed",
            _claim(causal, "kv bytes", "==", 4096 * (symbol("t") + 1), "t >= 0", **cached),
        ),
    ]  # fmt: skip


def _unreached() -> list[Claim]:
    """Near tokens that never meet."""
    b = symbols("block")
    B = symbol("block")
    own = blocks(b) & causal
    shifted = where(lambda i, j: (i - 4) // 8 == (j - 4) // 8)
    turns = (blocks(8) & causal, shifted & causal) * 2
    return [
        Claim(
            "Locality, neighbours apart", LOCALITY, PAPER, "two neighbours can be disconnected at every depth",
            "the own block and causal, the same in every layer: no number of layers connects all",
            _claim(own, "depth", "==", sympy.oo, "block >= 1, n > block"),
        ),
        Claim(
            "Locality, own block", LOCALITY, PAPER, "a token depends on those before it in its own block only",
            "the own block and causal, the same in every layer",
            _claim(own, "farthest", "<=", B - 1, "block >= 1"),
        ),
        Claim(
            "Locality, phase", LOCALITY, PAPER, "what is reached depends on the offset within the block",
            "keys of query i in its own block of 8: as many as its offset, and itself",
            _claim(own.bind(block=8), "degree", "==", symbol("i") - 8 * sympy.floor(symbol("i") / 8) + 1, ""),
        ),
        Claim(
            "Locality, neighbours reached", LOCALITY, OURS, "near tokens stay in reach",
            "the own block and causal: every token sees the one before it after some layers; the paper denies it",
            _claim(own, "contiguous", ">=", sympy.Integer(1), "block >= 2, L >= 1, n > block"),
            "shift the blocks in every second layer: with blocks of 8 and 4 layers all of the last 12 tokens are seen",
            _claim(turns, "contiguous", "==", sympy.Integer(12), "n >= 21", layers=4),
        ),
    ]  # fmt: skip


def _packed() -> list[Claim]:
    k, p = symbols("k period")
    comb = window(k) | (stride(p) & causal)
    return [
        Claim(
            "Packing, no cross-contamination", KRELL, PAPER, "sequences packed into one do not attend to each other",
            "lags 0..k and every multiple of the period, within each document, however tokens are cut into documents",
            _claim(comb & documents, ACROSS, "<=", sympy.Integer(0), "k >= 1, period > k"),
        ),
        Claim(
            "Packing, positions alone", PRACTICE, OURS,
            "positions that start again with each sequence keep sequences apart",
            "lags 0..k of the packed tokens; positions are embedded, the pattern does not know them",
            _claim(window(k), ACROSS, "<=", sympy.Integer(0), "k >= 1"),
            "the pattern has to be confined as well: the first tokens of a document see the last of the one before",
            _claim(window(k) & documents, ACROSS, "<=", sympy.Integer(0), "k >= 1"),
        ),
    ]  # fmt: skip


def _claim(
    subject: Subject, quantity: str, relation: Literal["==", "<=", ">="], expr: Any, assume: str, **given: object
) -> Bound:  # fmt: skip
    if quantity in ("farthest", "contiguous"):
        given.setdefault("layers", L)
    if quantity == "depth":
        given.setdefault("of", "causal")
    question = asking(subject, quantity, **given)
    return Bound(question, relation, sympy.sympify(expr), conditions(assume) if assume else ())
