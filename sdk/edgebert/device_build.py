"""The last step of a build with --device: the artifact proven on the device, and the gate judged by that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgebert.bench import BenchPlan
from edgebert.compression import TaskData
from edgebert.device_bench import bench_on_device
from edgebert.device_check import architecture_notes, device_problems, spread
from edgebert.device_session import ModelOnHost, check_target, open_model
from edgebert.device_validate import Proven, Question, prove
from edgebert.devices.base import DeviceFacts, open_device
from edgebert.figures import DeviceFigures
from edgebert.gate import GateVerdict, judge
from edgebert.golden import GoldenExample
from edgebert.measure import Measured
from edgebert.progress import Reporter
from edgebert.tokenizer import TextTokenizer
from edgebert.validate import agreement, golden_problems
from edgebert_targets.base import Target


@dataclass(frozen=True)
class OnDevice:
    """`measured`: the host's figures with accuracy, agreement and verdict as the device gives them.

    `problems`: what fails besides the accuracy, a line each.
    """

    measured: Measured
    figures: DeviceFigures
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_device(spec: str, targets: Sequence[Target]) -> None:
    """Reach the device before any work is done. Raises DeviceError, UsageError and WrongCpuError."""
    for target in targets:
        check_target(target.name)
    with open_device(spec) as device:
        facts = device.facts()
    for target in targets:
        architecture_notes(target, spec, facts.architecture)


def prove_build(
    spec: str,
    target: Target,
    measured: Measured,
    golden: Sequence[GoldenExample],
    tokenizer: TextTokenizer,
    data: TaskData,
    limit: int | None,
    reporter: Reporter,
) -> OnDevice:
    """Run the final artifact of `measured` on the device `spec`; `limit` examples of the evaluation data.

    Raises DeviceError, WrongCpuError, MissingExtraError.
    """
    chosen = spread(range(len(data.evaluation)), limit)
    host = np.concatenate([np.array([row.logits for row in golden], np.float32), measured.logits[chosen]])
    question = Question(
        labels=data.labels,
        golden=golden,
        examples=[data.evaluation[i] for i in chosen],
        available=len(data.evaluation),
        host=host,
        tolerance=target.golden_tolerance,
    )
    reporter.note(f"target {target.name}: proving it on {spec} with {len(chosen)} examples")
    with open_device(spec) as device:
        facts = device.facts()
        notes = [*architecture_notes(target, spec, facts.architecture)]
        on_host = ModelOnHost(target.name, measured.converted[-1].model, tokenizer, len(data.labels))
        model = open_model(device, on_host, reporter)
        proven = prove(model, facts, question, tokenizer, target, 1, reporter)
        bench = bench_on_device(device, model, [data.max_length], [BenchPlan()], reporter)
    figures = replace(proven.figures, bench=tuple(bench))
    if len(chosen) < question.available:
        notes.append(f"{len(chosen)} of {question.available} examples were run on {spec} (--device-limit)")
    notes += [warning for item in bench for warning in item.warnings]
    problems = (*golden_problems(proven.golden), *device_problems(figures, target))
    judged = judge_on_device(measured, proven, data, chosen, target, facts)
    if problems:
        judged = replace(judged, verdict=failed(judged.verdict, spec))
    return OnDevice(judged, figures, problems, tuple(notes))


def judge_on_device(
    measured: Measured,
    proven: Proven,
    data: TaskData,
    chosen: Sequence[int],
    target: Target,
    facts: DeviceFacts,
) -> Measured:
    """`measured` with the gate on what the device computed, over the examples that it was given.

    Where that is all of them, accuracy and agreement are the device's too.
    """
    truth = data.targets()[chosen]
    chain = [(step.name, float((step.logits[chosen].argmax(1) == truth).mean())) for step in measured.steps]
    chain.append((f"conversion to {target.name}", float((measured.logits[chosen].argmax(1) == truth).mean())))
    accuracy = float((proven.logits.argmax(1) == truth).mean())
    verdict = judge([*chain, (f"running on {facts.name}", accuracy)], measured.verdict.max_drop)
    emulated = ", emulated" if facts.emulated else ""
    where = (
        f"Validated on {facts.name} ({facts.cpu}{emulated}) by {proven.figures.runtime}, "
        f"{proven.figures.kernels}."
    )
    if len(chosen) < len(data.evaluation):
        return replace(measured, verdict=verdict, where=where)
    with_pytorch = agreement(proven.logits, measured.steps[-1].logits)
    return replace(
        measured,
        logits=proven.logits,
        accuracy=accuracy,
        agreement=with_pytorch.share,
        teacher_agreement=agreement(proven.logits, measured.steps[0].logits).share,
        max_logit_difference=with_pytorch.max_difference,
        verdict=verdict,
        where=where,
    )


def failed(verdict: GateVerdict, spec: str) -> GateVerdict:
    """`verdict` as that of a build that may not pass, whatever its accuracy."""
    return replace(verdict, passed=False, guilty=verdict.guilty or f"running on {spec}")
