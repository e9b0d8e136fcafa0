"""`edgebert run`: where texts come from, what is printed, and bad input (with a stand-in backend)."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgebert import errors
from edgebert.cli.dispatch import run
from edgebert.manifest import Cpu
from edgebert.pipeline import load
from tests.sdk.packages import FakeTarget, make_package, target

__all__ = ["target"]


@pytest.fixture
def package(tmp_path: Path, target: FakeTarget) -> str:
    return str(make_package(tmp_path, as_zip=True))


def give_stdin(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))


def answers(package: str, texts: list[str], pairs: list[str | None] | None = None) -> list[str]:
    with load(package) as classifier:
        return [prediction.label for prediction in classifier.classify(texts, pairs)]


def test_texts_from_the_command_line(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["turn on the light", "", "play [bold]music", "x" * 100_000]
    assert run(["run", package, *texts]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == answers(package, texts)
    assert lines[2].endswith("play [bold]music")
    assert len(lines[3]) < 120


def test_json_is_one_object(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", package, "stop", "play", "--top-k", "2", "--json", "--pair", "music"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["target"] == "x86"
    assert [row["text"] for row in body["predictions"]] == ["stop", "play"]
    assert [row["text_pair"] for row in body["predictions"]] == ["music", "music"]
    assert [row["label"] for row in body["predictions"]] == answers(package, ["stop", "play"], ["music"] * 2)
    for row in body["predictions"]:
        assert len(row["scores"]) == 2
        assert row["scores"][0] == {"label": row["label"], "score": row["score"]}


@pytest.mark.parametrize("args", [[], ["-"]])
def test_lines_of_stdin(
    package: str, args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count = 600  # more than one chunk
    give_stdin(monkeypatch, b"\xef\xbb\xbfplay a song\r\n\nset the timer" + b"\nstop" * (count - 3))
    assert run(["run", package, *args]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == count
    assert lines[0].endswith("\tplay a song")
    assert [line.split("\t")[0] for line in lines[:4]] == answers(
        package, ["play a song", "", "set the timer", "stop"]
    )


@pytest.mark.parametrize("from_file", [True, False])
def test_json_lines(
    package: str,
    from_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = '{"text": "play", "text_pair": "stop"}\n\n{"text": "Zürich", "label": "ignored"}\n'.encode()
    (tmp_path / "in.jsonl").write_bytes(raw)
    give_stdin(monkeypatch, raw)
    assert run(["run", package, "--json", "--jsonl", str(tmp_path / "in.jsonl") if from_file else "-"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in body["predictions"]] == answers(
        package, ["play", "Zürich"], ["stop", None]
    )


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b'{"text": "a"}\n{\n', "line 2: not valid JSON"),
        (b'{"text": "a"}\n\n{"text": 1}\n', "line 3"),
        (b"[1]\n", "line 1"),
        (b'{"text": "a", "text_pair": 1}', "'text_pair' must be a string"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"text": "\xff"}', "line 1: not valid UTF-8"),
        (b"[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_bad_json_line_is_named(
    package: str, raw: bytes, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_bytes(raw)
    assert run(["run", package, "--jsonl", str(tmp_path / "in.jsonl")]) == errors.EXIT_DATA
    message = capsys.readouterr().err
    assert part in message
    assert message.count("\n") == 1


def test_stdin_that_is_not_utf8(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_stdin(monkeypatch, b"fine\nfine\nbad \xe9 byte\n")
    assert run(["run", package]) == errors.EXIT_DATA
    assert "stdin, line 3: not valid UTF-8" in capsys.readouterr().err


def test_endless_line(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgebert.cli.run.MAX_LINE_BYTES", 1000)
    give_stdin(monkeypatch, b"x" * 1000 + b"\n" + b"y" * 1001)
    assert run(["run", package]) == errors.EXIT_DATA
    assert "line 1: longer" in capsys.readouterr().err


def test_argument_that_is_not_utf8(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", package, "bad \udce9"]) == errors.EXIT_DATA
    assert "not valid Unicode" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [["text", "--jsonl", "-"], ["a", "--top-k", "0"], ["a", "--threads", "0"], ["a", "--threads", "x"]],
)
def test_senseless_options(package: str, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", package, *args]) == errors.EXIT_USAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_bad_package_and_missing_file(
    tmp_path: Path, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(tmp_path / "nothing"), "text"]) == errors.EXIT_PACKAGE
    assert run(["run", package, "--jsonl", str(tmp_path / "nothing")]) == errors.EXIT_DATA
    assert capsys.readouterr().err.count("\n") == 2


def test_wrong_cpu(tmp_path: Path, target: FakeTarget, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(make_package(tmp_path, cpu=Cpu(("riscv64",))))
    assert run(["run", path, "text"]) == 0
    assert "note: meant for riscv64" in capsys.readouterr().err
    target.host_architectures = ("riscv64",)
    assert run(["run", path, "text", "--json"]) == errors.EXIT_WRONG_CPU
    assert json.loads(capsys.readouterr().out)["exit_code"] == errors.EXIT_WRONG_CPU


def test_control_characters_do_not_reach_the_terminal(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", package, "a\x1b[31mb\rc"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
