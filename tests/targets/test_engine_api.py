"""The engine's C ABI: what the header promises, and what happens to callers who do not keep to it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebert_targets.errors import ArtifactError, InputError, WrongCpuError
from edgebert_targets.int8_sparse.capi import (
    ARGUMENT,
    FORMAT,
    INPUT,
    IO,
    OK,
    SPACE,
    Info,
    last_error,
    library,
)
from edgebert_targets.int8_sparse.library import Engine, available_isas, isa
from tests.factories import LABELS, vocabulary
from tests.targets.engine_model import IDS, Call, engine, model_file, open_handle, session_handle, spec

__all__ = ["engine", "model_file", "spec"]

UNTOUCHED = np.float32(-12345)


@pytest.fixture
def model(model_file: Path) -> Iterator[ctypes.c_void_p]:
    handle = open_handle(model_file)
    yield handle
    library().eb_model_close(handle)


@pytest.fixture
def session(model: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    handle = session_handle(model)
    yield handle
    library().eb_session_free(handle)


def logits(session: ctypes.c_void_p, call: Call) -> bytes:
    out = np.full((len(call.lengths), len(LABELS)), np.nan, np.float32)
    assert call.run(session, out) == OK, last_error()
    assert np.isfinite(out).all()
    return out.tobytes()


def random_rows(count: int, longest: int = 64) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, len(vocabulary()), rng.integers(1, longest + 1)).tolist() for _ in range(count)]


# Null pointers and handles


@pytest.mark.parametrize(
    ("function", "arguments", "word"),
    [
        ("eb_model_open", (None, "handle"), "path"),
        ("eb_model_open", (b"x", None), "model"),
        ("eb_model_open_memory", (None, 64, "handle"), "data"),
        ("eb_model_open_memory", (64, 64, None), "model"),
        ("eb_model_info", (None, "info"), "model"),
        ("eb_model_info", ("model", None), "info"),
        ("eb_session_create", (None, 1, "handle"), "model"),
        ("eb_session_create", ("model", 1, None), "session"),
        ("eb_output_size", (None, "batch", "size"), "session"),
        ("eb_output_size", ("session", None, "size"), "batch"),
        ("eb_output_size", ("session", "batch", None), "floats"),
        ("eb_run", (None, "batch", "out", 3), "session"),
        ("eb_run", ("session", None, "out", 3), "batch"),
        ("eb_run", ("session", "batch", None, 3), "out"),
        ("eb_tokenize", (None, b"a", 1, None, 0, 0, "ids", None, 4, "size"), "model"),
        ("eb_tokenize", ("model", None, 1, None, 0, 0, "ids", None, 4, "size"), "text"),
        ("eb_tokenize", ("model", b"a", 1, None, 0, 0, None, None, 4, "size"), "ids"),
        ("eb_tokenize", ("model", b"a", 1, None, 0, 0, "ids", None, 4, None), "count"),
        ("eb_run_text", (None, b"a", 1, None, 0, "out", 3), "session"),
        ("eb_run_text", ("session", None, 1, None, 0, "out", 3), "text"),
        ("eb_run_text", ("session", b"a", 1, None, 0, None, 3), "out"),
    ],
)
def test_null_is_an_argument_error_that_names_it(
    model: ctypes.c_void_p, session: ctypes.c_void_p, function: str, arguments: tuple[Any, ...], word: str
) -> None:
    call, numbers = Call(), np.zeros(8, np.int32)
    real = {
        "model": model,
        "session": session,
        "handle": ctypes.byref(ctypes.c_void_p()),
        "info": ctypes.byref(Info()),
        "batch": ctypes.byref(call.batch),
        "size": ctypes.byref(ctypes.c_size_t()),
        "ids": numbers.ctypes.data,
        "out": numbers.ctypes.data,
    }
    given = [real[a] if isinstance(a, str) else a for a in arguments]
    assert getattr(library(), function)(*given) == ARGUMENT
    assert word in last_error() and "null" in last_error()


def test_null_is_closed_and_freed_quietly() -> None:
    library().eb_model_close(None)
    library().eb_session_free(None)
    library().eb_softmax(None, 3)
    assert library().eb_model_label(None, 0) is None


# Files


@pytest.mark.parametrize("bad", ["absent", "folder", "empty", "pipe", "text", "short", "x" * 5000])
def test_what_is_no_model_file_says_so(model_file: Path, tmp_path: Path, bad: str) -> None:
    path = tmp_path / bad
    if bad == "folder":
        path.mkdir()
    elif bad == "empty":
        path.touch()
    elif bad == "pipe":
        os.mkfifo(path)
    elif bad == "text":
        path.write_text("not a model " * 1000)
    elif bad == "short":
        path.write_bytes(model_file.read_bytes()[:-64])
    handle = ctypes.c_void_p(1)
    expected = FORMAT if bad in ("empty", "text", "short") else IO
    assert library().eb_model_open(str(path).encode(), ctypes.byref(handle)) == expected
    assert handle.value is None
    assert last_error()
    with pytest.raises(ArtifactError) as caught:
        Engine.open(path)
    assert bad in str(caught.value) and "\n" not in str(caught.value)


def test_memory_answers_as_the_file_does(model_file: Path, session: ctypes.c_void_p) -> None:
    data = model_file.read_bytes()
    room = np.zeros(len(data) + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + len(data)] = np.frombuffer(data, np.uint8)
    address = room.ctypes.data + start
    handle = ctypes.c_void_p()
    assert library().eb_model_open_memory(address, len(data), ctypes.byref(handle)) == OK
    inside = session_handle(handle)
    assert logits(inside, Call()) == logits(session, Call())
    library().eb_session_free(inside)
    library().eb_model_close(handle)
    assert library().eb_model_open_memory(address + 1, len(data), ctypes.byref(handle)) == ARGUMENT
    assert "4 bytes" in last_error()
    for size in (0, 1, 63, len(data) - 64):
        assert library().eb_model_open_memory(address, size, ctypes.byref(handle)) == FORMAT, size


# Batches


@pytest.mark.parametrize(
    ("call", "status", "word"),
    [
        (Call(sequences=0), ARGUMENT, "no sequences"),
        (Call(lengths=[0]), INPUT, "length 0"),
        (Call(lengths=[-5]), INPUT, "length -5"),
        (Call([7] * 65), INPUT, "length 65"),
        (Call(lengths=[2**31 - 1]), INPUT, "2147483647"),
        (Call(lengths=[2, 0, 3]), INPUT, "sequence 1"),
        (Call([64] * 64, lengths=[64] * (2**24 // 64 + 1)), ARGUMENT, "split"),
        (Call([2, -1, 3]), INPUT, "id -1 of token 1"),
        (Call([2, 93, 3]), INPUT, "id 93"),
        (Call([2, 2**31 - 1, 3]), INPUT, "2147483647"),
        (Call([2, 3], types=[0, 2]), INPUT, "type 2"),
        (Call([2, 3], types=[-1, 0]), INPUT, "type -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_batch_that_the_model_cannot_take(
    session: ctypes.c_void_p, call: Call, status: int, word: str
) -> None:
    out = np.full(64, UNTOUCHED, np.float32)
    before = logits(session, Call())
    assert call.run(session, out) == status
    assert word in last_error()
    assert (out == UNTOUCHED).all()
    assert logits(session, Call()) == before


def test_a_batch_without_ids_or_lengths(session: ctypes.c_void_p) -> None:
    out = np.zeros(3, np.float32)
    for field in ("ids", "lengths"):
        call = Call()
        setattr(call.batch, field, None)
        assert call.run(session, out) == ARGUMENT
        assert field in last_error()


def test_room_that_is_too_small_is_not_written(session: ctypes.c_void_p) -> None:
    call, size = Call(IDS + IDS, lengths=[5, 5]), ctypes.c_size_t()
    assert library().eb_output_size(session, ctypes.byref(call.batch), ctypes.byref(size)) == OK
    assert size.value == 6
    out = np.full(6, UNTOUCHED, np.float32)
    assert call.run(session, out[:5]) == SPACE
    assert "6" in last_error() and (out == UNTOUCHED).all()
    wide = np.full(9, UNTOUCHED, np.float32)
    assert call.run(session, wide) == OK
    assert (wide[6:] == UNTOUCHED).all() and (wide[:6] != UNTOUCHED).all()


# Same bits


def test_no_batch_changes_a_bit(engine: Engine) -> None:
    """200 sequences are over 4096 tokens, more than the engine takes at once."""
    rows = random_rows(200)
    types = [[i % 2 for i in range(len(row))] for row in rows]
    with engine.session() as session:
        together = session.run(rows, types)
        alone = np.concatenate([session.run([row], [kind]) for row, kind in zip(rows, types, strict=True)])
        other = session.run(rows[::-1], types[::-1])[::-1]
    assert sum(map(len, rows)) > 4096
    assert together.tobytes() == alone.tobytes() == np.ascontiguousarray(other).tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_no_number_of_threads_changes_a_bit(engine: Engine, threads: int) -> None:
    rows = random_rows(12)
    with engine.session(1) as one, engine.session(threads) as many:
        for batch in (rows, rows[:1], rows[:2], [rows[3][:1]]):
            assert one.run(batch).tobytes() == many.run(batch).tobytes()


@pytest.mark.parametrize("name", available_isas())
def test_no_instruction_set_changes_a_bit(engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(12)
    monkeypatch.setenv("EDGEBERT_ISA", "scalar")
    with engine.session() as session:
        expected = session.run(rows)
    monkeypatch.setenv("EDGEBERT_ISA", name)
    assert isa() == name
    with engine.session() as session:
        assert session.run(rows).tobytes() == expected.tobytes()


def test_sessions_of_a_model_run_at_once(engine: Engine) -> None:
    rows = random_rows(30)
    with engine.session() as session:
        expected = session.run(rows).tobytes()
    wrong: list[int] = []

    def work(number: int) -> None:
        with engine.session(1 + number % 2) as own:
            wrong.extend(number for _ in range(10) if own.run(rows).tobytes() != expected)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_session_shared_by_threads_takes_turns(engine: Engine) -> None:
    rows = random_rows(8)
    session = engine.session()
    expected = session.run(rows).tobytes()
    found: list[bytes] = []
    workers = [threading.Thread(target=lambda: found.append(session.run(rows).tobytes())) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [expected] * 8


# Lifetimes


def test_a_session_outlives_its_model(model_file: Path) -> None:
    model = open_handle(model_file)
    first, second = session_handle(model), session_handle(model, 2)
    expected = logits(first, Call())
    library().eb_model_close(model)
    library().eb_session_free(first)
    assert logits(second, Call()) == expected
    library().eb_session_free(second)


def test_a_file_that_was_replaced_is_still_read(engine: Engine, model_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model.gguf"
    copy.write_bytes(model_file.read_bytes())
    with Engine.open(copy) as opened, opened.session() as session, engine.session() as other:
        copy.unlink()
        copy.write_text("another file")
        assert session.run([IDS]).tobytes() == other.run([IDS]).tobytes()


def test_closed_objects_say_so(model_file: Path) -> None:
    engine = Engine.open(model_file)
    session = engine.session()
    engine.close()
    engine.close()
    assert session.run([IDS]).shape == (1, 3)
    session.close()
    session.close()
    for use in (
        lambda: session.run([IDS]),
        lambda: session.run_text("a"),
        engine.session,
        lambda: engine.tokenize("a"),
    ):
        with pytest.raises(InputError, match="closed"):
            use()


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31 - 1])
def test_threads_out_of_range(engine: Engine, threads: int) -> None:
    with pytest.raises(InputError, match=f"threads is {threads}"):
        engine.session(threads)


# Errors and names


@pytest.mark.parametrize(
    "name", ["sse2", "AVX2", "x" * 1000, "neon" if "neon" not in available_isas() else "avx2"]
)
def test_an_instruction_set_that_is_not_there(
    engine: Engine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBERT_ISA", name)
    assert library().eb_isa() is None
    with pytest.raises(WrongCpuError, match=r"choose one of: .*scalar"):
        engine.session()
    with pytest.raises(WrongCpuError, match="EDGEBERT_ISA"):
        isa()
    monkeypatch.setenv("EDGEBERT_ISA", "")
    assert isa() == available_isas()[0]


def test_no_memory_is_an_error_and_no_end(model_file: Path) -> None:
    """With the address space used up, the call fails; with it given back, the session still answers."""
    code = """
