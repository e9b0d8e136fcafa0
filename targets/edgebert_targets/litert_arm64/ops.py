"""LiteRT operators as functions: tensor numbers in, tensor number out. All shapes are static."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgebert_targets.encoder import Activation, LayerNorm, Linear, QuantizedTensor, Weight
from edgebert_targets.integer_layers import integer_layer
from edgebert_targets.litert_arm64.flatbuffer import GraphWriter
from edgebert_targets.litert_arm64.operators import INT8_VERSIONS

CONSTANT = "constant/"  # prefix of stored tensors that are no parameter of the checkpoint
_Op = schema.BuiltinOperator


def floats(graph: GraphWriter, value: float) -> int:
    return graph.constant(f"{CONSTANT}float/{value!r}", np.array([value], np.float32))


def integers(graph: GraphWriter, values: Sequence[int]) -> int:
    text = ",".join(str(value) for value in values)
    return graph.constant(f"{CONSTANT}int32/{text}", np.array(values, np.int32))


def _broadcast(graph: GraphWriter, a: int, b: int) -> int:
    return graph.tensor(np.broadcast_shapes(graph.shape(a), graph.shape(b)))


def add(graph: GraphWriter, a: int, b: int) -> int:
    return graph.operator(_Op.ADD, [a, b], _broadcast(graph, a, b), schema.AddOptionsT())


def subtract(graph: GraphWriter, a: int, b: int) -> int:
    return graph.operator(_Op.SUB, [a, b], _broadcast(graph, a, b), schema.SubOptionsT())


def multiply(graph: GraphWriter, a: int, b: int) -> int:
    return graph.operator(_Op.MUL, [a, b], _broadcast(graph, a, b), schema.MulOptionsT())


def to_float(graph: GraphWriter, x: int) -> int:
    options = schema.CastOptionsT(inDataType=schema.TensorType.INT32, outDataType=schema.TensorType.FLOAT32)
    return graph.operator(_Op.CAST, [x], graph.tensor(graph.shape(x)), options)


def reshape(graph: GraphWriter, x: int, shape: Sequence[int], dtype: str = "float32") -> int:
    options = schema.ReshapeOptionsT(newShape=list(shape))
    return graph.operator(_Op.RESHAPE, [x, integers(graph, shape)], graph.tensor(shape, dtype), options)


def transpose(graph: GraphWriter, x: int, order: Sequence[int]) -> int:
    shape = [graph.shape(x)[axis] for axis in order]
    inputs = [x, integers(graph, order)]
    return graph.operator(_Op.TRANSPOSE, inputs, graph.tensor(shape), schema.TransposeOptionsT())


def batch_matmul(graph: GraphWriter, a: int, b: int, transpose_b: bool) -> int:
    batch, rows, _ = graph.shape(a)
    columns = graph.shape(b)[1 if transpose_b else 2]
    options = schema.BatchMatMulOptionsT(adjY=transpose_b)
    return graph.operator(_Op.BATCH_MATMUL, [a, b], graph.tensor([batch, rows, columns]), options)


def softmax(graph: GraphWriter, x: int) -> int:
    return graph.operator(_Op.SOFTMAX, [x], graph.tensor(graph.shape(x)), schema.SoftmaxOptionsT(beta=1.0))


def divide(graph: GraphWriter, a: int, b: int) -> int:
    return graph.operator(_Op.DIV, [a, b], _broadcast(graph, a, b), schema.DivOptionsT())


def maximum(graph: GraphWriter, a: int, b: int) -> int:
    options = schema.MaximumMinimumOptionsT()
    return graph.operator(_Op.MAXIMUM, [a, b], _broadcast(graph, a, b), options)


def inverse_root(graph: GraphWriter, x: int) -> int:
    return graph.operator(_Op.RSQRT, [x], graph.tensor(graph.shape(x)))


def block(graph: GraphWriter, x: int, begin: Sequence[int], shape: Sequence[int]) -> int:
    """The part of `shape` that starts at `begin`."""
    inputs = [x, integers(graph, begin), integers(graph, shape)]
    return graph.operator(_Op.SLICE, inputs, graph.tensor(shape), schema.SliceOptionsT())


def first_row(graph: GraphWriter, x: int) -> int:
    """[rows, width] -> [1, width]"""
    return block(graph, x, [0, 0], [1, graph.shape(x)[1]])


def activate(graph: GraphWriter, x: int, activation: Activation) -> int:
    y = graph.tensor(graph.shape(x))
    if activation == "tanh":
        return graph.operator(_Op.TANH, [x], y)
    if activation == "relu":
        return graph.operator(_Op.RELU, [x], y)
    options = schema.GeluOptionsT(approximate=activation == "gelu_tanh")
    return graph.operator(_Op.GELU, [x], y, options)


def linear(graph: GraphWriter, x: int, layer: Linear) -> int:
    """[rows, in] -> [rows, out]; INT8 weights without ranges make the runtime quantise x token by token."""
    weight, integer = _weight(graph, f"{layer.name}.weight", layer.weight), integer_layer(layer)
    shape, name = [graph.shape(x)[0], len(layer.bias)], f"{layer.name}.bias"
    if integer is None:
        bias, output = graph.constant(name, layer.bias), graph.tensor(shape)
    else:
        x = graph.quantized(x, integer.ranges.input)
        bias = graph.constant(name, integer.bias, integer.bias_scale)
        output = graph.integers(shape, integer.ranges.output)
    options = schema.FullyConnectedOptionsT(keepNumDims=True)
    version = INT8_VERSIONS["FULLY_CONNECTED"] if isinstance(layer.weight, QuantizedTensor) else 1
    product = graph.operator(_Op.FULLY_CONNECTED, [x, weight, bias], output, options, version)
    return product if integer is None else dequantized(graph, product)


def dequantized(graph: GraphWriter, x: int) -> int:
    """int8 -> float32"""
    output, version = graph.tensor(graph.shape(x)), INT8_VERSIONS["DEQUANTIZE"]
    return graph.operator(_Op.DEQUANTIZE, [x], output, schema.DequantizeOptionsT(), version)


def lookup(graph: GraphWriter, ids: int, name: str, table: Weight) -> int:
    """int32 [rows] -> float32 [rows, width]"""
    weight = _weight(graph, name, table)
    output = graph.tensor([graph.shape(ids)[0], graph.shape(weight)[1]])
    version = INT8_VERSIONS["EMBEDDING_LOOKUP"] if isinstance(table, QuantizedTensor) else 1
    return graph.operator(_Op.EMBEDDING_LOOKUP, [ids, weight], output, None, version)


def _weight(graph: GraphWriter, name: str, weight: Weight) -> int:
    if isinstance(weight, QuantizedTensor):
        return graph.constant(name, weight.values, weight.scale)
    return graph.constant(name, weight)


def layer_norm(graph: GraphWriter, x: int, norm: LayerNorm) -> int:
    """(x - mean) * rsqrt(variance + eps) * weight + bias over the last axis of [rows, width]."""
    centred = subtract(graph, x, mean(graph, x, axis=1))
    variance = mean(graph, multiply(graph, centred, centred), axis=1)
    inverse = inverse_root(graph, add(graph, variance, floats(graph, norm.eps)))
    scaled = multiply(
        graph, multiply(graph, centred, inverse), graph.constant(f"{norm.name}.weight", norm.weight)
    )
    return add(graph, scaled, graph.constant(f"{norm.name}.bias", norm.bias))


def mean(graph: GraphWriter, x: int, axis: int) -> int:
    """Over one axis of [rows, width], which stays with size 1."""
    shape = [1 if i == axis else size for i, size in enumerate(graph.shape(x))]
    inputs = [x, integers(graph, [axis])]
    return graph.operator(_Op.MEAN, inputs, graph.tensor(shape), schema.ReducerOptionsT(keepDims=True))
