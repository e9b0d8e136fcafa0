"""A Trainer under torchrun: two processes prune to the masks of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.compress.test_integration import needs_trainer
from tests.factories import make_checkpoint

WORKER = Path(__file__).parent / "integration_worker.py"
ROOT = Path(__file__).parents[2]


@needs_trainer
@pytest.mark.slow
def test_two_processes_prune_to_the_masks_of_one(tmp_path):
    source = make_checkpoint(tmp_path / "model", layers=1)
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]):
        subprocess.run(
            [sys.executable, *launcher, str(WORKER), str(source), str(tmp_path)],
            check=True, env=environment, timeout=300, capture_output=True,
        )  # fmt: skip
    alone, first, second = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("0-of-1", "0-of-2", "1-of-2")
    )
    pruned = 0
    for name, weight in alone.items():
        assert torch.equal(first[name], second[name]), name
        if "layer.0" in name and weight.dim() == 2:
            assert torch.equal(weight == 0, first[name] == 0), name
            pruned += int((weight == 0).sum())
    assert pruned > 4000
