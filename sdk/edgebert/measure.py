"""What a target's artifacts are worth: accuracy against the teacher, agreement, speed side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgebert.bench import BenchPlan, EngineSpec, benchmark, compare, full_inputs
from edgebert.compression import CheckpointStep
from edgebert.conversion import ConvertedStep, convert_step, where_validated
from edgebert.errors import MissingExtraError
from edgebert.evaluation import Evaluation, agreement
from edgebert.figures import BenchFigures
from edgebert.gate import GateVerdict, judge
from edgebert.machine import usable_cores
from edgebert.progress import Reporter
from edgebert.stages import StageStore
from edgebert.tasks.rows import Answers
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import Target, get_target
from edgebert_targets.errors import MissingExtraError as TargetMissingExtraError

BASELINE_TARGET = "x86"
BASELINE_NOTE = "Baseline: the dense fp32 teacher in ONNX Runtime with its BERT fusions, on this machine."
# Real sentences that the timed inputs are made of.
TIMED_EXAMPLES = 32


@dataclass(frozen=True)
class StageSpeed:
    """Median latency of one stage's artifact; `vs_previous` over 1 is faster than the stage before."""

    p50_ms: float
    vs_previous: float | None


@dataclass(frozen=True)
class Measured:
    """Everything measured for one target. `answers`: the final artifact's to the evaluation data's rows."""

    converted: tuple[ConvertedStep, ...]
    answers: Answers
    score: float
    agreement: float
    teacher_agreement: float
    max_logit_difference: float
    verdict: GateVerdict
    speeds: tuple[StageSpeed, ...]
    benches: tuple[BenchFigures, ...]
    where: str

    @property
    def steps(self) -> tuple[CheckpointStep, ...]:
        return tuple(item.checkpoint for item in self.converted)


def measure(
    target: Target,
    converted: Sequence[ConvertedStep],
    answers: Answers,
    evaluation: Evaluation,
    tokenizer: TextTokenizer,
    max_drop: float,
    store: StageStore,
    reporter: Reporter,
) -> Measured:
    """Judge and time the chain of artifacts of one target. `answers`: the last one's to `evaluation`."""
    steps = [item.checkpoint for item in converted]
    with_pytorch = agreement(evaluation.task, answers, steps[-1].answers)
    score = evaluation.score(answers)
    chain = [(step.name, step.score) for step in steps]
    verdict = judge([*chain, (f"conversion to {target.name}", score)], max_drop)
    speeds, benches = time_stages(target, converted, evaluation, tokenizer, store, reporter)
    return Measured(
        converted=tuple(converted),
        answers=answers,
        score=score,
        agreement=with_pytorch.share,
        teacher_agreement=agreement(evaluation.task, answers, steps[0].answers).share,
        max_logit_difference=with_pytorch.max_difference,
        verdict=verdict,
        speeds=speeds,
        benches=benches,
        where=where_validated(target),
    )


def time_stages(
    target: Target,
    converted: Sequence[ConvertedStep],
    evaluation: Evaluation,
    tokenizer: TextTokenizer,
    store: StageStore,
    reporter: Reporter,
) -> tuple[tuple[StageSpeed, ...], tuple[BenchFigures, ...]]:
    """Every stage's artifact in one interleaved run with one thread, then the last one with all cores."""
    ids = [row.ids for row in evaluation.rows[:TIMED_EXAMPLES]]
    inputs = full_inputs(ids, tokenizer.max_length)
    engines = [EngineSpec(f"stage {i}", target.name, item.model) for i, item in enumerate(converted)]
    baseline = teacher_baseline(target, converted[0], tokenizer.max_length, store, reporter)
    plan, where, done = BenchPlan(threads=1), where_validated(target), 0

    def on_round() -> None:
        nonlocal done
        done += 1
        reporter.progress(f"{target.name}: measure the speed of every stage", done, plan.rounds)

    result = benchmark([*engines, *([baseline] if baseline else [])], inputs, plan, on_round)
    names = [engine.name for engine in engines]
    speeds = tuple(
        StageSpeed(
            result.latency[name].p50_ms,
            round(result.speed_ratio(name, names[i - 1]), 3) if i else None,
        )
        for i, name in enumerate(names)
    )
    first = BenchFigures(
        artifact=result.latency[names[-1]],
        baseline=result.latency[baseline.name] if baseline else None,
        speed_ratio=round(result.speed_ratio(names[-1], baseline.name), 3) if baseline else None,
        where=where,
        note=BASELINE_NOTE if baseline else "",
    )
    benches = [first]
    if (cores := usable_cores()) > 1:
        reporter.note(f"target {target.name}: measuring with {cores} threads")
        many = BenchPlan(threads=cores)
        benches.append(
            compare(engines[-1], baseline, inputs, many, where=where, note=BASELINE_NOTE if baseline else "")
        )
    return speeds, tuple(benches)


def teacher_baseline(
    target: Target, teacher: ConvertedStep, max_length: int, store: StageStore, reporter: Reporter
) -> EngineSpec | None:
    """The fp32 teacher in ONNX Runtime, None (with a warning) where that is not installed."""
    name = "teacher fp32"
    if target.name == BASELINE_TARGET:
        return EngineSpec(name, target.name, teacher.model)
    try:
        converted = convert_step(get_target(BASELINE_TARGET), teacher.checkpoint, (max_length,), store)
    except (MissingExtraError, TargetMissingExtraError) as error:
        reporter.warn(f"no comparison with the fp32 teacher in ONNX Runtime: {error}")
        return None
    return EngineSpec(name, BASELINE_TARGET, converted.model)
