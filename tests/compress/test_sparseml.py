"""Recipes of SparseML: what they become, and which line is named when there is no equivalent."""

import math
import re
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from edgebert_compress import architecture
from edgebert_compress.errors import RecipeError
from edgebert_compress.located import Located
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    PruneStage,
    QuantizeStage,
    Recipe,
    TrainStage,
    load_recipe,
    recipe_from_dict,
)
from edgebert_compress.schedule import cubic_sparsity, learning_rate, pruning_points
from edgebert_compress.sparseml.document import Modifier
from edgebert_compress.sparseml.expression import evaluate
from edgebert_compress.sparseml.fields import Fields
from edgebert_compress.sparseml.frozen import frozen_patterns
from edgebert_compress.sparseml.tensors import LAYERS
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


def test_gradual_pruning_is_one_stage():
    recipe = read(GRADUAL)
    (stage,) = recipe.stages
    assert isinstance(stage, PruneStage)
    assert (stage.method, stage.pattern, stage.ranking, stage.tensors) == ("obert", "4-block", "global", None)
    assert (stage.sparsity, stage.initial_sparsity, stage.steps) == (0.85, 0.4, 7)
    assert (stage.gradients, stage.gradient_batch_size, stage.dampening) == (512, 4, 1e-6)
    assert (stage.fisher_block_size, stage.recomputations) == (64, 4)
    assert stage.distillation == Distillation(0.9, 3.0)
    assert (stage.training.epochs, stage.training.weight_decay) == (15, 0.0)
    assert any("batch size" in note for note in recipe.notes)


def test_the_schedule_is_theirs_step_by_step():
    recipe = read(GRADUAL)
    an_epoch = 10
    stage = recipe.stages[0]
    points = pruning_points(150, stage.steps, stage.pruning_start, stage.pruning_share)
    assert points == (10, 30, 50, 70, 90, 110, 130)  # epochs 1, 3, … 13
    # the closed form of the authors' cubic interpolation
    for step, value in enumerate(cubic_sparsity(stage.initial_sparsity, stage.sparsity, stage.steps)):
        assert value == pytest.approx(0.85 + (0.4 - 0.85) * (1 - 2 * step / 12) ** 3)

    def theirs(epoch: float) -> float:
        start, length = (0.0, 1.0) if epoch < 1 else (1 + (epoch - 1) // 2 * 2, 2.0)
        return 6e-5 + (3e-6 - 6e-5) * (epoch - start) / length

    ours = rates_over(recipe, an_epoch)
    assert ours == pytest.approx([theirs(step / an_epoch) for step in range(150)], rel=1e-4)


def test_cycles_that_are_not_even_restart_where_theirs_do():
    text = GRADUAL[: GRADUAL.index("  - !OBS")] + GRADUAL[GRADUAL.index("distillation_modifiers") :]
    recipe = read(text)
    (stage,) = recipe.stages
    assert isinstance(stage, TrainStage)
    assert stage.training.restarts == (1, 3, 5, 7, 9, 11, 13)
    expected = [6e-5 - 5.7e-5 * (step % 10) / 10 for step in range(10)]
    expected += [6e-5 - 5.7e-5 * (step % 20) / 20 for step in range(140)]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-4)


def test_what_one_stage_cannot_say_becomes_several():
    text = "modifiers:\n" + RANGE + "".join(
        f"  - !LearningRateFunctionModifier {{start_epoch: {a}, end_epoch: {b}, lr_func: linear, "
        f"init_lr: {c}, final_lr: {d}}}\n"
        for a, b, c, d in ((0, 4, 1e-4, 1e-5), (4, 10, 5e-5, 0))
    )  # fmt: skip
    recipe = read(text)
    assert [(stage.kind, stage.training.epochs) for stage in recipe.stages] == [("train", 4), ("train", 6)]
    expected = [1e-4 - 9e-5 * step / 40 for step in range(40)] + [
        5e-5 * (1 - step / 60) for step in range(60)
    ]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-4)


