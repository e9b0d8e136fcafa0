"""The block-diagonal inverse against numpy's own inverse in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert_compress.errors import TrainingError
from edgebert_compress.fisher import FisherInverse, estimate


def dense_inverse(gradients: np.ndarray, block: int, dampening: float) -> np.ndarray:
    """[count, block, block] by numpy.linalg.inv of λI + (1/m) Σ g gᵀ, block by block."""
    m, size = gradients.shape
    padded = np.zeros((m, -(-size // block) * block))
    padded[:, :size] = gradients
    blocks = padded.reshape(m, -1, block)
    fisher = np.einsum("mni,mnj->nij", blocks, blocks) / m + dampening * np.eye(block)
    return np.linalg.inv(fisher)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 40),
    block=st.integers(1, 16),
    m=st.integers(1, 30),
    chunk=st.integers(1, 8),
    dampening=st.sampled_from([1e-2, 1e-4, 1e-6]),
    seed=st.integers(0, 1000),
)
def test_chunked_woodbury_equals_the_inverse(size, block, m, chunk, dampening, seed):
    gradients = np.random.default_rng(seed).normal(size=(m, size))
    fisher = FisherInverse(size, block=block, gradients=m, dampening=dampening, dtype=torch.float64)
    for start in range(0, m, chunk):
        fisher.add(torch.from_numpy(gradients[start : start + chunk]))
    expected = dense_inverse(gradients, block, dampening)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(fisher.inverse.numpy() / scale, expected / scale, atol=1e-8)


def test_shards_do_not_change_the_inverse(monkeypatch):
    gradients = torch.randn(6, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for elements in (1 << 22, 32):
        monkeypatch.setattr("edgebert_compress.fisher.SHARD_ELEMENTS", elements)
        fisher = FisherInverse(37, block=4, gradients=6, dampening=1e-3, dtype=torch.float64)
        fisher.add(gradients)
        results.append(fisher.inverse)
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=0)


def test_pruned_weights_leave_the_survivors_alone():
    generator = torch.Generator().manual_seed(1)
    gradients = [{"w": torch.randn(2, 8, dtype=torch.float64, generator=generator)} for _ in range(20)]
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 3] = mask[1, 6] = False
    fisher = estimate(
        {"w": mask}, gradients, count=20, block=8, dampening=1e-3, chunk=3, dtype=torch.float64
    )["w"]
    masked = np.stack([(gradient["w"] * mask).reshape(-1).numpy() for gradient in gradients])
    np.testing.assert_allclose(fisher.inverse.numpy(), dense_inverse(masked, 8, 1e-3), rtol=1e-8, atol=1e-9)
    assert torch.count_nonzero(fisher.inverse[0, 3]) == 1
    assert fisher.inverse[0, 3, 3] == pytest.approx(1e3)


def test_degenerate_gradients_keep_the_dampened_identity():
    fisher = FisherInverse(6, block=3, gradients=4, dampening=0.5, dtype=torch.float64)
    fisher.add(torch.zeros(4, 6, dtype=torch.float64))
    torch.testing.assert_close(fisher.inverse, 2 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


def test_float32_stays_close_at_the_published_dampening():
    gradients = 1e-3 * np.random.default_rng(0).normal(size=(256, 100))
    fisher = FisherInverse(100, block=50, gradients=256, dampening=1e-7)
    for start in range(0, 256, 16):
        fisher.add(torch.from_numpy(gradients[start : start + 16]).to(torch.float32))
    fisher.check()
    diagonal = fisher.inverse.diagonal(dim1=1, dim2=2).numpy()
    expected = np.stack([np.diag(block) for block in dense_inverse(gradients, 50, 1e-7)])
    np.testing.assert_allclose(diagonal, expected, rtol=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_refused(bad):
    fisher = FisherInverse(4, block=2, gradients=1, dampening=1e-3)
    with pytest.raises(TrainingError, match=r"dampening.*1e-4"):
        fisher.add(torch.tensor([[1.0, bad, 0.0, 0.0]]))
