"""edgebert-runner, the program that devices run: the library's own bits, and damaged input files refused.

Built for this machine and, where cross compiler and emulator are there, for ARM64.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgebert.device_files import IDS, NO_PAIR, pack_ids, pack_texts, unpack_answers
from edgebert.device_runner import GNU, runner_for
from edgebert.errors import MissingExtraError
from edgebert.machine import architecture
from edgebert.tokenizer import EncodedBatch
from edgebert_targets.int8_sparse.library import Engine, available_isas
from tests.targets.engine_model import model_file, spec

__all__ = ["model_file", "spec"]

TEXTS = ["turn on the light", "", "Zürich? 東京 \U0001f600", "play my song " * 40, "a", "stop\x00the\tmusic"]
PAIRS = [None, "stop the music", None, "ten minutes " * 9, "", None]
CLASSES = 3

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Runner:
    """`emulator`: words before the program."""

    program: Path
    emulator: tuple[str, ...]
    folder: Path

    def run(self, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.emulator, self.program, *map(str, words)],
            capture_output=True, text=True, cwd=self.folder, env={**os.environ, **environment}, check=False,
        )  # fmt: skip

    def refuses(self, *words: str | Path) -> str:
        """The one line of a command that ends with code 1 and writes nothing."""
        done = self.run(*words)
        assert done.returncode == 1 and done.stdout == "", done
        assert done.stderr.startswith("edgebert-runner: ") and done.stderr.count("\n") == 1, done.stderr
        assert not (self.folder / "out.bin").exists() and not list(self.folder.glob("*.part"))
        return done.stderr

    def answer(self, model: Path, raw: bytes, *options: str, **environment: str) -> bytes:
        (self.folder / "in.bin").write_bytes(raw)
        done = self.run("logits", model, "in.bin", "out.bin", *options, **environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return (self.folder / "out.bin").read_bytes()


def make_runner(cpu: str, folder: Path) -> Runner:
    if cpu != "native" and shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-aarch64")
    try:
        program = runner_for(architecture() if cpu == "native" else "aarch64")
    except MissingExtraError as error:
        pytest.skip(str(error))
    emulator = () if cpu == "native" else ("qemu-aarch64", "-cpu", cpu)
    return Runner(program, emulator, folder)


@pytest.fixture(params=["native", "cortex-a76", "cortex-a53"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    return make_runner(request.param, tmp_path)


@pytest.fixture
def native(tmp_path: Path) -> Runner:
    """For tests of what does not depend on the CPU."""
    return make_runner("native", tmp_path)


def check(engine: Engine, raw: bytes, max_length: int) -> None:
    """`raw` are the library's ids and logits for TEXTS and PAIRS, to the bit."""
    found = unpack_answers(raw, len(TEXTS), CLASSES)
    with engine.session() as session:
        for text, pair, answer in zip(TEXTS, PAIRS, found, strict=True):
            ids, types = engine.tokenize(text, pair, max_length)
            assert list(answer.ids) == ids
            assert answer.logits.tobytes() == session.run([ids], [types]).tobytes()


@pytest.mark.parametrize("options", [(), ("--threads", "3"), ("--max-length", "9")])
def test_texts_get_the_library_s_own_bits(runner: Runner, model_file: Path, options: Sequence[str]) -> None:
    raw = runner.answer(model_file, pack_texts(TEXTS, PAIRS), *options)
    with Engine.open(model_file) as engine:
        check(engine, raw, 9 if "9" in options else 0)


@pytest.mark.parametrize("isa", available_isas())
def test_every_instruction_set_gives_the_same_file(native: Runner, model_file: Path, isa: str) -> None:
    raw = native.answer(model_file, pack_texts(TEXTS, PAIRS), EDGEBERT_ISA=isa)
    assert raw == native.answer(model_file, pack_texts(TEXTS, PAIRS), EDGEBERT_ISA="scalar")