def test_the_rate_after_the_last_step_may_differ():
    text = GRADUAL.replace(
        "end_epoch: 15.0\n    lr_func: cyclic_linear", "end_epoch: 13.0\n    lr_func: cyclic_linear"
    )
    text = text.replace("final_lr: 3e-6\n\n", """final_lr: 3e-6
  - !LearningRateFunctionModifier
    start_epoch: 13
    end_epoch: 15
    lr_func: linear
    init_lr: 6e-5
    final_lr: 6e-7

""")  # fmt: skip
    (stage,) = read(text).stages
    assert (stage.training.cycle_floor, stage.training.final_rate) == (0.05, 0.01)


def test_front_matter_anchors_layers_and_quantising():
    text = f"""<!-- a licence -->

---
epochs: &epochs 12
first: &first 8.0
rate: &rate 0.00004
training_modifiers:
  - !EpochRangeModifier
    end_epoch: *epochs
    start_epoch: 0.0
  - !LearningRateFunctionModifier
    {{start_epoch: 0, end_epoch: *first, lr_func: linear, init_lr: *rate, final_lr: 0.0}}
  - !LearningRateFunctionModifier
    {{start_epoch: *first, end_epoch: *epochs, lr_func: linear, init_lr: *rate, final_lr: 0.0}}
pruning_modifiers:
  - !LayerPruningModifier
        end_epoch: -1.0
        layers:
              - bert.encoder.layer.1
              - bert.encoder.layer.4
        start_epoch: -1.0
  - !GMPruningModifier
    params: {SIX}
    start_epoch: 2
    end_epoch: 6
    init_sparsity: 0.0
    final_sparsity: 0.9
    inter_func: cubic
    update_frequency: 0.01
    leave_enabled: True
    mask_type: [1,4]
    log_types: __ALL__
quantization_modifiers:
  - !QuantizationModifier
      start_epoch: *first
      disable_quantization_observer_epoch: 10
      freeze_bn_stats_epoch: 10
      submodules:
        - bert.embeddings
        - bert.encoder
        - qa_outputs
distillation_modifiers:
  - !DistillationModifier {{hardness: 1.0, temperature: 2.0}}
---

# A card

```
some --command
```
"""
    drop, prune, quantize = read(text).stages
    assert isinstance(drop, DropLayersStage)
    assert drop.drop == (1, 4)
    assert drop.training.epochs == 0
    assert isinstance(prune, PruneStage)
    assert (prune.method, prune.ranking, prune.pattern, prune.steps) == (
        "magnitude",
        "tensor",
        "4-block",
        401,
    )
    assert (prune.pruning_start, prune.pruning_share) == (0.25, 0.75)
    assert isinstance(quantize, QuantizeStage)
    assert (quantize.training.epochs, quantize.training.learning_rate) == (4, 4e-5)


def test_equations_constant_masks_and_weight_decay():
    text = """
version: 1.1.0
num_epochs: 9
peak: 1.5e-4
qat_epochs: 2
late: eval(num_epochs - qat_epochs / 2)
training_modifiers:
  - !EpochRangeModifier
      end_epoch: eval(num_epochs)
      start_epoch: 0.0
  - !LearningRateFunctionModifier
      start_epoch: 0
      end_epoch: eval(num_epochs)
      lr_func: linear
      init_lr: eval(peak)
      final_lr: 0
quantization_modifiers:
  - !QuantizationModifier
      start_epoch: eval(num_epochs -
        qat_epochs)
      disable_quantization_observer_epoch: eval(late)
      quantize_embeddings: 1
      quantize_linear_activations: 0
      exclude_module_types: ['LayerNorm', 'Tanh']
      submodules: [bert.embeddings, bert.encoder, bert.pooler, classifier]
constant_modifiers:
  - !ConstantPruningModifier {start_epoch: 0.0, params: __ALL_PRUNABLE__}
regularization_modifiers:
  - !SetWeightDecayModifier {start_epoch: 0.0, weight_decay: 0.02}
"""
    train, quantize = read(text).stages
    assert isinstance(train, TrainStage)
    assert (train.training.epochs, train.training.weight_decay) == (7, 0.02)
    assert train.distillation.hardness == 0
    assert quantize.training.epochs == 2
    ours = rates_over(read(text), 10)
    assert ours == pytest.approx([1.5e-4 * (1 - step / 90) for step in range(90)], rel=1e-3)


