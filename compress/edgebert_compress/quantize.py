"""Simulated INT8: weights per output channel, embeddings per row, activations per token or in fixed ranges.

The arithmetic is that of docs/formats.md; the products inside attention are in attention.py. In training
every quantiser passes the gradient straight through (Bengio et al. 2013, arXiv 1308.3432), but where a fixed
range clips. With fixed weights a linear layer multiplies the integers themselves, as the runtimes do:
float32 holds their products and sums exactly up to 2²⁴.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgebert_compress.activation_ranges import (
    FixedRange,
    LearnedRange,
    StaticRanges,
    saturated,
    static_integers,
)
from edgebert_compress.architecture import word_embedding_name
from edgebert_compress.attention import use_int8_attention
from edgebert_compress.errors import TrainingError
from edgebert_compress.matmul import without_autocast
from edgebert_compress.recipe import Activations, Attention

LIMIT = 127
SCHEME = {
    "weights": "int8-per-output-channel-symmetric",
    "embeddings": "int8-per-row-symmetric",
}
# What `compression.json` calls them.
ACTIVATIONS: Mapping[Activations, str] = {
    "dynamic": "int8-dynamic-per-token-asymmetric",
    "static": "int8-static-per-tensor-asymmetric",
}
# Records from before INT8 attention have no entry.
ATTENTION: Mapping[Attention, str] = {"int8": "int8-dynamic", "float": "float"}
EXACT = float(1 << 24)  # float32 counts that far


@dataclass(frozen=True)
class Int8Tensor:
    """`values` int8 [rows, cols] in [-127, 127]; `scale` float32 [rows], all > 0."""

    values: Tensor
    scale: Tensor

    def dequantize(self) -> Tensor:
        return self.values.to(torch.float32) * self.scale[:, None]


def row_scale(weight: Tensor) -> Tensor:
    """max|w| / 127 over the last dimension, kept as size 1; 1 for a row of zeros."""
    highest = weight.abs().amax(dim=-1, keepdim=True)
    scale = (highest / LIMIT).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(highest > 0, scale, torch.ones_like(scale))


def quantize_rows(weight: Tensor, least: Tensor | None = None) -> Int8Tensor:
    """INT8 of a [rows, cols] float tensor; quantising the result again gives the same integers.

    `least`: float32 [rows], the smallest scale that a row may have, and what a row of zeros gets.
    """
    weight = weight.detach().to(torch.float32)
    scale = row_scale(weight)
    if least is not None:
        some = weight.any(dim=-1, keepdim=True)
        scale = torch.where(some, torch.maximum(scale, least[:, None]), least[:, None])
    values = torch.round(weight / scale).clamp_(-LIMIT, LIMIT)
    return Int8Tensor(values.to(torch.int8), scale.squeeze(-1))


def token_integers(x: Tensor) -> tuple[Tensor, Tensor]:
    """(q - z) as whole floats shaped as `x`, and the step s, for each token (last dimension) by itself.

    As XNNPACK's qd8 does it: multiply by the inverse step, round half to even, take the zero point from
    the side with the smaller error.
    """
    low = x.amin(dim=-1, keepdim=True).clamp_max(0)
    high = x.amax(dim=-1, keepdim=True).clamp_min(0)
    ones = torch.ones_like(low)
    # torch computes `255 / t` as 255 * (1 / t), which rounds twice; division of two tensors rounds once
    inverse = torch.where(low == high, ones, torch.div(255 * ones, high - low))
    from_low, from_high = low * inverse, high * inverse
    zero = torch.where((-128 + from_low) + (127 + from_high) > 0, -128 - from_low, 127 - from_high)
    zero = zero.clamp_(-128, 127).round_()
    # clamp(round(x/s) + z, -128, 127) - z without forming q
    integers = torch.clamp(torch.round(x * inverse), -128 - zero, 127 - zero)
    return integers, torch.div(ones, inverse)


class _RowsStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        scale = row_scale(weight)
        return torch.round(weight / scale).clamp_(-LIMIT, LIMIT).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _TokensStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        integers, step = token_integers(x)
        return integers.mul_(step)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def fake_quantize_rows(weight: Tensor) -> Tensor:
    """values * scale of each row, gradient straight through."""
    return cast(Tensor, _RowsStraightThrough.apply(weight))  # type: ignore[no-untyped-call]


def fake_quantize_tokens(x: Tensor) -> Tensor:
    """s (q - z) of each token, gradient straight through."""
    return cast(Tensor, _TokensStraightThrough.apply(x))  # type: ignore[no-untyped-call]


class QuantLinear(nn.Linear):
    """A linear layer in simulated INT8. Shares the parameters of the layer it replaces.

    `input_range`, `output_range`: what the input and the output pass through; without them the input is
    quantised token by token and the output is not. With fixed integers both are `FixedRange`.
    """

    values: Tensor | None
    scale: Tensor | None
    input_range: nn.Module | None
    output_range: nn.Module | None

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("values", None, persistent=False)
        self.register_buffer("scale", None, persistent=False)
        self.register_module("input_range", None)
        self.register_module("output_range", None)

    def fix(self, tensor: Int8Tensor, ranges: StaticRanges | None = None) -> None:
        """Use exactly these integers from now on; the float weight becomes their product with the scale."""
        self.values, self.scale = tensor.values.to(torch.float32), tensor.scale
        with torch.no_grad():
            self.weight.copy_(tensor.dequantize())
        if ranges is not None:
            self.input_range = FixedRange(ranges.input).to(self.weight.device)
            self.output_range = FixedRange(ranges.output).to(self.weight.device)

    def ranges(self) -> StaticRanges | None:
        """As they stand; None where the input is quantised token by token."""
        if self.input_range is None or self.output_range is None:
            return None
        assert isinstance(self.input_range, FixedRange | LearnedRange)
        assert isinstance(self.output_range, FixedRange | LearnedRange)
        return StaticRanges(self.input_range.found(), self.output_range.found())

    def least_scale(self, ranges: StaticRanges) -> Tensor:
        """Float32 [rows]: below it the bias, or one step of the output, is more than 2²⁴ steps of the sum.

        Keeps the bias an exact float32, and the factor of the requantisation within what runtimes take.
        """
        bias = self.weight.new_zeros(self.out_features) if self.bias is None else self.bias.detach().abs()
        return bias.clamp_min(ranges.output.scale) / (ranges.input.scale * EXACT)

    def forward(self, input: Tensor) -> Tensor:
        with without_autocast(input):
            x = input.float()
            return self._in_training(x) if self.values is None or self.scale is None else self._fixed(x)

    def _in_training(self, input: Tensor) -> Tensor:
        x = fake_quantize_tokens(input) if self.input_range is None else self.input_range(input)
        out = F.linear(x, fake_quantize_rows(self.weight), self.bias)
        return out if self.output_range is None else cast(Tensor, self.output_range(out))

    def _fixed(self, input: Tensor) -> Tensor:
        assert self.values is not None and self.scale is not None
        if isinstance(self.input_range, FixedRange) and isinstance(self.output_range, FixedRange):
            start, end = self.input_range, self.output_range
            step = start.scale * self.scale
            sums = F.linear(static_integers(input, start.scale, start.zero_point), self.values)
            if self.bias is not None:
                sums.add_(torch.round(self.bias / step))
            return saturated(sums.mul_(step / end.scale), end.zero_point).mul_(end.scale)
        integers, step = token_integers(input)
        out = F.linear(integers, self.values).mul_(step).mul_(self.scale)
        return out if self.bias is None else out.add_(self.bias)


class QuantEmbedding(nn.Embedding):
    """An embedding table in simulated INT8, row by row. Shares the parameter of the table it replaces."""

    fixed: bool

    def __init__(self, table: nn.Embedding) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx, self.max_norm, self.norm_type = table.padding_idx, None, 2.0
        self.scale_grad_by_freq, self.sparse = False, False
        self.weight = table.weight
        self.fixed = False

    def fix(self, tensor: Int8Tensor) -> None:
        with torch.no_grad():
            self.weight.copy_(tensor.dequantize())
        self.fixed = True

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input)
        return rows if self.fixed else fake_quantize_rows(rows)


def prepare(
    model: nn.Module, attention: Attention = "float", stored: Collection[str] | None = None
) -> tuple[str, ...]:
    """Put every linear layer and embedding table of `model` into simulated INT8, in place.

    `attention` "int8": its products too. `stored`: parameters that a checkpoint holds as integers; position
    and token-type tables that are not among them stay float.
    Returns the names of the quantised parameters.
    """
    word = word_embedding_name(model)
    chosen: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            chosen[name] = QuantLinear(module)
        elif isinstance(module, nn.Embedding) and (
            name == word or stored is None or f"{name}.weight" in stored
        ):
            chosen[name] = QuantEmbedding(module)
    for name, module in chosen.items():
        model.set_submodule(name, module)
    if attention == "int8":
        use_int8_attention(model)
    return tuple(f"{name}.weight" for name in chosen)


def fix(
    model: nn.Module, tensors: Mapping[str, Int8Tensor], ranges: Mapping[str, StaticRanges] | None = None
) -> None:
    """Give a prepared `model` its final integers, and static `ranges` by module name, in place."""
    for name, tensor in tensors.items():
        owner = name.removesuffix(".weight")
        module = model.get_submodule(owner)
        if isinstance(module, QuantLinear):
            module.fix(tensor, None if ranges is None else ranges[owner])
        else:
            assert isinstance(module, QuantEmbedding)
            module.fix(tensor)


def round_vectors(model: nn.Module) -> None:
    """Round biases and LayerNorm to half precision, in place, so that a model file may hold them as such.

    A relative change of at most 2⁻¹¹, far below a step of INT8; what half precision cannot hold stays.
    """
    with torch.no_grad():
        for vector in model.parameters():
            if vector.dim() == 1:
                rounded = vector.to(torch.float16).to(torch.float32)
                vector.copy_(torch.where(rounded.isfinite(), rounded, vector))


def static_ranges(model: nn.Module) -> dict[str, StaticRanges]:
    """The ranges of every prepared linear layer that has static ones, by module name."""
    found = {name: module.ranges() for name, module in linear_layers(model).items()}
    return {name: ranges for name, ranges in found.items() if ranges is not None}


def linear_layers(model: nn.Module) -> dict[str, QuantLinear]:
    """Every prepared linear layer by module name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantLinear)}


def export(model: nn.Module) -> dict[str, Int8Tensor]:
    """The integers of every prepared weight. Raises TrainingError for a weight that is not finite."""
    least: dict[int, Tensor] = {}  # by parameter: a tied table serves two layers
    for layer in linear_layers(model).values():
        ranges = layer.ranges()
        if ranges is not None:
            least[id(layer.weight)] = layer.least_scale(ranges)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantLinear | QuantEmbedding):
            if not bool(torch.isfinite(module.weight).all()):
                raise TrainingError(
                    f"{name}.weight holds values that are not finite; lower the learning rate"
                )
            tensors[f"{name}.weight"] = quantize_rows(module.weight, least.get(id(module.weight)))
    return tensors
