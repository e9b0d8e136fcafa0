"""How precisely products are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgebert_compress.recipe import MatmulPrecision


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """torch.set_float32_matmul_precision for a while: a setting of the whole process.

    "bfloat16" is a matter of `answer`; what stays float32 beside it is "highest".
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "bfloat16" else precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def answer(model: nn.Module, inputs: Mapping[str, Tensor], precision: MatmulPrecision) -> Any:
    """What a transformers `model` gives; with "bfloat16" in mixed precision, its answers float32 again."""
    if precision != "bfloat16":
        return model(**inputs)
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
        outputs = model(**inputs)
    for name, value in outputs.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            outputs[name] = value.float()
    return outputs


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A block whose products are float32 also where the caller trains in mixed precision.

    Whole numbers and their sums up to 2²⁴ are exact in float32, not in bfloat16 or half precision.
    """
    return torch.autocast(tensor.device.type, enabled=False)