def test_one_modifier_a_tensor_becomes_one_stage_and_one_shot_needs_no_training():
    shared = (
        "init_sparsity: 0.6, final_sparsity: 0.6, start_epoch: 0, end_epoch: 1, update_frequency: 0.01, "
        "mask_type: unstructured, leave_enabled: True, log_types: __ALL__, inter_func: cubic"
    )
    names = [
        f"bert.encoder.layer.{layer}.{linear}.weight"
        for layer in range(2)
        for linear in LAYERS["bert.encoder.layer"]
    ]
    text = "modifiers:\n  - !EpochRangeModifier {end_epoch: 1, start_epoch: 0.0}\n"
    text += "  - !SetLearningRateModifier {start_epoch: 0.0, learning_rate: 0.00001}\n"
    text += "  - !QuantizationModifier {start_epoch: 0.0, disable_quantization_observer_epoch: 0.5}\n"
    text += "".join(f"  - !GMPruningModifier {{params: ['{name}'], {shared}}}\n" for name in names)
    prune, quantize = read(text).stages
    assert prune.tensors == tuple(names)
    assert (prune.steps, prune.sparsity, prune.training.epochs) == (1, 0.6, 0)
    assert (quantize.training.schedule, quantize.training.learning_rate) == ("constant", 1e-5)


def test_layer_numbers_follow_the_dropped_layers():
    text = (
        f"modifiers:\n{RANGE}"
        "  - !LayerPruningModifier {layers: [bert.encoder.layer.1, bert.encoder.layer.2]}\n"
        "  - !GMPruningModifier {params: ['re:bert.encoder.layer.([0,3]|11).intermediate.dense.weight'], "
        "init_sparsity: 0.5, final_sparsity: 0.5, start_epoch: 0, end_epoch: 1, update_frequency: 1}\n"
    )
    drop, prune = read(text).stages
    assert drop.drop == (1, 2)
    assert prune.tensors == tuple(f"bert.encoder.layer.{n}.intermediate.dense.weight" for n in (0, 1, 9))


def test_a_kind_of_tensor_in_every_layer_is_a_pattern():
    text = (
        f"modifiers:\n{RANGE}  - !OBSPruningModifier {{params: ['re:.*intermediate.dense.weight'], "
        "init_sparsity: 0.5, final_sparsity: 0.5, start_epoch: 0, end_epoch: 1, update_frequency: 1}\n"
    )
    assert read(text).stages[0].tensors == ("*[0-9].intermediate.dense.weight",)


@pytest.mark.parametrize(
    ("prefix", "noted"),
    [
        ("re:question_encoder.bert_model.", True),
        (r"re:^auto_model\.", True),
        ("re:", True),
        ("re:bert.", False),
        ("re:mobilebert.", None),
        ("re:vit.", None),
        ("re:(a|b).", None),
    ],
)
def test_an_encoder_within_a_larger_model_is_the_encoder(prefix, noted):
    six = "".join(f"'{prefix}encoder.layer.*.{linear}.weight', " for linear in LAYERS["bert.encoder.layer"])
    text = (
        f"modifiers:\n{RANGE}  - !GMPruningModifier {{params: [{six}], init_sparsity: 0.5, "
        "final_sparsity: 0.5, start_epoch: 0, end_epoch: 1, update_frequency: 1}\n"
    )
    if noted is None:
        with pytest.raises(RecipeError, match="line 3: GMPruningModifier: 'params: …' names"):
            read(text)
        return
    recipe = read(text)
    assert recipe.stages[0].tensors is None
    assert any("taken for the encoder's own" in note for note in recipe.notes) == noted


def test_an_anchor_given_twice_stands_for_the_last_value():
    text = """
epochs: &epochs 3
epochs: &epochs 4
modifiers:
  - !EpochRangeModifier {start_epoch: 0, end_epoch: *epochs}
"""
    recipe = read(text)
    assert recipe.stages[0].training.epochs == 4
    assert any("given twice" in note for note in recipe.notes)


