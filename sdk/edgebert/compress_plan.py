"""`edgebert compress`: its options, what it starts from, read and checked, and the plan of `--dry-run`."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.compression import TaskData, tokenizer_folder
from edgebert.data import Columns, label_set, load_examples
from edgebert.errors import MissingExtraError, ModelError, OutputError, UsageError
from edgebert.source_model import SourceModel, match_labels, resolve_model
from edgebert.stages import StageStore, default_work_folder
from edgebert.tasks.base import CompressionTask, get_compression_task
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.recipe import Recipe, Stage

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
CLASSIFICATION = "text-classification"


@dataclass(frozen=True)
class CompressOptions:
    """What to compress. `memory`: bytes for pruning besides the model; None takes what is free.

    `fast`: instead of a recipe, the share of the encoder's work that the fast path keeps.
    `max_length`: tokens; None takes what the data needs. `threads`: None takes all cores.
    """

    model: str
    recipe: str | None
    train: str
    evaluation: str
    out: Path
    task: str = CLASSIFICATION
    fast: float | None = None
    teacher: Path | None = None
    memory: int | None = None
    work: Path | None = None
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"
    max_length: int | None = None
    new_head: bool = False
    force: bool = False
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True)
class Prepared:
    """Everything read and checked, before any training. `names`: what train and eval data are called."""

    model: SourceModel
    recipe: Recipe
    task: CompressionTask
    data: TaskData
    store: StageStore
    names: tuple[str, str]


@dataclass(frozen=True)
class PruningPoint:
    """One pruning step: before which training step, at which epoch, to which share of zeros."""

    step: int
    epoch: float
    sparsity: float


@dataclass(frozen=True)
class StagePlan:
    """One stage. `seconds` and `memory_bytes` are estimates; `memory` says what they are made of."""

    title: str
    kind: str
    epochs: float
    steps: int
    layers: int
    pruning: tuple[PruningPoint, ...]
    seconds: float
    memory_bytes: int
    memory: str


@dataclass(frozen=True)
class Plan:
    """What a run would do. `rows`: of the tokenised training data."""

    model: str
    task: str
    recipe: str
    rows: int
    evaluation_rows: int
    max_length: int
    labels: int
    teacher: str
    stages: tuple[StagePlan, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def memory_bytes(self) -> int:
        return max(stage.memory_bytes for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "seconds": self.seconds, "memory_bytes": self.memory_bytes}


def parse_memory(text: str) -> int:
    """Bytes of '8GiB', '500 MB' or '1000000'. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})\s*", text)
    if not found or found[2].upper() not in UNITS:
        raise UsageError(f"--memory is '{text[:40]}'; give a size such as 8GiB or 500MB")
    size = int(float(found[1]) * UNITS[found[2].upper()])
    if size < 2**20:
        raise UsageError(f"--memory is {size} bytes; give 1MiB or more")
    return size


