"""Masked language modelling: guess hidden tokens (BERT, arXiv 1810.04805, appendix A.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgebert_compress.architecture import TaskName
from edgebert_compress.data import TokenizedDataset, padded
from edgebert_compress.errors import TrainingError
from edgebert_compress.tasks.base import (
    NOT_COUNTED,
    Batch,
    check_rows,
    device_of,
    model_inputs,
    token_loss,
    token_targets,
)

CHOSEN = 0.15  # share of the tokens to guess
MASKED, RANDOM = 0.8, 0.1  # of those: become the mask token, become any token; the rest stay


def hide_tokens(
    data: TokenizedDataset, index: int, vocabulary: int, generator: torch.Generator | None = None
) -> tuple[list[int], list[int]]:
    """Ids with tokens hidden, and the labels: the true id where a token is to be guessed, else -100.

    15 % of the tokens that are not special, rounded, at least one, are chosen without repetition. Each
    becomes the mask token (80 %), one of `vocabulary` tokens (10 %) or stays (10 %). Without `generator` the
    draw follows from `index`.
    """
    assert data.mask_token_id is not None
    if generator is None:
        generator = torch.Generator().manual_seed(index)
    ids, special = list(data.input_ids[index]), data.special_ids
    labels = [NOT_COUNTED] * len(ids)
    places = [place for place, token in enumerate(ids) if token not in special]
    if not places:
        return ids, labels
    chosen = torch.randperm(len(places), generator=generator)[: max(1, round(CHOSEN * len(places)))]
    fates = torch.rand(len(chosen), generator=generator).tolist()
    others = torch.randint(vocabulary, (len(chosen),), generator=generator).tolist()
    for place, fate, other in zip(chosen.tolist(), fates, others, strict=True):
        at = places[place]
        labels[at] = ids[at]
        if fate < MASKED:
            ids[at] = data.mask_token_id
        elif fate < MASKED + RANDOM:
            ids[at] = other
    return ids, labels


@dataclass(frozen=True)
class MaskedLanguageModel:
    """Logits [batch, tokens, vocabulary]; targets `labels` int64 [batch, tokens], -100 where not hidden."""

    name: TaskName = "masked-language-model"

    def check(self, data: TokenizedDataset, model: Any) -> None:
        check_rows(data, model)
        mask, rows = data.mask_token_id, int(model.config.vocab_size)
        if mask is None or not 0 <= mask < rows:
            raise TrainingError(
                f"the mask token is {mask}, the model knows 0..{rows - 1}; use the model's own tokenizer"
            )
        if all(token in data.special_ids for ids in data.input_ids for token in ids):
            raise TrainingError("the texts hold special tokens only; give real text")

    def collate(
        self,
        model: Any,
        data: TokenizedDataset,
        indices: Sequence[int],
        generator: torch.Generator | None = None,
    ) -> Batch:
        vocabulary, device = int(model.config.vocab_size), device_of(model)
        hidden = [hide_tokens(data, index, vocabulary, generator) for index in indices]
        inputs = model_inputs(model, data, indices)
        inputs["input_ids"] = padded([ids for ids, _ in hidden], data.pad_token_id, device)
        return Batch(inputs, {"labels": token_targets([labels for _, labels in hidden], device)})

    def logits(self, outputs: Any) -> tuple[Tensor, ...]:
        return (outputs.logits,)

    def counted(self, batch: Batch) -> Tensor | None:
        return batch.targets["labels"] != NOT_COUNTED

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return token_loss(outputs.logits, batch.targets["labels"])
