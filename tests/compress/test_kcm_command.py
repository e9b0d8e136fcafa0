"""`edgebert compress --fast`: no training, INT8, a folder like that of any recipe."""

import csv
import json
from pathlib import Path

import pytest

from edgebert import errors
from edgebert.cli.dispatch import run
from tests.factories import make_checkpoint, task_sentences


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fast")
    make_checkpoint(folder / "model", layers=2)
    for name, count, seed in (("train", 64, 0), ("eval", 32, 1)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *task_sentences(count, seed)])
    return folder


def args(files: Path, out: Path, *more: str) -> list[str]:
    return [
        "compress", "--model", str(files / "model"), "--train", str(files / "train.csv"),
        "--eval", str(files / "eval.csv"), "--out", str(out), "--work", str(files / "work"),
        "--threads", "1", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_writes_a_folder_of_zeros_and_integers_without_training(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(args(files, out, "--fast", "0.5", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["quantized"] is True
    assert [stage["kind"] for stage in result["stages"]] == ["teacher", "fast", "quantize"]
    assert [stage["steps"] for stage in result["stages"][1:]] == [0, 0]
    record = json.loads((out / "compression.json").read_text())
    assert record["recipe"]["stages"][0] == {"kind": "fast", "keep": 0.5, "samples": 2048}
    fast = record["stages"][0]["fast"]
    assert 0.4 < fast["kept"] <= 0.5 and fast["examples"] == 64
    assert sum(row["zeros"] for row in record["sparsity"].values()) > 0.3 * sum(
        row["size"] for row in record["sparsity"].values()
    )
    assert (out / "report.html").is_file()


def test_a_dry_run_says_what_it_would_do(files, tmp_path, capsys):
    assert run(args(files, tmp_path / "out", "--dry-run", "--fast")) == 0
    printed = capsys.readouterr().out
    assert "prune heads and FFN units to 75% of the work: 0 epochs, 0 steps" in printed
    assert "INT8, post-training" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ([], errors.EXIT_USAGE, "or --fast"),
        (["--fast", "--recipe", "int8"], errors.EXIT_USAGE, "a recipe of its own"),
        (["--fast", "1.5"], errors.EXIT_RECIPE, "'keep'"),
    ],
)
def test_wrong_options_are_one_line(files, tmp_path, capsys, more, code, words):
    assert run(args(files, tmp_path / "out", *more)) == code
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
