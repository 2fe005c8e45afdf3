"""The small models that the tests of a room share."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import pidsl.hf

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def small() -> Iterator[ModuleType]:
    """benchmarks/hf_models.py, with its table of models."""
    sys.path.insert(0, str(FOLDER))
    pidsl.hf.register()
    yield importlib.import_module("hf_models")
    sys.path.remove(str(FOLDER))
