"""INT8 of float weights row by row, for checkpoints that were not quantised in training."""

from __future__ import annotations

import numpy as np

from edgebert_targets.encoder import FloatArray, QuantizedTensor

LIMIT = np.float32(127)


def quantize_rows(weight: FloatArray) -> QuantizedTensor:
    """Float32 [rows, cols] with scale max|w| / 127 a row (1 for a row of zeros), rounded half to even.

    The same float32 steps as the training's, so that both give the same integers.
    """
    highest = np.abs(weight).max(axis=1, keepdims=True)
    scale = np.maximum(highest / LIMIT, np.finfo(np.float32).tiny)
    scale[highest == 0] = 1
    values = np.clip(np.rint(weight / scale), -LIMIT, LIMIT).astype(np.int8)
    return QuantizedTensor(values, np.ascontiguousarray(scale[:, 0]))
