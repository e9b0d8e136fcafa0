"""Reading static ranges from a checkpoint: what is there, and one line for everything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgebert_targets.encoder import Range, StaticRanges, load_encoder_spec
from edgebert_targets.errors import ArtifactError
from tests.factories import ARCHITECTURES
from tests.targets.conftest import Checkpoints
from tests.targets.quantized import quantized_names
from tests.targets.test_encoder_spec import edit_tensors

STATIC = "int8-static-per-tensor-asymmetric"
DENSE = "bert.encoder.layer.1.output.dense"
Tensors = dict[str, Any]


def range_tensors(module: str, index: int) -> Tensors:
    """Another range for every layer and end."""
    return {
        f"{module}.input.scale": np.array([0.01 + index], np.float32),
        f"{module}.input.zero_point": np.array([index - 128], np.int8),
        f"{module}.output.scale": np.array([1e-30], np.float32),
        f"{module}.output.zero_point": np.array([127 - index], np.int8),
    }


def make_static(folder: Path) -> Path:
    """Put made-up ranges into the quantised checkpoint in `folder`."""
    modules = [n.removesuffix(".weight") for n in quantized_names(folder) if "word_embeddings" not in n]

    def change(tensors: Tensors) -> None:
        for index, module in enumerate(modules):
            tensors.update(range_tensors(module, index))

    edit_tensors(folder / "quantized.safetensors", change)
    return say(folder, activations=STATIC)


def say(folder: Path, **quantization: Any) -> Path:
    record = json.loads((folder / "compression.json").read_text())
    record["quantization"].update(quantization)
    (folder / "compression.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def folder(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A BERT with static ranges to spoil."""
    return make_static(Path(shutil.copytree(checkpoints("bert", True), tmp_path / "model")))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_layer_gets_its_ranges(architecture: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = make_static(Path(shutil.copytree(checkpoints(architecture, True), tmp_path / "model")))
    modules = [n.removesuffix(".weight") for n in quantized_names(folder) if "word_embeddings" not in n]
    spec = load_encoder_spec(folder)
    assert spec.static
    assert {linear.name for linear in spec.linears()} == set(modules)
    for linear in spec.linears():
        index = modules.index(linear.name)
        first = Range(float(np.float32(0.01 + index)), index - 128)
        assert linear.ranges == StaticRanges(first, Range(float(np.float32(1e-30)), 127 - index))


def test_float_layers_need_none(folder: Path) -> None:
    name = f"{DENSE}.weight"
    record = json.loads((folder / "compression.json").read_text())
    say(folder, tensors=[other for other in record["quantization"]["tensors"] if other != name])

    def change(tensors: Tensors) -> None:
        for other in [other for other in tensors if other.startswith(DENSE)]:
            del tensors[other]

    edit_tensors(folder / "quantized.safetensors", change)
    spec = load_encoder_spec(folder)
    assert [linear.name for linear in spec.linears() if linear.ranges is None] == [DENSE]


def test_dynamic_has_none(checkpoints: Checkpoints) -> None:
    spec = load_encoder_spec(checkpoints("bert", True))
    assert not spec.static


def setting(name: str, value: Any) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({f"{DENSE}.{name}": value})


def without(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        del tensors[f"{DENSE}.{name}"]

    return change


def all_gone(tensors: Tensors) -> None:
    for name in range_tensors(DENSE, 0):
        del tensors[name]


FLOAT, INT8 = np.float32, np.int8
CASES: list[tuple[Callable[[Tensors], None], str]] = [
    (all_gone, "no tensor"),
    (without("output.scale"), "no tensor"),
    (without("input.zero_point"), "no tensor"),
    (without("output.zero_point"), "no tensor"),
    (without("input.scale"), "is not listed"),
    (setting("input.scale", np.array([0.1], np.float64)), "F64"),
    (setting("input.scale", np.array([1], INT8)), "I8"),
    (setting("output.zero_point", np.array([1], np.int32)), "I32"),
    (setting("output.zero_point", np.array([1], np.uint8)), "U8"),
    (setting("input.scale", np.array(0.1, FLOAT)), "shape"),
    (setting("input.scale", np.array([0.1, 0.1], FLOAT)), "shape"),
    (setting("input.scale", np.zeros(0, FLOAT)), "shape"),
    (setting("output.zero_point", np.zeros((1, 1), INT8)), "shape"),
    *((setting("output.scale", np.array([bad], FLOAT)), "outside") for bad in
      (0.0, -0.1, 1e-31, 1e-44, np.inf, -np.inf, np.nan)),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), CASES)
def test_damaged_ranges(change: Callable[[Tensors], None], words: str, folder: Path) -> None:
    edit_tensors(folder / "quantized.safetensors", change)
    with pytest.raises(ArtifactError, match=words) as caught:
        load_encoder_spec(folder)
    assert "\n" not in str(caught.value)
    assert DENSE in str(caught.value)


def test_ranges_that_nobody_announced(folder: Path) -> None:
    say(folder, activations="int8-dynamic-per-token-asymmetric")
    with pytest.raises(ArtifactError, match=r"put\.scale' is not listed"):
        load_encoder_spec(folder)


@pytest.mark.parametrize("named", [None, 7, "int4", [STATIC], {}])
def test_activations_of_another_kind(named: Any, folder: Path) -> None:
    say(folder, activations=named)
    with pytest.raises(ArtifactError, match=r"activations .*, this version reads"):
        load_encoder_spec(folder)


def test_any_other_tensor_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "quantized.safetensors")
    save_file({**tensors, f"{DENSE}.input.offset": np.zeros(1, FLOAT)}, folder / "quantized.safetensors")
    with pytest.raises(ArtifactError, match=r"input\.offset' is not listed"):
        load_encoder_spec(folder)
