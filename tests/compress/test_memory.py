"""Memory plans: they keep their promise, cost no accuracy, and refuse what cannot be done."""

import os
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgebert_compress import fisher_pieces, obert, spill
from edgebert_compress.errors import TrainingError
from edgebert_compress.fisher_pieces import cut, names_of, split
from edgebert_compress.masks import full_masks
from edgebert_compress.memory import MemoryPlan, plan
from edgebert_compress.obert import ObertSettings
from tests.compress.fisher_problems import random_gradients

BERT_BASE = {
    f"{layer}.{name}": size
    for layer in range(12)
    for name, size in [*((n, 768 * 768) for n in "qkvo"), ("up", 768 * 3072), ("down", 768 * 3072)]
}
SHAPES = {"a": (24, 30), "b": (40, 20), "c": (7, 10)}


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 16 Fisher blocks, so that small tensors have several."""
    monkeypatch.setattr(fisher_pieces, "PIECE_ELEMENTS", 1)


def step_plan(mode: str, inverse: str, block: int) -> MemoryPlan:
    pieces = cut({name: rows * columns for name, (rows, columns) in SHAPES.items()}, block)
    shards = split(pieces, 3 if mode == "replayed" else 1)
    return MemoryPlan(mode, inverse, 1, tuple(map(tuple, shards)), 0, 0, 0.0)


def pruned(how: MemoryPlan, config: ObertSettings, scratch, count: int):
    generator = torch.Generator().manual_seed(1)
    parameters = {
        name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()
    }
    passed = random_gradients(SHAPES, count, dtype=torch.float32)
    masks = obert.prune_once(parameters, full_masks(parameters), passed, config, 0.6, how, scratch)
    return masks, parameters, passed


@pytest.mark.parametrize("update", ["summed", "joint"])
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("count", [8, 40])  # both sides of the identity, the second in several chunks
@pytest.mark.parametrize(("dampening", "relative"), [(1e-4, False), (0.1, True)])
def test_every_plan_gives_the_same_bits(update, block, count, dampening, relative, small_pieces, tmp_path):
    config = ObertSettings(block, 10, count, dampening, update=update, relative=relative)
    wanted, expected, _ = pruned(step_plan("streamed", "memory", 10), config, None, count)
    for mode in ("kept", "replayed"):
        for inverse in ("disk", "again"):
            masks, parameters, passed = pruned(step_plan(mode, inverse, 10), config, tmp_path, count)
            for name in SHAPES:
                assert torch.equal(masks[name], wanted[name])
                assert torch.equal(parameters[name], expected[name])
            passes = {"kept": 1, "replayed": 3 * (2 if inverse == "again" else 1)}[mode]
            assert len(passed.asked) == passes
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.dictionaries(st.text("abc", min_size=1), st.integers(1, 200_000), min_size=1, max_size=4),
    block=st.integers(1, 64),
    parts=st.integers(1, 9),
)
def test_pieces_cover_every_weight_once_and_shards_every_piece(sizes, block, parts):
    pieces = cut(sizes, block)
    assert [piece for part in split(pieces, parts) for piece in part] == pieces
    assert names_of(pieces) == list(sizes)
    for name, size in sizes.items():
        covered = np.concatenate([np.arange(size)[p.weights] for p in pieces if p.name == name])
        np.testing.assert_array_equal(covered, np.arange(size))
    assert all(p.start % fisher_pieces.ALIGNMENT == 0 for p in pieces)


def bert_plan(gibibytes: float, **changes) -> MemoryPlan:
    options = {"block": 1, "fisher_block": 50, "gradients": 1024, "scratch_free": 20 << 30, **changes}
    return plan(BERT_BASE, memory=int(gibibytes * 2**30), **options)


def test_less_memory_means_more_passes_and_a_lower_peak():
    plans = [bert_plan(size) for size in (32, 12, 8, 4, 2)]
    assert [p.passes for p in plans] == sorted(p.passes for p in plans)
    for size, each in zip((32, 12, 8, 4, 2), plans, strict=True):
        assert each.peak_bytes <= size * 2**30
    assert (plans[0].mode, plans[0].inverse, plans[0].passes) == ("streamed", "memory", 1)
    assert (plans[2].mode, plans[2].inverse, plans[2].passes) == ("replayed", "disk", 3)
    assert "replayed, 3 passes" in str(plans[2])


def test_few_gradients_are_kept():
    each = bert_plan(8, gradients=16)
    assert (each.mode, each.passes) == ("kept", 1)


def test_without_room_on_disk_the_estimate_is_made_twice():
    each = bert_plan(8, scratch_free=1 << 30)
    assert (each.inverse, each.scratch_bytes) == ("again", 0)
    assert each.passes == 2 * len(each.shards)
    assert each.operations == 2 * bert_plan(8).operations


def test_several_processes_share_the_inverse():
    assert bert_plan(12, processes=2).passes == 1
    assert len(bert_plan(8, processes=2).shards) == 2 * bert_plan(8, processes=2).passes


def test_too_little_memory_names_the_minimum():
    with pytest.raises(
        TrainingError, match=r"budget of 0.50 GiB is too small .* at least (\d\.\d\d) GiB"
    ) as got:
        bert_plan(0.5)
    named = float(str(got.value).split("at least ")[1].split(" ")[0])
    bert_plan(named)


def test_float64_takes_about_twice_the_memory():
    single, double = bert_plan(1000), bert_plan(1000, dtype=torch.float64)
    assert 1.8 < double.peak_bytes / single.peak_bytes < 2.0


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [8, 64])
def test_the_peak_holds(gradients, monkeypatch):
    """Resident memory over the planned peak, in a process of its own."""
    import subprocess
    import sys

    program = """
