"""`edgebert compress` with static activation ranges."""

import csv
import json

import pytest
from safetensors.numpy import load_file

from edgebert import errors
from edgebert.cli.dispatch import run
from tests.factories import make_checkpoint, task_sentences


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    make_checkpoint(folder / "model")
    for name, count, seed in (("train", 64, 0), ("eval", 32, 1)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(task_sentences(count, seed))
    return folder


def compress(files, out, examples, *more):
    recipe = files / f"{examples}.yaml"
    recipe.write_text(
        f"stages: [{{kind: quantize, activations: static, calibration_examples: {examples}, "
        "training: {epochs: 0}}]\n"
    )
    return run([
        "compress", "--model", str(files / "model"), "--recipe", str(recipe), "--train",
        str(files / "train.csv"), "--eval", str(files / "eval.csv"), "--out", str(out), "--work",
        str(files / "work"), "--threads", "1", *more,
    ])  # fmt: skip


def test_the_ranges_are_in_the_folder(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert compress(files, out, 32, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in result["stages"]][-1] == "INT8 in static ranges, post-training"
    record = json.loads((out / "compression.json").read_text())["quantization"]
    assert record["activations"] == "int8-static-per-tensor-asymmetric"
    assert load_file(out / "quantized.safetensors")["classifier.output.scale"] > 0


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_too_few_examples_are_told_before_anything_starts(files, tmp_path, capsys, more):
    assert compress(files, tmp_path / "out", 65, *more) == errors.EXIT_TRAINING
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edgebert:")]
    assert len(told) == 1
    assert "65 calibration examples" in told[0] and "has 64" in told[0]
    assert not (tmp_path / "out").exists()
