"""The encoder in numpy, float64, one sequence at a time, with the input quantisation of each backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.encoder import EncoderLayer, EncoderSpec, LayerNorm, Linear, QuantizedTensor

Array = NDArray[np.float64]
# (input rows, name of the activation that made them or None) -> what the integers stand for
Quantizer = Callable[[Array, str | None], Array]
_erf = np.vectorize(math.erf)


def exact(x: Array, after: str | None) -> Array:
    return x


def asymmetric(x: Array, after: str | None) -> Array:
    """docs/formats.md, each row by itself."""
    lo, hi = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    s = np.where(hi == lo, 1.0, (hi - lo) / 255)
    from_lo, from_hi = -128 - lo / s, 127 - hi / s
    # The side whose rounding error is smaller, as in XNNPACK: compare the ends' distances.
    z = np.rint(np.clip(np.where((-128 + lo / s) + (127 + hi / s) > 0, from_lo, from_hi), -128, 127))
    return s * (np.clip(np.rint(x / s) + z, -128, 127) - z)


def symmetric(x: Array, after: str | None) -> Array:
    """The x86 form: symmetric, or from the activation's lowest value upwards."""
    lowest = {"gelu": -0.16997120747990369, "gelu_tanh": -0.17004075, "relu": 0.0}
    if after in lowest:
        s = (x.max(-1, keepdims=True) - lowest[after]) / 255
        return s * np.clip(np.rint((x - lowest[after]) / s), 0, 255) + lowest[after]
    s = np.maximum(np.abs(x).max(-1, keepdims=True) / 127, 1e-30)
    return s * np.rint(x / s)


def logits(spec: EncoderSpec, ids: NDArray[Any], types: NDArray[Any], quantizer: Quantizer) -> Array:
    """[classes] for one unpadded sequence."""
    tables = spec.embeddings
    x = _dense(tables.word)[ids] + tables.position[: len(ids)]
    if tables.token_type is not None:
        x = x + tables.token_type[types]
    x = _norm(x, tables.norm)
    if tables.projection is not None:
        x = _linear(x, tables.projection, quantizer)
    for layer in spec.layers:
        x = _layer(spec, layer, x, quantizer)
    pooled = _activate(_linear(x[:1], spec.head.dense, quantizer), spec.head.activation)
    return _linear(pooled, spec.head.out, quantizer)[0]


def _dense(weight: Any) -> Array:
    if isinstance(weight, QuantizedTensor):
        return weight.values.astype(np.float64) * weight.scale[:, None].astype(np.float64)
    return np.asarray(weight, np.float64)


def _linear(x: Array, linear: Linear, quantizer: Quantizer, after: str | None = None) -> Array:
    if isinstance(linear.weight, QuantizedTensor):
        x = quantizer(x, after)
    return x @ _dense(linear.weight).T + linear.bias


def _norm(x: Array, norm: LayerNorm) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + norm.eps) * norm.weight + norm.bias


def _activate(x: Array, activation: str) -> Array:
    if activation == "tanh":
        return np.tanh(x)
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "gelu":
        return 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _layer(spec: EncoderSpec, layer: EncoderLayer, x: Array, quantizer: Quantizer) -> Array:
    rows, width = len(x), spec.hidden_size // spec.heads

    def heads(linear: Linear) -> Array:
        return _linear(x, linear, quantizer).reshape(rows, spec.heads, width).transpose(1, 0, 2)

    scores = heads(layer.query) @ heads(layer.key).transpose(0, 2, 1) / math.sqrt(width)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context = (weights @ heads(layer.value)).transpose(1, 0, 2).reshape(rows, -1)
    x = _norm(x + _linear(context, layer.attention_output, quantizer), layer.attention_norm)
    inner = _activate(_linear(x, layer.intermediate, quantizer), spec.activation)
    return _norm(x + _linear(inner, layer.output, quantizer, spec.activation), layer.output_norm)
