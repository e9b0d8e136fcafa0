"""The fast path: mask gradients, search, swaps, least squares, and that what is pruned has no influence."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert_compress import checkpoint as checkpoints
from edgebert_compress.architecture import HEADS, layer_list, prunable_parameters
from edgebert_compress.data import silent
from edgebert_compress.errors import ModelError, TrainingError
from edgebert_compress.kcm import choose, fast_compress, unit_costs
from edgebert_compress.kcm_search import rearrange, search
from edgebert_compress.kcm_tuning import first_calls, normal_equations, run_whole, solve, tune, tune_half
from edgebert_compress.kcm_units import halves, mask_gradients, masked, remove
from edgebert_compress.loading import load_model
from edgebert_compress.recipe import FastStage, QuantizeStage, Training
from edgebert_compress.stages import run_stage
from edgebert_compress.tasks import get_task
from tests.compress.task_models import Folders, make_task_checkpoint, random_data
from tests.factories import ARCHITECTURES

TASK = get_task("text-classification")
INT8 = QuantizeStage(training=Training(epochs=0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Folders:
    return Folders(tmp_path_factory.mktemp("kcm"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_task_checkpoint(
        tmp_path_factory.mktemp("kcm") / "two", "text-classification", layers=2, heads=4
    )


def classifier(folder):
    return load_model(folder, TASK.name)[0]


def logits(model, data):
    with torch.no_grad():
        return model(**TASK.collate(model, data, range(len(data))).inputs).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mask_gradients_equal_scaling_each_unit_of_each_example_by_hand(folders, architecture):
    model = load_model(folders["text-classification", architecture], TASK.name)[0].double()
    data = random_data(3, seed=1)
    found = mask_gradients(model, TASK, data, [[0, 1], [2]])
    step = 1e-5
    for index, half in enumerate(halves(model)[0]):
        for unit in (0, half.units - 1):
            columns = half.consumer.weight.data[:, unit * half.size : (unit + 1) * half.size]
            losses = []
            for factor in (1 + step, (1 - step) / (1 + step)):
                columns *= factor  # scaling what the consumer reads
                losses.append(
                    [
                        TASK.loss(model(**batch.inputs), batch).item()
                        for batch in (TASK.collate(model, data, [row]) for row in range(3))
                    ]
                )
            columns /= 1 - step
            expected = (np.array(losses[0]) - np.array(losses[1])) / (2 * step)
            np.testing.assert_allclose(found[0][index][:, unit], expected, rtol=1e-4, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(0, 5), st.floats(0.2, 3), st.floats(0, 1), st.integers(0, 10**6))
def test_search_loses_as_little_as_trying_every_mask(heads, groups, head_cost, share, seed):
    rng = np.random.default_rng(seed)
    importance = rng.exponential(size=heads + groups)
    cost = np.array([head_cost] * heads + [1.0] * groups)
    budget = share * cost.sum()
    found = np.concatenate(search(importance[:heads], importance[heads:], head_cost, 1.0, budget))
    assert cost[found].sum() <= budget * (1 + 1e-6) + 1e-12
    possible = [np.array(mask, bool) for mask in product([False, True], repeat=heads + groups)]
    best = max((importance[mask].sum() for mask in possible if cost[mask].sum() <= budget), default=0.0)
    assert importance[found].sum() >= best - 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 10**6))
def test_swaps_never_lose_more_and_keep_as_many(units, pruned, seed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(20, 3)) @ rng.normal(size=(3, units)) + 0.1 * rng.normal(size=(20, units))
    mask = np.ones(units, bool)
    mask[np.argsort((gradients**2).sum(axis=0))[: min(pruned, units)]] = False

    def lost(kept):
        return (gradients[:, ~kept].sum(axis=1) ** 2).mean()

    found = rearrange(mask, gradients)
    assert found.sum() == mask.sum()
    assert lost(found) <= lost(mask) * (1 + 1e-9) + 1e-12


def test_a_swap_finds_two_units_that_cancel_out():
    signal = np.random.default_rng(0).normal(size=200)
    gradients = np.stack([signal, 0.9 * signal, -1.1 * signal, 5 * signal], axis=1)
    mask = np.array([False, False, True, True])  # by the diagonal: the small ones go
    best = min(combinations(range(4), 2), key=lambda two: (gradients[:, two].sum(axis=1) ** 2).mean())
    assert best == (0, 2)
    assert rearrange(mask, gradients).tolist() == [False, True, False, True]


@pytest.mark.parametrize("half_index", [0, 1])
def test_coefficients_equal_least_squares_over_all_tokens(folder, half_index):
    whole, model = classifier(folder), classifier(folder)
    data, batches = random_data(40, seed=2), [list(range(start, start + 8)) for start in range(0, 40, 8)]
    half = halves(model)[0][half_index]
    keep = np.ones(half.units, bool)
    keep[::3] = False
    remove(half, keep)
    with torch.no_grad():
        wanted = run_whole(halves(whole)[0], layer_list(whole)[0], first_calls(whole, TASK, data, batches))
        calls = first_calls(model, TASK, data, batches)
        gram, right, missing, _ = normal_equations(half, layer_list(model)[0], calls, wanted[half_index])

        # the same as one tall matrix: a column for each coefficient, a row for each token and output channel
        reads, sums = [], []
        handles = [
            half.consumer.register_forward_pre_hook(lambda m, inputs: reads.append(inputs[0])),
            half.norm.register_forward_pre_hook(lambda m, inputs: sums.append(inputs[0])),
        ]
        for call in calls:
            call.run(layer_list(model)[0])
        for handle in handles:
            handle.remove()
        flat = torch.cat([read[call.attended] for read, call in zip(reads, calls, strict=True)]).double()
        gap = torch.cat(
            [
                target - total[call.attended]
                for target, total, call in zip(wanted[half_index], sums, calls, strict=True)
            ]
        ).double()
    weight = half.consumer.weight.detach().double()
    tall = torch.einsum("tk,ok->tok", flat, weight)
    tall = tall.reshape(len(flat), len(weight), -1, half.tuned).sum(dim=3).reshape(-1, len(right)).numpy()
    chosen = np.repeat(keep, half.size // half.tuned)
    alone = np.linalg.lstsq(tall[:, chosen], gap.reshape(-1).numpy(), rcond=None)[0]
    found = solve(gram, right, chosen, ridge=0.0)
    np.testing.assert_allclose(found[chosen], alone, rtol=2e-3, atol=2e-4)
    assert not found[~chosen].any()
    assert missing == pytest.approx(float(gap.square().sum()), rel=1e-4)


def test_tuning_brings_every_half_nearer_and_reports_the_true_error(folder):
    whole, model = classifier(folder), classifier(folder)
    data, batches = random_data(32, seed=3), [list(range(16)), list(range(16, 32))]
    half = halves(model)[0][1]
    keep = np.arange(half.units) % 2 == 0
    remove(half, keep)
    with torch.no_grad():
        wanted = run_whole(halves(whole)[0], layer_list(whole)[0], first_calls(whole, TASK, data, batches))[1]
        calls = first_calls(model, TASK, data, batches)
        found = tune_half(half, keep, layer_list(model)[0], calls, wanted)
        _, _, missing, scale = normal_equations(half, layer_list(model)[0], calls, wanted)
    assert found.after < found.before
    assert found.after == pytest.approx(missing / scale, rel=1e-3)
    assert not found.fell_back


def test_coefficients_out_of_range_fall_back_to_ones(folder):
    model = classifier(folder)
    data, batches = random_data(8, seed=3), [list(range(8))]
    half = halves(model)[0][1]
    before = half.consumer.weight.detach().clone()
    calls = first_calls(model, TASK, data, batches)
    with torch.no_grad():
        far = [1000 * total for total in run_whole(halves(model)[0], layer_list(model)[0], calls)[1]]
    calls = first_calls(model, TASK, data, batches)
    found = tune_half(half, np.ones(half.units, bool), layer_list(model)[0], calls, far)
    assert found.fell_back and found.after == found.before
    assert torch.equal(half.consumer.weight, before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_removing_units_is_the_same_as_masking_them(folders, architecture):
    model = load_model(folders["text-classification", architecture], TASK.name)[0]
    data = random_data(5, seed=4)
    parts = halves(model)[0]
    keeps = [np.array([True, False]), np.arange(parts[1].units) % 3 > 0]
    masks = [torch.from_numpy(keep).float().expand(len(data), -1) for keep in keeps]
    with masked(parts, masks):
        expected = logits(model, data)
    dense = logits(model, data)
    for half, keep in zip(parts, keeps, strict=True):
        remove(half, keep)
    torch.testing.assert_close(logits(model, data), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(dense, expected, atol=1e-3)


def test_pruned_units_have_no_influence_and_zeros_come_in_blocks_of_four(folder):
    model = classifier(folder)
    data = random_data(64, seed=5)
    facts = fast_compress(model, TASK, data, keep=0.5, samples=48)
    assert 0.45 < facts.kept <= 0.5 and facts.examples == 48
    expected = logits(model, data)
    for (attention, ffn), heads, units in zip(halves(model), facts.heads, facts.units, strict=True):
        for half, kept in ((attention, heads * attention.size), (ffn, units)):
            dead = (half.consumer.weight == 0).all(dim=0)
            assert int((~dead).sum()) == kept
            for producer in half.producers:
                assert not producer.weight[dead].any() and not producer.bias[dead].any()
            with torch.no_grad():
                half.consumer.weight[:, ~dead] += 0  # what is alive stays
                for producer in half.producers:
                    producer.weight[dead] = torch.randn_like(producer.weight[dead])
    torch.testing.assert_close(logits(model, data), expected)
    again = classifier(folder)
    fast_compress(again, TASK, data, keep=0.5, samples=48)
    for (name, first), second in zip(
        prunable_parameters(again).items(), prunable_parameters(model).values(), strict=True
    ):
        if "output" in name:
            assert torch.equal(first, second), name  # deterministic, and untouched by what was put in above


@pytest.mark.parametrize("task_name", list(HEADS))
def test_every_task_and_the_written_folder(folders, task_name, tmp_path):
    task = get_task(task_name)
    data = random_data(12, seed=6)
    source = folders[task_name, "bert"]
    run_stage(source, tmp_path / "float", FastStage(0.6, 8), data, None, 7, silent, task=task)
    run_stage(tmp_path / "float", tmp_path / "fast", INT8, data, None, 7, silent, task=task)
    loaded = checkpoints.load(tmp_path / "fast", task_name)
    record = loaded.record
    assert record.quantization["attention"] == "int8-dynamic"
    assert [row["kind"] for row in record.recipe["stages"]] == ["fast", "quantize"]
    fast = record.stages[0]["fast"]
    assert fast["kept"] <= 0.6 and fast["examples"] == 8
    assert record.seed == 7
    for name, row in record.sparsity.items():
        blocks = (loaded.model.get_parameter(name) == 0).reshape(-1, 4)
        assert row["pattern"] == "4-block"
        # rounding to INT8 makes some more zeros
        assert int(blocks.all(dim=1).sum()) * 4 <= row["zeros"] == int(blocks.sum())
        gone = (
            64 - fast["units"][0]
            if "intermediate" in name or "r.0.output" in name
            else 32 - 16 * fast["heads"][0]
        )
        assert int(blocks.all(dim=1).sum()) * 4 >= gone * 32


def test_float_output_keeps_earlier_zeros(folder, tmp_path):
    model = classifier(folder)
    weight = halves(model)[0][1].producers[0].weight
    with torch.no_grad():
        weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = 0
    model.save_pretrained(tmp_path / "sparse")
    run_stage(
        tmp_path / "sparse", tmp_path / "fast", FastStage(0.7), random_data(12, seed=6), None, 0, silent
    )
    loaded = checkpoints.load(tmp_path / "fast")
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert loaded.record.sparsity[name]["pattern"] == "unstructured"
    assert loaded.record.quantization is None
    assert bool((loaded.model.get_parameter(name)[weight == 0] == 0).all())


def test_nothing_removed_leaves_the_model_as_it_is(folder):
    whole, model = classifier(folder), classifier(folder)
    data = random_data(16, seed=8)
    kept = [(np.ones(pair[0].units, bool), np.ones(pair[1].units, bool)) for pair in halves(model)]
    tune(model, whole, kept, TASK, data, [list(range(16))])
    torch.testing.assert_close(logits(model, data), logits(whole, data), rtol=1e-4, atol=1e-4)


def test_costs_and_the_budget_they_are_held_against(folder):
    model = classifier(folder)
    costs = unit_costs(halves(model)[0], 10.0)
    assert costs == (10 * 8 * (4 * 32 + 2 * 10), 10 * 4 * 2 * 32)
    gradients = [(np.ones((3, 4)), np.ones((3, 16)))] * 2
    kept = choose(gradients, costs, 1.0)
    assert all(mask.all() for pair in kept for mask in pair)


def test_refuses_shares_and_widths_that_make_no_sense(folder, tmp_path):
    model, data = classifier(folder), random_data(4, seed=0)
    for keep in (0.0, 1.0, float("nan")):
        with pytest.raises(TrainingError, match="'keep'"):
            fast_compress(model, TASK, data, keep=keep)
    with pytest.raises(TrainingError, match="samples"):
        fast_compress(model, TASK, data, keep=0.5, samples=0)
    odd = make_task_checkpoint(tmp_path / "odd", "text-classification", layers=1, intermediate=66)
    with pytest.raises(ModelError, match="66 wide"):
        fast_compress(classifier(odd), TASK, data, keep=0.5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tuning_lowers_the_error_in_every_family(folders, architecture):
    model = load_model(folders["text-classification", architecture], TASK.name)[0]
    facts = fast_compress(model, TASK, random_data(32, seed=9), keep=0.6)
    assert facts.kept <= 0.6
    assert sum(half.after for half in facts.tuning) < sum(half.before for half in facts.tuning)
    assert all(half.after <= half.before * (1 + 1e-9) for half in facts.tuning)
