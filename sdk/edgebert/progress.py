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
    """How long a phase has still to go at the speed so far, with what other phases took in between.

    A pruning stage estimates Fisher matrices between its training steps, and will do so again.
    """

    def __init__(self) -> None:
        self.phases: dict[tuple[str, int], tuple[float, int, int]] = {}  # began, first done, last done

    def text(self, phase: str, done: int, total: int) -> str:
        """ "ETA 02:05", "ETA 1:02:05"; empty while nothing is known. Going back is a new beginning."""
        now = time.monotonic()
        began, first, last = self.phases.get((phase, total), (now, done, done))
        if done < last:
            began, first = now, done
        self.phases[phase, total] = (began, first, done)
        if done <= first or done >= total:
            return ""
        return f"ETA {clock_text((now - began) / (done - first) * (total - done))}"


def clock_text(seconds: float) -> str:
    """ "00:08", "02:05", "1:02:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
