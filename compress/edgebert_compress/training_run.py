"""One training under way: the loop over optimiser steps, and what of it a snapshot holds."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from edgebert_compress import distributed
from edgebert_compress.architecture import HEAD_PREFIXES
from edgebert_compress.data import Progress, TokenizedDataset, batch_order, silent
from edgebert_compress.errors import TrainingError
from edgebert_compress.masks import Masks, apply_masks
from edgebert_compress.matmul import answer, matmul_precision
from edgebert_compress.recipe import Distillation, Training
from edgebert_compress.resume import Note, Snapshot, SnapshotFolder
from edgebert_compress.schedule import learning_rate
from edgebert_compress.tasks import Batch, TrainingTask
from edgebert_compress.teacher import Distiller, TeacherSource

REPORT_EVERY = 10  # steps
CURVE_POINTS = 100
MAX_GRADIENT_NORM = 1.0
SEED_STRIDE = 1_000_003  # between the draws of neighbouring seeds, above any usual number of steps

Acted = Literal["nothing", "part", "step"]
Evaluate = Callable[[nn.Module], float]


class Hooks(Protocol):
    """What a stage does around the training steps, and what of it a snapshot must hold."""

    @property
    def points(self) -> Sequence[int]:
        """Training steps before which something is pruned."""

    def act(self, step: int) -> Acted:
        """Do the next thing that is due before `step`: a whole pruning step, a part of one, or nothing."""

    def after_step(self) -> None:
        """Right after the optimiser's step."""

    def state(self) -> Snapshot: ...

    def restore(self, state: Snapshot) -> None: ...


@dataclass(frozen=True)
class Holding:
    """Keeps pruned weights at zero, and nothing else."""

    parameters: Mapping[str, nn.Parameter]
    masks: Masks
    points: Sequence[int] = ()

    def act(self, step: int) -> Acted:
        return "nothing"

    def after_step(self) -> None:
        apply_masks(self.parameters, self.masks)

    def state(self) -> Snapshot:
        return Snapshot({}, {})

    def restore(self, state: Snapshot) -> None:
        pass


@dataclass(frozen=True)
class Job:
    """What a training is given besides the model: one task's data, its teacher, where it reports and saves.

    `kept`: the model's layers as indices into the model it came from (None: all of them). `evaluate`:
    measured at the end of each epoch and after each pruning step. `snapshots`: None takes none.
    """

    task: TrainingTask
    data: TokenizedDataset
    seed: int = 0
    progress: Progress = silent
    distillation: Distillation | None = None
    teacher: TeacherSource | None = None
    kept: Sequence[int] | None = None
    evaluate: Evaluate | None = None
    snapshots: SnapshotFolder | None = None
    note: Note = warnings.warn


def steps_an_epoch(data: TokenizedDataset, training: Training) -> int:
    return math.ceil(len(data) / training.batch_size)


def step_count(data: TokenizedDataset, training: Training) -> int:
    """Optimiser steps of a training; 0 only when it has 0 epochs."""
    if training.epochs == 0:
        return 0
    return max(1, round(training.epochs * steps_an_epoch(data, training)))


class Batches:
    """Shuffled batches of indices for ever, a new order each epoch; `drawn` says how far it is."""

    def __init__(self, data: TokenizedDataset, size: int, seed: int) -> None:
        self._data, self._size = data, size
        self._generator = torch.Generator().manual_seed(seed)
        self._epoch: list[list[int]] = []
        self._next = 0
        self.drawn = 0

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        if self._next == len(self._epoch):
            self._epoch, self._next = batch_order(self._data, self._size, self._generator), 0
        self._next += 1
        self.drawn += 1
        return self._epoch[self._next - 1]

    def skip(self, count: int) -> None:
        """Leave out the next `count` batches."""
        for _ in range(count):
            next(self)


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


