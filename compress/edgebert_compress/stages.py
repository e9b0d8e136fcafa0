"""Run one stage of a recipe, from checkpoint folder to checkpoint folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from edgebert_compress import checkpoint as checkpoints
from edgebert_compress import magnitude, obert, quantize
from edgebert_compress.architecture import layer_list, prunable_parameters
from edgebert_compress.checkpoint import Checkpoint, CompressionRecord
from edgebert_compress.data import Progress, TokenizedDataset, check_dataset, label_tensor
from edgebert_compress.distill import combined_loss
from edgebert_compress.errors import CheckpointError
from edgebert_compress.layer_drop import drop_layers, layers_to_keep
from edgebert_compress.masks import Masks, apply_masks, full_masks, sparsity
from edgebert_compress.obert import ObertSettings
from edgebert_compress.recipe import DropLayersStage, PruneStage, QuantizeStage, Stage, stage_as_dict
from edgebert_compress.schedule import cubic_sparsity, cyclic_rate, pruning_points
from edgebert_compress.trainer import (
    REPORT_EVERY,
    Hooks,
    TrainingFacts,
    batches,
    forward,
    step_count,
    train_model,
)


@dataclass(frozen=True)
class StageFacts:
    """What a stage did. `sparsity`: share of zeros over all prunable weights. `seconds`: wall-clock time."""

    name: str
    kind: str
    seconds: float
    epochs: float
    steps: int
    distilled: bool
    loss_curve: tuple[tuple[int, float], ...]
    layers_kept: tuple[int, ...]
    sparsity: float
    sparsity_curve: tuple[tuple[int, float], ...]
    quantized_tensors: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**self.figures(), "seconds": self.seconds}

    def figures(self) -> dict[str, Any]:
        """Everything that does not depend on the machine's speed: what `compression.json` keeps."""
        return {
            "name": self.name,
            "kind": self.kind,
            "epochs": self.epochs,
            "steps": self.steps,
            "distilled": self.distilled,
            "loss_curve": [list(point) for point in self.loss_curve],
            "layers_kept": list(self.layers_kept),
            "sparsity": self.sparsity,
            "sparsity_curve": [list(point) for point in self.sparsity_curve],
            "quantized_tensors": self.quantized_tensors,
        }


@dataclass(frozen=True)
class _Work:
    """One stage on a loaded model: everything a stage needs, nothing about folders."""

    model: nn.Module
    data: TokenizedDataset
    teacher_logits: NDArray[np.float32] | None
    seed: int
    progress: Progress

    def train(self, stage: Stage, phase: str, hooks: Hooks) -> TrainingFacts:
        return train_model(
            self.model,
            self.data,
            stage.training,
            distillation=stage.distillation,
            teacher_logits=self.teacher_logits,
            seed=self.seed,
            progress=self.progress,
            phase=phase,
            hooks=hooks,
        )


def task_gradients(
    work: _Work, names: list[str], order: Iterator[list[int]], count: int
) -> Iterator[dict[str, Tensor]]:
    """`count` gradients of the task loss in eval mode, each the mean over the next mini-batch of `order`."""
    device = next(work.model.parameters()).device
    for done in range(count):
        work.model.eval()
        indices = next(order)
        work.model.zero_grad(set_to_none=True)
        logits = forward(work.model, work.data, indices)
        combined_loss(logits, label_tensor(work.data, indices, device), None, None).backward()  # type: ignore[no-untyped-call]
        gradients = {}
        for name in names:
            gradient = work.model.get_parameter(name).grad
            assert gradient is not None
            gradients[name] = gradient.detach().clone()
        if (done + 1) % REPORT_EVERY == 0 or done + 1 == count:
            work.progress("gradients", done + 1, count)
        yield gradients
    work.model.zero_grad(set_to_none=True)


def run_drop(
    work: _Work, stage: DropLayersStage, masks: Masks
) -> tuple[tuple[int, ...], Masks, TrainingFacts]:
    """Drop layers, train what is left; the kept indices and the masks under their new names."""
    keep = layers_to_keep(stage, len(layer_list(work.model)))
    before = {id(value): name for name, value in prunable_parameters(work.model).items()}
    drop_layers(work.model, keep)
    after = {name: before[id(value)] for name, value in prunable_parameters(work.model).items()}
    renamed = {name: masks[old] for name, old in after.items() if old in masks}
    return keep, renamed, work.train(stage, "drop layers", holding(work.model, renamed))


def holding(model: nn.Module, masks: Masks) -> Hooks:
    """Hooks that keep pruned weights at zero."""
    parameters = prunable_parameters(model)
    return Hooks(after_step=lambda: apply_masks(parameters, masks))


