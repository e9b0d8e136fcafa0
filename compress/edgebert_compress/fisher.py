"""Block-diagonal inverse of the empirical Fisher matrix, for a piece of a tensor: some Fisher blocks at once.

Kurtic et al. 2022, "The Optimal BERT Surgeon" (arXiv 2203.07259), section 3: F = λI + (1/m) Σ g gᵀ over
blocks of B consecutive weights of the row-major tensor. The Woodbury identity gives F⁻¹ from either side:

- `WoodburyInverse`, a system of the size of the gradients, for few of them (m <= B). With G [k, B] a chunk of
  gradients of one block and V = G F⁻¹:  F⁻¹ ← F⁻¹ - Vᵀ (mI + V Gᵀ)⁻¹ V.  k = 1 is the authors' update.
- `FisherSums`, a system of the size of the block, for many (m > B): sum the products Gᵀ G, invert once.

Both do the same operation on all blocks of the piece in batched products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from edgebert_compress.errors import TrainingError

RELATIVE_GRID = (0.001, 0.01, 0.1, 1.0)  # times the mean squared gradient: where λ is worth a try


class FisherPiece(Protocol):
    """Takes in gradients chunk by chunk, then gives the inverse.

    `dampening`: λ. `FisherSums` needs it only for `inverse`, so that it may depend on the gradients.
    """

    dampening: float

    def add(self, gradients: Tensor) -> None:
        """A chunk [count, k, B], of the storage's dtype. All chunks together are the m gradients."""

    def inverse(self) -> Tensor:
        """F⁻¹, exactly symmetric [count, B, B] in the storage. Once, after the last `add`.

        Raises TrainingError where F⁻¹ is not positive definite or holds no correct digit.
        """


def breakdown(name: str, dampening: float, why: str, square: float | None = None) -> TrainingError:
    """λ = `dampening` is no use for the tensor `name`; `square`: its mean squared gradient, where known."""
    if square:
        grid = ", ".join(f"{share * square:.1g}" for share in RELATIVE_GRID)
        shares = ", ".join(f"{share:g}" for share in RELATIVE_GRID)
        return TrainingError(
            f"the Fisher inverse of {name} blows up at dampening {dampening:g} ({why}); the mean squared "
            f"gradient is {square:.2g}: try 'dampening' {grid} or 'relative_dampening' {shares}"
        )
    grid = ", ".join(f"{factor * dampening:g}" for factor in (10, 100, 1000))
    return TrainingError(
        f"the Fisher inverse of {name} blows up at dampening {dampening:g} ({why}); "
        f"try {grid} or check the gradients"
    )


def not_finite(name: str) -> TrainingError:
    return TrainingError(
        f"gradients of {name}, or their squares, are not finite; check the data and the weights"
    )


def fits(dampening: float, dtype: torch.dtype) -> bool:
    """Whether 1/λ is a normal number of `dtype`."""
    limits = torch.finfo(dtype)
    return dampening > 0 and limits.tiny <= 1 / dampening <= limits.max


def unfit(dtype: torch.dtype) -> str:
    return f"1/λ is no {str(dtype).removeprefix('torch.')} number"


def mirror_lower(matrices: Tensor) -> Tensor:
    """Copy the lower triangle of [count, B, B] onto the upper one, in place."""
    rows, columns = torch.tril_indices(matrices.shape[1], matrices.shape[2], -1, device=matrices.device)
    matrices[:, columns, rows] = matrices[:, rows, columns]
    return matrices


