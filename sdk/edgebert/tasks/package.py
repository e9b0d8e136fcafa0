"""What packages need to know about a task: its rows, its figures, when two answers are the same.

Nothing here needs a training library: a package is run, validated and measured with the light core.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgebert.data import Columns
from edgebert.errors import PackageError, UsageError
from edgebert.tasks.base import Metric
from edgebert.tasks.rows import Answers, Place, Row
from edgebert.tokenizer import TextTokenizer

# task -> module and class; a module is imported when its task is asked for
PACKAGE_TASKS = {
    "text-classification": ("text_classification", "TextClassification"),
    "token-classification": ("token_classification", "TokenClassification"),
    "question-answering": ("question_answering", "QuestionAnswering"),
    "embedding": ("embedding", "Embedding"),
}
Array = NDArray[np.float32]


class Figures(Protocol):
    """Metrics over `examples` examples, each a fraction of one in an attribute of its name."""

    @property
    def examples(self) -> int: ...


class PackageTask(Protocol):
    """Examples are frozen dataclasses of the task's own; `labels` are in the order of the logits."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> Metric:
        """The attribute of `figures` that the gate is about."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether the model knows classes."""
        ...

    @property
    def per_token(self) -> bool:
        """Whether every token is answered, rather than the sequence."""
        ...

    @property
    def whole_texts(self) -> bool:
        """Whether an example is one row, cut where it is too long: what a model's own tokenizer makes too."""
        ...

    @property
    def measured_against_model(self) -> bool:
        """Whether right is what the float model answers, because examples do not say it."""
        ...

    def load(self, source: str, columns: Columns, split: str) -> list[Any]:
        """All examples of the user's data, at least one. Raises DataError."""
        ...

    def check(self, examples: Sequence[Any], labels: Sequence[str]) -> None:
        """Raises DataError for an example whose labels the model does not know."""
        ...

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[Any], limit: int) -> int:
        """Tokens to give a row: the longest example's, rounded up to a multiple of 16, at most `limit`."""
        ...

    def texts(self, example: Any) -> tuple[str, str | None]:
        """The example as one text or a pair."""
        ...

    def rows(self, tokenizer: TextTokenizer, examples: Sequence[Any], max_length: int) -> list[Row]:
        """Rows of at most `max_length` tokens, those of an example one after the other.

        Raises ModelError and UsageError.
        """
        ...

    def figures(
        self, answers: Answers, places: Sequence[Place], examples: Sequence[Any], labels: Sequence[str],
        right: Answers | None = None,
    ) -> Figures:  # fmt: skip
        """The metrics of one or more examples, whose rows are from `places`.

        `right`: the float model's answers, where they are needed.
        """
        ...

    def agreement(self, one: Array, other: Array) -> float:
        """How far two answers to a row decide alike: 1 where they do in everything."""
        ...

    def same(self, found: Array, recorded: Array, tolerance: float) -> bool:
        """Whether `found` decides as `recorded`, as far as numbers off by `tolerance` can."""
        ...

    def golden_tolerance(self, target: float, recorded: Answers) -> float:
        """Largest difference from `recorded` that another CPU may show, given the target's for logits."""
        ...


def get_package_task(name: str) -> PackageTask:
    """The task called `name`. Raises UsageError for one that packages are not made for."""
    if name not in PACKAGE_TASKS:
        raise UsageError(f"no packages for the task '{name[:60]}'; use one of: {', '.join(PACKAGE_TASKS)}")
    module, kind = PACKAGE_TASKS[name]
    task: PackageTask = getattr(import_module(f"edgebert.tasks.{module}"), kind)()
    return task


def task_of_package(name: str) -> PackageTask:
    """As `get_package_task`, for the name in a manifest. Raises PackageError."""
    try:
        return get_package_task(name)
    except UsageError:
        raise PackageError(
            f"the package is for the task '{name[:60]}', which this version does not know; update edgebert"
        ) from None


def outputs_of(task: PackageTask, labels: Sequence[str]) -> int | None:
    """Values that a model of `task` answers for a sequence, or for each token; None: its own width."""
    if task.has_labels:
        return len(labels)
    return 2 if task.per_token else None


def equal_choices(found: Array, recorded: Array, axis: int, tolerance: float = 0.0) -> NDArray[np.bool_]:
    """Whether the highest value along `axis` is the same one.

    A choice that `recorded` makes by less than numbers off by `tolerance` can undo counts as equal.
    """
    same: NDArray[np.bool_] = found.argmax(axis) == recorded.argmax(axis)
    if not tolerance or recorded.shape[axis] < 2:
        return same
    best = np.sort(recorded.astype(np.float64), axis)
    margin = best.take(-1, axis) - best.take(-2, axis)
    return same | (margin <= 2 * tolerance)
