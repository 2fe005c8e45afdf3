"""What every test runs under. The first lines come before anything that could import triton or torch."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # `documented`: what each word means
os.environ.setdefault("TRITON_INTERPRET", "1")  # fixed when triton is imported; TRITON_INTERPRET=0 on a GPU
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core, so one thread per worker
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

# Two profiles, chosen by the environment variable HYPOTHESIS_PROFILE:
#   default  the same moderate set of examples on every run, so that `make test` passes or fails for a reason
#   long     twenty times as many, new ones on every run; what it finds, `@reproduce_failure` in the output replays
# A test that needs fewer or more says so as a share of the profile, so that `long` lengthens it too:
#   @settings(max_examples=settings.default.max_examples // 5)
DEFAULT_EXAMPLES = 50

settings.register_profile(
    "default",
    max_examples=DEFAULT_EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long",
    parent=settings.get_profile("default"),
    max_examples=20 * DEFAULT_EXAMPLES,
    derandomize=False,
    print_blob=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks that every check of a proof begins with are switched off: its rule alone must refuse what is wrong."""
    monkeypatch.setattr("pidsl.analysis.held_out.refutation", lambda bound, purpose, *_: "")
