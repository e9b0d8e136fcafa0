"""The engine's tokenizer as a child process: tokenizer_driver.cpp, built with the system's compiler."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO

from tokenizers import Tokenizer

import edgebert_targets
from edgebert_targets.int8_sparse.tokenizer_settings import TokenizerSettings, read_tokenizer_settings

ENGINE = Path(edgebert_targets.__file__).parent / "int8_sparse" / "engine"
SOURCES = (
    "error",
    "tokenizer",
    "tokenizer_added",
    "tokenizer_normalizer",
    "tokenizer_vocabulary",
    "wordpiece",
    "byte_bpe",
    "byte_bpe_words",
    "unicode",
    "unicode_tables",
)
KINDS = ("wordpiece", "byte-bpe")
NO_LIMIT = (1 << 32) - 1


def build_driver(folder: Path, *options: str) -> Path:
    """Compiles the driver into `folder`. Raises FileNotFoundError without a compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise FileNotFoundError("no C++ compiler: install g++")
    program = folder / "tokenizer_driver"
    sources = [str(ENGINE / "src" / f"{name}.cpp") for name in SOURCES]
    command = [
        compiler,
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-D_GLIBCXX_ASSERTIONS",
        *options,
    ]
    command += [f"-I{ENGINE / 'include'}", f"-I{ENGINE / 'src'}"]
    command += [str(Path(__file__).with_suffix(".cpp")), *sources, "-o", str(program)]
    subprocess.run(command, check=True)
    return program


@dataclass(frozen=True)
class Request:
    """Bytes to tokenize; `max_length` counts special tokens."""

    text: bytes
    pair: bytes | None = None
    max_length: int = NO_LIMIT


@dataclass(frozen=True)
class Refusal:
    """What the engine said instead of an answer."""

    status: int
    message: str


Answer = tuple[list[int], list[int]]  # ids, token types


def _text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return struct.pack("<I", len(data)) + data


def _texts(values: Sequence[str]) -> bytes:
    return struct.pack("<I", len(values)) + b"".join(map(_text, values))


def _numbers(values: Sequence[int]) -> bytes:
    return struct.pack(f"<I{len(values)}i", len(values), *values)


def packed_settings(settings: TokenizerSettings) -> bytes:
    s = settings
    flags = (s.clean_text, s.chinese_characters, s.strip_accents, s.lowercase)
    parts = [
        struct.pack("<7I", KINDS.index(s.kind), *flags, s.max_word_characters, s.add_prefix_space),
        _text(s.unknown),
        _text(s.prefix),
        _texts(s.tokens),
        _texts(s.merges),
        struct.pack("<I", len(s.added)),
    ]
    for token in s.added:
        switches = (token.single_word, token.strip_left, token.strip_right, token.normalized)
        parts.append(_text(token.content) + struct.pack("<i4I", token.id, *switches))
    parts += [_numbers(n) for n in (s.single, s.single_types, s.pair, s.pair_types)]
    return b"".join(parts)


def packed_request(request: Request) -> bytes:
    head = struct.pack("<I", request.max_length) + _text(request.text)
    if request.pair is None:
        return head + struct.pack("<I", 0)
    return head + struct.pack("<I", 1) + _text(request.pair)


class EngineTokenizer:
    """One tokenizer in a child process. `refusal` is set when the settings were refused."""

    def __init__(self, program: Path, settings: TokenizerSettings) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        self._input.write(packed_settings(settings))
        self._input.flush()
        self.refusal = self._read_refusal()

    def close(self) -> None:
        self._input.close()
        self._output.close()
        assert self._process.wait() == 0

    def _read_refusal(self) -> Refusal | None:
        (status,) = struct.unpack("<I", self._read(4))
        if status == 0:
            return None
        (size,) = struct.unpack("<I", self._read(4))
        return Refusal(status, self._read(size).decode())

    def _read(self, size: int) -> bytes:
        data = self._output.read(size)
        assert len(data) == size, "the tokenizer process died"
        return data

    def _read_answer(self) -> Answer | Refusal:
        refusal = self._read_refusal()
        if refusal is not None:
            return refusal
        (count,) = struct.unpack("<I", self._read(4))
        numbers = struct.unpack(f"<{2 * count}i", self._read(8 * count))
        return list(numbers[:count]), list(numbers[count:])

    def answers(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        """The answers in order."""
        writer = Thread(target=self._write, args=(requests,))
        writer.start()
        found = [self._read_answer() for _ in requests]
        writer.join()
        return found

    def _write(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._input.write(packed_request(request))
        self._input.flush()


class Pair:
    """One tokenizer twice: the library's and the engine's."""

    def __init__(self, driver: Path, tokenizer: Tokenizer, folder: Path) -> None:
        self.path = folder / "tokenizer.json"
        tokenizer.save(str(self.path))
        self.library = tokenizer
        self.settings = read_tokenizer_settings(self.path)
        self.engine = EngineTokenizer(driver, self.settings)
        assert self.engine.refusal is None

    def expected(self, texts: Sequence[str]) -> list[Answer]:
        return [(e.ids, e.type_ids) for e in self.library.encode_batch(list(texts))]

    def check(self, texts: Sequence[str]) -> None:
        """Fails with the first text on which the two differ."""
        found = self.engine.answers([Request(text.encode()) for text in texts])
        expected = self.expected(texts)
        if found == expected:
            return
        text, mine, theirs = next(d for d in zip(texts, found, expected, strict=True) if d[1] != d[2])
        raise AssertionError(f"{text!a}: the engine says {mine}, tokenizers {theirs}")
