"""Finding static ranges of activations from examples: extremes, percentiles, or the least squared error.

The examples pass twice through the model with INT8 weights and float activations: once for the extremes of
every tensor, once for its histogram between them. Texts of one length go together, so that padding, which
no runtime's answer depends on, has no part in a range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from edgebert_compress.activation_ranges import FixedRange, LearnedRange, constants, range_between, saturated
from edgebert_compress.data import Progress, TokenizedDataset, silent
from edgebert_compress.errors import TrainingError
from edgebert_compress.quantize import linear_layers
from edgebert_compress.recipe import Calibration
from edgebert_compress.tasks import TrainingTask

PERCENTILE = 99.99  # share of the values, in %, below the upper end and above the lower one
BINS = 1 << 16  # the best range may be a hundredth of the extremes, and still has some bins a level
BATCH = 32
SHARES = 10  # coarse candidates for each end
MAX_NUMBERS = 1 << 20  # of one product of ranges and values
FINEST = 1 / 512  # relative change of an end at which the search stops


class _Extremes(nn.Module):
    """Passes its input on and remembers how far it reached."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = 0.0, 0.0
        self.finite = True

    def forward(self, x: Tensor) -> Tensor:
        low, high = float(x.amin()), float(x.amax())
        self.finite = self.finite and math.isfinite(low) and math.isfinite(high)
        self.low, self.high = min(self.low, low), max(self.high, high)
        return x


