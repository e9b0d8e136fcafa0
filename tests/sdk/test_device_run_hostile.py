"""Devices that answer wrongly, by a device made up in the test: one line and an exit code, never a crash."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert import errors
from edgebert.cli.dispatch import run
from edgebert.device_files import (
    NO_PAIR,
    answer_limit,
    pack_texts,
    parse_reply,
    reply_int,
    reply_text,
    reply_times,
    unpack_answers,
)
from edgebert.errors import DeviceError
from edgebert.pipeline import load
from tests.sdk.device_packages import GOLDEN, RUNNER_FACTS, FakeDevice, make_packages

Row = tuple[Sequence[int], Sequence[float]]


def packed(rows: Sequence[Row]) -> bytes:
    """An output file, written from docs/formats.md alone."""
    parts = [b"EBRUNOU1", struct.pack("<I", len(rows))]
    for ids, logits in rows:
        parts.append(struct.pack(f"<II{len(ids)}i{len(logits)}f", len(ids), len(logits), *ids, *logits))
    return b"".join(parts)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_packages(tmp_path_factory.mktemp("hostile"), ["int8-sparse", "arm64"])


@pytest.fixture(scope="module")
def rows(packages: dict[str, Path]) -> list[Row]:
    """The right answers to the golden examples."""
    texts, pairs = [one for one, _ in GOLDEN], [two for _, two in GOLDEN]
    with load(packages["int8-sparse"]) as classifier:
        logits = classifier.logits(texts, pairs)
        ids = [classifier.tokenizer.encode_ids(*golden)[0] for golden in GOLDEN]
    return list(zip(ids, logits.tolist(), strict=True))


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[FakeDevice], FakeDevice]:
    """Let every specification open this device, without a real runner."""
    program = tmp_path / "runner"
    program.write_bytes(b"no program")
    monkeypatch.setattr("edgebert.device_engine.runner_for", lambda architecture: program)

    def choose(device: FakeDevice) -> FakeDevice:
        monkeypatch.setattr("edgebert.devices.base.open_device", lambda spec: device)
        return device

    return choose


def test_a_made_up_device_that_answers_rightly_passes(
    packages: dict[str, Path], rows: list[Row], use: Callable[[FakeDevice], FakeDevice],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    device = use(FakeDevice({"facts": RUNNER_FACTS}, {"answers.bin": packed(rows)}))
    assert run(["validate", str(packages["int8-sparse"]), "--device", "made-up", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["device"]
    assert found["host"]["identical"] == 3 and found["wrong_tokens"] == 0
    assert found["kernels"] == "made-up" and device.left
    assert device.sent["model.gguf"] == (packages["int8-sparse"] / "model.gguf").read_bytes()


def changed(rows: list[Row], number: int, *, ids: Sequence[int] | None = None, add: float = 0.0) -> list[Row]:
    found = list(rows)
    old_ids, logits = found[number]
    found[number] = (old_ids if ids is None else ids, [logits[0] + add, *logits[1:]])
    return found


WRONG: dict[str, tuple[Callable[[list[Row]], list[Row]], str]] = {
    "one bit": (lambda rows: changed(rows, 1, add=1e-6), "have to be the same bits"),
    "other ids": (
        lambda rows: changed(rows, 2, ids=[2, 1, 3]),
        "the tokenizer on the device gives other ids",
    ),
    "other class": (lambda rows: changed(rows, 0, add=-100.0), "golden examples get another class"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_made_up_device_that_computes_something_else_fails_the_package(
    packages: dict[str, Path], rows: list[Row], use: Callable[[FakeDevice], FakeDevice], case: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    change, message = WRONG[case]
    use(FakeDevice({"facts": RUNNER_FACTS}, {"answers.bin": packed(change(rows))}))
    assert run(["validate", str(packages["int8-sparse"]), "--device", "made-up"]) == errors.EXIT_GATE
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda raw: b"", "no runner output"),
    "no answers": (lambda raw: b"PK\x03\x04" + raw, "no runner output"),
    "cut": (lambda raw: raw[:-1], "end in example 3"),
    "cut in a count": (lambda raw: raw[:15], "end in example 1"),
    "one byte more": (lambda raw: raw + b"\0", "at most"),
    "far too long": (lambda raw: raw + bytes(1 << 20), "at most"),
    "another number of examples": (lambda raw: raw[:8] + struct.pack("<I", 2) + raw[12:], "2 examples"),
    "4 billion tokens": (lambda raw: raw[:12] + b"\xff\xff\xff\xff" + raw[16:], "end in example 1"),
    "4 billion logits": (lambda raw: raw[:16] + b"\xff\xff\xff\xff" + raw[20:], "4294967295 logits"),
    "not a number": (lambda raw: raw[:-4] + struct.pack("<f", float("nan")), "are not finite"),
    "infinite": (lambda raw: raw[:-4] + struct.pack("<f", float("-inf")), "are not finite"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_answers_of_a_made_up_device_that_are_damaged_are_one_line(
    packages: dict[str, Path], rows: list[Row], use: Callable[[FakeDevice], FakeDevice], case: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    change, message = HOSTILE[case]
    device = use(FakeDevice({"facts": RUNNER_FACTS}, {"answers.bin": change(packed(rows))}))
    # So that one byte more than the right answer is over the limit too.
    assert run(["validate", str(packages["int8-sparse"]), "--device", "made-up"]) == errors.EXIT_DEVICE
    said = capsys.readouterr().err
    assert (message in said or "go on for" in said) and said.count("\n") == 1
    assert device.left


@pytest.mark.parametrize("reply", [b"", b"garbage", b"[1]", b'{"version": 1, "kernels": "neon"}', b"[" * 9999,
                                   b'{"version": "1\\u001b[2J", "kernels": "neon"}'])  # fmt: skip
def test_garbage_replies_of_a_made_up_device_are_one_line(
    packages: dict[str, Path], use: Callable[[FakeDevice], FakeDevice], reply: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    use(FakeDevice({"facts": reply}))
    for verb in (["validate"], ["bench"], ["run"]):
        words = [*verb, str(packages["int8-sparse"]), "--device", "made-up"]
        assert run(words + (["a text"] if verb == ["run"] else [])) == errors.EXIT_DEVICE
        said = capsys.readouterr().err
        assert "the device's reply" in said and said.count("\n") == 1 and "\x1b" not in said


def test_a_program_that_fails_on_a_made_up_device_is_one_line(
    packages: dict[str, Path], use: Callable[[FakeDevice], FakeDevice], capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeDevice({"facts": RUNNER_FACTS}, failed={"logits": b"warning\n\x1b[31mout of memory\n\n"}))
    assert run(["run", str(packages["int8-sparse"]), "--device", "made-up", "a"]) == errors.EXIT_DEVICE
    said = capsys.readouterr().err
    assert "edgebert-runner on 'made-up' ended with code 1: ?[31mout of memory" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("reply", [b"{}", b'{"load_ns": 1, "peak_bytes": 1, "ns": [0, 1]}',
                                   b'{"load_ns": 1, "peak_bytes": 1, "ns": [1]}',
                                   b'{"load_ns": -1, "peak_bytes": 1, "ns": [1, 1]}',
                                   b'{"load_ns": 1e3, "peak_bytes": 1, "ns": [1, 1]}',
                                   b'{"load_ns": 1, "peak_bytes": 1, "ns": [1, true]}',
                                   b'{"load_ns": 1, "peak_bytes": 1, "ns": [1, NaN]}'])  # fmt: skip
def test_times_of_a_made_up_device_that_make_no_sense_are_one_line(
    packages: dict[str, Path], use: Callable[[FakeDevice], FakeDevice], reply: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    use(FakeDevice({"facts": RUNNER_FACTS, "bench": reply}))
    words = ["bench", str(packages["int8-sparse"]), "--device", "made-up", "--rounds", "1", "--runs", "2"]
    assert run(words) == errors.EXIT_DEVICE
    assert "the device's reply" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (np.zeros((3, 3), "<f4").tobytes()[:-4], "32 bytes instead of 36"),
        (np.zeros((4, 3), "<f4").tobytes(), "at most 36"),
        (np.full((3, 3), np.nan, "<f4").tobytes(), "are not finite"),
    ],
)
def test_litert_answers_of_a_made_up_device_are_checked(
    packages: dict[str, Path], use: Callable[[FakeDevice], FakeDevice], answers: bytes, message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    use(FakeDevice({"facts": b'{"version": "2.3.0"}'}, {"answers.bin": answers}))
    assert run(["validate", str(packages["arm64"]), "--device", "made-up"]) == errors.EXIT_DEVICE
    assert message in capsys.readouterr().err


def test_a_made_up_device_without_python_says_what_to_install(
    packages: dict[str, Path], use: Callable[[FakeDevice], FakeDevice], capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeDevice({}))
    assert run(["run", str(packages["arm64"]), "--device", "made-up", "a"]) == errors.EXIT_DEVICE
    assert "pip install ai-edge-litert" in capsys.readouterr().err


# The files by themselves


@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 5))
def test_any_bytes_are_answers_or_one_error(raw: bytes, examples: int, floats: int) -> None:
    try:
        found = unpack_answers(b"EBRUNOU1" + raw, examples, floats)
    except DeviceError as error:
        assert "\n" not in str(error)
    else:
        assert packed([(answer.ids, answer.logits.tolist()) for answer in found]) == b"EBRUNOU1" + raw


finite_rows = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2**31 - 1), max_size=5),
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
    ),
    max_size=5,
)


@given(finite_rows)
def test_answers_come_back_as_they_were_written(rows: list[Row]) -> None:
    raw = packed(rows)
    found = unpack_answers(raw, len(rows), 2)
    assert [(list(a.ids), a.logits.tolist()) for a in found] == [(list(i), list(x)) for i, x in rows]
    assert len(raw) <= answer_limit(len(rows), 5, 2)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.text(max_size=9), st.none() | st.text(max_size=9)), max_size=4))
def test_texts_are_packed_as_documented(rows: list[tuple[str, str | None]]) -> None:
    raw = pack_texts([one for one, _ in rows], [two for _, two in rows])
    assert raw[:8] == b"EBRUNIN1" and struct.unpack_from("<II", raw, 8) == (1, len(rows))
    place, found = 16, []
    for _ in rows:
        one, two = struct.unpack_from("<II", raw, place)
        place += 8
        text = raw[place : place + one].decode()
        place += one
        pair = None if two == NO_PAIR else raw[place : place + two].decode()
        place += 0 if two == NO_PAIR else two
        found.append((text, pair))
    assert found == rows and place == len(raw)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_reply_is_read_or_one_error(raw: bytes) -> None:
    try:
        reply = parse_reply(raw)
        reply_int(reply, "load_ns"), reply_text(reply, "version"), reply_times(reply, 1)
    except DeviceError as error:
        assert "\n" not in str(error)
