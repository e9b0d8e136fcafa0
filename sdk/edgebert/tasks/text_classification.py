"""Text classification, of single texts and of pairs: labels, probabilities, metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgebert.data import Columns, Example, load_examples
from edgebert.errors import DataError
from edgebert.tasks.base import Logits, Metric, each_row, rounded_length
from edgebert.tasks.package import equal_choices
from edgebert.tasks.rows import NO_OFFSETS, Answers, Place, Row, RowBuilder
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset

TASK = "text-classification"
METRIC: Metric = "accuracy"


@dataclass(frozen=True)
class Prediction:
    """The best class and its probability; `scores` are the best `top_k` (label, probability), best first."""

    label: str
    score: float
    scores: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Figures:
    """Metrics over `examples` texts, as fractions of one."""

    examples: int
    accuracy: float
    macro_f1: float


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities, float64 [n, classes], of float32 logits [n, classes]."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def predictions(logits: NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """One prediction a row of logits [n, classes]; equal scores keep the order of `labels`."""
    probabilities = softmax(logits) if len(logits) else np.zeros((0, len(labels)))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    found = []
    for row, best in zip(probabilities, order, strict=True):
        scores = tuple((labels[i], float(row[i])) for i in best)
        found.append(Prediction(scores[0][0], scores[0][1], scores))
    return found


def class_ids(names: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Position in `labels` of each name, int64 [n]. Raises DataError with the example's number."""
    position = {label: i for i, label in enumerate(labels)}
    for number, name in enumerate(names, 1):
        if name not in position:
            known = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
            raise DataError(
                f"example {number} has the label '{name}', which is not one of the labels: {known}"
            )
    return np.array([position[name] for name in names], np.int64)


def figures(logits: NDArray[np.float32], truth: NDArray[np.int64]) -> Figures:
    """Accuracy and macro F1 of logits [n, classes] against class numbers int64 [n]; n is at least 1."""
    guess = logits.argmax(axis=1)
    return Figures(len(truth), float(np.mean(guess == truth)), macro_f1(guess, truth))


def macro_f1(guess: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean over the classes that occur in either array of F1 = 2 TP / (2 TP + FP + FN)."""
    size = int(max(guess.max(), truth.max())) + 1
    hits = np.bincount(truth[guess == truth], minlength=size)
    total = np.bincount(guess, minlength=size) + np.bincount(truth, minlength=size)
    return float(np.mean(2 * hits[total > 0] / total[total > 0]))


def scores_figures(answers: Answers, examples: Sequence[Example], labels: Sequence[str]) -> Figures:
    """`figures` of a row of logits [classes] for each of one or more examples. Raises DataError."""
    if not examples:
        raise DataError("there are no examples to measure accuracy on; give a file with at least one row")
    return figures(np.stack(answers), class_ids([example.label for example in examples], labels))


@dataclass(frozen=True)
class TextClassification:
    """Reads CSV, TSV or JSON lines with text, label and perhaps text_pair."""

    name: str = TASK
    metric: Metric = METRIC
    has_labels: bool = True
    per_token: bool = False
    whole_texts: bool = True
    measured_against_model: bool = False

    def read(self, path: Path) -> list[Example]:
        return load_examples(path)

    def load(self, source: str, columns: Columns, split: str) -> list[Example]:
        return load_examples(source, columns, split)

    def labels(self, examples: Sequence[Example]) -> tuple[str, ...]:
        found = sorted({example.label for example in examples})
        if len(found) < 2:
            raise DataError(f"the data has only the label '{found[0]}'; at least 2 are needed")
        return tuple(found)

    def check(self, examples: Sequence[Example], labels: Sequence[str]) -> None:
        class_ids([example.label for example in examples], labels)

    def texts(self, example: Example) -> tuple[str, str | None]:
        return example.text, example.text_pair

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[Example], limit: int) -> int:
        longest = max(len(tokenizer.encode_ids(e.text, e.text_pair)[0]) for e in examples)
        return rounded_length(longest, limit)

    def rows(self, tokenizer: TextTokenizer, examples: Sequence[Example], max_length: int) -> list[Row]:
        """One row an example, cut at `max_length` tokens, the longer text of a pair first."""
        cutting = TextTokenizer(tokenizer.bare(), max_length, tokenizer.pad_id, tokenizer.token_types)
        shared, found = RowBuilder(), []
        for number, example in enumerate(examples):
            ids, types = cutting.encode_ids(example.text, example.text_pair)
            found.append(Row(shared.row(ids), shared.row(types), number, NO_OFFSETS))
        return found

    def tokenize(
        self, tokenizer: TextTokenizer, examples: Sequence[Example], labels: Sequence[str], max_length: int
    ) -> TokenizedDataset:
        """`rows` with the number of each example's class."""
        from edgebert_compress.data import TokenizedDataset

        rows = self.rows(tokenizer, examples, max_length)
        return TokenizedDataset(
            input_ids=tuple(row.ids for row in rows),
            token_type_ids=tuple(row.types for row in rows),
            labels=tuple(class_ids([example.label for example in examples], labels).tolist()),
            pad_token_id=tokenizer.pad_id,
        )

    def measure(
        self,
        predictions: Iterable[Logits],
        data: TokenizedDataset,
        examples: Sequence[Example],
        labels: Sequence[str],
    ) -> float:
        """Share of the rows whose logits float32 [classes] are highest for the label."""
        guess = np.array([logits.argmax() for _, (logits,) in each_row(predictions, data)], np.int64)
        return float(np.mean(guess == np.array(data.labels)))

    def figures(
        self, answers: Answers, places: Sequence[Place], examples: Sequence[Example], labels: Sequence[str],
        right: Answers | None = None,
    ) -> Figures:  # fmt: skip
        return scores_figures(answers, examples, labels)

    def agreement(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return float(equal_choices(one, other, 0))

    def same(self, found: NDArray[np.float32], recorded: NDArray[np.float32], tolerance: float) -> bool:
        return bool(equal_choices(found, recorded, 0))

    def golden_tolerance(self, target: float, recorded: Answers) -> float:
        return target
