"""How the stages of a recipe train: rates, schedule, precision, and what a teacher adds. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from edgebert_compress.errors import RecipeError
from edgebert_compress.located import Range, about, bounded, check_ranges

Schedule = Literal["auto", "linear", "cyclic-linear", "cosine", "step", "constant"]
IN_CYCLES = ("cyclic-linear", "cosine")
MatmulPrecision = Literal["highest", "high", "medium", "bfloat16"]
POSITIVE = Range(0, low_open=True)
SHARE = Range(0, 1)


@dataclass(frozen=True)
class Training:
    """AdamW with warm-up and a learning rate that follows `schedule`."""

    epochs: float = bounded(5.0, Range(0, 10_000), "Passes over the training data, also parts; 0: none.")
    learning_rate: float = bounded(1e-4, Range(0, 1, low_open=True), "Peak learning rate.")
    batch_size: int = bounded(32, Range(1, 4096), "Examples of one optimiser step.")
    warmup: float = bounded(
        0.1, SHARE, "Share of all steps in which the rate rises to its peak; none in a schedule of cycles."
    )
    weight_decay: float = bounded(0.01, SHARE, "AdamW's decay, on matrices only.")
    schedule: Schedule = field(
        default="auto",
        metadata=about("Learning rate over time; auto: cyclic-linear in a prune stage, linear elsewhere."),
    )
    final_rate: float = bounded(0.0, SHARE, "Learning rate at the end, as a share of the peak.")
    cycle_floor: float = bounded(
        0.1, SHARE, "Learning rate at the end of every cycle but the last, as a share of the peak."
    )
    cycle_epochs: float | None = bounded(
        None,
        POSITIVE,
        "Epochs of one cycle of cyclic-linear or cosine; without it every pruning step starts one of "
        "cyclic-linear, and cosine has a single one.",
    )
    restarts: tuple[float, ...] | None = field(
        default=None,
        metadata=about("Epochs at which cyclic-linear or cosine begins anew, where cycles are not even."),
    )
    milestones: tuple[float, ...] | None = field(
        default=None, metadata=about("Epochs at which a step schedule multiplies the rate.")
    )
    step_factor: float | None = bounded(
        None, Range(0, 1, low_open=True, high_open=True), "What a step schedule multiplies the rate by."
    )
    frozen: tuple[str, ...] = field(
        default=(),
        metadata=about("Patterns such as '*.embeddings.*' of parameter names that do not learn."),
    )
    matmul_precision: MatmulPrecision = field(
        default="highest",
        metadata=about(
            "Of products in training steps and in the gradients of Fisher matrices, as"
            " torch.set_float32_matmul_precision: below highest, a processor that can may round factors to"
            " bfloat16 or TF32. bfloat16: mixed precision, products and what they give in bfloat16; not for"
            " quantize stages."
        ),
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        for key, allowed in (
            ("cycle_epochs", IN_CYCLES),
            ("restarts", IN_CYCLES),
            ("milestones", ("step",)),
            ("step_factor", ("step",)),
        ):
            if getattr(self, key) is not None and self.schedule not in allowed:
                raise RecipeError(f"'{key}' needs 'schedule: {' or '.join(allowed)}', not '{self.schedule}'")
        if self.schedule == "step" and (self.milestones is None or self.step_factor is None):
            raise RecipeError("'schedule: step' needs 'milestones' and 'step_factor'; add them")
        if self.cycle_epochs is not None and self.restarts is not None:
            raise RecipeError("'cycle_epochs' and 'restarts' say the same thing twice; give one of them")
        for key, epochs in (("restarts", self.restarts), ("milestones", self.milestones)):
            self._check_epochs(key, epochs or ())

    def _check_epochs(self, key: str, epochs: Sequence[float]) -> None:
        ends = (0.0, *epochs, math.inf)
        if not all(before < after for before, after in pairwise(ends)):
            raise RecipeError(f"'{key}' must ascend from above 0 without repeats, not {list(epochs)}")
        if epochs and epochs[-1] >= self.epochs:
            raise RecipeError(
                f"'{key}' has epoch {epochs[-1]:g}, which must lie before the end at {self.epochs:g}"
            )


@dataclass(frozen=True)
class FineTuneStage(Training):
    """Training of the teacher on labels alone; same settings as any training, no distillation."""

    epochs: float = bounded(5.0, Range(0, 10_000, low_open=True), "Passes over the training data.")
    head_rate: float = bounded(
        10.0, Range(1, 1000), "A new head, which has further to go, learns at this multiple of the rate."
    )


@dataclass(frozen=True)
class Distillation:
    """loss = (1 - hardness) · task + hardness · KL(student/T, teacher/T) · T² + hidden · … + relations · …"""

    hardness: float = bounded(0.8, SHARE, "Weight of the teacher's answers against the labels.")
    temperature: float = bounded(2.0, POSITIVE, "T, which softens both sides' answers.")
    hidden: float = bounded(0.0, Range(0), "Weight of the mean squared difference of hidden states.")
    relations: float = bounded(
        0.0, Range(0), "Weight of the Q-Q, K-K and V-V attention relations (arXiv 2012.15828)."
    )

    def __post_init__(self) -> None:
        check_ranges(self)
