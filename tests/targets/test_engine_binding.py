"""The engine from Python: its tokenizer, its tasks, and the binding's own checks."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgebert_targets.encoder import ClassificationHead, EmbeddingHead, EncoderSpec, QuestionHead, TokenHead
from edgebert_targets.errors import InputError, MissingExtraError
from edgebert_targets.int8_sparse import capi
from edgebert_targets.int8_sparse.capi import ARGUMENT, INPUT, OK, SPACE, last_error, library
from edgebert_targets.int8_sparse.convert import write_model
from edgebert_targets.int8_sparse.library import Engine, EngineSession
from tests.factories import LABELS, task_sentences
from tests.targets.conftest import Checkpoints
from tests.targets.engine_model import IDS, engine, model_file, open_handle, spec

__all__ = ["engine", "model_file", "spec"]


@pytest.fixture
def model(model_file: Path) -> Iterator[ctypes.c_void_p]:
    handle = open_handle(model_file)
    yield handle
    library().eb_model_close(handle)


# Text


def test_ids_are_those_of_training(engine: Engine, checkpoints: Checkpoints) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoints("bert", True) / "tokenizer.json"))
    texts = [text for text, _ in task_sentences(50)] + ["", "Zürich? 你好 ﬁ", "word " * 100]
    for text in texts:
        for pair in (None, "stop the music now"):
            for limit in (0, 5, 16):
                tokenizer.enable_truncation(limit or 64, strategy="longest_first")
                expected = tokenizer.encode(text, pair) if pair else tokenizer.encode(text)
                assert engine.tokenize(text, pair, limit) == (expected.ids, expected.type_ids), (text, pair)


def test_text_runs_as_its_ids_do(engine: Engine) -> None:
    with engine.session() as session:
        for text, pair in (("turn on the light", None), ("play", "stop the music"), (b"\xff\xfe bytes", b"")):
            ids, types = engine.tokenize(text, pair)
            assert session.run_text(text, pair).tobytes() == session.run([ids], [types]).tobytes()


def test_tokens_that_do_not_fit(model: ctypes.c_void_p) -> None:
    ids, count = np.full(8, -7, np.int32), ctypes.c_size_t()
    text = b"turn on the light"

    def tokenize(max_length: int, capacity: int, where: int | None = ids.ctypes.data) -> int:
        return int(
            library().eb_tokenize(
                model, text, len(text), None, 0, max_length, where, None, capacity, ctypes.byref(count)
            )
        )

    assert tokenize(0, 0, None) == SPACE and count.value == 6
    assert tokenize(0, 4) == SPACE and count.value == 6
    assert ids.tolist() == [2, 5, 7, 9, -7, -7, -7, -7]
    assert tokenize(4, 4) == OK and count.value == 4 and ids[:4].tolist() == [2, 5, 7, 3]
    assert tokenize(-1, 8) == ARGUMENT and "max_length is -1" in last_error()
    assert tokenize(1, 8) == INPUT  # [CLS] and [SEP] alone are two


def test_softmax() -> None:
    numbers = np.array([1000, 999, -1000, 1000], np.float32)
    expected = np.exp(numbers.astype(np.float64) - 1000)
    library().eb_softmax(numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), 4)
    np.testing.assert_allclose(numbers, expected / expected.sum(), rtol=1e-6)


# Other tasks


def with_head(spec: EncoderSpec, task: str) -> EncoderSpec:
    assert isinstance(spec.head, ClassificationHead)
    out = spec.head.out
    if task == "token-classification":
        return replace(spec, head=TokenHead(out))
    if task == "question-answering":
        weight = np.ones((2, 32), np.float32) / 9
        return replace(spec, labels=(), head=QuestionHead(replace(out, weight=weight, bias=out.bias[:2])))
    return replace(spec, labels=(), head=EmbeddingHead(normalize=True))


@pytest.mark.parametrize(
    ("task", "outputs"), [("token-classification", 3), ("question-answering", 2), ("embedding", 32)]
)
def test_other_tasks_answer_in_their_own_shape(
    spec: EncoderSpec, tmp_path: Path, task: str, outputs: int
) -> None:
    write_model(with_head(spec, task), tmp_path / "model.gguf")
    with Engine.open(tmp_path / "model.gguf") as engine, engine.session() as session:
        assert (engine.info.task, engine.info.outputs) == (task, outputs)
        assert engine.labels == (LABELS if task == "token-classification" else ())
        found = session.run([IDS, IDS[:3]])
        assert found.shape == (2 if task == "embedding" else 8, outputs)
        alone = session.run([IDS[:3]])
        assert found[-len(alone) :].tobytes() == alone.tobytes()
        if task == "embedding":
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
            assert session.run_text("turn on").shape == (32,)
        else:
            with pytest.raises(InputError, match="answers tokens"):
                session.run_text("turn on")


# The binding


@pytest.mark.parametrize(
    ("ids", "types"),
    [
        ([[2.5, 3]], None),
        ([[2**31]], None),
        ([[-(2**40)]], None),
        ([["a"]], None),
        ([[2, 3]], [[0]]),
        ([], None),
    ],
)
def test_what_is_no_batch(engine: Engine, ids: Any, types: Any) -> None:
    with engine.session() as session, pytest.raises(InputError):
        session.run(ids, types)


def test_flat_arrays_are_checked(engine: Engine) -> None:
    ids, lengths = np.array(IDS, np.int32), np.array([5], np.int32)
    with engine.session() as session:
        assert session.run_flat(ids, None, lengths).tobytes() == session.run([IDS]).tobytes()
        for bad in (
            (ids.astype(np.int64), None, lengths),
            (ids, None, lengths + 1),
            (ids, ids[:3], lengths),
            (np.repeat(ids, 2)[::2], None, lengths),
        ):
            with pytest.raises(InputError):
                session.run_flat(*bad)


def test_a_library_that_is_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.so").write_text("no library")
    for name, path in (("was not built", None), ("does not load", tmp_path / "broken.so")):
        with monkeypatch.context() as patch:
            patch.setattr(capi, "LIBRARY", "libabsent.so")
            if path:
                patch.setattr(capi, "library_path", lambda path=path: path)
            with pytest.raises(MissingExtraError, match=name) as caught:
                capi.library.__wrapped__()
            assert "make engine" in str(caught.value) and "\n" not in str(caught.value)


def test_sessions_are_freed_with_their_last_reference(engine: Engine) -> None:
    """Threads of a session that is forgotten do not stay behind."""
    before = threads_of_process()
    sessions: list[EngineSession] = [engine.session(4) for _ in range(5)]
    for session in sessions:
        session.run([IDS])
    assert threads_of_process() >= before + 15
    del session
    sessions.clear()
    assert threads_of_process() == before


def threads_of_process() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
