"""INT8 on x86 CPUs with and without VNNI: never wrong numbers. A CPU without VNNI is emulated by QEMU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.cpu import Cpu
from edgebert_targets.encoder import EncoderSpec, Linear, QuantizedTensor, load_encoder_spec
from edgebert_targets.onnx_x86 import TARGET, OnnxTarget
from tests.factories import make_checkpoint
from tests.targets.conftest import Checkpoints
from tests.targets.quantized import quantize_checkpoint
from tests.targets.sequences import batch

VNNI = Cpu("x86_64", frozenset({"avx2", "avx512_vnni"}))
AVX2 = Cpu("x86_64", frozenset({"avx2"}))
EMULATOR = "qemu-x86_64"
EMULATED = """
import json, sys
import numpy as np
from edgebert_targets.base import SessionOptions
from edgebert_targets.cpu import Cpu
from edgebert_targets.onnx_x86 import OnnxTarget
model, inputs, believed = sys.argv[1:]
target = OnnxTarget(cpu=lambda: Cpu("x86_64", frozenset(believed.split())))
session = target.open(__import__("pathlib").Path(model), SessionOptions())
print(json.dumps(session.run(*np.load(inputs)).tolist()))
"""


def saturating(spec: EncoderSpec) -> EncoderSpec:
    """`spec` with weights of 127 in pairs, so that two products of large inputs exceed 16 bits."""

    def linear(stored: Linear) -> Linear:
        assert isinstance(stored.weight, QuantizedTensor)
        values = np.where(stored.weight.values < 0, -127, 127).astype(np.int8)
        return replace(stored, weight=QuantizedTensor(np.sort(values, axis=1), stored.weight.scale))

    layers = tuple(
        replace(layer, intermediate=linear(layer.intermediate), output=linear(layer.output))
        for layer in spec.layers
    )
    return replace(spec, layers=layers)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = quantize_checkpoint(make_checkpoint(tmp_path / "checkpoint", hidden=64, intermediate=256))
    path = tmp_path / "model.onnx"
    TARGET.convert(saturating(load_encoder_spec(folder)), path, ConvertOptions())
    return path


@pytest.mark.parametrize("cpu", [AVX2, Cpu("x86_64", None), Cpu("aarch64", None)])
def test_the_exact_way_answers_as_vnni_does(cpu: Cpu, model: Path) -> None:
    inputs = batch(20, 7)
    fast = OnnxTarget(cpu=lambda: VNNI).open(model, SessionOptions()).run(*inputs)
    exact = OnnxTarget(cpu=lambda: cpu).open(model, SessionOptions()).run(*inputs)
    np.testing.assert_allclose(exact, fast, atol=1e-4)


def test_the_facts_name_no_needed_feature_but_the_fast_ones(
    model: Path, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    facts = TARGET.inspect(model)
    assert facts.cpu_features_any == ()
    assert "avx512_vnni or avx_vnni" in " ".join(facts.notes)
    path = tmp_path / "float.onnx"
    plain = TARGET.convert(load_encoder_spec(checkpoints("bert", False)), path, ConvertOptions())
    assert "vnni" not in " ".join(plain.notes)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed (Debian: qemu-user)")
def test_an_emulated_cpu_without_vnni(model: Path, tmp_path: Path) -> None:
    inputs = batch(20, 7)
    want = OnnxTarget(cpu=lambda: VNNI).open(model, SessionOptions()).run(*inputs)
    stored = tmp_path / "inputs.npy"
    np.save(stored, np.stack(inputs))
    exact, careless = (emulated(model, stored, believed) for believed in ("avx2", "avx2 avx512_vnni"))
    np.testing.assert_allclose(exact, want, atol=1e-4)
    # What we protect from: taken for a CPU with VNNI, the same emulated CPU saturates.
    assert np.abs(careless - want).max() > 0.1


def emulated(model: Path, inputs: Path, believed: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Logits by an emulated Haswell (AVX2, no VNNI) whose features are said to be `believed`."""
    paths = [sysconfig.get_paths()["purelib"], *(path for path in sys.path if path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    python = Path(sys.executable).resolve()
    done = subprocess.run(
        [EMULATOR, "-cpu", "Haswell", python, "-c", EMULATED, model, inputs, believed],
        env=env,
        check=True,
        timeout=120,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return np.array(json.loads(done.stdout))