import re, sys, torch
from torch import nn
from edgebert_compress import obert
from edgebert_compress.masks import full_masks
torch.set_num_threads(1)
gradients, memory = int(sys.argv[1]), int(sys.argv[2])
class Pass:
    count = gradients
    def gradients(self, names):
        for row in range(gradients):
            generator = torch.Generator().manual_seed(row)
            yield {name: torch.randn(1024, 1536, generator=generator) for name in names}
parameters = {str(i): nn.Parameter(torch.randn(1024, 1536)) for i in range(4)}
masks = full_masks(parameters)
def peak_kilobytes():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
# A process that another one started begins with that one's peak: forget it.
open("/proc/self/clear_refs", "w").write("5")
before = peak_kilobytes()
config = obert.ObertSettings(1, 32, gradients, 1e-4)
how = obert.plan_step(parameters, config, memory)
obert.prune(parameters, masks, lambda count: Pass(), config, 0.5, memory=memory)
peak = peak_kilobytes()
print(how.mode, how.peak_bytes, (peak - before) * 1024)
"""
    budget = 520 << 20
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(gradients), str(budget)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    mode, planned, used = done.stdout.split()
    assert mode == ("kept" if gradients == 8 else "replayed")
    assert int(used) <= int(planned) <= budget
    assert int(used) > 0.3 * int(planned)  # the plan is no idle overestimate


def test_spilled_pieces_come_back_and_leave_nothing(tmp_path):
    pieces = cut({"a": 700, "b": 90}, 10)
    generator = torch.Generator().manual_seed(0)
    wanted = {}
    with spill.SpilledInverse(tmp_path) as spilled:
        for piece in pieces:
            values = torch.randn(piece.count, 10, 10, generator=generator)
            wanted[piece] = values + values.mT
            spilled.put(piece, wanted[piece])
        for piece in reversed(pieces):
            assert torch.equal(spilled.get(piece, torch.device("cpu")), wanted[piece])
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_no_scratch_file_and_no_changed_weight(small_pieces, tmp_path):
    parameters = {name: nn.Parameter(torch.ones(shape)) for name, shape in SHAPES.items()}
    passed = random_gradients(SHAPES, 8, dtype=torch.float32)
    passed.stacked["c"][7, 0, 0] = torch.nan
    with pytest.raises(TrainingError, match="gradient 8 of 8 of c is not finite"):
        obert.prune_once(
            parameters, full_masks(parameters), passed, ObertSettings(1, 10, 8, 1e-4), 0.5,
            step_plan("replayed", "disk", 10), tmp_path,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(value, torch.ones_like(value)) for value in parameters.values())


def test_a_scratch_folder_that_does_not_exist(tmp_path):
    parameters = {"a": torch.ones(4, 4)}
    with pytest.raises(TrainingError, match=r"scratch folder .* does not exist"):
        obert.plan_step(parameters, ObertSettings(1, 4, 4, 1e-4), scratch=tmp_path / "no")


def test_memory_backed_folders_are_no_scratch(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    disks = [type("Part", (), {"mountpoint": str(tmp_path), "fstype": kind}) for kind in ("tmpfs", "ext4")]
    monkeypatch.setattr(spill.psutil, "disk_partitions", lambda all: [disks[0]])
    assert spill.scratch_folder(None) is None
    monkeypatch.setattr(spill.psutil, "disk_partitions", lambda all: [disks[1]])
    assert spill.scratch_folder(None) == tmp_path
    assert spill.scratch_folder(tmp_path / "own") == tmp_path / "own"
