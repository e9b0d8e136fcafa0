"""Schedules: sparsity by pruning step, learning rate by training step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from edgebert_compress.recipe import Training

ROUNDING = 1e-6  # of a step: 26/30 of 30 epochs is the end of epoch 26, whatever float makes of it


def cubic_sparsity(initial: float, final: float, steps: int) -> tuple[float, ...]:
    """Sparsity after each of `steps` pruning steps: the first is `initial`, the last exactly `final`.

    Zhu & Gupta 2017 (arXiv 1710.01878), equation 1. One step goes straight to `final`.
    """
    if steps == 1:
        return (final,)
    left = [(1 - step / (steps - 1)) ** 3 for step in range(steps)]
    return tuple(final + (initial - final) * share for share in left)


def pruning_points(total: int, steps: int, start: float, end: float) -> tuple[int, ...]:
    """Training steps before which the pruning steps happen, evenly from `start`·total to `end`·total.

    Ascending, possibly repeated when there are fewer training steps than pruning steps.
    """
    shares = [start + (end - start) * step / max(steps - 1, 1) for step in range(steps)]
    return tuple(math.floor(total * share + ROUNDING) for share in shares)


def linear_rate(step: int, total: int, warmup: float, final: float = 0.0) -> float:
    """Share of the peak rate at `step` of `total`: linear up over `warmup`·total, then down to `final`."""
    rising = int(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return final + (1 - final) * (total - step) / max(total - rising, 1)


def cosine_rate(step: int, total: int, warmup: float, final: float = 0.0) -> float:
    """Share of the peak rate: linear up over `warmup`·total, then half a cosine down to `final`."""
    rising = int(warmup * total)
    if step < rising:
        return (step + 1) / rising
    return final + (1 - final) * half_cosine((step - rising) / max(total - rising, 1))


def half_cosine(share: float) -> float:
    """From 1 at share 0 to 0 at share 1, level at both ends."""
    return (1 + math.cos(math.pi * share)) / 2


def step_rate(step: int, total: int, warmup: float, milestones: Sequence[int], factor: float) -> float:
    """Share of the peak rate: linear up over `warmup`·total, then times `factor` at each of `milestones`."""
    return constant_rate(step, total, warmup) * factor ** bisect_right(sorted(milestones), step)


def constant_rate(step: int, total: int, warmup: float) -> float:
    """Share of the peak rate: linear up over `warmup`·total steps, then the peak."""
    rising = int(warmup * total)
    return (step + 1) / rising if step < rising else 1.0


def cyclic_rate(
    step: int,
    total: int,
    starts: Sequence[int],
    floor: float = 0.1,
    final: float = 0.0,
    *,
    cosine: bool = False,
) -> float:
    """Share of the peak rate: falls from 1 to `floor` and starts again at each of `starts`.

    The last cycle falls to `final`. Linear, this is oBERT's schedule: the rate is high right after each
    pruning step. As half a cosine it is that of Loshchilov & Hutter 2017 (arXiv 1608.03983), equation 5.
    """
    bounds = sorted({0, *starts, total})
    after = bisect_right(bounds, step)
    begin, end = bounds[after - 1], bounds[min(after, len(bounds) - 1)]
    low = final if end == total else floor
    if cosine:
        return low + (1 - low) * half_cosine((step - begin) / max(end - begin, 1))
    return 1 - (1 - low) * (step - begin) / max(end - begin, 1)


def cycle_starts(total: int, length: float, first: int) -> tuple[int, ...]:
    """Steps at which cycles of `length` steps (at least one) begin, counted from `first`; below `total`."""
    length = max(length, 1.0)
    count = max(0, math.ceil((total - first) / length))
    starts = (math.floor(first + length * cycle + ROUNDING) for cycle in range(count))
    return tuple(start for start in starts if start < total)


def at_epochs(epochs: Sequence[float], steps_an_epoch: int) -> tuple[int, ...]:
    """The steps that begin these epochs."""
    return tuple(math.floor(epoch * steps_an_epoch + ROUNDING) for epoch in epochs)


def learning_rate(
    training: Training, total: int, steps_an_epoch: int, points: Sequence[int] = ()
) -> Callable[[int], float]:
    """The schedule of `training` over `total` steps: from a step to its share of the peak rate.

    `points`: the pruning steps. A cyclic-linear schedule, which "auto" is where something is pruned, starts
    anew at each; it and a cosine at each of `restarts`, or every `cycle_epochs` from the first pruning step
    (from step 0 without any). A schedule in cycles has no warm-up.
    """
    kind, warmup, final = training.schedule, training.warmup, training.final_rate
    if kind == "constant":
        return lambda step: constant_rate(step, total, warmup)
    if kind == "step":
        milestones, factor = at_epochs(training.milestones or (), steps_an_epoch), training.step_factor or 1.0
        return lambda step: step_rate(step, total, warmup, milestones, factor)
    starts: tuple[int, ...] | None = None
    if training.restarts is not None:
        starts = at_epochs(training.restarts, steps_an_epoch)
    elif training.cycle_epochs is not None:
        starts = cycle_starts(total, training.cycle_epochs * steps_an_epoch, points[0] if points else 0)
    elif kind == "cyclic-linear" or (kind == "auto" and points):
        starts = tuple(points)
    if starts is None:
        falling = cosine_rate if kind == "cosine" else linear_rate
        return lambda step: falling(step, total, warmup, final)
    floor, cosine = training.cycle_floor, kind == "cosine"
    return lambda step: cyclic_rate(step, total, starts, floor, final, cosine=cosine)