def test_ids_get_the_same_logits_as_their_texts(runner: Runner, model_file: Path) -> None:
    with Engine.open(model_file) as engine:
        rows = [engine.tokenize(text, pair) for text, pair in zip(TEXTS, PAIRS, strict=True)]
    width = max(len(ids) for ids, _ in rows)
    ids, mask, types = (np.zeros((len(rows), width), np.int64) for _ in range(3))
    for i, (row_ids, row_types) in enumerate(rows):
        ids[i, : len(row_ids)], types[i, : len(row_ids)], mask[i, : len(row_ids)] = row_ids, row_types, 1
    by_ids = runner.answer(model_file, pack_ids(EncodedBatch(ids, mask, types)))
    assert by_ids == runner.answer(model_file, pack_texts(TEXTS, PAIRS))


def test_many_examples_are_answered_in_order(native: Runner, model_file: Path) -> None:
    order = [random.Random(0).randrange(len(TEXTS)) for _ in range(500)]
    once = unpack_answers(native.answer(model_file, pack_texts(TEXTS, PAIRS)), len(TEXTS), CLASSES)
    many = native.answer(model_file, pack_texts([TEXTS[i] for i in order], [PAIRS[i] for i in order]))
    for i, answer in zip(order, unpack_answers(many, len(order), CLASSES), strict=True):
        assert answer.ids == once[i].ids and (answer.logits == once[i].logits).all()


def test_no_examples_are_no_answers(native: Runner, model_file: Path) -> None:
    assert unpack_answers(native.answer(model_file, pack_texts([], [])), 0, CLASSES) == []


def test_tokens_are_the_ids_alone(runner: Runner, model_file: Path) -> None:
    (runner.folder / "in.bin").write_bytes(pack_texts(TEXTS, PAIRS))
    assert runner.run("tokens", model_file, "in.bin", "out.bin").returncode == 0
    found = unpack_answers((runner.folder / "out.bin").read_bytes(), len(TEXTS), 0)
    with Engine.open(model_file) as engine:
        wanted = [engine.tokenize(text, pair)[0] for text, pair in zip(TEXTS, PAIRS, strict=True)]
    assert [list(answer.ids) for answer in found] == wanted


def test_facts_and_bench_are_json(runner: Runner, model_file: Path) -> None:
    facts = json.loads(runner.run("facts").stdout)
    wanted = {"cortex-a76": "neon-dotprod", "cortex-a53": "neon"}
    best = wanted[runner.emulator[-1]] if runner.emulator else available_isas()[0]
    assert facts["kernels"] == best == facts["available"][0] and "scalar" in facts["available"]
    done = runner.run("bench", model_file, "--length", "16", "--repeats", "5", "--threads", "2")
    bench = json.loads(done.stdout)
    assert (bench["length"], bench["threads"], bench["kernels"]) == (16, 2, best)
    assert len(bench["ns"]) == 5 and min(bench["ns"]) > 0 and bench["load_ns"] > 0
    assert bench["peak_bytes"] > 1 << 19


