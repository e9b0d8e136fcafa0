"""The `x86` target object. Every import of onnx or onnxruntime happens inside a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgebert_targets.answers import check_first_run
from edgebert_targets.base import (
    FLOAT_TOLERANCE,
    ArtifactFacts,
    ConvertOptions,
    SessionOptions,
    SupportRow,
)
from edgebert_targets.cpu import Cpu, running_cpu
from edgebert_targets.encoder import EncoderSpec, with_float_positions, with_float_weights
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
    static_ranges: bool = True
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

        The graph takes any length, so `options.lengths` plays no part.
        Raises UnsupportedModelError, ArtifactError, MissingExtraError and OSError.
        """
        import_onnx()
        spec = with_float_positions(with_float_weights(spec) if options.weights == "float32" else spec)
        from edgebert_targets.onnx_x86.convert import onnx_model

        write_atomic(out, onnx_model(spec).SerializeToString(deterministic=True))
        try:
            check_written(spec, out)
            check_first_run(spec, self.open(out, SessionOptions()), min(3, spec.max_length))
            return facts_of(out)
        except BaseException:
            out.unlink(missing_ok=True)
            raise

    def inspect(self, model: Path) -> ArtifactFacts:
        """What `model` holds. Raises ArtifactError and MissingExtraError."""
        return facts_of(model)

    def open(self, model: Path, options: SessionOptions) -> OnnxSession:
        """Raises ArtifactError and MissingExtraError."""
        return open_session(model, options, self.cpu())


TARGET = OnnxTarget()
