"""Where a package's files lie: a plain folder or a stored zip, both read as hostile.

The zip reader is our own because it takes less than `zipfile` does: stored entries, no zip64, nothing hidden.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Protocol
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from edgebert.errors import OutputError, PackageError
from edgebert.manifest import AGAIN, MAX_FILES
from edgebert.strict_json import FILE_NAME

ALIGNMENT = 64
PADDING_ID = 0xD935
FIXED_DATE = (1980, 1, 1, 0, 0, 0)
MAX_ZIP_BYTES = (1 << 31) - 1  # zipfile starts zip64 records near here, which format 1 has not

# APPNOTE.TXT 4.3.16, 4.3.12 and 4.3.7: end record, central entry, local header.
END = struct.Struct("<4s4H2LH")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
UTF8_NAME = 0x800


class Archive(Protocol):
    """The files of a package. `sizes`: bytes by name, known without reading any content."""

    @property
    def sizes(self) -> Mapping[str, int]: ...
    def open(self, name: str) -> IO[bytes]: ...
    def path(self, name: str) -> Path | None:
        """Where the file lies by itself on disk, None when it is inside a zip."""
        ...

    def close(self) -> None: ...


class FolderArchive:
    """A folder of plain files. Raises PackageError for links, folders and special files inside."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.sizes: dict[str, int] = {}
        with os.scandir(root) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(facts.st_mode):
                    raise PackageError(
                        f"package '{root}': {entry.name!r} is a link or folder, not a file; {AGAIN}"
                    )
                if len(self.sizes) > MAX_FILES:
                    raise PackageError(f"package '{root}' holds more than {MAX_FILES} files; {AGAIN}")
                self.sizes[_checked_name(entry.name)] = facts.st_size

    def open(self, name: str) -> IO[bytes]:
        # O_NOFOLLOW: a file swapped for a link after the check above must not be read.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        try:
            return os.fdopen(os.open(self._root / name, flags), "rb")
        except OSError as error:
            raise PackageError(f"package file '{name}' cannot be read ({error.strerror}); {AGAIN}") from None

    def path(self, name: str) -> Path | None:
        return self._root / name

    def close(self) -> None:
        pass


class ZipArchive:
    """A stored zip. Raises PackageError for whatever format 1 does not allow."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            self.offsets, self.sizes = _read_directory(self._file)
        except BaseException:
            self._file.close()
            raise

    def open(self, name: str) -> IO[bytes]:
        return io.BufferedReader(_Window(self._file, self.offsets[name], self.sizes[name]))

    def path(self, name: str) -> Path | None:
        return None

    def close(self) -> None:
        self._file.close()


class _Window(io.RawIOBase):
    """`size` bytes of `file` from `start`, as a file of their own."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._next, self._end = file, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._next)
        chunk = self._file.read(min(len(buffer), self._end - self._next))
        buffer[: len(chunk)] = chunk
        self._next += len(chunk)
        return len(chunk)


def open_archive(path: Path) -> Archive:
    """The folder or zip at `path`. Raises PackageError."""
    try:
        if path.is_dir():
            return FolderArchive(path)
        if path.is_file():
            return ZipArchive(path)
    except OSError as error:
        raise PackageError(
            f"package '{path}' cannot be read: {error.strerror or error}; check the path"
        ) from None
    raise PackageError(f"no package at '{path}'; give the folder or .zip that edgebert build wrote")


def write_zip(folder: Path, out: Path) -> None:
    """Pack the files of `folder` into the stored zip `out`, the same way every time. Raises OutputError."""
    paths = sorted(folder.iterdir(), key=lambda path: path.name)
    total = sum(path.stat().st_size for path in paths)
    if total * 1.05 > MAX_ZIP_BYTES:
        raise OutputError(f"{total} bytes are too many for a zip package (2 GiB); write a folder instead")
    with ZipFile(out, "w", ZIP_STORED, allowZip64=False) as archive:
        for path in paths:
            info = ZipInfo(path.name, FIXED_DATE)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.file_size = path.stat().st_size
            assert archive.fp is not None
            info.extra = _padding(archive.fp.tell() + LOCAL.size + len(path.name))
            with archive.open(info, "w") as target, path.open("rb") as source:
                while chunk := source.read(1 << 20):
                    target.write(chunk)


