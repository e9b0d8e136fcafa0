"""Gradual pruning between the steps of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from edgebert_compress import magnitude, obert
from edgebert_compress.architecture import prunable_parameters
from edgebert_compress.errors import RecipeError
from edgebert_compress.gradients import task_source
from edgebert_compress.masks import Masks, apply_masks, check_block, full_masks, sparsity
from edgebert_compress.obert import ObertSettings
from edgebert_compress.recipe import PruneStage
from edgebert_compress.resume import Snapshot
from edgebert_compress.schedule import cubic_sparsity, pruning_points
from edgebert_compress.training_run import Acted, Batches, Job, step_count

DampeningCurve = list[tuple[int, float, float]]
"""(training step, smallest, largest λ of a tensor), a point a Fisher estimate."""


@dataclass(frozen=True)
class Part:
    """One of the r parts of a pruning step: before which training step, to which sparsity, whether last."""

    step: int
    target: float
    last: bool


def schedule_parts(stage: PruneStage, total: int, start: float) -> list[Part]:
    """Every part of every pruning step in `total` training steps, from a model of sparsity `start`."""
    points = pruning_points(total, stage.steps, stage.pruning_start, stage.pruning_share)
    targets = cubic_sparsity(stage.initial_sparsity, stage.sparsity, stage.steps)
    count = stage.recomputations if stage.method == "obert" else 1
    parts = []
    for step, target in zip(points, targets, strict=True):
        between = [start + (target - start) * part / count for part in range(1, count)]
        parts += [Part(step, value, last=False) for value in between]
        parts.append(Part(step, target, last=True))
        start = target
    return parts


def chosen_tensors(
    parameters: dict[str, nn.Parameter], patterns: Sequence[str] | None
) -> dict[str, nn.Parameter]:
    """The parameters whose names match one of `patterns` (None: all of them), in the model's order.

    Raises RecipeError for a pattern that matches nothing.
    """
    if patterns is None:
        return dict(parameters)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise RecipeError(
                f"'tensors' has {pattern[:80]!r}, which matches none of the {len(parameters)} prunable "
                f"tensors, such as {next(iter(parameters))}; correct it"
            )
    return {
        name: value
        for name, value in parameters.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


class Pruner:
    """Hooks of a training that prune at the steps of the schedule and hold all masks in between.

    `pruned`: names of the tensors that it prunes. `masks`: of these and of what was pruned before. `curve`:
    (training step, sparsity of `pruned`) after each pruning step. `dampening_curve`: (training step,
    smallest, largest λ of a tensor) of each Fisher estimate.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: PruneStage,
        job: Job,
        masks: Masks,
        memory: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        """`scratch`: a folder for what does not fit into `memory` bytes.

        Raises RecipeError, ModelError or TrainingError where `stage` fits neither model nor memory."""
        self._stage, self._job, self._memory, self._scratch = stage, job, memory, scratch
        self._parameters = prunable_parameters(model)
        self._chosen = chosen_tensors(self._parameters, stage.tensors)
        for name, value in self._chosen.items():
            check_block(name, value, stage.block)
        # the r estimates of a step are parts of their own, so that a killed run goes on between them
        self._settings = replace(obert_settings(stage), recomputations=1)
        if stage.method == "obert":  # now, not after the hours of training before the first pruning step
            obert.plan_step(self._chosen, self._settings, memory, scratch)
        self.pruned = tuple(self._chosen)
        self.masks = masks | {name: masks.get(name, full) for name, full in full_masks(self._chosen).items()}
        self.curve: list[tuple[int, float]] = []
        self.dampening_curve: DampeningCurve = []
        self._parts = schedule_parts(stage, step_count(job.data, stage.training), self._sparsity())
        self._done = 0
        self._order = Batches(job.data, stage.gradient_batch_size, job.seed)
        self._source = task_source(
            model, job.task, job.data, self._order, job.progress, stage.training.matmul_precision
        )

    @property
    def points(self) -> Sequence[int]:
        return [part.step for part in self._parts if part.last]

    def act(self, step: int) -> Acted:
        """The next part of a pruning step that is due before training step `step`."""
        if self._done == len(self._parts) or self._parts[self._done].step > step:
            return "nothing"
        part = self._parts[self._done]
        self._prune(part)
        self._done += 1
        if not part.last:
            return "part"
        self.curve.append((part.step, self._sparsity()))
        self._job.progress("pruning step", len(self.curve), self._stage.steps, sparsity=self.curve[-1][1])
        return "step"

    def after_step(self) -> None:
        apply_masks(self._parameters, self.masks)

    def state(self) -> Snapshot:
        values = {
            "done": self._done,
            "curve": self.curve,
            "dampening_curve": self.dampening_curve,
            "gradient_batches": self._order.drawn,
        }
        return Snapshot(values, dict(self.masks))

    def restore(self, state: Snapshot) -> None:
        self._done = int(state.values["done"])
        self.curve = [(int(step), value) for step, value in state.values["curve"]]
        self.dampening_curve = [
            (int(step), *values) for step, *values in state.values.get("dampening_curve", [])
        ]
        self._order.skip(int(state.values["gradient_batches"]) - self._order.drawn)
        self.masks = dict(state.tensors)

    def _sparsity(self) -> float:
        return sparsity({name: self.masks[name] for name in self.pruned})

    def _prune(self, part: Part) -> None:
        stage = self._stage
        masks = {name: self.masks[name] for name in self.pruned}
        if stage.method == "obert":
            new = obert.prune(
                self._chosen,
                masks,
                self._source,
                self._settings,
                part.target,
                memory=self._memory,
                scratch=self._scratch,
                progress=self._job.progress,
                dampened=lambda found: self.dampening_curve.append(dampening_point(part.step, found)),
            )
        else:
            new = magnitude.prune(self._chosen, masks, stage.block, part.target, stage.ranking)
        self.masks = self.masks | new
        apply_masks(self._parameters, self.masks)


def obert_settings(stage: PruneStage) -> ObertSettings:
    """What `obert.prune` is given for the pruning steps of `stage`."""
    return ObertSettings(
        block=stage.block,
        fisher_block=stage.fisher_block,
        gradients=stage.gradients,
        dampening=stage.dampening_value,
        relative=stage.relative_dampening is not None,
        recomputations=stage.recomputations,
        update=stage.update,
        ranking=stage.ranking,
    )


def dampening_point(step: int, found: Mapping[str, float]) -> tuple[int, float, float]:
    """Of a `DampeningCurve`; `found`: λ by tensor."""
    return step, min(found.values()), max(found.values())
