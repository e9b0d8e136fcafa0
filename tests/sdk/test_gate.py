"""The gate counts what was lost and names who lost it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.gate import gate_message, judge


def test_names_the_step_that_lost_most() -> None:
    verdict = judge([("teacher", 0.95), ("drop layers", 0.94), ("int8", 0.90), ("artifact", 0.905)], 0.01)
    assert not verdict.passed
    assert verdict.guilty == "int8"
    assert verdict.guilty_cost == pytest.approx(0.04)
    assert verdict.drop == pytest.approx(0.045)
    message = gate_message("x86", verdict, "report.html")
    assert "'int8'" in message
    assert "4.50 points" in message
    assert "report.html" in message


@given(st.integers(1, 5000), st.data())
def test_exactly_the_allowed_drop_passes_and_one_example_more_does_not(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, right))
    chain = [("teacher", right / n), ("artifact", (right - lost) / n)]
    assert judge(chain, lost / n).passed
    if lost:
        assert not judge(chain, (lost - 1) / n).passed


def test_a_better_artifact_passes_and_nobody_is_guilty() -> None:
    verdict = judge([("teacher", 0.9), ("artifact", 0.92)], 0.0)
    assert verdict.passed
    assert verdict.guilty is None
