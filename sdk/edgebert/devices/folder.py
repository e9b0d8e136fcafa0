"""A device's work folder on this machine's own disk, for the local device and the emulator."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from edgebert.devices.base import Completed
from edgebert.devices.interrupts import catch_termination, restore_termination
from edgebert.devices.process import OUTPUT_LIMIT, ProcessTimeoutError, TooMuchOutputError, run_process
from edgebert.devices.words import checked_remote
from edgebert.errors import DeviceError

CHUNK = 1 << 20


class WorkFolder:
    """`path`/work holds the device's files, `path` itself what the device needs beside them."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._path: Path | None = None
        self._signals: list[signal.Signals] = []

    @property
    def path(self) -> Path:
        """Raises DeviceError outside of the device's `with` block."""
        if self._path is None:
            raise DeviceError(f"device {self.device!r} is not open; use it in a 'with' block")
        return self._path

    @property
    def work(self) -> Path:
        return self.path / "work"

    def make(self) -> None:
        """Make the folder, readable by this user alone, and catch signals that would leave it behind."""
        self._signals = catch_termination()
        try:
            self._path = Path(tempfile.mkdtemp(prefix="edgebert-device-"))
            self.work.mkdir()
        except OSError as error:
            self.remove()
            raise DeviceError(f"cannot make a work folder for {self.device!r}: {error}") from error

    def remove(self) -> None:
        """Remove what `make` made; a second call does nothing."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None
        restore_termination(self._signals)
        self._signals = []

    def put(self, local: Path, remote: str, executable: bool) -> None:
        target = self.work / checked_remote(remote)
        copy_checked(local, target, None, f"put '{local}' on {self.device!r}")
        target.chmod(0o700 if executable else 0o600)

    def get(self, remote: str, local: Path, limit: int) -> None:
        copy_checked(self.work / checked_remote(remote), local, limit, f"get {remote!r} from {self.device!r}")

    def run(
        self, args: Sequence[str | Path], env: Mapping[str, str], timeout: float, shown: str
    ) -> Completed:
        """Run `args` in the work folder; `shown` names the program in errors. Raises DeviceError."""
        return run_bounded(
            lambda: run_process(args, timeout=timeout, env=env, cwd=self.work), shown, self.device, timeout
        )


def run_bounded(action: Callable[[], Completed], program: str, device: str, timeout: float) -> Completed:
    """`action`'s result; DeviceError where the program took or wrote too much."""
    try:
        return action()
    except ProcessTimeoutError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        said = f"; it last said: {last[0][:200]}" if last else ""
        raise DeviceError(
            f"{program!r} took longer than {timeout:g} s on {device!r} and was killed{said}"
        ) from error
    except TooMuchOutputError as error:
        raise DeviceError(
            f"{program!r} printed more than {OUTPUT_LIMIT >> 20} MiB on {device!r} and was killed"
        ) from error


def copy_checked(source: Path, target: Path, limit: int | None, what: str) -> None:
    """Copy a plain file through a temporary sibling and compare SHA-256 of what was read and written.

    Raises DeviceError: not a plain file, more than `limit` bytes, not the same bytes, not writable.
    """
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        if not source.is_file():
            raise DeviceError(f"cannot {what}: '{source.name}' is not there or no plain file")
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as reader, part.open("xb") as writer:
            while data := reader.read(CHUNK):
                size += len(data)
                if limit is not None and size > limit:
                    raise DeviceError(f"cannot {what}: it has more than {limit} bytes")
                digest.update(data)
                writer.write(data)
        if file_digest(part) != digest.hexdigest():
            raise DeviceError(f"cannot {what}: the copy is damaged; check the disk")
        part.replace(target)
    except OSError as error:
        raise DeviceError(f"cannot {what}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()


def file_digest(path: Path) -> str:
    """SHA-256 of a file as hex."""
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()
