"""What a device sends, taken in pieces: nothing is believed, and nothing grows without a limit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from edgebert.devices.process import OUTPUT_LIMIT, TooMuchOutputError

LONGEST_HEADER = 200


class UnexpectedAnswerError(Exception):
    """What came is not what a device sends that does as it was told."""


class Memory:
    """Keeps up to `OUTPUT_LIMIT` bytes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def __call__(self, piece: bytes) -> None:
        self.data += piece
        if len(self.data) > OUTPUT_LIMIT:
            raise TooMuchOutputError


class ReceivedFile:
    """A line "SIZE SHA-256" ("-": the device cannot compute it), then the file, which goes to `part`."""

    def __init__(self, limit: int, part: Path | None) -> None:
        self._limit = limit
        self._part = part
        self._header = bytearray()
        self._hash = hashlib.sha256()
        self._size = 0
        self.told: str | None = None
        self._expected: int | None = None
        if part is not None:
            part.write_bytes(b"")

    @property
    def digest(self) -> str:
        """SHA-256 of what came. Raises UnexpectedAnswerError where it is less than was promised."""
        if self._expected is None or self._size != self._expected:
            raise UnexpectedAnswerError(f"only {self._size} of {self._expected or 'all'} bytes arrived")
        return self._hash.hexdigest()

    def __call__(self, piece: bytes) -> None:
        if self._expected is None:
            self._header += piece
            line, end, rest = bytes(self._header).partition(b"\n")
            if not end and len(line) <= LONGEST_HEADER:
                return
            found = re.fullmatch(rb"(\d{1,15}) ([0-9a-f]{64}|-)", line)
            if found is None:
                raise UnexpectedAnswerError("it does not answer as a POSIX shell does")
            self._expected = int(found[1])
            self.told = None if found[2] == b"-" else found[2].decode()
            piece = rest
        self._size += len(piece)
        if self._size > min(self._expected, self._limit):
            raise UnexpectedAnswerError(
                f"more came than the {self._expected} bytes promised or the {self._limit} allowed"
            )
        self._hash.update(piece)
        if self._part is not None and piece:
            with self._part.open("ab") as file:
                file.write(piece)


class AfterMarker:
    """Passes on what follows the line `token`: what a login script prints comes before it."""

    def __init__(self, token: str, consume: Callable[[bytes], None]) -> None:
        self._marker = token.encode() + b"\n"
        self._before: bytearray | None = bytearray()
        self._consume = consume

    def __call__(self, piece: bytes) -> None:
        if self._before is None:
            self._consume(piece)
            return
        self._before += piece
        found = self._before.find(self._marker)
        if found >= 0:
            rest = bytes(self._before[found + len(self._marker) :])
            self._before = None
            self._consume(rest)
        elif len(self._before) > OUTPUT_LIMIT:
            raise TooMuchOutputError


def exit_code(stderr: bytes, token: str) -> tuple[int, bytes] | None:
    """Exit code and stderr without the line that tells it; None where the command never came to its end."""
    found = list(re.finditer(rb"\n" + token.encode() + rb" (\d{1,3})\r?\n", stderr))
    if not found:
        return None
    last = found[-1]
    return int(last[1]), stderr[: last.start()] + stderr[last.end() :]
