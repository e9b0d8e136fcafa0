"""Removals one after another against a plain loop that solves the constrained problem anew each time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgebert_compress import obert
from edgebert_compress.elimination import elimination_scores
from edgebert_compress.errors import TrainingError
from edgebert_compress.masks import full_masks
from edgebert_compress.obert import ObertSettings
from tests.compress.fisher_problems import (
    FixedGradients,
    constrained_minimiser,
    dense_inverse,
    random_gradients,
    source_of,
)


def greedy(hessian: np.ndarray, weight: np.ndarray, block: int) -> np.ndarray:
    """By brute force: try every unit, take the cheapest out; the largest rise of the quadratic so far."""
    units = len(weight) // block
    removed = np.zeros(len(weight), bool)
    found = np.zeros(units)
    loss = highest = 0.0
    for _ in range(units):
        tried = {}
        for unit in range(units):
            if not removed[unit * block]:
                with_unit = removed.copy()
                with_unit[unit * block : (unit + 1) * block] = True
                delta = constrained_minimiser(hessian, weight, with_unit)
                tried[unit] = 0.5 * delta @ hessian @ delta
        best = min(tried, key=tried.__getitem__)
        found[best] = highest = max(highest, tried[best] - loss)
        loss = tried[best]
        removed[best * block : (best + 1) * block] = True
    return found


@settings(max_examples=25, deadline=None)
@given(
    block=st.sampled_from([1, 2, 4]),
    units=st.integers(1, 6),
    m=st.integers(1, 30),
    dampening=st.sampled_from([1e-1, 1e-3]),
    seed=st.integers(0, 1000),
)
def test_scores_are_those_of_a_greedy_search(block, units, m, dampening, seed):
    rng = np.random.default_rng(seed)
    size = block * units
    gradients, weight = rng.normal(size=(m, 2 * size)), rng.normal(size=(2, size))
    inverse = dense_inverse(gradients, size, dampening)
    before = torch.from_numpy(inverse.copy())
    found = elimination_scores(before, torch.from_numpy(weight), block, "w", dampening).numpy()
    np.testing.assert_array_equal(before.numpy(), inverse)  # the caller's arrays stay as they are
    for index in range(2):
        expected = greedy(np.linalg.inv(inverse[index]), weight[index], block)
        np.testing.assert_allclose(found[index], expected, rtol=1e-5)


def twins(count: int = 64) -> FixedGradients:
    """Weights 0 and 1 always move together and 2 to 3 matter a little: one twin must stay."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(count, 1, 4, generator=generator, dtype=torch.float64)
    own[:, :, 1] = own[:, :, 0] * 1.0001
    own[:, :, 2:] *= 0.5
    return FixedGradients({"w": own})


def test_of_two_weights_that_can_replace_each_other_one_stays():
    kept = {}
    for update in ("joint", "eliminating"):
        parameter = nn.Parameter(torch.ones(1, 4, dtype=torch.float64))
        config = ObertSettings(1, 4, 64, 1e-5, update=update, dtype=torch.float64)
        masks = obert.prune(
            {"w": parameter}, full_masks({"w": parameter}), source_of(twins())[0], config, 0.5, memory=1 << 30
        )
        kept[update] = masks["w"][0].tolist()
        if update == "eliminating":
            assert float(parameter.detach().abs().max()) > 1.9  # it took over its twin's part
    assert kept["joint"] == [False, False, True, True]
    assert sum(kept["eliminating"][:2]) == 1


def test_it_beats_the_joint_solve_on_the_quadratic():
    passed = random_gradients({"w": (8, 16)}, 400)
    flat = passed.stacked["w"].reshape(400, 8, 16).numpy()
    hessians = np.einsum("mni,mnj->nij", flat, flat) / 400 + 1e-3 * np.eye(16)
    start = torch.randn(8, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    losses = {}
    for update in ("joint", "eliminating"):
        parameter = nn.Parameter(start.clone())
        config = ObertSettings(1, 16, 400, 1e-3, update=update)
        obert.prune({"w": parameter}, full_masks({"w": parameter}), source_of(passed)[0], config, 0.7,
                    memory=1 << 30)  # fmt: skip
        delta = (parameter.detach() - start).numpy()
        losses[update] = float(0.5 * np.einsum("ni,nij,nj->", delta, hessians, delta))
    assert losses["eliminating"] < losses["joint"]


def test_a_lost_rank_is_named():
    inverse = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])
    with pytest.raises(TrainingError, match=r"inverse of w blows up at dampening 1e-09 .*taken out"):
        elimination_scores(inverse, torch.tensor([[1.0, 1.0]]), 1, "w", 1e-9)
