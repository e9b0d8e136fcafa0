"""Masks: which weights are pruned. True keeps a weight, False holds it at zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgebert_compress.errors import ModelError, TrainingError

Masks = dict[str, Tensor]
Ranking = Literal["global", "tensor"]


def full_masks(parameters: Mapping[str, Tensor]) -> Masks:
    """Masks that keep everything: bool, shaped as the parameters."""
    return {name: torch.ones_like(value, dtype=torch.bool) for name, value in parameters.items()}


def masks_from_zeros(parameters: Mapping[str, Tensor], block: int) -> Masks:
    """Masks read back from exact zeros; with `block` > 1 only wholly zero blocks count as pruned."""
    masks = {}
    for name, value in parameters.items():
        check_block(name, value, block)
        alive = (value.detach().reshape(-1, block) != 0).any(dim=1, keepdim=True)
        masks[name] = alive.expand(-1, block).reshape(value.shape).clone()
    return masks


def check_block(name: str, value: Tensor, block: int) -> None:
    """Raises ModelError when `block` does not divide a row: a block must not straddle two outputs."""
    if block < 1:
        raise ModelError(f"blocks of {block} weights cannot be pruned from {name}; give 1 or more")
    if value.shape[-1] % block:
        raise ModelError(
            f"{name} has rows of {value.shape[-1]} weights, which blocks of {block} do not divide; "
            "use pattern 'unstructured'"
        )


@torch.no_grad()
def apply_masks(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to +0.0 in place."""
    for name, mask in masks.items():
        parameters[name].masked_fill_(~mask, 0.0)


def sparsity(masks: Mapping[str, Tensor]) -> float:
    """Share of pruned weights over all masks, in [0, 1]; 0 without masks."""
    size = sum(mask.numel() for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / size if size else 0.0


def masks_from_scores(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], target: float, ranking: Ranking = "global"
) -> Masks:
    """Prune the lowest scores until a share `target` is pruned, over all tensors together or of each tensor.

    `scores`: one value a weight or a block, in row-major order; -inf for what is pruned already.
    Exactly round(target * count) are pruned, but never fewer than are -inf; ties go by position.
    What `masks` prunes stays pruned. Raises TrainingError for a score that is NaN.
    """
    flat = {
        name: score.detach().reshape(-1).to("cpu", torch.float32).numpy() for name, score in scores.items()
    }
    for name, values in flat.items():
        if np.isnan(values).any():
            raise TrainingError(f"a saliency of {name} is not a number; check its weights and gradients")
    groups = [list(flat)] if ranking == "global" else [[name] for name in flat]
    new = {}
    for group in groups:
        for name, keep in zip(group, _kept([flat[name] for name in group], target), strict=True):
            old = masks[name]
            part = torch.from_numpy(keep).to(old.device)
            new[name] = part.repeat_interleave(old.numel() // part.numel()).reshape(old.shape) & old
    return new


def _kept(scores: list[NDArray[np.float32]], target: float) -> list[NDArray[np.bool_]]:
    """Selection by partition, not by a sort: one copy of the scores is all the memory it takes."""
    ranked = np.concatenate(scores)
    count = max(round(target * len(ranked)), int(np.isneginf(ranked).sum()))
    if count == 0:
        return [np.ones(len(part), bool) for part in scores]
    ranked.partition(count - 1)
    threshold = ranked[count - 1]
    ties = count - int((ranked[:count] < threshold).sum())
    kept = []
    for part in scores:
        keep = part > threshold
        equal = np.flatnonzero(part == threshold)
        keep[equal[ties:]] = True
        ties = max(0, ties - len(equal))
        kept.append(keep)
    return kept
