"""Our float file against litert-torch's, which is Google's converter from PyTorch: its own interpreter.

benchmarks/litert_peers.py says how to make its environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.litert_arm64 import TARGET
from tests.targets.conftest import Checkpoints
from tests.targets.sequences import batch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers" / "litert_torch_form.py"


@pytest.mark.slow
def test_logits_equal_litert_torchs(checkpoints: Checkpoints, tmp_path: Path) -> None:
    python = os.environ.get("EDGEBERT_LITERT_TORCH_PYTHON", "")
    if shutil.which(python) is None:
        pytest.skip("EDGEBERT_LITERT_TORCH_PYTHON names no interpreter that has litert-torch")
    checkpoint = checkpoints("bert", False)
    inputs = batch(16)
    np.savez(tmp_path / "ids.npz", inputs[0])
    subprocess.run(
        [python, SCRIPT, checkpoint, "16", tmp_path, tmp_path / "ids.npz"],
        check=True,
        timeout=300,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    model = tmp_path / "model.tflite"
    TARGET.convert(load_encoder_spec(checkpoint), model, ConvertOptions(lengths=(16,)))
    names = ("input_ids", "attention_mask", "token_type_ids")
    feed = {name: value.astype(np.int32) for name, value in zip(names, inputs, strict=True)}
    interpreter = Interpreter(str(tmp_path / "float32.tflite"))
    [theirs] = interpreter.get_signature_runner()(**feed).values()
    ours = TARGET.open(model, SessionOptions()).run(*inputs)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # Smaller than theirs by more than the vocabulary that ours carries.
    assert model.stat().st_size < (tmp_path / "float32.tflite").stat().st_size
