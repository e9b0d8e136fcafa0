"""EncoderSpec to an ONNX graph that ONNX Runtime runs with its fused BERT operators.

A float32 layer is a MatMul, an INT8 layer quantises its input token by token inside the graph: ONNX Runtime's
own DynamicQuantizeLinear is per tensor, so a token's result would depend on padding and on its batch.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from edgebert_targets.encoder import (
    EncoderLayer,
    EncoderSpec,
    LayerNorm,
    QuantizedTensor,
    as_float,
)
from edgebert_targets.errors import UnsupportedModelError
from edgebert_targets.onnx_x86.graph import MICROSOFT, Graph
from edgebert_targets.onnx_x86.heads import activate, add_terms, write_head
from edgebert_targets.onnx_x86.metadata import Metadata
from edgebert_targets.onnx_x86.projection import Projected, products_together, project

MAX_FILE_BYTES = 2**31 - 2**20  # protobuf's limit less room for the graph


def onnx_model(spec: EncoderSpec) -> onnx.ModelProto:
    """The whole model: int64 [batch, sequence] inputs, float32 outputs (`answers.OUTPUT_NAMES`).

    Position and token-type tables must be float (`with_float_positions`). Raises UnsupportedModelError when
    the weights exceed what one ONNX file holds.
    """
    size = spec.weight_bytes()
    if size > MAX_FILE_BYTES:
        raise UnsupportedModelError(f"{size} bytes of weights exceed ONNX's 2 GB; quantise the model to INT8")
    graph = Graph()
    hidden = _embeddings(graph, spec)
    mask = graph.node("Cast", ["attention_mask"], to=TensorProto.INT32)
    for layer in spec.layers:
        hidden = _layer(graph, spec, layer, hidden, mask)
    outputs = write_head(graph, spec, hidden)
    metadata = Metadata(
        vocabulary=spec.embeddings.word_shape[0],
        max_length=spec.max_length,
        token_types=spec.embeddings.token_types,
        quantized=spec.quantized,
        task=spec.task,
    )
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if metadata.token_types else [])
    helper = onnx.helper
    model = graph.model(
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
    )
    helper.set_model_props(model, metadata.properties())
    return model


def _embeddings(graph: Graph, spec: EncoderSpec) -> str:
    """norm(word + token type + position), then ELECTRA's projection: [batch, sequence, hidden]."""
    tables = spec.embeddings
    length = graph.node(
        "Slice",
        [graph.node("Shape", ["input_ids"]), graph.integers([1]), graph.integers([2])],
    )
    position = graph.node(
        "Slice",
        [
            graph.constant(f"{tables.name}.position_embeddings.weight", as_float(tables.position)),
            graph.integers([0]),
            length,
            graph.integers([0]),
        ],
    )
    terms = [_word(graph, spec), position]
    if tables.token_type is not None:
        stored = graph.constant(f"{tables.name}.token_type_embeddings.weight", as_float(tables.token_type))
        terms.insert(1, graph.node("Gather", [stored, "token_type_ids"]))
    total = terms[0]
    for term in terms[1:]:
        total = graph.node("Add", [total, term])
    hidden = _norm(graph, total, tables.norm)
    if tables.projection is not None:
        hidden = add_terms(graph, project(graph, hidden, tables.projection))
    return hidden


def _word(graph: Graph, spec: EncoderSpec) -> str:
    """Word vectors; INT8 rows are gathered as they are and scaled afterwards."""
    name, table = f"{spec.embeddings.name}.word_embeddings.weight", spec.embeddings.word
    if not isinstance(table, QuantizedTensor):
        return graph.node("Gather", [graph.constant(name, table), "input_ids"])
    values = graph.node("Gather", [graph.constant(name, table.values), "input_ids"])
    scale = graph.node("Gather", [graph.constant(f"{name}.scale", table.scale[:, None]), "input_ids"])
    return graph.node("Mul", [graph.node("Cast", [values], to=TensorProto.FLOAT), scale])


def _layer(graph: Graph, spec: EncoderSpec, layer: EncoderLayer, hidden: str, mask: str) -> str:
    context = _attention(graph, spec.heads, layer, hidden, mask)
    attended = project(graph, context, layer.attention_output)
    hidden = _add_norm(graph, attended, hidden, layer.attention_norm)
    inner = activate(graph, project(graph, hidden, layer.intermediate), spec.activation)
    output = project(graph, inner, layer.output, after=spec.activation)
    return _add_norm(graph, output, hidden, layer.output_norm)


def _attention(graph: Graph, heads: int, layer: EncoderLayer, hidden: str, mask: str) -> str:
    """Context vectors [batch, sequence, hidden] before the output projection."""
    parts = (layer.query, layer.key, layer.value)
    name = f"{layer.query.name.rpartition('.')[0]}.query_key_value"
    # Layers with static ranges have added their biases.
    biases = [np.zeros_like(part.bias) if part.ranges else part.bias for part in parts]
    bias = (
        "" if all(part.ranges for part in parts) else graph.constant(f"{name}.bias", np.concatenate(biases))
    )
    if any(isinstance(part.weight, QuantizedTensor) for part in parts):
        products = products_together(graph, hidden, parts)
        return graph.node("MultiHeadAttention", [*products, bias, mask], domain=MICROSOFT, num_heads=heads)
    # Attention does the three float products in one: some 2 % of a MiniLM's time.
    weight = np.concatenate([as_float(part.weight) for part in parts]).T
    inputs = [hidden, graph.constant(f"{name}.weight", weight), bias, mask]
    return graph.node("Attention", inputs, domain=MICROSOFT, num_heads=heads)


def _add_norm(graph: Graph, projected: Projected, residual: str, norm: LayerNorm) -> str:
    # A Sum, because ONNX Runtime turns Adds here into its SkipLayerNormalization, a scalar loop that costs
    # a quarter of an INT8 model's time; LayerNormalization is vectorised.
    return _norm(graph, graph.node("Sum", [*projected.terms, residual]), norm)


def _norm(graph: Graph, value: str, norm: LayerNorm) -> str:
    inputs = [
        value,
        graph.constant(f"{norm.name}.weight", norm.weight),
        graph.constant(f"{norm.name}.bias", norm.bias),
    ]
    return graph.node("LayerNormalization", inputs, axis=-1, epsilon=norm.eps)
