"""The `int8-sparse` target object. Running and inspecting need the light core alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgebert_targets.answers import check_first_run
from edgebert_targets.base import ArtifactFacts, ConvertOptions, Kernels, SessionOptions, SupportRow
from edgebert_targets.encoder import EncoderSpec
from edgebert_targets.errors import UnsupportedModelError
from edgebert_targets.int8_sparse.inspect import check_written, facts_of
from edgebert_targets.int8_sparse.library import available_isas, isa, version
from edgebert_targets.int8_sparse.session import SparseSession, open_session
from edgebert_targets.int8_sparse.support import SUPPORT


@dataclass(frozen=True)
class SparseTarget:
    name: str = "int8-sparse"
    backend: str = "EdgeBERT engine"
    model_file: str = "model.gguf"
    cpu_architectures: tuple[str, ...] = ("x86_64", "aarch64")
    host_architectures: tuple[str, ...] = ("x86_64", "aarch64")
    # Every CPU computes the same bits.
    golden_tolerance: float = 0.0
    static_ranges: bool = False  # the engine quantises inputs at run time

    def support(self) -> tuple[SupportRow, ...]:
        return SUPPORT

    def backend_version(self) -> str:
        """Version of the engine's library. Raises MissingExtraError."""
        return version()

    def kernels(self) -> Kernels:
        """What computes here. Raises MissingExtraError and WrongCpuError."""
        return Kernels(isa(), available_isas())

    def convert(self, spec: EncoderSpec, out: Path, options: ConvertOptions) -> ArtifactFacts:
        """Write `spec` to `out`, reopen it, compare its INT8 weights and run it once.

        The engine takes any length, and weights as in the checkpoint only.
        Raises UnsupportedModelError, ArtifactError, MissingExtraError and OSError.
        """
        from edgebert_targets.int8_sparse.convert import write_model

        if options.weights != "checkpoint":
            raise UnsupportedModelError(
                f"the engine has no {options.weights} form; its weights are INT8: use the target x86 or arm64"
            )
        write_model(spec, out)
        try:
            check_written(spec, out)
            session = open_session(out, SessionOptions())
            try:
                check_first_run(spec, session, min(3, spec.max_length))
            finally:
                session.close()
            return facts_of(out)
        except BaseException:
            out.unlink(missing_ok=True)
            raise

    def inspect(self, model: Path) -> ArtifactFacts:
        """What `model` holds. Raises ArtifactError."""
        return facts_of(model)

    def open(self, model: Path, options: SessionOptions) -> SparseSession:
        """Raises ArtifactError, WrongCpuError, InputError and MissingExtraError."""
        return open_session(model, options)


TARGET = SparseTarget()
