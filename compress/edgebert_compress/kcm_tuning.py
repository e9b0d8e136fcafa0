"""Mask tuning: scale what is left so that each half layer gives what the whole model gave (section 4.3).

Kwon et al. 2022 (arXiv 2204.09656). With x [tokens, n] what the consumer W [hidden, n] reads, r the residual
beside it and z the input of the LayerNorm behind it in the whole model, the coefficients m of the units solve

    min_m ‖ W (m ∘ x) + bias + r − z ‖² + λ ‖m − 1‖²

over all tokens. Its normal equations need only (xᵀx) ∘ (WᵀW), summed over the channels of a unit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgebert_compress.architecture import layer_list
from edgebert_compress.data import Progress, TokenizedDataset, silent
from edgebert_compress.kcm_search import Bools, Floats
from edgebert_compress.kcm_units import Half, halves
from edgebert_compress.tasks.base import TrainingTask

RIDGES = (1e-2, 1e-1, 1.0)  # λ as a share of the mean diagonal: the first whose coefficients are in range
RANGE = 10.0  # coefficients beyond it are no scaling any more, as in the paper


@dataclass(frozen=True)
class Tuning:
    """Coefficients of one half layer: smallest, largest, whether all were out of range, so that 1 stayed.

    `before`, `after`: squared error of its output as a share of the output's own square.
    """

    lowest: float
    highest: float
    fell_back: bool
    before: float
    after: float


class Call:
    """One batch on its way through the encoder: the arguments of a layer, and which tokens are no padding."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], attended: Tensor) -> None:
        self.named = "hidden_states" in kwargs
        self.hidden: Tensor = kwargs["hidden_states"] if self.named else args[0]
        self.args, self.kwargs = args, kwargs
        self.attended = attended

    def run(self, layer: nn.Module) -> Tensor:
        """What `layer` makes of the hidden states [batch, tokens, hidden]."""
        if self.named:
            output = layer(*self.args, **{**self.kwargs, "hidden_states": self.hidden})
        else:
            output = layer(self.hidden, *self.args[1:], **self.kwargs)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found


class _Stop(Exception):
    """Nothing behind the first layer is needed."""


def first_calls(
    model: Any, task: TrainingTask, data: TokenizedDataset, batches: Sequence[Sequence[int]]
) -> list[Call]:
    """How the model calls its first layer, for each batch."""
    calls: list[Call] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(Call(args, kwargs, attended))
        raise _Stop

    handle = layer_list(model)[0].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for indices in batches:
            inputs = task.collate(model, data, indices).inputs
            attended = inputs["attention_mask"].bool()
            try:
                model(**inputs)
            except _Stop:
                continue
    finally:
        handle.remove()
    return calls


@contextmanager
def watching(half: Half) -> Iterator[dict[str, Tensor]]:
    """What the latest forward pass gave the consumer ("read") and the LayerNorm ("sum")."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0]

        return hook

    handles = [
        half.consumer.register_forward_pre_hook(keep("read")),
        half.norm.register_forward_pre_hook(keep("sum")),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def run_whole(pair: tuple[Half, Half], layer: nn.Module, calls: Sequence[Call]) -> tuple[list[Tensor], ...]:
    """The inputs of both LayerNorms for the attended tokens of each batch, [tokens, hidden]; calls go on."""
    with watching(pair[0]) as attention, watching(pair[1]) as ffn:
        sums: tuple[list[Tensor], ...] = ([], [])
        for call in calls:
            call.hidden = call.run(layer)
            for found, seen in zip(sums, (attention, ffn), strict=True):
                found.append(seen["sum"][call.attended])
    return sums


def normal_equations(
    half: Half, layer: nn.Module, calls: Sequence[Call], wanted: Sequence[Tensor]
) -> tuple[Floats, Floats, float, float]:
    """AᵀA, Aᵀd, dᵀd and the square of what is wanted, for coefficients 1 + δ with A δ ≈ d.

    One δ each `tuned` channels; `wanted`: by batch, the input of the LayerNorm in the whole model.
    """
    weight = half.consumer.weight.detach()
    size = weight.shape[1]
    gram, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    missing = scale = 0.0
    with watching(half) as seen:
        for call, target in zip(calls, wanted, strict=True):
            call.run(layer)
            read = seen["read"][call.attended]
            gap = target - seen["sum"][call.attended]
            gram += (read.T @ read).double().cpu()
            right += (read * (gap @ weight)).sum(dim=0).double().cpu()
            missing += float(gap.double().square().sum())
            scale += float(target.double().square().sum())
    gram *= (weight.T @ weight).double().cpu()
    gram = gram.reshape(size // half.tuned, half.tuned, size // half.tuned, half.tuned).sum(dim=(1, 3))
    return gram.numpy(), right.reshape(-1, half.tuned).sum(dim=1).numpy(), missing, scale


def solve(gram: Floats, right: Floats, keep: Bools, ridge: float) -> Floats:
    """δ of every coefficient, 0 where not kept: (AᵀA + λI) δ = Aᵀd."""
    found = np.zeros(len(right))
    chosen = np.flatnonzero(keep & (np.diagonal(gram) > 0))
    if len(chosen):
        part = gram[np.ix_(chosen, chosen)]
        damping = ridge * float(np.mean(np.diagonal(part)))
        found[chosen] = np.linalg.solve(part + damping * np.eye(len(chosen)), right[chosen])
    return found


@torch.no_grad()
def tune_half(
    half: Half, keep: Bools, layer: nn.Module, calls: Sequence[Call], wanted: Sequence[Tensor]
) -> Tuning:
    """Fold the coefficients of the kept units into the consumer's columns, in place."""
    gram, right, missing, scale = normal_equations(half, layer, calls, wanted)
    chosen = np.repeat(keep, half.size // half.tuned)
    candidates = (solve(gram, right, chosen, ridge) for ridge in RIDGES)
    delta = next((found for found in candidates if np.abs(1 + found).max() <= RANGE), None)
    after, fell_back = missing, delta is None
    coefficients = np.ones(len(right)) if delta is None else 1 + delta
    if delta is not None:
        after = max(0.0, missing - 2 * float(delta @ right) + float(delta @ gram @ delta))
        columns = torch.from_numpy(coefficients).to(half.consumer.weight).repeat_interleave(half.tuned)
        half.consumer.weight.mul_(columns)
    scale = max(scale, np.finfo(np.float64).tiny)
    lowest, highest = float(coefficients.min()), float(coefficients.max())
    return Tuning(lowest, highest, fell_back, missing / scale, after / scale)


@torch.no_grad()
def tune(
    model: nn.Module,
    whole: nn.Module,
    kept: Sequence[tuple[Bools, Bools]],
    task: TrainingTask,
    data: TokenizedDataset,
    batches: Sequence[Sequence[int]],
    progress: Progress = silent,
) -> list[Tuning]:
    """Tune `model`, whose units are removed already, towards `whole`, half layer by half layer, in place.

    Each is solved with what the tuned layers before it give. Holds the hidden states of all batches twice.
    """
    theirs = first_calls(whole, task, data, batches)
    ours = [copy.copy(call) for call in theirs]
    found: list[Tuning] = []
    layers = zip(layer_list(model), layer_list(whole), halves(model), halves(whole), kept, strict=True)
    for done, (layer, original, mine, reference, masks) in enumerate(layers, 1):
        for half, wanted, keep in zip(mine, run_whole(reference, original, theirs), masks, strict=True):
            found.append(tune_half(half, keep, layer, ours, wanted))
        for call in ours:
            call.hidden = call.run(layer)
        progress("tune", done, len(kept))
    return found
