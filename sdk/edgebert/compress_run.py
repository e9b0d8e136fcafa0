"""`edgebert compress`: run the recipe and write the last checkpoint of the chain with its report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.atomic import atomic_dir
from edgebert.compress_plan import CompressOptions, Prepared, prepare
from edgebert.compression import CheckpointStep, compress
from edgebert.data import data_hash
from edgebert.figures import DatasetFigures
from edgebert.machine import library_versions, machine_facts, usable_cores
from edgebert.progress import Reporter
from edgebert.report.compression import CompressionReport, Points, StageCurves, write_compression_report

REPORTS = ("report.json", "report.html")


@dataclass(frozen=True)
class CompressResult:
    """The folder that was written, and what its report says."""

    folder: Path
    report: CompressionReport


def compress_model(options: CompressOptions, reporter: Reporter) -> CompressResult:
    """Run the recipe and write `options.out`: a Hugging Face folder, compression.json and the reports.

    The folder appears whole or not at all; under torchrun one process writes it. Raises each part's errors.
    """
    prepared = prepare(options)
    use_threads(options.threads)
    data, recipe = prepared.data, prepared.recipe
    reporter.note(
        f"{prepared.model.name}: {prepared.model.architecture}, {options.task}, "
        f"{len(data.train)} training and {len(data.evaluation)} evaluation examples, "
        f"texts up to {data.max_length} tokens"
    )
    reporter.note(f"recipe '{recipe.name}'" + (f": {recipe.description}" if recipe.description else ""))
    for note in recipe.notes:
        reporter.note(f"note: {note}")
    steps = compress(
        prepared.model,
        data,
        recipe,
        prepared.store,
        options.seed,
        reporter,
        task=options.task,
        teacher=options.teacher,
        memory=options.memory,
        device=options.device,
    )
    report = make_report(prepared, steps, options.seed)
    if not is_writer():
        return CompressResult(options.out, report)
    with atomic_dir(options.out, options.force) as folder:
        shutil.copytree(steps[-1].folder, folder, dirs_exist_ok=True)
        write_compression_report(report, folder)
    return CompressResult(options.out, report)


def use_threads(threads: int | None) -> None:
    """Threads of the training; None takes all cores."""
    import torch

    torch.set_num_threads(threads or usable_cores())


def is_writer() -> bool:
    """Whether this is the process that writes: the only one, or the first that torchrun started."""
    from edgebert_compress.distributed import world

    return world()[0] == 0


def make_report(prepared: Prepared, steps: Sequence[CheckpointStep], seed: int) -> CompressionReport:
    """What the chain of checkpoints cost and did."""
    data = prepared.data
    splits = (("train", prepared.names[0], data.train), ("eval", prepared.names[1], data.evaluation))
    return CompressionReport(
        model=prepared.model.name,
        task=prepared.task.name,
        metric=prepared.task.metric,
        seed=seed,
        recipe=prepared.recipe.as_dict(),
        datasets=tuple(DatasetFigures(name, role, len(rows), data_hash(rows)) for role, name, rows in splits),
        stages=tuple(stage_curves(step) for step in steps),
        size_bytes=sum(path.stat().st_size for path in steps[-1].folder.glob("*.safetensors")),
        created_with=library_versions(),
        machine=machine_facts(),
        notes=(*prepared.recipe.notes, f"texts are cut at {data.max_length} tokens (--max-length)"),
    )


def stage_curves(step: CheckpointStep) -> StageCurves:
    """One checkpoint with what its stage recorded; the teacher has no layers or zeros to tell."""
    facts = step.facts
    kept = facts.get("layers_kept")
    return StageCurves(
        name=step.name,
        kind=step.kind,
        description=step.description,
        value=step.score,
        steps=int(facts.get("steps", 0)),
        seconds=float(facts.get("seconds", 0.0)),
        layers=None if kept is None else len(kept),
        sparsity=facts.get("sparsity"),
        loss_curve=_points(facts, "loss_curve"),
        metric_curve=_points(facts, "metric_curve"),
        sparsity_curve=_points(facts, "sparsity_curve"),
    )


def _points(facts: Mapping[str, Any], name: str) -> Points:
    return tuple((int(step), float(value)) for step, value in facts.get(name, ()))


def result_dict(result: CompressResult) -> dict[str, Any]:
    """What --json prints: the folder, the figures of each stage without the curves, the record beside it."""
    report = result.report.to_dict()
    for stage in report["stages"]:
        for curve in ("loss_curve", "metric_curve", "sparsity_curve"):
            del stage[curve]
    record = result.folder / "compression.json"
    return {
        "folder": str(result.folder),
        "metric": report["metric"],
        "before": result.report.stages[0].value,
        "after": result.report.stages[-1].value,
        "stages": report["stages"],
        "recipe": report["recipe"],
        "notes": report["notes"],
        "quantized": record.is_file() and json.loads(record.read_text()).get("quantization") is not None,
    }
