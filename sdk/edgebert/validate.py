"""Prove a package: its metric on labelled data, its golden examples, its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgebert.data import data_hash
from edgebert.errors import UsageError
from edgebert.evaluation import Evaluation, evaluation_of, largest_difference
from edgebert.figures import DeviceFigures
from edgebert.golden import GoldenExample, GoldenForm
from edgebert.manifest import Manifest
from edgebert.models.base import PackageModel
from edgebert.pipeline import load
from edgebert.tasks.package import Figures, PackageTask
from edgebert.tasks.rows import Answers
from edgebert.tokenizer import TextTokenizer


@dataclass(frozen=True)
class GoldenCheck:
    """What the golden examples gave here against what the build recorded.

    `wrong_runtime_ids`: by the tokenizer inside the model, None where the model has none.
    """

    examples: int
    wrong_ids: int
    wrong_runtime_ids: int | None
    wrong_classes: int
    max_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        wrong = self.wrong_ids + self.wrong_classes + (self.wrong_runtime_ids or 0)
        return not wrong and self.max_difference <= self.tolerance


@dataclass(frozen=True)
class PackageValidation:
    """`figures` is None without examples. `problems`: one line for each thing that failed.

    `device`: where all of it was computed; None: on this machine.
    """

    figures: Figures | None
    golden: GoldenCheck
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    device: DeviceFigures | None = None

    @property
    def passed(self) -> bool:
        return not self.problems


def check_golden(model: PackageModel, golden: Sequence[GoldenExample]) -> GoldenCheck:
    """Run the golden texts one at a time and compare ids, decisions and numbers."""
    return compare_with_golden(model, golden, model.golden_answers(golden))


def compare_with_golden(model: PackageModel, golden: Sequence[GoldenExample], found: Answers) -> GoldenCheck:
    """As `check_golden`, with what `model` answered."""
    tolerance = model.manifest.golden_tolerance
    if not golden:
        return GoldenCheck(0, 0, None, 0, 0.0, tolerance)
    texts, pairs = [row.text for row in golden], [row.text_pair for row in golden]
    ids = host_ids(model.tokenizer, texts, pairs)
    inside = [model.runtime_ids(text, pair) for text, pair in zip(texts, pairs, strict=True)]
    runtime_ids = None if None in inside else [ids or [] for ids in inside]
    return compare_golden(model.task, model.golden_form, golden, ids, runtime_ids, found, tolerance)


def compare_golden(
    task: PackageTask,
    form: GoldenForm,
    golden: Sequence[GoldenExample],
    ids: Sequence[Sequence[int]],
    runtime_ids: Sequence[Sequence[int]] | None,
    found: Answers,
    tolerance: float,
) -> GoldenCheck:
    """Golden examples, one or more, against ids, ids by the runtime's own tokenizer, and answers.

    Answers of another shape than the recorded ones, because other ids were run, count as different.
    """
    expected = [form.answer(row) for row in golden]
    alike = [a.shape == b.shape for a, b in zip(found, expected, strict=True)]
    pairs = [(a, b) for a, b, fits in zip(found, expected, alike, strict=True) if fits]
    same = [task.same(a, b, tolerance) for a, b in pairs]
    wrong = None if runtime_ids is None else _wrong(runtime_ids, golden)
    return GoldenCheck(
        examples=len(golden),
        wrong_ids=_wrong(ids, golden),
        wrong_runtime_ids=wrong,
        wrong_classes=len(golden) - sum(same),
        max_difference=largest_difference([a for a, _ in pairs], [b for _, b in pairs]),
        tolerance=tolerance,
    )


def validate_package(
    path: str | Path, examples: Sequence[Any], threads: int = 1, min_accuracy: float | None = None
) -> PackageValidation:
    """Measure the package at `path` on `examples` of its task (may be none), check golden examples and gate.

    `min_accuracy` takes the place of the manifest's gate. Raises what `load` raises, and DataError.
    """
    with load(path, threads) as model:
        check_examples(model.task, examples)
        recorded = model.golden()
        answers = model.golden_answers(recorded)
        golden = compare_with_golden(model, recorded, answers)
        evaluation = evaluation_of_package(model, examples)
        if evaluation is not None:
            found = model.answers(evaluation.rows)
        else:
            evaluation, found = golden_evaluation(model.task, recorded), answers
        measured = None if evaluation is None else evaluation.figures(found)
        manifest = model.manifest
        notes = (*model.notes, *data_notes(manifest, examples))
        problems = [
            *golden_problems(golden),
            *gate_problems(manifest, model.task, measured, min_accuracy),
        ]
        return PackageValidation(measured, golden, tuple(problems), notes)


def check_examples(task: PackageTask, examples: Sequence[Any]) -> None:
    """Raises UsageError for data where a package is not measured on data."""
    if task.measured_against_model and examples:
        raise UsageError(
            f"a package for {task.name} is measured by its golden examples, which hold what the float model "
            "answers; leave out --eval"
        )


def evaluation_of_package(model: PackageModel, examples: Sequence[Any]) -> Evaluation | None:
    """`examples` as the package reads them; None without any. Raises DataError for labels unknown to it."""
    if not examples:
        return None
    model.task.check(examples, model.labels)  # before minutes of work
    return evaluation_of(model.task, model.labels, examples, model.tokenizer)


def golden_evaluation(task: PackageTask, golden: Sequence[GoldenExample]) -> Evaluation | None:
    """The golden examples as evaluation data, where they hold the float model's answers."""
    if not task.measured_against_model or not golden:
        return None
    return Evaluation(task, (), golden, (), [np.array(row.reference, np.float32) for row in golden])


