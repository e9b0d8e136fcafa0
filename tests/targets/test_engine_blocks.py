"""Block-sparse packing and rounding by rows: round trips, the format bit by bit, parts that disagree."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgebert_compress.quantize import quantize_rows as training_rows
from edgebert_targets.errors import ArtifactError
from edgebert_targets.int8_sparse.blocks import BLOCK, SLAB_COLUMNS, PackedBlocks, pack, unpack
from edgebert_targets.int8_sparse.rows import quantize_rows
from tests.targets.engine_specs import random_blocks


def bit_by_bit(packed: PackedBlocks, outputs: int, inputs: int) -> NDArray[np.int8]:
    """The matrix, read as the format describes it, one bit at a time."""
    weight = np.zeros((outputs, inputs), np.int8)
    values, gaps = packed.values.tolist(), packed.gaps.tobytes()
    for slab, counts in enumerate(packed.counts):
        size, k = int.from_bytes(gaps[:4], "little"), gaps[4]
        bits = [gaps[8 + i // 8] >> i % 8 & 1 for i in range(8 * size)]
        gaps = gaps[8 + size :]
        for row in sorted(range(outputs), key=lambda r: (r // 128, -int(counts[r]), r)):
            block = -1
            for _ in range(counts[row]):
                quotient = 0
                while bits.pop(0):
                    quotient += 1
                block += 1 + (quotient << k) + sum(bits.pop(0) << i for i in range(k))
                column = slab * SLAB_COLUMNS + block * BLOCK
                weight[row, column : column + BLOCK] = values[:BLOCK]
                del values[:BLOCK]
        assert len(bits) < 8
        assert not any(bits)
    assert not values
    assert not gaps
    return weight


@st.composite
def matrices(draw: st.DrawFn) -> NDArray[np.int8]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.sampled_from([1, 2, 7, 12, 128, 131]))
    columns = 4 * draw(st.sampled_from([1, 2, 5, 191, 192, 193, 400]))
    weight = random_blocks(rng, rows, columns, draw(st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.7, 1.0])))
    weight[rng.random(rows) < draw(st.sampled_from([0.0, 0.5]))] = 0
    return weight


@given(matrices())
@settings(max_examples=60, deadline=None)
def test_blocks_round_trip(weight: NDArray[np.int8]) -> None:
    packed = pack(weight)
    np.testing.assert_array_equal(unpack(packed, *weight.shape), weight)
    np.testing.assert_array_equal(bit_by_bit(packed, *weight.shape), weight)
    listed = int(weight.reshape(len(weight), -1, 4).any(axis=2).sum())
    assert packed.values.size == 4 * max(1, listed)


def test_layout_by_hand() -> None:
    weight = np.array([[0, 0, 0, 0, 5, 6, 7, 8], [1, 2, 3, 4, 0, 0, 0, 9]], np.int8)
    packed = pack(weight)
    assert packed.values.tolist() == [1, 2, 3, 4, 0, 0, 0, 9, 5, 6, 7, 8]  # row 1 has more blocks: first
    assert packed.counts.tolist() == [[1, 2]]
    # k = 0; numbers 0, 0, 1: bits 0 0 10
    assert packed.gaps.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0b0100]


def spoilt(packed: PackedBlocks, **changes: NDArray[Any]) -> PackedBlocks:
    return replace(packed, **changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: spoilt(p, values=p.values[:-4]),
        lambda p: spoilt(p, values=p.values[:-1]),
        lambda p: spoilt(p, counts=p.counts[:, :-1]),
        lambda p: spoilt(p, counts=np.roll(p.counts, 1, axis=0)),
        lambda p: spoilt(p, gaps=p.gaps[:-1]),
        lambda p: spoilt(p, gaps=np.append(p.gaps, np.uint8(0))),
        lambda p: spoilt(p, gaps=np.where(np.arange(p.gaps.size) == 4, 8, p.gaps).astype(np.uint8)),
        lambda p: spoilt(p, gaps=np.where(np.arange(p.gaps.size) == 5, 1, p.gaps).astype(np.uint8)),
        lambda p: spoilt(p, gaps=np.where(np.arange(p.gaps.size) > 7, 255, p.gaps).astype(np.uint8)),
        lambda p: spoilt(p, gaps=p.gaps[:4]),
    ],
)
def test_blocks_that_disagree(change: Callable[[PackedBlocks], PackedBlocks]) -> None:
    weight = random_blocks(np.random.default_rng(0), 7, 1000, 0.3)
    with pytest.raises(ArtifactError):
        unpack(change(pack(weight)), 7, 1000)


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=100, deadline=None)
def test_spoilt_gaps_give_an_error_or_a_matrix(seed: int, data: st.DataObject) -> None:
    weight = random_blocks(np.random.default_rng(seed), 5, 800, 0.2)
    packed = pack(weight)
    gaps = packed.gaps.copy()
    gaps[data.draw(st.integers(0, gaps.size - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ArtifactError):
        assert unpack(replace(packed, gaps=gaps), 5, 800).shape == (5, 800)


def test_rows_are_rounded_as_in_training() -> None:
    rng = np.random.default_rng(3)
    weight = (rng.standard_normal((200, 96)) * 10.0 ** rng.integers(-44, 30, (200, 1))).astype(np.float32)
    weight[7] = 0
    weight[8] = 0.5 * np.arange(96)  # ties
    ours, theirs = quantize_rows(weight), training_rows(torch.from_numpy(weight))
    np.testing.assert_array_equal(ours.values, theirs.values.numpy())
    np.testing.assert_array_equal(ours.scale, theirs.scale.numpy())
