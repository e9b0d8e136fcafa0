"""The GGUF container of the engine's model file (docs/formats.md, "Engine model 1").

Writing needs the `gguf` package. Reading does not: it treats the file as hostile and maps the tensors.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.errors import ArtifactError, MissingExtraError

ARCHITECTURE = "edgebert"
ALIGNMENT = 64
VERSION = 3
MAX_KEYS = 4096
MAX_TENSORS = 65536
MAX_NAME = 64
MAX_LIST = 65536

Array = NDArray[Any]
# A key's value; lists hold one kind. Integers are u32, in lists i32 unless they are `U32List`.
Value = str | bool | int | float | list[str] | list[int]

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_TENSORS = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 24: np.dtype("i1")}


class U32List(list[int]):
    """A list of integers to be stored as u32."""


@dataclass(frozen=True)
class ModelFile:
    """`keys` without `general.*`; `tensors` by name in the order of the file, views of the mapped file."""

    keys: Mapping[str, Value]
    tensors: Mapping[str, Array]
    nbytes: int


def write_model_file(path: Path, keys: Mapping[str, Value], tensors: Mapping[str, Array]) -> None:
    """Write beside `path` and rename. The same arguments give the same bytes.

    Raises MissingExtraError and OSError, and then leaves nothing behind.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError(
            "gguf is not installed; run: pip install 'edgebert[convert-int8-sparse]'"
        ) from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
    writer.add_custom_alignment(ALIGNMENT)
    kinds = gguf.GGUFValueType
    for key, value in keys.items():
        if isinstance(value, list):
            element = kinds.UINT32 if isinstance(value, U32List) else None
            writer.add_key_value(key, value, kinds.ARRAY, sub_type=element)
        else:
            kind = kinds.get_type(value)
            writer.add_key_value(key, value, kinds.UINT32 if kind is kinds.INT32 else kind)
    for name, array in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(array))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_model_file(path: Path) -> ModelFile:
    """Read the container, every size checked before use. Raises ArtifactError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise ArtifactError(f"{path}: an empty file; convert the model again")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}; give the package's model.gguf") from None
    try:
        return _parse(mapped, size)
    except _BadFileError as error:
        raise ArtifactError(f"{path}: {error}; convert the model again") from None


class _BadFileError(Exception):
    pass


class _Cursor:
    """Reads forward and never past the end."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data, self._size = data, size
        self.position = 0

    def take(self, count: int) -> bytes:
        if count > self._size - self.position:
            raise _BadFileError(f"ends at {self._size} bytes, before its contents do")
        self.position += count
        return self._data[self.position - count : self.position]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        raw = self.take(self.number("<Q"))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise _BadFileError("holds text that is not UTF-8") from None

    def name(self) -> str:
        text = self.text()
        if not 0 < len(text.encode()) <= MAX_NAME:
            raise _BadFileError(f"has a name of {len(text.encode())} bytes, not 1 to {MAX_NAME}")
        return text

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _BOOL:
            byte = self.number("<B")
            if byte > 1:
                raise _BadFileError(f"has a boolean of {byte}")
            return bool(byte)
        if kind == _ARRAY:
            element, count = self.number("<I"), self.number("<Q")
            if element == _ARRAY:
                raise _BadFileError("holds an array of arrays")
            if count > MAX_LIST:
                raise _BadFileError(f"holds a list of {count} entries, at most {MAX_LIST}")
            values: list[Any] = U32List() if element == 4 else []
            for _ in range(count):
                values.append(self.value(element))
            return values
        if kind not in _SCALARS:
            raise _BadFileError(f"has a value of unknown type {kind}")
        return self.number(_SCALARS[kind])


def _parse(data: mmap.mmap, size: int) -> ModelFile:
    cursor = _Cursor(data, size)
    if cursor.take(4) != b"GGUF":
        raise _BadFileError("is no GGUF file")
    version, tensors, keys = cursor.number("<I"), cursor.number("<Q"), cursor.number("<Q")
    if version != VERSION or tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise _BadFileError(f"GGUF version {version} with {keys} keys and {tensors} tensors is not read")
    values: dict[str, Any] = {}
    for _ in range(keys):
        _put(values, cursor.name(), cursor.value(cursor.number("<I")))
    headers: dict[str, tuple[tuple[int, ...], np.dtype[Any], int]] = {}
    for _ in range(tensors):
        name, dimensions = cursor.name(), cursor.number("<I")
        if not 1 <= dimensions <= 4:
            raise _BadFileError(f"tensor '{name}' has {dimensions} dimensions")
        shape = tuple(cursor.number("<Q") for _ in range(dimensions))[::-1]
        kind, offset = cursor.number("<I"), cursor.number("<Q")
        if kind not in _TENSORS or 0 in shape:
            raise _BadFileError(f"tensor '{name}' of type {kind} and shape {shape} is not read")
        _put(headers, name, (shape, _TENSORS[kind], offset))
    if values.pop("general.architecture", None) != ARCHITECTURE:
        raise _BadFileError(f"is no model of the architecture '{ARCHITECTURE}'")
    if values.pop("general.alignment", None) != ALIGNMENT:
        raise _BadFileError(f"general.alignment is not {ALIGNMENT}")
    return ModelFile(values, _place(data, size, _aligned(cursor.position), headers), size)


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    if name in table:
        raise _BadFileError(f"'{name}' is there twice")
    table[name] = value


def _place(
    data: mmap.mmap, size: int, begin: int, headers: Mapping[str, tuple[tuple[int, ...], np.dtype[Any], int]]
) -> dict[str, Array]:
    """Tensors follow one another, each at the next multiple of 64."""
    arrays: dict[str, Array] = {}
    position = begin
    for name, (shape, dtype, offset) in headers.items():
        count = int(np.prod([int(n) for n in shape], dtype=object))
        if offset != position - begin or count * dtype.itemsize > size - position:
            raise _BadFileError(f"tensor '{name}' is not where it should be, or ends beyond the file")
        arrays[name] = np.frombuffer(data, dtype, count, position).reshape(shape)
        position = _aligned(position + count * dtype.itemsize)
    if position != size:
        raise _BadFileError(f"has {size} bytes, its contents {position}")
    return arrays


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
