"""Recipes: the built-in ones, and what a wrong file says."""

import subprocess
import sys

import pytest

from edgebert_compress.errors import RecipeError
from edgebert_compress.layer_drop import layers_to_keep
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    PruneStage,
    QuantizeStage,
    Recipe,
    Training,
    TrainStage,
    builtin_recipes,
    default_recipe,
    load_recipe,
    recipe_from_dict,
)


@pytest.mark.parametrize("name", builtin_recipes())
def test_built_in_recipes_load_and_round_trip(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe_from_dict(recipe.as_dict()) == recipe


def test_the_names_that_users_know_are_there():
    assert {
        "dense-int8", "int8", "small", "sparse-4block-80", "sparse-unstructured-80", "obert-80", "obert-90",
        "gmp-90", "upstream-90-4block", "sparse-transfer", "sparse-4block-90", "sparse-4block-80-half",
    } <= set(builtin_recipes())  # fmt: skip


def test_recipes_for_packages_end_with_int8():
    for name in (
        "dense-int8",
        "int8",
        "small",
        "sparse-4block-80",
        "sparse-4block-90",
        "sparse-4block-80-half",
        "sparse-4block-80-narrow",
        "sparse-4block-90-narrow",
    ):
        assert isinstance(load_recipe(name).stages[-1], QuantizeStage)


def test_the_baseline_differs_from_obert_in_the_method_alone():
    obert, magnitude = load_recipe("obert-90").stages[0], load_recipe("gmp-90").stages[0]
    same = ("pattern", "sparsity", "initial_sparsity", "steps", "pruning_start", "pruning_share", "training")
    for key in (*same, "distillation", "ranking"):
        assert getattr(obert, key) == getattr(magnitude, key)
    assert (obert.method, magnitude.method) == ("obert", "magnitude")


def test_a_file_reads_as_written(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "stages:\n"
        "- kind: drop-layers\n  keep: [0, 3]\n  training: {epochs: 0.5, learning_rate: 1e-4}\n"
        "- kind: prune\n  method: magnitude\n  pattern: unstructured\n  sparsity: .9\n"
        "  distillation: {hardness: 1, temperature: 5}\n"
    )
    recipe = load_recipe(str(path))
    assert recipe.name == "mine"
    assert recipe.stages == (
        DropLayersStage(keep=(0, 3), training=Training(epochs=0.5, learning_rate=1e-4)),
        PruneStage(
            method="magnitude", pattern="unstructured", sparsity=0.9, distillation=Distillation(1.0, 5.0)
        ),
    )
    assert recipe.stages[1].fisher_block == 50


@pytest.mark.parametrize(
    ("pattern", "block", "fisher"),
    [
        ("unstructured", 1, 50),
        ("4-block", 4, 32),
        ("8-block", 8, 32),
        ("16-block", 16, 32),
        ("32-block", 32, 32),
    ],
)
def test_every_pattern_has_a_fisher_block_that_holds_it(pattern, block, fisher):
    stage = PruneStage(pattern=pattern)
    assert (stage.block, stage.fisher_block) == (block, fisher)


def test_all_settings_read_and_come_back(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(
        "stages:\n"
        "- {kind: drop-layers, drop: [1, 2]}\n"
        "- {kind: train, new_head: true, distillation: {hidden: 1, relations: 0.5}}\n"
        "- kind: prune\n  pattern: 16-block\n  ranking: tensor\n  update: joint\n  pruning_start: 0.1\n"
        "  tensors: ['*.query.weight']\n"
        "  training: {schedule: cyclic-linear, cycle_epochs: 2, cycle_floor: 0.2, final_rate: 0.3}\n"
    )
    recipe = load_recipe(str(path))
    drop, train, prune = recipe.stages
    assert drop.drop == (1, 2)
    assert train == TrainStage(new_head=True, distillation=Distillation(hidden=1.0, relations=0.5))
    assert prune.tensors == ("*.query.weight",)
    assert (prune.update, prune.ranking, prune.training.cycle_epochs) == ("joint", "tensor", 2.0)
    assert recipe_from_dict(recipe.as_dict()) == recipe


def test_dropped_layers_are_the_others(tmp_path):
    assert layers_to_keep(DropLayersStage(drop=(1, 3)), 5) == (0, 2, 4)
    with pytest.raises(RecipeError, match="has 3 layers"):
        layers_to_keep(DropLayersStage(drop=(1, 3)), 3)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("stages:\n- kind: prune\n  sparcity: 0.8\n", 3, ["'sparcity'", "did you mean 'sparsity'"]),
        ("stages:\n- kind: prune\n  sparsity: 1.0\n", 3, ["'sparsity'", "[0, 1)", "not 1"]),
        ("stages:\n- kind: prune\n  sparsity: -0.1\n", 3, ["'sparsity'", "not -0.1"]),
        ("stages:\n- kind: prune\n  sparsity: .nan\n", 3, ["'sparsity'", "nan"]),
        ("stages:\n- kind: prune\n  sparsity: high\n", 3, ["'sparsity'", "a number", "'high'"]),
        ("stages:\n- kind: prune\n  steps: 2.5\n", 3, ["'steps'", "whole number"]),
        ("stages:\n- kind: prune\n  steps: true\n", 3, ["'steps'", "whole number"]),
        ("stages:\n- kind: prune\n  method: random\n", 3, ["'method'", "'obert'", "'magnitude'"]),
        ("stages:\n- kind: prune\n  sparsity: 0.2\n", 2, ["initial_sparsity", "0.3"]),
        ("stages:\n- kind: prune\n  fisher_block_size: 30\n", 2, ["fisher_block_size", "30"]),
        ("stages:\n- kind: drop-layers\n  layers: most\n", 3, ["'layers'", "two-thirds", "'most'"]),
        ("stages:\n- kind: drop-layers\n  layers: 0\n", 3, ["'layers'", "at least 1"]),
        ("stages:\n- kind: drop-layers\n  keep: [3, 1]\n", 2, ["'keep'", "ascend"]),
        ("stages:\n- kind: quantize\n  training: 5\n", 3, ["'training'", "mapping"]),
        ("stages:\n- kind: quantize\n  training:\n    epochs: -1\n", 4, ["'epochs'", "not -1"]),
        (
            "stages:\n- kind: quantize\n  training: {matmul_precision: bfloat16}\n",
            2,
            ["'matmul_precision: bfloat16'", "'medium'"],
        ),
        ("stages:\n- kind: drop-layers\n  keep: [0]\n  drop: [1]\n", 2, ["'keep'", "'drop'"]),
        ("stages:\n- kind: train\n  new_head: 1\n", 3, ["'new_head'", "true or false"]),
        ("stages:\n- kind: prune\n  pattern: 5-block\n", 3, ["'pattern'", "'8-block'"]),
        ("stages:\n- kind: prune\n  tensors: all\n", 3, ["'tensors'", "list", "'all'"]),
        ("stages:\n- kind: prune\n  pruning_start: 0.7\n", 2, ["'pruning_start'", "0.6"]),
        (
            "stages:\n- kind: train\n  training:\n    cycle_epochs: 2\n",
            4,
            ["'cycle_epochs'", "cyclic-linear"],
        ),
        ("stages:\n- kind: prune\n  training: {final_rate: 2}\n", 3, ["'final_rate'", "[0, 1]"]),
        ("stages:\n- kind: prune\n  distillation: {hidden: -1}\n", 3, ["'hidden'", "at least 0"]),
        ("stages:\n- kind: quantise\n", 2, ["'quantise'", "quantize"]),
        ("stages:\n- layers: 3\n", 2, ["'kind'"]),
        ("stages:\n- kind: int8\n  kind: prune\n", 3, ["twice"]),
        ("stages:\n- kind: quantize\n- kind: prune\n", 2, ["last stage"]),
        ("name: x\nstage: []\n", 2, ["'stage'", "did you mean 'stages'"]),
        ("fine_tune: {epochs: 0}\nstages: []\n", 1, ["'epochs'", "above 0", "not 0"]),
        ("name: x\nstages: []\n", 2, ["no stages"]),
        ("stages: [\n", 2, ["not valid YAML"]),
        ("name: !!python/name:os.system\nstages: []\n", 1, ["not valid YAML"]),
        ("stages:\n- !!python/object/apply:os.system [ls]\n", 2, ["mapping"]),
    ],
)
def test_wrong_files_say_file_line_and_key(tmp_path, text, line, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: "), message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_file_of_aliases_ends_quickly(tmp_path):
    levels = "\n".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 9))
    path = tmp_path / "bomb.yaml"
    path.write_text(f"x0: &x0 [lol]\n{levels}\n")
    with pytest.raises(RecipeError, match="aliases"):
        load_recipe(str(path))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe\x00", b"a: &a [*a]", b"- " * 3000])