def prepare(options: CompressOptions) -> Prepared:
    """Read and check recipe, model and data, the cheap things first. Raises the errors of each part."""
    _check(options)
    for name in ("torch", "transformers", "safetensors", "yaml"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(
                f"compressing needs {name}, which is not installed; run: pip install 'edgebert[all]'"
            )
    _check_device(options.device)
    recipe = _recipe(options)
    task = get_compression_task(options.task)
    model = resolve_model(options.model, options.task)
    if options.new_head:
        model = replace(model, labels=None, new_head=True)
    if options.teacher is not None and not (options.teacher / "config.json").is_file():
        raise ModelError(f"no teacher at '{options.teacher}'; give the folder of a fine-tuned model")
    _check_stages(recipe, model, options)
    train, evaluation = _examples(options, task, "train"), _examples(options, task, "validation")
    labels = label_set(train, evaluation) if options.task == CLASSIFICATION else task.labels(train)
    if model.labels:
        labels = match_labels(model, labels)
    store = StageStore(options.work or default_work_folder())
    data = TaskData(labels, train, evaluation, _length(options, model, task, [*train, *evaluation], store))
    names = (Path(options.train).name, Path(options.evaluation).name)
    return Prepared(model, recipe, task, data, store, names)


def _recipe(options: CompressOptions) -> Recipe:
    """The recipe that was given, or the fast path's. Raises RecipeError and UsageError."""
    from edgebert_compress.recipe import FastStage, QuantizeStage, Recipe, Training, load_recipe

    if options.fast is None:
        if options.recipe is None:
            raise UsageError("give a --recipe (see 'edgebert recipes'), or --fast for one without training")
        return load_recipe(options.recipe)
    if options.recipe is not None:
        raise UsageError(f"--fast is a recipe of its own; leave out --recipe {options.recipe}, or --fast")
    stages = (FastStage(options.fast), QuantizeStage(training=Training(epochs=0)))
    return Recipe("fast", stages, description="Fewer heads and FFN units, INT8, without any training.")


def _check(options: CompressOptions) -> None:
    for name, value, least in (("--threads", options.threads, 1), ("--max-length", options.max_length, 8)):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; give {least} or more")
    if not 0 <= options.seed < 1 << 32:
        raise UsageError(f"--seed is {options.seed}; give a number from 0 to 4294967295")
    if os.path.lexists(options.out) and not options.force:
        raise OutputError(
            f"'{options.out}' exists already; choose another --out or add --force to replace it"
        )
    parent = next(folder for folder in options.out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write into '{parent}'; choose another --out")


def _check_device(device: str) -> None:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device is {device}, but PyTorch sees no GPU; take cpu")


def _check_stages(recipe: Recipe, model: SourceModel, options: CompressOptions) -> None:
    """What a recipe asks of this very model, before any data is read. Raises RecipeError and ModelError."""
    from edgebert_compress.architecture import prunable_parameters
    from edgebert_compress.freezing import check_pruned, frozen_names
    from edgebert_compress.masks import check_block
    from edgebert_compress.pruner import chosen_tensors

    layers = model.layers
    if options.teacher is None and model.labels is None and recipe.fine_tune.frozen:
        frozen_names(_parameter_names(_without_values(model, options.task, layers)), recipe.fine_tune.frozen)
    for stage in recipe.stages:
        layers = len(kept_layers(stage, layers))
        frozen = stage.training.frozen
        if stage.kind != "prune" and not frozen:
            continue
        network = _without_values(model, options.task, layers)
        frozen_names(_parameter_names(network), frozen)
        if stage.kind != "prune":
            continue
        tensors = chosen_tensors(prunable_parameters(network), stage.tensors)
        for name, value in tensors.items():
            check_block(name, value, stage.block)
        if stage.method == "obert":
            check_pruned(tensors, frozen)


def _without_values(model: SourceModel, task: str, layers: int) -> Any:
    """The model with `layers` layers and the task's head: names and shapes only, which takes no memory."""
    import torch
    import transformers

    from edgebert_compress.architecture import HEADS
    from edgebert_compress.tasks import get_task

    config = transformers.AutoConfig.from_pretrained(model.folder)
    config.num_hidden_layers = layers
    with torch.device("meta"):
        return getattr(transformers, HEADS[get_task(task).name]).from_config(config)


def _parameter_names(network: Any) -> list[str]:
    return [name for name, _ in network.named_parameters()]


def kept_layers(stage: Stage, depth: int) -> tuple[int, ...]:
    """Indices of the layers that a model of `depth` has after `stage`. Raises RecipeError."""
    from edgebert_compress.layer_drop import layers_to_keep

    return layers_to_keep(stage, depth) if stage.kind == "drop-layers" else tuple(range(depth))


def _examples(options: CompressOptions, task: CompressionTask, split: str) -> list[Any]:
    source = options.train if split == "train" else options.evaluation
    if options.task == CLASSIFICATION:
        return list(load_examples(source, options.columns, split))
    return task.read(Path(source))


def _length(
    options: CompressOptions,
    model: SourceModel,
    task: CompressionTask,
    examples: Sequence[Any],
    store: StageStore,
) -> int:
    if options.max_length is not None:
        if options.max_length > model.max_length:
            raise UsageError(
                f"--max-length is {options.max_length}, but the model takes at most {model.max_length} tokens"
            )
        return options.max_length
    tokenizer = TextTokenizer.from_folder(tokenizer_folder(model, store), model.max_length)
    return task.needed_length(tokenizer, examples, model.max_length)
