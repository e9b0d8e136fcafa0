"""Saliencies that know of each other: weights leave a Fisher block one after another, cheapest first.

Single saliencies are blind to pairs: two weights that can each stand in for the other both look free. Here
each removal is followed by its own update of the survivors and of F⁻¹ (the recursion of Frantar and Alistarh
2022, "Optimal Brain Compression", arXiv 2208.11580, on the empirical Fisher of a block):

    w ← w - F⁻¹_:Q ([F⁻¹]_QQ)⁻¹ w_Q      F⁻¹ ← F⁻¹ - F⁻¹_:Q ([F⁻¹]_QQ)⁻¹ F⁻¹_Q:

After the removals that the global ranking picks, w is what the joint update gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgebert_compress.fisher import breakdown


def elimination_scores(inverse: Tensor, weight: Tensor, block: int, name: str, dampening: float) -> Tensor:
    """What each Q costs when its turn comes: [count, B / block], never falling along the removals.

    `inverse` [count, B, B], `weight` [count, B]. The running maximum makes any global threshold take a
    leading part of the removals of each Fisher block. Float64 inside, all Fisher blocks at once, one step a
    removal. Raises TrainingError when a part of the inverse stops being positive definite.
    """
    inverse, weight = inverse.to(torch.float64, copy=True), weight.to(torch.float64, copy=True)
    count, size = weight.shape
    units = size // block
    rows = torch.arange(count, device=weight.device)
    inside = torch.arange(block, device=weight.device)
    gone = torch.zeros(count, units, dtype=torch.bool, device=weight.device)
    found = torch.zeros(count, units, dtype=torch.float64, device=weight.device)
    highest = torch.zeros(count, dtype=torch.float64, device=weight.device)
    diagonal = inverse.diagonal(dim1=1, dim2=2)  # a view: follows the removals
    for _ in range(units):
        own = weight.view(count, units, block, 1)
        if block == 1:
            factor = diagonal.clamp(min=0).sqrt().view(count, units, 1, 1)
            lost = diagonal <= 0
            pull = own / diagonal.view(count, units, 1, 1)
        else:
            tiles = inverse.view(count, units, block, units, block).diagonal(dim1=1, dim2=3)
            factor, lost = torch.linalg.cholesky_ex(tiles.permute(0, 3, 1, 2))  # [count, units, block, block]
            pull = torch.cholesky_solve(own, factor)
        if bool(lost.any()):
            raise breakdown(name, dampening, "it lost its rank while weights were taken out")
        cost = 0.5 * (own * pull).sum(dim=(2, 3))
        cheapest = cost.masked_fill(gone, torch.inf).argmin(dim=1)
        highest = torch.maximum(highest, cost[rows, cheapest])
        found[rows, cheapest] = highest
        gone[rows, cheapest] = True
        place = cheapest.unsqueeze(1) * block + inside  # [count, block]
        across = inverse[rows.unsqueeze(1), place]  # [count, block, B]
        weight -= (across.transpose(1, 2) @ pull[rows, cheapest]).squeeze(2)
        half = torch.linalg.solve_triangular(factor[rows, cheapest], across, upper=False)
        inverse.baddbmm_(half.transpose(1, 2), half, alpha=-1)
        # Rows and columns of what is gone are zero now but for rounding; a diagonal of 1 keeps it solvable.
        inverse[rows.unsqueeze(1), place, place] = 1.0
    return found
