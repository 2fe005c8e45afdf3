"""Ragged calls compiled without a GPU: packed documents, and steps of decoding from slots and pages, in parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from gpu_ragged import CALLS, LONGER, PLAIN

from pidsl import causal, keys, window
from pidsl.codegen.lower import lower
from pidsl.language.terms import Term
from pidsl.runtime.run_triton.ahead import PRODUCTS, KernelReport, Problem, compile_ahead

PACKED = CALLS["packed"]
SINKS = window(255) | keys(0, 4) & causal


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("PIDSL_CACHE", str(tmp_path_factory.mktemp("programs")))
    patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("binaries")))
    yield
    patch.undo()


def longest(reports: list[KernelReport]) -> dict[tuple[str, bool | None], float]:
    """Instructions of the longest loop of each pass, with a mask and without."""
    found: dict[tuple[str, bool | None], float] = {}
    for report in reports:
        for loop in report.loops if report.name in PRODUCTS else ():
            found[report.name, loop.masked] = max(loop.per_tile(), found.get((report.name, loop.masked), 0.0))
    return found


@pytest.mark.parametrize("term", [pytest.param(causal, marks=pytest.mark.slow), window(1023)], ids=repr)
def test_loops_over_packed_documents_are_hardly_longer(term: Term) -> None:
    plain, packed = (compile_ahead(lower(term, target="cuda:90"), "cuda:90", problem=x) for x in (PLAIN, PACKED))
    assert not any(x.spills_in_loops for x in packed)
    assert {x.name for x in packed} >= {"list_tiles", "forward", "grad_query", "grad_key"}
    usual, found = longest(plain), longest(packed)
    assert len(found) == 6 and found.keys() == usual.keys()
    assert {x for x, length in found.items() if length > LONGER * usual[x]} == set()


@pytest.mark.parametrize("target", ["cuda:80", "hip:gfx942"])
def test_packed_documents_on_other_targets(target: str) -> None:
    found = compile_ahead(lower(window(63), target=target), target, torch.float16, problem=PACKED)
    assert {"list_tiles", *list(PRODUCTS)[:3]} <= {x.name for x in found}
    assert not any(x.spills_in_loops for x in found)


@pytest.mark.parametrize(
    ("target", "keys_at"),
    [
        ("cuda:90", "slots"), ("cuda:100", "pages"), pytest.param("cuda:80", "pages", marks=pytest.mark.slow),
        pytest.param("hip:gfx942", "slots", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_steps_of_decoding(target: str, keys_at: str) -> None:
    problem = Problem(4, 32, 8, rows=1, keys=131072, sequences=4, keys_at=keys_at)
    term, parts = (causal, True) if keys_at == "pages" else (SINKS, False)
    found = compile_ahead(lower(term, target=target), target, problem=problem)
    assert [x.name for x in found] == ["forward", "join"] if parts else ["forward"]
    (launch,) = found[0].launches
    assert launch.numbers["PACK"] == 4 and launch.grid >= 4 * 8
    assert (launch.numbers["SPLITS"] > 1) == parts
    assert not any(x.spills_in_loops for x in found)
    assert target != "hip:gfx942" or not found[0].stack_bytes
    assert target != "cuda:90" or all(loop.hgmma for loop in found[0].loops)
