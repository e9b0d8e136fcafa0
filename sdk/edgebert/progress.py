"""What a long job tells its caller while it runs."""

from __future__ import annotations

import time
from typing import Protocol


class Reporter(Protocol):
    """Receives notes (one line each, worth keeping) and progress (may come many times a second)."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def progress(self, phase: str, done: int, total: int, **figures: float) -> None: ...


class SilentReporter:
    """Drops everything but the warnings, which it keeps for the report."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, phase: str, done: int, total: int, **figures: float) -> None:
        pass


class Eta:
    """How long the phase in progress has still to go, at the speed that it has had so far."""

    def __init__(self) -> None:
        self.phase = ""
        self.began = 0.0
        self.first = 0

    def text(self, phase: str, done: int, total: int) -> str:
        """ "ETA 02:05", "ETA 1:02:05"; empty while nothing is known."""
        now = time.monotonic()
        if phase != self.phase or done < self.first:
            self.phase, self.began, self.first = phase, now, done
        if done <= self.first or done >= total:
            return ""
        return f"ETA {clock_text((now - self.began) / (done - self.first) * (total - done))}"


def clock_text(seconds: float) -> str:
    """ "00:08", "02:05", "1:02:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
