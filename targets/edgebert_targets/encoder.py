"""EncoderSpec: the neutral description of an encoder that every target converts from.

Read from a compressed checkpoint: a Hugging Face folder (config.json, model.safetensors) plus, when the
model is quantised, `compression.json` and `quantized.safetensors` (docs/formats.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Activation = Literal["gelu", "gelu_tanh", "relu", "tanh"]


@dataclass(frozen=True)
class QuantizedTensor:
    """INT8 symmetric per row: `values` int8 [rows, cols] in [-127, 127], `scale` float32 [rows], all > 0."""

    values: NDArray[np.int8]
    scale: FloatArray

    def dequantize(self) -> FloatArray:
        return self.values.astype(np.float32) * self.scale[:, None]


Weight = FloatArray | QuantizedTensor


def as_float(weight: Weight) -> FloatArray:
    """The float32 values of `weight`, dequantised where it is INT8."""
    return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight


def shape_of(weight: Weight) -> tuple[int, int]:
    """Rows and columns."""
    stored = weight.values if isinstance(weight, QuantizedTensor) else weight
    return stored.shape[0], stored.shape[1]


@dataclass(frozen=True)
class Range:
    """What the int8 number q of a tensor stands for: scale * (q - zero_point)."""

    scale: float  # a float32, normal and > 0
    zero_point: int  # in [-128, 127]


@dataclass(frozen=True)
class StaticRanges:
    """Of a linear layer's input and output, one for all tokens, fixed before the model runs."""

    input: Range
    output: Range


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + b; `weight` [out, in], `bias` float32 [out]; `name` is the checkpoint's module name.

    `ranges`, with an INT8 weight only: x and y are INT8 in these; None: x is quantised at run time.
    """

    name: str
    weight: Weight
    bias: FloatArray
    ranges: StaticRanges | None = None

    def __post_init__(self) -> None:
        if self.ranges is not None and not isinstance(self.weight, QuantizedTensor):
            raise ValueError(f"{self.name}: static ranges need an INT8 weight; leave them out")


@dataclass(frozen=True)
class LayerNorm:
    """`name` is the checkpoint's module name."""

    name: str
    weight: FloatArray
    bias: FloatArray
    eps: float


@dataclass(frozen=True)
class Embeddings:
    """`name` is the checkpoint's module name, `bert.embeddings`.

    `position` row i is for token i (RoBERTa's offset already removed). `token_type` None: model has none.
    `projection` maps the embedding width to the hidden width after the norm (ELECTRA small).
    """

    name: str
    word: Weight
    position: Weight
    token_type: Weight | None
    norm: LayerNorm
    projection: Linear | None

    @property
    def word_shape(self) -> tuple[int, int]:
        """Rows (vocabulary) and width of the word table."""
        return shape_of(self.word)

    @property
    def token_types(self) -> int:
        """Rows of the token-type table, 0 without one."""
        return 0 if self.token_type is None else shape_of(self.token_type)[0]

    def tables(self) -> tuple[tuple[str, Weight], ...]:
        """Every table with its parameter name."""
        optional = (
            ()
            if self.token_type is None
            else ((f"{self.name}.token_type_embeddings.weight", self.token_type),)
        )
        return (
            (f"{self.name}.word_embeddings.weight", self.word),
            (f"{self.name}.position_embeddings.weight", self.position),
            *optional,
        )


@dataclass(frozen=True)
class EncoderLayer:
    query: Linear
    key: Linear
    value: Linear
    attention_output: Linear
    attention_norm: LayerNorm
    intermediate: Linear
    output: Linear
    output_norm: LayerNorm


@dataclass(frozen=True)
class ClassificationHead:
    """On the first token: out(activation(dense(x))); BERT's pooler is the dense."""

    dense: Linear
    activation: Activation
    out: Linear

    def linears(self) -> tuple[Linear, ...]:
        return (self.dense, self.out)


@dataclass(frozen=True)
class TokenHead:
    """Labels for every token: out(x)."""

    out: Linear

    def linears(self) -> tuple[Linear, ...]:
        return (self.out,)


@dataclass(frozen=True)
class QuestionHead:
    """Start and end of an answer: the two outputs of out(x) for every token."""

    out: Linear

    def linears(self) -> tuple[Linear, ...]:
        return (self.out,)


@dataclass(frozen=True)
class EmbeddingHead:
    """The mean of the token vectors, divided by its Euclidean length where `normalize` says so."""

    normalize: bool

    def linears(self) -> tuple[Linear, ...]:
        return ()


Head = ClassificationHead | TokenHead | QuestionHead | EmbeddingHead
Task = Literal["text-classification", "token-classification", "question-answering", "embedding"]
TASKS: dict[type[Head], Task] = {
    ClassificationHead: "text-classification",
    TokenHead: "token-classification",
    QuestionHead: "question-answering",
    EmbeddingHead: "embedding",
}


