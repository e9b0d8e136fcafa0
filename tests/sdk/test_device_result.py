"""What the demo app shares is read strictly; the report says what it says and fails when examples differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebert.cli.dispatch import run
from edgebert.device_result import FORMAT, read_device_result
from edgebert.errors import EXIT_GATE, EXIT_OK, EXIT_PACKAGE, PackageError

GOOD: dict[str, Any] = {
    "format": FORMAT,
    "model": "home_intents",
    "model_bytes": 3005952,
    "engine": "0.1.0",
    "device": {"name": "Maker Phone", "os": "Android 14 (API 34)", "cpu": "qcom", "kernels": "neon-dotprod"},
    "tokens": 9,
    "runs": 200,
    "latency_ms": {"p50": 1.25, "p90": 2, "p99": 3.5},
    "golden": {"examples": 20, "equal_ids": 20, "equal_bits": 20},
}


def write(folder: Path, value: object) -> Path:
    path = folder / "phone.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_a_result_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GOOD)
    assert run(["report", str(path)]) == EXIT_OK
    shown = capsys.readouterr().out
    for part in ("Maker Phone", "1.25", "20 of 20 bit for bit", "neon-dotprod"):
        assert part in shown
    assert run(["report", str(path), "--json"]) == EXIT_OK
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["passed"] is True
    assert result["latency_ms"]["p90"] == 2.0


@pytest.mark.parametrize(
    "golden",
    [
        None,
        {"examples": 20, "equal_ids": 20, "equal_bits": 19},
        {"examples": 0, "equal_ids": 0, "equal_bits": 0},
    ],
)
def test_a_result_without_proof_fails(tmp_path: Path, golden: object) -> None:
    assert run(["report", str(write(tmp_path, {**GOOD, "golden": golden}))]) == EXIT_GATE


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "edgebert-device-result 2"}, "format"),
        ({"model": "x" * 201}, "200"),
        ({"runs": -1}, "-1"),
        ({"runs": True}, "True"),
        ({"latency_ms": {"p50": 1, "p90": 2}}, "p99"),
        ({"latency_ms": {"p50": -1, "p90": 2, "p99": 3}}, "-1"),
        ({"device": []}, "list"),
        ({"golden": {"examples": 1}}, "equal_ids"),
    ],
)
def test_other_things_are_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(PackageError, match="no device result") as caught:
        read_device_result(write(tmp_path, {**GOOD, **change}))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(raw=st.binary(max_size=200))
def test_bytes_that_are_no_result_are_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "phone.json"
    path.write_bytes(raw)
    with pytest.raises(PackageError):
        read_device_result(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "phone.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    assert run(["report", str(path)]) == EXIT_PACKAGE
