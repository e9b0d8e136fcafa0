"""Both sides of the Woodbury identity against numpy's own inverse in float64."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert_compress.errors import TrainingError
from edgebert_compress.fisher import FisherSums, WoodburyInverse, in_blocks, piece_kind
from tests.compress.fisher_problems import dense_inverse

KINDS = [WoodburyInverse, FisherSums]


def inverse_of(kind, gradients, block, dampening, chunk=4, dtype=torch.float64):
    blocks = in_blocks(torch.as_tensor(gradients).to(dtype), block)  # [m, count, B]
    storage = torch.full((blocks.shape[1], block, block), torch.nan, dtype=dtype)
    piece = kind(storage, len(gradients), dampening, "w")
    for start in range(0, len(gradients), chunk):
        piece.add(blocks[start : start + chunk].transpose(0, 1).contiguous())
    return piece.inverse()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.integers(1, 40),
    block=st.integers(1, 16),
    m=st.integers(1, 30),
    chunk=st.integers(1, 8),
    dampening=st.sampled_from([1e-2, 1e-4, 1e-6]),
    seed=st.integers(0, 1000),
)
def test_both_sides_equal_the_inverse(kind, size, block, m, chunk, dampening, seed):
    gradients = np.random.default_rng(seed).normal(size=(m, size))
    inverse = inverse_of(kind, gradients, block, dampening, chunk).numpy()
    expected = dense_inverse(gradients, block, dampening)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(inverse / scale, expected / scale, atol=1e-7)
    np.testing.assert_array_equal(inverse, inverse.transpose(0, 2, 1))


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dead=st.lists(st.integers(0, 23), max_size=24),
    copies=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_degenerate_gradients(kind, dead, copies, seed):
    """Weights without gradients, the same gradient many times, fewer gradients than weights."""
    gradients = np.random.default_rng(seed).normal(size=(3, 24)).repeat(copies, axis=0)
    gradients[:, dead] = 0
    inverse = inverse_of(kind, gradients, 8, 1e-3).numpy()
    np.testing.assert_allclose(inverse, dense_inverse(gradients, 8, 1e-3), rtol=1e-8, atol=1e-8)
    for weight in dead:
        assert inverse[weight // 8, weight % 8, weight % 8] == pytest.approx(1e3)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_at_all_leaves_the_dampened_identity(kind):
    inverse = inverse_of(kind, np.zeros((4, 6)), 3, 0.5)
    torch.testing.assert_close(inverse, 2 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_close_at_the_published_dampening(kind):
    gradients = 1e-3 * np.random.default_rng(0).normal(size=(256, 100))
    inverse = inverse_of(kind, gradients, 50, 1e-7, 16, torch.float32)
    diagonal = inverse.diagonal(dim1=1, dim2=2).numpy()
    expected = np.stack([np.diag(block) for block in dense_inverse(gradients, 50, 1e-7)])
    np.testing.assert_allclose(diagonal, expected, rtol=1e-3)


def test_the_cheaper_side_is_taken():
    assert piece_kind(50, 50) is WoodburyInverse
    assert piece_kind(51, 50) is FisherSums


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_refused(kind, bad):
    with pytest.raises(TrainingError, match=r"gradients of w, or their squares, are not finite"):
        inverse_of(kind, np.array([[1.0, bad, 0.0, 0.0]]), 2, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_whose_squares_overflow_are_refused(kind):
    with pytest.raises(TrainingError, match=r"gradients of w, or their squares, are not finite"):
        inverse_of(kind, np.full((1, 4), 1e25), 2, 1e-3, dtype=torch.float32)


@pytest.mark.parametrize(("kind", "rows"), [(WoodburyInverse, 16), (FisherSums, 3)])
def test_a_dampening_that_makes_the_inverse_blow_up_is_named(kind, rows):
    """Woodbury subtracts from 1/λ until nothing is left; the sums drown λ where the rank is too small."""
    gradients = np.random.default_rng(0).normal(size=(rows, 8))
    inverse_of(kind, gradients, 8, 1e-4, dtype=torch.float32)
    with pytest.raises(TrainingError, match=r"w blows up at dampening 1e-12 .*; the mean squared") as caught:
        inverse_of(kind, gradients, 8, 1e-12, dtype=torch.float32)
    for number in grid_of(caught.value):
        assert 0.0005 < number / np.mean(gradients**2) < 1.5
        inverse_of(kind, gradients, 8, number, dtype=torch.float32)


def grid_of(error: TrainingError) -> list[float]:
    """What the message says to try."""
    found = re.search(r"try 'dampening' (.*) or 'relative_dampening' 0.001, 0.01, 0.1, 1$", str(error))
    assert found
    return [float(number) for number in found[1].split(", ")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dampening", [5e-324, 1e-40, 1e39, 1e300])
def test_a_dampening_whose_inverse_is_no_number_is_named(kind, dampening):
    gradients = 1e-4 * np.random.default_rng(0).normal(size=(64, 8))
    message = f"w blows up at dampening {dampening:g} .*1/λ is no float32 number.*try"
    with pytest.raises(TrainingError, match=message.replace("+", r"\+")):
        inverse_of(kind, gradients, 8, dampening, dtype=torch.float32)
    if 1 / dampening < 1e308:
        inverse_of(kind, gradients, 8, max(dampening, 1e-12))


def test_weights_without_gradients_do_not_count_as_a_blow_up():
    gradients = 100 * np.random.default_rng(0).normal(size=(64, 8))
    gradients[:, 3] = 0  # [F⁻¹]_33 = 1/λ = 1e7 beside entries of 1e-4
    inverse = inverse_of(FisherSums, gradients, 8, 1e-7, dtype=torch.float32)
    assert inverse[0, 3, 3] == pytest.approx(1e7)
