"""The Android library's own classes and .so on a desktop JVM: Python's bits, and no crash whatever comes."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgebert.android.native import ABIS, check_library, native_library
from edgebert.errors import AndroidError
from edgebert_targets.encoder import EmbeddingHead, EncoderSpec, QuestionHead
from edgebert_targets.int8_sparse.convert import write_model
from edgebert_targets.int8_sparse.library import Engine
from tests.factories import make_checkpoint, task_sentences
from tests.sdk.android import (
    DesktopJvm,
    checkpoint_spec,
    desktop_jvm,
    emulated_jvm,
    engine_package,
    missing,
)
from tests.targets.engine_specs import RandomEncoder

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]
MAX_ANSWER_TOKENS = 30
HUGE = (2**63, 2**64 - 1, 2**32, 0)


@pytest.fixture(scope="module")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> DesktopJvm:
    return desktop_jvm(tmp_path_factory.mktemp("jvm"))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> EncoderSpec:
    return checkpoint_spec(tmp_path_factory.mktemp("spec"))


def corpus(model: bytes, folder: Path) -> Path:
    """Every kind of damage: cut anywhere, single bytes changed, sizes made huge."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(150):
        damaged = bytearray(model)
        kind = number % 3
        if kind == 0:
            damaged = damaged[: int(rng.integers(0, len(model)))]
        elif kind == 1:
            for position in rng.integers(0, min(len(model), 20_000), 4):
                damaged[position] = int(rng.integers(0, 256))
        else:
            position = int(rng.integers(0, min(len(model), 20_000) - 8))
            damaged[position : position + 8] = struct.pack("<Q", HUGE[int(rng.integers(0, len(HUGE)))])
        (folder / f"{number}-{zlib.crc32(damaged):08x}.gguf").write_bytes(damaged)
    return folder


def test_the_librarys_own_tests_pass(jvm: DesktopJvm, package: Path, tmp_path: Path) -> None:
    """Golden file bit for bit, threads, errors, closing twice, damaged models, odd texts, signed updates."""
    properties = {
        "edgebert.model": str(package / "model.gguf"),
        "edgebert.golden": str(package / "golden.jsonl"),
        "edgebert.corpus": str(corpus((package / "model.gguf").read_bytes(), tmp_path / "corpus")),
    }
    tests = [f"ai.edgebert.{name}" for name in ("EdgeBertTest", "ModelStoreTest", "AssetTest")]
    done = jvm.run("org.junit.runner.JUnitCore", tests, properties)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "OK (19 tests)" in done.stdout


@pytest.mark.skipif(
    shutil.which("qemu-aarch64") is None or shutil.which("apt-get") is None,
    reason="needs qemu-user and apt-get",
)
def test_the_arm64_library_gives_the_same_bits_in_an_arm64_jvm(
    jvm: DesktopJvm, package: Path, tmp_path: Path
) -> None:
    model, texts = package / "model.gguf", [text for text, _ in task_sentences(10)] + ["Zürich 🏠 日本", ""]
    lines = "".join(f"logits {words(text)}\n" for text in texts)
    emulated = emulated_jvm(tmp_path, jvm)
    done = emulated.run("ai.edgebert.Probe", [str(model)], {}, lines)
    assert done.returncode == 0, done.stdout + done.stderr
    with Engine.open(model) as engine, engine.session() as session:
        expected = [session.run_text(text).astype("<f4").view("<i4").tolist() for text in texts]
    assert [list(map(int, line.split())) for line in done.stdout.splitlines()] == expected
    properties = {"edgebert.model": str(model)}
    stored = emulated.run("org.junit.runner.JUnitCore", ["ai.edgebert.AssetTest"], properties)
    assert "OK (2 tests)" in stored.stdout, stored.stdout + stored.stderr


def words(*texts: str) -> str:
    return " ".join(base64.b64encode(text.encode()).decode() for text in texts)


def convert(spec: EncoderSpec, path: Path) -> Path:
    write_model(spec, path)
    return path


def test_vectors_are_pythons_bit_for_bit(jvm: DesktopJvm, spec: EncoderSpec, tmp_path: Path) -> None:
    model = convert(replace(spec, head=EmbeddingHead(normalize=False), labels=()), tmp_path / "m.gguf")
    texts = [text for text, _ in task_sentences(8)] + ["", "日本 🏠"]
    done = jvm.run("ai.edgebert.Probe", [str(model)], {}, "".join(f"embed {words(t)}\n" for t in texts))
    assert done.returncode == 0, done.stderr
    with Engine.open(model) as engine, engine.session() as session:
        expected = [session.run_text(text).astype("<f4").view("<i4").tolist() for text in texts]
    assert [list(map(int, line.split())) for line in done.stdout.splitlines()] == expected


