"""Block-sparse INT8 matrices as the engine's model file stores them (docs/formats.md, "Engine model 1").

A block is 4 consecutive inputs of one row. Slabs of 768 columns are stored one after the other; in a slab,
chunks of 128 rows; in a chunk, rows by falling number of blocks. Positions are gaps in Rice codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebert_targets.errors import ArtifactError

BLOCK = 4
SLAB_COLUMNS = 768
CHUNK_ROWS = 128
SLAB_HEADER = np.dtype([("bytes", "<u4"), ("k", "u1"), ("zeros", "u1", (3,))])
RICE_PARAMETERS = range(8)

Int8Array = NDArray[np.int8]
ByteArray = NDArray[np.uint8]


@dataclass(frozen=True)
class PackedBlocks:
    """`values` int8 [4 * blocks]; `counts` uint8 [slabs, out]; `gaps` uint8 [bytes], headers included."""

    values: Int8Array
    counts: ByteArray
    gaps: ByteArray


def block_density(weight: Int8Array) -> float:
    """Share of the 1x4 blocks of [out, in] that hold a non-zero; `in` is a multiple of 4."""
    blocks = _blocks(weight)
    return float(np.count_nonzero(blocks)) / blocks.size if blocks.size else 0.0


def pack(weight: Int8Array) -> PackedBlocks:
    """Pack int8 [out, in], both above 0 and `in` a multiple of 4."""
    values, counts, gaps = [], [], []
    for start in range(0, weight.shape[1], SLAB_COLUMNS):
        blocks = _blocks(weight[:, start : start + SLAB_COLUMNS])
        listed = blocks != 0
        if start == 0 and not weight.any():
            listed[0, 0] = True  # GGUF has no empty tensors
        count = listed.sum(axis=1)
        order = visiting_order(count)
        visit, block = np.nonzero(listed[order])
        values.append(blocks[order[visit], block])
        counts.append(count.astype(np.uint8))
        gaps.append(_encode_slab(_gaps(visit, block)))
    return PackedBlocks(np.concatenate(values).view(np.int8), np.stack(counts), np.concatenate(gaps))


def unpack(packed: PackedBlocks, outputs: int, inputs: int) -> Int8Array:
    """The int8 [outputs, inputs] matrix. Raises ArtifactError where the three parts disagree."""
    slabs = -(-inputs // SLAB_COLUMNS)
    if inputs % BLOCK or packed.counts.shape != (slabs, outputs) or packed.values.size % BLOCK:
        raise ArtifactError(
            f"counts of shape {packed.counts.shape} and {packed.values.size} values do not"
            f" make [{outputs}, {inputs}]; convert the model again"
        )
    weight = np.zeros((outputs, inputs // BLOCK), np.int32)
    values = np.ascontiguousarray(packed.values).view(np.int32)
    counts = packed.counts.astype(np.int64)
    if counts.sum() != values.size:
        raise ArtifactError(f"counts of {counts.sum()} blocks, {values.size} are there; convert again")
    used, gaps = 0, packed.gaps
    for slab, count in enumerate(counts):
        total = int(count.sum())
        numbers, gaps = _decode_slab(gaps, total)
        order = visiting_order(count)
        visit = np.repeat(np.arange(outputs), count[order])
        block = _positions(numbers, count[order])
        columns = min(SLAB_COLUMNS, inputs - slab * SLAB_COLUMNS)
        if total and block.max() >= columns // BLOCK:
            raise ArtifactError(f"a block lies beyond slab {slab} of {columns} columns; convert again")
        weight[order[visit], block + slab * (SLAB_COLUMNS // BLOCK)] = values[used : used + total]
        used += total
    if gaps.size:
        raise ArtifactError(f"{gaps.size} bytes of gaps are left over; convert the model again")
    return weight.view(np.int8)


def visiting_order(count: NDArray[np.integer]) -> NDArray[np.int64]:
    """Rows by chunk, then falling count, then rising row."""
    chunk = np.arange(count.size) // CHUNK_ROWS
    order: NDArray[np.int64] = np.lexsort((-count.astype(np.int64), chunk))
    return order


def _blocks(weight: Int8Array) -> NDArray[np.int32]:
    """Each block as one number, [out, in / 4]; zero for a block of zeros."""
    blocks: NDArray[np.int32] = np.ascontiguousarray(weight).view(np.int32)
    return blocks


def _gaps(visit: NDArray[np.int64], block: NDArray[np.int64]) -> NDArray[np.int64]:
    """Blocks skipped since the row's block before it."""
    gaps = block.copy()  # before a row's first block: as many as its position
    same = visit[1:] == visit[:-1]
    gaps[1:][same] -= block[:-1][same] + 1
    return gaps


