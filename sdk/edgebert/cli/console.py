"""How a long verb shows what it is doing: notes, warnings and a progress bar, all on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from edgebert.progress import Eta

# Without a terminal a long phase says where it is this often, in seconds.
LINE_EVERY = 60.0


class ConsoleReporter:
    """Notes and warnings as lines on stderr; then one live bar on a terminal, elsewhere a line a minute."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self.console = console
        self.bars = bars
        self.phase = ""
        self.task: TaskID | None = None
        self.last_line = time.monotonic()
        self.eta = Eta()

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def progress(self, phase: str, done: int, total: int, **figures: float) -> None:
        words = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in figures.items()]
        eta = self.eta.text(phase, done, total)
        text = ", ".join([eta, *words] if eta else words)
        if not self.console.is_terminal:
            if time.monotonic() - self.last_line >= LINE_EVERY:
                self.last_line = time.monotonic()
                self.note(f"{phase}: {done} of {total}{', ' + text if text else ''}")
            return
        if self.task is None or phase != self.phase:
            if self.task is not None:
                self.bars.remove_task(self.task)
            self.phase, self.task = phase, self.bars.add_task(phase, total=total, figures=text)
        self.bars.update(self.task, completed=done, total=total, figures=text)


@contextmanager
def console_reporter() -> Iterator[ConsoleReporter]:
    """A reporter on stderr, so that stdout holds results only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
               TextColumn("{task.fields[figures]}", markup=False))  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield ConsoleReporter(console, bars)
