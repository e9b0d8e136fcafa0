"""oBERT: second-order pruning of single weights or of blocks along the input dimension.

Kurtic et al. 2022 (arXiv 2203.07259), section 3. With Q a weight or a block of weights of one output row:

    saliency  ρ_Q = ½ w_Qᵀ ([F⁻¹]_QQ)⁻¹ w_Q
    update    δw  = -F⁻¹ E_Q ([F⁻¹]_QQ)⁻¹ w_Q

The updates of all that one step prunes are summed, as the authors do, then the pruned weights become zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgebert_compress.errors import TrainingError
from edgebert_compress.fisher import DAMPENING_GRID, FisherInverse, GradientSource, estimate
from edgebert_compress.masks import Masks, apply_masks, check_block, masks_from_scores, sparsity


@dataclass(frozen=True)
class ObertSettings:
    """`block`: weights pruned together (1 or 4). `fisher_block`: B. `gradients`: m. `dampening`: λ.

    `recomputations`: r, how often the inverse is estimated anew within one pruning step.
    """

    block: int
    fisher_block: int
    gradients: int
    dampening: float
    recomputations: int = 1


def solve_blocks(fisher: FisherInverse, weight: Tensor, block: int) -> Tensor:
    """([F⁻¹]_QQ)⁻¹ w_Q for every Q at once: [size / block, block], row-major. Raises TrainingError."""
    w = fisher.split(weight.detach().reshape(-1).to(fisher.inverse.dtype))  # [count, B]
    if block == 1:
        solved = w / fisher.inverse.diagonal(dim1=1, dim2=2)
    else:
        per_fisher_block = fisher.block // block
        tiles = fisher.inverse.reshape(-1, per_fisher_block, block, per_fisher_block, block)
        own = tiles.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # [count, B / block, block, block]
        right = w.reshape(-1, per_fisher_block, block, 1)
        factor, info = torch.linalg.cholesky_ex(own)
        if bool(info.any()):
            raise TrainingError(
                f"a {block} x {block} part of the Fisher inverse is not positive definite; "
                f"raise 'dampening' (try {DAMPENING_GRID})"
            )
        solved = torch.cholesky_solve(right, factor).squeeze(-1)
    return solved.reshape(-1)[: weight.numel()].reshape(-1, block)


def saliency(weight: Tensor, solved: Tensor, mask: Tensor) -> Tensor:
    """ρ_Q of every Q, [size / block]; -inf where it is pruned already. `solved` from `solve_blocks`."""
    block = solved.shape[1]
    score = 0.5 * (weight.detach().reshape(-1, block) * solved).sum(dim=1)
    return score.masked_fill(~mask.reshape(-1, block).any(dim=1), -torch.inf)


def summed_update(fisher: FisherInverse, solved: Tensor, pruned: Tensor) -> Tensor:
    """Σ_Q δw over the pruned Q, flat [size]. `pruned`: bool per weight, flat or shaped."""
    pull = fisher.split(solved.reshape(-1) * pruned.reshape(-1))  # E_Q (…)⁻¹ w_Q, summed
    return -(fisher.inverse @ pull.unsqueeze(-1)).reshape(-1)[: fisher.size]


def partial_targets(current: float, target: float, recomputations: int) -> list[float]:
    """Sparsity after each of `recomputations` equal parts of one pruning step."""
    return [current + (target - current) * (part + 1) / recomputations for part in range(recomputations)]


@torch.no_grad()
def prune_once(
    parameters: Mapping[str, nn.Parameter],
    masks: Mapping[str, Tensor],
    fishers: Mapping[str, FisherInverse],
    block: int,
    target: float,
) -> Masks:
    """Prune to sparsity `target` and move the survivors, in place; the new masks."""
    solved = {name: solve_blocks(fishers[name], parameters[name], block) for name in masks}
    scores = {name: saliency(parameters[name], solved[name], masks[name]) for name in masks}
    new = masks_from_scores(scores, masks, target)
    for name, mask in new.items():
        weight = parameters[name]
        weight.add_(summed_update(fishers[name], solved[name], ~mask).reshape(weight.shape))
    apply_masks(parameters, new)
    return new


def prune(
    parameters: Mapping[str, nn.Parameter],
    masks: Mapping[str, Tensor],
    gradient_source: GradientSource,
    settings: ObertSettings,
    target: float,
) -> Masks:
    """One pruning step to sparsity `target` with `recomputations` estimates of the inverse; the new masks."""
    new = dict(masks)
    for name, parameter in parameters.items():
        check_block(name, parameter, settings.block)
    for part in partial_targets(sparsity(masks), target, settings.recomputations):
        fishers = estimate(
            new,
            gradient_source(settings.gradients),
            count=settings.gradients,
            block=settings.fisher_block,
            dampening=settings.dampening,
        )
        new = prune_once(parameters, new, fishers, settings.block, part)
    return new
