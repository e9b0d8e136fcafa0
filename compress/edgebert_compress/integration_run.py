"""The stages of a recipe inside one training that somebody else runs: what happens before which step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from edgebert_compress import magnitude, obert, quantize
from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.checkpoint import find_sparsity
from edgebert_compress.errors import ModelError, RecipeError
from edgebert_compress.integration_gradients import loader_source
from edgebert_compress.masks import Masks, apply_masks, check_block, full_masks, masks_from_zeros, sparsity
from edgebert_compress.pruner import DampeningCurve, chosen_tensors, dampening_point, obert_settings
from edgebert_compress.quantize import QuantEmbedding, QuantLinear
from edgebert_compress.recipe import DropLayersStage, FastStage, PruneStage, QuantizeStage, Stage
from edgebert_compress.schedule import cubic_sparsity, pruning_points

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Segment:
    """The training steps `first` to `end` (not included) of one stage."""

    stage: Stage
    first: int
    end: int


@dataclass(frozen=True)
class Cut:
    """One pruning step: before training step `step`, to the sparsity `target`. `number` counts them all."""

    step: int
    target: float
    stage: PruneStage
    number: int


def segments(stages: Sequence[Stage], total: int) -> tuple[Segment, ...]:
    """`total` training steps divided among the stages as their epochs are.

    A stage of 0 epochs gets none. Raises RecipeError for stages that need a training of their own.
    """
    for stage in stages:
        if isinstance(stage, DropLayersStage | FastStage):
            raise RecipeError(
                f"a training that is under way has no place for a '{stage.kind}' stage; "
                "run it with 'edgebert compress' first and give the Trainer its result"
            )
        if isinstance(stage, QuantizeStage) and stage.activations == "static":
            raise RecipeError(
                "a training that is under way calibrates no static ranges; take 'activations: dynamic', "
                "or quantise its result with 'edgebert compress'"
            )
        if isinstance(stage, PruneStage) and stage.training.epochs == 0:
            raise RecipeError(f"'{stage.title}' has 0 epochs and so no place in a training; give it some")
    done = list(accumulate(stage.training.epochs for stage in stages))
    if done[-1] == 0:
        return tuple(Segment(stage, total, total) for stage in stages)
    bounds = [0, *(round(total * epochs / done[-1]) for epochs in done)]
    return tuple(Segment(stage, *bounds[index : index + 2]) for index, stage in enumerate(stages))


def cuts(parts: Sequence[Segment]) -> tuple[Cut, ...]:
    """Every pruning step of every prune stage, in order."""
    found: list[Cut] = []
    for part in parts:
        stage = part.stage
        if isinstance(stage, PruneStage):
            points = pruning_points(
                part.end - part.first, stage.steps, stage.pruning_start, stage.pruning_share
            )
            targets = cubic_sparsity(stage.initial_sparsity, stage.sparsity, stage.steps)
            for point, target in zip(points, targets, strict=True):
                found.append(Cut(part.first + point, target, stage, len(found)))
    return tuple(found)


class Compression:
    """Prunes and quantises one model at its steps and holds the zeros in between.

    `masks`: of every tensor that is pruned already, read from its zeros, and of those that will be.
    `curve`: (training step, sparsity of all prunable weights) after each pruning step.
    `dampening_curve`: (training step, least, largest λ over the tensors) of each estimate.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[Segment],
        step: int,
        seed: int,
        memory: int | None,
        curve: Curve,
        dampening_curve: DampeningCurve,
    ) -> None:
        """`step`: training steps done; pruning steps before it are found in the zeros.

        Raises RecipeError and ModelError where a stage does not fit the model.
        """
        self.model, self.parts = model, parts
        self.curve, self.dampening_curve = curve, dampening_curve
        self._seed, self._memory = seed, memory
        self._cuts = cuts(parts)
        self._parameters = prunable_parameters(model)
        self.patterns = {name: str(row["pattern"]) for name, row in find_sparsity(model).items()}
        for part in parts:
            if isinstance(part.stage, PruneStage):
                for name, value in chosen_tensors(self._parameters, part.stage.tensors).items():
                    check_block(name, value, part.stage.block)
        if self.quantizer is not None:
            check_float32(model)
        self._done = sum(cut.step < step for cut in self._cuts)
        for cut in self._cuts[: self._done]:
            self.patterns |= dict.fromkeys(
                chosen_tensors(self._parameters, cut.stage.tensors), cut.stage.pattern
            )
        self.masks: Masks = masks_from_zeros({name: self._parameters[name] for name in self.patterns}, 1)
        self.start_quantizing(step)

    @property
    def starts(self) -> tuple[int, ...]:
        """Training steps at which something changes: pruning steps, and the first step of each stage."""
        return tuple(sorted({cut.step for cut in self._cuts} | {part.first for part in self.parts}))

    @property
    def left(self) -> int:
        """Pruning steps to come."""
        return len(self._cuts) - self._done

    @property
    def quantizer(self) -> Segment | None:
        last = self.parts[-1]
        return last if isinstance(last.stage, QuantizeStage) else None

    def before_step(self, step: int, loader: DataLoader[Any] | None) -> bool:
        """Do what is due before training step `step`; whether the model changed. Raises TrainingError."""
        changed = False
        while self.left and self._cuts[self._done].step <= step:
            self._prune(self._cuts[self._done], loader)
            self._done += 1
            changed = True
        return self.start_quantizing(step) or changed

    def start_quantizing(self, step: int) -> bool:
        """Go into simulated INT8 where it is time; whether the model changed."""
        part = self.quantizer
        if part is None or step < part.first or is_quantized(self.model):
            return False
        assert isinstance(part.stage, QuantizeStage)
        quantize.prepare(self.model, part.stage.products)
        return True

    def hold(self) -> None:
        """Put pruned weights back to zero."""
        apply_masks(self._parameters, self.masks)

    def sparsity(self) -> float:
        return sparsity(full_masks(self._parameters) | self.masks)

    def _prune(self, cut: Cut, loader: DataLoader[Any] | None) -> None:
        stage = cut.stage
        chosen = chosen_tensors(self._parameters, stage.tensors)
        masks = {name: self.masks.get(name, full) for name, full in full_masks(chosen).items()}
        if stage.method == "magnitude":
            new = magnitude.prune(chosen, masks, stage.block, cut.target, stage.ranking)
        else:
            training = self.model.training
            source = loader_source(self.model, loader, stage.gradient_batch_size, self._seed, cut.number)
            new = obert.prune(
                chosen,
                masks,
                source,
                obert_settings(stage),
                cut.target,
                memory=self._memory,
                dampened=lambda found: self.dampening_curve.append(dampening_point(cut.step, found)),
            )
            self.model.train(training)
        self.masks |= new
        self.patterns |= dict.fromkeys(new, stage.pattern)
        self.hold()
        self.curve.append((cut.step, self.sparsity()))


def check_float32(model: nn.Module) -> None:
    """Raises ModelError for weights that cannot hold what simulated INT8 computes."""
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ModelError(
                f"{name} is {kind}, and simulated INT8 needs float32 weights; load the model with "
                "dtype=torch.float32 (the Trainer may still compute in mixed precision)"
            )


def is_quantized(model: nn.Module) -> bool:
    """Whether the model is in simulated INT8."""
    return any(isinstance(module, QuantLinear | QuantEmbedding) for module in model.modules())
