"""The update for all pruned weights of a Fisher block together, against the constrained minimiser."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert_compress.errors import TrainingError
from edgebert_compress.joint_solve import joint_pull
from edgebert_compress.obert import block_pull, step
from tests.compress.fisher_problems import constrained_minimiser, dense_inverse


@settings(max_examples=40, deadline=None)
@given(
    block=st.integers(1, 12),
    count=st.integers(1, 4),
    m=st.integers(1, 30),
    share=st.floats(0, 1),
    dampening=st.sampled_from([1e-1, 1e-3, 1e-5]),
    seed=st.integers(0, 1000),
)
def test_joint_update_is_the_constrained_minimiser(block, count, m, share, dampening, seed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(m, count * block))
    weight = rng.normal(size=(count, block))
    pruned = rng.random((count, block)) < share
    inverse = torch.from_numpy(dense_inverse(gradients, block, dampening))
    pull = joint_pull(inverse, torch.from_numpy(weight), torch.from_numpy(pruned), "w", dampening)
    move = step(inverse, pull).numpy()
    for index in range(count):
        part = gradients[:, index * block : (index + 1) * block]
        hessian = part.T @ part / m + dampening * np.eye(block)
        expected = constrained_minimiser(hessian, weight[index], pruned[index])
        # two solves, with the Hessian's inverse and with a part of that
        rounding = 10 * np.finfo(float).eps * np.linalg.cond(hessian) ** 2
        tolerance = (1e-6 + rounding) * max(1, np.abs(expected).max())
        np.testing.assert_allclose(move[index], expected, atol=tolerance)


def test_weights_pruned_before_stay_at_zero_and_change_nothing():
    rng = np.random.default_rng(1)
    gradients = rng.normal(size=(40, 8))
    gradients[:, [2, 5]] = 0  # masked
    weight = rng.normal(size=(1, 8))
    weight[0, [2, 5]] = 0
    inverse = torch.from_numpy(dense_inverse(gradients, 8, 1e-3))
    moves = []
    for removed in ([0, 7], [0, 2, 5, 7]):
        pruned = torch.zeros(1, 8, dtype=torch.bool)
        pruned[0, removed] = True
        moves.append(step(inverse, joint_pull(inverse, torch.from_numpy(weight), pruned, "w", 1e-3)))
    torch.testing.assert_close(moves[0], moves[1])
    assert torch.count_nonzero(moves[1][0, [2, 5]]) == 0


def test_one_weight_alone_is_the_summed_update_and_two_are_not():
    rng = np.random.default_rng(2)
    inverse = torch.from_numpy(dense_inverse(rng.normal(size=(10, 6)), 6, 1e-3))
    weight = torch.from_numpy(rng.normal(size=(1, 6)))
    for removed, same in (([1], True), ([1, 4], False)):
        pruned = torch.zeros(1, 6, dtype=torch.bool)
        pruned[0, removed] = True
        summed = step(inverse, block_pull(inverse, weight, 1, "w", 1e-3) * pruned)
        joint = step(inverse, joint_pull(inverse, weight, pruned, "w", 1e-3))
        assert torch.allclose(summed, joint) == same


def test_a_system_that_is_not_positive_definite_is_named():
    inverse = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])
    with pytest.raises(TrainingError, match=r"inverse of w blows up at dampening 1e-09 .*joint"):
        joint_pull(inverse, torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), "w", 1e-9)
