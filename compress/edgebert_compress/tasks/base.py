"""What training needs to know about a task: how to load, batch and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgebert_compress.architecture import WITH_TOKEN_TYPES, TaskName, model_type, positions
from edgebert_compress.data import TokenizedDataset, collate, padded
from edgebert_compress.errors import TrainingError

NOT_COUNTED = -100  # the label of a token that takes no part, as in transformers


@dataclass(frozen=True)
class Batch:
    """`inputs` go into the model by name, int64 [batch, tokens], right-padded; `targets` into the loss."""

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]


class TrainingTask(Protocol):
    """One head: what it reads, what it is trained on, what its outputs mean."""

    @property
    def name(self) -> TaskName: ...

    def check(self, data: TokenizedDataset, model: nn.Module) -> None:
        """Raises TrainingError for data that `model` cannot be trained on."""
        ...

    def collate(
        self,
        model: Any,
        data: TokenizedDataset,
        indices: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> Batch:
        """A batch on the model's device. `generator` (on the CPU) draws what is random; without it, the
        number of an example in `data` fixes it."""
        ...

    def logits(self, outputs: Any) -> tuple[Tensor, ...]:
        """One tensor a head, the last dimension being the choices that a softmax is over."""
        ...

    def counted(self, batch: Batch) -> Tensor | None:
        """bool, shaped as the logits without their last dimension: what takes part; None: everything."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The loss of the task, 0-d: what transformers computes for the same model and labels."""
        ...


def device_of(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


def model_inputs(model: Any, data: TokenizedDataset, indices: Sequence[int]) -> dict[str, Tensor]:
    """Model inputs of `indices`. Token types go only to the families that use them."""
    inputs = collate(data, indices, device_of(model))
    if model_type(model) not in WITH_TOKEN_TYPES:
        inputs.pop("token_type_ids", None)
    return inputs


def check_rows(data: TokenizedDataset, model: Any) -> None:
    """Raises TrainingError for an empty set, and for tokens that the model has no row for."""
    if not len(data):
        raise TrainingError("the training set has 0 examples; give at least one")
    if not all(data.input_ids):
        raise TrainingError("an example has no tokens; tokenise with special tokens")
    rows, places = int(model.config.vocab_size), positions(model)
    for number, ids in enumerate(data.input_ids, 1):
        if max(ids) >= rows or min(ids) < 0:
            worst = max(ids) if max(ids) >= rows else min(ids)
            raise TrainingError(
                f"example {number} has the token {worst}, the model knows 0..{rows - 1}; "
                "use the model's own tokenizer"
            )
        if len(ids) > places:
            raise TrainingError(
                f"example {number} has {len(ids)} tokens, the model has room for {places}; cut it shorter"
            )
    types = data.token_type_ids
    if types is not None and any(len(a) != len(b) for a, b in zip(data.input_ids, types, strict=True)):
        raise TrainingError("token types and tokens differ in number; tokenise the data again")


def check_count(found: int, data: TokenizedDataset, what: str) -> None:
    """Raises TrainingError where there is not one `what` for each row of `data`."""
    if found != len(data):
        raise TrainingError(f"{len(data)} texts but {found} {what}; give one for each text")


def token_targets(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Labels of tokens, int64 [batch, longest], padding not counted."""
    return padded(rows, NOT_COUNTED, device)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the counted tokens, 0-d; 0 where none is counted (transformers: NaN)."""
    total = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=NOT_COUNTED, reduction="sum"
    )
    return total / (labels != NOT_COUNTED).sum().clamp_min(1)
