"""What a compression starts from: the tokenizer, the dense teacher, the model as it was given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.errors import ModelError
from edgebert.progress import Reporter
from edgebert.source_model import SourceModel, folder_hash
from edgebert.stages import StageResult, StageStore, stage_key
from edgebert.tasks.base import get_compression_task
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.data import TokenizedDataset
    from edgebert_compress.recipe import FineTuneStage
    from edgebert_compress.tasks import TrainingTask

CHECKPOINT = "checkpoint"
SAMPLE = 100  # training examples on which two tokenizers are compared


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


def make_teacher(
    model: SourceModel,
    task: TrainingTask,
    labels: Sequence[str],
    train: TokenizedDataset,
    settings: FineTuneStage,
    store: StageStore,
    seed: int,
    reporter: Reporter,
    *,
    tokens: Path,
    inputs: Mapping[str, Any],
    device: str = "cpu",
    follow: bool = False,
) -> StageResult:
    """The dense model that compression starts from: as given, or fine-tuned first if it has no head.

    `tokens`: the tokenizer's folder. `inputs`: what else decides about the training, as plain JSON types.
    `follow`: as in `StageStore.run`.
    """
    trained = model.labels is not None
    known: dict[str, Any] = {"model": model.sha256, "labels": list(labels), "task": task.name}
    if not trained:
        known |= {**inputs, "seed": seed, "fine_tune": asdict(settings)}
        if model.new_head:
            known["new_head"] = True

    def produce(out: Path) -> Mapping[str, Any]:
        checkpoint = out / CHECKPOINT
        if trained:
            _save_as_given(model, task, labels, checkpoint)
            facts: Mapping[str, Any] = {"seconds": 0.0}
        else:
            from edgebert_compress.trainer import fine_tune

            reporter.note(
                f"'{model.name}' {'gets a new head' if model.new_head else 'has no trained head'}: "
                f"fine-tuning it on {len(train)} examples first; the result is the teacher"
            )
            facts = asdict(
                fine_tune(
                    model.folder, checkpoint, train, labels, settings, seed, _named(reporter),
                    new_head=model.new_head, task=task, note=reporter.note,
                    resume=store.resume_folder(stage_key("teacher", known), follow=follow), device=device,
                )
            )  # fmt: skip
        if checkpoint.is_dir():  # not where another process writes it
            _copy_tokenizer(tokens, checkpoint)
        return {**facts, "trained_here": not trained}

    made = store.run("teacher", known, produce, follow=follow and not trained)
    if made.facts["trained_here"] and made.cached:
        reporter.note("teacher: fine-tuned in an earlier run")
    return made


def given_checkpoint(
    model: SourceModel, labels: Sequence[str], tokens: Path, store: StageStore
) -> StageResult:
    """The model as it was given, zeros and `compression.json` included, with the tokenizer of `tokens`."""

    def produce(out: Path) -> Mapping[str, Any]:
        checkpoint = out / CHECKPOINT
        checkpoint.mkdir()
        for path in sorted(model.folder.iterdir()):
            if path.is_file() and path.suffix in (".json", ".safetensors"):
                shutil.copyfile(path, checkpoint / path.name)
        if model.labels and labels:  # a head that only knows LABEL_0, LABEL_1, … gets the names of the data
            config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
            config["id2label"] = {str(i): label for i, label in enumerate(labels)}
            config["label2id"] = {label: i for i, label in enumerate(labels)}
            (checkpoint / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        _copy_tokenizer(tokens, checkpoint)
        return {}

    return store.run("given", {"model": model.sha256, "labels": list(labels)}, produce)


def check_teacher(
    folder: Path,
    task: str,
    labels: Sequence[str],
    tokenizer: TextTokenizer,
    max_length: int,
    examples: Sequence[Any],
) -> str:
    """The hash of a teacher whose labels and tokenizer are those of the student. Raises ModelError."""
    from edgebert_compress.loading import read_config

    config = read_config(folder)
    theirs = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    named = not all(label.startswith("LABEL_") for label in theirs)
    if labels and (len(theirs) != len(labels) or (named and theirs != tuple(labels))):
        raise ModelError(
            f"the teacher '{folder}' has the labels {', '.join(theirs)[:80]}, the data "
            f"{', '.join(labels)[:80]}; give a teacher of the same labels in the same order"
        )
    if (folder / "tokenizer.json").is_file():
        kind, sample = get_compression_task(task), examples[:SAMPLE]
        rows = [
            kind.tokenize(one, sample, labels, max_length).input_ids
            for one in (tokenizer, TextTokenizer.from_folder(folder, max_length))
        ]
        if rows[0] != rows[1]:
            raise ModelError(
                f"the teacher '{folder}' has another tokenizer than the model; "
                "give a teacher that was trained with the same one"
            )
    return folder_hash(folder)


def _save_as_given(model: SourceModel, task: TrainingTask, labels: Sequence[str], out: Path) -> None:
    from edgebert_compress.checkpoint import write_model
    from edgebert_compress.loading import load_model

    network: Any = load_model(model.folder, task.name)[0]
    if labels:
        network.config.id2label = dict(enumerate(labels))
        network.config.label2id = {label: i for i, label in enumerate(labels)}
    out.mkdir()
    write_model(network, model.folder, out)


def _copy_tokenizer(tokens: Path, out: Path) -> None:
    for path in sorted(tokens.iterdir()):
        if path.name != "done.json":
            (out / path.name).write_bytes(path.read_bytes())


def _named(reporter: Reporter) -> Any:
    def progress(phase: str, done: int, total: int, **figures: float) -> None:
        reporter.progress(f"teacher: {phase}", done, total, **figures)

    return progress
