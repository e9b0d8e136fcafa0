"""From a data file to the metric of a trained model, for every task."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from edgebert.tasks.base import get_compression_task
from edgebert.tokenizer import TextTokenizer
from edgebert_compress.data import silent
from edgebert_compress.loading import load_model
from edgebert_compress.recipe import Training
from edgebert_compress.tasks import get_task
from edgebert_compress.trainer import answer_stream, train_model
from edgebert_compress.training_run import Job
from tests.factories import make_checkpoint, task_sentences

PLACES, THINGS = ("kitchen", "hall", "bedroom"), ("light", "lamp", "fan")
LENGTH = 24


def command(rng: random.Random) -> tuple[list[str], str]:
    """A sentence that names a thing and a place, and the place."""
    place = rng.choice(PLACES)
    words = ["please", "turn", rng.choice(("on", "off")), "the", rng.choice(THINGS), "in", "the", place]
    return words[rng.randrange(2) :], place


def rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    if task == "text-classification":
        return [{"text": text, "label": label} for text, label in task_sentences(count, seed)]
    found = []
    for _ in range(count):
        words, place = command(rng)
        text = " ".join(words)
        if task == "token-classification":
            tags = ["B-PLACE" if w == place else "B-THING" if w in THINGS else "O" for w in words]
            found.append({"tokens": words, "tags": tags})
        elif task == "question-answering":
            answers = {"text": [place], "answer_start": [text.rindex(place)]}
            found.append({"question": "what is my", "context": text, "answers": answers})
        else:
            found.append({"text": f"{place} {place} {place} {place} {place} {place}"})
    return found


def read(task: str, folder: Path, count: int, seed: int) -> list[Any]:
    path = folder / f"{seed}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(task, count, seed)))
    return get_compression_task(task).read(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["text-classification", "token-classification", "question-answering", "masked-language-model"]
)
def test_training_brings_the_metric_up(tmp_path: Path, task: str) -> None:
    encoder = make_checkpoint(tmp_path / "encoder", hidden=64, intermediate=128)
    kind, trained = get_compression_task(task), get_task(task)
    train, held_out = read(task, tmp_path, 192, 0), read(task, tmp_path, 48, 1)
    labels = kind.labels(train)
    tokenizer = TextTokenizer.from_folder(encoder, LENGTH)
    torch.manual_seed(0)
    model, _ = load_model(encoder, trained.name, labels, new_head=True)
    seen = kind.tokenize(tokenizer, train, labels, LENGTH)
    unseen = kind.tokenize(tokenizer, held_out, labels, LENGTH)

    def score() -> float:
        return kind.measure(answer_stream(model, trained, unseen), unseen, held_out, labels)

    before = score()
    train_model(model, Training(epochs=16, learning_rate=2e-3, batch_size=16), Job(trained, seen, 0, silent))
    after = score()
    assert before < 0.7
    assert after > 0.9
