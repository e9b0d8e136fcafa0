"""Holds a device's work folder, which goes when this process goes, whatever ends it."""

from __future__ import annotations

import selectors
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress

from edgebert.devices.process import kill_group
from edgebert.errors import DeviceError

CONNECT_TIMEOUT = 60.0
LEAVE_TIMEOUT = 30.0
LONGEST_ANSWER = 1 << 16


class Keeper:
    """Runs the script `shell_scripts.keep` on the device for as long as the device is open."""

    def __init__(self, command: Sequence[str], token: str, folder: str, device: str, advice: str) -> None:
        """Raises DeviceError where the device cannot be reached or no folder made."""
        self._token = token.encode()
        with tempfile.TemporaryFile() as stderr:
            try:
                self._process = subprocess.Popen(  # noqa: S603  argument list of a client program
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, bufsize=0,
                    start_new_session=True,
                )  # fmt: skip
            except (OSError, ValueError) as error:
                raise DeviceError(
                    f"cannot run '{command[0]}' for {device!r}: {getattr(error, 'strerror', None) or error}"
                ) from error
            try:
                answer = self._answer(CONNECT_TIMEOUT)
                if answer is None or not answer.startswith("/") or not answer.endswith(f"/{folder}"):
                    stderr.seek(0)
                    said = stderr.read(LONGEST_ANSWER).decode(errors="replace").split("\n")
                    reason = next((line.strip() for line in reversed(said) if line.strip()), "no answer")
                    raise DeviceError(f"cannot reach {device!r}: {reason[:300]}; {advice}")
            except BaseException:
                kill_group(self._process)
                raise
        self.work = answer

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def leave(self) -> bool:
        """End what runs in the folder and remove it; False where the device did not confirm that."""
        assert self._process.stdin is not None
        try:
            with suppress(OSError):
                self._process.stdin.write(b"bye\n")
                self._process.stdin.close()
            return self._answer(LEAVE_TIMEOUT) == "gone"
        finally:
            kill_group(self._process)

    def _answer(self, timeout: float) -> str | None:
        """The rest of the next line that begins with the token; None at the end of output or time."""
        assert self._process.stdout is not None
        seen, deadline = bytearray(), time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while selector.select(max(deadline - time.monotonic(), 0)):
                piece = self._process.stdout.read(4096)
                seen += piece or b""
                for line in seen.split(b"\n")[:-1]:
                    if line.startswith(self._token + b" "):
                        return line[len(self._token) + 1 :].decode(errors="replace").strip("\r")
                if not piece or len(seen) > LONGEST_ANSWER:
                    return None
        return None
