"""The seams of a target: what converts an encoder, what runs the artifact, and how a target is found.

A new target is one module with a `Target` object plus one entry point in the group `edgebert.targets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.encoder import EncoderSpec, Task
from edgebert_targets.errors import UnknownTargetError

ENTRY_POINT_GROUP = "edgebert.targets"

Pattern = Literal["dense-fp32", "dense-int8", "sparse-4-block", "sparse-unstructured", "fewer-layers"]
Pays = Literal["yes", "no", "zipped only"]

# Largest |logit difference| that another CPU or version of a float runtime may show: float steps rounded in
# another order move activations to the next INT8 level. Seen: 0.18 over 3,600 logits (CLINC150, x86, ARM64).
FLOAT_TOLERANCE = 0.5


LENGTH_BUCKETS = (32, 64, 128, 256, 384)


@dataclass(frozen=True)
class SupportRow:
    """One row of the support matrix: does `pattern` pay on this backend, and what is the evidence."""

    pattern: Pattern
    speed: Pays
    size: Pays
    note: str


@dataclass(frozen=True)
class ConvertOptions:
    """`lengths`: token lengths for backends with fixed shapes, ascending (`lengths_up_to`). Others ignore it.

    `weights`: "checkpoint" writes INT8 where the checkpoint is INT8, "float32" what the integers stand for
    (the targets x86 and arm64; int8-sparse has no such form).
    """

    lengths: tuple[int, ...] = (128,)
    weights: Literal["checkpoint", "float32"] = "checkpoint"


def lengths_up_to(longest: int, buckets: tuple[int, ...] = LENGTH_BUCKETS) -> tuple[int, ...]:
    """The buckets below `longest`, then `longest` itself: lengths for texts of up to that many tokens."""
    return (*(length for length in sorted(set(buckets)) if length < longest), longest)


@dataclass(frozen=True)
class SessionOptions:
    """`threads`: intra-op threads."""

    threads: int = 1


@dataclass(frozen=True)
class TensorFacts:
    """One stored weight as read back from the artifact. `sparsity` is the share of zeros in [0, 1]."""

    name: str
    part: str  # "embeddings", "layer 0" …, "head"
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    sparsity: float


@dataclass(frozen=True)
class InputFacts:
    """An input of the artifact; a dimension is a fixed length or the name of a free one."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ArtifactFacts:
    """What an artifact holds, read back from the file itself, not from what we meant to write.

    `quantized_share`: bytes of INT8 weights and embeddings over bytes of all weights.
    `cpu_features_any`: at least one of these must be present; empty when none is needed.
    `task` None: the backend does not say.
    """

    nbytes: int
    tensors: tuple[TensorFacts, ...]
    ops: Mapping[str, int]
    quantized_share: float
    inputs: tuple[InputFacts, ...]
    lengths: tuple[int, ...]  # empty: any length up to the maximum
    cpu_architectures: tuple[str, ...]
    cpu_features_any: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    task: Task | None = None


@dataclass(frozen=True)
class Kernels:
    """`used`: the instruction set that a runtime computes with; `available`: all it could, best first."""

    used: str
    available: tuple[str, ...]


class Session(Protocol):
    """A loaded artifact. Not thread-safe unless a target says so."""

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens that `run` takes."""
        ...

    def run(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        token_type_ids: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """The task's answers, float32, from three int64 [batch, length] arrays.

        Text classification: logits [batch, classes]. Token classification: [batch, length, classes].
        Question answering: [batch, length, 2], the logits of start and end. Embedding: [batch, width].
        Positions of padding are 0. Right-padded; ids are checked against the vocabulary before the runtime
        sees them. Raises InputError for ids out of range, lengths over `max_length` or mismatched shapes.
        """
        ...

    def close(self) -> None: ...


@runtime_checkable
class TokenizingSession(Protocol):
    """A session whose artifact holds the tokenizer too."""

    def tokenize(self, text: str, pair: str | None, max_length: int) -> list[int] | None:
        """Ids by the runtime's own tokenizer, cut to `max_length` tokens; None: this artifact has none.

        Raises InputError.
        """
        ...


class Target(Protocol):
    """A device family with its backend."""

    @property
    def name(self) -> str: ...  # "x86"
    @property
    def backend(self) -> str: ...  # "ONNX Runtime"
    @property
    def model_file(self) -> str: ...  # "model.onnx"
    @property
    def cpu_architectures(self) -> tuple[str, ...]: ...  # where artifacts are meant to run: ("x86_64",)
    @property
    def host_architectures(self) -> tuple[str, ...]: ...  # where this backend can execute them at all
    @property
    def golden_tolerance(self) -> float: ...  # largest |logit difference| that another CPU may show
    @property
    def static_ranges(self) -> bool: ...  # whether `convert` takes checkpoints with static activation ranges

    def support(self) -> tuple[SupportRow, ...]: ...
    def backend_version(self) -> str:
        """Version of the installed runtime. Raises MissingExtraError."""
        ...

    def kernels(self) -> Kernels | None:
        """What computes here; None: the runtime does not say. Raises MissingExtraError, WrongCpuError."""
        ...

    def convert(self, spec: EncoderSpec, out: Path, options: ConvertOptions) -> ArtifactFacts:
        """Write the artifact `out` (parent exists), reopen it, assert what is in it. Deterministic bytes."""
        ...

    def inspect(self, model: Path) -> ArtifactFacts: ...
    def open(self, model: Path, options: SessionOptions) -> Session:
        """Raises ArtifactError for a damaged file, WrongCpuError, MissingExtraError."""
        ...


def target_names() -> tuple[str, ...]:
    """Names of all installed targets, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}))


def get_target(name: str) -> Target:
    """The target called `name`. Raises UnknownTargetError."""
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            target: Target = entry.load()
            return target
    raise UnknownTargetError(f"unknown target '{name}'; choose one of: {', '.join(target_names())}")
