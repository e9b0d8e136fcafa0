"""LiteRT's C++ side logs to standard error and offers no switch; what goes wrong is raised as well."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2


@contextmanager
def quiet_native_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere for the duration: for the whole process, so keep it short."""
    try:
        saved = os.dup(STDERR)
    except OSError:  # no standard error at all
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STDERR)
        yield
    finally:
        os.dup2(saved, STDERR)
        os.close(nowhere)
        os.close(saved)