def test_quantised_training_ends_where_nothing_learns_any_more():
    text = "modifiers:\n" + RANGE + (
        "  - !QuantizationModifier {start_epoch: 4}\n"
        "  - !LearningRateFunctionModifier {start_epoch: 0, end_epoch: 9, lr_func: linear, "
        "init_lr: 9e-5, final_lr: 0}\n"
    )  # fmt: skip
    recipe = read(text)
    assert [(stage.kind, stage.training.epochs) for stage in recipe.stages] == [("train", 4), ("quantize", 5)]
    assert rates_over(recipe, 10) == pytest.approx([9e-5 * (1 - step / 90) for step in range(90)], rel=1e-3)
    assert any("0 from epoch 9 to 10" in note for note in recipe.notes)


def test_quantising_before_the_last_phase_is_refused_by_its_line():
    text = "a_stage:\n  a_modifiers:\n    - !EpochRangeModifier {end_epoch: 2}\n    - !QuantizationModifier\n"
    text += "b_stage:\n  b_modifiers:\n    - !EpochRangeModifier {end_epoch: 2}\n"
    with pytest.raises(RecipeError, match="line 4: QuantizationModifier quantises before the last stage"):
        read(text)


def test_the_names_are_those_of_the_models():
    assert dict(LAYERS) == dict(architecture.FAMILIES.values())


def test_phases_follow_each_other():
    text = """
shift: 1
first_stage:
  length: 2
  training_modifiers:
    - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(length + shift)}
second_stage:
  length: 4
  second_stage_modifiers:
    - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(length)}
    - !QuantizationModifier {start_epoch: 1}
"""
    kinds = [(stage.kind, stage.training.epochs) for stage in read(text).stages]
    assert kinds == [("train", 3), ("train", 1), ("quantize", 3)]


def test_without_epochs_or_rates_those_of_transformers_are_taken_and_said():
    text = "m_modifiers:\n  - !LayerPruningModifier {layers: ['bert.encoder.layer.3']}\n"
    recipe = read(text)
    (stage,) = recipe.stages
    assert (stage.drop, stage.training.epochs, stage.training.learning_rate) == ((3,), 3, 5e-5)
    notes = " ".join(recipe.notes)
    assert "number of epochs" in notes
    assert "learning rate" in notes


def test_a_card_may_hold_one_recipe_in_a_block():
    block = "```yaml\nmodifiers:\n  - !EpochRangeModifier {start_epoch: 0, end_epoch: 6}\n```\n"
    card = f"---\ntags: [bert]\n---\n# Card\n{block}```bash\nrun\n```\n"
    assert read(card).stages[0].training.epochs == 6
    with pytest.raises(RecipeError, match=r"2 recipes \(lines 2, 6\)"):
        read(block + block)
    with pytest.raises(RecipeError, match="line 7: EpochRangeModifier"):
        read(card.replace("end_epoch: 6", "end_epoch: x"))


def test_epochs_without_a_rate_are_said():
    text = f"modifiers:\n{RANGE}  - !QuantizationModifier {{start_epoch: 6}}\n" + (
        "  - !LearningRateFunctionModifier {start_epoch: 0, end_epoch: 6, lr_func: linear, init_lr: 1e-4, "
        "final_lr: 0}\n"
    )
    recipe = read(text)
    assert [stage.training.epochs for stage in recipe.stages] == [6, 0]
    assert any("learning rate is 0 from epoch 6 to 10" in note for note in recipe.notes)


def test_the_last_of_a_repeated_variable_counts():
    text = "n: 3\nn: 5\nmodifiers:\n  - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(n)}\n"
    recipe = read(text)
    assert recipe.stages[0].training.epochs == 5
    assert any("line 2: 'n' is given twice" in note for note in recipe.notes)


