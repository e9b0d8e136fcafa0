"""From a source model to a chain of checkpoints: the teacher, then one after each stage of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebert.data import Example, data_hash
from edgebert.progress import Reporter
from edgebert.source_model import SourceModel
from edgebert.stages import StageStore
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset
    from edgebert_compress.recipe import Recipe

Logits = NDArray[np.float32]
CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class TaskData:
    """Labels in logit order and both splits as read; `max_length` in tokens is where texts are cut."""

    labels: tuple[str, ...]
    train: Sequence[Example]
    evaluation: Sequence[Example]
    max_length: int

    def targets(self) -> NDArray[np.int64]:
        """Class numbers of the evaluation examples, int64 [n]."""
        index = {label: i for i, label in enumerate(self.labels)}
        return np.array([index[example.label] for example in self.evaluation], dtype=np.int64)


@dataclass(frozen=True)
class CheckpointStep:
    """One checkpoint of the chain with its logits on the evaluation data, float32 [n, classes]."""

    name: str
    kind: str
    description: str
    key: str
    folder: Path
    logits: Logits
    accuracy: float
    facts: Mapping[str, Any]


def tokenizer_folder(model: SourceModel, store: StageStore) -> Path:
    """A folder with the model's tokenizer as `tokenizer.json` and the Hugging Face side files."""

    def produce(out: Path) -> Mapping[str, Any]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model.folder)
        # Settings of an earlier use (fixed padding, say) would change what the model is given here.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.model_max_length = min(tokenizer.model_max_length, model.max_length)
        tokenizer.save_pretrained(out)
        return {}

    return store.run("tokenizer", {"model": model.sha256}, produce).folder


