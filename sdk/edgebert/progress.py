"""What a long job tells its caller while it runs."""

from __future__ import annotations

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
