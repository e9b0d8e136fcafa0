"""The published schema and the reader agree on what a recipe may hold."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgebert_compress.errors import RecipeError
from edgebert_compress.recipe import STAGE_KINDS, builtin_recipes, builtin_text, load_recipe, recipe_from_dict
from edgebert_compress.recipe_schema import recipe_schema

PUBLISHED = Path(__file__).parents[2] / "docs" / "recipe.schema.json"
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """The part of JSON Schema 2020-12 that the schema uses."""
    if "oneOf" in schema:
        return sum(fits(value, option) for option in schema["oneOf"]) == 1
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    kind = schema["type"]
    if kind in ("number", "integer"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if kind == "integer" and not float(value).is_integer():
            return False
        return (
            value >= schema.get("minimum", value)
            and value <= schema.get("maximum", value)
            and not ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
            and not ("exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"])
        )
    if not isinstance(value, TYPES[kind]):
        return False
    if kind == "array":
        return len(value) >= schema.get("minItems", 0) and all(fits(item, schema["items"]) for item in value)
    if kind == "object":
        known = schema["properties"]
        return (
            set(value) <= set(known)
            and set(schema.get("required", ())) <= set(value)
            and all(fits(item, known[key]) for key, item in value.items())
        )
    return True


@pytest.mark.parametrize("name", builtin_recipes())
def test_every_built_in_recipe_conforms(name):
    schema = recipe_schema()
    assert fits(yaml.safe_load(builtin_text(name)), schema)
    assert fits(load_recipe(name).as_dict(), schema)


def test_the_published_schema_is_the_code_s():
    assert json.loads(PUBLISHED.read_text()) == json.loads(json.dumps(recipe_schema()))


def test_every_setting_has_a_description_and_its_default():
    for kind, stage in STAGE_KINDS.items():
        schema = next(
            s for s in recipe_schema()["properties"]["stages"]["items"]["oneOf"] if s["title"] == kind
        )
        for field in dataclasses.fields(stage):
            found = schema["properties"][field.name]
            assert found["description"], field.name
            if field.default not in (dataclasses.MISSING, None) and field.name != "kind":
                assert found["default"] == field.default
    quantize = next(
        s for s in recipe_schema()["properties"]["stages"]["items"]["oneOf"] if s["title"] == "quantize"
    )
    assert quantize["properties"]["training"]["properties"]["epochs"]["default"] == 2


FIELDS = [
    (kind, field.name)
    for kind, stage in STAGE_KINDS.items()
    for field in dataclasses.fields(stage)
    if field.name not in ("kind", "training", "distillation")
]
TRAINING = [
    "epochs",
    "learning_rate",
    "batch_size",
    "warmup",
    "weight_decay",
    "schedule",
    "final_rate",
    "cycle_epochs",
    "restarts",
    "milestones",
    "step_factor",
    "frozen",
    "matmul_precision",
    "oops",
]
VALUES = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(-3, 3),
    st.integers(0, 200_000),
    st.sampled_from([0.0, 1.0, 0.5, 0.999, 1.5, -0.1, 1e-9]),
    st.sampled_from(
        [
            "obert",
            "linear",
            "cosine",
            "step",
            "4-block",
            "half",
            "int8",
            "oops",
            "global",
            "medium",
            "bfloat16",
            "static",
            "mse",
        ]
    ),
    st.lists(st.integers(0, 2), max_size=2),
    st.lists(st.sampled_from(["*", "a"]), max_size=2),
    st.just({}),
)
# Rules between keys, which no schema of one key can say.
BETWEEN = (
    "is above", "no multiple of", "must ascend", "says the same", "say the same", "needs 'schedule",
    "'schedule: step' needs", "needs 'activations",
)  # fmt: skip


def reads(document: dict[str, Any]) -> bool | None:
    """Whether the reader takes a recipe; None when only a rule between keys stands against it."""
    try:
        recipe_from_dict(document)
    except RecipeError as error:
        return None if any(words in str(error) for words in BETWEEN) else False
    return True


@given(st.sampled_from([*FIELDS, ("prune", "sparcity")]), VALUES)
def test_schema_and_reader_agree_on_every_setting(field, value):
    kind, name = field
    document = {"stages": [{"kind": kind, name: value}]}
    took = reads(document)
    if took is None or (isinstance(value, float) and value.is_integer() and not took):
        return  # JSON has no way to tell 1.0 from 1; our YAML has
    optional = (
        "keep", "drop", "tensors", "fisher_block_size", "dampening", "relative_dampening",
        "attention", "calibration", "calibration_examples",
    )  # fmt: skip
    if value is None and name not in optional:
        assert not took
        return
    assert fits(document, recipe_schema()) == took, (document, took)


@given(st.sampled_from(TRAINING), VALUES)
def test_schema_and_reader_agree_on_training(name, value):
    document = {"stages": [{"kind": "train", "training": {name: value}}]}
    took = reads(document)
    if took is None or (isinstance(value, float) and value.is_integer() and not took):
        return
    assert fits(document, recipe_schema()) == took, (document, took)


def test_unknown_keys_and_missing_stages_do_not_conform():
    schema = recipe_schema()
    assert not fits({"stages": []}, schema)
    assert not fits({"name": "x"}, schema)
    assert not fits({"stages": [{"kind": "quantize"}], "stage": 1}, schema)
    assert not fits({"stages": [{"layers": 2}]}, schema)
