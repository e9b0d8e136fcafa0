"""The `arm64` target object. Every import of flatbuffers or ai_edge_litert happens inside a call."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edgebert_targets.base import (
    FLOAT_TOLERANCE,
    ArtifactFacts,
    ConvertOptions,
    SessionOptions,
    SupportRow,
)
from edgebert_targets.encoder import EncoderSpec, with_float_positions, with_float_weights
from edgebert_targets.errors import MissingExtraError
from edgebert_targets.files import write_atomic
from edgebert_targets.litert_arm64.inspect import facts_of, import_schema
from edgebert_targets.litert_arm64.session import LiteRtSession, import_interpreter, open_session
from edgebert_targets.litert_arm64.support import SUPPORT
from edgebert_targets.litert_arm64.written import check_written


@dataclass(frozen=True)
class LiteRtTarget:
    name: str = "arm64"
    backend: str = "LiteRT"
    model_file: str = "model.tflite"
    cpu_architectures: tuple[str, ...] = ("aarch64",)
    host_architectures: tuple[str, ...] = ("x86_64", "aarch64")
    golden_tolerance: float = FLOAT_TOLERANCE
    static_ranges: bool = True

    def support(self) -> tuple[SupportRow, ...]:
        return SUPPORT

    def backend_version(self) -> str:
        """Version of the installed ai-edge-litert. Raises MissingExtraError."""
        import_interpreter()
        return version("ai-edge-litert")

    def kernels(self) -> None:
        """The runtime does not say."""

    def convert(self, spec: EncoderSpec, out: Path, options: ConvertOptions) -> ArtifactFacts:
        """Write `spec` to `out` with a signature for each of `options.lengths`, reopen it, check and run it.

        Raises UnsupportedModelError, ArtifactError, MissingExtraError and OSError.
        """
        import_schema()
        try:
            import flatbuffers  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                "flatbuffers is not installed; run: pip install 'edgebert[convert-arm64]'"
            ) from None
        from edgebert_targets.litert_arm64.convert import litert_model

        spec = with_float_positions(with_float_weights(spec) if options.weights == "float32" else spec)
        write_atomic(out, litert_model(spec, options.lengths))
        try:
            check_written(spec, options.lengths, out)
            return facts_of(out)
        except BaseException:
            out.unlink(missing_ok=True)
            raise

    def inspect(self, model: Path) -> ArtifactFacts:
        """What `model` holds. Raises ArtifactError and MissingExtraError."""
        return facts_of(model)

    def open(self, model: Path, options: SessionOptions) -> LiteRtSession:
        """Raises ArtifactError and MissingExtraError."""
        return open_session(model, options)


TARGET = LiteRtTarget()
