"""The user's cache folder of devices: things built once, whole or not at all, one builder at a time."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgebert.errors import DeviceError


def cache_folder() -> Path:
    """`$EDGEBERT_CACHE`, else `edgebert` in the user's cache folder; in it, `devices`."""
    if configured := os.environ.get("EDGEBERT_CACHE"):
        return Path(configured).absolute() / "devices"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgebert" / "devices"


@contextmanager
def building(target: Path) -> Iterator[Path | None]:
    """Yield a new folder that becomes `target` when the body ends, None where another builder made it.

    Waits for a builder that is at work. Raises DeviceError when the cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                yield None
                return
            # Nobody else is at work: these are of a builder that was killed.
            for stale in target.parent.glob(f"{target.name}.*.part"):
                shutil.rmtree(stale, ignore_errors=True)
            part = target.with_name(f"{target.name}.{secrets.token_hex(6)}.part")
            try:
                part.mkdir()
                yield part
                part.rename(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise DeviceError(
            f"cannot write '{error.filename or target}': {error.strerror or error};"
            " set EDGEBERT_CACHE to a folder with space"
        ) from error
