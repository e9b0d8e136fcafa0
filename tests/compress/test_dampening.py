"""Relative dampening: λ as a multiple of each tensor's mean squared gradient, against closed forms."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgebert_compress import obert
from edgebert_compress.data import silent
from edgebert_compress.errors import RecipeError, TrainingError
from edgebert_compress.masks import full_masks
from edgebert_compress.obert import ObertSettings
from edgebert_compress.recipe import PruneStage, Recipe, Training, recipe_from_dict
from edgebert_compress.stages import run_stage
from tests.compress.conftest import tokenized
from tests.compress.fisher_problems import FixedGradients, constrained_minimiser, random_gradients, source_of
from tests.factories import LABELS, make_checkpoint

BUDGET = 1 << 30
SHAPES = {"small": (3, 8), "large": (4, 12)}
DOUBLE = torch.float64


def problem(seed: int, count: int, scale: float = 1.0) -> tuple[FixedGradients, dict[str, nn.Parameter]]:
    """Two tensors whose gradients differ by three orders of magnitude, all times `scale`."""
    passed = random_gradients(SHAPES, count, seed)
    for name, own in (("small", 1e-4), ("large", 0.1)):
        passed.stacked[name] *= own * scale
    generator = torch.Generator().manual_seed(seed)
    return passed, {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=DOUBLE))
        for name, shape in SHAPES.items()
    }


def pruned(passed, parameters, config, target, masks=None):
    """Masks, and λ of every estimate."""
    used: list[dict[str, float]] = []
    masks = full_masks(parameters) if masks is None else masks
    new = obert.prune(
        parameters, masks, source_of(passed)[0], config, target, memory=BUDGET,
        dampened=lambda found: used.append(dict(found)),
    )  # fmt: skip
    return new, used


@settings(max_examples=25, deadline=None)
@given(
    share=st.sampled_from([1e-3, 0.1, 3.0]),
    count=st.integers(1, 30),
    block=st.sampled_from([1, 4]),
    update=st.sampled_from(["summed", "joint", "eliminating"]),
    seed=st.integers(0, 1000),
)
def test_two_steps_use_the_mean_square_of_what_is_kept(share, count, block, update, seed):
    """The second step against the minimiser under λ from the closed form, without the pruned weights."""
    passed, parameters = problem(seed, count)
    config = ObertSettings(block, 4, count, share, update=update, dtype=DOUBLE, relative=True)
    masks, (first,) = pruned(passed, parameters, config, 0.3)
    start = {name: value.detach().reshape(-1).numpy().copy() for name, value in parameters.items()}
    new, (second,) = pruned(passed, parameters, config, 0.6, masks)
    for name, stacked in passed.stacked.items():
        assert first[name] == pytest.approx(share * float(stacked.square().mean()), rel=1e-7)
        kept, flat = masks[name].reshape(-1).numpy(), stacked.reshape(count, -1).numpy()
        wanted = share * (flat[:, kept] ** 2).mean() if kept.any() else 1e-30
        assert second[name] == pytest.approx(wanted, rel=1e-7)
        gone = ~new[name].reshape(-1).numpy() & kept
        move = np.zeros(len(kept))
        for at in range(0, len(kept), 4):
            part = slice(at, at + 4)
            own = np.where(kept[part], flat[:, part], 0)
            hessian = own.T @ own / count + second[name] * np.eye(4)
            units = (
                [gone[part]]
                if update != "summed"
                else list(np.diag(gone[part]))
                if block == 1
                else [gone[part]]
            )
            for unit in units:
                if unit.any():
                    move[part] += constrained_minimiser(hessian, start[name][part], unit)
        expected = np.where(new[name].reshape(-1).numpy(), start[name] + move, 0)
        found = parameters[name].detach().reshape(-1).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    scale=st.floats(1e-9, 1e9),
    count=st.sampled_from([3, 20]),
    block=st.sampled_from([1, 4]),
    update=st.sampled_from(["summed", "joint", "eliminating"]),
    seed=st.integers(0, 1000),
)
def test_scaling_all_gradients_changes_nothing(scale, count, block, update, seed):
    config = ObertSettings(block, 4, count, 0.1, recomputations=2, update=update, dtype=DOUBLE, relative=True)
    plain, one = problem(seed, count)
    scaled, other = problem(seed, count, scale)
    masks, before = pruned(plain, one, config, 0.6)
    same, after = pruned(scaled, other, config, 0.6)
    for name in SHAPES:
        assert torch.equal(masks[name], same[name])
        torch.testing.assert_close(one[name].detach(), other[name].detach(), rtol=1e-5, atol=1e-7)
        for a, b in zip(before, after, strict=True):
            assert b[name] / a[name] == pytest.approx(scale**2, rel=1e-7)


def test_a_fixed_dampening_does_not_follow_the_gradients():
    """What the relative one is for: 100 times smaller gradients, and the same λ prunes by magnitude."""
    config = ObertSettings(1, 4, 20, 1e-3, dtype=DOUBLE)
    found = []
    for scale in (1.0, 1e-2):
        passed, parameters = problem(3, 20, scale)
        found.append(pruned(passed, parameters, config, 0.6)[0])
    assert any(not torch.equal(found[0][name], found[1][name]) for name in SHAPES)


@pytest.mark.parametrize("update", ["summed", "joint", "eliminating"])
def test_a_tensor_without_gradients_goes_first_by_magnitude(update):
    passed, parameters = problem(0, 6)
    passed.stacked["small"].zero_()
    passed.stacked["small"] = passed.stacked["small"].float()
    passed.stacked["large"] = passed.stacked["large"].float()
    before = {name: value.detach().clone() for name, value in parameters.items()}
    config = ObertSettings(1, 4, 6, 0.1, update=update, relative=True)
    masks, (used,) = pruned(passed, parameters, config, 12 / 72)
    assert used["small"] == 1e-30
    assert bool(masks["large"].all())
    limit = before["small"].abs().reshape(-1).sort().values[12]
    assert torch.equal(masks["small"], before["small"].abs() >= limit)
    assert torch.equal(parameters["small"].detach(), before["small"] * masks["small"])
    assert torch.equal(parameters["large"].detach(), before["large"])


def test_gradients_that_are_all_zero_or_vanish_are_refused():
    config = ObertSettings(1, 4, 6, 0.1, relative=True)
    for scale, message in ((0.0, "all 6 gradients of all 2 tensors are zero"), (1e-20, "1/λ is no float32")):
        passed, parameters = problem(0, 6, scale)
        passed.stacked = {name: value.float() for name, value in passed.stacked.items()}
        with pytest.raises(TrainingError, match=message):
            pruned(passed, parameters, config, 0.5)


@pytest.mark.parametrize("relative", [False, True])
def test_the_record_holds_the_dampening_of_every_estimate(tmp_path, relative):
    raw = make_checkpoint(tmp_path / "raw", layers=1)
    given_one = {"relative_dampening": 0.1} if relative else {"dampening": 1e-5}
    stage = PruneStage(
        sparsity=0.5, steps=2, gradients=8, gradient_batch_size=4, recomputations=2, **given_one,
        training=Training(epochs=1, batch_size=16),
    )  # fmt: skip
    run_stage(raw, tmp_path / "out", stage, tokenized(raw, 64, seed=0), None, 0, silent, labels=LABELS)
    (record,) = json.loads((tmp_path / "out" / "compression.json").read_text())["stages"]
    curve = record["dampening_curve"]
    assert [step for step, _, _ in curve] == [0, 0, 2, 2]
    if not relative:
        assert all(values == [1e-5, 1e-5] for _, *values in curve)
        return
    assert all(0 < low < high for _, low, high in curve)
    assert len({low for _, low, _ in curve}) == 4  # the gradients change, and λ with them


def test_a_recipe_gives_one_of_the_two():
    assert (PruneStage().dampening_value, PruneStage().relative_dampening) == (1e-7, None)
    assert PruneStage(dampening=1e-6).dampening_value == 1e-6
    assert PruneStage(relative_dampening=0.1).dampening_value == 0.1
    with pytest.raises(RecipeError, match="say the same thing twice"):
        PruneStage(dampening=1e-7, relative_dampening=0.1)
    for value in (0.0, float("nan"), -1.0):
        with pytest.raises(RecipeError, match="'relative_dampening' must be above 0"):
            PruneStage(relative_dampening=value)
    recipe = Recipe("mine", (PruneStage(relative_dampening=0.1),))
    assert recipe_from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert "dampening" not in recipe.as_dict()["stages"][0]
