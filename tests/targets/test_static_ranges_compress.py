"""From a recipe's static ranges to artifacts: both backends answer what PyTorch's simulation answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebert_compress.data import TokenizedDataset, silent
from edgebert_compress.recipe import Distillation, FineTuneStage, QuantizeStage, Training
from edgebert_compress.stages import run_stage
from edgebert_compress.trainer import fine_tune, predict_logits
from edgebert_targets.base import ConvertOptions, SessionOptions, get_target
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.errors import UnsupportedModelError
from tests.compress.conftest import tokenized
from tests.factories import ARCHITECTURES, LABELS, make_checkpoint

TARGETS = ("x86", "arm64")
LENGTH = 24


def quantised(raw: Path, out: Path, data: TokenizedDataset, training: Training) -> Path:
    stage = QuantizeStage(
        training=training,
        distillation=Distillation(hardness=0.0),
        activations="static",
        calibration="learned" if training.epochs else "mse",
        calibration_examples=64,
    )
    run_stage(raw, out, stage, data, None, 0, silent)
    return out


def arrays(data: TokenizedDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, mask, token types, right-padded to one length."""
    ids = np.zeros((len(data), LENGTH), np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for row, (tokens, kinds) in enumerate(zip(data.input_ids, data.token_type_ids, strict=True)):
        ids[row, : len(tokens)], mask[row, : len(tokens)], types[row, : len(tokens)] = tokens, 1, kinds
    return ids, mask, types


def agree(folder: Path, data: TokenizedDataset, out: Path) -> float:
    """Compare both backends with the simulation; the share of right answers."""
    spec = load_encoder_spec(folder)
    wanted = predict_logits(folder, data)
    ranges = spec.linears()[-1].ranges
    assert spec.static and ranges is not None
    for name in TARGETS:
        target = get_target(name)
        model = out / target.model_file
        target.convert(spec, model, ConvertOptions(lengths=(LENGTH,)))
        session = target.open(model, SessionOptions())
        logits = session.run(*arrays(data))
        session.close()
        # In levels of the logits: float sums in another order move a rounding of an earlier layer.
        levels = np.abs(logits - wanted) / ranges.output.scale
        assert np.median(levels) < 1e-3
        assert np.mean(levels > 0.5) < 0.2
        assert levels.max() < 4
    return float(np.mean(wanted.argmax(axis=1) == np.array(data.labels)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_calibrated(architecture: str, tmp_path: Path) -> None:
    raw = make_checkpoint(tmp_path / "raw", architecture, embedding=16 if architecture == "electra" else None)
    data = tokenized(raw, 80, seed=0)
    folder = quantised(raw, tmp_path / "q", data, Training(epochs=0))
    agree(folder, tokenized(raw, 40, seed=1), tmp_path)
    target = get_target("int8-sparse")
    with pytest.raises(UnsupportedModelError, match="static ranges"):
        target.convert(load_encoder_spec(folder), tmp_path / target.model_file, ConvertOptions())


@pytest.mark.slow
def test_trained_with_learned_ranges(tmp_path: Path) -> None:
    raw = make_checkpoint(tmp_path / "raw")
    train, held_out = tokenized(raw, 400, seed=0), tokenized(raw, 100, seed=1)
    teacher = tmp_path / "teacher"
    fine_tune(raw, teacher, train, LABELS, FineTuneStage(epochs=8, learning_rate=2e-3), 0, silent)
    folder = quantised(teacher, tmp_path / "q", train, Training(epochs=1, learning_rate=1e-3))
    assert agree(folder, held_out, tmp_path) > 0.9
