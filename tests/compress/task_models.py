"""Tiny random models of every task, and data that fits them."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from edgebert_compress.architecture import HEADS
from edgebert_compress.data import TokenizedDataset
from tests.factories import make_checkpoint, vocabulary

TASKS = tuple(HEADS)
SPECIAL_IDS = frozenset(range(5))
CLASS_NAME = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "masked-language-model": "ForMaskedLM",
}


def make_task_checkpoint(path: Path, task: str, architecture: str = "bert", seed: int = 0, **sizes) -> Path:
    """A folder of a random model with the head of `task`, three labels where it has labels."""
    import transformers

    make_checkpoint(path, architecture, seed=seed, **sizes)
    config = transformers.AutoConfig.from_pretrained(path)
    if task == "question-answering":
        config.num_labels = 2
    torch.manual_seed(seed)
    getattr(transformers, HEADS[task]).from_config(config).save_pretrained(path)
    return path


class Folders(dict[tuple[str, str], Path]):
    """Folders of one-layer models by task and architecture, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, key: tuple[str, str]) -> Path:
        self[key] = make_task_checkpoint(self.root / "-".join(key), *key, layers=1)
        return self[key]


def random_data(count: int, seed: int, *, lengths: tuple[int, int] = (6, 20)) -> TokenizedDataset:
    """Random rows that carry the labels of every task."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [rng.randrange(5, len(vocabulary())) for _ in range(rng.randint(*lengths))]
        rows.append((2, *words, 3))
    spans = []
    for row in rows:
        start = rng.randrange(1, len(row) - 1)
        spans.append((start, rng.randrange(start, len(row) - 1)) if rng.random() < 0.8 else (0, 0))
    return TokenizedDataset(
        input_ids=tuple(rows),
        token_type_ids=tuple((0,) * (len(row) // 2) + (1,) * (len(row) - len(row) // 2) for row in rows),
        labels=tuple(rng.randrange(3) for _ in rows),
        pad_token_id=0,
        token_labels=tuple((-100, *(rng.choice([-100, 0, 1, 2]) for _ in row[2:]), 1) for row in rows),
        spans=tuple(spans),
        mask_token_id=4,
        special_ids=SPECIAL_IDS,
    )
