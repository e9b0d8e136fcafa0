"""What compression needs to know about a task: its data, its tokens, its metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from edgebert.errors import DataError, ModelError, UsageError
from edgebert.tasks.rows import paired
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset

Metric = Literal["accuracy", "f1", "masked accuracy", "cosine"]
Logits = tuple[NDArray[np.float32], ...]
# task -> module and class; a module is imported when its task is asked for
TASKS = {
    "text-classification": ("text_classification", "TextClassification"),
    "token-classification": ("token_classification", "TokenClassification"),
    "question-answering": ("question_answering", "QuestionAnswering"),
    "masked-language-model": ("masked_language_model", "MaskedLanguageModel"),
}


class CompressionTask(Protocol):
    """Examples are frozen dataclasses of the task's own; `labels` are in the order of the logits."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    def read(self, path: Path) -> list[Any]:
        """All examples of a file, at least one. Raises DataError with the file and the line."""
        ...

    def labels(self, examples: Sequence[Any]) -> tuple[str, ...]:
        """Sorted labels; () for tasks without. Raises DataError where there are too few."""
        ...

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[Any], limit: int) -> int:
        """Tokens to give a row: the longest example's, rounded up to a multiple of 16, at most `limit`."""
        ...

    def tokenize(
        self, tokenizer: TextTokenizer, examples: Sequence[Any], labels: Sequence[str], max_length: int
    ) -> TokenizedDataset:
        """Rows of at most `max_length` tokens. Raises DataError, ModelError and UsageError."""
        ...

    def measure(
        self,
        predictions: Iterable[Logits],
        data: TokenizedDataset,
        examples: Sequence[Any],
        labels: Sequence[str],
    ) -> float:
        """The metric in [0, 1]. `predictions`: for each row of `data`, in order, one float32 array a head
        ([classes], or tokens first); read once, so they may be computed on the way."""
        ...


def get_compression_task(name: str) -> CompressionTask:
    """The task called `name`. Raises UsageError for an unknown one."""
    if name not in TASKS:
        raise UsageError(f"unknown task '{name[:60]}'; use one of: {', '.join(TASKS)}")
    module, kind = TASKS[name]
    task: CompressionTask = getattr(import_module(f"edgebert.tasks.{module}"), kind)()
    return task


def rounded_length(longest: int, limit: int) -> int:
    """`longest` rounded up to a multiple of 16, at least 32, at most `limit`."""
    return min(max(32, -(-longest // 16) * 16), limit)


def longest_text(tokenizer: TextTokenizer, texts: Sequence[str], limit: int) -> int:
    """`rounded_length` of the longest of `texts`. Raises ModelError."""
    return rounded_length(max(len(encoding) for encoding in encode_all(tokenizer.bare(), texts)), limit)


def encode_all(tokenizer: Tokenizer, texts: Sequence[Any], *, special: bool = True) -> list[Encoding]:
    """Encodings of texts or pairs of texts, with `special` tokens or without. Raises ModelError."""
    try:
        return tokenizer.encode_batch(list(texts), add_special_tokens=special)
    except Exception as error:  # the library raises plain Exception
        what = " ".join(str(error).split())[:160]
        raise ModelError(f"the tokenizer fails ({what}); save the tokenizer again") from None


def text_room(tokenizer: Tokenizer, max_length: int, *, pair: bool) -> int:
    """Tokens left for text beside the special ones. Raises UsageError where that is no room to speak of."""
    special = tokenizer.num_special_tokens_to_add(pair)
    if max_length < special + 2:
        raise UsageError(
            f"{max_length} tokens are too few: this tokenizer adds {special}; allow at least {special + 2}"
        )
    return max_length - special


def windows_of(encoding: Encoding) -> list[Encoding]:
    """The rows that a long text was cut into, in order."""
    return [encoding, *encoding.overflowing]


def check_not_empty(found: int, path: Path) -> None:
    """Raises DataError for a file without examples."""
    if not found:
        raise DataError(f"'{path}' holds no examples; give a file with at least one")


def each_row(predictions: Iterable[Logits], data: TokenizedDataset) -> Iterator[tuple[int, Logits]]:
    """The number of each row of `data` and its prediction. Raises DataError where there is not one a row."""
    return paired(predictions, len(data))
