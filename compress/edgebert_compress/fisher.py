"""Block-diagonal inverse of the empirical Fisher matrix of one weight tensor.

Kurtic et al. 2022, "The Optimal BERT Surgeon" (arXiv 2203.07259), section 3: F = λI + (1/m) Σ g gᵀ over
blocks of B consecutive weights of the row-major tensor, inverted with the Woodbury identity. Gradients come
in chunks of k: with G [k, B] one chunk of one block and V = G F⁻¹,

    F⁻¹ ← F⁻¹ - Vᵀ (mI + V Gᵀ)⁻¹ V

which for k = 1 is the update one gradient at a time. Every block is updated in the same batched products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from edgebert_compress.errors import TrainingError

SHARD_ELEMENTS = 1 << 22  # inverse elements updated at a time; bounds the temporary arrays
DAMPENING_GRID = "1e-4, 1e-5, 1e-6, 1e-7"


class FisherInverse:
    """F⁻¹ of a tensor of `size` weights: [ceil(size / block), block, block], the last block zero-padded.

    Memory: size * block elements of `dtype`.
    """

    def __init__(
        self,
        size: int,
        *,
        block: int,
        gradients: int,
        dampening: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        self.size = size
        self.block = block
        self.gradients = gradients
        count = -(-size // block)
        identity = torch.eye(block, dtype=dtype, device=device) / dampening
        self.inverse = identity.expand(count, block, block).clone()

    def split(self, flat: Tensor) -> Tensor:
        """[..., size] to zero-padded Fisher blocks [..., count, block]."""
        padding = self.inverse.shape[0] * self.block - self.size
        return torch.nn.functional.pad(flat, (0, padding)).reshape(*flat.shape[:-1], -1, self.block)

    def add(self, gradients: Tensor) -> None:
        """Take in a chunk of gradients [k, size]. The chunks of all `add` calls make up the `gradients` m.

        Raises TrainingError when the inverse stops being finite and positive.
        """
        chunk = self.split(gradients.to(self.inverse.dtype)).transpose(0, 1)  # [count, k, block]
        shard = max(1, SHARD_ELEMENTS // self.block**2)
        for start in range(0, len(self.inverse), shard):
            self._update(self.inverse[start : start + shard], chunk[start : start + shard])

    def _update(self, inverse: Tensor, chunk: Tensor) -> None:
        k = chunk.shape[1]
        v = chunk @ inverse  # [n, k, block]
        system = v @ chunk.transpose(1, 2)  # [n, k, k]
        system.diagonal(dim1=1, dim2=2).add_(self.gradients)
        factor, info = torch.linalg.cholesky_ex(system)
        if bool(info.any()) or not bool(torch.isfinite(factor).all()):
            raise TrainingError(
                f"the Fisher inverse broke down over {k} gradients (not positive definite or not finite); "
                f"raise 'dampening' (try {DAMPENING_GRID}) or check the gradients"
            )
        half = torch.linalg.solve_triangular(factor, v, upper=False)
        inverse.baddbmm_(half.transpose(1, 2), half, alpha=-1)  # the product is symmetric, so F⁻¹ stays so

    def check(self) -> None:
        """Raises TrainingError unless every diagonal entry is finite and above zero."""
        diagonal = self.inverse.diagonal(dim1=1, dim2=2)
        if not bool(torch.isfinite(diagonal).all()) or bool((diagonal <= 0).any()):
            raise TrainingError(
                "the Fisher inverse lost its positive diagonal to rounding; "
                f"raise 'dampening' (try {DAMPENING_GRID})"
            )


GradientSource = Callable[[int], Iterable[dict[str, Tensor]]]
"""m -> that many gradients of the task loss, each by parameter name in the parameters' shapes."""


def estimate(
    masks: Mapping[str, Tensor],
    gradients: Iterable[dict[str, Tensor]],
    *,
    count: int,
    block: int,
    dampening: float,
    chunk: int = 16,
    dtype: torch.dtype = torch.float32,
) -> dict[str, FisherInverse]:
    """The inverse of every masked tensor from `count` gradients, taken in `chunk` at a time.

    Gradients of pruned weights are masked, so that they neither take part nor shift the survivors.
    """
    fishers = {
        name: FisherInverse(
            mask.numel(),
            block=block,
            gradients=count,
            dampening=dampening,
            dtype=dtype,
            device=mask.device,
        )
        for name, mask in masks.items()
    }
    waiting: list[dict[str, Tensor]] = []

    def take_in() -> None:
        for name, mask in masks.items():
            stacked = torch.stack([gradient[name].reshape(-1) for gradient in waiting])
            fishers[name].add(stacked * mask.reshape(-1))
        waiting.clear()

    for gradient in gradients:
        waiting.append(gradient)
        if len(waiting) == chunk:
            take_in()
    if waiting:
        take_in()
    for fisher in fishers.values():
        fisher.check()
    return fishers
