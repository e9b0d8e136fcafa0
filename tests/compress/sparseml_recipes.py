"""Recipes in SparseML's form, and what our trainer makes of them."""

from edgebert_compress.recipe import (
    PruneStage,
    Recipe,
    recipe_from_dict,
)
from edgebert_compress.schedule import learning_rate, pruning_points
from edgebert_compress.sparseml.translate import translate

SIX = """[
      "re:bert.encoder.layer.*.attention.self.query.weight",
      "re:bert.encoder.layer.*.attention.self.key.weight",
      "re:bert.encoder.layer.*.attention.self.value.weight",
      "re:bert.encoder.layer.*.attention.output.dense.weight",
      "re:bert.encoder.layer.*.intermediate.dense.weight",
      "re:bert.encoder.layer.*.output.dense.weight",
    ]"""
RANGE = "  - !EpochRangeModifier {start_epoch: 0, end_epoch: 10}\n"
GRADUAL = f"""
modifiers:
  - !EpochRangeModifier
    start_epoch: 0
    end_epoch: 15

training_modifiers:
  - !LearningRateFunctionModifier
    start_epoch: 0.0
    end_epoch: 1.0
    lr_func: linear
    init_lr: 6e-5
    final_lr: 3e-6
  - !LearningRateFunctionModifier
    start_epoch: 1.0
    end_epoch: 15.0
    lr_func: cyclic_linear
    cycle_epochs: 2.0
    init_lr: 6e-5
    final_lr: 3e-6

  - !OBSPruningModifier
    params: {SIX}
    init_sparsity: 0.4
    final_sparsity: 0.85
    start_epoch: 1
    end_epoch: 13
    update_frequency: 2.0
    inter_func: cubic
    global_sparsity: True
    mask_type: block4
    num_grads: 512
    damp: 1e-6
    fisher_block_size: 64
    num_recomputations: 4
    grad_sampler_kwargs:
      batch_size: 4

distillation_modifiers:
  - !DistillationModifier
     hardness: 0.9
     temperature: 3.0
     distill_output_keys: [logits]
"""


PRUNE = (
    "  - !GMPruningModifier\n    params: __ALL_PRUNABLE__\n    init_sparsity: 0.1\n    final_sparsity: 0.5\n"
    "    start_epoch: 1\n    end_epoch: 5\n    update_frequency: 1\n"
)


def read(text: str) -> Recipe:
    recipe = translate(text, "theirs.yaml", "theirs")
    assert recipe_from_dict(recipe.as_dict()) == recipe
    return recipe


def rates_over(recipe: Recipe, an_epoch: int) -> list[float]:
    """The learning rate of every step as our trainer computes it."""
    rates = []
    for stage in recipe.stages:
        total = round(stage.training.epochs * an_epoch)
        points = ()
        if isinstance(stage, PruneStage):
            points = pruning_points(total, stage.steps, stage.pruning_start, stage.pruning_share)
        share = learning_rate(stage.training, total, an_epoch, points)
        rates += [stage.training.learning_rate * share(step) for step in range(total)]
    return rates


def lines(*spans: tuple[float, float, float, float]) -> str:
    return "".join(
        f"  - !LearningRateFunctionModifier {{start_epoch: {start}, end_epoch: {end}, lr_func: linear, "
        f"init_lr: {first}, final_lr: {last}}}\n"
        for start, end, first, last in spans
    )
