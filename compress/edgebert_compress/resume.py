"""Snapshots of a training that was interrupted: safetensors and JSON, checked before they are trusted.

A folder holds `snapshot-N`, N counting up, with `state.json` and `tensors.safetensors`; there are never more
than two, the one being written (`partial-N`) included. A snapshot appears whole, by a rename.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgebert_compress import distributed
from edgebert_compress.data import TokenizedDataset
from edgebert_compress.errors import TrainingError

FORMAT = 1
STATE_FILE = "state.json"
TENSOR_FILE = "tensors.safetensors"
MAX_STATE_BYTES = 64 << 20
EVERY = 300.0  # seconds; a snapshot of BERT-base is 1.4 GB
NAME = re.compile(r"(snapshot|partial)-(\d{1,12})")

Note = Callable[[str], None]


@dataclass(frozen=True)
class Snapshot:
    """All that the next training step depends on: `values` as plain JSON types, and tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


class SnapshotFolder:
    """Snapshots of one run, told from others' by `identity` (a hash of everything that determines it).

    `every`: seconds of wall clock between two snapshots; it does not change the result of the run. `note` is
    told what the user should know. Of the processes of a distributed run the first writes, and all read.
    """

    def __init__(self, folder: Path, identity: str, note: Note, *, every: float = EVERY) -> None:
        self._folder = folder
        self._identity = identity
        self._note = note
        self._every = every
        self._writes = distributed.world()[0] == 0
        self._last = time.monotonic()
        self._number = 0
        self._failed = False
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)

    def latest(self) -> Snapshot | None:
        """The newest sound snapshot of this run; a note tells of any that is damaged or of another run.

        All processes of a distributed run get the same one.
        """
        number, found = self._newest(sorted(self._numbers("snapshot"), reverse=True))
        agreed = distributed.least(number)
        if agreed != number:
            number, found = self._newest([agreed] if agreed else [])
            if number != agreed:
                raise TrainingError(
                    f"the processes see different snapshots in {self._folder}; "
                    "put it on a disk that all share, or empty it"
                )
        self._number = number
        return found

    def _newest(self, numbers: Sequence[int]) -> tuple[int, Snapshot | None]:
        for number in numbers:
            folder = self._folder / f"snapshot-{number}"
            try:
                return number, _read(folder, self._identity)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                self._note(f"snapshot {folder} is not used: {' '.join(str(error).split())[:160]}")
        return 0, None

    def due(self) -> bool:
        """Whether `every` seconds have passed since the last snapshot."""
        return self._writes and time.monotonic() - self._last >= self._every

    def write(self, snapshot: Snapshot) -> None:
        """Write a new snapshot and drop all but the one before it.

        When that fails (a full disk, say), a note tells of it once and the run goes on without.
        """
        if not self._writes:
            return
        self._last = time.monotonic()
        number = self._number + 1
        partial = self._folder / f"partial-{number}"
        try:
            self._keep(self._number)
            _write(partial, snapshot, self._identity)
            partial.rename(self._folder / f"snapshot-{number}")
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not self._failed:
                self._note(f"no snapshot could be written to {self._folder} ({error}); training goes on")
            self._failed = True
            return
        self._number = number

    def _keep(self, number: int) -> None:
        for kind in ("snapshot", "partial"):
            for other in self._numbers(kind):
                if (kind, other) != ("snapshot", number):
                    shutil.rmtree(self._folder / f"{kind}-{other}", ignore_errors=True)

    def _numbers(self, kind: str) -> list[int]:
        if not self._folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return [int(match[2]) for match in found if match and match[1] == kind]


def _write(folder: Path, snapshot: Snapshot, identity: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {name: value.detach().contiguous() for name, value in snapshot.tensors.items()}
    try:
        save_file(tensors, folder / TENSOR_FILE)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    state = {
        "format": FORMAT,
        "identity": identity,
        "tensors": _file_hash(folder / TENSOR_FILE),
        "values": snapshot.values,
    }
    text = json.dumps({**state, "sha256": _text_hash(state)}, allow_nan=False)
    (folder / STATE_FILE).write_text(text, encoding="utf-8")
    for path in (folder / TENSOR_FILE, folder / STATE_FILE, folder):
        _sync(path)


def _read(folder: Path, identity: str) -> Snapshot:
    """Raises OSError, ValueError, KeyError or TypeError for all but a sound snapshot of this run."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / STATE_FILE
    if path.stat().st_size > MAX_STATE_BYTES:
        raise ValueError(f"{STATE_FILE} is larger than {MAX_STATE_BYTES} bytes")
    state = json.loads(path.read_text(encoding="utf-8"))
    if state.pop("sha256") != _text_hash(state) or state["format"] != FORMAT:
        raise ValueError("it is damaged or of another version")
    if state["identity"] != identity:
        raise ValueError("it belongs to a run with other settings, data or model")
    if state["tensors"] != _file_hash(folder / TENSOR_FILE):
        raise ValueError(f"{TENSOR_FILE} is damaged")
    try:
        return Snapshot(dict(state["values"]), load_file(folder / TENSOR_FILE))
    except SafetensorError as error:
        raise ValueError(f"{TENSOR_FILE} is damaged ({error})") from error


def _text_hash(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def identity(parts: Sequence[Any], checkpoint: Path, data: TokenizedDataset) -> str:
    """SHA-256 (hex) of what determines a run: `parts` (plain JSON types), where it starts, the data."""
    world = distributed.world()[1]
    return _text_hash({"run": [list(parts), world, folder_hash(checkpoint), dataset_hash(data)]})


def folder_hash(folder: Path) -> str:
    """SHA-256 (hex) over names and contents of the files in `folder`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0{_file_hash(path)}\n".encode())
    return digest.hexdigest()


def dataset_hash(data: TokenizedDataset) -> str:
    """SHA-256 (hex) over everything in `data` that training sees."""
    digest = hashlib.sha256()

    def rows(name: str, values: Sequence[Iterable[int]] | None) -> None:
        digest.update(f"{name}\0{values is None}\n".encode())
        for row in values or ():
            part = np.fromiter(row, np.int64)
            digest.update(len(part).to_bytes(8, "little") + part.tobytes())

    rows("input_ids", data.input_ids)
    rows("token_type_ids", data.token_type_ids)
    rows("labels", [data.labels])
    rows("token_labels", data.token_labels)
    rows("spans", data.spans)
    digest.update(f"{data.pad_token_id} {data.mask_token_id} {sorted(data.special_ids)}".encode())
    return digest.hexdigest()
