"""How the Fisher blocks of many tensors are cut into pieces, the unit of work, and shared out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 16  # Fisher blocks: pieces start on cache lines, so a product never depends on its place
PIECE_ELEMENTS = 1 << 19  # of the inverse: 2 MiB in float32 stays in the cache of one core
PIECE_ELEMENTS_GPU = 1 << 26


@dataclass(frozen=True)
class Piece:
    """Fisher blocks `start` to `stop` of the tensor `name` of `size` weights; B = `block` weights each."""

    name: str
    size: int
    block: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def weights(self) -> slice:
        """The weights of the flat tensor that the piece covers."""
        return slice(self.start * self.block, min(self.stop * self.block, self.size))

    @property
    def room(self) -> int:
        """Elements of the inverse, rounded up to the alignment."""
        return -(-self.count // ALIGNMENT) * ALIGNMENT * self.block**2


def piece_blocks(block: int, gpu: bool = False) -> int:
    """Fisher blocks in a full piece."""
    elements = PIECE_ELEMENTS_GPU if gpu else PIECE_ELEMENTS
    return max(1, elements // block**2 // ALIGNMENT) * ALIGNMENT


def cut(sizes: Mapping[str, int], block: int, gpu: bool = False) -> list[Piece]:
    """All pieces of the tensors, in order. They do not depend on the memory or on the processes."""
    step = piece_blocks(block, gpu)
    return [
        Piece(name, size, block, start, min(start + step, -(-size // block)))
        for name, size in sizes.items()
        for start in range(0, -(-size // block), step)
    ]


def split(pieces: Sequence[Piece], parts: int) -> list[list[Piece]]:
    """`parts` runs of consecutive pieces with about the same number of Fisher blocks; some may be empty."""
    total = sum(piece.count for piece in pieces)
    found: list[list[Piece]] = [[] for _ in range(parts)]
    done = 0
    for piece in pieces:
        middle = done + piece.count / 2
        found[min(parts - 1, int(middle * parts / total))].append(piece)
        done += piece.count
    return found


def names_of(pieces: Sequence[Piece]) -> list[str]:
    """The tensors that the pieces belong to, in order."""
    return list(dict.fromkeys(piece.name for piece in pieces))
