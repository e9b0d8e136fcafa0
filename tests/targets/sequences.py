"""Token arrays for the tiny vocabulary, and PyTorch's logits for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification

from tests.factories import vocabulary

Ints = NDArray[np.int64]


def batch(*lengths: int, seed: int = 0) -> tuple[Ints, Ints, Ints]:
    """ids, mask, token types: one row a length, right-padded with 0; the second half has type 1."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(5, len(vocabulary()), length)
        mask[row, :length] = 1
        types[row, length // 2 : length] = 1
    return ids, mask, types


def torch_logits(folder: Path, ids: Ints, mask: Ints, types: Ints) -> NDArray[np.float32]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    feed = {"input_ids": ids, "attention_mask": mask}
    if model.config.model_type != "distilbert":
        feed["token_type_ids"] = types
    with torch.inference_mode():
        result = model(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits
    logits: NDArray[np.float32] = result.numpy()
    return logits
