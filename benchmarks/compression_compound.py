"""Compound compression: layers dropped, weights pruned by oBERT, INT8, as in table 3 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

from compression_cells import Cell
from compression_gradual import Budget, prune_stage, training
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    Pattern,
    QuantizeStage,
    Recipe,
    Stage,
    Training,
    TrainStage,
)

# Pruning trains three times as long as in the comparison of methods: here the best model is wanted.
BUDGET = Budget(steps=5640)
DROP_STEPS, INT8_STEPS = 1880, 940
INT8_RATE = 5e-5
ANSWERS = Distillation(hardness=1.0, temperature=2.0)
LAYERS: tuple[Literal["all", "half"], ...] = ("all", "half")


def cells(tasks: Sequence[str], seeds: Sequence[int], scale: float = 1.0) -> list[Cell]:
    """All layers before half of them; 4-block + INT8 first. Where nothing is pruned, pattern is "dense"."""
    wanted: tuple[tuple[str, float, bool], ...] = (
        ("4-block", 0.8, True),
        ("4-block", 0.9, True),
        ("4-block", 0.8, False),
        ("4-block", 0.9, False),
        ("dense", 0.0, False),
        ("dense", 0.0, True),
        ("unstructured", 0.8, False),
        ("unstructured", 0.9, False),
    )
    return [
        Cell("compound", task, seed, "oBERT", pattern, sparsity, layers, int8, scale)
        for seed, layers, task, (pattern, sparsity, int8) in product(seeds, LAYERS, tasks, wanted)
    ]


def recipe(cell: Cell, budget: Budget, rows: int) -> Recipe:
    """Drop, prune, quantise, whichever `cell` asks for, each with the teacher's answers to learn from."""
    scale = cell.epochs_scale

    def trained(steps: int, rate: float) -> Training:
        return training(max(1, round(scale * steps)), rows, rate, budget)

    stages: list[Stage] = []
    if cell.layers == "half":
        learned = trained(DROP_STEPS, budget.learning_rate)
        stages.append(DropLayersStage(layers="half", training=learned, distillation=ANSWERS))
    if cell.sparsity:
        pattern: Pattern = "4-block" if cell.pattern == "4-block" else "unstructured"
        stages.append(prune_stage(cell.method, pattern, cell.sparsity, budget.scaled(scale), rows))
    if cell.int8:
        learned = replace(trained(INT8_STEPS, INT8_RATE), weight_decay=0.0)
        if learned.matmul_precision == "bfloat16":  # which cannot hold the integers
            learned = replace(learned, matmul_precision="medium")
        stages.append(QuantizeStage(training=learned, distillation=ANSWERS))
    if not stages:  # the teacher itself, measured as everything else
        stages.append(TrainStage(training=Training(epochs=0)))
    return Recipe(f"compound-{cell.layers}-{cell.pattern}", tuple(stages))