def best_span(
    model: Path, tokenizer: Tokenizer, question: str, passage: str
) -> tuple[int, int, np.float32] | None:
    """The oracle: positions from Hugging Face's offsets; only for passages that need one window."""
    encoding = tokenizer.encode(question, passage)
    inside = [i for i, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    with Engine.open(model) as engine, engine.session() as session:
        logits = session.run([encoding.ids], [encoding.type_ids])
    best = None
    for start in inside:
        for end in inside[inside.index(start) :][:MAX_ANSWER_TOKENS]:
            score = logits[start, 0] + logits[end, 1]
            if best is None or score > best[2]:
                best = (encoding.offsets[start][0], encoding.offsets[end][1], score)
    return best


def test_answers_are_those_of_a_plain_search(jvm: DesktopJvm, spec: EncoderSpec, tmp_path: Path) -> None:
    """Passages of whole words: the library answers with whole words where a token is part of one."""
    head = QuestionHead(RandomEncoder(1.0, seed=3).linear("qa_outputs", 2, spec.hidden_size))
    model = convert(replace(spec, head=head, labels=()), tmp_path / "m.gguf")
    make_checkpoint(tmp_path / "checkpoint")
    tokenizer = Tokenizer.from_file(str(tmp_path / "checkpoint" / "tokenizer.json"))
    cases = [("what is the weather", text) for text, _ in task_sentences(12, seed=5)]
    cases += [("call mum", "turn on the light, please. (set: ten minutes)"), ("is", "light")]
    lines = "".join(f"answer {words(question, passage)}\n" for question, passage in cases)
    done = jvm.run("ai.edgebert.Probe", [str(model)], {}, lines)
    assert done.returncode == 0, done.stderr
    for (question, passage), line in zip(cases, done.stdout.splitlines(), strict=True):
        start, end, bits = map(int, line.split())
        expected = best_span(model, tokenizer, question, passage)
        assert expected is not None
        assert (start, end) == expected[:2], (passage, line)
        assert np.int32(bits).view(np.float32) == expected[2]


def test_long_passages_are_searched_in_windows(jvm: DesktopJvm, spec: EncoderSpec, tmp_path: Path) -> None:
    head = QuestionHead(RandomEncoder(1.0, seed=3).linear("qa_outputs", 2, spec.hidden_size))
    model = convert(replace(spec, head=head, labels=()), tmp_path / "m.gguf")
    passage = " ".join(text for text, _ in task_sentences(40))
    long_question = "what " * 70
    asked = [("call mum", passage), (long_question, passage), ("a", "")]
    lines = "".join(f"answer {words(*texts)}\n" for texts in asked)
    done = jvm.run("ai.edgebert.Probe", [str(model)], {}, lines)
    found, refused, empty = done.stdout.splitlines()
    start, end, _ = map(int, found.split())
    assert 0 <= start < end <= len(passage)
    assert refused == "error INPUT"
    assert empty.split()[:2] == ["0", "0"]


FAILING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
int posix_memalign(void **out, size_t alignment, size_t size) {
    static int calls = 0;
    Dl_info caller;
    int ours = dladdr(__builtin_return_address(0), &caller) && strstr(caller.dli_fname, "edgebert_jni");
    if (ours && size > 4096 && calls++ == 0) return ENOMEM;
    *out = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    return *out == NULL ? ENOMEM : 0;
}
"""


def test_running_out_of_memory_is_an_exception(jvm: DesktopJvm, package: Path, tmp_path: Path) -> None:
    """The library's first large allocation fails: one call is told so, the next is answered."""
    (tmp_path / "failing.c").write_text(FAILING)
    library = tmp_path / "failing.so"
    build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(tmp_path / "failing.c")]
    subprocess.run(build, check=True)
    model, texts = package / "model.gguf", ["stop the music", "call mum"]
    lines = "".join(f"logits {words(text)}\n" for text in texts)
    done = jvm.run("ai.edgebert.Probe", [str(model)], {}, lines, preload=library)
    assert done.returncode == 0, done.stdout + done.stderr
    with Engine.open(model) as engine, engine.session() as session:
        expected = session.run_text(texts[1]).astype("<f4").view("<i4").tolist()
    first, second = done.stdout.splitlines()
    assert first == "error MEMORY"
    assert list(map(int, second.split())) == expected


@pytest.mark.parametrize("abi", ABIS)
def test_libraries_are_fit_for_android(abi: str, tmp_path: Path) -> None:
    library = native_library(abi)
    check_library(library)
    raw = library.read_bytes()
    assert len(raw) < 1_000_000
    bad = tmp_path / "bad.so"
    bad.write_bytes(raw + bytes(1_000_000))
    with pytest.raises(AndroidError, match="1000000"):
        check_library(bad)
    bad.write_bytes(b"text")
    with pytest.raises(AndroidError, match="ELF"):
        check_library(bad)
