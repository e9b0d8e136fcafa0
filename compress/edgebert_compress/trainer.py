"""Training a model, fine-tuning of a teacher, and prediction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgebert_compress import checkpoint as checkpoints
from edgebert_compress import distributed
from edgebert_compress.data import Progress, TokenizedDataset, silent
from edgebert_compress.freezing import frozen
from edgebert_compress.loading import load_model
from edgebert_compress.recipe import FineTuneStage, Training
from edgebert_compress.resume import EVERY, Note, SnapshotFolder, identity
from edgebert_compress.tasks import TEXT_CLASSIFICATION, TrainingTask
from edgebert_compress.teacher import distiller
from edgebert_compress.training_run import REPORT_EVERY, Evaluate, Holding, Hooks, Job, Run, cuda_devices

Curve = tuple[tuple[int, float], ...]
Answer = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class TrainingFacts:
    """`loss_curve`: (step, mean loss since the point before). `seconds`: wall-clock time.

    `metric_curve`: (steps done, value of `evaluate`).
    """

    seconds: float
    epochs: float
    steps: int
    examples: int
    new_head: bool
    loss_curve: Curve
    metric_curve: Curve = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        curves = {"loss_curve": self.loss_curve, "metric_curve": self.metric_curve}
        return {**asdict(self), **{name: [list(point) for point in curve] for name, curve in curves.items()}}


def train_model(
    model: Any,
    training: Training,
    job: Job,
    hooks: Hooks | None = None,
    *,
    phase: str = "training",
    new_head: bool = False,
    head_rate: float = 1.0,
) -> TrainingFacts:
    """Train `model` in place and leave it in eval mode. Deterministic for one seed and thread count.

    Where a process group runs, each process trains on its part of every batch with averaged gradients.
    What `training.frozen` matches does not learn; afterwards it may again.
    Raises TrainingError for unusable data, a teacher that does not fit, and at the first loss or gradient
    that is not finite; RecipeError for a pattern of `frozen` that matches nothing.
    """
    job.task.check(job.data, model)
    device = next(model.parameters()).device
    with (
        frozen(model, training.frozen),
        torch.random.fork_rng(devices=cuda_devices(device)),
        distiller(
            job.task, job.distillation, model, job.teacher, len(job.data), job.kept, training.matmul_precision
        ) as loss,
    ):
        torch.manual_seed(job.seed)  # dropout draws from the global generator
        run = Run(model, training, job, hooks or Holding({}, {}), loss, head_rate)
        run.go(phase)
    model.eval()
    return TrainingFacts(
        seconds=run.seconds(),
        epochs=training.epochs,
        steps=run.total,
        examples=len(job.data),
        new_head=new_head,
        loss_curve=tuple(run.curve),
        metric_curve=tuple(run.metrics),
    )


def fine_tune(
    model_dir: Path,
    out: Path,
    train: TokenizedDataset,
    labels: Sequence[str],
    config: FineTuneStage,
    seed: int,
    progress: Progress,
    *,
    new_head: bool = False,
    task: TrainingTask = TEXT_CLASSIFICATION,
    resume: Path | None = None,
    snapshot_every: float = EVERY,
    evaluate: Evaluate | None = None,
    device: str | torch.device = "cpu",
    note: Note = warnings.warn,
) -> TrainingFacts:
    """Train `task` from `model_dir` and write the model, with the tokenizer files, to the folder `out`.

    The head starts fresh with `new_head`, or when the checkpoint has none or other labels (empty for tasks
    that have none). `out` appears whole or not at all. `resume`, `snapshot_every`: as in `run_stage`.
    Raises CheckpointError, ModelError and TrainingError.
    """
    checkpoints.check_free(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, fresh = load_model(model_dir, task.name, labels, new_head=new_head)
    model.to(torch.device(device))
    snapshots = None
    if resume is not None:
        parts = ["fine-tune", asdict(config), list(labels), new_head, task.name, seed]
        snapshots = SnapshotFolder(resume, identity(parts, model_dir, train), note, every=snapshot_every)
    job = Job(task, train, seed, progress, evaluate=evaluate, snapshots=snapshots, note=note)
    head_rate = config.head_rate if fresh else 1.0
    facts = train_model(model, config, job, phase="fine-tune", new_head=fresh, head_rate=head_rate)
    if distributed.world()[0] == 0:
        with checkpoints.atomic_folder(out) as folder:
            checkpoints.write_model(model.to("cpu"), model_dir, folder)
    distributed.least(0)  # the others wait until it is written
    return facts


def _answers_of(
    model: Any, task: TrainingTask, data: TokenizedDataset, indices: Sequence[int]
) -> list[Answer]:
    with torch.inference_mode():
        outputs = model(**task.collate(model, data, indices).inputs)
        heads = [head.float().cpu().numpy() for head in task.logits(outputs)]
    whole = task.name == "text-classification"
    sizes = [None if whole else len(data.input_ids[index]) for index in indices]
    return [tuple(head[row][:size].copy() for head in heads) for row, size in enumerate(sizes)]


def answers(
    model: Any, task: TrainingTask, data: TokenizedDataset, progress: Progress = silent, batch_size: int = 64
) -> list[Answer]:
    """Logits of a model in eval mode for each row of `data`, one float32 array a head, without padding.

    [classes] for text classification, [tokens, classes] where every token has an answer, [tokens] for the
    start and the end of an answer.
    """
    by_length = sorted(range(len(data)), key=lambda i: len(data.input_ids[i]))
    found: dict[int, Answer] = {}
    model.eval()
    total = math.ceil(len(data) / batch_size)
    for done, start in enumerate(range(0, len(data), batch_size)):
        indices = by_length[start : start + batch_size]
        found.update(zip(indices, _answers_of(model, task, data, indices), strict=True))
        if (done + 1) % REPORT_EVERY == 0 or done + 1 == total:
            progress("predict", done + 1, total)
    return [found[index] for index in range(len(data))]


def answer_stream(
    model: Any, task: TrainingTask, data: TokenizedDataset, progress: Progress = silent, batch_size: int = 8
) -> Iterator[Answer]:
    """`answers` in order, computed on the way: one batch of logits over a vocabulary is a lot already."""
    model.eval()
    for start in range(0, len(data), batch_size):
        yield from _answers_of(model, task, data, range(start, min(start + batch_size, len(data))))
        progress("predict", min(start + batch_size, len(data)), len(data))


def predict(
    model_dir: Path,
    task: TrainingTask,
    data: TokenizedDataset,
    progress: Progress = silent,
    batch_size: int = 64,
) -> list[Answer]:
    """`answers` of a plain or compressed folder; a quantised one runs in simulated INT8.

    Raises CheckpointError and ModelError.
    """
    return answers(checkpoints.load(model_dir, task.name).model, task, data, progress, batch_size)


def model_logits(
    model: Any, data: TokenizedDataset, progress: Progress = silent, batch_size: int = 64
) -> NDArray[np.float32]:
    """Logits float32 [len(data), classes] of a text classifier in eval mode, in the order of `data`."""
    found = answers(model, TEXT_CLASSIFICATION, data, progress, batch_size)
    return np.array([logits for (logits,) in found], np.float32).reshape(-1, int(model.config.num_labels))


def predict_logits(
    model_dir: Path, data: TokenizedDataset, progress: Progress | None = None, batch_size: int = 64
) -> NDArray[np.float32]:
    """`predict` for text classification as one array, float32 [len(data), classes]."""
    return model_logits(checkpoints.load(model_dir).model, data, progress or silent, batch_size)
