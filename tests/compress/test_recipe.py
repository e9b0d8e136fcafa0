"""Recipes: the built-in ones, and what a wrong file says."""

import subprocess
import sys

import pytest

from edgebert_compress.errors import RecipeError
from edgebert_compress.recipe import (
    Distillation,
    DropLayersStage,
    PruneStage,
    QuantizeStage,
    Recipe,
    Training,
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
    assert isinstance(recipe.stages[-1], QuantizeStage)


def test_the_names_that_users_know_are_there():
    assert {"dense-int8", "int8", "small", "sparse-4block-80", "sparse-unstructured-80"} <= set(
        builtin_recipes()
    )


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
