"""Static ranges for a spec; the encoder that computes with them in numpy, as docs/formats.md has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.encoder import (
    ClassificationHead,
    EmbeddingHead,
    EncoderSpec,
    Linear,
    QuantizedTensor,
    Range,
    StaticRanges,
)
from tests.targets import reference

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Sequences = tuple[Ints, Ints, Ints]  # ids, mask, token types, as from `sequences.batch`
LINEARS = ("query", "key", "value", "attention_output", "intermediate", "output")


def levels_in(x: NDArray[Any], stands_for: Range) -> NDArray[np.float32]:
    """`x` in levels of its range, not rounded: one product with the inverse of the scale, both float32."""
    levels: NDArray[np.float32] = x.astype(np.float32) * (np.float32(1) / np.float32(stands_for.scale))
    return levels


def levels_of(integers: Ints, linear: Linear) -> NDArray[np.float32]:
    """Outputs before they are rounded, in levels of the output range, of the layer's int8 inputs."""
    assert linear.ranges is not None and isinstance(linear.weight, QuantizedTensor)
    before, after = linear.ranges.input, linear.ranges.output
    step = np.float32(before.scale) * linear.weight.scale
    bias = np.rint(linear.bias / step).astype(np.int64)
    sums = (integers - before.zero_point) @ linear.weight.values.astype(np.int64).T + bias
    levels: NDArray[np.float32] = sums.astype(np.float32) * (step / np.float32(after.scale))
    return levels


def rounded(levels: NDArray[np.float32], stands_for: Range) -> Ints:
    """int8 values as int64."""
    integers: Ints = np.clip(np.rint(levels) + stands_for.zero_point, -128, 127).astype(np.int64)
    return integers


def static_linear(x: Array, linear: Linear, *_: Any) -> Array:
    """What stands in for `reference._linear`."""
    assert linear.ranges is not None
    levels = levels_of(rounded(levels_in(x, linear.ranges.input), linear.ranges.input), linear)
    after = linear.ranges.output
    integers = rounded(levels, after) - after.zero_point
    return (np.float32(after.scale) * integers.astype(np.float32)).astype(np.float64)


def static_logits(spec: EncoderSpec, sequences: Sequences) -> Array:
    """[batch, classes]"""
    with mock.patch.object(reference, "_linear", static_linear):
        return _logits(spec, sequences)


def with_ranges(spec: EncoderSpec, ranges: Callable[[Linear], StaticRanges]) -> EncoderSpec:
    """`spec` with the given ranges in every INT8 layer."""

    def linear(stored: Linear) -> Linear:
        return replace(stored, ranges=ranges(stored) if isinstance(stored.weight, QuantizedTensor) else None)

    layers = tuple(
        replace(layer, **{name: linear(getattr(layer, name)) for name in LINEARS}) for layer in spec.layers
    )
    tables, head = spec.embeddings, spec.head
    if tables.projection is not None:
        tables = replace(tables, projection=linear(tables.projection))
    if isinstance(head, ClassificationHead):
        head = replace(head, dense=linear(head.dense), out=linear(head.out))
    elif not isinstance(head, EmbeddingHead):
        head = replace(head, out=linear(head.out))
    return replace(spec, embeddings=tables, layers=layers, head=head)


def calibrated(spec: EncoderSpec, sequences: Sequences) -> EncoderSpec:
    """`spec`, a classifier, with the ranges of what its layers take and give on `sequences` in float."""
    plain, seen = reference._linear, dict[str, tuple[Array, Array]]()

    def recorded(x: Array, linear: Linear, *rest: Any) -> Array:
        y = plain(x, linear, *rest)
        before = seen.get(linear.name, (np.zeros(0), np.zeros(0)))
        seen[linear.name] = np.append(before[0], x), np.append(before[1], y)
        return y

    with mock.patch.object(reference, "_linear", recorded):
        _logits(spec, sequences)
    return with_ranges(spec, lambda linear: StaticRanges(*map(range_of, seen[linear.name])))


def range_of(values: Array) -> Range:
    """From the lowest to the highest of `values`, and 0."""
    lowest, highest = min(0.0, values.min()), max(0.0, values.max())
    scale = np.float32((highest - lowest) / 255)
    return Range(float(scale), int(np.clip(np.rint(-128 - lowest / scale), -128, 127)))


def _logits(spec: EncoderSpec, sequences: Sequences) -> Array:
    ids, mask, types = sequences
    used = mask.sum(axis=1)
    rows = [reference.logits(spec, ids[i, :n], types[i, :n], reference.exact) for i, n in enumerate(used)]
    return np.stack(rows)
