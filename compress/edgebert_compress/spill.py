"""The inverse on disk between scoring and update: the lower triangle of every Fisher block."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import psutil
import torch
from torch import Tensor

from edgebert_compress.errors import TrainingError
from edgebert_compress.fisher_pieces import Piece


def scratch_folder(scratch: Path | None) -> Path | None:
    """`scratch`, or the system's folder for temporary files unless that lies in memory (tmpfs)."""
    if scratch is not None:
        return scratch
    folder = Path(tempfile.gettempdir()).resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    here = next((mounts[place] for place in (folder, *folder.parents) if place in mounts), "")
    return None if here in ("tmpfs", "ramfs") else folder


def free_bytes(folder: Path | None) -> int:
    """Bytes free on the disk of `folder`; 0 for None. Raises TrainingError when it is no folder."""
    if folder is None:
        return 0
    if not folder.is_dir():
        raise TrainingError(f"the scratch folder '{folder}' does not exist; create it or give another")
    return shutil.disk_usage(folder).free


class SpilledInverse:
    """A nameless file: the system removes it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, prefix="edgebert-fisher-")  # noqa: SIM115
        self._places: dict[Piece, tuple[int, torch.dtype]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, piece: Piece, inverse: Tensor) -> None:
        """Append the piece [count, B, B]. Raises TrainingError when the disk is full."""
        rows, columns = torch.tril_indices(piece.block, piece.block, device=inverse.device)
        packed = inverse[:, rows, columns].cpu().contiguous()
        self._places[piece] = (self._file.tell(), inverse.dtype)
        try:
            self._file.write(packed.numpy().data.cast("B"))
        except OSError as error:
            raise TrainingError(
                f"cannot write the Fisher inverse to disk ({error.strerror}); free some or give more memory"
            ) from error

    def get(self, piece: Piece, device: torch.device) -> Tensor:
        """The piece as it was put in, on `device`."""
        place, dtype = self._places[piece]
        kind = np.float64 if dtype == torch.float64 else np.float32
        packed = np.empty((piece.count, piece.block * (piece.block + 1) // 2), kind)
        position = self._file.tell()
        self._file.seek(place)
        self._file.readinto(packed.data.cast("B"))
        self._file.seek(position)
        rows, columns = torch.tril_indices(piece.block, piece.block, device=device)
        values = torch.from_numpy(packed).to(device)
        full = torch.empty(piece.count, piece.block, piece.block, dtype=values.dtype, device=device)
        full[:, rows, columns] = values
        full[:, columns, rows] = values
        return full
