"""What a device sends, in any pieces, complete or not, honest or not."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.devices import received
from edgebert.devices.process import TooMuchOutputError
from edgebert.devices.received import AfterMarker, Memory, ReceivedFile, UnexpectedAnswerError, exit_code

TOKEN = "0123456789abcdef"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@given(noise=st.binary(max_size=50), data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 300)))
def test_noise_before_the_marker_is_dropped(noise: bytes, data: bytes, cuts: list[int]) -> None:
    memory = Memory()
    sink = AfterMarker(TOKEN, memory)
    for piece in pieces(noise + TOKEN.encode() + b"\n" + data, cuts):
        sink(piece)
    assert bytes(memory.data) == data


@given(data=st.binary(max_size=500), cuts=st.lists(st.integers(0, 600)), hashed=st.booleans())
def test_a_file_in_pieces(data: bytes, cuts: list[int], hashed: bool) -> None:
    told = hashlib.sha256(data).hexdigest()
    file = ReceivedFile(500, None)
    for piece in pieces(f"{len(data)} {told if hashed else '-'}\n".encode() + data, cuts):
        file(piece)
    assert file.digest == told
    assert file.told == (told if hashed else None)


def test_a_file_is_written_as_it_comes(tmp_path: Path) -> None:
    file = ReceivedFile(10, tmp_path / "part")
    file(b"4 -\nab")
    file(b"cd")
    assert (tmp_path / "part").read_bytes() == b"abcd"


@pytest.mark.parametrize(
    "answer",
    [b"x\n", b"-1 -\n", b"5\n", b"5 abc\n", b"\n", b"x" * 1000, b"9" * 20 + b" -\n", b"3 -\nabcd",
     b"11 -\nabcdefghijk"],
)  # fmt: skip
def test_a_wrong_answer_is_refused_at_once(answer: bytes, tmp_path: Path) -> None:
    file = ReceivedFile(10, tmp_path / "part")
    with pytest.raises(UnexpectedAnswerError):
        file(answer)
    assert (tmp_path / "part").stat().st_size == 0


@pytest.mark.parametrize("answer", [b"", b"3 ", b"3 -\nab"])
def test_half_an_answer_has_no_digest(answer: bytes) -> None:
    file = ReceivedFile(10, None)
    file(answer)
    with pytest.raises(UnexpectedAnswerError, match="bytes arrived"):
        _ = file.digest


def test_output_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "OUTPUT_LIMIT", 1000)
    for sink in (Memory(), AfterMarker(TOKEN, Memory())):
        with pytest.raises(TooMuchOutputError):
            for _ in range(100):
                sink(b"x" * 100)


@given(before=st.binary(max_size=60), code=st.integers(0, 255), after=st.binary(max_size=20))
def test_an_exit_code_is_found_and_taken_out(before: bytes, code: int, after: bytes) -> None:
    assert exit_code(before + f"\n{TOKEN} {code}\n".encode() + after, TOKEN) == (code, before + after)


@pytest.mark.parametrize(
    "stderr", [b"", TOKEN.encode(), f"{TOKEN} 1".encode(), f"\n{TOKEN} x\n".encode(), b"\nff 1\n"]
)
def test_no_exit_code_is_a_broken_connection(stderr: bytes) -> None:
    assert exit_code(stderr, TOKEN) is None
