"""Gradients of the task loss: the m mini-batches of one Fisher estimate, which may be replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from edgebert_compress import distributed
from edgebert_compress.data import Progress, TokenizedDataset, silent
from edgebert_compress.errors import TrainingError
from edgebert_compress.matmul import answer, matmul_precision
from edgebert_compress.recipe import MatmulPrecision
from edgebert_compress.tasks.base import TrainingTask

REPORT_EVERY = 10  # mini-batches


class GradientPass(Protocol):
    """m fixed mini-batches. Every call of `gradients` gives the same gradients in the same order."""

    count: int

    def gradients(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """One dict a mini-batch, of these parameters only, in the parameters' shapes."""


GradientSource = Callable[[int], GradientPass]
"""m -> a pass over the next m mini-batches."""


class TaskGradients:
    """Gradients of the task loss (no distillation) in eval mode, each the mean over one mini-batch.

    Over several processes each one computes its share of the mini-batches, and all receive all of them.
    `precision`: of the products that make them.
    """

    def __init__(
        self,
        model: Any,
        task: TrainingTask,
        data: TokenizedDataset,
        batches: Sequence[Sequence[int]],
        progress: Progress = silent,
        precision: MatmulPrecision = "highest",
    ) -> None:
        self.model, self.task, self.data, self.batches = model, task, data, batches
        self.precision = precision
        self.progress = progress
        self.count = len(batches)

    def gradients(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Raises TrainingError for a loss that is not finite or a parameter outside the loss."""
        for done, gradient in enumerate(distributed.in_turns(lambda i: self._one(names, i), self.count)):
            if (done + 1) % REPORT_EVERY == 0 or done + 1 == self.count:
                self.progress("gradients", done + 1, self.count)
            yield gradient

    @torch.enable_grad()
    def _one(self, names: Sequence[str], index: int) -> dict[str, Tensor]:
        self.model.eval()
        parameters = [self.model.get_parameter(name) for name in names]
        batch = self.task.collate(self.model, self.data, self.batches[index])
        with matmul_precision(self.precision):
            loss = self.task.loss(answer(self.model, batch.inputs, self.precision), batch)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the task loss of gradient mini-batch {index + 1} of {self.count} is {loss.item()}; "
                    "check the data and the model"
                )
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for name, gradient in zip(names, found, strict=True):
            if gradient is None:
                raise TrainingError(f"the task loss does not depend on {name}; leave it out of the pruning")
        return dict(zip(names, found, strict=True))


def task_source(
    model: Any,
    task: TrainingTask,
    data: TokenizedDataset,
    order: Iterator[list[int]],
    progress: Progress = silent,
    precision: MatmulPrecision = "highest",
) -> GradientSource:
    """Passes over the next mini-batches of `order`, drawn when the pass is asked for."""
    return lambda count: TaskGradients(
        model, task, data, [next(order) for _ in range(count)], progress, precision
    )
