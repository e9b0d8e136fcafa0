"""Damaged checkpoints are refused by name."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgebert_compress.checkpoint import load
from edgebert_compress.data import silent
from edgebert_compress.errors import CheckpointError
from edgebert_compress.recipe import QuantizeStage, Training
from edgebert_compress.stages import run_stage

NAME = "bert.encoder.layer.0.output.dense.weight"


@pytest.fixture
def quantised(task, tmp_path):
    out = tmp_path / "q"
    run_stage(task.teacher, out, QuantizeStage(training=Training(epochs=0)), task.train, None, 0, silent)
    return out


def edit_record(folder, **changes):
    path = folder / "compression.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensor(folder, name, value):
    path = folder / "quantized.safetensors"
    tensors = load_file(path)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, path)


def refused(folder, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_undamaged_one_loads(quantised):
    assert load(quantised).record.quantization is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2"),
        ({"layers_kept": [0]}, "3 layers"),
        ({"layers_kept": "abc"}, "damaged"),
        ({"sparsity": {NAME: {"pattern": "9-block"}}}, "damaged"),
        ({"sparsity": []}, "damaged"),
        ({"quantization": 5}, "damaged"),
    ],
)
def test_a_wrong_record(quantised, changes, words):
    edit_record(quantised, **changes)
    refused(quantised, words)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (NAME, None, NAME),
        (f"{NAME}.scale", None, NAME),
        ("extra", np.zeros(3, np.int8), "extra"),
        (NAME, np.zeros((32, 64), np.int16), NAME),
        (NAME, np.zeros((32, 32), np.int8), NAME),
        (NAME, np.full((32, 64), -128, np.int8), NAME),
        (f"{NAME}.scale", np.zeros(32, np.float32), NAME),
        (f"{NAME}.scale", np.full(32, np.nan, np.float32), NAME),
        (f"{NAME}.scale", np.ones(31, np.float32), NAME),
    ],
)
def test_wrong_integers(quantised, name, value, words):
    edit_tensor(quantised, name, value)
    refused(quantised, words)


def test_cut_and_missing_files(quantised):
    for name in ("quantized.safetensors", "model.safetensors", "compression.json", "config.json"):
        broken = shutil.copytree(quantised, quantised.parent / f"cut-{name}")
        data = (broken / name).read_bytes()
        (broken / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(Exception, match=name.split(".")[0]) as caught:
            load(broken)
        assert type(caught.value).__module__ == "edgebert_compress.errors"
    (quantised / "quantized.safetensors").unlink()
    refused(quantised, r"quantized\.safetensors cannot be read")


def test_a_model_that_lacks_weights(task, tmp_path):
    folder = shutil.copytree(task.teacher, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors[NAME]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, NAME)
