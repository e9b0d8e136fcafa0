"""Small pruning problems with known answers, in float64 and without the code under test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgebert_compress.gradients import GradientSource


def dense_inverse(gradients: NDArray[np.float64], block: int, dampening: float) -> NDArray[np.float64]:
    """[count, block, block] by numpy.linalg.inv of λI + (1/m) Σ g gᵀ, block by block, zero-padded."""
    m, size = gradients.shape
    padded = np.zeros((m, -(-size // block) * block))
    padded[:, :size] = gradients
    blocks = padded.reshape(m, -1, block)
    fisher = np.einsum("mni,mnj->nij", blocks, blocks) / m + dampening * np.eye(block)
    return np.linalg.inv(fisher)


def constrained_minimiser(
    hessian: NDArray[np.float64], weight: NDArray[np.float64], removed: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """argmin ½ δᵀHδ with δ = -w on `removed`, from the KKT system with its multipliers."""
    size, count = len(weight), int(removed.sum())
    pick = np.eye(size)[removed]
    kkt = np.block([[hessian, pick.T], [pick, np.zeros((count, count))]])
    right = np.concatenate([np.zeros(size), -weight[removed]])
    return np.linalg.solve(kkt, right)[:size]


class FixedGradients:
    """A pass over given gradients: by tensor [m, *shape]. Records what was asked for."""

    def __init__(self, stacked: Mapping[str, Tensor]) -> None:
        self.stacked = stacked
        self.count = len(next(iter(stacked.values())))
        self.asked: list[list[str]] = []

    def gradients(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        self.asked.append(list(names))
        for row in range(self.count):
            yield {name: self.stacked[name][row].clone() for name in names}


def random_gradients(
    shapes: Mapping[str, tuple[int, ...]], count: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> FixedGradients:
    """Correlated within a row, so that pruned weights have neighbours that can take over."""
    generator = torch.Generator().manual_seed(seed)
    stacked = {}
    for name, shape in shapes.items():
        own = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
        common = torch.randn(count, shape[0], 1, generator=generator, dtype=torch.float64)
        stacked[name] = (own + 2 * common).to(dtype)
    return FixedGradients(stacked)


def source_of(passed: FixedGradients) -> tuple[GradientSource, list[int]]:
    """A source that always gives this pass, and the counts it was asked for."""
    calls: list[int] = []

    def source(count: int) -> FixedGradients:
        calls.append(count)
        return passed

    return source, calls
