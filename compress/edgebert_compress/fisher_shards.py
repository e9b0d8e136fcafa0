"""Fisher inverses of many tensors, piece by piece as a memory plan says: to score, then to update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from edgebert_compress.distributed import world
from edgebert_compress.errors import TrainingError
from edgebert_compress.fisher import FisherPiece, FisherSums, in_blocks, piece_kind
from edgebert_compress.fisher_pieces import Piece, names_of
from edgebert_compress.gradients import GradientPass
from edgebert_compress.memory import CHUNK, MemoryPlan
from edgebert_compress.spill import SpilledInverse

NO_GRADIENT = 1e-30  # λ of a tensor whose gradients are all zero: its weights are free, smaller ones first


@dataclass(frozen=True)
class FisherSettings:
    """`block`: B, weights in a Fisher block. `gradients`: m. `dampening`: λ.

    `relative`: λ of a tensor is `dampening` times the mean squared gradient of its kept weights.
    """

    block: int
    gradients: int
    dampening: float
    dtype: torch.dtype = torch.float32
    relative: bool = False


class GradientRows:
    """Gradients of the weights of some pieces, a row each: by tensor [rows, weights of the span]."""

    def __init__(self, pieces: Sequence[Piece], rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self._span: dict[str, slice] = {}
        for piece in pieces:
            first = self._span.get(piece.name, piece.weights).start
            self._span[piece.name] = slice(first, piece.weights.stop)
        self._rows = {
            name: torch.empty(rows, span.stop - span.start, dtype=dtype, device=device)
            for name, span in self._span.items()
        }

    def put(self, row: int, gradient: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        """Gradients of pruned weights become zero: they neither take part nor shift the survivors."""
        for name, span in self._span.items():
            values = gradient[name].reshape(-1)[span].to(self._rows[name])
            torch.mul(values, masks[name].reshape(-1)[span], out=self._rows[name][row])

    def chunk(self, piece: Piece, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of a piece: [count, k, B], contiguous."""
        offset = self._span[piece.name].start
        columns = slice(piece.weights.start - offset, piece.weights.stop - offset)
        blocks = in_blocks(self._rows[piece.name][first:last, columns], piece.block)
        return blocks.transpose(0, 1).contiguous()