def _padding(data_start: int) -> bytes:
    """An extra field (4 bytes of header, zeros) that moves the data to the next multiple of ALIGNMENT."""
    size = -(data_start + 4) % ALIGNMENT
    return struct.pack("<HH", PADDING_ID, size) + bytes(size)


def _checked_name(name: str) -> str:
    if not FILE_NAME.fullmatch(name):
        raise PackageError(f"package holds a file with the bad name {name[:80]!r}; {AGAIN}")
    return name


def _read_directory(file: IO[bytes]) -> tuple[dict[str, int], dict[str, int]]:
    """Data offsets and sizes by name, from the central directory checked against every local header."""
    size = file.seek(0, os.SEEK_END)
    if size < END.size:
        raise PackageError(f"package is no zip: only {size} bytes; {AGAIN}")
    file.seek(size - END.size)
    magic, *disks, count, count_again, length, start, comment = END.unpack(file.read(END.size))
    if magic != b"PK\5\6" or comment or any(disks) or count != count_again:
        raise PackageError(f"package is no complete stored zip (no plain end record); {AGAIN}")
    if not 0 < count <= MAX_FILES + 1 or start + length != size - END.size or length > count * 1024:
        raise PackageError(
            f"package zip has a bad directory ({count} entries, {length} bytes at {start}); {AGAIN}"
        )
    file.seek(start)
    directory, position, expected = file.read(length), 0, 0
    entries: list[tuple[int, str, int]] = []
    for _ in range(count):
        header = directory[position : position + CENTRAL.size]
        if len(header) < CENTRAL.size:
            raise PackageError(f"package zip has a truncated directory; {AGAIN}")
        fields = CENTRAL.unpack(header)
        name_size, extra_size, note_size = fields[10:13]
        position += CENTRAL.size
        name = _plain_entry(fields, directory[position : position + name_size])
        position += name_size + extra_size + note_size
        entries.append((fields[16], name, fields[9]))
    if position != length:
        raise PackageError(f"package zip has a bad directory ({length - position} bytes too many); {AGAIN}")
    offsets: dict[str, int] = {}
    for header_at, name, data_size in sorted(entries):
        if header_at != expected:
            raise PackageError(f"package zip has a gap or an overlap before '{name}'; {AGAIN}")
        if name in offsets:
            raise PackageError(f"package zip holds '{name}' twice; {AGAIN}")
        offsets[name] = _data_offset(file, header_at, name, data_size)
        expected = offsets[name] + data_size
    if expected != start:
        raise PackageError(f"package zip has a gap or an overlap before its directory; {AGAIN}")
    return offsets, {name: data_size for _, name, data_size in entries}


def _plain_entry(fields: tuple[Any, ...], raw_name: bytes) -> str:
    """The name of a central directory entry that is a plain stored file."""
    name = _checked_name(raw_name.decode("latin-1"))
    if fields[0] != b"PK\1\2" or fields[13]:
        raise PackageError(f"package zip has a damaged entry '{name}'; {AGAIN}")
    if fields[3] & ~UTF8_NAME:
        raise PackageError(f"package zip entry '{name}' is encrypted or streamed; {AGAIN}")
    if fields[4] != ZIP_STORED or fields[8] != fields[9]:
        raise PackageError(
            f"package zip entry '{name}' is compressed; unpack it and open the folder, or {AGAIN}"
        )
    mode = fields[15] >> 16
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        raise PackageError(f"package zip entry '{name}' is a link or folder, not a file; {AGAIN}")
    return name


def _data_offset(file: IO[bytes], header_at: int, name: str, data_size: int) -> int:
    file.seek(header_at)
    raw = file.read(LOCAL.size)
    if len(raw) < LOCAL.size:
        raise PackageError(f"package zip is truncated before '{name}'; {AGAIN}")
    magic, _, flags, method, _, _, _, stored, plain, name_size, extra_size = LOCAL.unpack(raw)
    same = (stored, plain, file.read(name_size)) == (data_size, data_size, name.encode())
    if magic != b"PK\3\4" or flags & ~UTF8_NAME or method != ZIP_STORED or not same:
        raise PackageError(f"package zip has two different headers for '{name}'; {AGAIN}")
    return int(header_at + LOCAL.size + name_size + extra_size)
