"""A tiny model file for tests of the engine's C ABI, and its calls without the binding's own checks."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebert_targets.base import ConvertOptions, get_target
from edgebert_targets.encoder import EncoderSpec, load_encoder_spec
from edgebert_targets.int8_sparse.capi import OK, Batch, library
from edgebert_targets.int8_sparse.library import Engine
from tests.targets.conftest import Checkpoints

IDS = [2, 5, 17, 9, 3]


@pytest.fixture(scope="session")
def spec(checkpoints: Checkpoints) -> EncoderSpec:
    return load_encoder_spec(checkpoints("bert", True))


@pytest.fixture(scope="session")
def model_file(spec: EncoderSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, 93 tokens, 64 positions, three labels, with its tokenizer."""
    path = tmp_path_factory.mktemp("engine") / "model.gguf"
    get_target("int8-sparse").convert(spec, path, ConvertOptions())
    return path


@pytest.fixture
def engine(model_file: Path) -> Iterator[Engine]:
    with Engine.open(model_file) as opened:
        yield opened


class Call:
    """One raw eb_run: arrays that live as long as the pointers to them."""

    def __init__(
        self,
        ids: Sequence[int] = IDS,
        types: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        sequences: int | None = None,
    ) -> None:
        self.ids: NDArray[Any] = np.array(ids, np.int32)
        self.types = None if types is None else np.array(types, np.int32)
        self.lengths: NDArray[Any] = np.array([len(ids)] if lengths is None else lengths, np.int32)
        self.batch = Batch(
            self.ids.ctypes.data,
            None if self.types is None else self.types.ctypes.data,
            self.lengths.ctypes.data,
            len(self.lengths) if sequences is None else sequences,
        )

    def run(self, session: ctypes.c_void_p, out: NDArray[np.float32]) -> int:
        return int(library().eb_run(session, ctypes.byref(self.batch), out.ctypes.data, out.size))


def open_handle(path: Path) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    assert library().eb_model_open(str(path).encode(), ctypes.byref(handle)) == OK
    return handle


def session_handle(model: ctypes.c_void_p, threads: int = 1) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    assert library().eb_session_create(model, threads, ctypes.byref(handle)) == OK
    return handle
