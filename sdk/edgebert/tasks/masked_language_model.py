"""Masked language modelling on raw text: the share of hidden tokens that the model guesses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from edgebert.data import checked_text, json_lines, read_utf8
from edgebert.errors import DataError, ModelError
from edgebert.tasks.base import (
    Logits,
    Metric,
    check_not_empty,
    each_row,
    encode_all,
    longest_text,
    text_room,
    windows_of,
)
from edgebert.tasks.rows import RowBuilder
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset

MASK_TOKENS = ("[MASK]", "<mask>")


@dataclass(frozen=True)
class TextExample:
    """A text without a label."""

    text: str


@dataclass(frozen=True)
class MaskedLanguageModel:
    """Reads .txt with one text a line, or JSON lines `{"text": …}`."""

    name: str = "masked-language-model"
    metric: Metric = "masked accuracy"

    def read(self, path: Path) -> list[TextExample]:
        return read_texts(path)

    def labels(self, examples: Sequence[TextExample]) -> tuple[str, ...]:
        return ()

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[TextExample], limit: int) -> int:
        return longest_text(tokenizer, [example.text for example in examples], limit)

    def tokenize(
        self,
        tokenizer: TextTokenizer,
        examples: Sequence[TextExample],
        labels: Sequence[str],
        max_length: int,
    ) -> TokenizedDataset:
        """A text longer than `max_length` goes on in another row."""
        from edgebert_compress.data import TokenizedDataset

        cutting = tokenizer.bare()
        text_room(cutting, max_length, pair=False)
        mask = mask_token(cutting)
        special = frozenset((*cutting.encode("").ids, tokenizer.pad_id, mask))
        cutting.enable_truncation(max_length)
        shared = RowBuilder()
        rows = [
            shared.row(row.ids)
            for encoding in encode_all(cutting, [example.text for example in examples])
            for row in windows_of(encoding)
            if not special.issuperset(row.ids)
        ]
        if not rows:
            raise DataError("the texts hold nothing that the tokenizer knows; give real text")
        return TokenizedDataset(
            input_ids=tuple(rows),
            token_type_ids=None,
            labels=(0,) * len(rows),
            pad_token_id=tokenizer.pad_id,
            mask_token_id=mask,
            special_ids=special,
        )

    def measure(
        self,
        predictions: Iterable[Logits],
        data: TokenizedDataset,
        examples: Sequence[TextExample],
        labels: Sequence[str],
    ) -> float:
        """Share of the hidden tokens whose logits float32 [tokens, vocabulary] are highest for the true one.

        The tokens hidden are those that a batch without a generator hides.
        """
        from edgebert_compress.tasks.base import NOT_COUNTED
        from edgebert_compress.tasks.masked_language_model import hide_tokens

        hits = total = 0
        for index, (logits,) in each_row(predictions, data):
            truth = np.array(hide_tokens(data, index, logits.shape[-1])[1])
            hidden = truth != NOT_COUNTED
            hits += int((logits[hidden].argmax(axis=-1) == truth[hidden]).sum())
            total += int(hidden.sum())
        return hits / total if total else 0.0


def read_texts(path: Path) -> list[TextExample]:
    """The texts of a .txt file, one a line, or of JSON lines. Raises DataError with the file and the line."""
    if path.suffix.lower() not in (".txt", ".jsonl"):
        raise DataError(f"'{path}' has an unknown format '{path.suffix}'; use .txt or .jsonl")
    text = read_utf8(path)
    if path.suffix.lower() == ".jsonl":
        lines = [checked_text(row.get("text"), where, "text") for where, row in json_lines(path, text)]
    else:
        lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    check_not_empty(len(lines), path)
    return [TextExample(line) for line in lines]


def mask_token(tokenizer: Tokenizer) -> int:
    """The id that hides a token. Raises ModelError for a tokenizer without one."""
    for name in MASK_TOKENS:
        found = tokenizer.token_to_id(name)
        if found is not None:
            return int(found)
    raise ModelError(
        f"the tokenizer has no mask token ({' or '.join(MASK_TOKENS)}); use one that was made for MLM"
    )
