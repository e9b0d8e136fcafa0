"""A package's model on a device: it answers there, is timed there, and tells what it computes with."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgebert.devices.base import Completed, CountingDevice, Device, DeviceFacts, PreparableDevice
from edgebert.errors import DeviceError, UsageError
from edgebert.package import Package
from edgebert.progress import Reporter
from edgebert.tasks.package import outputs_of, task_of_package
from edgebert.tasks.rows import Answers, Row, pad_rows
from edgebert.tokenizer import EncodedBatch, TextTokenizer

# Texts that go to a device at a time: a program's start costs seconds there, and progress is shown between.
CHUNK = 256
START_S = 120.0
DEVICE_TARGETS = ("arm64", "int8-sparse")


@dataclass(frozen=True)
class ModelOnHost:
    """What a device's model is made from: the artifact's file and how texts become its inputs.

    `outputs`: floats that it answers a sequence, or a token with `per_token`.
    """

    target: str
    path: Path
    tokenizer: TextTokenizer
    outputs: int
    per_token: bool = False


@dataclass(frozen=True)
class DeviceAnswers:
    """One answer a text. `ids`: by the device's own tokenizer, None where it has none."""

    answers: Answers
    ids: tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class DeviceTiming:
    """`ns`: each timed inference. `peak_bytes`: resident memory of the whole process there."""

    ns: tuple[int, ...]
    load_ns: int
    peak_bytes: int


class DeviceModel(Protocol):
    """A model that lies on a device. Every method raises DeviceError."""

    @property
    def runtime(self) -> str:
        """Name and version of what runs it there: "EdgeBERT engine 0.1.0"."""
        ...

    @property
    def kernels(self) -> str:
        """What it computes with there: "neon-dotprod", or the CPU features that a runtime chooses by."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence that the model takes."""
        ...

    def answer(self, texts: Sequence[str], pairs: Sequence[str | None], threads: int) -> DeviceAnswers:
        """Answers to some whole texts or pairs, cut where they are too long, in their order."""
        ...

    def answer_ids(self, encoded: EncodedBatch, threads: int) -> list[NDArray[np.float32]]:
        """Answers to one or more rows of ids, in their order, without padding."""
        ...

    def time(self, length: int, threads: int, repeats: int, warmup: int) -> DeviceTiming:
        """Time inferences of one sequence of `length` tokens, after `warmup` untimed ones."""
        ...

    def count(self, length: int) -> int:
        """Instructions of one inference on one thread; UsageError where the device does not count."""
        ...


def model_on_host(package: Package) -> ModelOnHost:
    """What `open_model` takes, of an open package. Raises PackageError."""
    manifest = package.manifest
    task = task_of_package(manifest.task)
    outputs = outputs_of(task, manifest.labels)
    if outputs is None:  # vectors are as wide as the recorded ones
        outputs = max((len(one.logits) for one in package.golden()), default=0)
    return ModelOnHost(manifest.target, package.model_path(), package.tokenizer(), outputs, task.per_token)


def open_model(device: Device, model: ModelOnHost, reporter: Reporter | None = None) -> DeviceModel:
    """Put `model` and what runs it on the entered `device`.

    Raises DeviceError, UsageError (this target does not run on this device) and MissingExtraError.
    """
    check_target(model.target)
    facts = device.facts()
    if model.target == "int8-sparse":
        from edgebert.device_engine import EngineOnDevice

        return EngineOnDevice(device, facts, model)
    from edgebert.device_litert import LiteRtOnDevice

    if reporter is not None and device.python() is None and isinstance(device, PreparableDevice):
        device.prepare(reporter)
    return LiteRtOnDevice(device, facts, model)


def check_target(name: str) -> None:
    """Raises UsageError for a target whose packages only run on this machine."""
    if name not in DEVICE_TARGETS:
        raise UsageError(
            f"packages of target '{name}' do not run on devices, those of {' and '.join(DEVICE_TARGETS)} do; "
            "leave out --device"
        )


def answer_all(
    model: DeviceModel,
    texts: Sequence[str],
    pairs: Sequence[str | None],
    threads: int,
    on_done: Callable[[int], None] | None = None,
) -> DeviceAnswers:
    """Answers to one or more texts, `CHUNK` at a time; `on_done` gets how many are answered."""
    parts: list[DeviceAnswers] = []
    for start in range(0, len(texts), CHUNK):
        part = slice(start, start + CHUNK)
        parts.append(model.answer(texts[part], pairs[part], threads))
        if on_done:
            on_done(min(start + CHUNK, len(texts)))
    ids = [row for part in parts if part.ids is not None for row in part.ids]
    answers = [answer for part in parts for answer in part.answers]
    return DeviceAnswers(answers, tuple(ids) if parts[0].ids is not None else None)


def answer_rows(
    model: DeviceModel,
    rows: Sequence[Row],
    pad_id: int,
    threads: int,
    on_done: Callable[[int], None] | None = None,
) -> list[NDArray[np.float32]]:
    """As `answer_all`, for rows of ids."""
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(rows), CHUNK):
        found += model.answer_ids(pad_rows(rows[start : start + CHUNK], pad_id), threads)
        if on_done:
            on_done(len(found))
    return found


def patience(facts: DeviceFacts, inferences: int) -> float:
    """Seconds after which a program on the device is taken for hung: far beyond what any model needs."""
    return START_S + inferences * (60.0 if facts.emulated else 10.0)


def require(done: Completed, device: str, what: str) -> bytes:
    """stdout of a program that succeeded. Raises DeviceError with the last line that it wrote to stderr."""
    if done.returncode == 0:
        return done.stdout
    lines = done.stderr[-4096:].decode(errors="replace").strip().splitlines()
    last = "".join(c if c.isprintable() else "?" for c in lines[-1].strip())[:300] if lines else "no message"
    raise DeviceError(f"{what} on '{device}' ended with code {done.returncode}: {last}")


def fetch(device: Device, remote: str, limit: int) -> bytes:
    """Content of a file of the device, of at most `limit` bytes. Raises DeviceError."""
    with tempfile.TemporaryDirectory(prefix="edgebert-") as folder:
        local = Path(folder) / "file"
        device.get(remote, local, limit)
        raw = local.read_bytes()
    if len(raw) > limit:
        raise DeviceError(f"the device's file '{remote}' has {len(raw)} bytes, at most {limit} were expected")
    return raw


def send(device: Device, content: bytes, remote: str) -> None:
    """Put `content` on the device as the file `remote`."""
    with tempfile.TemporaryDirectory(prefix="edgebert-") as folder:
        local = Path(folder) / "file"
        local.write_bytes(content)
        device.put(local, remote)


def counting(device: Device) -> CountingDevice:
    """`device` as one that counts instructions. Raises UsageError."""
    if isinstance(device, CountingDevice):
        return device
    raise UsageError(f"'{device.name}' does not count instructions; only emulators do")


def per_inference(instructions: int, repeats: int) -> int:
    """Instructions of one of `repeats` inferences that were counted together. Raises DeviceError for none."""
    if instructions < repeats:
        raise DeviceError(
            f"{instructions} instructions were counted for {repeats} inferences; check the emulator"
        )
    return math.ceil(instructions / repeats)
