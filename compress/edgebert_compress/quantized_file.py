"""`quantized.safetensors` of docs/formats.md: the integers, their scales, and static ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from edgebert_compress.activation_ranges import SMALLEST, ActivationRange, StaticRanges
from edgebert_compress.errors import CheckpointError
from edgebert_compress.loading import one_line
from edgebert_compress.quantize import Int8Tensor, linear_layers

QUANTIZED_FILE = "quantized.safetensors"


def read_quantized(
    folder: Path, model: nn.Module, names: Sequence[str], *, static: bool
) -> tuple[dict[str, Int8Tensor], dict[str, StaticRanges] | None]:
    """The integers of the parameters `names` of a prepared `model`; if `static`, ranges by module name.

    Raises CheckpointError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / QUANTIZED_FILE
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}; build it again") from error
    owners = stored_names(model, names)
    layers = tuple(linear_layers(model)) if static else ()
    expected = {*owners.values(), *(f"{name}.scale" for name in owners.values())}
    expected |= {name for layer in layers for name in _range_names(layer)}
    if set(stored) != expected:
        odd = sorted(set(stored) ^ expected)[0]
        raise CheckpointError(f"{path} and the model disagree about '{odd}'; build it again")
    tensors: dict[str, Int8Tensor] = {}
    for name, owner in owners.items():
        if owner in tensors:
            tensors[name] = tensors[owner]
            continue
        values, scale = stored[name], stored[f"{name}.scale"]
        shape = model.get_parameter(name).shape
        sound = (
            values.dtype == torch.int8
            and scale.dtype == torch.float32
            and values.shape == shape
            and scale.shape == shape[:1]
            and bool((torch.isfinite(scale) & (scale > 0)).all())
            and not bool((values == -128).any())
        )
        if not sound:
            raise CheckpointError(f"{path}: '{name}' has a wrong type, shape or scale; build it again")
        tensors[name] = Int8Tensor(values, scale)
    return tensors, {layer: _read_ranges(path, layer, stored) for layer in layers} if static else None


def _range_names(layer: str) -> list[str]:
    return [f"{layer}.{end}.{part}" for end in ("input", "output") for part in ("scale", "zero_point")]


def _read_ranges(path: Path, layer: str, stored: Mapping[str, Tensor]) -> StaticRanges:
    found = []
    for end in ("input", "output"):
        scale, zero_point = stored[f"{layer}.{end}.scale"], stored[f"{layer}.{end}.zero_point"]
        for part, tensor, dtype in (("scale", scale, torch.float32), ("zero_point", zero_point, torch.int8)):
            if tensor.dtype != dtype or tensor.shape != (1,):
                raise CheckpointError(
                    f"{path}: '{layer}.{end}.{part}' has a wrong type or shape; build it again"
                )
        if not SMALLEST <= scale.item() < math.inf:
            raise CheckpointError(f"{path}: '{layer}.{end}.scale' is {scale.item()}; build it again")
        found.append(ActivationRange(scale.item(), int(zero_point.item())))
    return StaticRanges(*found)


def stored_names(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """The name under which each parameter of `names` is stored: tied ones once, under the first name."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(model.get_parameter(name)), name) for name in names}


def write_quantized(
    folder: Path, quantized: Mapping[str, Int8Tensor], ranges: Mapping[str, StaticRanges] | None
) -> None:
    """Write the file into the existing `folder`. Raises OSError and SafetensorError."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, tensor in quantized.items():
        tensors |= {name: tensor.values, f"{name}.scale": tensor.scale}
    for layer, found in (ranges or {}).items():
        for end, one in (("input", found.input), ("output", found.output)):
            tensors[f"{layer}.{end}.scale"] = torch.tensor([one.scale], dtype=torch.float32)
            tensors[f"{layer}.{end}.zero_point"] = torch.tensor([one.zero_point], dtype=torch.int8)
    save_file(tensors, folder / QUANTIZED_FILE, metadata={"format": "pt"})
