"""A loaded ONNX artifact. Needs onnxruntime, not onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.base import SessionOptions
from edgebert_targets.cpu import Cpu, require_any
from edgebert_targets.errors import ArtifactError, InputError, MissingExtraError, one_line
from edgebert_targets.inputs import InputLimits, IntArray
from edgebert_targets.onnx_x86.metadata import Metadata, parse_metadata

SEVERITY_FATAL = 4  # ONNX Runtime also logs what it raises; the raised error is enough


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises MissingExtraError."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime is not installed; run: pip install 'edgebert[x86]'") from None
    return onnxruntime


class OnnxSession:
    """Runs one ONNX artifact. Not thread-safe by contract, though ONNX Runtime's own run is."""

    def __init__(self, runtime: Any, metadata: Metadata) -> None:
        self._runtime: Any = runtime
        self._limits = InputLimits(metadata.vocabulary, metadata.max_length, metadata.token_types)

    @property
    def max_length(self) -> int:
        return self._limits.max_length

    def run(
        self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray
    ) -> NDArray[np.float32]:
        """Logits, float32 [batch, classes]. Raises InputError."""
        if self._runtime is None:
            raise InputError("the session is closed; open the model again")
        self._limits.check(input_ids, attention_mask, token_type_ids)
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._limits.token_types:
            feed["token_type_ids"] = token_type_ids
        arrays = {name: np.ascontiguousarray(value, dtype=np.int64) for name, value in feed.items()}
        try:
            logits: NDArray[np.float32] = self._runtime.run(["logits"], arrays)[0]
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ArtifactError(
                f"ONNX Runtime cannot run the model ({one_line(error)}); build it again"
            ) from None
        return logits

    def close(self) -> None:
        """Release the runtime's memory."""
        self._runtime = None


def open_session(model: Path, options: SessionOptions, cpu: Cpu | None) -> OnnxSession:
    """Load `model`; `cpu` None skips the check of CPU features.

    Raises ArtifactError, WrongCpuError and MissingExtraError.
    """
    ort = import_onnxruntime()
    if not model.is_file():
        raise ArtifactError(f"{model}: no such file; give the package's model.onnx")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = SEVERITY_FATAL
    try:
        runtime = ort.InferenceSession(
            str(model), settings, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        properties = runtime.get_modelmeta().custom_metadata_map
        names = {value.name for value in runtime.get_inputs()}
        outputs = [value.name for value in runtime.get_outputs()]
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ArtifactError(
            f"{model}: ONNX Runtime cannot load it ({one_line(error)}); build it again"
        ) from None
    metadata = parse_metadata(model, properties)
    wanted = {"input_ids", "attention_mask"} | ({"token_type_ids"} if metadata.token_types else set())
    if names != wanted or outputs != ["logits"]:
        raise ArtifactError(f"{model}: inputs {sorted(names)} are not an EdgeBERT model's; build it again")
    if cpu is not None:
        require_any(cpu, metadata.cpu_features_any)
    return OnnxSession(runtime, metadata)
