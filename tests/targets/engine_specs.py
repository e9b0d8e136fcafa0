"""Encoders with random INT8 weights and a chosen share of non-zero 1x4 blocks, and model files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
)
from edgebert_targets.int8_sparse.convert import model_keys, model_tensors
from edgebert_targets.int8_sparse.model_file import write_model_file
from edgebert_targets.int8_sparse.tokenizer_file import tokenizer_keys, tokenizer_tensors
from edgebert_targets.int8_sparse.tokenizer_settings import AddedToken, TokenizerSettings

SMALL = {"layers": 1, "hidden": 8, "heads": 2, "intermediate": 12, "vocabulary": 11, "positions": 9}
SETTINGS = TokenizerSettings(
    kind="wordpiece", clean_text=True, chinese_characters=False, strip_accents=True, lowercase=False,
    unknown="[UNK]", prefix="##", max_word_characters=77, add_prefix_space=False,
    tokens=("[UNK]", "", "é", "##x"), merges=(),
    added=(AddedToken("[UNK]", 0, True, False, True, False), AddedToken("é", 2, False, True, False, True)),
    single=(0, -1, 2), single_types=(0, 0, 0), pair=(0, -1, 2, -2), pair_types=(0, 0, 0, 1),
)  # fmt: skip
Parts = tuple[dict[str, Any], dict[str, NDArray[Any]]]  # keys and tensors of a model file


class RandomEncoder:
    """`density`: share of blocks that hold a non-zero."""

    def __init__(self, density: float, seed: int = 0) -> None:
        self._density = density
        self._rng = np.random.default_rng(seed)

    def floats(self, *shape: int) -> FloatArray:
        """Values that half precision holds."""
        return (self._rng.standard_normal(shape) * 0.1).astype(np.float16).astype(np.float32)

    def tensor(self, rows: int, columns: int, density: float = 1.0) -> QuantizedTensor:
        values = random_blocks(self._rng, rows, columns, density)
        return QuantizedTensor(values, self._rng.uniform(1e-4, 1e-2, rows).astype(np.float32))

    def linear(self, name: str, outputs: int, inputs: int) -> Linear:
        return Linear(name, self.tensor(outputs, inputs, self._density), self.floats(outputs))

    def norm(self, name: str, size: int) -> LayerNorm:
        return LayerNorm(name, 1 + self.floats(size), self.floats(size), 1e-12)

    def layer(self, name: str, hidden: int, intermediate: int) -> EncoderLayer:
        return EncoderLayer(
            query=self.linear(f"{name}.query", hidden, hidden),
            key=self.linear(f"{name}.key", hidden, hidden),
            value=self.linear(f"{name}.value", hidden, hidden),
            attention_output=self.linear(f"{name}.attention_output", hidden, hidden),
            attention_norm=self.norm(f"{name}.attention_norm", hidden),
            intermediate=self.linear(f"{name}.intermediate", intermediate, hidden),
            output=self.linear(f"{name}.output", hidden, intermediate),
            output_norm=self.norm(f"{name}.output_norm", hidden),
        )

    def spec(
        self,
        *,
        layers: int,
        hidden: int,
        heads: int,
        intermediate: int,
        vocabulary: int,
        positions: int,
        labels: int = 3,
        width: int | None = None,
    ) -> EncoderSpec:
        """A BERT classifier; with `width`, the embeddings are projected to the hidden size."""
        wide = width or hidden
        return EncoderSpec(
            architecture="bert",
            hidden_size=hidden,
            heads=heads,
            activation="gelu",
            max_length=positions,
            pad_token_id=0,
            labels=tuple(f"label {i}" for i in range(labels)),
            embeddings=Embeddings(
                name="bert.embeddings",
                word=self.tensor(vocabulary, wide),
                position=self.tensor(positions, wide),
                token_type=self.tensor(2, wide),
                norm=self.norm("bert.embeddings.LayerNorm", wide),
                projection=self.linear("projection", hidden, wide) if width else None,
            ),
            layers=tuple(self.layer(f"layer.{i}", hidden, intermediate) for i in range(layers)),
            head=ClassificationHead(
                dense=self.linear("dense", hidden, hidden),
                activation="tanh",
                out=self.linear("out", labels, hidden),
            ),
        )


def random_blocks(rng: np.random.Generator, rows: int, columns: int, density: float) -> NDArray[np.int8]:
    """int8 [rows, columns] in [-127, 127]; each block of 4, the last perhaps shorter, is there or zeros."""
    values = rng.integers(-127, 128, (rows, columns), dtype=np.int8)
    present = rng.random((rows, -(-columns // 4))) < density
    return np.where(np.repeat(present, 4, axis=1)[:, :columns], values, np.int8(0))


def parts_of(spec: EncoderSpec, settings: TokenizerSettings | None = None) -> Parts:
    keys: dict[str, Any] = dict(model_keys(spec))
    tensors = model_tensors(spec)
    if settings is not None:
        keys |= tokenizer_keys(settings, spec.embeddings.word_shape[0], spec.embeddings.token_types)
        tensors |= tokenizer_tensors(settings)
    return keys, tensors


def file_of(folder: Path, parts: Parts) -> bytes:
    write_model_file(folder / "model.gguf", *parts)
    return (folder / "model.gguf").read_bytes()
