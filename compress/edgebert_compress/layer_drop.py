"""Layer dropping: which encoder layers stay, and taking the others out of a model."""

from __future__ import annotations

from torch import nn

from edgebert_compress.architecture import layer_list, set_depth
from edgebert_compress.errors import RecipeError
from edgebert_compress.recipe import SHARES, DropLayersStage

# What the oBERT authors' recipes keep.
PUBLISHED = {(12, 6): (0, 2, 4, 6, 8, 11), (12, 3): (0, 6, 11)}


def spread(depth: int, count: int) -> tuple[int, ...]:
    """`count` of `depth` layers, evenly spread, first and last included; the published lists where known."""
    if (depth, count) in PUBLISHED:
        return PUBLISHED[depth, count]
    if count == 1:
        return (0,)
    return tuple(round(index * (depth - 1) / (count - 1)) for index in range(count))


def layers_to_keep(stage: DropLayersStage, depth: int) -> tuple[int, ...]:
    """Indices that `stage` keeps of a model with `depth` layers. Raises RecipeError when it has too few."""
    if stage.keep is not None:
        if stage.keep[-1] >= depth:
            raise RecipeError(
                f"'keep' names layer {stage.keep[-1]}, but the model has {depth} layers (0 to {depth - 1})"
            )
        return stage.keep
    if stage.drop is not None:
        if stage.drop[-1] >= depth or len(stage.drop) == depth:
            raise RecipeError(
                f"'drop' is {list(stage.drop)}, but the model has {depth} layers (0 to {depth - 1}) "
                "and must keep one"
            )
        return tuple(index for index in range(depth) if index not in stage.drop)
    if isinstance(stage.layers, int):
        if stage.layers > depth:
            raise RecipeError(f"'layers' is {stage.layers}, but the model has only {depth}; lower it")
        return spread(depth, stage.layers)
    return spread(depth, max(1, round(depth * SHARES[stage.layers])))


def drop_layers(model: nn.Module, keep: tuple[int, ...]) -> None:
    """Take every layer that `keep` does not name out of `model`, in place."""
    layers = layer_list(model)
    kept = [layers[index] for index in keep]
    while len(layers):
        del layers[len(layers) - 1]
    layers.extend(kept)
    set_depth(model, len(kept))
