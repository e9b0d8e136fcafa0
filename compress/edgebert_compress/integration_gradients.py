"""Gradients of the Fisher matrix from what a `transformers.Trainer` trains on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from edgebert_compress import distributed
from edgebert_compress.errors import TrainingError
from edgebert_compress.gradients import GradientSource
from edgebert_compress.training_run import cuda_devices

STRIDE = 1_000_003  # between the seeds of neighbouring pruning steps, above any usual number of batches
HALF_SCALES = (2.0**14, 2.0**9, 2.0**4, 1.0)  # of the loss, tried in this order until nothing overflows


class LoaderGradients:
    """m mini-batches of a data loader's own data set and collator: the model's own loss, in eval mode.

    Each mini-batch is collated again when it is replayed, under a seed of its own, so that a collator that
    draws (such as for masked language modelling) draws the same. The loader itself, its order and the
    random state of the training stay untouched. Over several processes each computes its share.
    """

    def __init__(
        self, model: Any, loader: DataLoader[Any], batches: Sequence[Sequence[int]], seed: int
    ) -> None:
        self.model, self.loader, self.batches, self.seed = model, loader, batches, seed
        self.count = len(batches)

    def gradients(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Raises TrainingError where the model gives no finite loss or a parameter is outside it."""
        return distributed.in_turns(lambda index: self._one(names, index), self.count)

    def _one(self, names: Sequence[str], index: int) -> dict[str, Tensor]:
        device = next(self.model.parameters()).device
        parameters = [self.model.get_parameter(name) for name in names]
        with torch.random.fork_rng(devices=cuda_devices(device)), torch.enable_grad():
            torch.manual_seed(self.seed * STRIDE + index)
            rows: Any = self.loader.dataset
            inputs = self.loader.collate_fn([rows[row] for row in self.batches[index]])
            self.model.eval()
            with _made_in(self.model, names[0]) as kinds:
                loss = _loss(self.model(**{name: on(value, device) for name, value in inputs.items()}))
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the loss of gradient mini-batch {index + 1} of {self.count} is {loss.item()}; "
                    "check the data and the model"
                )
            found = _gradients(loss, parameters, HALF_SCALES if torch.float16 in kinds else (1.0,))
        gradients: dict[str, Tensor] = {}
        for name, gradient in zip(names, found, strict=True):
            if gradient is None:
                raise TrainingError(f"the loss does not depend on {name}; leave it out of the pruning")
            gradients[name] = gradient
        return gradients


@contextmanager
def _made_in(model: nn.Module, name: str) -> Iterator[set[torch.dtype]]:
    """The types that the module with the parameter `name` answers in, also within somebody's autocast."""
    kinds: set[torch.dtype] = set()
    owner = model.get_submodule(name.rpartition(".")[0])
    handle = owner.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    try:
        yield kinds
    finally:
        handle.remove()


def _gradients(loss: Tensor, parameters: Sequence[Tensor], scales: Sequence[float]) -> list[Tensor | None]:
    """Float32 gradients, made of the loss times the first of `scales` that lets all of them be finite.

    Half precision has nothing below 6e-8, where many a gradient of a trained model is (arXiv 1710.03740).
    """
    for scale in scales:
        last = scale == scales[-1]
        found = torch.autograd.grad(scale * loss, parameters, retain_graph=not last, allow_unused=True)
        if last or all(one is None or bool(one.isfinite().all()) for one in found):
            break
    return [None if one is None else one.float() / scale for one in found]


def on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _loss(outputs: Any) -> Tensor:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0]
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        raise TrainingError(
            "the model gives no loss for a batch of the Trainer's data; add its labels to the data"
        )
    return loss


def check_loader(loader: DataLoader[Any] | None) -> DataLoader[Any]:
    """Raises TrainingError for data that has no order of its own to draw mini-batches from."""
    if (
        loader is None
        or isinstance(loader.dataset, IterableDataset)
        or not hasattr(loader.dataset, "__getitem__")
    ):
        raise TrainingError(
            "oBERT draws mini-batches by index, which a streamed data set has none of; "
            "give the Trainer a data set with __len__ and __getitem__, or prune by magnitude"
        )
    return loader


def loader_source(
    model: nn.Module, loader: DataLoader[Any] | None, batch_size: int, seed: int, step: int
) -> GradientSource:
    """Passes over mini-batches of `batch_size` rows; `seed` and the pruning step `step` fix their order."""
    checked = check_loader(loader)
    rows: Any = checked.dataset
    indices = _endless(len(rows), seed * STRIDE + step)

    def source(count: int) -> LoaderGradients:
        batches = [list(islice(indices, batch_size)) for _ in range(count)]
        return LoaderGradients(model, checked, batches, seed + step)

    return source


def _endless(size: int, seed: int) -> Iterator[int]:
    """Shuffled indices, a new order each time round."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()
