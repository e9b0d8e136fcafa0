"""Prove a package on a device: metric, golden examples, tokenizer, and every example against this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgebert.data import Example
from edgebert.device_check import (
    architecture_notes,
    compare_with_host,
    count_wrong,
    device_problems,
    kernels_by_features,
    spread,
)
from edgebert.device_session import DeviceModel, answer_all, model_on_host, open_model
from edgebert.devices.base import Device, DeviceFacts
from edgebert.errors import DataError, MissingExtraError, WrongCpuError
from edgebert.figures import DeviceBench, DeviceFigures
from edgebert.golden import GoldenExample
from edgebert.machine import machine_facts
from edgebert.package import open_package
from edgebert.pipeline import load, package_target
from edgebert.progress import Reporter, SilentReporter
from edgebert.tasks.text_classification import Figures, class_ids
from edgebert.tokenizer import TextTokenizer
from edgebert.validate import (
    GoldenCheck,
    PackageValidation,
    compare_golden,
    data_notes,
    evaluate,
    gate_problems,
    golden_problems,
    host_ids,
)
from edgebert_targets.base import Target
from edgebert_targets.errors import MissingExtraError as TargetMissingExtraError
from edgebert_targets.errors import WrongCpuError as TargetWrongCpuError

NOT_HERE = (WrongCpuError, MissingExtraError, TargetWrongCpuError, TargetMissingExtraError)


@dataclass(frozen=True)
class Proven:
    """What a model on a device did. `logits`: of the examples, float32 [n, classes]; `measured`: on them."""

    logits: NDArray[np.float32]
    measured: Figures | None
    golden: GoldenCheck
    figures: DeviceFigures


@dataclass(frozen=True)
class Question:
    """What a device is asked: golden examples, then `examples` out of `available`.

    `host`: this machine's logits for all of them in that order, None where it cannot run the model.
    """

    labels: Sequence[str]
    golden: Sequence[GoldenExample]
    examples: Sequence[Example]
    available: int
    host: NDArray[np.float32] | None
    tolerance: float

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self.golden] + [row.text for row in self.examples]

    @property
    def pairs(self) -> list[str | None]:
        return [row.text_pair for row in self.golden] + [row.text_pair for row in self.examples]


def validate_on_device(
    path: str | Path,
    examples: Sequence[Example],
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
        chosen = spread(examples, limit)
        if len(chosen) < len(examples):
            notes.append(f"{len(chosen)} of {len(examples)} examples were run on the device (--limit)")
        class_ids([example.label for example in chosen], manifest.labels)  # before minutes of work
        golden = package.golden()
        if not golden and not chosen:
            raise DataError("the package has no golden examples; give examples with --eval")
        model = open_model(device, model_on_host(package), reporter)
        asked = Question(manifest.labels, golden, chosen, len(examples), None, manifest.golden_tolerance)
        host, why = _host_logits(path, asked, threads)
        notes += [f"not compared with this machine: {why}"] if why else []
        question = replace(asked, host=host)
        proven = prove(model, facts, question, package.tokenizer(), target, threads, reporter)
        problems = [
            *golden_problems(proven.golden),
            *device_problems(proven.figures, target),
            *gate_problems(manifest, proven.measured, min_accuracy),
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
    texts, pairs = question.texts, question.pairs
    phase = f"{facts.name}: answer the examples"
    answers = answer_all(
        model, texts, pairs, threads, on_done=lambda done: told.progress(phase, done, len(texts))
    )
    right, first = host_ids(tokenizer, texts, pairs), len(question.golden)
    golden = GoldenCheck(0, 0, None, 0, 0.0, question.tolerance)
    if question.golden:
        runtime_ids = None if answers.ids is None else answers.ids[:first]
        golden = compare_golden(
            question.golden, right[:first], runtime_ids, answers.logits[:first], question.tolerance
        )
    host = None
    if question.host is not None:
        host = compare_with_host(answers.logits, question.host, target, model.kernels, host_kernels(target))
    logits, measured = answers.logits[first:], None
    if question.examples:
        measured = evaluate(logits, question.examples, question.labels)
    figures = DeviceFigures(
        facts=facts,
        runtime=model.runtime,
        kernels=model.kernels,
        examples=len(question.examples),
        available=question.available,
        accuracy=None if measured is None else measured.accuracy,
        wrong_tokens=count_wrong(answers.ids, right),
        golden_examples=golden.examples,
        golden_wrong=golden.wrong_ids + golden.wrong_classes + (golden.wrong_runtime_ids or 0),
        golden_max_difference=golden.max_difference,
        host=host,
        bench=bench,
        seconds=round(time.monotonic() - begin, 2),
    )
    return Proven(logits, measured, golden, figures)


def host_kernels(target: Target) -> str:
    """What the runtime computes with on this machine."""
    kernels = target.kernels()
    return kernels.used if kernels else kernels_by_features(machine_facts().features)


def _host_logits(
    path: str | Path, question: Question, threads: int
) -> tuple[NDArray[np.float32] | None, str]:
    """This machine's logits, or None and why it cannot run the package."""
    try:
        with load(path, threads) as classifier:
            return classifier.logits(question.texts, question.pairs), ""
    except NOT_HERE as error:
        return None, str(error)