class WoodburyInverse:
    """F⁻¹ kept up to date over the chunks; `storage` [count, B, B] holds it."""

    def __init__(self, storage: Tensor, gradients: int, dampening: float, name: str = "a tensor") -> None:
        self.storage, self.gradients, self.dampening, self.name = storage, gradients, dampening, name
        self._squares = torch.zeros((), dtype=torch.float64, device=storage.device)
        self._seen = 0
        storage.zero_().diagonal(dim1=1, dim2=2).fill_(1 / dampening if fits(dampening, storage.dtype) else 1)

    def add(self, gradients: Tensor) -> None:
        self._squares += gradients.square().sum(dtype=torch.float64)
        self._seen += gradients.shape[1]
        if not fits(self.dampening, self.storage.dtype):  # not before the size of the gradients is known
            raise self._breakdown(unfit(self.storage.dtype))
        v = gradients @ self.storage  # [count, k, B]
        system = v @ gradients.transpose(1, 2)  # [count, k, k]
        system.diagonal(dim1=1, dim2=2).add_(self.gradients)
        factor, info = torch.linalg.cholesky_ex(system)
        if bool(info.any()) or not bool(torch.isfinite(factor).all()):
            if not bool(torch.isfinite(self._squares)):
                raise not_finite(self.name)
            raise self._breakdown("not positive definite or not finite")
        half = torch.linalg.solve_triangular(factor, v, upper=False)
        self.storage.baddbmm_(half.transpose(1, 2), half, alpha=-1)

    def inverse(self) -> Tensor:
        diagonal = self.storage.diagonal(dim1=1, dim2=2)
        # Subtracting from 1/λ leaves an error of eps/λ: a diagonal below that has no correct digit.
        noise = torch.finfo(self.storage.dtype).eps / self.dampening
        if not bool((diagonal > noise).all()) or not bool(torch.isfinite(diagonal).all()):
            raise self._breakdown("its diagonal is lost to rounding")
        return mirror_lower(self.storage)

    def _breakdown(self, why: str) -> TrainingError:
        weights = self.storage.shape[0] * self.storage.shape[1]
        return breakdown(self.name, self.dampening, why, float(self._squares) / self._seen / weights)


class FisherSums:
    """Σ g gᵀ over the chunks; `storage` [count, B, B] holds the sums and in the end the inverse."""

    def __init__(self, storage: Tensor, gradients: int, dampening: float, name: str = "a tensor") -> None:
        self.storage, self.gradients, self.dampening, self.name = storage, gradients, dampening, name
        storage.zero_()

    def add(self, gradients: Tensor) -> None:
        self.storage.baddbmm_(gradients.transpose(1, 2), gradients)

    def inverse(self) -> Tensor:
        fisher = self.storage.double() / self.gradients  # float64: costs once what the sums cost m times
        before = fisher.diagonal(dim1=1, dim2=2).clone()
        square = float(before.mean())
        if not math.isfinite(square):
            raise not_finite(self.name)
        if not fits(self.dampening, self.storage.dtype):
            raise breakdown(self.name, self.dampening, unfit(self.storage.dtype), square)
        fisher.diagonal(dim1=1, dim2=2).add_(self.dampening)
        factor, info = torch.linalg.cholesky_ex(fisher)
        if bool(info.any()) or not bool(torch.isfinite(factor).all()):
            raise breakdown(self.name, self.dampening, "not positive definite", square)
        identity = torch.eye(fisher.shape[1], dtype=fisher.dtype, device=fisher.device)
        half = torch.linalg.solve_triangular(factor, identity.expand_as(fisher), upper=False)
        self.storage.copy_(torch.bmm(half.transpose(1, 2), half))
        # Rounding of the sums is eps * |F|; an eigenvalue below that (1 / |F⁻¹|) is noise. Weights without
        # gradients stand alone with F = λ and are left out.
        seen = before > 0
        after = self.storage.diagonal(dim1=1, dim2=2).double()
        spread = (before * seen).amax(1) * (after * seen).amax(1)
        if bool((spread * torch.finfo(self.storage.dtype).eps > 1).any()):
            why = f"condition {float(spread.max()):.0e}"
            raise breakdown(self.name, self.dampening, why, square)
        return mirror_lower(self.storage)


def piece_kind(gradients: int, block: int) -> Callable[[Tensor, int, float, str], FisherPiece]:
    """The cheaper side of the identity for m gradients and Fisher blocks of B weights."""
    return WoodburyInverse if gradients <= block else FisherSums


def in_blocks(flat: Tensor, block: int) -> Tensor:
    """[..., size] to zero-padded Fisher blocks [..., ceil(size / block), block]."""
    padding = -flat.shape[-1] % block
    return torch.nn.functional.pad(flat, (0, padding)).reshape(*flat.shape[:-1], -1, block)
