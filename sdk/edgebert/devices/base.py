"""The seam of a device: put files there, run programs there, learn what it is, leave nothing behind.

A new device is one module with a factory plus one entry point in the group `edgebert.devices`, named by the
scheme of its specifications ("ssh" for "ssh://board"); the factory gets the whole specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from edgebert.errors import DeviceError
from edgebert.progress import Reporter

ENTRY_POINT_GROUP = "edgebert.devices"
# How each scheme is written; schemes of other distributions are listed by their name alone.
FORMS = {
    "local": "local",
    "qemu": "qemu:arm64[,cpu=MODEL]",
    "ssh": "ssh://[user@]host[:port]",
    "adb": "adb:SERIAL",
}


@dataclass(frozen=True)
class DeviceFacts:
    """What a device is. `features`: those of its architecture that matter for INT8, as Linux names them.

    `temperature_c`, `frequency_mhz`: of the CPU at this moment, the hottest zone and the fastest core.
    None: the device does not tell.
    """

    name: str
    architecture: str
    cpu: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    os: str
    governor: str | None
    temperature_c: float | None
    frequency_mhz: float | None
    emulated: bool


@dataclass(frozen=True)
class Completed:
    """A program that ended by itself.

    `returncode`: 128 + number where a signal ended it. `seconds`: wall-clock time with the connection's own.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float


@runtime_checkable
class Device(Protocol):
    """A context manager: entering makes a work folder of a random name there, leaving removes it.

    Every method raises DeviceError, in one line, when the device cannot be reached or does not do it.
    """

    @property
    def name(self) -> str:
        """The specification, as `open_device` takes it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def facts(self) -> DeviceFacts:
        """Read now, so that temperature and frequency are those of this moment."""
        ...

    def put(self, local: Path, remote: str, executable: bool = False) -> None:
        """Copy a file to `remote`, relative to the work folder, without ".."; checked by SHA-256."""
        ...

    def get(self, remote: str, local: Path, limit: int) -> None:
        """Copy a file of at most `limit` bytes from the device, replacing `local`; checked by SHA-256."""
        ...

    def run(self, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        """Run a program in the work folder; after `timeout` seconds it is killed there: DeviceError.

        args[0] with a "/" is a file of the work folder ("./runner") or an absolute path of the device;
        without, it is found on the device's PATH. stdin is empty.
        """
        ...

    def python(self) -> tuple[str, ...] | None:
        """First words of a command that runs a Python with numpy and ai_edge_litert; None: there is none."""
        ...


@runtime_checkable
class CountingDevice(Protocol):
    """An emulator that counts instructions."""

    def run_counted(
        self, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> tuple[Completed, int]:
        """As `run`, and the guest's instructions, of all threads, between `hint #42` and `hint #43`.

        Of the whole run where the program has no such region.
        """
        ...


@runtime_checkable
class PreparableDevice(Protocol):
    """A device that needs something built on this machine before its first use."""

    def prepare(self, reporter: Reporter) -> None:
        """Build it; nothing happens when it is there and works."""
        ...


Factory = Callable[[str], Device]


def device_schemes() -> tuple[str, ...]:
    """Schemes of all installed devices, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}))


def open_device(spec: str) -> Device:
    """The device that `spec` names, not yet entered.

    Raises DeviceError for an unknown scheme or a malformed specification; what cannot be reached says so on
    entering.
    """
    scheme = spec.partition(":")[0]
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == scheme:
            factory: Factory = entry.load()
            return factory(spec)
    known = ", ".join(FORMS.get(name, name) for name in device_schemes())
    raise DeviceError(f"unknown device {spec[:100]!r}; give one of: {known}")
