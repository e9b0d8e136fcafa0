"""Facts that travel inside the ONNX file as its metadata properties, readable without the onnx library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgebert_targets.encoder import TASKS, Task
from edgebert_targets.errors import ArtifactError

FORMAT = "1"
VNNI = ("avx512_vnni", "avx_vnni")
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Metadata:
    """`token_types` is the number of rows in that table, 0 when the model has none."""

    vocabulary: int
    max_length: int
    token_types: int
    quantized: bool
    task: Task

    def properties(self) -> dict[str, str]:
        return {
            "edgebert.format": FORMAT,
            "edgebert.max_length": str(self.max_length),
            "edgebert.quantized": str(int(self.quantized)),
            "edgebert.task": self.task,
            "edgebert.token_types": str(self.token_types),
            "edgebert.vocabulary": str(self.vocabulary),
        }


def parse_metadata(model: Path, properties: Mapping[str, str]) -> Metadata:
    """The reverse of `Metadata.properties`. Raises ArtifactError."""
    if properties.get("edgebert.format") != FORMAT:
        raise ArtifactError(f"{model}: no EdgeBERT metadata of format {FORMAT}; build it with edgebert build")

    def number(name: str, low: int, high: int = _LARGEST) -> int:
        text = properties.get(f"edgebert.{name}", "")
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
        if not low <= value <= high:
            raise ArtifactError(f"{model}: metadata edgebert.{name} is {text[:20]!r}; build it again")
        return value

    named = properties.get("edgebert.task")
    task = next((task for task in TASKS.values() if task == named), None)
    if task is None:
        raise ArtifactError(f"{model}: metadata edgebert.task is {str(named)[:30]!r}; build it again")
    return Metadata(
        vocabulary=number("vocabulary", 1),
        max_length=number("max_length", 1),
        token_types=number("token_types", 0),
        quantized=bool(number("quantized", 0, 1)),
        task=task,
    )
