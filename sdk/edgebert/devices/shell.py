"""A device behind a POSIX shell, whatever carries its commands there."""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Protocol, Self, TypeVar

from edgebert.devices import shell_scripts as scripts
from edgebert.devices.base import Completed, DeviceFacts
from edgebert.devices.facts import device_facts, last_line
from edgebert.devices.folder import file_digest, run_bounded
from edgebert.devices.interrupts import catch_termination, restore_termination
from edgebert.devices.keeper import Keeper
from edgebert.devices.process import run_process
from edgebert.devices.received import AfterMarker, Memory, ReceivedFile, UnexpectedAnswerError, exit_code
from edgebert.devices.words import checked_args, checked_env, checked_remote
from edgebert.errors import DeviceError

COMMAND_TIMEOUT = 60.0  # seconds for the small commands of a device that may be slow
SLOWEST = 50_000  # bytes a second of a transfer that still counts as alive
PYTHON = "python3"
IMPORTS = "import numpy, ai_edge_litert.interpreter"


class Connection(Protocol):
    """How a command gets to the device: argument lists of a client program here, never a shell string."""

    @property
    def name(self) -> str:
        """The device's specification."""
        ...

    @property
    def base(self) -> str:
        """The parent of work folders, as the device's shell writes it."""
        ...

    def command(self, script: str, shared: Path | None = None, first: bool = False) -> list[str]:
        """What to run here so that a POSIX shell there runs `script`; it passes stdin, stdout and stderr.

        shared: a private folder in which the first command may leave its connection for the others.
        """
        ...

    def push(self, local: Path, remote: str) -> list[str] | None:
        """What to run here to copy a file there; None: through the shell's stdin."""
        ...

    @property
    def advice(self) -> str:
        """What the user can do when the device cannot be reached."""
        ...


C = TypeVar("C", bound=Callable[[bytes], None])


