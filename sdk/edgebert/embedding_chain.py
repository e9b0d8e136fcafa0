"""From a sentence encoder to a chain of checkpoints: as given, then in INT8. Nothing is trained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebert.compression import CHECKPOINT, CheckpointStep, TaskData
from edgebert.data import data_hash
from edgebert.errors import ModelError, UsageError
from edgebert.evaluation import load_answers, save_answers
from edgebert.progress import Reporter
from edgebert.source_model import SourceModel
from edgebert.stages import StageResult, StageStore
from edgebert.starting_point import tokenizer_folder
from edgebert.tasks.embedding import Embedding, cosine
from edgebert.tasks.rows import Answers, Row, pad_rows
from edgebert.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edgebert_compress.recipe import QuantizeStage, Recipe

DEFAULT_RECIPE = "int8-post-training"
BATCH = 32
MODULES = "modules.json"
TASK = Embedding()


def check_recipe(recipe: Recipe) -> None:
    """Raises UsageError for a recipe that trains or prunes: there are no labels to do it by."""
    for stage in recipe.stages:
        if stage.kind != "quantize" or stage.training.epochs:
            raise UsageError(
                f"recipe '{recipe.name}' trains ('{stage.title}'), and an embedding has no labels for that; "
                f"use --recipe {DEFAULT_RECIPE}, or compress the model before and build that"
            )
        if stage.activations == "static":
            raise UsageError(
                f"recipe '{recipe.name}' asks for static activations, which embeddings are not built with; "
                f"use --recipe {DEFAULT_RECIPE}"
            )


def embedding_chain(
    model: SourceModel, data: TaskData, recipe: Recipe, store: StageStore, reporter: Reporter
) -> list[CheckpointStep]:
    """The float model, and its INT8 form if the recipe has one, with their vectors of the evaluation data."""
    tokens = tokenizer_folder(model, store)
    tokenizer = TextTokenizer.from_folder(tokens, data.max_length)
    rows = TASK.rows(tokenizer, data.evaluation, data.max_length)
    known = {"model": model.sha256, "data": data_hash(data.evaluation), "max_length": data.max_length}

    def teacher(out: Path) -> Mapping[str, Any]:
        network = load_encoder(model.folder)
        (out / CHECKPOINT).mkdir()
        _write(network, model.folder, tokens, out / CHECKPOINT)
        save_answers(vectors(network, rows, tokenizer.pad_id, normalizes(out / CHECKPOINT)), out)
        return {"seconds": 0.0}

    first = store.run("embedding", known, teacher)
    right = load_answers(first.folder)
    steps = [_step("teacher", "teacher", "as given, float32", first, right, right, reporter)]
    for stage in recipe.stages:

        def quantized(out: Path, stage: QuantizeStage = stage) -> Mapping[str, Any]:  # type: ignore[assignment]
            network = quantize_encoder(first.folder / CHECKPOINT, out / CHECKPOINT, stage, recipe)
            _copy_sides(first.folder / CHECKPOINT, tokens, out / CHECKPOINT)
            save_answers(vectors(network, rows, tokenizer.pad_id, normalizes(out / CHECKPOINT)), out)
            return {"seconds": 0.0, "layers_kept": list(range(model.layers))}

        made = store.run("embedding-int8", {**known, "recipe": recipe.as_dict()}, quantized)
        found = load_answers(made.folder)
        steps.append(_step(stage.title, stage.kind, "no training", made, found, right, reporter))
    return steps


def load_encoder(folder: Path) -> Any:
    """The float32 encoder without pooler or head, in eval mode. Raises ModelError."""
    import torch
    from transformers import AutoModel

    from edgebert_compress.loading import one_line, quiet_transformers, read_config

    read_config(folder)
    try:
        with quiet_transformers():
            network: Any = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
    except Exception as error:  # the library raises many unrelated types
        raise ModelError(f"'{folder}' cannot be loaded: {one_line(error)}; check the model folder") from None
    network.pooler = None  # plays no part in a mean over the tokens
    return network.eval()


def quantize_encoder(source: Path, out: Path, stage: QuantizeStage, recipe: Recipe) -> Any:
    """Write the encoder of `source` in INT8 to `out`, and return it with those very weights."""
    from edgebert_compress import checkpoint, quantize

    network = load_encoder(source)
    quantize.prepare(network, stage.products)
    task: Any = TASK.name
    record = checkpoint.CompressionRecord(
        seed=0,
        recipe=recipe.as_dict(),
        stages=({"name": stage.title, "kind": stage.kind},),
        layers_kept=tuple(range(network.config.num_hidden_layers)),
        task=task,
    )
    integers = quantize.export(network)
    checkpoint.save(
        checkpoint.Checkpoint(network, record), source, out, quantized=integers, attention=stage.products
    )
    return network


def vectors(network: Any, rows: Sequence[Row], pad_id: int, normalize: bool) -> list[NDArray[np.float32]]:
    """The mean of the token vectors of each row, float32 [width], of length 1 where `normalize` says so."""
    import torch
    from torch.nn.functional import normalize as unit

    from edgebert_compress.architecture import WITH_TOKEN_TYPES

    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found: dict[int, NDArray[np.float32]] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = pad_rows([rows[i] for i in chosen], pad_id)
        mask = torch.from_numpy(batch.attention_mask)
        feed = {"input_ids": torch.from_numpy(batch.input_ids), "attention_mask": mask}
        if network.config.model_type in WITH_TOKEN_TYPES:
            feed["token_type_ids"] = torch.from_numpy(batch.token_type_ids)
        with torch.inference_mode():
            tokens = network(**feed).last_hidden_state * mask[..., None]
            mean = tokens.sum(dim=1) / mask.sum(dim=1, keepdim=True)
            mean = unit(mean, dim=1) if normalize else mean
        found.update(zip(chosen, mean.numpy(), strict=True))
    return [found[i] for i in range(len(rows))]


def normalizes(checkpoint: Path) -> bool:
    """Whether the model divides its vectors by their length. Raises what reading its modules raises."""
    from edgebert_targets.encoder import EmbeddingHead, load_encoder_spec

    head = load_encoder_spec(checkpoint).head
    return isinstance(head, EmbeddingHead) and head.normalize


def _step(
    name: str, kind: str, text: str, made: StageResult, found: Answers, right: Answers, reporter: Reporter
) -> CheckpointStep:
    score = float(np.mean([cosine(one, other) for one, other in zip(found, right, strict=True)]))
    reporter.note(f"{name}: {TASK.metric} {score:.2%}")
    folder = made.folder / CHECKPOINT
    return CheckpointStep(name, kind, text, made.key, folder, found, score, made.facts, TASK.metric)


def _write(network: Any, source: Path, tokens: Path, out: Path) -> None:
    from edgebert_compress.checkpoint import write_model

    write_model(network, source, out)
    _copy_sides(source, tokens, out)


def _copy_sides(source: Path, tokens: Path, out: Path) -> None:
    """The tokenizer, and what sentence-transformers says of pooling."""
    for path in sorted(tokens.iterdir()):
        if path.name != "done.json":
            shutil.copyfile(path, out / path.name)
    if (source / MODULES).is_file():
        shutil.copyfile(source / MODULES, out / MODULES)
        for path in sorted(source.glob("*/config.json")):
            (out / path.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(path, out / path.parent.name / path.name)
