"""The teacher of a training: cached answers, or a model that runs beside the student."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edgebert_compress import checkpoint as checkpoints
from edgebert_compress.architecture import family, layer_list, model_type
from edgebert_compress.distill import (
    BLOCKED,
    answer_loss,
    hidden_loss,
    layer_map,
    relation_heads,
    relation_loss,
)
from edgebert_compress.errors import TrainingError
from edgebert_compress.matmul import answer
from edgebert_compress.recipe import Distillation, MatmulPrecision
from edgebert_compress.resume import folder_hash
from edgebert_compress.tasks import Batch, TrainingTask


@dataclass(frozen=True, eq=False)
class TeacherLogits:
    """Answers to every training example: float32 [examples, classes]. Text classification only."""

    values: NDArray[np.float32]

    def identity(self) -> str:
        """SHA-256 (hex)."""
        return hashlib.sha256(np.ascontiguousarray(self.values).tobytes()).hexdigest()


@dataclass(frozen=True)
class TeacherModel:
    """A checkpoint folder that runs in eval mode at every step: for any task, hidden states and relations."""

    folder: Path

    def identity(self) -> str:
        """SHA-256 (hex)."""
        return folder_hash(self.folder)


TeacherSource = TeacherLogits | TeacherModel


class Watch:
    """Forward hooks that keep what the latest forward pass of a model computed.

    `states`: outputs [batch, tokens, width] of the encoder layers in `layers`, in that order.
    `projections`: outputs [batch, tokens, width] of the query, key and value layer of layer `related`.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int] = (), related: int | None = None) -> None:
        self._states: dict[int, Tensor] = {}
        self._projections: dict[str, Tensor] = {}
        self._layers = tuple(layers)
        self._linears = family(model_type(model))[1][:3] if related is not None else ()
        self._handles: list[RemovableHandle] = []
        encoder = layer_list(model)
        for index in set(layers):
            self._handles.append(encoder[index].register_forward_hook(self._keeper(self._states, index)))
        for linear in self._linears:
            assert related is not None
            module = encoder[related].get_submodule(linear)
            self._handles.append(module.register_forward_hook(self._keeper(self._projections, linear)))

    @staticmethod
    def _keeper(place: dict[Any, Tensor], key: int | str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            place[key] = (output[0] if isinstance(output, tuple) else output).float()

        return keep

    @property
    def states(self) -> list[Tensor]:
        return [self._states[index] for index in self._layers]

    @property
    def projections(self) -> list[Tensor]:
        return [self._projections[linear] for linear in self._linears]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


class Distiller:
    """The loss of one training: the task's, the teacher's answers, hidden states and relations, weighted."""

    def __init__(
        self,
        task: TrainingTask,
        settings: Distillation,
        student: nn.Module,
        teacher: nn.Module | Tensor | None,
        layers: Sequence[int],
        precision: MatmulPrecision = "highest",
    ) -> None:
        """`teacher`: a model, or its logits [examples, classes]; None: the task's loss alone.

        `layers`: the teacher's layer for each of the student's. `precision`: of a teacher's products.
        """
        self._task = task
        self._settings = settings
        self._precision: MatmulPrecision = precision
        self._answers = teacher if isinstance(teacher, Tensor) else None
        self._teacher = teacher if isinstance(teacher, nn.Module) else None
        self._hardness = 0.0 if teacher is None else settings.hardness
        self._same_inputs = self._teacher is not None and model_type(self._teacher) == model_type(student)
        self._watches: list[Watch] = []
        self._heads = 0
        if self._teacher is not None and (settings.hidden or settings.relations):
            depth = len(layer_list(student))
            own, theirs = (range(depth), layers) if settings.hidden else ((), ())
            last = (depth - 1, layers[-1]) if settings.relations else (None, None)
            self._watches = [Watch(student, own, last[0]), Watch(self._teacher, theirs, last[1])]
            self._heads = relation_heads(
                width(student), width(self._teacher), int(config_of(self._teacher).num_attention_heads)
            )

    def loss(
        self, outputs: Any, batch: Batch, indices: Sequence[int], collate: Callable[[nn.Module], Batch]
    ) -> Tensor:
        """0-d. `outputs`: the student's on `batch`; `collate`: the same batch for another model."""
        h, settings = self._hardness, self._settings
        parts = [] if h == 1 else [(1 - h) * self._task.loss(outputs, batch)]
        attended = batch.inputs["attention_mask"].bool()
        theirs = self._ask(batch, indices, collate)
        if h and theirs is not None:
            counted = self._task.counted(batch)
            own = self._choices(self._task.logits(outputs), attended)
            teacher = self._choices(theirs, attended)
            parts.append(h * answer_loss(own, teacher, settings.temperature, counted))
        if self._watches:
            student, watched = self._watches
            if settings.hidden:
                parts.append(settings.hidden * hidden_loss(student.states, watched.states, attended))
            if settings.relations:
                lost = relation_loss(student.projections, watched.projections, self._heads, attended)
                parts.append(settings.relations * lost)
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def _ask(
        self, batch: Batch, indices: Sequence[int], collate: Callable[[nn.Module], Batch]
    ) -> tuple[Tensor, ...] | None:
        if self._answers is not None:
            return (self._answers[list(indices)].to(batch.inputs["input_ids"].device),)
        if self._teacher is None:
            return None
        inputs = batch.inputs if self._same_inputs else collate(self._teacher).inputs
        with torch.no_grad():
            return self._task.logits(answer(self._teacher, inputs, self._precision))

    def _choices(self, logits: tuple[Tensor, ...], attended: Tensor) -> tuple[Tensor, ...]:
        """Where the choices are the tokens themselves, padding is none of them."""
        if self._task.name != "question-answering":
            return logits
        return tuple(one.masked_fill(~attended, BLOCKED) for one in logits)

    def close(self) -> None:
        """Take the hooks off the models."""
        for watch in self._watches:
            watch.close()


@contextmanager
def distiller(
    task: TrainingTask,
    settings: Distillation | None,
    student: nn.Module,
    source: TeacherSource | None,
    examples: int,
    kept: Sequence[int] | None = None,
    precision: MatmulPrecision = "highest",
) -> Iterator[Distiller]:
    """The loss of a training of `student` on `examples` examples; its hooks go when the block ends.

    `kept`: the student's layers as indices into the model that it came from. `precision`: of the products
    of a teacher that runs. Raises TrainingError when the teacher does not fit, CheckpointError and ModelError
    when it cannot be loaded.
    """
    settings = settings or Distillation(hardness=0.0)
    teacher: nn.Module | Tensor | None = None
    layers = tuple(range(len(layer_list(student))))
    if source is not None and wants_teacher(settings):
        if isinstance(source, TeacherLogits):
            teacher = _cached(source.values, task, settings, student, examples)
        else:
            live = _live(source.folder, task, student)
            teacher, layers = live, layer_map(kept or layers, len(layer_list(live)))
    loss = Distiller(task, settings, student, teacher, layers, precision)
    try:
        yield loss
    finally:
        loss.close()


def wants_teacher(settings: Distillation) -> bool:
    """Whether any part of the loss needs a teacher."""
    return settings.hardness > 0 or needs_live_teacher(settings)


def needs_live_teacher(settings: Distillation) -> bool:
    """Whether cached logits are not enough."""
    return settings.hidden > 0 or settings.relations > 0


def _cached(
    values: NDArray[np.float32], task: TrainingTask, settings: Distillation, student: nn.Module, examples: int
) -> Tensor:
    if task.name != "text-classification" or needs_live_teacher(settings):
        what = f"the task {task.name}" if task.name != "text-classification" else "'hidden' and 'relations'"
        raise TrainingError(f"{what} cannot be distilled from cached logits; give the teacher's folder")
    fitting = (examples, int(config_of(student).num_labels))
    if values.shape != fitting:
        raise TrainingError(
            f"teacher logits have shape {values.shape}, the data needs {fitting}; compute them again"
        )
    if not np.isfinite(values).all():
        raise TrainingError("teacher logits hold values that are not finite; train the teacher again")
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _live(folder: Path, task: TrainingTask, student: nn.Module) -> nn.Module:
    teacher = checkpoints.load(folder, task.name).model
    teacher.requires_grad_(False).eval().to(next(student.parameters()).device)
    own, theirs = config_of(student), config_of(teacher)
    if theirs.vocab_size != own.vocab_size:
        raise TrainingError(
            f"the teacher {folder} has a vocabulary of {theirs.vocab_size} tokens, the student of "
            f"{own.vocab_size}; give a teacher with the same tokenizer"
        )
    if task.name in ("text-classification", "token-classification"):
        labels = [tuple(dict(config.id2label).values()) for config in (own, theirs)]
        unnamed = [all(str(label).startswith("LABEL_") for label in names) for names in labels]
        if len(labels[0]) != len(labels[1]) or (not any(unnamed) and labels[0] != labels[1]):
            raise TrainingError(
                f"the teacher {folder} has the labels {', '.join(map(str, labels[1]))[:80]}, the student "
                f"{', '.join(map(str, labels[0]))[:80]}; give a teacher of the same labels in the same order"
            )
    return teacher


def config_of(model: nn.Module) -> Any:
    return model.config


def width(model: nn.Module) -> int:
    """Channels of the encoder's hidden states."""
    return int(config_of(model).hidden_size)  # DistilBERT maps this name to its dim
