"""Token classification: words with IOB2 tags, and the entity-level F1 of CoNLL-2000."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebert.data import checked_text, json_lines, read_utf8
from edgebert.errors import DataError
from edgebert.tasks.base import (
    Logits,
    Metric,
    RowBuilder,
    check_not_empty,
    each_row,
    encode_all,
    longest_text,
    text_room,
    windows_of,
)
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset

TAG = re.compile(r"O|[BI]-\S+")
NOT_COUNTED = -100
OUTSIDE = "O"


@dataclass(frozen=True)
class TokenExample:
    """The words of a sentence and the tag of each: O, B-TYPE or I-TYPE."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words with one blank between them, which is what the model reads."""
        return " ".join(self.tokens)


@dataclass(frozen=True)
class TokenClassification:
    """Reads JSON lines `{"tokens": […], "tags": […]}`."""

    name: str = "token-classification"
    metric: Metric = "f1"

    def read(self, path: Path) -> list[TokenExample]:
        examples = [_example(row, where) for where, row in json_lines(path, read_utf8(path))]
        check_not_empty(len(examples), path)
        return examples

    def labels(self, examples: Sequence[TokenExample]) -> tuple[str, ...]:
        found = sorted({tag for example in examples for tag in example.tags})
        if len(found) < 2:
            raise DataError(f"the data has only the tag '{found[0]}'; at least 2 are needed")
        return tuple(found)

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[TokenExample], limit: int) -> int:
        return longest_text(tokenizer, [example.text for example in examples], limit)

    def tokenize(
        self,
        tokenizer: TextTokenizer,
        examples: Sequence[TokenExample],
        labels: Sequence[str],
        max_length: int,
    ) -> TokenizedDataset:
        """The first token of a word carries its label. Text beyond `max_length` continues in another row."""
        from edgebert_compress.data import TokenizedDataset, Window

        cutting = tokenizer.bare()
        text_room(cutting, max_length, pair=False)
        cutting.enable_truncation(max_length)
        number = {label: i for i, label in enumerate(labels)}
        ids, types, targets, windows = [], [], [], []
        shared = RowBuilder()
        for index, encoding in enumerate(encode_all(cutting, [example.text for example in examples])):
            example, seen = examples[index], set()
            for row in windows_of(encoding):
                offsets = np.array(row.offsets, np.int32)
                offsets[np.array(row.special_tokens_mask, bool)] = -1
                line = [NOT_COUNTED] * len(row.ids)
                for place, word in enumerate(words_of(example, offsets)):
                    if word is not None and word not in seen:
                        seen.add(word)
                        line[place] = _class(example.tags[word], number, index)
                ids.append(shared.row(row.ids))
                types.append(shared.row(row.type_ids if tokenizer.token_types else [0] * len(row.ids)))
                targets.append(shared.row(line))
                windows.append(Window(index, offsets))
        return TokenizedDataset(
            input_ids=tuple(ids),
            token_type_ids=tuple(types),
            labels=(0,) * len(ids),
            pad_token_id=tokenizer.pad_id,
            token_labels=tuple(targets),
            windows=tuple(windows),
        )

    def measure(
        self,
        predictions: Iterable[Logits],
        data: TokenizedDataset,
        examples: Sequence[TokenExample],
        labels: Sequence[str],
    ) -> float:
        """Entity F1. A word that the tokenizer left no token of counts as tagged O."""
        guess = self.tags(predictions, data, examples, labels)
        return entity_f1([example.tags for example in examples], guess)

    def tags(
        self,
        predictions: Iterable[Logits],
        data: TokenizedDataset,
        examples: Sequence[TokenExample],
        labels: Sequence[str],
    ) -> list[list[str]]:
        """A tag for each word of each example, from logits float32 [tokens, classes] a row."""
        assert data.windows is not None and data.token_labels is not None
        found = [[OUTSIDE] * len(example.tokens) for example in examples]
        for row, (logits,) in each_row(predictions, data):
            window, targets = data.windows[row], data.token_labels[row]
            words = words_of(examples[window.example], window.offsets)
            best = logits.argmax(axis=-1)
            for place, (word, target) in enumerate(zip(words, targets, strict=True)):
                if word is not None and target != NOT_COUNTED:
                    found[window.example][word] = labels[int(best[place])]
        return found


def words_of(example: TokenExample, offsets: NDArray[np.int32]) -> Iterator[int | None]:
    """For each token the word that its last character lies in; None for special tokens and blanks."""
    word_at: list[int | None] = []
    for word, token in enumerate(example.tokens):
        word_at += [word] * len(token) + [None]
    for start, end in offsets.tolist():
        yield word_at[end - 1] if end > start >= 0 else None


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, past-the-last word) of each entity, as the CoNLL-2000 evaluation reads tags.

    B begins an entity; so does an I that continues none of its type.
    """
    found: list[tuple[str, int, int]] = []
    kind, start = "", -1
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-")
        if start >= 0 and (prefix != "I" or name != kind):
            found.append((kind, start, place))
            start = -1
        if start < 0 and prefix in ("B", "I"):
            kind, start = name, place
    return found


def entity_f1(truth: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]) -> float:
    """2 · hits / (entities in truth + entities in guess), over all sentences together; 0 without any."""
    hits = total = 0
    for wanted, got in zip(truth, guess, strict=True):
        a, b = set(entities(wanted)), set(entities(got))
        hits += len(a & b)
        total += len(a) + len(b)
    return 2 * hits / total if total else 0.0


def _class(tag: str, number: dict[str, int], index: int) -> int:
    if tag not in number:
        raise DataError(
            f"example {index + 1} has the tag '{tag}', which the labels lack; use one set for all"
        )
    return number[tag]


def _example(row: dict[str, Any], where: str) -> TokenExample:
    tokens, tags = row.get("tokens"), row.get("tags")
    if not isinstance(tokens, list) or not isinstance(tags, list):
        raise DataError(f"{where}: 'tokens' and 'tags' must be lists; keys found: {', '.join(row)[:120]}")
    if len(tokens) != len(tags) or not tokens:
        raise DataError(f"{where}: {len(tokens)} tokens and {len(tags)} tags; give one tag a token")
    words = tuple(checked_text(token, where, "tokens") for token in tokens)
    marks = tuple(checked_text(tag, where, "tags") for tag in tags)
    for tag in marks:
        if not TAG.fullmatch(tag):
            raise DataError(f"{where}: the tag '{tag[:40]}' is not O, B-TYPE or I-TYPE; use IOB2 tags")
    return TokenExample(words, marks)