PRUNE = (
    "  - !GMPruningModifier\n    params: __ALL_PRUNABLE__\n    init_sparsity: 0.1\n    final_sparsity: 0.5\n"
    "    start_epoch: 1\n    end_epoch: 5\n    update_frequency: 1\n"
)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("  - !MovementPruningModifier {}\n", 3, ["MovementPruningModifier", "no equivalent"]),
        ("  - !MFACPruningModifier {params: x}\n", 3, ["MFACPruningModifier"]),
        ("  - !StructuredPruningModifier {}\n", 3, ["StructuredPruningModifier"]),
        (PRUNE + "    mask_type: filter\n", 10, ["GMPruningModifier", "'mask_type: filter'"]),
        (PRUNE + "    mask_type: [4, 1]\n", 10, ["mask_type"]),
        (PRUNE + "    inter_func: linear\n", 10, ["inter_func", "only cubic"]),
        (PRUNE + "    leave_enabled: False\n", 10, ["leave_enabled"]),
        (PRUNE + "    score_type: movement\n", 10, ["score_type"]),
        (PRUNE + "    surprise: 1\n", 10, ["surprise", "no equivalent"]),
        (PRUNE.replace("0.5", "1.0"), 6, ["final_sparsity", "[0, 1)"]),
        (PRUNE.replace("0.5", "{0.5: [a], 0.6: [b]}"), 6, ["final_sparsity", "each tensor"]),
        (PRUNE.replace("0.1", "__FROM_PARAM__"), 5, ["init_sparsity", "own sparsity"]),
        (PRUNE.replace("update_frequency: 1", "update_frequency: 0"), 9, ["update_frequency"]),
        (PRUNE.replace("__ALL_PRUNABLE__", "__ALL__"), 4, ["params", "__ALL__"]),
        (PRUNE.replace("__ALL_PRUNABLE__", "[bert.pooler.dense.weight]"), 4, ["bert.pooler.dense.weight"]),
        (PRUNE.replace("__ALL_PRUNABLE__", "['re:(']"), 4, ["regular expression"]),
        (PRUNE.replace("__ALL_PRUNABLE__", "['re:(a+)+(b+)+(c*)*x']"), 4, ["too long"]),
        (PRUNE + PRUNE.replace("0.5", "0.6"), 10, ["same time", "line 3"]),
        (PRUNE + "  - !QuantizationModifier\n    start_epoch: 3\n", 11, ["start_epoch: 3", "pruning ends"]),
        ("  - !QuantizationModifier\n    quantize_embeddings: 0\n", 4, ["quantize_embeddings"]),
        ("  - !QuantizationModifier\n    weight_bits: 4\n", 4, ["weight_bits: 4", "INT8"]),
        ("  - !QuantizationModifier\n    scheme: {weights: {num_bits: 4}}\n", 4, ["scheme", "4 bits"]),
        ("  - !QuantizationModifier\n    ignore: [classifier]\n", 4, ["ignore", "classifier"]),
        ("  - !QuantizationModifier\n    submodules: [bert.encoder]\n", 4, ["submodules", "embeddings"]),
        ("  - !LearningRateFunctionModifier\n    lr_func: cubic\n", 4, ["lr_func: cubic", "cosine"]),
        ("  - !LearningRateModifier\n    lr_class: StepLR\n", 3, ["has no 'init_lr'"]),
        ("  - !LearningRateFunctionModifier\n    init_lr: 2\n    final_lr: 0\n", 4, ["init_lr", "[0, 1]"]),
        ("  - !LayerPruningModifier\n    layers: [bert.pooler]\n", 4, ["bert.pooler"]),
        ("  - !LayerPruningModifier\n    layers: [a.layer.1]\n    start_epoch: 2\n", 5, ["start_epoch: 2"]),
        ("  - !TrainableParamsModifier\n    params: __ALL__\n    trainable: False\n", 4, ["freezes every"]),
        ("  - !DistillationModifier\n    hardness: 1.5\n", 4, ["hardness", "[0, 1]"]),
        ("  - !DistillationModifier\n    hardness: eval(missing)\n", 4, ["unknown variable 'missing'"]),
        ("  - !DistillationModifier\n    hardness: eval(__import__('os'))\n", 4, ["cannot compute"]),
        ("  - !!python/object/apply:os.system [ls]\n", 3, ["no '!…Modifier'"]),
        ("  - SparseGPTModifier: {sparsity: 0.5}\n", 3, ["no '!…Modifier'"]),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_named_by_line(tmp_path, text, line, words):
    path = tmp_path / "theirs.yaml"
    path.write_text(f"modifiers:\n{RANGE}{text}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: "), message
    assert "\n" not in message
    for word in words:
        assert word in message


