"""Programs that build the Android library, and how they are run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from edgebert.devices.process import ProcessTimeoutError, TooMuchOutputError, run_process
from edgebert.errors import AndroidError, MissingExtraError

TIMEOUT_S = 1800.0


def search_path() -> str:
    """PATH, before it the folder of this Python: CMake and ninja may live in its environment."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def need(names: Sequence[str], install: str) -> Path:
    """The first of the programs `names` that is installed. Raises MissingExtraError, which says `install`."""
    for name in names:
        if found := shutil.which(name, path=search_path()):
            return Path(found)
    raise MissingExtraError(f"{names[0]} is needed to build the Android library; run: {install}")


def run_tool(args: Sequence[str | Path], what: str, cwd: Path | None = None) -> str:
    """What the program prints. Raises AndroidError with the first line that names an error."""
    env = {**os.environ, "PATH": search_path(), "SOURCE_DATE_EPOCH": "315532800"}
    try:
        done = run_process(args, timeout=TIMEOUT_S, env=env, cwd=cwd)
    except (ProcessTimeoutError, TooMuchOutputError) as error:
        raise AndroidError(f"cannot build {what}: {Path(args[0]).name}: {error}") from None
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        first = next((line for line in lines if "rror" in line), lines[-1] if lines else "no message")
        raise AndroidError(f"cannot build {what}: {Path(args[0]).name}: {first[:300]}; see docs/android.md")
    return output
