"""Whether all keys and rows are attended, against the mask."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pidsl import causal, heads, keys, lags, neighborhood, stride, window
from pidsl.codegen.choice.together import together
from pidsl.codegen.lower import lower
from pidsl.codegen.plan.walks import Lags
from pidsl.errors import TooHardError
from pidsl.language.terms import Ring, Term, walk
from pidsl.relation.frame import Frame
from pidsl.runtime.call.call import Positions
from pidsl.runtime.run_triton import attended
from pidsl.runtime.run_triton.attended import every_key, every_row
from pidsl.testing import terms


@given(terms(3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 20))
def test_random_terms(term: Term, n: int, m: int, offset: int) -> None:
    assume(not any(isinstance(x, Ring) for x in walk(term)))
    try:
        plan = lower(term)
    except TooHardError:
        return
    mask = term.mask(n, m, offset)
    found = every_key(plan, n, m, Positions(offset)), every_row(plan, n, m, Positions(offset))
    if not plan.attended_exact:
        assert found == (False, False)
    else:
        tiled = not all(isinstance(x.forward, Lags) for x in plan.pieces)  # diagonals ask nothing of keys
        assert found == (bool(mask.any(0).all()) or not tiled, bool(mask.any(1).all()))


@pytest.mark.parametrize(
    ("term", "n", "m", "offset", "found"),
    [
        (causal, 100, 100, 0, (True, True)),
        (causal, 1, 100, 99, (True, True)),
        (window(31), 100, 100, 0, (True, True)),
        (window(31), 1, 100, 99, (False, True)),
        (window(31), 120, 70, 0, (True, False)),
        (stride(8), 5, 100, 40, (False, True)),
        (lags(50), 100, 100, 0, (True, False)),
        (neighborhood((8, 8), 3), 64, 64, 0, (False, False)),  # its plan does not say exactly what is attended
    ],
    ids=repr,
)
def test_some_words(term: Term, n: int, m: int, offset: int, found: tuple[bool, bool]) -> None:
    plan = lower(term)
    assert (every_key(plan, n, m, Positions(offset)), every_row(plan, n, m, Positions(offset))) == found


def test_keys_that_are_moved() -> None:
    plan = lower(window(31), frame=Frame(True))
    for first in range(60, 110):
        expected = window(31).mask(100, 150)[:, first : first + 8].any(0).all()
        assert every_key(plan, 100, 8, Positions(0, first)) == expected


def test_every_head_must_attend() -> None:
    terms = window(5), window(9) | keys(0, 4) & causal, window(5)
    plan = together(heads(list(zip((2, 1, 1), terms, strict=True))), lambda term, size: lower(term, size=size))
    assert plan is not None
    for n, m, offset in ((20, 20, 0), (20, 30, 10), (20, 8, 4), (4, 20, 0)):
        masks = [term.mask(n, m, offset) for term in terms]
        assert every_key(plan, n, m, Positions(offset), 4) == all(x.any(0).all() for x in masks)
        assert every_row(plan, n, m, Positions(offset), 4) == all(x.any(1).all() for x in masks)


def test_nothing_is_looked_at_twice_or_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, looked = lower(window(31)), []
    holds = attended.holds

    def counted(pred: object, env: dict[str, np.ndarray]) -> object:
        looked.append(len(env["j"]))
        return holds(pred, env)  # type: ignore[arg-type]

    monkeypatch.setattr(attended, "holds", counted)
    assert not every_key(plan, 1, 1 << 20, Positions((1 << 20) - 1)) and looked == [2]
    assert every_key(plan, 1 << 20, 1 << 20, Positions()) and looked[1:] == [2, *[1 << 18] * 4]
    assert not every_key(plan, 1 << 25, 1 << 25, Positions()) and len(looked) == 6
    assert not every_key(None, 8, 8, Positions())