def lines(*spans: tuple[float, float, float, float]) -> str:
    return "".join(
        f"  - !LearningRateFunctionModifier {{start_epoch: {start}, end_epoch: {end}, lr_func: linear, "
        f"init_lr: {first}, final_lr: {last}}}\n"
        for start, end, first, last in spans
    )


def test_a_rate_may_restart_within_the_pruning():
    recipe = read(
        "modifiers:\n" + RANGE + PRUNE + lines((0, 2.5, 1e-4, 0), (2.5, 7, 1e-4, 0), (7, 10, 1e-4, 1e-6))
    )
    (stage,) = recipe.stages
    assert isinstance(stage, PruneStage)
    assert stage.training.restarts == (2.5, 7)
    expected = [1e-4 * (1 - step / 25) for step in range(25)]
    expected += [1e-4 * (1 - step / 45) for step in range(45)]
    expected += [1e-4 - 9.9e-5 * step / 30 for step in range(30)]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-4)


def test_a_rate_that_one_stage_cannot_follow_within_the_pruning_is_refused():
    text = "modifiers:\n" + RANGE + PRUNE + lines((0, 4, 1e-4, 0), (4, 5, 1e-4, 1e-6), (5, 10, 1e-4, 0))
    with pytest.raises(RecipeError, match="learning rate of epochs 0 to 10"):
        read(text)


def scheduler(kind: str, settings: str, span: str = "start_epoch: 0, end_epoch: 10") -> str:
    return (
        f"modifiers:\n{RANGE}  - !LearningRateModifier {{{span}, lr_class: {kind}, init_lr: 0.0001, "
        f"lr_kwargs: {{{settings}}}, constant_logging: True}}\n"
    )


@pytest.mark.parametrize(
    ("kind", "settings", "theirs"),
    [
        ("StepLR", "gamma: 0.5, step_size: 3", lambda optimizer: lr_scheduler.StepLR(optimizer, 30, 0.5)),
        ("ExponentialLR", "gamma: 0.9", lambda optimizer: lr_scheduler.StepLR(optimizer, 10, 0.9)),
        (
            "MultiStepLR",
            "gamma: 0.1, milestones: [2, 7.5]",
            lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [20, 75], 0.1),
        ),
        (
            "CosineAnnealingWarmRestarts",
            "lr_min: 1e-6, cycle_epochs: 5",
            lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 50, eta_min=1e-6),
        ),
    ],
)  # fmt: skip
def test_the_schedulers_of_pytorch_step_by_step(kind, settings, theirs):
    """Their epochs times 10 steps, as SparseML turns one into the other."""
    recipe = read(scheduler(kind, settings))
    assert len(recipe.stages) == 1
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule = theirs(optimizer)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("down", [True, False])
def test_half_a_cosine_is_theirs(down):
    """The formula of SparseML's LearningRateFunctionModifier; one that rises has no equivalent."""
    high, low = 2e-4, 1e-5
    first, last = (high, low) if down else (low, high)
    text = (
        f"modifiers:\n{RANGE}  - !LearningRateFunctionModifier {{start_epoch: 0, end_epoch: 10, "
        f"lr_func: cosine, init_lr: {first}, final_lr: {last}}}\n"
    )
    if not down:
        with pytest.raises(RecipeError, match="no equivalent in one stage"):
            read(text)
        return
    recipe = read(text)
    expected = [
        math.cos(step / 100 * math.pi) * (high - low) / 2 + (high - low) / 2 + low for step in range(100)
    ]
    assert rates_over(recipe, 10) == pytest.approx(expected, rel=1e-5)


def test_a_warm_up_before_a_cosine():
    text = "modifiers:\n" + RANGE + lines((0, 1, 0, 1e-4)) + (
        "  - !LearningRateFunctionModifier {start_epoch: 1, end_epoch: 10, lr_func: cosine, "
        "init_lr: 1e-4, final_lr: 0}\n"
    )  # fmt: skip
    (stage,) = read(text).stages
    assert (stage.training.schedule, stage.training.warmup, stage.training.final_rate) == ("cosine", 0.1, 0)


