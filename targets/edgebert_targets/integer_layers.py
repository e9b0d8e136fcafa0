"""Linear layers with static ranges as the integer products that runtimes compute (docs/formats.md).

For the input's integers x and row r of the weights w, each operation in float32, `round` half to even:

    y = clamp(round(sum((x - z_in) w[r] + b[r]) * m[r]) + z_out, -128, 127)
    m[r] = s_in * s_w[r] / s_out        b[r] = round(bias[r] / (s_in * s_w[r]))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.encoder import FloatArray, Linear, QuantizedTensor, StaticRanges
from edgebert_targets.errors import UnsupportedModelError

LARGEST_INPUT = 255  # |x - z_in|
LARGEST_SUM = 2**31 - 1
MULTIPLIERS_END = 256.0  # XNNPACK takes smaller ones only
_SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class IntegerLayer:
    """`bias` int32 [out], of scale `bias_scale` float32 [out] = s_in * s_w."""

    weight: QuantizedTensor
    ranges: StaticRanges
    bias: NDArray[np.int32]
    bias_scale: FloatArray

    @property
    def float_bias(self) -> FloatArray:
        """What `bias` stands for."""
        return self.bias.astype(np.float32) * self.bias_scale


def integer_layer(linear: Linear) -> IntegerLayer | None:
    """`linear` in integers, None for one without static ranges.

    Raises UnsupportedModelError where 32 bits do not hold its sums, or float32 its scales.
    """
    weight, ranges = linear.weight, linear.ranges
    if ranges is None or not isinstance(weight, QuantizedTensor):
        return None
    with np.errstate(all="ignore"):
        scale = np.float32(ranges.input.scale) * weight.scale
        multiplier = scale / np.float32(ranges.output.scale)
        bias = np.rint(linear.bias / scale).astype(np.float64)
    if scale.min(initial=1) < _SMALLEST:
        raise _outside(linear, f"steps of {scale.min():g}")
    if not multiplier.max(initial=0) < MULTIPLIERS_END:
        raise _outside(linear, f"multipliers of {multiplier.max():g}")
    largest = np.abs(bias) + LARGEST_INPUT * np.abs(weight.values.astype(np.int64)).sum(axis=1)
    if largest.max(initial=0) > LARGEST_SUM:
        raise _outside(linear, f"sums up to {largest.max():g}")
    return IntegerLayer(weight, ranges, bias.astype(np.int32), scale)


def _outside(linear: Linear, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{linear.name}: its static ranges need {what}, outside what integer products take;"
        " quantise with `activations: dynamic`"
    )
