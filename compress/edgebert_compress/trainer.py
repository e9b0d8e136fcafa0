"""The training loop, fine-tuning of a teacher, and prediction."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgebert_compress import checkpoint as checkpoints
from edgebert_compress.architecture import HEAD_PREFIXES, WITH_TOKEN_TYPES, model_type
from edgebert_compress.data import (
    Progress,
    TokenizedDataset,
    batch_order,
    check_dataset,
    collate,
    label_tensor,
    silent,
)
from edgebert_compress.distill import combined_loss
from edgebert_compress.errors import TrainingError
from edgebert_compress.recipe import Distillation, FineTuneStage, Training
from edgebert_compress.schedule import linear_rate

REPORT_EVERY = 10  # steps
CURVE_POINTS = 100
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class TrainingFacts:
    """`loss_curve`: (step, mean loss since the point before); `seconds` is wall-clock time."""

    seconds: float
    epochs: float
    steps: int
    examples: int
    new_head: bool
    loss_curve: tuple[tuple[int, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "loss_curve": [list(point) for point in self.loss_curve]}


@dataclass(frozen=True)
class Hooks:
    """What a stage does around a training step; `rate` overrides the linear schedule (share of the peak)."""

    before_step: Callable[[int], None] = lambda step: None
    after_step: Callable[[], None] = lambda: None
    rate: Callable[[int, int], float] | None = None


def step_count(data: TokenizedDataset, training: Training) -> int:
    """Optimiser steps of a training; 0 only when it has 0 epochs."""
    if training.epochs == 0:
        return 0
    return max(1, round(training.epochs * math.ceil(len(data) / training.batch_size)))


def batches(data: TokenizedDataset, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Shuffled batches of indices for ever, a new order each epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from batch_order(data, batch_size, generator)


def optimizer(model: nn.Module, training: Training, head_rate: float = 1.0) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; the head's peak rate is `head_rate` times the body's."""
    groups = []
    for head in (False, True):
        for matrix in (False, True):
            members = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and name.startswith(HEAD_PREFIXES) == head
                and (parameter.ndim > 1) == matrix
            ]
            rate = training.learning_rate * (head_rate if head else 1.0)
            decay = training.weight_decay if matrix else 0.0
            groups.append({"params": members, "lr": rate, "peak": rate, "weight_decay": decay})
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def train_model(
    model: Any,
    data: TokenizedDataset,
    training: Training,
    *,
    distillation: Distillation | None = None,
    teacher_logits: NDArray[np.float32] | None = None,
    seed: int = 0,
    progress: Progress = silent,
    phase: str = "training",
    hooks: Hooks | None = None,
    new_head: bool = False,
    head_rate: float = 1.0,
) -> TrainingFacts:
    """Train `model` in place and leave it in eval mode. Deterministic for one seed and thread count.

    `teacher_logits`: float32 [len(data), classes] in the order of `data`; None trains on labels alone.
    Raises TrainingError for unusable data and at the first loss or gradient that is not finite.
    """
    hooks = hooks or Hooks()
    classes = int(model.config.num_labels)
    check_dataset(data, classes)
    teacher = check_teacher(teacher_logits, len(data), classes)
    device = next(model.parameters()).device
    total = step_count(data, training)
    adam = optimizer(model, training, head_rate)
    started = time.perf_counter()
    curve: list[tuple[int, float]] = []
    recent: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # dropout draws from the global generator
        order = batches(data, training.batch_size, seed)
        for step in range(total):
            hooks.before_step(step)
            model.train()
            indices = next(order)
            share = hooks.rate(step, total) if hooks.rate else linear_rate(step, total, training.warmup)
            for group in adam.param_groups:
                group["lr"] = group["peak"] * share
            logits = forward(model, data, indices)
            goal = None if teacher is None else teacher[indices].to(device)
            loss = combined_loss(logits, label_tensor(data, indices, device), goal, distillation)
            recent.append(check_finite(loss.item(), f"loss at step {step + 1} of {total} ({phase})"))
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            check_finite(norm.item(), f"gradient norm at step {step + 1} of {total} ({phase})")
            adam.step()
            adam.zero_grad(set_to_none=True)
            hooks.after_step()
            if (step + 1) % max(1, total // CURVE_POINTS) == 0 or step + 1 == total:
                curve.append((step + 1, round(sum(recent) / len(recent), 6)))
                recent.clear()
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == total:
                progress(phase, step + 1, total, loss=curve[-1][1] if curve else recent[-1])
    model.eval()
    return TrainingFacts(
        seconds=time.perf_counter() - started,
        epochs=training.epochs,
        steps=total,
        examples=len(data),
        new_head=new_head,
        loss_curve=tuple(curve),
    )


def forward(model: Any, data: TokenizedDataset, indices: Sequence[int]) -> Tensor:
    """Logits [len(indices), classes]. Token types go only to the families that use them."""
    inputs = collate(data, indices, next(model.parameters()).device)
    if model_type(model) not in WITH_TOKEN_TYPES:
        inputs.pop("token_type_ids", None)
    logits: Tensor = model(**inputs).logits
    return logits


def check_finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise TrainingError(f"the {what} is {value}; lower the learning rate or check the data")
    return value


def check_teacher(logits: NDArray[np.float32] | None, rows: int, classes: int) -> Tensor | None:
    """Raises TrainingError when the teacher's logits do not fit the data or are not finite."""
    if logits is None:
        return None
    if logits.shape != (rows, classes):
        raise TrainingError(
            f"teacher logits have shape {logits.shape}, the data needs {(rows, classes)}; compute them again"
        )
    if not np.isfinite(logits).all():
        raise TrainingError("teacher logits hold values that are not finite; train the teacher again")
    return torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32))


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
) -> TrainingFacts:
    """Train a classifier from `model_dir` and write it, with the tokenizer files, to the folder `out`.

    The head starts fresh with `new_head`, or when the checkpoint has none or other labels. `out` appears
    whole or not at all.
    Raises CheckpointError, ModelError and TrainingError.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, fresh = checkpoints.load_classifier(model_dir, labels, new_head=new_head)
    with checkpoints.atomic_folder(out) as folder:
        facts = train_model(
            model,
            train,
            config,
            seed=seed,
            progress=progress,
            phase="fine-tune",
            new_head=fresh,
            head_rate=config.head_rate if fresh else 1.0,
        )
        checkpoints.write_classifier(model, model_dir, folder)
    return facts


def model_logits(
    model: Any, data: TokenizedDataset, progress: Progress = silent, batch_size: int = 64
) -> NDArray[np.float32]:
    """Logits float32 [len(data), classes] of a model in eval mode, in the order of `data`."""
    by_length = sorted(range(len(data)), key=lambda i: len(data.input_ids[i]))
    logits = np.zeros((len(data), int(model.config.num_labels)), np.float32)
    model.eval()
    total = math.ceil(len(data) / batch_size)
    with torch.inference_mode():
        for done, start in enumerate(range(0, len(data), batch_size)):
            indices = by_length[start : start + batch_size]
            logits[indices] = forward(model, data, indices).cpu().numpy()
            if (done + 1) % REPORT_EVERY == 0 or done + 1 == total:
                progress("predict", done + 1, total)
    return logits


def predict_logits(
    model_dir: Path, data: TokenizedDataset, progress: Progress | None = None, batch_size: int = 64
) -> NDArray[np.float32]:
    """Logits float32 [len(data), classes] of a plain or compressed folder, in the order of `data`.

    A quantised checkpoint runs in simulated INT8. Raises CheckpointError and ModelError.
    """
    return model_logits(checkpoints.load(model_dir).model, data, progress or silent, batch_size)
