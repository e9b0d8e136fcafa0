"""How precisely products are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from edgebert_compress.recipe import MatmulPrecision


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """torch.set_float32_matmul_precision for a while: a setting of the whole process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A block whose products are float32 also where the caller trains in mixed precision.

    Whole numbers and their sums up to 2²⁴ are exact in float32, not in bfloat16 or half precision.
    """
    return torch.autocast(tensor.device.type, enabled=False)
