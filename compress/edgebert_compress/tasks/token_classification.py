"""One class a token, for the tokens that carry a label: the first of each word, as a rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgebert_compress.architecture import TaskName
from edgebert_compress.data import TokenizedDataset
from edgebert_compress.errors import TrainingError
from edgebert_compress.tasks.base import (
    NOT_COUNTED,
    Batch,
    check_count,
    check_rows,
    device_of,
    model_inputs,
    token_loss,
    token_targets,
)


@dataclass(frozen=True)
class TokenClassification:
    """Logits [batch, tokens, classes]; targets `labels` int64 [batch, tokens], -100 where not counted."""

    name: TaskName = "token-classification"

    def check(self, data: TokenizedDataset, model: Any) -> None:
        check_rows(data, model)
        labels, classes = data.token_labels or (), int(model.config.num_labels)
        check_count(len(labels), data, "rows of token labels")
        for number, (row, ids) in enumerate(zip(labels, data.input_ids, strict=True), 1):
            if len(row) != len(ids):
                raise TrainingError(
                    f"example {number} has {len(ids)} tokens but {len(row)} labels; tokenise the data again"
                )
            wrong = [label for label in row if label != NOT_COUNTED and not 0 <= label < classes]
            if wrong:
                raise TrainingError(
                    f"example {number} has the label {wrong[0]}, outside 0..{classes - 1}; "
                    "check the labels of the model"
                )
        if all(label == NOT_COUNTED for row in labels for label in row):
            raise TrainingError("no token of the training set has a label; check the data")

    def collate(
        self,
        model: Any,
        data: TokenizedDataset,
        indices: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> Batch:
        assert data.token_labels is not None
        rows = [data.token_labels[i] for i in indices]
        return Batch(model_inputs(model, data, indices), {"labels": token_targets(rows, device_of(model))})

    def logits(self, outputs: Any) -> tuple[Tensor, ...]:
        return (outputs.logits,)

    def counted(self, batch: Batch) -> Tensor | None:
        return batch.targets["labels"] != NOT_COUNTED

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return token_loss(outputs.logits, batch.targets["labels"])
