"""What an open package of any task can do; the classes of the tasks add the one method of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import DataError, UsageError
from edgebert.golden import GoldenExample, GoldenForm
from edgebert.inference import BATCH, row_answers
from edgebert.manifest import Manifest
from edgebert.package import Package
from edgebert.tasks.package import PackageTask, task_of_package
from edgebert.tasks.rows import NO_OFFSETS, Row
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import Session, TokenizingSession

# The method that asks a model, by task.
METHODS = {
    "text-classification": "classify",
    "token-classification": "tag",
    "question-answering": "answer",
    "embedding": "embed",
}


class WrongTaskError(UsageError, AttributeError):
    """A package was asked for what another task's packages do."""


class PackageModel:
    """A package ready to run. Not thread-safe. Close it, or use it as a context manager.

    `batch`: rows that `session` gets at a time.
    """

    def __init__(
        self, package: Package, session: Session, notes: tuple[str, ...] = (), batch: int = BATCH
    ) -> None:
        self._package = package
        self._session = session
        self._batch = batch
        self.tokenizer: TextTokenizer = package.tokenizer()
        self.task: PackageTask = task_of_package(package.manifest.task)
        self.notes = notes

    @property
    def manifest(self) -> Manifest:
        return self._package.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        return self.manifest.labels

    def rows(self, examples: Sequence[Any]) -> list[Row]:
        """What the model reads for the task's examples. Raises ModelError and UsageError."""
        return self.task.rows(self.tokenizer, examples, self.tokenizer.max_length)

    def answers(self, rows: Sequence[Row], batch: int | None = None) -> list[NDArray[np.float32]]:
        """The model's numbers for each row, float32: [classes], [tokens, outputs] or [width]."""
        return row_answers(self._session, rows, self.tokenizer.pad_id, batch=batch or self._batch)

    def golden_answers(self, golden: Sequence[GoldenExample]) -> list[NDArray[np.float32]]:
        """The model's numbers for golden texts, run one at a time as they were recorded. Raises DataError."""
        rows = []
        for number, one in enumerate(golden):
            ids, types = self.tokenizer.encode_ids(one.text, one.text_pair)
            rows.append(Row(tuple(ids), tuple(types), number, NO_OFFSETS))
        return self.answers(rows, batch=1)

    def runtime_ids(self, text: str, pair: str | None = None) -> list[int] | None:
        """Ids by the tokenizer inside the model; None where the model has none. Raises InputError."""
        if not isinstance(self._session, TokenizingSession):
            return None
        return self._session.tokenize(text, pair, self.tokenizer.max_length)

    def golden(self) -> tuple[GoldenExample, ...]:
        """The package's golden examples. Raises PackageError."""
        return self._package.golden()

    @property
    def golden_form(self) -> GoldenForm:
        """What a golden example of the package holds."""
        return self._package.golden_form

    def close(self) -> None:
        """Release the session and the package's temporary files."""
        self._session.close()
        self._package.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        """Only for names that are not there. Raises WrongTaskError for another task's method."""
        if name not in METHODS.values():
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        task = self.__dict__["task"].name
        raise WrongTaskError(
            f"this package is for {task} and cannot {name}; ask it with .{METHODS[task]}, or open a package "
            f"for {next(other for other, method in METHODS.items() if method == name)}"
        )


def checked_texts(texts: Sequence[str], what: str = "text") -> None:
    """Raises UsageError for one string in place of a list, DataError for an empty text or none."""
    if isinstance(texts, str):
        raise UsageError(f"one string was given where a list of {what}s is needed; pass [{what}]")
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise DataError(f"{what} {number} is of type {type(text).__name__}, not a string; pass strings")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{what} {number} is not valid Unicode (a lone surrogate); decode it as UTF-8"
            ) from None
        if not text.strip():
            raise DataError(f"{what} {number} is empty; leave it out")
