"""Prove a package on a device: metric, golden examples, tokenizer, and every example against this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert.device_check import (
    architecture_notes,
    compare_with_host,
    count_wrong,
    device_problems,
    kernels_by_features,
    spread,
)
from edgebert.device_session import DeviceModel, answer_all, answer_rows, model_on_host, open_model
from edgebert.devices.base import Device, DeviceFacts
from edgebert.errors import DataError, MissingExtraError, WrongCpuError
from edgebert.evaluation import Evaluation, evaluation_of
from edgebert.figures import DeviceBench, DeviceFigures
from edgebert.golden import GoldenExample, GoldenForm
from edgebert.machine import machine_facts
from edgebert.package import open_package
from edgebert.pipeline import load, package_target
from edgebert.progress import Reporter, SilentReporter
from edgebert.tasks.package import Figures, PackageTask, task_of_package
from edgebert.tasks.rows import Answers, Row
from edgebert.tokenizer import TextTokenizer
from edgebert.validate import (
    GoldenCheck,
    PackageValidation,
    check_examples,
    compare_golden,
    data_notes,
    gate_problems,
    golden_evaluation,
    golden_problems,
    host_ids,
)
from edgebert_targets.base import Target
from edgebert_targets.errors import MissingExtraError as TargetMissingExtraError
from edgebert_targets.errors import WrongCpuError as TargetWrongCpuError

NOT_HERE = (WrongCpuError, MissingExtraError, TargetWrongCpuError, TargetMissingExtraError)


@dataclass(frozen=True)
class Proven:
    """What a model on a device did. `answers`: to the rows that were measured, giving `measured`."""

    answers: Answers
    measured: Figures | None
    golden: GoldenCheck
    figures: DeviceFigures


@dataclass(frozen=True)
class Question:
    """What a device is asked: golden examples, then the rows of `evaluation` (of `available` examples).

    `evaluation` None: no examples are measured. `form`: of the golden examples. `host`: this machine's
    answers to all of them in that order, None where it cannot run the model.
    """

    task: PackageTask
    golden: Sequence[GoldenExample]
    form: GoldenForm
    evaluation: Evaluation | None
    available: int
    host: Answers | None
    tolerance: float

    @property
    def rows(self) -> Sequence[Row]:
        return () if self.evaluation is None else self.evaluation.rows

    @property
    def texts(self) -> list[tuple[str, str | None]]:
        """Texts that the device may tokenise itself: all, or the golden ones where rows are text parts."""
        found = [(row.text, row.text_pair) for row in self.golden]
        if self.evaluation is not None and self.task.whole_texts:
            found += [self.task.texts(example) for example in self.evaluation.examples]
        return found


def validate_on_device(
    path: str | Path,
    examples: Sequence[Any],
    device: Device,
    threads: int = 1,
    min_accuracy: float | None = None,
    limit: int | None = None,
    reporter: Reporter | None = None,
) -> PackageValidation:
    """Measure the package at `path` on the entered `device`; the gate judges what the device computed.

    `limit`: so many examples, spread over `examples`. `min_accuracy` takes the place of the manifest's gate.
    Raises DeviceError, WrongCpuError, UsageError, DataError and what opening a package raises.
    """
    with open_package(Path(path)) as package:
        manifest, target = package.manifest, package_target(package.manifest)
        facts = device.facts()
        notes = [
            *architecture_notes(target, device.name, facts.architecture),
            *data_notes(manifest, examples),
        ]
        task = task_of_package(manifest.task)
        check_examples(task, examples)
        chosen = spread(examples, limit)
        if len(chosen) < len(examples):
            notes.append(f"{len(chosen)} of {len(examples)} examples were run on the device (--limit)")
        task.check(chosen, manifest.labels)  # before minutes of work
        golden, tokenizer = package.golden(), package.tokenizer()
        if not golden and not chosen:
            raise DataError("the package has no golden examples; give examples with --eval")
        model = open_model(device, model_on_host(package), reporter)
        evaluation = evaluation_of(task, manifest.labels, chosen, tokenizer) if chosen else None
        asked = Question(
            task, golden, package.golden_form, evaluation, len(examples), None, manifest.golden_tolerance
        )
        host, why = _host_answers(path, asked, threads)
        notes += [f"not compared with this machine: {why}"] if why else []
        question = replace(asked, host=host)
        proven = prove(model, facts, question, tokenizer, target, threads, reporter)
        problems = [
            *golden_problems(proven.golden),
            *device_problems(proven.figures, target),
            *gate_problems(manifest, task, proven.measured, min_accuracy),
        ]
        return PackageValidation(
            proven.measured, proven.golden, tuple(problems), tuple(notes), proven.figures
        )


def prove(
    model: DeviceModel,
    facts: DeviceFacts,
    question: Question,
    tokenizer: TextTokenizer,
    target: Target,
    threads: int,
    reporter: Reporter | None = None,
    bench: tuple[DeviceBench, ...] = (),
) -> Proven:
    """Ask `model`, compare its answers with the host's and the golden examples. Raises DeviceError."""
    told, begin = reporter or SilentReporter(), time.monotonic()
    texts, first = question.texts, len(question.golden)
    parts = [] if len(texts) > first else question.rows  # asked as ids: parts of texts
    phase, total = f"{facts.name}: answer the examples", len(texts) + len(parts)
    answers: list[NDArray[np.float32]] = []
    ids: tuple[tuple[int, ...], ...] | None = None
    if texts:
        told_texts = answer_all(
            model, [text for text, _ in texts], [pair for _, pair in texts], threads,
            on_done=lambda done: told.progress(phase, done, total),
        )  # fmt: skip
        answers, ids = list(told_texts.answers), told_texts.ids
    if parts:
        answers += answer_rows(
            model, parts, tokenizer.pad_id, threads,
            on_done=lambda done: told.progress(phase, len(texts) + done, total),
        )  # fmt: skip
    right = host_ids(tokenizer, [text for text, _ in texts], [pair for _, pair in texts])
    golden = GoldenCheck(0, 0, None, 0, 0.0, question.tolerance)
    if question.golden:
        runtime_ids = None if ids is None else ids[:first]
        golden = compare_golden(
            question.task, question.form, question.golden, right[:first], runtime_ids, answers[:first],
            question.tolerance,
        )  # fmt: skip
    host = None
    if question.host is not None:
        kernels = host_kernels(target)
        host = compare_with_host(question.task, answers, question.host, target, model.kernels, kernels)
    evaluation, found = question.evaluation, answers[first:]
    if evaluation is None and question.task.measured_against_model:
        evaluation, found = golden_evaluation(question.task, question.golden), answers
    measured = None if evaluation is None else evaluation.figures(found)
    figures = DeviceFigures(
        facts=facts,
        runtime=model.runtime,
        kernels=model.kernels,
        examples=0 if question.evaluation is None else len(question.evaluation.examples),
        available=question.available,
        accuracy=None if measured is None else float(getattr(measured, question.task.metric)),
        wrong_tokens=count_wrong(ids, right),
        golden_examples=golden.examples,
        golden_wrong=golden.wrong_ids + golden.wrong_classes + (golden.wrong_runtime_ids or 0),
        golden_max_difference=golden.max_difference,
        host=host,
        bench=bench,
        seconds=round(time.monotonic() - begin, 2),
    )
    return Proven(found, measured, golden, figures)


def host_kernels(target: Target) -> str:
    """What the runtime computes with on this machine."""
    kernels = target.kernels()
    return kernels.used if kernels else kernels_by_features(machine_facts().features)


def _host_answers(path: str | Path, question: Question, threads: int) -> tuple[Answers | None, str]:
    """This machine's answers, or None and why it cannot run the package."""
    try:
        with load(path, threads) as model:
            found = model.golden_answers(question.golden)
            return [*found, *model.answers(question.rows)], ""
    except NOT_HERE as error:
        return None, str(error)
