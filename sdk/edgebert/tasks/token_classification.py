"""Token classification: words with IOB2 tags, and the entity-level F1 of CoNLL-2000."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgebert.data import Columns, checked_text, json_lines, read_utf8
from edgebert.errors import DataError
from edgebert.tasks.base import (
    Logits,
    Metric,
    check_not_empty,
    encode_all,
    longest_text,
    text_room,
    windows_of,
)
from edgebert.tasks.package import equal_choices
from edgebert.tasks.rows import Answers, Place, Row, RowBuilder, dataset_of, paired
from edgebert.tasks.text_classification import softmax
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset

TAG = re.compile(r"O|[BI]-\S+")
NOT_COUNTED = -100
OUTSIDE = "O"


class Worded(Protocol):
    """A text and where its words stand in it: first and past-the-last character of each, in order."""

    @property
    def text(self) -> str: ...

    @property
    def spans(self) -> tuple[tuple[int, int], ...]: ...


@dataclass(frozen=True)
class TokenExample:
    """The words of a sentence and the tag of each: O, B-TYPE or I-TYPE."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words with one blank between them, which is what the model reads."""
        return " ".join(self.tokens)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        ends = accumulate(len(token) + 1 for token in self.tokens)
        return tuple((end - len(t) - 1, end - 1) for t, end in zip(self.tokens, ends, strict=True))


@dataclass(frozen=True)
class TagFigures:
    """Over the words of `examples` sentences, as fractions of one: F1 of entities, share of right tags."""

    examples: int
    f1: float
    word_accuracy: float


@dataclass(frozen=True)
class TokenClassification:
    """Reads JSON lines `{"tokens": […], "tags": […]}`."""

    name: str = "token-classification"
    metric: Metric = "f1"
    has_labels: bool = True
    per_token: bool = True
    whole_texts: bool = False
    measured_against_model: bool = False

    def read(self, path: Path) -> list[TokenExample]:
        examples = [_example(row, where) for where, row in json_lines(path, read_utf8(path))]
        check_not_empty(len(examples), path)
        return examples

    def load(self, source: str, columns: Columns, split: str) -> list[TokenExample]:
        return self.read(Path(source))

    def labels(self, examples: Sequence[TokenExample]) -> tuple[str, ...]:
        found = sorted({tag for example in examples for tag in example.tags})
        if len(found) < 2:
            raise DataError(f"the data has only the tag '{found[0]}'; at least 2 are needed")
        return tuple(found)

    def check(self, examples: Sequence[TokenExample], labels: Sequence[str]) -> None:
        number = {label: i for i, label in enumerate(labels)}
        for index, example in enumerate(examples):
            for tag in example.tags:
                _class(tag, number, index)

    def texts(self, example: TokenExample) -> tuple[str, str | None]:
        return example.text, None

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[TokenExample], limit: int) -> int:
        return longest_text(tokenizer, [example.text for example in examples], limit)

    def rows(self, tokenizer: TextTokenizer, examples: Sequence[Worded], max_length: int) -> list[Row]:
        """Text beyond `max_length` continues in another row."""
        cutting = tokenizer.bare()
        text_room(cutting, max_length, pair=False)
        cutting.enable_truncation(max_length)
        shared, found = RowBuilder(), []
        for index, encoding in enumerate(encode_all(cutting, [example.text for example in examples])):
            for row in windows_of(encoding):
                offsets = np.array(row.offsets, np.int32).reshape(-1, 2)
                offsets[np.array(row.special_tokens_mask, bool)] = -1
                types = row.type_ids if tokenizer.token_types else [0] * len(row.ids)
                found.append(Row(shared.row(row.ids), shared.row(types), index, offsets))
        return found

    def tokenize(
        self,
        tokenizer: TextTokenizer,
        examples: Sequence[TokenExample],
        labels: Sequence[str],
        max_length: int,
    ) -> TokenizedDataset:
        """`rows`; the first token of a word carries its label."""
        rows = self.rows(tokenizer, examples, max_length)
        number, shared, targets = {label: i for i, label in enumerate(labels)}, RowBuilder(), []
        for row, first in zip(rows, first_tokens(rows, examples), strict=True):
            line, tags = [NOT_COUNTED] * len(row.ids), examples[row.example].tags
            for place, word in first:
                line[place] = _class(tags[word], number, row.example)
            targets.append(shared.row(line))
        return dataset_of(rows, tokenizer.pad_id, token_labels=tuple(targets))

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
        assert data.windows is not None
        rows = (logits for (logits,) in predictions)
        return [[tag for tag, _ in words] for words in word_tags(rows, data.windows, examples, labels)]

    def figures(
        self, answers: Answers, places: Sequence[Place], examples: Sequence[TokenExample],
        labels: Sequence[str], right: Answers | None = None,
    ) -> TagFigures:  # fmt: skip
        found = word_tags(answers, places, examples, labels)
        guess, truth = [[tag for tag, _ in words] for words in found], [example.tags for example in examples]
        hits = sum(
            a == b for one, other in zip(guess, truth, strict=True) for a, b in zip(one, other, strict=True)
        )
        return TagFigures(len(examples), entity_f1(truth, guess), hits / sum(map(len, truth)))

    def agreement(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return float(equal_choices(one, other, 1).mean())

    def same(self, found: NDArray[np.float32], recorded: NDArray[np.float32], tolerance: float) -> bool:
        return bool(equal_choices(found, recorded, 1, tolerance).all())

    def golden_tolerance(self, target: float, recorded: Answers) -> float:
        return target


def first_tokens(places: Sequence[Place], examples: Sequence[Worded]) -> Iterator[list[tuple[int, int]]]:
    """For each row (place of the token, number of the word) of the tokens that a word begins with.

    A word that goes on in the next row began in the one before.
    """
    seen: set[tuple[int, int]] = set()
    for row in places:
        found = []
        for place, word in enumerate(words_of(examples[row.example], row.offsets)):
            if word is not None and (row.example, word) not in seen:
                seen.add((row.example, word))
                found.append((place, word))
        yield found


def word_tags(
    answers: Iterable[NDArray[np.float32]],
    places: Sequence[Place],
    examples: Sequence[Worded],
    labels: Sequence[str],
) -> list[list[tuple[str, float]]]:
    """(tag, its probability) of each word of each example, from logits [tokens, classes] a row.

    A word that the tokenizer left no token of is tagged O, or with the first label, with probability 0.
    """
    nothing = (OUTSIDE if OUTSIDE in labels else labels[0], 0.0)
    found = [[nothing] * len(example.spans) for example in examples]
    begins = first_tokens(places, examples)
    for row, logits in paired(answers, len(places)):
        first = next(begins)
        if not first:
            continue
        chances = softmax(logits[[place for place, _ in first]])
        best = chances.argmax(axis=1)
        for (_, word), label, line in zip(first, best.tolist(), chances, strict=True):
            found[places[row].example][word] = (labels[label], float(line[label]))
    return found


def words_of(example: Worded, offsets: NDArray[np.int32]) -> Iterator[int | None]:
    """For each token the word that its last character lies in; None for special tokens and blanks."""
    starts = [start for start, _ in example.spans]
    for start, end in offsets.tolist():
        word = bisect_right(starts, end - 1) - 1
        inside = end > start >= 0 and word >= 0 and end <= example.spans[word][1]
        yield word if inside else None


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
