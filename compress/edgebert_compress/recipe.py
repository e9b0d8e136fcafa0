"""Recipes: which compression stages run, in which order, with which settings. Imports no torch.

A recipe is YAML: `name`, `description`, `fine_tune` (used when the model has no trained head) and `stages`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgebert_compress.errors import RecipeError
from edgebert_compress.located import (
    Located,
    from_plain,
    from_yaml,
    mapping,
    place,
    read_dataclass,
    unknown_key,
)
from edgebert_compress.recipe_stages import (
    BLOCK_SIZES,
    SHARES,
    STAGE_KINDS,
    Activations,
    Attention,
    Calibration,
    DropLayersStage,
    FastStage,
    LayerShare,
    Method,
    Pattern,
    PruneStage,
    QuantizeStage,
    Ranking,
    Stage,
    TrainStage,
    Update,
)
from edgebert_compress.recipe_training import (
    Distillation,
    FineTuneStage,
    MatmulPrecision,
    Schedule,
    Training,
)

__all__ = [
    "BLOCK_SIZES",
    "SHARES",
    "STAGE_KINDS",
    "Activations",
    "Attention",
    "Calibration",
    "Distillation",
    "DropLayersStage",
    "FastStage",
    "FineTuneStage",
    "LayerShare",
    "MatmulPrecision",
    "Method",
    "Pattern",
    "PruneStage",
    "QuantizeStage",
    "Ranking",
    "Recipe",
    "Schedule",
    "Stage",
    "TrainStage",
    "Training",
    "Update",
    "builtin_recipes",
    "builtin_text",
    "default_recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_from_dict",
    "stage_as_dict",
]

MAX_RECIPE_BYTES = 1 << 20
NARROW = 256  # hidden sizes up to this train at the rates of small models


@dataclass(frozen=True)
class Recipe:
    """Stages in order. Raises RecipeError when quantising is not last: it fixes the weights for good.

    `notes`: what a translation from another format wants its user to know; no part of the recipe itself.
    """

    name: str
    stages: tuple[Stage, ...]
    fine_tune: FineTuneStage = field(default_factory=FineTuneStage)
    description: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

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
            "fine_tune": _plain(asdict(self.fine_tune)),
            "stages": [stage_as_dict(stage) for stage in self.stages],
        }


def stage_as_dict(stage: Stage) -> dict[str, Any]:
    """Plain JSON types; settings that are None or empty are left out."""
    return _plain(asdict(stage))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value is not None and value != ()
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
    return parse_recipe(builtin_text(name), f"{name}.yaml", name)


def builtin_text(name: str) -> str:
    """The YAML of a built-in recipe as it lies in the package."""
    return (files("edgebert_compress") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name_or_path: str) -> Recipe:
    """A built-in recipe by name, or a file: our YAML, or SparseML's, which is translated.

    Raises RecipeError naming file, line and key. What a translation wants its user to know is in `notes`.
    """
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
    return parse_recipe(text, str(path), path.stem)


def parse_recipe(text: str, source: str, name: str) -> Recipe:
    """A recipe from text; `source` is what errors call it, `name` its name unless it has one."""
    from edgebert_compress.sparseml.document import is_sparseml
    from edgebert_compress.sparseml.translate import translate

    if is_sparseml(text):
        return translate(text, source, name)
    return _read_recipe(from_yaml(text, source), source, name)


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
