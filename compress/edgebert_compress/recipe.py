"""Recipes: which compression stages run, in which order, with which settings. Imports no torch.

A recipe is YAML: `name`, `description`, `fine_tune` (used when the model has no trained head) and `stages`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from edgebert_compress.errors import RecipeError
from edgebert_compress.located import (
    Located,
    Range,
    bounded,
    check_ranges,
    from_plain,
    from_yaml,
    mapping,
    place,
    read_dataclass,
    unknown_key,
)

Method = Literal["obert", "magnitude"]
Pattern = Literal["4-block", "unstructured"]
Attention = Literal["int8", "float"]
LayerShare = Literal["two-thirds", "half", "third"]
BLOCK_SIZES: Mapping[str, int] = {"unstructured": 1, "4-block": 4}
SHARES: Mapping[str, float] = {"two-thirds": 2 / 3, "half": 1 / 2, "third": 1 / 3}
MAX_RECIPE_BYTES = 1 << 20
NARROW = 256  # hidden sizes up to this train at the rates of small models
POSITIVE = Range(0, low_open=True)
AT_LEAST_ONE = Range(1)


@dataclass(frozen=True)
class Training:
    """AdamW with linear warm-up and decay. `epochs` may be a fraction; 0 means no training.

    `warmup`: share of all steps. `weight_decay`: on matrices only.
    """

    epochs: float = bounded(5.0, Range(0, 10_000))
    learning_rate: float = bounded(1e-4, Range(0, 1, low_open=True))
    batch_size: int = bounded(32, Range(1, 4096))
    warmup: float = bounded(0.1, Range(0, 1))
    weight_decay: float = bounded(0.01, Range(0, 1))

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class FineTuneStage(Training):
    """Training of the teacher on labels alone; same settings as any training, no distillation.

    `head_rate`: a new head learns at this multiple of `learning_rate`; it has further to go than the body.
    """

    epochs: float = bounded(5.0, Range(0, 10_000, low_open=True))
    head_rate: float = bounded(10.0, Range(1, 1000))


@dataclass(frozen=True)
class Distillation:
    """loss = (1 - hardness) * task + hardness * KL(student/T, teacher/T) * T²."""

    hardness: float = bounded(0.8, Range(0, 1))
    temperature: float = bounded(2.0, POSITIVE)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class DropLayersStage:
    """Keep some encoder layers, then train with distillation.

    `keep`: indices to keep, ascending. Without it `layers` says how many: a number or a share of the depth.
    """

    keep: tuple[int, ...] | None = None
    layers: int | LayerShare = field(default="two-thirds", metadata={"range": AT_LEAST_ONE})
    training: Training = field(default_factory=Training)
    distillation: Distillation = field(default_factory=Distillation)
    kind: Literal["drop-layers"] = "drop-layers"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.keep is not None and (min(self.keep) < 0 or list(self.keep) != sorted(set(self.keep))):
            raise RecipeError(f"'keep' must ascend without repeats from 0 up, not {list(self.keep)}")

    @property
    def title(self) -> str:
        what = f"layers {', '.join(map(str, self.keep))}" if self.keep else f"{self.layers} of the layers"
        return f"keep {what}"


@dataclass(frozen=True)
class PruneStage:
    """Gradual pruning to `sparsity`, cubic from `initial_sparsity` in `steps`, with training between them.

    The steps are spread evenly over the first `pruning_share` of the training.
    oBERT only: `gradients` (m) mini-batch gradients of `gradient_batch_size` examples, `dampening` (λ),
    `fisher_block_size` (B; 50 unstructured, 32 for 4-block by default), `recomputations` (r) per step.
    """

    method: Method = "obert"
    pattern: Pattern = "4-block"
    sparsity: float = bounded(0.8, Range(0, 1, high_open=True))
    initial_sparsity: float = bounded(0.3, Range(0, 1, high_open=True))
    steps: int = bounded(5, Range(1, 1000))
    pruning_share: float = bounded(0.6, Range(0, 1, high_open=True))
    gradients: int = bounded(256, AT_LEAST_ONE)
    gradient_batch_size: int = bounded(8, AT_LEAST_ONE)
    dampening: float = bounded(1e-7, POSITIVE)
    fisher_block_size: int | None = bounded(None, Range(1, 1024))
    recomputations: int = bounded(1, Range(1, 1000))
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
        if self.fisher_block % self.block:
            raise RecipeError(
                f"'fisher_block_size' {self.fisher_block} is no multiple of {self.block}, as pattern "
                f"'{self.pattern}' needs; take 32"
            )

    @property
    def block(self) -> int:
        """Weights that are pruned together."""
        return BLOCK_SIZES[self.pattern]

    @property
    def fisher_block(self) -> int:
        return self.fisher_block_size or (50 if self.pattern == "unstructured" else 32)

    @property
    def title(self) -> str:
        return f"prune {self.sparsity:.0%} {self.pattern} ({self.method})"


@dataclass(frozen=True)
class QuantizeStage:
    """INT8 weights, embeddings and run-time activations; trained when `training.epochs` is above 0.

    `attention`: whether the training simulates the products inside attention in INT8 or leaves them float.
    """

    attention: Attention = "int8"
    training: Training = field(
        default_factory=lambda: Training(epochs=2, learning_rate=3e-5, weight_decay=0.0)
    )
    distillation: Distillation = field(default_factory=Distillation)
    kind: Literal["quantize"] = "quantize"

    @property
    def title(self) -> str:
        return "INT8, trained" if self.training.epochs else "INT8, post-training"


Stage = DropLayersStage | PruneStage | QuantizeStage
STAGE_KINDS: Mapping[str, type[Stage]] = {
    "drop-layers": DropLayersStage,
    "prune": PruneStage,
    "quantize": QuantizeStage,
}


@dataclass(frozen=True)
class Recipe:
    """Stages in order. Raises RecipeError when quantising is not last: it fixes the weights for good."""

    name: str
    stages: tuple[Stage, ...]
    fine_tune: FineTuneStage = field(default_factory=FineTuneStage)
    description: str = ""

    def __post_init__(self) -> None:
        if not self.stages:
            raise RecipeError(f"recipe '{self.name}' has no stages; add one of: {', '.join(STAGE_KINDS)}")
        for stage in self.stages[:-1]:
            if isinstance(stage, QuantizeStage):
                raise RecipeError(
                    f"recipe '{self.name}': 'quantize' fixes the weights and must be the last stage"
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types; `recipe_from_dict` reads it back."""
        return {
            "name": self.name,
            "description": self.description,
            "fine_tune": asdict(self.fine_tune),
            "stages": [stage_as_dict(stage) for stage in self.stages],
        }