def test_a_cosine_over_the_border_of_two_stages_is_refused():
    text = "modifiers:\n" + RANGE + (
        "  - !LearningRateFunctionModifier {start_epoch: 0, end_epoch: 10, lr_func: cosine, "
        "init_lr: 1e-4, final_lr: 0}\n"
        "  - !QuantizationModifier {start_epoch: 8}\n"
    )  # fmt: skip
    with pytest.raises(
        RecipeError, match="line 3: LearningRateFunctionModifier: the learning rate of epochs 0 to 8"
    ):
        read(text)


def freezing(settings: str, more: str = "") -> str:
    return f"modifiers:\n{RANGE}  - !TrainableParamsModifier {{{settings}}}\n{more}"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("[bert.embeddings.word_embeddings.weight]", ("bert.embeddings.word_embeddings.weight",)),
        ("['re:bert.embeddings.*']", ("bert?embeddings*",)),
        ("['re:.*LayerNorm[.]?']", None),
        (r"['re:bert\.encoder\.layer\.(0|1)\..*']", ("bert.encoder.layer.0.*", "bert.encoder.layer.1.*")),
        ("['re:.*[.]bias$']", None),
        (r"['re:.*\.bias$']", ("*.bias",)),
        ("['re:.*(a|b).x', plain]", ("*a?x*", "*b?x*", "plain")),
        (r"['re:layer.\d+.x']", ("layer?[0-9]?x*", "layer?[0-9][0-9]?x*")),
        ("['re:(a|b']", None),
        ("['re:a{2}']", None),
        ("['re:(ab)+']", None),
        ("__ALL__", None),
        ("[]", None),
    ],
)
def test_frozen_parameters(params, expected):
    text = freezing(f"params: {params}, trainable: False")
    if expected is None:
        with pytest.raises(RecipeError, match=r"^theirs.yaml, line 3: TrainableParamsModifier: 'params"):
            read(text)
        return
    (stage,) = read(text).stages
    assert stage.training.frozen == expected


PIECES = st.sampled_from([".*", ".", "a", "b", r"\.", "(a|b)", "[ab]", r"\d", r"\d+", ".+", "$"])


@given(st.lists(PIECES, min_size=1, max_size=5).map("".join), st.text(alphabet="ab.1", max_size=6))
def test_patterns_match_what_their_expressions_match(expression, name):
    modifier = Modifier(
        "TrainableParamsModifier",
        1,
        {"params": Located(f"re:{expression}", 1), "trainable": Located(False, 1)},
    )
    try:
        patterns = frozen_patterns(Fields(modifier, "theirs.yaml"), ())
    except RecipeError:
        return
    ours = any(fnmatchcase(name, pattern) for pattern in patterns)
    assert ours == (re.match(expression, name) is not None)


