"""Sequences as a model reads them, with the way back to the text, and what it answers to each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgebert.errors import DataError
from edgebert.tokenizer import EncodedBatch

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset

# One float32 array a row, without padding: [classes], [tokens, outputs] or [width].
Answers = Sequence[NDArray[np.float32]]
T = TypeVar("T")
NO_OFFSETS = np.zeros((0, 2), np.int32)


class Place(Protocol):
    """Where a row comes from: the number of its example, and for each token its place in the text.

    `offsets`: int32 [tokens, 2], first and past-the-last character; (-1, -1) for tokens that are not of it.
    """

    @property
    def example(self) -> int: ...

    @property
    def offsets(self) -> NDArray[np.int32]: ...


@dataclass(frozen=True, eq=False)
class Row:
    """One sequence with special tokens, without padding, and its `Place`; no offsets where nobody asks."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    example: int
    offsets: NDArray[np.int32]


class RowBuilder:
    """Rows of token ids as tuples that share their integers: a large corpus then takes 8 bytes a token."""

    def __init__(self) -> None:
        self._shared: dict[int, int] = {}

    def row(self, values: Sequence[int]) -> tuple[int, ...]:
        return tuple(map(self._shared.setdefault, values, values))


def pad_rows(rows: Sequence[Row], pad_id: int) -> EncodedBatch:
    """Three int64 arrays [rows, longest], right-padded."""
    longest = max((len(row.ids) for row in rows), default=0)
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
        mask[i, : len(row.ids)] = 1
        types[i, : len(row.ids)] = row.types
    return EncodedBatch(ids, mask, types)


def dataset_of(rows: Sequence[Row], pad_id: int, **targets: Any) -> TokenizedDataset:
    """`rows` as training takes them, with the task's `targets`."""
    from edgebert_compress.data import TokenizedDataset, Window

    return TokenizedDataset(
        input_ids=tuple(row.ids for row in rows),
        token_type_ids=tuple(row.types for row in rows),
        labels=targets.pop("labels", (0,) * len(rows)),
        pad_token_id=pad_id,
        windows=tuple(Window(row.example, row.offsets) for row in rows),
        **targets,
    )


def paired(found: Iterable[T], rows: int) -> Iterator[tuple[int, T]]:
    """The number of each row and what was found for it. Raises DataError where there is not one a row."""
    count = 0
    for count, value in enumerate(found, 1):
        if count > rows:
            break
        yield count - 1, value
    if count != rows:
        raise DataError(f"{count} predictions for {rows} rows; predict the same data again")


def rows_of(chosen: Sequence[int], rows: Sequence[Row]) -> list[int]:
    """Numbers of the rows that belong to the examples `chosen`, in order."""
    wanted = set(chosen)
    return [number for number, row in enumerate(rows) if row.example in wanted]
