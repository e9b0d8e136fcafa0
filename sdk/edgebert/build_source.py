"""What a build starts from: the task, the model and its data, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.compression import TaskData, tokenizer_folder
from edgebert.data import Example, label_set
from edgebert.errors import ModelError, UsageError
from edgebert.source_model import SourceModel, match_labels, resolve_model, task_of_model
from edgebert.stages import StageStore
from edgebert.tasks.base import get_compression_task
from edgebert.tasks.embedding import Embedding
from edgebert.tasks.package import PackageTask, get_package_task
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert.builder import BuildOptions

DEFAULT_NAME = "home-intents"
DEFAULT_TASK = "text-classification"


@dataclass(frozen=True)
class Source:
    """What the build starts from, read and checked. `names`: how train and eval are called in the report."""

    task: PackageTask
    model: SourceModel
    train: list[Any]
    evaluation: list[Any]
    names: tuple[str, str]


def check_inputs(options: BuildOptions) -> None:
    """Raises UsageError where model and data do not go together, or the task is none."""
    if options.task is not None:
        get_package_task(options.task)
    given = {"--model": options.model, "--train": options.train, "--eval": options.evaluation}
    try:
        task = task_of(options)
    except ModelError:
        if options.evaluation is not None:
            raise
        task = DEFAULT_TASK  # what is missing comes first: every task needs --eval
    if task == Embedding.name:
        if options.train is not None:
            raise UsageError("an embedding is not trained, for lack of labels; leave out --train")
        if options.new_head:
            raise UsageError("an embedding has no head; leave out --new-head")
        del given["--train"]
    missing = [name for name, value in given.items() if value is None]
    if missing and (len(missing) < len(given) or task != DEFAULT_TASK):
        needed = " and ".join((", ".join(list(given)[:-1]), list(given)[-1]))
        raise UsageError(
            f"{' and '.join(missing)} missing; give {needed}, or none of them for {DEFAULT_NAME}"
        )


def task_of(options: BuildOptions) -> str:
    """The task that was given, or that the model's head is for; text classification where it has none.

    A folder of sentence-transformers is an embedding unless there is something to train it on.
    """
    if options.task is not None:
        return options.task
    found = None if options.model is None else task_of_model(options.model)
    if found == Embedding.name and options.train is not None:
        return DEFAULT_TASK
    return found or DEFAULT_TASK


def read_source(options: BuildOptions) -> Source:
    """Read model and data. Raises ModelError, DataError and UsageError."""
    task = get_package_task(task_of(options))
    if options.model is None:
        from edgebert.demo.home_intents import task as demo

        train = [Example(text, None, label) for text, label in demo.training_examples()]
        evaluation = [Example(text, None, label) for text, label in demo.heldout_examples()]
        model = replace(resolve_model(demo.model_folder()), name=DEFAULT_NAME)
        names = ("home-intents grammar", "home-intents held-out sentences")
        return Source(task, model, train, evaluation, names)
    assert options.evaluation is not None
    model = resolve_model(options.model, task.name)
    seen = [] if options.train is None else task.load(options.train, options.columns, "train")
    unseen = task.load(options.evaluation, options.columns, "validation")
    if options.new_head:
        model = replace(model, labels=None, new_head=True)
    names = (Path(options.train or "").name, Path(options.evaluation).name)
    return Source(task, model, seen, unseen, names)


def task_data(options: BuildOptions, source: Source, store: StageStore) -> TaskData:
    """Labels in the order of the model's logits, and the length that rows are cut at."""
    labels = _labels(source.task, source.train, source.evaluation)
    if source.model.labels:
        labels = match_labels(source.model, labels)
    source.task.check(source.evaluation, labels)
    limit = source.model.max_length
    if options.max_length is not None and options.max_length > limit:
        raise UsageError(f"--max-length is {options.max_length}, but the model takes at most {limit} tokens")
    length = options.max_length
    if length is None:
        tokenizer = TextTokenizer.from_folder(tokenizer_folder(source.model, store), limit)
        length = source.task.needed_length(tokenizer, [*source.train, *source.evaluation], limit)
    return TaskData(labels, source.train, source.evaluation, length)


def _labels(task: PackageTask, train: Sequence[Any], evaluation: Sequence[Any]) -> tuple[str, ...]:
    if not task.has_labels:
        return ()
    if task.name == DEFAULT_TASK:
        return label_set(train, evaluation)
    return get_compression_task(task.name).labels(train)
