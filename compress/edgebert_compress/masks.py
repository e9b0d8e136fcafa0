"""Masks: which weights are pruned. True keeps a weight, False holds it at zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgebert_compress.errors import ModelError

Masks = dict[str, Tensor]


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


def masks_from_scores(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], target: float) -> Masks:
    """Prune the lowest scores over all tensors together until a share `target` of them is pruned.

    `scores`: one value a weight or a block, in row-major order; -inf for what is pruned already.
    Exactly round(target * count) are pruned, but never fewer than are -inf; ties go by position.
    What `masks` prunes stays pruned.
    """
    ranked = torch.cat([score.reshape(-1) for score in scores.values()])
    dead = int(torch.isneginf(ranked).sum())
    count = max(round(target * ranked.numel()), dead)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    keep[torch.sort(ranked, stable=True).indices[:count]] = False
    new = {}
    parts = torch.split(keep, [score.numel() for score in scores.values()])
    for name, part in zip(scores, parts, strict=True):
        old = masks[name]
        new[name] = part.repeat_interleave(old.numel() // part.numel()).reshape(old.shape) & old
    return new
