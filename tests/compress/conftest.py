"""A tiny trained teacher and its tokenised task, made once a session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgebert_compress.data import TokenizedDataset, silent
from edgebert_compress.recipe import FineTuneStage
from edgebert_compress.trainer import fine_tune, predict_logits
from tests.factories import LABELS, make_checkpoint, task_sentences


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


def tokenized(checkpoint: Path, count: int, seed: int) -> TokenizedDataset:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    rows = task_sentences(count, seed)
    encodings = [tokenizer.encode(text) for text, _ in rows]
    return TokenizedDataset(
        input_ids=tuple(tuple(encoding.ids) for encoding in encodings),
        token_type_ids=tuple(tuple(encoding.type_ids) for encoding in encodings),
        labels=tuple(LABELS.index(label) for _, label in rows),
        pad_token_id=0,
    )


@dataclass(frozen=True)
class Task:
    teacher: Path
    train: TokenizedDataset
    held_out: TokenizedDataset
    teacher_logits: NDArray[np.float32]

    def accuracy(self, checkpoint: Path) -> float:
        logits = predict_logits(checkpoint, self.held_out)
        return float((logits.argmax(axis=1) == np.array(self.held_out.labels)).mean())


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    raw = make_checkpoint(folder / "raw", layers=3)
    train, held_out = tokenized(raw, 600, seed=0), tokenized(raw, 200, seed=1)
    teacher = folder / "teacher"
    fine_tune(raw, teacher, train, LABELS, FineTuneStage(epochs=8, learning_rate=2e-3), 0, silent)
    return Task(teacher, train, held_out, predict_logits(teacher, train))


def precision_in_use() -> str:
    """Of products, as a recipe calls it."""
    return "bfloat16" if torch.is_autocast_enabled("cpu") else torch.get_float32_matmul_precision()
