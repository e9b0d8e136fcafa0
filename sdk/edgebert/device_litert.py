"""arm64 on a device: a script for the Python there, inputs tokenised and checked here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from edgebert.device_check import kernels_by_features
from edgebert.device_files import AGAIN, finite, parse_reply, reply_int, reply_text, reply_times
from edgebert.device_session import (
    DeviceAnswers,
    DeviceTiming,
    ModelOnHost,
    counting,
    fetch,
    patience,
    per_inference,
    require,
    send,
)
from edgebert.devices.base import Device, DeviceFacts
from edgebert.errors import DeviceError
from edgebert.tokenizer import EncodedBatch
from edgebert_targets.answers import OUTPUT_NAMES
from edgebert_targets.litert_arm64.inspect import read_model

SCRIPT, MODEL = "litert_device_script.py", "model.tflite"
MAX_REPEATS = 20_000  # of one call: what its reply may hold
COUNTED, COUNTED_WARMUP = 4, 1
# Hashes of strings decide the layout of Python's tables, and so how many instructions a lookup takes.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class LiteRtOnDevice:
    """One model file and the script on an entered device."""

    def __init__(self, device: Device, facts: DeviceFacts, model: ModelOnHost) -> None:
        """Raises DeviceError (no Python with LiteRT there), ArtifactError and MissingExtraError."""
        self._device, self._facts, self._model = device, facts, model
        # Walked here first: the runtime on the device trusts every offset in the file.
        stored = read_model(model.path)
        self._limits, self._task = stored.limits, stored.task
        self._outputs = model.outputs
        self.max_length = self._limits.max_length
        python = device.python()
        if python is None:
            raise DeviceError(
                f"'{device.name}' has no Python with numpy and ai_edge_litert; run there: "
                "pip install ai-edge-litert numpy, or use the int8-sparse package, which needs no Python"
            )
        self._python = python
        device.put(model.path, MODEL)
        send(device, files("edgebert").joinpath(SCRIPT).read_bytes(), SCRIPT)
        version = reply_text(parse_reply(self._run("facts", inferences=0)), "version")
        self.runtime = f"LiteRT {version}"
        self.kernels = kernels_by_features(facts.features)

    def answer(self, texts: Sequence[str], pairs: Sequence[str | None], threads: int) -> DeviceAnswers:
        """Texts are tokenised here. Raises InputError for ids that the model does not have."""
        return DeviceAnswers(self.answer_ids(self._model.tokenizer.encode(texts, pairs), threads), None)

    def answer_ids(self, encoded: EncodedBatch, threads: int) -> list[NDArray[np.float32]]:
        """Raises InputError for ids that the model does not have."""
        self._limits.check(encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)
        packed = io.BytesIO()
        np.savez(
            packed,
            input_ids=encoded.input_ids.astype(np.int32),
            attention_mask=encoded.attention_mask.astype(np.int32),
            token_type_ids=encoded.token_type_ids.astype(np.int32),
        )
        send(self._device, packed.getvalue(), "examples.npz")
        rows = len(encoded.input_ids)
        names = ",".join(OUTPUT_NAMES[self._task])
        kind = "tokens" if self._model.per_token else "sequence"
        self._run("run", MODEL, "examples.npz", "answers.bin", str(threads), kind, names, inferences=rows)
        counts = encoded.attention_mask.sum(axis=1).tolist() if self._model.per_token else [1] * rows
        expected = 4 * self._outputs * sum(counts)
        raw = fetch(self._device, "answers.bin", expected)
        if len(raw) != expected:
            raise DeviceError(f"the device's answers have {len(raw)} bytes instead of {expected}; {AGAIN}")
        values = np.frombuffer(raw, "<f4").reshape(-1, self._outputs)
        parts = np.split(values, np.cumsum(counts)[:-1])
        answers = [finite(part, number) for number, part in enumerate(parts, 1)]
        return answers if self._model.per_token else [answer[0] for answer in answers]

    def time(self, length: int, threads: int, repeats: int, warmup: int) -> DeviceTiming:
        repeats = min(repeats, MAX_REPEATS)
        words = ("bench", MODEL, str(length), str(threads), str(repeats), str(warmup))
        reply = parse_reply(self._run(*words, inferences=repeats + warmup))
        return DeviceTiming(
            reply_times(reply, repeats), reply_int(reply, "load_ns"), reply_int(reply, "peak_bytes")
        )

    def count(self, length: int) -> int:
        device = counting(self._device)
        words = [*self._python, SCRIPT, "count", MODEL, str(length), str(COUNTED), str(COUNTED_WARMUP)]
        timeout = patience(self._facts, 100 * (COUNTED + COUNTED_WARMUP))
        done, instructions = device.run_counted(words, timeout=timeout, env=ENVIRONMENT)
        require(done, self._device.name, SCRIPT)
        return per_inference(instructions, COUNTED)

    def _run(self, *words: str, inferences: int) -> bytes:
        timeout = patience(self._facts, inferences)
        done = self._device.run([*self._python, SCRIPT, *words], timeout=timeout, env=ENVIRONMENT)
        return require(done, self._device.name, SCRIPT)
