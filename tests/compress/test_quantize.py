"""Simulated INT8 against scalar code and integer arithmetic."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from edgebert_compress import quantize
from edgebert_compress.errors import TrainingError

# Below 1e-30 the inverse step of XNNPACK overflows; no layer's input is that small.
floats = st.floats(-1e4, 1e4, width=32).map(lambda value: value if abs(value) > 1e-30 else 0.0)
rows = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=floats)


def scalar_token(x: np.ndarray) -> tuple[list[int], int, np.float32]:
    """One token the long way, in float32 scalars: integers q, zero point, inverse step."""
    low, high = min(np.float32(0), x.min()), max(np.float32(0), x.max())
    inverse = np.float32(1) if low == high else np.float32(255) / (high - low)
    from_min, from_max = np.float32(-128) + low * inverse, np.float32(127) + high * inverse
    zero = np.float32(-128) - low * inverse if from_min + from_max > 0 else np.float32(127) - high * inverse
    zero_point = round(float(min(max(zero, np.float32(-128)), np.float32(127))))  # Python rounds half to even
    return [
        min(max(round(float(v * inverse)) + zero_point, -128), 127) for v in x
    ], zero_point, inverse  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(rows)
def test_tokens_match_scalar_code(x):
    integers, step = quantize.token_integers(torch.from_numpy(x))
    for row, got, row_step in zip(x, integers.numpy(), step.numpy(), strict=True):
        q, zero_point, inverse = scalar_token(row)
        assert got.tolist() == [value - zero_point for value in q]
        assert row_step[0] == np.float32(1) / inverse


@settings(max_examples=100, deadline=None)
@given(rows)
def test_token_error_is_within_the_step(x):
    x_hat = quantize.fake_quantize_tokens(torch.from_numpy(x)).numpy()
    step = (np.maximum(x.max(1), 0) - np.minimum(x.min(1), 0)) / 255
    assert (np.abs(x_hat - x).max(1) <= step * 1.001 + 1e-6 * np.abs(x).max(1)).all()
    assert (x_hat[x == 0] == 0).all()


def test_tokens_of_one_value():
    integers, step = quantize.token_integers(torch.tensor([[0.0, 0.0], [5.0, 5.0], [-3.0, -3.0]]))
    torch.testing.assert_close(integers * step, torch.tensor([[0.0, 0.0], [5.0, 5.0], [-3.0, -3.0]]))
    assert integers.tolist() == [[0, 0], [255, 255], [-255, -255]]


@settings(max_examples=200, deadline=None)
@given(rows)
def test_rows_keep_zeros_bounds_and_round_trip(weight):
    first = quantize.quantize_rows(torch.from_numpy(weight))
    assert first.values.dtype == torch.int8
    assert int(first.values.to(torch.int32).abs().max()) <= 127
    assert bool((first.scale > 0).all())
    assert not first.values.numpy()[weight == 0].any()
    again = quantize.quantize_rows(first.dequantize())
    assert torch.equal(first.values, again.values)
    torch.testing.assert_close(first.scale, again.scale, rtol=2e-7, atol=0)
    error = np.abs(first.dequantize().numpy() - weight)
    assert (error <= np.abs(weight).max(1, keepdims=True) / 127 * 0.5001).all()


def test_gradients_pass_straight_through():
    x = torch.randn(3, 5, requires_grad=True)
    seen = torch.randn(3, 5)
    for function in (quantize.fake_quantize_rows, quantize.fake_quantize_tokens):
        (gradient,) = torch.autograd.grad((function(x) * seen).sum(), x)
        assert torch.equal(gradient, seen)


def test_fixed_linear_is_integer_arithmetic():
    generator = torch.Generator().manual_seed(0)
    linear = quantize.QuantLinear(nn.Linear(384, 16))
    x = 3 * torch.randn(4, 7, 384, generator=generator)
    tensor = quantize.quantize_rows(linear.weight)
    linear.fix(tensor)
    with torch.inference_mode():
        got = linear(x).numpy()
    integers, step = quantize.token_integers(x)
    sums = integers.numpy().astype(np.int64) @ tensor.values.numpy().astype(np.int64).T
    assert np.abs(sums).max() < 1 << 24
    expected = sums.astype(np.float32) * step.numpy() * tensor.scale.numpy() + linear.bias.detach().numpy()
    np.testing.assert_array_equal(got, expected)


def test_training_and_fixed_forms_agree():
    torch.manual_seed(0)
    linear = quantize.QuantLinear(nn.Linear(64, 8))
    x = torch.randn(10, 64)
    trained = linear(x)
    linear.fix(quantize.quantize_rows(linear.weight))
    with torch.inference_mode():
        torch.testing.assert_close(linear(x), trained.detach(), rtol=1e-5, atol=1e-5)


def test_embedding_rows_are_quantised_one_by_one():
    torch.manual_seed(0)
    table = nn.Embedding(9, 6, padding_idx=0)
    expected = quantize.quantize_rows(table.weight)
    quantized = quantize.QuantEmbedding(table)
    ids = torch.tensor([[1, 8, 0]])
    torch.testing.assert_close(quantized(ids)[0], expected.dequantize()[ids[0]], rtol=0, atol=0)
    quantized.fix(expected)
    assert torch.equal(quantized(ids)[0], expected.dequantize()[ids[0]])


def test_a_weight_that_is_not_finite_is_refused():
    model = nn.Sequential(quantize.QuantLinear(nn.Linear(2, 2)))
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    with pytest.raises(TrainingError, match=r"0\.weight"):
        quantize.export(model)


def test_vectors_are_rounded_to_half_precision_where_it_reaches():
    layer = nn.Linear(3, 4)
    weight = layer.weight.detach().clone()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.1, -1.0, 70000.0, 1e-9]))
    quantize.round_vectors(layer)
    assert layer.bias.tolist() == [np.float32(np.float16(0.1)), -1.0, 70000.0, 0.0]
    assert torch.equal(layer.weight, weight)
