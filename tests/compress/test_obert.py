"""Saliency, update and ranking of oBERT against the quadratic model that it minimises, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgebert_compress import magnitude, obert
from edgebert_compress.errors import ModelError
from edgebert_compress.fisher import FisherInverse
from edgebert_compress.masks import full_masks, sparsity
from edgebert_compress.obert import ObertSettings


def random_problem(seed: int, rows: int = 2, cols: int = 8, m: int = 60, block: int = 8, dampening=1e-3):
    """Weights, correlated gradients, F⁻¹ and the dense block-diagonal F."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(rows, cols))
    mixing = rng.normal(size=(rows * cols, rows * cols))
    gradients = rng.normal(size=(m, rows * cols)) @ mixing
    fisher = FisherInverse(rows * cols, block=block, gradients=m, dampening=dampening, dtype=torch.float64)
    fisher.add(torch.from_numpy(gradients))
    hessian = np.zeros((rows * cols, rows * cols))
    for start in range(0, rows * cols, block):
        part = gradients[:, start : start + block]
        hessian[start : start + block, start : start + block] = part.T @ part / m
    return torch.from_numpy(weight), fisher, hessian + dampening * np.eye(rows * cols)


def constrained_minimiser(hessian: np.ndarray, weight: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """argmin ½ δᵀHδ with δ = -w on `removed`: solve for the free entries directly."""
    delta = np.zeros_like(weight)
    delta[removed] = -weight[removed]
    free = ~removed
    delta[free] = -np.linalg.solve(
        hessian[np.ix_(free, free)], hessian[np.ix_(free, removed)] @ delta[removed]
    )
    return delta


@settings(max_examples=25, deadline=None)
@given(block=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 1000), pick=st.integers(0, 15))
def test_saliency_and_update_solve_the_constrained_quadratic(block, seed, pick):
    weight, fisher, hessian = random_problem(seed)
    solved = obert.solve_blocks(fisher, weight, block)
    scores = obert.saliency(weight, solved, torch.ones_like(weight, dtype=torch.bool))
    unit = pick % len(scores)
    removed = np.zeros(16, bool)
    removed[unit * block : (unit + 1) * block] = True
    delta = constrained_minimiser(hessian, weight.numpy().reshape(-1), removed)
    assert float(scores[unit]) == pytest.approx(0.5 * delta @ hessian @ delta, rel=1e-7)
    update = obert.summed_update(fisher, solved, torch.from_numpy(removed)).numpy()
    np.testing.assert_allclose(update, delta, atol=1e-7 * np.abs(delta).max())


def test_one_by_one_is_the_published_formula():
    weight, fisher, _ = random_problem(3)
    diagonal = torch.cat([block.diagonal() for block in fisher.inverse])
    solved = obert.solve_blocks(fisher, weight, 1)
    scores = obert.saliency(weight, solved, torch.ones_like(weight, dtype=torch.bool))
    torch.testing.assert_close(scores, weight.reshape(-1) ** 2 / (2 * diagonal), rtol=1e-12, atol=0)


def test_a_tensor_that_the_fisher_block_does_not_divide():
    weight, fisher, hessian = random_problem(5, rows=3, cols=4, block=8)
    solved = obert.solve_blocks(fisher, weight, 4)
    removed = np.zeros(12, bool)
    removed[8:] = True
    delta = constrained_minimiser(hessian, weight.numpy().reshape(-1), removed)
    update = obert.summed_update(fisher, solved, torch.from_numpy(removed)).numpy()
    np.testing.assert_allclose(update, delta, atol=1e-9)


def quadratic_loss(weight: torch.Tensor, start: torch.Tensor, hessian: np.ndarray) -> float:
    delta = (weight - start).reshape(-1).numpy()
    return float(0.5 * delta @ hessian @ delta)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_beats_magnitude_on_a_quadratic(block, seed):
    weight, fisher, hessian = random_problem(seed, rows=8, cols=16, m=400, block=16)
    losses = {}
    for method in ("obert", "magnitude"):
        parameter = nn.Parameter(weight.clone())
        masks = full_masks({"w": parameter})
        if method == "obert":
            new = obert.prune_once({"w": parameter}, masks, {"w": fisher}, block, 0.5)
        else:
            new = magnitude.prune({"w": parameter}, masks, block, 0.5)
        pruned = torch.where(new["w"], parameter.detach(), 0.0)
        assert sparsity(new) == 0.5
        losses[method] = quadratic_loss(pruned, weight, hessian)
    assert losses["obert"] < losses["magnitude"]


def linear_gradients(parameters, seed=0):
    """A gradient source with one direction a mini-batch; records how often it was asked."""
    calls = []

    def source(count):
        calls.append(count)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            yield {
                name: torch.randn(value.shape, generator=generator, dtype=value.dtype)
                for name, value in parameters.items()
            }

    return source, calls


@pytest.mark.parametrize(("block", "fisher_block"), [(1, 50), (4, 32)])
def test_gradual_steps_are_exact_and_keep_their_zeros(block, fisher_block):
    torch.manual_seed(0)
    parameters = {name: nn.Parameter(torch.randn(12, 20)) for name in "ab"}
    source, calls = linear_gradients(parameters)
    config = ObertSettings(block, fisher_block, gradients=8, dampening=1e-4, recomputations=3)
    masks = full_masks(parameters)
    for target in (0.3, 0.6, 0.9):
        before = masks
        masks = obert.prune(parameters, masks, source, config, target)
        zeros = sum(int((value == 0).sum()) for value in parameters.values())
        assert zeros == block * round(target * 480 / block)
        assert sparsity(masks) == pytest.approx(zeros / 480)
        for name in "ab":
            assert not (masks[name] & ~before[name]).any()
            blocks = masks[name].reshape(-1, block)
            assert torch.equal(blocks.any(dim=1), blocks.all(dim=1))
    assert calls == [8] * 9


def test_ranking_is_global():
    parameters = {"small": nn.Parameter(torch.full((4, 4), 0.01)), "large": nn.Parameter(torch.ones(4, 4))}
    source, _ = linear_gradients(parameters)
    config = ObertSettings(1, 16, gradients=4, dampening=1.0)
    masks = obert.prune(parameters, full_masks(parameters), source, config, 0.5)
    assert not masks["small"].any()
    assert masks["large"].all()


def test_unstructured_zeros_stay_when_blocks_are_pruned_later():
    parameters = {"w": nn.Parameter(torch.arange(1.0, 17).reshape(2, 8))}
    masks = full_masks(parameters)
    masks["w"][1, 7] = False
    new = magnitude.prune(parameters, masks, 4, 0.25)
    assert not new["w"][1, 7]
    assert not new["w"][0, :4].any()
    assert int(new["w"].sum()) == 11


def test_blocks_that_do_not_divide_a_row_are_refused():
    parameters = {"w": nn.Parameter(torch.ones(4, 6))}
    with pytest.raises(ModelError, match="rows of 6 weights"):
        magnitude.prune(parameters, full_masks(parameters), 4, 0.5)
