"""The library of patterns: small masks one can check by eye, every reading against its set, and what is claimed."""

import math

import numpy as np
import pytest

import pidsl
from pidsl.patterns import dense_attention, pi_attention, pi_branches, pi_gate, pi_layers, ring_attention


def lag(n: int) -> np.ndarray:
    return np.subtract.outer(np.arange(n), np.arange(n))


# --- pi-attention


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("period", [1, 4, 7])
@pytest.mark.parametrize(
    ("skip", "causal"), [("single", True), ("single", False), ("comb", True), ("comb", False), ("both", False)]
)
def test_each_reading_is_its_set(k: int, period: int, skip: str, causal: bool) -> None:
    x = lag(20)
    local = (x >= 0) & (x <= k) if causal else abs(x) <= k
    far = {"single": x == period, "both": abs(x) == period, "comb": x % period == 0}[skip]
    expected = local | (far & (x >= 0) if causal else far)
    assert (pi_attention(k, period, skip=skip, causal=causal).mask(20) == expected).all()
    branches = pi_branches(k, period, skip=skip, causal=causal)
    assert (branches["local"].mask(20) == local).all()
    assert (branches["skip"].mask(20) == (far & (x >= 0) if causal else far)).all()


def test_a_gate_of_the_same_branches() -> None:
    assert pi_gate(3, 16, skip="comb") == pidsl.gate(local=pidsl.window(3), skip=pidsl.stride(16) & pidsl.causal)


def test_symbols_stay_open() -> None:
    k, period = pidsl.symbols("k period")
    for skip, causal in (("single", True), ("comb", True), ("both", False)):
        term = pi_attention(k, period, skip=skip, causal=causal)
        assert term.symbols == {"k", "period"}
        assert term.bind(k=2, period=5) == pi_attention(2, 5, skip=skip, causal=causal)
    assert pi_layers(k, period, 3)[2] == pidsl.window(k)
    assert pi_gate(k, period).bind(k=1, period=4) == pi_gate(1, 4)


def test_a_schedule_has_the_skip_in_layers_1_2_4_8() -> None:
    both, local = pi_attention(4, 16), pidsl.window(4)
    layers = pi_layers(4, 16, 9)
    assert [layer == both for layer in layers] == [x in (1, 2, 4, 8) for x in range(1, 10)]
    assert all(layer in (both, local) for layer in layers)
    assert pi_layers(4, 16, 3, at="all") == (both,) * 3


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pi_attention(-1, 16), "k = -1"),
        (lambda: pi_attention(4, 0), "period = 0"),
        (lambda: pi_attention(4.0, 16), "k = 4.0"),
        (lambda: pi_attention(4, 16, skip="all"), "skip = 'all'"),
        (lambda: pi_attention(4, 16, skip="both"), "causal"),
        (lambda: pi_layers(4, 16, 0), "layers = 0"),
        (lambda: pi_layers(4, 16, pidsl.symbols("L")), "layers = L"),
        (lambda: pi_layers(4, 16, 2, at="odd"), "at = 'odd'"),
        (lambda: ring_attention(-3), "k = -3"),
        (lambda: ring_attention(3, wrap=True), "causal"),
    ],
)
def test_faults_name_the_argument(call, said: str) -> None:
    with pytest.raises(pidsl.TermError) as caught:
        call()
    assert said in str(caught.value)


# --- the baselines


def test_ring_attention_is_a_window() -> None:
    assert ring_attention(3) == pidsl.window(3)
    assert ring_attention(3, causal=False) == pidsl.window(3, 3)
    assert ring_attention(3, causal=False, wrap=True) == pidsl.ring(3)


def test_dense_attention() -> None:
    assert dense_attention() == pidsl.causal
    assert dense_attention(causal=False) == pidsl.full


# --- reach: what is said of the readings holds


@pytest.mark.parametrize(("k", "period"), [(1, 3), (2, 7), (4, 16), (3, 5)])
def test_reach_of_the_single_skip(k: int, period: int) -> None:
    """Farthest lag `period L`; contiguous `k L` until L reaches c = ceil((period - 1) / k), slope `period` after."""
    c = max(1, -(-(period - 1) // k))
    pi = pi_attention(k, period)
    for depth in range(1, 9):
        contiguous = k * depth if depth < c else period * (depth + 1 - c) + k * (c - 1)
        assert (pi.farthest(depth)(n=1000), pi.contiguous(depth)(n=1000)) == (period * depth, contiguous)


def test_the_published_bound_is_not_one_for_a_skip_in_every_layer() -> None:
    """k L + period ceil(log2 L) = 112 for k=4, period=16, L=12."""
    pi = pi_attention(4, 16)
    assert (pi.farthest(12)(n=4096), pi.contiguous(12)(n=4096)) == (192, 156)


@pytest.mark.parametrize("depth", range(1, 13))
def test_the_schedule_keeps_the_logarithmic_bound(depth: int) -> None:
    skips = depth.bit_length()  # 1 + floor(log2 depth)
    found = pidsl.layers(pi_layers(4, 16, depth)).farthest()
    assert found.is_exact and found(n=1000) == 4 * (depth - skips) + 16 * skips


def test_the_comb_reaches_everything_in_a_number_of_layers_that_n_does_not_enter() -> None:
    k, period = 3, 16
    depth = 1 + -(-(period - 1) // k)
    comb = pi_attention(k, period, skip="comb")
    enough, fewer = comb.contiguous(depth), comb.contiguous(depth - 1)
    assert enough.is_exact and fewer.is_exact
    for n in (100, 1000, 100_000):
        assert enough(n=n) == n - 1 > fewer(n=n)


STACKS = [
    [pidsl.window(2), pidsl.lags(3)],
    [pidsl.lags(3), pidsl.window(2), pidsl.blocks(4)],
    [pidsl.ring(1)] * 3,
    [pidsl.keys(0, 2) | pidsl.window(1), pidsl.blocks(5) & pidsl.causal],
    [pidsl.stride(3, 1) & pidsl.causal, pidsl.window(0, 2)],
    [pidsl.lags(-2)],
    [pidsl.empty, pidsl.full],
]


@pytest.mark.parametrize("stack", STACKS, ids=repr)
@pytest.mark.parametrize("n", [1, 2, 9, 20])
def test_reach_is_that_of_the_dense_masks(stack: list, n: int) -> None:
    seen = np.eye(n, dtype=bool)
    for layer in stack:
        seen = layer.mask(n).astype(int) @ seen.astype(int) > 0
    reached, missing = lag(n)[seen], lag(n)[~seen & (lag(n) >= 0)]
    farthest, contiguous = pidsl.layers(stack).farthest(), pidsl.layers(stack).contiguous()
    assert farthest.is_exact and farthest(n=n) == (reached.max() if reached.size else -math.inf)
    assert contiguous.is_exact and contiguous(n=n) == (missing.min() - 1 if missing.size else n - 1)
