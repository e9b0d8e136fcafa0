"""The metadata that MediaPipe's text classifier reads, and when the file has none."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tokenizers import Tokenizer

from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.encoder import EncoderSpec, load_encoder_spec
from edgebert_targets.litert_arm64 import TARGET
from tests.factories import LABELS
from tests.targets.conftest import Checkpoints

ONE = ConvertOptions(lengths=(16,))
TEXTS = ["turn on the light", "Play my SONG, please!", "call mum"]
# Reads the model with MediaPipe in its own environment: it wants other versions of our libraries.
PROGRAM = """
import json, sys
from mediapipe.tasks import python as mp
from mediapipe.tasks.python import text
options = text.TextClassifierOptions(base_options=mp.BaseOptions(model_asset_path=sys.argv[1]))
with text.TextClassifier.create_from_options(options) as classifier:
    found = [classifier.classify(line).classifications[0].categories for line in sys.argv[2:]]
print(json.dumps([{c.category_name: c.score for c in categories} for categories in found]))
"""


@pytest.fixture
def spec(checkpoints: Checkpoints) -> EncoderSpec:
    return load_encoder_spec(checkpoints("bert", True))


def test_vocabulary_and_labels_follow_the_model(spec: EncoderSpec, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    facts = TARGET.convert(spec, path, ONE)
    assert "MediaPipe's text classifier opens it" in facts.notes[1]
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        words = archive.read("vocab.txt").decode().splitlines()
        assert archive.read("labels.txt").decode().split("\n") == [*LABELS, ""]
    numbers = Tokenizer.from_file(str(spec.tokenizer_json)).get_vocab()
    assert all(words[number] == word for word, number in numbers.items())
    assert len(words) == max(numbers.values()) + 1
    root = schema.Model.GetRootAs(data, 0)
    named = {root.Metadata(i).Name(): root.Metadata(i).Buffer() for i in range(root.MetadataLength())}
    content = root.Buffers(named[b"TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert content[4:8] == b"M001"
    for word in (b"ids", b"mask", b"segment_ids", b"vocab.txt", b"labels.txt"):
        assert word in content


def without(spec: EncoderSpec, why: str, tmp_path: Path, *lengths: int) -> None:
    """The file has no such metadata, and says why."""
    path = tmp_path / "model.tflite"
    facts = TARGET.convert(spec, path, ConvertOptions(lengths=lengths or (16,)))
    assert facts.notes[1].startswith("no MediaPipe metadata")
    assert why in facts.notes[1]
    assert not zipfile.is_zipfile(path)
    assert b"TFLITE_METADATA" not in path.read_bytes()


def test_what_mediapipe_cannot_open(spec: EncoderSpec, checkpoints: Checkpoints, tmp_path: Path) -> None:
    without(spec, "one length only", tmp_path, 8, 16)
    without(load_encoder_spec(checkpoints("distilbert", True)), "token types", tmp_path)
    without(replace(spec, labels=("a\nb", "c", "d")), "label", tmp_path)
    without(replace(spec, tokenizer_json=None), "tokenizer", tmp_path)
    without(replace(spec, pad_token_id=1), "tokenizer", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "BertNormalizer", "lowercase": False}},
        {"normalizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"type": "BPE", "vocab": {}}},
        {"model": {"type": "WordPiece"}},
        {"model": []},
    ],
)
def test_other_tokenizers(change: dict[str, object], spec: EncoderSpec, tmp_path: Path) -> None:
    assert spec.tokenizer_json is not None
    stored = json.loads(spec.tokenizer_json.read_text())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**stored, **change}))
    without(replace(spec, tokenizer_json=path), "tokenizer", tmp_path)


@pytest.mark.parametrize("word", ["two words", "", "line\n"])
def test_words_that_a_list_of_lines_cannot_hold(word: str, spec: EncoderSpec, tmp_path: Path) -> None:
    assert spec.tokenizer_json is not None
    stored = json.loads(spec.tokenizer_json.read_text())
    words = stored["model"]["vocab"]
    words[word] = words.pop("light")
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(stored))
    without(replace(spec, tokenizer_json=path), "tokenizer", tmp_path)


@pytest.mark.slow
def test_mediapipe_answers_as_we_do(spec: EncoderSpec, tmp_path: Path) -> None:
    python = os.environ.get("EDGEBERT_MEDIAPIPE_PYTHON", "")
    if shutil.which(python) is None:
        pytest.skip("EDGEBERT_MEDIAPIPE_PYTHON names no interpreter that has mediapipe")
    path = tmp_path / "model.tflite"
    TARGET.convert(spec, path, ONE)
    done = subprocess.run(
        [python, "-c", PROGRAM, path, *TEXTS], check=True, stdout=subprocess.PIPE, timeout=60
    )
    tokenizer = Tokenizer.from_file(str(spec.tokenizer_json))
    session = TARGET.open(path, SessionOptions())
    for text, found in zip(TEXTS, json.loads(done.stdout), strict=True):
        ids = np.array([tokenizer.encode(text).ids])
        logits = session.run(ids, np.ones_like(ids), np.zeros_like(ids))[0]
        np.testing.assert_allclose([found[label] for label in LABELS], logits, atol=1e-5)
