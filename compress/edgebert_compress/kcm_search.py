"""Which heads and FFN units go: mask search and rearrangement (Kwon et al. 2022, arXiv 2204.09656)."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def search(
    heads: Floats, groups: Floats, head_cost: float, group_cost: float, budget: float
) -> tuple[Bools, Bools]:
    """Masks (true keeps) that lose the least importance within `budget`: algorithm 1 of the paper.

    `heads`, `groups`: importance of every head and every group of FFN units, ≥ 0, over all layers; all heads
    cost the same, and all groups. With a diagonal Fisher matrix this is the optimum: for each number of
    heads the best ones stay, and the best groups that then fit.
    """
    head_order, group_order = np.argsort(-heads, kind="stable"), np.argsort(-groups, kind="stable")
    head_gain = np.array([0.0, *accumulate(heads[head_order])])
    group_gain = np.array([0.0, *accumulate(groups[group_order])])
    best, choice = -1.0, (0, 0)
    for kept in range(len(heads) + 1):
        left = budget - kept * head_cost
        if left < -1e-9 * budget:
            break
        room = min(len(groups), int((left + 1e-9 * budget) // group_cost))
        gain = float(head_gain[kept] + group_gain[room])
        if gain > best:
            best, choice = gain, (kept, room)
    head_mask, group_mask = np.zeros(len(heads), bool), np.zeros(len(groups), bool)
    head_mask[head_order[: choice[0]]] = True
    group_mask[group_order[: choice[1]]] = True
    return head_mask, group_mask


def rearrange(mask: Bools, gradients: Floats) -> Bools:
    """Swap kept and pruned units of one layer where that lowers 1ᵀI1 over the pruned ones; as many stay.

    `gradients`: [examples, units] of the masks. I is the layer's whole Fisher block, whose sum over the
    pruned units P is the mean of (Σ_P g)² over the examples. Starts from `mask`; each kept unit in turn,
    the least important first, may take the place of the pruned one whose return helps most.
    """
    pruned = [int(unit) for unit in np.flatnonzero(~mask)]
    kept = np.flatnonzero(mask)
    if not pruned or not len(kept):
        return mask.copy()
    total = gradients[:, pruned].sum(axis=1)
    squares = (gradients**2).sum(axis=0)
    for unit in kept[np.argsort(squares[kept], kind="stable")]:
        candidates = [*pruned, int(unit)]
        grown = total + gradients[:, unit]
        # |grown - g|² = |grown|² - 2 grown·g + |g|² for the one that returns
        after = squares[candidates] - 2 * (grown @ gradients[:, candidates])
        returns = candidates[int(np.argmin(after))]
        pruned = [one for one in candidates if one != returns]
        total = grown - gradients[:, returns]
    found = np.ones(len(mask), bool)
    found[pruned] = False
    return found
