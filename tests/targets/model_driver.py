"""The engine's model reader as a child process: model_driver.cpp, built with the system's compiler."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgebert_targets

ENGINE = Path(edgebert_targets.__file__).parent / "int8_sparse" / "engine"
SOURCES = ("error", "gguf", "load", "load_keys", "load_weights", "load_tokenizer")
DTYPES = {"f": "<f4", "i": "<i4", "b": "i1"}
OK, FORMAT, VERSION = 0, 2, 3


@dataclass(frozen=True)
class Loaded:
    """Status and message; arrays and texts by name, none when not loaded or not asked for."""

    status: int
    message: str
    arrays: Mapping[str, NDArray[Any]]
    texts: Mapping[str, bytes]


def build_driver(folder: Path) -> Path:
    """Compile the driver with the address and undefined-behaviour sanitizers into `folder`."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise FileNotFoundError("no C++ compiler: install g++")
    program = folder / "model_driver"
    flags = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-D_GLIBCXX_ASSERTIONS"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = [str(ENGINE / "src" / f"{name}.cpp") for name in SOURCES]
    includes = [f"-I{ENGINE / 'include'}", f"-I{ENGINE / 'src'}"]
    driver = str(Path(__file__).with_suffix(".cpp"))
    subprocess.run([compiler, *flags, *includes, driver, *sources, "-o", str(program)], check=True)
    return program


def load_all(program: Path, files: Sequence[bytes], *, quiet: bool = False) -> list[Loaded]:
    """Load each file in one process. Raises AssertionError with its report when the process dies."""
    requests = b"".join(struct.pack("<II", len(data), quiet) + data for data in files)
    done = subprocess.run([program], input=requests, capture_output=True, check=False)
    answers = _Answers(done.stdout)
    loaded = []
    while answers.position < len(done.stdout):
        loaded.append(answers.loaded())
    assert done.returncode == 0, f"died on file {len(loaded)}: {done.stderr.decode(errors='replace')[:4000]}"
    assert len(loaded) == len(files)
    return loaded


class _Answers:
    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def _number(self) -> int:
        return int(struct.unpack("<I", self._take(4))[0])

    def _take(self, size: int) -> bytes:
        self.position += size
        return self._data[self.position - size : self.position]

    def loaded(self) -> Loaded:
        status, message = self._number(), self._take(self._number()).decode(errors="replace")
        arrays: dict[str, NDArray[Any]] = {}
        texts: dict[str, bytes] = {}
        for _ in range(self._number()):
            name, letter = self._take(self._number()).decode(), self._take(1).decode()
            data = self._take(self._number())
            if letter in DTYPES:
                arrays[name] = np.frombuffer(data, DTYPES[letter])
            else:
                texts[name] = data
        return Loaded(status, message, arrays, texts)
