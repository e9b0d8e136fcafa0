"""One process of a pruning run, started by torchrun or alone: prune a tiny classifier, write what came out.

python distributed_worker.py CHECKPOINT OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgebert_compress import distributed, fisher_pieces, obert
from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.errors import TrainingError
from edgebert_compress.gradients import TaskGradients
from edgebert_compress.loading import load_model
from edgebert_compress.masks import full_masks
from edgebert_compress.tasks import TEXT_CLASSIFICATION
from tests.compress.conftest import tokenized
from tests.factories import LABELS


def pruned(
    checkpoint: Path, update: obert.Update, tight: bool, relative: bool = False
) -> dict[str, torch.Tensor]:
    """Masks, weights and λ at 70 %; `tight`: with less memory than one pass over the gradients needs."""
    torch.manual_seed(0)
    model, _ = load_model(checkpoint, "text-classification", LABELS, new_head=True)
    data = tokenized(checkpoint, 123, seed=0)
    parameters = prunable_parameters(model)
    batches = [list(range(start, start + 3)) for start in range(0, 123, 3)]  # 41: one round is not full
    config = obert.ObertSettings(
        4, 16, 41, 0.1 if relative else 1e-4, recomputations=2, update=update, relative=relative
    )
    how = obert.plan_step(parameters, config, 1 << 30)
    assert (how.mode, how.passes) == ("streamed", 1)
    memory = how.peak_bytes - 1 if tight else how.peak_bytes
    if tight:
        assert obert.plan_step(parameters, config, memory).mode == "replayed"

    def source(count: int) -> TaskGradients:
        return TaskGradients(model, TEXT_CLASSIFICATION, data, batches[:count])

    used: list[list[float]] = []
    masks = obert.prune(
        parameters, full_masks(parameters), source, config, 0.7, memory=memory,
        dampened=lambda found: used.append([found[name] for name in parameters]),
    )  # fmt: skip
    found = {f"mask {name}": mask for name, mask in masks.items()}
    found |= {f"weight {name}": value.detach() for name, value in parameters.items()}
    found["dampening"] = torch.tensor(used, dtype=torch.float64)
    return {f"{update}, {relative} {key}": value for key, value in found.items()}


def failing_on_the_last_rank(rank: int, size: int) -> bool:
    """Whether an error of one process reaches this one."""

    def compute(index: int) -> dict[str, torch.Tensor]:
        if rank == size - 1:
            raise TrainingError("the loss is nan")
        return {"w": torch.zeros(2)}

    try:
        list(distributed.in_turns(compute, 4))
    except TrainingError as error:
        return str(error) == "the loss is nan"
    return False


def main() -> None:
    checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    fisher_pieces.PIECE_ELEMENTS = 1  # several pieces even of small tensors
    launched = distributed.start_if_launched()
    rank, size = distributed.world()
    assert launched == (size > 1)
    tensors = pruned(checkpoint, "joint", tight=False) | pruned(checkpoint, "summed", tight=True)
    tensors |= pruned(checkpoint, "joint", tight=False, relative=True)
    tensors |= pruned(checkpoint, "summed", tight=True, relative=True)
    tensors["failed"] = torch.tensor(failing_on_the_last_rank(rank, size))
    averaged = torch.nn.Parameter(torch.zeros(3))
    if rank == 0:
        averaged.grad = torch.tensor([1.0, 2.0, 4.0])
    distributed.average_gradients([averaged], 0.25 if rank == 0 else 0.75)
    assert averaged.grad is not None
    tensors["averaged"] = averaged.grad
    tensors["part"] = torch.tensor(distributed.my_part(list(range(5))))
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, out / f"{rank}-of-{size}.safetensors")


if __name__ == "__main__":
    main()
