"""A loaded LiteRT artifact."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.base import SessionOptions
from edgebert_targets.errors import ArtifactError, InputError, MissingExtraError, one_line
from edgebert_targets.inputs import InputLimits, IntArray
from edgebert_targets.litert_arm64.inspect import read_model
from edgebert_targets.litert_arm64.quiet import quiet_native_stderr
from edgebert_targets.litert_arm64.signature import signature_key


def import_interpreter() -> Any:
    """The ai_edge_litert.interpreter module. Raises MissingExtraError."""
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        raise MissingExtraError(
            "ai-edge-litert is not installed; run: pip install 'edgebert[arm64]'"
        ) from None
    return interpreter


class LiteRtSession:
    """Runs one artifact, a row at a time. Not thread-safe."""

    def __init__(self, interpreter: Any, lengths: tuple[int, ...], limits: InputLimits) -> None:
        self._interpreter: Any = interpreter
        self._lengths = lengths
        self._limits = limits
        self._runners: dict[int, Any] = {}

    @property
    def max_length(self) -> int:
        return self._limits.max_length

    def run(
        self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray
    ) -> NDArray[np.float32]:
        """Logits, float32 [batch, classes]. Raises InputError.

        Each row runs at the smallest length that holds its tokens, whatever its neighbours need.
        """
        if self._interpreter is None:
            raise InputError("the session is closed; open the model again")
        self._limits.check(input_ids, attention_mask, token_type_ids)
        rows = zip(input_ids, attention_mask, token_type_ids, strict=True)
        return np.concatenate([self._run_row(*row) for row in rows])

    def _run_row(self, ids: IntArray, mask: IntArray, types: IntArray) -> NDArray[np.float32]:
        used = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else 1
        length = self._lengths[bisect_left(self._lengths, used)]
        feed = {"input_ids": ids, "attention_mask": mask}
        if self._limits.token_types:
            feed["token_type_ids"] = types
        padded = {name: _padded(value[:used], length) for name, value in feed.items()}
        try:
            logits: NDArray[np.float32] = self._call(length, padded)["logits"]
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"LiteRT cannot run the model ({one_line(error)}); build it again") from None
        return logits

    def _call(self, length: int, feed: dict[str, NDArray[np.int32]]) -> Any:
        """XNNPACK packs the weights, and logs, when a length is first used: so that is done on use."""
        if length in self._runners:
            return self._runners[length](**feed)
        with quiet_native_stderr():
            self._runners[length] = self._interpreter.get_signature_runner(signature_key(length))
            return self._runners[length](**feed)

    def close(self) -> None:
        """Release the runtime's memory."""
        self._runners.clear()
        self._interpreter = None


def _padded(values: IntArray, length: int) -> NDArray[np.int32]:
    """int32 [1, length]; zeros after the values."""
    row = np.zeros((1, length), np.int32)
    row[0, : len(values)] = values
    return row


def open_session(model: Path, options: SessionOptions) -> LiteRtSession:
    """Load `model`. Raises ArtifactError and MissingExtraError."""
    litert = import_interpreter()
    stored = read_model(model)
    try:
        with quiet_native_stderr():
            interpreter = litert.Interpreter(model_path=str(model), num_threads=options.threads)
    except Exception as error:  # the runtime raises ValueError and RuntimeError
        raise ArtifactError(f"{model}: LiteRT cannot load it ({one_line(error)}); build it again") from None
    return LiteRtSession(interpreter, stored.lengths, stored.limits)