def stage_as_dict(stage: Stage) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(stage).items()
        if value is not None
    }


def recipe_from_dict(values: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """The inverse of `Recipe.as_dict`. Raises RecipeError."""
    return _read_recipe(from_plain(values), source, "recipe")


def builtin_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship with the package, sorted."""
    folder = files("edgebert_compress") / "recipes"
    return tuple(sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".yaml")))


@cache
def _builtin(name: str) -> Recipe:
    text = (files("edgebert_compress") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    return _read_recipe(from_yaml(text, f"{name}.yaml"), f"{name}.yaml", name)


def load_recipe(name_or_path: str) -> Recipe:
    """A built-in recipe by name, or a YAML file. Raises RecipeError naming file, line and key."""
    if name_or_path in builtin_recipes():
        return _builtin(name_or_path)
    path = Path(name_or_path)
    if not path.is_file():
        known = ", ".join(builtin_recipes())
        raise RecipeError(
            f"no recipe '{name_or_path}': neither a file nor a built-in name; built-in: {known}"
        )
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RecipeError(f"{path}: larger than {MAX_RECIPE_BYTES} bytes; this is no recipe")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    return _read_recipe(from_yaml(text, str(path)), str(path), path.stem)


def default_recipe(targets: Sequence[str], layers: int, hidden_size: int) -> Recipe:
    """The built-in recipe that pays on every one of `targets` for an encoder of this depth and width.

    Sparsity pays only in the sparse engine; elsewhere fewer layers and INT8 do. With two layers none is
    spare, and a narrow encoder needs higher learning rates than a BERT-sized one.
    """
    if targets and all(target == "int8-sparse" for target in targets):
        return load_recipe("sparse-4block-80")
    if layers <= 2:
        return load_recipe("int8")
    return load_recipe("dense-int8-narrow" if hidden_size <= NARROW else "dense-int8")


def _read_stage(value: Located, source: str) -> Stage:
    items = mapping(value, source, "stages")
    kind = items.get("kind")
    if kind is None:
        raise RecipeError(
            f"{place(source, value.line)}: a stage has no 'kind'; add one of: {', '.join(STAGE_KINDS)}"
        )
    if not isinstance(kind.data, str) or kind.data not in STAGE_KINDS:
        raise RecipeError(
            f"{place(source, kind.line)}: unknown stage kind '{str(kind.data)[:60]}'; "
            f"choose one of: {', '.join(STAGE_KINDS)}"
        )
    return read_dataclass(STAGE_KINDS[kind.data], value, source, kind.data)


def _read_recipe(value: Located, source: str, default_name: str) -> Recipe:
    items = mapping(value, source, "recipe")
    known = ["name", "description", "fine_tune", "stages"]
    for key, item in items.items():
        if key not in known:
            raise unknown_key(key, known, place(source, item.line))
    for key in ("name", "description"):
        if key in items and not isinstance(items[key].data, str):
            raise RecipeError(f"{place(source, items[key].line)}: '{key}' must be text")
    stages = items.get("stages", Located([], value.line))
    if not isinstance(stages.data, list):
        raise RecipeError(f"{place(source, stages.line)}: 'stages' must be a list of stages")
    fine_tune = items.get("fine_tune", Located({}, value.line))
    try:
        return Recipe(
            name=items["name"].data if "name" in items else default_name,
            stages=tuple(_read_stage(stage, source) for stage in stages.data),
            fine_tune=read_dataclass(FineTuneStage, fine_tune, source, "fine_tune"),
            description=items["description"].data if "description" in items else "",
        )
    except RecipeError as error:
        if str(error).startswith(source):
            raise
        raise RecipeError(f"{place(source, stages.line)}: {error}") from error
