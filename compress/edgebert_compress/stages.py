"""Run one stage of a recipe, from checkpoint folder to checkpoint folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgebert_compress import checkpoint as checkpoints
from edgebert_compress import distributed, quantize
from edgebert_compress.activation_ranges import StaticActivations
from edgebert_compress.architecture import layer_list, prunable_parameters
from edgebert_compress.calibration import calibrate, check_examples
from edgebert_compress.checkpoint import Checkpoint, CompressionRecord
from edgebert_compress.data import Progress, TokenizedDataset
from edgebert_compress.errors import CheckpointError
from edgebert_compress.freezing import check_pruned
from edgebert_compress.kcm import PATTERN, KcmFacts, fast_compress
from edgebert_compress.layer_drop import drop_layers, layers_to_keep
from edgebert_compress.masks import Masks, full_masks, masks_from_zeros, sparsity
from edgebert_compress.pruner import Pruner
from edgebert_compress.quantize import Int8Tensor
from edgebert_compress.recipe import (
    DropLayersStage,
    FastStage,
    PruneStage,
    QuantizeStage,
    Stage,
    TrainStage,
    stage_as_dict,
)
from edgebert_compress.resume import EVERY, Note, SnapshotFolder, identity
from edgebert_compress.tasks import TEXT_CLASSIFICATION, TrainingTask
from edgebert_compress.teacher import TeacherSource, wants_teacher
from edgebert_compress.trainer import TrainingFacts, train_model
from edgebert_compress.training_run import Evaluate, Holding, Job


@dataclass(frozen=True)
class StageFacts:
    """What a stage did.

    `sparsity`: share of zeros over all prunable weights. `sparsity_curve`: (training step, share of zeros
    over the tensors that the stage prunes) after each pruning step. `dampening_curve`: (training step,
    smallest and largest λ of a tensor) of each Fisher estimate. `metric_curve`: (training steps done,
    value) of `evaluate` at the end of each epoch and after each pruning step. `seconds`: wall-clock time.
    `fast`: what the fast path kept and how it scaled the rest (`KcmFacts`), None for other stages.
    """

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
    metric_curve: tuple[tuple[int, float], ...] = ()
    fast: dict[str, Any] | None = None
    dampening_curve: tuple[tuple[int, float, float], ...] = ()

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
            "metric_curve": [list(point) for point in self.metric_curve],
            **({} if self.fast is None else {"fast": self.fast}),
            **(
                {"dampening_curve": [list(point) for point in self.dampening_curve]}
                if self.dampening_curve
                else {}
            ),
        }


@dataclass(frozen=True)
class _Result:
    """What a stage leaves in the model: masks, their patterns, and what it has to say of itself."""

    training: TrainingFacts
    masks: Masks
    patterns: dict[str, str]
    kept: tuple[int, ...]
    sparsity_curve: tuple[tuple[int, float], ...] = ()
    quantized: dict[str, Int8Tensor] | None = None
    static: StaticActivations | None = None
    fast: KcmFacts | None = None
    dampening_curve: tuple[tuple[int, float, float], ...] = ()


def run_drop(loaded: Checkpoint, stage: DropLayersStage, job: Job) -> _Result:
    """Drop layers, then train what is left."""
    model, record = loaded.model, _record(loaded)
    keep = layers_to_keep(stage, len(layer_list(model)))
    before = {id(value): name for name, value in prunable_parameters(model).items()}
    masks = checkpoints.masks_of(loaded)
    drop_layers(model, keep)
    parameters = prunable_parameters(model)
    old_names = {name: before[id(value)] for name, value in parameters.items()}
    masks = {name: masks[old] for name, old in old_names.items() if old in masks}
    patterns = {name: record.sparsity[old]["pattern"] for name, old in old_names.items() if name in masks}
    kept = tuple(record.layers_kept[index] for index in keep)
    facts = train_model(
        model, stage.training, replace(job, kept=kept), Holding(parameters, masks), phase="drop layers"
    )
    return _Result(facts, masks, patterns, kept)


def run_prune(
    loaded: Checkpoint, stage: PruneStage, job: Job, memory: int | None, scratch: Path | None
) -> _Result:
    """Prune gradually, with training between the pruning steps."""
    record = _record(loaded)
    pruner = Pruner(loaded.model, stage, job, checkpoints.masks_of(loaded), memory, scratch)
    if stage.method == "obert":
        check_pruned(pruner.pruned, stage.training.frozen)
    facts = train_model(loaded.model, stage.training, job, pruner, phase="prune")
    patterns = {name: row["pattern"] for name, row in record.sparsity.items()}
    patterns |= dict.fromkeys(pruner.pruned, stage.pattern)
    return _Result(
        facts,
        pruner.masks,
        patterns,
        record.layers_kept,
        tuple(pruner.curve),
        dampening_curve=tuple(pruner.dampening_curve),
    )


def run_fast(loaded: Checkpoint, stage: FastStage, job: Job) -> _Result:
    """Prune heads and FFN units without training; shapes stay, what goes becomes zeros in blocks of 4."""
    record = _record(loaded)
    fast = fast_compress(
        loaded.model,
        job.task,
        job.data,
        keep=stage.keep,
        samples=stage.samples,
        seed=job.seed,
        progress=job.progress,
    )
    facts = TrainingFacts(fast.seconds, 0.0, 0, fast.examples, loaded.new_head, ())
    parameters = prunable_parameters(loaded.model)
    patterns = dict.fromkeys(parameters, PATTERN)
    patterns |= {name: row["pattern"] for name, row in record.sparsity.items()}
    return _Result(facts, masks_from_zeros(parameters, 1), patterns, record.layers_kept, fast=fast)


def run_train(loaded: Checkpoint, stage: TrainStage | QuantizeStage, job: Job) -> _Result:
    """Train with fixed masks, in simulated INT8 for a quantize stage."""
    record = _record(loaded)
    masks = checkpoints.masks_of(loaded)
    patterns = {name: row["pattern"] for name, row in record.sparsity.items()}
    method = stage.method if isinstance(stage, QuantizeStage) else None
    if isinstance(stage, QuantizeStage):
        quantize.prepare(loaded.model, stage.products)
        if method is not None:
            calibrate(
                loaded.model,
                method,
                job.task,
                job.data,
                examples=stage.examples,
                seed=job.seed,
                progress=job.progress,
            )
    holding = Holding(prunable_parameters(loaded.model), masks)
    facts = train_model(
        loaded.model, stage.training, job, holding, phase=stage.kind, new_head=loaded.new_head
    )
    quantized = quantize.export(loaded.model) if isinstance(stage, QuantizeStage) else None
    static = None if method is None else StaticActivations(method, quantize.static_ranges(loaded.model))
    return _Result(facts, masks, patterns, record.layers_kept, quantized=quantized, static=static)


def check_stages(stages: Sequence[Stage], train: TokenizedDataset) -> None:
    """What the last stage would find only after hours. Raises TrainingError."""
    for stage in stages:
        if isinstance(stage, QuantizeStage) and stage.method is not None:
            check_examples(train, stage.examples)


def run_stage(
    checkpoint: Path,
    out: Path,
    stage: Stage,
    train: TokenizedDataset,
    teacher: TeacherSource | None,
    seed: int,
    progress: Progress,
    *,
    task: TrainingTask = TEXT_CLASSIFICATION,
    labels: Sequence[str] | None = None,
    memory: int | None = None,
    resume: Path | None = None,
    snapshot_every: float = EVERY,
    evaluate: Evaluate | None = None,
    device: str | torch.device = "cpu",
    note: Note = warnings.warn,
) -> StageFacts:
    """Run `stage` on the compressed or plain folder `checkpoint`; write a compressed checkpoint to `out`.

    `teacher`: None trains on the task's loss alone. Weights that an earlier stage pruned stay zero. `out`
    appears whole or not at all. `labels`: of a head that a TrainStage makes anew; None: the checkpoint's own.
    `memory`: bytes that pruning may use besides the model.

    `resume`: a folder of this run's own for snapshots, every `snapshot_every` seconds and after each pruning
    step. A run that was killed at any moment goes on from there to the same bytes; the folder stays behind.
    `note` is told of that, and of snapshots that are damaged, which are not used.

    In a process group every process calls this with the same arguments, and the first writes.
    Raises CheckpointError, ModelError, RecipeError and TrainingError.
    """
    checkpoints.check_free(out)
    loaded = _load(checkpoint, stage, task, labels, seed)
    record = _record(loaded)
    if record.quantization is not None:
        raise CheckpointError(
            f"{checkpoint} is quantised already and its weights are fixed; start from before"
        )
    loaded.model.to(torch.device(device))
    distilled = teacher is not None and wants_teacher(stage.distillation)
    snapshots = None
    if resume is not None:
        source = teacher.identity() if teacher is not None and distilled else None
        parts = [stage_as_dict(stage), stage.kind, task.name, list(labels or ()), seed, source]
        snapshots = SnapshotFolder(resume, identity(parts, checkpoint, train), note, every=snapshot_every)
    job = Job(
        task,
        train,
        seed,
        progress,
        stage.distillation,
        teacher,
        record.layers_kept,
        evaluate,
        snapshots,
        note,
    )
    if isinstance(stage, DropLayersStage):
        result = run_drop(loaded, stage, job)
    elif isinstance(stage, PruneStage):
        result = run_prune(loaded, stage, job, memory, resume)
    elif isinstance(stage, FastStage):
        result = run_fast(loaded, stage, job)
    else:
        result = run_train(loaded, stage, job)
    facts = _facts(stage, loaded.model, result, distilled)
    finished = replace(
        record,
        seed=seed,
        recipe={**record.recipe, "stages": [*record.recipe["stages"], stage_as_dict(stage)]},
        stages=(*record.stages, facts.figures()),
        layers_kept=result.kept,
        sparsity={name: {"pattern": pattern} for name, pattern in result.patterns.items()},
    )
    if distributed.world()[0] == 0:
        attention = stage.products if isinstance(stage, QuantizeStage) else "float"
        checkpoints.save(
            Checkpoint(loaded.model.to("cpu"), finished),
            checkpoint,
            out,
            quantized=result.quantized,
            attention=attention,
            static=result.static,
        )
    distributed.least(0)  # the others wait until it is written
    return facts


def _load(
    folder: Path, stage: Stage, task: TrainingTask, labels: Sequence[str] | None, seed: int
) -> Checkpoint:
    """The checkpoint with its record; a plain folder gets a new one."""
    new_head = isinstance(stage, TrainStage) and stage.new_head
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a new head draws from the global generator
        loaded = checkpoints.load(folder, task.name, labels if new_head else None, new_head=new_head)
    if loaded.record is not None:
        return loaded
    record = CompressionRecord(
        seed=seed,
        recipe={"stages": []},
        stages=(),
        layers_kept=tuple(range(len(layer_list(loaded.model)))),
        sparsity=checkpoints.find_sparsity(loaded.model),
        task=task.name,
    )
    return replace(loaded, record=record)


def _record(loaded: Checkpoint) -> CompressionRecord:
    assert loaded.record is not None
    return loaded.record


def _facts(stage: Stage, model: nn.Module, result: _Result, distilled: bool) -> StageFacts:
    training = result.training
    return StageFacts(
        name=stage.title,
        kind=stage.kind,
        seconds=training.seconds,
        epochs=training.epochs,
        steps=training.steps,
        distilled=distilled,
        loss_curve=training.loss_curve,
        layers_kept=result.kept,
        sparsity=sparsity(full_masks(prunable_parameters(model)) | result.masks),
        sparsity_curve=result.sparsity_curve,
        quantized_tensors=len(result.quantized or ()),
        metric_curve=training.metric_curve,
        fast=None if result.fast is None else result.fast.figures(),
        dampening_curve=result.dampening_curve,
    )
