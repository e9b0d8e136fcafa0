"""Recipes of SparseML: what they become."""

import pytest

from edgebert_compress import architecture
from edgebert_compress.errors import RecipeError
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    PruneStage,
    QuantizeStage,
    TrainStage,
)
from edgebert_compress.sparseml.tensors import LAYERS
from tests.compress.sparseml_recipes import GRADUAL, PRUNE, RANGE, SIX, rates_over, read


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


@pytest.mark.parametrize(
    ("pattern", "noted"), [("re:.*weight", True), ("re:bert.*", True), ("re:.*query.weight", False)]
)
def test_a_pattern_that_means_more_than_the_matrices_is_said(pattern, noted):
    recipe = read(
        f"modifiers:\n{RANGE}  - !GMPruningModifier {{params: ['{pattern}'], init_sparsity: 0.5, "
        "final_sparsity: 0.5, start_epoch: 0, end_epoch: 1, update_frequency: 1}\n"
    )
    assert any("stays dense" in note for note in recipe.notes) == noted


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


def test_quantising_before_the_last_phase_is_refused_by_its_line():
    text = "a_stage:\n  a_modifiers:\n    - !EpochRangeModifier {end_epoch: 2}\n    - !QuantizationModifier\n"
    text += "b_stage:\n  b_modifiers:\n    - !EpochRangeModifier {end_epoch: 2}\n"
    with pytest.raises(RecipeError, match="line 4: QuantizationModifier quantises before the last stage"):
        read(text)


@pytest.mark.parametrize(
    ("end", "steps", "said"), [(5, 5, False), (4.5, 5, True), (4.25, 5, True), (5.2, 6, True)]
)
def test_steps_that_do_not_divide_the_pruning_are_spread_evenly(end, steps, said):
    """As many as SparseML takes: one at each multiple and one at the end."""
    recipe = read("modifiers:\n" + RANGE + PRUNE.replace("end_epoch: 5", f"end_epoch: {end}"))
    assert recipe.stages[0].steps == steps
    assert any("spread evenly" in note for note in recipe.notes) == said


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


def test_the_last_of_a_repeated_variable_counts():
    text = "n: 3\nn: 5\nmodifiers:\n  - !EpochRangeModifier {start_epoch: 0, end_epoch: eval(n)}\n"
    recipe = read(text)
    assert recipe.stages[0].training.epochs == 5
    assert any("line 2: 'n' is given twice" in note for note in recipe.notes)
