"""The chain of checkpoints for every task, with and without a given teacher; interrupted and continued."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgebert.compression import CheckpointStep, TaskData, compress, describe_training
from edgebert.errors import ModelError
from edgebert.progress import SilentReporter
from edgebert.source_model import resolve_model
from edgebert.stages import StageStore
from edgebert.tasks.base import get_compression_task
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    FineTuneStage,
    PruneStage,
    QuantizeStage,
    Recipe,
    Training,
    TrainStage,
)
from tests.compress.task_models import make_task_checkpoint
from tests.factories import LABELS, make_checkpoint, task_sentences

QUICK = Training(epochs=1, learning_rate=1e-3, batch_size=8)
HEAD = FineTuneStage(epochs=2, learning_rate=1e-3, batch_size=8)
PRUNE = PruneStage(sparsity=0.5, steps=2, gradients=4, training=QUICK)
METRICS = {
    "text-classification": "accuracy",
    "token-classification": "f1",
    "question-answering": "f1",
    "masked-language-model": "masked accuracy",
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def write_data(path: Path, task: str, count: int, seed: int) -> Path:
    """A file of examples of `task`, made from the sentences of the factories."""
    rows: list[dict[str, Any]] = []
    for text, label in task_sentences(count, seed):
        words = text.split()
        if task == "text-classification":
            rows.append({"text": text, "label": label})
        elif task == "token-classification":
            tags = ["B-ON" if word in ("on", "the", "a") else "O" for word in words]
            rows.append({"tokens": words, "tags": tags})
        elif task == "question-answering":
            answer = {"text": [words[0]], "answer_start": [0]}
            rows.append({"question": "what is the", "context": text, "answers": answer})
        else:
            rows.append({"text": text})
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def task_data(folder: Path, task: str) -> TaskData:
    kind = get_compression_task(task)
    train, evaluation = (
        kind.read(write_data(folder / f"{name}.jsonl", task, count, seed))
        for name, count, seed in (("train", 40, 0), ("eval", 20, 1))
    )
    return TaskData(kind.labels([*train, *evaluation]), train, evaluation, 32)


def zeros_of(step: CheckpointStep) -> dict[str, torch.Tensor]:
    weights = load_file(step.folder / "model.safetensors")
    return {name: value == 0 for name, value in weights.items() if ".layer." in name and value.ndim == 2}


@pytest.mark.parametrize("task", METRICS)
def test_the_whole_chain_of_every_task(tmp_path: Path, task: str) -> None:
    model = resolve_model(without_head(tmp_path, make_checkpoint(tmp_path / "raw")), task)
    data = task_data(tmp_path, task)
    recipe = Recipe(
        "r",
        (
            DropLayersStage(keep=(1,), training=QUICK, distillation=Distillation(0.5, hidden=0.1)),
            PRUNE,
            QuantizeStage(training=Training(epochs=0)),
        ),
        fine_tune=HEAD,
    )
    steps = compress(model, data, recipe, StageStore(tmp_path / "work"), 0, SilentReporter(), task=task)
    assert [step.kind for step in steps] == ["teacher", "drop-layers", "prune", "quantize"]
    assert all(step.metric == METRICS[task] and 0 <= step.score <= 1 for step in steps)
    assert steps[0].facts["trained_here"]
    assert [len(step.facts["metric_curve"]) for step in steps[1:]] == [1, 3, 0]
    assert steps[1].facts["metric_curve"][-1][1] == pytest.approx(steps[1].score)
    assert json.loads((steps[-1].folder / "compression.json").read_text())["task"] == task
    shape = (20, len(data.labels)) if task == "text-classification" else (0, 0)
    assert all(step.logits.shape == shape for step in steps)
    again = compress(model, data, recipe, StageStore(tmp_path / "work"), 0, SilentReporter(), task=task)
    assert [(step.key, step.score) for step in again] == [(step.key, step.score) for step in steps]


def without_head(tmp_path: Path, folder: Path) -> Path:
    from transformers import AutoModel

    body = tmp_path / "body"
    AutoModel.from_pretrained(folder, dtype=torch.float32).save_pretrained(body)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, body)
    return body


def test_sparse_transfer_with_a_given_teacher(tmp_path: Path) -> None:
    """Upstream pruning of a language model, then a new head with its masks fixed, taught by another model."""
    source = make_task_checkpoint(tmp_path / "mlm", "masked-language-model")
    texts = task_data(tmp_path, "masked-language-model")
    upstream = compress(
        resolve_model(source, "masked-language-model"), texts, Recipe("up", (PRUNE,)),
        StageStore(tmp_path / "work"), 0, SilentReporter(), task="masked-language-model",
    )  # fmt: skip
    teacher = make_checkpoint(tmp_path / "teacher", seed=3, layers=3)
    data = task_data(tmp_path, "text-classification")
    recipe = Recipe("down", (TrainStage(new_head=True, training=QUICK, distillation=Distillation(1.0)),))
    model = resolve_model(upstream[-1].folder)
    for given in (teacher, None):
        steps = compress(
            model, data, recipe, StageStore(tmp_path / "work"), 0, SilentReporter(), teacher=given
        )
        assert steps[0].facts.get("trained_here", False) == (given is None)
        before, after = zeros_of(upstream[-1]), zeros_of(steps[-1])
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert sum(int(zero.sum()) for zero in after.values()) > 0
        record = json.loads((steps[-1].folder / "compression.json").read_text())
        assert [stage["kind"] for stage in record["stages"]] == ["prune", "train"]
        assert record["stages"][1]["distilled"]
    folder = steps[-1].folder
    assert json.loads((folder / "config.json").read_text())["id2label"] == {
        str(index): label for index, label in enumerate(LABELS)
    }


def test_a_given_teacher_teaches_and_a_model_with_a_head_starts_as_it_is(tmp_path: Path) -> None:
    raw = make_checkpoint(tmp_path / "raw")
    data = task_data(tmp_path, "text-classification")
    recipe = Recipe("r", (TrainStage(training=Training(epochs=0)),))
    teacher = make_checkpoint(tmp_path / "teacher", seed=3)
    steps = compress(
        resolve_model(raw), data, recipe, StageStore(tmp_path / "work"), 0, SilentReporter(), teacher=teacher
    )
    start, end = (load_file(folder / "model.safetensors") for folder in (raw, steps[1].folder))
    assert all(torch.equal(start[name], end[name]) for name in start)
    assert not np.array_equal(steps[0].logits, steps[1].logits)


def test_teachers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = resolve_model(make_checkpoint(tmp_path / "raw"))
    data = task_data(tmp_path, "text-classification")
    recipe = Recipe("r", (PRUNE,))
    other = make_checkpoint(tmp_path / "other", labels=("x", "y", "z"))
    tokens = make_checkpoint(tmp_path / "tokens")
    text = (tokens / "tokenizer.json").read_text()
    (tokens / "tokenizer.json").write_text(text.replace('"turn"', '"TURN"'))
    for teacher, words in ((other, "has the labels x, y, z"), (tokens, "another tokenizer")):
        with pytest.raises(ModelError, match=words):
            compress(model, data, recipe, StageStore(tmp_path / "work"), 0, SilentReporter(), teacher=teacher)


class Interrupting(SilentReporter):
    """Presses Ctrl-C in the second pruning step, and keeps the notes."""

    def __init__(self, active: bool) -> None:
        super().__init__()
        self.active = active
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, phase: str, done: int, total: int, **figures: float) -> None:
        if self.active and phase.endswith(": pruning step") and done == 2:
            raise KeyboardInterrupt


def test_an_interrupted_stage_goes_on_where_it_was(tmp_path: Path) -> None:
    model = resolve_model(make_checkpoint(tmp_path / "raw"))
    data, recipe = task_data(tmp_path, "text-classification"), Recipe("r", (PRUNE,))
    work = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        compress(model, data, recipe, StageStore(work), 0, Interrupting(active=True))
    assert len(list(work.glob("resume-*"))) == 1
    reporter = Interrupting(active=False)
    steps = compress(model, data, recipe, StageStore(work), 0, reporter)
    assert any("going on from a snapshot" in note for note in reporter.notes)
    assert not list(work.glob("resume-*"))
    plain = compress(model, data, recipe, StageStore(tmp_path / "other"), 0, SilentReporter())
    for name in ("model.safetensors", "compression.json"):
        assert (steps[1].folder / name).read_bytes() == (plain[1].folder / name).read_bytes()


def test_how_a_stage_trains_in_words() -> None:
    assert describe_training(QuantizeStage(training=Training(epochs=0))) == "no training"
    assert describe_training(PRUNE) == "1 epochs with distillation from the teacher"
    alone = TrainStage(training=QUICK, distillation=Distillation(0.0))
    assert describe_training(alone) == "1 epochs on the labels"


@pytest.mark.slow
def test_two_processes_build_one_chain(tmp_path: Path) -> None:
    """Both call `compress` on one work folder, as torchrun would have them; one writes."""
    model = resolve_model(without_head(tmp_path, make_checkpoint(tmp_path / "raw")))
    data = task_data(tmp_path, "text-classification")
    recipe = Recipe("r", (PRUNE, QuantizeStage(training=QUICK)), fine_tune=HEAD)

    def child(rank: int) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        rendezvous = f"file://{tmp_path}/rendezvous"
        torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
        store = StageStore(tmp_path / "work")
        steps = compress(model, data, recipe, store, 0, SilentReporter())
        (tmp_path / f"steps-{rank}").write_text(json.dumps([[str(s.folder), s.score] for s in steps]))
        torch.distributed.destroy_process_group()

    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=child, args=(rank,)) for rank in range(2)]
    for one in children:
        one.start()
    for one in children:
        one.join()
    assert [one.exitcode for one in children] == [0, 0]
    assert (tmp_path / "steps-0").read_text() == (tmp_path / "steps-1").read_text()
    assert not list((tmp_path / "work").glob(".*"))
    assert not list((tmp_path / "work").glob("resume-*"))
    folder = Path(json.loads((tmp_path / "steps-0").read_text())[-1][0])
    assert (folder / "quantized.safetensors").is_file()
    assert (folder / "tokenizer.json").is_file()
