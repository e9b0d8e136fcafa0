"""The stages of a recipe: frozen dataclasses that say what each may hold. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgebert_compress.errors import RecipeError
from edgebert_compress.located import Range, about, bounded, check_ranges
from edgebert_compress.recipe_training import POSITIVE, Distillation, Training

Method = Literal["obert", "magnitude"]
Pattern = Literal["unstructured", "4-block", "8-block", "16-block", "32-block"]
Ranking = Literal["global", "tensor"]
Update = Literal["summed", "joint", "eliminating"]
Attention = Literal["int8", "float"]
Activations = Literal["dynamic", "static"]
Calibration = Literal["min-max", "percentile", "mse", "learned"]
LayerShare = Literal["two-thirds", "half", "third"]
BLOCK_SIZES: Mapping[str, int] = {
    "unstructured": 1,
    "4-block": 4,
    "8-block": 8,
    "16-block": 16,
    "32-block": 32,
}
SHARES: Mapping[str, float] = {"two-thirds": 2 / 3, "half": 1 / 2, "third": 1 / 3}
DEFAULT_CALIBRATION: Calibration = "mse"
CALIBRATION_EXAMPLES = 256
AT_LEAST_ONE = Range(1)
SPARSITY = Range(0, 1, high_open=True)
DAMPENING = 1e-7  # λ where a recipe names none, as in the paper


@dataclass(frozen=True)
class DropLayersStage:
    """Keep some encoder layers, then train with distillation."""

    keep: tuple[int, ...] | None = field(
        default=None, metadata=about("Indices of the layers to keep, ascending; beats 'layers'.")
    )
    drop: tuple[int, ...] | None = field(
        default=None, metadata=about("Indices of the layers to drop, ascending; beats 'layers'.")
    )
    layers: int | LayerShare = field(
        default="two-thirds", metadata=about("How many layers stay, or which share.", AT_LEAST_ONE)
    )
    training: Training = field(default_factory=Training)
    distillation: Distillation = field(default_factory=Distillation)
    kind: Literal["drop-layers"] = "drop-layers"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.keep is not None and self.drop is not None:
            raise RecipeError("'keep' and 'drop' say the same thing twice; give one of them")
        for key, indices in (("keep", self.keep), ("drop", self.drop)):
            if indices is not None and (min(indices) < 0 or list(indices) != sorted(set(indices))):
                raise RecipeError(f"'{key}' must ascend without repeats from 0 up, not {list(indices)}")

    @property
    def title(self) -> str:
        if self.drop:
            return f"drop layers {', '.join(map(str, self.drop))}"
        what = f"layers {', '.join(map(str, self.keep))}" if self.keep else f"{self.layers} of the layers"
        return f"keep {what}"


@dataclass(frozen=True)
class PruneStage:
    """Gradual pruning to `sparsity`, cubic from `initial_sparsity` in `steps`, with training between them.

    The first step happens after the share `pruning_start` of the training, the last after the share
    `pruning_share`, the others evenly between; a single step happens at `pruning_start`. `gradients`,
    `dampening`, `relative_dampening`, `fisher_block_size`, `recomputations` and `update` concern oBERT only.
    """

    method: Method = field(
        default="obert", metadata=about("How weights are scored: second-order (oBERT) or by magnitude.")
    )
    pattern: Pattern = field(
        default="4-block", metadata=about("Weights that go together: one, or k consecutive inputs of a row.")
    )
    sparsity: float = bounded(0.8, SPARSITY, "Share of zeros at the end, over all pruned tensors.")
    initial_sparsity: float = bounded(0.3, SPARSITY, "Share of zeros after the first of several steps.")
    steps: int = bounded(5, Range(1, 100_000), "Pruning steps.")
    pruning_start: float = bounded(0.0, SPARSITY, "Share of the training before the first pruning step.")
    pruning_share: float = bounded(0.6, SPARSITY, "Share of the training before the last pruning step.")
    ranking: Ranking = field(
        default="global", metadata=about("Compare scores over all tensors together, or in each alone.")
    )
    tensors: tuple[str, ...] | None = field(
        default=None,
        metadata=about(
            "Patterns such as '*.query.weight' of what is pruned; default: the encoder's six matrices."
        ),
    )
    gradients: int = bounded(256, AT_LEAST_ONE, "m, mini-batch gradients of one Fisher estimate.")
    gradient_batch_size: int = bounded(8, AT_LEAST_ONE, "Examples of one such mini-batch.")
    dampening: float | None = bounded(
        None, POSITIVE, f"λ, added to the diagonal of the Fisher matrix; default: {DAMPENING:g}."
    )
    relative_dampening: float | None = bounded(
        None,
        POSITIVE,
        "λ as a multiple of each tensor's mean squared gradient, so that it follows the gradients; "
        "instead of 'dampening'. 0.001 is a good start where nothing is retrained.",
    )
    fisher_block_size: int | None = bounded(
        None, Range(1, 1024), "B, width of the Fisher blocks; default: 50 unstructured, else 32."
    )
    recomputations: int = bounded(1, Range(1, 1000), "r, Fisher estimates in one pruning step.")
    update: Update = field(
        default="summed",
        metadata=about(
            "How survivors move: single updates summed, solved jointly in each Fisher block, "
            "or jointly after choosing one after another there."
        ),
    )
    training: Training = field(default_factory=lambda: Training(epochs=8))
    distillation: Distillation = field(default_factory=Distillation)
    kind: Literal["prune"] = "prune"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.initial_sparsity > self.sparsity:
            raise RecipeError(
                f"'initial_sparsity' {self.initial_sparsity:g} is above "
                f"'sparsity' {self.sparsity:g}; lower it"
            )
        if self.pruning_start > self.pruning_share:
            raise RecipeError(
                f"'pruning_start' {self.pruning_start:g} is above "
                f"'pruning_share' {self.pruning_share:g}; lower it"
            )
        if self.dampening is not None and self.relative_dampening is not None:
            raise RecipeError(
                "'dampening' and 'relative_dampening' say the same thing twice; give one of them"
            )
        if self.fisher_block % self.block:
            raise RecipeError(
                f"'fisher_block_size' {self.fisher_block} is no multiple of {self.block}, as pattern "
                f"'{self.pattern}' needs; take 32"
            )

    @property
    def dampening_value(self) -> float:
        """`relative_dampening` where it is given, else λ."""
        if self.relative_dampening is not None:
            return self.relative_dampening
        return DAMPENING if self.dampening is None else self.dampening

    @property
    def block(self) -> int:
        """Weights that are pruned together."""
        return BLOCK_SIZES[self.pattern]

    @property
    def fisher_block(self) -> int:
        """B: as given, else 50 unstructured and the smallest multiple of the block from 32 up."""
        return self.fisher_block_size or (50 if self.block == 1 else -(-32 // self.block) * self.block)

    @property
    def title(self) -> str:
        return f"prune {self.sparsity:.0%} {self.pattern} ({self.method})"


@dataclass(frozen=True)
class TrainStage:
    """Training with the masks as they are: sparse transfer to a new task, or recovery."""

    new_head: bool = field(
        default=False, metadata=about("Replace the head by a fresh one for the labels of the training data.")
    )
    training: Training = field(default_factory=Training)
    distillation: Distillation = field(default_factory=Distillation)
    kind: Literal["train"] = "train"

    @property
    def title(self) -> str:
        return "train a new head and the kept weights" if self.new_head else "train the kept weights"


@dataclass(frozen=True)
class FastStage:
    """Heads and FFN units pruned and the rest rescaled without any training: minutes on a CPU."""

    keep: float = bounded(
        0.75,
        Range(0, 1, low_open=True, high_open=True),
        "Share of the encoder's multiply-accumulates that stays.",
    )
    samples: int = bounded(2048, AT_LEAST_ONE, "Training examples that decide what goes.")
    kind: Literal["fast"] = "fast"

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def training(self) -> Training:
        """None."""
        return Training(epochs=0)

    @property
    def distillation(self) -> Distillation:
        """None."""
        return Distillation(hardness=0.0)

    @property
    def title(self) -> str:
        return f"prune heads and FFN units to {self.keep:.0%} of the work"


@dataclass(frozen=True)
class QuantizeStage:
    """INT8 weights, embeddings and activations; trained when `training.epochs` is above 0."""

    attention: Attention | None = field(
        default=None,
        metadata=about(
            "Whether training simulates the products inside attention in INT8 or leaves them float; "
            "default: int8, with static activations float, as runtimes with static ranges compute them."
        ),
    )
    training: Training = field(
        default_factory=lambda: Training(epochs=2, learning_rate=3e-5, weight_decay=0.0)
    )
    distillation: Distillation = field(default_factory=Distillation)
    activations: Activations = field(
        default="dynamic",
        metadata=about(
            "Ranges of what linear layers take: found for each token at run time, or one a tensor, static, "
            "with static ones for what they give too."
        ),
    )
    calibration: Calibration | None = field(
        default=None,
        metadata=about(
            "How static ranges are found: extremes, percentiles, least squared error (the default), or "
            "learned in training from there."
        ),
    )
    calibration_examples: int | None = bounded(
        None, AT_LEAST_ONE, f"Training examples that show static ranges; default: {CALIBRATION_EXAMPLES}."
    )
    kind: Literal["quantize"] = "quantize"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.activations == "dynamic":
            for key in ("calibration", "calibration_examples"):
                if getattr(self, key) is not None:
                    raise RecipeError(f"'{key}' needs 'activations: static'; add that or leave it out")
        elif self.attention == "int8":
            raise RecipeError(
                "'attention: int8' needs 'activations: dynamic': no runtime has it with static ranges; "
                "take 'attention: float'"
            )
        if self.training.matmul_precision == "bfloat16":
            raise RecipeError(
                "'matmul_precision: bfloat16' cannot hold the integers of a 'quantize' stage; "
                "take 'medium' there"
            )
        if self.calibration == "learned" and not self.training.epochs:
            raise RecipeError("'calibration: learned' needs 'training' of more than 0 epochs; or take 'mse'")

    @property
    def products(self) -> Attention:
        """How the products inside attention are simulated."""
        return self.attention or ("int8" if self.activations == "dynamic" else "float")

    @property
    def method(self) -> Calibration | None:
        """How static ranges are found; None: there are none."""
        return None if self.activations == "dynamic" else self.calibration or DEFAULT_CALIBRATION

    @property
    def examples(self) -> int:
        """Training examples to calibrate on."""
        return self.calibration_examples or CALIBRATION_EXAMPLES

    @property
    def title(self) -> str:
        what = "INT8" if self.activations == "dynamic" else "INT8 in static ranges"
        return f"{what}, trained" if self.training.epochs else f"{what}, post-training"


Stage = DropLayersStage | PruneStage | TrainStage | FastStage | QuantizeStage
STAGE_KINDS: Mapping[str, type[Stage]] = {
    "drop-layers": DropLayersStage,
    "prune": PruneStage,
    "train": TrainStage,
    "fast": FastStage,
    "quantize": QuantizeStage,
}
