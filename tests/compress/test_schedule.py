"""Sparsity and learning rate over a training, against the published recipes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgebert_compress.data import silent
from edgebert_compress.recipe import PruneStage, Training
from edgebert_compress.schedule import (
    cubic_sparsity,
    cycle_starts,
    cyclic_rate,
    learning_rate,
    linear_rate,
    pruning_points,
)
from edgebert_compress.stages import run_stage
from tests.compress.conftest import tokenized
from tests.factories import make_checkpoint

PUBLISHED = {
    (0.7, 0.9): (70, 78.4, 84.1, 87.5, 89.3, 89.9, 90),
    (0.3, 0.8): (30, 51.1, 65.2, 73.8, 78.2, 79.8, 80),  # the fifth is 78.148
}
EPOCHS = 30
# Optimal BERT Surgeon, downstream on SQuAD: pruning at epochs 2, 6, …, 26 of 30, where the rate starts anew.
SQUAD = Training(
    epochs=EPOCHS,
    learning_rate=8e-5,
    batch_size=16,
    schedule="cyclic-linear",
    cycle_floor=0.1,
    final_rate=0.1,
)


@pytest.mark.parametrize(("ends", "published"), PUBLISHED.items())
def test_cubic_sparsity_gives_the_published_steps(ends, published):
    found = [100 * share for share in cubic_sparsity(*ends, 7)]
    assert found == pytest.approx(published, abs=0.06)
    assert cubic_sparsity(*ends, 7)[-1] == ends[1]
    assert cubic_sparsity(*ends, 1) == (ends[1],)


@pytest.mark.parametrize(("ends", "published"), PUBLISHED.items())
def test_the_published_recipe_prunes_at_the_published_steps(ends, published, tmp_path):
    """The whole stage, on 32 examples: 2 optimiser steps an epoch."""
    source = make_checkpoint(tmp_path / "m", layers=1, hidden=40)
    stage = PruneStage(
        method="magnitude", pattern="unstructured", initial_sparsity=ends[0], sparsity=ends[1], steps=7,
        pruning_start=2 / EPOCHS, pruning_share=26 / EPOCHS, training=SQUAD,
    )  # fmt: skip
    facts = run_stage(source, tmp_path / "out", stage, tokenized(source, 32, 0), None, 0, silent)
    assert [step for step, _ in facts.sparsity_curve] == [4, 12, 20, 28, 36, 44, 52]
    assert [100 * share for _, share in facts.sparsity_curve] == pytest.approx(published, abs=0.06)
    assert facts.steps == 60


@pytest.mark.parametrize("cycle_epochs", [None, 4.0])
def test_the_published_rate_falls_from_8e5_to_8e6_in_every_cycle(cycle_epochs):
    epoch = 5475
    total = EPOCHS * epoch
    points = pruning_points(total, 7, 2 / EPOCHS, 26 / EPOCHS)
    assert points == tuple(epoch * at for at in range(2, 27, 4))
    training = Training(**{**vars(SQUAD), "cycle_epochs": cycle_epochs})
    rate = learning_rate(training, total, epoch, points)
    for start, end in ((0, 2), *((at, at + 4) for at in range(2, 27, 4))):
        first, last, middle = start * epoch, end * epoch - 1, (start + end) * epoch // 2
        assert 8e-5 * rate(first) == pytest.approx(8e-5)
        assert 8e-5 * rate(middle) == pytest.approx((8e-5 + 8e-6) / 2, rel=1e-3)
        assert 8e-5 * rate(last) == pytest.approx(8e-6, rel=5e-3)


def test_the_upstream_recipe_has_cycles_of_a_quarter_epoch():
    training = Training(epochs=3, schedule="cyclic-linear", cycle_epochs=0.25, cycle_floor=0.01)
    epoch = 1000
    rate = learning_rate(training, 3 * epoch, epoch, pruning_points(3 * epoch, 12, 0, 2.75 / 3))
    assert [step for step in range(3 * epoch) if rate(step) == 1.0] == list(range(0, 3000, 250))


def test_pruning_points():
    assert pruning_points(100, 5, 0.0, 0.6) == (0, 15, 30, 45, 60)
    assert pruning_points(2, 5, 0.0, 0.6) == (0, 0, 0, 0, 1)
    assert pruning_points(100, 1, 0.25, 0.6) == (25,)
    assert pruning_points(0, 3, 0.1, 0.6) == (0, 0, 0)


def test_learning_rates():
    assert [linear_rate(step, 10, 0.2) for step in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 0.125]
    assert linear_rate(10, 10, 0.0, 0.25) == pytest.approx(0.25)
    cycle = [cyclic_rate(step, 20, (0, 10)) for step in range(20)]
    assert cycle[0] == cycle[10] == 1.0
    assert cycle[9] == pytest.approx(0.19)
    assert cycle[19] == pytest.approx(0.1)
    constant = learning_rate(Training(schedule="constant", warmup=0.2), 10, 5)
    assert [constant(step) for step in range(10)] == [0.5] + [1.0] * 9


def test_half_a_cosine_after_a_warm_up():
    """The closed form of Loshchilov & Hutter, and what PyTorch makes of it."""
    rate = learning_rate(Training(schedule="cosine", warmup=0.25, final_rate=0.1), 40, 10)
    assert [rate(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30, eta_min=0.1)
    for step in range(10, 40):
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        assert rate(step) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * (step - 10) / 30)))
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("schedule", ["cyclic-linear", "cosine"])
def test_cycles_begin_at_the_restarts_and_not_at_the_pruning_steps(schedule):
    training = Training(
        epochs=10, schedule=schedule, restarts=(2.0, 7.5), cycle_floor=0.2, final_rate=0.0
    )  # fmt: skip
    rate = learning_rate(training, 100, 10, (0, 30, 60))
    for begin, end, low in ((0, 20, 0.2), (20, 75, 0.2), (75, 100, 0.0)):
        for step in range(begin, end):
            share = (step - begin) / (end - begin)
            fall = 1 - share if schedule == "cyclic-linear" else (1 + math.cos(math.pi * share)) / 2
            assert rate(step) == pytest.approx(low + (1 - low) * fall)


def test_even_cycles_of_a_cosine():
    training = Training(epochs=4, schedule="cosine", cycle_epochs=1.0, cycle_floor=0.0)
    rate = learning_rate(training, 40, 10)
    expected = [(1 + math.cos(math.pi * (step % 10) / 10)) / 2 for step in range(40)]
    assert [rate(step) for step in range(40)] == pytest.approx(expected)


def test_steps_of_the_rate():
    training = Training(epochs=10, schedule="step", milestones=(2.5, 7.0), step_factor=0.1, warmup=0.05)
    rate = learning_rate(training, 100, 10)
    expected = [(step + 1) / 5 for step in range(5)] + [1.0] * 20 + [0.1] * 45 + [0.01] * 30
    assert [rate(step) for step in range(100)] == pytest.approx(expected)


def test_auto_is_cyclic_only_where_something_is_pruned():
    training, linear = Training(), Training(schedule="linear")
    for step in range(40):
        assert learning_rate(training, 40, 10)(step) == linear_rate(step, 40, 0.1)
        assert learning_rate(linear, 40, 10, (0, 20))(step) == linear_rate(step, 40, 0.1)
        assert learning_rate(training, 40, 10, (0, 20))(step) == cyclic_rate(step, 40, (0, 20))


def test_a_cycle_shorter_than_a_step_is_a_step():
    assert cycle_starts(4, 1e-9, 1) == (1, 2, 3)
    assert cycle_starts(4, 1.5, 0) == (0, 1, 3)
    assert cycle_starts(4, 3.0, 9) == ()


@given(
    st.sampled_from(["auto", "linear", "cyclic-linear", "cosine", "constant"]),
    st.integers(1, 200),
    st.lists(st.integers(0, 199), max_size=5).map(sorted),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_rates_are_shares_of_the_peak(kind, total, points, warmup, floor, final):
    training = Training(schedule=kind, warmup=warmup, cycle_floor=floor, final_rate=final)
    rate = learning_rate(training, total, 7, [point for point in points if point < total])
    assert all(0 <= rate(step) <= 1 + 1e-12 for step in range(total))
    assert max(rate(step) for step in range(total)) > 0
