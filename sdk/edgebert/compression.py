"""From a source model to a chain of checkpoints: the teacher, then one after each stage of the recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebert.data import Example, data_hash
from edgebert.evaluation import load_answers, save_answers
from edgebert.progress import Reporter, SilentReporter
from edgebert.source_model import SourceModel
from edgebert.stages import StageStore, stage_key
from edgebert.starting_point import (
    CHECKPOINT,
    check_teacher,
    given_checkpoint,
    make_teacher,
    tokenizer_folder,
)
from edgebert.tasks.base import CompressionTask, get_compression_task
from edgebert.tasks.package import PACKAGE_TASKS, get_package_task
from edgebert.tasks.rows import Answers
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset
    from edgebert_compress.recipe import Recipe, Stage
    from edgebert_compress.tasks import TrainingTask
    from edgebert_compress.teacher import TeacherSource

__all__ = [
    "CHECKPOINT", "CheckpointStep", "Logits", "TaskData", "compress", "needed_length", "tokenize",
    "tokenizer_folder",
]  # fmt: skip

Logits = NDArray[np.float32]
CURVE_EXAMPLES = 1000  # evaluation examples that the curve of the metric is measured on during training


@dataclass(frozen=True)
class TaskData:
    """Labels in logit order (empty for tasks without) and both splits as read, as the task's own examples.

    `max_length` in tokens is where texts are cut, or split into rows.
    """

    labels: tuple[str, ...]
    train: Sequence[Any]
    evaluation: Sequence[Any]
    max_length: int


@dataclass(frozen=True)
class CheckpointStep:
    """One checkpoint of the chain. `score`: its `metric` on the evaluation data.

    `answers`: to the rows of the evaluation data; none for tasks that packages are not made for.
    """

    name: str
    kind: str
    description: str
    key: str
    folder: Path
    answers: Answers
    score: float
    facts: Mapping[str, Any]
    metric: str = "accuracy"

    @property
    def logits(self) -> Logits:
        """Of a text classification: float32 [n, classes]; [0, 0] for other tasks."""
        one_a_text = bool(len(self.answers)) and self.answers[0].ndim == 1
        return np.stack(self.answers) if one_a_text else np.zeros((0, 0), np.float32)


def needed_length(tokenizer: TextTokenizer, examples: Sequence[Example], limit: int) -> int:
    """Tokens of the longest example, rounded up to a multiple of 16, at least 32 and at most `limit`."""
    return get_compression_task("text-classification").needed_length(tokenizer, examples, limit)


def tokenize(
    tokenizer: TextTokenizer, examples: Sequence[Example], labels: Sequence[str]
) -> TokenizedDataset:
    """Token ids and class numbers of `examples`, cut at the tokenizer's maximal length."""
    task = get_compression_task("text-classification")
    return task.tokenize(tokenizer, examples, labels, tokenizer.max_length)