@pytest.mark.parametrize("name", GNU)
def test_it_is_one_small_static_file_with_markers_for_the_counter(name: str) -> None:
    try:
        program = runner_for(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    content = program.read_bytes()
    assert len(content) < 2_000_000
    if shutil.which("readelf"):
        shown = subprocess.run(
            ["readelf", "-dlW", program], capture_output=True, text=True, check=True
        ).stdout
        assert "NEEDED" not in shown and "INTERP" not in shown
        assert re.search(r"GNU_STACK.* RW ", shown), "an executable stack"
    markers = [struct.pack("<I", 0xD503201F | number << 5) in content for number in (42, 43)]
    assert all(markers) == (name == "aarch64")


# Damaged input


def texts_file(*sizes: int, body: bytes = b"", count: int = 1, kind: int = 1) -> bytes:
    return b"EBRUNIN1" + struct.pack(f"<II{len(sizes)}I", kind, count, *sizes) + body


DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "ends too early"),
    "another file": (b"GGUF" + bytes(40), "is no input file"),
    "another kind": (texts_file(0, NO_PAIR, kind=3), "neither texts nor ids"),
    "fewer examples than it says": (texts_file(0, NO_PAIR, count=2), "ends too early"),
    "4 billion examples": (texts_file(0, NO_PAIR, count=0xFFFFFFFF), "ends too early"),
    "a text beyond the end": (texts_file(5, NO_PAIR, body=b"four"), "ends too early"),
    "a text of 4 GB": (texts_file(0xFFFFFFF0, NO_PAIR, body=b"four"), "ends too early"),
    "a pair of 4 GB": (texts_file(0, 0xFFFFFFFE, body=b"four"), "ends too early"),
    "bytes behind the last example": (texts_file(1, NO_PAIR, body=b"ab"), "goes on after"),
    "ids beyond the end": (texts_file(2, body=bytes(12), kind=IDS), "ends too early"),
    "4 billion ids": (texts_file(0xFFFFFFFF, body=bytes(12), kind=IDS), "ends too early"),
    "no ids": (texts_file(0, kind=IDS), "an example without ids"),
    "an id outside the vocabulary": (texts_file(1, 93, 0, kind=IDS), "93"),
    "a negative id": (texts_file(1, 0xFFFFFFFF, 0, kind=IDS), "-1"),
    "too many ids": (texts_file(65, body=bytes(8 * 65), kind=IDS), "65"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_input_is_one_line(native: Runner, model_file: Path, case: str) -> None:
    raw, message = DAMAGED[case]
    (native.folder / "in.bin").write_bytes(raw)
    assert message in native.refuses("logits", model_file, "in.bin", "out.bin")


def test_any_damage_is_refused_or_answered(native: Runner, model_file: Path) -> None:
    rng, good = random.Random(0), pack_texts(TEXTS, PAIRS)
    for _ in range(200):
        raw = bytearray(good[: rng.randrange(len(good) + 1)])
        for _ in range(rng.randrange(3)):
            if raw:
                raw[rng.randrange(len(raw))] = rng.randrange(256)
        (native.folder / "in.bin").write_bytes(raw)
        done = native.run("logits", model_file, "in.bin", "out.bin")
        assert done.returncode in (0, 1) and done.stderr.count("\n") == done.returncode, done
        (native.folder / "out.bin").unlink(missing_ok=True)


Case = tuple[Callable[[Path], list[str | Path]], str]
COMMANDS: dict[str, Case] = {
    "no model": (lambda model: ["logits", "absent", "in.bin", "out.bin"], "absent"),
    "no input": (lambda model: ["logits", model, "absent", "out.bin"], "absent cannot be opened"),
    "a folder as input": (lambda model: ["logits", model, ".", "out.bin"], "cannot be read"),
    "no place for output": (
        lambda model: ["logits", model, "in.bin", "no/out"],
        "no/out.part cannot be written",
    ),
    "threads": (lambda model: ["logits", model, "in.bin", "out.bin", "--threads", "0"], "from 1 to 1024"),
    "words": (lambda model: ["bench", model, "--repeats", "ten"], "--repeats is 'ten'"),
    "more than a number": (lambda model: ["bench", model, "--repeats", "1e9"], "--repeats is '1e9'"),
    "overflow": (lambda model: ["bench", model, "--length", "99999999999999999999"], "from 1 to 65536"),
    "length": (lambda model: ["bench", model, "--length", "65"], "takes 64 tokens, not 65"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_that_cannot_be_done_is_one_line(native: Runner, model_file: Path, case: str) -> None:
    (native.folder / "in.bin").write_bytes(pack_texts(["a"], [None]))
    words, message = COMMANDS[case]
    assert message in native.refuses(*words(model_file))


@pytest.mark.parametrize(
    "words", [[], ["nothing"], ["facts", "more"], ["bench"], ["logits", "a", "b"], ["bench", "a", "--length"],
              ["bench", "a", "--fast", "1"], ["tokens", "a", "b", "c", "--repeats", "1"]]
)  # fmt: skip
def test_a_command_that_is_none_shows_the_commands(native: Runner, words: list[str]) -> None:
    done = native.run(*words)
    assert done.returncode == 2 and done.stderr.startswith("usage: edgebert-runner facts")


def test_kernels_that_the_cpu_lacks_are_one_line(native: Runner) -> None:
    done = native.run("facts", EDGEBERT_ISA="nonsense")
    assert done.returncode == 1 and "EDGEBERT_ISA is 'nonsense'" in done.stderr