class ShellDevice:
    """Put, get and run over a `Connection`. Every method tries once more where the connection breaks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._keeper: Keeper | None = None
        self._shared: Path | None = None
        self._folder = f"edgebert-device-{secrets.token_hex(8)}"
        self._signals: list[signal.Signals] = []
        self._python: tuple[str, ...] | None = None
        self._python_known = False

    @property
    def name(self) -> str:
        return self._connection.name

    def __enter__(self) -> Self:
        self._signals = catch_termination()
        try:
            self._shared = Path(tempfile.mkdtemp(prefix="edgebert-"))
            self._keeper = self._keep()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None and not keeper.leave():
                self._remove(keeper.work)
        except DeviceError:
            # The first error is the one that says what happened.
            if error is None:
                raise
        finally:
            self._close()

    def facts(self) -> DeviceFacts:
        token = new_token()
        _, output = self._command(scripts.readings(token), "read facts")
        parts = re.split(rb"\n" + token.encode() + rb" ([a-z-]+)\n", bytes(output))
        return device_facts(self.name, {k.decode(): v for k, v in zip(parts[1::2], parts[2::2], strict=True)})

    def put(self, local: Path, remote: str, executable: bool = False) -> None:
        what = f"put '{local}'"
        final = f"{self._work()}/{checked_remote(remote)}"
        part = f"{self._work()}/{scripts.OWN}/{new_token()}.part"
        try:
            if not local.is_file():
                raise DeviceError(f"cannot {what} on {self.name!r}: it is not there or no plain file")
            digest, size = file_digest(local), local.stat().st_size
        except OSError as error:
            raise DeviceError(f"cannot {what} on {self.name!r}: {error.strerror}") from error
        self._send(local, part, COMMAND_TIMEOUT + size / SLOWEST, what)
        done, _ = self._command(scripts.finish(part, final, digest, executable), what)
        if done.returncode == scripts.NOT_THERE:  # no sha256sum: what arrived comes back
            same = self._read(part, size, None, what)[0] == digest
            done, _ = self._command(
                scripts.finish(part, final, None, executable) if same else f"exit {scripts.REFUSED}", what
            )
        if done.returncode:
            damaged = done.returncode == scripts.REFUSED
            raise self._failed(what, "it arrived damaged" if damaged else last_line(done.stderr))

    def get(self, remote: str, local: Path, limit: int) -> None:
        what = f"get {remote!r}"
        path = f"{self._work()}/{checked_remote(remote)}"
        part = local.with_name(f".{secrets.token_hex(8)}.part")
        try:
            local.parent.mkdir(parents=True, exist_ok=True)
            read, told = self._read(path, limit, part, what)
            if told is None:  # no sha256sum there: it comes once more
                told = self._read(path, limit, None, what)[0]
            if read != told:
                raise self._failed(what, "it arrived damaged, or changed meanwhile")
            part.replace(local)
        except OSError as error:
            raise self._failed(what, f"'{local}': {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                part.unlink()

    def run(self, args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        words, variables, work = checked_args(args), checked_env(env), self._work()
        token = new_token()
        try:
            done, output = self._command(
                scripts.run(work, words, variables, token), words[0], timeout=timeout
            )
        except DeviceError:
            # A device that is cut off cannot be told; its keeper does it then.
            with suppress(DeviceError):
                self._command(scripts.kill(work, token), "kill a program")
            raise
        return replace(done, stdout=bytes(output))

    def python(self) -> tuple[str, ...] | None:
        if not self._python_known:
            script = f"command -v {PYTHON} > /dev/null 2>&1 && {PYTHON} -c {quote(IMPORTS)} < /dev/null"
            done, _ = self._command(script, "look for Python", timeout=5 * COMMAND_TIMEOUT)
            self._python, self._python_known = ((PYTHON,) if done.returncode == 0 else None), True
        return self._python

    def _close(self) -> None:
        if self._shared is not None:
            shutil.rmtree(self._shared, ignore_errors=True)
            self._shared = None
        restore_termination(self._signals)

    def _work(self) -> str:
        if self._keeper is None:
            raise DeviceError(f"device {self.name!r} is not open; use it in a 'with' block")
        return self._keeper.work

    def _keep(self, again: bool = False) -> Keeper:
        token = new_token()
        script = scripts.keep(self._connection.base, self._folder, token, again)
        command = self._connection.command(script, self._shared, first=True)
        return Keeper(command, token, self._folder, self.name, self._connection.advice)

    def _remove(self, work: str) -> None:
        done, _ = self._command(scripts.remove(work), "remove the work folder")
        if done.returncode:
            raise DeviceError(f"the work folder {work} is left on {self.name!r}: {last_line(done.stderr)}")

    def _send(self, local: Path, part: str, timeout: float, what: str) -> None:
        push = self._connection.push(local.absolute(), part)
        if push is None:
            done, _ = self._command(scripts.receive(part), what, timeout=timeout, stdin=local)
        else:
            done = run_bounded(lambda: run_process(push, timeout=timeout), what, self.name, timeout)
            if done.returncode:
                self._come_back()
                done = run_bounded(lambda: run_process(push, timeout=timeout), what, self.name, timeout)
        if done.returncode:
            raise self._failed(what, last_line(done.stderr))

    def _read(self, path: str, limit: int, part: Path | None, what: str) -> tuple[str, str | None]:
        """SHA-256 of the bytes that came, which go to `part`, and what the device says it is."""
        timeout = COMMAND_TIMEOUT + limit / SLOWEST
        done, file = self._retried(
            scripts.send(path, limit), what, timeout, lambda: ReceivedFile(limit, part), None
        )
        if done.returncode:
            reasons = {scripts.REFUSED: f"it has more than {limit} bytes", scripts.NOT_THERE: "no such file"}
            raise self._failed(what, reasons.get(done.returncode, last_line(done.stderr)))
        try:
            return file.digest, file.told
        except UnexpectedAnswerError as error:
            raise self._failed(what, str(error)) from error

    def _command(
        self, script: str, what: str, *, timeout: float = COMMAND_TIMEOUT, stdin: Path | None = None
    ) -> tuple[Completed, bytearray]:
        done, memory = self._retried(script, what, timeout, Memory, stdin)
        return done, memory.data

    def _retried(
        self, script: str, what: str, timeout: float, consumer: Callable[[], C], stdin: Path | None
    ) -> tuple[Completed, C]:
        """Run `script` there; where the connection breaks, once more from the start with a new consumer."""
        for last in (False, True):
            token, output = new_token(), consumer()
            command = self._connection.command(scripts.framed(token, script), self._shared)
            sink = AfterMarker(token, output)
            action = partial(run_process, command, timeout=timeout, stdin=stdin, sink=sink)
            try:
                done = run_bounded(action, what, self.name, timeout)
            except UnexpectedAnswerError as error:
                raise self._failed(what, str(error)) from error
            if (told := exit_code(done.stderr, token)) is not None:
                return replace(done, returncode=told[0], stderr=told[1]), output
            if last:
                raise self._failed(what, f"the connection broke twice: {last_line(done.stderr)}")
            self._come_back()
        raise AssertionError

    def _come_back(self) -> None:
        """Hold the work folder again before the device removes it."""
        if self._keeper is not None and not self._keeper.alive:
            self._keeper = self._keep(again=True)

    def _failed(self, what: str, reason: str) -> DeviceError:
        return DeviceError(f"{what} failed on {self.name!r}: {reason}")


def new_token() -> str:
    return secrets.token_hex(12)
