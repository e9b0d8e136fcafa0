"""Data-parallel training: two gloo processes against one."""

import json
import multiprocessing
import os
import signal
import warnings

import pytest
import torch
from safetensors.torch import load_file

from edgebert_compress.data import silent
from edgebert_compress.recipe import Distillation, PruneStage, Training
from edgebert_compress.resume import Snapshot, SnapshotFolder
from edgebert_compress.stages import run_stage
from edgebert_compress.teacher import TeacherModel
from tests.compress.conftest import tokenized
from tests.factories import make_checkpoint

FORK = multiprocessing.get_context("fork")
STAGE = PruneStage(
    sparsity=0.6, initial_sparsity=0.2, steps=3, gradients=8,
    training=Training(epochs=2, learning_rate=1e-3, batch_size=7),
    distillation=Distillation(hardness=0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Without dropout, which differs between the processes on purpose."""
    folder = make_checkpoint(tmp_path_factory.mktemp("source") / "raw")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, tokenized(folder, 60, seed=0)


def in_two_processes(work, place):
    """Run `work(rank)` in two processes of one gloo group; their exit codes."""

    def child(rank):
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{place}/rendezvous-{os.getppid()}", rank=rank, world_size=2
        )
        work(rank)
        torch.distributed.destroy_process_group()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        children = [FORK.Process(target=child, args=(rank,)) for rank in range(2)]
        for one in children:
            one.start()
    for one in children:
        one.join()
    (place / f"rendezvous-{os.getpid()}").unlink(missing_ok=True)
    return [one.exitcode for one in children]


def train(source, out, resume=None, progress=silent):
    folder, data = source
    run_stage(
        folder, out, STAGE, data, TeacherModel(folder), 0, progress, resume=resume, snapshot_every=0.0,
        evaluate=lambda model: 1.0, note=lambda text: None,
    )  # fmt: skip


def test_two_processes_train_to_the_weights_of_one(source, tmp_path):
    """Batches of 7 and a last one of 4, so that the parts are not equal."""
    train(source, tmp_path / "one")
    assert in_two_processes(lambda rank: train(source, tmp_path / "two"), tmp_path) == [0, 0]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = load_file(source[0] / "model.safetensors")
    for name, value in one.items():
        if name.endswith(".key.bias"):  # its gradient is zero but for rounding, which Adam blows up
            continue
        moved = (value - start[name]).abs().max()
        assert (two[name] - value).abs().max() <= 0.02 * moved + 1e-6, name
    zeros = [sum(int((value == 0).sum()) for value in each.values()) for each in (one, two)]
    assert zeros[0] == zeros[1]


@pytest.mark.slow
def test_a_killed_group_goes_on_to_the_same_bytes(source, tmp_path):
    resume = tmp_path / "resume"
    assert in_two_processes(lambda rank: train(source, tmp_path / "plain"), tmp_path) == [0, 0]

    def dying(rank):
        def progress(phase, done, total, **figures):
            if phase == "pruning step" and done == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        train(source, tmp_path / "out", resume, progress)

    assert in_two_processes(dying, tmp_path) == [-signal.SIGKILL] * 2
    assert list(resume.iterdir())
    assert in_two_processes(lambda rank: train(source, tmp_path / "out", resume), tmp_path) == [0, 0]
    for name in ("model.safetensors", "compression.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_all_processes_take_the_same_snapshot(tmp_path):
    """The second process cannot read the newest one; both go back to the one before."""
    folder = SnapshotFolder(tmp_path / "r", "run", lambda text: None)
    for number in (1, 2):
        folder.write(Snapshot({"step": number}, {}))

    def work(rank):
        identity = "run"
        own = SnapshotFolder(tmp_path / "r", identity, lambda text: None)
        if rank == 1:
            own._numbers = lambda kind: [1]
        found = own.latest()
        (tmp_path / f"found-{rank}").write_text(str(found.values["step"]))

    assert in_two_processes(work, tmp_path) == [0, 0]
    assert [(tmp_path / f"found-{rank}").read_text() for rank in range(2)] == ["1", "1"]
