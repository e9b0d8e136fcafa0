"""`edgebert validate`: exit codes and output (with a stand-in backend)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgebert import errors
from edgebert.cli.dispatch import run
from edgebert.data import Example, write_jsonl
from edgebert.manifest import Gate
from edgebert.pipeline import load
from tests.factories import LABELS
from tests.sdk.packages import FakeTarget, make_package, target

__all__ = ["target"]


@pytest.fixture
def package(tmp_path: Path, target: FakeTarget) -> Path:
    return make_package(tmp_path, gate=Gate("accuracy", 0.9, 0.1))


@pytest.fixture
def data(tmp_path: Path, package: Path) -> Path:
    """Four examples, three of which the package gets right."""
    texts = ["turn on", "play", "stop", "ten minutes"]
    with load(package) as classifier:
        labels = [prediction.label for prediction in classifier.classify(texts)]
    labels[0] = next(label for label in LABELS if label != labels[0])
    path = tmp_path / "dev.jsonl"
    write_jsonl([Example(text, None, label) for text, label in zip(texts, labels, strict=True)], path)
    return path


def test_gate_of_the_package_fails(package: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(package), "--eval", str(data)]) == errors.EXIT_GATE
    captured = capsys.readouterr()
    assert "75.0 %" in captured.out
    assert "failed" in captured.out
    assert "accuracy 0.7500 is more than 0.1 below the recorded 0.9000" in captured.err


@pytest.mark.parametrize(("minimum", "code"), [("0.75", 0), ("0.76", errors.EXIT_GATE)])
def test_minimum(
    package: Path, data: Path, minimum: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["validate", str(package), "--eval", str(data), "--min-accuracy", minimum, "--json"]
    assert run(args) == code
    captured = capsys.readouterr()
    body = json.loads(captured.out)
    assert body["passed"] is (code == 0)
    assert body["figures"]["accuracy"] == 0.75
    assert body["figures"]["examples"] == 4
    assert body["golden"]["wrong_classes"] == 0
    assert captured.err.count("\n") == (code != 0)


def test_golden_examples_alone(package: Path, target: FakeTarget, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(package)]) == 0
    assert "3 of 3" in capsys.readouterr().out
    target.session.shift = 1e6
    assert run(["validate", str(package)]) == errors.EXIT_GATE
    assert "golden" in capsys.readouterr().err


def test_columns_can_be_named(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dev.csv").write_text("q,second,intent\nplay,stop,music\n")
    columns = ["--text-column", "q", "--pair-column", "second", "--label-column", "intent"]
    args = [
        "validate",
        str(package),
        "--eval",
        str(tmp_path / "dev.csv"),
        *columns,
        "--min-accuracy",
        "0",
        "--json",
    ]
    assert run(args) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["examples"] == 1


@pytest.mark.parametrize(
    ("rows", "code", "part"),
    [
        ('{"text": "a", "label": "sport"}', errors.EXIT_DATA, "sport"),
        ('{"text": "a", "label": "music"}\n{', errors.EXIT_DATA, "line 2"),
        ("", errors.EXIT_DATA, "no examples"),
    ],
)
def test_bad_data(
    package: Path, tmp_path: Path, rows: str, code: int, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text(rows)
    assert run(["validate", str(package), "--eval", str(tmp_path / "bad.jsonl")]) == code
    message = capsys.readouterr().err
    assert part in message
    assert message.count("\n") == 1


def test_minimum_without_data(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(package), "--min-accuracy", "0.5"]) == errors.EXIT_USAGE
    assert "needs --eval" in capsys.readouterr().err


def test_tampered_package(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (package / "model.onnx").write_bytes(b"other")
    assert run(["validate", str(package)]) == errors.EXIT_PACKAGE
    assert "model.onnx" in capsys.readouterr().err
