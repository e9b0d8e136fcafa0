"""The exact update for many weights that are pruned together, inside each Fisher block.

With Q all pruned weights of a Fisher block (Kurtic et al. 2022, eq. 5, with Q the whole set):

    δw = -F⁻¹ E_Q ([F⁻¹]_QQ)⁻¹ w_Q

the minimiser of ½ δwᵀ F δw under δw_Q = -w_Q. The authors' sum over single updates ignores how the pruned
weights of a block depend on each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgebert_compress.fisher import breakdown


def joint_pull(inverse: Tensor, weight: Tensor, pruned: Tensor, name: str, dampening: float) -> Tensor:
    """E_Q ([F⁻¹]_QQ)⁻¹ w_Q of every Fisher block: [count, B], zero outside Q; δw = -F⁻¹ of it.

    `inverse` [count, B, B]; `weight`, bool `pruned` [count, B]. Blocks differ in how many weights they prune:
    rows and columns outside Q become those of the identity, so that one batched Cholesky solves all.
    Float64 inside. Raises TrainingError when a system is not positive definite.
    """
    both = pruned.unsqueeze(2) & pruned.unsqueeze(1)
    system = inverse.double().masked_fill(~both, 0.0)
    system.diagonal(dim1=1, dim2=2).masked_fill_(~pruned, 1.0)
    right = weight.double().masked_fill(~pruned, 0.0).unsqueeze(2)
    factor, info = torch.linalg.cholesky_ex(system)
    if bool(info.any()):
        raise breakdown(name, dampening, "a joint system is not positive definite")
    return torch.cholesky_solve(right, factor).squeeze(2).to(inverse.dtype)
