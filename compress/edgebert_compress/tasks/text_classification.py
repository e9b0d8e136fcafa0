"""One class a text or pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebert_compress.architecture import TaskName
from edgebert_compress.data import TokenizedDataset, check_dataset, label_tensor
from edgebert_compress.tasks.base import Batch, check_rows, device_of, model_inputs


@dataclass(frozen=True)
class TextClassification:
    """Logits [batch, classes]; targets `labels` int64 [batch]."""

    name: TaskName = "text-classification"

    def check(self, data: TokenizedDataset, model: Any) -> None:
        check_dataset(data, int(model.config.num_labels))
        check_rows(data, model)

    def collate(
        self,
        model: Any,
        data: TokenizedDataset,
        indices: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> Batch:
        return Batch(
            model_inputs(model, data, indices), {"labels": label_tensor(data, indices, device_of(model))}
        )

    def logits(self, outputs: Any) -> tuple[Tensor, ...]:
        return (outputs.logits,)

    def counted(self, batch: Batch) -> Tensor | None:
        return None

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(outputs.logits, batch.targets["labels"])
