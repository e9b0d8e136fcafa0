"""Attention heads and groups of FFN units: where they are, the gradients of their masks, their removal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgebert_compress.architecture import family, layer_list, model_type
from edgebert_compress.data import Progress, TokenizedDataset, silent
from edgebert_compress.errors import ModelError, TrainingError
from edgebert_compress.kcm_search import Bools, Floats
from edgebert_compress.tasks.base import TrainingTask, device_of

GROUP = 4  # FFN units that go together: one block of the 4-block pattern
NORMS = {"distilbert": ("sa_layer_norm", "output_layer_norm")}
BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


@dataclass(frozen=True)
class Half:
    """One half of an encoder layer, attention or FFN.

    `producers`: linear layers whose output rows belong to the units. `consumer`: the linear layer that reads
    them. `norm`: its input is the consumer's output plus the residual. `size`: channels of one unit.
    `tuned`: channels that mask tuning scales together.
    """

    producers: tuple[nn.Linear, ...]
    consumer: nn.Linear
    norm: nn.Module
    size: int
    tuned: int

    @property
    def units(self) -> int:
        return self.consumer.in_features // self.size


def halves(model: nn.Module) -> list[tuple[Half, Half]]:
    """(attention, FFN) of every layer. Raises ModelError."""
    config: Any = model.config
    heads, kind = int(config.num_attention_heads), model_type(model)
    linears = family(kind)[1]
    found = []
    for layer in layer_list(model):
        query, key, value, output, up, down = (cast(nn.Linear, layer.get_submodule(name)) for name in linears)
        norms = [layer.get_submodule(name) for name in NORMS.get(kind, BERT_NORMS)]
        if down.in_features % GROUP:
            raise ModelError(
                f"the FFN is {down.in_features} wide, which groups of {GROUP} units do not divide; "
                "use a recipe instead of --fast"
            )
        width = output.in_features // heads
        attention = Half((query, key, value), output, norms[0], width, width)
        found.append((attention, Half((up,), down, norms[1], GROUP, 1)))
    return found


@contextmanager
def masked(parts: Sequence[Half], masks: Sequence[Tensor]) -> Iterator[None]:
    """Multiply what each consumer reads by its mask [batch, units] while the block runs."""

    def hook(size: int, mask: Tensor) -> Any:
        return lambda module, inputs: (inputs[0] * mask.repeat_interleave(size, dim=1)[:, None, :],)

    handles = [
        half.consumer.register_forward_pre_hook(hook(half.size, mask))
        for half, mask in zip(parts, masks, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def mask_gradients(
    model: nn.Module,
    task: TrainingTask,
    data: TokenizedDataset,
    batches: Sequence[Sequence[int]],
    progress: Progress = silent,
) -> list[tuple[Floats, Floats]]:
    """∂loss/∂mask of each example at masks of 1, by layer: ([examples, heads], [examples, groups]), float64.

    Eval mode; the mean over the squares is the diagonal of the empirical Fisher matrix (equation 5). For
    tasks with several answers an example the loss of an example is its share of the batch's.
    Raises TrainingError for a loss that is not finite.
    """
    model.eval()
    parts = [half for pair in halves(model) for half in pair]
    rows: list[list[Any]] = [[] for _ in parts]
    for done, indices in enumerate(batches, 1):
        batch = task.collate(model, data, indices)
        masks = [torch.ones(len(indices), half.units, device=device_of(model)) for half in parts]
        for mask in masks:
            mask.requires_grad_()
        with masked(parts, masks), torch.enable_grad():
            loss = task.loss(model(**batch.inputs), batch)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the task loss of batch {done} of {len(batches)} is {loss.item()}; "
                "check the data and the model"
            )
        for place, found in zip(rows, torch.autograd.grad(loss, masks), strict=True):
            place.append(found.double().cpu().numpy() * len(indices))
        progress("fisher", done, len(batches))
    stacked = [np.concatenate(found) for found in rows]
    return list(zip(stacked[::2], stacked[1::2], strict=True))


@torch.no_grad()
def remove(half: Half, keep: Bools) -> None:
    """Zero everything that belongs to the units that `keep` leaves out, in place."""
    gone = torch.from_numpy(~keep).repeat_interleave(half.size).to(half.consumer.weight.device)
    for linear in half.producers:
        linear.weight[gone] = 0
        if linear.bias is not None:
            linear.bias[gone] = 0
    half.consumer.weight[:, gone] = 0
