"""Snapshots: a run that is killed anywhere ends with the bytes of one that was not."""

import json
import multiprocessing
import os
import random
import signal
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert_compress import resume
from edgebert_compress.data import TokenizedDataset, silent
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    FineTuneStage,
    PruneStage,
    QuantizeStage,
    Training,
)
from edgebert_compress.resume import Snapshot, SnapshotFolder, dataset_hash
from edgebert_compress.stages import run_stage
from edgebert_compress.teacher import TeacherModel
from edgebert_compress.trainer import fine_tune
from tests.compress.conftest import tokenized
from tests.factories import LABELS, make_checkpoint

SHORT = Training(epochs=2, learning_rate=1e-3, batch_size=16)
PRUNE = PruneStage(
    sparsity=0.6, initial_sparsity=0.2, steps=3, gradients=8, recomputations=2, training=SHORT,
    distillation=Distillation(hardness=0.5, hidden=1.0),
)  # fmt: skip
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint and data so small that a stage takes half a second."""
    folder = make_checkpoint(tmp_path_factory.mktemp("source") / "raw")
    return folder, tokenized(folder, 150, seed=0)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stage_run(
    source, out, stage, resume_folder, progress=silent, every=0.0, evaluate=None, note=lambda text: 0
):
    folder, data = source
    return run_stage(
        folder, out, stage, data, TeacherModel(folder), 3, progress, resume=resume_folder,
        snapshot_every=every, evaluate=evaluate, note=note,
    )  # fmt: skip


def in_child(target, *args):
    """Run `target` in a process of its own; the exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: none is inside torch here
        child = FORK.Process(target=target, args=args)
        child.start()
    child.join()
    return child.exitcode


def killed_at(phase, count):
    """A progress that kills its process at the `count`-th report of `phase`."""
    seen = 0

    def progress(name, done, total, **figures):
        nonlocal seen
        seen += name == phase
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return progress


STAGES = {
    "prune": PRUNE,
    "drop-layers": DropLayersStage(keep=(1,), training=SHORT),
    "quantize": QuantizeStage(training=SHORT),
    "static": QuantizeStage(training=SHORT, activations="static", calibration="mse", calibration_examples=20),
    "learned": QuantizeStage(
        training=SHORT, activations="static", calibration="learned", calibration_examples=20
    ),
}


def metric(model):
    """Depends on the weights, and draws from the random state, which must not matter."""
    torch.rand(3)
    return float(next(model.parameters()).detach().sum())


