"""What every target says about an artifact in the same words: parts, sparsity, quantised share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.base import TensorFacts

STATIC_NOTE = "linear layers take and give INT8 in static ranges"
_LAYER = re.compile(r"(?:^|\.)layer\.(\d+)\.")


def part_of(name: str) -> str:
    """The part of the model that a checkpoint parameter belongs to: "embeddings", "layer 3" or "head"."""
    layer = _LAYER.search(name)
    if layer:
        return f"layer {int(layer.group(1))}"
    return "embeddings" if "embeddings" in name else "head"


def tensor_facts(name: str, value: NDArray[Any]) -> TensorFacts:
    """Facts of one stored array."""
    zeros = value.size - int(np.count_nonzero(value))
    return TensorFacts(
        name=name,
        part=part_of(name),
        dtype=str(value.dtype),
        shape=tuple(value.shape),
        nbytes=value.nbytes,
        sparsity=zeros / value.size if value.size else 0.0,
    )


def quantized_share(tensors: Iterable[TensorFacts]) -> float:
    """Bytes of INT8 tensors over bytes of all tensors, in [0, 1]."""
    listed = list(tensors)
    total = sum(tensor.nbytes for tensor in listed)
    return sum(tensor.nbytes for tensor in listed if tensor.dtype == "int8") / total if total else 0.0
