"""Reading checkpoints: what each family gives, and one line for everything that cannot be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgebert_targets.encoder import QuantizedTensor, load_encoder_spec
from edgebert_targets.errors import ArtifactError, TargetError, UnsupportedModelError
from tests.factories import ARCHITECTURES, LABELS
from tests.targets.conftest import Checkpoints

WORD = "bert.embeddings.word_embeddings.weight"


@pytest.fixture
def folder(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A quantised BERT to spoil."""
    return Path(shutil.copytree(checkpoints("bert", True), tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_tensors(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_geometry(architecture: str, checkpoints: Checkpoints) -> None:
    spec = load_encoder_spec(checkpoints(architecture, False))
    assert spec.architecture == architecture
    assert (spec.hidden_size, spec.heads, len(spec.layers)) == (32, 2, 2)
    assert spec.labels == LABELS
    assert not spec.quantized
    # RoBERTa's table of 66 rows starts after its padding index 0.
    assert spec.max_length == (65 if architecture == "roberta" else 64)
    assert (spec.embeddings.token_type is None) == (architecture == "distilbert")
    assert (spec.embeddings.projection is not None) == (architecture == "electra")
    assert len(spec.linears()) == 2 * 6 + 2 + (architecture == "electra")


def test_quantised_values_come_from_the_integers(checkpoints: Checkpoints) -> None:
    folder = checkpoints("bert", True)
    spec = load_encoder_spec(folder)
    stored = load_file(folder / "quantized.safetensors")
    assert spec.quantized
    assert set(spec.quantized_tensors()) == {name for name in stored if not name.endswith(".scale")}
    for name, tensor in spec.quantized_tensors().items():
        np.testing.assert_array_equal(tensor.values, stored[name])
        np.testing.assert_array_equal(tensor.dequantize(), load_file(folder / "model.safetensors")[name])


def test_float16_is_upcast(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints("bert", False), tmp_path / "half"))
    full = load_encoder_spec(folder)

    def halve(tensors: dict[str, Any]) -> None:
        tensors.update({name: value.astype(np.float16) for name, value in tensors.items()})

    edit_tensors(folder / "model.safetensors", halve)
    half = load_encoder_spec(folder).layers[0].query.weight
    assert not isinstance(half, QuantizedTensor)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full.layers[0].query.weight, rtol=1e-3, atol=1e-4)


def test_xlm_roberta_is_roberta(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints("roberta", False), tmp_path / "xlm"))
    edit_config(folder, model_type="xlm-roberta")
    assert load_encoder_spec(folder).architecture == "xlm-roberta"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"model_type": None}, "None"),
        ({"model_type": ["bert"]}, "bert"),
        ({"hidden_act": "silu"}, "'silu'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"is_decoder": True}, "decoder"),
    ],
)
def test_unsupported_configs(folder: Path, changes: dict[str, Any], words: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        load_encoder_spec(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 64},
        {"hidden_size": "32"},
        {"hidden_size": True},
        {"num_attention_heads": 5},
        {"num_attention_heads": 0},
        {"intermediate_size": -64},
        {"vocab_size": 10**12},
        {"vocab_size": 94},
        {"layer_norm_eps": "tiny"},
        {"pad_token_id": 93},
        {"id2label": {"0": "only"}},
        {"id2label": ["light", "music", "timer"]},
    ],
)
def test_inconsistent_configs(folder: Path, changes: dict[str, Any]) -> None:
    edit_config(folder, **changes)
    with pytest.raises(ArtifactError) as caught:
        load_encoder_spec(folder)
    assert "\n" not in str(caught.value)


def test_more_layers_than_tensors(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(UnsupportedModelError, match=r"layer\.2\.attention"):
        load_encoder_spec(folder)


def test_a_model_without_classification_head(folder: Path) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.pop("classifier.bias"))
    with pytest.raises(UnsupportedModelError, match=r"classifier\.bias"):
        load_encoder_spec(folder)


def test_nan_weights(folder: Path) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors["classifier.bias"].fill(np.nan))
    with pytest.raises(ArtifactError, match="NaN"):
        load_encoder_spec(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({WORD: t[WORD][:-1], f"{WORD}.scale": t[f"{WORD}.scale"][:-1]}), "92, 32"),
        (lambda t: t.update({WORD: t[WORD].astype(np.int16)}), "I16"),
        (lambda t: t[WORD].fill(-128), "-128"),
        (lambda t: t.update({WORD: t[WORD].ravel()}), "shape"),
        (lambda t: t.update({f"{WORD}.scale": t[f"{WORD}.scale"][:-1].copy()}), "scales"),
        (lambda t: t.update({f"{WORD}.scale": t[f"{WORD}.scale"].astype(np.float16)}), "F16"),
        (lambda t: t[f"{WORD}.scale"].fill(0), "not positive"),
        (lambda t: t[f"{WORD}.scale"].fill(-1), "not positive"),
        (lambda t: t[f"{WORD}.scale"].fill(np.nan), "not positive"),
        (lambda t: t[f"{WORD}.scale"].fill(np.inf), "not positive"),
        (lambda t: t.pop(f"{WORD}.scale"), "no tensor"),
        (lambda t: t.pop(WORD), "no tensor"),
        (lambda t: t.update({"stray": np.zeros(1, np.int8)}), "stray"),
    ],
)
def test_bad_integers(folder: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    edit_tensors(folder / "quantized.safetensors", change)
    with pytest.raises(ArtifactError, match=words) as caught:
        load_encoder_spec(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{",
        '{"format": 2, "quantization": null}',
        '{"format": 1, "quantization": 8}',
        '{"format": 1, "quantization": {"tensors": [1]}}',
        "[" * 100_000,
    ],
)
def test_bad_compression_record(folder: Path, record: str) -> None:
    (folder / "compression.json").write_text(record)
    with pytest.raises(ArtifactError, match=r"compression\.json"):
        load_encoder_spec(folder)


def test_integers_without_record(folder: Path) -> None:
    (folder / "compression.json").unlink()
    with pytest.raises(ArtifactError, match="no compression"):
        load_encoder_spec(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "quantized.safetensors", "config.json"])
def test_damaged_files(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    huge_header = (2**62).to_bytes(8, "little") + whole[8:]
    for data in (b"", whole[:7], whole[: len(whole) // 2], bytes(len(whole)), huge_header):
        (folder / name).write_bytes(data)
        with pytest.raises(TargetError) as caught:
            load_encoder_spec(folder)
        assert "\n" not in str(caught.value)
    (folder / name).unlink()
    with pytest.raises(ArtifactError):
        load_encoder_spec(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        load_encoder_spec(tmp_path / "nowhere")
