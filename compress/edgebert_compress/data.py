"""Tokenised data and how it becomes padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgebert_compress.errors import TrainingError

BUCKET_BATCHES = 20  # batches sorted by length together: little padding, still a shuffle


class Progress(Protocol):
    """Called every few steps: `done` of `total` steps of `phase`, with figures such as loss."""

    def __call__(self, phase: str, done: int, total: int, **figures: float) -> None: ...


def silent(phase: str, done: int, total: int, **figures: float) -> None:
    """A Progress that shows nothing."""


@dataclass(frozen=True, eq=False)
class Window:
    """Where a row comes from: the number of its example, and for each token its place in the text.

    `offsets`: int32 [tokens, 2], first and past-the-last character; (-1, -1) for tokens that are not of the
    text (special tokens, the question).
    """

    example: int
    offsets: NDArray[np.int32]


@dataclass(frozen=True)
class TokenizedDataset:
    """One split of one task: ids with special tokens, without padding.

    `labels`: a class index an example, 0 where the task has none. `token_labels`: a class index a token, -100
    where not counted. `spans`: first and last token of the answer, (0, 0) where a row has none.
    `mask_token_id`, `special_ids`: what masked language modelling hides with, and what it never hides.
    `windows`: for tasks whose predictions go back to words or to the text; a long text has several rows.
    """

    input_ids: tuple[tuple[int, ...], ...]
    token_type_ids: tuple[tuple[int, ...], ...] | None
    labels: tuple[int, ...]
    pad_token_id: int
    token_labels: tuple[tuple[int, ...], ...] | None = None
    spans: tuple[tuple[int, int], ...] | None = None
    mask_token_id: int | None = None
    special_ids: frozenset[int] = frozenset()
    windows: tuple[Window, ...] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def check_dataset(data: TokenizedDataset, classes: int) -> None:
    """Raises TrainingError for an empty set, differing lengths or a label that is no class."""
    if not len(data):
        raise TrainingError("the training set has 0 examples; give at least one")
    if len(data.labels) != len(data):
        raise TrainingError(f"{len(data)} texts but {len(data.labels)} labels; give one label for each text")
    if not all(0 <= label < classes for label in data.labels):
        worst = max(data.labels, key=lambda label: label if label >= classes else -label)
        raise TrainingError(f"label {worst} is outside 0..{classes - 1}; check the labels of the model")
    if not all(data.input_ids):
        raise TrainingError("an example has no tokens; tokenise with special tokens")


def batch_order(data: TokenizedDataset, batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """Shuffled batches of indices with similar lengths; every example once."""
    shuffled = torch.randperm(len(data), generator=generator).tolist()
    batches = []
    for start in range(0, len(shuffled), batch_size * BUCKET_BATCHES):
        bucket = sorted(
            shuffled[start : start + batch_size * BUCKET_BATCHES], key=lambda i: len(data.input_ids[i])
        )
        batches += [bucket[at : at + batch_size] for at in range(0, len(bucket), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def padded(rows: Sequence[Sequence[int]], fill: int, device: torch.device) -> Tensor:
    """int64 [rows, longest], filled up on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], device=device)


def collate(data: TokenizedDataset, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    """Model inputs for `indices`: int64 [batch, longest], right-padded."""
    ids = [data.input_ids[i] for i in indices]
    inputs = {
        "input_ids": padded(ids, data.pad_token_id, device),
        "attention_mask": padded([[1] * len(row) for row in ids], 0, device),
    }
    if data.token_type_ids is not None:
        inputs["token_type_ids"] = padded([data.token_type_ids[i] for i in indices], 0, device)
    return inputs


def label_tensor(data: TokenizedDataset, indices: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([data.labels[i] for i in indices], device=device)
