"""Rows through a session: similar lengths share a batch, answers come back in the order of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import DataError, UsageError
from edgebert.tasks.rows import Row, pad_rows
from edgebert.tokenizer import EncodedBatch, TextTokenizer
from edgebert_targets.base import Session

BATCH = 16
CHUNK = 1024  # texts tokenised at a time, so that memory does not grow with their number


def row_answers(
    session: Session,
    rows: Sequence[Row],
    pad_id: int,
    *,
    batch: int = BATCH,
    on_done: Callable[[int], None] | None = None,
) -> list[NDArray[np.float32]]:
    """What `session` answers to each of `rows`, float32 without padding: [outputs] or [tokens, outputs].

    `on_done` gets the number answered so far. Raises what the session raises.
    """
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        answers: dict[int, NDArray[np.float32]] = {}
        for done, numbers, values in _sorted_batches(session, pad_rows(part, pad_id), batch):
            for number, value in zip(numbers.tolist(), values, strict=True):
                answers[number] = value[: len(part[number].ids)] if value.ndim == 2 else value
            if on_done:
                on_done(start + done)
        found += [answers[number] for number in range(len(part))]
    return found


def text_logits(
    session: Session,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    pairs: Sequence[str | None] | None,
    classes: int,
    *,
    batch: int = BATCH,
) -> NDArray[np.float32]:
    """Answers to whole texts, float32 [n, classes], in the order of `texts`.

    Raises DataError, UsageError for one string in place of a list, and what the session raises.
    """
    seconds = checked_pairs(texts, pairs)
    found = np.zeros((len(texts), classes), np.float32)
    for start in range(0, len(texts), CHUNK):
        part = slice(start, start + CHUNK)
        encoded = tokenizer.encode(texts[part], seconds[part], first=start + 1)
        for _, rows, logits in _sorted_batches(session, encoded, batch):
            found[start + rows] = logits
    return found


def checked_pairs(texts: Sequence[str], pairs: Sequence[str | None] | None) -> Sequence[str | None]:
    """A second text or None for each of `texts`. Raises DataError, and UsageError for one string."""
    if isinstance(texts, str):
        raise UsageError("one string was given where a list of texts is needed; pass [text]")
    seconds = pairs if pairs is not None else [None] * len(texts)
    if len(seconds) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(seconds)} second texts; give one for each, or None")
    return seconds


def _sorted_batches(
    session: Session, encoded: EncodedBatch, batch: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """(rows answered so far, row numbers, their answers): shortest first, so that little is padding."""
    lengths = encoded.attention_mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        width = int(lengths[rows].max())
        answers = session.run(
            encoded.input_ids[rows, :width],
            encoded.attention_mask[rows, :width],
            encoded.token_type_ids[rows, :width],
        )
        yield start + len(rows), rows, answers
