"""The `x86` target object. Every import of onnx or onnxruntime happens inside a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgebert_targets.base import (
    FLOAT_TOLERANCE,
    ArtifactFacts,
    ConvertOptions,
    SessionOptions,
    SupportRow,
)
from edgebert_targets.cpu import Cpu, running_cpu
from edgebert_targets.encoder import EncoderSpec, with_float_positions
from edgebert_targets.errors import ArtifactError
from edgebert_targets.files import write_atomic
from edgebert_targets.onnx_x86.inspect import check_written, facts_of, import_onnx
from edgebert_targets.onnx_x86.session import OnnxSession, import_onnxruntime, open_session
from edgebert_targets.onnx_x86.support import SUPPORT


@dataclass(frozen=True)
class OnnxTarget:
    """`cpu` reads the running CPU; tests give another."""

    name: str = "x86"
    backend: str = "ONNX Runtime"
    model_file: str = "model.onnx"
    cpu_architectures: tuple[str, ...] = ("x86_64",)
    host_architectures: tuple[str, ...] = ("x86_64", "aarch64")
    golden_tolerance: float = FLOAT_TOLERANCE
    cpu: Callable[[], Cpu] = running_cpu

    def support(self) -> tuple[SupportRow, ...]:
        return SUPPORT

    def backend_version(self) -> str:
        """Version of the installed onnxruntime. Raises MissingExtraError."""
        return str(import_onnxruntime().__version__)

    def kernels(self) -> None:
        """The runtime does not say."""

    def convert(self, spec: EncoderSpec, out: Path, options: ConvertOptions) -> ArtifactFacts:
        """Write `spec` to `out`, reopen it, compare its INT8 weights and run it once.

        `options` has nothing for this target: the graph takes any length.
        Raises UnsupportedModelError, ArtifactError, MissingExtraError and OSError.
        """
        import_onnx()
        spec = with_float_positions(spec)
        from edgebert_targets.onnx_x86.convert import onnx_model

        write_atomic(out, onnx_model(spec).SerializeToString(deterministic=True))
        try:
            check_written(spec, out)
            _check_runs(spec, open_session(out, SessionOptions(), None))
            return facts_of(out)
        except BaseException:
            out.unlink(missing_ok=True)
            raise

    def inspect(self, model: Path) -> ArtifactFacts:
        """What `model` holds. Raises ArtifactError and MissingExtraError."""
        return facts_of(model)

    def open(self, model: Path, options: SessionOptions) -> OnnxSession:
        """Raises ArtifactError, WrongCpuError and MissingExtraError."""
        return open_session(model, options, self.cpu())


def _check_runs(spec: EncoderSpec, session: OnnxSession) -> None:
    ids = np.full((2, min(3, spec.max_length)), spec.pad_token_id, np.int64)
    logits = session.run(ids, np.ones_like(ids), np.zeros_like(ids))
    if logits.shape != (2, len(spec.labels)) or not np.isfinite(logits).all():
        raise ArtifactError(
            f"the converted model gives logits of shape {logits.shape} or not finite; check the weights"
        )


TARGET = OnnxTarget()
