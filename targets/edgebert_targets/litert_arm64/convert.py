"""EncoderSpec to a LiteRT flatbuffer: one subgraph and signature a length, weights stored once."""

from __future__ import annotations

import math

import numpy as np

from edgebert_targets.answers import OUTPUT_NAMES
from edgebert_targets.encoder import (
    EncoderLayer,
    EncoderSpec,
    as_float,
)
from edgebert_targets.errors import UnsupportedModelError
from edgebert_targets.litert_arm64 import ops
from edgebert_targets.litert_arm64.flatbuffer import GraphWriter, ModelWriter
from edgebert_targets.litert_arm64.heads import write_head
from edgebert_targets.litert_arm64.mediapipe import METADATA_NAME, mediapipe_part, metadata, with_files
from edgebert_targets.litert_arm64.signature import NOTE_NAME, signature_key

MASKED = -1e4  # added to the scores of padding: its exponential is exactly 0 in float32
MAX_FILE_BYTES = 2**31 - 2**20  # flatbuffers' limit less room for the graph


def litert_model(spec: EncoderSpec, lengths: tuple[int, ...]) -> bytes:
    """The file's bytes. Inputs int32 [1, length] by name, outputs float32 [1, …] (`answers.OUTPUT_NAMES`).

    Position and token-type tables must be float (`with_float_positions`). Raises UnsupportedModelError for
    lengths that the model does not have, and files over 2 GB.
    """
    if not lengths or list(lengths) != sorted(set(lengths)) or not 0 < lengths[0] <= lengths[-1]:
        raise UnsupportedModelError(f"lengths {lengths} are not ascending positive numbers; correct them")
    if lengths[-1] > spec.max_length:
        raise UnsupportedModelError(
            f"length {lengths[-1]} exceeds the model's {spec.max_length} positions; choose a smaller one"
        )
    size = spec.weight_bytes()
    if size > MAX_FILE_BYTES:
        raise UnsupportedModelError(
            f"{size} bytes of weights exceed LiteRT's 2 GB; quantise the model to INT8"
        )
    writer = ModelWriter("edgebert")
    # The first subgraph is what a runtime takes that knows no signatures: the one that holds every text.
    for length in reversed(lengths):
        _Encoder(spec, writer, length).write()
    part = mediapipe_part(spec, lengths)
    writer.metadata(NOTE_NAME, part.note.encode())
    if part.files:
        writer.metadata(METADATA_NAME, metadata(input_names(spec), OUTPUT_NAMES[spec.task][0]))
    return with_files(writer.serialize(), part.files)


def input_names(spec: EncoderSpec) -> tuple[str, ...]:
    """In the order of the subgraph's inputs."""
    types = ("token_type_ids",) if spec.embeddings.token_type is not None else ()
    return ("input_ids", "attention_mask", *types)


class _Encoder:
    """Writes one subgraph of a fixed length. Activations are [length, width]: the batch is always 1."""

    def __init__(self, spec: EncoderSpec, writer: ModelWriter, length: int) -> None:
        self._spec = spec
        self._writer = writer
        self._length = length
        self._graph = GraphWriter(writer, signature_key(length))

    def write(self) -> None:
        graph, shape = self._graph, (1, self._length)
        inputs = {name: graph.tensor(shape, "int32", name) for name in input_names(self._spec)}
        hidden = self._embeddings(inputs)
        mask = self._mask(inputs["attention_mask"])
        for layer in self._spec.layers:
            hidden = self._layer(layer, hidden, mask)
        graph.module = "head"
        outputs = write_head(graph, self._spec, hidden, inputs["attention_mask"])
        self._writer.add(graph.graph, signature_key(self._length), list(inputs.values()), outputs)

    def _embeddings(self, inputs: dict[str, int]) -> int:
        graph, tables = self._graph, self._spec.embeddings
        graph.module = tables.name
        ids = ops.reshape(graph, inputs["input_ids"], [self._length], "int32")
        total = ops.lookup(graph, ids, f"{tables.name}.word_embeddings.weight", tables.word)
        if tables.token_type is not None:
            total = ops.add(graph, total, self._token_types(inputs["token_type_ids"]))
        # Each length has its own slice: a stored tensor cannot be a part of another one's buffer.
        position = as_float(tables.position)[: self._length]
        name = f"{tables.name}.position_embeddings.weight[:{self._length}]"
        hidden = ops.layer_norm(graph, ops.add(graph, total, graph.constant(name, position)), tables.norm)
        return hidden if tables.projection is None else ops.linear(graph, hidden, tables.projection)

    def _token_types(self, types: int) -> int:
        """[length, width]. Two rows a, b need no gather: a + type * (b - a)."""
        graph, stored = self._graph, self._spec.embeddings.token_type
        assert stored is not None
        table = as_float(stored)
        name = f"{self._spec.embeddings.name}.token_type_embeddings.weight"
        if len(table) != 2:
            return ops.lookup(graph, ops.reshape(graph, types, [self._length], "int32"), name, table)
        column = ops.reshape(graph, ops.to_float(graph, types), [self._length, 1])
        step = ops.multiply(graph, column, graph.constant(f"{name}[1]-[0]", table[1:] - table[:1]))
        return ops.add(graph, step, graph.constant(f"{name}[0]", table[:1]))

    def _mask(self, mask: int) -> int:
        """[1, 1, length]: 0 for tokens and MASKED for padding."""
        graph = self._graph
        padding = ops.subtract(graph, ops.floats(graph, 1.0), ops.to_float(graph, mask))
        return ops.reshape(
            graph, ops.multiply(graph, padding, ops.floats(graph, MASKED)), [1, 1, self._length]
        )

    def _layer(self, layer: EncoderLayer, hidden: int, mask: int) -> int:
        graph = self._graph
        graph.module = layer.query.name.partition(".attention")[0]
        attended = ops.linear(graph, self._attention(layer, hidden, mask), layer.attention_output)
        hidden = ops.layer_norm(graph, ops.add(graph, attended, hidden), layer.attention_norm)
        inner = ops.activate(graph, ops.linear(graph, hidden, layer.intermediate), self._spec.activation)
        output = ops.linear(graph, inner, layer.output)
        return ops.layer_norm(graph, ops.add(graph, output, hidden), layer.output_norm)

    def _attention(self, layer: EncoderLayer, hidden: int, mask: int) -> int:
        """softmax(Q Kᵀ / sqrt(d) + mask) V by heads: [length, hidden]."""
        graph = self._graph
        width = self._spec.hidden_size // self._spec.heads
        root = np.float32(1 / math.sqrt(width)).item()
        query = ops.multiply(graph, ops.linear(graph, hidden, layer.query), ops.floats(graph, root))
        key = ops.linear(graph, hidden, layer.key)
        value = ops.linear(graph, hidden, layer.value)
        scores = ops.batch_matmul(graph, self._by_head(query), self._by_head(key), transpose_b=True)
        weights = ops.softmax(graph, ops.add(graph, scores, mask))
        context = ops.batch_matmul(graph, weights, self._by_head(value), transpose_b=False)
        joined = ops.transpose(graph, context, [1, 0, 2])
        return ops.reshape(graph, joined, [self._length, self._spec.hidden_size])

    def _by_head(self, x: int) -> int:
        """[length, hidden] -> [heads, length, width]"""
        heads = self._spec.heads
        split = ops.reshape(self._graph, x, [self._length, heads, self._spec.hidden_size // heads])
        return ops.transpose(self._graph, split, [1, 0, 2])
