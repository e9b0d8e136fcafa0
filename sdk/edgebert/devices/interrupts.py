"""SIGTERM and SIGHUP end a program as Ctrl-C does, so that open devices are cleaned up."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def catch_termination() -> list[signal.Signals]:
    """Turn the signals that would end this process silently into KeyboardInterrupt; returns those changed.

    Only in the main thread, and only where nobody has set a handler of their own.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    changed = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _interrupt)
    return changed


def restore_termination(changed: list[signal.Signals]) -> None:
    """Undo `catch_termination`."""
    for number in changed:
        signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
