"""Sentence embedding: a vector a text, measured by how near it is to the float model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgebert.data import Columns
from edgebert.errors import DataError
from edgebert.tasks.base import Metric, longest_text, text_room
from edgebert.tasks.masked_language_model import TextExample, read_texts
from edgebert.tasks.rows import NO_OFFSETS, Answers, Place, Row, RowBuilder
from edgebert.tokenizer import TextTokenizer

# Two vectors for a text are the same, up to rounding, from this cosine on.
SAME = 0.99
# A number of a vector may be off by this share of the largest one where logits may be off by the target's.
SHARE = 0.25


@dataclass(frozen=True)
class VectorFigures:
    """Over `examples` texts: the mean cosine of the angle between the vectors and the float model's."""

    examples: int
    cosine: float


@dataclass(frozen=True)
class Embedding:
    """Reads .txt with one text a line, or JSON lines `{"text": …}`. There are no labels to train on."""

    name: str = "embedding"
    metric: Metric = "cosine"
    has_labels: bool = False
    per_token: bool = False
    whole_texts: bool = True
    measured_against_model: bool = True

    def load(self, source: str, columns: Columns, split: str) -> list[TextExample]:
        return read_texts(Path(source))

    def check(self, examples: Sequence[TextExample], labels: Sequence[str]) -> None:
        """Nothing to check: there are no classes."""

    def texts(self, example: TextExample) -> tuple[str, str | None]:
        return example.text, None

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[TextExample], limit: int) -> int:
        return longest_text(tokenizer, [example.text for example in examples], limit)

    def rows(self, tokenizer: TextTokenizer, examples: Sequence[TextExample], max_length: int) -> list[Row]:
        """One row a text, cut at `max_length` tokens."""
        bare = tokenizer.bare()
        text_room(bare, max_length, pair=False)
        cutting = TextTokenizer(bare, max_length, tokenizer.pad_id, tokenizer.token_types)
        shared, found = RowBuilder(), []
        for number, example in enumerate(examples):
            ids, types = cutting.encode_ids(example.text)
            found.append(Row(shared.row(ids), shared.row(types), number, NO_OFFSETS))
        return found

    def figures(
        self, answers: Answers, places: Sequence[Place], examples: Sequence[TextExample],
        labels: Sequence[str], right: Answers | None = None,
    ) -> VectorFigures:  # fmt: skip
        if right is None or not len(answers):
            raise DataError("vectors are measured against the float model's, and there are none to go by")
        near = [cosine(one, other) for one, other in zip(answers, right, strict=True)]
        return VectorFigures(len(near), float(np.mean(near)))

    def agreement(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return cosine(one, other)

    def same(self, found: NDArray[np.float32], recorded: NDArray[np.float32], tolerance: float) -> bool:
        return cosine(found, recorded) >= SAME

    def golden_tolerance(self, target: float, recorded: Answers) -> float:
        """In proportion to the vectors, whose length is the model's own affair."""
        return min(target, SHARE * max((float(np.abs(row).max()) for row in recorded), default=0.0))


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Cosine of the angle between two vectors, at most 1; 1 for two zeros, 0 for one."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    length = float(np.sqrt(a @ a) * np.sqrt(b @ b))
    if not length:
        return float(not a.any() and not b.any())
    return min(1.0, float(a @ b) / length)
