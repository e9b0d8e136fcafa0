"""Linear layers with static ranges, quantised before and after: the integers that docs/formats.md defines.

int8 q of the checkpoint is q + 128 here, since ONNX Runtime's fast products take uint8 inputs. With its
QGemm, which gives INT8 by itself, a model takes 3 to 6 % more time than with MatMulIntegerToFloat.
"""

from __future__ import annotations

import numpy as np

from edgebert_targets.encoder import Range
from edgebert_targets.integer_layers import IntegerLayer
from edgebert_targets.onnx_x86.graph import MICROSOFT, Graph

TO_UINT8 = 128


def range_constants(name: str, stands_for: Range) -> dict[str, np.generic]:
    """Scale and zero point as they are stored; `name` ends in "input" or "output"."""
    return {
        f"{name}.scale": np.float32(stands_for.scale),
        f"{name}.zero_point": np.uint8(stands_for.zero_point + TO_UINT8),
    }


def quantize_static(graph: Graph, x: str, name: str, stands_for: Range) -> str:
    """uint8 of the float32 `x`, the input of the layer `name`."""
    return graph.node("QuantizeLinear", [x, *_range(graph, f"{name}.input", stands_for)])


def product_static(graph: Graph, values: str, name: str, integer: IntegerLayer) -> str:
    """float32 outputs of the layer `name`, rounded to its output range; `values` uint8 by its input range."""
    weight, after = f"{name}.weight", _range(graph, f"{name}.output", integer.ranges.output)
    scale, zero_point = _range(graph, f"{name}.input", integer.ranges.input)
    inputs = [
        values,
        graph.constant(weight, integer.weight.values.T),
        scale,
        graph.constant(f"{weight}.scale", integer.weight.scale),
        zero_point,
        "",
        graph.constant(f"{name}.bias", integer.float_bias),
    ]
    product = graph.node("MatMulIntegerToFloat", inputs, domain=MICROSOFT)
    return graph.node("DequantizeLinear", [graph.node("QuantizeLinear", [product, *after]), *after])


def _range(graph: Graph, name: str, stands_for: Range) -> list[str]:
    return [graph.constant(part, value) for part, value in range_constants(name, stands_for).items()]
