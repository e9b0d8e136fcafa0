"""Tiny checkpoints made once a session: float and INT8, every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgebert_targets.base import Target, get_target
from tests.factories import make_checkpoint
from tests.targets.model_driver import build_driver
from tests.targets.quantized import quantize_checkpoint

torch.set_num_threads(1)

Checkpoints = Callable[[str, bool], Path]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """architecture, quantized -> folder; read only."""
    made: dict[tuple[str, bool], Path] = {}

    def get(architecture: str, quantized: bool) -> Path:
        key = (architecture, quantized)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{architecture}-{quantized}") / "model"
            embedding = 16 if architecture == "electra" else None
            make_checkpoint(folder, architecture, embedding=embedding)
            if quantized:
                quantize_checkpoint(folder)
            made[key] = folder
        return made[key]

    return get


@pytest.fixture(params=["x86", "arm64"])
def target(request: pytest.FixtureRequest) -> Target:
    return get_target(request.param)


@pytest.fixture(scope="session")
def model_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine's model reader under sanitizers, as a program."""
    return build_driver(tmp_path_factory.mktemp("model_driver"))
