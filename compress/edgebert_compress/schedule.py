"""Schedules: sparsity by pruning step, learning rate by training step."""

from __future__ import annotations

from collections.abc import Sequence


def cubic_sparsity(initial: float, final: float, steps: int) -> tuple[float, ...]:
    """Sparsity after each of `steps` pruning steps: the first is `initial`, the last exactly `final`.

    Zhu & Gupta 2017 (arXiv 1710.01878), equation 1. One step goes straight to `final`.
    """
    if steps == 1:
        return (final,)
    left = [(1 - step / (steps - 1)) ** 3 for step in range(steps)]
    return tuple(final + (initial - final) * share for share in left)


def pruning_points(total: int, steps: int, share: float) -> tuple[int, ...]:
    """Training steps before which the pruning steps happen, evenly over the first `share` of `total`.

    Ascending, possibly repeated when there are fewer training steps than pruning steps.
    """
    return tuple(int(total * share * step / max(steps - 1, 1)) for step in range(steps))


def linear_rate(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate at `step` of `total`: linear up over `warmup`·total steps, then linear to 0."""
    rising = int(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return (total - step) / max(total - rising, 1)


def cyclic_rate(step: int, total: int, starts: Sequence[int], floor: float = 0.1) -> float:
    """Share of the peak rate: falls linearly from 1 to `floor` and starts again at each of `starts`.

    The last cycle falls to 0. This is oBERT's schedule: the rate is high right after each pruning step.
    """
    bounds = sorted({0, *starts, total})
    begin = max(bound for bound in bounds if bound <= step)
    end = next((bound for bound in bounds if bound > step), total)
    low = 0.0 if end == total else floor
    return 1 - (1 - low) * (step - begin) / max(end - begin, 1)