class _Histogram(nn.Module):
    """Passes its input on and counts it in BINS equal bins from `low` to `high`."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        if self.low < self.high:
            self.counts += torch.histc(x, BINS, self.low, self.high).cpu()
        return x

    def middles(self) -> Tensor:
        """The middle of each bin, float64 [BINS]."""
        width = (self.high - self.low) / BINS
        return self.low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)


def percentile_ends(
    values: Tensor, counts: Tensor, low: float, high: float, percentile: float = PERCENTILE
) -> tuple[float, float]:
    """Ends between `low` and `high` with the share 1 - `percentile` / 100 of the `counts` beyond each.

    `values`, `counts`: float64 [n], values ascending. The ends include 0.
    """
    clipped = (1 - percentile / 100) * counts.sum()
    up = torch.cumsum(counts, 0)
    lower = values[int((up > clipped).int().argmax())]
    down = torch.cumsum(counts.flip(0), 0)
    upper = values.flip(0)[int((down > clipped).int().argmax())]
    return max(low, min(float(lower), 0.0)), min(high, max(float(upper), 0.0))


def squared_errors(values: Tensor, counts: Tensor, lows: Tensor, highs: Tensor) -> Tensor:
    """Σ counts (x̂ - x)² of float64 `values` [n] in each of the ranges `lows` to `highs`, float64 [ranges]."""
    scales, zero_points = constants(lows.float()[:, None], highs.float()[:, None])
    found, together = [], max(1, MAX_NUMBERS // len(values))
    for start in range(0, len(lows), together):
        part = slice(start, start + together)
        scale = scales[part].double()
        errors = saturated(values / scale, zero_points[part]).mul_(scale).sub_(values)
        found.append(errors.square_() @ counts)
    return torch.cat(found)


def least_error_ends(values: Tensor, counts: Tensor, low: float, high: float) -> tuple[float, float]:
    """Ends within [`low`, `high`] of about the least squared error, Σ counts (x̂ - x)².

    A coarse grid over both ends, then each end by itself in ever smaller steps. `values`, `counts`:
    float64 [n].
    """
    shares = torch.logspace(-6, 0, SHARES, base=2, dtype=torch.float64)  # 1/64 to 1
    tried = torch.cartesian_prod(low * shares, high * shares)
    errors = squared_errors(values, counts, tried[:, 0], tried[:, 1])
    best, least = tried[errors.argmin()], errors.min()
    change = 0.25
    while change > FINEST:
        around = torch.linspace(1 - change, 1 + change, 9, dtype=torch.float64)
        tried = best.repeat(18, 1)
        tried[:9, 0] = (tried[:9, 0] * around).clamp_min(low)
        tried[9:, 1] = (tried[9:, 1] * around).clamp_max(high)
        errors = squared_errors(values, counts, tried[:, 0], tried[:, 1])
        if errors.min() < least:
            best, least = tried[errors.argmin()], errors.min()
        else:
            change /= 2
    return float(best[0]), float(best[1])


def _ends(method: Calibration, seen: _Histogram) -> tuple[float, float]:
    """Ends of the range of one tensor."""
    if seen.low == seen.high:
        return 0.0, 0.0
    some = seen.counts > 0
    values, counts = seen.middles()[some], seen.counts[some]
    if method == "percentile":
        return percentile_ends(values, counts, seen.low, seen.high)
    return least_error_ends(values, counts, seen.low, seen.high)


def check_examples(data: TokenizedDataset, examples: int) -> None:
    """Raises TrainingError where `data` has fewer rows than `examples`."""
    if len(data) < examples:
        raise TrainingError(
            f"static ranges need {examples} calibration examples, the training data has {len(data)}; "
            "add examples or lower 'calibration_examples'"
        )


def calibration_batches(data: TokenizedDataset, examples: int, seed: int) -> list[list[int]]:
    """`examples` rows drawn from `data`, in batches of one length each. Raises TrainingError for too few."""
    check_examples(data, examples)
    drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:examples].tolist()

    def length(index: int) -> int:
        return len(data.input_ids[index])

    rows = [list(group) for _, group in groupby(sorted(drawn, key=length), key=length)]
    return [row[start : start + BATCH] for row in rows for start in range(0, len(row), BATCH)]


class _Sites:
    """Where ranges go: the input of each group of layers that share it, and the output of each layer."""

    def __init__(self, model: nn.Module, run_once: Any) -> None:
        self.layers = linear_layers(model)
        inputs: list[tuple[Tensor, str]] = []  # holds the tensors, so that no two are one object
        self.first: dict[str, str] = {}

        def note(name: str, x: Tensor) -> None:
            found = next((first for seen, first in inputs if seen is x), name)
            inputs.append((x, found))
            self.first[name] = found

        hooks = [
            layer.register_forward_pre_hook(lambda _, arguments, name=name: note(name, arguments[0]))
            for name, layer in self.layers.items()
        ]
        try:
            run_once()
        finally:
            for hook in hooks:
                hook.remove()
        unused = sorted(self.layers.keys() - self.first.keys())
        if unused:
            raise TrainingError(f"{unused[0]} takes no part in the model's answer and gets no range")

    def put(self, inputs: dict[str, nn.Module], outputs: dict[str, nn.Module], shared: bool) -> None:
        """Give the layers what is theirs; a shared input goes to the first of its group alone or to all."""
        for name, layer in self.layers.items():
            first = self.first[name]
            layer.input_range = inputs[first] if shared or first == name else nn.Identity()
            layer.output_range = outputs[name]


def calibrate(
    model: nn.Module,
    method: Calibration,
    task: TrainingTask,
    data: TokenizedDataset,
    *,
    examples: int,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """Give every linear layer of `model`, in simulated INT8, a range for its input and one for its output.

    Layers with the same input share its range. "learned" begins where "mse" ends and puts parameters into
    the model. `examples`: rows drawn from `data`. Deterministic for one seed and thread count.
    Raises TrainingError for too few examples and for activations that are not finite.
    """
    task.check(data, model)
    batches = calibration_batches(data, examples, seed)
    passes = 1 if method == "min-max" else 2
    total, done = passes * len(batches), 0
    model.eval()

    def run(part: Sequence[list[int]]) -> None:
        nonlocal done
        with torch.inference_mode():
            for indices in part:
                model(**task.collate(model, data, indices).inputs)
                done += 1
                progress("calibrate", min(done, total), total)

    sites = _Sites(model, lambda: run(batches[:1]))
    done = 0
    firsts = sorted(set(sites.first.values()))
    extremes = {name: _Extremes() for name in firsts}, {name: _Extremes() for name in sites.layers}
    sites.put(dict(extremes[0]), dict(extremes[1]), shared=False)
    run(batches)
    for name in sites.layers:  # in order, so that the first to go wrong is named
        for end, found in zip(("input", "output"), extremes, strict=True):
            if name in found and not found[name].finite:
                raise TrainingError(
                    f"the {end} of {name} is not finite on the calibration examples; "
                    "check the model's weights"
                )
    if method == "min-max":
        ends = tuple({name: (seen.low, seen.high) for name, seen in found.items()} for found in extremes)
    else:
        counted = tuple(
            {name: _Histogram(seen.low, seen.high) for name, seen in found.items()} for found in extremes
        )
        sites.put(dict(counted[0]), dict(counted[1]), shared=False)
        run(batches)
        ends = tuple({name: _ends(method, seen) for name, seen in found.items()} for found in counted)
    device = next(model.parameters()).device
    modules: list[dict[str, nn.Module]] = [
        {
            name: (LearnedRange(*found) if method == "learned" else FixedRange(range_between(*found))).to(
                device
            )
            for name, found in part.items()
        }
        for part in ends
    ]
    sites.put(modules[0], modules[1], shared=True)