def needed_length(tokenizer: TextTokenizer, examples: Sequence[Example], limit: int) -> int:
    """Tokens of the longest example, rounded up to a multiple of 16, at least 32 and at most `limit`."""
    longest = max(len(tokenizer.encode_ids(e.text, e.text_pair)[0]) for e in examples)
    return min(max(32, -(-longest // 16) * 16), limit)


def tokenize(
    tokenizer: TextTokenizer, examples: Sequence[Example], labels: Sequence[str], pad_token_id: int
) -> TokenizedDataset:
    """Token ids and class numbers of `examples`, cut at the tokenizer's maximal length."""
    from edgebert_compress.data import TokenizedDataset

    index = {label: i for i, label in enumerate(labels)}
    encoded = [tokenizer.encode_ids(e.text, e.text_pair) for e in examples]
    return TokenizedDataset(
        input_ids=tuple(tuple(int(i) for i in ids) for ids, _ in encoded),
        token_type_ids=tuple(tuple(int(i) for i in types) for _, types in encoded),
        labels=tuple(index[e.label] for e in examples),
        pad_token_id=pad_token_id,
    )


def compress(
    model: SourceModel, data: TaskData, recipe: Recipe, store: StageStore, seed: int, reporter: Reporter
) -> list[CheckpointStep]:
    """Run every stage of `recipe`, or take it from `store`, and return the chain with the teacher first."""
    from edgebert_compress.stages import run_stage
    from edgebert_compress.trainer import predict_logits

    tokens = tokenizer_folder(model, store)
    tokenizer = TextTokenizer.from_folder(tokens, data.max_length)
    train = tokenize(tokenizer, data.train, data.labels, tokenizer.pad_id)
    evaluation = tokenize(tokenizer, data.evaluation, data.labels, tokenizer.pad_id)
    split = {"max_length": data.max_length, "labels": list(data.labels)}
    train_hash, eval_hash = data_hash(data.train), data_hash(data.evaluation)
    truth = data.targets()

    def predict(folder: Path, key: str, which: TokenizedDataset, which_hash: str, phase: str) -> Logits:
        def produce(out: Path) -> Mapping[str, Any]:
            logits = predict_logits(folder, which, progress=_named(reporter, phase))
            np.save(out / "logits.npy", logits, allow_pickle=False)
            return {}

        inputs = {"checkpoint": key, "data": which_hash, **split}
        result = store.run("predict", inputs, produce)
        logits: Logits = np.load(result.folder / "logits.npy", allow_pickle=False)
        return logits

    def step(
        name: str, kind: str, text: str, key: str, folder: Path, facts: Mapping[str, Any]
    ) -> CheckpointStep:
        logits = predict(folder, key, evaluation, eval_hash, f"evaluate {name}")
        accuracy = float((logits.argmax(1) == truth).mean())
        reporter.note(f"{name}: accuracy {accuracy:.2%}")
        return CheckpointStep(name, kind, text, key, folder, logits, accuracy, facts)

    teacher = make_teacher(model, data, train, train_hash, tokens, recipe, store, seed, reporter)
    trained_here = teacher.facts["trained_here"]
    if trained_here and teacher.cached:
        reporter.note("teacher: fine-tuned in an earlier run")
    steps = [
        step("teacher", "teacher", "fine-tuned here" if trained_here else "as given, float32", teacher.key,
             teacher.folder / CHECKPOINT, teacher.facts)
    ]  # fmt: skip
    teacher_logits = None
    for number, stage in enumerate(recipe.stages, 1):
        before = steps[-1]
        inputs = {"checkpoint": before.key, "teacher": teacher.key, "stage": [stage.kind, asdict(stage)],
                  "seed": seed, "data": train_hash, **split}  # fmt: skip

        def produce(out: Path, stage: Any = stage, before: CheckpointStep = before) -> Mapping[str, Any]:
            nonlocal teacher_logits
            if teacher_logits is None:
                phase = "teacher's answers on the training data"
                teacher_logits = predict(steps[0].folder, steps[0].key, train, train_hash, phase)
            facts = run_stage(
                before.folder, out / CHECKPOINT, stage, train, teacher_logits, seed,
                _named(reporter, stage.title),
            )  # fmt: skip
            return asdict(facts)

        result = store.run(f"stage{number}-{stage.kind}", inputs, produce)
        if result.cached:
            reporter.note(f"{stage.title}: kept from an earlier run")
        steps.append(
            step(
                stage.title,
                stage.kind,
                describe_training(stage),
                result.key,
                result.folder / CHECKPOINT,
                result.facts,
            )
        )
    return steps


def describe_training(stage: Any) -> str:
    """How a stage trains, in words."""
    if not stage.training.epochs:
        return "no training"
    return f"{stage.training.epochs:g} epochs with distillation from the teacher"


def make_teacher(
    model: SourceModel,
    data: TaskData,
    train: TokenizedDataset,
    train_hash: str,
    tokens: Path,
    recipe: Recipe,
    store: StageStore,
    seed: int,
    reporter: Reporter,
) -> Any:
    """The dense model that compression starts from: as given, or fine-tuned first if it has no head."""
    from edgebert_compress.trainer import fine_tune

    trained = model.labels is not None
    inputs: dict[str, Any] = {"model": model.sha256, "labels": list(data.labels)}
    if not trained:
        inputs |= {"data": train_hash, "max_length": data.max_length, "seed": seed,
                   "fine_tune": asdict(recipe.fine_tune)}  # fmt: skip
        if model.new_head:
            inputs["new_head"] = True

    def produce(out: Path) -> Mapping[str, Any]:
        checkpoint = out / CHECKPOINT
        if trained:
            _save_as_given(model, data.labels, checkpoint)
            facts: Mapping[str, Any] = {"seconds": 0.0}
        else:
            reporter.note(
                f"'{model.name}' {'gets a new head' if model.new_head else 'has no trained head'}: "
                f"fine-tuning it on {len(data.train)} examples first; the result is the teacher"
            )
            trained_facts = fine_tune(
                model.folder,
                checkpoint,
                train,
                data.labels,
                recipe.fine_tune,
                seed,
                _named(reporter, "teacher"),
                new_head=model.new_head,
            )
            facts = asdict(trained_facts)
        _copy_tokenizer(tokens, checkpoint)
        return {**facts, "trained_here": not trained}

    return store.run("teacher", inputs, produce)


def _save_as_given(model: SourceModel, labels: Sequence[str], out: Path) -> None:
    from edgebert_compress.checkpoint import load_classifier, write_classifier

    network: Any = load_classifier(model.folder)[0]
    network.config.id2label = dict(enumerate(labels))
    network.config.label2id = {label: i for i, label in enumerate(labels)}
    out.mkdir()
    write_classifier(network, model.folder, out)


def _copy_tokenizer(tokens: Path, out: Path) -> None:
    for path in sorted(tokens.iterdir()):
        if path.name != "done.json":
            (out / path.name).write_bytes(path.read_bytes())


def _named(reporter: Reporter, name: str) -> Any:
    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        reporter.progress(f"{name}: {phase}" if phase else name, done, total, **figures)

    return progress