def _positions(gaps: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Inverse of `_gaps`: `count` blocks for each visit."""
    running = np.cumsum(gaps + 1)
    before = np.concatenate([[0], running])[np.cumsum(count) - count]
    positions: NDArray[np.int64] = running - 1 - np.repeat(before, count)
    return positions


def _encode_slab(numbers: NDArray[np.int64]) -> ByteArray:
    """Header and Rice codes of one slab, with the parameter that needs fewest bytes."""
    sizes = [(int((numbers >> k).sum()) + numbers.size * (1 + k) + 7) // 8 for k in RICE_PARAMETERS]
    k = int(np.argmin(sizes))
    quotient = numbers >> k
    ends = np.cumsum(quotient + 1 + k)
    bits = np.zeros(ends[-1] if ends.size else 0, np.uint8)
    stops = ends - k - 1  # the zero-bit of each code
    for bit in range(k):
        bits[stops + 1 + bit] = numbers >> bit & 1
    inside = np.arange(quotient.sum()) - np.repeat(np.cumsum(quotient) - quotient, quotient)
    bits[np.repeat(stops - quotient, quotient) + inside] = 1
    codes = np.packbits(bits, bitorder="little")
    header = np.zeros((), SLAB_HEADER)
    header["bytes"], header["k"] = codes.size, k
    return np.concatenate([np.frombuffer(header.tobytes(), np.uint8), codes])


def _decode_slab(data: ByteArray, count: int) -> tuple[NDArray[np.int64], ByteArray]:
    """`count` numbers from the front of `data`, and what follows the slab."""
    size = SLAB_HEADER.itemsize
    if data.size < size:
        raise ArtifactError("the gaps end before the last slab; convert the model again")
    header = np.frombuffer(data[:size].tobytes(), SLAB_HEADER)[0]
    k, end = int(header["k"]), size + int(header["bytes"])
    if k not in RICE_PARAMETERS or header["zeros"].any() or end > data.size:
        raise ArtifactError(
            f"a slab of {header['bytes']} bytes with Rice parameter {k}; convert the model again"
        )
    bits = np.unpackbits(data[size:end], bitorder="little")
    starts = _code_starts(bits, k, count)
    zeros = np.flatnonzero(bits == 0)
    found = np.searchsorted(zeros, starts)
    if count and (found[-1] >= zeros.size or zeros[found[-1]] + k >= bits.size):
        raise ArtifactError("a slab's codes end before their last number; convert the model again")
    stops = zeros[found]
    numbers = (stops - starts) << k
    for bit in range(k):
        numbers |= bits[stops + 1 + bit].astype(np.int64) << bit
    used = int(stops[-1]) + 1 + k if count else 0
    if -(-used // 8) != end - size or bits[used:].any():
        raise ArtifactError("a slab's codes do not end where its bytes do; convert the model again")
    return numbers, data[end:]


def _code_starts(bits: ByteArray, k: int, count: int) -> NDArray[np.int64]:
    """Bit where each code begins, one leading to the next: the chain is walked by powers of two."""
    size = bits.size
    position = np.where(bits == 0, np.arange(size), size)
    stop = np.minimum.accumulate(position[::-1])[::-1]  # the first zero-bit from here on
    jump = np.append(np.minimum(stop + 1 + k, size), size).astype(np.int32)
    starts = np.zeros(count, np.int64)
    known = 1
    while known < count:
        more = min(known, count - known)
        starts[known : known + more] = jump[starts[:more]]
        known += more
        jump = jump[jump]
    return starts