def test_files_that_are_no_recipe(tmp_path, content):
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(RecipeError, match="dense-int8"):
        load_recipe("dens-int8")


def test_settings_made_in_python_obey_the_same_ranges():
    with pytest.raises(RecipeError, match="sparsity"):
        PruneStage(sparsity=1.0)
    with pytest.raises(RecipeError, match="last stage"):
        Recipe("x", (QuantizeStage(), PruneStage()))


@pytest.mark.parametrize(
    ("targets", "layers", "hidden_size", "name"),
    [
        (["x86"], 6, 384, "dense-int8"),
        (["arm64", "x86"], 12, 768, "dense-int8"),
        (["arm64"], 4, 192, "dense-int8-narrow"),
        (["arm64"], 2, 768, "int8"),
        (["int8-sparse"], 12, 768, "sparse-4block-80"),
        (["int8-sparse", "x86"], 12, 768, "dense-int8"),
    ],
)
def test_the_default_keeps_what_pays_on_the_target(targets, layers, hidden_size, name):
    assert default_recipe(targets, layers, hidden_size).name == name


def test_recipes_load_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from edgebert_compress.recipe import load_recipe\n"
        "print(load_recipe('dense-int8').name)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "dense-int8"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "linear", "restarts": (1.0,)}, ["restarts", "cyclic-linear or cosine", "linear"]),
        (
            {"schedule": "cosine", "restarts": (1.0,), "cycle_epochs": 2.0},
            ["cycle_epochs", "restarts", "twice"],
        ),
        ({"schedule": "cosine", "restarts": (2.0, 1.0)}, ["restarts", "ascend", "[2.0, 1.0]"]),
        ({"schedule": "cosine", "restarts": (0.0,)}, ["restarts", "above 0"]),
        ({"schedule": "cosine", "restarts": (float("nan"),)}, ["restarts", "ascend"]),
        ({"schedule": "cyclic-linear", "restarts": (1.0, 5.0)}, ["restarts", "5", "before the end"]),
        ({"schedule": "step"}, ["milestones", "step_factor", "add"]),
        ({"schedule": "step", "milestones": (1.0,)}, ["step_factor"]),
        (
            {"schedule": "step", "milestones": (1.0,), "step_factor": 1.0},
            ["step_factor", "above 0 and below 1"],
        ),
        ({"schedule": "step", "milestones": (9.0,), "step_factor": 0.1}, ["milestones", "before the end"]),
        ({"milestones": (1.0,)}, ["milestones", "'schedule: step'", "auto"]),
        ({"step_factor": 0.5}, ["step_factor", "'schedule: step'"]),
    ],
)
def test_settings_of_a_schedule_that_do_not_fit(settings, words):
    with pytest.raises(RecipeError) as caught:
        Training(epochs=5, **settings)
    assert all(word in str(caught.value) for word in words), caught.value


def test_schedules_and_frozen_parameters_round_trip(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "stages:\n"
        "- kind: train\n  training:\n    {schedule: step, milestones: [1, 2.5], step_factor: 0.1, "
        "frozen: ['*.bias']}\n"
        "- kind: train\n  training: {schedule: cosine, restarts: [2], cycle_floor: 0.0}\n"
    )
    recipe = load_recipe(str(path))
    first, second = (stage.training for stage in recipe.stages)
    assert (first.milestones, first.step_factor, first.frozen) == ((1.0, 2.5), 0.1, ("*.bias",))
    assert (second.restarts, second.frozen) == ((2.0,), ())
    assert recipe_from_dict(recipe.as_dict()) == recipe
    assert "frozen" not in recipe.as_dict()["stages"][1]["training"]
