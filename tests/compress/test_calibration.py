"""Calibration against hooks, numpy's quantiles and a dense grid of ranges."""

import numpy as np
import pytest
import torch
from torch import nn

from edgebert_compress import calibration, quantize
from edgebert_compress.activation_ranges import LearnedRange, range_between
from edgebert_compress.architecture import FAMILIES
from edgebert_compress.errors import TrainingError
from edgebert_compress.loading import load_model
from edgebert_compress.tasks import TEXT_CLASSIFICATION, get_task
from tests.compress.conftest import tokenized
from tests.compress.task_models import TASKS, Folders, random_data
from tests.factories import ARCHITECTURES, make_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("source") / "m")
    return folder, tokenized(folder, 60, seed=0)


def calibrated(source, method, examples=40, seed=0):
    folder, data = source
    model, _ = load_model(folder, "text-classification")
    quantize.prepare(model)
    calibration.calibrate(model, method, TEXT_CLASSIFICATION, data, examples=examples, seed=seed)
    return model


def samples(kind):
    rng = np.random.default_rng(5)
    normal = rng.normal(size=20_000)
    found = {
        "normal": normal,
        "heavy": normal**3,
        "outlier": np.concatenate([normal, [-300.0, 80.0]]),
        "gelu": torch.nn.functional.gelu(torch.from_numpy(normal * 2)).numpy(),
        "positive": np.abs(normal),
        "two": np.concatenate([rng.normal(-4, 0.1, 9000), rng.normal(1, 0.3, 9000)]),
        "few": np.array([-1.0, 0.25, 2.0]),
    }
    return found[kind].astype(np.float32)


KINDS = ("normal", "heavy", "outlier", "gelu", "positive", "two", "few")


def histogram(x):
    seen = calibration._Histogram(float(min(x.min(), 0)), float(max(x.max(), 0)))
    for part in np.array_split(x, 3):
        assert torch.equal(seen(torch.from_numpy(part)), torch.from_numpy(part))
    assert seen.counts.sum() == len(x)
    return seen


def true_error(x, ends):
    found = range_between(*ends)
    steps = np.rint(x.astype(np.float64) / found.scale)
    whole = np.clip(steps, -128 - found.zero_point, 127 - found.zero_point)
    return float(np.square(whole * found.scale - x).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_least_squared_error_is_that_of_a_dense_grid(kind):
    x = samples(kind)
    found = calibration._ends("mse", histogram(x))
    low, high = float(min(x.min(), 0)), float(max(x.max(), 0))
    shares = np.geomspace(1 / 100, 1, 45)
    grid = min(
        true_error(x, (a * low, b * high))
        for a in (shares if low else [1.0])
        for b in (shares if high else [1.0])
    )
    assert low <= found[0] <= 0 <= found[1] <= high
    assert true_error(x, found) <= 1.02 * grid + 1e-9
    if kind == "outlier":
        assert true_error(x, found) <= true_error(x, (low, high))


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99])
def test_percentiles_are_numpy_s(kind, percentile):
    x = samples(kind)
    seen = histogram(x)
    found = calibration.percentile_ends(seen.middles(), seen.counts, seen.low, seen.high, percentile)
    width = (seen.high - seen.low) / calibration.BINS
    for end, share, method in (
        (0, 1 - percentile / 100, "higher"),
        (1, percentile / 100, "lower"),
    ):
        expected = float(np.quantile(x, share, method=method))
        around = np.sort(np.abs(x - expected))[:5].max()  # two values up or down
        expected = min(expected, 0.0) if end == 0 else max(expected, 0.0)
        assert abs(found[end] - expected) <= width + around


def extremes_by_hooks(source, examples, seed):
    """Of a plain model with the INT8 weights' values, text by text."""
    folder, data = source
    model, _ = load_model(folder, "text-classification")
    seen = {}

    def hook(name):
        def see(module, arguments, out):
            for end, x in (("input", arguments[0]), ("output", out)):
                low, high = seen.get((name, end), (0.0, 0.0))
                seen[name, end] = (min(low, float(x.min())), max(high, float(x.max())))

        return see

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                module.weight.copy_(quantize.quantize_rows(module.weight).dequantize())
            if isinstance(module, nn.Linear):
                module.register_forward_hook(hook(name))
        for index in torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:examples]:
            model(**TEXT_CLASSIFICATION.collate(model, data, [int(index)]).inputs)
    return seen


def test_extremes_are_those_that_hooks_see_without_padding(source):
    found = quantize.static_ranges(calibrated(source, "min-max", seed=3))
    expected = extremes_by_hooks(source, 40, seed=3)
    assert {name for name, _ in expected} == set(found)
    for (name, end), ends in expected.items():
        got, want = getattr(found[name], end), range_between(*ends)
        assert got.scale == pytest.approx(want.scale, rel=1e-5), name
        assert abs(got.zero_point - want.zero_point) <= 1


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_other_methods_lie_within_the_extremes(source, method):
    widest = quantize.static_ranges(calibrated(source, "min-max"))
    found = quantize.static_ranges(calibrated(source, method))
    assert found != widest
    for name, ranges in found.items():
        for end in ("input", "output"):
            assert getattr(ranges, end).scale <= getattr(widest[name], end).scale * 1.000001


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("task", TASKS)
def test_every_linear_layer_of_every_task_has_ranges(folders, task, architecture):
    model, _ = load_model(folders[task, architecture], task)
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantize.prepare(model)
    calibration.calibrate(model, "learned", get_task(task), random_data(12, 0), examples=12)
    found = quantize.static_ranges(model)
    assert set(found) == linears
    query, key, value, *_ = (f"{FAMILIES[architecture][0]}.0.{name}" for name in FAMILIES[architecture][1])
    layers = quantize.linear_layers(model)
    assert layers[query].input_range is layers[key].input_range is layers[value].input_range
    own = [layer.output_range for layer in layers.values()]
    assert len(set(map(id, own))) == len(own)
    learned = sum(isinstance(module, LearnedRange) for module in model.modules())
    assert len([name for name, _ in model.named_parameters() if "growth" in name]) == 2 * learned


def test_one_seed_gives_one_result_and_leaves_the_random_state(source):
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, again, other = (quantize.static_ranges(calibrated(source, "mse", 20, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_hold_texts_of_one_length():
    data = random_data(100, 0)
    batches = calibration.calibration_batches(data, 80, seed=0)
    drawn = [index for batch in batches for index in batch]
    assert len(drawn) == len(set(drawn)) == 80
    assert all(len({len(data.input_ids[index]) for index in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) <= calibration.BATCH


def one_line(caught):
    assert "\n" not in str(caught.value)


def test_too_few_examples_are_refused(source):
    with pytest.raises(TrainingError, match=r"need 61 .* has 60; .*'calibration_examples'") as caught:
        calibrated(source, "mse", examples=61)
    one_line(caught)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused_by_name(source, value):
    folder, data = source
    model, _ = load_model(folder, "text-classification")
    quantize.prepare(model)
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.bias[3] = value
    with pytest.raises(TrainingError, match=r"output of .*intermediate\.dense is not finite") as caught:
        calibration.calibrate(model, "mse", TEXT_CLASSIFICATION, data, examples=8)
    one_line(caught)
