"""The gate on the task's metric: what was lost, by which step, and whether that is too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# Accuracies are multiples of 1/n: half a billionth absorbs the rounding of their differences.
ROUNDING = 5e-10


@dataclass(frozen=True)
class GateVerdict:
    """`drop` = the teacher's metric minus the artifact's, both in [0, 1]; `guilty` lost the most."""

    drop: float
    max_drop: float
    passed: bool
    guilty: str | None
    guilty_cost: float


def judge(scores: Sequence[tuple[str, float]], max_drop: float) -> GateVerdict:
    """Judge a chain of (step name, metric) that starts with the teacher and ends with the artifact.

    `guilty` is the step that lost most against the step before it, None when no step lost any.
    """
    drop = scores[0][1] - scores[-1][1]
    costs = [
        (before[1] - after[1], after[0])
        for before, after in pairwise(scores)
    ]  # fmt: skip
    cost, name = max(costs, key=lambda item: item[0], default=(0.0, ""))
    guilty = name if cost > ROUNDING else None
    return GateVerdict(drop, max_drop, drop <= max_drop + ROUNDING, guilty, max(cost, 0.0))


def gate_message(
    target: str, verdict: GateVerdict, report: str, problems: Sequence[str] = (), metric: str = "accuracy"
) -> str:
    """One line for a failed gate: what was lost, where most of it went, and what to do.

    `problems`: what a device did wrong, which no accuracy makes up for.
    """
    if problems:
        return f"{target}: {'; '.join(problems)}. No package was written; see {report}"
    return (
        f"{target}: {metric} dropped by {100 * verdict.drop:.2f} points, more than --max-drop "
        f"{100 * verdict.max_drop:.2f}; stage '{verdict.guilty}' lost most "
        f"({100 * verdict.guilty_cost:.2f} points). No package was written; see {report}, "
        "soften that stage in a --recipe or allow a larger --max-drop"
    )
