"""Linear layers in the graph: float32, or INT8 weights with inputs quantised at run time or in static ranges.

At run time, each token by itself: s = max|x| / 127, q = round_half_even(x / s) as uint8 around 128,
y = s * (q - 128) (W * w_scale).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgebert_targets.encoder import Activation, Linear, QuantizedTensor, Range
from edgebert_targets.integer_layers import integer_layer
from edgebert_targets.onnx_x86.graph import MICROSOFT, Graph
from edgebert_targets.onnx_x86.static_projection import product_static, quantize_static

# Lowest value each activation can return: min of x Φ(x), of its tanh form (rounded down), of max(x, 0).
LOWEST: dict[Activation, float] = {"gelu": -0.16997121, "gelu_tanh": -0.17004080, "relu": 0.0}
SMALLEST_SCALE = 1e-30  # keeps x / s finite for a token that is all zeros


@dataclass(frozen=True)
class Projected:
    """Names of x Wᵀ and of the bias, which the next operator adds; None: the product has it already."""

    product: str
    bias: str | None

    @property
    def terms(self) -> list[str]:
        """What to add up."""
        return [self.product] if self.bias is None else [self.product, self.bias]


@dataclass(frozen=True)
class QuantizedInput:
    """x = scale * (values - zero_point) + offset; `values` uint8, `scale` one a token, the rest constants."""

    values: str
    scale: str
    zero_point: str
    offset: float


def project(graph: Graph, x: str, linear: Linear, *, after: Activation | None = None) -> Projected:
    """x [..., in] through `linear`; `after` names the activation that made x, if any."""
    weight, bias = linear.weight, linear.bias
    integer = integer_layer(linear)
    if integer is not None:
        values = quantize_static(graph, x, linear.name, integer.ranges.input)
        return Projected(product_static(graph, values, linear.name, integer), None)
    if isinstance(weight, QuantizedTensor):
        quantized = _quantize(graph, x, after)
        product = _product_int8(graph, quantized, linear, weight)
        if quantized.offset:
            sums = weight.values.sum(axis=1, dtype=np.int64) * weight.scale.astype(np.float64)
            bias = (bias + quantized.offset * sums).astype(np.float32)
    else:
        product = _product_float(graph, x, linear)
    return Projected(product, graph.constant(f"{linear.name}.bias", bias))


def products_together(graph: Graph, x: str, linears: Sequence[Linear]) -> list[str]:
    """x Wᵀ of several layers, without the biases but for layers with static ranges, which need theirs.

    x [..., in] is quantised once, or once for each input range.
    """
    quantized: QuantizedInput | None = None
    values: dict[Range, str] = {}
    results = []
    for linear in linears:
        integer = integer_layer(linear)
        if integer is not None:
            stands_for = integer.ranges.input
            if stands_for not in values:
                values[stands_for] = quantize_static(graph, x, linear.name, stands_for)
            results.append(product_static(graph, values[stands_for], linear.name, integer))
        elif isinstance(linear.weight, QuantizedTensor):
            quantized = quantized or _quantize(graph, x, None)
            results.append(_product_int8(graph, quantized, linear, linear.weight))
        else:
            results.append(_product_float(graph, x, linear))
    return results


def _product_float(graph: Graph, x: str, linear: Linear) -> str:
    assert not isinstance(linear.weight, QuantizedTensor)
    return graph.node("MatMul", [x, graph.constant(f"{linear.name}.weight", linear.weight.T)])


def _quantize(graph: Graph, x: str, after: Activation | None) -> QuantizedInput:
    """Quantise each row of x over its last axis.

    What follows GELU or ReLU has a known lowest value: taking it as the offset uses all 8 bits, and the
    offset's share of the product is a constant that the bias takes in.
    """
    one = graph.floats(1.0)
    if after in LOWEST:
        offset, levels, zero_point = LOWEST[after], 255.0, graph.bytes(0)
        x = graph.node("Sub", [x, graph.floats(offset)]) if offset else x
        largest = graph.node("ReduceMax", [x], axes=[-1], keepdims=1)
    else:
        offset, levels, zero_point = 0.0, 127.0, graph.bytes(128)
        largest = graph.node("ReduceMax", [graph.node("Abs", [x])], axes=[-1], keepdims=1)
    scale = graph.node("Mul", [largest, graph.floats(1.0 / levels)])
    scale = graph.node("Max", [scale, graph.floats(SMALLEST_SCALE)])
    values = graph.node("QuantizeLinear", [graph.node("Div", [x, scale]), one, zero_point])
    return QuantizedInput(values, scale, zero_point, offset)


def _product_int8(graph: Graph, x: QuantizedInput, linear: Linear, weight: QuantizedTensor) -> str:
    name = f"{linear.name}.weight"
    inputs = [
        x.values,
        graph.constant(name, weight.values.T),
        graph.floats(1.0),
        graph.constant(f"{name}.scale", weight.scale),
        x.zero_point,
    ]
    product = graph.node("MatMulIntegerToFloat", inputs, domain=MICROSOFT)
    return graph.node("Mul", [product, x.scale])
