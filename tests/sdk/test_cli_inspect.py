"""`edgebert inspect`: the sums it prints (with a stand-in backend whose facts are known)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgebert import errors
from edgebert.cli.dispatch import run
from edgebert.cli.output import clean, megabytes, percent
from edgebert.parts import by_part
from edgebert_targets.base import ArtifactFacts, TensorFacts
from tests.sdk.packages import MODEL_BYTES, FakeTarget, make_package, target

__all__ = ["target"]


def test_parts_add_up_to_the_file() -> None:
    tensors = (
        TensorFacts("a", "layer 0", "int8", (10, 10), 100, 0.5),
        TensorFacts("b", "layer 0", "float32", (100,), 400, 0.0),
        TensorFacts("c", "head", "float32", (), 4, 1.0),
    )
    facts = ArtifactFacts(1000, tensors, {}, 0.2, (), (), (), ())
    parts = {part.part: part for part in by_part(facts)}
    assert [part.part for part in by_part(facts)] == ["layer 0", "head", "graph and metadata"]
    assert sum(part.nbytes for part in parts.values()) == 1000
    assert sum(part.share for part in parts.values()) == pytest.approx(1)
    assert parts["layer 0"].sparsity == pytest.approx(50 / 200)
    assert parts["layer 0"].dtypes == ("float32", "int8")
    assert parts["head"].sparsity == 1


@pytest.mark.parametrize("as_zip", [False, True])
def test_table(tmp_path: Path, target: FakeTarget, as_zip: bool, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_package(tmp_path, as_zip=as_zip)
    assert run(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    for part in (
        "embeddings",
        "layer 0",
        "avx512_vnni or avx_vnni",
        "MatMul",
        "96.9 %",
        "a [bold]note[/bold]",
    ):
        assert part in out
    assert "query.bias" not in out
    assert run(["inspect", str(path), "--tensors"]) == 0
    assert "query.bias" in capsys.readouterr().out


def test_json(tmp_path: Path, target: FakeTarget, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_package(tmp_path)
    assert run(["inspect", str(path), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["model_bytes"] == len(MODEL_BYTES) == body["files"]["model.onnx"]
    assert body["files"] == {file.name: file.stat().st_size for file in path.iterdir()}
    assert body["ops"] == {"MatMul": 3, "Add": 5}
    assert [tensor["name"] for tensor in body["tensors"]] == ["word", "query", "query.bias"]
    assert {part["part"]: part["sparsity"] for part in body["parts"]}["layer 0"] == pytest.approx(768 / 1056)
    assert body["metrics"] == [{"stage": "teacher", "metrics": {"accuracy": 0.5}}]


def test_bad_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    assert run(["inspect", str(tmp_path / "x.zip")]) == errors.EXIT_PACKAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_names_in_a_package_cannot_drive_the_terminal() -> None:
    assert clean("a\x1b]0;title\x07b\u202e") == "a\ufffd]0;title\ufffdb\ufffd"


def test_units() -> None:
    assert megabytes(23_500_000) == "23.50 MB"
    assert megabytes(99_999) == "100.0 kB"
    assert percent(0.9949) == "99.5 %"
