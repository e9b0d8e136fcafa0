"""The evaluation data as rows, and what answers to them are worth, whichever runtime gave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert.tasks.package import Figures, PackageTask
from edgebert.tasks.rows import Answers, Row, rows_of
from edgebert.tokenizer import TextTokenizer

ANSWERS = "answers.npy"
COUNTS = "counts.npy"


@dataclass(frozen=True)
class Agreement:
    """Two sets of answers to the same rows. `share`: mean of how far they decide alike."""

    share: float
    max_difference: float


@dataclass(frozen=True)
class Evaluation:
    """`examples` of a task as `rows` in their order. `right`: the float model's answers, where needed."""

    task: PackageTask
    labels: tuple[str, ...]
    examples: Sequence[Any]
    rows: Sequence[Row]
    right: Answers | None = None

    def figures(self, answers: Answers) -> Figures:
        """The metrics of `answers`, one a row. Raises DataError where there are no examples."""
        return self.task.figures(answers, self.rows, self.examples, self.labels, self.right)

    def score(self, answers: Answers) -> float:
        """The metric that the gate is about."""
        return float(getattr(self.figures(answers), self.task.metric))

    def chosen(self, numbers: Sequence[int]) -> Evaluation:
        """The examples of these ascending numbers alone."""
        place = {number: i for i, number in enumerate(numbers)}
        rows = [self.rows[i] for i in rows_of(numbers, self.rows)]
        return replace(
            self,
            examples=[self.examples[number] for number in numbers],
            rows=[replace(row, example=place[row.example]) for row in rows],
            right=None if self.right is None else self.take(self.right, numbers),
        )

    def take(self, answers: Answers, numbers: Sequence[int]) -> list[NDArray[np.float32]]:
        """Those of `answers` that belong to the examples of these numbers."""
        return [answers[i] for i in rows_of(numbers, self.rows)]


def evaluation_of(
    task: PackageTask,
    labels: tuple[str, ...],
    examples: Sequence[Any],
    tokenizer: TextTokenizer,
    right: Answers | None = None,
) -> Evaluation:
    """Rows of `examples` as long as `tokenizer` allows. Raises ModelError and UsageError."""
    return Evaluation(task, labels, examples, task.rows(tokenizer, examples, tokenizer.max_length), right)


def agreement(task: PackageTask, one: Answers, other: Answers) -> Agreement:
    """Compare answers to one or more rows, one a row."""
    pairs = list(zip(one, other, strict=True))
    share = float(np.mean([task.agreement(a, b) for a, b in pairs]))
    return Agreement(share, largest_difference(one, other))


def largest_difference(one: Answers, other: Answers) -> float:
    """Largest distance between two numbers of the same place; NaN where one is NaN."""
    found = [np.abs(a.astype(np.float64) - b).max() for a, b in zip(one, other, strict=True)]
    return float(np.max(found)) if found else 0.0


def save_answers(answers: Answers, folder: Path) -> None:
    """Write answers of one number of dimensions into `folder`, without pickling."""
    tokens = [0 if row.ndim == 1 else len(row) for row in answers]
    np.save(folder / COUNTS, np.array(tokens, np.int64), allow_pickle=False)
    np.save(folder / ANSWERS, np.concatenate([np.atleast_2d(row) for row in answers]), allow_pickle=False)


def load_answers(folder: Path) -> list[NDArray[np.float32]]:
    """The inverse of `save_answers`."""
    values: NDArray[np.float32] = np.load(folder / ANSWERS, allow_pickle=False)
    counts: NDArray[np.int64] = np.load(folder / COUNTS, allow_pickle=False)
    ends = np.cumsum(np.maximum(counts, 1))[:-1]
    return [
        part if tokens else part[0]
        for part, tokens in zip(np.split(values, ends), counts.tolist(), strict=True)
    ]
