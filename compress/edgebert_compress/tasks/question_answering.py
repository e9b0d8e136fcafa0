"""Extractive question answering: the first and the last token of the answer (BERT, arXiv 1810.04805, 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebert_compress.architecture import TaskName
from edgebert_compress.data import TokenizedDataset
from edgebert_compress.errors import TrainingError
from edgebert_compress.tasks.base import Batch, check_count, check_rows, device_of, model_inputs


@dataclass(frozen=True)
class QuestionAnswering:
    """Start and end logits, each [batch, tokens]; targets `start_positions`, `end_positions` int64 [batch].

    A window without the answer has both at 0, the first special token.
    """

    name: TaskName = "question-answering"

    def check(self, data: TokenizedDataset, model: Any) -> None:
        check_rows(data, model)
        spans = data.spans or ()
        check_count(len(spans), data, "answer spans")
        for number, ((start, end), ids) in enumerate(zip(spans, data.input_ids, strict=True), 1):
            if not 0 <= start <= end < len(ids):
                raise TrainingError(
                    f"example {number} has the answer at tokens {start} to {end} of {len(ids)}; "
                    "tokenise the data again"
                )

    def collate(
        self,
        model: Any,
        data: TokenizedDataset,
        indices: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> Batch:
        assert data.spans is not None
        spans = torch.tensor([data.spans[i] for i in indices], device=device_of(model))
        targets = {"start_positions": spans[:, 0], "end_positions": spans[:, 1]}
        return Batch(model_inputs(model, data, indices), targets)

    def logits(self, outputs: Any) -> tuple[Tensor, ...]:
        return outputs.start_logits, outputs.end_logits

    def counted(self, batch: Batch) -> Tensor | None:
        return None

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        start = F.cross_entropy(outputs.start_logits, batch.targets["start_positions"])
        return (start + F.cross_entropy(outputs.end_logits, batch.targets["end_positions"])) / 2
