"""Extractive question answering: windows over a long text, and the way back from logits to an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from edgebert.data import Columns
from edgebert.tasks.base import (
    Logits,
    Metric,
    encode_all,
    rounded_length,
    text_room,
    windows_of,
)
from edgebert.tasks.package import equal_choices
from edgebert.tasks.rows import Answers, Place, Row, RowBuilder, dataset_of, paired
from edgebert.tasks.squad import QuestionExample, SpanFigures, read_questions, span_figures
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset

STRIDE = 128  # tokens that neighbouring windows share, as in the recipes of BERT for SQuAD
QUESTION_TOKENS = 64  # a longer question is cut
ANSWER_TOKENS = 30  # no longer answer is given
LONGEST = 384


class Asked(Protocol):
    """A question, and the text that its answer is a part of."""

    @property
    def question(self) -> str: ...

    @property
    def context(self) -> str: ...


@dataclass(frozen=True)
class Answer:
    """Characters `start` to `end` of the context. `score`: sum of the two logits, to compare answers by.

    Without a text there is no answer, and where the context has nothing to offer the score is -infinity.
    """

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class QuestionAnswering:
    """Reads SQuAD v1.1 JSON, or JSON lines `{"question", "context", "answers": {"text", "answer_start"}}`."""

    name: str = "question-answering"
    metric: Metric = "f1"
    has_labels: bool = False
    per_token: bool = True
    whole_texts: bool = False
    measured_against_model: bool = False

    def read(self, path: Path) -> list[QuestionExample]:
        return read_questions(path)

    def load(self, source: str, columns: Columns, split: str) -> list[QuestionExample]:
        return self.read(Path(source))

    def labels(self, examples: Sequence[QuestionExample]) -> tuple[str, ...]:
        return ()

    def check(self, examples: Sequence[QuestionExample], labels: Sequence[str]) -> None:
        """Nothing to check: there are no classes."""

    def texts(self, example: QuestionExample) -> tuple[str, str | None]:
        return example.question, example.context

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[QuestionExample], limit: int) -> int:
        """As for every task, but at most 384: longer texts are read in windows."""
        encodings = encode_all(tokenizer.bare(), [(e.question, e.context) for e in examples])
        return rounded_length(max(len(encoding) for encoding in encodings), min(limit, LONGEST))

    def rows(self, tokenizer: TextTokenizer, examples: Sequence[Asked], max_length: int) -> list[Row]:
        """One row a window of the context, with the question before it."""
        bare, cutting = tokenizer.bare(), tokenizer.bare()
        room = text_room(bare, max_length, pair=True)
        shared, found = RowBuilder(), []
        for index, example in enumerate(examples):
            question, taken = cut_question(bare, example.question, min(QUESTION_TOKENS, room // 2))
            overlap = min(STRIDE, (room - taken) // 2)
            cutting.enable_truncation(max_length, stride=overlap, strategy="only_second")
            (encoding,) = encode_all(cutting, [(question, example.context)])
            for row in windows_of(encoding):
                types = row.type_ids if tokenizer.token_types else [0] * len(row.ids)
                found.append(Row(shared.row(row.ids), shared.row(types), index, context_offsets(row)))
        return found

    def tokenize(
        self,
        tokenizer: TextTokenizer,
        examples: Sequence[QuestionExample],
        labels: Sequence[str],
        max_length: int,
    ) -> TokenizedDataset:
        """`rows` with the span of the first answer; (0, 0) where the window has not all of it."""
        rows = self.rows(tokenizer, examples, max_length)
        owners, spans = [row.example for row in rows], []
        for place, row in enumerate(rows):
            first = place == 0 or owners[place - 1] != row.example
            last = place + 1 == len(rows) or owners[place + 1] != row.example
            spans.append(token_span(row.offsets, examples[row.example], first=first, last=last))
        return dataset_of(rows, tokenizer.pad_id, spans=tuple(spans))

    def measure(
        self,
        predictions: Iterable[Logits],
        data: TokenizedDataset,
        examples: Sequence[QuestionExample],
        labels: Sequence[str],
    ) -> float:
        return span_figures(self.answers(predictions, data, examples), examples).f1

    def answers(
        self, predictions: Iterable[Logits], data: TokenizedDataset, examples: Sequence[QuestionExample]
    ) -> list[str]:
        """The answer to each question, from start and end logits, float32 [tokens] each, of every window.

        "" is an answer too where some question of the data has none.
        """
        assert data.windows is not None
        joined = (np.stack(heads, axis=-1) for heads in predictions)
        found = best_answers(joined, data.windows, examples, may_be_none=has_unanswerable(examples))
        return [answer.text for answer in found]

    def figures(
        self, answers: Answers, places: Sequence[Place], examples: Sequence[QuestionExample],
        labels: Sequence[str], right: Answers | None = None,
    ) -> SpanFigures:  # fmt: skip
        """Exact match and F1 of the answers."""
        found = best_answers(answers, places, examples, may_be_none=has_unanswerable(examples))
        return span_figures([answer.text for answer in found], examples)

    def agreement(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return float(equal_choices(one, other, 0).all())

    def same(self, found: NDArray[np.float32], recorded: NDArray[np.float32], tolerance: float) -> bool:
        return bool(equal_choices(found, recorded, 0, tolerance).all())

    def golden_tolerance(self, target: float, recorded: Answers) -> float:
        return target


def has_unanswerable(examples: Sequence[QuestionExample]) -> bool:
    """Whether the data says of some question that its context does not answer it."""
    return any(not example.answers for example in examples)


def best_answers(
    answers: Iterable[NDArray[np.float32]],
    places: Sequence[Place],
    examples: Sequence[Asked],
    *,
    may_be_none: bool,
) -> list[Answer]:
    """The answer to each question, from logits [tokens, 2] of every window, start and end.

    The span with the highest sum of start and end logit wins, over all windows. With `may_be_none`, "" is an
    answer too: it scores the lowest sum at the first token of a window.
    """
    best = [Answer("", 0, 0, -np.inf)] * len(examples)
    none = [np.inf] * len(examples)
    for row, logits in paired(answers, len(places)):
        place = places[row]
        score, first, last = best_span(logits[:, 0], logits[:, 1], place.offsets, ANSWER_TOKENS)
        if score > best[place.example].score:
            start, end = int(place.offsets[first, 0]), int(place.offsets[last, 1])
            text = examples[place.example].context[start:end]
            best[place.example] = Answer(text, start, end, score)
        none[place.example] = min(none[place.example], float(logits[0, 0]) + float(logits[0, 1]))
    return [
        Answer("", 0, 0, empty) if may_be_none and empty > answer.score else answer
        for answer, empty in zip(best, none, strict=True)
    ]


def cut_question(tokenizer: Tokenizer, question: str, limit: int) -> tuple[str, int]:
    """The question with its end cut off until it has at most `limit` tokens, and how many it has then."""
    (encoding,) = encode_all(tokenizer, [question], special=False)
    while len(encoding) > limit:  # a shorter text may have more tokens
        question = question[: min(encoding.offsets[limit][0], len(question) - 1)]
        (encoding,) = encode_all(tokenizer, [question], special=False)
    return question, len(encoding)


def context_offsets(row: Encoding) -> NDArray[np.int32]:
    """int32 [tokens, 2]: where each token of the context lies in it, (-1, -1) for all other tokens."""
    offsets = np.array(row.offsets, np.int32).reshape(-1, 2)
    offsets[[part != 1 for part in row.sequence_ids]] = -1
    return offsets


def token_span(
    offsets: NDArray[np.int32], example: QuestionExample, *, first: bool, last: bool
) -> tuple[int, int]:
    """First and last token of the first answer in a window; (0, 0) when it is not wholly there.

    The `first` window reaches back to the beginning of the text, the `last` one to its end: characters that
    the tokenizer drops there belong to no token.
    """
    inside = np.flatnonzero(offsets[:, 1] > np.maximum(offsets[:, 0], -1))
    if not example.answers or not len(inside):
        return 0, 0
    answer, start = example.answers[0], example.starts[0]
    start += len(answer) - len(answer.lstrip())
    end = start + len(answer.strip())
    low = 0 if first else offsets[inside[0], 0]
    high = len(example.context) if last else offsets[inside[-1], 1]
    touched = inside[(offsets[inside, 1] > start) & (offsets[inside, 0] < end)]
    if start < low or end > high or not len(touched):
        return 0, 0
    return int(touched[0]), int(touched[-1])


def best_span(
    start: NDArray[np.float32], end: NDArray[np.float32], offsets: NDArray[np.int32], longest: int
) -> tuple[float, int, int]:
    """Score, first and last token of the best span of at most `longest` context tokens.

    The earliest of equals; (-inf, 0, 0) for a window without context.
    """
    usable = offsets[:, 1] > np.maximum(offsets[:, 0], -1)
    first = np.where(usable, start.astype(np.float64), -np.inf)
    last = np.where(usable, end.astype(np.float64), -np.inf)
    best = (-np.inf, 0, 0)
    for width in range(min(longest, len(first))):
        scores = first[: len(first) - width] + last[width:]
        at = int(scores.argmax())
        candidate = (float(scores[at]), at, at + width)
        if candidate[0] > best[0] or (candidate[0] == best[0] and candidate[1] < best[1]):
            best = candidate
    return best
