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


@pytest.mark.parametrize(
    ("device", "gpus", "wanted"),
    [
        ("cpu", 2, "gloo"),
        ("cuda", 2, "nccl"),
        ("cuda:0", 2, "gloo"),  # both on the same
        ("cuda", 1, "gloo"),
        ("cuda", 0, "gloo"),
    ],
)
def test_the_backend_is_that_of_the_device_in_use_on_pretended_gpus(monkeypatch, device, gpus, wanted):
    asked, chosen = [], []
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, timeout: asked.append(name))
    assert distributed.start_if_launched(torch.device(device))
    assert asked == [wanted]
    assert chosen == ([1] if wanted == "nccl" else [])


@pytest.mark.slow
def test_two_processes_give_the_masks_and_weights_of_one(tmp_path):
    """Both updates, λ given and relative, with and without memory for one pass, to the bit."""
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
    for relative in (False, True):
        start = f"joint, {relative} mask"
        kept = torch.cat([value.reshape(-1) for name, value in alone.items() if name.startswith(start)])
        assert abs(float(kept.float().mean()) - 0.3) < 1e-3
        fixed, used = 1e-4, alone[f"summed, {relative} dampening"]
        assert used.shape == (2, 12)
        assert bool((used == fixed).all()) is not relative