class Run:
    """One training under way: everything that a step changes, so that a snapshot can hold it."""

    def __init__(
        self, model: Any, training: Training, job: Job, hooks: Hooks, loss: Distiller, head_rate: float
    ) -> None:
        self.model, self.job, self.hooks, self.loss = model, job, hooks, loss
        self.precision = training.matmul_precision
        self.adam = optimizer(model, training, head_rate)
        self.order = Batches(job.data, training.batch_size, job.seed)
        self.total = step_count(job.data, training)
        self.epoch = steps_an_epoch(job.data, training)
        self.rate = learning_rate(training, self.total, self.epoch, hooks.points)
        self.device = next(model.parameters()).device
        self.curve: list[tuple[int, float]] = []
        self.recent: list[float] = []
        self.metrics: list[tuple[int, float]] = []
        self.before = 0.0  # seconds of the runs that this one continues
        self.started = time.perf_counter()

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self.order.drawn

    def train_step(self, phase: str) -> None:
        """One optimiser step on the next batch, of which each process takes its part."""
        rank, size = distributed.world()
        draw = self.job.seed * SEED_STRIDE + self.step * size + rank
        if size > 1:
            torch.manual_seed(draw)  # processes that drop out the same units would waste each other's work
        where = f"at step {self.step + 1} of {self.total} ({phase})"
        for group in self.adam.param_groups:
            group["lr"] = group["peak"] * self.rate(self.step)
        indices = next(self.order)
        part = distributed.my_part(indices)
        self.model.train()
        if part:
            with matmul_precision(self.precision):
                loss = self._loss(part, draw)
                loss.backward()  # type: ignore[no-untyped-call]
            self.recent.append(loss.item())
        distributed.average_gradients(list(self.model.parameters()), len(part) / len(indices))
        if part:
            check_finite(self.recent[-1], f"loss {where}")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        check_finite(norm.item(), f"gradient norm {where}")
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.hooks.after_step()

    def _loss(self, part: Sequence[int], draw: int) -> Tensor:
        task, data = self.job.task, self.job.data

        def collate(model: nn.Module) -> Batch:
            return task.collate(model, data, part, torch.Generator().manual_seed(draw))

        batch = collate(self.model)
        outputs = answer(self.model, batch.inputs, self.precision)
        return self.loss.loss(outputs, batch, part, collate)

    def record_loss(self, phase: str) -> None:
        """Add a point to the curve and tell of the progress, where it is time."""
        last = self.step == self.total
        if (self.step % max(1, self.total // CURVE_POINTS) == 0 or last) and self.recent:
            self.curve.append((self.step, round(sum(self.recent) / len(self.recent), 6)))
            self.recent.clear()
        latest = self.curve[-1][1] if self.curve else self.recent[-1] if self.recent else None
        if (self.step % REPORT_EVERY == 0 or last) and latest is not None:
            self.job.progress(phase, self.step, self.total, loss=latest)

    def measure(self) -> None:
        """Add a point to the metric's curve; the random state stays as it is."""
        if self.job.evaluate is None or distributed.world()[0] != 0:
            return
        with torch.random.fork_rng(devices=cuda_devices(self.device)):
            self.model.eval()
            value = float(self.job.evaluate(self.model))
        self.metrics.append((self.step, check_finite(value, f"metric after step {self.step}")))

    def snapshot(self) -> None:
        if self.job.snapshots is None:
            return
        hooks = self.hooks.state()
        values = {
            "step": self.step,
            "loss_curve": self.curve,
            "recent": self.recent,
            "metric_curve": self.metrics,
            "seconds": self.seconds(),
            "hooks": hooks.values,
        }
        tensors = {f"hooks.{name}": value for name, value in hooks.tensors.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter
            for key, value in self.adam.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = value
        for name, buffer in self.model.named_buffers():
            tensors[f"buffer.{name}"] = buffer
        self.job.snapshots.write(Snapshot(values, tensors))

    def resume(self) -> None:
        """Go on from the latest snapshot, if there is one."""
        found = None if self.job.snapshots is None else self.job.snapshots.latest()
        if found is None:
            return
        values, tensors = found.values, found.tensors
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
                state = {
                    key: tensors[f"adam.{key}.{name}"].to(self.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"adam.{key}.{name}" in tensors
                }
                if state:
                    self.adam.state[parameter] = state
            for name, buffer in self.model.named_buffers():
                buffer.copy_(tensors[f"buffer.{name}"])
        hooks = {
            name.removeprefix("hooks."): value.to(self.device)
            for name, value in tensors.items()
            if name.startswith("hooks.")
        }
        self.hooks.restore(Snapshot(values["hooks"], hooks))
        self.order.skip(values["step"])
        self.curve = [(int(step), value) for step, value in values["loss_curve"]]
        self.recent = list(values["recent"])
        self.metrics = [(int(step), value) for step, value in values["metric_curve"]]
        self.before = float(values["seconds"])
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.job.note(f"going on from a snapshot after step {self.step} of {self.total}")

    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def go(self, phase: str) -> None:
        """Train to the end. Snapshots read the state and change none of it."""
        snapshots = self.job.snapshots
        self.resume()
        while True:
            while (acted := self.hooks.act(self.step)) != "nothing":
                if acted == "step":
                    self.measure()
                self.snapshot()
            if self.step == self.total:
                break
            self.train_step(phase)
            self.record_loss(phase)
            if self.step % self.epoch == 0 or self.step == self.total:
                self.measure()
            if snapshots is not None and snapshots.due():
                self.snapshot()


def cuda_devices(device: torch.device) -> list[torch.device]:
    """The devices whose random state `fork_rng` must keep besides the CPU's."""
    return [device] if device.type == "cuda" else []


def check_finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise TrainingError(f"the {what} is {value}; lower the learning rate or check the data")
    return value