@dataclass(frozen=True)
class EncoderSpec:
    """`labels`: empty for questions and embeddings. `tokenizer_json`: the checkpoint's, if it has one."""

    architecture: str  # config.model_type
    hidden_size: int
    heads: int
    activation: Activation
    max_length: int  # tokens, from the position table
    pad_token_id: int
    labels: tuple[str, ...]
    embeddings: Embeddings
    layers: tuple[EncoderLayer, ...]
    head: Head
    tokenizer_json: Path | None = None

    @property
    def quantized(self) -> bool:
        """Whether any linear layer or table is INT8."""
        return any(isinstance(weight, QuantizedTensor) for weight in self.weights())

    @property
    def static(self) -> bool:
        """Whether any linear layer has ranges that are fixed before the model runs."""
        return any(linear.ranges is not None for linear in self.linears())

    @property
    def task(self) -> Task:
        """What the head is for."""
        return TASKS[type(self.head)]

    @property
    def outputs(self) -> int:
        """Floats that the model answers for a sequence, or for each token where the task is about tokens."""
        if isinstance(self.head, EmbeddingHead):
            return self.hidden_size
        return len(self.head.out.bias)

    def linears(self) -> tuple[Linear, ...]:
        """Every linear layer, in the order in which data flows."""
        first = () if self.embeddings.projection is None else (self.embeddings.projection,)
        inner = tuple(
            linear
            for layer in self.layers
            for linear in (
                layer.query,
                layer.key,
                layer.value,
                layer.attention_output,
                layer.intermediate,
                layer.output,
            )
        )
        return (*first, *inner, *self.head.linears())

    def weights(self) -> tuple[Weight, ...]:
        """The embedding tables and the weight of every linear layer."""
        return tuple(weight for _, weight in self.named_weights())

    def named_weights(self) -> tuple[tuple[str, Weight], ...]:
        """`weights` with their parameter names."""
        linears = tuple((f"{linear.name}.weight", linear.weight) for linear in self.linears())
        return (*self.embeddings.tables(), *linears)

    def weight_bytes(self) -> int:
        """Bytes that `weights` take as stored, without scales."""
        return sum(w.values.nbytes if isinstance(w, QuantizedTensor) else w.nbytes for w in self.weights())

    def quantized_tensors(self) -> dict[str, QuantizedTensor]:
        """INT8 tensors by parameter name."""
        return {name: weight for name, weight in self.named_weights() if isinstance(weight, QuantizedTensor)}


def with_float_positions(spec: EncoderSpec) -> EncoderSpec:
    """`spec` with float position and token-type tables; a single token type joins the positions."""
    position, token_type = as_float(spec.embeddings.position), spec.embeddings.token_type
    if token_type is not None:
        token_type = as_float(token_type)
        if len(token_type) == 1:
            position, token_type = position + token_type, None
    return replace(spec, embeddings=replace(spec.embeddings, position=position, token_type=token_type))


def with_float_weights(spec: EncoderSpec) -> EncoderSpec:
    """`spec` with every INT8 weight as the float32 values that it stands for."""

    def linear(stored: Linear) -> Linear:
        return replace(stored, weight=as_float(stored.weight), ranges=None)

    def layer(stored: EncoderLayer) -> EncoderLayer:
        return replace(
            stored,
            query=linear(stored.query),
            key=linear(stored.key),
            value=linear(stored.value),
            attention_output=linear(stored.attention_output),
            intermediate=linear(stored.intermediate),
            output=linear(stored.output),
        )

    tables, head = spec.embeddings, spec.head
    if isinstance(head, ClassificationHead):
        head = replace(head, dense=linear(head.dense), out=linear(head.out))
    elif isinstance(head, TokenHead | QuestionHead):
        head = replace(head, out=linear(head.out))
    embeddings = replace(
        tables,
        word=as_float(tables.word),
        position=as_float(tables.position),
        token_type=None if tables.token_type is None else as_float(tables.token_type),
        projection=None if tables.projection is None else linear(tables.projection),
    )
    return replace(
        spec, embeddings=embeddings, layers=tuple(layer(stored) for stored in spec.layers), head=head
    )


def load_encoder_spec(checkpoint: Path) -> EncoderSpec:
    """Read the folder `checkpoint`.

    Raises UnsupportedModelError (architecture, head, activation, position embeddings that no target takes),
    ArtifactError (a damaged or inconsistent folder) and MissingExtraError (no safetensors).
    """
    from edgebert_targets.families import encoder_spec
    from edgebert_targets.loader import read_checkpoint

    return encoder_spec(read_checkpoint(checkpoint))
