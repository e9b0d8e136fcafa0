"""How much memory one pruning step takes, and how it is done within a budget.

The work is cut into pieces (`fisher_pieces`) and the pieces into shards. Three ways, least work first:

- streamed: one shard; every gradient is used once and the inverse stays in memory.
- kept: the m gradients stay in memory and the inverse is made piece by piece (pays for small m).
- replayed: several shards, each with its own pass over the same m mini-batches.

Ranking is global, so what is pruned is known only after every piece has been scored; the update then needs
F⁻¹ again. Unless it stayed in memory it is read back from a scratch file (its lower triangle), or estimated
again where the disk has no room.

Peak in bytes, with s bytes an element, d weights in all, U weights in the largest shard (padded to whole
pieces), T weights of the tensors that it touches, k gradients a chunk, W = 48 * (largest piece) + 64 MiB
for the products of one piece and the allocator:

    scoring    U*B*s + k*U*s + 2*T*4 + 4*d/block + W     (kept: m*d*s + 2*d*4 + 4*d/block + W)
    ranking    12*d/block + 2*d, and the inverse where it stays in memory, the gradients where they are kept
    update     4*d + d + W, and the same; with a second estimate: the scoring without scores

The model, its activations and the gradient computation itself are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import psutil
import torch

from edgebert_compress.errors import TrainingError
from edgebert_compress.fisher_pieces import Piece, cut, names_of, split

CHUNK = 16  # gradients that are taken in together
MAX_SHARDS = 64  # more passes over the data than this are no plan
SHARE_OF_FREE = 0.7  # of the free memory, when no budget is given
ALLOCATOR = 64 << 20
SCRATCH_MARGIN = 1 << 30

Mode = Literal["streamed", "kept", "replayed"]
InverseAt = Literal["memory", "disk", "again"]


@dataclass(frozen=True)
class MemoryPlan:
    """One estimate of F⁻¹ with its scores and update. `operations`: floating-point, of the Fisher sums.

    `passes`: over the m mini-batches. `shards`: runs of pieces, one a pass and process.
    `peak_bytes` is of one process, `scratch_bytes` of all.
    """

    mode: Mode
    inverse: InverseAt
    passes: int
    shards: tuple[tuple[Piece, ...], ...]
    peak_bytes: int
    scratch_bytes: int
    operations: float

    def __str__(self) -> str:
        where = {"memory": "kept in memory", "disk": f"{_gib(self.scratch_bytes)} on disk", "again": "twice"}
        passes, shards = self.passes, len(self.shards)
        return (
            f"{self.mode}, {passes} pass{'' if passes == 1 else 'es'} over the gradients, "
            f"{shards} shard{'' if shards == 1 else 's'}, "
            f"inverse {where[self.inverse]}, peak {_gib(self.peak_bytes)}"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def free_memory(device: torch.device | None = None) -> int:
    """The budget when none is given: a share of the memory that is free on `device` now."""
    if device is not None and device.type == "cuda":
        return int(SHARE_OF_FREE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE_OF_FREE * psutil.virtual_memory().available)


def plan(
    sizes: Mapping[str, int],
    *,
    block: int,
    fisher_block: int,
    gradients: int,
    memory: int,
    scratch_free: int = 0,
    dtype: torch.dtype = torch.float32,
    processes: int = 1,
    gpu: bool = False,
) -> MemoryPlan:
    """The plan with the fewest passes that fits in `memory` bytes (on the device of the weights).

    `sizes`: weights by tensor name. `scratch_free`: bytes free on the scratch disk, 0 for none.
    Raises TrainingError naming the minimum when nothing fits.
    """
    pieces = cut(sizes, fisher_block, gpu)
    item = torch.empty((), dtype=dtype).element_size()
    total = sum(sizes.values())
    padded = sum(piece.count for piece in pieces) * fisher_block
    work = 48 * max(piece.room for piece in pieces) + ALLOCATOR
    scores = 4 * total // block
    triangle = padded * (fisher_block + 1) // 2 * item
    disk = scratch_free >= triangle + SCRATCH_MARGIN
    operations = 2.0 * gradients * fisher_block * padded

    def shard_bytes(shard: list[Piece], raw: int) -> int:
        chunk = min(CHUNK, gradients) * sum(piece.count for piece in shard) * fisher_block
        return sum(piece.room for piece in shard) * item + chunk * item + raw + work

    def after(held: int, update: int) -> int:
        """Ranking and update, with `held` bytes that stay throughout."""
        return max(held + 3 * scores + 2 * total, held + 5 * total + work, update)

    def shared(shards: int) -> MemoryPlan:
        parts = split(pieces, shards * processes)
        rounds = [parts[at : at + processes] for at in range(0, len(parts), processes)]
        estimate = 0
        for each in rounds:  # every process receives the gradients of all shards of the round
            touched = names_of([piece for part in each for piece in part])
            raw = 2 * 4 * sum(sizes[name] for name in touched)
            estimate = max(estimate, *(shard_bytes(part, raw) for part in each))
        held = 0
        inverse: InverseAt = "disk" if disk else "again"
        if shards == 1:
            inverse = "memory"
            held = max(sum(piece.room for piece in part) for part in parts) * item
        again = estimate + 5 * total if inverse == "again" else 0
        return MemoryPlan(
            mode="streamed" if shards == 1 else "replayed",
            inverse=inverse,
            passes=shards * (2 if inverse == "again" else 1),
            shards=tuple(tuple(part) for part in parts),
            peak_bytes=max(estimate + scores, after(held, again)),
            scratch_bytes=triangle if inverse == "disk" else 0,
            operations=operations * (2 if inverse == "again" else 1),
        )

    def kept() -> MemoryPlan:
        parts = split(pieces, processes)
        held = gradients * max(sum(piece.count for piece in part) for part in parts) * fisher_block * item
        return MemoryPlan(
            mode="kept",
            inverse="disk" if disk else "again",
            passes=1,
            shards=tuple(tuple(part) for part in parts),
            peak_bytes=max(held + 2 * 4 * total + scores + work, after(held, 0)),
            scratch_bytes=triangle if disk else 0,
            operations=operations * (1 if disk else 2),
        )

    most = min(MAX_SHARDS, len(pieces))
    fewest = max(2, padded * fisher_block * item // (max(1, memory) * processes))  # less cannot hold F⁻¹
    ways: list[Callable[[], MemoryPlan]] = [lambda: shared(1), kept]
    ways += [partial(shared, count) for count in range(fewest, most + 1)]
    for way in ways:
        candidate = way()
        if candidate.peak_bytes <= memory:
            return candidate
    minimum = min(kept().peak_bytes, shared(most).peak_bytes)
    raise TrainingError(
        f"a memory budget of {_gib(memory)} is too small for the Fisher inverse of {total} weights; "
        f"give at least {_gib(minimum + 2**24)}, or fewer tensors, or a smaller Fisher block"
    )
