"""EncoderSpec: the neutral description of an encoder that every target converts from.

Read from a compressed checkpoint: a Hugging Face folder (config.json, model.safetensors) plus, when the
model is quantised, `compression.json` and `quantized.safetensors` (docs/formats.md).
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Linear:
    """y = x Wᵀ + b; `weight` [out, in], `bias` float32 [out]; `name` is the checkpoint's module name."""

    name: str
    weight: Weight
    bias: FloatArray


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
    position: FloatArray
    token_type: FloatArray | None
    norm: LayerNorm
    projection: Linear | None

    @property
    def word_shape(self) -> tuple[int, int]:
        """Rows (vocabulary) and width of the word table."""
        table = self.word.values if isinstance(self.word, QuantizedTensor) else self.word
        return table.shape[0], table.shape[1]


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


@dataclass(frozen=True)
class EncoderSpec:
    architecture: str  # config.model_type
    hidden_size: int
    heads: int
    activation: Activation
    max_length: int  # tokens, from the position table
    pad_token_id: int
    labels: tuple[str, ...]
    embeddings: Embeddings
    layers: tuple[EncoderLayer, ...]
    head: ClassificationHead

    @property
    def quantized(self) -> bool:
        """Whether any linear layer or the word table is INT8."""
        return any(isinstance(weight, QuantizedTensor) for weight in self.weights())

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
        return (*first, *inner, self.head.dense, self.head.out)

    def weights(self) -> tuple[Weight, ...]:
        """The word table and the weight of every linear layer."""
        return (self.embeddings.word, *(linear.weight for linear in self.linears()))

    def weight_bytes(self) -> int:
        """Bytes that `weights` take as stored, without scales."""
        return sum(w.values.nbytes if isinstance(w, QuantizedTensor) else w.nbytes for w in self.weights())

    def quantized_tensors(self) -> dict[str, QuantizedTensor]:
        """INT8 tensors by parameter name: what an artifact must hold unchanged."""
        named = [(f"{self.embeddings.name}.word_embeddings.weight", self.embeddings.word)]
        named += [(f"{linear.name}.weight", linear.weight) for linear in self.linears()]
        return {name: weight for name, weight in named if isinstance(weight, QuantizedTensor)}


def load_encoder_spec(checkpoint: Path) -> EncoderSpec:
    """Read the folder `checkpoint`.

    Raises UnsupportedModelError (architecture, head, activation, position embeddings that no target takes),
    ArtifactError (a damaged or inconsistent folder) and MissingExtraError (no safetensors).
    """
    from edgebert_targets.families import encoder_spec
    from edgebert_targets.loader import read_checkpoint

    return encoder_spec(read_checkpoint(checkpoint))