@pytest.mark.parametrize("kind", STAGES)
def test_killed_in_training_it_goes_on(source, tmp_path, kind):
    stage = STAGES[kind]
    phase = {"drop-layers": "drop layers"}.get(stage.kind, stage.kind)
    plain = stage_run(source, tmp_path / "plain", stage, None, evaluate=metric)

    def child(progress):
        stage_run(source, tmp_path / "out", stage, tmp_path / "resume", progress, evaluate=metric)

    assert in_child(child, killed_at(phase, 1)) == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    notes = []
    facts = stage_run(
        source, tmp_path / "out", stage, tmp_path / "resume", evaluate=metric, note=notes.append
    )
    assert len(notes) == 1
    assert "going on from a snapshot after step" in notes[0]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")
    assert facts.figures() == plain.figures()
    assert len(facts.metric_curve) == (2 if kind != "prune" else 5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_killed_inside_a_pruning_step_it_goes_on(source, tmp_path, count):
    stage_run(source, tmp_path / "plain", PRUNE, None)

    def child(progress):
        stage_run(source, tmp_path / "out", PRUNE, tmp_path / "resume", progress)

    assert in_child(child, killed_at("gradients", count)) == -signal.SIGKILL
    again = []

    def counting(phase, done, total, **figures):
        again.append(phase)

    stage_run(source, tmp_path / "out", PRUNE, tmp_path / "resume", counting)
    assert again.count("gradients") == 6 - (count - 1)  # parts that were finished are not done again
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")


@pytest.mark.parametrize("place", ["tensors", "state", "rename"])
def test_killed_while_a_snapshot_is_written_it_goes_on(source, tmp_path, place, monkeypatch):
    stage_run(source, tmp_path / "plain", PRUNE, None)
    calls = 0

    def dying(path):
        nonlocal calls
        calls += path.name == {"tensors": resume.TENSOR_FILE, "state": resume.STATE_FILE}.get(place)
        calls += place == "rename" and path.name.startswith("partial-")
        if calls == 9:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def child():
        monkeypatch.setattr(resume, "_sync", dying)
        stage_run(source, tmp_path / "out", PRUNE, tmp_path / "resume")

    assert in_child(child) == -signal.SIGKILL
    assert len(list((tmp_path / "resume").iterdir())) == 2
    stage_run(source, tmp_path / "out", PRUNE, tmp_path / "resume")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")


def calls_counted(limit=None):
    """Count the calls of Python and C functions; the process kills itself at call `limit`."""
    count = 0

    def watch(frame, event, argument):
        nonlocal count
        count += 1
        if count == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    return lambda: count


@pytest.mark.slow
def test_killed_again_and_again_at_random_moments(source, tmp_path):
    """The moments are seeded and counted in calls, so that a quick machine and a slow one do the same."""
    stage_run(source, tmp_path / "plain", PRUNE, None)
    report, count = multiprocessing.Pipe()

    def whole():
        counted = calls_counted()
        stage_run(source, tmp_path / "whole", PRUNE, tmp_path / "unused")
        sys.setprofile(None)
        count.send(counted())

    def child(limit, every):
        calls_counted(limit)
        stage_run(source, tmp_path / "out", PRUNE, tmp_path / "resume", every=every)

    assert in_child(whole) == 0
    calls, rng, kills = report.recv(), random.Random(5), 0
    for attempt in range(60):
        limit = int(rng.uniform(0.03, 0.25) * calls * (1 + attempt / 6))  # more patience each time
        if in_child(child, limit, rng.choice([0.0, 0.02, 0.1])) == 0:
            break
        kills += 1
        assert len(list((tmp_path / "resume").glob("*"))) <= 2
    assert kills >= 3  # three children do less than the calls of one run
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")


def test_fine_tuning_resumes_too(source, tmp_path):
    folder, data = source
    config = FineTuneStage(epochs=2, learning_rate=1e-3, batch_size=16)

    def run(out, place, progress=silent):
        fine_tune(folder, out, data, LABELS, config, 1, progress, resume=place,
                  snapshot_every=0.0, note=lambda text: None)  # fmt: skip

    run(tmp_path / "plain", None)
    assert in_child(run, tmp_path / "out", tmp_path / "resume", killed_at("fine-tune", 1)) == -signal.SIGKILL
    assert list((tmp_path / "resume").iterdir())
    run(tmp_path / "out", tmp_path / "resume")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")


@pytest.mark.parametrize("damage", ["cut", "bit", "state", "value", "missing", "empty", "deep"])
def test_a_damaged_snapshot_is_not_trusted(tmp_path, damage):
    notes = []
    folder = SnapshotFolder(tmp_path / "r", "run", notes.append)
    for number in (1, 2):
        folder.write(Snapshot({"step": number}, {"x": torch.full((50,), float(number))}))
    newest = tmp_path / "r/snapshot-2"
    tensors, state = newest / resume.TENSOR_FILE, newest / resume.STATE_FILE
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-5])
    elif damage == "bit":
        content = bytearray(tensors.read_bytes())
        content[-3] ^= 1
        tensors.write_bytes(content)
    elif damage == "state":
        state.write_text(state.read_text()[:40])
    elif damage == "value":
        state.write_text(state.read_text().replace('"step": 2', '"step": 7'))
    elif damage == "missing":
        tensors.unlink()
    elif damage == "empty":
        state.write_text("[]")
    else:
        state.write_text("[" * 100_000)
    found = SnapshotFolder(tmp_path / "r", "run", notes.append).latest()
    assert found.values == {"step": 1}
    assert torch.equal(found.tensors["x"], torch.full((50,), 1.0))
    assert len(notes) == 1
    assert "snapshot-2 is not used" in notes[0]
    assert "\n" not in notes[0]


