"""`edgebert targets`: what it prints is what the targets say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgebert.cli.dispatch import run
from edgebert.cli.targets import render_support_markdown
from edgebert_targets.base import get_target, target_names
from tests.sdk.fake_engine import fake

__all__ = ["fake"]


def test_json_is_the_support_of_every_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["support"]
    expected = [
        (name, row.pattern, row.speed, row.size, row.note)
        for name in target_names()
        for row in get_target(name).support()
    ]
    assert [(r["target"], r["pattern"], r["speed"], r["size"], r["note"]) for r in rows] == expected
    assert {"x86", "arm64"} <= {r["target"] for r in rows}


def test_no_speed_is_promised_for_sparsity_on_the_two_runtimes() -> None:
    for name in ("x86", "arm64"):
        pays = {row.pattern: (row.speed, row.size) for row in get_target(name).support()}
        for pattern in ("sparse-4-block", "sparse-unstructured"):
            assert pays[pattern] == ("no", "zipped only")
        assert pays["dense-int8"] == pays["fewer-layers"] == ("yes", "yes")


def test_table_keeps_patterns_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets"]) == 0
    out = capsys.readouterr().out
    assert "x86: ONNX Runtime" in out and "sparse-unstructured" in out and "zipped only" in out


def test_a_plugin_is_listed(fake: Path) -> None:
    lines = render_support_markdown().splitlines()
    assert lines[0].startswith("| pattern | `arm64` (LiteRT) | `fake` (Fake runtime) |")
    row = next(line for line in lines if line.startswith("| dense-int8 |"))
    assert row.split(" | ")[2] == "faster: yes, smaller: zipped only"
    row = next(line for line in lines if line.startswith("| fewer-layers |"))
    assert row.split(" | ")[2] == "–"
