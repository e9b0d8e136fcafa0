"""oBERT: second-order pruning of single weights or of blocks along the input dimension.

Kurtic et al. 2022 (arXiv 2203.07259), section 3. With Q a weight or a block of weights of one output row:

    saliency  ρ_Q = ½ w_Qᵀ ([F⁻¹]_QQ)⁻¹ w_Q
    update    δw  = -F⁻¹ E_Q ([F⁻¹]_QQ)⁻¹ w_Q

`update="summed"` adds up the updates of all that one step prunes, as the authors do; "joint" solves for all
pruned weights of a Fisher block together (`joint_solve`); "eliminating" does so too, and ranks them one after
another (`elimination`). Then the pruned weights become zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from edgebert_compress import distributed
from edgebert_compress.data import Progress, silent
from edgebert_compress.elimination import elimination_scores
from edgebert_compress.errors import TrainingError
from edgebert_compress.fisher import breakdown, in_blocks
from edgebert_compress.fisher_pieces import Piece
from edgebert_compress.fisher_shards import FisherSettings, FisherShards
from edgebert_compress.gradients import GradientPass, GradientSource
from edgebert_compress.joint_solve import joint_pull
from edgebert_compress.masks import Masks, Ranking, apply_masks, check_block, masks_from_scores, sparsity
from edgebert_compress.memory import MemoryPlan, free_memory, plan
from edgebert_compress.spill import free_bytes, scratch_folder

Update = Literal["summed", "joint", "eliminating"]
Pieces = Iterator[tuple[Piece, Tensor]]  # with F⁻¹ [count, B, B]
Dampened = Callable[[Mapping[str, float]], None]
REPORT_EVERY = 10  # pieces


@dataclass(frozen=True)
class ObertSettings:
    """`block`: weights pruned together (1, 4, 8, 16, 32). `fisher_block`: B. `gradients`: m. `dampening`: λ.

    `recomputations`: r, how often the inverse is estimated anew within one pruning step.
    `relative`: λ of a tensor is `dampening` times the mean squared gradient of its kept weights.
    """

    block: int
    fisher_block: int
    gradients: int
    dampening: float
    recomputations: int = 1
    update: Update = "summed"
    ranking: Ranking = "global"
    dtype: torch.dtype = torch.float32
    relative: bool = False

    def __post_init__(self) -> None:
        if self.block < 1 or self.fisher_block < 1 or self.fisher_block % self.block:
            raise TrainingError(
                f"a Fisher block of {self.fisher_block} weights does not hold whole blocks of {self.block}; "
                f"take a multiple of {self.block}"
            )
        if self.gradients < 1 or self.recomputations < 1:
            raise TrainingError(
                f"{self.gradients} gradients and {self.recomputations} recomputations; give at least one each"
            )
        if not 0 < self.dampening < float("inf"):
            raise TrainingError(f"dampening is {self.dampening:g}; give a number above 0, such as 1e-7")

    @property
    def fisher(self) -> FisherSettings:
        return FisherSettings(self.fisher_block, self.gradients, self.dampening, self.dtype, self.relative)


def block_pull(inverse: Tensor, weight: Tensor, block: int, name: str, dampening: float) -> Tensor:
    """([F⁻¹]_QQ)⁻¹ w_Q for every Q at once: [count, B]. `inverse` [count, B, B], `weight` [count, B].

    Raises TrainingError when a part of the inverse is not positive definite.
    """
    if block == 1:
        return weight / inverse.diagonal(dim1=1, dim2=2)
    count, size = weight.shape
    tiles = inverse.reshape(count, size // block, block, size // block, block)
    own = tiles.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # [count, B / block, block, block]
    factor, info = torch.linalg.cholesky_ex(own)
    if bool(info.any()):
        raise breakdown(name, dampening, f"a part of {block} x {block} is not positive definite")
    return torch.cholesky_solve(weight.reshape(count, -1, block, 1), factor).reshape(count, size)


def saliency(weight: Tensor, pull: Tensor, block: int) -> Tensor:
    """ρ_Q of every Q: [count, B / block]. `pull` from `block_pull`."""
    return 0.5 * (weight * pull).reshape(len(weight), -1, block).sum(dim=2)


def step(inverse: Tensor, pull: Tensor) -> Tensor:
    """δw = -F⁻¹ pull of every Fisher block: [count, B]."""
    return -(inverse @ pull.unsqueeze(2)).squeeze(2)


def partial_targets(current: float, target: float, recomputations: int) -> list[float]:
    """Sparsity after each of `recomputations` equal parts of one pruning step."""
    return [current + (target - current) * (part + 1) / recomputations for part in range(recomputations)]


def of_piece(flat: Tensor, piece: Piece) -> Tensor:
    """The weights of a piece in Fisher blocks: [count, B], zero-padded."""
    return in_blocks(flat.reshape(-1)[piece.weights], piece.block)


@torch.no_grad()
def scores(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    pieces: Pieces,
    settings: ObertSettings,
    dampening: Mapping[str, float],
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor]:
    """ρ_Q of every Q by tensor: float32 [size / block] on the CPU, -inf where it is pruned already.

    `dampening`: λ by tensor; looked up once the tensor's first piece is there.
    """
    block = settings.block
    found = {name: torch.zeros(mask.numel() // block) for name, mask in masks.items()}
    for done, (piece, inverse) in enumerate(pieces, 1):
        weight = of_piece(weights[piece.name], piece).to(inverse.dtype)
        used = dampening[piece.name]
        if settings.update == "eliminating":
            score = elimination_scores(inverse, weight, block, piece.name, used)
        else:
            score = saliency(weight, block_pull(inverse, weight, block, piece.name, used), block)
        place = slice(piece.weights.start // block, piece.weights.stop // block)
        found[piece.name][place] = score.reshape(-1)[: place.stop - place.start].to("cpu", torch.float32)
        progress(done)
    distributed.sum_parts(found)
    for name, mask in masks.items():
        dead = ~mask.reshape(-1, block).any(dim=1)
        found[name].masked_fill_(dead.to("cpu"), -torch.inf)
    return found


@torch.no_grad()
def moves(
    weights: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    pieces: Pieces,
    settings: ObertSettings,
    dampening: Mapping[str, float],
) -> dict[str, Tensor]:
    """δw by tensor, flat, for pruning to the masks `new`; after `scores`. Raises TrainingError."""
    found = {name: torch.zeros(mask.numel(), device=mask.device) for name, mask in new.items()}
    for piece, inverse in pieces:
        weight = of_piece(weights[piece.name], piece).to(inverse.dtype)
        pruned = ~of_piece(new[piece.name], piece)
        if settings.update != "summed":
            pull = joint_pull(inverse, weight, pruned, piece.name, dampening[piece.name])
        else:
            pull = block_pull(inverse, weight, settings.block, piece.name, dampening[piece.name]) * pruned
        move = step(inverse, pull).reshape(-1)
        found[piece.name][piece.weights] = move[: piece.weights.stop - piece.weights.start].float()
    distributed.sum_parts(found)
    for name, move in found.items():
        if not bool(torch.isfinite(move).all()):
            raise breakdown(name, dampening[name], "the update is not finite")
    return found


@torch.no_grad()
def prune_once(
    parameters: Mapping[str, nn.Parameter],
    masks: Mapping[str, Tensor],
    gradients: GradientPass,
    settings: ObertSettings,
    target: float,
    plan: MemoryPlan,
    scratch: Path | None = None,
    progress: Progress = silent,
    dampened: Dampened = lambda found: None,
) -> Masks:
    """Prune to sparsity `target` and move the survivors, in place; the new masks. Raises TrainingError."""
    weights = {name: parameters[name].detach() for name in masks}
    with FisherShards(masks, gradients, settings.fisher, plan, scratch) as shards:

        def report(done: int) -> None:
            if done % REPORT_EVERY == 0 or done == shards.count:
                progress("saliency", done, shards.count)

        found_scores = scores(weights, masks, shards.scoring(), settings, shards.dampening, report)
        new = masks_from_scores(found_scores, masks, target, settings.ranking)
        # Applied only after the last: a second estimate needs the gradients at the weights of the first.
        found = moves(weights, new, shards.updating(), settings, shards.dampening)
        dampened(shards.dampening)
    for name, move in found.items():
        weights[name].add_(move.reshape(weights[name].shape))
    apply_masks(parameters, new)
    return new


def plan_step(
    parameters: Mapping[str, Tensor],
    settings: ObertSettings,
    memory: int | None = None,
    scratch: Path | None = None,
) -> MemoryPlan:
    """How one estimate, score and update will be done within `memory` bytes; also for a dry run.

    None takes a share of what is free now. Raises TrainingError naming the minimum when nothing fits.
    """
    if not parameters:
        raise TrainingError("no tensor to prune; give at least one")
    device = next(iter(parameters.values())).device
    processes = distributed.world()[1]
    budget = free_memory(device) // (processes if device.type == "cpu" else 1) if memory is None else memory
    return plan(
        {name: value.numel() for name, value in parameters.items()},
        block=settings.block,
        fisher_block=settings.fisher_block,
        gradients=settings.gradients,
        memory=distributed.least(budget),
        scratch_free=distributed.least(free_bytes(scratch_folder(scratch))),
        dtype=settings.dtype,
        processes=processes,
        gpu=device.type == "cuda",
    )


def prune(
    parameters: Mapping[str, nn.Parameter],
    masks: Mapping[str, Tensor],
    source: GradientSource,
    settings: ObertSettings,
    target: float,
    *,
    memory: int | None = None,
    scratch: Path | None = None,
    progress: Progress = silent,
    dampened: Dampened = lambda found: None,
) -> Masks:
    """One pruning step to sparsity `target` with `recomputations` estimates of the inverse; the new masks.

    `parameters`: what takes part in the ranking; `masks`: of the same names. `memory`: bytes for the inverse,
    the gradients and all temporary arrays, None for a share of what is free; it decides how the work is done
    and never what comes out. `scratch`: where the inverse may be spilled. Over several processes each one
    estimates its share of the pieces, and all end with the same masks and weights. `dampened` is told λ by
    tensor, once an estimate.
    Raises ModelError and TrainingError, before any weight has changed in the step that fails.
    """
    for name, parameter in parameters.items():
        check_block(name, parameter, settings.block)
    how = plan_step(parameters, settings, memory, scratch)
    new = {name: masks[name] for name in parameters}
    for part in partial_targets(sparsity(new), target, settings.recomputations):
        new = prune_once(
            parameters,
            new,
            source(settings.gradients),
            settings,
            part,
            how,
            scratch_folder(scratch),
            progress,
            dampened,
        )
    return new
