"""int8-sparse on a device: the engine's static runner, its own tokenizer, and nothing else there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebert.device_files import (
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
        device.put(runner_for(facts.architecture), NAME, executable=True)
        device.put(model.path, MODEL)
        reply = parse_reply(self._run("facts", inferences=0))
        self.runtime = f"EdgeBERT engine {reply_text(reply, 'version')}"
        self.kernels = reply_text(reply, "kernels")

    def answer(self, texts: Sequence[str], pairs: Sequence[str | None], threads: int) -> DeviceAnswers:
        """Logits; the runner tokenises the texts, unless the model file has no tokenizer."""
        tokenizer, classes = self._model.tokenizer, self._model.classes
        packed = pack_texts(texts, pairs) if self._has_tokenizer else pack_ids(tokenizer.encode(texts, pairs))
        send(self._device, packed, "examples.bin")
        self._run(
            "logits", MODEL, "examples.bin", "answers.bin", "--threads", str(threads),
            "--max-length", str(tokenizer.max_length), inferences=len(texts),
        )  # fmt: skip
        limit = answer_limit(len(texts), tokenizer.max_length, classes)
        answers = unpack_answers(fetch(self._device, "answers.bin", limit), len(texts), classes)
        ids = tuple(answer.ids for answer in answers) if self._has_tokenizer else None
        return DeviceAnswers(np.stack([answer.logits for answer in answers]), ids)

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