class FisherShards:
    """The inverse of every piece of this process, once for scoring and once more for the update.

    `dampening`: λ by tensor, the same on every process; where it is relative, known once a tensor was scored.
    A context manager: leaving it removes what was spilled to disk.
    """

    def __init__(
        self,
        masks: Mapping[str, Tensor],
        gradients: GradientPass,
        settings: FisherSettings,
        plan: MemoryPlan,
        scratch: Path | None,
    ) -> None:
        self._masks, self._pass, self._settings, self._plan = masks, gradients, settings, plan
        self._device = next(iter(masks.values())).device
        # Woodbury's recursion starts from λ, the sums need it at the end, when all gradients have been seen.
        kind = piece_kind(settings.gradients, settings.block)
        self._kind = FisherSums if settings.relative else kind
        self.dampening = dict.fromkeys(masks, settings.dampening)
        self._stack = ExitStack()
        self._held: list[tuple[Piece, Tensor]] = []
        self._kept: GradientRows | None = None
        self._spilled: SpilledInverse | None = None
        self._moving: set[str] = set()
        if plan.inverse == "disk":
            assert scratch is not None
            self._spilled = self._stack.enter_context(SpilledInverse(scratch))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._held.clear()
        self._kept = None

    @cached_property
    def count(self) -> int:
        """Pieces of this process."""
        return len(self._mine())

    def scoring(self) -> Iterator[tuple[Piece, Tensor]]:
        """(piece, F⁻¹ [count, B, B]) of all pieces of this process. Raises TrainingError."""
        for piece, inverse in self._estimates():
            if self._plan.inverse == "memory":
                self._held.append((piece, inverse))
            elif self._spilled:
                self._spilled.put(piece, inverse)
            yield piece, inverse
        if not self._moving and any(bool(mask.any()) for mask in self._masks.values()):
            raise TrainingError(
                f"all {self._settings.gradients} gradients of all {len(self._masks)} tensors are zero "
                f"({next(iter(self._masks))}, …); check that the loss depends on the weights"
            )

    def updating(self) -> Iterator[tuple[Piece, Tensor]]:
        """The same again, after `scoring` was read to its end."""
        if self._plan.inverse == "memory":
            yield from self._held
        elif self._spilled:
            for piece in self._mine():
                yield piece, self._spilled.get(piece, self._device)
        else:
            yield from self._estimates()

    def _mine(self) -> list[Piece]:
        rank, size = world()
        return [piece for shard in self._plan.shards[rank::size] for piece in shard]

    def _estimates(self) -> Iterator[tuple[Piece, Tensor]]:
        size = world()[1]
        if self._plan.mode == "kept":
            yield from self._from_kept()
            return
        for at in range(0, len(self._plan.shards), size):
            yield from self._from_pass(self._plan.shards[at : at + size])

    def _from_pass(self, shards: Sequence[Sequence[Piece]]) -> Iterator[tuple[Piece, Tensor]]:
        """One pass over the gradients for one shard a process."""
        mine = shards[world()[0]]
        storage = torch.empty(
            sum(piece.room for piece in mine), dtype=self._settings.dtype, device=self._device
        )
        places = torch.split(storage, [piece.room for piece in mine])
        inverses = [self._start(piece, place) for piece, place in zip(mine, places, strict=True)]
        rows = self._rows(mine, min(CHUNK, self._settings.gradients))
        for done, gradient in enumerate(self._checked(names_of([p for shard in shards for p in shard])), 1):
            row = (done - 1) % CHUNK
            rows.put(row, gradient, self._masks)
            if row + 1 == CHUNK or done == self._settings.gradients:
                for piece, inverse in zip(mine, inverses, strict=True):
                    inverse.add(rows.chunk(piece, 0, row + 1))
        del rows
        stays = self._plan.inverse == "memory"
        for piece, inverse in zip(mine, inverses, strict=True):
            inverse.dampening = self.dampening[piece.name]
            # A view handed out would keep the whole shard alive into the next pass.
            yield piece, inverse.inverse() if stays else inverse.inverse().clone()

    def _from_kept(self) -> Iterator[tuple[Piece, Tensor]]:
        """All gradients at once, then piece after piece."""
        mine, count = self._mine(), self._settings.gradients
        if self._kept is None:
            self._kept = self._rows(mine, count)
            for row, gradient in enumerate(self._checked(list(self._masks))):
                self._kept.put(row, gradient, self._masks)
        for piece in mine:
            inverse = self._start(
                piece, torch.empty(piece.room, dtype=self._settings.dtype, device=self._device)
            )
            for first in range(0, count, CHUNK):
                inverse.add(self._kept.chunk(piece, first, min(first + CHUNK, count)))
            inverse.dampening = self.dampening[piece.name]
            yield piece, inverse.inverse()

    def _rows(self, pieces: Sequence[Piece], rows: int) -> GradientRows:
        return GradientRows(pieces, rows, self._settings.dtype, self._device)

    def _start(self, piece: Piece, place: Tensor) -> FisherPiece:
        block = piece.block
        storage = place[: piece.count * block**2].view(piece.count, block, block)
        return self._kind(storage, self._settings.gradients, self._settings.dampening, piece.name)

    def _checked(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """The m gradients of these tensors, finite and in the right number. Raises TrainingError.

        Read to the end it knows λ of each, from whole tensors: no shard and no process sees another.
        """
        count, done = self._settings.gradients, 0
        squares = dict.fromkeys(names, 0.0)
        for gradient in self._pass.gradients(names):
            done += 1
            for name in names:
                value = gradient[name]
                if not bool(torch.isfinite(value.sum())) and not bool(torch.isfinite(value).all()):
                    raise TrainingError(
                        f"gradient {done} of {count} of {name} is not finite; check the data and the weights"
                    )
                if name not in self._moving and bool(value.any()):
                    self._moving.add(name)
                if self._settings.relative:
                    squares[name] += sum_of_squares(value, self._masks[name])
            if done <= count:
                yield gradient
        if done != count:
            raise TrainingError(f"{done} gradients came where {count} were asked for; check the data")
        if self._settings.relative:
            for name in names:
                mean = squares[name] / count / max(1, int(self._masks[name].sum()))
                # Nine digits: how many threads summed up does not show.
                self.dampening[name] = float(f"{self._settings.dampening * mean:.9g}") or NO_GRADIENT


def sum_of_squares(gradient: Tensor, mask: Tensor) -> float:
    """Of the kept weights, in float64."""
    kept = (gradient.to(mask.device) * mask).double().reshape(-1)
    return float(kept @ kept)