def test_weights_freeze_for_the_epochs_that_are_asked_for():
    text = freezing("params: [a.weight], trainable: False, end_epoch: 4", lines((0, 10, 1e-4, 0)))
    text += "  - !TrainableParamsModifier {params: ['re:.*bias'], trainable: False, start_epoch: 2}\n"
    stages = read(text).stages
    assert [(stage.training.epochs, stage.training.frozen) for stage in stages] == [
        (2, ("a.weight",)),
        (2, ("a.weight", "*bias*")),
        (6, ("*bias*",)),
    ]
    assert rates_over(read(text), 10) == pytest.approx(
        [1e-4 * (1 - step / 100) for step in range(100)], rel=1e-3
    )
    assert read(freezing("params: [a], trainable: True")).stages[0].training.frozen == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            freezing(
                "params: [a], trainable: False",
                "  - !TrainableParamsModifier {params: [b], trainable: True}\n",
            ),
            ["line 4", "trainable: True", "next to"],
        ),
        (
            freezing(
                "params: ['re:bert.encoder.layer.3.*'], trainable: False",
                "  - !LayerPruningModifier {layers: [bert.encoder.layer.1]}\n",
            ),
            ["line 3", "by number while layers are dropped"],
        ),
        (
            freezing(
                "params: [a], trainable: False, end_epoch: 3",
                "  - !GMPruningModifier {params: __ALL_PRUNABLE__, init_sparsity: 0.1, final_sparsity: 0.5, "
                "start_epoch: 1, end_epoch: 5, update_frequency: 1}\n",
            ),
            ["line 4", "goes on while another"],
        ),
    ],
)  # fmt: skip
def test_freezing_without_an_equivalent(text, words):
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (scheduler("ReduceLROnPlateau", ""), ["lr_class: ReduceLROnPlateau", "StepLR"]),
        (scheduler("StepLR", "step_size: 2"), ["has no 'gamma'"]),
        (scheduler("StepLR", "step_size: 0, gamma: 0.1"), ["step_size: 0"]),
        (scheduler("StepLR", "step_size: 2, gamma: 1.5"), ["gamma: 1.5", "grows"]),
        (scheduler("MultiStepLR", "gamma: 0.1, milestones: 3"), ["milestones: 3", "list of epochs"]),
        (scheduler("MultiStepLR", "gamma: 0.1, milestones: [4, 12]"), ["milestones", "between 0 and 10"]),
        (scheduler("StepLR", "step_size: 2, gamma: 0.1, last_epoch: 3"), ["last_epoch: 3", "no equivalent"]),
        (scheduler("CosineAnnealingWarmRestarts", "lr_min: 0, cycle_epochs: 2, T_mult: 2"), ["T_mult: 2"]),
    ],
)
def test_schedulers_without_an_equivalent(text, words):
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert str(caught.value).startswith("theirs.yaml, line 3: LearningRateModifier")
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    "content", ["modifiers:\n", "x_modifiers: []\n", "modifiers: [!EpochRangeModifier 5]\n"]
)
def test_documents_without_anything_to_do(content):
    with pytest.raises(RecipeError) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_variables_in_a_circle_end():
    text = "a: eval(b)\nb: eval(a)\nmodifiers:\n  - !EpochRangeModifier {end_epoch: eval(a)}\n"
    with pytest.raises(RecipeError, match="without end"):
        read(text)


NUMBERS = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 3))


@given(NUMBERS, NUMBERS, st.sampled_from(["+", "-", "*"]))
def test_arithmetic_is_pythons(a, b, sign):
    expected = {"+": a + b, "-": a - b, "*": a * b}[sign]
    assert evaluate(f"x {sign} ({b!r})", {"x": a}.__getitem__) == pytest.approx(expected)
    assert evaluate(f"max(x, {b!r}) // 1", {"x": a}.__getitem__) == math.floor(max(a, b))


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "1/0",
        "'a' * 9",
        "(lambda: 1)()",
        "x.real",
        "[1]",
        "",
        "1e999",
        "True",
        "()" * 5000,
        "-" * 900 + "1e4000",
    ],
)
def test_what_is_no_arithmetic_is_refused(text):
    with pytest.raises(ValueError):
        evaluate(text, {"x": 1.0}.__getitem__)


@given(st.text(alphabet="x+-*/%()<>=!&|~.,:[]{}'\"0123456789e_ \n", max_size=40))
def test_hostile_expressions_give_a_number_or_an_error(text):
    try:
        value = evaluate(text, {"x": 2.0}.get)  # type: ignore[arg-type]
    except ValueError:
        return
    assert math.isfinite(value)


SCALARS = st.one_of(
    st.integers(-5, 10**9).map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "",
            "null",
            "true",
            "[]",
            "{}",
            "[1, [2]]",
            "eval(a)",
            "eval(1)",
            "re:(",
            "-1",
            "1e400",
            "!X 3",
            "'",
            ".nan",
            "0",
        ]
    ),
)


@given(st.data())
def test_a_damaged_recipe_is_a_recipe_or_one_line(data):
    lines = (
        GRADUAL + "quantization_modifiers:\n  - !QuantizationModifier\n    start_epoch: 13\n"
    ).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        lines[number] = lines[number].split(":")[0] + ": " + data.draw(SCALARS)
    try:
        read("\n".join(lines))
    except RecipeError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("theirs.yaml")
