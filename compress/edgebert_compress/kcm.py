"""The fast path: prune heads and FFN units without any training (Kwon et al. 2022, arXiv 2204.09656).

Fisher information of the units' masks, a mask search under a budget of multiply-accumulates, swaps within
each layer, and least-squares scaling of what is left. Shapes stay: what goes becomes zeros in blocks of 4,
so the folder loads everywhere and the sparse engine skips them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgebert_compress.data import Progress, TokenizedDataset, silent
from edgebert_compress.errors import TrainingError
from edgebert_compress.kcm_search import Bools, Floats, rearrange, search
from edgebert_compress.kcm_tuning import Tuning, tune
from edgebert_compress.kcm_units import GROUP, Half, halves, mask_gradients, remove
from edgebert_compress.tasks import TrainingTask

SAMPLES = 2048
BATCH = 32
PATTERN = "4-block"


@dataclass(frozen=True)
class KcmFacts:
    """What the fast path did. `keep`: share of the encoder's multiply-accumulates asked for; `kept`: found.

    `heads`, `units`: how many stay in each layer. `tuning`: of each layer attention, then FFN.
    `tokens`: mean length of the `examples`, for which the multiply-accumulates are counted.
    """

    keep: float
    kept: float
    heads: tuple[int, ...]
    units: tuple[int, ...]
    examples: int
    tokens: float
    tuning: tuple[Tuning, ...]
    seconds: float

    def figures(self) -> dict[str, Any]:
        """Plain JSON types, without the time."""
        values = asdict(self)
        del values["seconds"]
        tuning = list(values.pop("tuning"))
        return {**values, "heads": list(self.heads), "units": list(self.units), "tuning": tuning}


def unit_costs(pair: tuple[Half, Half], tokens: float) -> tuple[float, float]:
    """Multiply-accumulates of one head and of one group of FFN units on one text of `tokens` tokens.

    A head: its rows of query, key and value, its columns of the output, and both products of attention.
    """
    attention, _ = pair
    hidden = attention.consumer.out_features
    return tokens * attention.size * (4 * hidden + 2 * tokens), tokens * GROUP * 2 * hidden


def choose(
    gradients: Sequence[tuple[Floats, Floats]], costs: tuple[float, float], keep: float
) -> list[tuple[Bools, Bools]]:
    """Masks (true keeps) of the heads and groups of each layer: searched, then rearranged layer by layer."""
    importance = [[(found**2).mean(axis=0) for found in layer] for layer in gradients]
    heads = np.concatenate([layer[0] for layer in importance])
    groups = np.concatenate([layer[1] for layer in importance])
    total = len(heads) * costs[0] + len(groups) * costs[1]
    head_mask, group_mask = search(heads, groups, *costs, keep * total)
    per_layer = zip(np.split(head_mask, len(gradients)), np.split(group_mask, len(gradients)), strict=True)
    return [
        (rearrange(head, layer[0]), rearrange(group, layer[1]))
        for (head, group), layer in zip(per_layer, gradients, strict=True)
    ]


def fast_compress(
    model: nn.Module,
    task: TrainingTask,
    data: TokenizedDataset,
    *,
    keep: float,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress = silent,
) -> KcmFacts:
    """Prune `model` in place to the share `keep` of its encoder's multiply-accumulates, without training.

    `samples`: examples drawn from `data` (training data), all of them where there are fewer. Weights that
    are zero already stay zero. Deterministic for one seed and thread count.
    Raises ModelError and TrainingError.
    """
    if not 0 < keep < 1:
        raise TrainingError(f"'keep' is {keep:g}; give a share of the computation above 0 and below 1")
    if samples < 1:
        raise TrainingError(f"{samples} samples; give at least one")
    task.check(data, model)
    started = time.perf_counter()
    model.eval()
    whole = copy.deepcopy(model).requires_grad_(False)
    drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:samples].tolist()
    drawn.sort(key=lambda index: len(data.input_ids[index]))
    batches = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
    parts = halves(model)
    tokens = math.fsum(len(data.input_ids[index]) for index in drawn) / len(drawn)
    costs = unit_costs(parts[0], tokens)
    kept = choose(mask_gradients(model, task, data, batches, progress), costs, keep)
    for pair, masks in zip(parts, kept, strict=True):
        for half, mask in zip(pair, masks, strict=True):
            remove(half, mask)
    tuning = tune(model, whole, kept, task, data, batches, progress)
    heads = tuple(int(head.sum()) for head, _ in kept)
    groups = [int(group.sum()) for _, group in kept]
    total = sum(pair[0].units * costs[0] + pair[1].units * costs[1] for pair in parts)
    return KcmFacts(
        keep=keep,
        kept=(sum(heads) * costs[0] + sum(groups) * costs[1]) / total,
        heads=heads,
        units=tuple(GROUP * count for count in groups),
        examples=len(drawn),
        tokens=tokens,
        tuning=tuple(tuning),
        seconds=time.perf_counter() - started,
    )
