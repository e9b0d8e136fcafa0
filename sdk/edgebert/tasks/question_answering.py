"""Extractive question answering: windows over a long text, and the way back from logits to an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from edgebert.tasks.base import (
    Logits,
    Metric,
    RowBuilder,
    each_row,
    encode_all,
    rounded_length,
    text_room,
    windows_of,
)
from edgebert.tasks.squad import QuestionExample, SpanFigures, read_questions, span_figures
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset

STRIDE = 128  # tokens that neighbouring windows share, as in the recipes of BERT for SQuAD
QUESTION_TOKENS = 64  # a longer question is cut
ANSWER_TOKENS = 30  # no longer answer is given
LONGEST = 384


@dataclass(frozen=True)
class QuestionAnswering:
    """Reads SQuAD v1.1 JSON, or JSON lines `{"question", "context", "answers": {"text", "answer_start"}}`."""

    name: str = "question-answering"
    metric: Metric = "f1"

    def read(self, path: Path) -> list[QuestionExample]:
        return read_questions(path)

    def labels(self, examples: Sequence[QuestionExample]) -> tuple[str, ...]:
        return ()

    def needed_length(self, tokenizer: TextTokenizer, examples: Sequence[QuestionExample], limit: int) -> int:
        """As for every task, but at most 384: longer texts are read in windows."""
        encodings = encode_all(tokenizer.bare(), [(e.question, e.context) for e in examples])
        return rounded_length(max(len(encoding) for encoding in encodings), min(limit, LONGEST))

    def tokenize(
        self,
        tokenizer: TextTokenizer,
        examples: Sequence[QuestionExample],
        labels: Sequence[str],
        max_length: int,
    ) -> TokenizedDataset:
        """One row a window, with the span of the first answer; (0, 0) where the window has not all of it."""
        from edgebert_compress.data import TokenizedDataset, Window

        bare, cutting = tokenizer.bare(), tokenizer.bare()
        room = text_room(bare, max_length, pair=True)
        ids, types, spans, windows = [], [], [], []
        shared = RowBuilder()
        for index, example in enumerate(examples):
            question, taken = cut_question(bare, example.question, min(QUESTION_TOKENS, room // 2))
            overlap = min(STRIDE, (room - taken) // 2)
            cutting.enable_truncation(max_length, stride=overlap, strategy="only_second")
            (encoding,) = encode_all(cutting, [(question, example.context)])
            rows = windows_of(encoding)
            for place, row in enumerate(rows):
                offsets = context_offsets(row)
                ids.append(shared.row(row.ids))
                types.append(shared.row(row.type_ids if tokenizer.token_types else [0] * len(row.ids)))
                spans.append(token_span(offsets, example, first=place == 0, last=place == len(rows) - 1))
                windows.append(Window(index, offsets))
        return TokenizedDataset(
            input_ids=tuple(ids),
            token_type_ids=tuple(types),
            labels=(0,) * len(ids),
            pad_token_id=tokenizer.pad_id,
            spans=tuple(spans),
            windows=tuple(windows),
        )

    def measure(
        self,
        predictions: Iterable[Logits],
        data: TokenizedDataset,
        examples: Sequence[QuestionExample],
        labels: Sequence[str],
    ) -> float:
        return self.figures(predictions, data, examples).f1

    def figures(
        self, predictions: Iterable[Logits], data: TokenizedDataset, examples: Sequence[QuestionExample]
    ) -> SpanFigures:
        """Exact match and F1 of the answers."""
        return span_figures(self.answers(predictions, data, examples), examples)

    def answers(
        self, predictions: Iterable[Logits], data: TokenizedDataset, examples: Sequence[QuestionExample]
    ) -> list[str]:
        """The answer to each question, from start and end logits, float32 [tokens] each, of every window.

        The span with the highest sum of start and end logit wins, over all windows. Where some question of
        the data has no answer, "" is an answer too: it scores the lowest sum at the first token of a window.
        """
        assert data.windows is not None
        may_be_none = any(not example.answers for example in examples)
        best = [(-np.inf, "")] * len(examples)
        none = [np.inf] * len(examples)
        for row, (start, end) in each_row(predictions, data):
            window = data.windows[row]
            number = window.example
            score, first, last = best_span(start, end, window.offsets, ANSWER_TOKENS)
            if score > best[number][0]:
                text = examples[number].context[window.offsets[first, 0] : window.offsets[last, 1]]
                best[number] = (score, text)
            none[number] = min(none[number], float(start[0]) + float(end[0]))
        return [
            "" if may_be_none and empty > score else text
            for (score, text), empty in zip(best, none, strict=True)
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
