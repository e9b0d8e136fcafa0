"""What only the x86 target has: any length, a graph that onnxruntime alone runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.errors import ArtifactError, MissingExtraError
from edgebert_targets.onnx_x86 import TARGET
from tests.targets.conftest import Checkpoints
from tests.targets.sequences import batch

OPTIONS = ConvertOptions()


@pytest.fixture
def int8_model(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    TARGET.convert(load_encoder_spec(checkpoints("bert", True)), path, OPTIONS)
    return path


@pytest.mark.parametrize("length", [1, 2, 17, 64])
def test_any_length_up_to_the_position_table(int8_model: Path, length: int) -> None:
    session = TARGET.open(int8_model, SessionOptions(threads=2))
    assert session.max_length == 64
    assert np.isfinite(session.run(*batch(length))).all()


@pytest.mark.parametrize(("architecture", "types"), [("bert", True), ("distilbert", False)])
def test_onnxruntime_alone_runs_it(
    architecture: str, types: bool, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    TARGET.convert(load_encoder_spec(checkpoints(architecture, False)), path, OPTIONS)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * types
    assert [value.name for value in session.get_inputs()] == names
    assert {value.type for value in session.get_inputs()} == {"tensor(int64)"}
    assert [value.shape for value in session.get_inputs()] == [["batch", "sequence"]] * len(names)
    inputs = batch(6, 4)
    feed = dict(zip(["input_ids", "attention_mask", "token_type_ids"], inputs, strict=True))
    logits = session.run(["logits"], {name: feed[name] for name in names})[0]
    np.testing.assert_array_equal(logits, TARGET.open(path, SessionOptions()).run(*inputs))


def test_a_foreign_onnx_model_is_refused(int8_model: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(int8_model))
    del model.metadata_props[:]
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="metadata"):
        TARGET.open(foreign, SessionOptions())
    properties = {"edgebert.format": "1", "edgebert.task": "embedding", "edgebert.vocabulary": "many"}
    onnx.helper.set_model_props(model, properties)
    foreign.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="'many'"):
        TARGET.inspect(foreign)


def test_a_vocabulary_that_lies_is_caught_by_the_runtime(int8_model: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(int8_model))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**properties, "edgebert.vocabulary": "1000000"})
    path = tmp_path / "lying.onnx"
    path.write_bytes(model.SerializeToString())
    ids, mask, types = batch(4)
    with pytest.raises(ArtifactError, match="cannot run"):
        TARGET.open(path, SessionOptions()).run(ids + 900_000, mask, types)


def test_weights_outside_the_file_are_refused(int8_model: Path, tmp_path: Path) -> None:
    model = onnx.load_model(str(int8_model))
    path = tmp_path / "outside.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, size_threshold=0, location="weights")
    with pytest.raises(ArtifactError, match="outside"):
        TARGET.inspect(path)


@pytest.mark.parametrize(
    ("module", "words"), [("onnxruntime", r"edgebert\[x86\]"), ("onnx", r"edgebert\[convert-x86\]")]
)
def test_missing_libraries(
    module: str, words: str, int8_model: Path, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_encoder_spec(checkpoints("bert", True))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=f"{module} is not installed; run: pip install '{words}'"):
        if module == "onnx":
            TARGET.convert(spec, int8_model.with_name("new.onnx"), OPTIONS)
        else:
            TARGET.open(int8_model, SessionOptions())


@pytest.mark.slow
def test_logits_equal_torchs_own_export(checkpoints: Checkpoints, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = checkpoints("bert", False)
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits

    inputs = batch(12, 7)
    exported = tmp_path / "exported.onnx"
    torch.onnx.export(
        Logits(),
        tuple(torch.from_numpy(value) for value in inputs),
        str(exported),
        input_names=names,
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
    )
    theirs = onnxruntime.InferenceSession(str(exported)).run(None, dict(zip(names, inputs, strict=True)))[0]
    ours = tmp_path / "model.onnx"
    TARGET.convert(load_encoder_spec(folder), ours, OPTIONS)
    np.testing.assert_allclose(TARGET.open(ours, SessionOptions()).run(*inputs), theirs, atol=1e-5)
