"""Magnitude pruning: the baseline that second-order pruning has to beat.

GMP* (Kurtic and Alistarh 2022, arXiv 2210.06384) is this ranking with the schedule, learning rate and
distillation of oBERT: a large first step, cubic sparsity, rates that restart at the pruning steps, a hot
teacher. A recipe gets it with `method: magnitude` and the same settings otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from edgebert_compress.masks import Masks, Ranking, check_block, masks_from_scores


def magnitude_scores(
    parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], block: int
) -> dict[str, Tensor]:
    """Sum of squares of each weight or block, row-major; -inf for what is pruned already."""
    scores = {}
    for name, value in parameters.items():
        check_block(name, value, block)
        score = value.detach().reshape(-1, block).square().sum(dim=1)
        dead = ~masks[name].reshape(-1, block).any(dim=1)
        scores[name] = score.masked_fill(dead, -torch.inf)
    return scores


def prune(
    parameters: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    block: int,
    target: float,
    ranking: Ranking = "global",
) -> Masks:
    """Masks at sparsity `target`, ranked over all tensors or in each. Weights stay as they are."""
    return masks_from_scores(magnitude_scores(parameters, masks, block), masks, target, ranking)
