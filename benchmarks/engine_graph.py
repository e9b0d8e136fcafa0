"""A BERT as plain ONNX operators, the way PyTorch's exporter writes one: what OpenVINO and DeepSparse read.

With ranges for the activations it is a quantised graph: QuantizeLinear and DequantizeLinear around every
matrix product, as quantisation-aware training in PyTorch exports it (opset 14).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgebert_targets.encoder import (
    ClassificationHead,
    EncoderLayer,
    EncoderSpec,
    FloatArray,
    LayerNorm,
    Linear,
)
from edgebert_targets.onnx_x86.graph import Graph

OPSET = 14
IR_VERSION = 7

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class PlainGraph:
    """`model` and the names of the tensors whose ranges a quantised graph needs."""

    model: onnx.ModelProto
    activations: tuple[str, ...]


class Writer:
    """Writes operators; `ranges` None leaves the graph in float."""

    def __init__(self, spec: EncoderSpec, ranges: Ranges | None) -> None:
        self.spec = spec
        self.ranges = ranges
        self.graph = Graph()
        self.activations: list[str] = []

    def activation(self, name: str, value: str) -> str:
        """`value`, quantised as `name`; in a float graph it is only given that name."""
        if self.ranges is None:
            self.activations.append(name)
            return self.graph.node("Identity", [value], outputs=[name])
        low, high = (min(self.ranges[name][0], 0.0), max(self.ranges[name][1], 0.0))
        scale = np.float32(max(high - low, 1e-6) / 255)
        zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
        return self.quantize(name, value, scale, zero)

    def quantize(self, name: str, value: str, scale: np.float32, zero: np.generic) -> str:
        parameters = [
            self.graph.constant(f"{name}.scale", scale),
            self.graph.constant(f"{name}.zero_point", zero),
        ]
        stored = self.graph.node("QuantizeLinear", [value, *parameters])
        return self.graph.node("DequantizeLinear", [stored, *parameters])

    def weight(self, name: str, value: FloatArray) -> str:
        """A matrix [rows, columns]: INT8 symmetric with one scale in a quantised graph."""
        stored = self.graph.constant(name, value)
        if self.ranges is None:
            return stored
        return self.quantize(name, stored, np.float32(np.abs(value).max() / 127), np.int8(0))

    def linear(self, x: str, linear: Linear) -> str:
        """x [..., in] Wᵀ + b."""
        assert isinstance(linear.weight, np.ndarray)
        name = f"{linear.name}.weight"
        if self.ranges is None:
            stored = self.graph.constant(name, linear.weight.T)
        else:
            stored = self.graph.node("Transpose", [self.weight(name, linear.weight)], perm=[1, 0])
        product = self.graph.node("MatMul", [x, stored])
        return self.graph.node("Add", [self.graph.constant(f"{linear.name}.bias", linear.bias), product])

    def norm(self, x: str, norm: LayerNorm) -> str:
        centred = self.graph.node("Sub", [x, self.graph.node("ReduceMean", [x], axes=[-1])])
        squared = self.graph.node("Pow", [centred, self.graph.floats(2.0)])
        variance = self.graph.node("ReduceMean", [squared], axes=[-1])
        deviation = self.graph.node("Sqrt", [self.graph.node("Add", [variance, self.graph.floats(norm.eps)])])
        scaled = self.graph.node("Div", [centred, deviation])
        weight = self.graph.constant(f"{norm.name}.weight", norm.weight)
        bias = self.graph.constant(f"{norm.name}.bias", norm.bias)
        return self.graph.node("Add", [self.graph.node("Mul", [scaled, weight]), bias])

    def gelu(self, x: str) -> str:
        erf = self.graph.node("Erf", [self.graph.node("Div", [x, self.graph.floats(float(np.sqrt(2.0)))])])
        product = self.graph.node("Mul", [x, self.graph.node("Add", [erf, self.graph.floats(1.0)])])
        return self.graph.node("Mul", [product, self.graph.floats(0.5)])

    def embeddings(self) -> str:
        tables = self.spec.embeddings
        rows = self.graph.node("Shape", ["input_ids"])
        length = self.graph.node(
            "Unsqueeze",
            [self.graph.node("Gather", [rows, self.graph.integers(1)], axis=0), self.graph.integers([0])],
        )
        every = np.arange(self.spec.max_length, dtype=np.int64)[None]
        positions = self.graph.node(
            "Slice",
            [
                self.graph.constant(f"{tables.name}.position_ids", every),
                *(self.graph.integers([0]), length, self.graph.integers([1]), self.graph.integers([1])),
            ],
        )
        parts = (
            ("word_embeddings", tables.word, "input_ids"),
            ("token_type_embeddings", tables.token_type, "token_type_ids"),
            ("position_embeddings", tables.position, positions),
        )
        total = ""
        for name, table, ids in parts:
            assert isinstance(table, np.ndarray)
            rows = self.graph.node("Gather", [self.weight(f"{tables.name}.{name}.weight", table), ids])
            total = self.graph.node("Add", [total, rows]) if total else rows
        return self.norm(total, tables.norm)

    def mask(self) -> str:
        """0 for tokens, a very low number for padding: [batch, 1, 1, sequence]."""
        wide = self.graph.node("Unsqueeze", ["attention_mask", self.graph.integers([1])])
        wide = self.graph.node("Unsqueeze", [wide, self.graph.integers([2])])
        real = self.graph.node("Cast", [wide], to=onnx.TensorProto.FLOAT)
        padding = self.graph.node("Sub", [self.graph.floats(1.0), real])
        return self.graph.node("Mul", [padding, self.graph.floats(-10000.0)])

    def heads(self, x: str, order: list[int]) -> str:
        """[batch, sequence, hidden] as [batch, heads, …] with the last axes in `order`."""
        heads, size = self.spec.heads, self.spec.hidden_size // self.spec.heads
        split = self.graph.node("Reshape", [x, self.graph.integers([0, 0, heads, size])])
        return self.graph.node("Transpose", [split], perm=order)

    def attention(self, name: str, layer: EncoderLayer, x: str, mask: str) -> str:
        size = self.spec.hidden_size // self.spec.heads
        # The key before the value and both before the query: the exporter's order.
        query, key, value = (self.linear(x, part) for part in (layer.query, layer.key, layer.value))
        value = self.heads(value, [0, 2, 1, 3])
        query = self.activation(f"{name}.query", self.heads(query, [0, 2, 1, 3]))
        key = self.activation(f"{name}.key", self.heads(key, [0, 2, 3, 1]))
        scores = self.graph.node("MatMul", [query, key])
        scores = self.graph.node("Div", [scores, self.graph.floats(float(np.sqrt(size)))])
        scores = self.graph.node("Add", [scores, mask])
        shares = self.graph.node("Softmax", [scores], axis=-1)
        shares = self.activation(f"{name}.shares", shares)
        value = self.activation(f"{name}.value", value)
        context = self.graph.node(
            "Transpose", [self.graph.node("MatMul", [shares, value])], perm=[0, 2, 1, 3]
        )
        return self.graph.node("Reshape", [context, self.graph.integers([0, 0, self.spec.hidden_size])])

    def layer(self, index: int, layer: EncoderLayer, x: str, mask: str) -> str:
        name = f"layer.{index}"
        context = self.attention(name, layer, self.activation(f"{name}.input", x), mask)
        attended = self.linear(self.activation(f"{name}.context", context), layer.attention_output)
        x = self.norm(self.graph.node("Add", [attended, x]), layer.attention_norm)
        inner = self.gelu(self.linear(self.activation(f"{name}.attended", x), layer.intermediate))
        output = self.linear(self.activation(f"{name}.inner", inner), layer.output)
        return self.norm(self.graph.node("Add", [output, x]), layer.output_norm)

    def head(self, x: str) -> None:
        head = self.spec.head
        assert isinstance(head, ClassificationHead)
        first = self.graph.node("Gather", [x, self.graph.integers(0)], axis=1)
        pooled = self.gemm(self.activation("head.first", first), head.dense)
        pooled = self.graph.node("Tanh", [pooled])
        self.gemm(self.activation("head.pooled", pooled), head.out, outputs=["logits"])

    def gemm(self, x: str, linear: Linear, outputs: list[str] | None = None) -> str:
        assert isinstance(linear.weight, np.ndarray)
        inputs = [
            x,
            self.weight(f"{linear.name}.weight", linear.weight),
            self.graph.constant(f"{linear.name}.bias", linear.bias),
        ]
        return self.graph.node("Gemm", inputs, outputs=outputs or [], alpha=1.0, beta=1.0, transB=1)


def plain_graph(spec: EncoderSpec, ranges: Ranges | None = None) -> PlainGraph:
    """`spec` must be dequantised BERT. int64 [batch, sequence] inputs, float32 `logits` [batch, classes]."""
    writer = Writer(spec, ranges)
    hidden, mask = writer.embeddings(), writer.mask()
    for index, layer in enumerate(spec.layers):
        hidden = writer.layer(index, layer, hidden, mask)
    writer.head(hidden)
    helper = onnx.helper
    names = ("input_ids", "attention_mask", "token_type_ids")
    model = writer.graph.model(
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "sequence"])
            for name in names
        ],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", len(spec.labels)])],
    )
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    return PlainGraph(model, tuple(writer.activations))


def measure_ranges(graph: PlainGraph, inputs: list[NDArray[np.int64]]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every activation of a float graph over token ids [batch, sequence]."""
    import onnxruntime as ort

    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in graph.activations
    )
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    ranges: dict[str, tuple[float, float]] = {}
    for ids in inputs:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        values = session.run(list(graph.activations), feed)
        for name, value in zip(graph.activations, values, strict=True):
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return ranges
