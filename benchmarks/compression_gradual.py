"""Gradual pruning: magnitude, GMP* and oBERT with equally many training steps, the telling cells first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from compression_cells import Cell
from edgebert_compress.recipe import Distillation, MatmulPrecision, Pattern, PruneStage, Recipe, Training

SPARSITIES = (0.9, 0.8)
PATTERNS: tuple[Pattern, ...] = ("unstructured", "4-block")
MAIN = ("GMP*", "oBERT")  # the pair that the claim is about
OTHERS = ("oBERT joint", "magnitude")
AGAIN = {"oBERT r=4": 4, "oBERT r=16": 16}  # so many estimates a pruning step: the dearest, so they come last
METHODS = ("magnitude", *MAIN, "oBERT joint", *AGAIN)  # as tables list them
INITIAL = {0.8: 0.3, 0.9: 0.5}


@dataclass(frozen=True)
class Budget:
    """What all methods share. `steps`: of the optimiser, whatever the size of the task's training data."""

    steps: int = 1880
    batch_size: int = 32
    learning_rate: float = 3e-4
    gradients: int = 256
    gradient_batch_size: int = 16
    matmul_precision: MatmulPrecision = "highest"
    dampening: float = 1e-7  # 1e-9 is better one-shot, but too small for the gradients of a half-pruned model
    relative_dampening: float | None = None  # takes its place

    def scaled(self, factor: float) -> Budget:
        """`factor` times the steps, at least one."""
        return replace(self, steps=max(1, round(factor * self.steps)))


def cells(tasks: Sequence[str], seeds: Sequence[int], scale: float = 1.0) -> list[Cell]:
    """GMP* and oBERT of the first seed, then in turn the next seed's pair and the other methods.

    Those that estimate the Fisher matrix again within a pruning step come at the end.
    """
    turns: list[tuple[int, tuple[str, ...]]] = []
    for index, seed in enumerate(seeds):
        turns.append((seed, MAIN))
        if index:
            turns.append((seeds[index - 1], OTHERS))
    turns.append((seeds[-1], OTHERS))
    turns += [(seed, tuple(AGAIN)) for seed in seeds]
    return [
        Cell("gradual", task, seed, method, pattern, sparsity, "all", False, scale)
        for seed, methods in turns
        for task, sparsity, pattern, method in product(tasks, SPARSITIES, PATTERNS, methods)
    ]


def training(steps: int, rows: int, rate: float, budget: Budget, warmup: float = 0.1) -> Training:
    """`steps` optimiser steps on `rows` examples as a Training, whose length is in epochs."""
    an_epoch = -(-rows // budget.batch_size)
    return Training(
        epochs=steps / an_epoch,
        learning_rate=rate,
        batch_size=budget.batch_size,
        warmup=warmup,
        matmul_precision=budget.matmul_precision,
    )


def prune_stage(method: str, pattern: Pattern, sparsity: float, budget: Budget, rows: int) -> PruneStage:
    """Seven cubic steps from 1/20 to 13/20 of the training; the learning rate starts anew at each.

    GMP* differs from oBERT in the ranking alone. Plain magnitude ranks each tensor for itself, learns from
    the labels, and its learning rate falls in one line after a warm-up.
    """
    learned = training(budget.steps, rows, budget.learning_rate, budget, warmup=0.0)
    stage = PruneStage(
        method="obert" if method.startswith("oBERT") else "magnitude",
        pattern=pattern,
        sparsity=sparsity,
        initial_sparsity=INITIAL[sparsity],
        steps=7,
        pruning_start=0.05,
        pruning_share=0.65,
        update="joint" if method == "oBERT joint" else "summed",
        recomputations=AGAIN.get(method, 1),
        gradients=budget.gradients,
        gradient_batch_size=budget.gradient_batch_size,
        dampening=budget.dampening if budget.relative_dampening is None else None,
        relative_dampening=budget.relative_dampening,
        training=learned,
        distillation=Distillation(hardness=1.0, temperature=2.0),
    )
    if method == "magnitude":
        plain = replace(learned, schedule="linear", warmup=0.1)
        return replace(stage, ranking="tensor", training=plain, distillation=Distillation(hardness=0.0))
    return stage


def recipe(cell: Cell, budget: Budget, rows: int) -> Recipe:
    """What `cell` runs on a task of `rows` training examples."""
    pattern: Pattern = "4-block" if cell.pattern == "4-block" else "unstructured"
    stage = prune_stage(cell.method, pattern, cell.sparsity, budget.scaled(cell.epochs_scale), rows)
    return Recipe(f"gradual-{cell.method}", (stage,))
