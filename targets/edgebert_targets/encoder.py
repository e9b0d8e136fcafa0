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
    weight: FloatArray
    bias: FloatArray
    eps: float


@dataclass(frozen=True)
class Embeddings:
    """`position` row i is for token i (RoBERTa's offset already removed). `token_type` None: model has none.

    `projection` maps the embedding width to the hidden width after the norm (ELECTRA small).
    """

    word: Weight
    position: FloatArray
    token_type: FloatArray | None
    norm: LayerNorm
    projection: Linear | None


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
        return isinstance(self.layers[0].query.weight, QuantizedTensor) if self.layers else False


def load_encoder_spec(checkpoint: Path) -> EncoderSpec:
    """Read `checkpoint`. Raises UnsupportedModelError and ArtifactError."""
    raise NotImplementedError
