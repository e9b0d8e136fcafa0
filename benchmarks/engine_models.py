"""Encoders with a pattern of zeros, as EncoderSpecs with INT8 weights: random ones of a geometry, or real.

What an engine's speed depends on is real in both: shapes, number and place of zeros. Random weights have no
accuracy, but every engine gets the same ones, and their outputs can be compared.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.encoder import (
    ClassificationHead,
    Embeddings,
    EncoderLayer,
    EncoderSpec,
    FloatArray,
    LayerNorm,
    Linear,
    QuantizedTensor,
    as_float,
    load_encoder_spec,
)

Pattern = Literal["4-block", "unstructured"]
BLOCK = 4  # consecutive inputs of one output row
LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Geometry:
    """Sizes of a BERT. `hidden` and `intermediate` are multiples of 4, `hidden` of `heads`."""

    layers: int
    hidden: int = 768
    intermediate: int = 3072
    heads: int = 12
    vocabulary: int = 30522
    positions: int = 512


GEOMETRIES = {
    "bert-base": Geometry(12),
    "minilm-l6": Geometry(6, hidden=384, intermediate=1536),
    "tiny": Geometry(2, hidden=64, intermediate=128, heads=4, vocabulary=200, positions=64),
}


@dataclass(frozen=True)
class Case:
    """One model: a geometry and its zeros. `sparsity` is the share of zeros in every matrix but the last.

    `checkpoint`: a quantised checkpoint to take instead of random weights (`checkpoint_case`).
    """

    geometry: Geometry
    sparsity: float = 0.0
    pattern: Pattern = "4-block"
    seed: int = 0
    checkpoint: Path | None = None

    @property
    def name(self) -> str:
        """A name for files and tables: "12x768-90-4-block"."""
        size = f"{self.geometry.layers}x{self.geometry.hidden}"
        if self.checkpoint is not None:
            place = hashlib.sha256(str(self.checkpoint.resolve()).encode()).hexdigest()[:8]
            return f"{size}-{self.sparsity:g}-checkpoint-{place}"
        return f"{size}-{self.sparsity:g}-{self.pattern}" if self.sparsity else f"{size}-dense"


def checkpoint_case(folder: Path) -> Case:
    """The case of a quantised text classifier; its share of zeros is that of the layers' matrices."""
    spec = load_encoder_spec(folder)
    weights = [linear.weight for linear in spec.linears() if linear.name.find(".layer.") >= 0]
    assert all(isinstance(weight, QuantizedTensor) for weight in weights), f"{folder} is not quantised"
    zeros = sum(int((as_float(weight) == 0).sum()) for weight in weights)
    geometry = Geometry(
        len(spec.layers), spec.hidden_size, len(spec.layers[0].intermediate.bias), spec.heads,
        spec.embeddings.word_shape[0], spec.max_length,
    )  # fmt: skip
    share = zeros / sum(as_float(weight).size for weight in weights)
    return Case(geometry, round(share, 3), checkpoint=folder)


def encoder(case: Case) -> EncoderSpec:
    """What `case` stands for."""
    return random_encoder(case) if case.checkpoint is None else load_encoder_spec(case.checkpoint)


