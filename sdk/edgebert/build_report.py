"""The report of a build, filled from what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert.compression import TaskData
from edgebert.data import data_hash
from edgebert.evaluation import Evaluation
from edgebert.figures import (
    DatasetFigures,
    LayerFigures,
    Report,
    SizeFigures,
    StageFigures,
    ValidationFigures,
)
from edgebert.machine import library_versions, machine_facts
from edgebert.measure import Measured
from edgebert.package import SIDE_FILES
from edgebert.parts import by_part
from edgebert.source_model import SourceModel
from edgebert_targets.base import Target

if TYPE_CHECKING:
    from edgebert_compress.recipe import Recipe


def build_report(
    target: Target,
    model: SourceModel,
    evaluation: Evaluation,
    data: TaskData,
    names: tuple[str, str],
    recipe: Recipe,
    seed: int,
    measured: Measured,
    notes: Sequence[str],
) -> Report:
    """All figures of one target. `names`: how the training and the evaluation data are called."""
    last = measured.converted[-1]
    facts = target.inspect(last.model)
    splits = (("train", names[0], data.train), ("eval", names[1], data.evaluation))
    return Report(
        task=evaluation.task.name,
        target=target.name,
        backend=target.backend,
        backend_version=target.backend_version(),
        model=model.name,
        labels=len(data.labels),
        seed=seed,
        recipe=recipe.as_dict(),
        created_with=library_versions(),
        machine=machine_facts(),
        datasets=tuple(DatasetFigures(name, role, len(rows), data_hash(rows)) for role, name, rows in splits),
        stages=stage_figures(measured),
        validation=validation_figures(measured, evaluation),
        bench=measured.benches,
        size=SizeFigures(
            parts=tuple((part.part, part.nbytes) for part in by_part(facts)),
            model_raw=last.raw_bytes,
            model_zip=last.zip_bytes,
            package_bytes=last.raw_bytes + side_file_bytes(last.checkpoint.folder),
        ),
        layers=tuple(
            LayerFigures(tensor.name, tensor.part, tensor.dtype, tensor.shape, tensor.sparsity)
            for tensor in facts.tensors
        ),
        notes=(*facts.notes, *notes),
    )


def stage_figures(measured: Measured) -> tuple[StageFigures, ...]:
    """A line a stage: what it cost in accuracy and bought in size and speed on the target."""
    rows = []
    for i, (item, speed) in enumerate(zip(measured.converted, measured.speeds, strict=True)):
        step = item.checkpoint
        before = measured.steps[i - 1].score if i else step.score
        rows.append(
            StageFigures(
                name=step.name,
                kind=step.kind,
                description=step.description,
                seconds=float(step.facts.get("seconds", 0.0)),
                accuracy=step.score,
                accuracy_cost=before - step.score,
                size_raw_bytes=item.raw_bytes,
                size_zip_bytes=item.zip_bytes,
                latency_p50_ms=speed.p50_ms,
                speed_vs_previous=speed.vs_previous,
                sparsity=checkpoint_sparsity(step.folder),
            )
        )
    return tuple(rows)


def validation_figures(measured: Measured, evaluation: Evaluation) -> ValidationFigures:
    verdict = measured.verdict
    return ValidationFigures(
        examples=len(evaluation.examples),
        metric=evaluation.task.metric,
        teacher=measured.steps[0].score,
        compressed_pytorch=measured.steps[-1].score,
        artifact=measured.score,
        agreement_with_pytorch=measured.agreement,
        teacher_agreement=measured.teacher_agreement,
        max_logit_difference=measured.max_logit_difference,
        drop=verdict.drop,
        max_drop=verdict.max_drop,
        passed=verdict.passed,
        guilty_stage=None if verdict.passed else verdict.guilty,
        where=measured.where,
    )


def checkpoint_sparsity(checkpoint: Path) -> float:
    """Share of zeros over all pruned tensors of a compressed checkpoint; 0 where nothing was pruned."""
    path = checkpoint / "compression.json"
    tensors = json.loads(path.read_text())["sparsity"].values() if path.is_file() else ()
    total = sum(tensor["size"] for tensor in tensors)
    return sum(tensor["zeros"] for tensor in tensors) / total if total else 0.0


def side_file_bytes(checkpoint: Path) -> int:
    """Bytes of the tokenizer and configuration files that a package carries beside the model."""
    return sum((checkpoint / name).stat().st_size for name in SIDE_FILES if (checkpoint / name).is_file())
