"""Static ranges of activations: one scale and zero point a tensor, fixed before the model runs.

A range says what the int8 number q stands for: x̂ = scale (q - zero_point). It always holds 0 exactly.
Fixed ranges come from calibration.py; learned ones follow LSQ+ (Bhalgat et al. 2020, arXiv 2004.09576; LSQ:
Esser et al. 2020, arXiv 1902.08153), with both ends learned as multiples of where they began (You et al.
2024, arXiv 2404.16898, there "beta/gamma").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from edgebert_compress.recipe import Calibration

LOW, HIGH = -128, 127
LEVELS = HIGH - LOW
SMALLEST = 1e-30  # a step; below it 1 / step may be infinite
# An end learns as exp(PACE * parameter): a step of AdamW at 3e-5 moves it by 0.1 %.
PACE = 32.0


@dataclass(frozen=True)
class ActivationRange:
    """`scale`: a float32 number of at least SMALLEST; `zero_point`: a whole number in [-128, 127]."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class StaticRanges:
    """Of one linear layer."""

    input: ActivationRange
    output: ActivationRange


@dataclass(frozen=True)
class StaticActivations:
    """`ranges` by module name, of every quantised linear layer, and how they were found."""

    calibration: Calibration
    ranges: Mapping[str, StaticRanges]


def constants(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point, float32 shaped as `low` <= 0 <= `high`, of the range from `low` to `high`.

    The zero point is rounded, so that the range is up to half a step off. Scale 1 where both ends are 0.
    """
    scale = torch.div(high - low, torch.full_like(low, LEVELS)).clamp_min(SMALLEST)
    scale = torch.where(low == high, torch.ones_like(scale), scale)
    return scale, torch.round(LOW - low / scale).clamp(LOW, HIGH)


def range_between(low: float, high: float) -> ActivationRange:
    """The range from `low` to `high`, widened to hold 0. Raises ValueError for ends that are not finite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"a range from {low} to {high}")
    scale, zero = constants(torch.tensor(min(low, 0.0)), torch.tensor(max(high, 0.0)))
    return ActivationRange(scale.item(), int(zero.item()))


def static_integers(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """(q - zero_point) as whole floats shaped as `x`: x times 1 / `scale`, rounded half to even."""
    inverse = torch.div(torch.ones_like(scale), scale)  # two tensors: rounds once
    return saturated(x * inverse, zero_point)


def saturated(steps: Tensor, zero_point: Tensor) -> Tensor:
    """clamp(round_half_even(steps) + zero_point, -128, 127) - zero_point."""
    return torch.clamp(torch.round(steps), LOW - zero_point, HIGH - zero_point)


class _StaticStraightThrough(torch.autograd.Function):
    """Gradient 1 inside the range and 0 outside; to the ends as LSQ+ has it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: Tensor | None, high: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        return static_integers(x, scale, zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grads
        x, scale, zero_point = ctx.saved_tensors
        steps = x * torch.div(torch.ones_like(scale), scale)
        whole = torch.round(steps)
        below, above = whole < LOW - zero_point, whole > HIGH - zero_point
        inside = gradient.masked_fill(below | above, 0.0)
        if not (ctx.needs_input_grad[3] or ctx.needs_input_grad[4]):
            return inside, None, None, None, None
        # ∂x̂/∂scale inside is the rounding error in steps, ∂scale/∂high = 1 / 255 = -∂scale/∂low;
        # what is clipped sits on its end. LSQ's factor keeps such sums from ruling the gradient's norm.
        stretched = (inside * (whole - steps)).sum() / LEVELS
        factor = 1 / math.sqrt(x.numel() * LEVELS)
        to_low = (gradient.masked_fill(~below, 0.0).sum() - stretched) * factor
        to_high = (gradient.masked_fill(~above, 0.0).sum() + stretched) * factor
        return inside, None, None, to_low, to_high


class FixedRange(nn.Module):
    """Rounds what passes through to the levels of a range that stays."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, found: ActivationRange) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(found.scale, dtype=torch.float32), persistent=False)
        zero_point = torch.tensor(float(found.zero_point), dtype=torch.float32)
        self.register_buffer("zero_point", zero_point, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        apply: Any = _StaticStraightThrough.apply
        return cast(Tensor, apply(x, self.scale, self.zero_point, None, None))

    def found(self) -> ActivationRange:
        return ActivationRange(self.scale.item(), int(self.zero_point.item()))


class LearnedRange(nn.Module):
    """Rounds what passes through to the levels of a range whose ends learn; an end at 0 stays there."""

    low: Tensor
    high: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(min(low, 0.0), dtype=torch.float32), persistent=False)
        self.register_buffer("high", torch.tensor(max(high, 0.0), dtype=torch.float32), persistent=False)
        # 0-d: what is rounded or decays goes by the number of dimensions
        self.low_growth = nn.Parameter(torch.zeros(()))
        self.high_growth = nn.Parameter(torch.zeros(()))

    def ends(self) -> tuple[Tensor, Tensor]:
        """Lower and upper end as they stand, 0-d."""
        return self.low * torch.exp(PACE * self.low_growth), self.high * torch.exp(PACE * self.high_growth)

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.ends()
        apply: Any = _StaticStraightThrough.apply
        return cast(Tensor, apply(x, *constants(low.detach(), high.detach()), low, high))

    def found(self) -> ActivationRange:
        with torch.no_grad():
            scale, zero_point = constants(*self.ends())
        return ActivationRange(scale.item(), int(zero_point.item()))
