"""Heads other than a text classifier's, INT8 position tables, and what the targets make of those."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from edgebert_targets.base import ConvertOptions, SessionOptions, Target
from edgebert_targets.encoder import (
    EmbeddingHead,
    QuantizedTensor,
    QuestionHead,
    TokenHead,
    as_float,
    load_encoder_spec,
    shape_of,
    with_float_positions,
)
from edgebert_targets.errors import ArtifactError, UnsupportedModelError
from tests.factories import ARCHITECTURES, LABELS
from tests.targets.conftest import Checkpoints
from tests.targets.quantized import quantize_checkpoint

MEAN = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def with_head(source: Path, folder: Path, head: str, **config: Any) -> Any:
    """The checkpoint `source` under another head with random weights, saved to `folder`."""
    torch.manual_seed(1)
    settings = tf.AutoConfig.from_pretrained(source, **config)
    model = getattr(tf, head).from_config(settings)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_classification(architecture: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    model = with_head(checkpoints(architecture, False), tmp_path, "AutoModelForTokenClassification")
    spec = load_encoder_spec(tmp_path)
    assert isinstance(spec.head, TokenHead)
    assert spec.labels == LABELS
    np.testing.assert_array_equal(spec.head.out.weight, model.classifier.weight.detach())
    assert len(spec.linears()) == 2 * 6 + 1 + (architecture == "electra")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_question_answering(architecture: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    source = checkpoints(architecture, False)
    model = with_head(source, tmp_path, "AutoModelForQuestionAnswering", num_labels=2)
    spec = load_encoder_spec(tmp_path)
    assert isinstance(spec.head, QuestionHead)
    assert spec.labels == ()
    np.testing.assert_array_equal(spec.head.out.weight, model.qa_outputs.weight.detach())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bare_encoder(architecture: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    model = with_head(checkpoints(architecture, False), tmp_path, "AutoModel")
    spec = load_encoder_spec(tmp_path)
    assert spec.head == EmbeddingHead(normalize=False)
    assert spec.labels == ()
    np.testing.assert_array_equal(
        as_float(spec.embeddings.word), model.get_input_embeddings().weight.detach().numpy()
    )
    assert len(spec.linears()) == 2 * 6 + (architecture == "electra")


@pytest.mark.parametrize("normalize", [True, False])
def test_sentence_transformers_folder(normalize: bool, checkpoints: Checkpoints, tmp_path: Path) -> None:
    with_head(checkpoints("bert", False), tmp_path, "AutoModel")
    write_modules(tmp_path, ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2], MEAN)
    assert load_encoder_spec(tmp_path).head == EmbeddingHead(normalize)


@pytest.mark.parametrize(
    ("kinds", "pooling", "error"),
    [
        (["Transformer", "Pooling", "Dense"], MEAN, UnsupportedModelError),
        (["Transformer"], MEAN, UnsupportedModelError),
        (["Transformer", "Pooling"], {"pooling_mode_cls_token": True}, UnsupportedModelError),
        (["Transformer", "Pooling"], {**MEAN, "pooling_mode_max_tokens": True}, UnsupportedModelError),
        (["Transformer", "Pooling"], {"pooling_mode": "cls"}, UnsupportedModelError),
        (["Transformer", "Pooling"], None, ArtifactError),
    ],
)
def test_other_pooling(
    kinds: list[str], pooling: Any, error: type[Exception], checkpoints: Checkpoints, tmp_path: Path
) -> None:
    with_head(checkpoints("bert", False), tmp_path, "AutoModel")
    write_modules(tmp_path, kinds, pooling)
    with pytest.raises(error) as caught:
        load_encoder_spec(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "modules", ["{}", "[1]", "[", '[{"type": "a.Transformer"}, {"type": "b.Pooling", "path": ".."}]']
)
def test_damaged_modules(modules: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    with_head(checkpoints("bert", False), tmp_path, "AutoModel")
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(ArtifactError):
        load_encoder_spec(tmp_path)


def write_modules(folder: Path, kinds: list[str], pooling: Any) -> None:
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], [], ["BertModel", "Other"], "BertModel", [3]])
def test_other_architectures(architectures: Any, checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints("bert", False), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    with pytest.raises(UnsupportedModelError, match="architectures"):
        load_encoder_spec(folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_int8_position_tables(
    architecture: str, target: Target, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """The spec holds the integers; the other targets run what they stand for."""
    folder = quantize_checkpoint(
        Path(shutil.copytree(checkpoints(architecture, False), tmp_path / "model")), tables=True
    )
    spec = load_encoder_spec(folder)
    position = spec.embeddings.position
    assert isinstance(position, QuantizedTensor)
    assert shape_of(position) == (spec.max_length, 16 if architecture == "electra" else 32)
    assert "position_embeddings" in " ".join(spec.quantized_tensors())
    floats = with_float_positions(spec)
    np.testing.assert_array_equal(floats.embeddings.position, position.dequantize())
    answers = []
    for name, one in (("int8", spec), ("float", floats)):
        model = tmp_path / f"{name}-{target.model_file}"
        target.convert(one, model, ConvertOptions(lengths=(8,)))
        session = target.open(model, SessionOptions())
        ids = np.array([[2, 5, 9, 17, 3]], np.int64)
        answers.append(session.run(ids, np.ones_like(ids), np.zeros_like(ids)))
        session.close()
    np.testing.assert_array_equal(answers[0], answers[1])


def test_a_single_int8_token_type_keeps_its_row(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """RoBERTa's: the engine adds it as an integer row, the others as a part of the positions."""
    source = tmp_path / "source"
    with_head(checkpoints("roberta", False), source, "AutoModelForSequenceClassification", type_vocab_size=1)
    assert load_encoder_spec(source).embeddings.token_type is None
    spec = load_encoder_spec(quantize_checkpoint(source, tables=True))
    assert spec.embeddings.token_types == 1
    floats = with_float_positions(spec).embeddings
    assert floats.token_type is None
    stored = spec.embeddings
    assert isinstance(stored.token_type, QuantizedTensor)
    want = as_float(stored.position) + as_float(stored.token_type)
    np.testing.assert_array_equal(floats.position, want)


def test_the_tokenizer_file_is_found(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = checkpoints("bert", False)
    spec = load_encoder_spec(folder)
    assert spec.tokenizer_json == folder / "tokenizer.json"
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    assert load_encoder_spec(bare).tokenizer_json is None
    assert replace(spec, tokenizer_json=None).labels == spec.labels