def test_a_snapshot_of_another_run_is_not_used(source, tmp_path):
    def child():
        stage_run(source, tmp_path / "out", PRUNE, tmp_path / "resume", killed_at("pruning step", 2))

    assert in_child(child) == -signal.SIGKILL
    notes = []
    folder, data = source
    other = PruneStage(**{**vars(PRUNE), "sparsity": 0.5})
    run_stage(folder, tmp_path / "o", other, data, TeacherModel(folder), 3, silent,
              resume=tmp_path / "resume", note=notes.append)  # fmt: skip
    assert notes
    assert all("another" in note or "other settings" in note for note in notes)
    run_stage(folder, tmp_path / "plain", other, data, TeacherModel(folder), 3, silent)
    assert files_of(tmp_path / "o") == files_of(tmp_path / "plain")


def test_a_full_disk_costs_the_snapshot_and_not_the_run(source, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "_write", full)
    notes = []
    stage_run(source, tmp_path / "out", PRUNE, tmp_path / "resume", note=notes.append)
    assert len(notes) == 1
    assert "No space left" in notes[0]
    stage_run(source, tmp_path / "plain", PRUNE, None)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "plain")


def test_two_generations_and_no_more(tmp_path):
    folder = SnapshotFolder(tmp_path / "r", "run", lambda text: None)
    for number in range(5):
        folder.write(Snapshot({"step": number}, {}))
        assert len(list((tmp_path / "r").iterdir())) == min(number + 1, 2)
    assert SnapshotFolder(tmp_path / "r", "run", lambda text: None).latest().values == {"step": 4}


def test_time_decides_when_a_snapshot_is_due(tmp_path):
    assert SnapshotFolder(tmp_path, "run", lambda text: None, every=0.0).due()
    assert not SnapshotFolder(tmp_path, "run", lambda text: None, every=1e9).due()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=30)
@given(values=st.dictionaries(st.text(), VALUES, max_size=4), sizes=st.lists(st.integers(0, 9), max_size=4))
def test_what_is_written_comes_back(tmp_path_factory, values, sizes):
    place = tmp_path_factory.mktemp("r")
    tensors = {f"t{i}": torch.arange(size) % 2 == 0 for i, size in enumerate(sizes)}
    SnapshotFolder(place, "run", lambda text: None).write(Snapshot(values, tensors))
    found = SnapshotFolder(place, "run", lambda text: None).latest()
    assert json.dumps(found.values) == json.dumps(values)
    assert set(found.tensors) == set(tensors)
    assert all(torch.equal(found.tensors[name], value) for name, value in tensors.items())


def test_every_field_that_training_sees_is_in_the_hash():
    base = {"input_ids": ((1, 2), (3,)), "token_type_ids": None, "labels": (0, 1), "pad_token_id": 0}
    others = [
        {"input_ids": ((1,), (2, 3))},
        {"token_type_ids": ((0, 0), (0,))},
        {"labels": (1, 0)},
        {"pad_token_id": 1},
        {"token_labels": ((0, -100), (1,))},
        {"spans": ((0, 1), (0, 0))},
        {"mask_token_id": 4},
        {"special_ids": frozenset({2})},
    ]
    hashes = [dataset_hash(TokenizedDataset(**{**base, **other})) for other in [{}, *others]]
    assert len(set(hashes)) == len(hashes)
    assert hashes[0] == dataset_hash(TokenizedDataset(**base))
