"""Data and tiny checkpoints of every packaged task, and what PyTorch answers: their packages' oracle."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from tests.compress.task_models import make_task_checkpoint
from tests.factories import make_checkpoint

PLACES = ("kitchen", "hall", "bedroom")
THINGS = ("light", "lamp", "fan")
TAGS = ("B-PLACE", "B-THING", "O")
LONG = 120  # words of a context that is longer than the model
MODEL_CLASS = {
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "embedding": "AutoModel",
}
TASKS = tuple(MODEL_CLASS)
Array = NDArray[np.float32]


def sentence(rng: random.Random) -> tuple[list[str], str]:
    place = rng.choice(PLACES)
    words = ["please", "turn", rng.choice(("on", "off")), "the", rng.choice(THINGS), "in", "the", place]
    return words[rng.randrange(2) :], place


def data_rows(task: str, count: int, seed: int) -> list[dict[str, Any]]:
    rng, rows = random.Random(seed), []
    for number in range(count):
        words, place = sentence(rng)
        text = " ".join(words)
        if task == "token-classification":
            tags = ["B-PLACE" if w in PLACES else "B-THING" if w in THINGS else "O" for w in words]
            rows.append({"tokens": words, "tags": tags})
        elif task == "question-answering":
            if number % 7 == 3:
                text = " ".join(["play", "music"] * (LONG // 2)) + " " + text
            answers = {"text": [place], "answer_start": [text.rindex(place)]}
            rows.append({"question": "what is my", "context": text, "answers": answers})
        else:
            rows.append({"text": text})
    return rows


def write_rows(path: Path, task: str, count: int, seed: int) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in data_rows(task, count, seed)))
    return path


def make_task_model(path: Path, task: str, architecture: str = "bert") -> Path:
    """A folder with a random model for `task`, whose tags are `TAGS`; vectors have the length 1."""
    if task != "embedding":
        make_task_checkpoint(path, task, architecture, layers=2, labels=TAGS)
        return path
    make_checkpoint(path, architecture)
    config = transformers.AutoConfig.from_pretrained(path)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(path)
    kinds = ("models.Transformer", "models.Pooling", "models.Normalize")
    modules = [
        {"name": str(i), "path": "" if i == 0 else f"{i}_{kind.split('.')[1]}", "type": f"st.{kind}"}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return path


def torch_answers(folder: Path, task: str, ids: list[list[int]], types: list[list[int]]) -> list[Array]:
    """What the float model in `folder` answers to each row by itself: the oracle."""
    model = getattr(transformers, MODEL_CLASS[task]).from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for row, kinds in zip(ids, types, strict=True):
        feed = {
            "input_ids": torch.tensor([row]),
            "attention_mask": torch.ones(1, len(row), dtype=torch.int64),
        }
        if model.config.model_type in ("bert", "electra"):
            feed["token_type_ids"] = torch.tensor([kinds])
        with torch.inference_mode():
            outputs = model(**feed)
        if task == "token-classification":
            found.append(outputs.logits[0].numpy())
        elif task == "question-answering":
            found.append(torch.stack([outputs.start_logits[0], outputs.end_logits[0]], dim=-1).numpy())
        else:
            mean = outputs.last_hidden_state[0].mean(dim=0)
            found.append((mean / mean.norm()).numpy())
    return found
