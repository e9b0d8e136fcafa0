"""From measured figures to a package: manifest, golden examples, reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgebert.compression import TaskData
from edgebert.data import data_hash
from edgebert.evaluation import Evaluation
from edgebert.figures import Report
from edgebert.golden import GoldenExample, record_golden
from edgebert.manifest import (
    Backend,
    Cpu,
    Gate,
    InputTensor,
    Manifest,
    Source,
    StageMetrics,
    TokenizerSettings,
)
from edgebert.measure import Measured
from edgebert.package import PackageContents, write_package
from edgebert.report import report_json
from edgebert.report.html import report_html
from edgebert.source_model import SourceModel
from edgebert.tasks.package import PackageTask
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import SessionOptions, Target

GOLDEN_COUNT = 24


def golden_examples(
    target: Target, model: Path, tokenizer: TextTokenizer, evaluation: Evaluation
) -> tuple[GoldenExample, ...]:
    """Examples spread evenly over the evaluation data, as the artifact `model` answers them on one thread."""
    count = min(GOLDEN_COUNT, len(evaluation.examples))
    places = np.linspace(0, len(evaluation.examples) - 1, count).round().astype(int)
    chosen = evaluation.chosen(sorted(set(places.tolist())))
    firsts, seconds = zip(*map(evaluation.task.texts, chosen.examples), strict=True)
    session = target.open(model, SessionOptions(threads=1))
    try:
        return record_golden(session, tokenizer, firsts, seconds, chosen.right)
    finally:
        session.close()


def golden_tolerance(target: Target, task: PackageTask, golden: Sequence[GoldenExample]) -> float:
    """Largest difference to the golden examples that another CPU may show."""
    recorded = [np.array(example.logits, np.float32) for example in golden]
    return task.golden_tolerance(target.golden_tolerance, recorded)


def make_manifest(
    target: Target,
    report: Report,
    measured: Measured,
    tokenizer: TextTokenizer,
    data: TaskData,
    model: SourceModel,
    golden_tolerance: float,
) -> Manifest:
    """The manifest of what was built; `write_package` adds the files."""
    facts = target.inspect(measured.converted[-1].model)
    checked = report.validation
    metrics = [StageMetrics(step.name, {checked.metric: step.score}) for step in measured.steps]
    metrics.append(StageMetrics("artifact", {checked.metric: measured.score}))
    return Manifest(
        task=report.task,
        labels=data.labels,
        target=target.name,
        backend=Backend(target.backend, target.backend_version()),
        cpu=Cpu(facts.cpu_architectures, facts.cpu_features_any),
        model_file=target.model_file,
        inputs=tuple(InputTensor(item.name, item.dtype, item.shape) for item in facts.inputs),
        lengths=facts.lengths,
        tokenizer=TokenizerSettings(
            max_length=tokenizer.max_length,
            pad_id=tokenizer.pad_id,
            token_types=tokenizer.token_types,
            lowercase=tokenizer.lowercase,
        ),
        source=Source(
            model.name,
            model.sha256,
            {
                role: data_hash(rows)
                for role, rows in (("train", data.train), ("eval", data.evaluation))
                if rows
            },
        ),
        recipe=report.recipe,
        seeds={"build": report.seed},
        metrics=tuple(metrics),
        gate=Gate(checked.metric, checked.teacher, checked.max_drop),
        golden_tolerance=golden_tolerance,
    )


def ship(
    out: Path, report: Report, manifest: Manifest, measured: Measured, golden: Sequence[GoldenExample],
    *, as_zip: bool, force: bool,
) -> Manifest:  # fmt: skip
    """Write the package at `out`. Raises OutputError, DiskFullError."""
    last = measured.converted[-1]
    contents = PackageContents(
        manifest=manifest,
        model=last.model,
        checkpoint=last.checkpoint.folder,
        golden=tuple(golden),
        report_json=report_json(report).decode(),
        report_html=report_html(report),
    )
    return write_package(out, contents, as_zip=as_zip, force=force)
