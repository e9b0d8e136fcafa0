"""Where a model comes from: a folder or a hub id, what it is, and whether its head is trained."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.errors import MissingExtraError, ModelError, UsageError

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*", "merges.txt",
             "special_tokens_map.json", "added_tokens.json", "*.model"]  # fmt: skip
HASHED_SUFFIXES = (".json", ".safetensors", ".txt", ".model")
ARCHITECTURES = ("bert", "distilbert", "roberta", "electra")
MAX_CONFIG_BYTES = 4 << 20
MAX_HEADER_BYTES = 64 << 20
# For each task the end of its class names in transformers, and a parameter of the head, by architecture.
HEADS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "text-classification": (
        "ForSequenceClassification",
        {
            "bert": "classifier.weight",
            "distilbert": "classifier.weight",
            "roberta": "classifier.out_proj.weight",
            "electra": "classifier.out_proj.weight",
        },
    ),
    "token-classification": ("ForTokenClassification", dict.fromkeys(ARCHITECTURES, "classifier.weight")),
    "question-answering": ("ForQuestionAnswering", dict.fromkeys(ARCHITECTURES, "qa_outputs.weight")),
    "masked-language-model": (
        "ForMaskedLM",
        {
            "bert": "cls.predictions.transform.dense.weight",
            "distilbert": "vocab_transform.weight",
            "roberta": "lm_head.dense.weight",
            "electra": "generator_predictions.dense.weight",
        },
    ),
    "embedding": ("Model", {}),  # the encoder is all of it
}
PACKAGED = ("text-classification", "token-classification", "question-answering")
SENTENCE_MODULES = "modules.json"  # of sentence-transformers
# Heads of pre-training, which any task may replace.
PRETRAINED = ("ForMaskedLM", "ForPreTraining")


@dataclass(frozen=True)
class SourceModel:
    """A Hugging Face folder on disk, and what it is for `task`.

    `labels` are in logit order, None when the head is untrained and () for a trained one without classes.
    `max_length`: tokens that its position table holds. `layers`, `hidden_size`: of the encoder.
    `new_head`: the head is to be trained anew.
    """

    name: str
    folder: Path
    architecture: str
    sha256: str
    labels: tuple[str, ...] | None
    max_length: int
    layers: int
    hidden_size: int
    new_head: bool = False
    task: str = "text-classification"


def resolve_model(model: str | Path, task: str = "text-classification") -> SourceModel:
    """Find `model` (folder or hub id), check that `task` can start from it.

    Raises ModelError and MissingExtraError; UsageError for an unknown task.
    """
    if task not in HEADS:
        raise UsageError(f"unknown task '{task[:60]}'; use one of: {', '.join(HEADS)}")
    suffix, head_weights = HEADS[task]
    folder = model_folder(model)
    config = _read_config(folder)
    architecture = config.get("model_type")
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"architecture '{architecture}' of '{model}' is not supported; "
            f"use one of: {', '.join(ARCHITECTURES)}"
        )
    other = trained_heads(config)
    if other and not any(name.endswith(suffix) for name in other):
        raise ModelError(
            f"'{model}' is a {other[0]}, which is not made for {task}; "
            f"give a model '…{suffix}' or a plain encoder"
        )
    names = _parameter_names(folder)
    trained = head_weights[architecture] in names if head_weights else True
    if not (any(folder.glob("tokenizer.json")) or any(folder.glob("vocab*"))):
        raise ModelError(f"'{model}' has no tokenizer files; save the tokenizer beside the weights")
    labels = None
    if trained:
        labels = _labels(config) if task.endswith("-classification") else ()
    layers, hidden_size = _geometry(config)
    return SourceModel(
        name=Path(model).resolve().name if folder == Path(model) else str(model),
        folder=folder,
        architecture=architecture,
        sha256=folder_hash(folder),
        labels=labels,
        max_length=_max_length(config),
        layers=layers,
        hidden_size=hidden_size,
        task=task,
    )


def model_folder(model: str | Path) -> Path:
    """The folder `model`, or where the hub's model of that name was put. Raises as `resolve_model`."""
    folder = Path(model)
    return folder if folder.is_dir() else _download(str(model))


