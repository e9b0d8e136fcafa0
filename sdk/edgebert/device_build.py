"""The last step of a build with --device: the artifact proven on the device, and the gate judged by that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgebert.bench import BenchPlan
from edgebert.device_bench import bench_on_device
from edgebert.device_check import architecture_notes, device_problems, spread
from edgebert.device_session import ModelOnHost, check_target, open_model
from edgebert.device_validate import Proven, Question, prove
from edgebert.devices.base import DeviceFacts, open_device
from edgebert.evaluation import Evaluation, agreement
from edgebert.figures import DeviceFigures
from edgebert.gate import GateVerdict, judge
from edgebert.golden import GoldenExample, GoldenForm
from edgebert.measure import Measured
from edgebert.progress import Reporter
from edgebert.shipping import golden_tolerance
from edgebert.tasks.package import outputs_of
from edgebert.tokenizer import TextTokenizer
from edgebert.validate import golden_problems
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
    evaluation: Evaluation,
    limit: int | None,
    reporter: Reporter,
) -> OnDevice:
    """Run the final artifact of `measured` on the device `spec`; `limit` examples of the evaluation data.

    Raises DeviceError, WrongCpuError, MissingExtraError.
    """
    available = len(evaluation.examples)
    chosen = spread(range(available), limit)
    asked, task = evaluation.chosen(chosen), evaluation.task
    outputs = outputs_of(task, evaluation.labels)
    form = GoldenForm(outputs, task.per_token, task.measured_against_model)
    question = Question(
        task=task,
        golden=golden,
        form=form,
        evaluation=asked,
        available=available,
        host=[*map(form.answer, golden), *evaluation.take(measured.answers, chosen)],
        tolerance=golden_tolerance(target, task, golden),
    )
    reporter.note(f"target {target.name}: proving it on {spec} with {len(chosen)} examples")
    with open_device(spec) as device:
        facts = device.facts()
        notes = [*architecture_notes(target, spec, facts.architecture)]
        model_file, width = measured.converted[-1].model, measured.answers[0].shape[-1]
        on_host = ModelOnHost(target.name, model_file, tokenizer, width, task.per_token)
        model = open_model(device, on_host, reporter)
        proven = prove(model, facts, question, tokenizer, target, 1, reporter)
        bench = bench_on_device(device, model, [tokenizer.max_length], [BenchPlan()], reporter)
    figures = replace(proven.figures, bench=tuple(bench))
    if len(chosen) < question.available:
        notes.append(f"{len(chosen)} of {question.available} examples were run on {spec} (--device-limit)")
    notes += [warning for item in bench for warning in item.warnings]
    problems = (*golden_problems(proven.golden), *device_problems(figures, target))
    judged = judge_on_device(measured, proven, evaluation, chosen, target, facts)
    if problems:
        judged = replace(judged, verdict=failed(judged.verdict, spec))
    return OnDevice(judged, figures, problems, tuple(notes))


def judge_on_device(
    measured: Measured,
    proven: Proven,
    evaluation: Evaluation,
    chosen: Sequence[int],
    target: Target,
    facts: DeviceFacts,
) -> Measured:
    """`measured` with the gate on what the device computed, over the examples that it was given.

    Where that is all of them, accuracy and agreement are the device's too.
    """
    asked, on_host = evaluation.chosen(chosen), measured.answers
    chain = [(step.name, asked.score(evaluation.take(step.answers, chosen))) for step in measured.steps]
    chain.append((f"conversion to {target.name}", asked.score(evaluation.take(on_host, chosen))))
    score = asked.score(proven.answers)
    verdict = judge([*chain, (f"running on {facts.name}", score)], measured.verdict.max_drop)
    emulated = ", emulated" if facts.emulated else ""
    where = (
        f"Validated on {facts.name} ({facts.cpu}{emulated}) by {proven.figures.runtime}, "
        f"{proven.figures.kernels}."
    )
    if len(chosen) < len(evaluation.examples):
        return replace(measured, verdict=verdict, where=where)
    with_pytorch = agreement(evaluation.task, proven.answers, measured.steps[-1].answers)
    return replace(
        measured,
        answers=proven.answers,
        score=score,
        agreement=with_pytorch.share,
        teacher_agreement=agreement(evaluation.task, proven.answers, measured.steps[0].answers).share,
        max_logit_difference=with_pytorch.max_difference,
        verdict=verdict,
        where=where,
    )


def failed(verdict: GateVerdict, spec: str) -> GateVerdict:
    """`verdict` as that of a build that may not pass, whatever its accuracy."""
    return replace(verdict, passed=False, guilty=verdict.guilty or f"running on {spec}")
