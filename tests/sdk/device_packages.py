"""Real packages of a tiny random model for tests of devices, and a device whose answers a test writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from edgebert.devices.base import Completed, DeviceFacts
from edgebert.golden import record_golden
from edgebert.machine import architecture
from edgebert.manifest import Backend, Cpu, Gate, TokenizerSettings
from edgebert.package import PackageContents, write_package
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import ConvertOptions, SessionOptions, get_target
from edgebert_targets.encoder import load_encoder_spec
from tests.factories import make_checkpoint
from tests.sdk.packages import make_manifest
from tests.targets.quantized import quantize_checkpoint

LENGTH = 16
GOLDEN = [("turn on the light", None), ("play my song", "stop the music"), ("Zürich?", None)]
RUNNER_FACTS = b'{"version": "0.1.0", "kernels": "made-up", "available": ["made-up"]}\n'


def make_packages(folder: Path, targets: Sequence[str]) -> dict[str, Path]:
    """A package a target, of one INT8 checkpoint, whose gate any accuracy passes."""
    checkpoint = quantize_checkpoint(make_checkpoint(folder / "checkpoint"))
    return {name: _package(folder, checkpoint, name) for name in targets}


def _package(folder: Path, checkpoint: Path, name: str) -> Path:
    target, model = get_target(name), folder / f"{name}.model"
    target.convert(load_encoder_spec(checkpoint), model, ConvertOptions(lengths=(LENGTH,)))
    tokenizer = TextTokenizer.from_folder(checkpoint, LENGTH)
    session = target.open(model, SessionOptions())
    try:
        golden = record_golden(session, tokenizer, [one for one, _ in GOLDEN], [two for _, two in GOLDEN])
    finally:
        session.close()
    manifest = make_manifest(
        target=name,
        backend=Backend(target.backend, target.backend_version()),
        cpu=Cpu(target.cpu_architectures),
        model_file=target.model_file,
        lengths=(LENGTH,) if name == "arm64" else (),
        tokenizer=TokenizerSettings(LENGTH, tokenizer.pad_id, tokenizer.token_types, tokenizer.lowercase),
        gate=Gate("accuracy", 0.0, 0.01),
        golden_tolerance=target.golden_tolerance,
    )
    out = folder / name
    contents = PackageContents(manifest, model, checkpoint, golden, '{"ms": 1}', "<!doctype html>")
    write_package(out, contents, as_zip=False, force=False)
    return out


def device_facts(**changes: object) -> DeviceFacts:
    facts = {
        "name": "made-up", "architecture": architecture(), "cpu": "Made-up", "features": (), "cores": 2,
        "memory_bytes": None, "os": "none", "governor": None, "temperature_c": None, "frequency_mhz": None,
        "emulated": False,
    }  # fmt: skip
    return DeviceFacts(**{**facts, **changes})  # type: ignore[arg-type]


class FakeDevice:
    """`replies`: stdout by a command's name. `files`: what is fetched, whatever the limit."""

    name = "made-up"

    def __init__(
        self,
        replies: Mapping[str, bytes],
        files: Mapping[str, bytes] | None = None,
        failed: Mapping[str, bytes] | None = None,
    ) -> None:
        self.replies = replies
        self.files = files or {}
        self.failed = failed or {}
        self.sent: dict[str, bytes] = {}
        self.ran: list[tuple[str, ...]] = []
        self.left = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left = True

    def facts(self) -> DeviceFacts:
        return device_facts()

    def put(self, local: Path, remote: str, executable: bool = False) -> None:
        self.sent[remote] = local.read_bytes()

    def get(self, remote: str, local: Path, limit: int) -> None:
        local.write_bytes(self.files[remote])

    def run(self, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        self.ran.append(tuple(args))
        command = next((word for word in args if word in self.replies or word in self.failed), "")
        if command in self.failed:
            return Completed(1, b"", self.failed[command], 0.1)
        return Completed(0, self.replies.get(command, b""), b"", 0.1)

    def python(self) -> tuple[str, ...] | None:
        return ("python3",) if "facts" in self.replies else None
