"""A loaded LiteRT artifact."""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.answers import OUTPUT_NAMES, TOKEN_TASKS, joined
from edgebert_targets.base import SessionOptions
from edgebert_targets.encoder import FloatArray, Task
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

    def __init__(self, interpreter: Any, task: Task, lengths: tuple[int, ...], limits: InputLimits) -> None:
        self._interpreter: Any = interpreter
        self._task = task
        self._lengths = lengths
        self._limits = limits
        self._runners: dict[int, Any] = {}

    @property
    def max_length(self) -> int:
        return self._limits.max_length

    def run(self, input_ids: IntArray, attention_mask: IntArray, token_type_ids: IntArray) -> FloatArray:
        """As `Session.run`. Raises InputError, and ArtifactError for a file that the runtime cannot run.

        Each row runs at the smallest length that holds its tokens, whatever its neighbours need.
        """
        if self._interpreter is None:
            raise InputError("the session is closed; open the model again")
        self._limits.check(input_ids, attention_mask, token_type_ids)
        rows = zip(input_ids, attention_mask, token_type_ids, strict=True)
        answers = [self._run_row(*row) for row in rows]
        outputs = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
        return joined(self._task, outputs, attention_mask)

    def _run_row(self, ids: IntArray, mask: IntArray, types: IntArray) -> list[FloatArray]:
        """The outputs in the order of their names, as long as the row where they are about tokens."""
        used = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else 1
        length = self._lengths[bisect_left(self._lengths, used)]
        feed = {"input_ids": ids, "attention_mask": mask}
        if self._limits.token_types:
            feed["token_type_ids"] = types
        padded = {name: _padded(value[:used], length) for name, value in feed.items()}
        try:
            outputs = self._call(length, padded)
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"LiteRT cannot run the model ({one_line(error)}); build it again") from None
        answers = [outputs[name] for name in OUTPUT_NAMES[self._task]]
        return [_as_long_as(a, len(ids)) for a in answers] if self._task in TOKEN_TASKS else answers

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


def load_interpreter(model: Path, threads: int) -> Any:
    """The runtime's own object for a file that `read_model` accepts. Raises ArtifactError."""
    litert = import_interpreter()
    try:
        with quiet_native_stderr():
            return litert.Interpreter(model_path=str(model), num_threads=threads)
    except Exception as error:  # the runtime raises ValueError and RuntimeError
        raise ArtifactError(f"{model}: LiteRT cannot load it ({one_line(error)}); build it again") from None


def _padded(values: IntArray, length: int) -> NDArray[np.int32]:
    """int32 [1, length]; zeros after the values."""
    row = np.zeros((1, length), np.int32)
    row[0, : len(values)] = values
    return row


def _as_long_as(answers: FloatArray, length: int) -> FloatArray:
    """[1, tokens, …] cut or filled with zeros to `length` tokens."""
    kept = answers[:, :length]
    if kept.shape[1] == length:
        return kept
    fill = np.zeros((1, length - kept.shape[1], *kept.shape[2:]), np.float32)
    return np.concatenate([kept, fill], axis=1)


def open_session(model: Path, options: SessionOptions) -> LiteRtSession:
    """Load `model`. Raises ArtifactError and MissingExtraError."""
    import_interpreter()
    stored = read_model(model)
    interpreter = load_interpreter(model, options.threads)
    return LiteRtSession(interpreter, stored.task, stored.lengths, stored.limits)
