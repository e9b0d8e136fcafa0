"""Saliency, update and ranking of oBERT against the quadratic model that it minimises, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgebert_compress import magnitude, obert
from edgebert_compress.errors import ModelError, TrainingError
from edgebert_compress.masks import full_masks, sparsity
from edgebert_compress.obert import ObertSettings, block_pull, saliency, step
from tests.compress.fisher_problems import (
    FixedGradients,
    constrained_minimiser,
    dense_inverse,
    random_gradients,
    source_of,
)

BUDGET = 1 << 30


def random_problem(seed: int, count: int = 2, block: int = 32, m: int = 60, dampening: float = 1e-3):
    """Weights [count, B], F⁻¹ and the Hessian of each Fisher block."""
    rng = np.random.default_rng(seed)
    size = count * block
    gradients = rng.normal(size=(m, size)) @ rng.normal(size=(size, size))
    weight = rng.normal(size=(count, block))
    inverse = dense_inverse(gradients, block, dampening)
    return torch.from_numpy(weight), torch.from_numpy(inverse), np.linalg.inv(inverse), gradients


@settings(max_examples=30, deadline=None)
@given(block=st.sampled_from([1, 2, 4, 8, 16, 32]), seed=st.integers(0, 1000), pick=st.integers(0, 63))
def test_saliency_and_update_solve_the_constrained_quadratic(block, seed, pick):
    """The saliency is the true increase of the quadratic when all other weights of the block may move."""
    weight, inverse, hessians, _ = random_problem(seed)
    pull = block_pull(inverse, weight, block, "w", 1e-3)
    scores = saliency(weight, pull, block)
    index, unit = divmod(pick % scores.numel(), 32 // block)
    removed = np.zeros(32, bool)
    removed[unit * block : (unit + 1) * block] = True
    delta = constrained_minimiser(hessians[index], weight[index].numpy(), removed)
    assert float(scores[index, unit]) == pytest.approx(0.5 * delta @ hessians[index] @ delta, rel=1e-6)
    chosen = torch.zeros(2, 32, dtype=torch.bool)
    chosen[index] = torch.from_numpy(removed)
    move = step(inverse, pull * chosen)[index].numpy()
    np.testing.assert_allclose(move, delta, atol=1e-6 * np.abs(delta).max())


def test_one_by_one_is_the_published_formula():
    weight, inverse, _, _ = random_problem(3)
    diagonal = inverse.diagonal(dim1=1, dim2=2)
    scores = saliency(weight, block_pull(inverse, weight, 1, "w", 1e-3), 1)
    torch.testing.assert_close(scores, weight**2 / (2 * diagonal), rtol=1e-12, atol=0)


def test_a_part_that_is_not_positive_definite_is_named():
    inverse = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])
    with pytest.raises(TrainingError, match=r"inverse of w blows up at dampening 1e-09 .*2 x 2"):
        block_pull(inverse, torch.ones(1, 2), 2, "w", 1e-9)


def hessian_of(stacked: torch.Tensor, block: int, dampening: float) -> np.ndarray:
    """The dense block-diagonal Fisher matrix of one tensor."""
    flat = stacked.reshape(len(stacked), -1).double().numpy()
    size = flat.shape[1]
    hessian = dampening * np.eye(size)
    for start in range(0, size, block):
        part = flat[:, start : start + block]
        hessian[start : start + block, start : start + block] += part.T @ part / len(flat)
    return hessian


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5),
    blocks=st.integers(1, 5),
    block=st.sampled_from([1, 2, 4]),
    fisher_blocks=st.integers(1, 4),
    m=st.integers(1, 40),
    target=st.floats(0, 0.95),
    update=st.sampled_from(["summed", "joint"]),
    seed=st.integers(0, 100),
)
def test_a_whole_step_against_the_minimiser(rows, blocks, block, fisher_blocks, m, target, update, seed):
    """From gradients to weights: the joint update is the minimiser, the summed one adds single minimisers."""
    shape = (rows, blocks * block)
    passed = random_gradients({"w": shape}, m, seed)
    generator = torch.Generator().manual_seed(seed)
    parameter = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    start = parameter.detach().reshape(-1).numpy().copy()
    config = ObertSettings(block, block * fisher_blocks, m, 1e-2, update=update, dtype=torch.float64)
    source, _ = source_of(passed)
    masks = obert.prune({"w": parameter}, full_masks({"w": parameter}), source, config, target, memory=BUDGET)
    pruned = ~masks["w"].reshape(-1).numpy()
    assert int(pruned.sum()) == block * round(target * rows * blocks)
    hessian = hessian_of(passed.stacked["w"], config.fisher_block, 1e-2)
    if update == "joint":
        wanted = constrained_minimiser(hessian, start, pruned)
    else:
        wanted = np.zeros_like(start)
        for unit in np.unique(np.flatnonzero(pruned) // block):
            removed = np.zeros_like(pruned)
            removed[unit * block : (unit + 1) * block] = True
            wanted += constrained_minimiser(hessian, start, removed)
    expected = np.where(pruned, 0, start + wanted)
    # The moves are added up in float32.
    np.testing.assert_allclose(parameter.detach().reshape(-1).numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_beats_magnitude_on_a_quadratic_and_joint_beats_summed(block, seed):
    passed = random_gradients({"w": (8, 16)}, 400, seed)
    hessian = hessian_of(passed.stacked["w"], 16, 1e-3)
    start = torch.randn(8, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    losses = {}
    for method in ("joint", "summed", "magnitude"):
        parameter = nn.Parameter(start.clone())
        masks = full_masks({"w": parameter})
        if method == "magnitude":
            new = magnitude.prune({"w": parameter}, masks, block, 0.5)
        else:
            config = ObertSettings(block, 16, 400, 1e-3, update=method)
            new = obert.prune({"w": parameter}, masks, source_of(passed)[0], config, 0.5, memory=BUDGET)
        assert sparsity(new) == 0.5
        delta = (torch.where(new["w"], parameter.detach(), 0.0) - start).reshape(-1).numpy()
        losses[method] = float(0.5 * delta @ hessian @ delta)
    assert losses["joint"] < losses["summed"] < losses["magnitude"]


@pytest.mark.parametrize(("block", "fisher_block"), [(1, 50), (4, 32), (8, 32), (16, 32), (32, 32)])
@pytest.mark.parametrize("update", ["summed", "joint"])
def test_gradual_steps_are_exact_and_keep_their_zeros(block, fisher_block, update):
    torch.manual_seed(0)
    shapes = dict.fromkeys("ab", (12, 64))
    parameters = {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
    source, calls = source_of(random_gradients(shapes, 8, dtype=torch.float32))
    config = ObertSettings(block, fisher_block, 8, 1e-4, recomputations=3, update=update)
    masks = full_masks(parameters)
    total = 2 * 12 * 64
    for target in (0.3, 0.6, 0.9):
        before = masks
        masks = obert.prune(parameters, masks, source, config, target, memory=BUDGET)
        zeros = sum(int((value == 0).sum()) for value in parameters.values())
        assert zeros == block * round(target * total / block)
        assert sparsity(masks) == pytest.approx(zeros / total)
        for name in "ab":
            assert not (masks[name] & ~before[name]).any()
            blocks = masks[name].reshape(-1, block)
            assert torch.equal(blocks.any(dim=1), blocks.all(dim=1))
    assert calls == [8] * 9


@pytest.mark.parametrize("ranking", ["global", "tensor"])
def test_ranking_over_all_tensors_or_in_each(ranking):
    parameters = {
        "small": nn.Parameter(0.01 * torch.arange(1.0, 17).reshape(4, 4)),
        "large": nn.Parameter(torch.arange(1.0, 17).reshape(4, 4)),
    }
    source, _ = source_of(random_gradients(dict.fromkeys(parameters, (4, 4)), 4, dtype=torch.float32))
    config = ObertSettings(1, 16, 4, 1e3, ranking=ranking)  # heavily dampened: magnitude in effect
    masks = obert.prune(parameters, full_masks(parameters), source, config, 0.5, memory=BUDGET)
    wanted = {"global": (0, 16), "tensor": (8, 8)}[ranking]
    assert (int(masks["small"].sum()), int(masks["large"].sum())) == wanted


def test_unstructured_zeros_stay_when_blocks_are_pruned_later():
    torch.manual_seed(0)
    parameters = {"w": nn.Parameter(torch.randn(4, 8))}
    masks = full_masks(parameters)
    masks["w"][1, 7] = masks["w"][0, 0] = False
    with torch.no_grad():
        parameters["w"][~masks["w"]] = 0
    for update in ("summed", "joint"):
        source, _ = source_of(random_gradients({"w": (4, 8)}, 20, dtype=torch.float32))
        config = ObertSettings(4, 8, 20, 1e-3, update=update)
        new = obert.prune(parameters, masks, source, config, 0.25, memory=BUDGET)
        assert not new["w"][~masks["w"]].any()
        assert parameters["w"][1, 7] == 0
        blocks = new["w"].reshape(-1, 4)
        assert int((~blocks.any(dim=1)).sum()) == 2


def prune_small(passed: FixedGradients, config: ObertSettings) -> dict[str, nn.Parameter]:
    parameters = {name: nn.Parameter(torch.ones(value.shape[1:])) for name, value in passed.stacked.items()}
    obert.prune(parameters, full_masks(parameters), source_of(passed)[0], config, 0.5, memory=BUDGET)
    return parameters


def test_gradients_that_are_all_zero_are_refused():
    config = ObertSettings(1, 4, 4, 1e-3)
    zero, some = torch.zeros(4, 2, 4), torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(TrainingError, match=r"all 4 gradients of all 2 tensors are zero \(a"):
        prune_small(FixedGradients({"a": zero, "b": zero}), config)
    # One tensor without influence is no fault: behind a pruned layer nothing else can come.
    assert not prune_small(FixedGradients({"a": zero, "b": some}), config)["a"].any()


def test_too_few_gradients_are_refused():
    with pytest.raises(TrainingError, match="3 gradients came where 4 were asked for"):
        prune_small(random_gradients({"a": (2, 4)}, 3), ObertSettings(1, 4, 4, 1e-3))


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_gradient_that_is_not_finite_names_its_tensor(bad):
    passed = random_gradients({"a": (2, 4), "b": (2, 4)}, 4)
    passed.stacked["b"][2, 1, 1] = bad
    with pytest.raises(TrainingError, match="gradient 3 of 4 of b is not finite"):
        prune_small(passed, ObertSettings(1, 4, 4, 1e-3))


@pytest.mark.parametrize("dampening", [1e-30, 1e-40])
@pytest.mark.parametrize("count", [4, 40])  # both sides of the identity
@pytest.mark.parametrize("update", ["summed", "joint", "eliminating"])
def test_a_dampening_that_blows_up_names_its_tensor_and_the_grid(dampening, count, update):
    passed = random_gradients({"a": (2, 8)}, count, dtype=torch.float32)
    passed.stacked["a"][:, :, :4] = passed.stacked["a"][:, :, :1]  # rank 1, which only λ makes invertible
    message = rf"inverse of a blows up at dampening {dampening:g} .*try 'dampening' \d.* 'relative_dampening'"
    with pytest.raises(TrainingError, match=message):
        prune_small(passed, ObertSettings(1, 4, count, dampening, update=update))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": 4, "fisher_block": 50}, "Fisher block of 50 weights does not hold whole blocks of 4"),
        ({"block": 0}, "whole blocks of 0"),
        ({"gradients": 0}, "0 gradients"),
        ({"recomputations": 0}, "0 recomputations"),
        ({"dampening": 0.0}, "dampening is 0"),
        ({"dampening": float("inf")}, "dampening is inf"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    good = {"block": 1, "fisher_block": 50, "gradients": 4, "dampening": 1e-7}
    with pytest.raises(TrainingError, match=message):
        ObertSettings(**(good | change))


def test_blocks_that_do_not_divide_a_row_are_refused():
    parameters = {"w": nn.Parameter(torch.ones(4, 6))}
    source, calls = source_of(random_gradients({"w": (4, 6)}, 4))
    with pytest.raises(ModelError, match="w has rows of 6 weights"):
        obert.prune(parameters, full_masks(parameters), source, ObertSettings(4, 32, 4, 1e-3), 0.5)
    assert calls == []


def test_nothing_to_prune_is_refused():
    with pytest.raises(TrainingError, match="no tensor to prune"):
        obert.prune(
            {}, {}, source_of(random_gradients({"w": (1, 1)}, 1))[0], ObertSettings(1, 4, 4, 1e-3), 0.5
        )
