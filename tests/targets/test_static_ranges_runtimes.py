"""Static ranges on every task and family, and on x86 CPUs without VNNI."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgebert_targets.base import SessionOptions, get_target
from edgebert_targets.cpu import Cpu
from edgebert_targets.encoder import Linear, Range, StaticRanges, load_encoder_spec
from edgebert_targets.onnx_x86 import TARGET, OnnxTarget
from tests.factories import make_checkpoint
from tests.targets.quantized import quantize_checkpoint
from tests.targets.sequences import batch
from tests.targets.static_ranges import calibrated, with_ranges
from tests.targets.test_litert_onnx_tasks import CLASSES, FAMILIES, LENGTHS, OPTIONS, random_model
from tests.targets.test_onnx_cpus import AVX2, EMULATOR, VNNI, emulated, saturating

OTHERS = [family for family in FAMILIES if family != "bert"]


def wide(linear: Linear) -> StaticRanges:
    """Ranges that no value of these small models leaves."""
    return StaticRanges(Range(9 / 128, 3), Range(3 / 32, -5))


@pytest.mark.parametrize(
    ("family", "task"),
    [*(("bert", task) for task in CLASSES), *((family, "token-classification") for family in OTHERS)],
)
def test_both_backends_answer_alike(family: str, task: str, tmp_path: Path) -> None:
    folder = quantize_checkpoint(random_model(family, task, tmp_path / "model"), tables=True)
    dynamic = load_encoder_spec(folder)
    found = {}
    for target in (get_target("x86"), get_target("arm64")):
        for name, spec in (("static", with_ranges(dynamic, wide)), ("dynamic", dynamic)):
            model = tmp_path / target.model_file
            facts = target.convert(spec, model, OPTIONS)
            assert facts.task == task
            assert any("static ranges" in note for note in facts.notes) == (name == "static")
            session = target.open(model, SessionOptions())
            found[target.name, name] = session.run(*batch(*LENGTHS))
            session.close()
    x86, arm64 = found["x86", "static"], found["arm64", "static"]
    # The same integers but for roundings that a float's last bit flips; ranges this wide are coarse.
    error = np.abs(arm64 - found["arm64", "dynamic"]).max()
    assert np.median(np.abs(x86 - arm64)) < 0.05 * error
    assert np.abs(x86 - arm64).max() < error


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose sums of two products exceed 16 bits."""
    folder = tmp_path_factory.mktemp("saturating")
    make_checkpoint(folder / "checkpoint", hidden=64, intermediate=256)
    spec = saturating(load_encoder_spec(quantize_checkpoint(folder / "checkpoint")))
    path = folder / "model.onnx"
    TARGET.convert(calibrated(spec, batch(20, 9, 13, seed=1)), path, OPTIONS)
    return path


@pytest.mark.parametrize("cpu", [AVX2, Cpu("x86_64", None), Cpu("aarch64", None)])
def test_the_exact_way_answers_as_vnni_does(cpu: Cpu, onnx_model: Path) -> None:
    inputs = batch(20, 7)
    fast = OnnxTarget(cpu=lambda: VNNI).open(onnx_model, SessionOptions()).run(*inputs)
    exact = OnnxTarget(cpu=lambda: cpu).open(onnx_model, SessionOptions()).run(*inputs)
    np.testing.assert_allclose(exact, fast, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed (Debian: qemu-user)")
def test_an_emulated_cpu_without_vnni(onnx_model: Path, tmp_path: Path) -> None:
    inputs = batch(20, 7)
    want = OnnxTarget(cpu=lambda: VNNI).open(onnx_model, SessionOptions()).run(*inputs)
    stored = tmp_path / "inputs.npy"
    np.save(stored, np.stack(inputs))
    exact, careless = (emulated(onnx_model, stored, believed) for believed in ("avx2", "avx2 avx512_vnni"))
    level = 2 * np.abs(want).max() / 255
    assert np.abs(exact - want).max() < 2.5 * level
    assert np.abs(careless - want).max() > 5 * level
