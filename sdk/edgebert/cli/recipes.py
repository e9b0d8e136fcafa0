"""`edgebert recipes`: list the built-in recipes, print one, translate SparseML's, print the schema."""

from __future__ import annotations

import json
from typing import Any

import click

from edgebert.cli.output import json_option, print_json, print_notes, print_table
from edgebert_compress.recipe import (
    Recipe,
    builtin_recipes,
    builtin_text,
    load_recipe,
    stage_as_dict,
)
from edgebert_compress.recipe_schema import recipe_schema


@click.group(invoke_without_command=True)
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipes and stop.")
@click.option("--fields", is_flag=True, help="Print every setting as Markdown tables and stop.")
@json_option
@click.pass_context
def command(ctx: click.Context, schema: bool, fields: bool, as_json: bool) -> None:
    """List the built-in recipes; 'show' prints one of them or translates a SparseML recipe."""
    if ctx.invoked_subcommand is not None:
        return
    if schema:
        click.echo(json.dumps(recipe_schema(), indent=2))
        return
    if fields:
        click.echo(fields_markdown(), nl=False)
        return
    recipes = [load_recipe(name) for name in builtin_recipes()]
    if as_json:
        print_json({"recipes": [_summary(recipe) for recipe in recipes]})
        return
    rows = [(recipe.name, stage_titles(recipe), recipe.description) for recipe in recipes]
    print_table("Built-in recipes", ("name", "stages", "what for"), rows)
    click.echo("Print one to start your own from: edgebert recipes show NAME")


@command.command()
@click.argument("recipe")
@json_option
def show(recipe: str, as_json: bool) -> None:
    """Print RECIPE, a built-in name or a file, as YAML. A SparseML recipe is printed as its translation."""
    found = load_recipe(recipe)
    if as_json:
        print_json({**found.as_dict(), "notes": list(found.notes)})
        return
    if recipe in builtin_recipes():
        click.echo(builtin_text(recipe), nl=False)
        return
    click.echo(recipe_yaml(found), nl=False)
    print_notes(found.notes)


def fields_markdown() -> str:
    """Every setting of every stage as Markdown, made from the schema; docs/recipes.md holds it."""
    schema = recipe_schema()["properties"]
    stages = {stage["title"]: stage for stage in schema["stages"]["items"]["oneOf"]}
    shared = ("training", "distillation")
    own = {
        f"`{kind}`": {
            key: value for key, value in stage["properties"].items() if key not in (*shared, "kind")
        }
        for kind, stage in stages.items()
    }
    tables = {
        **own,
        "`training` of any stage": stages["train"]["properties"]["training"]["properties"],
        "`distillation` of any stage": stages["train"]["properties"]["distillation"]["properties"],
        "`fine_tune`, besides those of `training`": {
            "head_rate": schema["fine_tune"]["properties"]["head_rate"]
        },
    }
    return "\n".join(f"### {title}\n\n{_table(rows)}" for title, rows in tables.items())


def _table(properties: dict[str, Any]) -> str:
    lines = ["| key | value | default | what |", "|---|---|---|---|"]
    for key, value in properties.items():
        default = "" if "default" not in value else f"`{json.dumps(value['default'])}`".replace('"', "")
        lines.append(f"| `{key}` | {_allowed(value)} | {default} | {value['description']} |")
    return "\n".join(lines) + "\n"


def _allowed(schema: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        return f"list of {_allowed(schema['items'])}"
    names = {"number": "number", "integer": "whole number", "boolean": "`true`, `false`", "string": "text"}
    low = "(" if "exclusiveMinimum" in schema else "["
    high = ")" if "exclusiveMaximum" in schema else "]"
    bounds = [schema.get(f"exclusive{end}", schema.get(end.lower())) for end in ("Minimum", "Maximum")]
    if bounds == [None, None]:
        return names[schema["type"]]
    if bounds[1] is None:
        return f"{names[schema['type']]} {'>' if low == '(' else '≥'} {bounds[0]:g}"
    return f"{names[schema['type']]} in {low}{bounds[0]:g}, {bounds[1]:g}{high}"


def stage_titles(recipe: Recipe) -> str:
    """The stages of a recipe in one line."""
    return " → ".join(stage.title for stage in recipe.stages)


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as YAML that reads back the same, its notes as comments on top."""
    import yaml

    document = recipe.as_dict()
    document["stages"] = [_kind_first(stage_as_dict(stage)) for stage in recipe.stages]
    notes = "".join(f"# note: {' '.join(note.split())}\n" for note in recipe.notes)
    return notes + yaml.safe_dump(
        document, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )


def _kind_first(stage: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in stage.items() if key != "kind"}
    if "keep" in rest or "drop" in rest:
        rest.pop("layers")  # those two beat it
    return {"kind": stage["kind"], **rest}


def _summary(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "description": recipe.description,
        "stages": [{"kind": stage.kind, "title": stage.title} for stage in recipe.stages],
    }
