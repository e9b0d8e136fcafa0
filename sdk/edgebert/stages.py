"""Resumable stages: each result lives in a folder named by the hash of everything that determines it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from edgebert.errors import OutputError

# Part of every key: raise it when a change of code changes results, so that old work is not taken for new.
CODE_VERSION = 2
DONE_FILE = "done.json"
LOCK_FILE = "lock"
PATIENCE = 600.0  # seconds that a following process waits for the leader to put its result in place


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
        self._resuming: dict[str, _ResumeFolder] = {}
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
        self,
        kind: str,
        inputs: Mapping[str, Any],
        produce: Callable[[Path], Mapping[str, Any]],
        *,
        follow: bool = False,
    ) -> StageResult:
        """The result for `inputs`: the kept one, or what `produce` writes into the empty folder it is given.

        `produce` returns JSON-able facts. An exception or a kill leaves no result behind, but the stage's
        `resume_folder`, if it asked for one; when the stage is finished, that goes too.

        `follow`: of several processes that produce a result together, this is not the one that writes it: it
        runs `produce` and then waits for the other. Raises OutputError when nothing comes.
        """
        key = stage_key(kind, inputs)
        folder = self.folder / f"{kind}-{key[:20]}"
        facts = _read_done(folder, key)
        if facts is not None:
            if (self.folder / _resume_name(key)).exists():  # killed between finishing and tidying up
                self.resume_folder(key)
                self._leave(key, finished=True)
            return StageResult(key, folder, facts, cached=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{os.getpid()}-{kind}-", dir=self.folder))
        try:
            facts = json.loads(json.dumps(produce(scratch), allow_nan=False))
            if follow:
                return StageResult(key, folder, _await_done(folder, key), cached=False)
            (scratch / DONE_FILE).write_text(json.dumps({"key": key, "facts": facts}, sort_keys=True))
            try:
                scratch.rename(folder)
            except OSError:
                other = _read_done(folder, key)
                if other is not None:  # another build was quicker
                    return StageResult(key, folder, other, cached=True)
                shutil.rmtree(folder, ignore_errors=True)  # damaged
                scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            self._leave(key, finished=_read_done(folder, key) is not None)
        return StageResult(key, folder, facts, cached=False)

    def resume_folder(self, key: str, *, follow: bool = False) -> Path:
        """A folder for the snapshots of the unfinished stage `key`, with what a killed build left there.

        While another build holds it, this one gets an empty folder of its own instead. It stays when the
        stage is interrupted, unless nothing is in it. `follow`: only to read, while the leader holds it.
        """
        if follow:
            return self.folder / _resume_name(key)
        if key not in self._resuming:
            shared = self.folder / _resume_name(key)
            lock = _lock(shared)
            own = (
                shared if lock else Path(tempfile.mkdtemp(prefix=f".{os.getpid()}-resume-", dir=self.folder))
            )
            self._resuming[key] = _ResumeFolder(own, lock)
        return self._resuming[key].path

    def _leave(self, key: str, *, finished: bool) -> None:
        held = self._resuming.pop(key, None)
        if held is None:
            return
        empty = held.path.is_dir() and all(path.name == LOCK_FILE for path in held.path.iterdir())
        if finished or empty or held.lock is None:
            shutil.rmtree(held.path, ignore_errors=True)
        if held.lock is not None:
            held.lock.close()

    def _remove_leftovers(self) -> None:
        """Drop scratch folders of builds that were killed."""
        for leftover in self.folder.glob(".[0-9]*-*"):
            pid = int(leftover.name[1:].split("-")[0])
            if not psutil.pid_exists(pid):
                shutil.rmtree(leftover, ignore_errors=True)


@dataclass(frozen=True)
class _ResumeFolder:
    """`lock`: open while the folder is held, None when nobody else knows the folder."""

    path: Path
    lock: IO[bytes] | None


def _resume_name(key: str) -> str:
    return f"resume-{key[:20]}"


def _lock(folder: Path) -> IO[bytes] | None:
    """Make `folder` and hold it until the file is closed or this process ends; None when another has it.

    The kernel drops the lock of a killed process, whose number may be given to another one at once.
    """
    while True:
        folder.mkdir(exist_ok=True)
        try:
            file = (folder / LOCK_FILE).open("ab")
        except FileNotFoundError:  # a build that finished removed the folder just now
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / LOCK_FILE).stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except FileNotFoundError:
            pass
        except OSError:  # held, or a file system without locks
            file.close()
            return None
        file.close()


def _await_done(folder: Path, key: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while (facts := _read_done(folder, key)) is None:
        if time.monotonic() > deadline:
            raise OutputError(
                f"the first process did not write '{folder}'; "
                "put the work folder on a disk that all processes share (--work)"
            )
        time.sleep(0.05)
    return facts


def _read_done(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        done = json.loads((folder / DONE_FILE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(done, dict) or done.get("key") != key or not isinstance(done.get("facts"), dict):
        return None
    facts: dict[str, Any] = done["facts"]
    return facts