def task_of_model(model: str | Path) -> str | None:
    """The task that the model's head was made for; None where it has none. Raises as `resolve_model`."""
    folder = model_folder(model)
    heads = trained_heads(_read_config(folder))
    for task in PACKAGED:
        if any(name.endswith(HEADS[task][0]) for name in heads):
            return task
    return "embedding" if not heads and (folder / SENTENCE_MODULES).is_file() else None


def trained_heads(config: Mapping[str, Any]) -> list[str]:
    """Class names of `architectures` that stand for a task's head, not for one of pre-training."""
    names = config.get("architectures")
    known = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return [name for name in known if "For" in name and not name.endswith(PRETRAINED)]


def match_labels(model: SourceModel, labels: Sequence[str]) -> tuple[str, ...]:
    """Labels in the order of the model's logits, checked against the data's.

    A head that only knows LABEL_0 … LABEL_n fits data labelled 0 … n. Raises ModelError when they differ.
    """
    assert model.labels is not None
    known = tuple(re.sub(r"^LABEL_(\d+)$", r"\1", label) for label in model.labels)
    for names in (model.labels, known):
        if set(names) >= set(labels):
            return names
    unknown = sorted(set(labels) - set(model.labels))
    raise ModelError(
        f"the head of '{model.name}' does not know the label '{unknown[0]}' (it has: "
        f"{', '.join(model.labels[:6])}{', …' if len(model.labels) > 6 else ''}); "
        "rename the labels, or train a new head with --new-head"
    )


def folder_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the model's files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in HASHED_SUFFIXES):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _download(model: str) -> Path:
    if not HUB_ID.match(model):
        raise ModelError(f"no model folder at '{model}'; give a folder with config.json or a hub id")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            f"no folder '{model}', and downloading needs huggingface_hub; run: pip install 'edgebert[build]'"
        ) from None
    try:
        return Path(snapshot_download(model, allow_patterns=HUB_FILES))
    except Exception as error:  # the library raises many unrelated types
        what = " ".join(str(error).split())[:160]
        raise ModelError(
            f"no folder '{model}', and the hub did not give it: {what}; check the name"
        ) from None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"'{folder}' has no config.json; give a folder that from_pretrained can load")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("too large")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ModelError(
            f"'{path}' is not a model configuration ({error}); download the model again"
        ) from None
    return config


def _max_length(config: dict[str, Any]) -> int:
    positions = config.get("max_position_embeddings", 512)
    if not isinstance(positions, int) or not 8 <= positions <= 1 << 20:
        raise ModelError(
            f"config.json: max_position_embeddings is {positions!r}; give the table's number of rows"
        )
    # RoBERTa numbers positions from its padding id + 1, which costs the table's first rows.
    offset = int(config.get("pad_token_id") or 0) + 1 if config["model_type"] == "roberta" else 0
    return positions - offset


def _geometry(config: dict[str, Any]) -> tuple[int, int]:
    """Encoder layers and hidden size."""
    distil = config["model_type"] == "distilbert"
    names = ("n_layers", "dim") if distil else ("num_hidden_layers", "hidden_size")
    values = []
    for name in names:
        value = config.get(name)
        if not isinstance(value, int) or not 1 <= value <= 1 << 16:
            raise ModelError(f"config.json: {name} is {value!r}; give a whole number from 1 up")
        values.append(value)
    return values[0], values[1]


def _parameter_names(folder: Path) -> set[str]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.bin"))
        hint = "pickled ones are never loaded: convert them" if pickled else "save it with save_pretrained"
        raise ModelError(f"'{folder}' has no .safetensors weights; {hint}")
    names: set[str] = set()
    for path in files:
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
                    raise ValueError(f"header of {length} bytes")
                names |= set(json.loads(file.read(length)))
        except (struct.error, ValueError) as error:
            raise ModelError(f"'{path}' is damaged ({error}); download the model again") from None
    return names


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    table = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    try:
        ordered = sorted((int(index), str(label)) for index, label in table.items())
    except (ValueError, AttributeError):
        raise ModelError("config.json: id2label is not a table from number to label; correct it") from None
    if [index for index, _ in ordered] != list(range(len(ordered))):
        raise ModelError("config.json: id2label does not number the labels 0, 1, 2, …; correct it")
    return tuple(label for _, label in ordered)
