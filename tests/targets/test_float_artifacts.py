"""fp32 artifacts of every family against PyTorch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgebert_targets.base import ConvertOptions, SessionOptions, Target
from edgebert_targets.encoder import load_encoder_spec
from tests.factories import ARCHITECTURES, make_checkpoint
from tests.targets.conftest import Checkpoints
from tests.targets.sequences import batch, torch_logits

OPTIONS = ConvertOptions(lengths=(8, 16))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_equal_pytorch(
    target: Target, architecture: str, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    folder = checkpoints(architecture, False)
    model = tmp_path / target.model_file
    facts = target.convert(load_encoder_spec(folder), model, OPTIONS)
    assert facts.quantized_share == 0
    assert facts.cpu_features_any == ()
    names = {"input_ids", "attention_mask"} | ({"token_type_ids"} if architecture != "distilbert" else set())
    assert {value.name for value in facts.inputs} == names
    assert {value.dtype for value in facts.inputs} == {"int64" if target.name == "x86" else "int32"}
    inputs = batch(16, 3, 8, 9)
    logits = target.open(model, SessionOptions()).run(*inputs)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, torch_logits(folder, *inputs), atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_other_activations_equal_pytorch(target: Target, activation: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": activation}))
    model = tmp_path / target.model_file
    target.convert(load_encoder_spec(folder), model, OPTIONS)
    inputs = batch(11, 5)
    logits = target.open(model, SessionOptions()).run(*inputs)
    np.testing.assert_allclose(logits, torch_logits(folder, *inputs), atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
def test_other_numbers_of_token_types(target: Target, rows: int, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "type_vocab_size": rows}))
    tensors = load_file(folder / "model.safetensors")
    name = "bert.embeddings.token_type_embeddings.weight"
    tensors[name] = np.random.default_rng(1).normal(size=(rows, 32)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = tmp_path / target.model_file
    target.convert(load_encoder_spec(folder), model, OPTIONS)
    ids, mask, types = batch(11, 5)
    types = types * (rows - 1)
    logits = target.open(model, SessionOptions()).run(ids, mask, types)
    np.testing.assert_allclose(logits, torch_logits(folder, ids, mask, types), atol=1e-5)


def test_same_checkpoint_same_bytes(target: Target, checkpoints: Checkpoints, tmp_path: Path) -> None:
    for quantized in (False, True):
        folder = shutil.copytree(checkpoints("bert", quantized), tmp_path / f"copy-{quantized}")
        first, second = tmp_path / f"a-{quantized}", tmp_path / f"b-{quantized}"
        target.convert(load_encoder_spec(checkpoints("bert", quantized)), first, OPTIONS)
        target.convert(load_encoder_spec(folder), second, OPTIONS)
        assert first.read_bytes() == second.read_bytes()


def test_parts_cover_the_model(target: Target, checkpoints: Checkpoints, tmp_path: Path) -> None:
    model = tmp_path / target.model_file
    facts = target.convert(load_encoder_spec(checkpoints("electra", False)), model, OPTIONS)
    assert {tensor.part for tensor in facts.tensors} == {"embeddings", "layer 0", "layer 1", "head"}
    assert target.inspect(model) == facts
    assert sum(tensor.nbytes for tensor in facts.tensors) < facts.nbytes == model.stat().st_size


def test_a_sparse_checkpoint_shows_its_zeros(target: Target, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = make_checkpoint(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    tensors[name][:, :48] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    facts = target.convert(load_encoder_spec(folder), tmp_path / target.model_file, OPTIONS)
    assert {tensor.name: tensor.sparsity for tensor in facts.tensors}[name] == 48 / 64
