"""INT8 artifacts against their arithmetic in float64, and against the checkpoint's integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgebert_targets.base import ConvertOptions, SessionOptions, Target
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.litert_arm64.inspect import read_model
from edgebert_targets.onnx_x86.inspect import read_arrays
from tests.factories import ARCHITECTURES
from tests.targets import reference
from tests.targets.conftest import Checkpoints
from tests.targets.quantized import quantized_names
from tests.targets.sequences import batch

OPTIONS = ConvertOptions(lengths=(8, 16))
LENGTHS = (16, 3, 8, 9, 5, 12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_the_simulated_arithmetic(
    target: Target, architecture: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    spec = load_encoder_spec(checkpoints(architecture, True))
    model = tmp_path / target.model_file
    target.convert(spec, model, OPTIONS)
    ids, mask, types = batch(*LENGTHS)
    logits = target.open(model, SessionOptions()).run(ids, mask, types)

    def simulate(quantizer: reference.Quantizer) -> reference.Array:
        rows = enumerate(LENGTHS)
        return np.stack([reference.logits(spec, ids[i, :n], types[i, :n], quantizer) for i, n in rows])

    own = simulate(reference.asymmetric if target.name == "arm64" else reference.symmetric)
    quantisation_error = np.abs(simulate(reference.exact) - own).max()
    # Float32 sums flip a rare rounding, so the distance is small beside the quantisation error, not zero.
    assert np.abs(logits - own).max() < 0.2 * quantisation_error
    assert np.median(np.abs(logits - own)) < 1e-5


def test_integers_and_scales_are_the_checkpoints(
    target: Target, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = checkpoints("electra", True)
    model = tmp_path / target.model_file
    facts = target.convert(load_encoder_spec(folder), model, OPTIONS)
    stored = load_file(folder / "quantized.safetensors")
    names = quantized_names(folder)
    assert {t.name for t in facts.tensors if t.dtype == "int8"} == set(names)
    for name in names:
        if target.name == "x86":
            arrays = read_arrays(model)[1]
            values, scale = arrays[name], arrays[f"{name}.scale"]
            values = values if "word_embeddings" in name else values.T
        else:
            read = read_model(model)
            values, scale = read.arrays[name], read.scales[name]
        np.testing.assert_array_equal(values, stored[name])
        np.testing.assert_array_equal(scale.ravel(), stored[f"{name}.scale"])
    assert facts.quantized_share > 0.5


def test_neither_padding_nor_neighbours_change_a_row(
    target: Target, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    model = tmp_path / target.model_file
    target.convert(load_encoder_spec(checkpoints("bert", True)), model, OPTIONS)
    session = target.open(model, SessionOptions())
    ids, mask, types = batch(16, 5, 5)
    together = session.run(ids, mask, types)
    alone = session.run(ids[1:2, :5], mask[1:2, :5], types[1:2, :5])
    # A per-tensor scale would move a row by the quantisation error, some 1e-2.
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_a_token_of_zeros_stays_finite(target: Target, checkpoints: Checkpoints, tmp_path: Path) -> None:
    spec = load_encoder_spec(checkpoints("bert", True))
    norm = spec.embeddings.norm
    silent = replace(norm, weight=np.zeros_like(norm.weight), bias=np.zeros_like(norm.bias))
    spec = replace(spec, embeddings=replace(spec.embeddings, norm=silent))
    model = tmp_path / target.model_file
    target.convert(spec, model, OPTIONS)
    # A scale of 0 would turn 0 / 0 into NaN.
    assert np.isfinite(target.open(model, SessionOptions()).run(*batch(7))).all()


def test_part_of_the_layers_may_stay_float(target: Target, checkpoints: Checkpoints, tmp_path: Path) -> None:
    spec = load_encoder_spec(checkpoints("bert", True))
    full = load_encoder_spec(checkpoints("bert", False))
    mixed = replace(spec, layers=(full.layers[0], spec.layers[1]), head=full.head)
    model = tmp_path / target.model_file
    facts = target.convert(mixed, model, OPTIONS)
    assert {t.part for t in facts.tensors if t.dtype == "int8"} == {"embeddings", "layer 1"}
    ids, mask, types = batch(9)
    logits = target.open(model, SessionOptions()).run(ids, mask, types)
    own = reference.asymmetric if target.name == "arm64" else reference.symmetric
    np.testing.assert_allclose(logits[0], reference.logits(mixed, ids[0], types[0], own), atol=2e-3)