def run_prune(
    work: _Work, stage: PruneStage, masks: Masks
) -> tuple[Masks, list[tuple[int, float]], TrainingFacts]:
    """Gradual pruning; the final masks, (training step, sparsity) of each pruning step, the training."""
    parameters = prunable_parameters(work.model)
    current = full_masks(parameters) | masks
    total = step_count(work.data, stage.training)
    points = pruning_points(total, stage.steps, stage.pruning_share)
    targets = cubic_sparsity(stage.initial_sparsity, stage.sparsity, stage.steps)
    settings = ObertSettings(
        stage.block, stage.fisher_block, stage.gradients, stage.dampening, stage.recomputations
    )
    curve: list[tuple[int, float]] = []
    order = batches(work.data, stage.gradient_batch_size, work.seed)

    def prune_to(target: float) -> None:
        nonlocal current
        if stage.method == "obert":

            def source(count: int) -> Iterator[dict[str, Tensor]]:
                return task_gradients(work, list(parameters), order, count)

            current = obert.prune(parameters, current, source, settings, target)
        else:
            current = magnitude.prune(parameters, current, stage.block, target)
            apply_masks(parameters, current)

    def before_step(step: int) -> None:
        for point, target in zip(points, targets, strict=True):
            if point == step:
                prune_to(target)
                curve.append((step, sparsity(current)))
                work.progress("prune", len(curve), stage.steps, sparsity=curve[-1][1])

    hooks = Hooks(
        before_step=before_step,
        after_step=lambda: apply_masks(parameters, current),
        rate=lambda step, total: cyclic_rate(step, total, points),
    )
    if total == 0:  # one-shot: the schedule has no training to spread over
        before_step(0)
    facts = work.train(stage, "prune", hooks)
    return current, curve, facts


def _start_record(model: nn.Module, seed: int) -> CompressionRecord:
    return CompressionRecord(
        seed=seed, recipe={"stages": []}, stages=(), layers_kept=tuple(range(len(layer_list(model))))
    )


def run_stage(
    checkpoint: Path,
    out: Path,
    stage: Stage,
    train: TokenizedDataset,
    teacher_logits: NDArray[np.float32] | None,
    seed: int,
    progress: Progress,
) -> StageFacts:
    """Run `stage` on the compressed or plain folder `checkpoint`; write a compressed checkpoint to `out`.

    `teacher_logits`: float32 [len(train), classes]; None trains on labels alone. Weights that an earlier
    stage pruned stay zero. `out` appears whole or not at all.
    Raises CheckpointError, ModelError, RecipeError and TrainingError.
    """
    started = time.perf_counter()
    checkpoints.check_free(out)
    loaded = checkpoints.load(checkpoint)
    record = loaded.record or _start_record(loaded.model, seed)
    if record.quantization is not None:
        raise CheckpointError(
            f"{checkpoint} is quantised already and its weights are fixed; start from before"
        )
    check_dataset(train, len(loaded.labels))
    work = _Work(loaded.model, train, teacher_logits, seed, progress)
    masks = checkpoints.masks_of(loaded)
    patterns = {name: row["pattern"] for name, row in record.sparsity.items()}
    kept = record.layers_kept
    curve: list[tuple[int, float]] = []
    quantized = None
    if isinstance(stage, DropLayersStage):
        names = {id(value): name for name, value in prunable_parameters(loaded.model).items()}
        keep, masks, facts = run_drop(work, stage, masks)
        kept = tuple(kept[index] for index in keep)
        patterns = {
            name: patterns[names[id(value)]]
            for name, value in prunable_parameters(loaded.model).items()
            if names[id(value)] in patterns
        }
    elif isinstance(stage, PruneStage):
        masks, curve, facts = run_prune(work, stage, masks)
        patterns = dict.fromkeys(masks, stage.pattern)
    else:
        quantize.prepare(loaded.model, stage.attention)
        facts = work.train(stage, "quantize", holding(loaded.model, masks))
        quantized = quantize.export(loaded.model)
    pruned = full_masks(prunable_parameters(loaded.model)) | masks
    summary = StageFacts(
        name=stage.title,
        kind=stage.kind,
        seconds=time.perf_counter() - started,
        epochs=facts.epochs,
        steps=facts.steps,
        distilled=teacher_logits is not None and stage.distillation.hardness > 0,
        loss_curve=facts.loss_curve,
        layers_kept=kept,
        sparsity=sparsity(pruned),
        sparsity_curve=tuple(curve),
        quantized_tensors=len(quantized or ()),
    )
    finished = replace(
        record,
        seed=seed,
        recipe={**record.recipe, "stages": [*record.recipe["stages"], stage_as_dict(stage)]},
        stages=(*record.stages, summary.figures()),
        layers_kept=kept,
        sparsity={name: {"pattern": pattern} for name, pattern in patterns.items()},
    )
    attention = stage.attention if isinstance(stage, QuantizeStage) else "float"
    checkpoints.save(
        Checkpoint(loaded.model, finished), checkpoint, out, quantized=quantized, attention=attention
    )
    return summary