def random_encoder(case: Case) -> EncoderSpec:
    """The encoder of `case`; the same case gives the same arrays.

    Linear layers and all embedding tables are INT8; every row holds ±127, so that requantising a row by its
    largest value changes nothing. Biases and norms are exact in float16.
    """
    generator = Generator(case)
    geometry = case.geometry
    hidden = geometry.hidden
    layers = []
    for index in range(geometry.layers):
        name = f"bert.encoder.layer.{index}"
        layers.append(
            EncoderLayer(
                query=generator.linear(f"{name}.attention.self.query", hidden, hidden),
                key=generator.linear(f"{name}.attention.self.key", hidden, hidden),
                value=generator.linear(f"{name}.attention.self.value", hidden, hidden),
                attention_output=generator.linear(f"{name}.attention.output.dense", hidden, hidden),
                attention_norm=generator.norm(f"{name}.attention.output.LayerNorm", hidden),
                intermediate=generator.linear(f"{name}.intermediate.dense", geometry.intermediate, hidden),
                output=generator.linear(f"{name}.output.dense", hidden, geometry.intermediate),
                output_norm=generator.norm(f"{name}.output.LayerNorm", hidden),
            )
        )
    pooler = generator.linear("bert.pooler.dense", hidden, hidden)
    classifier = generator.linear("classifier", len(LABELS), hidden, sparsity=0.0)
    return EncoderSpec(
        architecture="bert",
        hidden_size=hidden,
        heads=geometry.heads,
        activation="gelu",
        max_length=geometry.positions,
        pad_token_id=0,
        labels=LABELS,
        embeddings=Embeddings(
            name="bert.embeddings",
            word=generator.table(geometry.vocabulary, hidden),
            position=generator.table(geometry.positions, hidden),
            token_type=generator.table(2, hidden),
            norm=generator.norm("bert.embeddings.LayerNorm", hidden),
            projection=None,
        ),
        layers=tuple(layers),
        head=ClassificationHead(dense=pooler, activation="tanh", out=classifier),
    )


class Generator:
    """Random parts of one model, drawn in order from one seed."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.random = np.random.default_rng(case.seed)

    def linear(self, name: str, outputs: int, inputs: int, sparsity: float | None = None) -> Linear:
        sparsity = self.case.sparsity if sparsity is None else sparsity
        kept = keep(self.random, outputs, inputs, sparsity, self.case.pattern)
        # The output's variance stays near that of the input, whatever is pruned.
        deviation = 1.0 / np.sqrt(inputs * max(1.0 - sparsity, 1.0 / inputs))
        return Linear(name, self.quantized(outputs, inputs, deviation, kept), self.vector(outputs, 0.0, 0.02))

    def table(self, rows: int, width: int) -> QuantizedTensor:
        return self.quantized(rows, width, 0.05, np.ones((rows, width), dtype=np.bool_))

    def quantized(
        self, rows: int, columns: int, deviation: float, kept: NDArray[np.bool_]
    ) -> QuantizedTensor:
        """Normal values of about `deviation`, none of them zero where `kept`, all of them zero elsewhere."""
        drawn = self.random.standard_normal((rows, columns), dtype=np.float32) * 36
        values = np.rint(drawn).clip(-127, 127).astype(np.int8)
        values[values == 0] = 1
        values *= kept
        full = np.flatnonzero(kept.any(axis=1))
        first = kept[full].argmax(axis=1)
        values[full, first] = np.where(values[full, first] < 0, -127, 127)
        scale = deviation / 36 * self.random.uniform(0.9, 1.1, rows)
        return QuantizedTensor(values, scale.astype(np.float32))

    def norm(self, name: str, size: int) -> LayerNorm:
        return LayerNorm(name, self.vector(size, 1.0, 0.05), self.vector(size, 0.0, 0.02), 1e-12)

    def vector(self, size: int, mean: float, deviation: float) -> FloatArray:
        """Normal values that float16 holds exactly."""
        drawn = self.random.normal(mean, deviation, size)
        return drawn.astype(np.float16).astype(np.float32)


def keep(
    random: np.random.Generator, outputs: int, inputs: int, sparsity: float, pattern: Pattern
) -> NDArray[np.bool_]:
    """Which weights stay, [outputs, inputs]: exactly round((1 - sparsity) * groups), drawn evenly."""
    group = BLOCK if pattern == "4-block" else 1
    groups = outputs * inputs // group
    chosen = np.zeros(groups, dtype=np.bool_)
    chosen[random.permutation(groups)[: round((1 - sparsity) * groups)]] = True
    return chosen.repeat(group).reshape(outputs, inputs)
