"""`edgebert recipes`: lists, prints, translates."""

import json
import re
from pathlib import Path

import pytest
import yaml

from edgebert.cli.dispatch import run
from edgebert.cli.recipes import fields_markdown
from edgebert_compress.recipe import builtin_recipes, builtin_text, load_recipe, parse_recipe
from edgebert_compress.recipe_schema import recipe_schema
from edgebert_compress.sparseml.translate import KNOWN

DOCS = Path(__file__).parents[2] / "docs"

THEIRS = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0, end_epoch: 4}
  - !LayerPruningModifier {layers: ['bert.encoder.layer.1']}
  - !SetLearningRateModifier {start_epoch: 0, learning_rate: 2e-5}
  - !GMPruningModifier
    params: __ALL_PRUNABLE__
    init_sparsity: 0.2
    final_sparsity: 0.6
    start_epoch: 1
    end_epoch: 3
    update_frequency: 0.5
"""


def test_the_list_names_every_recipe_with_its_stages(capsys):
    assert run(["recipes"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name in builtin_recipes():
        assert name in printed
    assert run(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert [item["name"] for item in listed] == list(builtin_recipes())
    assert all(item["description"] and item["stages"] for item in listed)


def test_show_prints_the_file_itself(capsys):
    assert run(["recipes", "show", "int8"]) == 0
    assert capsys.readouterr().out == builtin_text("int8")


def test_a_translation_reads_back_as_ours(tmp_path, capsys):
    path = tmp_path / "theirs.yaml"
    path.write_text(THEIRS)
    assert run(["recipes", "show", str(path)]) == 0
    captured = capsys.readouterr()
    assert parse_recipe(captured.out, "ours", "ours") == load_recipe(str(path))
    assert "!" not in captured.out.replace("# note", "")
    assert captured.out.startswith("# note: ")
    assert "note: " in captured.err
    stages = yaml.safe_load(captured.out)["stages"]
    assert [stage["kind"] for stage in stages] == ["drop-layers", "prune"]
    assert "layers" not in stages[0]
    assert run(["recipes", "show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"]


def test_the_schema_is_printed(capsys):
    assert run(["recipes", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(recipe_schema()))


def test_the_document_says_what_the_code_does(tmp_path):
    text = (DOCS / "recipes.md").read_text()
    for name in builtin_recipes():
        assert f"`{name}`" in text
    assert fields_markdown() in text
    example = re.search(r"<!-- recipe -->\n```yaml\n(.*?)```", text, re.DOTALL)
    assert example
    stages = parse_recipe(example[1], "docs", "docs").stages
    assert [stage.kind for stage in stages] == ["drop-layers", "prune", "quantize"]
    assert [name for name in KNOWN if f"`{name}`" not in text] == []


@pytest.mark.parametrize("args", [["show", "no-such-recipe"], ["show", "{bad}"]])
def test_what_is_wrong_is_one_line(tmp_path, capsys, args):
    bad = tmp_path / "bad.yaml"
    bad.write_text(THEIRS.replace("GMPruning", "Movement"))
    assert run(["recipes", *(arg.format(bad=bad) for arg in args)]) == 11
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "no-such-recipe" in message or f"{bad}, line 6: MovementModifier" in message
