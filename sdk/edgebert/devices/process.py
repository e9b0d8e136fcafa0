"""One child process with a deadline: killed with all its children, its output read up to a limit."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from edgebert.devices.base import Completed
from edgebert.errors import DeviceError

OUTPUT_LIMIT = 64 << 20  # bytes of stdout and of stderr; what is larger belongs into a file
CHUNK = 1 << 16


class ProcessTimeoutError(Exception):
    """The process was killed at its deadline; what it had written."""

    def __init__(self, stdout: bytes, stderr: bytes) -> None:
        super().__init__("time is over")
        self.stdout = stdout
        self.stderr = stderr


class TooMuchOutputError(Exception):
    """The process was killed because it wrote more than the limit."""


def run_process(
    args: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: Path | None = None,
    sink: Callable[[bytes], None] | None = None,
) -> Completed:
    """Run `args` in a session of its own; nothing of it is left when this returns or raises.

    stdin: a file, else empty. sink: takes stdout in pieces and may raise to stop the process.
    Raises DeviceError (cannot be started), ProcessTimeoutError, TooMuchOutputError, and what `sink` raises.
    """
    start = time.monotonic()
    source: IO[bytes] | int = stdin.open("rb") if stdin else subprocess.DEVNULL
    try:
        process = subprocess.Popen(  # noqa: S603  an argument list, and running it is the job
            [os.fspath(arg) for arg in args], stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(env) if env is not None else None, cwd=cwd, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise DeviceError(f"cannot run '{args[0]}': {getattr(error, 'strerror', None) or error}") from error
    finally:
        if not isinstance(source, int):
            source.close()
    try:
        stdout, stderr = _collect(process, start + timeout, sink)
        code = process.returncode
        return Completed(code if code >= 0 else 128 - code, stdout, stderr, time.monotonic() - start)
    finally:
        kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill `process`, which leads its session, and whatever it started in its group; close its pipes."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def _collect(
    process: subprocess.Popen[bytes], deadline: float, sink: Callable[[bytes], None] | None
) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    out, err = kept.values()
    with selectors.DefaultSelector() as selector:
        for number in kept:
            selector.register(number, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(max(left, 0))
            if not ready and left <= 0:
                raise ProcessTimeoutError(bytes(out), bytes(err))
            for key, _ in ready:
                data = os.read(key.fd, CHUNK)
                if not data:
                    selector.unregister(key.fd)
                elif sink is not None and kept[key.fd] is out:
                    sink(data)
                else:
                    kept[key.fd] += data
                    if len(kept[key.fd]) > OUTPUT_LIMIT:
                        raise TooMuchOutputError
    try:
        process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        raise ProcessTimeoutError(bytes(out), bytes(err)) from None
    return bytes(out), bytes(err)
