"""Two gloo processes prune exactly as one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgebert_compress import distributed
from edgebert_compress.errors import TrainingError
from tests.factories import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "tests" / "compress" / "distributed_worker.py"


def test_a_single_process_has_nothing_to_exchange():
    assert distributed.world() == (0, 1)
    assert distributed.my_part([3, 1, 2]) == [3, 1, 2]
    assert distributed.least(7) == 7
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    distributed.average_gradients([parameter], 1.0)
    assert parameter.grad.tolist() == [1, 2]
    parts = {"a": torch.tensor([1.0])}
    distributed.sum_parts(parts)
    assert parts["a"].tolist() == [1]
    computed = list(distributed.in_turns(lambda index: {"a": torch.tensor([index])}, 3))
    assert [int(each["a"]) for each in computed] == [0, 1, 2]


def test_without_a_launcher_nothing_starts(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert not distributed.start_if_launched()
    assert not torch.distributed.is_initialized()


def test_a_launch_that_cannot_join_is_a_typed_error(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match="cannot join the process group of rank 1"):
        distributed.start_if_launched()


@pytest.mark.slow
def test_two_processes_give_the_masks_and_weights_of_one(tmp_path):
    """Both updates, with and without memory for one pass, to the bit."""
    checkpoint = make_checkpoint(tmp_path / "raw", layers=2)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    launch += ["--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    for way in ([], launch):
        done = subprocess.run(
            [sys.executable, *way, str(WORKER), str(checkpoint), str(tmp_path)],
            env=environment, cwd=ROOT, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    alone = load_file(tmp_path / "0-of-1.safetensors")
    pair = [load_file(tmp_path / f"{rank}-of-2.safetensors") for rank in range(2)]
    for both in pair:
        assert set(both) == set(alone)
        for name in set(alone) - {"averaged", "part"}:
            assert torch.equal(both[name], alone[name]), name
        assert both["failed"].item()
        assert both["averaged"].tolist() == [0.25, 0.5, 1.0]
    assert alone["averaged"].tolist() == [1, 2, 4]
    assert [both["part"].tolist() for both in pair] == [[0, 2, 4], [1, 3]]
    kept = torch.cat([value.reshape(-1) for name, value in alone.items() if name.startswith("joint mask")])
    assert abs(float(kept.float().mean()) - 0.3) < 1e-3
