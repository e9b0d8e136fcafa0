"""Static ranges against scalar code, PyTorch's own quantisers and integer arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from edgebert_compress import quantize
from edgebert_compress.activation_ranges import (
    LEVELS,
    ActivationRange,
    FixedRange,
    LearnedRange,
    StaticRanges,
    range_between,
    static_integers,
)

numbers = st.floats(-1e4, 1e4, width=32)
vectors = hnp.arrays(np.float32, st.integers(1, 30), elements=numbers)
ranges = st.builds(
    ActivationRange,
    st.floats(np.float32(1e-4), 100, width=32),
    st.integers(-128, 127),
)


@settings(max_examples=200, deadline=None)
@given(numbers, numbers)
def test_a_range_reaches_its_ends_and_holds_zero(first, second):
    low, high = min(first, second, 0.0), max(first, second, 0.0)
    found = range_between(low, high)
    assert found.scale == np.float32(found.scale) > 0
    assert -128 <= found.zero_point <= 127
    reach = [found.scale * (end - found.zero_point) for end in (-128, 127)]
    room = (0.5 + 1e-3) * found.scale  # the zero point is rounded
    assert reach[0] - room <= low and high <= reach[1] + room
    if low < high > 1e-20:
        assert found.scale == pytest.approx((high - low) / 255, rel=1e-6)


def test_ends_that_are_not_finite_are_refused():
    for ends in ((0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="range"):
            range_between(*ends)
    assert range_between(0.0, 0.0).scale == 1.0
    assert range_between(2.0, 3.0) == range_between(0.0, 3.0)


@settings(max_examples=200, deadline=None)
@given(vectors, ranges)
def test_integers_match_scalar_code(x, found):
    fixed = FixedRange(found)
    got = static_integers(torch.from_numpy(x), fixed.scale, fixed.zero_point).numpy()
    inverse = np.float32(1) / np.float32(found.scale)
    for value, integer in zip(x, got, strict=True):
        whole = round(float(np.float32(value * inverse)))  # Python rounds half to even
        assert integer == min(max(whole + found.zero_point, -128), 127) - found.zero_point


@settings(max_examples=100, deadline=None)
@given(vectors, ranges)
def test_a_fixed_range_is_pytorch_s_fake_quantize(x, found):
    mine, theirs = (torch.from_numpy(x).requires_grad_() for _ in range(2))
    got = FixedRange(found)(mine)
    expected = torch.fake_quantize_per_tensor_affine(theirs, found.scale, found.zero_point, -128, 127)
    assert torch.equal(got, expected)
    got.sum().backward()
    expected.sum().backward()
    assert torch.equal(mine.grad, theirs.grad)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float32, 40, elements=st.floats(-60, 60, width=32)), st.integers(0, 126), st.data())
def test_gradients_of_learned_ends_are_pytorch_s_by_the_chain_rule(x, zero_point, data):
    """scale = (high - low) / 255, zero_point = -128 - low / scale, here a whole number.

    From 0 up: PyTorch's gradient cuts the fraction off zero_point + 0.5, which is one off below 0.
    """
    step = 0.25
    low, high = step * (-128 - zero_point), step * (127 - zero_point)
    seen = torch.from_numpy(data.draw(hnp.arrays(np.float32, 40, elements=st.floats(-1, 1, width=32))))
    learned = LearnedRange(low, high)
    mine, theirs = (torch.from_numpy(x).requires_grad_() for _ in range(2))
    ends = learned.ends()
    for end in ends:
        end.retain_grad()
    learned.ends = lambda: ends
    (learned(mine) * seen).sum().backward()
    scale, zero = torch.tensor([step], requires_grad=True), torch.tensor([zero_point + 0.0]).requires_grad_()
    out = torch._fake_quantize_learnable_per_tensor_affine(theirs, scale, zero, -128, 127, 1.0)
    (out * seen).sum().backward()
    width = high - low
    to_low = -scale.grad / LEVELS - zero.grad * LEVELS * high / width**2
    to_high = scale.grad / LEVELS + zero.grad * LEVELS * low / width**2
    factor = (len(x) * LEVELS) ** -0.5
    torch.testing.assert_close(mine.grad, theirs.grad)
    torch.testing.assert_close(ends[0].grad, factor * to_low[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ends[1].grad, factor * to_high[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", [0.1, 30.0])
def test_learning_finds_the_range_of_least_error(start):
    """From a tenth of the best range and from thirty times as much."""
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    learned = LearnedRange(-start, 2 * start)
    adam = torch.optim.Adam(learned.parameters(), lr=3e-3)

    def error(layer):
        return (layer(x) - x).square().mean()

    before = error(learned).item()
    for _ in range(400):
        adam.zero_grad()
        error(learned).backward()
        adam.step()
    best = min(error(FixedRange(range_between(-end, end))).item() for end in np.linspace(1, 5, 81))
    assert error(learned).item() < 1.5 * best < 0.05 * before


def test_what_was_learned_is_what_is_exported():
    learned = LearnedRange(-1.3, 2.7)
    with torch.no_grad():
        learned.low_growth += 0.011
        learned.high_growth -= 0.007
    x = torch.randn(500, generator=torch.Generator().manual_seed(1)) * 2
    assert torch.equal(learned(x), FixedRange(learned.found())(x))
    assert learned.found() != range_between(-1.3, 2.7)


def test_an_end_at_zero_stays_there():
    learned = LearnedRange(0.5, 2.0)  # low is lowered to 0
    (learned(torch.randn(100)) ** 2).sum().backward()
    assert learned.low_growth.grad == 0 != learned.high_growth.grad
    assert learned.found() == range_between(0.0, 2.0)


def layer_of(rows, columns, seed):
    torch.manual_seed(seed)
    layer = nn.Linear(columns, rows)
    with torch.no_grad():
        layer.weight[1] = 0.0
        layer.bias[2] = 500.0
    return quantize.QuantLinear(layer)


def set_ranges(layer, found):
    layer.input_range, layer.output_range = FixedRange(found.input), FixedRange(found.output)


@pytest.mark.parametrize("seed", range(3))
def test_fixed_linear_is_integer_arithmetic(seed):
    """int32 sums, int32 biases, one float32 factor a row: what docs/formats.md says, the long way."""
    layer = layer_of(16, 384, seed)
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(4, 7, 384, generator=generator)
    found = StaticRanges(range_between(-8.0, 9.5), range_between(-5.0, 4.0))
    set_ranges(layer, found)
    model = nn.Sequential(layer)
    tensor = quantize.export(model)["0.weight"]
    layer.fix(tensor, found)
    with torch.inference_mode():
        got = layer(x).numpy()
    s_in, s_out = np.float32(found.input.scale), np.float32(found.output.scale)
    q = np.rint(x.numpy() * (np.float32(1) / s_in)).astype(np.int64) + found.input.zero_point
    centred = np.clip(q, -128, 127) - found.input.zero_point
    step = s_in * tensor.scale.numpy()
    bias = np.rint(layer.bias.detach().numpy() / step).astype(np.int64)
    sums = centred @ tensor.values.numpy().astype(np.int64).T + bias
    assert np.abs(bias).max() <= 1 << 24
    factor = step / s_out
    assert factor.min() >= 2.0**-24.01
    assert factor.max() < 256
    q = np.rint(sums.astype(np.float32) * factor).astype(np.int64) + found.output.zero_point
    expected = s_out * (np.clip(q, -128, 127) - found.output.zero_point).astype(np.float32)
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(got)) > 100
    assert (got[..., 2] == got.max()).all()  # a bias of 500 is out of range


def test_training_and_fixed_forms_agree_to_a_step():
    layer = layer_of(16, 64, 0)
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    found = StaticRanges(range_between(-2.5, 3.0), range_between(-1.5, 1.5))
    set_ranges(layer, found)
    with torch.no_grad():
        trained = layer(x)
        layer.fix(quantize.export(nn.Sequential(layer))["0.weight"], found)
        steps = (layer(x) - trained).abs() / found.output.scale
    assert steps.max() <= 1.001
    assert (steps > 0.5).float().mean() < 0.02
    expected = nn.functional.linear(x.clamp(-2.5, 3.0), layer.weight, layer.bias)
    inside = expected.abs() < 1.4
    assert (trained - expected)[inside].abs().max() < 0.05


def test_a_row_of_zeros_keeps_its_bias():
    layer = layer_of(4, 8, 0)
    with torch.no_grad():
        layer.bias[1] = 0.3
    found = StaticRanges(range_between(-40.0, 40.0), range_between(-1.0, 1.0))
    set_ranges(layer, found)
    layer.fix(quantize.export(nn.Sequential(layer))["0.weight"], found)
    with torch.no_grad():
        assert (layer(torch.randn(3, 8))[:, 1] - 0.3).abs().max() <= found.output.scale / 2


def test_a_layer_without_ranges_stays_dynamic():
    layer = layer_of(4, 8, 0)
    assert layer.ranges() is None
    assert quantize.static_ranges(nn.Sequential(layer)) == {}
    assert torch.equal(
        quantize.export(nn.Sequential(layer))["0.weight"].scale, quantize.quantize_rows(layer.weight).scale
    )