import resource, sys
import numpy as np
from edgebert_targets.int8_sparse.library import Engine
session = Engine.open(sys.argv[1]).session()
before = session.run([[2, 5, 3]])
ids, lengths = np.full(64 * 200, 5, np.int32), np.full(200, 64, np.int32)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
try:
    session.run_flat(ids, None, lengths)
    print("no error")
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
session.run_flat(ids, None, lengths)
assert session.run([[2, 5, 3]]).tobytes() == before.tobytes()
"""
    # every larger block comes from the system, never from what the process has freed before
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TOP_PAD_": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, model_file], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, "out of memory" in done.stdout) == (0, True), done.stdout + done.stderr


def test_errors_are_the_threads_own(engine: Engine) -> None:
    with pytest.raises(InputError):
        engine.session(0)
    seen: list[str] = []
    other = threading.Thread(target=lambda: seen.append(last_error()))
    other.start()
    other.join()
    assert seen == [""]
    assert "threads is 0" in last_error()


def test_info_and_labels(model: ctypes.c_void_p, engine: Engine) -> None:
    info = engine.info
    assert (info.task, info.vocabulary, info.hidden_size, info.layers, info.heads) == (
        "classification", len(vocabulary()), 32, 2, 2,
    )  # fmt: skip
    assert (info.max_length, info.token_types, info.outputs, info.has_tokenizer) == (64, 2, 3, True)
    assert engine.labels == LABELS
    for index in (-1, 3, 2**31 - 1, -(2**31)):
        assert library().eb_model_label(model, index) is None
