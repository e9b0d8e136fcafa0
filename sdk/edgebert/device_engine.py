"""int8-sparse on a device: the engine's static runner, its own tokenizer, and nothing else there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgebert.device_files import (
    RunnerAnswer,
    answer_limit,
    pack_ids,
    pack_texts,
    parse_reply,
    reply_int,
    reply_text,
    reply_times,
    unpack_answers,
)
from edgebert.device_runner import NAME, runner_for
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
from edgebert.tokenizer import EncodedBatch
from edgebert_targets.int8_sparse.library import Engine

RUNNER, MODEL = f"./{NAME}", "model.gguf"
MAX_REPEATS = 20_000  # of one call: what its reply may hold
COUNTED, COUNTED_WARMUP = 1, 1


class EngineOnDevice:
    """One model file beside the runner on an entered device."""

    def __init__(self, device: Device, facts: DeviceFacts, model: ModelOnHost) -> None:
        """Raises DeviceError, and what `runner_for` raises."""
        self._device, self._facts, self._model = device, facts, model
        with Engine.open(model.path) as engine:
            self._has_tokenizer = engine.info.has_tokenizer
            self.max_length = engine.info.max_length
            self._outputs = engine.info.outputs
        device.put(runner_for(facts.architecture), NAME, executable=True)
        device.put(model.path, MODEL)
        reply = parse_reply(self._run("facts", inferences=0))
        self.runtime = f"EdgeBERT engine {reply_text(reply, 'version')}"
        self.kernels = reply_text(reply, "kernels")

    def answer(self, texts: Sequence[str], pairs: Sequence[str | None], threads: int) -> DeviceAnswers:
        """The runner tokenises the texts, unless the model file has no tokenizer."""
        if not self._has_tokenizer:
            return DeviceAnswers(self.answer_ids(self._model.tokenizer.encode(texts, pairs), threads), None)
        found = self._answers(pack_texts(texts, pairs), len(texts), threads)
        return DeviceAnswers([answer.logits for answer in found], tuple(answer.ids for answer in found))

    def answer_ids(self, encoded: EncodedBatch, threads: int) -> list[NDArray[np.float32]]:
        found = self._answers(pack_ids(encoded), len(encoded.input_ids), threads)
        return [answer.logits for answer in found]

    def _answers(self, packed: bytes, examples: int, threads: int) -> list[RunnerAnswer]:
        length, per_token = self._model.tokenizer.max_length, self._model.per_token
        send(self._device, packed, "examples.bin")
        self._run(
            "logits", MODEL, "examples.bin", "answers.bin", "--threads", str(threads),
            "--max-length", str(length), inferences=examples,
        )  # fmt: skip
        limit = answer_limit(examples, length, self._outputs, per_token=per_token)
        raw = fetch(self._device, "answers.bin", limit)
        return unpack_answers(raw, examples, self._outputs, per_token=per_token)

    def time(self, length: int, threads: int, repeats: int, warmup: int) -> DeviceTiming:
        repeats = min(repeats, MAX_REPEATS)
        words = self._bench(length, threads, repeats, warmup)
        reply = parse_reply(self._run(*words, inferences=repeats + warmup))
        return DeviceTiming(
            reply_times(reply, repeats), reply_int(reply, "load_ns"), reply_int(reply, "peak_bytes")
        )

    def count(self, length: int) -> int:
        words = [RUNNER, *self._bench(length, 1, COUNTED, COUNTED_WARMUP)]
        timeout = patience(self._facts, 100 * (COUNTED + COUNTED_WARMUP))
        done, instructions = counting(self._device).run_counted(words, timeout=timeout)
        require(done, self._device.name, NAME)
        return per_inference(instructions, COUNTED)

    def _bench(self, length: int, threads: int, repeats: int, warmup: int) -> list[str]:
        return ["bench", MODEL, "--length", str(length), "--threads", str(threads),
                "--repeats", str(repeats), "--warmup", str(warmup)]  # fmt: skip

    def _run(self, *words: str, inferences: int) -> bytes:
        done = self._device.run([RUNNER, *words], timeout=patience(self._facts, inferences))
        return require(done, self._device.name, NAME)
