"""The x86 folder opens with optimum-onnx, which needs an older transformers: its own interpreter.

Make one with: python -m venv ENV && ENV/bin/pip install torch==2.13.0 'optimum-onnx[onnxruntime]==0.1.0'
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.onnx_x86 import TARGET
from tests.targets.conftest import Checkpoints
from tests.targets.sequences import batch
from tests.targets.test_litert_onnx_tasks import CLASSES, random_model

PROGRAM = """
import json, sys
import numpy as np, torch
import optimum.onnxruntime as ort
folder, inputs, name, outputs = sys.argv[1:]
model = getattr(ort, name).from_pretrained(folder)
ids, mask, types = (torch.from_numpy(value) for value in np.load(inputs))
feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
found = model(**{key: value for key, value in feed.items() if key in model.input_names})
print(json.dumps([getattr(found, output).tolist() for output in outputs.split(",")]))
"""


def optimum_answers(folder: Path, inputs: Path, kind: str, outputs: str) -> list[np.ndarray]:
    python = os.environ.get("EDGEBERT_OPTIMUM_PYTHON", "")
    if shutil.which(python) is None:
        pytest.skip("EDGEBERT_OPTIMUM_PYTHON names no interpreter that has optimum-onnx")
    done = subprocess.run(
        [python, "-c", PROGRAM, folder, inputs, kind, outputs],
        check=True,
        stdout=subprocess.PIPE,
        timeout=60,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return [np.array(value) for value in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "quantized"), [("bert", True), ("distilbert", False)])
def test_text_classification(
    architecture: str, quantized: bool, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    checkpoint = checkpoints(architecture, quantized)
    folder = tmp_path / "package"
    folder.mkdir()
    shutil.copy(checkpoint / "config.json", folder)
    TARGET.convert(load_encoder_spec(checkpoint), folder / TARGET.model_file, ConvertOptions())
    check(folder, "ORTModelForSequenceClassification", "logits", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kind", "outputs"),
    [
        ("token-classification", "ORTModelForTokenClassification", "logits"),
        ("question-answering", "ORTModelForQuestionAnswering", "start_logits,end_logits"),
    ],
)
def test_token_tasks(task: str, kind: str, outputs: str, tmp_path: Path) -> None:
    assert task in CLASSES
    folder = random_model("bert", task, tmp_path / "model")
    TARGET.convert(load_encoder_spec(folder), folder / TARGET.model_file, ConvertOptions())
    check(folder, kind, outputs, tmp_path)


def check(folder: Path, kind: str, outputs: str, tmp_path: Path) -> None:
    inputs = batch(12, 12)  # no padding: there a session answers 0 and a model anything
    np.save(tmp_path / "inputs.npy", np.stack(inputs))
    theirs = optimum_answers(folder, tmp_path / "inputs.npy", kind, outputs)
    ours = TARGET.open(folder / TARGET.model_file, SessionOptions()).run(*inputs)
    found = np.stack(theirs, axis=-1) if len(theirs) > 1 else theirs[0]
    np.testing.assert_allclose(found, ours, atol=1e-5)
