"""The engine from Python: a model, its tokenizer, and sessions that run it."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.errors import InputError, WrongCpuError
from edgebert_targets.int8_sparse.capi import SPACE, Batch, Info, check, last_error, library

Task = Literal["classification", "token-classification", "question-answering", "embedding"]
TASKS: tuple[Task, ...] = ("classification", "token-classification", "question-answering", "embedding")

Ids = NDArray[np.int32]
Text = str | bytes
INT32 = np.iinfo(np.int32)


def version() -> str:
    """Version of the loaded library. Raises MissingExtraError."""
    return str(library().eb_version().decode())


def isa() -> str:
    """Name of the kernels in use. Raises WrongCpuError when EDGEBERT_ISA names what this CPU lacks."""
    name = library().eb_isa()
    if name is None:
        raise WrongCpuError(last_error())
    return str(name.decode())


def available_isas() -> tuple[str, ...]:
    """Names of all kernels that this CPU can run, best first."""
    return tuple(library().eb_isa_available().decode().split(","))


@dataclass(frozen=True)
class EngineInfo:
    """`outputs`: floats a sequence, or a token for the tasks that answer tokens. `token_types` 0: none."""

    task: Task
    vocabulary: int
    hidden_size: int
    layers: int
    heads: int
    max_length: int
    token_types: int
    outputs: int
    has_tokenizer: bool

    @property
    def answers_tokens(self) -> bool:
        return self.task in ("token-classification", "question-answering")


class Engine:
    """An open model file. Thread-safe. Close it, or use it as a context manager; its sessions live on."""

    def __init__(self, handle: ctypes.c_void_p, name: str) -> None:
        self.name = name
        self._handle = handle
        self._close = weakref.finalize(self, library().eb_model_close, handle)
        found = Info()
        check(library().eb_model_info(handle, ctypes.byref(found)))
        self.info = _info(found)
        self.labels = tuple(
            str(library().eb_model_label(handle, i).decode("utf-8", "replace")) for i in range(found.labels)
        )

    @classmethod
    def open(cls, path: str | Path) -> Engine:
        """Map the model file at `path`. Raises ArtifactError, MissingExtraError and MemoryError."""
        handle = ctypes.c_void_p()
        check(
            library().eb_model_open(str(path).encode(errors="surrogateescape"), ctypes.byref(handle)),
            str(path),
        )
        return cls(handle, str(path))

    def tokenize(
        self, text: Text, pair: Text | None = None, max_length: int = 0
    ) -> tuple[list[int], list[int]]:
        """Ids and token types with special tokens, cut to `max_length` tokens (0: the model's maximum).

        Raises InputError.
        """
        room = self.info.max_length
        while True:
            ids, types = np.empty(room, np.int32), np.empty(room, np.int32)
            count = ctypes.c_size_t()
            status = library().eb_tokenize(
                self._open_handle(), *_text(text), *_text(pair), max_length,
                ids.ctypes.data, types.ctypes.data, room, ctypes.byref(count),
            )  # fmt: skip
            if status != SPACE:
                check(status)
                return ids[: count.value].tolist(), types[: count.value].tolist()
            room = count.value

    def session(self, threads: int = 1) -> EngineSession:
        """A session of `threads` threads. Raises InputError, WrongCpuError and MemoryError."""
        handle = ctypes.c_void_p()
        check(library().eb_session_create(self._open_handle(), threads, ctypes.byref(handle)))
        return EngineSession(handle, self.info)

    def close(self) -> None:
        """Release the model once its last session is closed. May be called twice."""
        self._close()

    def _open_handle(self) -> ctypes.c_void_p:
        if not self._close.alive:
            raise InputError("the model is closed; open it again")
        return self._handle

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EngineSession:
    """Runs a model. Calls from several threads take turns. Close it, or use it as a context manager."""

    def __init__(self, handle: ctypes.c_void_p, info: EngineInfo) -> None:
        self.info = info
        self._handle = handle
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, library().eb_session_free, handle)

    def run(
        self, ids: Sequence[Sequence[int]], token_types: Sequence[Sequence[int]] | None = None
    ) -> NDArray[np.float32]:
        """Float32 [sequences, outputs], or [all tokens, outputs] for the tasks that answer tokens.

        `token_types` None: zeros. Raises InputError.
        """
        lengths = np.array([len(row) for row in ids], np.int32)
        if token_types is not None and [len(row) for row in token_types] != lengths.tolist():
            raise InputError("token_types and ids differ in their lengths; give one type for each id")
        return self.run_flat(_flat(ids), None if token_types is None else _flat(token_types), lengths)

    def run_flat(self, ids: Ids, token_types: Ids | None, lengths: Ids) -> NDArray[np.float32]:
        """As `run`, for int32 arrays: sequences one after the other, and their lengths. Raises InputError."""
        arrays = (ids, lengths) if token_types is None else (ids, token_types, lengths)
        if any(a.dtype != np.int32 or a.ndim != 1 or not a.flags.c_contiguous for a in arrays):
            raise InputError(
                "the engine takes contiguous int32 arrays of one dimension; convert with np.int32"
            )
        if int(lengths.sum(dtype=np.int64)) != len(ids) or (
            token_types is not None and len(token_types) != len(ids)
        ):
            raise InputError(
                f"{len(ids)} ids, but lengths and token types speak of others; give equal numbers"
            )
        rows = len(ids) if self.info.answers_tokens else len(lengths)
        out = np.empty((rows, self.info.outputs), np.float32)
        types = None if token_types is None else token_types.ctypes.data
        batch = Batch(ids.ctypes.data, types, lengths.ctypes.data, len(lengths))
        with self._lock:
            check(library().eb_run(self._open_handle(), ctypes.byref(batch), out.ctypes.data, out.size))
        return out

    def run_text(self, text: Text, pair: Text | None = None) -> NDArray[np.float32]:
        """Float32 [outputs] of one text or pair, tokenised by the engine. Raises InputError."""
        if self.info.answers_tokens:
            raise InputError(f"a {self.info.task} model answers tokens; use tokenize and run")
        out = np.empty(self.info.outputs, np.float32)
        with self._lock:
            check(
                library().eb_run_text(
                    self._open_handle(), *_text(text), *_text(pair), out.ctypes.data, out.size
                )
            )
        return out

    def close(self) -> None:
        """Release the session. May be called twice."""
        with self._lock:
            self._close()

    def _open_handle(self) -> ctypes.c_void_p:
        if not self._close.alive:
            raise InputError("the session is closed; open the model again")
        return self._handle

    def __enter__(self) -> EngineSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _info(found: Info) -> EngineInfo:
    return EngineInfo(
        task=TASKS[found.task],
        vocabulary=found.vocabulary,
        hidden_size=found.hidden_size,
        layers=found.layers,
        heads=found.heads,
        max_length=found.max_length,
        token_types=found.token_types,
        outputs=found.outputs,
        has_tokenizer=bool(found.has_tokenizer),
    )


def _text(text: Text | None) -> tuple[bytes | None, int]:
    """UTF-8 bytes and their number. Raises InputError for a lone surrogate."""
    if isinstance(text, str):
        try:
            text = text.encode()
        except UnicodeEncodeError:
            raise InputError("the text holds a lone surrogate; decode it as UTF-8 first") from None
    return text, 0 if text is None else len(text)


def _flat(rows: Sequence[Sequence[int]]) -> Ids:
    """All rows one after the other. Raises InputError for what int32 cannot hold."""
    values = np.array([value for row in rows for value in row])
    if not values.size:
        return np.empty(0, np.int32)
    if values.dtype.kind != "i" or values.min() < INT32.min or values.max() > INT32.max:
        raise InputError("ids and token types must be integers of 32 bits; use the model's own tokenizer")
    return values.astype(np.int32)
