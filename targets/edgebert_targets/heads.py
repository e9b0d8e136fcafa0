"""Which head a checkpoint has, by `architectures` in its config.json, and where its tensors are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgebert_targets.encoder import (
    Activation,
    ClassificationHead,
    EmbeddingHead,
    Head,
    QuestionHead,
    TokenHead,
)
from edgebert_targets.errors import ArtifactError, UnsupportedModelError
from edgebert_targets.loader import Checkpoint, parse_json, read_json

SUFFIXES = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "Model")


@dataclass(frozen=True)
class HeadNames:
    """A family's classification head: dense layer, its activation, output layer."""

    dense: str
    activation: Activation
    out: str


def read_head(checkpoint: Checkpoint, hidden: int, names: HeadNames) -> tuple[Head, tuple[str, ...]]:
    """The head and its labels. Raises UnsupportedModelError and ArtifactError."""
    kind = _kind(checkpoint)
    if kind == "Model":  # the pooler of a bare encoder plays no part
        return EmbeddingHead(_normalizes(checkpoint.folder)), ()
    if kind == "ForQuestionAnswering":
        return QuestionHead(checkpoint.linear("qa_outputs", 2, hidden)), ()
    if kind == "ForTokenClassification":
        labels = _labels(checkpoint, "classifier")
        return TokenHead(checkpoint.linear("classifier", len(labels), hidden)), labels
    labels = _labels(checkpoint, names.out)
    head = ClassificationHead(
        dense=checkpoint.linear(names.dense, hidden, hidden),
        activation=names.activation,
        out=checkpoint.linear(names.out, len(labels), hidden),
    )
    return head, labels


def _kind(checkpoint: Checkpoint) -> str:
    """One of SUFFIXES; a config without `architectures` is taken for a text classifier."""
    listed = checkpoint.config.get("architectures")
    if listed is None:
        return SUFFIXES[0]
    name = listed[0] if isinstance(listed, list) and len(listed) == 1 else None
    kind = next((suffix for suffix in SUFFIXES if isinstance(name, str) and name.endswith(suffix)), None)
    if kind is None:
        raise UnsupportedModelError(
            f"config.json: architectures {listed!r} is not supported; use one that ends in one of:"
            f" {', '.join(SUFFIXES)}"
        )
    return kind


def _labels(checkpoint: Checkpoint, out: str) -> tuple[str, ...]:
    """id2label in the order of ids; transformers' default names where config.json has none."""
    count = len(checkpoint.array(f"{out}.bias", -1))
    table = checkpoint.config.get("id2label")
    if table is None:
        return tuple(f"LABEL_{i}" for i in range(count if count != 1 else 1))
    if not isinstance(table, dict) or sorted(table) != sorted(str(i) for i in range(count)):
        raise ArtifactError(f"config.json: id2label does not name the head's {count} classes; correct it")
    return tuple(str(table[str(i)]) for i in range(count))


def _normalizes(folder: Path) -> bool:
    """Whether a sentence-transformers folder divides vectors by their length; false for any other folder.

    Raises UnsupportedModelError for pooling other than the mean and for modules behind it.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return False
    modules = parse_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ArtifactError(f"{path}: holds no list of modules; save the model again")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModelError(
            f"{path}: modules {', '.join(kinds)} are not supported; use Transformer, Pooling and Normalize"
        )
    name = str(modules[1].get("path"))
    if Path(name).name != name:
        raise ArtifactError(f"{path}: pooling path {name!r} is no folder's name; save the model again")
    pooling = read_json(folder / name / "config.json")
    named = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    if pooling.get("pooling_mode", "mean") != "mean" or named not in ([], ["pooling_mode_mean_tokens"]):
        raise UnsupportedModelError(f"{path}: only mean pooling is supported; train the model with it")
    return len(kinds) == 3
