"""From measured figures to a package: manifest, golden examples, reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgebert.compression import TaskData
from edgebert.data import Example, data_hash
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
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import SessionOptions, Target

GOLDEN_COUNT = 24


def golden_examples(
    target: Target, model: Path, tokenizer: TextTokenizer, evaluation: Sequence[Example]
) -> tuple[GoldenExample, ...]:
    """Examples spread evenly over the evaluation data, as the artifact `model` answers them on one thread."""
    count = min(GOLDEN_COUNT, len(evaluation))
    places = np.linspace(0, len(evaluation) - 1, count).round().astype(int)
    chosen = [evaluation[i] for i in sorted(set(places.tolist()))]
    session = target.open(model, SessionOptions(threads=1))
    try:
        return record_golden(session, tokenizer, [e.text for e in chosen], [e.text_pair for e in chosen])
    finally:
        session.close()


def make_manifest(
    target: Target,
    report: Report,
    measured: Measured,
    tokenizer: TextTokenizer,
    data: TaskData,
    model: SourceModel,
) -> Manifest:
    """The manifest of what was built; `write_package` adds the files."""
    facts = target.inspect(measured.converted[-1].model)
    checked = report.validation
    metrics = [StageMetrics(step.name, {checked.metric: step.accuracy}) for step in measured.steps]
    metrics.append(StageMetrics("artifact", {checked.metric: measured.accuracy}))
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
            {"train": data_hash(data.train), "eval": data_hash(data.evaluation)},
        ),
        recipe=report.recipe,
        seeds={"build": report.seed},
        metrics=tuple(metrics),
        gate=Gate(checked.metric, checked.teacher, checked.max_drop),
        golden_tolerance=target.golden_tolerance,
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
