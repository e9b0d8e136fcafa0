"""Resumable stages: each result lives in a folder named by the hash of everything that determines it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from edgebert.errors import OutputError

# Part of every key: raise it when a change of code changes results, so that old work is not taken for new.
CODE_VERSION = 1
DONE_FILE = "done.json"


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its key, its folder, the JSON facts it left, and whether it was there already."""

    key: str
    folder: Path
    facts: Mapping[str, Any]
    cached: bool


def stage_key(kind: str, inputs: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the kind, the code version and the inputs as canonical JSON."""
    text = json.dumps([kind, CODE_VERSION, inputs], sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def default_work_folder() -> Path:
    """`$EDGEBERT_WORK`, else `edgebert/work` in the user's cache folder."""
    if configured := os.environ.get("EDGEBERT_WORK"):
        return Path(configured)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgebert" / "work"


class StageStore:
    """Results of stages under one work folder. Several builds may share it: names are content keys."""

    def __init__(self, folder: Path) -> None:
        """Raises OutputError when `folder` cannot be made or written."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OutputError(
                f"cannot write the work folder '{folder}': {error.strerror}; choose another with --work"
            ) from None
        self._remove_leftovers()

    def run(
        self, kind: str, inputs: Mapping[str, Any], produce: Callable[[Path], Mapping[str, Any]]
    ) -> StageResult:
        """The result for `inputs`: the kept one, or what `produce` writes into the empty folder it is given.

        `produce` returns JSON-able facts. An exception or a kill leaves no result behind.
        """
        key = stage_key(kind, inputs)
        folder = self.folder / f"{kind}-{key[:20]}"
        facts = _read_done(folder, key)
        if facts is not None:
            return StageResult(key, folder, facts, cached=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{os.getpid()}-{kind}-", dir=self.folder))
        try:
            facts = json.loads(json.dumps(produce(scratch), allow_nan=False))
            (scratch / DONE_FILE).write_text(json.dumps({"key": key, "facts": facts}, sort_keys=True))
            if folder.exists():  # damaged, or another build was quicker
                other = _read_done(folder, key)
                if other is not None:
                    return StageResult(key, folder, other, cached=True)
                shutil.rmtree(folder)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return StageResult(key, folder, facts, cached=False)

    def _remove_leftovers(self) -> None:
        """Drop scratch folders of builds that were killed."""
        for leftover in self.folder.glob(".[0-9]*-*"):
            pid = int(leftover.name[1:].split("-")[0])
            if not psutil.pid_exists(pid):
                shutil.rmtree(leftover, ignore_errors=True)


def _read_done(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        done = json.loads((folder / DONE_FILE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(done, dict) or done.get("key") != key or not isinstance(done.get("facts"), dict):
        return None
    facts: dict[str, Any] = done["facts"]
    return facts