def data_notes(manifest: Manifest, examples: Sequence[Any]) -> tuple[str, ...]:
    """A line when `examples` are not those that the build measured."""
    recorded = manifest.source.data.get("eval")
    if not examples or recorded is None or data_hash(examples) == recorded:
        return ()
    return ("these are not the evaluation data of the build, whose accuracy the gate refers to",)


def host_ids(tokenizer: TextTokenizer, texts: Sequence[str], pairs: Sequence[str | None]) -> list[list[int]]:
    """Unpadded ids of each text or pair by the package's tokenizer. Raises DataError."""
    return [tokenizer.encode_ids(text, pair)[0] for text, pair in zip(texts, pairs, strict=True)]


def _wrong(ids: Sequence[Sequence[int]], golden: Sequence[GoldenExample]) -> int:
    return sum(tuple(now) != row.ids for now, row in zip(ids, golden, strict=True))


def golden_problems(golden: GoldenCheck) -> list[str]:
    """One line for each thing that the golden examples show to be wrong."""
    problems = []
    if golden.wrong_ids:
        problems.append(
            f"the tokenizer gives other ids for {golden.wrong_ids} of {golden.examples} golden examples"
        )
    if golden.wrong_runtime_ids:
        problems.append(
            f"the tokenizer inside the model gives other ids for {golden.wrong_runtime_ids}"
            f" of {golden.examples} golden examples"
        )
    if golden.wrong_classes:
        problems.append(f"{golden.wrong_classes} of {golden.examples} golden examples get another class")
    # Also when the difference is NaN.
    if not golden.max_difference <= golden.tolerance:
        problems.append(
            f"golden logits differ by {golden.max_difference:.4g}, at most {golden.tolerance:g} is allowed"
        )
    return problems


def gate_problems(
    manifest: Manifest, task: PackageTask, measured: Figures | None, minimum: float | None
) -> list[str]:
    """A line when the metric is below `minimum`, or below the manifest's gate where that is None."""
    if measured is None:
        return []
    gate = manifest.gate
    if minimum is not None:
        value = getattr(measured, task.metric)
        if value >= minimum:
            return []
        return [f"{task.metric} {value:.4f} is below the minimum {minimum:.4f}"]
    value = getattr(measured, gate.metric)
    if gate.allows(value):
        return []
    return [
        f"{gate.metric} {value:.4f} is more than {gate.max_drop:g} below the recorded {gate.reference:.4f}"
    ]