@dataclass(frozen=True)
class _Chain:
    """One run of a recipe: what all its stages share."""

    kind: CompressionTask
    task: TrainingTask
    data: TaskData
    train: TokenizedDataset
    evaluation: TokenizedDataset
    hashes: tuple[str, str]  # of the training and the evaluation examples
    store: StageStore
    seed: int
    reporter: Reporter

    @property
    def batch(self) -> int:
        """Rows to predict at once: logits over a whole vocabulary are large."""
        return 8 if self.task.name == "masked-language-model" else 64

    @property
    def split(self) -> dict[str, Any]:
        """What of the task decides how examples become rows."""
        return {"task": self.task.name, "max_length": self.data.max_length, "labels": list(self.data.labels)}

    def answers(self, folder: Path, key: str, rows: TokenizedDataset, rows_hash: str, phase: str) -> Answers:
        """What a checkpoint answers to `rows`, kept in the store."""
        from edgebert_compress.trainer import predict

        def produce(out: Path) -> Mapping[str, Any]:
            found = predict(folder, self.task, rows, named(self.reporter, phase), self.batch)
            save_answers([joined_heads(heads) for heads in found], out)
            return {}

        inputs = {"checkpoint": key, "data": rows_hash, **self.split}
        return load_answers(self.store.run("answers", inputs, produce).folder)

    def step(
        self, name: str, kind: str, text: str, key: str, folder: Path, facts: Mapping[str, Any]
    ) -> CheckpointStep:
        """Measure a checkpoint."""
        phase = f"evaluate {name}"
        answers: Answers = ()
        if self.task.name in PACKAGE_TASKS:
            answers = self.answers(folder, key, self.evaluation, self.hashes[1], phase)
            task = get_package_task(self.task.name)
            places = self.evaluation.windows or ()
            figures = task.figures(answers, places, self.data.evaluation, self.data.labels)
            score = float(getattr(figures, task.metric))
        else:
            inputs = {"checkpoint": key, "data": self.hashes[1], **self.split}
            score = self.store.run("measure", inputs, lambda out: self._measure(folder, phase)).facts["score"]
        self.reporter.note(f"{name}: {self.kind.metric} {score:.2%}")
        return CheckpointStep(name, kind, text, key, folder, answers, score, facts, self.kind.metric)

    def _measure(self, folder: Path, phase: str) -> Mapping[str, Any]:
        from edgebert_compress.checkpoint import load
        from edgebert_compress.trainer import answer_stream

        model = load(folder, self.task.name).model
        found = answer_stream(model, self.task, self.evaluation, named(self.reporter, phase), self.batch)
        return {"score": self.kind.measure(found, self.evaluation, self.data.evaluation, self.data.labels)}

    def evaluator(self, tokenizer: TextTokenizer) -> Callable[[Any], float]:
        """The metric of a model in training, on up to CURVE_EXAMPLES evenly chosen evaluation examples."""
        from edgebert_compress.trainer import answer_stream

        stride = -(-len(self.data.evaluation) // CURVE_EXAMPLES)
        chosen = self.data.evaluation[::stride]
        rows = self.kind.tokenize(tokenizer, chosen, self.data.labels, self.data.max_length)

        def evaluate(model: Any) -> float:
            found = answer_stream(model, self.task, rows, batch_size=self.batch)
            return self.kind.measure(found, rows, chosen, self.data.labels)

        return evaluate


def compress(
    model: SourceModel,
    data: TaskData,
    recipe: Recipe,
    store: StageStore,
    seed: int,
    reporter: Reporter,
    *,
    task: str = "text-classification",
    teacher: Path | None = None,
    memory: int | None = None,
    device: str = "cpu",
) -> list[CheckpointStep]:
    """Run every stage of `recipe`, or take it from `store`, and return the chain with the teacher first.

    `teacher`: the folder of a trained model for `task`; the recipe then starts from `model` as it is. Without
    one the teacher is `model` itself, fine-tuned first if it has no trained head, and the recipe starts from
    it, unless its first stage trains a new head. `memory`: bytes for pruning. `device`: where to train.
    A killed run goes on where it was.

    Under torchrun each process calls this with the same arguments and a work folder that all of them share:
    they train together, and all get the same chain.
    """
    from edgebert_compress import distributed
    from edgebert_compress.stages import check_stages
    from edgebert_compress.tasks import get_task

    distributed.start_if_launched(device)
    follow = distributed.world()[0] > 0
    if follow:  # one process of several does the talking
        reporter = SilentReporter()
    kind, training = get_compression_task(task), get_task(task)
    tokens = tokenizer_folder(model, store)
    tokenizer = TextTokenizer.from_folder(tokens, data.max_length)
    train, evaluation = (
        kind.tokenize(tokenizer, examples, data.labels, data.max_length)
        for examples in (data.train, data.evaluation)
    )
    check_stages(recipe.stages, train)
    hashes = data_hash(data.train), data_hash(data.evaluation)
    chain = _Chain(kind, training, data, train, evaluation, hashes, store, seed, reporter)
    if teacher is None:
        made = make_teacher(
            model, training, data.labels, train, recipe.fine_tune, store, seed, reporter,
            tokens=tokens, inputs={"data": hashes[0], "max_length": data.max_length}, device=device,
            follow=follow,
        )  # fmt: skip
        text = "fine-tuned here" if made.facts["trained_here"] else "as given, float32"
        first = chain.step("teacher", "teacher", text, made.key, made.folder / CHECKPOINT, made.facts)
    else:
        key = check_teacher(teacher, task, data.labels, tokenizer, data.max_length, data.train)
        first = chain.step("teacher", "teacher", "as given", key, teacher, {"seconds": 0.0})
    steps = [first]
    key, folder = first.key, first.folder
    if teacher is not None or getattr(recipe.stages[0], "new_head", False):
        given = given_checkpoint(model, data.labels, tokens, store)
        key, folder = given.key, given.folder / CHECKPOINT
    evaluate = chain.evaluator(tokenizer)
    for number, stage in enumerate(recipe.stages, 1):
        name = f"stage{number}-{stage.kind}"
        inputs = {"checkpoint": key, "teacher": first.key, "stage": [stage.kind, asdict(stage)],
                  "seed": seed, "data": hashes[0], **chain.split}  # fmt: skip

        def produce(
            out: Path, stage: Stage = stage, folder: Path = folder, name: str = name, inputs: Any = inputs
        ) -> Mapping[str, Any]:
            from edgebert_compress.stages import run_stage

            facts = run_stage(
                folder, out / CHECKPOINT, stage, train, teacher_of(chain, stage, first), seed,
                named(reporter, stage.title), task=training, labels=data.labels, memory=memory,
                resume=store.resume_folder(stage_key(name, inputs), follow=follow), evaluate=evaluate,
                device=device, note=reporter.note,
            )  # fmt: skip
            return asdict(facts)

        result = store.run(name, inputs, produce, follow=follow)
        if result.cached:
            reporter.note(f"{stage.title}: kept from an earlier run")
        key, folder = result.key, result.folder / CHECKPOINT
        steps.append(chain.step(stage.title, stage.kind, describe_training(stage), key, folder, result.facts))
    return steps


def teacher_of(chain: _Chain, stage: Stage, first: CheckpointStep) -> TeacherSource | None:
    """The cheapest form of the teacher that `stage` can learn from: cached logits where they are enough."""
    from edgebert_compress.teacher import TeacherLogits, TeacherModel, needs_live_teacher, wants_teacher

    if not stage.training.epochs or not wants_teacher(stage.distillation):
        return None
    if chain.task.name != "text-classification" or needs_live_teacher(stage.distillation):
        return TeacherModel(first.folder)
    phase = "teacher's answers on the training data"
    answers = chain.answers(first.folder, first.key, chain.train, chain.hashes[0], phase)
    return TeacherLogits(np.stack(answers))


def joined_heads(heads: Sequence[Logits]) -> Logits:
    """One array of what the heads of a model answer to a row: start and end side by side, [tokens, 2]."""
    return heads[0] if len(heads) == 1 else np.stack(heads, axis=-1)


def describe_training(stage: Stage) -> str:
    """How a stage trains, in words."""
    if not stage.training.epochs:
        return "no training"
    settings = stage.distillation
    distilled = settings.hardness or settings.hidden or settings.relations
    how = "with distillation from the teacher" if distilled else "on the labels"
    return f"{stage.training.epochs:g} epochs {how}"


def named(reporter: Reporter, name: str) -> Any:
    """A progress of training that tells `reporter` which stage it is about."""

    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        reporter.progress(f"{name}: {phase}" if phase else name, done, total, **figures)

    return progress
