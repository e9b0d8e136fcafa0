"""Several processes on one pruning or training run: torch.distributed, started by torchrun or accelerate.

In a single process every function here does nothing more than return its input.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from edgebert_compress.errors import TrainingError

TIMEOUT = timedelta(hours=2)  # one rank may evaluate or save while the others wait
T = TypeVar("T")


def world() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) in a single process."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def start_if_launched(device: str | torch.device = "cpu") -> bool:
    """Join the process group when a launcher (torchrun) started this process; whether there is a group now.

    `device`: where the model will be. nccl for "cuda" where every process has a GPU of its own, which becomes
    its current one; gloo otherwise, which takes what lies on a shared GPU over the CPU. Raises TrainingError.
    """
    if not dist.is_available() or dist.is_initialized():
        return dist.is_available()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return False
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    own_gpu = torch.device(device) == torch.device("cuda") and here <= torch.cuda.device_count()
    if own_gpu:
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if own_gpu else "gloo", timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise TrainingError(
            f"cannot join the process group of rank {os.environ['RANK']}: {error}; start with torchrun"
        ) from error
    return True


def my_part(indices: Sequence[T]) -> list[T]:
    """This process's share: every n-th item from its rank on. The shares are disjoint and cover all."""
    rank, size = world()
    return list(indices[rank::size])


def average_gradients(parameters: Sequence[Tensor], weight: float) -> None:
    """Replace each `.grad` by Σ weight * grad over the processes, in place; nothing in a single process.

    `weight`: this process's share of the examples of the step; the shares add up to 1. A parameter without
    a gradient here takes part with zeros.
    """
    if world()[1] == 1:
        return
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).mul_(weight)
    dist.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.reshape(gradient.shape))


def in_turns(compute: Callable[[int], dict[str, Tensor]], count: int) -> Iterator[dict[str, Tensor]]:
    """compute(0) … compute(count - 1) in this order on every process, each computed on one of them.

    All processes must ask for the same names, and must read to the end. A TrainingError of one process is
    raised on all.
    """
    rank, size = world()
    if size == 1:
        yield from map(compute, range(count))
        return
    for start in range(0, count, size):
        mine, failure = None, None
        try:
            mine = compute(start + rank) if start + rank < count else None
        except TrainingError as error:
            failure = str(error)
        layouts: list[Any] = [None] * size
        layout = {name: (value.shape, value.dtype) for name, value in (mine or {}).items()}
        dist.all_gather_object(layouts, (failure, layout))
        for message, _ in layouts:
            if message:
                raise TrainingError(message)
        for owner in range(min(size, count - start)):
            if owner == rank:
                assert mine is not None
                received = {name: value.contiguous() for name, value in mine.items()}
            else:
                device = next(iter(mine.values())).device if mine else _device()
                received = {
                    name: torch.empty(shape, dtype=dtype, device=device)
                    for name, (shape, dtype) in layouts[owner][1].items()
                }
            for value in received.values():
                dist.broadcast(value, src=owner)
            yield received


def _device() -> torch.device:
    cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def sum_parts(tensors: Mapping[str, Tensor]) -> None:
    """Add up tensors of which each process filled its own part and left zeros elsewhere, in place. Exact."""
    if world()[1] == 1:
        return
    for value in tensors.values():
        moved = value.to(_device()) if dist.get_backend() == "nccl" else value
        dist.all_reduce(moved)
        if moved is not value:
            value.copy_(moved)


def least(value: int) -> int:
    """The smallest `value` of all processes."""
    if world()[1] == 1:
        return value
    held = torch.tensor([value], dtype=torch.int64, device=_device())
    dist.all_reduce(held, op=dist.ReduceOp.MIN)
    return int(held.item())
