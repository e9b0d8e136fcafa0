"""A loaded ONNX artifact. Needs onnxruntime, not onnx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgebert_targets.answers import OUTPUT_NAMES, joined
from edgebert_targets.base import SessionOptions
from edgebert_targets.cpu import Cpu
from edgebert_targets.encoder import FloatArray
from edgebert_targets.errors import ArtifactError, InputError, MissingExtraError, one_line
from edgebert_targets.inputs import InputLimits, IntArray
from edgebert_targets.onnx_x86.metadata import VNNI, Metadata, parse_metadata

# Without VNNI, ONNX Runtime adds u8 × s8 products in saturating 16 bits; with this it turns the weights into
# u8 when it loads them and multiplies the same integers exactly, in wider lanes.
EXACT_PRODUCTS = "session.x64quantprecision"
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
        self._task = metadata.task
        self._limits = InputLimits(metadata.vocabulary, metadata.max_length, metadata.token_types)

    @property
    def max_length(self) -> int:
        return self._limits.max_length

    def run(self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray) -> FloatArray:
        """As `Session.run`. Raises InputError, and ArtifactError for a file that the runtime cannot run."""
        if self._runtime is None:
            raise InputError("the session is closed; open the model again")
        self._limits.check(input_ids, attention_mask, token_type_ids)
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._limits.token_types:
            feed["token_type_ids"] = token_type_ids
        arrays = {name: np.ascontiguousarray(value, dtype=np.int64) for name, value in feed.items()}
        try:
            outputs = self._runtime.run(list(OUTPUT_NAMES[self._task]), arrays)
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ArtifactError(
                f"ONNX Runtime cannot run the model ({one_line(error)}); build it again"
            ) from None
        return joined(self._task, outputs, attention_mask)

    def close(self) -> None:
        """Release the runtime's memory."""
        self._runtime = None


def open_session(model: Path, options: SessionOptions, cpu: Cpu) -> OnnxSession:
    """Load `model`, so that `cpu` adds exactly. Raises ArtifactError and MissingExtraError."""
    ort = import_onnxruntime()
    if not model.is_file():
        raise ArtifactError(f"{model}: no such file; give the package's model.onnx")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = SEVERITY_FATAL
    if cpu.architecture == "x86_64" and not cpu.has_any(VNNI):
        settings.add_session_config_entry(EXACT_PRODUCTS, "1")
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
    if names != wanted or tuple(outputs) != OUTPUT_NAMES[metadata.task]:
        raise ArtifactError(f"{model}: inputs {sorted(names)} are not an EdgeBERT model's; build it again")
    return OnnxSession(runtime, metadata)
