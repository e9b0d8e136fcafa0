"""How precisely float32 products are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
