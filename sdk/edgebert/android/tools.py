"""Programs that build the Android library, and how they are run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgebert.errors import AndroidError, MissingExtraError
from edgebert.native_build import run_step, search_path

# Tools that write dates take this one, 1980-01-01, the first that a zip can hold.
REPRODUCIBLE = {"SOURCE_DATE_EPOCH": "315532800"}


def need(names: Sequence[str], install: str) -> Path:
    """The first of the programs `names` that is installed. Raises MissingExtraError, which says `install`."""
    for name in names:
        if found := shutil.which(name, path=search_path()):
            return Path(found)
    raise MissingExtraError(f"{names[0]} is needed to build the Android library; run: {install}")


def run_tool(args: Sequence[str | Path], what: str) -> str:
    """What the program prints. Raises AndroidError with the first line that names an error."""
    return run_step(
        args, lambda why: AndroidError(f"cannot build {what}: {why}; see docs/android.md"), REPRODUCIBLE
    )
